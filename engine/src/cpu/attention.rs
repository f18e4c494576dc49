//! Attention, head by head, on strided matrices; the formulas stand in [`crate::ops::attention`].
//!
//! Q, K and V of a head are gathered once into padded scratch (K and, in backward, V transposed too), so that every product
//! has the form Σ_l A(i, l)·B[l, ·] with B's rows along the vector: one register tile serves all seven. Scores live in one
//! tile of [`ROWS`] × [`KEYS`] at a time. Forward keeps a running maximum and sum per row (Milakov & Gimelshein 2018), backward
//! makes the probabilities again from the log-sum-exp. Key tiles that a causal row cannot see are never computed.

use pulp::{Simd, WithSimd};

use super::math;
use super::simd::{self, LANES};
use super::threads::{self, Disjoint};
use crate::pool::with_scratch;

/// Queries per tile.
const ROWS: usize = 32;
/// Keys per tile.
const KEYS: usize = 128;

/// Where the matrices of a tensor's heads lie: element (b, h, t, d) at `start + b·batch + h·head + t·token + d`.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// The first element.
    pub start: usize,
    /// Distance between samples.
    pub batch: usize,
    /// Distance between heads.
    pub head: usize,
    /// Distance between tokens.
    pub token: usize,
}

impl Heads {
    fn row(&self, (b, h): (usize, usize), t: usize) -> usize {
        self.start + b * self.batch + h * self.head + t * self.token
    }
}

/// Sizes and form of a call.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Samples.
    pub batch: usize,
    /// Heads per sample.
    pub heads: usize,
    /// Queries.
    pub tq: usize,
    /// Keys.
    pub tk: usize,
    /// Features per head.
    pub d: usize,
    /// Factor of Q·Kᵀ.
    pub scale: f32,
    /// Whether query i sees keys up to i + Tk − Tq only.
    pub causal: bool,
}

impl Shape {
    /// How many keys query `i` sees.
    fn seen(&self, i: usize) -> usize {
        if self.causal {
            (i + 1 + self.tk).saturating_sub(self.tq).min(self.tk)
        } else {
            self.tk
        }
    }

    fn head(&self, index: usize) -> (usize, usize) {
        (index / self.heads, index % self.heads)
    }
}

/// A bias as it broadcasts to `[B, H, Tq, Tk]`.
#[derive(Clone, Copy)]
pub struct Bias<'a> {
    /// The storage.
    pub values: &'a [f32],
    /// The first element.
    pub start: usize,
    /// Strides of the four axes; 0 where it repeats.
    pub strides: [usize; 4],
}

/// The operands.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Queries.
    pub q: (&'a [f32], Heads),
    /// Keys.
    pub k: (&'a [f32], Heads),
    /// Values.
    pub v: (&'a [f32], Heads),
    /// Which keys are real, `[B, Tk]`: 0 where not.
    pub mask: Option<&'a [f32]>,
    /// Added to the scaled scores.
    pub bias: Option<Bias<'a>>,
}

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

// ---- the register tile

/// `C = A·B`, or `C += A·B` with `add`: A m×k with any strides, rows of B and C contiguous, n rounded up to [`LANES`].
#[inline(always)]
fn product<S: Simd>(
    simd: S,
    [m, n, k]: [usize; 3],
    (a, a_row, a_col): (&[f32], usize, usize),
    (b, b_row): (&[f32], usize),
    (c, c_row): (&mut [f32], usize),
    add: bool,
) {
    let n = n.next_multiple_of(LANES);
    if m == 0 || n == 0 {
        return;
    }
    assert!(c.len() >= (m - 1) * c_row + n, "attention: C is too short");
    if k > 0 {
        assert!(
            a.len() > (m - 1) * a_row + (k - 1) * a_col && b.len() >= (k - 1) * b_row + n,
            "attention: A or B is too short"
        );
    }
    let lanes = S::F32_LANES;
    for j in (0..n).step_by(2 * lanes) {
        for i in (0..m).step_by(4) {
            // SAFETY: the assertions cover rows below m, columns below n and sums below k; the tile stays inside them.
            unsafe {
                let a = a.as_ptr().add(i * a_row);
                let (b, c) = (b.as_ptr().add(j), c.as_mut_ptr().add(i * c_row + j));
                macro_rules! run {
                    ($rows:literal, $vectors:literal) => {
                        tile::<S, $rows, $vectors>(
                            simd,
                            k,
                            (a, a_row, a_col),
                            (b, b_row),
                            (c, c_row),
                            add,
                        )
                    };
                }
                match (m - i, n - j > lanes) {
                    (1, false) => run!(1, 1),
                    (1, true) => run!(1, 2),
                    (2, false) => run!(2, 1),
                    (2, true) => run!(2, 2),
                    (3, false) => run!(3, 1),
                    (3, true) => run!(3, 2),
                    (_, false) => run!(4, 1),
                    (_, true) => run!(4, 2),
                }
            }
        }
    }
}

/// M rows × N vectors of C in registers; each element's sum runs along l.
///
/// # Safety
/// The addresses reached lie in the operands.
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const N: usize>(
    simd: S,
    k: usize,
    (a, a_row, a_col): (*const f32, usize, usize),
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    add: bool,
) {
    // SAFETY: by this function's contract; vectors are read and written without alignment.
    unsafe {
        let mut sum = [[simd.splat_f32s(0.0); N]; M];
        if add {
            for i in 0..M {
                for j in 0..N {
                    sum[i][j] = c.add(i * c_row).cast::<S::f32s>().add(j).read_unaligned();
                }
            }
        }
        for l in 0..k {
            let mut row = [simd.splat_f32s(0.0); N];
            for j in 0..N {
                row[j] = b.add(l * b_row).cast::<S::f32s>().add(j).read_unaligned();
            }
            for i in 0..M {
                let x = simd.splat_f32s(*a.add(i * a_row + l * a_col));
                for j in 0..N {
                    sum[i][j] = simd.mul_add_f32s(x, row[j], sum[i][j]);
                }
            }
        }
        for i in 0..M {
            for j in 0..N {
                c.add(i * c_row)
                    .cast::<S::f32s>()
                    .add(j)
                    .write_unaligned(sum[i][j]);
            }
        }
    }
}

// ---- gathering a head

/// `scale·x[first + i]` to row i, padded with zeros.
#[inline(always)]
fn gather(
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
        row.iter_mut().zip(source).for_each(|(y, x)| *y = scale * x);
        pad.fill(0.0);
    }
}

/// The transpose of padded rows: feature j of row i to `[j, i]`; rows of `to` are padded too.
#[inline(always)]
fn transpose(to: &mut [f32], d: usize, rows: usize, from: &[f32]) {
    let (wide, long) = (d.next_multiple_of(LANES), rows.next_multiple_of(LANES));
    for first in (0..long).step_by(LANES) {
        for j in 0..d {
            let block = &mut to[j * long + first..][..LANES];
            if first + LANES <= rows {
                let source = &from[first * wide + j..][..(LANES - 1) * wide + 1];
                for i in 0..LANES {
                    block[i] = source[i * wide];
                }
            } else {
                block.fill(0.0);
                for i in first..rows {
                    block[i - first] = from[i * wide + j];
                }
            }
        }
    }
}

/// `[rows, KEYS]` of scores made final: bias, mask, and −∞ for keys that a causal row does not see.
#[inline(always)]
fn finish_scores(
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
fn exponentials(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, tail) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            chunk[l] = math::exp(chunk[l] - shift);
            lanes[l] += chunk[l];
        }
    }
    for (lane, v) in lanes.iter_mut().zip(tail) {
        *v = math::exp(*v - shift);
        *lane += *v;
    }
    simd::sum_lanes(lanes)
}

// ---- forward

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
        let (k, rest) = rest.split_at_mut(tk * wide);
        let kt = &mut rest[..d * long];
        gather(k, d, tk, 1.0, inputs.k.0, |t| inputs.k.1.row(head, t));
        transpose(kt, d, tk, k);
        // K itself is done with: its place takes V.
        let v = k;
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
                y.iter_mut()
                    .zip(&o[i * wide..])
                    .for_each(|(y, o)| *y = o * factor);
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

// ---- backward

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
            if self.call.add {
                y.iter_mut()
                    .zip(x)
                    .for_each(|(y, x)| *y = scale.mul_add(*x, *y));
            } else {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = scale * x);
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
        // V is needed transposed only; dV's place holds it until then.
        gather(dv, d, tk, 1.0, inputs.v.0, |t| inputs.v.1.row(head, t));
        transpose(vt, d, tk, dv);
        gather(k, d, tk, 1.0, inputs.k.0, |t| inputs.k.1.row(head, t));
        transpose(kt, d, tk, k);
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
                    for (p, ds) in p.iter_mut().zip(ds) {
                        *p = math::exp(*p - shift);
                        *ds = *p * (*ds - dot[i]);
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
