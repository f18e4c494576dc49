//! Logic, shifts, products of 24 bits, dot products of bytes.

use super::super::op::{Cond, Kind, Logic};
use super::arith::by_type;
use super::operands::is_wide;
use super::{Decoder, Ins, Result};
use crate::ptx::{Operand, Type};

impl<'a> Decoder<'a> {
    pub(super) fn integer(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let isa = self.isa;
        match ins.i.opcode.as_str() {
            "and" | "or" | "xor" | "not" if ins.peek_ty() == Some(Type::Pred) => {
                return self.predicate_logic(ins);
            }
            "mul24" | "mad24" => return self.product24(ins),
            "dp4a" | "dp2a" => return self.dot(ins),
            "shf" => return self.funnel(ins),
            "lop3" => return self.lop3(ins),
            "prmt" => return self.prmt(ins),
            "bfe" | "bfi" | "bfind" | "popc" | "clz" | "bmsk" | "szext" | "fns" => {
                return self.bits(ins);
            }
            _ => {}
        }
        let ty = ins.ty()?;
        let opcode = ins.i.opcode.as_str();
        if matches!(opcode, "shl" | "shr") {
            let f = match opcode {
                "shl" => by_shift(isa, ty, false),
                _ => by_shift(isa, ty, true),
            };
            let f = f.ok_or_else(|| ins.error("not supported for this type"))?;
            ins.expect_operands(3)?;
            let d = self.target(ins, ty)?;
            let s = [self.source(ins, 1, ty)?, self.source(ins, 2, Type::U32)?];
            self.map(f, d, is_wide(ty), &s);
            return Ok(());
        }
        let (f, sources) = match opcode {
            "and" => (
                by_type!(isa, ty, two, [B16: u16, B32: u32, B64: u64], |a, b| a & b),
                2,
            ),
            "or" => (
                by_type!(isa, ty, two, [B16: u16, B32: u32, B64: u64], |a, b| a | b),
                2,
            ),
            "xor" => (
                by_type!(isa, ty, two, [B16: u16, B32: u32, B64: u64], |a, b| a ^ b),
                2,
            ),
            "not" => (
                by_type!(isa, ty, one, [B16: u16, B32: u32, B64: u64], |a| !a),
                1,
            ),
            "cnot" => {
                let f = match ty {
                    Type::B16 => isa.one(|a: u16| u16::from(a == 0)),
                    Type::B32 => isa.one(|a: u32| u32::from(a == 0)),
                    _ => isa.one(|a: u64| u64::from(a == 0)),
                };
                (Some(f), 1)
            }
            "brev" => (
                by_type!(isa, ty, one, [B32: u32, B64: u64], |a| a.reverse_bits()),
                1,
            ),
            "sad" => {
                let f = match ty {
                    Type::U16 => isa.three(|a: u16, b: u16, c: u16| c.wrapping_add(a.abs_diff(b))),
                    Type::S16 => isa.three(|a: i16, b: i16, c: u16| c.wrapping_add(a.abs_diff(b))),
                    Type::U32 => isa.three(|a: u32, b: u32, c: u32| c.wrapping_add(a.abs_diff(b))),
                    Type::S32 => isa.three(|a: i32, b: i32, c: u32| c.wrapping_add(a.abs_diff(b))),
                    Type::U64 => isa.three(|a: u64, b: u64, c: u64| c.wrapping_add(a.abs_diff(b))),
                    _ => isa.three(|a: i64, b: i64, c: u64| c.wrapping_add(a.abs_diff(b))),
                };
                (Some(f), 3)
            }
            _ => (None, 0),
        };
        let f = f.ok_or_else(|| ins.error("not supported for this type"))?;
        self.same_type(ins, f, ty, sources)
    }

    fn predicate_logic(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        ins.ty()?;
        let (logic, b) = match ins.i.opcode.as_str() {
            "and" => (Logic::And, self.cond(ins, ins.operand(2)?)?),
            "or" => (Logic::Or, self.cond(ins, ins.operand(2)?)?),
            "xor" => (Logic::Xor, self.cond(ins, ins.operand(2)?)?),
            _ => (Logic::Xor, Cond::ALWAYS),
        };
        let d = self.pred(ins, ins.operand(0)?)?;
        let a = self.cond(ins, ins.operand(1)?)?;
        self.emit(Kind::Predicate { d, logic, a, b });
        Ok(())
    }

    /// The lower 24 bits' product: its low 32 bits, or bits 16 to 47.
    fn product24(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let high = ins.one_of(&[("hi", true), ("lo", false)]).unwrap_or(false);
        let sat = ins.flag("sat");
        let ty = ins.ty()?;
        let isa = self.isa;
        let add = ins.i.opcode == "mad24";
        let f = match (ty, high, add) {
            (Type::S32, true, true) if sat => isa.three(|a: i32, b: i32, c: i32| {
                ((product_s24(a, b) >> 16) as i32).saturating_add(c)
            }),
            _ if sat => return Err(ins.error(".sat is for mad24.hi.s32")),
            (Type::U32, false, false) => isa.two(|a: u32, b: u32| product_u24(a, b) as u32),
            (Type::U32, true, false) => isa.two(|a: u32, b: u32| (product_u24(a, b) >> 16) as u32),
            (Type::S32, false, false) => isa.two(|a: i32, b: i32| product_s24(a, b) as i32),
            (Type::S32, true, false) => isa.two(|a: i32, b: i32| (product_s24(a, b) >> 16) as i32),
            (Type::U32, false, true) => {
                isa.three(|a: u32, b: u32, c: u32| (product_u24(a, b) as u32).wrapping_add(c))
            }
            (Type::U32, true, true) => isa
                .three(|a: u32, b: u32, c: u32| ((product_u24(a, b) >> 16) as u32).wrapping_add(c)),
            (Type::S32, false, true) => {
                isa.three(|a: i32, b: i32, c: i32| (product_s24(a, b) as i32).wrapping_add(c))
            }
            (Type::S32, true, true) => isa
                .three(|a: i32, b: i32, c: i32| ((product_s24(a, b) >> 16) as i32).wrapping_add(c)),
            _ => return Err(ins.error("24-bit products are for .u32 and .s32")),
        };
        self.same_type(ins, f, ty, if add { 3 } else { 2 })
    }

    fn dot(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let two = ins.i.opcode == "dp2a";
        let high = ins.one_of(&[("lo", false), ("hi", true)]).unwrap_or(false);
        let (a, b) = (ins.ty()?, ins.ty()?);
        let isa = self.isa;
        let f = match (a.is_signed(), b.is_signed(), two, high) {
            (false, false, false, _) => {
                isa.three(|a: u32, b: u32, c: u32| dp4(a, b, c, false, false))
            }
            (true, false, false, _) => {
                isa.three(|a: u32, b: u32, c: u32| dp4(a, b, c, true, false))
            }
            (false, true, false, _) => {
                isa.three(|a: u32, b: u32, c: u32| dp4(a, b, c, false, true))
            }
            (true, true, false, _) => isa.three(|a: u32, b: u32, c: u32| dp4(a, b, c, true, true)),
            (false, false, true, false) => {
                isa.three(|a: u32, b: u32, c: u32| dp2(a, b, c, false, false))
            }
            (true, false, true, false) => {
                isa.three(|a: u32, b: u32, c: u32| dp2(a, b, c, true, false))
            }
            (false, true, true, false) => {
                isa.three(|a: u32, b: u32, c: u32| dp2(a, b, c, false, true))
            }
            (true, true, true, false) => {
                isa.three(|a: u32, b: u32, c: u32| dp2(a, b, c, true, true))
            }
            (false, false, true, true) => {
                isa.three(|a: u32, b: u32, c: u32| dp2(a, b >> 16, c, false, false))
            }
            (true, false, true, true) => {
                isa.three(|a: u32, b: u32, c: u32| dp2(a, b >> 16, c, true, false))
            }
            (false, true, true, true) => {
                isa.three(|a: u32, b: u32, c: u32| dp2(a, b >> 16, c, false, true))
            }
            (true, true, true, true) => {
                isa.three(|a: u32, b: u32, c: u32| dp2(a, b >> 16, c, true, true))
            }
        };
        self.same_type(ins, f, Type::B32, 3)
    }

    fn funnel(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let left = ins
            .one_of(&[("l", true), ("r", false)])
            .ok_or_else(|| ins.error("one of .l and .r is wanted"))?;
        let clamp = ins.one_of(&[("clamp", true), ("wrap", false)]);
        let clamp = clamp.ok_or_else(|| ins.error("one of .clamp and .wrap is wanted"))?;
        let ty = ins.ty()?;
        let isa = self.isa;
        // a is the low word, b the high one.
        let f = match (left, clamp) {
            (true, true) => {
                isa.three(|a: u32, b: u32, c: u32| ((pair(a, b) << c.min(32)) >> 32) as u32)
            }
            (true, false) => {
                isa.three(|a: u32, b: u32, c: u32| ((pair(a, b) << (c & 31)) >> 32) as u32)
            }
            (false, true) => isa.three(|a: u32, b: u32, c: u32| (pair(a, b) >> c.min(32)) as u32),
            (false, false) => isa.three(|a: u32, b: u32, c: u32| (pair(a, b) >> (c & 31)) as u32),
        };
        self.same_type(ins, f, ty, 3)
    }

    /// `lop3.b32 d, a, b, c, table`; with `.or` or `.and` also `p = (d != 0) or/and q`, as `d|p, a, b, c, table, q`.
    fn lop3(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let logic = ins.one_of(&[("or", Logic::Or), ("and", Logic::And)]);
        ins.ty()?;
        ins.expect_operands(if logic.is_some() { 6 } else { 5 })?;
        let table = self.literal(ins, 4).filter(|&t| t < 256);
        let table =
            table.ok_or_else(|| ins.error("a constant of 8 bits is wanted as truth table"))?;
        let (d, p) = match (logic, ins.operand(0)?) {
            (None, _) => (self.target(ins, Type::B32)?, None),
            (Some(logic), Operand::Pair(d, p)) => {
                let d = match &**d {
                    Operand::Sink => self.new_slot(false),
                    d => self.register(ins, d, Type::B32)?,
                };
                (d, Some((logic, self.pred(ins, p)?)))
            }
            _ => return Err(ins.error("a register and a predicate are wanted: d|p")),
        };
        let mut s = vec![
            self.source(ins, 1, Type::B32)?,
            self.source(ins, 2, Type::B32)?,
        ];
        s.push(self.source(ins, 3, Type::B32)?);
        s.push(self.constant(table, false));
        let f = self.isa.four(|a: u32, b: u32, c: u32, table: u32| {
            let on = |bit: u32| (table >> bit & 1).wrapping_neg();
            // Bit 4a + 2b + c of the table, as a multiplexer.
            let low = mux(b, mux(c, on(0), on(1)), mux(c, on(2), on(3)));
            let high = mux(b, mux(c, on(4), on(5)), mux(c, on(6), on(7)));
            mux(a, low, high)
        });
        self.map(f, d, false, &s);
        if let Some((logic, p)) = p {
            let f = self.isa.test(|d: u32, zero: u32| d != zero);
            let (b, c) = (self.constant(0, false), self.cond(ins, ins.operand(5)?)?);
            self.emit(Kind::Test {
                f,
                p,
                q: super::SINK,
                a: d,
                b,
                logic,
                c,
            });
        }
        Ok(())
    }
}

/// Shifts clamp: by the width or more, all bits (but a sign) are gone.
fn by_shift(isa: super::Isa, ty: Type, right: bool) -> Option<super::Map> {
    Some(match (ty, right) {
        (Type::B16, false) => isa.two(|a: u16, n: u32| (u32::from(a) << n.min(16)) as u16),
        (Type::B32, false) => isa.two(|a: u32, n: u32| if n > 31 { 0 } else { a << (n & 31) }),
        (Type::B64, false) => isa.two(|a: u64, n: u32| if n > 63 { 0 } else { a << (n & 63) }),
        (Type::B16 | Type::U16, true) => {
            isa.two(|a: u16, n: u32| a >> n.min(15) >> u32::from(n > 15))
        }
        (Type::B32 | Type::U32, true) => {
            isa.two(|a: u32, n: u32| if n > 31 { 0 } else { a >> (n & 31) })
        }
        (Type::B64 | Type::U64, true) => {
            isa.two(|a: u64, n: u32| if n > 63 { 0 } else { a >> (n & 63) })
        }
        (Type::S16, true) => isa.two(|a: i16, n: u32| a >> n.min(15)),
        (Type::S32, true) => isa.two(|a: i32, n: u32| a >> n.min(31)),
        (Type::S64, true) => isa.two(|a: i64, n: u32| a >> n.min(63)),
        _ => return None,
    })
}

#[inline(always)]
fn product_u24(a: u32, b: u32) -> u64 {
    u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)
}

#[inline(always)]
fn product_s24(a: i32, b: i32) -> i64 {
    i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)
}

#[inline(always)]
fn byte(word: u32, i: u32, signed: bool) -> i32 {
    let b = (word >> (8 * i)) as u8;
    if signed { (b as i8).into() } else { b.into() }
}

#[inline(always)]
fn dp4(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    (0..4).fold(c, |sum, i| {
        sum.wrapping_add((byte(a, i, a_signed) * byte(b, i, b_signed)) as u32)
    })
}

/// Two 16-bit elements of a, the two lower bytes of b.
#[inline(always)]
fn dp2(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    (0..2).fold(c, |sum, i| {
        let half = (a >> (16 * i)) as u16;
        let x: i32 = if a_signed {
            (half as i16).into()
        } else {
            half.into()
        };
        sum.wrapping_add((x * byte(b, i, b_signed)) as u32)
    })
}

/// Two words as one.
#[inline(always)]
pub(super) fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[inline(always)]
fn mux(select: u32, zero: u32, one: u32) -> u32 {
    select & one | !select & zero
}
