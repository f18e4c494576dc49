//! Operands of instructions.

use super::lexer::Token;
use super::parser::Parser;
use super::types::Type;
use super::{Function, Operand, PtxError};

impl<'a> Parser<'a> {
    /// One operand, with all its parts.
    pub(super) fn operand(&mut self, f: &mut Function) -> Result<Operand, PtxError> {
        let first = match self.next()? {
            Token::Punct('{') => return self.sequence(f, '}').map(Operand::Vector),
            Token::Punct('(') => return self.sequence(f, ')').map(Operand::List),
            Token::Punct('[') => return self.address(f),
            Token::Punct('!') => {
                let name = self.word()?;
                return match self.resolve(f, name)? {
                    Operand::Reg(p) if f.registers[p].ty == Type::Pred => Ok(Operand::Not(p)),
                    _ => Err(self.error("only predicates are negated with '!'")),
                };
            }
            token => self.scalar(f, token)?,
        };
        if self.eat('|') {
            let token = self.next()?;
            let second = self.scalar(f, token)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn sequence(&mut self, f: &mut Function, end: char) -> Result<Vec<Operand>, PtxError> {
        let mut out = Vec::new();
        while !self.eat(end) {
            if !out.is_empty() {
                self.expect(',')?;
            }
            let token = self.next()?;
            out.push(self.scalar(f, token)?);
        }
        Ok(out)
    }

    fn address(&mut self, f: &mut Function) -> Result<Operand, PtxError> {
        let token = self.next()?;
        let (base, offset) = match self.scalar(f, token)? {
            Operand::Variable(v, offset) => (Operand::Variable(v, 0), offset),
            Operand::Param(p, offset) => (Operand::Param(p, 0), offset),
            Operand::Return(p, offset) => (Operand::Return(p, 0), offset),
            Operand::Symbol(s, offset) => (Operand::Symbol(s, 0), offset),
            reg @ Operand::Reg(_) => {
                let offset = self.offset()?;
                (reg, offset)
            }
            int @ Operand::Int(_) => (int, 0),
            _ => {
                return Err(
                    self.error("an address is a register, a variable or a number, plus a constant")
                );
            }
        };
        if matches!(self.peek(), Some(Token::Punct(','))) {
            return Err(self.error("coordinates of textures and tensors are not supported"));
        }
        self.expect(']')?;
        Ok(Operand::Address(Box::new(base), offset))
    }

    /// `+4`, `-4`, `+-4`, or nothing.
    fn offset(&mut self) -> Result<i64, PtxError> {
        let negative = match self.peek() {
            Some(Token::Punct('+')) => {
                self.next()?;
                self.eat('-')
            }
            Some(Token::Punct('-')) => {
                self.next()?;
                true
            }
            _ => return Ok(0),
        };
        let n = self.int()? as i64;
        Ok(if negative { n.wrapping_neg() } else { n })
    }

    fn scalar(&mut self, f: &mut Function, token: Token<'a>) -> Result<Operand, PtxError> {
        match token {
            Token::Int(i) => Ok(Operand::Int(i)),
            Token::Single(x) => Ok(Operand::Single(x)),
            Token::Double(x) => Ok(Operand::Double(x)),
            Token::Punct('-') => match self.next()? {
                Token::Int(i) => Ok(Operand::Int(i.wrapping_neg())),
                Token::Single(x) => Ok(Operand::Single(-x)),
                Token::Double(x) => Ok(Operand::Double(-x)),
                _ => Err(self.error("expected a number after '-'")),
            },
            Token::Punct('~') => self.int().map(|i| Operand::Int(!i)),
            Token::Word(name) => Ok(match self.resolve(f, name)? {
                Operand::Special(special) => match self.peek() {
                    Some(Token::Dotted(axis @ ("x" | "y" | "z" | "w"))) => {
                        self.next()?;
                        Operand::Special(format!("{special}.{axis}"))
                    }
                    _ => Operand::Special(special),
                },
                Operand::Variable(v, _) if self.eat('[') => {
                    let element = i64::from(f.variables[v].element);
                    let index = self.int()? as i64;
                    self.expect(']')?;
                    Operand::Variable(v, index.wrapping_mul(element))
                }
                Operand::Variable(v, _) => Operand::Variable(v, self.offset()?),
                Operand::Param(p, _) => Operand::Param(p, self.offset()?),
                Operand::Return(p, _) => Operand::Return(p, self.offset()?),
                Operand::Symbol(s, _) => Operand::Symbol(s, self.offset()?),
                other => other,
            }),
            _ => Err(self.error("expected an operand")),
        }
    }
}
