//! The low-rank linear where products take a second operand pair (the K-extension): y = [x | h]·[W | s·B]ᵀ and
//! dx = [dy | g]·[W ; s·A] are one product each, after the thin h = x·Aᵀ and g = dy·B. Neither ΔW nor its gradient exists.

use super::LowRank;
use crate::device::Gemm;
use crate::device::cuda::{Around, Cuda, Pair};
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::Layout;
use crate::op::{Forward, Saved};
use crate::ops::linear::{as_matrix, bias_gradient, output_shape, write_matrix};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// `t·Λ`, or t.
fn gated(t: &Tensor, lambda: Option<&Tensor>) -> Result<Tensor> {
    match lambda {
        Some(lambda) => t.mul(&lambda.detach()),
        None => Ok(t.detach()),
    }
}

impl LowRank {
    pub(super) fn forward_extended(
        &self,
        cuda: &Cuda,
        f: &mut Forward,
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        let [x, w, a, b] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let (bias, lambda) = self.optional(inputs);
        let shape = output_shape("low_rank", x, w, bias)?;
        let x = as_matrix(x)?;
        let h = x.matmul_t(&a.detach(), false, true)?;
        let mut y = Tensor::empty(&[x.rows(), w.shape()[0]], DType::F32, x.device())?;
        let around = Around {
            bias,
            second: Some(Pair {
                a: &gated(&h, lambda)?,
                b,
                scale: self.scale,
            }),
        };
        let by_rows = Gemm {
            trans_a: false,
            trans_b: true,
            alpha: 1.0,
            beta: 0.0,
        };
        cuda.product(by_rows, &x, w, &around, &mut y)?;
        self.keep(f, inputs, &x, &h);
        Ok(y.relayout(Layout::contiguous(shape)))
    }

    pub(super) fn backward_extended(
        &self,
        cuda: &Cuda,
        saved: &Saved,
        dy: &Tensor,
        grads: &mut Grads,
    ) -> Result<()> {
        let dy = as_matrix(dy)?;
        let (a, b, lambda) = (saved.get(2)?, saved.get(3)?, saved.find(4)?);
        let lambda_at = 4 + self.has_bias as usize;
        let wants_lambda = self.has_lambda && grads.needs(lambda_at);
        let g = if grads.needs(0) || grads.needs(2) || wants_lambda {
            Some(dy.matmul(&b.detach())?)
        } else {
            None
        };
        let acting = g.as_ref().map(|g| gated(g, lambda)).transpose()?;
        if let (true, Some(acting)) = (grads.needs(0), &acting) {
            let around = Around {
                bias: None,
                second: Some(Pair {
                    a: acting,
                    b: a,
                    scale: self.scale,
                }),
            };
            let w = saved.get(1)?;
            write_matrix(grads, 0, |out, beta| {
                let plain = Gemm {
                    trans_a: false,
                    trans_b: false,
                    alpha: 1.0,
                    beta,
                };
                cuda.product(plain, &dy, w, &around, out)
            })?;
        }
        let of_tokens = |beta| Gemm {
            trans_a: true,
            trans_b: false,
            alpha: self.scale,
            beta,
        };
        if let (true, Some(acting)) = (grads.needs(2), &acting) {
            let x = saved.get(0)?;
            grads.write(2, |out, beta| {
                cuda.product(of_tokens(beta), acting, x, &Around::default(), out)
            })?;
        }
        if grads.needs(3) {
            let h = gated(saved.get(5)?, lambda)?;
            grads.write(3, |out, beta| {
                cuda.product(of_tokens(beta), &dy, &h, &Around::default(), out)
            })?;
        }
        if let (true, Some(g)) = (wants_lambda, &g) {
            let h = saved.get(5)?;
            grads.add(lambda_at, g.mul(h)?.sum(0)?.affine(self.scale as f64, 0.0)?)?;
        }
        if self.has_bias {
            bias_gradient(grads, 4, &dy)?;
        }
        Ok(())
    }
}
