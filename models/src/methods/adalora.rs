//! AdaLoRA (Zhang et al. 2023): the update as an SVD, `ΔW = s·P·Λ·Q`, whose triplets compete over the whole model.
//!
//! P `[m, r]` and Q `[r, n]` from N(0, 0.02²), λ = 0, `s = α/(r + 1e-5)`. The loss gains `γ·mean(‖PᵀP − I‖_F, ‖QQᵀ − I‖_F)`.
//! After each step before the final phase, from that step's gradients, every entry w of P, λ and Q has its sensitivity
//! `|w·∂L/∂w|` and its uncertainty smoothed into Ī and Ū ([`ImportanceAverages`]), and a triplet scores
//!
//! ```text
//! s(w) = Ī·Ū      S_i = s(λ_i) + mean_j s(P_ji) + mean_j s(Q_ij)
//! ```
//!
//! The b(t) triplets with the largest S keep their λ; the others' λ is set to 0. Their columns of P and rows of Q train on, so
//! that a triplet can come back until the final phase fixes the pattern, by the last scores, and masks λ after every step.

use deltaw_engine::optim::ImportanceAverages;
use deltaw_engine::prelude::*;
use serde_json::json;

use super::low_rank::LowRank;
use super::{Adapted, Adapter, Attached, Factor, Form, Method, Targets};

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
            "peft_type": "ADALORA", "init_r": r, "target_r": self.target_rank, "lora_alpha": self.alpha,
            "beta1": self.beta1, "beta2": self.beta2, "deltaT": self.every, "orth_reg_weight": self.gamma,
        });
        let chosen = self.targets.of(store)?;
        let (mut adapted, mut sites) = (Adapted::new(store, heads, settings), vec![]);
        for site in chosen {
            let scale = self.alpha / (r as f32 + 1e-5);
            let mut delta = LowRank::new(store, &site, r, scale, [Init::Normal(0.02); 2])?;
            let lambda = store.at(site.path()).param("lora_E", &[r], Init::ZEROS)?;
            delta.lambda = Some(lambda.clone());
            let factors = [
                ("lora_A", Form::Right, &delta.lora_a),
                ("lora_B", Form::Left, &delta.lora_b),
                ("lora_E", Form::Rank, &lambda),
            ];
            let factors = factors
                .map(|(key, form, param)| Factor::new(key, form, param))
                .to_vec();
            sites.push(Triplets {
                path: site.path().into(),
                averages: [&delta.lora_a, &delta.lora_b, &lambda]
                    .map(|p| ImportanceAverages::new(&p.value()))
                    .into_iter()
                    .collect::<Result<_>>()?,
                q: delta.lora_a.clone(),
                p: delta.lora_b.clone(),
                lambda,
                kept: vec![true; r],
            });
            adapted.add(&site, delta.shared(), factors)?;
        }
        Ok(Box::new(AttachedAdaLora {
            method: self.clone(),
            adapted,
            sites,
            settled: false,
        }))
    }
}

/// The triplets of one site.
struct Triplets {
    path: String,
    q: Param,
    p: Param,
    lambda: Param,
    /// Of Q, P and λ.
    averages: Vec<ImportanceAverages>,
    kept: Vec<bool>,
}

impl Triplets {
    fn update(&mut self, grads: &Gradients, beta1: f32, beta2: f32) -> Result<()> {
        for (state, param) in self
            .averages
            .iter_mut()
            .zip([&self.q, &self.p, &self.lambda])
        {
            if let Some(grad) = grads.get(param.id()) {
                state.update(&param.value(), grad, beta1, beta2)?;
            }
        }
        Ok(())
    }

    /// S of every triplet.
    fn scores(&self, importance: Importance) -> Result<Vec<f64>> {
        let entries = |i: usize| match importance {
            Importance::SensitivityUncertainty => {
                self.averages[i].mean().mul(self.averages[i].spread())
            }
            _ => Ok(self.averages[i].mean().clone()),
        };
        let scores = match importance {
            Importance::Magnitude => self.lambda.value().abs()?,
            _ => entries(2)?
                .add(&entries(1)?.mean(0)?)?
                .add(&entries(0)?.mean(1)?)?,
        };
        scores.to_vec::<f64>()
    }

    fn count(&self) -> usize {
        self.kept.iter().filter(|k| **k).count()
    }

    fn mask(&self) -> Result<()> {
        if self.count() == self.kept.len() {
            return Ok(());
        }
        let mask: Vec<f32> = self.kept.iter().map(|k| *k as u8 as f32).collect();
        let mask = Tensor::from_slice(&mask, &[mask.len()], self.lambda.value().device())?;
        self.lambda.set(self.lambda.value().mul(&mask)?)
    }
}

/// AdaLoRA at work.
struct AttachedAdaLora {
    method: AdaLora,
    adapted: Adapted,
    sites: Vec<Triplets>,
    /// Whether the pattern is fixed.
    settled: bool,
}

impl AttachedAdaLora {
    /// Keeps the `budget` best triplets over the model; ties go to the earlier site and triplet.
    fn prune(&mut self, budget: usize) -> Result<()> {
        let mut all = vec![];
        for (s, site) in self.sites.iter_mut().enumerate() {
            all.extend(
                site.scores(self.method.importance)?
                    .into_iter()
                    .enumerate()
                    .map(|(i, score)| (score, s, i)),
            );
            site.kept.fill(false);
        }
        all.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
        for (_, s, i) in all.into_iter().take(budget) {
            self.sites[s].kept[i] = true;
        }
        Ok(())
    }
}

/// `‖G − I‖_F` of a Gram matrix.
fn distance_to_identity(gram: &Tensor) -> Result<Tensor> {
    let r = gram.last_dim();
    let identity: Vec<f32> = (0..r * r)
        .map(|i| i.is_multiple_of(r + 1) as u8 as f32)
        .collect();
    gram.sub(&Tensor::from_slice(&identity, &[r, r], gram.device())?)?
        .norm_all()
}

impl Attached for AttachedAdaLora {
    fn adapted(&self) -> &Adapted {
        &self.adapted
    }

    fn penalty(&self) -> Result<Option<Tensor>> {
        if self.method.gamma == 0.0 {
            return Ok(None);
        }
        let mut distances = vec![];
        for site in &self.sites {
            let (q, p) = (site.q.tensor(), site.p.tensor());
            distances.push(distance_to_identity(&q.matmul_t(&q, false, true)?)?);
            distances.push(distance_to_identity(&p.matmul_t(&p, true, false)?)?);
        }
        let mean = Tensor::stack(&distances.iter().collect::<Vec<_>>())?.mean_all()?;
        Ok(Some(mean.affine(self.method.gamma, 0.0)?))
    }

    fn after_step(&mut self, step: u64, total: u64, grads: &Gradients) -> Result<()> {
        let (t, all) = (step as f64, total as f64);
        let last_phase = t >= all - self.method.final_phase * all;
        if !last_phase {
            let (beta1, beta2) = (self.method.beta1, self.method.beta2);
            self.sites
                .iter_mut()
                .try_for_each(|site| site.update(grads, beta1, beta2))?;
        }
        let falling = t >= self.method.initial_phase * all
            && !last_phase
            && step.is_multiple_of(self.method.every);
        if falling || (last_phase && !self.settled) {
            let per_site =
                [self.method.initial_rank, self.method.target_rank].map(|r| r * self.sites.len());
            self.prune(self.method.budget(step, total, per_site[0], per_site[1]))?;
            self.settled = last_phase;
        }
        if falling || last_phase {
            self.sites.iter().try_for_each(Triplets::mask)?;
        }
        Ok(())
    }

    /// Σ kept·(m + n + 1).
    fn parameters(&self) -> usize {
        self.sites
            .iter()
            .map(|s| s.count() * (s.p.shape()[0] + s.q.shape()[1] + 1))
            .sum()
    }

    fn ranks(&self) -> Vec<(String, usize)> {
        self.sites
            .iter()
            .map(|s| (s.path.clone(), s.count()))
            .collect()
    }

    /// PEFT's form keeps the triplets of the pattern only, and the pattern beside them.
    fn save(&self) -> Result<Adapter> {
        let patterns = self
            .sites
            .iter()
            .map(|s| (format!("{}.lora_E", s.path), s.kept.clone()));
        self.adapted.save()?.pruned(patterns)
    }

    fn load(&mut self, adapter: &Adapter) -> Result<()> {
        for site in &mut self.sites {
            site.kept = adapter.pattern(&format!("{}.lora_E", site.path), site.kept.len())?;
        }
        self.adapted.load(&adapter.unpruned()?)
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
