//! A linear with a low-rank update: `y = x·(W + s·B·diag(λ)·A)ᵀ + b`.
//!
//! ```text
//! h = x·Aᵀ    g = dy·B
//! dx = dy·(W + s·B·Λ·A)    dB = s·dyᵀ·(h·Λ)    dA = s·(g·Λ)ᵀ·x    dλ = s·Σ_tokens g ⊙ h    db = Σ_tokens dy
//! ```
//!
//! x `[…, n]`, W `[m, n]` frozen, A `[r, n]`, B `[m, r]`, λ `[r]` or none (ones). The sum W + s·B·Λ·A is made once into scratch
//! for the forward product and once more for dx: at r ≪ tokens that is cheaper than two thin products a token. The gradients of
//! the factors have the thin form, so that no m×n gradient exists. Saved: x, A, B, λ, and W where dx is wanted.

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::linear::{as_matrix, linear, output_shape, product, write_matrix};
use crate::tape::Grads;
use crate::tensor::Tensor;

struct LowRank {
    scale: f32,
    has_bias: bool,
    has_lambda: bool,
}

/// `s·Λ·A`.
fn scaled(a: &Tensor, lambda: Option<&Tensor>, scale: f32) -> Result<Tensor> {
    let a = match lambda {
        Some(lambda) => a.mul(&lambda.unsqueeze(1)?)?,
        None => a.clone(),
    };
    a.affine(scale as f64, 0.0)
}

/// W + s·B·Λ·A in f32.
fn merged(
    w: &Tensor,
    a: &Tensor,
    b: &Tensor,
    lambda: Option<&Tensor>,
    scale: f32,
) -> Result<Tensor> {
    let mut sum = Tensor::empty(w.shape(), DType::F32, w.device())?;
    w.device().backend().copy(w, &mut sum)?;
    product(b, false, &scaled(a, lambda, scale)?, false, 1.0, &mut sum)?;
    Ok(sum)
}

impl LowRank {
    /// The optional inputs: bias, then λ.
    fn optional<'a>(&self, inputs: &[&'a Tensor]) -> (Option<&'a Tensor>, Option<&'a Tensor>) {
        let bias = self.has_bias.then(|| inputs[4]);
        let lambda = self.has_lambda.then(|| inputs[4 + self.has_bias as usize]);
        (bias, lambda)
    }
}

impl Op for LowRank {
    fn name(&self) -> &'static str {
        "low_rank"
    }

    fn supports(&self, device: &Device) -> bool {
        device.is_cpu()
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let [x, w, a, b] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let (bias, lambda) = self.optional(inputs);
        let shape = output_shape("low_rank", x, w, bias)?;
        let (x, rows) = (as_matrix(x)?, x.rows());
        let mut y = Tensor::empty(&[rows, w.shape()[0]], DType::F32, x.device())?;
        if let Some(bias) = bias {
            let view = bias.broadcast_view("low_rank", &y.layout().shape)?;
            x.device().backend().copy(&view, &mut y)?;
        }
        product(
            &x,
            false,
            &merged(w, a, b, lambda, self.scale)?,
            true,
            self.has_bias as u8 as f32,
            &mut y,
        )?;
        if f.needs_any() {
            f.save(0, &x);
            f.save(2, a);
            f.save(3, b);
            if let Some(lambda) = lambda {
                f.save(4, lambda);
            }
        }
        if f.needs(0) {
            f.save(1, w);
        }
        Ok(y.relayout(Layout::contiguous(shape)))
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let (bias, lambda) = self.optional(inputs);
        let delta = inputs[3].matmul(&scaled(inputs[2], lambda, self.scale)?)?;
        linear(inputs[0], &inputs[1].add(&delta)?, bias)
    }

    fn backward(&self, saved: &Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dy = as_matrix(&dy)?;
        let (x, a, b, lambda) = (saved.get(0)?, saved.get(2)?, saved.get(3)?, saved.find(4));
        if grads.needs(0) {
            let whole = merged(saved.get(1)?, a, b, lambda, self.scale)?;
            write_matrix(grads, 0, |out, beta| {
                product(&dy, false, &whole, false, beta, out)
            })?;
        }
        let lambda_at = 4 + self.has_bias as usize;
        let wants_lambda = self.has_lambda && grads.needs(lambda_at);
        if grads.needs(2) || wants_lambda {
            let g = dy.matmul(b)?.affine(self.scale as f64, 0.0)?;
            if grads.needs(2) {
                let g = lambda.map_or(Ok(g.clone()), |l| g.mul(l))?;
                grads.write(2, |out, beta| product(&g, true, x, false, beta, out))?;
            }
            if wants_lambda {
                let h = x.matmul_t(a, false, true)?;
                grads.add(lambda_at, g.mul(&h)?.sum(0)?)?;
            }
        }
        if grads.needs(3) {
            let h = x.matmul_t(&scaled(a, lambda, self.scale)?, false, true)?;
            grads.write(3, |out, beta| product(&dy, true, &h, false, beta, out))?;
        }
        if self.has_bias && grads.needs(4) {
            grads.add(4, dy.sum(0)?)?;
        }
        Ok(())
    }
}

/// `x·(W + scale·B·diag(λ)·A)ᵀ + b` with a frozen W.
///
/// # Errors
/// Shapes that do not fit, or a W that is trained.
pub fn low_rank_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    a: &Tensor,
    b: &Tensor,
    lambda: Option<&Tensor>,
    scale: f32,
) -> Result<Tensor> {
    let (m, n) = match weight.shape() {
        &[m, n] => (m, n),
        other => {
            return Err(Error::shape(
                "low_rank",
                format!("W is {other:?}, wanted [m, n]"),
            ));
        }
    };
    let r = a.shape().first().copied().unwrap_or(0);
    a.expect_shape("low_rank", "A", &[r, n])?;
    b.expect_shape("low_rank", "B", &[m, r])?;
    if let Some(lambda) = lambda {
        lambda.expect_shape("low_rank", "λ", &[r])?;
    }
    if weight.requires_grad() {
        return Err(Error::Invalid(
            "low_rank: W is trained; add the update's dense form to it instead".into(),
        ));
    }
    let op = LowRank {
        scale,
        has_bias: bias.is_some(),
        has_lambda: lambda.is_some(),
    };
    let inputs: Vec<&Tensor> = [Some(x), Some(weight), Some(a), Some(b), bias, lambda]
        .into_iter()
        .flatten()
        .collect();
    apply(op, &inputs)
}
