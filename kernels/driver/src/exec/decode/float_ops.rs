//! Floating-point arithmetic: `add` to `fma`, `min`, `max`, roots, and the functions of the special units.
//!
//! f16 and bf16 are computed in f32, or in f64 for fma, and rounded once: for +, -, × and fma of operands with 11 (or
//! 8) bits no double rounding can occur. Rounding to nearest with and without `.ftz` is one operation; the rare forms
//! (`.sat`, `.ftz` with directed rounding) are composed of several.

use super::super::float16::{bf16_to_f32, canonical, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::super::lanes::{Isa, Map};
use super::super::op::Slot;
use super::arith::halves;
use super::float::{
    Towards, add32, add64, div32, div64, exp2, flush, fma32, fma64, log2, max32, max64, min32,
    min64, mul32, mul64, nan_of, saturate, saturate64, sqrt32, sqrt64, tanh,
};
use super::operands::is_wide;
use super::{Decoder, Ins, Result};
use crate::ptx::Type;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    Nearest,
    Zero,
    Minus,
    Plus,
}

const ROUNDINGS: [(&str, Rounding); 4] = [
    ("rn", Rounding::Nearest),
    ("rz", Rounding::Zero),
    ("rm", Rounding::Minus),
    ("rp", Rounding::Plus),
];

/// The three directed versions of a function.
macro_rules! directed {
    ($isa:expr, $r:expr, $arity:ident, |$($a:ident: $t:ty),*| $f:ident) => {
        match $r {
            Rounding::Zero => $isa.$arity(|$($a: $t),*| $f($($a,)* Towards::Zero)),
            Rounding::Minus => $isa.$arity(|$($a: $t),*| $f($($a,)* Towards::Minus)),
            _ => $isa.$arity(|$($a: $t),*| $f($($a,)* Towards::Plus)),
        }
    };
}

/// A function of f16 or bf16, in one register or packed in pairs, from one on f32.
macro_rules! small {
    ($isa:expr, $ty:expr, $arity:ident, |$($a:ident),*| $f:expr) => {
        match $ty {
            Type::F16 => Some($isa.$arity(|$($a: u16),*| { $(let $a = f16_to_f32($a);)* f32_to_f16($f) })),
            Type::Bf16 => Some($isa.$arity(|$($a: u16),*| { $(let $a = bf16_to_f32($a);)* f32_to_bf16($f) })),
            Type::F16x2 => {
                Some(halves!($isa, $arity, |$($a),*| { $(let $a = f16_to_f32($a);)* f32_to_f16($f) }))
            }
            Type::Bf16x2 => {
                Some(halves!($isa, $arity, |$($a),*| { $(let $a = bf16_to_f32($a);)* f32_to_bf16($f) }))
            }
            _ => None,
        }
    };
}

/// What to do around an operation.
#[derive(Clone, Copy, Default)]
struct Around {
    /// Flush f32 or f16 subnormals of sources and result.
    ftz: bool,
    sat: bool,
    relu: bool,
}

impl<'a> Decoder<'a> {
    pub(super) fn float_arith(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let opcode = ins.i.opcode.as_str();
        let rounding = ins.one_of(&ROUNDINGS);
        let r = rounding.unwrap_or(Rounding::Nearest);
        let approx = ins.one_of(&[("approx", ()), ("full", ())]).is_some();
        let (nan, xorsign) = (ins.flag("NaN"), ins.flag("xorsign"));
        let mut around = Around {
            ftz: ins.flag("ftz"),
            sat: ins.flag("sat"),
            relu: ins.flag("relu"),
        };
        if xorsign {
            ins.flag("abs");
        }
        let ty = ins.ty()?;
        let isa = self.isa;
        let sources = match opcode {
            "neg" | "abs" => 1,
            "fma" | "mad" => 3,
            _ => 2,
        };
        // min and max take a third source from PTX 8.8 on; it is not in use yet.
        let f = match ty {
            Type::F32 => {
                let fused = around.ftz && r == Rounding::Nearest;
                let f = single(isa, opcode, r, fused, nan, xorsign);
                around.ftz &= !(fused && matches!(opcode, "add" | "sub" | "mul" | "fma" | "mad"));
                f
            }
            Type::F64 if !nan && !xorsign => double(isa, opcode, r),
            _ if r == Rounding::Nearest => half_arith(isa, opcode, ty, nan, xorsign),
            _ => None,
        };
        let f = f.ok_or_else(|| ins.error("not supported for this type and rounding"))?;
        if opcode == "div" && !approx && rounding.is_none() {
            return Err(ins.error("a division says .rn, .approx or .full"));
        }
        let flops = match opcode {
            "neg" | "abs" => 0,
            "fma" | "mad" => 2,
            _ => 1,
        };
        ins.expect_operands(sources + 1)?;
        self.apply(ins, f, ty, sources, around)?;
        self.flops(
            flops
                * if matches!(ty, Type::F16x2 | Type::Bf16x2) {
                    2
                } else {
                    1
                },
        );
        Ok(())
    }

    /// Emits a function with what is done around it. The flops of the whole are put on the last operation.
    fn apply(
        &mut self,
        ins: &Ins<'a>,
        f: Map,
        ty: Type,
        sources: usize,
        around: Around,
    ) -> Result<()> {
        let isa = self.isa;
        let wide = is_wide(ty);
        let flusher = match ty {
            Type::F32 => Some(isa.one(flush)),
            Type::F16 => Some(isa.one(flush16)),
            Type::F16x2 => Some(halves!(isa, one, |a| flush16(a))),
            Type::Bf16 => Some(isa.one(flush_bf16)),
            Type::Bf16x2 => Some(halves!(isa, one, |a| flush_bf16(a))),
            _ => None,
        };
        let flusher = flusher.filter(|_| around.ftz);
        let mut s: Vec<Slot> = Vec::new();
        for n in 1..=sources {
            let mut slot = self.source(ins, n, ty)?;
            if let Some(flusher) = flusher {
                let flushed = self.new_slot(wide);
                self.map(flusher, flushed, wide, &[slot]);
                slot = flushed;
            }
            s.push(slot);
        }
        let d = self.target(ins, ty)?;
        self.map(f, d, wide, &s);
        if let Some(flusher) = flusher {
            self.map(flusher, d, wide, &[d]);
        }
        if around.sat {
            let f = match ty {
                Type::F32 => Some(isa.one(saturate)),
                Type::F64 => Some(isa.one(saturate64)),
                _ => small!(isa, ty, one, |x| saturate(x)),
            };
            let f = f.ok_or_else(|| ins.error(".sat is not supported for this type"))?;
            self.map(f, d, wide, &[d]);
        }
        if around.relu {
            let f = small!(isa, ty, one, |x| if x > 0.0 || x.is_nan() {
                x
            } else {
                0.0
            });
            let f = f.ok_or_else(|| ins.error(".relu is for f16 and bf16"))?;
            self.map(f, d, wide, &[d]);
        }
        Ok(())
    }

    /// `rcp`, `sqrt`, `rsqrt`, `sin`, `cos`, `lg2`, `ex2`, `tanh`, `copysign`.
    pub(super) fn float_function(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let opcode = ins.i.opcode.as_str();
        let r = ins.one_of(&ROUNDINGS);
        let approx = ins.flag("approx");
        let around = Around {
            ftz: ins.flag("ftz"),
            ..Around::default()
        };
        let ty = ins.ty()?;
        if matches!(opcode, "rcp" | "sqrt") && approx == r.is_some() {
            return Err(ins.error("one of .approx and a rounding is wanted"));
        }
        let r = r.unwrap_or(Rounding::Nearest);
        let isa = self.isa;
        let f = match (opcode, ty) {
            ("copysign", Type::F32) => Some(isa.two(|a: f32, b: f32| b.copysign(a))),
            ("copysign", Type::F64) => Some(isa.two(|a: f64, b: f64| b.copysign(a))),
            ("rcp", Type::F32) if r == Rounding::Nearest => {
                Some(isa.one(|x: f32| canonical(1.0 / x)))
            }
            ("rcp", Type::F32) => Some(directed!(isa, r, one, |x: f32| rcp32)),
            ("rcp", Type::F64) if approx => Some(isa.one(|x: f64| rough(1.0 / rough(x)))),
            ("rcp", Type::F64) if r == Rounding::Nearest => Some(isa.one(|x: f64| 1.0 / x)),
            ("rcp", Type::F64) => Some(directed!(isa, r, one, |x: f64| rcp64)),
            ("sqrt", Type::F32) if r == Rounding::Nearest => {
                Some(isa.one(|x: f32| canonical(x.sqrt())))
            }
            ("sqrt", Type::F32) => Some(directed!(isa, r, one, |x: f32| sqrt32)),
            ("sqrt", Type::F64) if r == Rounding::Nearest => Some(isa.one(|x: f64| x.sqrt())),
            ("sqrt", Type::F64) => Some(directed!(isa, r, one, |x: f64| sqrt64)),
            ("rsqrt", Type::F32) => {
                Some(isa.one(|x: f32| canonical((1.0 / f64::from(x).sqrt()) as f32)))
            }
            ("rsqrt", Type::F64) if around.ftz => {
                Some(isa.one(|x: f64| rough(1.0 / rough(x).sqrt())))
            }
            ("rsqrt", Type::F64) => Some(isa.one(|x: f64| 1.0 / x.sqrt())),
            ("sin", Type::F32) => Some(isa.one(|x: f32| canonical(f64::from(x).sin() as f32))),
            ("cos", Type::F32) => Some(isa.one(|x: f32| canonical(f64::from(x).cos() as f32))),
            ("lg2", Type::F32) => Some(isa.one(log2)),
            ("ex2", Type::F32) => Some(isa.one(exp2)),
            ("ex2", _) => small!(isa, ty, one, |x| exp2(x)),
            ("tanh", Type::F32) => Some(isa.one(tanh)),
            ("tanh", _) => small!(isa, ty, one, |x| tanh(x)),
            _ => None,
        };
        let f = f.ok_or_else(|| ins.error("not supported for this type"))?;
        let sources = if opcode == "copysign" { 2 } else { 1 };
        ins.expect_operands(sources + 1)?;
        self.apply(ins, f, ty, sources, around)
    }
}

fn rcp32(x: f32, towards: Towards) -> f32 {
    div32(1.0, x, towards)
}

fn rcp64(x: f64, towards: Towards) -> f64 {
    div64(1.0, x, towards)
}

fn sub32(a: f32, b: f32, towards: Towards) -> f32 {
    add32(a, -b, towards)
}

fn sub64(a: f64, b: f64, towards: Towards) -> f64 {
    add64(a, -b, towards)
}

#[inline(always)]
fn flush_bf16(h: u16) -> u16 {
    if h & 0x7f80 == 0 { h & 0x8000 } else { h }
}

/// The upper word of an f64, a subnormal number as zero.
#[inline(always)]
fn rough(x: f64) -> f64 {
    let kept = if x.is_subnormal() {
        1 << 63
    } else if x.is_nan() {
        !0
    } else {
        !0 << 32
    };
    f64::from_bits(x.to_bits() & kept)
}

#[inline(always)]
fn flush16(h: u16) -> u16 {
    if h & 0x7c00 == 0 { h & 0x8000 } else { h }
}

/// f32; `ftz` asks for the fused form of rounding to nearest.
fn single(isa: Isa, opcode: &str, r: Rounding, ftz: bool, nan: bool, xorsign: bool) -> Option<Map> {
    let nearest = r == Rounding::Nearest;
    Some(match opcode {
        "add" if ftz => isa.two(|a: f32, b: f32| flush(canonical(flush(a) + flush(b)))),
        "sub" if ftz => isa.two(|a: f32, b: f32| flush(canonical(flush(a) - flush(b)))),
        "mul" if ftz => isa.two(|a: f32, b: f32| flush(canonical(flush(a) * flush(b)))),
        "fma" | "mad" if ftz => isa
            .three(|a: f32, b: f32, c: f32| flush(canonical(flush(a).mul_add(flush(b), flush(c))))),
        "add" if nearest => isa.two(|a: f32, b: f32| canonical(a + b)),
        "sub" if nearest => isa.two(|a: f32, b: f32| canonical(a - b)),
        "mul" if nearest => isa.two(|a: f32, b: f32| canonical(a * b)),
        "fma" | "mad" if nearest => isa.three(|a: f32, b: f32, c: f32| canonical(a.mul_add(b, c))),
        "div" if nearest => isa.two(|a: f32, b: f32| canonical(a / b)),
        "add" => directed!(isa, r, two, |a: f32, b: f32| add32),
        "sub" => directed!(isa, r, two, |a: f32, b: f32| sub32),
        "mul" => directed!(isa, r, two, |a: f32, b: f32| mul32),
        "fma" | "mad" => directed!(isa, r, three, |a: f32, b: f32, c: f32| fma32),
        "div" => directed!(isa, r, two, |a: f32, b: f32| div32),
        "neg" => isa.one(|a: u32| a ^ 0x8000_0000),
        "abs" => isa.one(|a: u32| a & 0x7fff_ffff),
        "min" if xorsign && nan => isa.two(|a: f32, b: f32| nan_of(min_xorsign(a, b), a, b)),
        "max" if xorsign && nan => isa.two(|a: f32, b: f32| nan_of(max_xorsign(a, b), a, b)),
        "min" if xorsign => isa.two(min_xorsign),
        "max" if xorsign => isa.two(max_xorsign),
        "min" if nan => isa.two(|a: f32, b: f32| nan_of(min32(a, b), a, b)),
        "max" if nan => isa.two(|a: f32, b: f32| nan_of(max32(a, b), a, b)),
        "min" => isa.two(min32),
        "max" => isa.two(max32),
        _ => return None,
    })
}

/// The exclusive or of two signs on a magnitude; a NaN stays as it is.
#[inline(always)]
fn signed_by(magnitude: f32, a: f32, b: f32) -> f32 {
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    canonical(f32::from_bits(magnitude.to_bits() | sign))
}

#[inline(always)]
fn min_xorsign(a: f32, b: f32) -> f32 {
    signed_by(min32(a.abs(), b.abs()), a, b)
}

#[inline(always)]
fn max_xorsign(a: f32, b: f32) -> f32 {
    signed_by(max32(a.abs(), b.abs()), a, b)
}

fn double(isa: Isa, opcode: &str, r: Rounding) -> Option<Map> {
    let nearest = r == Rounding::Nearest;
    Some(match opcode {
        "add" if nearest => isa.two(|a: f64, b: f64| a + b),
        "sub" if nearest => isa.two(|a: f64, b: f64| a - b),
        "mul" if nearest => isa.two(|a: f64, b: f64| a * b),
        "fma" | "mad" if nearest => isa.three(|a: f64, b: f64, c: f64| a.mul_add(b, c)),
        "div" if nearest => isa.two(|a: f64, b: f64| a / b),
        "add" => directed!(isa, r, two, |a: f64, b: f64| add64),
        "sub" => directed!(isa, r, two, |a: f64, b: f64| sub64),
        "mul" => directed!(isa, r, two, |a: f64, b: f64| mul64),
        "fma" | "mad" => directed!(isa, r, three, |a: f64, b: f64, c: f64| fma64),
        "div" => directed!(isa, r, two, |a: f64, b: f64| div64),
        "neg" => isa.one(|a: u64| a ^ 1 << 63),
        "abs" => isa.one(|a: u64| a & !(1 << 63)),
        "min" => isa.two(min64),
        "max" => isa.two(max64),
        _ => return None,
    })
}

#[inline(always)]
fn fma_f16(a: u16, b: u16, c: u16) -> u16 {
    let [a, b, c] = [a, b, c].map(|x| f64::from(f16_to_f32(x)));
    f32_to_f16(to_odd(a * b + c))
}

#[inline(always)]
fn fma_bf16(a: u16, b: u16, c: u16) -> u16 {
    let [a, b, c] = [a, b, c].map(|x| f64::from(bf16_to_f32(x)));
    f32_to_bf16(to_odd(a * b + c))
}

/// f64 to f32 rounding to odd: towards zero, and the last bit set if that was inexact. A second rounding to at most 22
/// bits is then as if it were the only one.
#[inline(always)]
pub(super) fn to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    let down = if back.abs() > x.abs() {
        nearest.to_bits().wrapping_sub(1)
    } else {
        nearest.to_bits()
    };
    let odd = u32::from(back != x && !x.is_nan());
    if x.is_infinite() {
        nearest
    } else {
        f32::from_bits(down | odd)
    }
}

fn half_arith(isa: Isa, opcode: &str, ty: Type, nan: bool, xorsign: bool) -> Option<Map> {
    match opcode {
        "min" if xorsign && nan => small!(isa, ty, two, |a, b| nan_of(min_xorsign(a, b), a, b)),
        "max" if xorsign && nan => small!(isa, ty, two, |a, b| nan_of(max_xorsign(a, b), a, b)),
        "min" if xorsign => small!(isa, ty, two, |a, b| min_xorsign(a, b)),
        "max" if xorsign => small!(isa, ty, two, |a, b| max_xorsign(a, b)),
        "add" => small!(isa, ty, two, |a, b| a + b),
        "sub" => small!(isa, ty, two, |a, b| a - b),
        "mul" => small!(isa, ty, two, |a, b| a * b),
        "fma" => Some(match ty {
            Type::F16 => isa.three(fma_f16),
            Type::Bf16 => isa.three(fma_bf16),
            Type::F16x2 => halves!(isa, three, |a, b, c| fma_f16(a, b, c)),
            Type::Bf16x2 => halves!(isa, three, |a, b, c| fma_bf16(a, b, c)),
            _ => return None,
        }),
        "min" if nan => small!(isa, ty, two, |a, b| nan_of(min32(a, b), a, b)),
        "max" if nan => small!(isa, ty, two, |a, b| nan_of(max32(a, b), a, b)),
        "min" => small!(isa, ty, two, |a, b| min32(a, b)),
        "max" => small!(isa, ty, two, |a, b| max32(a, b)),
        "neg" | "abs" => {
            let negate = opcode == "neg";
            Some(match (ty, negate) {
                (Type::F16 | Type::Bf16, true) => isa.one(|a: u16| a ^ 0x8000),
                (Type::F16 | Type::Bf16, false) => isa.one(|a: u16| a & 0x7fff),
                (_, true) => isa.one(|a: u32| a ^ 0x8000_8000),
                (_, false) => isa.one(|a: u32| a & 0x7fff_7fff),
            })
        }
        _ => None,
    }
}
