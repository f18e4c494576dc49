//! Modules, functions, statements and scopes.

use std::collections::HashMap;

use super::lexer::{Placed, Token, tokens};
use super::types::{Space, Type};
use super::{Function, Instruction, Module, Operand, Param, PtxError, Register, Variable};

/// Nested `{ }` deeper than this are refused.
const MAX_DEPTH: usize = 64;

pub(super) fn parse(text: &str) -> Result<Module, PtxError> {
    let tokens = tokens(text)?;
    let mut parser = Parser {
        text,
        tokens: &tokens,
        at: 0,
        scopes: Vec::new(),
    };
    parser.module()
}

pub(super) struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Placed<'a>],
    at: usize,
    scopes: Vec<Scope<'a>>,
}

/// Names of one `{ }`.
#[derive(Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Name>,
    /// `%r<10>`: prefix to (count, type); its registers come into being when used.
    families: HashMap<&'a str, (u64, Type)>,
}

#[derive(Clone, Copy)]
enum Name {
    Register(usize),
    Variable(usize),
    Param(usize),
    Return(usize),
    Label(usize),
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.token)
    }

    pub(super) fn next(&mut self) -> Result<Token<'a>, PtxError> {
        let token = self
            .peek()
            .ok_or_else(|| self.error("the text ends here"))?;
        self.at += 1;
        Ok(token)
    }

    /// An error at the token just taken (or, with nothing taken yet, at the first one).
    pub(super) fn error(&self, message: impl Into<String>) -> PtxError {
        let place = self
            .tokens
            .get(self.at.saturating_sub(1))
            .or(self.tokens.last());
        let (line, column) = place.map_or((1, 1), |t| (t.line, t.column));
        let text = self.text.lines().nth(line as usize - 1).unwrap_or_default();
        PtxError {
            line,
            column,
            text: text.trim().chars().take(100).collect(),
            message: message.into(),
        }
    }

    pub(super) fn eat(&mut self, punct: char) -> bool {
        let found = self.peek() == Some(Token::Punct(punct));
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, punct: char) -> Result<(), PtxError> {
        match self.next()? {
            Token::Punct(c) if c == punct => Ok(()),
            _ => Err(self.error(format!("expected '{punct}'"))),
        }
    }

    pub(super) fn word(&mut self) -> Result<&'a str, PtxError> {
        match self.next()? {
            Token::Word(w) => Ok(w),
            _ => Err(self.error("expected a name")),
        }
    }

    pub(super) fn int(&mut self) -> Result<u64, PtxError> {
        match self.next()? {
            Token::Int(v) => Ok(v),
            _ => Err(self.error("expected an integer")),
        }
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens
            .get(self.at.saturating_sub(1))
            .map_or(0, |t| t.line)
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.tokens.get(self.at).is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    fn skip_past(&mut self, end: char) -> Result<(), PtxError> {
        while self.next()? != Token::Punct(end) {}
        Ok(())
    }

    fn module(&mut self) -> Result<Module, PtxError> {
        let mut module = Module::default();
        let mut first = true;
        while self.peek().is_some() {
            let directive = match self.next()? {
                Token::Dotted(d) => d,
                _ => {
                    return Err(
                        self.error("expected a directive such as .version, .global or .entry")
                    );
                }
            };
            if first && directive != "version" {
                return Err(self.error("a module begins with .version"));
            }
            first = false;
            match directive {
                "version" => module.version = self.version()?,
                "target" => module.target = self.target()?,
                "address_size" => {
                    if self.int()? != 64 {
                        return Err(self.error("only .address_size 64 is supported"));
                    }
                }
                "file" | "loc" => self.skip_line(),
                "pragma" | "alias" => self.skip_past(';')?,
                "section" => {
                    self.skip_past('{')?;
                    self.skip_past('}')?;
                }
                "visible" | "weak" | "extern" | "common" | "global" | "const" | "shared"
                | "entry" | "func" => {
                    self.at -= 1;
                    self.symbol(&mut module)?;
                }
                _ => return Err(self.error(format!("directive .{directive} is not supported"))),
            }
        }
        if module.target == 0 {
            return Err(self.error("the module has no .target"));
        }
        Ok(module)
    }

    fn version(&mut self) -> Result<(u32, u32), PtxError> {
        let Token::Double(v) = self.next()? else {
            return Err(self.error("expected a version such as 8.0"));
        };
        // 8.10 would read as 8.1, but no such version exists: minors have one digit.
        let (major, minor) = (v.trunc() as u32, (v.fract() * 10.0).round() as u32);
        if !(6..=9).contains(&major) {
            return Err(self.error("only .version 6.0 to 9.x is supported"));
        }
        Ok((major, minor))
    }

    fn target(&mut self) -> Result<u32, PtxError> {
        let name = self.word()?;
        let digits: String = name
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        let target = digits.parse().ok().filter(|_| name.starts_with("sm_"));
        let target: u32 = target.ok_or_else(|| self.error("expected a target such as sm_80"))?;
        if target > 90 {
            return Err(self.error("targets above sm_90 are not supported"));
        }
        while self.eat(',') {
            self.word()?;
        }
        Ok(target)
    }

    /// A variable or function with its linkage.
    fn symbol(&mut self, module: &mut Module) -> Result<(), PtxError> {
        let mut is_extern = false;
        loop {
            match self.next()? {
                Token::Dotted("visible" | "weak" | "common") => {}
                Token::Dotted("extern") => is_extern = true,
                Token::Dotted("entry") => return self.function(module, true),
                Token::Dotted("func") => return self.function(module, false),
                Token::Dotted(d) => {
                    let space =
                        Space::from_name(d).ok_or_else(|| self.error("expected a state space"))?;
                    let (_, variable) = self.declaration(space, is_extern)?;
                    if module.variables.iter().any(|v| v.name == variable.name) {
                        return Err(self.error(format!("{} is declared twice", variable.name)));
                    }
                    module.variables.push(variable);
                    return Ok(());
                }
                _ => return Err(self.error("expected a declaration")),
            }
        }
    }

    fn function(&mut self, module: &mut Module, is_kernel: bool) -> Result<(), PtxError> {
        let mut f = Function {
            is_kernel,
            ..Function::default()
        };
        self.scopes = vec![Scope::default()];
        while matches!(self.peek(), Some(Token::Dotted("noreturn" | "attribute"))) {
            self.skip_attribute()?;
        }
        if self.eat('(') {
            f.returns = self.params(Name::Return)?;
        }
        f.name = self.word()?.to_string();
        f.line = self.line();
        if self.eat('(') {
            f.params = self.params(Name::Param)?;
        }
        loop {
            match self.next()? {
                Token::Punct(';') => return Ok(()),
                Token::Punct('{') => break,
                Token::Dotted("maxntid") => f.max_threads = Some(self.dimensions()?),
                Token::Dotted("reqntid") => {
                    f.required_threads = Some(self.dimensions()?);
                    f.max_threads = f.required_threads;
                }
                Token::Dotted("maxnreg" | "minnctapersm" | "maxnctapersm") => {
                    self.int()?;
                }
                Token::Dotted("pragma") => self.skip_past(';')?,
                Token::Dotted("noreturn" | "attribute" | "unified") => {
                    self.at -= 1;
                    self.skip_attribute()?;
                }
                _ => return Err(self.error("expected a directive of the function or its body")),
            }
        }
        if module.functions.iter().any(|g| g.name == f.name) {
            return Err(self.error(format!("function {} is defined twice", f.name)));
        }
        self.body(&mut f)?;
        module.functions.push(f);
        Ok(())
    }

    fn skip_attribute(&mut self) -> Result<(), PtxError> {
        self.at += 1;
        if self.eat('(') {
            self.skip_past(')')
        } else {
            Ok(())
        }
    }

    fn dimensions(&mut self) -> Result<[u32; 3], PtxError> {
        let mut out = [1; 3];
        for (i, out) in out.iter_mut().enumerate() {
            if i > 0 && !self.eat(',') {
                break;
            }
            *out = u32::try_from(self.int()?)
                .map_err(|_| self.error("a block dimension of 32 bits"))?;
        }
        Ok(out)
    }

    fn params(&mut self, name: fn(usize) -> Name) -> Result<Vec<Param>, PtxError> {
        let mut params: Vec<Param> = Vec::new();
        while !self.eat(')') {
            if !params.is_empty() {
                self.expect(',')?;
            }
            if self.next()? != Token::Dotted("param") {
                return Err(self.error("expected .param (parameters in .reg are not supported)"));
            }
            let (text, v) = self.variable(Space::Param, false)?;
            let size =
                u32::try_from(v.size).map_err(|_| self.error("a parameter of less than 4 GiB"))?;
            let end = params.last().map_or(0, |p| p.offset + p.size);
            let offset = end
                .checked_next_multiple_of(v.align)
                .filter(|o| o.checked_add(size).is_some());
            let offset = offset.ok_or_else(|| self.error("parameters of less than 4 GiB"))?;
            self.declare(text, name(params.len()))?;
            params.push(Param {
                name: v.name,
                size,
                align: v.align,
                offset,
            });
        }
        Ok(params)
    }

    fn declare(&mut self, name: &'a str, value: Name) -> Result<(), PtxError> {
        let scope = self.scopes.last_mut().expect("a function has a scope");
        match scope.names.insert(name, value) {
            Some(_) if name != "_" => {
                Err(self.error(format!("{name} is declared twice in this scope")))
            }
            _ => Ok(()),
        }
    }

    /// Declares the labels of the scope that begins here, so that branches may go forward.
    fn find_labels(&mut self, f: &mut Function) -> Result<(), PtxError> {
        let mut depth = 0;
        for i in self.at..self.tokens.len() {
            match self.tokens[i].token {
                Token::Punct('{') => depth += 1,
                Token::Punct('}') if depth == 0 => break,
                Token::Punct('}') => depth -= 1,
                Token::Word(label) if depth == 0 => {
                    let colon = self
                        .tokens
                        .get(i + 1)
                        .is_some_and(|t| t.token == Token::Punct(':'));
                    let starts = i == 0
                        || !matches!(self.tokens[i - 1].token, Token::Punct(',' | '|' | '?'));
                    if colon && starts {
                        f.labels.push(usize::MAX);
                        self.declare(label, Name::Label(f.labels.len() - 1))?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn body(&mut self, f: &mut Function) -> Result<(), PtxError> {
        self.find_labels(f)?;
        let outer = self.scopes.len();
        loop {
            match self.next()? {
                Token::Punct('}') if self.scopes.len() == outer => return Ok(()),
                Token::Punct('}') => {
                    self.scopes.pop();
                }
                Token::Punct('{') if self.scopes.len() >= MAX_DEPTH => {
                    return Err(self.error(format!("scopes nested deeper than {MAX_DEPTH}")));
                }
                Token::Punct('{') => {
                    self.scopes.push(Scope::default());
                    self.find_labels(f)?;
                }
                Token::Punct(';') => {}
                Token::Dotted("reg") => self.registers(f)?,
                Token::Dotted(d @ ("local" | "shared" | "param")) => {
                    let space = Space::from_name(d).expect("one of three spaces");
                    let (name, variable) = self.declaration(space, false)?;
                    self.declare(name, Name::Variable(f.variables.len()))?;
                    f.variables.push(variable);
                }
                Token::Dotted("loc" | "file") => self.skip_line(),
                Token::Dotted("pragma") => self.skip_past(';')?,
                Token::Word(label) if self.eat(':') => self.label(f, label)?,
                Token::Punct('@') => {
                    let negated = self.eat('!');
                    let name = self.word()?;
                    let Operand::Reg(p) = self.resolve(f, name)? else {
                        return Err(self.error("a guard is a predicate register"));
                    };
                    if f.registers[p].ty != Type::Pred {
                        return Err(self.error("a guard is a predicate register"));
                    }
                    let opcode = self.word()?;
                    self.instruction(f, opcode, Some((p, negated)))?;
                }
                Token::Word(opcode) => self.instruction(f, opcode, None)?,
                _ => return Err(self.error("expected a statement")),
            }
        }
    }

    fn label(&mut self, f: &mut Function, label: &'a str) -> Result<(), PtxError> {
        let Some(Name::Label(index)) = self.find(label) else {
            return Err(self.error("not a label here"));
        };
        f.labels[index] = f.body.len();
        match self.peek() {
            Some(Token::Dotted("branchtargets")) => {
                self.at += 1;
                let mut targets = Vec::new();
                loop {
                    let name = self.word()?;
                    let Some(Name::Label(target)) = self.find(name) else {
                        return Err(self.error(format!("{name} is not a label")));
                    };
                    targets.push(target);
                    if !self.eat(',') {
                        break;
                    }
                }
                self.expect(';')?;
                f.branch_targets.push((index, targets));
            }
            Some(Token::Dotted("calltargets" | "callprototype")) => self.skip_past(';')?,
            _ => {}
        }
        Ok(())
    }

    fn registers(&mut self, f: &mut Function) -> Result<(), PtxError> {
        let ty = match self.next()? {
            Token::Dotted(d) => Type::from_name(d),
            _ => None,
        };
        let ty = ty.ok_or_else(|| self.error("expected a register type such as .b32"))?;
        loop {
            let name = self.word()?;
            if self.eat('<') {
                let count = self.int()?;
                self.expect('>')?;
                let scope = self.scopes.last_mut().expect("a function has a scope");
                scope.families.insert(name, (count, ty));
            } else {
                f.registers.push(Register {
                    name: name.to_string(),
                    ty,
                });
                self.declare(name, Name::Register(f.registers.len() - 1))?;
            }
            if !self.eat(',') {
                return self.expect(';');
            }
        }
    }

    fn find(&self, name: &str) -> Option<Name> {
        self.scopes
            .iter()
            .rev()
            .find_map(|s| s.names.get(name))
            .copied()
    }

    /// What a name in an operand stands for.
    pub(super) fn resolve(&mut self, f: &mut Function, name: &'a str) -> Result<Operand, PtxError> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        for i in (0..self.scopes.len()).rev() {
            let scope = &mut self.scopes[i];
            if let Some(&found) = scope.names.get(name) {
                return Ok(match found {
                    Name::Register(r) => Operand::Reg(r),
                    Name::Variable(v) => Operand::Variable(v, 0),
                    Name::Param(p) => Operand::Param(p, 0),
                    Name::Return(p) => Operand::Return(p, 0),
                    Name::Label(l) => Operand::Label(l),
                });
            }
            if let Some(&(count, ty)) = scope.families.get(stem)
                && name[stem.len()..].parse::<u64>().is_ok_and(|n| n < count)
            {
                f.registers.push(Register {
                    name: name.to_string(),
                    ty,
                });
                scope
                    .names
                    .insert(name, Name::Register(f.registers.len() - 1));
                return Ok(Operand::Reg(f.registers.len() - 1));
            }
        }
        Ok(match name {
            "_" => Operand::Sink,
            "WARP_SZ" => Operand::Int(32),
            _ if name.starts_with('%') => Operand::Special(name.to_string()),
            _ => Operand::Symbol(name.to_string(), 0),
        })
    }

    fn instruction(
        &mut self,
        f: &mut Function,
        opcode: &str,
        guard: Option<(usize, bool)>,
    ) -> Result<(), PtxError> {
        let place = self.tokens[self.at - 1];
        let mut i = Instruction {
            opcode: opcode.to_string(),
            guard,
            line: place.line,
            column: place.column,
            ..Instruction::default()
        };
        while let Some(Token::Dotted(m)) = self.peek() {
            i.modifiers.push(m.to_string());
            self.at += 1;
        }
        while !self.eat(';') {
            if !i.operands.is_empty() {
                self.expect(',')?;
            }
            i.operands.push(self.operand(f)?);
        }
        f.body.push(i);
        Ok(())
    }

    /// One declaration to its semicolon, and the name as the text spells it.
    fn declaration(
        &mut self,
        space: Space,
        is_extern: bool,
    ) -> Result<(&'a str, Variable), PtxError> {
        let variable = self.variable(space, is_extern)?;
        if self.eat(',') {
            return Err(self.error("one variable a declaration is supported"));
        }
        self.expect(';')?;
        Ok(variable)
    }
}
