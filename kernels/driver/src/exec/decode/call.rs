//! Calls of device functions, by name or by address.

use super::super::access::FUNCTION_WINDOW;
use super::super::moves::moves;
use super::super::op::{Access, Address, Base, Cond, Kind, Logic};
use super::{Decoder, Ins, Result};
use crate::ptx::{Function, Instruction, Module, Operand, Space, Type};

/// The address of a module's function.
pub fn function_address(module: &Module, name: &str) -> Option<u64> {
    let at = module.functions.iter().position(|f| f.name == name)?;
    Some(FUNCTION_WINDOW + 16 * at as u64)
}

/// A name of module scope in an operand or an element of it.
fn names<'a>(operand: &'a Operand, out: &mut Vec<&'a str>) {
    match operand {
        Operand::Symbol(name, _) => out.push(name),
        Operand::Vector(all) | Operand::List(all) => all.iter().for_each(|o| names(o, out)),
        Operand::Address(base, _) => names(base, out),
        _ => {}
    }
}

impl<'a> Decoder<'a> {
    /// The device functions that an instruction may call by address: those of its `.calltargets`, or all whose address
    /// is taken anywhere.
    pub(super) fn called_by_address(&self, f: &Function, i: &Instruction) -> Vec<&'a Function> {
        if i.opcode != "call" || !i.operands.iter().any(|o| matches!(o, Operand::Reg(_))) {
            return Vec::new();
        }
        let targets = i.operands.iter().find_map(|o| match o {
            Operand::Label(l) => f.call_targets.iter().find(|(at, _)| at == l),
            _ => None,
        });
        let mut taken = Vec::new();
        match targets {
            Some((_, targets)) => taken.extend(targets.iter().map(String::as_str)),
            None => {
                let module = self.module;
                let instructions = module.functions.iter().flat_map(|f| &f.body);
                for i in instructions.filter(|i| i.opcode != "call") {
                    i.operands.iter().for_each(|o| names(o, &mut taken));
                }
                let relocations = module.variables.iter().flat_map(|v| &v.relocations);
                taken.extend(relocations.map(|r| r.symbol.as_str()));
            }
        }
        let all = self.module.functions.iter().filter(|f| !f.is_kernel);
        all.filter(|f| taken.contains(&f.name.as_str())).collect()
    }

    /// `call (returns), function, (arguments)`: the arguments are copied into the callee's frame, and back.
    pub(super) fn call(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        ins.flag("uni");
        let (mut returns, mut arguments, mut target) = (&[][..], &[][..], None);
        for operand in &ins.i.operands {
            match operand {
                Operand::List(list) if target.is_none() => returns = list,
                Operand::List(list) => arguments = list,
                Operand::Symbol(..) | Operand::Reg(_) if target.is_none() => target = Some(operand),
                // A prototype or the list of targets.
                Operand::Label(_) if target.is_some() => {}
                _ => return Err(ins.error("a function or a register is wanted")),
            }
        }
        let name = match target {
            Some(Operand::Symbol(name, _)) => name,
            Some(register) => return self.call_by_address(ins, register, returns, arguments),
            None => return Err(ins.error("a function or a register is wanted")),
        };
        match self.module.function(name).filter(|f| !f.is_kernel) {
            Some(callee) => self.call_function(ins, callee, returns, arguments),
            None => self.external(ins, name, returns, arguments),
        }
    }

    /// Asks for every function with such parameters whether it is meant, and calls it for the lanes that mean it.
    fn call_by_address(
        &mut self,
        ins: &mut Ins<'a>,
        register: &Operand,
        returns: &'a [Operand],
        arguments: &'a [Operand],
    ) -> Result<()> {
        let address = self.register(ins, register, Type::B64)?;
        let outer = self.current.guard;
        let left = self.new_pred(ins)?;
        let (none, all) = (Cond::NEVER, Cond::ALWAYS);
        let predicate = |d, a, b| Kind::Predicate {
            d,
            logic: Logic::And,
            a,
            b,
        };
        self.current.guard = all;
        self.emit(predicate(left, outer, all));
        let function = self.functions[ins.function].function;
        for callee in self.called_by_address(function, ins.i) {
            if (arguments.len(), returns.len()) != (callee.params.len(), callee.returns.len()) {
                continue;
            }
            let meant = self.new_pred(ins)?;
            let own = function_address(self.module, &callee.name).unwrap_or(0);
            let b = self.constant(own, true);
            self.current.guard = all;
            self.emit(predicate(meant, none, none));
            self.current.guard = Cond {
                pred: left,
                flip: 0,
            };
            self.emit(Kind::Test {
                f: self.isa.test(|a: u64, b: u64| a == b),
                p: meant,
                q: left,
                a: address,
                b,
                logic: Logic::And,
                c: all,
            });
            self.current.guard = Cond {
                pred: meant,
                flip: 0,
            };
            self.call_function(ins, callee, returns, arguments)?;
        }
        self.current.guard = Cond {
            pred: left,
            flip: 0,
        };
        self.emit(Kind::Trap);
        self.current.guard = outer;
        Ok(())
    }

    fn call_function(
        &mut self,
        ins: &mut Ins<'a>,
        callee: &'a Function,
        returns: &[Operand],
        arguments: &[Operand],
    ) -> Result<()> {
        let layout = self.layout(callee)?;
        if arguments.len() != callee.params.len() || returns.len() != callee.returns.len() {
            return Err(ins.error(format!(
                "{} takes {} arguments and returns {}",
                callee.name,
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
