//! Branches, calls, exits.

use super::super::moves::moves;
use super::super::op::{Access, Address, Base, Cond, Kind};
use super::function::Fixup;
use super::{Decoder, Ins, Result};
use crate::ptx::{Operand, Space, Type};

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

    /// `call (returns), function, (arguments)`: the arguments are copied into the callee's frame, and back.
    fn call(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        ins.flag("uni");
        let (mut returns, mut arguments, mut name) = (&[][..], &[][..], None);
        for operand in &ins.i.operands {
            match operand {
                Operand::List(list) if name.is_none() => returns = list,
                Operand::List(list) => arguments = list,
                Operand::Symbol(symbol, _) if name.is_none() => name = Some(symbol.as_str()),
                Operand::Label(_) if name.is_some() => {
                    return Err(ins.error("indirect calls are not supported"));
                }
                _ => {
                    return Err(ins.error(
                        "the name of a function is wanted: indirect calls are not supported",
                    ));
                }
            }
        }
        let name = name.ok_or_else(|| ins.error("the name of a function is wanted"))?;
        let Some(callee) = self
            .module
            .functions
            .iter()
            .find(|f| f.name == name && !f.is_kernel)
        else {
            return self.external(ins, name, returns, arguments);
        };
        let layout = self.layout(callee)?;
        if arguments.len() != callee.params.len() || returns.len() != callee.returns.len() {
            return Err(ins.error(format!(
                "{name} takes {} arguments and returns {}",
                callee.params.len(),
                callee.returns.len()
            )));
        }
        for (argument, (param, n)) in arguments.iter().zip(callee.params.iter().zip(0..)) {
            let to = self.functions[layout].params[n];
            self.pass(ins, argument, to, param.size)?;
        }
        self.call_op(ins, layout);
        for (target, (param, n)) in returns.iter().zip(callee.returns.iter().zip(0..)) {
            let from = self.functions[layout].returns[n];
            match target {
                Operand::Reg(_) => {
                    let (slot, ty) = self.any_register(ins, target)?;
                    self.frame_access(ins, from, slot, ty.bytes(), true)?;
                }
                _ => {
                    let (_, to) = self.symbol_address(ins, target)?;
                    self.copy_frame(ins, from, to, param.size)?;
                }
            }
        }
        Ok(())
    }

    /// Puts an argument at a place in the frame.
    fn pass(&mut self, ins: &Ins<'_>, argument: &Operand, to: u64, size: u32) -> Result<()> {
        match argument {
            Operand::Variable(..) | Operand::Param(..) | Operand::Return(..) => {
                let (space, from) = self.symbol_address(ins, argument)?;
                if space != Space::Local {
                    return Err(
                        ins.error("an argument is a .param variable, a register or a constant")
                    );
                }
                self.copy_frame(ins, from, to, size)?;
            }
            _ => {
                let ty = match size {
                    8 => Type::B64,
                    4 => Type::B32,
                    2 => Type::B16,
                    _ => return Err(ins.error("an argument in a register has 2, 4 or 8 bytes")),
                };
                let slot = self.value(ins, argument, ty)?;
                self.frame_access(ins, to, slot, size, false)?;
            }
        }
        Ok(())
    }

    /// Copies within the frame, all lanes' words at a time where alignment allows.
    fn copy_frame(&mut self, ins: &Ins<'_>, from: u64, to: u64, size: u32) -> Result<()> {
        let slot = self.new_slot(false);
        let mut at = 0;
        while at < size {
            let bytes = if size - at >= 4 {
                4
            } else if size - at >= 2 {
                2
            } else {
                1
            };
            self.frame_access(ins, from + u64::from(at), slot, bytes, true)?;
            self.frame_access(ins, to + u64::from(at), slot, bytes, false)?;
            at += bytes;
        }
        Ok(())
    }

    fn frame_access(
        &mut self,
        ins: &Ins<'_>,
        at: u64,
        slot: u32,
        bytes: u32,
        load: bool,
    ) -> Result<()> {
        let address = Address {
            space: Space::Local,
            base: Base::None,
            offset: at as i64,
        };
        let register = bytes.max(2);
        let moves = moves(bytes, 1, false, register, load)
            .ok_or_else(|| ins.error(format!("a parameter of {bytes} bytes")))?;
        let access = Box::new(Access {
            address,
            bytes,
            count: 1,
            regs: [slot; 4],
            register,
            signed: false,
            moves,
        });
        self.emit(if load {
            Kind::Load(access)
        } else {
            Kind::Store(access)
        });
        Ok(())
    }

    /// Functions that the driver provides: `__assertfail`, and `vprintf`, which prints nothing and returns 0.
    fn external(
        &mut self,
        ins: &Ins<'_>,
        name: &str,
        returns: &[Operand],
        arguments: &[Operand],
    ) -> Result<()> {
        match name {
            "__assertfail" if arguments.len() == 5 => {
                // message, file, line, function, size of a character
                let frame = self.frame.next_multiple_of(8);
                self.frame = frame + 40;
                for (argument, (at, size)) in
                    arguments
                        .iter()
                        .zip([(0, 8), (8, 8), (16, 4), (24, 8), (32, 8)])
                {
                    self.pass(ins, argument, frame + at, size)?;
                }
                self.emit(Kind::AssertFail {
                    frame: frame as u32,
                });
                Ok(())
            }
            "vprintf" if returns.len() == 1 => {
                let zero = self.constant(0, false);
                let (_, to) = self.symbol_address(ins, &returns[0])?;
                self.frame_access(ins, to, zero, 4, false)?;
                Ok(())
            }
            _ => Err(ins.error(format!(
                "{name} has no body in this module, and the driver does not provide it"
            ))),
        }
    }
}
