//! One optimiser step with its hooks.

use crate::error::Result;
use crate::optim::clip::Clip;
use crate::optim::optimizer::{Optimizer, Rule};
use crate::param::Param;
use crate::tape::Gradients;

/// Places in a step where a method looks at the gradients or changes them. All do nothing unless written.
pub trait Hooks {
    /// Gradients as backward gave them.
    fn before_clipping(&mut self, grads: &mut Gradients) -> Result<()> {
        let _ = grads;
        Ok(())
    }

    /// Gradients as the optimiser will see them.
    fn after_clipping(&mut self, grads: &mut Gradients) -> Result<()> {
        let _ = grads;
        Ok(())
    }

    /// The parameters have moved; the gradients are still there.
    fn after_step(&mut self, grads: &Gradients) -> Result<()> {
        let _ = grads;
        Ok(())
    }
}

/// No hooks.
pub struct NoHooks;

impl Hooks for NoHooks {}

/// Clips, steps, and calls the hooks between. Returns the global norm before clipping.
///
/// # Errors
/// Those of the hooks and of [`Optimizer::step`].
pub fn descend<R: Rule>(
    optimizer: &mut Optimizer<R>,
    params: &[Param],
    grads: &mut Gradients,
    lr: f32,
    clip: Clip,
    hooks: &mut dyn Hooks,
) -> Result<f64> {
    hooks.before_clipping(grads)?;
    let norm = clip.apply(grads)?;
    hooks.after_clipping(grads)?;
    optimizer.step(params, grads, lr)?;
    hooks.after_step(grads)?;
    Ok(norm)
}
