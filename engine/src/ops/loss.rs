//! Elementwise losses of a prediction and a target, and how losses are reduced.
//!
//! ```text
//! mse  (a − b)²      dL/da = 2(a − b)·dy
//! mae  |a − b|       dL/da = sign(a − b)·dy, 0 where equal
//! ```

use crate::error::Result;
use crate::tensor::Tensor;

/// How a loss per element (or row) becomes the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// The mean of all; NaN when there are none.
    #[default]
    Mean,
    /// The sum.
    Sum,
    /// The sum divided by the size of axis 0, as a divergence per sample.
    BatchMean,
    /// As it is.
    None,
}

impl Reduction {
    /// Reduces.
    ///
    /// # Errors
    /// None for a tensor of floats.
    pub fn apply(self, loss: &Tensor) -> Result<Tensor> {
        match self {
            Reduction::Mean => loss.mean_all(),
            Reduction::Sum => loss.sum_all(),
            Reduction::BatchMean => {
                let samples = loss.shape().first().copied().unwrap_or(1);
                loss.sum_all()?.affine(1.0 / samples as f64, 0.0)
            }
            Reduction::None => Ok(loss.clone()),
        }
    }
}

/// Squared error of two tensors that broadcast; both get gradients.
///
/// # Errors
/// Shapes that do not broadcast.
pub fn mse(prediction: &Tensor, target: &Tensor, reduction: Reduction) -> Result<Tensor> {
    reduction.apply(&prediction.sub(target)?.square()?)
}

/// Absolute error of two tensors that broadcast; both get gradients.
///
/// # Errors
/// Shapes that do not broadcast.
pub fn mae(prediction: &Tensor, target: &Tensor, reduction: Reduction) -> Result<Tensor> {
    reduction.apply(&prediction.sub(target)?.abs()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::dtype::DType;
    use crate::tape::backward;

    #[test]
    fn by_hand() {
        let x = Tensor::from([[1.0, 2.0], [4.0, -1.0]]).trained();
        let t = Tensor::from([[0.0, 2.0], [1.0, 1.0]]);
        let of = |loss: Tensor| loss.to_vec::<f32>().unwrap();
        assert_eq!(of(mse(&x, &t, Reduction::Mean).unwrap()), [3.5]);
        assert_eq!(of(mse(&x, &t, Reduction::Sum).unwrap()), [14.0]);
        assert_eq!(of(mse(&x, &t, Reduction::BatchMean).unwrap()), [7.0]);
        assert_eq!(
            of(mae(&x, &t, Reduction::None).unwrap()),
            [1.0, 0.0, 3.0, 2.0]
        );
        let grads = backward(&mae(&x, &t, Reduction::Mean).unwrap()).unwrap();
        assert_eq!(of(grads.of(&x).unwrap().clone()), [0.25, 0.0, 0.25, -0.25]);
        let none = Tensor::zeros(&[0, 3], DType::F32, &Device::cpu()).unwrap();
        assert!(
            mse(&none, &none, Reduction::Mean)
                .unwrap()
                .item()
                .unwrap()
                .is_nan()
        );
        assert_eq!(
            mse(&none, &none, Reduction::Sum).unwrap().item().unwrap(),
            0.0
        );
    }
}
