//! The interpreter's loop: runs a warp until its lanes wait, exit, or its quantum is over.

use super::FaultKind;
use super::block::{Block, Stop};
use super::fault::Fail;
use super::lanes::{Lanes, WARP};
use super::op::{Cond, Kind, Logic, Op, Part, Pc, Slot};
use super::warp::Warp;

/// Copies the lanes of a mask.
#[inline(always)]
fn blend(target: &mut [u32; WARP], source: &[u32; WARP], mask: u32) {
    for (i, (t, &s)) in target.iter_mut().zip(source).enumerate() {
        *t = if mask >> i & 1 != 0 { s } else { *t };
    }
}

/// A mask whose bit i is bit i / 2 of the lower or upper half of `mask`: the 32-bit words of 64-bit lanes.
fn spread(mask: u32, upper: bool) -> u32 {
    let half = if upper { mask >> 16 } else { mask & 0xffff };
    (0..16).fold(0, |out, i| out | ((half >> i & 1) * (3 << (2 * i))))
}

impl Warp {
    /// Writes a register's active lanes.
    fn store(&mut self, d: Slot, value: &[Lanes; 2], mask: u32, wide: bool) {
        if wide {
            blend(
                &mut self.regs[d as usize].0,
                &value[0].0,
                spread(mask, false),
            );
            blend(
                &mut self.regs[d as usize + 1].0,
                &value[1].0,
                spread(mask, true),
            );
        } else {
            blend(&mut self.regs[d as usize].0, &value[0].0, mask);
        }
    }

    #[inline(always)]
    pub fn cond(&self, c: Cond) -> u32 {
        self.preds[c.pred as usize] ^ c.flip
    }

    fn cond_valid(&self, c: Cond) -> u32 {
        self.valid_preds[c.pred as usize]
    }
}

/// Runs a warp.
///
/// # Safety
/// The warp was made for the block's program, whose operations hold slots of that program only.
pub unsafe fn run<const CHECK: bool, const COUNT: bool>(
    block: &mut Block<'_>,
    warp: &mut Warp,
    quantum: u64,
) -> Result<Stop, Fail> {
    let program = block.program;
    let ops: &[Op] = &program.ops;
    let start = warp.executed;
    let limit = block.launch.limit.min(start + quantum);
    let finish = |block: &mut Block<'_>, warp: &Warp, stop| {
        block.tally.executed += warp.executed - start;
        Ok(stop)
    };
    'split: loop {
        let Some(at) = warp.select(&block.barriers) else {
            return finish(block, warp, Stop::Waits);
        };
        let mut pc = warp.splits[at].pc as usize;
        let active = warp.splits[at].mask;
        loop {
            if warp.executed >= limit {
                warp.splits[at].pc = pc as Pc;
                if warp.executed >= block.launch.limit {
                    let text = format!(
                        "the warp has executed {} instructions, the limit of this launch",
                        limit
                    );
                    let lane = active.trailing_zeros() as usize;
                    return Err(block.fail(
                        FaultKind::InstructionLimit,
                        pc as Pc,
                        warp.id,
                        lane,
                        None,
                        text,
                    ));
                }
                return finish(block, warp, Stop::Pause);
            }
            warp.executed += 1;
            debug_assert!(pc < ops.len());
            // SAFETY: every path through a program ends in an operation that does not fall through.
            let op = unsafe { ops.get_unchecked(pc) };
            let mask = active & warp.cond(op.guard);
            if COUNT {
                let tally = &mut block.tally.ops[pc];
                tally.warps += 1;
                tally.lanes += u64::from(mask.count_ones());
                tally.off += u64::from((active & !mask).count_ones());
            }
            if CHECK {
                let unknown = active & !warp.cond_valid(op.guard);
                if unknown != 0 {
                    block.uninitialised_guard(warp, op, pc as Pc, unknown)?;
                }
            }
            match &op.kind {
                Kind::Map {
                    f,
                    d,
                    s,
                    wide,
                    part,
                } => {
                    let regs = warp.regs.as_mut_ptr();
                    // SAFETY: the slots lie in the register file, with the widths that `f` was made for; lanes that
                    // have exited may be overwritten.
                    unsafe {
                        // One by one: an array's `map` may stay a call.
                        let at = |s: Slot| regs.add(s as usize).cast_const();
                        let (s0, s1, s2, s3) = (at(s[0]), at(s[1]), at(s[2]), at(s[3]));
                        if mask == warp.alive {
                            f(regs.add(*d as usize), s0, s1, s2, s3);
                        } else {
                            let mut value = [Lanes::ZERO; 2];
                            f(value.as_mut_ptr(), s0, s1, s2, s3);
                            warp.store(*d, &value, mask, *wide);
                        }
                    }
                    if CHECK {
                        let mut valid = s.iter().fold(!0, |all, &s| all & warp.valid[s as usize]);
                        match part {
                            Part::Pack => warp.set_valid(d + 1, warp.valid[s[0] as usize], mask),
                            Part::Low => valid |= warp.valid[s[0] as usize + 1],
                            Part::Whole if *wide => warp.set_valid(d + 1, 0, mask),
                            Part::Whole => {}
                        }
                        warp.set_valid(*d, valid, mask);
                        block.note_read(warp, pc as Pc, mask & !valid)?;
                    }
                    pc += 1;
                }
                Kind::Test {
                    f,
                    p,
                    q,
                    a,
                    b,
                    logic,
                    c,
                } => {
                    let regs = warp.regs.as_ptr();
                    // SAFETY: as for `Map`.
                    let bits = unsafe { f(regs.add(*a as usize), regs.add(*b as usize)) };
                    let with = warp.cond(*c);
                    warp.set_pred(*p, logic.apply(bits, with), mask);
                    warp.set_pred(*q, logic.apply(!bits, with), mask);
                    if CHECK {
                        let valid =
                            warp.valid[*a as usize] & warp.valid[*b as usize] & warp.cond_valid(*c);
                        warp.set_valid_pred(*p, valid, mask);
                        warp.set_valid_pred(*q, valid, mask);
                        block.note_read(warp, pc as Pc, mask & !valid)?;
                    }
                    pc += 1;
                }
                Kind::Select { d, a, b, p, wide } => {
                    let choose = warp.cond(*p);
                    if CHECK {
                        let (va, vb) = (warp.valid[*a as usize], warp.valid[*b as usize]);
                        let valid = (va & choose | vb & !choose) & warp.cond_valid(*p);
                        warp.set_valid(*d, valid, mask);
                        block.note_read(warp, pc as Pc, mask & !valid)?;
                    }
                    for part in 0..=u32::from(*wide) {
                        let spread = |m| if *wide { spread(m, part == 1) } else { m };
                        let mut value = warp.regs[(b + part) as usize];
                        blend(
                            &mut value.0,
                            &warp.regs[(a + part) as usize].0,
                            spread(choose),
                        );
                        blend(
                            &mut warp.regs[(d + part) as usize].0,
                            &value.0,
                            spread(mask),
                        );
                    }
                    pc += 1;
                }
                Kind::Predicate { d, logic, a, b } => {
                    let bits = logic.apply(warp.cond(*a), warp.cond(*b));
                    warp.set_pred(*d, bits, mask);
                    if CHECK {
                        let valid = warp.cond_valid(*a) & warp.cond_valid(*b);
                        warp.set_valid_pred(*d, valid, mask);
                        block.note_read(warp, pc as Pc, mask & !valid)?;
                    }
                    pc += 1;
                }
                Kind::Carry {
                    f,
                    d,
                    s,
                    reads,
                    writes,
                    wide,
                } => {
                    let mut value = [Lanes::ZERO; 2];
                    let regs = warp.regs.as_ptr();
                    let carry = if *reads { warp.carry } else { 0 };
                    // SAFETY: as for `Map`.
                    let out = unsafe {
                        let at = |s: Slot| regs.add(s as usize);
                        f(value.as_mut_ptr(), at(s[0]), at(s[1]), at(s[2]), carry)
                    };
                    warp.store(*d, &value, mask, *wide);
                    if CHECK {
                        let valid = s.iter().fold(!0, |all, &s| all & warp.valid[s as usize]);
                        let valid = if *reads {
                            valid & warp.valid_carry
                        } else {
                            valid
                        };
                        warp.set_valid(*d, valid, mask);
                        block.note_read(warp, pc as Pc, mask & !valid)?;
                        if *writes {
                            warp.valid_carry = warp.valid_carry & !mask | valid & mask;
                        }
                    }
                    if *writes {
                        warp.carry = warp.carry & !mask | out & mask;
                    }
                    pc += 1;
                }
                Kind::Clock { d, wide } => {
                    let now = block.tally.executed + warp.executed - start;
                    for lane in (0..WARP).filter(|l| mask >> l & 1 != 0) {
                        warp.set(*d, lane, now, *wide);
                    }
                    if CHECK {
                        warp.set_valid(*d, !0, mask);
                    }
                    pc += 1;
                }
                Kind::Jump { target } => pc = *target as usize,
                Kind::Branch { target, join } => {
                    if mask == active {
                        pc = *target as usize;
                    } else if mask == 0 {
                        pc += 1;
                    } else {
                        warp.diverge(*join, &[(pc as Pc + 1, active & !mask), (*target, mask)]);
                        continue 'split;
                    }
                }
                Kind::Switch { index, table, join } => {
                    let mut sides: Vec<(Pc, u32)> = vec![(pc as Pc + 1, active & !mask)];
                    for lane in (0..WARP).filter(|l| mask >> l & 1 != 0) {
                        let i = warp.get32(*index, lane) as usize;
                        if CHECK && warp.valid[*index as usize] >> lane & 1 == 0 {
                            let text = "an uninitialised value decides a branch".into();
                            return Err(block.fail(
                                FaultKind::Uninitialised,
                                pc as Pc,
                                warp.id,
                                lane,
                                None,
                                text,
                            ));
                        }
                        let Some(&target) = table.get(i) else {
                            let text = format!("branch index {i} in a table of {}", table.len());
                            return Err(block.fail(
                                FaultKind::Trap,
                                pc as Pc,
                                warp.id,
                                lane,
                                None,
                                text,
                            ));
                        };
                        match sides.iter_mut().find(|s| s.0 == target) {
                            Some(side) => side.1 |= 1 << lane,
                            None => sides.push((target, 1 << lane)),
                        }
                    }
                    match sides.iter().find(|s| s.1 == active) {
                        Some(&(target, _)) => pc = target as usize,
                        None => {
                            warp.diverge(*join, &sides);
                            continue 'split;
                        }
                    }
                }
                Kind::Join => {
                    if warp.splits[at].join as usize == pc {
                        warp.dissolve(at);
                        continue 'split;
                    }
                    pc += 1;
                }
                Kind::Call { entry, end } => {
                    if mask == 0 {
                        pc += 1;
                        continue;
                    }
                    warp.call(pc as Pc + 1, *entry, *end, mask);
                    continue 'split;
                }
                Kind::Exit => {
                    if mask != 0 {
                        warp.splits[at].pc = pc as Pc + 1;
                        block.alive -= mask.count_ones();
                        warp.exit(mask);
                        continue 'split;
                    }
                    pc += 1;
                }
                Kind::Barrier(barrier) => {
                    if mask == 0 {
                        pc += 1;
                        continue;
                    }
                    warp.splits[at].pc = pc as Pc;
                    if !block.barrier::<CHECK>(warp, barrier, mask)? {
                        // It is executed again, and counts, when the barrier has completed.
                        warp.executed -= 1;
                        if COUNT {
                            let tally = &mut block.tally.ops[pc];
                            tally.warps -= 1;
                            tally.lanes -= u64::from(mask.count_ones());
                            tally.off -= u64::from((active & !mask).count_ones());
                        }
                        continue 'split;
                    }
                    pc += 1;
                }
                Kind::WarpSync { members } => {
                    let lane = active.trailing_zeros() as usize;
                    let members = warp.get32(*members, lane);
                    if CHECK {
                        block.check_members(warp, pc as Pc, members, mask, warp.alive)?;
                        warp.advance();
                    }
                    if members & warp.alive & !active == 0 {
                        pc += 1;
                        continue;
                    }
                    warp.splits[at].pc = pc as Pc;
                    warp.arrive_at_sync(members);
                    continue 'split;
                }
                Kind::Nothing => pc += 1,
                _ => {
                    if mask != 0 {
                        block.memory_or_collective::<CHECK, COUNT>(warp, op, pc as Pc, mask)?;
                    }
                    pc += 1;
                }
            }
        }
    }
}

impl Logic {
    fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Logic::And => a & b,
            Logic::Or => a | b,
            Logic::Xor => a ^ b,
        }
    }
}

impl Block<'_> {
    /// Everything that touches memory or other lanes; at least one lane is active.
    #[inline(never)]
    fn memory_or_collective<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        op: &Op,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        match &op.kind {
            Kind::Load(access) => self.transfer::<CHECK, COUNT, false>(warp, access, pc, mask),
            Kind::Store(access) => self.transfer::<CHECK, COUNT, true>(warp, access, pc, mask),
            Kind::Atomic(atomic) => self.atomic::<CHECK, COUNT>(warp, atomic, pc, mask),
            Kind::CopyAsync(copy) => self.copy_async::<CHECK, COUNT>(warp, copy, pc, mask),
            Kind::CommitAsync => {
                if CHECK {
                    warp.pending.commit(mask);
                }
                Ok(())
            }
            Kind::WaitAsync { pending } => {
                if CHECK {
                    self.wait_async(warp, *pending, mask)
                } else {
                    Ok(())
                }
            }
            Kind::LoadMatrix(matrix) => self.load_matrix::<CHECK, COUNT>(warp, matrix, pc, mask),
            Kind::StoreMatrix(matrix) => self.store_matrix::<CHECK, COUNT>(warp, matrix, pc, mask),
            Kind::MoveMatrix { d, a } => self.move_matrix(warp, [*d, *a], pc, mask),
            Kind::Multiply(multiply) => self.multiply::<CHECK, COUNT>(warp, multiply, pc, mask),
            Kind::LoadFragment(f) => self.load_fragment::<CHECK, COUNT>(warp, f, pc, mask),
            Kind::StoreFragment(f) => self.store_fragment::<CHECK, COUNT>(warp, f, pc, mask),
            Kind::Trap => {
                let lane = mask.trailing_zeros() as usize;
                let text = match self.program.info[pc as usize].name.as_str() {
                    "trap" => "trap".into(),
                    name => {
                        format!("{name} of an address that is no function with these parameters")
                    }
                };
                Err(self.fail(FaultKind::Trap, pc, warp.id, lane, None, text))
            }
            Kind::AssertFail { frame } => Err(self.assertion(warp, *frame, pc, mask)),
            _ => self.collective::<CHECK>(warp, &op.kind, pc, mask),
        }
    }
}
