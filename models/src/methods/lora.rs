//! LoRA (Hu et al. 2022): `ΔW = (α/r)·B·A`, A `[r, n]` Kaiming-uniform (a = √5), B `[m, r]` zero.

use std::sync::Arc;

use deltaw_engine::prelude::*;

use super::{Attached, Method, block_linears, is_head};

/// A low-rank update on every linear of the blocks.
pub struct Lora {
    /// Rank r.
    pub rank: usize,
    /// Scale's numerator α.
    pub alpha: f32,
}

impl Lora {
    /// Rank `rank` with α = 2·rank.
    pub fn rank(rank: usize) -> Self {
        Lora {
            rank,
            alpha: 2.0 * rank as f32,
        }
    }
}

/// `scale·B·diag(λ)·A` on one site.
pub(crate) struct LowRank {
    pub lora_a: Param,
    pub lora_b: Param,
    pub lambda: Option<Param>,
    pub scale: f32,
}

impl Delta for LowRank {
    fn dense(&self, _: &Tensor) -> Result<Tensor> {
        let a = self.lora_a.tensor();
        let a = match &self.lambda {
            Some(lambda) => a.mul(&lambda.tensor().unsqueeze(1)?)?,
            None => a,
        };
        self.lora_b
            .tensor()
            .matmul(&a)?
            .affine(self.scale as f64, 0.0)
    }

    fn linear(
        &self,
        _: &Context,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let lambda = self.lambda.as_ref().map(Param::tensor);
        low_rank_linear(
            x,
            weight,
            bias,
            &self.lora_a.tensor(),
            &self.lora_b.tensor(),
            lambda.as_ref(),
            self.scale,
        )
    }
}

struct AttachedLora {
    parameters: usize,
}

impl Attached for AttachedLora {
    fn parameters(&self) -> usize {
        self.parameters
    }
}

impl Method for Lora {
    fn name(&self) -> String {
        format!("lora r={}", self.rank)
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
            let delta = LowRank {
                lora_a: path.param("lora_A", &[self.rank, n], Init::KaimingUniform(5f64.sqrt()))?,
                lora_b: path.param("lora_B", &[m, self.rank], Init::ZEROS)?,
                lambda: None,
                scale: self.alpha / self.rank as f32,
            };
            parameters += self.rank * (m + n);
            site.attach(Arc::new(delta))?;
        }
        Ok(Box::new(AttachedLora { parameters }))
    }
}
