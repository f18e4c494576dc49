//! AdamW (Loshchilov & Hutter 2019).
//!
//! ```text
//! m ← β₁m + (1 − β₁)g      v ← β₂v + (1 − β₂)g²
//! w ← w − η·(m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε) + λw)
//! ```
//!
//! t counts the updates that a row has seen: rows that a parameter grew later start their own count, and their moments start at 0.

use crate::device::cuda::Formula;
use crate::optim::optimizer::{Optimizer, Rule};

/// The constants of [`AdamW`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root.
    pub eps: f32,
}

/// Adam with decoupled weight decay.
pub type AdamW = Optimizer<Adam>;

impl AdamW {
    /// β₁ = 0.9, β₂ = 0.999, ε = 1e-8.
    pub fn new(weight_decay: f32) -> Self {
        let rule = Adam {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
        };
        Self::with_rule(rule, weight_decay)
    }
}

/// What one run of rows is updated with.
#[derive(Clone, Copy)]
pub struct Step {
    adam: Adam,
    /// η / (1 − β₁ᵗ).
    rate: f32,
    /// 1 / (1 − β₂ᵗ).
    correct: f32,
    /// 1 − ηλ.
    keep: f32,
}

impl Rule for Adam {
    type Step = Step;

    fn slots(&self) -> &'static [&'static str] {
        &["mean", "square"]
    }

    fn step(&self, eta: f32, decay: f32, t: u64) -> Step {
        // In f64: 1 − β₂ᵗ cancels all but four digits of an f32.
        let gone = |beta: f32| 1.0 - f64::from(beta).powi(t.min(i32::MAX as u64) as i32);
        Step {
            adam: *self,
            rate: (f64::from(eta) / gone(self.beta1)) as f32,
            correct: (1.0 / gone(self.beta2)) as f32,
            keep: 1.0 - eta * decay,
        }
    }

    fn on_cuda(&self) -> Option<Formula> {
        let Adam { beta1, beta2, eps } = *self;
        Some(Formula::Adam { beta1, beta2, eps })
    }

    fn coefficients(step: &Step) -> [f32; 3] {
        [step.rate, step.correct, step.keep]
    }

    #[inline(always)]
    fn apply(step: &Step, w: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        let Adam { beta1, beta2, eps } = step.adam;
        *m = beta1.mul_add(*m, (1.0 - beta1) * g);
        *v = beta2.mul_add(*v, (1.0 - beta2) * g * g);
        let root = (*v * step.correct).sqrt() + eps;
        *w = step.keep.mul_add(*w, -step.rate * *m / root);
    }
}
