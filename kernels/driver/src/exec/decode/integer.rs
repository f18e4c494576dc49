//! Logic, shifts, bit fields, byte permutations, dot products of bytes.

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
        let ty = ins.ty()?;
        let isa = self.isa;
        let add = ins.i.opcode == "mad24";
        let f = match (ty, high, add) {
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

    fn prmt(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let mode = ins.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"].map(|m| (m, m)));
        let ty = ins.ty()?;
        let isa = self.isa;
        let f = match mode {
            None => isa.three(|a: u32, b: u32, c: u32| {
                let bytes = pair(a, b);
                let mut out = 0;
                for i in 0..4 {
                    let selector = c >> (4 * i) & 15;
                    let byte = (bytes >> (8 * (selector & 7))) as u8;
                    // The selector's top bit replicates the byte's sign.
                    let sign = ((byte as i8) >> 7) as u8;
                    out |= u32::from(if selector & 8 != 0 { sign } else { byte }) << (8 * i);
                }
                out
            }),
            Some("f4e") => isa.three(|a: u32, b: u32, c: u32| {
                pick_bytes(a, b, [0, 1, 2, 3].map(|i| i + (c & 3)))
            }),
            // Backwards from byte c, around the eight.
            Some("b4e") => isa.three(|a: u32, b: u32, c: u32| {
                pick_bytes(a, b, [8, 7, 6, 5].map(|i| (i + (c & 3)) & 7))
            }),
            Some("rc8") => isa.three(|a: u32, b: u32, c: u32| pick_bytes(a, b, [c & 3; 4])),
            Some("ecl") => isa.three(|a: u32, b: u32, c: u32| {
                pick_bytes(a, b, [0, 1, 2, 3].map(|i| i.max(c & 3)))
            }),
            Some("ecr") => isa.three(|a: u32, b: u32, c: u32| {
                pick_bytes(a, b, [0, 1, 2, 3].map(|i| i.min(c & 3)))
            }),
            Some(_) => isa.three(|a: u32, b: u32, c: u32| {
                pick_bytes(a, b, [0, 1, 0, 1].map(|i| i + 2 * (c & 1)))
            }),
        };
        self.same_type(ins, f, ty, 3)
    }

    fn bits(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let isa = self.isa;
        let opcode = ins.i.opcode.as_str();
        let shift_amount = ins.flag("shiftamt");
        let wrap = ins.one_of(&[("wrap", true), ("clamp", false)]);
        if wrap.is_some() != matches!(opcode, "bmsk" | "szext") {
            return Err(ins.error(".wrap or .clamp is for bmsk and szext, which need it"));
        }
        let wrap = wrap.unwrap_or_default();
        let ty = ins.ty()?;
        let (f, types): (_, &[Type]) = match (opcode, ty) {
            ("popc", Type::B32) => (isa.one(|a: u32| a.count_ones()), &[ty]),
            ("popc", Type::B64) => (isa.one(|a: u64| a.count_ones()), &[ty]),
            ("clz", Type::B32) => (isa.one(|a: u32| a.leading_zeros()), &[ty]),
            ("clz", Type::B64) => (isa.one(|a: u64| a.leading_zeros()), &[ty]),
            ("bfind", Type::U32) if shift_amount => {
                (isa.one(|a: u32| a.leading_zeros() | none_if(a == 0)), &[ty])
            }
            ("bfind", Type::U32) => (
                isa.one(|a: u32| 31u32.wrapping_sub(a.leading_zeros()) | none_if(a == 0)),
                &[ty],
            ),
            ("bfind", Type::S32) => {
                let f = if shift_amount {
                    isa.one(|a: i32| (a ^ a >> 31).leading_zeros() | none_if(a ^ a >> 31 == 0))
                } else {
                    isa.one(|a: i32| {
                        31u32.wrapping_sub((a ^ a >> 31).leading_zeros())
                            | none_if(a ^ a >> 31 == 0)
                    })
                };
                (f, &[ty])
            }
            ("bfind", Type::U64) if shift_amount => {
                (isa.one(|a: u64| a.leading_zeros() | none_if(a == 0)), &[ty])
            }
            ("bfind", Type::U64) => (
                isa.one(|a: u64| 63u32.wrapping_sub(a.leading_zeros()) | none_if(a == 0)),
                &[ty],
            ),
            ("bfind", Type::S64) => {
                let f = if shift_amount {
                    isa.one(|a: i64| (a ^ a >> 63).leading_zeros() | none_if(a ^ a >> 63 == 0))
                } else {
                    isa.one(|a: i64| {
                        63u32.wrapping_sub((a ^ a >> 63).leading_zeros())
                            | none_if(a ^ a >> 63 == 0)
                    })
                };
                (f, &[ty])
            }
            ("bfe", Type::U32) => (
                isa.three(|a: u32, pos: u32, len: u32| field_u(a.into(), pos, len, 32) as u32),
                &[ty, Type::U32, Type::U32],
            ),
            ("bfe", Type::U64) => (
                isa.three(|a: u64, pos: u32, len: u32| field_u(a, pos, len, 64)),
                &[ty, Type::U32, Type::U32],
            ),
            ("bfe", Type::S32) => (
                isa.three(|a: i32, pos: u32, len: u32| field_s(a.into(), pos, len, 32) as i32),
                &[ty, Type::U32, Type::U32],
            ),
            ("bfe", Type::S64) => (
                isa.three(|a: i64, pos: u32, len: u32| field_s(a, pos, len, 64)),
                &[ty, Type::U32, Type::U32],
            ),
            ("bfi", Type::B32) => (
                isa.four(|a: u32, b: u32, pos: u32, len: u32| {
                    insert(a.into(), b.into(), pos, len, 32) as u32
                }),
                &[ty, ty, Type::U32, Type::U32],
            ),
            ("bfi", Type::B64) => (
                isa.four(|a: u64, b: u64, pos: u32, len: u32| insert(a, b, pos, len, 64)),
                &[ty, ty, Type::U32, Type::U32],
            ),
            ("bmsk", Type::B32) if wrap => {
                (isa.two(|a: u32, b: u32| ones(a & 31, b & 31)), &[ty, ty])
            }
            ("bmsk", Type::B32) => (isa.two(ones), &[ty, ty]),
            ("szext", Type::U32) => {
                let f = if wrap {
                    isa.two(|a: u32, n: u32| field_u(a.into(), 0, n & 31, 32) as u32)
                } else {
                    isa.two(|a: u32, n: u32| field_u(a.into(), 0, n.min(32), 32) as u32)
                };
                (f, &[ty, Type::U32])
            }
            ("szext", Type::S32) => {
                let f = if wrap {
                    isa.two(|a: i32, n: u32| field_s(a.into(), 0, n & 31, 32) as i32)
                } else {
                    isa.two(|a: i32, n: u32| field_s(a.into(), 0, n.min(32), 32) as i32)
                };
                (f, &[ty, Type::U32])
            }
            ("fns", Type::B32) => (isa.three(nth_set), &[ty, Type::U32, Type::S32]),
            _ => return Err(ins.error("not supported for this type")),
        };
        ins.expect_operands(types.len() + 1)?;
        let out = if matches!(opcode, "popc" | "clz" | "bfind") {
            Type::U32
        } else {
            ty
        };
        let d = self.target(ins, out)?;
        let s: Vec<u32> = types
            .iter()
            .enumerate()
            .map(|(n, &t)| self.source(ins, n + 1, t))
            .collect::<Result<_>>()?;
        self.map(f, d, is_wide(out), &s);
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

#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Bytes of b:a by number.
#[inline(always)]
fn pick_bytes(a: u32, b: u32, from: [u32; 4]) -> u32 {
    (0..4).fold(0, |out, i| {
        out | ((pair(a, b) >> (8 * from[i as usize])) as u8 as u32) << (8 * i)
    })
}

#[inline(always)]
fn mux(select: u32, zero: u32, one: u32) -> u32 {
    select & one | !select & zero
}

#[inline(always)]
fn none_if(none: bool) -> u32 {
    u32::from(none).wrapping_neg()
}

/// Ones from bit `first`, `count` of them; those beyond bit 31 are lost.
#[inline(always)]
fn ones(first: u32, count: u32) -> u32 {
    u32::MAX.unbounded_shl(first) & !u32::MAX.unbounded_shl(first.saturating_add(count))
}

/// The place of the `n`-th set bit from `base` on, of the `-n`-th from there down, or for 0 of the bit at `base` itself.
#[inline(always)]
fn nth_set(mask: u32, base: u32, n: i32) -> u32 {
    let step = if n < 0 { -1 } else { 1 };
    let (mut left, mut at) = (n.unsigned_abs().max(1), i64::from(base));
    while (0..32).contains(&at) {
        left -= mask >> at & 1;
        if left == 0 {
            return at as u32;
        }
        if n == 0 {
            break;
        }
        at += step;
    }
    u32::MAX
}

/// Position and length count modulo 256; what lies beyond the width reads as zero.
#[inline(always)]
fn field_u(a: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    let moved = if pos >= width { 0 } else { a >> (pos & 63) };
    if len >= 64 {
        moved
    } else {
        moved & ((1 << (len & 63)) - 1)
    }
}

/// As `field_u`, and the field's top bit (the value's, if it ends beyond) fills the rest.
#[inline(always)]
fn field_s(a: i64, pos: u32, len: u32, width: u32) -> i64 {
    let (pos, len) = (pos & 255, len & 255);
    let moved = a >> pos.min(63);
    if len == 0 {
        0
    } else if pos + len >= width {
        moved
    } else {
        moved << (64 - len) >> (64 - len)
    }
}

#[inline(always)]
fn insert(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    let ones = if len >= 64 {
        !0
    } else {
        (1u64 << (len & 63)) - 1
    };
    let mask = if pos >= width { 0 } else { ones << (pos & 63) };
    let moved = if pos >= width { 0 } else { a << (pos & 63) };
    b & !mask | moved & mask
}
