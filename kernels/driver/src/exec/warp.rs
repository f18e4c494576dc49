//! A warp: registers, and the lanes' places in the program.
//!
//! Lanes that are together form a split. A divergent branch leaves its split waiting at the branch's immediate
//! post-dominator and makes a child for each side that has further to go; a split that reaches the place where its
//! parent waits dissolves into it. Only splits without children run. One that waits at a barrier lets its siblings
//! run first.

use super::block::Barriers;
use super::lanes::Lanes;
use super::op::{Pc, Pred, Slot};
use super::pending::Pending;
use super::program::Program;

/// The place where a kernel's outermost split is joined: none.
pub const NOWHERE: Pc = Pc::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    /// At a barrier that had completed `generation` times when the split arrived.
    AtBarrier {
        id: u32,
        generation: u32,
    },
    /// At `bar.warp.sync` for these lanes.
    AtWarpSync {
        members: u32,
    },
    Gone,
}

#[derive(Clone, Copy, Debug)]
pub struct Split {
    pub pc: Pc,
    /// Where it joins its parent.
    pub join: Pc,
    pub mask: u32,
    parent: usize,
    children: u32,
    pub state: State,
}

pub struct Warp {
    pub id: u32,
    pub regs: Vec<Lanes>,
    pub preds: Vec<u32>,
    /// Lanes that are initialised, for every slot and predicate (kept under checks).
    pub valid: Vec<u32>,
    pub valid_preds: Vec<u32>,
    pub carry: u32,
    pub valid_carry: u32,
    /// Local memory and parameters of device functions, word by word for all lanes.
    pub frame: Vec<Lanes>,
    pub valid_frame: Vec<u32>,
    /// Lanes that have not exited.
    pub alive: u32,
    pub splits: Vec<Split>,
    pub current: usize,
    /// Warp-instructions executed.
    pub executed: u64,
    pub pending: Pending,
    /// What this warp knows of every warp's clock (kept under checks).
    pub clock: Vec<u32>,
    /// Accesses to shared memory before it are ordered before this warp (see [`super::shadow`]).
    pub horizon: u64,
}

impl Warp {
    pub fn new(id: u32, warps: usize, program: &Program) -> Warp {
        let (slots, preds, frame) = (
            program.slots as usize,
            program.preds as usize,
            program.frame_words as usize,
        );
        let mut warp = Warp {
            id,
            regs: vec![Lanes::ZERO; slots],
            preds: vec![0; preds],
            valid: vec![0; slots],
            valid_preds: vec![0; preds],
            carry: 0,
            valid_carry: 0,
            frame: vec![Lanes::ZERO; frame],
            valid_frame: vec![0; frame],
            alive: 0,
            splits: Vec::new(),
            current: 0,
            executed: 0,
            pending: Pending::default(),
            clock: vec![0; warps],
            horizon: 0,
        };
        for (slot, bits, wide) in &program.constants {
            warp.fill(*slot, *bits, *wide);
        }
        warp
    }

    /// Prepares for a new block: all lanes at the entry. Constants stay, they are never written. Under checks the
    /// clocks begin at a step.
    pub fn reset(&mut self, lanes: u32, entry: Pc, checked: Option<u32>) {
        let root = Split {
            pc: entry,
            join: NOWHERE,
            mask: lanes,
            parent: usize::MAX,
            children: 0,
            state: State::Ready,
        };
        self.splits.clear();
        self.splits.push(root);
        (self.current, self.alive, self.executed, self.carry) = (0, lanes, 0, 0);
        self.preds[super::op::TRUE as usize] = !0;
        if let Some(begin) = checked {
            self.valid_carry = 0;
            self.valid.fill(0);
            self.valid_preds.fill(0);
            self.valid_frame.fill(0);
            self.valid_preds[super::op::TRUE as usize] = !0;
            self.pending = Pending::default();
            self.clock.fill(begin);
            self.advance();
        }
    }

    /// The step of its own clock.
    pub fn step(&self) -> u32 {
        self.clock[self.id as usize]
    }

    /// A new step of its own clock: what it did before, and what it has learnt, is ordered.
    pub fn advance(&mut self) {
        self.clock[self.id as usize] += 1;
        self.horizon = super::shadow::horizon(self.id, &self.clock);
    }

    /// Writes the same bits to all lanes of a register.
    pub fn fill(&mut self, slot: Slot, bits: u64, wide: bool) {
        for lane in 0..32 {
            self.set(slot, lane, bits, wide);
        }
    }

    pub fn get32(&self, slot: Slot, lane: usize) -> u32 {
        self.regs[slot as usize].0[lane]
    }

    pub fn get64(&self, slot: Slot, lane: usize) -> u64 {
        let (part, i) = (lane / 16, lane % 16 * 2);
        let words = &self.regs[slot as usize + part].0;
        u64::from(words[i]) | u64::from(words[i + 1]) << 32
    }

    pub fn get(&self, slot: Slot, lane: usize, wide: bool) -> u64 {
        if wide {
            self.get64(slot, lane)
        } else {
            self.get32(slot, lane).into()
        }
    }

    pub fn set(&mut self, slot: Slot, lane: usize, bits: u64, wide: bool) {
        if wide {
            let (part, i) = (lane / 16, lane % 16 * 2);
            let words = &mut self.regs[slot as usize + part].0;
            (words[i], words[i + 1]) = (bits as u32, (bits >> 32) as u32);
        } else {
            self.regs[slot as usize].0[lane] = bits as u32;
        }
    }

    /// Writes a predicate's lanes under a mask.
    pub fn set_pred(&mut self, pred: Pred, bits: u32, mask: u32) {
        let p = &mut self.preds[pred as usize];
        *p = *p & !mask | bits & mask;
    }

    /// Marks a register's lanes under a mask as initialised or not.
    pub fn set_valid(&mut self, slot: Slot, bits: u32, mask: u32) {
        let v = &mut self.valid[slot as usize];
        *v = *v & !mask | bits & mask;
    }

    pub fn set_valid_pred(&mut self, pred: Pred, bits: u32, mask: u32) {
        let v = &mut self.valid_preds[pred as usize];
        *v = *v & !mask | bits & mask;
    }

    /// Chooses a split that can run: the youngest. `None` if all wait or none is left.
    pub fn select(&mut self, barriers: &Barriers) -> Option<usize> {
        while self.splits.last().is_some_and(|s| s.state == State::Gone) {
            self.splits.pop();
        }
        self.current = (0..self.splits.len())
            .rev()
            .find(|&i| Self::is_ready(&self.splits[i], barriers))?;
        Some(self.current)
    }

    fn is_ready(s: &Split, barriers: &Barriers) -> bool {
        s.children == 0
            && match s.state {
                State::Ready => true,
                State::AtBarrier { id, generation } => barriers.generation(id) != generation,
                State::AtWarpSync { .. } | State::Gone => false,
            }
    }

    /// Lanes that wait at `bar.warp.sync`.
    fn waiting_for_sync(&self) -> u32 {
        let waiting = self
            .splits
            .iter()
            .filter(|s| matches!(s.state, State::AtWarpSync { .. }));
        waiting.fold(0, |all, s| all | s.mask)
    }

    /// The current split waits at `bar.warp.sync` for the living lanes of `members`.
    pub fn arrive_at_sync(&mut self, members: u32) {
        self.splits[self.current].state = State::AtWarpSync { members };
        self.release_sync();
    }

    fn release_sync(&mut self) {
        let absent = self.alive & !self.waiting_for_sync();
        for s in &mut self.splits {
            if matches!(s.state, State::AtWarpSync { members } if members & absent == 0) {
                s.state = State::Ready;
                s.pc += 1;
            }
        }
    }

    /// Parts the current split over several targets; its lanes meet again at `join`.
    pub fn diverge(&mut self, join: Pc, sides: &[(Pc, u32)]) {
        let at = self.current;
        let beside = self.splits[at].join == join && join != NOWHERE;
        let parent = if beside { self.splits[at].parent } else { at };
        let mut kept = false;
        for &(pc, mask) in sides.iter().filter(|&&(pc, mask)| mask != 0 && pc != join) {
            if beside && !kept {
                (self.splits[at].pc, self.splits[at].mask, kept) = (pc, mask, true);
                continue;
            }
            self.splits.push(Split {
                pc,
                join,
                mask,
                parent,
                children: 0,
                state: State::Ready,
            });
            self.splits[parent].children += 1;
        }
        if beside && !kept {
            self.dissolve(at);
        } else if !beside {
            self.splits[at].pc = join;
        }
    }

    /// Enters a function: the current split waits at `back`, a child with the lanes of `mask` runs from `entry` to
    /// `end`.
    pub fn call(&mut self, back: Pc, entry: Pc, end: Pc, mask: u32) {
        let at = self.current;
        self.splits[at].pc = back;
        self.splits[at].children += 1;
        self.splits.push(Split {
            pc: entry,
            join: end,
            mask,
            parent: at,
            children: 0,
            state: State::Ready,
        });
    }

    /// The split's lanes have reached the place where its parent waits, or have all exited.
    pub fn dissolve(&mut self, at: usize) {
        self.splits[at].state = State::Gone;
        let parent = self.splits[at].parent;
        if parent != usize::MAX {
            self.splits[parent].children -= 1;
            if self.splits[parent].children == 0 && self.splits[parent].mask == 0 {
                self.dissolve(parent);
            }
        }
    }

    /// Ends lanes for good.
    pub fn exit(&mut self, mask: u32) {
        self.alive &= !mask;
        for i in 0..self.splits.len() {
            let s = &mut self.splits[i];
            s.mask &= !mask;
            if s.mask == 0 && s.children == 0 && s.state != State::Gone {
                self.dissolve(i);
            }
        }
        self.release_sync();
    }
}
