//! Branches and exits.

use super::super::op::{Cond, Kind};
use super::function::Fixup;
use super::{Decoder, Ins, Result};
use crate::ptx::{Operand, Type};

impl<'a> Decoder<'a> {
    pub(super) fn control(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let function = self.functions[ins.function].function;
        let end = function.body.len();
        match ins.i.opcode.as_str() {
            "bra" => {
                ins.flag("uni");
                let Operand::Label(label) = ins.operand(0)? else {
                    return Err(ins.error("a label is wanted"));
                };
                let target = function.labels[*label];
                self.branch(ins, target, ins.join);
            }
            "brx" => {
                ins.flag("idx");
                ins.flag("uni");
                let index = self.source(ins, 0, Type::U32)?;
                let Operand::Label(list) = ins.operand(1)? else {
                    return Err(ins.error("a label of .branchtargets is wanted"));
                };
                let Some((_, targets)) = function.branch_targets.iter().find(|(at, _)| at == list)
                else {
                    return Err(ins.error("the label does not stand at .branchtargets"));
                };
                let targets = targets.iter().map(|&l| function.labels[l]).collect();
                let pc = self.emit(Kind::Switch {
                    index,
                    table: Box::default(),
                    join: 0,
                });
                self.fix(
                    ins,
                    pc,
                    Fixup::Switch {
                        targets,
                        join: ins.join,
                    },
                );
            }
            "ret" if !function.is_kernel => {
                ins.flag("uni");
                self.branch(ins, end, end);
            }
            "ret" | "exit" => {
                ins.flag("uni");
                self.emit(Kind::Exit);
            }
            "trap" => {
                self.emit(Kind::Trap);
                // For the lanes whose guard does not hold the program goes on; nobody comes here otherwise.
            }
            "call" => return self.call(ins),
            _ => {
                ins.left.clear();
                self.emit(Kind::Nothing);
            }
        }
        Ok(())
    }

    fn branch(&mut self, ins: &Ins<'_>, target: usize, join: usize) {
        let guarded = self.current.guard != Cond::ALWAYS;
        let pc = self.emit(Kind::Nothing);
        self.fix(
            ins,
            pc,
            if guarded {
                Fixup::Branch { target, join }
            } else {
                Fixup::Jump(target)
            },
        );
    }
}
