//! The general product: slabs of packed B, and blocks of C that threads take.

use super::lanes::{Kernel, Lanes, run, tile_width};
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
        let panel = (k + term.map_or(0, |t| t.rank)) * width;
        let most = (SLAB / panel.max(1)).max(1) * width;
        let side = self.beside.map_or(0, |beside| beside.n.div_ceil(width));
        // A B without columns is a slab too, for what is beside it.
        for first in (0..n.max(1)).step_by(most) {
            let columns = most.min(n - first);
            let own = columns.div_ceil(width);
            let panels = if first + columns == n {
                own + side
            } else {
                own
            };
            scratch::with(Kind::Shared, panels * panel, |packed| {
                let target = Disjoint::new(packed);
                threads::par_chunks(panels, (PIECE / 8 / panel.max(1)).max(1), |range| {
                    for i in range {
                        // SAFETY: each panel is taken once.
                        let panel =
                            unsafe { target.slice(i * panel..(i + 1) * panel).as_mut_ptr() };
                        if let (Some(beside), true) = (self.beside, i >= own) {
                            let first = (i - own) * width;
                            let (b, layout) = beside.right;
                            let columns = width.min(beside.n - first);
                            let term = None;
                            // SAFETY: S was checked against its layout.
                            unsafe {
                                run(
                                    self.isa,
                                    &Panel {
                                        b,
                                        layout,
                                        k,
                                        first,
                                        columns,
                                        term,
                                        panel,
                                    },
                                );
                            }
                            continue;
                        }
                        let columns = width.min(columns - i * width);
                        // SAFETY: B was checked against its layout.
                        unsafe {
                            run(
                                self.isa,
                                &Panel {
                                    b,
                                    layout,
                                    k,
                                    first: first + i * width,
                                    columns,
                                    term,
                                    panel,
                                },
                            );
                        }
                    }
                });
                self.blocks(Slab {
                    packed: target.as_ptr(),
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

    /// All rows of C over the columns of a slab.
    fn blocks(&self, slab: Slab) {
        let Dims { m, k, .. } = self.dims;
        // What lies beside B joins the last group.
        let group = (256 / slab.width).min(slab.own).max(1);
        let groups = slab.own.div_ceil(group).max(1);
        let work = |rows: usize| rows * group * slab.width * k.max(1);
        let mut rows = 16 * ROWS;
        while rows > 2 * ROWS && m.div_ceil(rows) * groups < 16 && work(rows) > PIECE {
            rows /= 2;
        }
        while rows < m && work(rows) < PIECE / 2 {
            rows *= 2;
        }
        // A whose rows are not contiguous is packed, lest each term of a sum touch another line.
        let pack = self.a_layout.cols != 1;
        let depth = depth(k);
        let tile = depth * ROWS + 16;
        let blocks = m.div_ceil(rows);
        threads::par_pieces(blocks * groups, |piece| {
            // A group of panels stays near while the rows go by.
            let (row, group_at) = (piece % blocks * rows, piece / blocks * group);
            let last = piece / blocks + 1 == groups;
            let group_end = if last { slab.panels } else { group_at + group };
            let rows = rows.min(m - row);
            scratch::with(
                Kind::Own,
                if pack { rows.div_ceil(ROWS) * tile } else { 0 },
                |own| {
                    let block = Block {
                        job: self,
                        slab,
                        rows: row..row + rows,
                        panels: group_at..group_end,
                        depth,
                        tile,
                        own: if pack { Some(own.as_mut_ptr()) } else { None },
                    };
                    // SAFETY: blocks of C do not overlap; the slices were checked; `own` holds the block's tiles.
                    unsafe { run(self.isa, &block) }
                },
            );
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
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    depth: usize,
    /// Elements from one packed tile of A to the next.
    tile: usize,
    /// Room for packed A, unless it is read where it lies.
    own: Option<*mut f32>,
}

impl Kernel for Block<'_, '_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self) {
        let (job, slab, layout) = (self.job, self.slab, self.job.a_layout);
        let (first, k) = (self.rows.start, job.dims.k);
        let mut start = 0;
        loop {
            let depth = self.depth.min(k - start);
            // SAFETY: the caller's: A and C hold their layouts' elements, the slab its panels, `own` the block's tiles.
            unsafe {
                let mut a = job
                    .a
                    .as_ptr()
                    .wrapping_add(first * layout.rows + start * layout.cols);
                let (mut row, mut step, mut next) = (layout.rows, layout.cols, ROWS * layout.rows);
                if let Some(own) = self.own {
                    pack::rows(a, layout, self.rows.len(), depth, own, self.tile);
                    (a, row, step, next) = (own, 1, ROWS, self.tile);
                }
                for panel in self.panels.clone() {
                    let beside = job.beside.filter(|_| panel >= slab.own);
                    let column = (panel - beside.map_or(0, |_| slab.own)) * slab.width;
                    let whole = beside.map_or(slab.columns, |beside| beside.n);
                    let columns = slab.width.min(whole - column);
                    let stride = columns.next_multiple_of(L::WIDTH);
                    let b = Columns {
                        start: slab.packed.add(panel * slab.panel + start * stride),
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
            if start >= k {
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
        let sum = product::<L, ROWS, N, false>(k, a, b);
        store::<L, ROWS, N>(sum, a.count, b.part, epilogue, c, c_stride);
    }
}
