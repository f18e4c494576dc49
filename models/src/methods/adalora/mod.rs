//! AdaLoRA (Zhang et al. 2023): the update as an SVD, `ΔW = s·P·Λ·Q`, whose triplets compete over the whole model.
//!
//! P `[m, r]` and Q `[r, n]` from N(0, 0.02²), λ = 0, `s = α/(r + 1e-5)`. The loss gains `γ·mean(‖PᵀP − I‖_F, ‖QQᵀ − I‖_F)`.
//! After each step before the final phase, from that step's gradients, every entry w of P, λ and Q has its sensitivity
//! `|w·∂L/∂w|` and its uncertainty smoothed into Ī and Ū ([`deltaw_engine::optim::ImportanceAverages`]), and a triplet scores
//!
//! ```text
//! s(w) = Ī·Ū      S_i = s(λ_i) + mean_j s(P_ji) + mean_j s(Q_ij)
//! ```
//!
//! The b(t) triplets with the largest S keep their λ; the others' λ is set to 0. Their columns of P and rows of Q train on, so
//! that a triplet can come back until the final phase fixes the pattern, by the last scores, and masks λ after every step.

mod allocator;
mod files;

use deltaw_engine::prelude::*;
use serde_json::json;

use super::adapter::decimal;
use super::low_rank::LowRank;
use super::{Adapted, Attached, Axes, Factor, Form, Method, Targets};
use allocator::{Allocator, Triplets};

/// How triplets are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// Sensitivity times uncertainty, `s(w) = Ī·Ū`: the paper's.
    SensitivityUncertainty,
    /// Sensitivity alone, `s(w) = Ī`.
    Sensitivity,
    /// `S_i = |λ_i|`.
    Magnitude,
}

/// AdaLoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaLora {
    /// Average rank at the end.
    pub target_rank: usize,
    /// Rank at the start: 1.5 times the target, rounded up.
    pub initial_rank: usize,
    /// Scale's numerator α.
    pub alpha: f32,
    /// Weight γ of the orthogonality penalty.
    pub gamma: f64,
    /// Decay of Ī.
    pub beta1: f32,
    /// Decay of Ū.
    pub beta2: f32,
    /// Share of the steps before pruning starts, t_i / T.
    pub initial_phase: f64,
    /// Share of the steps with a fixed pattern at the end, t_f / T.
    pub final_phase: f64,
    /// Steps between prunings while the budget falls, ΔT.
    pub every: u64,
    /// Probability of dropping an element of the update's input in training.
    pub dropout: f32,
    /// How triplets are scored.
    pub importance: Importance,
    /// Which linears.
    pub targets: Targets,
}

impl AdaLora {
    /// The paper's settings at an average final rank, on every linear of the blocks.
    pub fn target_rank(rank: usize) -> Self {
        let initial_rank = (3 * rank).div_ceil(2);
        AdaLora {
            target_rank: rank,
            initial_rank,
            alpha: 2.0 * initial_rank as f32,
            gamma: 0.1,
            beta1: 0.85,
            beta2: 0.85,
            initial_phase: 0.1,
            final_phase: 0.25,
            every: 5,
            dropout: 0.0,
            importance: Importance::SensitivityUncertainty,
            targets: Targets::default(),
        }
    }

    /// Triplets kept over the model at step `step` of `total`, from `start` down to `target`:
    /// `b_T + (b_0 − b_T)(1 − (t − t_i)/(T − t_i − t_f))³` between the phases.
    pub fn budget(&self, step: u64, total: u64, start: usize, target: usize) -> usize {
        let (t, all) = (step as f64, total as f64);
        let (first, last) = (self.initial_phase * all, all - self.final_phase * all);
        if t < first {
            return start;
        }
        if t >= last {
            return target;
        }
        let left = 1.0 - (t - first) / (last - first);
        target + ((start - target) as f64 * left.powi(3)).round() as usize
    }

    fn check(&self) -> Result<()> {
        let phases = self.initial_phase >= 0.0
            && self.final_phase >= 0.0
            && self.initial_phase + self.final_phase <= 1.0;
        let decays = [self.beta1, self.beta2]
            .iter()
            .all(|b| (0.0..1.0).contains(b));
        let ranks = 0 < self.target_rank && self.target_rank <= self.initial_rank;
        if ranks && phases && decays && self.every > 0 {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "adalora: wanted 0 < target rank ({}) ≤ initial rank ({}), phases ({}, {}) that share the run, decays ({}, {}) in [0, 1) and a pruning every 1 or more steps ({})",
            self.target_rank,
            self.initial_rank,
            self.initial_phase,
            self.final_phase,
            self.beta1,
            self.beta2,
            self.every
        )))
    }
}

impl Method for AdaLora {
    fn name(&self) -> String {
        let base = format!("adalora r={}", self.target_rank);
        match (self.importance, self.gamma == 0.0) {
            (Importance::SensitivityUncertainty, false) => base,
            (Importance::SensitivityUncertainty, true) => format!("{base}, no orthogonality"),
            (Importance::Sensitivity, _) => format!("{base}, no uncertainty"),
            (Importance::Magnitude, _) => format!("{base}, magnitude"),
        }
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        self.check()?;
        let r = self.initial_rank;
        let settings = json!({
            "peft_type": "ADALORA", "init_r": r, "target_r": self.target_rank, "lora_alpha": decimal(self.alpha),
            "beta1": decimal(self.beta1), "beta2": decimal(self.beta2), "deltaT": self.every, "orth_reg_weight": self.gamma,
            "lora_dropout": decimal(self.dropout),
        });
        let chosen = self.targets.of(store)?;
        let (mut adapted, mut sites) = (Adapted::new(store, heads, settings), vec![]);
        for site in chosen {
            let scale = self.alpha / (r as f32 + 1e-5);
            let mut delta = LowRank::new(store, &site, r, scale, [Init::Normal(0.02); 2])?;
            let lambda = store.at(site.path()).param("lora_E", &[r], Init::ZEROS)?;
            (delta.lambda, delta.dropout) = (Some(lambda.clone()), self.dropout);
            let factors = vec![
                Factor::new("lora_A", Form::Right, &delta.lora_a),
                Factor::new("lora_B", Form::Left, &delta.lora_b),
                Factor::new("lora_E", Form::Rank, &lambda).with_axes(Axes::Column),
            ];
            sites.push(Triplets::new(&site, &delta, &lambda)?);
            adapted.add(&site, delta.shared(), factors)?;
        }
        Ok(Box::new(Allocator::new(self.clone(), adapted, sites)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_falls_by_a_cubic_and_ends_at_the_target() {
        let method = AdaLora::target_rank(2);
        let budgets: Vec<usize> = (0..200).map(|t| method.budget(t, 200, 72, 48)).collect();
        assert!(budgets.is_sorted_by(|a, b| a >= b));
        assert!(budgets[..20].iter().all(|b| *b == 72) && budgets[150..].iter().all(|b| *b == 48));
        // Halfway between the phases: 48 + 24/8.
        assert_eq!(budgets[85], 51);
    }
}
