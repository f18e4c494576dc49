//! The general product: slabs of packed B, and blocks of C that threads take. Where there are small slabs enough, a thread packs
//! one, which stays in its own cache, and takes all rows over it; else all threads pack a large one and share it.

use std::ops::Range;

use super::lanes::{Kernel, Lanes, prefetch, run, tile_width};
use super::pack::{self, Panel};
use super::scratch::{self, Kind};
use super::tile::{Columns, Epilogue, Rows, product, store};
use super::{Beside, Dims, Job, Layout, Operand, PIECE, ROWS, Scale, Term};
use crate::cpu::threads;

/// Terms of a sum that a tile takes before it goes to C: a panel's part of B then stays near.
const DEPTH: usize = 320;
/// Elements of a slab of packed B that all threads share: 2 MiB.
const SHARED: usize = 1 << 19;
/// Elements of a slab of one thread: ½ MiB.
const OWN: usize = 1 << 17;
/// Slabs for each thread that keep all busy to the end.
const SLABS: usize = 4;
/// Rows of a block of C at most.
const BLOCK: usize = 16 * ROWS;

/// How B is cut.
#[derive(Clone, Copy)]
struct Cut {
    /// The part of k that is packed: from, to.
    terms: (usize, usize),
    /// Columns of a whole panel.
    width: usize,
    /// Elements from one panel to the next.
    panel: usize,
}

impl Cut {
    /// Columns of a slab of that many elements, a panel at least.
    fn columns(&self, elements: usize) -> usize {
        (elements / self.panel.max(1)).max(1) * self.width
    }
}

/// Columns of C over which a slab of B is packed, and what it takes.
#[derive(Clone, Copy)]
struct Slab {
    packed: *mut f32,
    cut: Cut,
    first: usize,
    columns: usize,
    /// Panels of B; those of [`Beside`](super::Beside) follow in the last slab.
    own: usize,
    /// All panels.
    panels: usize,
}

// SAFETY: while the slab is shared, a packed element is written by one thread, and read by others after that.
unsafe impl Sync for Slab {}

/// What B's panels are made of.
struct Source<'a, B> {
    b: &'a [B],
    layout: Layout,
    term: Option<Term<'a>>,
}

impl Job<'_> {
    pub(super) fn packed<B: Operand>(&self, b: &[B], layout: Layout, term: Option<Term>) {
        let (Dims { m, n, k }, width) = (self.dims, tile_width(self.isa));
        let source = Source { b, layout, term };
        // Where A is packed, so is one block along k at a time of both, lest either be walked across many pages at once.
        let span = if self.packs_rows() {
            depth(k)
        } else {
            k.max(1)
        };
        for start in (0..k.max(1)).step_by(span) {
            let terms = (start, (start + span).min(k));
            let panel = (terms.1 - terms.0 + term.map_or(0, |t| t.rank)) * width;
            let cut = Cut {
                terms,
                width,
                panel,
            };
            let own = cut.columns(OWN);
            if !self.packs_rows() && n.div_ceil(own) >= SLABS * threads::threads() {
                threads::par_pieces(n.div_ceil(own), |i| {
                    self.with_slab(cut, i * own, own, |slab| {
                        // SAFETY: the slab is this thread's.
                        (0..slab.panels).for_each(|i| unsafe { self.pack(&source, &slab, i) });
                        for row in (0..m).step_by(BLOCK) {
                            let rows = row..m.min(row + BLOCK);
                            // SAFETY: the slab is packed, and has columns of C of its own.
                            unsafe { self.block(slab, rows, 0..slab.panels, None) };
                        }
                    });
                });
                continue;
            }
            let shared = cut.columns(SHARED);
            // A B without columns is a slab too, for what is beside it.
            for first in (0..n.max(1)).step_by(shared) {
                self.with_slab(cut, first, shared, |slab| {
                    let grain = (PIECE / 8 / panel.max(1)).max(1);
                    threads::par_chunks(slab.panels, grain, |range| {
                        // SAFETY: each panel is taken once.
                        range.for_each(|i| unsafe { self.pack(&source, &slab, i) });
                    });
                    self.slab(slab);
                });
            }
        }
    }

    /// Lends a slab of `most` columns, or as many as are left, from `first` on; its panels are still to be packed.
    fn with_slab(&self, cut: Cut, first: usize, most: usize, f: impl FnOnce(Slab)) {
        let (columns, width) = (most.min(self.dims.n - first), cut.width);
        let own = columns.div_ceil(width);
        let beside = self.beside.filter(|_| first + columns == self.dims.n);
        let panels = own + beside.map_or(0, |beside| beside.n.div_ceil(width));
        scratch::with(Kind::Columns, panels * cut.panel, |packed| {
            f(Slab {
                packed: packed.as_mut_ptr(),
                cut,
                first,
                columns,
                own,
                panels,
            });
        });
    }

    /// Packs a panel of a slab.
    ///
    /// # Safety
    /// The slab has room for it, which nobody else uses meanwhile.
    unsafe fn pack<B: Operand>(&self, source: &Source<B>, slab: &Slab, i: usize) {
        let Cut {
            terms,
            width,
            panel,
        } = slab.cut;
        let (terms, own) = (terms.0..terms.1, slab.own);
        // SAFETY: the caller's; B and S were checked against their layouts.
        unsafe {
            let to = slab.packed.add(i * panel);
            match self.beside.filter(|_| i >= own) {
                Some(Beside { right, n, .. }) => {
                    let first = (i - own) * width;
                    let columns = width.min(n - first);
                    let part = Panel {
                        b: right.0,
                        layout: right.1,
                        terms,
                        first,
                        columns,
                        term: None,
                        panel: to,
                    };
                    run(self.isa, &part);
                }
                None => {
                    let part = Panel {
                        b: source.b,
                        layout: source.layout,
                        terms,
                        first: slab.first + i * width,
                        columns: width.min(slab.columns - i * width),
                        term: source.term,
                        panel: to,
                    };
                    run(self.isa, &part);
                }
            }
        }
    }

    /// A whose rows are not contiguous is packed, lest each term of a sum touch another line.
    fn packs_rows(&self) -> bool {
        self.a_layout.cols != 1
    }

    /// All rows of C over the columns of a slab.
    fn slab(&self, slab: Slab) {
        let Cut { terms, width, .. } = slab.cut;
        let (m, terms) = (self.dims.m, terms.1 - terms.0);
        // Packed rows meet every panel before they are left; rows read where they lie, a group that stays near while they go
        // by. What lies beside B joins the last group.
        let packs = self.packs_rows();
        let group = if packs { slab.own } else { 256 / width };
        let group = group.min(slab.own).max(1);
        let groups = slab.own.div_ceil(group).max(1);
        let work = |rows: usize| rows * group * width * terms.max(1);
        let mut rows = BLOCK;
        while rows > 2 * ROWS && m.div_ceil(rows) * groups < 16 && work(rows) > PIECE {
            rows /= 2;
        }
        while rows < m && work(rows) < PIECE / 2 {
            rows *= 2;
        }
        let blocks = m.div_ceil(rows);
        let tile = terms * ROWS + 16;
        let room = if packs {
            rows.min(m).div_ceil(ROWS) * tile
        } else {
            0
        };
        threads::par_pieces(blocks * groups, |piece| {
            let (row, group_at) = (piece % blocks * rows, piece / blocks * group);
            let last = piece / blocks + 1 == groups;
            let group_end = if last { slab.panels } else { group_at + group };
            scratch::with(Kind::Rows, room, |packed| {
                let packed = packs.then_some((packed.as_mut_ptr(), tile));
                let rows = row..m.min(row + rows);
                // SAFETY: the slab is packed, pieces are blocks of C of their own, and there is room for the block's tiles.
                unsafe { self.block(slab, rows, group_at..group_end, packed) };
            });
        });
    }

    /// Some rows of C over some panels of a slab; with room for the tiles of rows where these are packed, and elements from one tile to
    /// the next.
    ///
    /// # Safety
    /// The panels are packed, nobody else uses this block of C, and the room holds all tiles of its rows.
    unsafe fn block(
        &self,
        slab: Slab,
        rows: Range<usize>,
        panels: Range<usize>,
        packed: Option<(*mut f32, usize)>,
    ) {
        let block = Block {
            job: self,
            slab,
            rows,
            panels,
            depth: depth(self.dims.k),
            packed,
        };
        // SAFETY: the caller's, and the slices were checked.
        unsafe { run(self.isa, &block) }
    }
}

/// Length of the blocks along k: equal ones, [`DEPTH`] at most.
fn depth(k: usize) -> usize {
    k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1)
}

/// A block of C: some rows over some panels of a slab.
struct Block<'a, 'b> {
    job: &'a Job<'b>,
    slab: Slab,
    rows: Range<usize>,
    panels: Range<usize>,
    depth: usize,
    /// Room for the tiles of A and elements from one to the next, unless A is read where it lies.
    packed: Option<(*mut f32, usize)>,
}

impl Kernel for Block<'_, '_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self) {
        let (job, slab, layout) = (self.job, self.slab, self.job.a_layout);
        let Cut {
            terms: (from, to),
            width,
            panel: size,
        } = slab.cut;
        let first = self.rows.start;
        let mut start = from;
        loop {
            let depth = self.depth.min(to - start);
            // SAFETY: the caller's: A and C hold their layouts' elements, the slab its panels, packed A the block's tiles.
            unsafe {
                let mut a = job
                    .a
                    .as_ptr()
                    .wrapping_add(first * layout.rows + start * layout.cols);
                let (mut row, mut step, mut next) = (layout.rows, layout.cols, ROWS * layout.rows);
                if let Some((tiles, stride)) = self.packed {
                    pack::rows(a, layout, self.rows.len(), depth, tiles, stride);
                    a = tiles;
                    (row, step, next) = (1, ROWS, stride);
                }
                for panel in self.panels.clone() {
                    let beside = job.beside.filter(|_| panel >= slab.own);
                    let column = (panel - beside.map_or(0, |_| slab.own)) * width;
                    let whole = beside.map_or(slab.columns, |beside| beside.n);
                    let columns = width.min(whole - column);
                    let stride = columns.next_multiple_of(L::WIDTH);
                    let b = Columns {
                        start: slab.packed.add(panel * size + (start - from) * stride),
                        stride,
                        part: columns % L::WIDTH,
                    };
                    let (alpha, beta, bias, target, c_stride) = match beside {
                        Some(Beside { n, out, .. }) => {
                            (1.0, 0.0, None, out.as_ptr().add(column), n)
                        }
                        None => {
                            let column = slab.first + column;
                            let bias = job.bias.map(|bias| bias.as_ptr().add(column));
                            let Scale { alpha, beta } = job.scale;
                            (alpha, beta, bias, job.c.as_ptr().add(column), job.c_stride)
                        }
                    };
                    let bias = bias.filter(|_| start == 0);
                    let epilogue = Epilogue {
                        alpha,
                        beta: if start == 0 { beta } else { 1.0 },
                        bias: bias.unwrap_or(std::ptr::null()),
                    };
                    for (tile, i) in self.rows.clone().step_by(ROWS).enumerate() {
                        let a = Rows {
                            start: a.wrapping_add(tile * next),
                            row,
                            step,
                            count: ROWS.min(self.rows.end - i),
                        };
                        let c = target.add(i * c_stride);
                        match stride / L::WIDTH {
                            1 => tile_into::<L, 1>(depth, a, b, epilogue, c, c_stride),
                            2 => tile_into::<L, 2>(depth, a, b, epilogue, c, c_stride),
                            3 => tile_into::<L, 3>(depth, a, b, epilogue, c, c_stride),
                            _ => tile_into::<L, 4>(depth, a, b, epilogue, c, c_stride),
                        }
                    }
                }
            }
            start += depth;
            if start >= to {
                break;
            }
        }
    }
}

#[inline(always)]
unsafe fn tile_into<L: Lanes, const N: usize>(
    k: usize,
    a: Rows,
    b: Columns,
    epilogue: Epilogue,
    c: *mut f32,
    c_stride: usize,
) {
    // SAFETY: the caller's; B's panel is padded to whole registers.
    unsafe {
        // C comes near while the sums run.
        for i in 0..a.count {
            for j in (0..N * L::WIDTH).step_by(16) {
                prefetch(c.wrapping_add(i * c_stride + j));
            }
        }
        let sum = product::<L, ROWS, N, false>(k, a, b);
        store::<L, ROWS, N>(sum, a.count, b.part, epilogue, c, c_stride);
    }
}
