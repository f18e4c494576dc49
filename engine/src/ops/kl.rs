//! The Kullback–Leibler divergence of a distribution p from a model's q, elementwise.
//!
//! ```text
//! p given      ℓ = p·(ln p − ln q), −0·ln q where p = 0       dℓ/d ln q = −p     dℓ/dp = ln p + 1 − ln q
//! ln p given   ℓ = e^(ln p)·(ln p − ln q)                     dℓ/d ln p = e^(ln p)·(ln p − ln q + 1)
//! ```
//!
//! Where p = 0 the slope of p·ln p, which is −∞, counts as 0.

use crate::error::Result;
use crate::ops::loss::Reduction;
use crate::tensor::Tensor;

/// The target of [`kl_divergence`].
#[derive(Clone, Copy)]
pub enum KlTarget<'a> {
    /// p.
    Probabilities(&'a Tensor),
    /// ln p.
    Logarithms(&'a Tensor),
}

/// The divergence of the target from the model, whose logarithms `log_q` are; both get gradients.
/// [`Reduction::BatchMean`] is the divergence per row.
///
/// # Errors
/// Shapes that do not broadcast.
pub fn kl_divergence(log_q: &Tensor, target: KlTarget, reduction: Reduction) -> Result<Tensor> {
    let loss = match target {
        KlTarget::Logarithms(log_p) => log_p.exp()?.mul(&log_p.sub(log_q)?)?,
        KlTarget::Probabilities(p) => {
            let one = Tensor::full(&[], 1.0, p.dtype(), p.device())?;
            let zero = one.affine(0.0, 0.0)?;
            let positive = zero.lt(&p.detach())?;
            let entropy = p.mul(&positive.select(p, &one)?.log()?)?;
            positive.select(&entropy, &zero)?.sub(&p.mul(log_q)?)?
        }
    };
    reduction.apply(&loss)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_by_hand() {
        // p = (½, ½), q = (¼, ¾): ½ ln 2 + ½ ln ⅔ = ½ ln 4/3.
        let q = Tensor::from([[0.25, 0.75]]).log().unwrap();
        let p = Tensor::from([[0.5, 0.5]]);
        let want = 0.5 * (4.0f64 / 3.0).ln();
        for target in [
            KlTarget::Probabilities(&p),
            KlTarget::Logarithms(&p.log().unwrap()),
        ] {
            let got = kl_divergence(&q, target, Reduction::BatchMean)
                .unwrap()
                .item()
                .unwrap();
            assert!(
                (got - want).abs() < 4.0 * f64::from(f32::EPSILON),
                "{got} {want}"
            );
        }
        let certain = Tensor::from([[0.0, 1.0]]);
        let got = kl_divergence(&q, KlTarget::Probabilities(&certain), Reduction::Sum).unwrap();
        let (got, want) = (got.item().unwrap(), (4.0f64 / 3.0).ln());
        assert!((got - want).abs() < f64::from(f32::EPSILON), "{got} {want}");
    }
}
