//! The budget at work: scores of the triplets, the global choice among them, and the masks.

use deltaw_engine::optim::ImportanceAverages;
use deltaw_engine::prelude::*;

use super::{AdaLora, Importance};
use crate::methods::low_rank::{LowRank, orthogonality};
use crate::methods::{Adapted, Adapter, Attached};

/// Present in the state once the pattern is fixed.
const SETTLED: &str = "settled";

/// The triplets of one site.
pub(super) struct Triplets {
    path: String,
    q: Param,
    p: Param,
    lambda: Param,
    /// Of Q, P and λ.
    averages: Vec<ImportanceAverages>,
    /// 1 for what is kept, 0 for what is not; none yet pruned. It stays where the weights are.
    kept: Option<Tensor>,
}

impl Triplets {
    pub(super) fn new(site: &Site, update: &LowRank, lambda: &Param) -> Result<Self> {
        let (q, p) = (update.lora_a.clone(), update.lora_b.clone());
        let averages = [&q, &p, lambda].map(|param| ImportanceAverages::new(&param.value()));
        Ok(Triplets {
            path: site.path().into(),
            averages: averages.into_iter().collect::<Result<_>>()?,
            kept: None,
            lambda: lambda.clone(),
            q,
            p,
        })
    }

    /// S of every triplet.
    fn scores(&self, importance: Importance) -> Result<Tensor> {
        let entries = |i: usize| match importance {
            Importance::SensitivityUncertainty => {
                self.averages[i].mean().mul(self.averages[i].spread())
            }
            _ => Ok(self.averages[i].mean().clone()),
        };
        match importance {
            Importance::Magnitude => self.lambda.value().abs(),
            _ => entries(2)?
                .add(&entries(1)?.mean(0)?)?
                .add(&entries(0)?.mean(1)?),
        }
    }

    /// Which triplets are kept.
    fn pattern(&self) -> Result<Vec<bool>> {
        match &self.kept {
            Some(kept) => Ok(kept.to_vec::<f32>()?.iter().map(|k| *k > 0.0).collect()),
            None => Ok(vec![true; self.lambda.len()]),
        }
    }

    fn count(&self) -> Result<usize> {
        Ok(self.pattern()?.iter().filter(|k| **k).count())
    }

    /// In the order of their averages.
    fn parts(&self) -> [&Param; 3] {
        [&self.q, &self.p, &self.lambda]
    }

    fn mask(&self) -> Result<()> {
        match &self.kept {
            Some(kept) => self.lambda.set(self.lambda.value().mul(kept)?),
            None => Ok(()),
        }
    }
}

/// AdaLoRA at work.
pub(super) struct Allocator {
    method: AdaLora,
    adapted: Adapted,
    sites: Vec<Triplets>,
    /// Whether the pattern is fixed.
    settled: bool,
    /// Steps of the run, once it is known.
    total: Option<u64>,
}

impl Allocator {
    pub(super) fn new(method: AdaLora, adapted: Adapted, sites: Vec<Triplets>) -> Self {
        Allocator {
            method,
            adapted,
            sites,
            settled: false,
            total: None,
        }
    }

    /// Keeps the `budget` best triplets over the model; ties go to the earlier site and triplet.
    fn prune(&mut self, budget: usize) -> Result<()> {
        let scores = (self.sites.iter())
            .map(|site| site.scores(self.method.importance))
            .collect::<Result<Vec<_>>>()?;
        let scores = Tensor::concat(&scores.iter().collect::<Vec<_>>(), 0)?;
        let (_, best) = scores.top_k(budget.min(scores.len()))?;
        let ones = Tensor::ones(best.shape(), scores.device())?;
        let kept = Tensor::zeros(scores.shape(), DType::F32, scores.device())?
            .scatter_add(&best, &ones)?;
        let mut at = 0;
        for site in &mut self.sites {
            site.kept = Some(kept.narrow(0, at, site.lambda.len())?);
            at += site.lambda.len();
        }
        Ok(())
    }

    /// Smooths the importance of every triplet's weights by this step's gradients.
    fn observe(&mut self, grads: &Gradients) -> Result<()> {
        let values: Vec<[Tensor; 3]> = (self.sites.iter())
            .map(|s| s.parts().map(Param::value))
            .collect();
        let mut steps = vec![];
        for (site, values) in self.sites.iter_mut().zip(&values) {
            let ids = site.parts().map(Param::id);
            for ((state, value), id) in site.averages.iter_mut().zip(values).zip(ids) {
                if let Some(grad) = grads.get(id) {
                    steps.push((state, value, grad));
                }
            }
        }
        ImportanceAverages::update_all(&mut steps, self.method.beta1, self.method.beta2)
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
        self.total = Some(total);
        let (t, all) = (step as f64, total as f64);
        let last_phase = t >= all - self.method.final_phase * all;
        if !last_phase {
            self.observe(grads)?;
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

    fn state(&self) -> Result<Weights> {
        let mut state = Weights::default();
        for site in &self.sites {
            for (part, averages) in site.parts().into_iter().zip(&site.averages) {
                state.insert(format!("{}.mean", part.name()), averages.mean().clone());
                state.insert(format!("{}.spread", part.name()), averages.spread().clone());
            }
            if let Some(kept) = &site.kept {
                state.insert(format!("{}.kept", site.path), kept.clone());
            }
        }
        if self.settled {
            state.insert(SETTLED, Tensor::from([1.0]));
        }
        Ok(state)
    }

    fn resume(&mut self, state: &Weights) -> Result<()> {
        for site in &mut self.sites {
            let names = site.parts().map(|part| part.name().to_string());
            for (name, averages) in names.iter().zip(&mut site.averages) {
                let [mean, spread] =
                    ["mean", "spread"].map(|kind| state.expect(&format!("{name}.{kind}")));
                averages.resume(mean?, spread?)?;
            }
            let kept = state.get(&format!("{}.kept", site.path));
            let device = site.lambda.value().device().clone();
            site.kept = kept
                .map(|k| k.deep_clone()?.to_device(&device))
                .transpose()?;
        }
        self.settled = state.get(SETTLED).is_some();
        Ok(())
    }

    /// Σ kept·(m + n + 1).
    fn parameters(&self) -> Result<usize> {
        let of_site = |s: &Triplets| Ok(s.count()? * (s.p.shape()[0] + s.q.shape()[1] + 1));
        self.sites.iter().map(of_site).sum()
    }

    fn ranks(&self) -> Result<Vec<(String, usize)>> {
        let rank = |s: &Triplets| Ok((s.path.clone(), s.count()?));
        self.sites.iter().map(rank).collect()
    }

    /// PEFT's form keeps the triplets of the pattern only, and the pattern beside them.
    fn save(&self) -> Result<Adapter> {
        let pattern = |s: &Triplets| Ok((format!("{}.lora_E", s.path), s.pattern()?));
        let patterns = self.sites.iter().map(pattern).collect::<Result<Vec<_>>>()?;
        let mut adapter = self.adapted.save()?.pruned(patterns.into_iter())?;
        if self.total.is_none() && adapter.config.contains_key("total_step") {
            return Ok(adapter);
        }
        let total = self.total.unwrap_or(1);
        let steps = |share: f64| (share * total as f64) as u64;
        let last = steps(self.method.final_phase).min(total - 1);
        // PEFT wants at least one step between the phases.
        let first = steps(self.method.initial_phase).min(total - last - 1);
        for (key, value) in [("tinit", first), ("tfinal", last), ("total_step", total)] {
            adapter.config.insert(key.into(), value.into());
        }
        Ok(adapter)
    }

    fn load(&mut self, adapter: &Adapter) -> Result<()> {
        for site in &mut self.sites {
            let (rank, device) = (site.lambda.len(), site.lambda.value().device().clone());
            let pattern = adapter.pattern(&format!("{}.lora_E", site.path), rank)?;
            let kept: Vec<f32> = pattern.iter().map(|k| f32::from(u8::from(*k))).collect();
            site.kept = Some(Tensor::from_slice(&kept, &[rank], &device)?);
        }
        self.adapted.load(&adapter.unpruned()?)
    }
}
