//! `cvt` from integers.

use super::super::op::{Part, Slot};
use super::convert::{How, Rounding, pairs};
use super::float::Towards;
use super::operands::is_wide;
use super::{Decoder, Ins, Result};
use crate::ptx::Type;

impl<'a> Decoder<'a> {
    pub(super) fn integer_to_integer(
        &mut self,
        ins: &Ins<'a>,
        a: Slot,
        from: Type,
        to: Type,
        how: How,
    ) -> Result<Slot> {
        let isa = self.isa;
        if how.sat {
            let wide = pairs!(isa, from, 8, [U8: u8, S8: i8, U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64], [8 => i64]);
            let wide = wide.ok_or_else(|| ins.error("not supported for these types"))?;
            // Values of u64 beyond i64 count as its largest.
            let a = match from {
                Type::U64 => self.step(isa.one(|a: u64| a.min(i64::MAX as u64)), true, a),
                _ => self.step(wide, true, a),
            };
            let f = match to {
                Type::U8 => isa.one(|a: i64| a.clamp(0, 0xff) as u8),
                Type::S8 => isa.one(|a: i64| a.clamp(-0x80, 0x7f) as i8),
                Type::U16 => isa.one(|a: i64| a.clamp(0, 0xffff) as u16),
                Type::S16 => isa.one(|a: i64| a.clamp(-0x8000, 0x7fff) as i16),
                Type::U32 => isa.one(|a: i64| a.clamp(0, 0xffff_ffff) as u32),
                Type::S32 => isa.one(|a: i64| a.clamp(i32::MIN.into(), i32::MAX.into()) as i32),
                Type::U64 => isa.one(|a: i64| a.max(0)),
                Type::S64 => isa.one(|a: i64| a),
                _ => return Err(ins.error("not supported for these types")),
            };
            return Ok(self.step(f, is_wide(to), a));
        }
        let f = pairs!(isa, from, to.bytes(),
            [U8: u8, S8: i8, U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64, B8: u8, B16: u16, B32: u32, B64: u64],
            [1 => u8, 2 => u16, 4 => u32, 8 => u64]);
        let f = f.ok_or_else(|| ins.error("not supported for these types"))?;
        let d = self.step(f, is_wide(to), a);
        if is_wide(from) && !is_wide(to) {
            self.part(Part::Low);
        }
        Ok(d)
    }

    pub(super) fn integer_to_float(
        &mut self,
        ins: &Ins<'a>,
        a: Slot,
        from: Type,
        to: Type,
        how: How,
    ) -> Result<Slot> {
        let isa = self.isa;
        let unsupported = || ins.error("not supported for these types and this rounding");
        let nearest = matches!(how.rounding, Some(Rounding::Nearest) | None);
        let a = match (to, nearest) {
            (Type::F64 | Type::F32, true) => {
                let f = pairs!(isa, from, to, [U8: u8, S8: i8, U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64],
                    [Type::F64 => f64, Type::F32 => f32]);
                self.step(f.ok_or_else(unsupported)?, is_wide(to), a)
            }
            (Type::F64 | Type::F32, false) => {
                let Some(Rounding::Towards(towards)) = how.rounding else {
                    return Err(unsupported());
                };
                let value = pairs!(isa, from, 8, [U8: u8, S8: i8, U16: u16, S16: i16, U32: u32, S32: i32, S64: i64],
                    [8 => i64]);
                let (a, unsigned) = match from {
                    Type::U64 => (a, true),
                    _ => (self.step(value.ok_or_else(unsupported)?, true, a), false),
                };
                let f = match (to, unsigned, towards) {
                    (Type::F32, true, Towards::Zero | Towards::Minus) => {
                        isa.one(|a: u64| down32(a.into()))
                    }
                    (Type::F32, true, Towards::Plus) => isa.one(|a: u64| -down32(-i128::from(a))),
                    (Type::F32, false, Towards::Minus) => isa.one(|a: i64| down32(a.into())),
                    (Type::F32, false, Towards::Plus) => isa.one(|a: i64| -down32(-i128::from(a))),
                    (Type::F32, false, Towards::Zero) => isa.one(|a: i64| zero32(a.into())),
                    (_, true, Towards::Zero | Towards::Minus) => isa.one(|a: u64| down64(a.into())),
                    (_, true, Towards::Plus) => isa.one(|a: u64| -down64(-i128::from(a))),
                    (_, false, Towards::Minus) => isa.one(|a: i64| down64(a.into())),
                    (_, false, Towards::Plus) => isa.one(|a: i64| -down64(-i128::from(a))),
                    (_, false, Towards::Zero) => isa.one(|a: i64| {
                        if a < 0 {
                            -down64(-i128::from(a))
                        } else {
                            down64(a.into())
                        }
                    }),
                };
                self.step(f, is_wide(to), a)
            }
            (Type::F16 | Type::Bf16, _) => {
                let f = pairs!(isa, from, 8, [U8: u8, S8: i8, U16: u16, S16: i16, U32: u32, S32: i32, S64: i64],
                    [8 => i64]);
                let odd = match from {
                    Type::U64 => self.step(isa.one(|a: u64| odd32(a.into())), false, a),
                    _ => {
                        let a = self.step(f.ok_or_else(unsupported)?, true, a);
                        self.step(isa.one(|a: i64| odd32(a.into())), false, a)
                    }
                };
                let f = self.to_half(to, how.rounding.unwrap_or(Rounding::Nearest));
                self.step(f.ok_or_else(unsupported)?, false, odd)
            }
            _ => return Err(unsupported()),
        };
        Ok(if how.sat { self.saturated(to, a) } else { a })
    }

    /// `cvt.pack.sat.u8.s32.b32 d, a, b, c`: a and b saturated, a above b, and above them the lowest bits of c; of 16
    /// bits there is no c.
    pub(super) fn convert_pack(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        if !ins.flag("sat") {
            return Err(ins.error("cvt.pack saturates: .sat is wanted"));
        }
        let small = [("u4", "u4"), ("s4", "s4"), ("u2", "u2"), ("s2", "s2")];
        let to = match ins.one_of(&small) {
            Some(to) => to,
            None => match ins.ty()? {
                Type::U16 => "u16",
                Type::S16 => "s16",
                Type::U8 => "u8",
                Type::S8 => "s8",
                _ => return Err(ins.error("cvt.pack makes integers of 2 to 16 bits")),
            },
        };
        if ins.ty()? != Type::S32 {
            return Err(ins.error("cvt.pack takes .s32"));
        }
        let isa = self.isa;
        macro_rules! pack {
            ($bits:literal, $low:literal, $high:literal) => {
                isa.three(|a: i32, b: i32, c: u32| {
                    let field = |x: i32| x.clamp($low, $high) as u32 & ((1 << $bits) - 1);
                    field(b) | field(a) << $bits | c.unbounded_shl(2 * $bits)
                })
            };
        }
        let f = match to {
            "u16" => pack!(16, 0, 0xffff),
            "s16" => pack!(16, -0x8000, 0x7fff),
            "u8" => pack!(8, 0, 0xff),
            "s8" => pack!(8, -0x80, 0x7f),
            "u4" => pack!(4, 0, 15),
            "s4" => pack!(4, -8, 7),
            "u2" => pack!(2, 0, 3),
            _ => pack!(2, -2, 1),
        };
        let has_rest = !matches!(to, "u16" | "s16");
        if has_rest && ins.ty()? != Type::B32 {
            return Err(ins.error("the type of what lies above is .b32"));
        }
        ins.expect_operands(3 + usize::from(has_rest))?;
        let d = self.target(ins, Type::B32)?;
        let (a, b) = (
            self.source(ins, 1, Type::S32)?,
            self.source(ins, 2, Type::S32)?,
        );
        let c = match has_rest {
            true => self.source(ins, 3, Type::B32)?,
            false => self.constant(0, false),
        };
        self.map(f, d, false, &[a, b, c]);
        Ok(())
    }
}

/// Rounded towards zero.
#[inline(always)]
fn zero32(a: i128) -> f32 {
    if a < 0 { -down32(-a) } else { down32(a) }
}

/// Rounded to odd, as [`to_odd`](super::float_ops::to_odd) rounds.
#[inline(always)]
fn odd32(a: i128) -> f32 {
    let cut = zero32(a);
    let odd = u32::from(cut as i128 != a);
    f32::from_bits(cut.to_bits() | odd)
}

/// The largest f32 that is not above a.
#[inline(always)]
fn down32(a: i128) -> f32 {
    let nearest = a as f32;
    if nearest as i128 > a {
        nearest.next_down()
    } else {
        nearest
    }
}

#[inline(always)]
fn down64(a: i128) -> f64 {
    let nearest = a as f64;
    if nearest as i128 > a {
        nearest.next_down()
    } else {
        nearest
    }
}
