//! LoRA (Hu et al. 2022): `ΔW = s·B·A`, A `[r, n]` Kaiming-uniform (a = √5), B `[m, r]` zero, `s = α/r`, or `α/√r` in the
//! rank-stabilised form (Kalajdzievski 2023).

use deltaw_engine::prelude::*;
use serde_json::json;

use super::low_rank::LowRank;
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
            targets: Targets::default(),
        }
    }

    /// s.
    pub fn scale(&self) -> f32 {
        let r = self.rank as f32;
        self.alpha / if self.rank_stabilised { r.sqrt() } else { r }
    }
}

impl Method for Lora {
    fn name(&self) -> String {
        format!("lora r={}", self.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let settings = json!({
            "peft_type": "LORA", "r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout,
            "use_rslora": self.rank_stabilised,
        });
        let sites = self.targets.of(store)?;
        let mut adapted = Adapted::new(store, heads, settings);
        for site in sites {
            let init = [Init::KaimingUniform(5f64.sqrt()), Init::ZEROS];
            let mut delta = LowRank::new(store, &site, self.rank, self.scale(), init)?;
            delta.dropout = self.dropout;
            adapted.add(&site, delta.shared(), delta.factors())?;
        }
        Ok(Box::new(adapted))
    }
}
