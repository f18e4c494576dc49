//! The statements of a function.

use super::lexer::Token;
use super::parser::{Name, Parser, Scope};
use super::types::{Space, Type};
use super::{Function, Instruction, Operand, PtxError, Register};

/// Nested `{ }` deeper than this are refused.
const MAX_DEPTH: usize = 64;

impl<'a> Parser<'a> {
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

    pub(super) fn body(&mut self, f: &mut Function) -> Result<(), PtxError> {
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
            Some(Token::Dotted("calltargets")) => {
                self.at += 1;
                let mut targets = vec![self.word()?.to_string()];
                while self.eat(',') {
                    targets.push(self.word()?.to_string());
                }
                self.expect(';')?;
                f.call_targets.push((index, targets));
            }
            Some(Token::Dotted("callprototype")) => self.skip_past(';')?,
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
}
