//! Growth at work: scores, the choice among matrices, and the new blocks.

use std::sync::Arc;

use deltaw_engine::prelude::*;
use serde_json::{Value, json};

use super::{Blocks, Core, Grown, Growth, Start, TriAdaptLora};
use crate::data::draw::Draw;
use crate::methods::low_rank::orthogonality;
use crate::methods::{Adapted, Adapter, Attached};

/// In the state, the importances at the last allocation.
const BEFORE: &str = "before";

/// TriAdaptLoRA at work.
pub(super) struct Grower {
    method: TriAdaptLora,
    adapted: Adapted,
    sites: Vec<(String, Arc<Grown>)>,
    /// ‖C‖_F / g of each site at the last allocation.
    before: Vec<f64>,
    seed: u64,
}

impl Grown {
    /// ‖C‖_F / g.
    fn importance(&self) -> Result<f64> {
        let core = no_grad(|| self.times(&Tensor::eye(self.rank(), self.a.value().device())?))?;
        Ok(core.norm_all()?.item()? / self.blocks().ends.len() as f64)
    }

    /// A block of `more` ranks, random where `start` says so, after `step` steps.
    fn grow(&self, more: usize, start: Start, seed: u64, step: u64) -> Result<()> {
        let ends = {
            let blocks = self.blocks();
            [&blocks.ends[..], &[blocks.core.rank() + more]].concat()
        };
        let (core, entries) = (Core::new(&ends)?, self.blocks().core.entries());
        let new = core.entries() - entries;
        let parts = [
            (&self.a, vec![more, self.a.shape()[1]], true),
            (
                &self.b,
                vec![more, self.b.shape()[1]],
                start != Start::Stationary,
            ),
            (&self.lower, vec![new], start == Start::Normal),
            (&self.upper, vec![new], start == Start::Normal),
        ];
        for (param, shape, random) in parts {
            let init = if random {
                Init::Normal(0.02)
            } else {
                Init::ZEROS
            };
            let key = RandomKey {
                step,
                ..RandomKey::new(seed, Purpose::Init, param.name())
            };
            let rows = init.tensor(&shape, key, param.value().device())?;
            param.grow(&rows, step)?;
        }
        *self.core.write().unwrap_or_else(|e| e.into_inner()) = Blocks { ends, core };
        Ok(())
    }
}

impl Grower {
    pub(super) fn new(
        method: TriAdaptLora,
        adapted: Adapted,
        sites: Vec<(String, Arc<Grown>)>,
        seed: u64,
    ) -> Result<Self> {
        let before = sites.iter().map(|(_, site)| site.importance());
        Ok(Grower {
            before: before.collect::<Result<_>>()?,
            method,
            adapted,
            sites,
            seed,
        })
    }

    /// How many matrices grow at step `t` of `total` while `missing` ranks are.
    fn count(&self, t: u64, total: u64, missing: usize) -> usize {
        let warm_up = self.method.warm_up * total as f64;
        let c = (t as f64 - warm_up) / (total as f64 - warm_up);
        let count = match self.method.growth {
            Growth::NonLinear => (missing as f64).powf(c),
            _ => missing as f64 * c,
        };
        (count as usize).clamp(1, self.sites.len())
    }

    fn allocate(&mut self, t: u64, total: u64, missing: usize) -> Result<()> {
        let TriAdaptLora {
            block,
            start,
            target_rank,
            ..
        } = self.method;
        if self.method.growth == Growth::AtOnce {
            for (_, site) in &self.sites {
                while site.rank() < target_rank {
                    site.grow(block.min(target_rank - site.rank()), start, self.seed, t)?;
                }
            }
            return Ok(());
        }
        let now = self.sites.iter().map(|(_, site)| site.importance());
        let now = now.collect::<Result<Vec<f64>>>()?;
        let mut draw = Draw::at(self.seed, "growth", &[t]);
        let scores: Vec<f64> = match self.method.growth {
            Growth::Random => now.iter().map(|_| draw.uniform()).collect(),
            _ => now
                .iter()
                .zip(&self.before)
                .map(|(now, before)| now - before)
                .collect(),
        };
        let mut sorted = scores.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let threshold = sorted[self.count(t, total, missing) - 1];
        for ((_, site), score) in self.sites.iter().zip(&scores) {
            if *score >= threshold {
                site.grow(block, start, self.seed, t)?;
            }
        }
        self.before = now;
        Ok(())
    }
}

impl Attached for Grower {
    fn adapted(&self) -> &Adapted {
        &self.adapted
    }

    fn penalty(&self) -> Result<Option<Tensor>> {
        if self.method.gamma == 0.0 {
            return Ok(None);
        }
        let grams = self.sites.iter().flat_map(|(_, site)| {
            [&site.a, &site.b].map(|factor| {
                let rows = factor.tensor();
                rows.matmul_t(&rows, false, true)
            })
        });
        orthogonality(grams, self.method.gamma).map(Some)
    }

    fn after_step(&mut self, step: u64, total: u64, _: &Gradients) -> Result<()> {
        let t = step + 1;
        let rank: usize = self.sites.iter().map(|(_, site)| site.rank()).sum();
        let missing = (self.sites.len() * self.method.target_rank).saturating_sub(rank);
        let warm = t as f64 > self.method.warm_up * total as f64;
        if missing > 0 && warm && t < total && t.is_multiple_of(self.method.every) {
            self.allocate(t, total, missing)?;
        }
        Ok(())
    }

    fn ranks(&self) -> Result<Vec<(String, usize)>> {
        let rank = |(path, site): &(String, Arc<Grown>)| (path.clone(), site.rank());
        Ok(self.sites.iter().map(rank).collect())
    }

    /// For each matrix its blocks, (rank at the end, step of birth) each, and the importance at the last allocation.
    fn state(&self) -> Result<Weights> {
        let device = Device::cpu();
        let mut state = Weights::default();
        for (path, site) in &self.sites {
            let ranges = site.a.ranges();
            let blocks: Vec<i64> = (ranges.iter())
                .flat_map(|block| [block.rows.end as i64, block.born as i64])
                .collect();
            let blocks = Tensor::from_slice(&blocks, &[ranges.len(), 2], &device)?;
            state.insert(format!("{path}.blocks"), blocks);
        }
        // f64 lives on the oracle alone: as bits.
        let before: Vec<i64> = self.before.iter().map(|b| b.to_bits() as i64).collect();
        state.insert(
            BEFORE,
            Tensor::from_slice(&before, &[before.len()], &device)?,
        );
        Ok(state)
    }

    fn resume(&mut self, state: &Weights) -> Result<()> {
        for (path, site) in &self.sites {
            let blocks = state.expect(&format!("{path}.blocks"))?.to_vec::<i64>()?;
            for block in blocks.chunks_exact(2) {
                let more = (block[0] as usize).saturating_sub(site.rank());
                if more > 0 {
                    site.grow(more, Start::Stationary, self.seed, block[1] as u64)?;
                }
            }
        }
        let before = state.expect(BEFORE)?.to_vec::<i64>()?;
        self.before = before.iter().map(|b| f64::from_bits(*b as u64)).collect();
        Ok(())
    }

    /// Beside the tensors, the ranks at which each matrix's blocks end.
    fn save(&self) -> Result<Adapter> {
        let mut adapter = self.adapted.save()?;
        let ends = |(path, site): &(String, Arc<Grown>)| (path.clone(), json!(site.blocks().ends));
        let blocks = Value::Object(self.sites.iter().map(ends).collect());
        adapter.config.insert("blocks".into(), blocks);
        Ok(adapter)
    }

    fn load(&mut self, adapter: &Adapter) -> Result<()> {
        for (path, site) in &self.sites {
            let saved = adapter
                .config
                .get("blocks")
                .and_then(|blocks| blocks.get(path));
            let saved: Option<Vec<usize>> =
                saved.and_then(|s| serde_json::from_value(s.clone()).ok());
            let own = site.blocks().ends.clone();
            let Some(new) = saved
                .as_deref()
                .and_then(|saved| saved.strip_prefix(&own[..]))
            else {
                return Err(Error::Param {
                    name: path.clone(),
                    detail: format!(
                        "has blocks up to {own:?}, the adapter {saved:?}; wanted the same and more"
                    ),
                });
            };
            for end in new {
                let more = end.checked_sub(site.rank()).filter(|more| *more > 0);
                let more = more.ok_or_else(|| Error::Param {
                    name: path.clone(),
                    detail: format!(
                        "the adapter's blocks end at {saved:?}; wanted increasing ranks"
                    ),
                })?;
                site.grow(more, Start::Stationary, self.seed, 0)?;
            }
        }
        self.adapted.load(adapter)
    }
}
