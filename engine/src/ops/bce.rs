//! Binary cross-entropy.
//!
//! ```text
//! of logits         ℓ = −(π·t·ln σ(z) + (1 − t)·ln σ(−z))
//! of probabilities  ℓ = −(t·max(ln p, −100) + (1 − t)·max(ln(1 − p), −100))      dp = (p − t)/max(p(1 − p), 1e-12)·dy
//! ```
//!
//! t in [0, 1], π the weight of positives. Logits are the better form: ln σ is finite for every finite z.

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::loss::Reduction;
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Refinements of [`bce_with_logits`] and [`bce`].
#[derive(Default, Clone)]
pub struct BceOptions {
    /// A factor of each element's loss; broadcasts. The mean still counts elements.
    pub weight: Option<Tensor>,
    /// π, a factor of the positives' term, usually one per class; broadcasts. Logits only.
    pub positive_weight: Option<Tensor>,
    /// How the elements' losses become one.
    pub reduction: Reduction,
}

/// Binary cross-entropy of logits; logits and targets get gradients.
///
/// # Errors
/// Shapes that do not broadcast.
pub fn bce_with_logits(logits: &Tensor, targets: &Tensor, options: &BceOptions) -> Result<Tensor> {
    let mut hit = targets.mul(&logits.log_sigmoid()?)?;
    if let Some(weight) = &options.positive_weight {
        hit = hit.mul(weight)?;
    }
    let miss = targets
        .affine(-1.0, 1.0)?
        .mul(&logits.neg()?.log_sigmoid()?)?;
    finish(hit.add(&miss)?.neg()?, options)
}

fn finish(loss: Tensor, options: &BceOptions) -> Result<Tensor> {
    match &options.weight {
        Some(weight) => options.reduction.apply(&loss.mul(weight)?),
        None => options.reduction.apply(&loss),
    }
}

/// The loss of probabilities, elementwise; inputs: p, t of one shape.
struct Bce;

impl Op for Bce {
    fn name(&self) -> &'static str {
        "bce"
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let [p, t] = [inputs[0], inputs[1]];
        if f.needs_any() {
            f.save(0, p);
            f.save(1, t);
        }
        let hit = t.mul(&bounded_log(p)?)?;
        let miss = t
            .affine(-1.0, 1.0)?
            .mul(&bounded_log(&p.affine(-1.0, 1.0)?)?)?;
        hit.add(&miss)?.neg()
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (p, t) = (saved.get(0)?, saved.get(1)?);
        let other = p.affine(-1.0, 1.0)?;
        if grads.needs(0) {
            let slope = p.mul(&other)?.clamp(1e-12, f64::MAX)?;
            grads.add(0, dy.mul(&p.sub(t)?.div(&slope)?)?)?;
        }
        if grads.needs(1) {
            grads.add(1, dy.mul(&bounded_log(&other)?.sub(&bounded_log(p)?)?)?)?;
        }
        Ok(())
    }
}

fn bounded_log(x: &Tensor) -> Result<Tensor> {
    x.log()?.clamp(-100.0, f64::MAX)
}

/// Binary cross-entropy of probabilities; probabilities and targets get gradients.
///
/// # Errors
/// Shapes that do not broadcast, a weight of positives.
pub fn bce(probabilities: &Tensor, targets: &Tensor, options: &BceOptions) -> Result<Tensor> {
    if options.positive_weight.is_some() {
        return Err(Error::Invalid(
            "bce: a weight of positives is taken by `bce_with_logits` alone".into(),
        ));
    }
    let (p, t) = (probabilities.layout().shape, targets.layout().shape);
    let shape = Layout::broadcast_shape("bce", &p, &t)?;
    let loss = apply(
        Bce,
        &[&probabilities.expand(&shape)?, &targets.expand(&shape)?],
    )?;
    finish(loss, options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::backward;

    #[test]
    fn by_hand() {
        // σ(0) = ½: ln 2 for either target; a weight of 3 triples the positive's.
        let (z, t) = (Tensor::from([0.0, 0.0]), Tensor::from([1.0, 0.0]));
        let options = BceOptions {
            positive_weight: Some(Tensor::from([3.0])),
            reduction: Reduction::None,
            ..Default::default()
        };
        let loss = bce_with_logits(&z, &t, &options)
            .unwrap()
            .to_vec::<f32>()
            .unwrap();
        assert_eq!(loss, [3.0 * std::f32::consts::LN_2, std::f32::consts::LN_2]);
        // Far out nothing overflows, and the loss is |z|.
        let far = bce_with_logits(&Tensor::from([-1e4, 1e4]), &t, &BceOptions::default());
        assert_eq!(far.unwrap().item().unwrap(), 1e4);
    }

    #[test]
    fn certain_and_wrong_costs_100() {
        let p = Tensor::from([0.0, 1.0, 1.0]).trained();
        let t = Tensor::from([1.0, 0.0, 1.0]);
        let options = BceOptions {
            reduction: Reduction::None,
            ..Default::default()
        };
        let loss = bce(&p, &t, &options).unwrap();
        assert_eq!(loss.to_vec::<f32>().unwrap(), [100.0, 100.0, 0.0]);
        let grads = backward(&loss.sum_all().unwrap()).unwrap();
        assert_eq!(
            grads.of(&p).unwrap().to_vec::<f32>().unwrap(),
            [-1e12, 1e12, 0.0]
        );
        assert!(bce(&p, &Tensor::from([1.0, 0.0]), &options).is_err());
    }
}
