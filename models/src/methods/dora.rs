//! DoRA (Liu et al. 2024): direction and magnitude apart. With `V = W + (α/r)·B·A`,
//! `W′ = diag(g)·V / ‖V‖_row`, g `[m]` starting at `‖W‖_row`, so that W′ = W at the start.
//! As in the paper (§4.3) the norm is a constant for the gradient.

use std::sync::Arc;

use deltaw_engine::prelude::*;

use super::lora::LowRank;
use super::{Attached, Method, block_linears, is_head};

/// A weight-decomposed low-rank update on every linear of the blocks.
pub struct Dora {
    /// Rank r.
    pub rank: usize,
    /// Scale's numerator α.
    pub alpha: f32,
}

impl Dora {
    /// Rank `rank` with α = 2·rank.
    pub fn rank(rank: usize) -> Self {
        Dora {
            rank,
            alpha: 2.0 * rank as f32,
        }
    }
}

struct Decomposed {
    low_rank: LowRank,
    magnitude: Param,
}

fn row_norms(w: &Tensor) -> Result<Tensor> {
    w.square()?.sum_keep(&[1])?.sqrt()
}

impl Delta for Decomposed {
    fn dense(&self, weight: &Tensor) -> Result<Tensor> {
        let direction = weight.add(&self.low_rank.dense(weight)?)?;
        let gain = self
            .magnitude
            .tensor()
            .unsqueeze(1)?
            .div(&no_grad(|| row_norms(&direction.detach()))?)?;
        direction.mul(&gain)?.sub(weight)
    }
}

struct AttachedDora {
    parameters: usize,
}

impl Attached for AttachedDora {
    fn parameters(&self) -> usize {
        self.parameters
    }
}

impl Method for Dora {
    fn name(&self) -> String {
        format!("dora r={}", self.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        store.train_only(|name| is_head(name, heads));
        let mut parameters = 0;
        for site in block_linears(store)? {
            let (path, m, n) = (
                store.at(site.path()),
                site.out_features()?,
                site.in_features()?,
            );
            let magnitude = path.param("lora_magnitude_vector", &[m], Init::ZEROS)?;
            magnitude.set(no_grad(|| row_norms(&site.weight()?)?.squeeze(1))?.deep_clone()?)?;
            let low_rank = LowRank {
                lora_a: path.param("lora_A", &[self.rank, n], Init::KaimingUniform(5f64.sqrt()))?,
                lora_b: path.param("lora_B", &[m, self.rank], Init::ZEROS)?,
                lambda: None,
                scale: self.alpha / self.rank as f32,
            };
            parameters += self.rank * (m + n) + m;
            site.attach(Arc::new(Decomposed {
                low_rank,
                magnitude,
            }))?;
        }
        Ok(Box::new(AttachedDora { parameters }))
    }
}
