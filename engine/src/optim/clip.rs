//! Clipping by the global norm (Pascanu, Mikolov & Bengio 2013).

use crate::error::Result;
use crate::op::no_grad;
use crate::tape::Gradients;

/// `√Σ g²` over all gradients, summed in f64 in the order of the leaves.
///
/// # Errors
/// A gradient that cannot be read.
pub fn global_norm(grads: &Gradients) -> Result<f64> {
    no_grad(|| {
        let mut sum = 0.0;
        for (_, g) in grads.iter() {
            sum += g.square()?.sum_all()?.item()?;
        }
        Ok(f64::sqrt(sum))
    })
}

/// Scales all gradients so that their global norm is at most `max`; returns the norm before.
///
/// # Errors
/// As [`global_norm`].
pub fn clip_global_norm(grads: &mut Gradients, max: f32) -> Result<f64> {
    let norm = global_norm(grads)?;
    if norm > max as f64 {
        no_grad(|| grads.scale((max as f64 / norm) as f32))?;
    }
    Ok(norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{LeafId, Tensor};

    #[test]
    fn three_four_is_scaled_to_one() {
        let mut grads = Gradients::default();
        let (a, b) = (LeafId::fresh(), LeafId::fresh());
        grads.set(a, Tensor::from([3.0]));
        grads.set(b, Tensor::from([4.0]));
        assert_eq!(clip_global_norm(&mut grads, 1.0).unwrap(), 5.0);
        assert!((grads.get(a).unwrap().item().unwrap() - 0.6).abs() < 1e-7);
        assert!((global_norm(&grads).unwrap() - 1.0).abs() < 1e-7);
        assert_eq!(clip_global_norm(&mut grads, 10.0).unwrap() as f32, 1.0);
    }
}
