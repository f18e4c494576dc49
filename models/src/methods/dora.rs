//! DoRA (Liu et al. 2024): direction and magnitude apart. With `V = W + s·B·A`, `W′ = diag(g / ‖V‖_row)·V`, g `[m]` starting at
//! `‖W‖_row`, so that W′ = W at the start; `s = α/r`. As in the paper (§4.3) the norm is a constant for the gradient.

use std::sync::Arc;

use deltaw_engine::prelude::*;

use super::lora::{Lora, START};
use super::low_rank::LowRank;
use super::{Adapted, Attached, Factor, Form, Method};

/// A weight-decomposed low-rank update.
#[derive(Debug, Clone, PartialEq)]
pub struct Dora {
    /// Its factors' ranks, scales, dropout and places. In training, dropout acts on the input of everything but W·x, as in
    /// PEFT: `y = W·x + (g/‖V‖ − 1) ⊙ W·x̃ + (g/‖V‖) ⊙ s·B·A·x̃`.
    pub lora: Lora,
}

impl Dora {
    /// Rank `rank` with α = 2·rank on every linear of the blocks.
    pub fn rank(rank: usize) -> Self {
        Dora {
            lora: Lora::rank(rank),
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
    /// V, and `g/‖V‖` `[m, 1]`.
    fn direction(&self, weight: &Tensor) -> Result<[Tensor; 2]> {
        let direction = weight
            .cast(DType::F32)?
            .add(&self.low_rank.dense(weight)?)?;
        let norm = no_grad(|| row_norms(&direction))?;
        let ratio = self.magnitude.tensor().unsqueeze(1)?.div(&norm)?;
        Ok([direction, ratio])
    }

    /// W′.
    fn whole(&self, weight: &Tensor) -> Result<Tensor> {
        let [direction, ratio] = self.direction(weight)?;
        direction.mul(&ratio)
    }
}

impl Delta for Decomposed {
    fn dense(&self, weight: &Tensor) -> Result<Tensor> {
        self.whole(weight)?.sub(&weight.cast(DType::F32)?)
    }

    fn linear(
        &self,
        ctx: &Context,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        if self.low_rank.dropout > 0.0 && ctx.train {
            return linear(x, weight, bias)?.add(&self.branch(ctx, x, weight)?);
        }
        linear(x, &self.whole(weight)?, bias)
    }

    fn branch(&self, ctx: &Context, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let ratio = self.direction(weight)?[1].squeeze(1)?;
        // The same elements of x as on the way through A.
        let dropped = dropout(x, self.low_rank.dropout, ctx, self.low_rank.lora_a.name())?;
        let base = linear(&dropped, weight, None)?.mul(&ratio.affine(1.0, -1.0)?)?;
        base.add(&self.low_rank.branch(ctx, x, weight)?.mul(&ratio)?)
    }
}

impl Method for Dora {
    fn name(&self) -> String {
        format!("dora r={}", self.lora.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let sites = self.lora.targets.of(store)?;
        let mut settings = self.lora.settings(&sites)?;
        settings.insert("use_dora".into(), true.into());
        let mut adapted = Adapted::new(store, heads, settings.into());
        for site in sites {
            let low_rank = self.lora.factors(store, &site, START)?;
            let magnitude = store.at(site.path()).param(
                "lora_magnitude_vector",
                &[site.out_features()?],
                Init::ZEROS,
            )?;
            magnitude.set(no_grad(|| {
                row_norms(&site.weight()?.cast(DType::F32)?)?.squeeze(1)
            })?)?;
            let mut factors = low_rank.factors();
            factors.push(Factor::new("lora_magnitude_vector", Form::Rows, &magnitude));
            let delta = Decomposed {
                low_rank,
                magnitude,
            };
            adapted.add(&site, Arc::new(delta), factors)?;
        }
        Ok(Box::new(adapted))
    }
}
