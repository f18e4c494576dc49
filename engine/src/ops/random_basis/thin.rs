//! The update by its factors, where tokens are few.
//!
//! ```text
//! m ≥ n:   y = x·Wᵀ + b + Σ_runs (x·Rᵀ)·Bᵀ      R = s·Λ·A·Γ [k, d], B [D, k] of a run of terms, k numbers in all of a row
//! m < n:   y = x·Wᵀ + b + Σ_runs (x·B)·R
//! ```
//!
//! With K = N·r numbers a token, forward and backward take `2·T·(K·(2·D + 3·d) + 2·m·n)` FLOPs; by way of ΔW they take
//! `2·3·m·n·(T + K)`. The way of fewer FLOPs is taken: at the layers of GPT-2 and ViT-B both were measured to be as fast at 1 to 1.4
//! times the tokens at which these are as many. Scratch is 2 MiB, or a single term's factors. Saved: x, W, λ and γ, and x·B where
//! m < n and λ or γ is trained.

use std::ops::Range;

use super::{NAME, Prepared, RandomBasis};
use crate::cpu::gemm::{Dims, Extra, Layout as Strides, Scale, gemm};
use crate::device::{Device, product_with};
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::Layout;
use crate::op::{Forward, Op, Saved};
use crate::ops::linear::{as_matrix, bias_gradient, linear, output_shape, write_matrix};
use crate::ops::produced::{Producer, scratch};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Numbers of a run: its factors, what tokens have of it, and U.
const ROOM: usize = 1 << 19;

impl RandomBasis {
    /// Whether forward and backward take fewer FLOPs by the factors than by way of ΔW.
    pub(super) fn is_thin(&self, tokens: usize, m: usize, n: usize) -> bool {
        let (k, small, large) = (self.terms(m, n) * self.rank, m.min(n), m.max(n));
        let by_factors = tokens * (k * (2 * large + 3 * small) + 2 * m * n);
        by_factors < 3 * m * n * (tokens + k)
    }
}

/// The linear on the CPU where [`RandomBasis::is_thin`].
pub(super) struct Thin {
    pub update: RandomBasis,
    pub has_bias: bool,
}

/// A matrix as a product reads it.
type Factor<'a> = (&'a [f32], Strides);

/// A run of terms and its factors.
struct Factors<'a> {
    run: &'a Range<usize>,
    /// B, `[D, k]`.
    left: &'a [f32],
    /// s·Λ·A·Γ, `[k, d]`.
    right: &'a [f32],
    k: usize,
    small: usize,
}

impl Factors<'_> {
    /// What takes rows to their k numbers and what takes these on: from d to D by both turned, from D to d by both as they are.
    fn chain(&self, from_small: bool) -> [Factor<'_>; 2] {
        if from_small {
            [
                (self.right, Strides::transposed(self.small)),
                (self.left, Strides::transposed(self.k)),
            ]
        } else {
            [
                (self.left, Strides::row_major(self.k)),
                (self.right, Strides::row_major(self.small)),
            ]
        }
    }
}

impl Thin {
    /// Hands over every run with room for its k numbers of each token and for U.
    fn each_run(
        &self,
        prepared: &Prepared,
        params: [&[f32]; 2],
        [tokens, m, n]: [usize; 3],
        mut f: impl FnMut(Factors, &mut [f32], &mut [f32]),
    ) -> Result<()> {
        let (small, large, r) = (m.min(n), m.max(n), self.update.rank);
        let numbers = large + 2 * small + tokens;
        for run in self.update.runs(prepared.terms, numbers, ROOM) {
            let k = run.len() * r;
            let mut room = scratch(&[k * numbers], &Device::cpu())?;
            let (left, room) = room.as_mut_slice::<f32>()?.split_at_mut(k * large);
            let (right, room) = room.split_at_mut(k * small);
            let (h, u) = room.split_at_mut(k * tokens);
            self.update.left(0..large, &run, left);
            (self.update).right(prepared, params, &run, &(0..small), right);
            let factors = Factors {
                run: &run,
                left,
                right,
                k,
                small,
            };
            f(factors, h, u);
        }
        Ok(())
    }

    fn bias<'a>(&self, inputs: &[&'a Tensor]) -> Option<&'a Tensor> {
        self.has_bias.then(|| inputs[4])
    }
}

/// `[rows, k]·factor` into rows of `wide` numbers.
fn rows_by(
    [rows, k, wide]: [usize; 3],
    scale: Scale,
    (source, stride): (&[f32], usize),
    factor: Factor,
    (target, step): (&mut [f32], usize),
) {
    let dims = Dims {
        m: rows,
        n: wide,
        k,
    };
    gemm(
        dims,
        scale,
        (source, Strides::row_major(stride)),
        factor,
        (target, step),
    );
}

impl Op for Thin {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports(&self, device: &Device) -> bool {
        device.is_cpu()
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, w, bias) = (inputs[0], inputs[1], self.bias(inputs));
        let shape = output_shape(NAME, x, w, bias)?;
        let x = as_matrix(x)?;
        let (lambda, gamma) = (inputs[2].packed()?, inputs[3].packed()?);
        let params = [lambda.as_slice::<f32>()?, gamma.as_slice()?];
        let [tokens, m, n] = [x.rows(), w.shape()[0], w.shape()[1]];
        let bias = bias.map(Tensor::packed).transpose()?;
        let mut y = Tensor::empty(&[tokens, m], DType::F32, x.device())?;
        let extra = Extra {
            bias: bias.as_ref().map(Tensor::as_slice).transpose()?,
            ..Extra::default()
        };
        product_with((&x, false), (w, true), extra, 1.0, 0.0, &mut y)?;
        let prepared = self.update.prepare(m, n, &params)?;
        let all = prepared.terms * self.update.rank;
        let trains = f.needs(2) || f.needs(3);
        let keeps = trains && !prepared.tall;
        let width = if keeps { all } else { 0 };
        let mut kept = Tensor::empty(&[tokens, width], DType::F32, x.device())?;
        let (rows, out) = (x.as_slice::<f32>()?, y.as_mut_slice::<f32>()?);
        let kept_rows = kept.as_mut_slice::<f32>()?;
        self.each_run(&prepared, params, [tokens, m, n], |factors, h, _| {
            let (k, [up, down]) = (factors.k, factors.chain(prepared.tall));
            let (h, step) = if keeps {
                let first = factors.run.start * self.update.rank;
                (kept_rows.get_mut(first..).unwrap_or_default(), all)
            } else {
                (h, k)
            };
            rows_by([tokens, n, k], Scale::PLAIN, (rows, n), up, (&mut *h, step));
            rows_by([tokens, k, m], Scale::ADD, (h, step), down, (&mut *out, m));
        })?;
        if trains {
            f.save(0, &x);
        }
        if keeps {
            f.save(4, &kept);
        }
        if f.needs_any() {
            f.save(1, w);
            f.save(2, &lambda);
            f.save(3, &gamma);
        }
        Ok(y.relayout(Layout::contiguous(shape)))
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, w) = (inputs[0], inputs[1]);
        let delta = self.update.dense(w, &inputs[2..4])?;
        linear(x, &w.cast(DType::F32)?.add(&delta)?, self.bias(inputs))
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dy = as_matrix(&dy)?;
        if self.has_bias {
            bias_gradient(grads, 4, &dy)?;
        }
        let wanted = grads.needs(2) || grads.needs(3);
        if !wanted && !grads.needs(0) {
            return Ok(());
        }
        let (w, lambda, gamma) = (saved.get(1)?, saved.get(2)?, saved.get(3)?);
        let params = [lambda.as_slice::<f32>()?, gamma.as_slice()?];
        let [tokens, m, n] = [dy.rows(), w.shape()[0], w.shape()[1]];
        let prepared = self.update.prepare(m, n, &params)?;
        let (r, all) = (self.update.rank, prepared.terms * self.update.rank);
        let out = dy.as_slice::<f32>()?;
        let x = wanted
            .then(|| saved.get(0)?.as_slice::<f32>())
            .transpose()?;
        let kept = saved.find(4)?.map(Tensor::as_slice::<f32>).transpose()?;
        let zeros = |p: &Tensor| Tensor::zeros(p.shape(), DType::F32, p.device());
        let [mut of_lambda, mut of_gamma] = [zeros(lambda)?, zeros(gamma)?];
        let (d_lambda, d_gamma) = (of_lambda.as_mut_slice()?, of_gamma.as_mut_slice()?);
        let mut pass = |mut dx: Option<&mut [f32]>| {
            self.each_run(&prepared, params, [tokens, m, n], |factors, dh, u| {
                let (k, [up, down]) = (factors.k, factors.chain(!prepared.tall));
                rows_by([tokens, m, k], Scale::PLAIN, (out, m), up, (&mut *dh, k));
                if let Some(dx) = dx.as_deref_mut() {
                    rows_by([tokens, k, n], Scale::ADD, (dh, k), down, (dx, n));
                }
                let Some(x) = x else { return };
                // U of the k numbers on the larger side's way and the rows on the smaller side's.
                let ((numbers, step), (rows, small)) = match kept {
                    Some(kept) => {
                        let first = factors.run.start * r;
                        ((kept.get(first..).unwrap_or_default(), all), (out, m))
                    }
                    None => ((&*dh, k), (x, n)),
                };
                let dims = Dims {
                    m: k,
                    n: small,
                    k: tokens,
                };
                let scale = Scale {
                    alpha: self.update.scale,
                    beta: 0.0,
                };
                gemm(
                    dims,
                    scale,
                    (numbers, Strides::transposed(step)),
                    (rows, Strides::row_major(small)),
                    (&mut *u, small),
                );
                self.update.reduce(
                    &prepared,
                    params,
                    factors.run,
                    &(0..small),
                    u,
                    [&mut *d_lambda, &mut *d_gamma],
                );
            })
        };
        if grads.needs(0) {
            write_matrix(grads, 0, |dx, beta| {
                product_with((&dy, false), (w, false), Extra::default(), 1.0, beta, dx)?;
                pass(Some(dx.as_mut_slice()?))
            })?;
        } else {
            pass(None)?;
        }
        for (i, gradient) in [(2, of_lambda), (3, of_gamma)] {
            if grads.needs(i) {
                grads.add(i, gradient)?;
            }
        }
        Ok(())
    }
}
