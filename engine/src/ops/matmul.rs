//! Batched matrix products.
//!
//! ```text
//! C = op(A)·op(B)      dA = dC·op(B)ᵀ  (or its transpose)      dB = op(A)ᵀ·dC
//! ```
//!
//! Leading axes broadcast; their gradients are summed. `B` may be bf16 or f16 under an f32 `A`.

use crate::device::Gemm;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::op::{Forward, Op, Saved, apply};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// `op(A)·op(B)` over the last two axes.
struct MatMul {
    trans_a: bool,
    trans_b: bool,
}

/// Shape of the product, or why there is none.
fn product_shape(a: &Tensor, b: &Tensor, trans_a: bool, trans_b: bool) -> Result<Dims> {
    let (ra, rb) = (a.rank(), b.rank());
    if ra < 2 || rb < 2 {
        return Err(Error::shape(
            "matmul",
            format!("operands need two axes: {:?} · {:?}", a.shape(), b.shape()),
        ));
    }
    let pick = |x: &Tensor, t: bool| {
        let s = &x.shape()[x.rank() - 2..];
        if t { (s[1], s[0]) } else { (s[0], s[1]) }
    };
    let ((m, ka), (kb, n)) = (pick(a, trans_a), pick(b, trans_b));
    if ka != kb {
        return Err(Error::shape(
            "matmul",
            format!(
                "lhs {:?} · rhs {:?}: inner sizes {ka} and {kb} differ (trans_a = {trans_a}, trans_b = {trans_b})",
                a.shape(),
                b.shape()
            ),
        ));
    }
    let lead = |x: &Tensor| Dims::new(&x.shape()[..x.rank() - 2]);
    let batch = Layout::broadcast_shape("matmul", &lead(a)?, &lead(b)?)?;
    Dims::new(&[&*batch, &[m, n]].concat())
}

fn gemm(
    alpha: f32,
    beta: f32,
    (a, trans_a): (&Tensor, bool),
    (b, trans_b): (&Tensor, bool),
    c: &mut Tensor,
) -> Result<()> {
    let device = a.device().clone();
    device.backend().gemm(
        Gemm {
            trans_a,
            trans_b,
            alpha,
            beta,
        },
        a,
        b,
        c,
    )
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let (a, b) = (inputs[0], inputs[1]);
        let shape = product_shape(a, b, self.trans_a, self.trans_b)?;
        a.expect_dtype("matmul", DType::F32)?;
        if !matches!(b.dtype(), DType::F32 | DType::Bf16 | DType::F16) {
            return Err(Error::DType {
                op: "matmul",
                operand: "rhs",
                got: b.dtype(),
                want: "f32, bf16 or f16",
            });
        }
        let mut c = Tensor::empty(&shape, DType::F32, a.device())?;
        gemm(1.0, 0.0, (a, self.trans_a), (b, self.trans_b), &mut c)?;
        if f.needs(1) {
            f.save(0, a);
        }
        if f.needs(0) {
            f.save(1, b);
        }
        Ok(c)
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (ta, tb) = (self.trans_a, self.trans_b);
        if grads.needs(0) {
            let b = saved.get(1)?;
            let product = |out: &mut Tensor, beta| match ta {
                false => gemm(1.0, beta, (&dy, false), (b, !tb), out),
                true => gemm(1.0, beta, (b, tb), (&dy, true), out),
            };
            accumulate(grads, 0, &dy, product)?;
        }
        if grads.needs(1) {
            let a = saved.get(0)?;
            let product = |out: &mut Tensor, beta| match tb {
                false => gemm(1.0, beta, (a, !ta), (&dy, false), out),
                true => gemm(1.0, beta, (&dy, true), (a, ta), out),
            };
            accumulate(grads, 1, &dy, product)?;
        }
        Ok(())
    }
}

/// Adds a product to a gradient: straight into it where no batch axis was broadcast, else through its sum.
fn accumulate(
    grads: &mut Grads,
    i: usize,
    dy: &Tensor,
    product: impl Fn(&mut Tensor, f32) -> Result<()>,
) -> Result<()> {
    let shape = Dims::new(grads.shape(i))?;
    let lead = dy.rank() - 2;
    if shape.len() == dy.rank() && shape[..lead] == dy.shape()[..lead] {
        return grads.write(i, product);
    }
    let full = Dims::new(&[&dy.shape()[..lead], &shape[shape.len() - 2..]].concat())?;
    let mut out = Tensor::empty(&full, DType::F32, dy.device())?;
    product(&mut out, 0.0)?;
    grads.add(i, out.sum_to(&shape)?)
}

impl Tensor {
    /// `A·B` over the last two axes, leading axes broadcasting.
    ///
    /// # Errors
    /// Inner sizes or leading axes that do not fit; element types other than f32 · (f32, bf16, f16).
    pub fn matmul(&self, b: &Tensor) -> Result<Tensor> {
        self.matmul_t(b, false, false)
    }

    /// `op(A)·op(B)`, each transposed (its last two axes) or not; nothing is copied for it.
    ///
    /// # Errors
    /// As [`Tensor::matmul`].
    pub fn matmul_t(&self, b: &Tensor, trans_a: bool, trans_b: bool) -> Result<Tensor> {
        let op = MatMul { trans_a, trans_b };
        // A matrix on the right serves all of A's rows: one product, and one for its gradient, not a batch of them and a sum.
        if !trans_a && b.rank() == 2 && self.rank() > 2 && self.layout().is_contiguous() {
            let shape = product_shape(self, b, trans_a, trans_b)?;
            let rows = self.reshape(&[self.rows(), self.last_dim()])?;
            return apply(op, &[&rows, b])?.reshape(&shape);
        }
        apply(op, &[self, b])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_does_not_fit() {
        let (a, b) = (
            Tensor::zeros(&[8, 64], DType::F32, &crate::device::Device::cpu()).unwrap(),
            Tensor::zeros(&[128, 32], DType::F32, &crate::device::Device::cpu()).unwrap(),
        );
        assert_eq!(
            a.matmul_t(&b, false, true).unwrap_err().to_string(),
            "matmul: lhs [8, 64] · rhs [128, 32]: inner sizes 64 and 32 differ (trans_a = false, trans_b = true)"
        );
    }
}
