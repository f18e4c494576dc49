//! LoRA (Hu et al. 2022): `ΔW = s·B·A`, A `[r, n]` Kaiming-uniform (a = √5), B `[m, r]` zero, `s = α/r`, or `α/√r` in the
//! rank-stabilised form (Kalajdzievski 2023). r and α may differ by module.

use deltaw_engine::prelude::*;
use serde_json::{Map, Value, json};

use super::adapter::decimal;
use super::low_rank::LowRank;
use super::pattern::Pattern;
use super::{Adapted, Attached, Method, Targets};

/// A low-rank update.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// Rank r.
    pub rank: usize,
    /// Scale's numerator α.
    pub alpha: f32,
    /// Whether the scale is α/√r.
    pub rank_stabilised: bool,
    /// Probability of dropping an element of the update's input in training.
    pub dropout: f32,
    /// Ranks of the modules whose last components match, the first match first; PEFT's `rank_pattern`.
    pub ranks: Vec<(Pattern, usize)>,
    /// α in the same way; PEFT's `alpha_pattern`.
    pub alphas: Vec<(Pattern, f32)>,
    /// Which linears.
    pub targets: Targets,
}

impl Lora {
    /// Rank `rank` with α = 2·rank on every linear of the blocks.
    pub fn rank(rank: usize) -> Self {
        Lora {
            rank,
            alpha: 2.0 * rank as f32,
            rank_stabilised: false,
            dropout: 0.0,
            ranks: vec![],
            alphas: vec![],
            targets: Targets::default(),
        }
    }

    /// r of a module.
    ///
    /// # Errors
    /// A pattern that takes too many steps.
    pub fn rank_of(&self, module: &str) -> Result<usize> {
        Ok(first(&self.ranks, module)?.unwrap_or(self.rank))
    }

    /// α of a module.
    ///
    /// # Errors
    /// A pattern that takes too many steps.
    pub fn alpha_of(&self, module: &str) -> Result<f32> {
        Ok(first(&self.alphas, module)?.unwrap_or(self.alpha))
    }

    /// s of a module.
    ///
    /// # Errors
    /// A pattern that takes too many steps.
    pub fn scale_of(&self, module: &str) -> Result<f32> {
        let r = self.rank_of(module)? as f32;
        Ok(self.alpha_of(module)? / if self.rank_stabilised { r.sqrt() } else { r })
    }

    /// New factors at a site.
    pub(super) fn factors(&self, store: &Store, site: &Site, init: [Init; 2]) -> Result<LowRank> {
        let (rank, scale) = (
            self.rank_of(site.module()?)?,
            self.scale_of(site.module()?)?,
        );
        let mut factors = LowRank::new(store, site, rank, scale, init)?;
        factors.dropout = self.dropout;
        Ok(factors)
    }

    /// What `adapter_config.json` says: patterns by the modules of these sites.
    pub(super) fn settings(&self, sites: &[Site]) -> Result<Map<String, Value>> {
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        for site in sites {
            let module = site.module()?;
            let (rank, alpha) = (self.rank_of(module)?, self.alpha_of(module)?);
            if rank != self.rank {
                ranks.insert(module.into(), json!(rank));
            }
            if alpha != self.alpha {
                alphas.insert(module.into(), decimal(alpha));
            }
        }
        let mut settings = Map::from_iter([
            ("peft_type".into(), json!("LORA")),
            ("r".into(), json!(self.rank)),
            ("lora_alpha".into(), decimal(self.alpha)),
            ("lora_dropout".into(), decimal(self.dropout)),
            ("use_rslora".into(), json!(self.rank_stabilised)),
        ]);
        for (key, pattern) in [("rank_pattern", ranks), ("alpha_pattern", alphas)] {
            if !pattern.is_empty() {
                settings.insert(key.into(), Value::Object(pattern));
            }
        }
        Ok(settings)
    }
}

fn first<T: Copy>(patterns: &[(Pattern, T)], module: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if pattern.matches(module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// A Kaiming-uniform (a = √5), B zero.
pub(super) const START: [Init; 2] = [Init::KaimingUniform(2.236_067_977_499_79), Init::ZEROS];

impl Method for Lora {
    fn name(&self) -> String {
        format!("lora r={}", self.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let sites = self.targets.of(store)?;
        let mut adapted = Adapted::new(store, heads, Value::Object(self.settings(&sites)?));
        for site in sites {
            let delta = self.factors(store, &site, START)?;
            adapted.add(&site, delta.shared(), delta.factors())?;
        }
        Ok(Box::new(adapted))
    }
}
