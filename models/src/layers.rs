//! Layers: plain structs over the parameter store, under the names of Hugging Face checkpoints.

use deltaw_engine::prelude::*;

use crate::components::{Components, Partition};

/// Standard deviation of new weights in every model of the family.
const STD: f64 = 0.02;

/// `y = x·Wᵀ + b`. Parameters `weight` `[out, in]` and `bias` `[out]` at a site that methods may adapt; or a W in
/// [`Components`], of which each sample takes its own.
pub struct Linear(Map);

enum Map {
    Dense(Site),
    Gated(Components),
}

impl Linear {
    /// Weights from N(0, 0.02²), bias 0.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn new(
        path: &Path,
        role: Role,
        layer: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        Self::with_init(path, role, layer, inputs, outputs, Init::Normal(STD))
    }

    /// Weights as `init` says, bias 0.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn with_init(
        path: &Path,
        role: Role,
        layer: usize,
        inputs: usize,
        outputs: usize,
        init: Init,
    ) -> Result<Self> {
        let weight = path.param("weight", &[outputs, inputs], init)?;
        let bias = path.param("bias", &[outputs], Init::ZEROS)?;
        Ok(Self::at(
            path,
            Site::linear(path.prefix(), role, layer, &weight, Some(&bias)),
        ))
    }

    /// A weight in components, bias 0.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn gated(
        path: &Path,
        inputs: usize,
        outputs: usize,
        partition: &Partition,
    ) -> Result<Self> {
        let components = Components::new(path, inputs, outputs, partition)?;
        Ok(Linear(Map::Gated(components)))
    }

    /// The same without a bias, as in LLaMA.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn no_bias(
        path: &Path,
        role: Role,
        layer: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        let weight = path.param("weight", &[outputs, inputs], Init::Normal(STD))?;
        Ok(Self::at(
            path,
            Site::linear(path.prefix(), role, layer, &weight, None),
        ))
    }

    /// GPT-2's `Conv1D`: the same map with `weight` stored as `[in, out]`, from N(0, std²).
    ///
    /// # Errors
    /// Names that are taken.
    pub fn conv1d(
        path: &Path,
        role: Role,
        layer: usize,
        inputs: usize,
        outputs: usize,
        std: f64,
    ) -> Result<Self> {
        let weight = path.param("weight", &[inputs, outputs], Init::Normal(std))?;
        let bias = path.param("bias", &[outputs], Init::ZEROS)?;
        let site = Site::part_of(
            path.prefix(),
            role,
            layer,
            &weight,
            Some(&bias),
            0..outputs,
            true,
        );
        Ok(Self::at(path, site))
    }

    /// A convolution whose stride is its kernel, as a linear over flattened patches `[…, C·p·p]`: `weight` `[d, C, p, p]`.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn patches(path: &Path, kernel: [usize; 4]) -> Result<Self> {
        let bias = path.param("bias", &kernel[..1], Init::ZEROS)?;
        Self::flattened(path, kernel, Some(&bias))
    }

    /// The same without a bias, as in CLIP.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn patches_no_bias(path: &Path, kernel: [usize; 4]) -> Result<Self> {
        Self::flattened(path, kernel, None)
    }

    fn flattened(path: &Path, kernel: [usize; 4], bias: Option<&Param>) -> Result<Self> {
        let weight = path.param("weight", &kernel, Init::Normal(STD))?;
        let site = Site::linear(path.prefix(), Role::Other, 0, &weight, bias);
        Ok(Self::at(path, site))
    }

    fn at(path: &Path, site: Site) -> Self {
        path.store().add_site(site.clone());
        Linear(Map::Dense(site))
    }

    /// `[…, in] → […, out]`, with the site's updates; of components, those that `ctx.gate` opens.
    ///
    /// # Errors
    /// An x of other than `in` features.
    pub fn forward(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Map::Dense(site) => site.forward(ctx, x),
            Map::Gated(components) => components.forward(ctx, x),
        }
    }
}

/// Images `[B, C, H, W]` cut into squares of `p` by `p` pixels, `[B, patches, C·p²]`, row by row: what
/// [`Linear::patches`] takes.
///
/// # Errors
/// Images that p does not divide.
pub fn cut(pixels: &Tensor, p: usize) -> Result<Tensor> {
    let &[batch, channels, height, width] = pixels.shape() else {
        let detail = format!("pixels are {:?}, wanted [B, C, H, W]", pixels.shape());
        return Err(Error::Invalid(detail));
    };
    if p == 0 || !height.is_multiple_of(p) || !width.is_multiple_of(p) {
        let detail = format!("images of {height}×{width} do not divide into patches of {p}×{p}");
        return Err(Error::Invalid(detail));
    }
    let (down, across) = (height / p, width / p);
    pixels
        .reshape(&[batch, channels, down, p, across, p])?
        .permute(&[0, 2, 4, 1, 3, 5])?
        .reshape(&[batch, down * across, channels * p * p])
}

/// Query, key and value in one matrix, GPT-2's `c_attn`: `weight` `[in, 3·out]`, `bias` `[3·out]`, and three sites
/// `query`, `key` and `value` below its path, each a third of the columns.
pub struct FusedQkv {
    whole: Site,
    parts: [Site; 3],
}

impl FusedQkv {
    /// Weights from N(0, 0.02²), bias 0.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn new(path: &Path, layer: usize, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = path.param("weight", &[inputs, 3 * outputs], Init::Normal(STD))?;
        let bias = path.param("bias", &[3 * outputs], Init::ZEROS)?;
        let site = |name: String, role, rows| {
            Site::part_of(&name, role, layer, &weight, Some(&bias), rows, true)
        };
        let third = |i: usize, leaf: &str, role| {
            site(path.name(leaf), role, i * outputs..(i + 1) * outputs)
        };
        let parts = [
            third(0, "query", Role::Query),
            third(1, "key", Role::Key),
            third(2, "value", Role::Value),
        ];
        parts
            .iter()
            .for_each(|part| path.store().add_site(part.clone()));
        Ok(FusedQkv {
            whole: site(path.prefix().into(), Role::Other, 0..3 * outputs),
            parts,
        })
    }

    /// `[…, in]` to q, k and v side by side, `[…, 3·out]`, in one product; None while a part is adapted.
    ///
    /// # Errors
    /// An x of other than `in` features.
    pub fn packed(&self, ctx: &Context, x: &Tensor) -> Result<Option<Tensor>> {
        let adapted = self.parts.iter().any(Site::is_adapted);
        (!adapted).then(|| self.whole.forward(ctx, x)).transpose()
    }

    /// `[…, in]` to q, k and v, each `[…, out]`, with the updates of each.
    ///
    /// # Errors
    /// An x of other than `in` features.
    pub fn forward(&self, ctx: &Context, x: &Tensor) -> Result<[Tensor; 3]> {
        let [q, k, v] = &self.parts;
        Ok([q.forward(ctx, x)?, k.forward(ctx, x)?, v.forward(ctx, x)?])
    }
}

/// A norm over the last axis.
pub enum Norm {
    /// `g ⊙ (x − mean)/√(var + ε) + b` (Ba et al. 2016), with gain `weight` and shift `bias`.
    Layer {
        /// g, `[n]`.
        weight: Param,
        /// b, `[n]`.
        bias: Param,
        /// ε.
        eps: f32,
    },
    /// `g ⊙ x/√(mean x² + ε)` (Zhang & Sennrich 2019), with gain `weight`.
    Rms {
        /// g, `[n]`.
        weight: Param,
        /// ε.
        eps: f32,
    },
}

impl Norm {
    /// Layer norm with gain 1 and shift 0.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn layer(path: &Path, features: usize, eps: f32) -> Result<Self> {
        let (weight, bias) = (
            path.param("weight", &[features], Init::ONES)?,
            path.param("bias", &[features], Init::ZEROS)?,
        );
        Ok(Norm::Layer { weight, bias, eps })
    }

    /// RMS norm with gain 1.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn rms(path: &Path, features: usize, eps: f32) -> Result<Self> {
        Ok(Norm::Rms {
            weight: path.param("weight", &[features], Init::ONES)?,
            eps,
        })
    }

    /// Same shape.
    ///
    /// # Errors
    /// An x of other than `n` features.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Norm::Layer { weight, bias, eps } => {
                layer_norm(x, &weight.tensor(), &bias.tensor(), *eps)
            }
            Norm::Rms { weight, eps } => rms_norm(x, &weight.tensor(), *eps),
        }
    }
}

/// A table of vectors, `weight` `[entries, features]`.
pub struct Embedding {
    weight: Param,
}

impl Embedding {
    /// From N(0, 0.02²).
    ///
    /// # Errors
    /// Names that are taken.
    pub fn new(path: &Path, entries: usize, features: usize) -> Result<Self> {
        Ok(Embedding {
            weight: path.param("weight", &[entries, features], Init::Normal(STD))?,
        })
    }

    /// `[…]` u32 indices to `[…, features]`.
    ///
    /// # Errors
    /// An index out of range.
    pub fn forward(&self, index: &Tensor) -> Result<Tensor> {
        self.weight.tensor().gather_rows(index)
    }

    /// The table, for a head that shares it.
    pub fn table(&self) -> Tensor {
        self.weight.tensor()
    }
}
