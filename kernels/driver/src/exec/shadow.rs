//! What the checks know of a block's shared memory: initialised or not, who wrote and read it last, and which bytes
//! an asynchronous copy will still change.
//!
//! Time is a vector clock over the block's warps: a barrier joins what its participants know, and starts a new step
//! of each one's own clock, as `bar.warp.sync` does. An access races with an earlier one of another thread if nothing
//! orders them: the earlier one's warp was then at a step that this warp does not yet know to be over.

/// A thread's access: step of its warp's clock, thread, operation, whether atomic. The clock 0 is before everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp {
    clock: u32,
    pc: u32,
    thread: u16,
    atomic: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    write: Stamp,
    /// Two readers of different threads suffice: a writer is at most one of them.
    reads: [Stamp; 2],
    valid: bool,
    /// Copies under way.
    pending: u16,
}

/// The shadow of a block's shared memory, in granules of 1, 2 or 4 bytes: the smallest access of the program.
pub struct SharedShadow {
    cells: Vec<Cell>,
    granule: usize,
}

/// Who accesses, and what it knows.
#[derive(Clone, Copy)]
pub struct Actor<'a> {
    pub warp: u32,
    pub lane: usize,
    pub clock: &'a [u32],
    pub pc: u32,
    pub atomic: bool,
    /// Looks for races.
    pub races: bool,
}

/// The earlier access that an access races with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub thread: u16,
    pub wrote: bool,
    /// Its operation.
    pub pc: u32,
}

impl Actor<'_> {
    fn stamp(&self) -> Stamp {
        let thread = (self.warp * 32) as u16 + self.lane as u16;
        Stamp {
            clock: self.clock[self.warp as usize],
            pc: self.pc,
            thread,
            atomic: self.atomic,
        }
    }

    /// Nothing orders `earlier` before this access of another thread.
    fn races_with(&self, earlier: Stamp) -> bool {
        let thread = (self.warp * 32) as u16 + self.lane as u16;
        let warp = (earlier.thread / 32) as usize;
        earlier.clock != 0
            && earlier.thread != thread
            && !(earlier.atomic && self.atomic)
            && earlier.clock >= self.clock[warp] + u32::from(warp != self.warp as usize)
    }
}

impl SharedShadow {
    pub fn new(bytes: usize, granule: usize) -> SharedShadow {
        SharedShadow {
            cells: vec![Cell::default(); bytes.div_ceil(granule)],
            granule,
        }
    }

    pub fn reset(&mut self) {
        self.cells.fill(Cell::default());
    }

    fn range(&mut self, offset: usize, bytes: usize) -> &mut [Cell] {
        &mut self.cells[offset / self.granule..(offset + bytes).div_ceil(self.granule)]
    }

    /// Notes a read: whether all of it is initialised, or the race.
    pub fn read(
        &mut self,
        offset: usize,
        bytes: usize,
        actor: &Actor<'_>,
    ) -> Result<bool, Conflict> {
        let stamp = actor.stamp();
        let mut valid = true;
        for cell in self.range(offset, bytes) {
            valid &= cell.valid;
            if actor.races && actor.races_with(cell.write) {
                return Err(Conflict {
                    thread: cell.write.thread,
                    wrote: true,
                    pc: cell.write.pc,
                });
            }
            if cell.reads[0].thread != stamp.thread && cell.reads[0].clock != 0 {
                cell.reads[1] = cell.reads[0];
            }
            cell.reads[0] = stamp;
        }
        Ok(valid)
    }

    /// Notes a write, or the race. `same` says that the bytes do not change: lanes of one instruction may store the
    /// same value.
    pub fn write(
        &mut self,
        offset: usize,
        bytes: usize,
        valid: bool,
        same: bool,
        actor: &Actor<'_>,
    ) -> Result<(), Conflict> {
        let stamp = actor.stamp();
        for cell in self.range(offset, bytes) {
            if actor.races {
                let together = same && cell.write.pc == actor.pc;
                if !together && actor.races_with(cell.write) {
                    return Err(Conflict {
                        thread: cell.write.thread,
                        wrote: true,
                        pc: cell.write.pc,
                    });
                }
                if let Some(reader) = cell.reads.iter().find(|&&r| actor.races_with(r)) {
                    return Err(Conflict {
                        thread: reader.thread,
                        wrote: false,
                        pc: reader.pc,
                    });
                }
            }
            (cell.write, cell.valid) = (stamp, valid);
        }
        Ok(())
    }

    /// A copy into these bytes begins (`true`) or lands.
    pub fn set_pending(&mut self, offset: usize, bytes: usize, begins: bool) {
        for cell in self.range(offset, bytes) {
            cell.pending = if begins {
                cell.pending + 1
            } else {
                cell.pending.saturating_sub(1)
            };
        }
    }

    /// A copy into these bytes is under way.
    pub fn is_pending(&self, offset: usize, bytes: usize) -> bool {
        let range = offset / self.granule..(offset + bytes).div_ceil(self.granule);
        self.cells[range].iter().any(|c| c.pending != 0)
    }
}
