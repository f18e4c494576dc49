//! Functions: frames, shared variables, branch targets.

use super::super::flow;
use super::super::op::{Cond, Kind, Pc};
use super::super::shadow::MAX_OPS;
use super::{Current, Decoder, Ins, MAX_FRAME, MAX_SLOTS, Place, Result};
use crate::counters::Class;
use crate::ptx::{Function, Operand, Param, PtxError, Space, Variable};

/// A function of the program and where its things are.
pub(super) struct Layout<'a> {
    pub function: &'a Function,
    pub places: Vec<Option<Place>>,
    /// Addresses of its variables in their spaces.
    pub variables: Vec<u64>,
    /// Frame offsets of a device function's parameters.
    pub params: Vec<u64>,
    pub returns: Vec<u64>,
    /// First and last operation, once it is decoded.
    pub entry: Pc,
    pub end: Pc,
    /// Operations whose target is an instruction, still to be resolved.
    fixups: Vec<(Pc, Fixup)>,
    /// Its calls: the operation and the callee.
    calls: Vec<(Pc, usize)>,
}

/// Targets in instructions; the number of instructions is the function's end.
pub(super) enum Fixup {
    Jump(usize),
    Branch { target: usize, join: usize },
    Switch { targets: Vec<usize>, join: usize },
}

fn at_line(f: &Function, message: String) -> PtxError {
    PtxError {
        line: f.line,
        column: 0,
        text: f.name.clone(),
        message,
    }
}

impl<'a> Decoder<'a> {
    pub(super) fn kernel(&mut self, kernel: &'a Function) -> Result<()> {
        self.layout(kernel)?;
        self.reach()?;
        for f in 0..self.functions.len() {
            self.function(f)?;
        }
        self.refuse_recursion(0, &mut vec![Visit::New; self.functions.len()])?;
        for f in 0..self.functions.len() {
            for (pc, callee) in std::mem::take(&mut self.functions[f].calls) {
                let (entry, end) = (self.functions[callee].entry, self.functions[callee].end);
                self.program.ops[pc as usize].kind = Kind::Call { entry, end };
            }
        }
        if self.program.slots > MAX_SLOTS {
            return Err(at_line(
                kernel,
                format!(
                    "{} registers a thread: at most {MAX_SLOTS}",
                    self.program.slots
                ),
            ));
        }
        if self.program.ops.len() > MAX_OPS {
            return Err(at_line(kernel, format!("more than {MAX_OPS} operations")));
        }
        self.program.frame_words = self.frame.div_ceil(8) as u32 * 2;
        Ok(())
    }

    /// Lays out every function and shared variable that the kernel may use. Dynamic shared arrays all begin where the
    /// static variables end.
    fn reach(&mut self) -> Result<()> {
        let (module, mut next) = (self.module, 0);
        let mut dynamic: Vec<&Variable> = Vec::new();
        while next < self.functions.len() {
            let f = self.functions[next].function;
            next += 1;
            for i in &f.body {
                for callee in self.called_by_address(f, i) {
                    self.layout(callee)?;
                }
            }
            for name in f.body.iter().flat_map(|i| &i.operands).filter_map(symbol) {
                if let Some(callee) = module
                    .functions
                    .iter()
                    .find(|g| g.name == *name && !g.is_kernel)
                {
                    self.layout(callee)?;
                }
                let shared = module
                    .variables
                    .iter()
                    .find(|v| v.name == *name && v.space == Space::Shared);
                match shared {
                    Some(v) if v.size == 0 => dynamic.push(v),
                    Some(v) if !self.shared.contains_key(name) => {
                        let at = self.shared_bytes(f, v)?;
                        self.shared.insert(name.clone(), at);
                    }
                    _ => {}
                }
            }
        }
        if let Some(align) = dynamic.iter().map(|v| v.align.max(16)).max() {
            self.program.shared_bytes = self.program.shared_bytes.next_multiple_of(align);
            for v in dynamic {
                self.shared
                    .insert(v.name.clone(), self.program.shared_bytes.into());
            }
        }
        Ok(())
    }

    /// The index of a function's layout; made when first met.
    pub(super) fn layout(&mut self, f: &'a Function) -> Result<usize> {
        if let Some(at) = self
            .functions
            .iter()
            .position(|l| std::ptr::eq(l.function, f))
        {
            return Ok(at);
        }
        let (mut params, mut returns) = (Vec::new(), Vec::new());
        if !f.is_kernel {
            let mut place = |p: &Param| self.frame_bytes(f, p.size.into(), p.align.into());
            params = f.params.iter().map(&mut place).collect::<Result<_>>()?;
            returns = f.returns.iter().map(&mut place).collect::<Result<_>>()?;
        }
        let mut variables = Vec::new();
        for v in &f.variables {
            variables.push(match v.space {
                Space::Shared => self.shared_bytes(f, v)?,
                _ => self.frame_bytes(f, v.size, v.align.into())?,
            });
        }
        self.functions.push(Layout {
            function: f,
            places: vec![None; f.registers.len()],
            variables,
            params,
            returns,
            entry: 0,
            end: 0,
            fixups: Vec::new(),
            calls: Vec::new(),
        });
        Ok(self.functions.len() - 1)
    }

    fn frame_bytes(&mut self, f: &Function, size: u64, align: u64) -> Result<u64> {
        let at = self.frame.next_multiple_of(align.max(4));
        let end = at.checked_add(size).filter(|&e| e <= MAX_FRAME);
        self.frame = end.ok_or_else(|| {
            at_line(
                f,
                format!("more than {MAX_FRAME} bytes of local memory a thread"),
            )
        })?;
        Ok(at)
    }

    fn shared_bytes(&mut self, f: &Function, v: &Variable) -> Result<u64> {
        let limit = u64::from(super::super::launch::MAX_SHARED);
        let at = u64::from(self.program.shared_bytes).next_multiple_of(v.align.into());
        let end = at.checked_add(v.size).filter(|&e| e <= limit);
        let end =
            end.ok_or_else(|| at_line(f, format!("more than {limit} bytes of shared memory")))?;
        self.program.shared_bytes = end as u32;
        Ok(at)
    }

    fn function(&mut self, at: usize) -> Result<()> {
        let f = self.functions[at].function;
        let joins = flow::joins(f);
        let mut is_join = vec![false; f.body.len() + 1];
        joins.values().for_each(|&j| is_join[j] = true);
        let mut starts = Vec::with_capacity(f.body.len() + 1);
        self.current = Current {
            line: f.line,
            ..Current::default()
        };
        self.functions[at].entry = self.program.ops.len() as Pc;
        for (n, i) in f.body.iter().enumerate() {
            starts.push(self.program.ops.len() as Pc);
            let left = i.modifiers.iter().map(String::as_str).collect();
            let join = joins.get(&n).copied().unwrap_or(f.body.len());
            let mut ins = Ins {
                i,
                function: at,
                join,
                left,
            };
            if is_join[n] {
                self.current = Current {
                    line: i.line,
                    name: "(reconvergence)".into(),
                    ..Current::default()
                };
                self.emit(Kind::Join);
            }
            let guard = match i.guard {
                Some((register, negated)) => {
                    let operand = Operand::Reg(register);
                    let cond = self.cond(&ins, &operand)?;
                    Cond {
                        flip: if negated { !0 } else { 0 },
                        ..cond
                    }
                }
                None => Cond::ALWAYS,
            };
            self.current = Current {
                guard,
                line: i.line,
                name: i.name(),
                class: Class::Control,
            };
            self.instruction(&mut ins)?;
        }
        starts.push(self.program.ops.len() as Pc);
        let line = f.body.last().map_or(f.line, |i| i.line);
        self.current = Current {
            line,
            name: "(end of function)".into(),
            ..Current::default()
        };
        self.functions[at].end = self.emit(Kind::Join);
        if f.is_kernel {
            self.emit(Kind::Exit);
        }
        for (pc, fixup) in std::mem::take(&mut self.functions[at].fixups) {
            let resolve = |i: usize| {
                starts
                    .get(i)
                    .copied()
                    .ok_or_else(|| at_line(f, "a branch to no label".into()))
            };
            self.program.ops[pc as usize].kind = match fixup {
                Fixup::Jump(i) => Kind::Jump {
                    target: resolve(i)?,
                },
                Fixup::Branch { target, join } => Kind::Branch {
                    target: resolve(target)?,
                    join: resolve(join)?,
                },
                Fixup::Switch { targets, join } => {
                    let Kind::Switch { index, .. } = self.program.ops[pc as usize].kind else {
                        continue;
                    };
                    let table = targets.into_iter().map(resolve).collect::<Result<_>>()?;
                    Kind::Switch {
                        index,
                        table,
                        join: resolve(join)?,
                    }
                }
            };
        }
        Ok(())
    }

    pub(super) fn fix(&mut self, ins: &Ins<'_>, pc: Pc, fixup: Fixup) {
        self.functions[ins.function].fixups.push((pc, fixup));
    }

    pub(super) fn call_op(&mut self, ins: &Ins<'_>, callee: usize) {
        let pc = self.emit(Kind::Nothing);
        self.functions[ins.function].calls.push((pc, callee));
    }

    fn refuse_recursion(&self, at: usize, visits: &mut [Visit]) -> Result<()> {
        visits[at] = Visit::Open;
        for &(pc, callee) in &self.functions[at].calls {
            match visits[callee] {
                Visit::New => self.refuse_recursion(callee, visits)?,
                Visit::Open => {
                    let call = &self.program.info[pc as usize];
                    return Err(PtxError {
                        line: call.line,
                        column: 0,
                        text: format!("{} {}", call.name, self.functions[callee].function.name),
                        message: "recursive calls are not supported".into(),
                    });
                }
                Visit::Done => {}
            }
        }
        visits[at] = Visit::Done;
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Visit {
    New,
    Open,
    Done,
}

/// The module-scope name in an operand.
fn symbol(operand: &Operand) -> Option<&String> {
    match operand {
        Operand::Symbol(name, _) => Some(name),
        Operand::Address(base, _) => symbol(base),
        _ => None,
    }
}
