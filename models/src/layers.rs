//! Layers: plain structs over the parameter store, under the names of Hugging Face checkpoints.

use deltaw_engine::prelude::*;

/// `y = x·Wᵀ + b` at a site that methods may adapt. Parameters `weight` `[out, in]` and `bias` `[out]`.
pub struct Linear {
    site: Site,
}

impl Linear {
    /// Weights from N(0, 0.02²), bias 0.
    pub fn new(
        path: &Path,
        role: Role,
        layer: usize,
        in_features: usize,
        out_features: usize,
    ) -> Result<Self> {
        let weight = path.param("weight", &[out_features, in_features], Init::Normal(0.02))?;
        let bias = path.param("bias", &[out_features], Init::ZEROS)?;
        let site = Site::linear(path.prefix(), role, layer, &weight, Some(&bias));
        path.store().add_site(site.clone());
        Ok(Linear { site })
    }

    /// `[…, in] → […, out]`, with the site's updates.
    pub fn forward(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        self.site.forward(ctx, x)
    }
}

/// Layer norm over the last axis with gain `weight` and shift `bias`.
pub struct LayerNorm {
    weight: Param,
    bias: Param,
    eps: f32,
}

impl LayerNorm {
    /// Gain 1, shift 0.
    pub fn new(path: &Path, features: usize, eps: f32) -> Result<Self> {
        Ok(LayerNorm {
            weight: path.param("weight", &[features], Init::ONES)?,
            bias: path.param("bias", &[features], Init::ZEROS)?,
            eps,
        })
    }

    /// Same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight.tensor(), &self.bias.tensor(), self.eps)
    }
}

/// A table of vectors, `weight` `[entries, features]`.
pub struct Embedding {
    weight: Param,
}

impl Embedding {
    /// From N(0, 0.02²).
    pub fn new(path: &Path, entries: usize, features: usize) -> Result<Self> {
        Ok(Embedding {
            weight: path.param("weight", &[entries, features], Init::Normal(0.02))?,
        })
    }

    /// `[…]` u32 indices to `[…, features]`.
    pub fn forward(&self, index: &Tensor) -> Result<Tensor> {
        self.weight.tensor().gather_rows(index)
    }

    /// The table, for a head that shares it.
    pub fn table(&self) -> Tensor {
        self.weight.tensor()
    }
}
