//! RandLoRA (Albert et al. 2025): `ΔW = (α/r)·Σ_j B_j·Λ_j·A·Γ_j` of full rank, with fixed random A and B_j that are shared by the
//! whole model and trained diagonals ([`deltaw_engine::ops::random_basis`]). λ starts at 0, so that ΔW does, and γ at 1 over the
//! larger size of its parameter, as in PEFT. A smaller r means more terms, and more trained numbers.
//!
//! The bases are Philox numbers of the seed in place of PEFT's draws of PyTorch's generator, and are divided by their
//! distribution's deviation, not the sample's. Files hold λ and γ in PEFT's shapes; since PEFT makes other bases of a seed, an
//! adapter means the same here only.

use std::sync::Arc;

use deltaw_engine::ops::random_basis::{Bases, RandomBasis};
use deltaw_engine::prelude::*;
use serde_json::json;

use super::produced::Produced;
use super::{Adapted, Attached, Factor, Form, Method, Targets};

/// A sum of scaled random bases.
#[derive(Debug, Clone, PartialEq)]
pub struct RandLora {
    /// r of each term.
    pub rank: usize,
    /// Scale's numerator α.
    pub alpha: f32,
    /// Names the bases.
    pub seed: u64,
    /// Their distribution.
    pub bases: Bases,
    /// How many B_j differ, as in [`RandomBasis::distinct`]; all by default.
    pub distinct: usize,
    /// Which linears.
    pub targets: Targets,
}

impl RandLora {
    /// The paper's sparse bases: ±1 with probability 1/6 each, before they are divided by their deviation.
    pub const TERNARY: Bases = Bases::Ternary(3.0);

    /// Terms of rank `rank` with α = 20·rank, uniform bases, on every linear of the blocks.
    pub fn rank(rank: usize) -> Self {
        RandLora {
            rank,
            alpha: 20.0 * rank as f32,
            seed: 0,
            bases: Bases::Uniform,
            distinct: usize::MAX,
            targets: Targets::default(),
        }
    }
}

impl Method for RandLora {
    fn name(&self) -> String {
        let limited = match self.distinct {
            usize::MAX => String::new(),
            few => format!(", {few} bases"),
        };
        let sparse = match self.bases {
            Bases::Uniform => "",
            Bases::Ternary(_) => ", sparse",
        };
        format!("randlora r={}{limited}{sparse}", self.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let r = self.rank;
        if r == 0 {
            return Err(Error::Invalid(
                "randlora: terms of rank 0 change nothing; wanted at least 1".into(),
            ));
        }
        let producer = RandomBasis {
            rank: r,
            scale: self.alpha / r as f32,
            seed: self.seed,
            bases: self.bases,
            distinct: self.distinct,
        };
        let sites = self.targets.of(store)?;
        let settings = json!({
            "peft_type": "RANDLORA", "r": r, "randlora_alpha": self.alpha, "projection_prng_key": self.seed,
            "save_projection": false, "bases": self.bases, "distinct": self.distinct,
        });
        let mut adapted = Adapted::new(store, heads, settings);
        for site in sites {
            let (m, n) = (site.out_features()?, site.in_features()?);
            let (terms, small, path) = (producer.terms(m, n), m.min(n), store.at(site.path()));
            let start = Init::Constant(1.0 / terms.max(small) as f64);
            let lambda = path.param("randlora_lambda", &[r, terms], Init::ZEROS)?;
            let gamma = path.param("randlora_gamma", &[terms, small], start)?;
            let factors = vec![
                Factor::new("randlora_lambda", Form::Whole, &lambda),
                Factor::new("randlora_gamma", Form::Whole, &gamma),
            ];
            let delta = Produced {
                producer,
                params: vec![lambda, gamma],
            };
            adapted.add(&site, Arc::new(delta), factors)?;
        }
        Ok(Box::new(adapted))
    }
}
