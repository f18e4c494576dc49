//! `mov`, `selp`, `slct`, `setp`, `set`, `testp`.

use super::super::float16::{bf16_to_f32, f16_to_f32};
use super::super::lanes::{Isa, Test};
use super::super::op::{Cond, Kind, Logic, Part, Pred, SINK};
use super::arith::by_type;
use super::float::flush;
use super::operands::is_wide;
use super::{Decoder, Ins, Result};
use crate::ptx::{Operand, Type};

impl<'a> Decoder<'a> {
    pub(super) fn choose(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        match ins.i.opcode.as_str() {
            "mov" => self.mov(ins),
            "selp" => {
                let ty = ins.ty()?;
                let d = self.target(ins, ty)?;
                let (a, b) = (self.source(ins, 1, ty)?, self.source(ins, 2, ty)?);
                let p = self.cond(ins, ins.operand(3)?)?;
                self.emit(Kind::Select {
                    d,
                    a,
                    b,
                    p,
                    wide: is_wide(ty),
                });
                Ok(())
            }
            "slct" => self.slct(ins),
            "setp" => self.setp(ins),
            "set" => self.set(ins),
            _ => self.testp(ins),
        }
    }

    fn mov(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let ty = ins.ty()?;
        ins.expect_operands(2)?;
        let isa = self.isa;
        if ty == Type::Pred {
            let d = self.pred(ins, ins.operand(0)?)?;
            let a = self.cond(ins, ins.operand(1)?)?;
            self.emit(Kind::Predicate {
                d,
                logic: Logic::And,
                a,
                b: Cond::ALWAYS,
            });
            return Ok(());
        }
        match (ins.operand(0)?, ins.operand(1)?) {
            (Operand::Vector(parts), _) => return self.unpack(ins, ty, parts),
            (_, Operand::Vector(parts)) => return self.pack(ins, ty, parts),
            (_, Operand::Special(name)) => {
                let wide = is_wide(ty);
                let d = self.target(ins, ty)?;
                match name.as_str() {
                    "%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo" => {
                        self.emit(Kind::Clock { d, wide });
                    }
                    "%clock_hi" | "%globaltimer_hi" => {
                        let whole = self.new_slot(true);
                        self.emit(Kind::Clock {
                            d: whole,
                            wide: true,
                        });
                        self.map(isa.one(|a: u64| (a >> 32) as u32), d, false, &[whole]);
                    }
                    "%gridid" => {
                        let zero = self.constant(0, wide);
                        self.copy(d, zero, wide);
                    }
                    _ => {
                        let a = self.source(ins, 1, Type::U32)?;
                        let f = match (wide, ty.bytes()) {
                            (true, _) => isa.one(|a: u32| u64::from(a)),
                            (_, 2) => isa.one(|a: u32| a as u16),
                            _ => isa.one(|a: u32| a),
                        };
                        self.map(f, d, wide, &[a]);
                    }
                }
                return Ok(());
            }
            _ => {}
        }
        let d = self.target(ins, ty)?;
        let a = self.source(ins, 1, ty)?;
        self.copy(d, a, is_wide(ty));
        Ok(())
    }

    pub(super) fn copy(&mut self, d: u32, a: u32, wide: bool) {
        let f = if wide {
            self.isa.one(|a: u64| a)
        } else {
            self.isa.one(|a: u32| a)
        };
        self.map(f, d, wide, &[a]);
    }

    /// `mov.b32 %r, {%h1, %h2}`: the first element is the lowest.
    fn pack(&mut self, ins: &Ins<'a>, ty: Type, parts: &[Operand]) -> Result<()> {
        let isa = self.isa;
        let (part, f) = match (ty.bytes(), parts.len()) {
            (4, 2) => (
                Type::B16,
                isa.two(|a: u16, b: u16| u32::from(a) | u32::from(b) << 16),
            ),
            (8, 2) => (
                Type::B32,
                isa.two(|a: u32, b: u32| u64::from(a) | u64::from(b) << 32),
            ),
            (8, 4) => (
                Type::B16,
                isa.four(|a: u16, b: u16, c: u16, d: u16| {
                    u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
                }),
            ),
            (2, 2) => (Type::B8, isa.two(|a: u16, b: u16| a & 0xff | b << 8)),
            _ => return Err(ins.error("these sizes do not pack")),
        };
        let d = self.target(ins, ty)?;
        let s = parts
            .iter()
            .map(|p| self.narrow_value(ins, p, part))
            .collect::<Result<Vec<_>>>()?;
        self.map(f, d, is_wide(ty), &s);
        if part == Type::B32 {
            self.part(Part::Pack);
        }
        Ok(())
    }

    /// A source of 8 bits is held in a register of 16.
    fn narrow_value(&mut self, ins: &Ins<'a>, operand: &Operand, ty: Type) -> Result<u32> {
        self.value(ins, operand, if ty == Type::B8 { Type::B16 } else { ty })
    }

    fn unpack(&mut self, ins: &Ins<'a>, ty: Type, parts: &[Operand]) -> Result<()> {
        let isa = self.isa;
        let a = self.source(ins, 1, ty)?;
        let (part, functions) = match (ty.bytes(), parts.len()) {
            (4, 2) => (
                Type::B16,
                vec![
                    isa.one(|a: u32| a as u16),
                    isa.one(|a: u32| (a >> 16) as u16),
                ],
            ),
            (8, 2) => (
                Type::B32,
                vec![
                    isa.one(|a: u64| a as u32),
                    isa.one(|a: u64| (a >> 32) as u32),
                ],
            ),
            (8, 4) => (
                Type::B16,
                vec![
                    isa.one(|a: u64| a as u16),
                    isa.one(|a: u64| (a >> 16) as u16),
                    isa.one(|a: u64| (a >> 32) as u16),
                    isa.one(|a: u64| (a >> 48) as u16),
                ],
            ),
            (2, 2) => (
                Type::B16,
                vec![isa.one(|a: u16| a & 0xff), isa.one(|a: u16| a >> 8)],
            ),
            _ => return Err(ins.error("these sizes do not unpack")),
        };
        // A target may be the source of the parts still to come.
        let targets: Vec<Option<u32>> = parts
            .iter()
            .map(|p| {
                if *p == Operand::Sink {
                    Ok(None)
                } else {
                    self.register(ins, p, part).map(Some)
                }
            })
            .collect::<Result<_>>()?;
        let source = if targets.contains(&Some(a)) {
            let copy = self.new_slot(is_wide(ty));
            self.copy(copy, a, is_wide(ty));
            copy
        } else {
            a
        };
        for (i, (target, f)) in targets.into_iter().zip(functions).enumerate() {
            if let Some(d) = target {
                self.map(f, d, false, &[source]);
                if i == 0 && part == Type::B32 {
                    self.part(Part::Low);
                }
            }
        }
        Ok(())
    }

    fn slct(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let ftz = ins.flag("ftz");
        let (ty, by) = (ins.ty()?, ins.ty()?);
        let d = self.target(ins, ty)?;
        let (a, b) = (self.source(ins, 1, ty)?, self.source(ins, 2, ty)?);
        let c = self.source(ins, 3, by)?;
        let f = match (by, ftz) {
            (Type::S32, _) => self.isa.test(|a: i32, _: i32| a >= 0),
            (Type::F32, true) => self.isa.test(|a: f32, _: f32| flush(a) >= 0.0),
            (Type::F32, false) => self.isa.test(|a: f32, _: f32| a >= 0.0),
            _ => return Err(ins.error("slct chooses by .s32 or .f32")),
        };
        let p = self.new_pred(ins)?;
        self.emit(Kind::Test {
            f,
            p,
            q: SINK,
            a: c,
            b: c,
            logic: Logic::And,
            c: Cond::ALWAYS,
        });
        self.emit(Kind::Select {
            d,
            a,
            b,
            p: Cond { pred: p, flip: 0 },
            wide: is_wide(ty),
        });
        Ok(())
    }

    fn comparison(&mut self, ins: &mut Ins<'a>) -> Result<(&'static str, Option<Logic>, bool)> {
        const NAMES: [&str; 18] = [
            "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu",
            "gtu", "geu", "num", "nan",
        ];
        let name = ins
            .one_of(&NAMES.map(|n| (n, n)))
            .ok_or_else(|| ins.error("a comparison is missing"))?;
        let logic = ins.one_of(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
        Ok((name, logic, ins.flag("ftz")))
    }

    fn setp(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let (name, logic, ftz) = self.comparison(ins)?;
        let ty = ins.ty()?;
        ins.expect_operands(3 + usize::from(logic.is_some()))?;
        if matches!(ty, Type::F16x2 | Type::Bf16x2) {
            let Operand::Pair(p, q) = ins.operand(0)? else {
                return Err(ins.error("p|q is wanted"));
            };
            let (p, q) = (self.pred(ins, p)?, self.pred(ins, q)?);
            return self.test_halves(ins, (name, logic, ftz), ty, p, q);
        }
        let f = test(self.isa, name, ty, ftz)
            .ok_or_else(|| ins.error("not supported for this type"))?;
        let (a, b) = (self.source(ins, 1, ty)?, self.source(ins, 2, ty)?);
        let (p, q) = match ins.operand(0)? {
            Operand::Pair(p, q) => (self.pred(ins, p)?, self.pred(ins, q)?),
            p => (self.pred(ins, p)?, SINK),
        };
        let c = if logic.is_some() {
            self.cond(ins, ins.operand(3)?)?
        } else {
            Cond::ALWAYS
        };
        self.emit(Kind::Test {
            f,
            p,
            q,
            a,
            b,
            logic: logic.unwrap_or(Logic::And),
            c,
        });
        Ok(())
    }

    /// p for the lower halves, q for the upper ones.
    fn test_halves(
        &mut self,
        ins: &Ins<'a>,
        (name, logic, ftz): (&str, Option<Logic>, bool),
        ty: Type,
        p: Pred,
        q: Pred,
    ) -> Result<()> {
        let half = if ty == Type::F16x2 {
            Type::F16
        } else {
            Type::Bf16
        };
        let f = test(self.isa, name, half, ftz)
            .ok_or_else(|| ins.error("not supported for this type"))?;
        let (a, b) = (self.source(ins, 1, ty)?, self.source(ins, 2, ty)?);
        let c = if logic.is_some() {
            self.cond(ins, ins.operand(3)?)?
        } else {
            Cond::ALWAYS
        };
        let logic = logic.unwrap_or(Logic::And);
        let high = self.isa.one(|a: u32| a >> 16);
        let (ah, bh) = (self.new_slot(false), self.new_slot(false));
        self.map(high, ah, false, &[a]);
        self.map(high, bh, false, &[b]);
        for (p, a, b) in [(p, a, b), (q, ah, bh)] {
            self.emit(Kind::Test {
                f,
                p,
                q: SINK,
                a,
                b,
                logic,
                c,
            });
        }
        Ok(())
    }

    fn set(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let (name, logic, ftz) = self.comparison(ins)?;
        let (out, ty) = (ins.ty()?, ins.ty()?);
        if matches!(ty, Type::F16x2 | Type::Bf16x2) {
            return self.set_halves(ins, (name, logic, ftz), out, ty);
        }
        let f = test(self.isa, name, ty, ftz)
            .ok_or_else(|| ins.error("not supported for this type"))?;
        let (a, b) = (self.source(ins, 1, ty)?, self.source(ins, 2, ty)?);
        let c = if logic.is_some() {
            self.cond(ins, ins.operand(3)?)?
        } else {
            Cond::ALWAYS
        };
        let d = self.target(ins, out)?;
        let yes = match out {
            Type::F32 => 1.0f32.to_bits().into(),
            Type::U32 | Type::S32 => 0xffff_ffff,
            Type::F16 => 0x3c00,
            Type::Bf16 => 0x3f80,
            Type::U16 | Type::S16 => 0xffff,
            _ => return Err(ins.error("not supported for this target type")),
        };
        let (yes, no) = (self.constant(yes, false), self.constant(0, false));
        let p = self.new_pred(ins)?;
        self.emit(Kind::Test {
            f,
            p,
            q: SINK,
            a,
            b,
            logic: logic.unwrap_or(Logic::And),
            c,
        });
        self.emit(Kind::Select {
            d,
            a: yes,
            b: no,
            p: Cond { pred: p, flip: 0 },
            wide: false,
        });
        Ok(())
    }

    /// Ones of a pair's type where the comparison of the halves holds.
    fn set_halves(
        &mut self,
        ins: &Ins<'a>,
        comparison: (&str, Option<Logic>, bool),
        out: Type,
        ty: Type,
    ) -> Result<()> {
        let one = match out {
            Type::F16x2 if ty == out => 0x3c00,
            Type::Bf16x2 if ty == out => 0x3f80,
            _ => return Err(ins.error("pairs are compared into pairs of their type")),
        };
        let (p, q) = (self.new_pred(ins)?, self.new_pred(ins)?);
        self.test_halves(ins, comparison, ty, p, q)?;
        let d = self.target(ins, out)?;
        let (low, high) = (self.new_slot(false), self.new_slot(false));
        let none = self.constant(0, false);
        for (d, a, pred) in [(low, one, p), (high, one << 16, q)] {
            let a = self.constant(a, false);
            self.emit(Kind::Select {
                d,
                a,
                b: none,
                p: Cond { pred, flip: 0 },
                wide: false,
            });
        }
        self.map(self.isa.two(|a: u32, b: u32| a | b), d, false, &[low, high]);
        Ok(())
    }

    fn testp(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        const NAMES: [&str; 6] = [
            "finite",
            "infinite",
            "number",
            "notanumber",
            "normal",
            "subnormal",
        ];
        let name = ins
            .one_of(&NAMES.map(|n| (n, n)))
            .ok_or_else(|| ins.error("a property is missing"))?;
        let ty = ins.ty()?;
        let isa = self.isa;
        let f = match name {
            "finite" => by_type!(isa, ty, test, [F32: f32, F64: f64], |a, _b| a.is_finite()),
            "infinite" => by_type!(isa, ty, test, [F32: f32, F64: f64], |a, _b| a.is_infinite()),
            "number" => by_type!(isa, ty, test, [F32: f32, F64: f64], |a, _b| !a.is_nan()),
            "notanumber" => by_type!(isa, ty, test, [F32: f32, F64: f64], |a, _b| a.is_nan()),
            // Zeros count as normal.
            "normal" => by_type!(isa, ty, test, [F32: f32, F64: f64], |a, _b| {
                a.is_normal() || a == 0.0
            }),
            _ => by_type!(isa, ty, test, [F32: f32, F64: f64], |a, _b| a.is_subnormal()),
        };
        let f = f.ok_or_else(|| ins.error("testp is for .f32 and .f64"))?;
        let p = self.pred(ins, ins.operand(0)?)?;
        let a = self.source(ins, 1, ty)?;
        self.emit(Kind::Test {
            f,
            p,
            q: SINK,
            a,
            b: a,
            logic: Logic::And,
            c: Cond::ALWAYS,
        });
        Ok(())
    }
}

/// A subnormal f16 counts as zero.
#[inline(always)]
fn normal_f16(h: u16) -> f32 {
    f16_to_f32(if h & 0x7c00 == 0 { h & 0x8000 } else { h })
}

/// The comparison for a type; the unordered ones hold if either is NaN.
fn test(isa: Isa, name: &str, ty: Type, ftz: bool) -> Option<Test> {
    macro_rules! numbers {
        (|$a:ident, $b:ident| $e:expr) => {
            match ty {
                Type::F32 if ftz => {
                    Some(isa.test(|a: f32, b: f32| { let ($a, $b) = (flush(a), flush(b)); $e }))
                }
                Type::F16 if ftz => {
                    Some(isa.test(|a: u16, b: u16| { let ($a, $b) = (normal_f16(a), normal_f16(b)); $e }))
                }
                Type::F16 => {
                    Some(isa.test(|a: u16, b: u16| { let ($a, $b) = (f16_to_f32(a), f16_to_f32(b)); $e }))
                }
                Type::Bf16 => {
                    Some(isa.test(|a: u16, b: u16| { let ($a, $b) = (bf16_to_f32(a), bf16_to_f32(b)); $e }))
                }
                _ => by_type!(isa, ty, test, [F32: f32, F64: f64], |$a, $b| $e),
            }
        };
    }
    macro_rules! ordered {
        (|$a:ident, $b:ident| $e:expr) => {
            numbers!(|$a, $b| $e).or(by_type!(isa, ty, test,
                [U16: u16, S16: i16, U32: u32, S32: i32, U64: u64, S64: i64], |$a, $b| $e))
        };
    }
    macro_rules! unsigned {
        (|$a:ident, $b:ident| $e:expr) => {
            by_type!(isa, ty, test, [U16: u16, U32: u32, U64: u64], |$a, $b| $e)
        };
    }
    match name {
        "eq" => ordered!(|a, b| a == b)
            .or(by_type!(isa, ty, test, [B16: u16, B32: u32, B64: u64], |a, b| a == b)),
        "ne" if ty.is_float() => numbers!(|a, b| a != b && !a.is_nan() && !b.is_nan()),
        "ne" => by_type!(isa, ty, test,
            [B16: u16, B32: u32, B64: u64, U16: u16, S16: u16, U32: u32, S32: u32, U64: u64, S64: u64],
            |a, b| a != b),
        "lt" => ordered!(|a, b| a < b),
        "le" => ordered!(|a, b| a <= b),
        "gt" => ordered!(|a, b| a > b),
        "ge" => ordered!(|a, b| a >= b),
        "lo" => unsigned!(|a, b| a < b),
        "ls" => unsigned!(|a, b| a <= b),
        "hi" => unsigned!(|a, b| a > b),
        "hs" => unsigned!(|a, b| a >= b),
        "equ" => numbers!(|a, b| a == b || a.is_nan() || b.is_nan()),
        "neu" => numbers!(|a, b| a != b),
        "ltu" => numbers!(|a, b| a < b || a.is_nan() || b.is_nan()),
        "leu" => numbers!(|a, b| a <= b || a.is_nan() || b.is_nan()),
        "gtu" => numbers!(|a, b| a > b || a.is_nan() || b.is_nan()),
        "geu" => numbers!(|a, b| a >= b || a.is_nan() || b.is_nan()),
        "num" => numbers!(|a, b| !a.is_nan() && !b.is_nan()),
        "nan" => numbers!(|a, b| a.is_nan() || b.is_nan()),
        _ => None,
    }
}
