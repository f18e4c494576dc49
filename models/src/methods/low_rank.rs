//! The low-rank update `ΔW = s·B·diag(λ)·A` that LoRA, AdaLoRA, DoRA and PiSSA share.

use std::sync::Arc;

use deltaw_engine::prelude::*;

use super::adapted::{Factor, Form};

/// `s·B·diag(λ)·A` on one site: A `[r, n]`, B `[m, r]`, λ `[r]` or none (ones).
#[derive(Clone)]
pub struct LowRank {
    /// A.
    pub lora_a: Param,
    /// B.
    pub lora_b: Param,
    /// λ.
    pub lambda: Option<Param>,
    /// s.
    pub scale: f32,
    /// Probability of dropping an element of x on its way through A, in training.
    pub dropout: f32,
}

impl LowRank {
    /// New factors `lora_A` and `lora_B` of `rank` at a site, without λ or dropout.
    ///
    /// # Errors
    /// No linear, a rank of 0, or names that are taken.
    pub fn new(
        store: &Store,
        site: &Site,
        rank: usize,
        scale: f32,
        init: [Init; 2],
    ) -> Result<Self> {
        if rank == 0 {
            return Err(Error::Invalid(format!(
                "{}: an update of rank 0 changes nothing; wanted at least 1",
                site.path()
            )));
        }
        let path = store.at(site.path());
        Ok(LowRank {
            lora_a: path.param("lora_A", &[rank, site.in_features()?], init[0])?,
            lora_b: path.param("lora_B", &[site.out_features()?, rank], init[1])?,
            lambda: None,
            scale,
            dropout: 0.0,
        })
    }

    /// Its parameters under LoRA's names in files.
    pub fn factors(&self) -> Vec<Factor> {
        vec![
            Factor::new("lora_A.weight", Form::Right, &self.lora_a),
            Factor::new("lora_B.weight", Form::Left, &self.lora_b),
        ]
    }

    /// For [`super::Adapted::add`].
    pub fn shared(&self) -> Arc<dyn Delta> {
        Arc::new(self.clone())
    }
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
        ctx: &Context,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        // The fused op takes one x and a frozen W.
        if (self.dropout > 0.0 && ctx.train) || weight.requires_grad() {
            return linear(x, weight, bias)?.add(&self.branch(ctx, x, weight)?);
        }
        let lambda = self.lambda.as_ref().map(Param::tensor);
        let (a, b) = (self.lora_a.tensor(), self.lora_b.tensor());
        low_rank_linear(x, weight, bias, &a, &b, lambda.as_ref(), self.scale)
    }

    /// `s·(x·Aᵀ ⊙ λ)·Bᵀ`: two thin products.
    fn branch(&self, ctx: &Context, x: &Tensor, _: &Tensor) -> Result<Tensor> {
        let x = dropout(x, self.dropout, ctx, self.lora_a.name())?;
        let h = linear(&x, &self.lora_a.tensor(), None)?.affine(self.scale as f64, 0.0)?;
        let h = match &self.lambda {
            Some(lambda) => h.mul(&lambda.tensor())?,
            None => h,
        };
        linear(&h, &self.lora_b.tensor(), None)
    }
}

/// `γ·mean ‖G − I‖_F` over Gram matrices: what AdaLoRA and TriAdaptLoRA add to the loss to keep their factors orthogonal.
pub(super) fn orthogonality(
    grams: impl Iterator<Item = Result<Tensor>>,
    gamma: f64,
) -> Result<Tensor> {
    let grams = grams.collect::<Result<Vec<Tensor>>>()?;
    let mut sizes: Vec<usize> = grams.iter().map(Tensor::last_dim).collect();
    sizes.sort_unstable();
    sizes.dedup();
    // Matrices of one size go through together: a GPU is asked once for all of them.
    let distances = |size: usize| {
        let same: Vec<&Tensor> = grams.iter().filter(|g| g.last_dim() == size).collect();
        let stacked = Tensor::stack(&same)?;
        let identity = Tensor::eye(size, stacked.device())?;
        stacked
            .sub(&identity)?
            .reshape(&[same.len(), size * size])?
            .norm()
    };
    let distances = sizes
        .into_iter()
        .map(distances)
        .collect::<Result<Vec<Tensor>>>()?;
    let all = Tensor::concat(&distances.iter().collect::<Vec<_>>(), 0)?;
    all.mean_all()?.affine(gamma, 0.0)
}
