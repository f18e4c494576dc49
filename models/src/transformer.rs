//! What encoder, decoder and ViT share: self-attention, the feed-forward, and the places where methods and dropout act.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cache::KeyValues;
use crate::layers::{FusedQkv, Linear};

/// The function between the two matrices of a feed-forward, under Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// GELU in its exact form.
    #[serde(rename = "gelu")]
    Gelu,
    /// GELU in GPT-2's tanh form.
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh")]
    GeluTanh,
    /// `x·σ(1.702x)`, CLIP's stand-in for GELU.
    #[serde(rename = "quick_gelu")]
    QuickGelu,
    /// `x·σ(x)`.
    #[serde(rename = "silu")]
    Silu,
    /// `max(x, 0)`.
    #[serde(rename = "relu")]
    Relu,
}

impl Activation {
    /// Elementwise.
    ///
    /// # Errors
    /// None but those of the device.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::Gelu => x.gelu(),
            Activation::GeluTanh => x.gelu_tanh(),
            Activation::QuickGelu => x.mul(&x.affine(1.702, 0.0)?.sigmoid()?),
            Activation::Silu => x.silu(),
            Activation::Relu => x.relu(),
        }
    }
}

/// An error unless `heads` divide `width` and `groups` divide `heads`.
pub(crate) fn check_heads(width: usize, heads: usize, groups: usize) -> Result<()> {
    let divides = |a: usize, b: usize| a > 0 && b.is_multiple_of(a);
    if divides(heads, width) && divides(groups, heads) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "a width of {width} with {heads} attention heads and {groups} of keys: the heads must divide the width, and those of keys the heads"
    )))
}

/// The three projections before attention.
pub enum Projections {
    /// Query, key and value by matrices of their own.
    Separate([Linear; 3]),
    /// By one matrix.
    Fused(FusedQkv),
}

/// Multi-head self-attention; keys and values may have fewer heads than queries (Ainslie et al. 2023).
pub struct SelfAttention {
    /// Query, key and value.
    pub projections: Projections,
    /// The projection of what the heads found.
    pub output: Linear,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values; divides [`SelfAttention::heads`].
    pub key_heads: usize,
    /// Whether position i sees positions up to i only.
    pub causal: bool,
}

impl SelfAttention {
    /// `[B, T, d] → [B, T, d]`; `ctx.mask` says which tokens are real.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(
        &self,
        ctx: &Context,
        x: &Tensor,
        rotation: Option<&Rotation>,
    ) -> Result<Tensor> {
        if let (Projections::Fused(qkv), None) = (&self.projections, rotation)
            && let Some(all) = qkv.packed(ctx, x)?
        {
            return self.packed(ctx, &all);
        }
        let [q, k, v] = self.heads(ctx, x, rotation)?;
        self.mixed(ctx, &q, &k, &v)
    }

    /// The same for tokens that follow those in `cache`, which their keys and values join; `ctx.mask` says which of all tokens
    /// are real.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn extend(
        &self,
        ctx: &Context,
        x: &Tensor,
        rotation: Option<&Rotation>,
        cache: &mut KeyValues,
    ) -> Result<Tensor> {
        let [q, k, v] = self.heads(ctx, x, rotation)?;
        let [k, v] = cache.extend([&k, &v])?;
        self.mixed(ctx, &q, &k, &v)
    }

    /// Queries `[B, H, T, D]`, keys and values, turned to their positions.
    fn heads(&self, ctx: &Context, x: &Tensor, rotation: Option<&Rotation>) -> Result<[Tensor; 3]> {
        let [q, k, v] = match &self.projections {
            Projections::Separate([q, k, v]) => {
                [q.forward(ctx, x)?, k.forward(ctx, x)?, v.forward(ctx, x)?]
            }
            Projections::Fused(qkv) => qkv.forward(ctx, x)?,
        };
        let (q, k, v) = (
            split(&q, self.heads)?,
            split(&k, self.key_heads)?,
            split(&v, self.key_heads)?,
        );
        Ok(match rotation {
            Some(rotation) => [rotation.rotate(&q)?, rotation.rotate(&k)?, v],
            None => [q, k, v],
        })
    }

    fn options(&self, ctx: &Context) -> AttentionOptions {
        AttentionOptions {
            causal: self.causal,
            mask: ctx.mask.clone(),
            ..Default::default()
        }
    }

    /// What the queries find, through the output projection: `[B, T, d]`.
    fn mixed(&self, ctx: &Context, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (options, repeat) = (self.options(ctx), self.heads / self.key_heads);
        let &[batch, _, len, width] = q.shape() else {
            return Err(Error::Invalid(format!(
                "attention: q is {:?}, wanted [B, H, T, D]",
                q.shape()
            )));
        };
        let mixed = if len == 1 && repeat > 1 {
            // The last token sees all: heads that share keys are as good as so many queries of one head, and nothing is repeated.
            let q = q.reshape(&[batch, self.key_heads, repeat, width])?;
            let options = AttentionOptions {
                causal: false,
                ..options
            };
            attention(&q, k, v, &options)?.reshape(&[batch, self.heads, 1, width])?
        } else {
            attention(q, &repeated(k, repeat)?, &repeated(v, repeat)?, &options)?
        };
        self.output.forward(ctx, &merge(&mixed)?)
    }

    /// From q, k and v side by side, `[B, T, 3d]`.
    fn packed(&self, ctx: &Context, all: &Tensor) -> Result<Tensor> {
        let &[batch, len, width] = all.shape() else {
            return Err(Error::Invalid(format!(
                "attention: q, k and v are {:?}, wanted [B, T, 3d]",
                all.shape()
            )));
        };
        let heads = [batch, len, 3, self.heads, width / 3 / self.heads];
        let mixed = attention_packed(&all.reshape(&heads)?, &self.options(ctx))?;
        self.output
            .forward(ctx, &mixed.reshape(&[batch, len, width / 3])?)
    }
}

/// `[B, T, H·D] → [B, H, T, D]`.
pub(crate) fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let &[batch, len, width] = x.shape() else {
        return Err(Error::Invalid(format!(
            "attention: x is {:?}, wanted [B, T, d]",
            x.shape()
        )));
    };
    x.reshape(&[batch, len, heads, width / heads])?
        .permute(&[0, 2, 1, 3])
}

/// `[B, H, T, D] → [B, T, H·D]`.
pub(crate) fn merge(heads: &Tensor) -> Result<Tensor> {
    let (batch, count, len, width) = (
        heads.shape()[0],
        heads.shape()[1],
        heads.shape()[2],
        heads.last_dim(),
    );
    heads
        .permute(&[0, 2, 1, 3])?
        .reshape(&[batch, len, count * width])
}

/// Each head of `[B, H, T, D]` `times` times in a row.
fn repeated(x: &Tensor, times: usize) -> Result<Tensor> {
    if times == 1 {
        return Ok(x.clone());
    }
    let (batch, heads, len, width) = (x.shape()[0], x.shape()[1], x.shape()[2], x.shape()[3]);
    x.reshape(&[batch, heads, 1, len, width])?
        .expand(&[batch, heads, times, len, width])?
        .reshape(&[batch, heads * times, len, width])
}

/// `down·f(up·x)`, or `down·(f(gate·x) ⊙ up·x)` with a gate (Shazeer 2020).
pub struct FeedForward {
    /// The first matrix.
    pub up: Linear,
    /// Its gate, if there is one.
    pub gate: Option<Linear>,
    /// The second matrix.
    pub down: Linear,
    /// f.
    pub activation: Activation,
}

impl FeedForward {
    /// `[…, d] → […, d]`.
    ///
    /// # Errors
    /// An x of another width.
    pub fn forward(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        let up = self.up.forward(ctx, x)?;
        let wide = match &self.gate {
            Some(gate) => self.activation.forward(&gate.forward(ctx, x)?)?.mul(&up)?,
            None => self.activation.forward(&up)?,
        };
        self.down.forward(ctx, &wide)
    }
}

/// Sizes of a bidirectional block's sub-layers.
pub(crate) struct SubLayers {
    /// Width `d`.
    pub width: usize,
    /// Width of the feed-forward.
    pub inner: usize,
    /// Attention heads; divides the width.
    pub heads: usize,
    /// Between the two matrices of the feed-forward.
    pub activation: Activation,
}

impl SubLayers {
    /// Both sub-layers under the names that BERT and ViT share; query, key and value lie below `projections`, where the two
    /// differ.
    pub(crate) fn build(
        &self,
        path: &Path,
        layer: usize,
        projections: &str,
    ) -> Result<(SelfAttention, FeedForward)> {
        let (d, inner) = (self.width, self.inner);
        let linear = |leaf: &str, role, inputs, outputs| {
            Linear::new(&path.at(leaf), role, layer, inputs, outputs)
        };
        let projection = |leaf, role| linear(&format!("{projections}.{leaf}"), role, d, d);
        let attention = SelfAttention {
            projections: Projections::Separate([
                projection("query", Role::Query)?,
                projection("key", Role::Key)?,
                projection("value", Role::Value)?,
            ]),
            output: linear("attention.output.dense", Role::AttentionOutput, d, d)?,
            heads: self.heads,
            key_heads: self.heads,
            causal: false,
        };
        let feed_forward = FeedForward {
            up: linear("intermediate.dense", Role::MlpUp, d, inner)?,
            gate: None,
            down: linear("output.dense", Role::MlpDown, inner, d)?,
            activation: self.activation,
        };
        Ok((attention, feed_forward))
    }
}

/// Where methods may change an output that is no linear's, and where dropout acts.
pub struct Place {
    site: Site,
    dropout: f32,
}

impl Place {
    /// The output of an embedding.
    pub fn embedding(path: &Path, dropout: f32) -> Self {
        Self::new(path, Role::Embedding, 0, dropout)
    }

    /// The output of a sub-layer, before it is added to the residual stream.
    pub fn sub_layer(path: &Path, layer: usize, dropout: f32) -> Self {
        Self::new(path, Role::SubLayer, layer, dropout)
    }

    fn new(path: &Path, role: Role, layer: usize, dropout: f32) -> Self {
        let site = Site::output(path.prefix(), role, layer);
        path.store().add_site(site.clone());
        Place { site, dropout }
    }

    /// The output `y` for the input `x`, as the methods at the site change it, after dropout.
    ///
    /// # Errors
    /// A wrap's own.
    pub fn finish(&self, ctx: &Context, x: &Tensor, y: Tensor) -> Result<Tensor> {
        let y = self.site.wrap(ctx, x, y)?;
        dropout(&y, self.dropout, ctx, self.site.path())
    }
}
