//! The general product: slabs of packed B, and blocks of C that threads take.

use std::ops::Range;

use super::lanes::{Kernel, Lanes, prefetch, run, tile_width};
use super::pack::{self, Panel};
use super::scratch::{self, Kind};
use super::tile::{Columns, Epilogue, Rows, product, store};
use super::{Beside, Dims, Job, Layout, Operand, PIECE, ROWS, Scale, Term};
use crate::cpu::threads::{self, Disjoint};

/// Terms of a sum that a tile takes before it goes to C: a panel's part of B then stays near.
const DEPTH: usize = 320;
/// Elements of a slab of packed B: 2 MiB.
const SLAB: usize = 1 << 19;

/// Columns of C over which a slab of B is packed, and what it takes.
#[derive(Clone, Copy)]
struct Slab {
    packed: *const f32,
    /// The part of k that is packed: from, to.
    terms: (usize, usize),
    first: usize,
    columns: usize,
    /// Columns of a whole panel.
    width: usize,
    /// Elements from one panel to the next.
    panel: usize,
    /// Panels of B; those of [`Beside`](super::Beside) follow in the last slab.
    own: usize,
    /// All panels.
    panels: usize,
}

// SAFETY: the packed elements are only read while the slab is shared.
unsafe impl Sync for Slab {}

impl Job<'_> {
    pub(super) fn packed<B: Operand>(&self, b: &[B], layout: Layout, term: Option<Term>) {
        let (Dims { n, k, .. }, width) = (self.dims, tile_width(self.isa));
        // Where A is packed, so is one block along k at a time of both, lest either be walked across many pages at once.
        let span = if self.packs_rows() {
            depth(k)
        } else {
            k.max(1)
        };
        for start in (0..k.max(1)).step_by(span) {
            let terms = start..(start + span).min(k);
            let panel = (terms.len() + term.map_or(0, |t| t.rank)) * width;
            let most = (SLAB / panel.max(1)).max(1) * width;
            // A B without columns is a slab too, for what is beside it.
            for first in (0..n.max(1)).step_by(most) {
                let columns = most.min(n - first);
                let own = columns.div_ceil(width);
                let beside = self.beside.filter(|_| first + columns == n);
                let panels = own + beside.map_or(0, |beside| beside.n.div_ceil(width));
                scratch::with(Kind::Columns, panels * panel, |packed| {
                    let target = Disjoint::new(packed);
                    threads::par_chunks(panels, (PIECE / 8 / panel.max(1)).max(1), |range| {
                        for i in range {
                            // SAFETY: each panel is taken once.
                            let panel =
                                unsafe { target.slice(i * panel..(i + 1) * panel).as_mut_ptr() };
                            match beside.filter(|_| i >= own) {
                                Some(Beside { right, n, .. }) => {
                                    let (first, terms) = ((i - own) * width, terms.clone());
                                    let part = Panel {
                                        b: right.0,
                                        layout: right.1,
                                        terms,
                                        first,
                                        columns: width.min(n - first),
                                        term: None,
                                        panel,
                                    };
                                    // SAFETY: S was checked against its layout.
                                    unsafe { run(self.isa, &part) };
                                }
                                None => {
                                    let part = Panel {
                                        b,
                                        layout,
                                        terms: terms.clone(),
                                        first: first + i * width,
                                        columns: width.min(columns - i * width),
                                        term,
                                        panel,
                                    };
                                    // SAFETY: B was checked against its layout.
                                    unsafe { run(self.isa, &part) };
                                }
                            }
                        }
                    });
                    self.slab(Slab {
                        packed: target.as_ptr(),
                        terms: (terms.start, terms.end),
                        first,
                        columns,
                        width,
                        panel,
                        own,
                        panels,
                    });
                });
            }
        }
    }

    /// A whose rows are not contiguous is packed, lest each term of a sum touch another line.
    fn packs_rows(&self) -> bool {
        self.a_layout.cols != 1
    }

    /// All rows of C over the columns of a slab.
    fn slab(&self, slab: Slab) {
        let (m, terms) = (self.dims.m, slab.terms.1 - slab.terms.0);
        // Packed rows meet every panel before they are left; rows read where they lie, a group that stays near while they go
        // by. What lies beside B joins the last group.
        let packs = self.packs_rows();
        let group = if packs { slab.own } else { 256 / slab.width };
        let group = group.min(slab.own).max(1);
        let groups = slab.own.div_ceil(group).max(1);
        let work = |rows: usize| rows * group * slab.width * terms.max(1);
        let mut rows = 16 * ROWS;
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
                let block = Block {
                    job: self,
                    slab,
                    rows: row..m.min(row + rows),
                    panels: group_at..group_end,
                    depth: depth(self.dims.k),
                    packed: packs.then_some((packed.as_mut_ptr(), tile)),
                };
                // SAFETY: blocks of C do not overlap; the slices were checked; `packed` has room for the block's tiles.
                unsafe { run(self.isa, &block) }
            });
        });
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
        let (first, (from, to)) = (self.rows.start, slab.terms);
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
                    let column = (panel - beside.map_or(0, |_| slab.own)) * slab.width;
                    let whole = beside.map_or(slab.columns, |beside| beside.n);
                    let columns = slab.width.min(whole - column);
                    let stride = columns.next_multiple_of(L::WIDTH);
                    let b = Columns {
                        start: slab
                            .packed
                            .add(panel * slab.panel + (start - from) * stride),
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
