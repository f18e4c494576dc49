//! The budget at work: scores of the triplets, the global choice among them, and the masks.

use deltaw_engine::optim::ImportanceAverages;
use deltaw_engine::prelude::*;

use super::{AdaLora, Importance};
use crate::methods::low_rank::{LowRank, orthogonality};
use crate::methods::{Adapted, Adapter, Attached};

/// The triplets of one site.
pub(super) struct Triplets {
    path: String,
    q: Param,
    p: Param,
    lambda: Param,
    /// Of Q, P and λ.
    averages: Vec<ImportanceAverages>,
    kept: Vec<bool>,
}

impl Triplets {
    pub(super) fn new(site: &Site, update: &LowRank, lambda: &Param) -> Result<Self> {
        let (q, p) = (update.lora_a.clone(), update.lora_b.clone());
        let averages = [&q, &p, lambda].map(|param| ImportanceAverages::new(&param.value()));
        Ok(Triplets {
            path: site.path().into(),
            averages: averages.into_iter().collect::<Result<_>>()?,
            kept: vec![true; lambda.len()],
            lambda: lambda.clone(),
            q,
            p,
        })
    }

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
pub(super) struct Allocator {
    method: AdaLora,
    adapted: Adapted,
    sites: Vec<Triplets>,
    /// Whether the pattern is fixed.
    settled: bool,
}

impl Allocator {
    pub(super) fn new(method: AdaLora, adapted: Adapted, sites: Vec<Triplets>) -> Self {
        Allocator {
            method,
            adapted,
            sites,
            settled: false,
        }
    }

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

impl Attached for Allocator {
    fn adapted(&self) -> &Adapted {
        &self.adapted
    }

    fn penalty(&self) -> Result<Option<Tensor>> {
        if self.method.gamma == 0.0 {
            return Ok(None);
        }
        let grams = self.sites.iter().flat_map(|site| {
            let (q, p) = (site.q.tensor(), site.p.tensor());
            [q.matmul_t(&q, false, true), p.matmul_t(&p, true, false)]
        });
        orthogonality(grams, self.method.gamma).map(Some)
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
