//! Cross-entropy against distributions over the classes: a teacher's, whole or its k largest probabilities.
//!
//! ```text
//! dense   ℓ_i = −Σ_c t_ic·ln softmax(z_i)_c          sparse   ℓ_i = −Σ_k p_ik·ln softmax(z_i)[c_ik]
//! dz_i = dy_i·((Σ t_i)·softmax(z_i) − t_i)
//! ```
//!
//! Targets need not sum to 1. Logits and probabilities get gradients.

use crate::error::{Error, Result};
use crate::ops::loss::Reduction;
use crate::tensor::Tensor;

fn expect_rows(op: &'static str, logits: &Tensor) -> Result<[usize; 2]> {
    match *logits.shape() {
        [n, c] => Ok([n, c]),
        _ => Err(Error::shape(
            op,
            format!("logits are {:?}, wanted [N, C]", logits.shape()),
        )),
    }
}

/// Of logits `[N, C]` against `targets` `[N, C]`, a loss per row before the reduction.
///
/// # Errors
/// Shapes that do not fit.
pub fn soft_cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    reduction: Reduction,
) -> Result<Tensor> {
    let shape = expect_rows("soft_cross_entropy", logits)?;
    targets.expect_shape("soft_cross_entropy", "targets", &shape)?;
    reduction.apply(&logits.log_softmax()?.mul(targets)?.sum(1)?.neg()?)
}

/// Of logits `[N, C]` against the probabilities `[N, k]` of `classes` u32 `[N, k]`, a loss per row before the reduction.
/// A class named twice counts twice.
///
/// # Errors
/// Shapes that do not fit, a class out of range.
pub fn sparse_soft_cross_entropy(
    logits: &Tensor,
    classes: &Tensor,
    probabilities: &Tensor,
    reduction: Reduction,
) -> Result<Tensor> {
    let [n, _] = expect_rows("sparse_soft_cross_entropy", logits)?;
    let named = [n, classes.last_dim()];
    classes.expect_shape("sparse_soft_cross_entropy", "classes", &named)?;
    probabilities.expect_shape("sparse_soft_cross_entropy", "probabilities", &named)?;
    let logs = logits.log_softmax()?.take(classes)?;
    reduction.apply(&logs.mul(probabilities)?.sum(1)?.neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::cross_entropy::{CrossEntropyOptions, cross_entropy};
    use crate::tape::backward;

    #[test]
    fn three_forms_of_one_loss() {
        let z = Tensor::from([[1.0, -1.0, 0.5], [2.0, 0.0, 0.0]]).trained();
        let classes = Tensor::from_slice(&[2u32, 0], &[2], &Device::cpu()).unwrap();
        let hard = cross_entropy(&z, &classes, &CrossEntropyOptions::default()).unwrap();
        let one_hot = Tensor::from([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]);
        let dense = soft_cross_entropy(&z, &one_hot, Reduction::Mean).unwrap();
        let (at, all) = (classes.unsqueeze(1).unwrap(), Tensor::from([[1.0], [1.0]]));
        let sparse = sparse_soft_cross_entropy(&z, &at, &all, Reduction::Mean).unwrap();
        let gradient = |loss: &Tensor| {
            backward(loss)
                .unwrap()
                .of(&z)
                .unwrap()
                .to_vec::<f32>()
                .unwrap()
        };
        let (value, grad) = (hard.item().unwrap(), gradient(&hard));
        for loss in [dense, sparse] {
            assert!((loss.item().unwrap() - value).abs() < 4.0 * f64::from(f32::EPSILON));
            for (a, b) in gradient(&loss).iter().zip(&grad) {
                assert!((a - b).abs() < 4.0 * f32::EPSILON, "{a} {b}");
            }
        }
    }

    #[test]
    fn an_even_split_by_hand() {
        // softmax(0, 0) = ½ each: Σ t·ln 2.
        let z = Tensor::from([[0.0, 0.0]]);
        let t = Tensor::from([[0.5, 1.5]]);
        let loss = soft_cross_entropy(&z, &t, Reduction::None).unwrap();
        assert_eq!(
            loss.to_vec::<f32>().unwrap(),
            [2.0 * std::f32::consts::LN_2]
        );
        let message = soft_cross_entropy(&z, &Tensor::from([[1.0]]), Reduction::Mean).unwrap_err();
        assert_eq!(
            message.to_string(),
            "soft_cross_entropy: targets is [1, 1], wanted [1, 2]"
        );
    }
}
