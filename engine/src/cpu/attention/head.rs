//! A head's matrices in padded scratch, and its scores made probabilities.

use super::{Heads, Inputs, KEYS, Shape};
use crate::cpu::gemm;
use crate::cpu::math;
use crate::cpu::simd::{self, LANES};

/// `scale·x[first + i]` to row i, padded with zeros.
#[inline(always)]
pub(super) fn gather(
    to: &mut [f32],
    d: usize,
    rows: usize,
    scale: f32,
    from: &[f32],
    at: impl Fn(usize) -> usize,
) {
    let wide = d.next_multiple_of(LANES);
    for i in 0..rows {
        let (row, pad) = to[i * wide..][..wide].split_at_mut(d);
        let source = &from[at(i)..][..d];
        // By index: an iterator's `zip` is called, not inlined, in code for a wider path.
        for j in 0..d {
            row[j] = scale * source[j];
        }
        for x in pad {
            *x = 0.0;
        }
    }
}

/// A head's rows, transposed where they lie: feature j of row i to `[j, i]`, rows of `to` padded with zeros to whole vectors.
pub(super) fn transpose(
    to: &mut [f32],
    d: usize,
    rows: usize,
    (from, heads): (&[f32], Heads),
    head: (usize, usize),
) {
    let from = from.get(heads.row(head, 0)..).unwrap_or_default();
    let long = rows.next_multiple_of(LANES);
    gemm::transpose((from, heads.token), [rows, d], (to, long));
}

/// `[rows, KEYS]` of scores made final: bias, mask, and −∞ for keys that a causal row does not see.
#[inline(always)]
pub(super) fn finish_scores(
    shape: &Shape,
    inputs: &Inputs,
    head: (usize, usize),
    first: usize,
    rows: usize,
    keys: std::ops::Range<usize>,
    s: &mut [f32],
) {
    for i in 0..rows {
        let row = &mut s[i * KEYS..][..keys.len()];
        if let Some(bias) = &inputs.bias {
            let [sb, sh, sq, sk] = bias.strides;
            let at = bias.start + head.0 * sb + head.1 * sh + (first + i) * sq + keys.start * sk;
            if sk == 1 {
                row.iter_mut()
                    .zip(&bias.values[at..][..keys.len()])
                    .for_each(|(s, b)| *s += b);
            } else {
                row.iter_mut()
                    .enumerate()
                    .for_each(|(j, s)| *s += bias.values[at + j * sk]);
            }
        }
        if let Some(mask) = inputs.mask {
            let mask = &mask[head.0 * shape.tk + keys.start..][..keys.len()];
            row.iter_mut()
                .zip(mask)
                .for_each(|(s, m)| *s = if *m == 0.0 { f32::NEG_INFINITY } else { *s });
        }
        let seen = shape
            .seen(first + i)
            .saturating_sub(keys.start)
            .min(keys.len());
        row[seen..].fill(f32::NEG_INFINITY);
    }
}

/// `x ← e^(x − shift)`; the sum.
#[inline(always)]
pub(super) fn exponentials(x: &mut [f32], shift: f32) -> f32 {
    let mut whole = [0.0f32; LANES];
    let (chunks, tail) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        let mut next = whole;
        for l in 0..LANES {
            chunk[l] = math::exp(chunk[l] - shift);
            next[l] += chunk[l];
        }
        whole = next;
    }
    let mut lanes = whole;
    for (lane, v) in lanes.iter_mut().zip(tail) {
        *v = math::exp(*v - shift);
        *lane += *v;
    }
    simd::sum_lanes(lanes)
}
