//! AdaLoRA (Zhang et al. 2023): the update as an SVD, `ΔW = s·P·Λ·Q`, whose triplets compete over the whole model.
//!
//! P `[m, r]` and Q `[r, n]` from N(0, 0.02²), λ = 0, `s = α/(r + 1e-5)`. The loss gains `γ·mean(‖PᵀP − I‖_F, ‖QQᵀ − I‖_F)`.
//! After each step, from that step's gradients, for every entry w of P, λ and Q:
//!
//! ```text
//! I = |w·∂L/∂w|     Ī ← β₁Ī + (1 − β₁)I     Ū ← β₂Ū + (1 − β₂)|I − Ī|     s(w) = Ī·Ū
//! S_i = s(λ_i) + mean_j s(P_ji) + mean_j s(Q_ij)
//! ```
//!
//! and the b(t) triplets with the largest S keep their λ; the others' λ is set to 0. Their rows of P and Q train on, so that
//! a triplet can come back until the final phase fixes the pattern.

use std::sync::Arc;

use deltaw_engine::prelude::*;

use super::lora::LowRank;
use super::{Attached, Method, block_linears, is_head};

/// How triplets are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// Sensitivity times uncertainty: the paper's.
    SensitivityUncertainty,
    /// Sensitivity alone, `s(w) = Ī`.
    Sensitivity,
    /// `|λ|`.
    Magnitude,
}

/// AdaLoRA on every linear of the blocks.
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
    pub beta1: f64,
    /// Decay of Ū.
    pub beta2: f64,
    /// Share of the steps before pruning starts.
    pub initial_phase: f64,
    /// Share of the steps with a fixed pattern at the end.
    pub final_phase: f64,
    /// Steps between prunings while the budget falls.
    pub every: u64,
    /// How triplets are scored.
    pub importance: Importance,
}

impl AdaLora {
    /// The paper's settings at an average final rank.
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
        }
    }

    /// Triplets kept over the model at step `step` of `total`, from `start` down to `target`:
    /// `b_T + (b_0 − b_T)(1 − (t − t_i)/(T − t_i − t_f))³` in between.
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
}

/// Moving averages of one factor.
#[derive(Clone)]
struct Average {
    mean: Vec<f64>,
    spread: Vec<f64>,
}

impl Average {
    fn new(len: usize) -> Self {
        Average {
            mean: vec![0.0; len],
            spread: vec![0.0; len],
        }
    }

    /// One step of Ī and Ū; the order of the two updates is the paper's: Ū sees the new Ī.
    fn update(&mut self, beta1: f64, beta2: f64, weight: &[f32], grad: &[f32]) {
        for (((mean, spread), w), g) in self
            .mean
            .iter_mut()
            .zip(&mut self.spread)
            .zip(weight)
            .zip(grad)
        {
            let now = (*w as f64 * *g as f64).abs();
            *mean = beta1 * *mean + (1.0 - beta1) * now;
            *spread = beta2 * *spread + (1.0 - beta2) * (now - *mean).abs();
        }
    }

    fn score(&self, importance: Importance, i: usize) -> f64 {
        if importance == Importance::Sensitivity {
            self.mean[i]
        } else {
            self.mean[i] * self.spread[i]
        }
    }
}

/// One adapted site.
struct Triplets {
    path: String,
    delta: Arc<LowRank>,
    lambda: Param,
    averages: [Average; 3],
    features: usize,
    kept: Vec<bool>,
}

/// AdaLoRA at work.
struct AttachedAdaLora {
    method: AdaLora,
    sites: Vec<Triplets>,
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
        if self.target_rank == 0 || self.initial_rank < self.target_rank {
            return Err(Error::Invalid(format!(
                "adalora: ranks must satisfy 0 < target ({}) ≤ initial ({})",
                self.target_rank, self.initial_rank
            )));
        }
        store.train_only(|name| is_head(name, heads));
        let (r, mut sites) = (self.initial_rank, vec![]);
        for site in block_linears(store)? {
            let (path, m, n) = (
                store.at(site.path()),
                site.out_features()?,
                site.in_features()?,
            );
            let lambda = path.param("lora_E", &[r], Init::ZEROS)?;
            let delta = Arc::new(LowRank {
                lora_a: path.param("lora_A", &[r, n], Init::Normal(0.02))?,
                lora_b: path.param("lora_B", &[m, r], Init::Normal(0.02))?,
                lambda: Some(lambda.clone()),
                scale: self.alpha / (r as f32 + 1e-5),
            });
            site.attach(delta.clone())?;
            let averages = [Average::new(r * n), Average::new(m * r), Average::new(r)];
            sites.push(Triplets {
                path: site.path().into(),
                delta,
                lambda,
                averages,
                features: m + n + 1,
                kept: vec![true; r],
            });
        }
        let method = AdaLora { ..*self };
        Ok(Box::new(AttachedAdaLora { method, sites }))
    }
}

/// `‖G − I‖_F` of a Gram matrix.
fn distance_to_identity(gram: &Tensor) -> Result<Tensor> {
    let r = gram.last_dim();
    let identity: Vec<f32> = (0..r * r)
        .map(|i| (i % (r + 1) == 0) as u8 as f32)
        .collect();
    gram.sub(&Tensor::from_slice(&identity, &[r, r], gram.device())?)?
        .norm_all()
}

impl Triplets {
    /// S of every triplet.
    fn scores(&self, importance: Importance) -> Result<Vec<f64>> {
        let r = self.kept.len();
        if importance == Importance::Magnitude {
            return Ok(self
                .lambda
                .value()
                .to_vec::<f64>()?
                .into_iter()
                .map(f64::abs)
                .collect());
        }
        let [a, b, e] = &self.averages;
        let (n, m) = (a.mean.len() / r, b.mean.len() / r);
        let score = |i: usize| {
            let q = (0..n).map(|j| a.score(importance, i * n + j)).sum::<f64>() / n as f64;
            let p = (0..m).map(|j| b.score(importance, j * r + i)).sum::<f64>() / m as f64;
            e.score(importance, i) + p + q
        };
        Ok((0..r).map(score).collect())
    }

    fn mask(&self) -> Result<()> {
        if self.kept.iter().all(|k| *k) {
            return Ok(());
        }
        let mask: Vec<f32> = self.kept.iter().map(|k| *k as u8 as f32).collect();
        let mask = Tensor::from_slice(&mask, &[mask.len()], self.lambda.value().device())?;
        self.lambda.set(no_grad(|| self.lambda.value().mul(&mask))?)
    }
}

impl AttachedAdaLora {
    /// Keeps the `budget` best triplets over the model; ties go to the earlier site and triplet.
    fn prune(&mut self, budget: usize) -> Result<()> {
        let mut all = vec![];
        for (s, site) in self.sites.iter().enumerate() {
            all.extend(
                site.scores(self.method.importance)?
                    .into_iter()
                    .enumerate()
                    .map(|(i, score)| (score, s, i)),
            );
        }
        all.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
        for site in &mut self.sites {
            site.kept.fill(false);
        }
        for (_, s, i) in all.into_iter().take(budget) {
            self.sites[s].kept[i] = true;
        }
        Ok(())
    }
}

impl Attached for AttachedAdaLora {
    fn penalty(&self) -> Result<Option<Tensor>> {
        if self.method.gamma == 0.0 {
            return Ok(None);
        }
        let mut sum: Option<Tensor> = None;
        for site in &self.sites {
            let (q, p) = (site.delta.lora_a.tensor(), site.delta.lora_b.tensor());
            let both = distance_to_identity(&q.matmul_t(&q, false, true)?)?
                .add(&distance_to_identity(&p.matmul_t(&p, true, false)?)?)?;
            sum = Some(match sum {
                Some(s) => s.add(&both)?,
                None => both,
            });
        }
        sum.map(|s| s.affine(self.method.gamma / (2 * self.sites.len()) as f64, 0.0))
            .transpose()
    }

    fn after_step(&mut self, step: u64, total: u64, grads: &Gradients) -> Result<()> {
        let fixed = step as f64 >= total as f64 * (1.0 - self.method.final_phase);
        let ranks = self.sites.first().map_or(0, |s| s.kept.len());
        let (start, target) = (
            self.sites.len() * ranks,
            self.sites.len() * self.method.target_rank,
        );
        if !fixed {
            for site in &mut self.sites {
                let factors = [&site.delta.lora_a, &site.delta.lora_b, &site.lambda];
                for (average, param) in site.averages.iter_mut().zip(factors) {
                    let Some(grad) = grads.get(param.id()) else {
                        continue;
                    };
                    average.update(
                        self.method.beta1,
                        self.method.beta2,
                        &param.value().to_vec::<f32>()?,
                        &grad.to_vec::<f32>()?,
                    );
                }
            }
        }
        let budget = self.method.budget(step, total, start, target);
        let falling = step as f64 >= total as f64 * self.method.initial_phase && !fixed;
        let first_fixed = fixed
            && self
                .sites
                .iter()
                .map(|s| s.kept.iter().filter(|k| **k).count())
                .sum::<usize>()
                != target;
        if (falling && step.is_multiple_of(self.method.every)) || first_fixed {
            self.prune(budget)?;
            self.sites.iter().try_for_each(Triplets::mask)
        } else if fixed {
            self.sites.iter().try_for_each(Triplets::mask)
        } else {
            Ok(())
        }
    }

    fn parameters(&self) -> usize {
        self.sites
            .iter()
            .map(|s| s.kept.iter().filter(|k| **k).count() * s.features)
            .sum()
    }

    fn ranks(&self) -> Vec<(String, usize)> {
        self.sites
            .iter()
            .map(|s| (s.path.clone(), s.kept.iter().filter(|k| **k).count()))
            .collect()
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
