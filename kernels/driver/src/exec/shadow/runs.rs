//! Accesses of whole rows, and of lanes together: a few vector instructions for all their cells.

use super::{FLAG, Stamp, THREAD, UNDER_WAY, VALID};

/// What is known of each cell.
pub struct Cells {
    pub writes: Vec<Stamp>,
    /// Two readers of different threads suffice: a writer is at most one of them.
    pub recent: Vec<Stamp>,
    pub earlier: Vec<Stamp>,
    pub state: Vec<u16>,
}

impl Cells {
    pub fn new(n: usize) -> Cells {
        Cells {
            writes: vec![0; n],
            recent: vec![0; n],
            earlier: vec![0; n],
            state: vec![0; n],
        }
    }
}

/// Consecutive lanes that access a row of cells, a power of two of cells each; or lanes that read the same cells.
#[derive(Clone, Copy, Default)]
pub struct Run {
    pub at: u32,
    pub cells: u32,
    /// The first lane's stamp.
    pub first: Stamp,
    /// Binary logarithm of a lane's cells.
    pub shift: u32,
}

/// Notes runs of accesses up to one that needs to be looked at lane by lane, and says whether there was none.
/// Safety: the host has the instruction set.
pub type Note = unsafe fn(&mut Cells, &[Run], Stamp) -> bool;

#[inline(always)]
pub fn note_reads(cells: &mut Cells, runs: &[Run], horizon: Stamp) -> bool {
    note(cells, runs, horizon, read)
}

#[inline(always)]
pub fn note_writes(cells: &mut Cells, runs: &[Run], horizon: Stamp) -> bool {
    note(cells, runs, horizon, write)
}

#[inline(always)]
fn note(cells: &mut Cells, runs: &[Run], horizon: Stamp, one: impl NoteOne) -> bool {
    for run in runs {
        // Rows of 16 bytes and of a word a lane are the most common: with their length known they take few instructions.
        let fine = match run.cells as usize {
            4 => on_cells(cells, 4, run, horizon, one),
            32 => on_cells(cells, 32, run, horizon, one),
            n => on_cells(cells, n, run, horizon, one),
        };
        if !fine {
            return false;
        }
    }
    true
}

/// Notes a run on the writes, the recent and earlier reads, and the states of its cells.
trait NoteOne:
    Fn(&mut [Stamp], &mut [Stamp], &mut [Stamp], &mut [u16], &Run, Stamp) -> bool + Copy
{
}
impl<F> NoteOne for F where
    F: Fn(&mut [Stamp], &mut [Stamp], &mut [Stamp], &mut [u16], &Run, Stamp) -> bool + Copy
{
}

#[inline(always)]
fn on_cells(cells: &mut Cells, n: usize, run: &Run, horizon: Stamp, one: impl NoteOne) -> bool {
    let at = run.at as usize;
    one(
        &mut cells.writes[at..][..n],
        &mut cells.recent[at..][..n],
        &mut cells.earlier[at..][..n],
        &mut cells.state[at..][..n],
        run,
        horizon,
    )
}

#[inline(always)]
fn read(
    writes: &mut [Stamp],
    recent: &mut [Stamp],
    earlier: &mut [Stamp],
    state: &mut [u16],
    run: &Run,
    horizon: Stamp,
) -> bool {
    let (first, shift) = (run.first, run.shift);
    let mut unusual = 0;
    for &mut state in state {
        unusual |= state ^ VALID;
    }
    let mut races = false;
    for (i, &mut write) in writes.iter_mut().enumerate() {
        let mine = first + (i as u64 >> shift);
        let another = ((write ^ mine) & THREAD != 0) | (mine & FLAG != 0);
        races |= (write >= horizon) & another;
    }
    if races || unusual != 0 {
        return false;
    }
    for (i, (recent, earlier)) in recent.iter_mut().zip(earlier).enumerate() {
        let mine = first + (i as u64 >> shift);
        let another = (*recent ^ mine) & (THREAD | FLAG) != 0;
        *earlier = if another { *recent } else { *earlier };
        *recent = mine;
    }
    true
}

#[inline(always)]
fn write(
    writes: &mut [Stamp],
    recent: &mut [Stamp],
    earlier: &mut [Stamp],
    state: &mut [u16],
    run: &Run,
    horizon: Stamp,
) -> bool {
    let (first, shift) = (run.first, run.shift);
    let mut highest = 0;
    for &state in &*state {
        highest |= state;
    }
    let mut races = false;
    for i in 0..writes.len() {
        let mine = first + (i as u64 >> shift);
        let (write, recent, earlier) = (writes[i], recent[i], earlier[i]);
        let reader = THREAD | FLAG;
        races |= (write >= horizon) & ((write ^ mine) & THREAD != 0);
        races |= (recent >= horizon) & ((recent ^ mine) & reader != 0);
        races |= (earlier >= horizon) & ((earlier ^ mine) & reader != 0);
    }
    if races || highest >= UNDER_WAY {
        return false;
    }
    for (i, write) in writes.iter_mut().enumerate() {
        *write = first + (i as u64 >> shift);
    }
    state.fill(VALID);
    true
}
