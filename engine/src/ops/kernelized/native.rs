//! K and its gradient on the CPU, in blocks of columns that stay in the first cache.
//!
//! The factor of the columns is kept turned, a number's values for all columns side by side, so that a row of K is a few fused
//! multiply-adds over vectors for each of the r numbers. Gradients of a go to the piece that owns the columns; those of b are
//! summed per piece first and then over the pieces in order, so that the bits do not depend on the threads.

use std::ops::Range;
use std::sync::Mutex;

use super::{Competition, Kernel, KernelizedSparse, Values};
use crate::cpu::threads::{Disjoint, par_chunks, par_pieces, par_rows, rows_per_piece};
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
    /// a, turned: `[H·d, n]`.
    a: Vec<f32>,
    m: usize,
    n: usize,
    /// r / H.
    d: usize,
    /// t; None where all of K acts.
    threshold: Option<f32>,
}

/// One row of K on a block of columns.
struct Block<'a> {
    /// K.
    k: &'a mut [f32],
    /// What κ takes: per head the distances, or once the inner products or squared distances.
    inner: &'a mut [f32],
}

impl Prepared {
    pub fn new(update: KernelizedSparse, m: usize, n: usize, params: &[&[f32]]) -> Self {
        let heads = update.heads;
        let d = params[0].len().checked_div(heads * n).unwrap_or(0);
        let mut a = vec![0.0; heads * d * n];
        for h in 0..heads {
            for i in 0..n {
                for k in 0..d {
                    a[(h * d + k) * n + i] = params[0][(h * n + i) * d + k];
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
            Competition::Quantile(p) => Some(made.quantile(p, params[1])),
        };
        made
    }

    /// The factors of row `o`, `[H·d]`.
    fn row(&self, b: &[f32], o: usize, out: &mut [f32]) {
        for h in 0..self.update.heads {
            let start = (h * self.m + o) * self.d;
            out[h * self.d..(h + 1) * self.d].copy_from_slice(&b[start..start + self.d]);
        }
    }

    /// K of the row with factors `b` on `columns`.
    #[inline(always)]
    fn block(&self, b: &[f32], columns: Range<usize>, block: &mut Block) {
        let width = columns.len();
        let a = |j: usize| &self.a[j * self.n..][columns.clone()];
        let products = |inner: &mut [f32]| {
            inner.fill(0.0);
            for (j, b) in b.iter().enumerate() {
                let a = &a(j)[..width];
                for (s, a) in inner[..width].iter_mut().zip(a) {
                    *s = a.mul_add(*b, *s);
                }
            }
        };
        let squares = |inner: &mut [f32], numbers: Range<usize>| {
            inner.fill(0.0);
            for j in numbers {
                let (a, b) = (&a(j)[..width], b[j]);
                for (s, a) in inner[..width].iter_mut().zip(a) {
                    *s = (a - b).mul_add(a - b, *s);
                }
            }
        };
        let Block { k, inner } = block;
        match self.update.kernel {
            Kernel::Linear => {
                products(&mut inner[..width]);
                k.copy_from_slice(&inner[..width]);
            }
            Kernel::Polynomial { degree, shift } => {
                products(&mut inner[..width]);
                for (k, s) in k.iter_mut().zip(&mut **inner) {
                    *s += shift;
                    *k = s.powi(degree as i32);
                }
            }
            Kernel::Sigmoid { gamma, shift } => {
                products(&mut inner[..width]);
                for (k, s) in k.iter_mut().zip(&**inner) {
                    *k = math::tanh(gamma.mul_add(*s, shift));
                }
            }
            Kernel::Rbf { gamma } => {
                squares(&mut inner[..width], 0..b.len());
                for (k, s) in k.iter_mut().zip(&**inner) {
                    *k = math::exp(-gamma * s);
                }
            }
            Kernel::Distance { scale } => {
                k.fill(0.0);
                for h in 0..self.update.heads {
                    let own = &mut inner[h * width..(h + 1) * width];
                    squares(own, h * self.d..(h + 1) * self.d);
                    let sign = self.sign(h, scale);
                    for (k, s) in k.iter_mut().zip(own) {
                        *s = s.sqrt();
                        *k = sign.mul_add(*s, *k);
                    }
                }
            }
        }
    }

    fn sign(&self, head: usize, scale: f32) -> f32 {
        if head.is_multiple_of(2) {
            scale
        } else {
            -scale
        }
    }

    /// Whether an entry acts; a NaN does, so that it is seen.
    fn acts(&self, k: f32) -> bool {
        self.threshold
            .is_none_or(|t| !matches!(k.abs().partial_cmp(&t), Some(o) if o.is_le()))
    }

    /// Calls `visit(row, first column, K)` on all blocks of some rows.
    fn sweep(&self, b: &[f32], rows: Range<usize>, mut visit: impl FnMut(usize, usize, &[f32])) {
        let (r, heads) = (self.update.heads * self.d, self.update.heads);
        with_scratch(r + (heads + 1) * COLUMNS, |room| {
            let (own, room) = room.split_at_mut(r);
            let (k, inner) = room.split_at_mut(COLUMNS);
            for o in rows {
                self.row(b, o, own);
                for first in (0..self.n).step_by(COLUMNS) {
                    let columns = first..self.n.min(first + COLUMNS);
                    let k = &mut k[..columns.len()];
                    simd::dispatch(
                        #[inline(always)]
                        || self.block(own, columns, &mut Block { k, inner }),
                    );
                    visit(o, first, k);
                }
            }
        });
    }

    /// Adds S(K)'s rows to `out`.
    pub fn produce(&self, panel: Panel, out: &mut [f32]) {
        let n = self.n;
        par_rows(out, n, rows_per_piece(n, PIECE), |first, rows| {
            let at = panel.first + first;
            self.sweep(panel.params[1], at..at + rows.len() / n, |o, column, k| {
                let start = (o - at) * n + column;
                for (y, k) in rows[start..start + k.len()].iter_mut().zip(k) {
                    if self.acts(*k) {
                        *y += self.value(*k);
                    }
                }
            });
        });
    }

    /// What an acting entry adds to W.
    fn value(&self, k: f32) -> f32 {
        match (self.threshold, self.update.values) {
            (None, _) => k,
            (Some(t), Values::Soft) => k - t.copysign(k),
            (Some(_), Values::Squared) => k * k.abs(),
        }
    }

    /// The slope of [`Prepared::value`].
    fn slope(&self, k: f32) -> f32 {
        match (self.threshold, self.update.values) {
            _ if !self.acts(k) => 0.0,
            (Some(_), Values::Squared) => k.abs(),
            _ => 1.0,
        }
    }

    /// Adds to `da` `[H, n, d]` and `db` `[H, m, d]` what rows `g` of dL/dΔW contribute.
    pub fn contract(&self, panel: Panel, g: &[f32], da: &mut [f32], db: &mut [f32]) {
        let (n, d, heads) = (self.n, self.d, self.update.heads);
        let r = heads * d;
        let pieces = n.div_ceil(COLUMNS);
        let mut sums = vec![0.0f32; pieces * panel.rows * r];
        let (of_a, of_b) = (Disjoint::new(da), Disjoint::new(&mut sums));
        par_pieces(pieces, |piece| {
            let columns = piece * COLUMNS..n.min((piece + 1) * COLUMNS);
            let width = columns.len();
            // SAFETY: every piece has sums of its own.
            let sums = unsafe { of_b.slice(piece * panel.rows * r..(piece + 1) * panel.rows * r) };
            with_scratch(r + r * COLUMNS + (heads + 2) * COLUMNS, |room| {
                let (own, room) = room.split_at_mut(r);
                let (turned, room) = room.split_at_mut(r * COLUMNS);
                let (k, room) = room.split_at_mut(COLUMNS);
                let (e, inner) = room.split_at_mut(COLUMNS);
                let (k, e) = (&mut k[..width], &mut e[..width]);
                turned.fill(0.0);
                for o in 0..panel.rows {
                    self.row(panel.params[1], panel.first + o, own);
                    let g = &g[o * n..][columns.clone()];
                    let sums = &mut sums[o * r..(o + 1) * r];
                    simd::dispatch(
                        #[inline(always)]
                        || {
                            let mut block = Block {
                                k: &mut *k,
                                inner: &mut *inner,
                            };
                            self.block(own, columns.clone(), &mut block);
                            for ((e, g), k) in e.iter_mut().zip(g).zip(&*k) {
                                *e = g * self.slope(*k);
                            }
                            self.pull(own, columns.clone(), k, inner, e, turned, sums);
                        },
                    );
                }
                for h in 0..heads {
                    // SAFETY: the columns of a head lie side by side, and are this piece's.
                    let own = unsafe {
                        of_a.slice((h * n + columns.start) * d..(h * n + columns.end) * d)
                    };
                    for (i, target) in own.chunks_exact_mut(d.max(1)).enumerate() {
                        for (j, y) in target.iter_mut().enumerate() {
                            *y += turned[(h * d + j) * COLUMNS + i];
                        }
                    }
                }
            });
        });
        for o in 0..panel.rows {
            for h in 0..heads {
                let target = (h * self.m + panel.first + o) * d;
                for (j, y) in db[target..target + d].iter_mut().enumerate() {
                    for piece in 0..pieces {
                        *y += sums[(piece * panel.rows + o) * r + h * d + j];
                    }
                }
            }
        }
    }

    /// From `e = dL/dK` of one row to the gradients of a (`turned`, a number's columns side by side) and b (`sums`).
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the parts of one row's pass")]
    fn pull(
        &self,
        b: &[f32],
        columns: Range<usize>,
        k: &[f32],
        inner: &mut [f32],
        e: &mut [f32],
        turned: &mut [f32],
        sums: &mut [f32],
    ) {
        let width = columns.len();
        let a = |j: usize| &self.a[j * self.n..][columns.clone()];
        // κ′ by what κ takes.
        match self.update.kernel {
            Kernel::Linear => {}
            Kernel::Polynomial { degree, .. } => {
                for (e, s) in e.iter_mut().zip(&*inner) {
                    *e *= degree as f32 * s.powi(degree as i32 - 1);
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
                for h in 0..self.update.heads {
                    let sign = self.sign(h, scale);
                    for (s, e) in inner[h * width..(h + 1) * width].iter_mut().zip(&*e) {
                        *s = if *s > 0.0 { sign * e / *s } else { 0.0 };
                    }
                }
            }
        }
        for (j, (sum, b)) in sums.iter_mut().zip(b).enumerate() {
            let (a, y) = (&a(j)[..width], &mut turned[j * COLUMNS..][..width]);
            let apart = match self.update.kernel {
                Kernel::Rbf { .. } => Some(&*e),
                Kernel::Distance { .. } => Some(&inner[j / self.d * width..][..width]),
                _ => None,
            };
            match apart {
                Some(e) => {
                    for ((y, a), e) in y.iter_mut().zip(a).zip(e) {
                        *y = (a - b).mul_add(*e, *y);
                    }
                    *sum -= simd::sum_of_pairs(
                        a,
                        e,
                        #[inline(always)]
                        |a, e, s| (a - b).mul_add(e, s),
                    );
                }
                None => {
                    for (y, e) in y.iter_mut().zip(&*e) {
                        *y = b.mul_add(*e, *y);
                    }
                    *sum += simd::dot(a, e);
                }
            }
        }
    }

    /// Counts the magnitudes whose leading bits are `prefix` by their next `width` bits, `shift` bits from the end; also the
    /// largest bits of all.
    fn histogram(&self, b: &[f32], prefix: u32, shift: u32, width: u32) -> (Vec<usize>, u32) {
        let all = Mutex::new((vec![0usize; 1 << width], 0u32));
        par_chunks(self.m, rows_per_piece(self.n, PIECE), |rows| {
            let (mut counts, mut largest) = (vec![0usize; 1 << width], 0);
            self.sweep(b, rows, |_, _, k| {
                for k in k {
                    let bits = k.abs().to_bits();
                    largest = largest.max(bits);
                    if bits.checked_shr(shift + width).unwrap_or(0) == prefix {
                        counts[(bits >> shift) as usize & ((1 << width) - 1)] += 1;
                    }
                }
            });
            let mut all = all.lock().unwrap_or_else(|e| e.into_inner());
            all.0.iter_mut().zip(counts).for_each(|(y, x)| *y += x);
            all.1 = all.1.max(largest);
        });
        all.into_inner().unwrap_or_else(|e| e.into_inner())
    }

    /// The smallest magnitude above `low`.
    fn above(&self, b: &[f32], low: f32) -> f32 {
        let least = Mutex::new(f32::INFINITY);
        par_chunks(self.m, rows_per_piece(self.n, PIECE), |rows| {
            let mut own = f32::INFINITY;
            self.sweep(b, rows, |_, _, k| {
                for k in k {
                    if k.abs() > low && k.abs() < own {
                        own = k.abs();
                    }
                }
            });
            let mut least = least.lock().unwrap_or_else(|e| e.into_inner());
            *least = least.min(own);
        });
        least.into_inner().unwrap_or_else(|e| e.into_inner())
    }

    /// The p-quantile of |K| as [`crate::tensor::Tensor::quantile`] has it. Magnitudes order as their bits do.
    fn quantile(&self, p: f64, b: &[f32]) -> f32 {
        let last = match self.m * self.n {
            0 => return 0.0,
            total => total - 1,
        };
        let v = p * last as f64;
        let (mut rank, mut prefix, mut same) = (v.floor() as usize, 0u32, 0);
        for (shift, width) in [(21, 11), (10, 11), (0, 10)] {
            let (counts, largest) = self.histogram(b, prefix, shift, width);
            if f32::from_bits(largest).is_nan() {
                return f32::NAN;
            }
            let mut digit = 0;
            while digit + 1 < counts.len() && rank >= counts[digit] {
                rank -= counts[digit];
                digit += 1;
            }
            prefix = prefix << width | digit as u32;
            same = counts[digit];
        }
        let low = f32::from_bits(prefix);
        let fraction = v.fract();
        if fraction == 0.0 || rank + 1 < same || low.is_infinite() {
            return low;
        }
        low + (self.above(b, low) - low) * fraction as f32
    }
}
