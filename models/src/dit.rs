//! The diffusion transformer with adaLN-Zero (Peebles & Xie 2023); the parameter names are those of diffusers'
//! `DiTTransformer2DModel`.
//!
//! ```text
//! c = MLP(sinusoids of t) + embedding of the class
//! (β₁, γ₁, α₁, β₂, γ₂, α₂) = linear(SiLU(c))                    in every block
//! x ← x + α₁ ⊙ attention(norm(x) ⊙ (1 + γ₁) + β₁);  x ← x + α₂ ⊙ mlp(norm(x) ⊙ (1 + γ₂) + β₂)
//! ```

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use deltaw_engine::checkpoint::Checkpoint;

use crate::components::Partition;
use crate::hub::Config;
use crate::layers::{Embedding, Linear, cut};
use crate::transformer::{Activation, FeedForward, Projections, SelfAttention, check_heads};

/// Sinusoids of a time step.
const TIME_FEATURES: usize = 256;
/// Height and width of the largest sample that a checkpoint may be for.
const LARGEST_SAMPLE: usize = 512;
/// ε of the norms before attention and before the output.
const EPS: f32 = 1e-6;

/// Sizes of a DiT, under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DitConfig {
    /// Height and width of a sample.
    pub sample_size: usize,
    /// Height and width of a patch; divides the sample's.
    pub patch_size: usize,
    /// Channels of a sample.
    pub in_channels: usize,
    /// Channels of the output: those of a sample, or twice as many where the variance is learned.
    pub out_channels: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Heads per block.
    pub num_attention_heads: usize,
    /// Width of a head.
    pub attention_head_dim: usize,
    /// Classes; one label more stands for none.
    pub num_embeds_ada_norm: usize,
    /// ε of the norm before the feed-forward.
    pub norm_eps: f32,
}

impl DitConfig {
    /// Square images of `channels`, heads of width 32, a fixed variance.
    pub fn small(
        sample_size: usize,
        patch_size: usize,
        channels: usize,
        width: usize,
        layers: usize,
        classes: usize,
    ) -> Self {
        DitConfig {
            sample_size,
            patch_size,
            in_channels: channels,
            out_channels: channels,
            num_layers: layers,
            num_attention_heads: width / 32,
            attention_head_dim: 32,
            num_embeds_ada_norm: classes,
            norm_eps: 1e-5,
        }
    }

    /// Of diffusers' `config.json`.
    ///
    /// # Errors
    /// A field that is missing or absurd, or a variant that the model here has not.
    pub fn from_diffusers(config: &Config) -> Result<Self> {
        config.only("activation_fn", "gelu-approximate")?;
        config.only("attention_bias", true)?;
        config.only("norm_type", "ada_norm_zero")?;
        config.only("norm_elementwise_affine", false)?;
        let size = |name| config.size(&[name]);
        let sizes = DitConfig {
            sample_size: size("sample_size")?,
            patch_size: size("patch_size")?,
            in_channels: size("in_channels")?,
            out_channels: config.size(&["out_channels", "in_channels"])?,
            num_layers: size("num_layers")?,
            num_attention_heads: size("num_attention_heads")?,
            attention_head_dim: size("attention_head_dim")?,
            num_embeds_ada_norm: size("num_embeds_ada_norm")?,
            norm_eps: config.number("norm_eps")?.unwrap_or(1e-5) as f32,
        };
        // Positions are computed, so that no tensor's shape bounds them.
        match sizes.sample_size <= LARGEST_SAMPLE {
            true => Ok(sizes),
            false => Err(config.refuse(
                "sample_size",
                format!("is {}; wanted at most {LARGEST_SAMPLE}", sizes.sample_size),
            )),
        }
    }

    /// Width d of a token.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Tokens of a sample.
    pub fn tokens(&self) -> usize {
        (self.sample_size / self.patch_size.max(1)).pow(2)
    }

    /// Multiplications for one sample: the linears and attention's two products; in components, the active ones'.
    pub fn macs(&self, partition: Option<&Partition>) -> usize {
        let (d, tokens) = (self.width(), self.tokens());
        let pixels = self.patch_size.pow(2);
        let matrix = |(m, n)| partition.map_or(m * n, |p| p.macs(m, n));
        let matrices: usize = self.matrices().into_iter().map(matrix).sum();
        let block = tokens * matrices + 2 * tokens * tokens * d + 6 * d * d;
        let ends = tokens * pixels * (self.in_channels + self.out_channels) * d;
        TIME_FEATURES * d + d * d + self.num_layers * block + 2 * d * d + ends
    }

    /// The six matrices of a block that methods decompose or adapt, as (out, in).
    pub fn matrices(&self) -> [(usize, usize); 6] {
        let d = self.width();
        [(d, d), (d, d), (d, d), (d, d), (4 * d, d), (d, 4 * d)]
    }
}

/// Timestep and class to a vector that steers all blocks.
struct Conditioning {
    linear_1: Linear,
    linear_2: Linear,
    classes: Embedding,
}

impl Conditioning {
    fn new(path: &Path, config: &DitConfig) -> Result<Self> {
        let (time, d) = (path.at("timestep_embedder"), config.width());
        let linear = |leaf, inputs| Linear::new(&time.at(leaf), Role::Other, 0, inputs, d);
        let entries = config.num_embeds_ada_norm + 1;
        Ok(Conditioning {
            linear_1: linear("linear_1", TIME_FEATURES)?,
            linear_2: linear("linear_2", d)?,
            classes: Embedding::new(&path.at("class_embedder.embedding_table"), entries, d)?,
        })
    }

    /// SiLU of the vector, `[B, 1, d]`: every use begins with it.
    fn forward(&self, ctx: &Context, t: &[f32], labels: &Tensor) -> Result<Tensor> {
        let t = sinusoids(t, labels.device())?;
        let t = self.linear_1.forward(ctx, &t)?.silu()?;
        let c = self
            .linear_2
            .forward(ctx, &t)?
            .add(&self.classes.forward(labels)?)?;
        c.silu()?.unsqueeze(1)
    }
}

/// `[cos(t·ωᵢ), sin(t·ωᵢ)]` with ωᵢ = 10000^(−i/127), `[B, 256]`.
fn sinusoids(t: &[f32], device: &Device) -> Result<Tensor> {
    let half = TIME_FEATURES / 2;
    let mut out = Vec::with_capacity(t.len() * TIME_FEATURES);
    for t in t {
        let angle = |i: usize| f64::from(*t) * 10_000f64.powf(-(i as f64) / (half - 1) as f64);
        out.extend((0..half).map(|i| angle(i).cos() as f32));
        out.extend((0..half).map(|i| angle(i).sin() as f32));
    }
    Tensor::from_slice(&out, &[t.len(), TIME_FEATURES], device)
}

/// Fixed positions of a square grid, `[1, side², d]`: sines and cosines of the column in the first half, of the row in the
/// second.
fn positions(side: usize, d: usize, device: &Device) -> Result<Tensor> {
    let quarter = d / 4;
    let mut out = Vec::with_capacity(side * side * d);
    for (row, column) in (0..side * side).map(|i| (i / side, i % side)) {
        for place in [column, row] {
            let angle = |i: usize| place as f64 * 10_000f64.powf(-(i as f64) / quarter as f64);
            out.extend((0..quarter).map(|i| angle(i).sin() as f32));
            out.extend((0..quarter).map(|i| angle(i).cos() as f32));
        }
    }
    Tensor::from_slice(&out, &[1, side * side, d], device)
}

/// A norm without gain and shift, and then the condition's.
struct Modulated {
    ones: Tensor,
    zeros: Tensor,
    eps: f32,
}

impl Modulated {
    fn new(d: usize, eps: f32, device: &Device) -> Result<Self> {
        Ok(Modulated {
            ones: Tensor::full(&[d], 1.0, DType::F32, device)?,
            zeros: Tensor::zeros(&[d], DType::F32, device)?,
            eps,
        })
    }

    /// `norm(x) ⊙ (1 + scale) + shift`.
    fn forward(&self, x: &Tensor, shift: &Tensor, scale: &Tensor) -> Result<Tensor> {
        let normed = layer_norm(x, &self.ones, &self.zeros, self.eps)?;
        normed.mul(&scale.affine(1.0, 1.0)?)?.add(shift)
    }
}

struct Block {
    path: String,
    modulation: Linear,
    attention_norm: Modulated,
    attention: SelfAttention,
    feed_forward_norm: Modulated,
    feed_forward: FeedForward,
}

impl Block {
    fn new(
        path: &Path,
        layer: usize,
        config: &DitConfig,
        partition: Option<&Partition>,
    ) -> Result<Self> {
        let (d, device) = (config.width(), path.device());
        let linear = |leaf: &str, role, inputs, outputs| match partition {
            Some(partition) => Linear::gated(&path.at(leaf), inputs, outputs, partition),
            None => {
                let init = Init::XavierUniform;
                Linear::with_init(&path.at(leaf), role, layer, inputs, outputs, init)
            }
        };
        Ok(Block {
            path: path.prefix().into(),
            // α = 0 at the start: every block begins as the identity.
            modulation: zeros(&path.at("norm1.linear"), layer, d, 6 * d)?,
            attention_norm: Modulated::new(d, EPS, device)?,
            attention: SelfAttention {
                projections: Projections::Separate([
                    linear("attn1.to_q", Role::Query, d, d)?,
                    linear("attn1.to_k", Role::Key, d, d)?,
                    linear("attn1.to_v", Role::Value, d, d)?,
                ]),
                output: linear("attn1.to_out.0", Role::AttentionOutput, d, d)?,
                heads: config.num_attention_heads,
                key_heads: config.num_attention_heads,
                causal: false,
            },
            feed_forward_norm: Modulated::new(d, config.norm_eps, device)?,
            feed_forward: FeedForward {
                up: linear("ff.net.0.proj", Role::MlpUp, d, 4 * d)?,
                gate: None,
                down: linear("ff.net.2", Role::MlpDown, 4 * d, d)?,
                activation: Activation::GeluTanh,
            },
        })
    }

    fn forward(&self, ctx: &Context, x: &Tensor, condition: &Tensor) -> Result<Tensor> {
        let parts = self.modulation.forward(ctx, condition)?.chunk(6, 2)?;
        let normed = self.attention_norm.forward(x, &parts[0], &parts[1])?;
        let y = self.attention.forward(ctx, &normed, None)?;
        let x = x.add(&y.mul(&parts[2])?)?;
        let normed = self.feed_forward_norm.forward(&x, &parts[3], &parts[4])?;
        let y = self.feed_forward.forward(ctx, &normed)?;
        let x = x.add(&y.mul(&parts[5])?)?;
        ctx.tap(&self.path, &x);
        Ok(x)
    }
}

/// A linear that gives 0 at the start.
fn zeros(path: &Path, layer: usize, inputs: usize, outputs: usize) -> Result<Linear> {
    Linear::with_init(path, Role::Other, layer, inputs, outputs, Init::ZEROS)
}

/// A DiT.
pub struct Dit {
    config: DitConfig,
    partition: Option<Partition>,
    projection: Linear,
    positions: Tensor,
    conditioning: Conditioning,
    blocks: Vec<Block>,
    norm: Modulated,
    modulation: Linear,
    output: Linear,
}

/// What stands before the first block's timestep and class embedders, which serve all blocks.
const CONDITIONING: &str = "transformer_blocks.0.norm1.emb";

impl Dit {
    /// A new DiT below `path` (usually the root). With a partition, the six matrices of every block are in components
    /// (KIND), and `ctx.gate` opens the tailors.
    ///
    /// # Errors
    /// Sizes that do not divide, or names that are taken.
    pub fn new(path: &Path, config: &DitConfig, partition: Option<&Partition>) -> Result<Self> {
        let (d, p, device) = (config.width(), config.patch_size, path.device());
        check_heads(d, config.num_attention_heads, config.num_attention_heads)?;
        if p == 0 || !config.sample_size.is_multiple_of(p) || !d.is_multiple_of(4) {
            return Err(Error::Invalid(format!(
                "samples of {} pixels in patches of {p} at a width of {d}: patches must divide samples, and 4 the width",
                config.sample_size
            )));
        }
        let side = config.sample_size / p;
        let kernel = [d, config.in_channels, p, p];
        Ok(Dit {
            projection: Linear::patches(&path.at("pos_embed.proj"), kernel)?,
            positions: positions(side, d, device)?,
            conditioning: Conditioning::new(&path.at(CONDITIONING), config)?,
            blocks: (0..config.num_layers)
                .map(|i| {
                    let path = path.at(format!("transformer_blocks.{i}"));
                    Block::new(&path, i, config, partition)
                })
                .collect::<Result<_>>()?,
            norm: Modulated::new(d, EPS, device)?,
            modulation: zeros(&path.at("proj_out_1"), config.num_layers, d, 2 * d)?,
            output: zeros(
                &path.at("proj_out_2"),
                config.num_layers,
                d,
                p * p * config.out_channels,
            )?,
            config: config.clone(),
            partition: partition.copied(),
        })
    }

    /// The sizes.
    pub fn config(&self) -> &DitConfig {
        &self.config
    }

    /// How the blocks' matrices are taken apart, if they are.
    pub fn partition(&self) -> Option<&Partition> {
        self.partition.as_ref()
    }

    /// Noisy samples `[B, C, H, W]`, their time steps and classes (u32 `[B]`; the number of classes stands for none) to the
    /// predicted noise `[B, C, H, W]`; with a learned variance, its interpolation `[B, C, H, W]` behind it along axis 1.
    ///
    /// # Errors
    /// Shapes that do not fit, a class that is not there.
    pub fn forward(&self, ctx: &Context, x: &Tensor, t: &[f32], labels: &Tensor) -> Result<Tensor> {
        let DitConfig {
            sample_size: side,
            patch_size: p,
            in_channels,
            out_channels,
            ..
        } = self.config;
        x.expect_shape("dit", "samples", &[t.len(), in_channels, side, side])?;
        labels.expect_shape("dit", "labels", &[t.len()])?;
        let condition = self.conditioning.forward(ctx, t, labels)?;
        let tokens = self.projection.forward(ctx, &cut(x, p)?)?;
        let tokens = tokens.add(&self.positions)?;
        let tokens =
            (self.blocks.iter()).try_fold(tokens, |x, block| block.forward(ctx, &x, &condition))?;
        let parts = self.modulation.forward(ctx, &condition)?.chunk(2, 2)?;
        let tokens = self.norm.forward(&tokens, &parts[0], &parts[1])?;
        let across = side / p;
        self.output
            .forward(ctx, &tokens)?
            .reshape(&[t.len(), across, across, p, p, out_channels])?
            .permute(&[0, 5, 1, 3, 2, 4])?
            .reshape(&[t.len(), out_channels, side, side])
    }

    /// Classifier-free guidance (Ho & Salimans 2022): `ε(x, ∅) + s·(ε(x, c) − ε(x, ∅))`, both in one pass of twice the
    /// batch; a learned variance is the conditional one's. A gate holds for the conditional half, the other has its learngenes
    /// alone.
    ///
    /// # Errors
    /// As [`Dit::forward`].
    pub fn guided(
        &self,
        ctx: &Context,
        x: &Tensor,
        t: &[f32],
        labels: &Tensor,
        scale: f64,
    ) -> Result<Tensor> {
        let batch = t.len();
        let none = vec![self.config.num_embeds_ada_norm as u32; batch];
        let none = Tensor::from_slice(&none, &[batch], x.device())?;
        let mut ctx = ctx.clone();
        if let (Some(gate), Some(partition)) = (&ctx.gate, &self.partition) {
            let route = [&gate.route[..], &vec![u32::MAX; batch]].concat();
            ctx.gate = Some(partition.gate(&route, x.device())?);
        }
        let both = self.forward(
            &ctx,
            &Tensor::concat(&[x, x], 0)?,
            &[t, t].concat(),
            &Tensor::concat(&[labels, &none], 0)?,
        )?;
        let channels = self.config.in_channels;
        let (with, without) = (both.narrow(0, 0, batch)?, both.narrow(0, batch, batch)?);
        let noise = |y: &Tensor| y.narrow(1, 0, channels);
        let (with_noise, without_noise) = (noise(&with)?, noise(&without)?);
        let guided = without_noise.add(&with_noise.sub(&without_noise)?.affine(scale, 0.0)?)?;
        match self.config.out_channels - channels {
            0 => Ok(guided),
            rest => Tensor::concat(&[&guided, &with.narrow(1, channels, rest)?], 1),
        }
    }
}

/// What stands between a block's number and the parameters of its copy of the embedders.
const COPY: &str = ".norm1.emb.";

/// The parameter of a tensor in diffusers' files, where every block holds a copy of the embedders: of these the first alone. None for
/// the positions, which are computed.
pub(crate) fn parameter(name: &str) -> Option<String> {
    let copy = name.contains(COPY) && !name.starts_with(CONDITIONING);
    (!copy && name != "pos_embed.pos_embed").then(|| name.into())
}

/// An error unless all copies of the embedders are the same.
pub(crate) fn check_copies(checkpoint: &Checkpoint) -> Result<()> {
    for name in checkpoint.names() {
        let Some((_, leaf)) = name.split_once(COPY) else {
            continue;
        };
        let first = format!("{CONDITIONING}.{leaf}");
        if !checkpoint.equal(&name, &first) {
            let detail = format!("is not `{first}`; a DiT's blocks share their embedders");
            return Err(checkpoint.error(&name, &detail));
        }
    }
    Ok(())
}
