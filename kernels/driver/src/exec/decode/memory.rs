//! Loads, stores, atomics, asynchronous copies, address conversions.

use super::super::access::window;
use super::super::moves::moves;
use super::super::op::{Access, Address, Atomic, Cond, CopyAsync, Kind, Slot};
use super::operands::is_wide;
use super::update::{shared_update, update};
use super::{Decoder, Ins, Result};
use crate::ptx::{Operand, Space, Type};

/// Modifiers that change caching, scope or order, but no value here: execution is in order.
fn is_hint(m: &str) -> bool {
    matches!(
        m,
        "ca" | "cg"
            | "cs"
            | "cv"
            | "lu"
            | "wb"
            | "wt"
            | "nc"
            | "volatile"
            | "weak"
            | "relaxed"
            | "acquire"
            | "release"
            | "acq_rel"
            | "cta"
            | "cluster"
            | "gpu"
            | "sys"
            | "mmio"
            | "unified"
    ) || m.starts_with("L1::")
        || m.starts_with("L2::")
        || m.starts_with("level::")
}

impl<'a> Decoder<'a> {
    pub(super) fn memory(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        match ins.i.opcode.as_str() {
            "ld" | "ldu" => self.load_store(ins, true),
            "st" => self.load_store(ins, false),
            "atom" => self.atomic(ins, true),
            "red" => self.atomic(ins, false),
            "cp" => self.copy_async(ins),
            "cvta" => self.cvta(ins),
            "isspacep" => self.isspacep(ins),
            // A policy is an opaque number that only hints use.
            "createpolicy" => {
                ins.left.clear();
                let d = self.target(ins, Type::B64)?;
                let zero = self.constant(0, true);
                let f = self.isa.one(|a: u64| a);
                self.map(f, d, true, &[zero]);
                Ok(())
            }
            _ => {
                ins.left.clear();
                self.emit(Kind::Nothing);
                Ok(())
            }
        }
    }

    fn load_store(&mut self, ins: &mut Ins<'a>, load: bool) -> Result<()> {
        let space = ins.take_space();
        ins.ignore(is_hint);
        let count = ins.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
        let ty = ins.ty()?;
        if ty == Type::Pred || ty == Type::B128 {
            return Err(ins.error("loads and stores have 8 to 64 bits an element"));
        }
        let (registers, at) = if load { (0, 1) } else { (1, 0) };
        let address = self.address(ins, at, space)?;
        if address.space == Space::Param && !load {
            return Err(ins.error("a kernel's parameters cannot be written"));
        }
        let elements = self.elements(ins, registers)?;
        if elements.len() != count as usize {
            return Err(ins.error(format!("{} registers, {count} wanted", elements.len())));
        }
        let (mut regs, mut width) = ([0; 4], 0);
        for (reg, element) in regs.iter_mut().zip(elements) {
            let (slot, bytes) = match element {
                Operand::Reg(_) => {
                    let (slot, own) = self.any_register(ins, element)?;
                    (slot, own.bytes())
                }
                Operand::Sink if load => (self.new_slot(is_wide(ty)), ty.bytes().max(2)),
                _ if load => return Err(ins.error("a register is wanted")),
                constant => (self.value(ins, constant, ty)?, ty.bytes().max(2)),
            };
            if bytes < ty.bytes() {
                return Err(ins.error(format!(
                    "a register of {bytes} bytes for elements of {}",
                    ty.bytes()
                )));
            }
            if width != 0 && width != bytes {
                return Err(ins.error("the registers of a vector have one size"));
            }
            (*reg, width) = (slot, bytes);
        }
        if address.space == Space::Shared || address.space == Space::Generic {
            self.shared_access(ty.bytes());
        }
        let signed = ty.is_signed();
        let moves = moves(ty.bytes(), count, signed, width, load)
            .ok_or_else(|| ins.error("no registers for such elements"))?;
        let access = Box::new(Access {
            address,
            bytes: ty.bytes(),
            count,
            regs,
            register: width,
            signed,
            moves,
        });
        self.emit(if load {
            Kind::Load(access)
        } else {
            Kind::Store(access)
        });
        Ok(())
    }

    /// The race check needs to tell apart the smallest accesses.
    pub(super) fn shared_access(&mut self, bytes: u32) {
        self.program.shared_granule = self.program.shared_granule.min(bytes as usize);
    }

    fn cvta(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let to_space = ins.flag("to");
        let space = ins.take_space();
        let ty = ins.ty()?;
        if !is_wide(ty) {
            return Err(ins.error("generic addresses have 64 bits"));
        }
        let d = self.target(ins, ty)?;
        let a = self.source(ins, 1, ty)?;
        let w = self.constant(window(space), true);
        let f = if to_space {
            self.isa.two(|a: u64, w: u64| a.wrapping_sub(w))
        } else {
            self.isa.two(|a: u64, w: u64| a.wrapping_add(w))
        };
        self.map(f, d, true, &[a, w]);
        Ok(())
    }

    fn isspacep(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let space = ins.take_space();
        let p = self.pred(ins, ins.operand(0)?)?;
        let a = self.source(ins, 1, Type::U64)?;
        let number = match space {
            Space::Shared | Space::Local | Space::Param => window(space) >> 32,
            Space::Global => 256,
            _ => return Err(ins.error("a state space is wanted")),
        };
        let b = self.constant(number, true);
        let f = self.isa.test(|a: u64, b: u64| (a >> 32).min(256) == b);
        let c = Cond::ALWAYS;
        self.emit(Kind::Test {
            f,
            p,
            q: super::SINK,
            a,
            b,
            logic: super::super::op::Logic::And,
            c,
        });
        Ok(())
    }

    /// `atom` or `red`; of a vector, element by element.
    fn atomic(&mut self, ins: &mut Ins<'a>, returns: bool) -> Result<()> {
        let space = ins.take_space();
        let name = ins.one_of(
            &[
                "add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec",
            ]
            .map(|n| (n, n)),
        );
        let name = name.ok_or_else(|| ins.error("an atomic operation is missing"))?;
        ins.ignore(|m| is_hint(m) || m == "noftz");
        let count = ins.one_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
        let ty = ins.ty()?;
        let small = matches!(ty, Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2);
        let vector = match ty {
            _ if count == 1 => true,
            Type::F16 | Type::Bf16 => true,
            Type::F16x2 | Type::Bf16x2 => count <= 4,
            Type::F32 => count <= 4 && name == "add",
            _ => false,
        };
        if !vector || count > 1 && !matches!(name, "add" | "min" | "max") {
            return Err(ins.error(format!("atomic {name} is not supported for {count} {ty:?}")));
        }
        let update = update(name, ty)
            .filter(|_| count > 1 || !small || name == "add" || name == "cas")
            .ok_or_else(|| ins.error(format!("atomic {name} is not supported for {ty:?}")))?;
        let shared = shared_update(name, ty).unwrap_or(update);
        let first = usize::from(returns);
        let address = self.address(ins, first, space)?;
        if address.space == Space::Shared || address.space == Space::Generic {
            self.shared_access(ty.bytes());
        }
        let sources = self.elements(ins, first + 1)?;
        let targets = match returns {
            true => Some(self.elements(ins, 0)?),
            false => None,
        };
        if sources.len() != count || targets.is_some_and(|t| t.len() != count) {
            return Err(ins.error(format!("{count} registers are wanted")));
        }
        let mut old = Vec::new();
        for (i, source) in sources.iter().enumerate() {
            let a = self.value(ins, source, ty)?;
            let b = if name == "cas" {
                self.source(ins, first + 2, ty)?
            } else {
                a
            };
            let d = match targets.map(|t| &t[i]) {
                // A target of the first element may be a source of the next.
                Some(target) if count > 1 => {
                    let d = self.new_slot(false);
                    old.push((d, target));
                    Some(d)
                }
                Some(Operand::Sink) => Some(self.new_slot(is_wide(ty))),
                Some(target) => Some(self.register(ins, target, ty)?),
                None => None,
            };
            self.emit(Kind::Atomic(Box::new(Atomic {
                address: Address {
                    offset: address.offset + (i as u32 * ty.bytes()) as i64,
                    ..address
                },
                bytes: ty.bytes(),
                align: if i == 0 { count as u32 } else { 1 } * ty.bytes(),
                d,
                a,
                b,
                update,
                shared,
            })));
        }
        for (slot, target) in old.into_iter().filter(|(_, t)| **t != Operand::Sink) {
            let d = self.register(ins, target, ty)?;
            self.map(self.isa.one(|a: u32| a), d, false, &[slot]);
        }
        Ok(())
    }

    fn copy_async(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        if !ins.flag("async") {
            return Err(ins.error("only cp.async is supported"));
        }
        if ins.flag("commit_group") {
            self.emit(Kind::CommitAsync);
            return Ok(());
        }
        if ins.flag("wait_all") {
            self.emit(Kind::WaitAsync { pending: None });
            return Ok(());
        }
        if ins.flag("wait_group") {
            let n = match ins.operand(0)? {
                Operand::Int(n) => {
                    u32::try_from(*n).map_err(|_| ins.error("a number of groups is wanted"))?
                }
                _ => return Err(ins.error("a constant number of groups is wanted")),
            };
            self.emit(Kind::WaitAsync { pending: Some(n) });
            return Ok(());
        }
        let global_only = ins.left.contains(&"cg");
        ins.ignore(is_hint);
        if !(ins.flag("shared") | ins.flag("shared::cta") && ins.flag("global")) {
            return Err(ins.error("cp.async goes from global to shared memory"));
        }
        let target = self.address(ins, 0, Space::Shared)?;
        let source = self.address(ins, 1, Space::Global)?;
        let bytes = match ins.operand(2)? {
            Operand::Int(n @ (4 | 8 | 16)) if !global_only || *n == 16 => *n as u32,
            _ => return Err(ins.error("4, 8 or 16 bytes are copied (16 with .cg)")),
        };
        let (mut source_bytes, mut ignore) = (None, Cond::NEVER);
        if let Some(operand) = ins.i.operands.get(3) {
            let is_pred = matches!(operand, Operand::Not(_))
                || matches!(operand, Operand::Reg(r)
                    if self.functions[ins.function].function.registers[*r].ty == Type::Pred);
            match operand {
                _ if is_pred => ignore = self.cond(ins, operand)?,
                // A cache policy.
                Operand::Reg(_) if self.any_register(ins, operand)?.1.bytes() == 8 => {}
                _ => source_bytes = Some(self.value(ins, operand, Type::U32)?),
            }
        }
        self.emit(Kind::CopyAsync(Box::new(CopyAsync {
            target,
            source,
            bytes,
            source_bytes,
            ignore,
        })));
        Ok(())
    }
}

/// The constant slots of a list of registers, as instructions with fragments take them.
pub(super) fn slots<'a>(
    d: &mut Decoder<'a>,
    ins: &Ins<'a>,
    n: usize,
    count: usize,
    ty: Type,
) -> Result<Vec<Slot>> {
    let elements = d.elements(ins, n)?;
    if elements.len() != count {
        return Err(ins.error(format!(
            "operand {}: {} registers, {count} wanted",
            n + 1,
            elements.len()
        )));
    }
    elements.iter().map(|e| d.value(ins, e, ty)).collect()
}
