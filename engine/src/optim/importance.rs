//! How much each weight matters to the loss: sensitivity and its uncertainty, smoothed over steps (Zhang et al. 2023).
//!
//! ```text
//! I = |w ⊙ ∂L/∂w|      Ī ← β₁Ī + (1 − β₁)I      Ū ← β₂Ū + (1 − β₂)|I − Ī|
//! ```
//!
//! Ū sees the new Ī. Both start at 0. One pass reads w, ∂L/∂w, Ī and Ū and writes the last two.

use crate::cpu::{simd, threads};
use crate::dtype::DType;
use crate::error::Result;
use crate::op::no_grad;
use crate::pool::{Tag, tagged};
use crate::tensor::Tensor;

const GRAIN: usize = 1 << 14;

/// Ī and Ū of one tensor of weights, f32.
pub struct ImportanceAverages {
    mean: Tensor,
    spread: Tensor,
}

impl ImportanceAverages {
    /// 0 for weights like `weight`.
    ///
    /// # Errors
    /// None but those of the device.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let zeros = || {
            tagged(Tag::State, || {
                Tensor::zeros(weight.shape(), DType::F32, weight.device())
            })
        };
        Ok(ImportanceAverages {
            mean: zeros()?,
            spread: zeros()?,
        })
    }

    /// Ī.
    pub fn mean(&self) -> &Tensor {
        &self.mean
    }

    /// Ū, never negative.
    pub fn spread(&self) -> &Tensor {
        &self.spread
    }

    /// One step of both.
    ///
    /// # Errors
    /// A gradient of another shape than the weights.
    pub fn update(&mut self, weight: &Tensor, grad: &Tensor, beta1: f32, beta2: f32) -> Result<()> {
        grad.expect_shape("importance", "gradient", self.mean.shape())?;
        weight.expect_shape("importance", "weight", self.mean.shape())?;
        if weight.device().is_cpu() && weight.dtype() == DType::F32 {
            return self.native(&weight.packed()?, &grad.packed()?, beta1, beta2);
        }
        no_grad(|| {
            let blend = |old: &Tensor, new: &Tensor, beta: f32| {
                old.affine(f64::from(beta), 0.0)?
                    .add(&new.affine(1.0 - f64::from(beta), 0.0)?)
            };
            let now = weight.cast(DType::F32)?.mul(grad)?.abs()?;
            self.mean = blend(&self.mean, &now, beta1)?;
            self.spread = blend(&self.spread, &now.sub(&self.mean)?.abs()?, beta2)?;
            Ok(())
        })
    }

    fn native(&mut self, weight: &Tensor, grad: &Tensor, beta1: f32, beta2: f32) -> Result<()> {
        let (w, g) = (weight.as_slice::<f32>()?, grad.as_slice::<f32>()?);
        let spread = threads::Disjoint::new(self.spread.as_mut_slice::<f32>()?);
        threads::par_rows(self.mean.as_mut_slice::<f32>()?, 1, GRAIN, |first, mean| {
            let range = first..first + mean.len();
            // SAFETY: pieces of `par_rows` do not overlap.
            let spread = unsafe { spread.slice(range.clone()) };
            let (w, g) = (&w[range.clone()], &g[range]);
            simd::dispatch(
                #[inline(always)]
                || {
                    for (((mean, spread), w), g) in mean.iter_mut().zip(spread).zip(w).zip(g) {
                        let now = (w * g).abs();
                        *mean = beta1.mul_add(*mean, (1.0 - beta1) * now);
                        *spread = beta2.mul_add(*spread, (1.0 - beta2) * (now - *mean).abs());
                    }
                },
            );
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn two_steps_by_hand_on_both_devices() {
        for device in [Device::cpu(), Device::oracle()] {
            let tensor = |x: [f32; 2]| Tensor::from(x).to_device(&device).unwrap();
            let weight = tensor([2.0, -1.0]);
            let mut state = ImportanceAverages::new(&weight).unwrap();
            state
                .update(&weight, &tensor([1.0, 0.0]), 0.5, 0.75)
                .unwrap();
            // I = [2, 0], Ī = [1, 0], |I − Ī| = [1, 0].
            assert_eq!(state.mean().to_vec::<f64>().unwrap(), [1.0, 0.0]);
            assert_eq!(state.spread().to_vec::<f64>().unwrap(), [0.25, 0.0]);
            state
                .update(&weight, &tensor([-2.0, 4.0]), 0.5, 0.75)
                .unwrap();
            // I = [4, 4], Ī = [2.5, 2], |I − Ī| = [1.5, 2].
            assert_eq!(state.mean().to_vec::<f64>().unwrap(), [2.5, 2.0]);
            assert_eq!(state.spread().to_vec::<f64>().unwrap(), [0.5625, 0.5]);
        }
        let weight = Tensor::from([1.0, 2.0]);
        let mut state = ImportanceAverages::new(&weight).unwrap();
        assert!(
            state
                .update(&weight, &Tensor::from([1.0]), 0.5, 0.5)
                .is_err()
        );
    }
}
