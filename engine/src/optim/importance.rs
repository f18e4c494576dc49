//! How much each weight matters to the loss: sensitivity and its uncertainty, smoothed over steps (Zhang et al. 2023).
//!
//! ```text
//! I = |w ⊙ ∂L/∂w|      Ī ← β₁Ī + (1 − β₁)I      Ū ← β₂Ū + (1 − β₂)|I − Ī|
//! ```
//!
//! Ū sees the new Ī. Both start at 0. One pass reads w, ∂L/∂w, Ī and Ū and writes the last two.

use crate::cpu::{simd, threads};
use crate::device::cuda::Formula;
use crate::dtype::DType;
use crate::error::Result;
use crate::op::no_grad;
use crate::pool::{Tag, tagged};
use crate::tensor::Tensor;

const GRAIN: usize = 1 << 14;

/// Ī and Ū of one tensor of weights, f32.
pub struct ImportanceAverages {
    averages: [Tensor; 2],
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
            averages: [zeros()?, zeros()?],
        })
    }

    /// Ī.
    pub fn mean(&self) -> &Tensor {
        &self.averages[0]
    }

    /// Ū, never negative.
    pub fn spread(&self) -> &Tensor {
        &self.averages[1]
    }

    /// Goes on from a mean and a spread that were kept.
    ///
    /// # Errors
    /// Those of other weights: another shape or element type.
    pub fn resume(&mut self, mean: &Tensor, spread: &Tensor) -> Result<()> {
        for (own, kept) in self.averages.iter_mut().zip([mean, spread]) {
            kept.expect_shape("importance", "the average", own.shape())?;
            kept.expect_dtype("importance", DType::F32)?;
            let kept = tagged(Tag::State, || kept.deep_clone()?.to_device(own.device()))?;
            *own = kept;
        }
        Ok(())
    }

    /// One step of many, each with its weights and their gradient; a GPU does it in one launch.
    ///
    /// # Errors
    /// As [`ImportanceAverages::update`].
    pub fn update_all(
        steps: &mut [(&mut Self, &Tensor, &Tensor)],
        beta1: f32,
        beta2: f32,
    ) -> Result<()> {
        let Some((_, weight, _)) = steps.first() else {
            return Ok(());
        };
        let device = weight.device().clone();
        let Some(cuda) = device.as_cuda() else {
            return steps
                .iter_mut()
                .try_for_each(|(state, weight, grad)| state.update(weight, grad, beta1, beta2));
        };
        let (mut parts, mut kept) = (
            Vec::with_capacity(steps.len()),
            Vec::with_capacity(2 * steps.len()),
        );
        for (state, weight, grad) in steps {
            state.expect(weight, grad)?;
            let (weight, grad) = (weight.packed()?, grad.packed()?);
            parts.push(cuda.observed(&(0..weight.len()), &weight, &mut state.averages, &grad)?);
            kept.push((weight, grad));
        }
        // SAFETY: `kept` and the states hold what the parts were made of, and no state is in two of them.
        unsafe { cuda.update(Formula::Importance { beta1, beta2 }, &parts) }
    }

    fn expect(&self, weight: &Tensor, grad: &Tensor) -> Result<()> {
        grad.expect_shape("importance", "gradient", self.mean().shape())?;
        weight.expect_shape("importance", "weight", self.mean().shape())
    }

    /// One step of both.
    ///
    /// # Errors
    /// A gradient of another shape than the weights.
    pub fn update(&mut self, weight: &Tensor, grad: &Tensor, beta1: f32, beta2: f32) -> Result<()> {
        self.expect(weight, grad)?;
        if weight.device().as_cuda().is_some() {
            return Self::update_all(&mut [(self, weight, grad)], beta1, beta2);
        }
        if weight.device().is_cpu() && weight.dtype() == DType::F32 {
            return self.native(&weight.packed()?, &grad.packed()?, beta1, beta2);
        }
        no_grad(|| {
            let blend = |old: &Tensor, new: &Tensor, beta: f32| {
                old.affine(f64::from(beta), 0.0)?
                    .add(&new.affine(1.0 - f64::from(beta), 0.0)?)
            };
            let now = weight.cast(DType::F32)?.mul(grad)?.abs()?;
            self.averages[0] = blend(self.mean(), &now, beta1)?;
            self.averages[1] = blend(self.spread(), &now.sub(self.mean())?.abs()?, beta2)?;
            Ok(())
        })
    }

    fn native(&mut self, weight: &Tensor, grad: &Tensor, beta1: f32, beta2: f32) -> Result<()> {
        let (w, g) = (weight.as_slice::<f32>()?, grad.as_slice::<f32>()?);
        let [mean, spread] = &mut self.averages;
        let spread = threads::Disjoint::new(spread.as_mut_slice::<f32>()?);
        threads::par_rows(mean.as_mut_slice::<f32>()?, 1, GRAIN, |first, mean| {
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
