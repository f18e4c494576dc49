//! Declarations of variables and their initialisers.

use super::lexer::Token;
use super::parser::Parser;
use super::types::{Space, Type};
use super::{PtxError, Relocation, Variable};

impl<'a> Parser<'a> {
    /// `.align 8 .b8 name[4][2] = {…}`, without the state space before it and the semicolon after it.
    pub(super) fn variable(
        &mut self,
        space: Space,
        is_extern: bool,
    ) -> Result<(&'a str, Variable), PtxError> {
        let (mut align, mut ty, mut lanes) = (None, None, 1u64);
        let name = loop {
            match self.next()? {
                Token::Dotted("align") => align = Some(self.alignment()?),
                // `.ptr .space .align n` describes what a pointer parameter points to.
                Token::Dotted("ptr") => {
                    while let Some(Token::Dotted(word)) = self.peek() {
                        self.next()?;
                        if word == "align" {
                            self.alignment()?;
                        }
                    }
                }
                Token::Dotted("v2") => lanes = 2,
                Token::Dotted("v4") => lanes = 4,
                Token::Dotted("attribute") => {
                    return Err(self
                        .error("variables with attributes (managed, unified) are not supported"));
                }
                Token::Dotted(d) => match Type::from_name(d).filter(|&t| t != Type::Pred) {
                    Some(t) => ty = Some(t),
                    None => return Err(self.error("expected the type of a variable")),
                },
                Token::Word(name) => break name,
                _ => return Err(self.error("expected a type or the name of a variable")),
            }
        };
        let line = self.line();
        let ty = ty.ok_or_else(|| self.error("the variable has no type"))?;
        let element = u64::from(ty.bytes());
        let (mut count, mut open) = (lanes, false);
        while self.eat('[') {
            if self.eat(']') {
                open = true;
                continue;
            }
            let n = self.int()?;
            count = count
                .checked_mul(n)
                .filter(|c| c.checked_mul(element).is_some_and(|b| b < 1 << 48))
                .ok_or_else(|| self.error("an array of less than 2^48 bytes"))?;
            self.expect(']')?;
        }
        let natural = ty.bytes() * lanes as u32;
        let mut v = Variable {
            name: name.to_string(),
            space,
            size: if open { 0 } else { count * element },
            element: natural,
            align: align.unwrap_or(natural).max(1),
            is_extern,
            init: Vec::new(),
            relocations: Vec::new(),
            line,
        };
        if self.eat('=') {
            self.initialiser(&mut v, ty)?;
            if open {
                v.size = v.init.len() as u64;
            } else if v.init.len() as u64 > v.size {
                return Err(self.error(format!(
                    "{} bytes of initialiser for {} of variable",
                    v.init.len(),
                    v.size
                )));
            }
        }
        Ok((name, v))
    }

    fn alignment(&mut self) -> Result<u32, PtxError> {
        let n = self.int()?;
        let n = u32::try_from(n)
            .ok()
            .filter(|n| n.is_power_of_two() && *n <= 1 << 20);
        n.ok_or_else(|| self.error("an alignment is a power of two"))
    }

    /// Nested braces only group: the elements are laid out in their order.
    fn initialiser(&mut self, v: &mut Variable, ty: Type) -> Result<(), PtxError> {
        let mut depth = 0u32;
        loop {
            if self.eat('{') {
                depth += 1;
                continue;
            }
            if !(depth > 0 && self.peek() == Some(Token::Punct('}'))) {
                self.element(v, ty)?;
            }
            while depth > 0 && self.eat('}') {
                depth -= 1;
            }
            if depth == 0 {
                return Ok(());
            }
            self.expect(',')?;
        }
    }

    fn element(&mut self, v: &mut Variable, ty: Type) -> Result<(), PtxError> {
        let bytes = ty.bytes() as usize;
        let negative = self.eat('-');
        let bits = match self.next()? {
            Token::Int(i) if ty.is_float() => {
                float_bits(ty, if negative { -(i as f64) } else { i as f64 })
            }
            Token::Int(i) => Some(if negative { i.wrapping_neg() } else { i }),
            Token::Single(x) if !ty.is_float() => Some(u64::from(x.to_bits())),
            Token::Single(x) => float_bits(ty, f64::from(if negative { -x } else { x })),
            Token::Double(x) if !ty.is_float() => Some(x.to_bits()),
            Token::Double(x) => float_bits(ty, if negative { -x } else { x }),
            Token::Word(name) if bytes >= 4 && !negative => {
                let generic = name == "generic" && self.eat('(');
                let symbol = if generic { self.word()? } else { name }.to_string();
                let (mut element, mut addend) = (0, 0);
                if self.eat('[') {
                    element = self.int()? as i64;
                    self.expect(']')?;
                }
                if generic {
                    self.expect(')')?;
                }
                while let Some(Token::Punct(sign @ ('+' | '-'))) = self.peek() {
                    self.next()?;
                    let n = self.int()? as i64;
                    addend = if sign == '-' { n.wrapping_neg() } else { n }.wrapping_add(addend);
                }
                v.relocations.push(Relocation {
                    offset: v.init.len(),
                    bytes,
                    symbol,
                    element,
                    addend,
                    generic,
                });
                Some(0)
            }
            _ => None,
        };
        let bits = bits.ok_or_else(|| self.error("not an initialiser of this type"))?;
        let bytes16 = u128::from(bits).to_le_bytes();
        v.init.extend_from_slice(&bytes16[..bytes]);
        Ok(())
    }
}

fn float_bits(ty: Type, x: f64) -> Option<u64> {
    Some(match ty {
        Type::F16 => half::f16::from_f64(x).to_bits().into(),
        Type::Bf16 => half::bf16::from_f64(x).to_bits().into(),
        Type::F32 => (x as f32).to_bits().into(),
        Type::F64 => x.to_bits(),
        _ => return None,
    })
}
