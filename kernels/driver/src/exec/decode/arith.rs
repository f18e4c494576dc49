//! `add`, `sub`, `mul`, `mad`, `fma`, `neg`, `abs`, `min`, `max`, `div`, `rem`, and the carry forms.

use super::super::lanes::{Carry, Isa, Map};
use super::super::op::{Kind, Slot};
use super::operands::is_wide;
use super::{Decoder, Ins, Result};
use crate::ptx::{Operand, Type};

/// One closure for several types: `by_type!(isa, ty, two, [U32: u32, …], |a, b| a.wrapping_add(b))`.
macro_rules! by_type {
    ($isa:expr, $ty:expr, one, [$($T:ident: $r:ty),*], |$a:ident| $e:expr) => {
        match $ty { $(Type::$T => Some($isa.one(|$a: $r| $e)),)* _ => None }
    };
    ($isa:expr, $ty:expr, two, [$($T:ident: $r:ty),*], |$a:ident, $b:ident| $e:expr) => {
        match $ty { $(Type::$T => Some($isa.two(|$a: $r, $b: $r| $e)),)* _ => None }
    };
    ($isa:expr, $ty:expr, three, [$($T:ident: $r:ty),*], |$a:ident, $b:ident, $c:ident| $e:expr) => {
        match $ty { $(Type::$T => Some($isa.three(|$a: $r, $b: $r, $c: $r| $e)),)* _ => None }
    };
    ($isa:expr, $ty:expr, test, [$($T:ident: $r:ty),*], |$a:ident, $b:ident| $e:expr) => {
        match $ty { $(Type::$T => Some($isa.test(|$a: $r, $b: $r| $e)),)* _ => None }
    };
}
pub(super) use by_type;

/// Applies a function to both halves of 32 bits.
macro_rules! halves {
    ($isa:expr, $arity:ident, |$($a:ident),*| $f:expr) => {
        $isa.$arity(|$($a: u32),*| {
            let low = { $(let $a = $a as u16;)* $f };
            let high = { $(let $a = ($a >> 16) as u16;)* $f };
            u32::from(low) | u32::from(high) << 16
        })
    };
}
pub(super) use halves;

impl<'a> Decoder<'a> {
    pub(super) fn arith(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        if ins.flag("cc") {
            return self.carry_out(ins, false);
        }
        match ins.peek_ty() {
            Some(ty) if ty.is_float() => self.float_arith(ins),
            Some(_) => self.integer_arith(ins),
            None => Err(ins.error("a type is missing")),
        }
    }

    fn integer_arith(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let opcode = ins.i.opcode.as_str();
        let part = ins
            .one_of(&[("lo", "lo"), ("hi", "hi"), ("wide", "wide")])
            .unwrap_or("lo");
        let sat = ins.flag("sat");
        let relu = ins.flag("relu");
        let ty = ins.ty()?;
        let isa = self.isa;
        let unsupported = |ins: &Ins<'_>| ins.error("not supported for this type");
        if sat {
            // Only .s32 saturates.
            let f = match (opcode, part, ty) {
                ("add", _, Type::S32) => isa.two(|a: i32, b: i32| a.saturating_add(b)),
                ("sub", _, Type::S32) => isa.two(|a: i32, b: i32| a.saturating_sub(b)),
                ("mad", "hi", Type::S32) => {
                    isa.three(|a: i32, b: i32, c: i32| high_s32(a, b).saturating_add(c))
                }
                _ => return Err(unsupported(ins)),
            };
            return self.same_type(ins, f, ty, if opcode == "mad" { 3 } else { 2 });
        }
        if relu {
            let f = match (opcode, ty) {
                ("min", Type::S32) => isa.two(|a: i32, b: i32| a.min(b).max(0)),
                ("max", Type::S32) => isa.two(|a: i32, b: i32| a.max(b).max(0)),
                ("min", Type::S16x2) => {
                    halves!(isa, two, |a, b| signed(a).min(signed(b)).max(0) as u16)
                }
                ("max", Type::S16x2) => {
                    halves!(isa, two, |a, b| signed(a).max(signed(b)).max(0) as u16)
                }
                _ => return Err(unsupported(ins)),
            };
            return self.same_type(ins, f, ty, 2);
        }
        let f = match (opcode, part) {
            _ if matches!(ty, Type::U16x2 | Type::S16x2) => pair_arith(isa, opcode, ty),
            ("mul" | "mad", "wide") => return self.wide_product(ins, ty, opcode == "mad"),
            ("mul", "hi") => high_product(isa, ty),
            ("mad", "hi") => high_mad(isa, ty),
            ("add", _) => {
                by_type!(isa, ty, two, [U16: u16, S16: u16, U32: u32, S32: u32, U64: u64, S64: u64],
                    |a, b| a.wrapping_add(b))
            }
            ("sub", _) => {
                by_type!(isa, ty, two, [U16: u16, S16: u16, U32: u32, S32: u32, U64: u64, S64: u64],
                    |a, b| a.wrapping_sub(b))
            }
            ("mul", _) => {
                by_type!(isa, ty, two, [U16: u16, S16: u16, U32: u32, S32: u32, U64: u64, S64: u64],
                    |a, b| a.wrapping_mul(b))
            }
            ("mad", _) => {
                by_type!(isa, ty, three, [U16: u16, S16: u16, U32: u32, S32: u32, U64: u64, S64: u64],
                    |a, b, c| a.wrapping_mul(b).wrapping_add(c))
            }
            ("neg", _) => {
                by_type!(isa, ty, one, [S16: u16, S32: u32, S64: u64], |a| a.wrapping_neg())
            }
            ("abs", _) => {
                by_type!(isa, ty, one, [S16: i16, S32: i32, S64: i64], |a| a.wrapping_abs())
            }
            ("min", _) => {
                by_type!(isa, ty, two, [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64], |a, b| a.min(b))
            }
            ("max", _) => {
                by_type!(isa, ty, two, [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64], |a, b| a.max(b))
            }
            // Division by zero has no defined result; the hardware's routine gives all ones, and the remainder a.
            ("div", _) => {
                by_type!(isa, ty, two, [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64],
                |a, b| if b == 0 { !0 } else { a.wrapping_div(b) })
            }
            ("rem", _) => {
                by_type!(isa, ty, two, [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64],
                |a, b| if b == 0 { a } else { a.wrapping_rem(b) })
            }
            _ => None,
        };
        let f = f.ok_or_else(|| unsupported(ins))?;
        let sources = match opcode {
            "neg" | "abs" => 1,
            "mad" => 3,
            _ => 2,
        };
        self.same_type(ins, f, ty, sources)
    }

    /// Target and sources of one type.
    pub(super) fn same_type(
        &mut self,
        ins: &Ins<'a>,
        f: Map,
        ty: Type,
        sources: usize,
    ) -> Result<()> {
        ins.expect_operands(sources + 1)?;
        let d = self.target(ins, ty)?;
        let mut s: [Slot; 4] = [0; 4];
        for (n, s) in s.iter_mut().enumerate().take(sources) {
            *s = self.source(ins, n + 1, ty)?;
        }
        self.map(f, d, is_wide(ty), &s[..sources]);
        Ok(())
    }

    /// 16 to 32 bits, 32 to 64.
    fn wide_product(&mut self, ins: &mut Ins<'a>, ty: Type, add: bool) -> Result<()> {
        let isa = self.isa;
        let (out, f) = match (ty, add) {
            (Type::U16, false) => (
                Type::U32,
                isa.two(|a: u16, b: u16| u32::from(a) * u32::from(b)),
            ),
            (Type::S16, false) => (
                Type::S32,
                isa.two(|a: i16, b: i16| i32::from(a) * i32::from(b)),
            ),
            (Type::U32, false) => (
                Type::U64,
                isa.two(|a: u32, b: u32| u64::from(a) * u64::from(b)),
            ),
            (Type::S32, false) => (
                Type::S64,
                isa.two(|a: i32, b: i32| i64::from(a) * i64::from(b)),
            ),
            (Type::U16, true) => (
                Type::U32,
                isa.three(|a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c)),
            ),
            (Type::S16, true) => (
                Type::S32,
                isa.three(|a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c)),
            ),
            (Type::U32, true) => (
                Type::U64,
                isa.three(|a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c)),
            ),
            (Type::S32, true) => (
                Type::S64,
                isa.three(|a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c)),
            ),
            _ => return Err(ins.error(".wide takes 16 or 32 bits")),
        };
        ins.expect_operands(3 + usize::from(add))?;
        let d = self.target(ins, out)?;
        let mut s = vec![self.source(ins, 1, ty)?, self.source(ins, 2, ty)?];
        if add {
            s.push(self.source(ins, 3, out)?);
        }
        self.map(f, d, is_wide(out), &s);
        Ok(())
    }

    /// `addc`, `subc`, `madc`.
    pub(super) fn carry(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        if ins.flag("cc") {
            self.carry_out(ins, true)
        } else {
            self.carry_op(ins, true, false)
        }
    }

    fn carry_out(&mut self, ins: &mut Ins<'a>, reads: bool) -> Result<()> {
        self.carry_op(ins, reads, true)
    }

    fn carry_op(&mut self, ins: &mut Ins<'a>, reads: bool, writes: bool) -> Result<()> {
        let part = ins.one_of(&[("lo", "lo"), ("hi", "hi")]);
        let ty = ins.ty()?;
        let f = match ins.i.opcode.trim_end_matches('c') {
            "add" => adder(self.isa, ty),
            "sub" => subtractor(self.isa, ty),
            _ => mad_carry(self.isa, ty, part == Some("hi")),
        };
        let f = f.ok_or_else(|| ins.error("carries are for 32 and 64 bits"))?;
        let d = self.target(ins, ty)?;
        let mut s = [self.source(ins, 1, ty)?, self.source(ins, 2, ty)?, 0];
        s[2] = if ins.i.operands.len() > 3 {
            self.source(ins, 3, ty)?
        } else {
            self.constant(0, true)
        };
        self.emit(Kind::Carry {
            f,
            d,
            s,
            reads,
            writes,
            wide: is_wide(ty),
        });
        Ok(())
    }

    /// A constant operand's bits, if it is one.
    pub(super) fn literal(&self, ins: &Ins<'_>, n: usize) -> Option<u64> {
        match ins.i.operands.get(n) {
            Some(Operand::Int(i)) => Some(*i),
            _ => None,
        }
    }
}

#[inline(always)]
fn signed(a: u16) -> i16 {
    a as i16
}

/// Pairs of 16-bit integers.
fn pair_arith(isa: Isa, opcode: &str, ty: Type) -> Option<Map> {
    Some(match (opcode, ty) {
        ("add", _) => halves!(isa, two, |a, b| a.wrapping_add(b)),
        ("min", Type::U16x2) => halves!(isa, two, |a, b| a.min(b)),
        ("max", Type::U16x2) => halves!(isa, two, |a, b| a.max(b)),
        ("min", _) => halves!(isa, two, |a, b| signed(a).min(signed(b)) as u16),
        ("max", _) => halves!(isa, two, |a, b| signed(a).max(signed(b)) as u16),
        _ => return None,
    })
}

#[inline(always)]
fn high_s32(a: i32, b: i32) -> i32 {
    ((i64::from(a) * i64::from(b)) >> 32) as i32
}

fn high_product(isa: Isa, ty: Type) -> Option<Map> {
    Some(match ty {
        Type::U16 => isa.two(|a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16),
        Type::S16 => isa.two(|a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16),
        Type::U32 => isa.two(|a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        Type::S32 => isa.two(high_s32),
        Type::U64 => isa.two(|a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        Type::S64 => isa.two(|a: i64, b: i64| ((i128::from(a) * i128::from(b)) >> 64) as i64),
        _ => return None,
    })
}

fn high_mad(isa: Isa, ty: Type) -> Option<Map> {
    Some(match ty {
        Type::U16 => isa.three(|a: u16, b: u16, c: u16| {
            (((u32::from(a) * u32::from(b)) >> 16) as u16).wrapping_add(c)
        }),
        Type::S16 => isa.three(|a: i16, b: i16, c: i16| {
            (((i32::from(a) * i32::from(b)) >> 16) as i16).wrapping_add(c)
        }),
        Type::U32 => isa.three(|a: u32, b: u32, c: u32| {
            (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)
        }),
        Type::S32 => isa.three(|a: i32, b: i32, c: i32| high_s32(a, b).wrapping_add(c)),
        Type::U64 => isa.three(|a: u64, b: u64, c: u64| {
            (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)
        }),
        Type::S64 => isa.three(|a: i64, b: i64, c: i64| {
            (((i128::from(a) * i128::from(b)) >> 64) as i64).wrapping_add(c)
        }),
        _ => return None,
    })
}

fn adder(isa: Isa, ty: Type) -> Option<Carry> {
    Some(match ty.bytes() {
        4 => isa.carry(|a: u32, b: u32, _: u32, carry: bool| {
            let sum = u64::from(a) + u64::from(b) + u64::from(carry);
            (sum as u32, sum >> 32 != 0)
        }),
        8 => isa.carry(|a: u64, b: u64, _: u64, carry: bool| {
            let sum = u128::from(a) + u128::from(b) + u128::from(carry);
            (sum as u64, sum >> 64 != 0)
        }),
        _ => return None,
    })
}

/// The flag is the borrow.
fn subtractor(isa: Isa, ty: Type) -> Option<Carry> {
    Some(match ty.bytes() {
        4 => isa.carry(|a: u32, b: u32, _: u32, borrow: bool| {
            let take = u64::from(b) + u64::from(borrow);
            (u64::from(a).wrapping_sub(take) as u32, u64::from(a) < take)
        }),
        8 => isa.carry(|a: u64, b: u64, _: u64, borrow: bool| {
            let take = u128::from(b) + u128::from(borrow);
            (
                u128::from(a).wrapping_sub(take) as u64,
                u128::from(a) < take,
            )
        }),
        _ => return None,
    })
}

fn mad_carry(isa: Isa, ty: Type, high: bool) -> Option<Carry> {
    Some(match (ty, high) {
        (Type::U32 | Type::S32, false) => isa.carry(|a: u32, b: u32, c: u32, carry: bool| {
            let sum = u64::from(a.wrapping_mul(b)) + u64::from(c) + u64::from(carry);
            (sum as u32, sum >> 32 != 0)
        }),
        (Type::U64 | Type::S64, false) => isa.carry(|a: u64, b: u64, c: u64, carry: bool| {
            let sum = u128::from(a.wrapping_mul(b)) + u128::from(c) + u128::from(carry);
            (sum as u64, sum >> 64 != 0)
        }),
        (Type::U32, true) => isa.carry(|a: u32, b: u32, c: u32, carry: bool| {
            let sum = ((u64::from(a) * u64::from(b)) >> 32) + u64::from(c) + u64::from(carry);
            (sum as u32, sum >> 32 != 0)
        }),
        (Type::S32, true) => isa.carry(|a: u32, b: u32, c: u32, carry: bool| {
            let sum =
                u64::from(high_s32(a as i32, b as i32) as u32) + u64::from(c) + u64::from(carry);
            (sum as u32, sum >> 32 != 0)
        }),
        (Type::U64, true) => isa.carry(|a: u64, b: u64, c: u64, carry: bool| {
            let sum = ((u128::from(a) * u128::from(b)) >> 64) + u128::from(c) + u128::from(carry);
            (sum as u64, sum >> 64 != 0)
        }),
        (Type::S64, true) => isa.carry(|a: u64, b: u64, c: u64, carry: bool| {
            let high = (i128::from(a as i64) * i128::from(b as i64)) >> 64;
            let sum = u128::from(high as u64) + u128::from(c) + u128::from(carry);
            (sum as u64, sum >> 64 != 0)
        }),
        _ => return None,
    })
}
