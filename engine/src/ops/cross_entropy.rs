//! Cross-entropy of logits against classes, fused with the softmax.
//!
//! ```text
//! ℓ_i = lse(z_i) − (1 − σ)·z_i[t_i] − σ/C·Σ_c z_ic      L = Σ w_i ℓ_i / Σ w_i
//! dz_ic = w_i/Σw·(softmax(z_i)_c − (1 − σ)[c = t_i] − σ/C)
//! ```
//!
//! σ is label smoothing (Szegedy et al. 2016). Saved: the logits and each row's log-sum-exp.

use deltaw_kernels::cross_entropy as kernel;

use crate::cpu::threads::Disjoint;
use crate::cpu::{math, simd, threads};
use crate::device::Device;
use crate::device::cuda::{Cuda, failed};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::gather::check;
use crate::ops::softmax::{GRAIN, log_sum_exp};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Refinements of [`cross_entropy`].
#[derive(Default, Clone)]
pub struct CrossEntropyOptions {
    /// Weight of each row, `[N]`; 0 leaves a row out. Their sum must be positive: a GPU, whose sum nobody waits for, says otherwise by
    /// a loss that is not finite.
    pub weights: Option<Tensor>,
    /// Label smoothing σ in [0, 1).
    pub smoothing: f32,
}

struct CrossEntropy {
    smoothing: f32,
}

impl CrossEntropy {
    /// w·ℓ of a row; a row of weight 0 is left out, whatever it holds.
    #[inline(always)]
    fn row(&self, z: &[f32], lse: f32, target: usize, weight: f32) -> f32 {
        if weight == 0.0 {
            return 0.0;
        }
        let mean = if self.smoothing > 0.0 {
            simd::sum_of(
                z,
                #[inline(always)]
                |v| v,
            ) / z.len() as f32
        } else {
            0.0
        };
        weight * (lse - (1.0 - self.smoothing) * z[target] - self.smoothing * mean)
    }
}

impl CrossEntropy {
    /// The losses and log-sum-exps, or the gradient.
    fn launch(
        &self,
        cuda: &Cuda,
        kind: kernel::Kind,
        [rows, n]: [usize; 2],
        [z, lse]: [u64; 2],
        [targets, weights]: [&Tensor; 2],
    ) -> Result<()> {
        let call = kernel::CrossEntropy {
            kind,
            rows,
            n,
            smoothing: self.smoothing,
            z,
            targets: cuda.address("cross_entropy", targets)?,
            weights: cuda.address("cross_entropy", weights)?,
            lse,
        };
        let (kernels, stream) = cuda.launcher();
        // SAFETY: contiguous tensors of these sizes, of which those written are unshared; the classes have been checked.
        unsafe { call.launch(kernels, stream) }
            .map_err(|e| failed("cross_entropy", &[targets, weights], e))
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn supports(&self, device: &Device) -> bool {
        device.has_kernels()
    }

    /// Inputs: logits, classes, weights that sum to 1.
    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let (z, t, w) = (
            inputs[0].packed()?,
            inputs[1].packed()?,
            inputs[2].packed()?,
        );
        let (n, c) = (z.rows(), z.last_dim());
        if let Some(cuda) = z.device().as_cuda() {
            let mut lse = Tensor::empty(&[n], DType::F32, z.device())?;
            let mut losses = Tensor::empty(&[n], DType::F32, z.device())?;
            let kind = kernel::Kind::Loss {
                losses: cuda.address_mut("cross_entropy", &mut losses)?,
            };
            let at = [
                cuda.address("cross_entropy", &z)?,
                cuda.address_mut("cross_entropy", &mut lse)?,
            ];
            self.launch(cuda, kind, [n, c], at, [&t, &w])?;
            if f.needs(0) {
                for (slot, x) in [&z, &t, &w, &lse].into_iter().enumerate() {
                    f.save(slot, x);
                }
            }
            if n == 0 {
                // The mean over no rows.
                return Tensor::full(&[], f64::NAN, DType::F32, z.device());
            }
            return losses.sum_all();
        }
        let (logits, target, weight) = (
            z.as_slice::<f32>()?,
            t.as_slice::<u32>()?,
            w.as_slice::<f32>()?,
        );
        let mut lse = Tensor::empty(&[n], DType::F32, z.device())?;
        let mut losses = Tensor::empty(&[n], DType::F32, z.device())?;
        let own = Disjoint::new(losses.as_mut_slice::<f32>()?);
        threads::par_rows(
            lse.as_mut_slice::<f32>()?,
            1,
            threads::rows_per_piece(c, GRAIN),
            |first, part| {
                // SAFETY: a piece owns the losses of its own rows.
                let losses = unsafe { own.slice(first..first + part.len()) };
                simd::dispatch(
                    #[inline(always)]
                    || {
                        for (i, (l, loss)) in part.iter_mut().zip(losses).enumerate() {
                            let row = first + i;
                            *l = log_sum_exp(&logits[row * c..][..c]);
                            *loss = self.row(
                                &logits[row * c..][..c],
                                *l,
                                target[row] as usize,
                                weight[row],
                            );
                        }
                    },
                );
            },
        );
        let loss: f64 = losses
            .as_slice::<f32>()?
            .iter()
            .map(|l| f64::from(*l))
            .sum();
        if f.needs(0) {
            f.save(0, &z);
            f.save(1, &t);
            f.save(2, &w);
            f.save(3, &lse);
        }
        // The mean over no rows.
        let loss = if n == 0 { f64::NAN } else { loss };
        Tensor::full(&[], loss, DType::F32, z.device())
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [z, t, w] = [inputs[0], inputs[1], inputs[2]];
        let logs = z.log_softmax()?;
        let hit = logs.take(&t.unsqueeze(1)?)?.squeeze(1)?;
        let smooth = logs.mean(1)?;
        let row = hit
            .affine(1.0 - self.smoothing as f64, 0.0)?
            .add(&smooth.affine(self.smoothing as f64, 0.0)?)?;
        // The mean over no rows is NaN.
        let none = if z.rows() == 0 { f64::NAN } else { 0.0 };
        row.mul(w)?.sum_all()?.affine(-1.0, none)
    }

    /// The logits, the largest tensor of a language model's step, give their place to their gradient.
    fn backward(&self, mut saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let mut z = saved.take(0)?;
        if let Some(cuda) = z.device().clone().as_cuda() {
            let dy = dy.packed()?;
            let from = cuda.address("cross_entropy", &z)?;
            let size = [z.rows(), z.last_dim()];
            // Kept until it has been read.
            let (mut dz, _shared) = if z.is_unique() {
                (z.with_edge(None), None)
            } else {
                let dz = Tensor::empty(z.shape(), DType::F32, z.device())?;
                (dz, Some(z))
            };
            let kind = kernel::Kind::Gradient {
                dz: cuda.address_mut("cross_entropy", &mut dz)?,
                dy: cuda.address("cross_entropy", &dy)?,
            };
            let lse = cuda.address("cross_entropy", saved.get(3)?)?;
            self.launch(
                cuda,
                kind,
                size,
                [from, lse],
                [saved.get(1)?, saved.get(2)?],
            )?;
            return grads.add(0, dz);
        }
        let mut dz = z.into_own()?;
        let (c, scale) = (dz.last_dim(), dy.item()? as f32);
        let target = saved.get(1)?.as_slice::<u32>()?;
        let (weight, lse) = (
            saved.get(2)?.as_slice::<f32>()?,
            saved.get(3)?.as_slice::<f32>()?,
        );
        threads::par_rows(
            dz.as_mut_slice::<f32>()?,
            c,
            threads::rows_per_piece(c, GRAIN),
            |first, part| {
                simd::dispatch(
                    #[inline(always)]
                    || {
                        for (i, d) in part.chunks_exact_mut(c).enumerate() {
                            let row = first + i;
                            let (w, l) = (weight[row] * scale, lse[row]);
                            if w == 0.0 {
                                d.fill(0.0);
                                continue;
                            }
                            for d in &mut *d {
                                *d = w * (math::exp(*d - l) - self.smoothing / c as f32);
                            }
                            d[target[row] as usize] -= w * (1.0 - self.smoothing);
                        }
                    },
                );
            },
        );
        grads.add(0, dz)
    }
}

/// w / Σw.
fn normalised(weights: &Tensor) -> Result<Tensor> {
    if weights.device().as_cuda().is_some() {
        return weights.div(&weights.sum_all()?.relu()?);
    }
    let sum: f64 = weights.to_vec::<f64>()?.into_iter().sum();
    if sum <= 0.0 {
        return Err(Error::Invalid(format!(
            "cross_entropy: the weights sum to {sum}, so that there is no mean"
        )));
    }
    weights.affine(1.0 / sum, 0.0)
}

/// Weighted mean over the rows of `−ln softmax(logits)[target]`: logits `[N, C]`, targets u32 `[N]`, a scalar. Over no rows it is NaN.
///
/// # Errors
/// Shapes that do not fit, a class out of range, and, on the CPU, weights that sum to 0 or less.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    options: &CrossEntropyOptions,
) -> Result<Tensor> {
    let &[n, c] = logits.shape() else {
        return Err(Error::shape(
            "cross_entropy",
            format!("logits are {:?}, wanted [N, C]", logits.shape()),
        ));
    };
    targets.expect_shape("cross_entropy", "targets", &[n])?;
    check("cross_entropy", targets, c, "classes")?;
    if !(0.0..1.0).contains(&options.smoothing) {
        return Err(Error::Invalid(format!(
            "cross_entropy: smoothing {} is outside [0, 1)",
            options.smoothing
        )));
    }
    let weights = match &options.weights {
        None => Tensor::full(&[n], 1.0 / n as f64, DType::F32, logits.device())?,
        Some(weights) => {
            weights.expect_shape("cross_entropy", "weights", &[n])?;
            normalised(&weights.detach())?
        }
    };
    apply(
        CrossEntropy {
            smoothing: options.smoothing,
        },
        &[logits, targets, &weights],
    )
}
