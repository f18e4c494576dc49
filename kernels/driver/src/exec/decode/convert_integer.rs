//! `cvt` from integers.

use super::super::float16::{f32_to_bf16, f32_to_f16};
use super::super::op::{Part, Slot};
use super::convert::{How, Rounding, pairs};
use super::float::{Towards, saturate};
use super::float_ops::to_odd;
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
                Type::U64 if from != Type::U64 => isa.one(|a: i64| a.max(0)),
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
                let a = self.step(f.ok_or_else(unsupported)?, is_wide(to), a);
                if how.sat {
                    self.step(isa.one(saturate), false, a)
                } else {
                    a
                }
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
                    (Type::F32, false, Towards::Zero) => isa.one(|a: i64| {
                        if a < 0 {
                            -down32(-i128::from(a))
                        } else {
                            down32(a.into())
                        }
                    }),
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
            (Type::F16 | Type::Bf16, true) => {
                // Through f64, whose 53 bits hold every 32-bit integer; longer ones are rounded to odd by `to_odd`
                // only after f64's own rounding, which matters nowhere in f16's range and last bits of bf16's.
                let f = pairs!(isa, from, 8, [U8: u8, S8: i8, U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64], [8 => f64]);
                let a = self.step(f.ok_or_else(unsupported)?, true, a);
                let f = match to {
                    Type::F16 => isa.one(|a: f64| f32_to_f16(to_odd(a))),
                    _ => isa.one(|a: f64| f32_to_bf16(to_odd(a))),
                };
                self.step(f, false, a)
            }
            _ => return Err(unsupported()),
        };
        Ok(a)
    }
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
