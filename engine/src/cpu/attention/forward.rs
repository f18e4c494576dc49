//! Forward, a tile of queries and keys at a time.

use pulp::{Simd, WithSimd};

use super::head::{exponentials, finish_scores, gather, transpose};
use super::tile::product;
use super::{Heads, Inputs, KEYS, ROWS, Shape};
use crate::cpu::math;
use crate::cpu::simd::{self, LANES};
use crate::cpu::threads::{self, Disjoint};
use crate::pool::with_scratch;

struct ForwardHead<'a, 'b> {
    shape: &'a Shape,
    inputs: &'a Inputs<'a>,
    head: (usize, usize),
    out: (&'a Disjoint<'b, f32>, Heads),
    lse: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl WithSimd for ForwardHead<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let ForwardHead {
            shape,
            inputs,
            head,
            out,
            lse,
            scratch,
        } = self;
        let Shape { tq, tk, d, .. } = *shape;
        let (wide, long) = (d.next_multiple_of(LANES), tk.next_multiple_of(LANES));
        let (q, rest) = scratch.split_at_mut(ROWS * wide);
        let (o, rest) = rest.split_at_mut(ROWS * wide);
        let (s, rest) = rest.split_at_mut(ROWS * KEYS);
        let (v, rest) = rest.split_at_mut(tk * wide);
        let kt = &mut rest[..d * long];
        transpose(kt, d, tk, inputs.k, head);
        gather(v, d, tk, 1.0, inputs.v.0, |t| inputs.v.1.row(head, t));
        for first in (0..tq).step_by(ROWS) {
            let rows = ROWS.min(tq - first);
            let (mut max, mut sum) = ([f32::NEG_INFINITY; ROWS], [0.0f32; ROWS]);
            gather(q, d, rows, shape.scale, inputs.q.0, |i| {
                inputs.q.1.row(head, first + i)
            });
            o.fill(0.0);
            for start in (0..shape.seen(first + rows - 1)).step_by(KEYS) {
                let keys = start..shape.seen(first + rows - 1).min(start + KEYS);
                product(
                    simd,
                    [rows, keys.len(), d],
                    (q, wide, 1),
                    (&kt[start..], long),
                    (s, KEYS),
                    false,
                );
                finish_scores(shape, inputs, head, first, rows, keys.clone(), s);
                for i in 0..rows {
                    let row = &mut s[i * KEYS..][..keys.len()];
                    let top = simd::max_of(row).max(max[i]);
                    // A row that has seen nothing yet stays at weight 0: e^(−∞ − 0).
                    let shift = if top == f32::NEG_INFINITY { 0.0 } else { top };
                    let fade = math::exp(max[i] - shift);
                    sum[i] = fade.mul_add(sum[i], exponentials(row, shift));
                    max[i] = top;
                    if start > 0 {
                        o[i * wide..][..wide].iter_mut().for_each(|o| *o *= fade);
                    }
                }
                product(
                    simd,
                    [rows, d, keys.len()],
                    (s, KEYS, 1),
                    (&v[start * wide..], wide),
                    (o, wide),
                    true,
                );
            }
            for i in 0..rows {
                let at = out.1.row(head, first + i);
                // SAFETY: each row of each head is written by one piece.
                let y = unsafe { out.0.slice(at..at + d) };
                let factor = if sum[i] == 0.0 { 0.0 } else { 1.0 / sum[i] };
                let o = &o[i * wide..][..d];
                for j in 0..d {
                    y[j] = o[j] * factor;
                }
                lse[first + i] = max[i] + math::log(sum[i]);
            }
        }
    }
}

/// `out = softmax(scale·Q·Kᵀ + bias)·V`, and the log-sum-exp of each row into `lse` `[B, H, Tq]` (−∞ for a row that sees nothing,
/// whose result is 0).
pub fn forward(shape: &Shape, inputs: &Inputs, out: (&mut [f32], Heads), lse: &mut [f32]) {
    let (wide, long) = (
        shape.d.next_multiple_of(LANES),
        shape.tk.next_multiple_of(LANES),
    );
    let scratch = 2 * ROWS * wide + ROWS * KEYS + shape.tk * wide + shape.d * long;
    let (target, lse) = (Disjoint::new(out.0), Disjoint::new(lse));
    threads::par_pieces(shape.batch * shape.heads, |index| {
        with_scratch(scratch, |scratch| {
            simd::dispatch_with(ForwardHead {
                shape,
                inputs,
                head: shape.head(index),
                out: (&target, out.1),
                // SAFETY: each head is one piece.
                lse: unsafe { lse.slice(index * shape.tq..(index + 1) * shape.tq) },
                scratch,
            });
        });
    });
}
