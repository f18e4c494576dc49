//! `cvt`, as a chain of simple steps: to f32 if the source is smaller, to an integral value, to the target's type,
//! saturated, extended to the register.

use super::super::float16::{bf16_to_f32, canonical, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::super::lanes::Map;
use super::super::op::{Part, Slot};
use super::convert_packed::{
    bf16_away, bf16_towards_zero, f16_away, f16_towards_zero, finite16, relu16,
};
use super::float::{Towards, flush, round32, saturate, saturate64};
use super::float_ops::to_odd;
use super::operands::is_wide;
use super::{Decoder, Ins, Result};
use crate::ptx::{Operand, Type};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    Nearest,
    /// To nearest, ties away from zero.
    Away,
    Towards(Towards),
    /// To an integral value.
    Integral(Integral),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Integral {
    Even,
    Zero,
    Down,
    Up,
}

/// What a conversion says besides its types.
#[derive(Clone, Copy)]
pub(super) struct How {
    pub rounding: Option<Rounding>,
    pub ftz: bool,
    pub sat: bool,
    pub satfinite: bool,
    pub relu: bool,
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
pub(super) use pairs;

impl<'a> Decoder<'a> {
    pub(super) fn convert(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        if ins.flag("pack") {
            return self.convert_pack(ins);
        }
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
            satfinite: ins.flag("satfinite"),
            relu: ins.flag("relu"),
        };
        if let Some(e4m3) = ins.one_of(&[("e4m3x2", true), ("e5m2x2", false)]) {
            return self.convert_bytes(ins, e4m3, how);
        }
        let (to, from) = (ins.ty()?, ins.ty()?);
        if how.satfinite && !(to.is_float() && from == Type::F32) {
            return Err(ins.error(".satfinite is for floats made of .f32"));
        }
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
    pub(super) fn step(&mut self, f: Map, wide: bool, a: Slot) -> Slot {
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
                let f = self.to_half(to, rounding).ok_or_else(unsupported)?;
                self.step(f, false, a)
            }
            _ => return Err(unsupported()),
        };
        if how.ftz && to == Type::F32 {
            a = self.step(isa.one(flush), false, a);
        }
        if how.sat {
            a = self.saturated(to, a);
        }
        if how.satfinite {
            let f = match to {
                Type::F16 => isa.one(|a: u16| finite16(a, 0x7c00)),
                Type::Bf16 => isa.one(|a: u16| finite16(a, 0x7f80)),
                _ => return Err(ins.error(".satfinite is for f16, bf16, tf32 and 8-bit floats")),
            };
            a = self.step(f, false, a);
        }
        if how.relu {
            if !matches!(to, Type::F16 | Type::Bf16) {
                return Err(ins.error(".relu is for f16 and bf16"));
            }
            a = self.step(isa.one(relu16), false, a);
        }
        Ok(a)
    }

    /// f32 to f16 or bf16.
    pub(super) fn to_half(&self, to: Type, rounding: Rounding) -> Option<Map> {
        let isa = self.isa;
        Some(match (to, rounding) {
            (Type::F16, Rounding::Nearest) => isa.one(f32_to_f16),
            (Type::F16, Rounding::Towards(Towards::Zero)) => isa.one(f16_towards_zero),
            (Type::F16, Rounding::Towards(Towards::Minus)) => isa.one(|x: f32| {
                if x < 0.0 {
                    f16_away(x)
                } else {
                    f16_towards_zero(x)
                }
            }),
            (Type::F16, Rounding::Towards(Towards::Plus)) => isa.one(|x: f32| {
                if x < 0.0 {
                    f16_towards_zero(x)
                } else {
                    f16_away(x)
                }
            }),
            (Type::Bf16, Rounding::Nearest) => isa.one(f32_to_bf16),
            (Type::Bf16, Rounding::Towards(Towards::Zero)) => isa.one(bf16_towards_zero),
            (Type::Bf16, Rounding::Towards(Towards::Minus)) => isa.one(|x: f32| {
                if x < 0.0 {
                    bf16_away(x)
                } else {
                    bf16_towards_zero(x)
                }
            }),
            (Type::Bf16, Rounding::Towards(Towards::Plus)) => isa.one(|x: f32| {
                if x < 0.0 {
                    bf16_towards_zero(x)
                } else {
                    bf16_away(x)
                }
            }),
            _ => return None,
        })
    }

    /// Clamps a float to [0, 1]; NaN becomes 0.
    pub(super) fn saturated(&mut self, ty: Type, a: Slot) -> Slot {
        let isa = self.isa;
        let f = match ty {
            Type::F32 => isa.one(saturate),
            Type::F16 => isa.one(|a: u16| f32_to_f16(saturate(f16_to_f32(a)))),
            Type::Bf16 => isa.one(|a: u16| f32_to_bf16(saturate(bf16_to_f32(a)))),
            _ => isa.one(saturate64),
        };
        self.step(f, is_wide(ty), a)
    }
}
