//! What the checks know of a block's shared memory: initialised or not, who wrote and read it last, and which bytes
//! an asynchronous copy will still change.
//!
//! Time is a vector clock over the block's warps: a barrier joins what its participants know, and starts a new step
//! of each one's own clock, as `bar.warp.sync` does. An access races with an earlier one of another thread if nothing
//! orders them: the earlier one's warp was then at a step that this warp does not yet know to be over. Clocks go on
//! from block to block, so that nothing need be forgotten in between.
//!
//! A warp's horizon is the step up to which it knows every warp's past. Accesses before it cannot race with the warp,
//! so that for most requests one comparison a cell is enough, in a few vector instructions for all lanes.

mod runs;

use super::access::{Addresses, lanes};
use super::lanes::{Isa, for_isa};
pub use runs::Run;
use runs::{Cells, Note, note_reads, note_writes};

/// An access: from the highest bits the step of its warp's clock (32), operation (21), flag (1), thread (10). The
/// step 0 is before everything. The flag of a write says that it was atomic, that of a read that other threads of the
/// warp read with this one.
type Stamp = u64;
const THREAD: u64 = 0x3ff;
const FLAG: u64 = 1 << 10;
const PC_SHIFT: u32 = 11;
/// Operations of a program that may be checked.
pub const MAX_OPS: usize = 1 << (32 - PC_SHIFT);

/// State of a cell: initialised, and twice the number of copies under way.
const VALID: u16 = 1;
const UNDER_WAY: u16 = 2;

/// The shadow of a block's shared memory, in cells of 1, 2 or 4 bytes: the smallest access of the program.
pub struct SharedShadow {
    cells: Cells,
    /// Binary logarithm of a cell's bytes.
    cell: u32,
    read_runs: Note,
    write_runs: Note,
}

/// Who accesses, and what it knows.
#[derive(Clone, Copy)]
pub struct Actor<'a> {
    pub warp: u32,
    pub clock: &'a [u32],
    /// Stamps below are ordered before this access; all are if nobody looks for races.
    pub horizon: Stamp,
    pub pc: u32,
}

/// The earlier access that an access races with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub thread: u32,
    pub wrote: bool,
    /// Its operation.
    pub pc: u32,
}

/// What an access meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Race(Conflict),
    /// An asynchronous copy under way.
    Copy,
}

/// The horizon of a warp that knows these clocks.
pub fn horizon(warp: u32, clock: &[u32]) -> Stamp {
    let own = warp as usize;
    let known = |(w, &c): (usize, &u32)| if w == own { c - 1 } else { c };
    let floor = clock.iter().enumerate().map(known).min().unwrap_or(0);
    (u64::from(floor) + 1) << 32
}

impl Actor<'_> {
    fn stamp(&self, lane: usize) -> Stamp {
        let step = u64::from(self.clock[self.warp as usize]);
        let thread = u64::from(self.warp) * 32 + lane as u64;
        step << 32 | u64::from(self.pc) << PC_SHIFT | thread
    }

    /// Nothing orders `earlier` before this warp, whatever its thread.
    #[cold]
    fn unordered(&self, earlier: Stamp) -> bool {
        let warp = ((earlier & THREAD) / 32) as usize;
        let other = u64::from(warp != self.warp as usize);
        earlier >> 32 >= u64::from(self.clock[warp]) + other
    }

    /// A write races with an access of stamp `mine`, unless both are atomic.
    #[inline(always)]
    fn races_with_write(&self, write: Stamp, mine: Stamp) -> bool {
        write >= self.horizon
            && (write ^ mine) & THREAD != 0
            && write & mine & FLAG == 0
            && self.unordered(write)
    }

    /// A read races with a write of stamp `mine`.
    #[inline(always)]
    fn races_with_read(&self, read: Stamp, mine: Stamp) -> bool {
        read >= self.horizon
            && ((read ^ mine) & THREAD != 0 || read & FLAG != 0)
            && self.unordered(read)
    }
}

fn conflict(stamp: Stamp, wrote: bool) -> Trouble {
    Trouble::Race(Conflict {
        thread: (stamp & THREAD) as u32,
        wrote,
        pc: (stamp as u32) >> PC_SHIFT,
    })
}

impl SharedShadow {
    pub fn new(bytes: usize, granule: usize) -> SharedShadow {
        let (n, isa) = (bytes.div_ceil(granule), Isa::detect());
        SharedShadow {
            cells: Cells::new(n),
            cell: granule.trailing_zeros(),
            read_runs: for_isa!(isa, note_reads(cells: &mut Cells, runs: &[Run], horizon: Stamp) -> bool),
            write_runs: for_isa!(isa, note_writes(cells: &mut Cells, runs: &[Run], horizon: Stamp) -> bool),
        }
    }

    /// For a new block, whose clocks go on from the last one's.
    pub fn reset(&mut self) {
        self.cells.state.fill(0);
    }

    /// For clocks that begin at 0 again.
    pub fn forget(&mut self) {
        let cells = &mut self.cells;
        for stamps in [&mut cells.writes, &mut cells.recent, &mut cells.earlier] {
            stamps.fill(0);
        }
    }

    fn range(&self, at: usize, bytes: usize) -> std::ops::Range<usize> {
        at >> self.cell..(at + bytes).div_ceil(1 << self.cell)
    }

    /// Consecutive lanes from `lane` on that access `each` bytes, `bytes` in all.
    #[inline(always)]
    pub fn row(&self, at: usize, bytes: usize, each: usize, lane: usize, actor: &Actor<'_>) -> Run {
        Run {
            at: (at >> self.cell) as u32,
            cells: (bytes >> self.cell) as u32,
            first: actor.stamp(lane),
            shift: each.trailing_zeros() - self.cell,
        }
    }

    /// Several lanes of the warp, `lane` among them, that read the same bytes.
    #[inline(always)]
    pub fn together(&self, at: usize, bytes: usize, lane: usize, actor: &Actor<'_>) -> Run {
        Run {
            at: (at >> self.cell) as u32,
            cells: (bytes >> self.cell) as u32,
            first: actor.stamp(lane) | FLAG,
            shift: u64::BITS - 1,
        }
    }

    /// Notes reads. False if they need to be looked at lane by lane: there may be a race, or something is not
    /// initialised.
    #[inline]
    pub fn read_runs(&mut self, runs: &[Run], actor: &Actor<'_>) -> bool {
        // SAFETY: the function was chosen for this processor.
        unsafe { (self.read_runs)(&mut self.cells, runs, actor.horizon) }
    }

    /// Notes writes of initialised values; as [`SharedShadow::read_runs`].
    #[inline]
    pub fn write_runs(&mut self, runs: &[Run], actor: &Actor<'_>) -> bool {
        // SAFETY: as in `read_runs`.
        unsafe { (self.write_runs)(&mut self.cells, runs, actor.horizon) }
    }

    /// Notes reads of the lanes of a mask: those whose data are initialised, or what a lane meets.
    pub fn read_lanes(
        &mut self,
        a: &Addresses,
        mask: u32,
        bytes: usize,
        actor: &Actor<'_>,
    ) -> Result<u32, (usize, Trouble)> {
        let mut valid = 0;
        for l in lanes(mask) {
            let known = self
                .read(a[l] as usize, bytes, actor, l)
                .map_err(|t| (l, t))?;
            valid |= u32::from(known) << l;
        }
        Ok(valid)
    }

    /// Notes a read of one lane: whether all of it is initialised, or what it meets.
    #[inline(always)]
    pub fn read(
        &mut self,
        at: usize,
        bytes: usize,
        actor: &Actor<'_>,
        lane: usize,
    ) -> Result<bool, Trouble> {
        let mine = actor.stamp(lane);
        let mut valid = true;
        for i in self.range(at, bytes) {
            let (write, state) = (self.cells.writes[i], self.cells.state[i]);
            valid &= state & VALID != 0;
            if state >= UNDER_WAY {
                return Err(Trouble::Copy);
            }
            if actor.races_with_write(write, mine) {
                return Err(conflict(write, true));
            }
            let old = self.cells.recent[i];
            if (old ^ mine) & (THREAD | FLAG) != 0 {
                self.cells.earlier[i] = old;
            }
            self.cells.recent[i] = mine;
        }
        Ok(valid)
    }

    /// Notes a write, or what it meets. `same` says that the bytes do not change: lanes of one instruction may store
    /// the same value.
    #[inline(always)]
    pub fn write(
        &mut self,
        at: usize,
        bytes: usize,
        how: Write,
        actor: &Actor<'_>,
        lane: usize,
    ) -> Result<(), Trouble> {
        let mine = actor.stamp(lane) | if how.atomic { FLAG } else { 0 };
        for i in self.range(at, bytes) {
            let (write, state) = (self.cells.writes[i], self.cells.state[i]);
            if state >= UNDER_WAY {
                return Err(Trouble::Copy);
            }
            if actor.races_with_write(write, mine) {
                let by_this = (write as u32) >> PC_SHIFT == actor.pc;
                if !(how.same && by_this) {
                    return Err(conflict(write, true));
                }
            }
            for read in [self.cells.recent[i], self.cells.earlier[i]] {
                if actor.races_with_read(read, mine) {
                    return Err(conflict(read, false));
                }
            }
            self.cells.writes[i] = mine;
            self.cells.state[i] = u16::from(how.valid);
        }
        Ok(())
    }

    /// All of these bytes are initialised.
    pub fn is_valid(&self, at: usize, bytes: usize) -> bool {
        self.cells.state[self.range(at, bytes)]
            .iter()
            .all(|&s| s & VALID != 0)
    }

    /// A copy into these bytes begins, or meets a read that nothing orders before it: what was read might be the copy's.
    pub fn begin_copy(
        &mut self,
        at: usize,
        bytes: usize,
        actor: &Actor<'_>,
        lane: usize,
    ) -> Result<(), Trouble> {
        let mine = actor.stamp(lane);
        for i in self.range(at, bytes) {
            for read in [self.cells.recent[i], self.cells.earlier[i]] {
                if actor.races_with_read(read, mine) {
                    return Err(conflict(read, false));
                }
            }
            self.cells.state[i] = self.cells.state[i].saturating_add(UNDER_WAY);
        }
        Ok(())
    }

    /// A copy into these bytes lands.
    pub fn end_copy(&mut self, at: usize, bytes: usize) {
        let range = self.range(at, bytes);
        for state in &mut self.cells.state[range] {
            *state -= if *state >= UNDER_WAY { UNDER_WAY } else { 0 };
        }
    }
}

/// How a write is made.
#[derive(Clone, Copy)]
pub struct Write {
    /// What is written is initialised.
    pub valid: bool,
    /// The bytes do not change.
    pub same: bool,
    pub atomic: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor<'a>(warp: u32, clock: &'a [u32], pc: u32) -> Actor<'a> {
        Actor {
            warp,
            clock,
            horizon: horizon(warp, clock),
            pc,
        }
    }

    const PLAIN: Write = Write {
        valid: true,
        same: false,
        atomic: false,
    };

    /// Rows and single accesses tell the same of every order of two accesses by two warps.
    #[test]
    fn rows_agree_with_single_lanes() {
        for (first_writes, second_writes, same_lane, barrier) in (0..16).map(|i| {
            let bit = |b: u32| i >> b & 1 != 0;
            (bit(0), bit(1), bit(2), bit(3))
        }) {
            let run = |rows: bool| -> bool {
                let mut shadow = SharedShadow::new(256, 4);
                let mut clocks = [[1, 0], [0, 1]];
                for at in (0..256).step_by(4) {
                    shadow.cells.state[at / 4] = VALID;
                }
                let mut access = |warp: usize, writes: bool, lane: usize, clock: &[u32]| {
                    let actor = actor(warp as u32, clock, 7);
                    let at = 64;
                    if rows {
                        let run = shadow.row(at, 128 - 4 * lane, 4, lane, &actor);
                        return if writes {
                            shadow.write_runs(&[run], &actor)
                        } else {
                            shadow.read_runs(&[run], &actor)
                        };
                    }
                    (lane..32).all(|l| {
                        let at = at + 4 * (l - lane);
                        if writes {
                            shadow.write(at, 4, PLAIN, &actor, l).is_ok()
                        } else {
                            shadow.read(at, 4, &actor, l).is_ok()
                        }
                    })
                };
                assert!(access(0, first_writes, 0, &clocks[0]));
                if barrier {
                    clocks = [[2, 1], [1, 2]];
                }
                let second = usize::from(!same_lane);
                access(second, second_writes, 0, &clocks[second])
            };
            let clean = barrier || same_lane || !(first_writes || second_writes);
            let case = (first_writes, second_writes, same_lane, barrier);
            assert_eq!((run(true), run(false)), (clean, clean), "{case:?}");
        }
    }

    #[test]
    fn readers_together_and_two_readers_are_remembered() {
        let clock = [1];
        let (read, write) = (actor(0, &clock, 1), actor(0, &clock, 2));
        let mut shadow = SharedShadow::new(64, 4);
        shadow.write(0, 4, PLAIN, &actor(0, &clock, 0), 3).unwrap();
        let later = [2];
        let (read, write) = (
            Actor {
                clock: &later,
                horizon: horizon(0, &later),
                ..read
            },
            Actor {
                clock: &later,
                horizon: horizon(0, &later),
                ..write
            },
        );
        // A broadcast read of the warp: even the lane in its stamp meets the others' reads.
        let together = shadow.together(0, 4, 0, &read);
        assert!(shadow.read_runs(&[together], &read));
        let met = Trouble::Race(Conflict {
            thread: 0,
            wrote: false,
            pc: 1,
        });
        assert_eq!(shadow.write(0, 4, PLAIN, &write, 0), Err(met));
        // Two lanes one after the other: each meets the other.
        shadow.write(4, 4, PLAIN, &write, 3).unwrap();
        assert!(shadow.read(4, 4, &read, 3).unwrap());
        assert_eq!(
            shadow.read(4, 4, &read, 5),
            Err(Trouble::Race(Conflict {
                thread: 3,
                wrote: true,
                pc: 2
            }))
        );
    }

    #[test]
    fn a_copy_under_way_is_met() {
        let clock = [1];
        let me = actor(0, &clock, 0);
        let mut shadow = SharedShadow::new(64, 2);
        shadow.begin_copy(8, 16, &me, 0).unwrap();
        assert_eq!(shadow.read(22, 2, &me, 0), Err(Trouble::Copy));
        assert_eq!(shadow.read(24, 2, &me, 0), Ok(false));
        assert_eq!(shadow.read(4, 8, &me, 0), Err(Trouble::Copy));
        assert_eq!(shadow.write(8, 2, PLAIN, &me, 0), Err(Trouble::Copy));
        shadow.end_copy(8, 16);
        assert_eq!(shadow.read(8, 2, &me, 0), Ok(false));
        assert_eq!(shadow.write(8, 2, PLAIN, &me, 0), Ok(()));
        assert_eq!(shadow.read(8, 2, &me, 0), Ok(true));
    }
}
