//! K and its gradient on the CPU, in blocks that stay in the first cache.
//!
//! The factor of the columns is kept turned, a number's values for all columns side by side, so that K is a few operations on
//! vectors for each of the r numbers, for several rows at a time. Of the entries, a competition leaves few to pull at the
//! factors: a row's are listed, and their numbers lie side by side in the factors as they came. Gradients of a go to the piece
//! that owns the columns; those of b are summed per piece first and then over the pieces in order, so that the bits do not
//! depend on the threads.

use std::ops::Range;

use super::gather::{Gather, ROWS};
use super::threshold;
use super::{Competition, Kernel, KernelizedSparse, Values};
use crate::cpu::simd::LANES;
use crate::cpu::threads::{Disjoint, par_pieces, par_rows, rows_per_piece};
use crate::cpu::{math, simd};
use crate::ops::produced::Panel;
use crate::pool::with_scratch;

/// Columns of a block.
const COLUMNS: usize = 128;
/// Elements of K that are worth a thread's attention.
const PIECE: usize = 1 << 14;

/// What rows of K are made of.
pub struct Prepared {
    update: KernelizedSparse,
    /// a, turned: `[H·d, n]`, n rounded up to whole vectors.
    a: Vec<f32>,
    pub m: usize,
    pub n: usize,
    /// r / H.
    d: usize,
    /// t; None where all of K acts.
    threshold: Option<f32>,
}

/// [`ROWS`] rows of K on a few columns, one row after the other.
pub struct Block<'a> {
    /// The factors of the rows, `[H·d, ROWS]`.
    b: &'a mut [f32],
    /// K.
    pub k: &'a mut [f32],
    /// What κ takes: per head the distances, or once the inner products or squared distances.
    inner: &'a mut [f32],
}

impl Prepared {
    pub fn new(update: KernelizedSparse, m: usize, n: usize, params: &[&[f32]]) -> Self {
        let heads = update.heads;
        let d = params[0].len().checked_div(heads * n).unwrap_or(0);
        let stride = n.next_multiple_of(LANES);
        let mut a = vec![0.0; heads * d * stride];
        for h in 0..heads {
            for i in 0..n {
                for k in 0..d {
                    a[(h * d + k) * stride + i] = params[0][(h * n + i) * d + k];
                }
            }
        }
        let mut made = Prepared {
            update,
            a,
            m,
            n,
            d,
            threshold: None,
        };
        made.threshold = match update.competition {
            Competition::Off => None,
            Competition::Above(t) => Some(t),
            Competition::Quantile(p) => Some(threshold::quantile(&made, p, params[1])),
        };
        made
    }

    /// Into how many sums the r numbers fall, each with a κ of its own.
    fn parts(&self) -> usize {
        match self.update.kernel {
            Kernel::Distance { .. } => self.update.heads,
            _ => 1,
        }
    }

    /// Lends a block.
    pub fn with_block<T>(&self, f: impl FnOnce(Block) -> T) -> T {
        let (r, area) = (self.update.heads * self.d, ROWS * COLUMNS);
        with_scratch(r * ROWS + (1 + self.parts()) * area, |room| {
            let (b, room) = room.split_at_mut(r * ROWS);
            let (k, inner) = room.split_at_mut(area);
            f(Block { b, k, inner })
        })
    }

    /// Brings the factors of the rows from `first` on; beyond the last row they are 0.
    pub fn load(&self, b: &[f32], first: usize, block: &mut Block) {
        for (j, numbers) in block.b.chunks_exact_mut(ROWS).enumerate() {
            let (h, j) = (j / self.d, j % self.d);
            for (o, y) in (first..).zip(numbers) {
                *y = if o < self.m {
                    b[(h * self.m + o) * self.d + j]
                } else {
                    0.0
                };
            }
        }
    }

    /// Makes K of the rows loaded on `columns`; returns the elements between two rows.
    #[inline(always)]
    pub fn fill(&self, columns: Range<usize>, block: &mut Block) -> usize {
        let width = columns.len().next_multiple_of(LANES);
        let (area, stride) = (ROWS * width, self.n.next_multiple_of(LANES));
        let Block { b, k, inner } = block;
        let (k, inner) = (&mut k[..area], &mut inner[..self.parts() * area]);
        let a = self.a.get(columns.start..).unwrap_or_default();
        let part = self.update.heads * self.d / self.parts();
        for (h, sums) in inner.chunks_exact_mut(area).enumerate() {
            simd::dispatch_with(Gather {
                a: a.get(h * part * stride..).unwrap_or_default(),
                stride,
                b: b.get(h * part * ROWS..(h + 1) * part * ROWS)
                    .unwrap_or_default(),
                sums,
                apart: self.apart(),
            });
        }
        match self.update.kernel {
            Kernel::Linear => k.copy_from_slice(inner),
            Kernel::Polynomial { degree, shift } => {
                for s in &mut *inner {
                    *s += shift;
                }
                k.copy_from_slice(inner);
                for _ in 1..degree {
                    for (k, s) in k.iter_mut().zip(&*inner) {
                        *k *= s;
                    }
                }
            }
            Kernel::Sigmoid { gamma, shift } => {
                for (k, s) in k.iter_mut().zip(&*inner) {
                    *k = math::tanh(gamma.mul_add(*s, shift));
                }
            }
            Kernel::Rbf { gamma } => {
                for (k, s) in k.iter_mut().zip(&*inner) {
                    *k = math::exp(-gamma * s);
                }
            }
            Kernel::Distance { scale } => {
                k.fill(0.0);
                for (h, inner) in inner.chunks_exact_mut(area).enumerate() {
                    let sign = sign(h, scale);
                    for (k, s) in k.iter_mut().zip(inner) {
                        *s = s.sqrt();
                        *k = sign.mul_add(*s, *k);
                    }
                }
            }
        }
        width
    }

    /// Calls `visit(row, first column, K)` on all blocks of some rows and columns, a row at a time; the first column is that of a
    /// vector.
    pub fn sweep(
        &self,
        b: &[f32],
        (rows, columns): (Range<usize>, Range<usize>),
        mut visit: impl FnMut(usize, usize, &mut [f32]),
    ) {
        self.with_block(|mut block| {
            for o in rows.clone().step_by(ROWS) {
                self.load(b, o, &mut block);
                for first in columns.clone().step_by(COLUMNS) {
                    let columns = first..columns.end.min(first + COLUMNS);
                    simd::dispatch(
                        #[inline(always)]
                        || {
                            let width = self.fill(columns.clone(), &mut block);
                            for (row, k) in
                                (o..rows.end).zip(block.k.chunks_exact_mut(width).take(ROWS))
                            {
                                visit(row, first, &mut k[..columns.len()]);
                            }
                        },
                    );
                }
            }
        });
    }

    /// The rows of a piece of work.
    pub fn grain(&self) -> usize {
        rows_per_piece(self.n, PIECE).next_multiple_of(ROWS)
    }

    /// Adds S(K)'s part to `out`.
    pub fn produce(&self, panel: &Panel, out: &mut [f32]) {
        let (columns, n) = (&panel.columns, panel.columns.len());
        par_rows(out, n, self.grain(), |first, rows| {
            let at = panel.rows.start + first;
            let all = at..at + rows.len() / n;
            self.sweep(
                panel.params[1],
                (all, columns.clone()),
                #[inline(always)]
                |o, column, k| {
                    self.compete(k);
                    let start = (o - at) * n + column - columns.start;
                    let own = &mut rows[start..start + k.len()];
                    for (y, k) in own.iter_mut().zip(k) {
                        *y += *k;
                    }
                },
            );
        });
    }

    /// K becomes S(K). A NaN acts, so that it is seen.
    #[inline(always)]
    fn compete(&self, k: &mut [f32]) {
        match (self.threshold, self.update.values) {
            (None, _) => {}
            (Some(t), Values::Soft) => {
                for k in k {
                    *k = if k.abs() <= t {
                        0.0
                    } else {
                        *k - t.copysign(*k)
                    };
                }
            }
            (Some(t), Values::Squared) => {
                for k in k {
                    *k = if k.abs() <= t { 0.0 } else { *k * k.abs() };
                }
            }
        }
    }

    /// The columns of one row of K that act.
    #[inline(always)]
    fn acting<'a>(&self, k: &[f32], room: &'a mut [u32; COLUMNS]) -> &'a [u32] {
        // No magnitude is at most −1.
        let (t, mut count) = (self.threshold.unwrap_or(-1.0), 0);
        for (i, k) in (0..).zip(k) {
            room[count] = i;
            count += 1 - usize::from(k.abs() <= t);
        }
        &room[..count]
    }

    /// Whether entries pull along the difference of their factors.
    fn apart(&self) -> bool {
        matches!(
            self.update.kernel,
            Kernel::Rbf { .. } | Kernel::Distance { .. }
        )
    }

    /// Adds to `da` `[H, n, d]` and `db` `[H, m, d]` what rows `g` of dL/dΔW contribute.
    pub fn contract(&self, panel: &Panel, g: &[f32], da: &mut [f32], db: &mut [f32]) {
        let (d, heads) = (self.d, self.update.heads);
        let (rows, r) = (panel.rows.len(), heads * d);
        let pieces = panel.columns.len().div_ceil(COLUMNS);
        let mut sums = vec![0.0f32; pieces * rows * r];
        let (of_a, of_b) = (Disjoint::new(da), Disjoint::new(&mut sums));
        par_pieces(pieces, |piece| {
            let start = panel.columns.start + piece * COLUMNS;
            let columns = start..panel.columns.end.min(start + COLUMNS);
            // SAFETY: every piece has sums of its own.
            let sums = unsafe { of_b.slice(piece * rows * r..(piece + 1) * rows * r) };
            self.with_block(|mut block| {
                for first in (0..rows).step_by(ROWS) {
                    self.load(panel.params[1], panel.rows.start + first, &mut block);
                    let sums = &mut sums[first * r..(first + ROWS).min(rows) * r];
                    simd::dispatch(
                        #[inline(always)]
                        || self.pull(panel, first, columns.clone(), g, &mut block, &of_a, sums),
                    );
                }
            });
        });
        for o in 0..rows {
            for h in 0..heads {
                let target = (h * self.m + panel.rows.start + o) * d;
                for (j, y) in db[target..target + d].iter_mut().enumerate() {
                    for piece in 0..pieces {
                        *y += sums[(piece * rows + o) * r + h * d + j];
                    }
                }
            }
        }
    }

    /// What the rows loaded, from the panel's row `first` on, add on `columns` to the gradients of a and, in `sums`, of b.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the parts of one block's pass")]
    fn pull(
        &self,
        panel: &Panel,
        first: usize,
        columns: Range<usize>,
        g: &[f32],
        block: &mut Block,
        da: &Disjoint<f32>,
        sums: &mut [f32],
    ) {
        let (d, heads, width) = (self.d, self.update.heads, columns.len());
        let stride = self.fill(columns.clone(), block);
        for (o, sums) in sums.chunks_exact_mut((heads * d).max(1)).enumerate() {
            let row = o * stride..o * stride + width;
            let mut list = [0; COLUMNS];
            let acting = self.acting(&block.k[row.clone()], &mut list);
            let start = (first + o) * panel.columns.len() + columns.start - panel.columns.start;
            let g = &g[start..start + width];
            self.weigh(g, row.clone(), ROWS * stride, block);
            for h in 0..heads {
                let own = (h * self.n + columns.start) * d..(h * self.n + columns.end) * d;
                let b = (h * self.m + panel.rows.start + first + o) * d;
                let weights = h % self.parts() * ROWS * stride + row.start;
                let mut pull = Pull {
                    acting,
                    weights: &block.inner[weights..][..width],
                    a: &panel.params[0][own.clone()],
                    b: &panel.params[1][b..b + d],
                    // SAFETY: the columns of a head lie side by side, and are this piece's.
                    da: unsafe { da.slice(own) },
                    db: &mut sums[h * d..(h + 1) * d],
                };
                if self.apart() {
                    pull.all::<true>();
                } else {
                    pull.all::<false>();
                }
            }
        }
    }

    /// On one row of a block, puts `dL/dK·κ′`, for kernels of distances over the distance, in the place of what κ takes.
    #[inline(always)]
    fn weigh(&self, g: &[f32], row: Range<usize>, area: usize, block: &mut Block) {
        let k = &block.k[row.clone()];
        // dL/dK of the entries that act.
        let mut e = [0.0; COLUMNS];
        let e = &mut e[..g.len()];
        e.copy_from_slice(g);
        if self.threshold.is_some() && self.update.values == Values::Squared {
            for (e, k) in e.iter_mut().zip(k) {
                *e *= k.abs();
            }
        }
        for h in 0..self.parts() {
            let inner = &mut block.inner[h * area..][row.clone()];
            match self.update.kernel {
                Kernel::Linear => {}
                Kernel::Polynomial { degree, .. } => {
                    for e in &mut *e {
                        *e *= degree as f32;
                    }
                    for _ in 1..degree {
                        for (e, s) in e.iter_mut().zip(&*inner) {
                            *e *= s;
                        }
                    }
                }
                Kernel::Sigmoid { gamma, .. } => {
                    for (e, k) in e.iter_mut().zip(k) {
                        *e *= gamma * (1.0 - k * k);
                    }
                }
                Kernel::Rbf { gamma } => {
                    for (e, k) in e.iter_mut().zip(k) {
                        *e *= -2.0 * gamma * k;
                    }
                }
                Kernel::Distance { scale } => {
                    let sign = sign(h, scale);
                    for (s, e) in inner.iter_mut().zip(&*e) {
                        *s = if *s > 0.0 { sign * e / *s } else { 0.0 };
                    }
                    continue;
                }
            }
            inner.copy_from_slice(e);
        }
    }
}

fn sign(head: usize, scale: f32) -> f32 {
    if head.is_multiple_of(2) {
        scale
    } else {
        -scale
    }
}

/// How the entries of a row pull at the factors of one head.
struct Pull<'a> {
    /// The columns whose entries act.
    acting: &'a [u32],
    /// Of all columns.
    weights: &'a [f32],
    /// `[columns, d]`.
    a: &'a [f32],
    /// `[d]`.
    b: &'a [f32],
    da: &'a mut [f32],
    db: &'a mut [f32],
}

impl Pull<'_> {
    /// Apart: `da_i += w_i·(a_i − b)` and `db −= Σ_i` of it; else `da_i += w_i·b` and `db += Σ_i w_i·a_i`.
    #[inline(always)]
    fn all<const APART: bool>(&mut self) {
        let (d, mut j) = (self.b.len(), 0);
        while j + 8 <= d {
            self.some::<8, APART>(j);
            j += 8;
        }
        while j + 4 <= d {
            self.some::<4, APART>(j);
            j += 4;
        }
        while j < d {
            self.some::<1, APART>(j);
            j += 1;
        }
    }

    /// N numbers from the j-th on, whose sums stay in a register.
    #[inline(always)]
    fn some<const N: usize, const APART: bool>(&mut self, j: usize) {
        let d = self.b.len();
        let b = &self.b[j..j + N];
        let mut sum = [0.0f32; N];
        for &i in self.acting {
            let at = i as usize * d + j;
            let (w, a, y) = (
                self.weights[i as usize],
                &self.a[at..at + N],
                &mut self.da[at..at + N],
            );
            let mut next = sum;
            for l in 0..N {
                let (along_a, along_b) = if APART {
                    (a[l] - b[l], b[l] - a[l])
                } else {
                    (b[l], a[l])
                };
                y[l] = w.mul_add(along_a, y[l]);
                next[l] = w.mul_add(along_b, sum[l]);
            }
            sum = next;
        }
        for (y, sum) in self.db[j..j + N].iter_mut().zip(sum) {
            *y += sum;
        }
    }
}
