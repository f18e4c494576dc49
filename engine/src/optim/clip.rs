//! Clipping by the global norm (Pascanu, Mikolov & Bengio 2013) and by value.

use crate::error::Result;
use crate::op::no_grad;
use crate::tape::Gradients;
use crate::tensor::Tensor;

/// `√Σ g²` over all gradients, summed in f64 in the order of the leaves; read from the device at once.
///
/// # Errors
/// A gradient that cannot be read.
pub fn global_norm(grads: &Gradients) -> Result<f64> {
    no_grad(|| {
        let sums = (grads.iter())
            .map(|(_, g)| g.square()?.sum_all())
            .collect::<Result<Vec<_>>>()?;
        if sums.is_empty() {
            return Ok(0.0);
        }
        let sums = Tensor::stack(&sums.iter().collect::<Vec<_>>())?.to_vec::<f64>()?;
        Ok(sums.into_iter().sum::<f64>().sqrt())
    })
}

/// Scales all gradients so that their global norm is at most `max`; returns the norm before. Gradients whose norm is NaN
/// or infinite stay as they are: look at what is returned.
///
/// # Errors
/// As [`global_norm`].
pub fn clip_global_norm(grads: &mut Gradients, max: f32) -> Result<f64> {
    let norm = global_norm(grads)?;
    if norm > max as f64 && norm.is_finite() {
        no_grad(|| grads.scale((max as f64 / norm) as f32))?;
    }
    Ok(norm)
}

/// Puts every element into `[−max, max]`; NaN stays.
///
/// # Errors
/// A gradient that cannot be read.
pub fn clip_value(grads: &mut Gradients, max: f32) -> Result<()> {
    let ids: Vec<_> = grads.iter().map(|(id, _)| id).collect();
    no_grad(|| {
        for id in ids {
            if let Some(g) = grads.remove(id) {
                grads.set(id, g.clamp(-max as f64, max as f64)?);
            }
        }
        Ok(())
    })
}

/// A way of clipping.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clip {
    /// None.
    Off,
    /// [`clip_global_norm`].
    Norm(f32),
    /// [`clip_value`].
    Value(f32),
}

impl Clip {
    /// Clips; returns the global norm before.
    ///
    /// # Errors
    /// As [`global_norm`].
    pub fn apply(self, grads: &mut Gradients) -> Result<f64> {
        match self {
            Clip::Off => global_norm(grads),
            Clip::Norm(max) => clip_global_norm(grads, max),
            Clip::Value(max) => {
                let norm = global_norm(grads)?;
                clip_value(grads, max)?;
                Ok(norm)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::LeafId;

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

    #[test]
    fn values_are_cut_and_nan_is_left() {
        let mut grads = Gradients::default();
        let id = LeafId::fresh();
        grads.set(id, Tensor::from([3.0, -0.5, -9.0, f32::NAN]));
        clip_value(&mut grads, 1.0).unwrap();
        let g = grads.get(id).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(g[..3], [1.0, -0.5, -1.0]);
        assert!(g[3].is_nan());
        assert!(clip_global_norm(&mut grads, 1.0).unwrap().is_nan());
        assert_eq!(grads.get(id).unwrap().to_vec::<f32>().unwrap()[0], 1.0);
    }
}
