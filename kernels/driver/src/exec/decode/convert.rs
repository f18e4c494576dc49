//! `cvt`, as a chain of simple steps: to f32 if the source is smaller, to an integral value, to the target's type,
//! saturated, extended to the register.

use super::super::float16::{bf16_to_f32, canonical, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::super::lanes::Map;
use super::super::op::{Part, Slot};
use super::float::{Towards, flush, round32, saturate};
use super::float_ops::to_odd;
use super::operands::is_wide;
use super::{Decoder, Ins, Result};
use crate::ptx::{Operand, Type};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    Nearest,
    /// To nearest, ties away from zero.
    Away,
    Towards(Towards),
    /// To an integral value.
    Integral(Integral),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Integral {
    Even,
    Zero,
    Down,
    Up,
}

/// What a conversion says besides its types.
#[derive(Clone, Copy)]
struct How {
    rounding: Option<Rounding>,
    ftz: bool,
    sat: bool,
    relu: bool,
}

/// One closure for every pair of a source type and a target width.
macro_rules! pairs {
    ($isa:expr, $from:expr, $to:expr, [$($F:ident: $f:ty),*], $targets:tt) => {
        match $from { $(Type::$F => pairs!(@targets $isa, $to, $f, $targets),)* _ => None }
    };
    (@targets $isa:expr, $to:expr, $f:ty, [$($T:pat => $t:ty),*]) => {
        match $to { $($T => Some($isa.one(|a: $f| a as $t)),)* _ => None }
    };
}

impl<'a> Decoder<'a> {
    pub(super) fn convert(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let rounding = ins.one_of(&[
            ("rn", Rounding::Nearest),
            ("rna", Rounding::Away),
            ("rz", Rounding::Towards(Towards::Zero)),
            ("rm", Rounding::Towards(Towards::Minus)),
            ("rp", Rounding::Towards(Towards::Plus)),
            ("rni", Rounding::Integral(Integral::Even)),
            ("rzi", Rounding::Integral(Integral::Zero)),
            ("rmi", Rounding::Integral(Integral::Down)),
            ("rpi", Rounding::Integral(Integral::Up)),
        ]);
        let how = How {
            rounding,
            ftz: ins.flag("ftz"),
            sat: ins.flag("sat"),
            relu: ins.flag("relu"),
        };
        let (to, from) = (ins.ty()?, ins.ty()?);
        if matches!(to, Type::F16x2 | Type::Bf16x2) {
            return self.convert_pair(ins, to, from, how);
        }
        ins.expect_operands(2)?;
        let (d, own) = match ins.operand(0)? {
            Operand::Sink => (self.new_slot(is_wide(to)), to),
            target => self.any_register(ins, target)?,
        };
        if own.bytes() < to.bytes() {
            return Err(ins.error(format!(
                "a register of {} bytes for a value of {}",
                own.bytes(),
                to.bytes()
            )));
        }
        let mut a = match ins.operand(1)? {
            source @ Operand::Reg(_) => {
                let (slot, own) = self.any_register(ins, source)?;
                if own.bytes() < from.bytes() {
                    return Err(ins.error(format!(
                        "a register of {} bytes holds no {from:?}",
                        own.bytes()
                    )));
                }
                if is_wide(own) && !is_wide(from) {
                    let low = self.step(self.isa.one(|a: u64| a as u32), false, slot);
                    self.part(Part::Low);
                    low
                } else {
                    slot
                }
            }
            Operand::Special(_) => self.source(ins, 1, Type::U32)?,
            _ => self.source(ins, 1, from)?,
        };
        if to == Type::Tf32 {
            return self.convert_tf32(ins, d, a, from, how);
        }
        a = self.converted(ins, a, from, to, how)?;
        // Into a wider register: by the target type's sign.
        let isa = self.isa;
        let f = match (to, own.bytes()) {
            (Type::S8, 2) => isa.one(|a: i8| i16::from(a)),
            (Type::S8, 4) => isa.one(|a: i8| i32::from(a)),
            (Type::S8, 8) => isa.one(|a: i8| i64::from(a)),
            (Type::S16, 4) => isa.one(|a: i16| i32::from(a)),
            (Type::S16, 8) => isa.one(|a: i16| i64::from(a)),
            (Type::S32, 8) => isa.one(|a: i32| i64::from(a)),
            (_, 8) if !is_wide(to) => isa.one(|a: u32| u64::from(a)),
            (_, 8) => isa.one(|a: u64| a),
            _ => isa.one(|a: u32| a),
        };
        // The last step writes the target itself where it can.
        if own.bytes() == to.bytes().max(2) && to != Type::S8 && self.retarget(a, d) {
            return Ok(());
        }
        self.map(f, d, is_wide(own), &[a]);
        Ok(())
    }

    /// Makes the operation just emitted write `d` in place of the temporary `a`.
    fn retarget(&mut self, a: Slot, d: Slot) -> bool {
        match self.program.ops.last_mut().map(|op| &mut op.kind) {
            Some(super::Kind::Map { d: target, .. })
                if *target == a && self.temporaries.contains(&a) =>
            {
                *target = d;
                true
            }
            _ => false,
        }
    }

    /// Emits a step into a new register.
    fn step(&mut self, f: Map, wide: bool, a: Slot) -> Slot {
        let d = self.new_slot(wide);
        self.temporaries.clear();
        self.temporaries.push(d);
        self.map(f, d, wide, &[a]);
        d
    }

    fn converted(
        &mut self,
        ins: &Ins<'a>,
        a: Slot,
        from: Type,
        to: Type,
        how: How,
    ) -> Result<Slot> {
        let isa = self.isa;
        let small = |ty| matches!(ty, Type::F16 | Type::Bf16);
        if small(from) {
            let a = match from {
                Type::F16 => self.step(isa.one(f16_to_f32), false, a),
                _ => self.step(isa.one(bf16_to_f32), false, a),
            };
            return if to == Type::F32 && !how.sat && how.rounding.is_none() {
                Ok(a)
            } else {
                self.converted(ins, a, Type::F32, to, How { ftz: false, ..how })
            };
        }
        match (from.is_float(), to.is_float()) {
            (false, false) => self.integer_to_integer(ins, a, from, to, how),
            (false, true) => self.integer_to_float(ins, a, from, to, how),
            (true, false) => self.float_to_integer(ins, a, from, to, how),
            (true, true) => self.float_to_float(ins, a, from, to, how),
        }
    }

    fn integer_to_integer(
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

    fn integer_to_float(
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

    fn float_to_integer(
        &mut self,
        ins: &Ins<'a>,
        a: Slot,
        from: Type,
        to: Type,
        how: How,
    ) -> Result<Slot> {
        let isa = self.isa;
        let Some(Rounding::Integral(integral)) = how.rounding else {
            return Err(ins.error("a conversion to an integer says .rni, .rzi, .rmi or .rpi"));
        };
        let mut a = a;
        if how.ftz && from == Type::F32 {
            a = self.step(isa.one(flush), false, a);
        }
        if integral != Integral::Zero {
            a = self.integral(a, from, integral);
        }
        // Out of range saturates. NaN is 0, or the sign bit alone if 64 bits are involved.
        let f = match (from, to) {
            (Type::F32, Type::U8) => isa.one(|a: f32| a as u8),
            (Type::F32, Type::S8) => isa.one(|a: f32| a as i8),
            (Type::F32, Type::U16) => isa.one(|a: f32| a as u16),
            (Type::F32, Type::S16) => isa.one(|a: f32| a as i16),
            (Type::F32, Type::U32) => isa.one(|a: f32| a as u32),
            (Type::F32, Type::S32) => isa.one(|a: f32| a as i32),
            (Type::F32, Type::U64) => isa.one(|a: f32| if a.is_nan() { 1 << 63 } else { a as u64 }),
            (Type::F32, Type::S64) => {
                isa.one(|a: f32| if a.is_nan() { i64::MIN } else { a as i64 })
            }
            (Type::F64, Type::U8) => isa.one(|a: f64| if a.is_nan() { 1 << 7 } else { a as u8 }),
            (Type::F64, Type::S8) => isa.one(|a: f64| if a.is_nan() { i8::MIN } else { a as i8 }),
            (Type::F64, Type::U16) => isa.one(|a: f64| if a.is_nan() { 1 << 15 } else { a as u16 }),
            (Type::F64, Type::S16) => {
                isa.one(|a: f64| if a.is_nan() { i16::MIN } else { a as i16 })
            }
            (Type::F64, Type::U32) => isa.one(|a: f64| if a.is_nan() { 1 << 31 } else { a as u32 }),
            (Type::F64, Type::S32) => {
                isa.one(|a: f64| if a.is_nan() { i32::MIN } else { a as i32 })
            }
            (Type::F64, Type::U64) => isa.one(|a: f64| if a.is_nan() { 1 << 63 } else { a as u64 }),
            (Type::F64, Type::S64) => {
                isa.one(|a: f64| if a.is_nan() { i64::MIN } else { a as i64 })
            }
            _ => return Err(ins.error("not supported for these types")),
        };
        Ok(self.step(f, is_wide(to), a))
    }

    fn integral(&mut self, a: Slot, ty: Type, integral: Integral) -> Slot {
        let isa = self.isa;
        let f = match (ty, integral) {
            (Type::F64, Integral::Even) => isa.one(|a: f64| a.round_ties_even()),
            (Type::F64, Integral::Zero) => isa.one(|a: f64| a.trunc()),
            (Type::F64, Integral::Down) => isa.one(|a: f64| a.floor()),
            (Type::F64, Integral::Up) => isa.one(|a: f64| a.ceil()),
            (_, Integral::Even) => isa.one(|a: f32| canonical(a.round_ties_even())),
            (_, Integral::Zero) => isa.one(|a: f32| canonical(a.trunc())),
            (_, Integral::Down) => isa.one(|a: f32| canonical(a.floor())),
            (_, Integral::Up) => isa.one(|a: f32| canonical(a.ceil())),
        };
        self.step(f, ty == Type::F64, a)
    }

    fn float_to_float(
        &mut self,
        ins: &Ins<'a>,
        a: Slot,
        from: Type,
        to: Type,
        how: How,
    ) -> Result<Slot> {
        let isa = self.isa;
        let unsupported = || ins.error("not supported for these types and this rounding");
        let mut a = a;
        if how.ftz && from == Type::F32 {
            a = self.step(isa.one(flush), false, a);
        }
        if let Some(Rounding::Integral(integral)) = how.rounding {
            a = self.integral(a, from, integral);
        }
        let rounding = match how.rounding {
            None | Some(Rounding::Integral(_)) => Rounding::Nearest,
            Some(r) => r,
        };
        a = match (from, to, rounding) {
            (Type::F32, Type::F32, _) => self.step(isa.one(canonical), false, a),
            (Type::F64, Type::F64, _) => self.step(isa.one(|a: f64| a), true, a),
            (Type::F32, Type::F64, _) => self.step(isa.one(|a: f32| f64::from(a)), true, a),
            (Type::F64, Type::F32, Rounding::Nearest) => {
                self.step(isa.one(|a: f64| canonical(a as f32)), false, a)
            }
            (Type::F64, Type::F32, Rounding::Towards(towards)) => {
                let f = match towards {
                    Towards::Zero => isa.one(|a: f64| canonical(round32(a, 0.0, Towards::Zero))),
                    Towards::Minus => isa.one(|a: f64| canonical(round32(a, 0.0, Towards::Minus))),
                    Towards::Plus => isa.one(|a: f64| canonical(round32(a, 0.0, Towards::Plus))),
                };
                self.step(f, false, a)
            }
            (_, Type::F16 | Type::Bf16, _) => {
                if from == Type::F64 {
                    a = self.step(isa.one(to_odd), false, a);
                }
                let f = match (to, rounding) {
                    (Type::F16, Rounding::Nearest) => isa.one(f32_to_f16),
                    (Type::F16, Rounding::Towards(Towards::Zero)) => isa.one(f16_towards_zero),
                    (Type::Bf16, Rounding::Nearest) => isa.one(f32_to_bf16),
                    (Type::Bf16, Rounding::Towards(Towards::Zero)) => isa.one(bf16_towards_zero),
                    _ => return Err(unsupported()),
                };
                self.step(f, false, a)
            }
            _ => return Err(unsupported()),
        };
        if how.ftz && to == Type::F32 {
            a = self.step(isa.one(flush), false, a);
        }
        if how.sat {
            let f = match to {
                Type::F32 => isa.one(saturate),
                Type::F16 => isa.one(|a: u16| f32_to_f16(saturate(f16_to_f32(a)))),
                Type::Bf16 => isa.one(|a: u16| f32_to_bf16(saturate(bf16_to_f32(a)))),
                _ => isa.one(|a: f64| {
                    if a > 0.0 {
                        if a < 1.0 { a } else { 1.0 }
                    } else {
                        0.0
                    }
                }),
            };
            a = self.step(f, is_wide(to), a);
        }
        if how.relu {
            if !matches!(to, Type::F16 | Type::Bf16) {
                return Err(ins.error(".relu is for f16 and bf16"));
            }
            a = self.step(isa.one(relu16), false, a);
        }
        Ok(a)
    }

    /// `cvt.rn.bf16x2.f32 d, a, b`: a becomes the upper half.
    fn convert_pair(&mut self, ins: &Ins<'a>, to: Type, from: Type, how: How) -> Result<()> {
        ins.expect_operands(3)?;
        if from != Type::F32 || how.sat {
            return Err(ins.error("pairs are made of two .f32"));
        }
        let isa = self.isa;
        let f = match (to, how.rounding) {
            (Type::F16x2, Some(Rounding::Nearest)) => {
                isa.two(|a: f32, b: f32| u32::from(f32_to_f16(a)) << 16 | u32::from(f32_to_f16(b)))
            }
            (Type::Bf16x2, Some(Rounding::Nearest)) => isa
                .two(|a: f32, b: f32| u32::from(f32_to_bf16(a)) << 16 | u32::from(f32_to_bf16(b))),
            (Type::F16x2, Some(Rounding::Towards(Towards::Zero))) => isa.two(|a: f32, b: f32| {
                u32::from(f16_towards_zero(a)) << 16 | u32::from(f16_towards_zero(b))
            }),
            (Type::Bf16x2, Some(Rounding::Towards(Towards::Zero))) => isa.two(|a: f32, b: f32| {
                u32::from(bf16_towards_zero(a)) << 16 | u32::from(bf16_towards_zero(b))
            }),
            _ => return Err(ins.error("pairs are rounded by .rn or .rz")),
        };
        let d = self.target(ins, to)?;
        let s = [self.source(ins, 1, from)?, self.source(ins, 2, from)?];
        self.map(f, d, false, &s);
        if how.relu {
            let f = isa.one(|a: u32| {
                u32::from(relu16(a as u16)) | u32::from(relu16((a >> 16) as u16)) << 16
            });
            self.map(f, d, false, &[d]);
        }
        Ok(())
    }

    /// tf32: f32 with 10 bits of mantissa, in a 32-bit register.
    fn convert_tf32(
        &mut self,
        ins: &Ins<'a>,
        d: Slot,
        a: Slot,
        from: Type,
        how: How,
    ) -> Result<()> {
        let isa = self.isa;
        let f = match how.rounding {
            Some(Rounding::Away) => isa.one(|a: u32| tf32(a, 0x1000)),
            Some(Rounding::Nearest) => isa.one(|a: u32| tf32(a, 0xfff + (a >> 13 & 1))),
            Some(Rounding::Towards(Towards::Zero)) => isa.one(|a: u32| tf32(a, 0)),
            _ => return Err(ins.error("tf32 is rounded by .rna, .rn or .rz")),
        };
        if from != Type::F32 || how.sat {
            return Err(ins.error("tf32 is made of .f32"));
        }
        self.map(f, d, false, &[a]);
        if how.relu {
            self.map(
                isa.one(|a: f32| if a > 0.0 || a.is_nan() { a } else { 0.0 }),
                d,
                false,
                &[d],
            );
        }
        Ok(())
    }
}

/// Adds a rounding amount below tf32's last bit and cuts the rest; a carry may reach infinity.
#[inline(always)]
fn tf32(bits: u32, amount: u32) -> u32 {
    let special = bits & 0x7f80_0000 == 0x7f80_0000;
    let nan = special && bits & 0x007f_ffff != 0;
    let rounded = bits.wrapping_add(amount) & !0x1fff;
    if nan {
        super::super::float16::NAN
    } else if special {
        bits
    } else {
        rounded
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

#[inline(always)]
fn relu16(h: u16) -> u16 {
    if h & 0x8000 != 0 {
        if h == 0xffff { h } else { 0 }
    } else {
        h
    }
}

/// Towards zero: one step back where the nearest one is farther from zero.
#[inline(always)]
fn f16_towards_zero(x: f32) -> u16 {
    let nearest = f32_to_f16(x);
    let farther = f16_to_f32(nearest).abs() > x.abs();
    nearest.wrapping_sub(farther.into())
}

#[inline(always)]
fn bf16_towards_zero(x: f32) -> u16 {
    let cut = (x.to_bits() >> 16) as u16;
    if x.is_nan() {
        super::super::float16::NAN16
    } else {
        cut
    }
}
