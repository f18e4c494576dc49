//! Multi-head attention without a Tq×Tk matrix in memory (after Dao et al. 2022).
//!
//! ```text
//! S = scale·Q·Kᵀ (+ −∞ where masked)   P = softmax_rows(S)   O = P·V
//! dV = Pᵀ·dO    dP = dO·Vᵀ    dS = P ⊙ (dP − Σ_j dO ⊙ O)    dQ = scale·dS·K    dK = scale·dSᵀ·Q
//! ```
//!
//! Q `[B, H, Tq, D]`, K and V `[B, H, Tk, D]`. Work goes head by head and a tile of rows at a time; backward makes P again
//! from the log-sum-exp of each row. Saved: Q, K, V, O and that. A row with nothing to look at gives 0 and no gradient.

use crate::cpu::gemm::{Dims, Layout, Scale, gemm};
use crate::cpu::{math, simd, threads};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::softmax::log_sum_exp;
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Rows of Q at a time.
const TILE: usize = 64;

/// Refinements of [`attention`].
#[derive(Default, Clone)]
pub struct AttentionOptions {
    /// Whether position i sees positions up to i only (aligned at the end when Tq ≠ Tk).
    pub causal: bool,
    /// Which keys are real, `[B, Tk]`: 1 or 0.
    pub mask: Option<Tensor>,
    /// Added to the scaled scores, broadcasting to `[B, H, Tq, Tk]`; makes the composed form run.
    pub bias: Option<Tensor>,
    /// In place of 1/√D.
    pub scale: Option<f32>,
}

struct Attention {
    causal: bool,
    masked: bool,
    scale: f32,
}

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    heads: usize,
    tq: usize,
    tk: usize,
    d: usize,
}

impl Shape {
    fn of(q: &Tensor, k: &Tensor) -> Self {
        let s = q.shape();
        Shape {
            batch: s[0],
            heads: s[1],
            tq: s[2],
            tk: k.shape()[2],
            d: s[3],
        }
    }
}

impl Attention {
    /// Scores of a tile of rows of one head, masked: `s` is `[rows, tk]`.
    fn scores(
        &self,
        shape: Shape,
        tile: std::ops::Range<usize>,
        q: &[f32],
        k: &[f32],
        mask: Option<&[f32]>,
        s: &mut [f32],
    ) {
        let Shape { tq, tk, d, .. } = shape;
        let (first, rows) = (tile.start, tile.len());
        let dims = Dims {
            m: rows,
            n: tk,
            k: d,
        };
        gemm(
            dims,
            Scale {
                alpha: self.scale,
                beta: 0.0,
            },
            (&q[first * d..], Layout::row_major(d)),
            (k, Layout::transposed(d)),
            (s, tk),
        );
        for (i, row) in s.chunks_exact_mut(tk).enumerate() {
            if let Some(mask) = mask {
                row.iter_mut()
                    .zip(mask)
                    .filter(|(_, m)| **m == 0.0)
                    .for_each(|(s, _)| *s = f32::NEG_INFINITY);
            }
            if self.causal {
                let seen = (first + i + 1 + tk).saturating_sub(tq).min(tk);
                row[seen..].fill(f32::NEG_INFINITY);
            }
        }
    }
}

/// `p = e^(s − lse)` row by row; 0 where a row sees nothing.
fn probabilities(s: &mut [f32], tk: usize, lse: &[f32]) {
    simd::dispatch(
        #[inline(always)]
        || {
            for (row, l) in s.chunks_exact_mut(tk).zip(lse) {
                if *l == f32::NEG_INFINITY {
                    row.fill(0.0);
                } else {
                    row.iter_mut().for_each(|v| *v = math::exp(*v - l));
                }
            }
        },
    );
}

const PLAIN: Scale = Scale {
    alpha: 1.0,
    beta: 0.0,
};
const ADD: Scale = Scale {
    alpha: 1.0,
    beta: 1.0,
};

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn supports(&self, device: &Device) -> bool {
        device.is_cpu()
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let (q, k, v) = (
            inputs[0].packed()?,
            inputs[1].packed()?,
            inputs[2].packed()?,
        );
        let shape = Shape::of(&q, &k);
        let Shape {
            batch,
            heads,
            tq,
            tk,
            d,
        } = shape;
        let mask = if self.masked {
            Some(inputs[3].packed()?)
        } else {
            None
        };
        let mask_values = mask.as_ref().map(Tensor::as_slice::<f32>).transpose()?;
        let mut o = Tensor::empty(&[batch, heads, tq, d], DType::F32, q.device())?;
        let mut lse = Tensor::empty(&[batch, heads, tq], DType::F32, q.device())?;
        {
            let (qs, ks, vs) = (
                q.as_slice::<f32>()?,
                k.as_slice::<f32>()?,
                v.as_slice::<f32>()?,
            );
            let (out, sums) = (
                threads::Disjoint::new(o.as_mut_slice::<f32>()?),
                threads::Disjoint::new(lse.as_mut_slice::<f32>()?),
            );
            threads::par_pieces(if tq * tk * d == 0 { 0 } else { batch * heads }, |head| {
                let (qh, kh, vh) = (
                    &qs[head * tq * d..],
                    &ks[head * tk * d..][..tk * d],
                    &vs[head * tk * d..][..tk * d],
                );
                let mask = mask_values.map(|m| &m[head / heads * tk..][..tk]);
                let mut s = vec![0.0f32; TILE.min(tq) * tk];
                for first in (0..tq).step_by(TILE) {
                    let rows = TILE.min(tq - first);
                    let s = &mut s[..rows * tk];
                    self.scores(shape, first..first + rows, qh, kh, mask, s);
                    // SAFETY: each head and tile of rows is visited once.
                    let (lse, out) = unsafe {
                        (
                            sums.slice(head * tq + first..head * tq + first + rows),
                            out.slice((head * tq + first) * d..(head * tq + first + rows) * d),
                        )
                    };
                    for (l, row) in lse.iter_mut().zip(s.chunks_exact(tk)) {
                        *l = simd::dispatch(
                            #[inline(always)]
                            || log_sum_exp(row),
                        );
                    }
                    probabilities(s, tk, lse);
                    gemm(
                        Dims {
                            m: rows,
                            n: d,
                            k: tk,
                        },
                        PLAIN,
                        (s, Layout::row_major(tk)),
                        (vh, Layout::row_major(d)),
                        (out, d),
                    );
                }
            });
        }
        if tk == 0 {
            o = Tensor::zeros(o.shape(), DType::F32, q.device())?;
        }
        if f.needs_any() {
            for (slot, x) in [&q, &k, &v, &o, &lse].into_iter().enumerate() {
                f.save(slot, x);
            }
            if let Some(mask) = &mask {
                f.save(5, mask);
            }
        }
        Ok(o)
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let options = AttentionOptions {
            causal: self.causal,
            mask: self.masked.then(|| inputs[3].clone()),
            bias: None,
            scale: Some(self.scale),
        };
        composed(inputs[0], inputs[1], inputs[2], &options)
    }

    fn backward(&self, saved: &Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dy = dy.packed()?;
        let (q, k, v, o, lse) = (
            saved.get(0)?,
            saved.get(1)?,
            saved.get(2)?,
            saved.get(3)?,
            saved.get(4)?,
        );
        let shape = Shape::of(q, k);
        let Shape {
            batch,
            heads,
            tq,
            tk,
            d,
        } = shape;
        let mask = saved.find(5).map(Tensor::as_slice::<f32>).transpose()?;
        let zeros = |like: &Tensor| Tensor::zeros(like.shape(), DType::F32, like.device());
        let (mut dq, mut dk, mut dv) = (zeros(q)?, zeros(k)?, zeros(v)?);
        {
            let (qs, ks, vs) = (
                q.as_slice::<f32>()?,
                k.as_slice::<f32>()?,
                v.as_slice::<f32>()?,
            );
            let (os, ls, ds) = (
                o.as_slice::<f32>()?,
                lse.as_slice::<f32>()?,
                dy.as_slice::<f32>()?,
            );
            let (gq, gk, gv) = (
                threads::Disjoint::new(dq.as_mut_slice()?),
                threads::Disjoint::new(dk.as_mut_slice()?),
                threads::Disjoint::new(dv.as_mut_slice()?),
            );
            threads::par_pieces(if tq * tk * d == 0 { 0 } else { batch * heads }, |head| {
                let (wide, long) = (
                    head * tq * d..(head + 1) * tq * d,
                    head * tk * d..(head + 1) * tk * d,
                );
                let (qh, kh, vh, oh, dh) = (
                    &qs[wide.clone()],
                    &ks[long.clone()],
                    &vs[long.clone()],
                    &os[wide.clone()],
                    &ds[wide.clone()],
                );
                // SAFETY: each head is visited once and owns its part of every gradient.
                let (gq, gk, gv) =
                    unsafe { (gq.slice(wide), gk.slice(long.clone()), gv.slice(long)) };
                let mask = mask.map(|m| &m[head / heads * tk..][..tk]);
                let (mut p, mut dp) = (
                    vec![0.0f32; TILE.min(tq) * tk],
                    vec![0.0f32; TILE.min(tq) * tk],
                );
                for first in (0..tq).step_by(TILE) {
                    let rows = TILE.min(tq - first);
                    let (p, dp) = (&mut p[..rows * tk], &mut dp[..rows * tk]);
                    let (qt, ot, dt) = (
                        &qh[first * d..][..rows * d],
                        &oh[first * d..][..rows * d],
                        &dh[first * d..][..rows * d],
                    );
                    self.scores(shape, first..first + rows, qh, kh, mask, p);
                    probabilities(p, tk, &ls[head * tq + first..][..rows]);
                    gemm(
                        Dims {
                            m: tk,
                            n: d,
                            k: rows,
                        },
                        ADD,
                        (p, Layout::transposed(tk)),
                        (dt, Layout::row_major(d)),
                        (gv, d),
                    );
                    gemm(
                        Dims {
                            m: rows,
                            n: tk,
                            k: d,
                        },
                        PLAIN,
                        (dt, Layout::row_major(d)),
                        (vh, Layout::transposed(d)),
                        (dp, tk),
                    );
                    simd::dispatch(
                        #[inline(always)]
                        || {
                            for i in 0..rows {
                                let dot = simd::dot(&dt[i * d..][..d], &ot[i * d..][..d]);
                                for (g, p) in dp[i * tk..][..tk].iter_mut().zip(&p[i * tk..][..tk])
                                {
                                    *g = self.scale * p * (*g - dot);
                                }
                            }
                        },
                    );
                    gemm(
                        Dims {
                            m: rows,
                            n: d,
                            k: tk,
                        },
                        PLAIN,
                        (dp, Layout::row_major(tk)),
                        (kh, Layout::row_major(d)),
                        (&mut gq[first * d..][..rows * d], d),
                    );
                    gemm(
                        Dims {
                            m: tk,
                            n: d,
                            k: rows,
                        },
                        ADD,
                        (dp, Layout::transposed(tk)),
                        (qt, Layout::row_major(d)),
                        (gk, d),
                    );
                }
            });
        }
        grads.add(0, dq)?;
        grads.add(1, dk)?;
        grads.add(2, dv)
    }
}

/// The same by matrix products and a softmax: keeps the whole matrix.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
    let Shape {
        batch, tq, tk, d, ..
    } = Shape::of(q, k);
    let scale = options.scale.unwrap_or(1.0 / (d as f32).sqrt());
    let mut s = q.matmul_t(k, false, true)?.affine(scale as f64, 0.0)?;
    if let Some(bias) = &options.bias {
        s = s.add(bias)?;
    }
    // A large finite number in place of −∞: rows that see nothing are zeroed below.
    let mut seen = Tensor::full(&[1, 1, tq, tk], 1.0, DType::F32, q.device())?;
    if options.causal {
        let triangle: Vec<f32> = (0..tq * tk)
            .map(|i| (i % tk + tq <= i / tk + tk) as u8 as f32)
            .collect();
        seen = Tensor::from_slice(&triangle, &[1, 1, tq, tk], q.device())?;
    }
    if let Some(mask) = &options.mask {
        seen = seen.mul(&mask.detach().reshape(&[batch, 1, 1, tk])?)?;
    }
    let low = Tensor::full(&[1], -1e30, DType::F32, q.device())?;
    let any = seen.max_keep(&[3])?;
    seen.select(&s, &low)?.softmax()?.mul(&any)?.matmul(v)
}

/// `softmax(scale·QKᵀ + …)·V` per head.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
    let fits = q.rank() == 4
        && k.rank() == 4
        && k.shape() == v.shape()
        && q.shape()[..2] == k.shape()[..2]
        && q.shape()[3] == k.shape()[3];
    if !fits {
        let detail = format!(
            "q {:?}, k {:?}, v {:?}: wanted [B, H, Tq, D] and twice [B, H, Tk, D]",
            q.shape(),
            k.shape(),
            v.shape()
        );
        return Err(Error::shape("attention", detail));
    }
    if let Some(mask) = &options.mask {
        mask.expect_shape("attention", "mask", &[q.shape()[0], k.shape()[2]])?;
    }
    if options.bias.is_some() {
        return composed(q, k, v, options);
    }
    let op = Attention {
        causal: options.causal,
        masked: options.mask.is_some(),
        scale: options.scale.unwrap_or(1.0 / (q.last_dim() as f32).sqrt()),
    };
    match &options.mask {
        Some(mask) => apply(op, &[q, k, v, &mask.detach()]),
        None => apply(op, &[q, k, v]),
    }
}
