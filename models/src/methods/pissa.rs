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

use super::lora::Lora;
use super::low_rank::LowRank;
use super::{Adapted, Attached, Method};

/// A low-rank update that starts from principal components.
#[derive(Debug, Clone, PartialEq)]
pub struct Pissa {
    /// Its factors' ranks, scales, dropout and places.
    pub lora: Lora,
}

impl Pissa {
    /// Rank `rank` with α = rank, as in the paper, on every linear of the blocks.
    pub fn rank(rank: usize) -> Self {
        let alpha = rank as f32;
        Pissa {
            lora: Lora {
                alpha,
                ..Lora::rank(rank)
            },
        }
    }
}

impl Method for Pissa {
    fn name(&self) -> String {
        format!("pissa r={}", self.lora.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let sites = self.lora.targets.of(store)?;
        let mut settings = self.lora.settings(&sites)?;
        settings.insert("init_lora_weights".into(), "pissa".into());
        let mut adapted = Adapted::new(store, heads, settings.into());
        for site in sites {
            let delta = self.lora.factors(store, &site, [Init::ZEROS; 2])?;
            let residual = no_grad(|| split(&site, &delta))?;
            adapted.add_on(&site, &residual, delta.shared(), delta.factors())?;
        }
        Ok(Box::new(adapted))
    }
}

/// Sets A and B and returns the residual.
fn split(site: &Site, delta: &LowRank) -> Result<Tensor> {
    let weight = site.weight()?.cast(DType::F32)?;
    let rank = delta.lora_a.shape()[0];
    let limit = site.in_features()?.min(site.out_features()?);
    if rank > limit {
        return Err(Error::Invalid(format!(
            "pissa: {} has {limit} singular values, rank {rank} wants more",
            site.path(),
        )));
    }
    if !(delta.scale > 0.0 && delta.scale.is_finite()) {
        return Err(Error::Invalid(format!(
            "pissa: a scale α/r of {}; wanted one above 0",
            delta.scale
        )));
    }
    let svd = linalg::svd(&weight)?;
    let root = svd
        .s
        .narrow(0, 0, rank)?
        .affine(1.0 / f64::from(delta.scale), 0.0)?
        .sqrt()?;
    let (left, right) = (svd.u.narrow(1, 0, rank)?, svd.v.narrow(1, 0, rank)?.t()?);
    delta.lora_b.set(left.mul(&root)?)?;
    delta.lora_a.set(right.mul(&root.unsqueeze(1)?)?)?;
    weight.sub(&delta.dense(&weight)?)
}
