//! A thread block: its shared memory, its barriers, and the order in which its warps run.

use super::fault::Fail;
use super::lanes::{Isa, WARP};
use super::launch::Launch;
use super::op::Pc;
use super::pattern::{Pattern, REMEMBERED, SameOffsets, comparer};
use super::program::{Program, Special};
use super::request::{Survey, surveyor};
use super::shadow::SharedShadow;
use super::tally::Tally;
use super::warp::{State, Warp};
use super::{FaultKind, step};

/// A warp that does not wait hands over after so many instructions, so that warps may wait for one another's stores.
const QUANTUM: u64 = 10_000;
/// Under checks warps keep nearly in step, so that data used without a barrier are there, and found to be a race.
const CHECKED_QUANTUM: u64 = 8;
/// Barriers of a block.
pub const BARRIERS: usize = 16;

/// The barriers of a block.
#[derive(Clone, Debug)]
pub struct Barriers {
    all: [BarrierState; BARRIERS],
    /// What the participants of a barrier that is filling, and of the last full one, know (kept under checks).
    clocks: Vec<[Vec<u32>; 2]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct BarrierState {
    generation: u32,
    arrived: u32,
    /// Threads wanted, 0 for all of the block.
    wanted: u32,
    /// The reductions so far (count, none false, some true), and those of the last full barrier.
    reduction: [(u32, bool, bool); 2],
}

impl Barriers {
    fn new(warps: usize) -> Barriers {
        let clocks = vec![[vec![0; warps], vec![0; warps]]; BARRIERS];
        Barriers {
            all: [BarrierState::default(); BARRIERS],
            clocks,
        }
    }

    fn reset(&mut self) {
        self.all = [BarrierState::default(); BARRIERS];
        self.clocks.iter_mut().flatten().for_each(|c| c.fill(0));
    }

    /// How often barrier `id` has completed.
    pub fn generation(&self, id: u32) -> u32 {
        self.all[id as usize].generation
    }

    /// The reductions of the last completion: how many true, all true, any true.
    pub fn reduction(&self, id: u32) -> (u32, bool, bool) {
        self.all[id as usize].reduction[1]
    }

    /// Joins what the participants of the last completion knew into `clock`.
    pub fn learn(&self, id: u32, clock: &mut [u32]) {
        for (mine, &theirs) in clock.iter_mut().zip(&self.clocks[id as usize][1]) {
            *mine = (*mine).max(theirs);
        }
    }

    /// Threads arrive, `holds` of `voters` with a true predicate. `wanted` is 0 for all `alive` threads of the block.
    pub fn arrive(
        &mut self,
        id: u32,
        threads: u32,
        wanted: u32,
        votes: (u32, u32),
        clock: &[u32],
        alive: u32,
    ) {
        let b = &mut self.all[id as usize];
        if b.arrived == 0 {
            b.reduction[0] = (0, true, false);
        }
        b.arrived += threads;
        b.wanted = wanted;
        let (holds, voters) = votes;
        let (count, all, any) = b.reduction[0];
        b.reduction[0] = (count + holds, all && holds == voters, any || holds > 0);
        for (known, &mine) in self.clocks[id as usize][0].iter_mut().zip(clock) {
            *known = (*known).max(mine);
        }
        self.complete(id, alive);
    }

    fn complete(&mut self, id: u32, alive: u32) -> bool {
        let b = &mut self.all[id as usize];
        let wanted = if b.wanted == 0 { alive } else { b.wanted };
        if b.arrived == 0 || b.arrived < wanted {
            return false;
        }
        b.generation += 1;
        b.arrived = 0;
        b.reduction[1] = b.reduction[0];
        let [filling, full] = &mut self.clocks[id as usize];
        std::mem::swap(filling, full);
        filling.fill(0);
        true
    }
}

/// What one worker needs to run blocks one after the other.
pub struct Block<'a> {
    pub program: &'a Program,
    pub launch: &'a Launch<'a>,
    pub index: [u32; 3],
    pub shared: Vec<u128>,
    pub shadow: SharedShadow,
    pub barriers: Barriers,
    /// Threads that have not exited.
    pub alive: u32,
    pub tally: Tally,
    pub patterns: Vec<Pattern>,
    pub survey: Survey,
    pub same_offsets: SameOffsets,
}

/// Why a warp stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All its lanes exited or wait.
    Waits,
    /// Its quantum is over.
    Pause,
}

impl<'a> Block<'a> {
    pub fn new(program: &'a Program, launch: &'a Launch<'a>) -> (Block<'a>, Vec<Warp>) {
        let threads: u32 = launch.block.iter().product();
        let warps = threads.div_ceil(WARP as u32);
        let bytes = launch.shared_bytes as usize;
        let block = Block {
            program,
            launch,
            index: [0; 3],
            shared: vec![0; bytes.div_ceil(16)],
            shadow: SharedShadow::new(
                if launch.checks.any() { bytes } else { 0 },
                program.shared_granule,
            ),
            barriers: Barriers::new(warps as usize),
            alive: 0,
            tally: Tally::new(program.ops.len()),
            patterns: vec![Pattern::NONE; REMEMBERED],
            survey: surveyor(Isa::detect()),
            same_offsets: comparer(Isa::detect()),
        };
        (
            block,
            (0..warps)
                .map(|w| Warp::new(w, warps as usize, program))
                .collect(),
        )
    }

    /// Runs one block to its end.
    pub fn run(&mut self, warps: &mut [Warp], index: u64) -> Result<(), Fail> {
        let [gx, gy, _] = self.launch.grid.map(u64::from);
        self.index = [index % gx, index / gx % gy, index / (gx * gy)].map(|i| i as u32);
        self.alive = self.launch.block.iter().product();
        self.barriers.reset();
        let checked = self.launch.checks.any();
        // Clocks go on where the last block's ended.
        let mut begin = 0;
        if checked {
            self.shadow.reset();
            begin = warps.iter().map(Warp::step).max().unwrap_or(0);
            if begin > u32::MAX / 2 {
                begin = 0;
                self.shadow.forget();
            }
        }
        for warp in &mut *warps {
            let lanes = (self.alive - warp.id * WARP as u32).min(WARP as u32);
            warp.reset(
                u32::MAX >> (WARP as u32 - lanes),
                self.program.entry,
                checked.then_some(begin),
            );
            self.fill_specials(warp);
        }
        let run = match (checked, self.launch.checks.counters) {
            (false, false) => step::run::<false, false>,
            (false, true) => step::run::<false, true>,
            (true, _) => step::run::<true, true>,
        };
        let quantum = if checked { CHECKED_QUANTUM } else { QUANTUM };
        loop {
            let (mut progressed, mut left) = (false, false);
            for warp in &mut *warps {
                let before = warp.executed;
                // SAFETY: the warp was made for this block's program.
                let stop = unsafe { run(self, warp, quantum) }?;
                progressed |= warp.executed != before || stop == Stop::Pause;
                left |= warp.alive != 0;
            }
            if !left {
                return Ok(());
            }
            // Threads that exited are not waited for.
            let completed = (0..BARRIERS as u32).fold(false, |done, id| {
                self.barriers.complete(id, self.alive) | done
            });
            if !progressed && !completed {
                return Err(self.deadlock(warps));
            }
        }
    }

    fn fill_specials(&self, warp: &mut Warp) {
        for &(special, slot) in &self.program.specials {
            warp.regs[slot as usize] = special.lanes(self, warp.id);
            warp.valid[slot as usize] = !0;
        }
        for &(slot, ..) in &self.program.constants {
            warp.valid[slot as usize] = !0;
        }
    }

    /// No warp can go on: names the threads that wait, and what for.
    fn deadlock(&self, warps: &[Warp]) -> Fail {
        let mut places: Vec<(Pc, u32, u32, usize)> = Vec::new();
        for warp in warps {
            for s in warp
                .splits
                .iter()
                .filter(|s| matches!(s.state, State::AtBarrier { .. } | State::AtWarpSync { .. }))
            {
                match places.iter_mut().find(|p| p.0 == s.pc) {
                    Some(p) => p.1 += s.mask.count_ones(),
                    None => places.push((
                        s.pc,
                        s.mask.count_ones(),
                        warp.id,
                        s.mask.trailing_zeros() as usize,
                    )),
                }
            }
        }
        let waits: Vec<String> = places
            .iter()
            .map(|&(pc, threads, ..)| {
                let info = &self.program.info[pc as usize];
                format!(
                    "{threads} threads wait at {} in line {}",
                    info.name, info.line
                )
            })
            .collect();
        let (pc, _, warp, lane) = places.first().copied().unwrap_or((0, 0, 0, 0));
        let text = format!(
            "a barrier is never completed: {} ({} threads have not exited)",
            waits.join(", "),
            self.alive
        );
        self.fail(FaultKind::BarrierDivergence, pc, warp, lane, None, text)
    }

    /// Thread index of a lane.
    pub fn thread(&self, warp: u32, lane: usize) -> [u32; 3] {
        let [bx, by, _] = self.launch.block;
        let t = warp * WARP as u32 + lane as u32;
        [t % bx, t / bx % by, t / (bx * by)]
    }

    pub fn fail(
        &self,
        kind: FaultKind,
        pc: Pc,
        warp: u32,
        lane: usize,
        address: Option<u64>,
        text: String,
    ) -> Fail {
        let thread = self.thread(warp, lane);
        Box::new(super::Fault {
            kind,
            kernel: self.program.name.clone(),
            line: self.program.info[pc as usize].line,
            block: self.index,
            thread,
            address,
            text,
        })
    }
}

impl Special {
    /// Its value in every lane of a warp.
    fn lanes(self, block: &Block<'_>, warp: u32) -> super::lanes::Lanes {
        let launch = block.launch;
        let warps = launch.block.iter().product::<u32>().div_ceil(WARP as u32);
        super::lanes::Lanes(std::array::from_fn(|lane| {
            let l = lane as u32;
            match self {
                Special::Thread(axis) => block.thread(warp, lane)[axis],
                Special::Threads(axis) => launch.block[axis],
                Special::Block(axis) => block.index[axis],
                Special::Blocks(axis) => launch.grid[axis],
                Special::Lane => l,
                Special::Warp => warp,
                Special::Warps => warps,
                Special::MaskEqual => 1 << l,
                Special::MaskLess => (1 << l) - 1,
                Special::MaskLessEqual => u32::MAX >> (31 - l),
                Special::MaskGreater => !(u32::MAX >> (31 - l)),
                Special::MaskGreaterEqual => u32::MAX << l,
                Special::DynamicShared => launch.dynamic_shared,
                Special::TotalShared => launch.shared_bytes,
                Special::Value(v) => v,
            }
        }))
    }
}
