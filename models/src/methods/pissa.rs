//! PiSSA (Meng et al. 2024): LoRA that starts from the base's largest singular triplets, `W = U·S·Vᵀ`, first r of each:
//!
//! ```text
//! B = U_r·√(S_r/s)      A = √(S_r/s)·V_rᵀ      W_res = W − s·B·A      s = α/r
//! ```
//!
//! The residual takes the base's place and is frozen, so that the model computes what it did (up to rounding); taking the
//! method off brings W back. Saved, the adapter belongs to the residual, which the same base gives again.

use deltaw_engine::linalg;
use deltaw_engine::prelude::*;
use serde_json::json;

use super::low_rank::LowRank;
use super::{Adapted, Attached, Method, Targets};

/// A low-rank update that starts from principal components.
#[derive(Debug, Clone, PartialEq)]
pub struct Pissa {
    /// Rank r.
    pub rank: usize,
    /// Scale's numerator α.
    pub alpha: f32,
    /// Which linears.
    pub targets: Targets,
}

impl Pissa {
    /// Rank `rank` with α = rank, as in the paper, on every linear of the blocks.
    pub fn rank(rank: usize) -> Self {
        Pissa {
            rank,
            alpha: rank as f32,
            targets: Targets::default(),
        }
    }
}

impl Method for Pissa {
    fn name(&self) -> String {
        format!("pissa r={}", self.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let settings = json!({ "peft_type": "LORA", "r": self.rank, "lora_alpha": self.alpha, "init_lora_weights": "pissa" });
        let sites = self.targets.of(store)?;
        let mut adapted = Adapted::new(store, heads, settings);
        for site in sites {
            let delta = LowRank::new(
                store,
                &site,
                self.rank,
                self.alpha / self.rank as f32,
                [Init::ZEROS; 2],
            )?;
            let residual = no_grad(|| self.split(&site, &delta))?;
            adapted.add_on(&site, &residual, delta.shared(), delta.factors())?;
        }
        Ok(Box::new(adapted))
    }
}

impl Pissa {
    /// Sets A and B and returns the residual.
    fn split(&self, site: &Site, delta: &LowRank) -> Result<Tensor> {
        let weight = site.weight()?.cast(DType::F32)?;
        let limit = site.in_features()?.min(site.out_features()?);
        if self.rank > limit {
            return Err(Error::Invalid(format!(
                "pissa: {} has {limit} singular values, rank {} wants more",
                site.path(),
                self.rank
            )));
        }
        let svd = linalg::svd(&weight)?;
        let root = svd
            .s
            .narrow(0, 0, self.rank)?
            .affine(1.0 / f64::from(delta.scale), 0.0)?
            .sqrt()?;
        delta
            .lora_b
            .set(svd.u.narrow(1, 0, self.rank)?.mul(&root)?)?;
        delta.lora_a.set(
            svd.v
                .narrow(1, 0, self.rank)?
                .t()?
                .mul(&root.unsqueeze(1)?)?,
        )?;
        weight.sub(&delta.dense(&weight)?)
    }
}
