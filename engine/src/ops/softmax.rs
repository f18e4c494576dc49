//! Softmax and its logarithm over the last axis.
//!
//! ```text
//! y = e^(x − max x) / Σ e^(x − max x)      dx = y ⊙ (dy − Σ dy ⊙ y)
//! z = x − max x − ln Σ e^(x − max x)       dx = dz − e^z · Σ dz
//! ```
//!
//! Saved: the result.

use deltaw_kernels::softmax as kernel;

use crate::cpu::{math, simd, threads};
use crate::device::Device;
use crate::device::cuda::{Cuda, failed};
use crate::dtype::DType;
use crate::error::Result;
use crate::op::{Forward, Op, Saved, apply};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Elements per piece of parallel work.
pub(crate) const GRAIN: usize = 1 << 13;

struct Softmax {
    log: bool,
}

/// `ln Σ eˣ`; −∞ for a row of −∞.
#[inline(always)]
pub(crate) fn log_sum_exp(x: &[f32]) -> f32 {
    let max = simd::max_of(x);
    if max == f32::NEG_INFINITY {
        max
    } else {
        max + math::log(simd::sum_of(x, |v| math::exp(v - max)))
    }
}

impl Softmax {
    /// y of x, or dx of y and dy.
    fn launch<const K: usize>(
        &self,
        cuda: &Cuda,
        inputs: [&Tensor; K],
        out: &mut Tensor,
    ) -> Result<()> {
        let op = self.name();
        let (rows, n, backward) = (out.rows(), out.last_dim(), K == 2);
        let (first, result) = (cuda.address(op, inputs[0])?, cuda.address_mut(op, out)?);
        let softmax = kernel::Softmax {
            variant: kernel::Variant {
                log: self.log,
                backward,
            },
            rows,
            n,
            x: if backward { result } else { first },
            y: if backward { first } else { result },
            dy: if backward {
                cuda.address(op, inputs[K - 1])?
            } else {
                0
            },
        };
        let (kernels, stream) = cuda.launcher();
        // SAFETY: the operands are contiguous tensors of this size, and the result is unshared.
        unsafe { softmax.launch(kernels, stream) }.map_err(|e| failed(op, &inputs, e))
    }
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }

    fn supports(&self, device: &Device) -> bool {
        device.has_kernels()
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0].packed()?;
        x.expect_dtype(self.name(), DType::F32)?;
        if let Some(cuda) = x.device().as_cuda() {
            let mut y = Tensor::empty(x.shape(), DType::F32, x.device())?;
            self.launch(cuda, [&x], &mut y)?;
            if f.needs(0) {
                f.save(0, &y);
            }
            return Ok(y);
        }
        let (n, source) = (x.last_dim(), x.as_slice::<f32>()?);
        let mut y = Tensor::empty(x.shape(), DType::F32, x.device())?;
        threads::par_rows(
            y.as_mut_slice::<f32>()?,
            n,
            threads::rows_per_piece(n, GRAIN),
            |first, part| {
                simd::dispatch(
                    #[inline(always)]
                    || {
                        for (i, y) in part.chunks_exact_mut(n).enumerate() {
                            let x = &source[(first + i) * n..][..n];
                            let total = log_sum_exp(x);
                            if self.log {
                                y.iter_mut().zip(x).for_each(|(y, x)| *y = x - total);
                            } else {
                                y.iter_mut()
                                    .zip(x)
                                    .for_each(|(y, x)| *y = math::exp(x - total));
                            }
                        }
                    },
                );
            },
        );
        if f.needs(0) {
            f.save(0, &y);
        }
        Ok(y)
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        if x.rank() == 0 {
            return self.composed(&[&x.reshape(&[1])?])?.reshape(&[]);
        }
        if x.is_empty() {
            return x.affine(1.0, 0.0);
        }
        let last = [x.rank() - 1];
        let shifted = x.sub(&x.detach().max_keep(&last)?)?;
        let sum = shifted.exp()?.sum_keep(&last)?;
        if self.log {
            shifted.sub(&sum.log()?)
        } else {
            shifted.exp()?.div(&sum)
        }
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (y, dy) = (saved.get(0)?, dy.packed()?);
        if let Some(cuda) = y.device().as_cuda() {
            let mut dx = Tensor::empty(grads.shape(0), DType::F32, y.device())?;
            self.launch(cuda, [y, &dy], &mut dx)?;
            return grads.add(0, dx);
        }
        let (n, y, dy) = (y.last_dim(), y.as_slice::<f32>()?, dy.as_slice::<f32>()?);
        let mut dx = Tensor::empty(grads.shape(0), DType::F32, saved.get(0)?.device())?;
        threads::par_rows(
            dx.as_mut_slice::<f32>()?,
            n,
            threads::rows_per_piece(n, GRAIN),
            |first, part| {
                simd::dispatch(
                    #[inline(always)]
                    || {
                        for (i, dx) in part.chunks_exact_mut(n).enumerate() {
                            let (y, dy) = (&y[(first + i) * n..][..n], &dy[(first + i) * n..][..n]);
                            if self.log {
                                let sum = simd::sum_of(dy, |v| v);
                                for j in 0..n {
                                    dx[j] = dy[j] - math::exp(y[j]) * sum;
                                }
                            } else {
                                let dot = simd::dot(y, dy);
                                for j in 0..n {
                                    dx[j] = y[j] * (dy[j] - dot);
                                }
                            }
                        }
                    },
                );
            },
        );
        grads.add(0, dx)
    }
}

impl Tensor {
    /// Softmax over the last axis.
    pub fn softmax(&self) -> Result<Tensor> {
        apply(Softmax { log: false }, &[self])
    }

    /// Logarithm of the softmax over the last axis.
    pub fn log_softmax(&self) -> Result<Tensor> {
        apply(Softmax { log: true }, &[self])
    }
}
