//! Stochastic gradient descent with momentum (Polyak 1964; Nesterov's form after Sutskever et al. 2013).
//!
//! ```text
//! g ← g + λw      v ← μv + g      w ← w − η·v            (Nesterov: w ← w − η·(g + μv))
//! ```

use crate::device::cuda::Formula;
use crate::optim::optimizer::{Optimizer, Rule};

/// The constants of [`Sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Momentum {
    /// μ; 0 keeps nothing.
    pub momentum: f32,
    /// Whether the step looks ahead.
    pub nesterov: bool,
}

/// Gradient descent. Its decay is added to the gradient, as the literature on it has it, not decoupled.
pub type Sgd = Optimizer<Momentum>;

impl Sgd {
    /// Momentum `momentum`, not Nesterov's, no decay.
    pub fn new(momentum: f32) -> Self {
        let rule = Momentum {
            momentum,
            nesterov: false,
        };
        Self::with_rule(rule, 0.0)
    }
}

/// What one run of rows is updated with.
#[derive(Clone, Copy)]
pub struct Step {
    rule: Momentum,
    eta: f32,
    decay: f32,
}

impl Rule for Momentum {
    type Step = Step;

    fn slots(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 {
            &[]
        } else {
            &["velocity"]
        }
    }

    fn step(&self, eta: f32, decay: f32, _: u64) -> Step {
        Step {
            rule: *self,
            eta,
            decay,
        }
    }

    fn on_cuda(&self) -> Option<Formula> {
        let Momentum { momentum, nesterov } = *self;
        Some(Formula::Momentum { momentum, nesterov })
    }

    fn coefficients(step: &Step) -> [f32; 3] {
        [step.eta, step.decay, 0.0]
    }

    #[inline(always)]
    fn apply(step: &Step, w: &mut f32, v: &mut f32, _: &mut f32, g: f32) {
        let g = step.decay.mul_add(*w, g);
        *v = step.rule.momentum.mul_add(*v, g);
        let along = if step.rule.nesterov {
            step.rule.momentum.mul_add(*v, g)
        } else {
            *v
        };
        *w = (-step.eta).mul_add(along, *w);
    }
}
