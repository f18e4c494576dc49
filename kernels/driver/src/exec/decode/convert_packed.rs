//! `cvt` to pairs of f16, bf16 and 8-bit floats, and to tf32.

use super::super::float8::{e4m3_to_f16, e5m2_to_f16, f32_to_e4m3, f32_to_e5m2};
use super::super::float16::{f16_to_f32, f32_to_bf16, f32_to_f16};
use super::super::op::Slot;
use super::arith::halves;
use super::convert::{How, Rounding};
use super::float::Towards;
use super::{Decoder, Ins, Result};
use crate::ptx::Type;

/// A function's results of two f32, the first one's above.
macro_rules! both {
    ($isa:expr, $f:ident) => {
        $isa.two(|a: f32, b: f32| u32::from($f(a)) << 16 | u32::from($f(b)))
    };
}

impl<'a> Decoder<'a> {
    /// `cvt.rn.bf16x2.f32 d, a, b`: a becomes the upper half.
    pub(super) fn convert_pair(
        &mut self,
        ins: &Ins<'a>,
        to: Type,
        from: Type,
        how: How,
    ) -> Result<()> {
        ins.expect_operands(3)?;
        if from != Type::F32 || how.sat {
            return Err(ins.error("pairs are made of two .f32"));
        }
        let isa = self.isa;
        let f = match (to, how.rounding) {
            (Type::F16x2, Some(Rounding::Nearest)) => both!(isa, f32_to_f16),
            (Type::Bf16x2, Some(Rounding::Nearest)) => both!(isa, f32_to_bf16),
            (Type::F16x2, Some(Rounding::Towards(Towards::Zero))) => both!(isa, f16_towards_zero),
            (Type::Bf16x2, Some(Rounding::Towards(Towards::Zero))) => both!(isa, bf16_towards_zero),
            _ => return Err(ins.error("pairs are rounded by .rn or .rz")),
        };
        let d = self.target(ins, to)?;
        let s = [self.source(ins, 1, from)?, self.source(ins, 2, from)?];
        self.map(f, d, false, &s);
        if how.relu {
            self.relu_halves(d);
        }
        if how.satfinite {
            let f = match to {
                Type::F16x2 => halves!(isa, one, |a| finite16(a, 0x7c00)),
                _ => halves!(isa, one, |a| finite16(a, 0x7f80)),
            };
            self.map(f, d, false, &[d]);
        }
        Ok(())
    }

    /// tf32: f32 with 10 bits of mantissa, in a 32-bit register.
    pub(super) fn convert_tf32(
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
            self.map(isa.one(relu32), d, false, &[d]);
        }
        if how.satfinite {
            let f = isa.one(|a: u32| if a << 1 == 0xff00_0000 { a - 0x2000 } else { a });
            self.map(f, d, false, &[d]);
        }
        Ok(())
    }

    /// Pairs of 8-bit floats: `cvt.rn.satfinite.e4m3x2.f32 d, a, b` (a becomes the upper half), `….e4m3x2.f16x2 d, a`,
    /// `cvt.rn.f16x2.e4m3x2 d, a`, and alike for e5m2.
    pub(super) fn convert_bytes(&mut self, ins: &mut Ins<'a>, e4m3: bool, how: How) -> Result<()> {
        let isa = self.isa;
        let bytes_last = ins
            .i
            .modifiers
            .last()
            .is_some_and(|m| m.ends_with("x2") && m.starts_with('e'));
        let other = ins.ty()?;
        if how.rounding != Some(Rounding::Nearest)
            || how.sat
            || how.ftz
            || how.satfinite == bytes_last
        {
            return Err(
                ins.error("8-bit floats are made by .rn.satfinite, and converted to .f16x2 by .rn")
            );
        }
        macro_rules! pair {
            ($f:expr) => {
                if how.relu {
                    isa.two(|a: f32, b: f32| pack($f(relu32(b)), $f(relu32(a))))
                } else {
                    isa.two(|a: f32, b: f32| pack($f(b), $f(a)))
                }
            };
        }
        macro_rules! split {
            ($f:expr) => {
                if how.relu {
                    isa.one(|a: u32| {
                        let [low, high] = halves(a).map(|x| $f(relu32(x)));
                        pack(low, high)
                    })
                } else {
                    isa.one(|a: u32| {
                        let [low, high] = halves(a).map($f);
                        pack(low, high)
                    })
                }
            };
        }
        let (f, to, from, sources) = match (bytes_last, other, e4m3) {
            (false, Type::F32, true) => (pair!(f32_to_e4m3), Type::B16, other, 2),
            (false, Type::F32, false) => (pair!(f32_to_e5m2), Type::B16, other, 2),
            (false, Type::F16x2, true) => (split!(f32_to_e4m3), Type::B16, other, 1),
            (false, Type::F16x2, false) => (split!(f32_to_e5m2), Type::B16, other, 1),
            (true, Type::F16x2, true) => {
                (isa.one(|a: u16| widen(a, e4m3_to_f16)), other, Type::B16, 1)
            }
            (true, Type::F16x2, false) => {
                (isa.one(|a: u16| widen(a, e5m2_to_f16)), other, Type::B16, 1)
            }
            _ => {
                return Err(
                    ins.error("8-bit floats are converted from .f32 and .f16x2, and to .f16x2")
                );
            }
        };
        ins.expect_operands(1 + sources)?;
        let d = self.target(ins, to)?;
        let s: Vec<Slot> = (1..=sources)
            .map(|n| self.source(ins, n, from))
            .collect::<Result<_>>()?;
        self.map(f, d, false, &s);
        if how.relu && bytes_last {
            self.relu_halves(d);
        }
        Ok(())
    }

    /// Negative halves become zero.
    fn relu_halves(&mut self, d: Slot) {
        self.map(halves!(self.isa, one, |a| relu16(a)), d, false, &[d]);
    }
}

/// Infinity, whose bits these are, becomes the largest number.
#[inline(always)]
pub(super) fn finite16(h: u16, infinity: u16) -> u16 {
    h - u16::from(h & 0x7fff == infinity)
}

#[inline(always)]
fn pack(low: u8, high: u8) -> u16 {
    u16::from_le_bytes([low, high])
}

#[inline(always)]
fn halves(a: u32) -> [f32; 2] {
    [a as u16, (a >> 16) as u16].map(f16_to_f32)
}

#[inline(always)]
fn widen(a: u16, f: impl Fn(u8) -> u16) -> u32 {
    let [low, high] = a.to_le_bytes();
    u32::from(f(low)) | u32::from(f(high)) << 16
}

#[inline(always)]
fn relu32(a: f32) -> f32 {
    if a > 0.0 || a.is_nan() { a } else { 0.0 }
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

#[inline(always)]
pub(super) fn relu16(h: u16) -> u16 {
    if h & 0x8000 != 0 {
        if h == 0xffff { h } else { 0 }
    } else {
        h
    }
}

/// Towards zero: one step back where the nearest one is farther from zero.
#[inline(always)]
pub(super) fn f16_towards_zero(x: f32) -> u16 {
    let nearest = f32_to_f16(x);
    let farther = f16_to_f32(nearest).abs() > x.abs();
    nearest.wrapping_sub(farther.into())
}

/// Away from zero: one step on where the one towards zero is nearer to it.
#[inline(always)]
pub(super) fn f16_away(x: f32) -> u16 {
    let cut = f16_towards_zero(x);
    let nearer = f16_to_f32(cut).abs() < x.abs();
    cut.wrapping_add(nearer.into())
}

#[inline(always)]
pub(super) fn bf16_towards_zero(x: f32) -> u16 {
    let cut = (x.to_bits() >> 16) as u16;
    if x.is_nan() {
        super::super::float16::NAN16
    } else {
        cut
    }
}

#[inline(always)]
pub(super) fn bf16_away(x: f32) -> u16 {
    let more = !x.is_nan() && x.to_bits() as u16 != 0;
    bf16_towards_zero(x).wrapping_add(more.into())
}
