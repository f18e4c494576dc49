//! SVDiff (Han et al. 2023): spectral shifts. With `W = U·diag(σ)·Vᵀ`, `W′ = U·diag(ReLU(σ + δ))·Vᵀ`; δ, a number per singular
//! value, starts at 0.

use std::sync::Arc;

use deltaw_engine::linalg::{self, Svd};
use deltaw_engine::prelude::*;
use serde_json::json;

use super::{Adapted, Attached, Factor, Form, Method, Targets};

/// Shifted singular values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SvDiff {
    /// Which linears.
    pub targets: Targets,
}

/// `U·diag(ReLU(σ + δ) − σ)·Vᵀ`.
struct Shifted {
    svd: Svd,
    shift: Param,
}

impl Delta for Shifted {
    fn dense(&self, _: &Tensor) -> Result<Tensor> {
        let Svd { u, s, v } = &self.svd;
        let change = s.add(&self.shift.tensor())?.relu()?.sub(s)?;
        u.mul(&change)?.matmul(&v.t()?)
    }
}

impl Method for SvDiff {
    fn name(&self) -> String {
        "svdiff".into()
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let sites = self.targets.of(store)?;
        let mut adapted = Adapted::new(store, heads, json!({ "peft_type": "SVDIFF" }));
        for site in sites {
            let svd = no_grad(|| linalg::svd(&site.weight()?.cast(DType::F32)?))?;
            let shift =
                (store.at(site.path())).param("spectral_shift", svd.s.shape(), Init::ZEROS)?;
            let factors = vec![Factor::new("spectral_shift", Form::Whole, &shift)];
            adapted.add(&site, Arc::new(Shifted { svd, shift }), factors)?;
        }
        Ok(Box::new(adapted))
    }
}
