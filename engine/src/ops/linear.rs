//! The linear layer, `y = x·Wᵀ + b`.
//!
//! ```text
//! dx = dy·W      dW = dyᵀ·x      db = Σ_tokens dy
//! ```
//!
//! x `[…, n]` f32, W `[m, n]` f32, bf16 or f16, b `[m]`, y `[…, m]`. A frozen W saves W and not x. An observed W has
//! dyᵀ·x streamed to its visitor in panels of rows and never stored. On the CPU and on CUDA the bias enters as the product is stored; on the CPU
//! db is the product of a row of ones with dy.

use crate::cpu::gemm::{self as kernel, Extra};
use crate::device::cuda::Around;
use crate::device::{Gemm, product_with};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::op::{Forward, Op, Saved, apply};
use crate::tape::{GradVisitor, Grads};
use crate::tensor::Tensor;

/// Elements of the gradient panel that a visitor sees at a time.
const PANEL: usize = 1 << 18;

struct Linear {
    /// Whether W is stored as `[n, m]`.
    transposed: bool,
}

impl Linear {
    /// W as `[m, n]`, outside the tape.
    fn weight(&self, w: &Tensor) -> Tensor {
        if self.transposed && w.rank() == 2 {
            w.turned()
        } else {
            w.detach()
        }
    }
}

/// `[…, n]` as a matrix, outside the tape.
pub(crate) fn as_matrix(x: &Tensor) -> Result<Tensor> {
    let x = x.packed()?;
    let shape = Dims::new(&[x.rows(), x.last_dim()])?;
    let layout = Layout {
        offset: x.layout().offset,
        ..Layout::contiguous(shape)
    };
    Ok(x.relayout(layout))
}

/// `alpha·op(A)·op(B) + beta·C` into `c`.
pub(crate) fn product(
    a: &Tensor,
    trans_a: bool,
    b: &Tensor,
    trans_b: bool,
    beta: f32,
    c: &mut Tensor,
) -> Result<()> {
    let device = a.device().clone();
    device.backend().gemm(
        Gemm {
            trans_a,
            trans_b,
            alpha: 1.0,
            beta,
        },
        a,
        b,
        c,
    )
}

/// `x·Wᵀ + b` for matrices.
fn forward_product(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut y = Tensor::empty(&[x.rows(), w.shape()[0]], DType::F32, x.device())?;
    match bias {
        Some(bias) if x.device().is_cpu() => {
            let bias = bias.packed()?;
            let extra = Extra {
                bias: Some(bias.as_slice()?),
                ..Extra::default()
            };
            product_with((x, false), (w, true), extra, 1.0, 0.0, &mut y)?;
        }
        Some(bias) => match x.device().clone().as_cuda() {
            Some(cuda) => {
                let around = Around {
                    bias: Some(bias),
                    second: None,
                };
                let by_rows = Gemm {
                    trans_a: false,
                    trans_b: true,
                    alpha: 1.0,
                    beta: 0.0,
                };
                cuda.product(by_rows, x, w, &around, &mut y)?;
            }
            None => {
                let view = bias.broadcast_view("linear", &y.layout().shape)?;
                x.device().backend().copy(&view, &mut y)?;
                product(x, false, w, true, 1.0, &mut y)?;
            }
        },
        None => product(x, false, w, true, 0.0, &mut y)?,
    }
    Ok(y)
}

/// Adds Σ_rows dy to the gradient of the bias, input `i`.
pub(crate) fn bias_gradient(grads: &mut Grads, i: usize, dy: &Tensor) -> Result<()> {
    if !(grads.has(i) && grads.needs(i)) {
        return Ok(());
    }
    if !dy.device().is_cpu() {
        return grads.add(i, dy.sum(0)?);
    }
    let dy = dy.packed()?;
    grads.write(i, |out, beta| {
        kernel::sum_rows(dy.as_slice()?, beta, out.as_mut_slice()?);
        Ok(())
    })
}

/// Lets `f` write a gradient of any rank as a matrix.
pub(crate) fn write_matrix(
    grads: &mut Grads,
    i: usize,
    f: impl FnOnce(&mut Tensor, f32) -> Result<()>,
) -> Result<()> {
    grads.write(i, |out, beta| {
        let whole = *out.layout();
        let shape = Dims::new(&[out.rows(), out.last_dim()])?;
        let placeholder = Tensor::empty(&[0], DType::F32, out.device())?;
        let mut matrix = std::mem::replace(out, placeholder).relayout(Layout::contiguous(shape));
        f(&mut matrix, beta)?;
        *out = matrix.relayout(whole);
        Ok(())
    })
}

/// Streams `dyᵀ·x` in panels of rows.
pub(crate) fn stream(visitor: &dyn GradVisitor, dy: &Tensor, x: &Tensor) -> Result<()> {
    let (m, n) = (dy.last_dim(), x.last_dim());
    let rows = (PANEL / n.max(1)).clamp(1, m.max(1));
    for first in (0..m).step_by(rows) {
        let len = rows.min(m - first);
        let columns = dy.layout().narrow(1, first, len);
        let mut panel = Tensor::empty(&[len, n], DType::F32, x.device())?;
        product(&dy.with_layout(columns), true, x, false, 0.0, &mut panel)?;
        visitor.tile(first, &panel)?;
    }
    Ok(())
}

/// Checks shapes and returns y's.
pub(crate) fn output_shape(
    op: &'static str,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Dims> {
    if w.rank() != 2 || x.rank() == 0 || x.last_dim() != w.shape()[1] {
        return Err(Error::shape(
            op,
            format!(
                "x {:?} · Wᵀ of {:?}: x needs {} features",
                x.shape(),
                w.shape(),
                w.shape().last().copied().unwrap_or(0)
            ),
        ));
    }
    if let Some(b) = bias {
        b.expect_shape(op, "bias", &[w.shape()[0]])?;
    }
    x.expect_dtype(op, DType::F32)?;
    let mut shape = x.layout().shape;
    let last = shape.len() - 1;
    shape[last] = w.shape()[0];
    Ok(shape)
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, w, bias) = (inputs[0], self.weight(inputs[1]), inputs.get(2).copied());
        let shape = output_shape("linear", x, &w, bias)?;
        let x = as_matrix(x)?;
        let y = forward_product(&x, &w, bias)?;
        if f.needs(1) {
            f.save(0, &x);
        }
        if f.needs(0) {
            f.save(1, &w);
        }
        Ok(y.relayout(Layout::contiguous(shape)))
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dy = as_matrix(&dy)?;
        if grads.needs(0) {
            write_matrix(grads, 0, |out, beta| {
                product(&dy, false, saved.get(1)?, false, beta, out)
            })?;
        }
        if grads.needs(1) {
            let x = saved.get(0)?;
            let (left, right) = if self.transposed { (x, &dy) } else { (&dy, x) };
            match grads.visitor(1) {
                Some(visitor) => stream(&*visitor, left, right)?,
                None => grads.write(1, |out, beta| product(left, true, right, false, beta, out))?,
            }
        }
        bias_gradient(grads, 2, &dy)
    }
}

/// `x·Wᵀ + b`.
///
/// # Errors
/// Shapes that do not fit, element types other than f32 x with f32, bf16 or f16 W.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    linear_stored(x, weight, false, bias)
}

/// [`linear`] with a W that may be stored transposed, `[n, m]`; its gradient and what a visitor sees then are too.
///
/// # Errors
/// As [`linear`].
pub fn linear_stored(
    x: &Tensor,
    weight: &Tensor,
    transposed: bool,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    match bias {
        Some(b) => apply(Linear { transposed }, &[x, weight, b]),
        None => apply(Linear { transposed }, &[x, weight]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::tape::backward;

    /// Small integers, so that every order of summation gives the same.
    fn matrix(rows: usize, columns: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * columns)
            .map(|i| (i * 7 % 5) as f32 - 2.0)
            .collect();
        Tensor::from_slice(&values, &[rows, columns], &Device::cpu()).unwrap()
    }

    #[test]
    fn a_transposed_weight_is_used_where_it_lies() {
        let (x, w, b) = (
            matrix(9, 5).trained(),
            matrix(5, 7).trained(),
            matrix(1, 7).reshape(&[7]).unwrap().trained(),
        );
        let values = |t: &Tensor| t.to_vec::<f32>().unwrap();
        let loss = |y: &Tensor| y.square().unwrap().sum_all().unwrap();
        let stored = linear_stored(&x, &w, true, Some(&b)).unwrap();
        let turned = linear(&x, &w.t().unwrap(), Some(&b)).unwrap();
        assert_eq!(values(&stored), values(&turned));
        let (left, right) = (
            backward(&loss(&stored)).unwrap(),
            backward(&loss(&turned)).unwrap(),
        );
        for t in [&x, &w, &b] {
            assert_eq!(values(left.of(t).unwrap()), values(right.of(t).unwrap()));
        }
    }
}
