//! Shuffles, votes, matches, warp reductions, barriers, fences.

use super::super::op::{Barrier, BarrierReduce, Kind, SINK, Shuffle, ShuffleKind, Vote};
use super::operands::is_wide;
use super::{Decoder, Ins, Result};
use crate::counters::Class;
use crate::ptx::{Operand, Type};

impl<'a> Decoder<'a> {
    pub(super) fn collective(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        match ins.i.opcode.as_str() {
            "shfl" => self.shuffle(ins),
            "vote" => self.vote(ins),
            "match" => self.match_any(ins),
            "redux" => self.redux(ins),
            "activemask" => {
                let ty = ins.ty()?;
                let d = self.target(ins, ty)?;
                self.emit(Kind::ActiveMask { d });
                Ok(())
            }
            "elect" => {
                self.sync(ins)?;
                let Operand::Pair(d, p) = ins.operand(0)? else {
                    return Err(ins.error("d|p is wanted"));
                };
                let d = if **d == Operand::Sink {
                    self.new_slot(false)
                } else {
                    self.register(ins, d, Type::B32)?
                };
                let p = self.pred(ins, p)?;
                let members = self.source(ins, 1, Type::B32)?;
                self.emit(Kind::Elect { d, p, members });
                Ok(())
            }
            "bar" | "barrier" => self.barrier(ins),
            _ => {
                ins.left.clear();
                self.current.class = Class::Control;
                self.emit(Kind::Nothing);
                Ok(())
            }
        }
    }

    fn sync(&self, ins: &mut Ins<'a>) -> Result<()> {
        if ins.flag("sync") {
            Ok(())
        } else {
            Err(ins.error("only the .sync form is supported"))
        }
    }

    fn shuffle(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        self.sync(ins)?;
        let how = ins.one_of(&[
            ("up", ShuffleKind::Up),
            ("down", ShuffleKind::Down),
            ("bfly", ShuffleKind::Butterfly),
            ("idx", ShuffleKind::Index),
        ]);
        let how = how.ok_or_else(|| ins.error("one of .up, .down, .bfly, .idx is wanted"))?;
        let ty = ins.ty()?;
        ins.expect_operands(5)?;
        let (d, p) = match ins.operand(0)? {
            Operand::Pair(d, p) => {
                let d = if **d == Operand::Sink {
                    self.new_slot(false)
                } else {
                    self.register(ins, d, ty)?
                };
                (d, self.pred(ins, p)?)
            }
            _ => (self.target(ins, ty)?, SINK),
        };
        let a = self.source(ins, 1, ty)?;
        let (b, c) = (
            self.source(ins, 2, Type::U32)?,
            self.source(ins, 3, Type::U32)?,
        );
        let members = self.source(ins, 4, Type::U32)?;
        self.emit(Kind::Shuffle(Box::new(Shuffle {
            how,
            d,
            p,
            a,
            b,
            c,
            members,
        })));
        Ok(())
    }

    fn vote(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        self.sync(ins)?;
        let how = ins.one_of(&[
            ("all", Vote::All),
            ("any", Vote::Any),
            ("uni", Vote::Uniform),
            ("ballot", Vote::Ballot),
        ]);
        let how = how.ok_or_else(|| ins.error("one of .all, .any, .uni, .ballot is wanted"))?;
        let ty = ins.ty()?;
        ins.expect_operands(3)?;
        let (d, p) = match how {
            Vote::Ballot => (self.target(ins, ty)?, SINK),
            _ => (0, self.pred(ins, ins.operand(0)?)?),
        };
        let source = self.cond(ins, ins.operand(1)?)?;
        let members = self.source(ins, 2, Type::U32)?;
        self.emit(Kind::Vote {
            how,
            d,
            p,
            source,
            members,
        });
        Ok(())
    }

    fn match_any(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let all = ins
            .one_of(&[("any", false), ("all", true)])
            .ok_or_else(|| ins.error(".any or .all is wanted"))?;
        self.sync(ins)?;
        let ty = ins.ty()?;
        ins.expect_operands(3)?;
        let (d, p) = match ins.operand(0)? {
            Operand::Pair(d, p) => {
                let d = if **d == Operand::Sink {
                    self.new_slot(false)
                } else {
                    self.register(ins, d, Type::B32)?
                };
                (d, self.pred(ins, p)?)
            }
            _ => (self.target(ins, Type::B32)?, SINK),
        };
        let a = self.source(ins, 1, ty)?;
        let members = self.source(ins, 2, Type::U32)?;
        self.emit(Kind::Match {
            all,
            d,
            p,
            a,
            wide: is_wide(ty),
            members,
        });
        Ok(())
    }

    fn redux(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        self.sync(ins)?;
        let name = ins.one_of(&["add", "min", "max", "and", "or", "xor"].map(|n| (n, n)));
        let name = name.ok_or_else(|| ins.error("an operation is missing"))?;
        let ty = ins.ty()?;
        let f: fn(u32, u32) -> u32 = match (name, ty) {
            ("add", Type::U32 | Type::S32) => u32::wrapping_add,
            ("min", Type::U32) => u32::min,
            ("max", Type::U32) => u32::max,
            ("min", Type::S32) => |a, b| (a as i32).min(b as i32) as u32,
            ("max", Type::S32) => |a, b| (a as i32).max(b as i32) as u32,
            ("and", Type::B32) => |a, b| a & b,
            ("or", Type::B32) => |a, b| a | b,
            ("xor", Type::B32) => |a, b| a ^ b,
            _ => return Err(ins.error("not supported for this type")),
        };
        ins.expect_operands(3)?;
        let d = self.target(ins, ty)?;
        let a = self.source(ins, 1, ty)?;
        let members = self.source(ins, 2, Type::U32)?;
        self.emit(Kind::Reduce { f, d, a, members });
        Ok(())
    }

    fn barrier(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        if ins.flag("warp") {
            self.sync(ins)?;
            let members = self.source(ins, 0, Type::U32)?;
            self.emit(Kind::WarpSync { members });
            return Ok(());
        }
        ins.flag("cta");
        let mut aligned = ins.i.opcode == "bar";
        aligned |= ins.flag("aligned");
        if ins.left.contains(&"cluster") {
            return Err(ins.error("clusters are not supported"));
        }
        let how = ins.one_of(&[("sync", "sync"), ("arrive", "arrive"), ("red", "red")]);
        let how = how.ok_or_else(|| ins.error("one of .sync, .arrive, .red is wanted"))?;
        let (mut reduce, mut first) = (None, 0);
        if how == "red" {
            let name = ins.one_of(&[("popc", "popc"), ("and", "and"), ("or", "or")]);
            let name = name.ok_or_else(|| ins.error("one of .popc, .and, .or is wanted"))?;
            ins.ty()?;
            first = 1;
            let source = self.cond(
                ins,
                ins.i
                    .operands
                    .last()
                    .ok_or_else(|| ins.error("a predicate is wanted"))?,
            )?;
            reduce = Some(match name {
                "popc" => BarrierReduce::Count {
                    d: self.target(ins, Type::U32)?,
                    source,
                },
                "and" => BarrierReduce::And {
                    p: self.pred(ins, ins.operand(0)?)?,
                    source,
                },
                _ => BarrierReduce::Or {
                    p: self.pred(ins, ins.operand(0)?)?,
                    source,
                },
            });
        }
        let id = self.source(ins, first, Type::U32)?;
        let has_count = ins.i.operands.len() > first + 1 + usize::from(how == "red");
        let threads = if has_count {
            Some(self.source(ins, first + 1, Type::U32)?)
        } else {
            None
        };
        let arrive = how == "arrive";
        if arrive && threads.is_none() {
            return Err(ins.error("an arrival says how many threads take part"));
        }
        self.emit(Kind::Barrier(Box::new(Barrier {
            id,
            threads,
            arrive,
            aligned,
            reduce,
        })));
        Ok(())
    }
}
