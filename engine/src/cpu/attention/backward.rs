//! Backward: the probabilities again from the log-sum-exp, then the gradients.

use pulp::{Simd, WithSimd};

use super::head::{finish_scores, gather, transpose};
use super::tile::product;
use super::{Heads, Inputs, KEYS, ROWS, Shape};
use crate::cpu::math;
use crate::cpu::simd::{self, LANES};
use crate::cpu::threads::{self, Disjoint};
use crate::pool::with_scratch;

/// What backward is given and where it writes; a gradient that is `None` is not computed.
pub struct Backward<'a> {
    /// Forward's operands.
    pub inputs: Inputs<'a>,
    /// Forward's result.
    pub out: (&'a [f32], Heads),
    /// Log-sum-exp of the rows, `[B, H, Tq]`.
    pub lse: &'a [f32],
    /// Gradient of the result.
    pub dout: (&'a [f32], Heads),
    /// Gradients of Q, K and V; they may interleave but not overlap.
    pub grads: [Option<(&'a Disjoint<'a, f32>, Heads)>; 3],
    /// Whether to add to what the gradients hold.
    pub add: bool,
    /// Gradient of the bias.
    pub dbias: Option<BiasGradient<'a>>,
}

/// Where the bias's gradient is summed. Heads that share bias elements are dealt to `parts` partial sums.
pub struct BiasGradient<'a> {
    /// `[parts, batch, heads, rows, cols]` of zeros; sizes are 1 where the bias repeats.
    pub sums: &'a Disjoint<'a, f32>,
    /// Number of partial sums.
    pub parts: usize,
    /// The other sizes.
    pub shape: [usize; 4],
}

struct BackwardHead<'a> {
    shape: &'a Shape,
    call: &'a Backward<'a>,
    head: (usize, usize),
    /// This head's part of the bias's gradient, `[rows, cols]`.
    dbias: Option<&'a mut [f32]>,
    scratch: &'a mut [f32],
}

impl BackwardHead<'_> {
    /// Writes or adds `scale·x`, padded rows from token `first` on, to gradient `which`.
    #[inline(always)]
    fn scatter(&self, which: usize, first: usize, rows: usize, scale: f32, x: &[f32]) {
        let Some((target, heads)) = self.call.grads[which] else {
            return;
        };
        let d = self.shape.d;
        for (i, x) in x
            .chunks_exact(d.next_multiple_of(LANES))
            .take(rows)
            .enumerate()
        {
            let at = heads.row(self.head, first + i);
            // SAFETY: each row of each head is written by one piece.
            let y = unsafe { target.slice(at..at + d) };
            let x = &x[..d];
            if self.call.add {
                for j in 0..d {
                    y[j] = scale.mul_add(x[j], y[j]);
                }
            } else {
                for j in 0..d {
                    y[j] = scale * x[j];
                }
            }
        }
    }
}

/// Adds `[rows, keys]` of dS to the bias's gradient `[bias_rows, bias_cols]`, where size 1 repeats.
#[inline(always)]
fn add_bias(
    [bias_rows, bias_cols]: [usize; 2],
    first: usize,
    rows: usize,
    keys: std::ops::Range<usize>,
    ds: &[f32],
    sums: &mut [f32],
) {
    for i in 0..rows {
        let row = &ds[i * KEYS..][..keys.len()];
        let at = if bias_rows == 1 {
            0
        } else {
            (first + i) * bias_cols
        };
        if bias_cols == 1 {
            sums[at] += simd::sum_of(
                row,
                #[inline(always)]
                |v| v,
            );
        } else {
            sums[at + keys.start..]
                .iter_mut()
                .zip(row)
                .for_each(|(s, g)| *s += g);
        }
    }
}

impl WithSimd for BackwardHead<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (shape, head) = (self.shape, self.head);
        let Backward {
            inputs,
            out,
            lse,
            dout,
            ..
        } = self.call;
        let Shape { tq, tk, d, .. } = *shape;
        let (wide, long) = (d.next_multiple_of(LANES), tk.next_multiple_of(LANES));
        let scratch = std::mem::take(&mut self.scratch);
        let (q, rest) = scratch.split_at_mut(ROWS * wide);
        let (dy, rest) = rest.split_at_mut(ROWS * wide);
        let (dq, rest) = rest.split_at_mut(ROWS * wide);
        let (p, rest) = rest.split_at_mut(ROWS * KEYS);
        let (ds, rest) = rest.split_at_mut(ROWS * KEYS);
        let (k, rest) = rest.split_at_mut(tk * wide);
        let (dk, rest) = rest.split_at_mut(tk * wide);
        let (dv, rest) = rest.split_at_mut(tk * wide);
        let (kt, rest) = rest.split_at_mut(d * long);
        let vt = &mut rest[..d * long];
        // V is needed transposed only.
        transpose(vt, d, tk, inputs.v, head);
        transpose(kt, d, tk, inputs.k, head);
        gather(k, d, tk, 1.0, inputs.k.0, |t| inputs.k.1.row(head, t));
        dk.fill(0.0);
        dv.fill(0.0);
        let lse = &lse[(head.0 * shape.heads + head.1) * tq..][..tq];
        for first in (0..tq).step_by(ROWS) {
            let rows = ROWS.min(tq - first);
            gather(q, d, rows, shape.scale, inputs.q.0, |i| {
                inputs.q.1.row(head, first + i)
            });
            gather(dy, d, rows, 1.0, dout.0, |i| dout.1.row(head, first + i));
            dq.fill(0.0);
            let mut dot = [0.0f32; ROWS];
            for i in 0..rows {
                let o = &out.0[out.1.row(head, first + i)..][..d];
                dot[i] = simd::dot(o, &dy[i * wide..][..d]);
            }
            for start in (0..shape.seen(first + rows - 1)).step_by(KEYS) {
                let keys = start..shape.seen(first + rows - 1).min(start + KEYS);
                let n = keys.len();
                product(
                    simd,
                    [rows, n, d],
                    (q, wide, 1),
                    (&kt[start..], long),
                    (p, KEYS),
                    false,
                );
                finish_scores(shape, inputs, head, first, rows, keys.clone(), p);
                product(
                    simd,
                    [rows, n, d],
                    (dy, wide, 1),
                    (&vt[start..], long),
                    (ds, KEYS),
                    false,
                );
                for i in 0..rows {
                    // A row that sees nothing has probabilities e^(−∞ − 0).
                    let shift = if lse[first + i] == f32::NEG_INFINITY {
                        0.0
                    } else {
                        lse[first + i]
                    };
                    let (p, ds) = (&mut p[i * KEYS..][..n], &mut ds[i * KEYS..][..n]);
                    for j in 0..n {
                        p[j] = math::exp(p[j] - shift);
                        ds[j] = p[j] * (ds[j] - dot[i]);
                    }
                }
                if let (Some(sums), Some(gradient)) = (&mut self.dbias, &self.call.dbias) {
                    let [_, _, bias_rows, bias_cols] = gradient.shape;
                    add_bias([bias_rows, bias_cols], first, rows, keys.clone(), ds, sums);
                }
                let tokens = start * wide..(start + n) * wide;
                if self.call.grads[0].is_some() {
                    product(
                        simd,
                        [rows, d, n],
                        (ds, KEYS, 1),
                        (&k[tokens.clone()], wide),
                        (dq, wide),
                        true,
                    );
                }
                if self.call.grads[1].is_some() {
                    product(
                        simd,
                        [n, d, rows],
                        (ds, 1, KEYS),
                        (q, wide),
                        (&mut dk[tokens.clone()], wide),
                        true,
                    );
                }
                if self.call.grads[2].is_some() {
                    product(
                        simd,
                        [n, d, rows],
                        (p, 1, KEYS),
                        (dy, wide),
                        (&mut dv[tokens], wide),
                        true,
                    );
                }
            }
            self.scatter(0, first, rows, shape.scale, dq);
        }
        // The scale is in Q already.
        self.scatter(1, 0, tk, 1.0, dk);
        self.scatter(2, 0, tk, 1.0, dv);
    }
}

/// Gradients of [`forward`].
pub fn backward(shape: &Shape, call: &Backward) {
    let (wide, long) = (
        shape.d.next_multiple_of(LANES),
        shape.tk.next_multiple_of(LANES),
    );
    let scratch = 3 * ROWS * wide + 2 * ROWS * KEYS + 3 * shape.tk * wide + 2 * shape.d * long;
    let run = |index: usize, dbias: Option<&mut [f32]>| {
        with_scratch(scratch, |scratch| {
            simd::dispatch_with(BackwardHead {
                shape,
                call,
                head: shape.head(index),
                dbias,
                scratch,
            });
        });
    };
    let Some(BiasGradient {
        sums,
        parts,
        shape: [b, h, rows, cols],
    }) = &call.dbias
    else {
        return threads::par_pieces(shape.batch * shape.heads, |index| run(index, None));
    };
    // Heads that share bias elements, `shared` of them, are taken in turn by the piece that owns their partial sum.
    let (groups, size) = (b * h, rows * cols);
    let shared = shape.batch * shape.heads / groups.max(1);
    threads::par_pieces(parts * groups, |piece| {
        let (part, group) = (piece / groups, piece % groups);
        // SAFETY: each piece owns one slice.
        let own = unsafe { sums.slice(piece * size..(piece + 1) * size) };
        for member in (part..shared).step_by(*parts) {
            run(member_of(shape, [*b, *h], group, member), Some(&mut *own));
        }
    });
}

/// Head number `member` among those whose bias is slice `group` of `[b, h]`.
fn member_of(shape: &Shape, [b, h]: [usize; 2], group: usize, member: usize) -> usize {
    match (b == 1, h == 1) {
        (true, true) => member,
        (true, false) => member * shape.heads + group,
        (false, true) => group * shape.heads + member,
        (false, false) => group,
    }
}
