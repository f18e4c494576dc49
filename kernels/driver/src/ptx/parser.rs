//! Modules, functions and scopes.

use std::collections::HashMap;

use super::lexer::{Placed, Token, tokens};
use super::types::{Space, Type};
use super::{Function, Module, Param, PtxError, Variable};

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
    pub(super) tokens: &'a [Placed<'a>],
    pub(super) at: usize,
    pub(super) scopes: Vec<Scope<'a>>,
}

/// Names of one `{ }`.
#[derive(Default)]
pub(super) struct Scope<'a> {
    pub(super) names: HashMap<&'a str, Name>,
    /// `%r<10>`: prefix to (count, type); its registers come into being when used.
    pub(super) families: HashMap<&'a str, (u64, Type)>,
}

#[derive(Clone, Copy)]
pub(super) enum Name {
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

    pub(super) fn skip_line(&mut self) {
        let line = self.line();
        while self.tokens.get(self.at).is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    pub(super) fn skip_past(&mut self, end: char) -> Result<(), PtxError> {
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

    pub(super) fn declare(&mut self, name: &'a str, value: Name) -> Result<(), PtxError> {
        let scope = self.scopes.last_mut().expect("a function has a scope");
        match scope.names.insert(name, value) {
            Some(_) if name != "_" => {
                Err(self.error(format!("{name} is declared twice in this scope")))
            }
            _ => Ok(()),
        }
    }

    /// One declaration to its semicolon, and the name as the text spells it.
    pub(super) fn declaration(
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
