//! DoRA (Liu et al. 2024): direction and magnitude apart. With `V = W + s·B·A`, `W′ = diag(g / ‖V‖_row)·V`, g `[m]` starting at
//! `‖W‖_row`, so that W′ = W at the start; `s = α/r`. As in the paper (§4.3) the norm is a constant for the gradient.

use std::sync::Arc;

use deltaw_engine::prelude::*;
use serde_json::json;

use super::low_rank::LowRank;
use super::{Adapted, Attached, Factor, Form, Method, Targets};

/// A weight-decomposed low-rank update.
#[derive(Debug, Clone, PartialEq)]
pub struct Dora {
    /// Rank r.
    pub rank: usize,
    /// Scale's numerator α.
    pub alpha: f32,
    /// Which linears.
    pub targets: Targets,
}

impl Dora {
    /// Rank `rank` with α = 2·rank on every linear of the blocks.
    pub fn rank(rank: usize) -> Self {
        Dora {
            rank,
            alpha: 2.0 * rank as f32,
            targets: Targets::default(),
        }
    }
}

/// `diag(g / ‖V‖)·V − W`.
struct Decomposed {
    low_rank: LowRank,
    magnitude: Param,
}

/// `‖·‖` of each row, `[m, 1]`.
fn row_norms(w: &Tensor) -> Result<Tensor> {
    w.square()?.sum_keep(&[1])?.sqrt()
}

impl Decomposed {
    /// W′.
    fn whole(&self, weight: &Tensor) -> Result<Tensor> {
        let direction = weight
            .cast(DType::F32)?
            .add(&self.low_rank.dense(weight)?)?;
        let norm = no_grad(|| row_norms(&direction))?;
        direction.mul(&self.magnitude.tensor().unsqueeze(1)?.div(&norm)?)
    }
}

impl Delta for Decomposed {
    fn dense(&self, weight: &Tensor) -> Result<Tensor> {
        self.whole(weight)?.sub(&weight.cast(DType::F32)?)
    }

    fn linear(
        &self,
        _: &Context,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        linear(x, &self.whole(weight)?, bias)
    }
}

impl Method for Dora {
    fn name(&self) -> String {
        format!("dora r={}", self.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let settings = json!({ "peft_type": "LORA", "r": self.rank, "lora_alpha": self.alpha, "use_dora": true });
        let sites = self.targets.of(store)?;
        let mut adapted = Adapted::new(store, heads, settings);
        for site in sites {
            let init = [Init::KaimingUniform(5f64.sqrt()), Init::ZEROS];
            let low_rank =
                LowRank::new(store, &site, self.rank, self.alpha / self.rank as f32, init)?;
            let path = store.at(site.path());
            let magnitude = path.param(
                "lora_magnitude_vector",
                &[site.out_features()?],
                Init::ZEROS,
            )?;
            magnitude.set(no_grad(|| {
                row_norms(&site.weight()?.cast(DType::F32)?)?.squeeze(1)
            })?)?;
            let mut factors = low_rank.factors();
            factors.push(Factor::new("lora_magnitude_vector", Form::Rows, &magnitude));
            adapted.add(
                &site,
                Arc::new(Decomposed {
                    low_rank,
                    magnitude,
                }),
                factors,
            )?;
        }
        Ok(Box::new(adapted))
    }
}
