//! CLIP (Radford et al. 2021): a text and a vision transformer whose projected states say which text and image belong together.
//! Parameter names are those of Hugging Face's `CLIPModel`.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use crate::block::{Block, Residual};
use crate::hub::Config;
use crate::layers::{Embedding, Linear, Norm, cut};
use crate::transformer::{Activation, FeedForward, Place, Projections, SelfAttention, check_heads};

/// Sizes of a tower's blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TowerConfig {
    /// Width `d`.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads per block; divides the width.
    pub num_attention_heads: usize,
    /// Width of the feed-forward.
    pub intermediate_size: usize,
    /// ε of the norms.
    pub layer_norm_eps: f32,
    /// Between the matrices of the feed-forward.
    pub hidden_act: Activation,
}

/// Sizes of a CLIP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// The tower of texts.
    pub text: TowerConfig,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest text.
    pub max_position_embeddings: usize,
    /// The token whose state stands for the text: the first of them. Of files that say 2, as the first did, the token with the
    /// largest number.
    pub eos_token_id: u32,
    /// The tower of images.
    pub vision: TowerConfig,
    /// Height and width of an image in pixels.
    pub image_size: usize,
    /// Height and width of a patch; divides the image's.
    pub patch_size: usize,
    /// 1 for grey, 3 for RGB.
    pub num_channels: usize,
    /// Width that both are projected to.
    pub projection_dim: usize,
    /// First logarithm of the factor of similarities.
    pub logit_scale_init_value: f64,
}

impl TowerConfig {
    fn from_hugging_face(config: &Config) -> Result<Self> {
        let size = |name| config.size(&[name]);
        Ok(TowerConfig {
            hidden_size: size("hidden_size")?,
            num_hidden_layers: size("num_hidden_layers")?,
            num_attention_heads: size("num_attention_heads")?,
            intermediate_size: size("intermediate_size")?,
            layer_norm_eps: config.number("layer_norm_eps")?.unwrap_or(1e-5) as f32,
            hidden_act: match config.get("hidden_act") {
                Some(_) => config.activation(&["hidden_act"])?,
                None => Activation::QuickGelu,
            },
        })
    }

    fn block(&self, path: &Path, layer: usize, causal: bool) -> Result<Block> {
        let (d, inner, eps) = (
            self.hidden_size,
            self.intermediate_size,
            self.layer_norm_eps,
        );
        let linear = |leaf: &str, role, inputs, outputs| {
            Linear::new(&path.at(leaf), role, layer, inputs, outputs)
        };
        let around = |norm: &str, place: &str| {
            let place = Place::sub_layer(&path.at(place), layer, 0.0);
            Ok::<_, Error>(Residual::before(
                Norm::layer(&path.at(norm), d, eps)?,
                place,
            ))
        };
        Ok(Block {
            path: path.prefix().into(),
            attention: SelfAttention {
                projections: Projections::Separate([
                    linear("self_attn.q_proj", Role::Query, d, d)?,
                    linear("self_attn.k_proj", Role::Key, d, d)?,
                    linear("self_attn.v_proj", Role::Value, d, d)?,
                ]),
                output: linear("self_attn.out_proj", Role::AttentionOutput, d, d)?,
                heads: self.num_attention_heads,
                key_heads: self.num_attention_heads,
                causal,
            },
            attention_around: around("layer_norm1", "self_attn")?,
            feed_forward: FeedForward {
                up: linear("mlp.fc1", Role::MlpUp, d, inner)?,
                gate: None,
                down: linear("mlp.fc2", Role::MlpDown, inner, d)?,
                activation: self.hidden_act,
            },
            feed_forward_around: around("layer_norm2", "mlp")?,
        })
    }

    fn blocks(&self, path: &Path, causal: bool) -> Result<Vec<Block>> {
        let heads = self.num_attention_heads;
        check_heads(self.hidden_size, heads, heads)?;
        (0..self.num_hidden_layers)
            .map(|i| self.block(&path.at(format!("encoder.layers.{i}")), i, causal))
            .collect()
    }
}

impl ClipConfig {
    /// Of a checkpoint's `config.json`. Attention probabilities are never dropped, whatever it says.
    ///
    /// # Errors
    /// A field that is missing or absurd, or a variant that the model here has not.
    pub fn from_hugging_face(config: &Config) -> Result<Self> {
        let tower = |name: &str| {
            let missing = || config.refuse(name, "is missing");
            config.within(name)?.ok_or_else(missing)
        };
        let (text, vision) = (tower("text_config")?, tower("vision_config")?);
        let or = |config: &Config, name, default| {
            Ok::<_, Error>(config.size_if(&[name])?.unwrap_or(default))
        };
        let sizes = ClipConfig {
            text: TowerConfig::from_hugging_face(&text)?,
            vocab_size: text.size(&["vocab_size"])?,
            max_position_embeddings: text.size(&["max_position_embeddings"])?,
            eos_token_id: or(&text, "eos_token_id", 49407)? as u32,
            vision: TowerConfig::from_hugging_face(&vision)?,
            image_size: vision.size(&["image_size"])?,
            patch_size: vision.size(&["patch_size"])?,
            num_channels: or(&vision, "num_channels", 3)?,
            projection_dim: or(config, "projection_dim", 512)?,
            logit_scale_init_value: config.number("logit_scale_init_value")?.unwrap_or(2.6592),
        };
        sizes.check().map_err(|e| vision.refuse("patch_size", e))?;
        Ok(sizes)
    }

    fn check(&self) -> Result<()> {
        if self.patch_size > 0 && self.image_size.is_multiple_of(self.patch_size) {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "images of {} pixels do not divide into patches of {}",
            self.image_size, self.patch_size
        )))
    }
}

/// The parameter of a checkpoint's tensor; None for buffers.
pub(crate) fn parameter(name: &str) -> Option<String> {
    (!name.ends_with("embeddings.position_ids")).then(|| name.into())
}

/// The tower of texts.
pub struct TextTower {
    words: Embedding,
    positions: Embedding,
    place: Place,
    blocks: Vec<Block>,
    norm: Norm,
    longest: usize,
    end: u32,
}

impl TextTower {
    fn new(path: &Path, config: &ClipConfig) -> Result<Self> {
        let (d, embeddings) = (config.text.hidden_size, path.at("embeddings"));
        let (words, longest) = (config.vocab_size, config.max_position_embeddings);
        Ok(TextTower {
            words: Embedding::new(&embeddings.at("token_embedding"), words, d)?,
            positions: Embedding::new(&embeddings.at("position_embedding"), longest, d)?,
            place: Place::embedding(&embeddings, 0.0),
            blocks: config.text.blocks(path, true)?,
            norm: Norm::layer(&path.at("final_layer_norm"), d, config.text.layer_norm_eps)?,
            longest,
            end: config.eos_token_id,
        })
    }

    /// Ids `[B, T]` to hidden states `[B, T, d]`; each token sees those up to itself, and of these the real ones.
    ///
    /// # Errors
    /// Texts longer than the model's, indices out of range.
    pub fn forward(&self, ctx: &Context, ids: &Tensor) -> Result<Tensor> {
        let (len, most) = (ids.last_dim(), self.longest);
        if len > most {
            return Err(Error::Invalid(format!(
                "clip: texts of {len} tokens, but there are {most} positions; truncate"
            )));
        }
        let positions = self
            .positions
            .forward(&Tensor::arange(len, ids.device())?)?;
        let x = self.words.forward(ids)?.add(&positions)?;
        let x = self.place.finish(ctx, ids, x)?;
        let x = self
            .blocks
            .iter()
            .try_fold(x, |x, block| block.forward(ctx, &x, None))?;
        self.norm.forward(&x)
    }

    /// The state of each text's end, `[B, d]`.
    ///
    /// # Errors
    /// As [`TextTower::forward`].
    pub fn pooled(&self, ctx: &Context, ids: &Tensor) -> Result<Tensor> {
        let states = self.forward(ctx, ids)?;
        let (len, values) = (ids.last_dim().max(1), ids.to_vec::<u32>()?);
        let ends: Vec<u32> = values
            .chunks(len)
            .enumerate()
            .map(|(row, ids)| (row * len + self.end_of(ids)) as u32)
            .collect();
        let ends = Tensor::from_slice(&ends, &[ends.len()], ids.device())?;
        let width = states.last_dim();
        states.reshape(&[values.len(), width])?.gather_rows(&ends)
    }

    /// Where a text ends; without an end token, where it begins.
    fn end_of(&self, ids: &[u32]) -> usize {
        let end = match self.end {
            // The files' number is wrong; the end of text is the last of the vocabulary.
            2 => ids.iter().copied().max().unwrap_or(0),
            id => id,
        };
        ids.iter().position(|id| *id == end).unwrap_or(0)
    }
}

/// The tower of images.
pub struct VisionTower {
    class: Param,
    projection: Linear,
    positions: Embedding,
    place: Place,
    first_norm: Norm,
    blocks: Vec<Block>,
    last_norm: Norm,
    image: [usize; 3],
    patch: usize,
}

impl VisionTower {
    fn new(path: &Path, config: &ClipConfig) -> Result<Self> {
        config.check()?;
        let (d, eps) = (config.vision.hidden_size, config.vision.layer_norm_eps);
        let (side, patch, channels) = (config.image_size, config.patch_size, config.num_channels);
        let (embeddings, patches) = (path.at("embeddings"), (side / patch).pow(2));
        let kernel = [d, channels, patch, patch];
        Ok(VisionTower {
            class: embeddings.param("class_embedding", &[d], Init::Normal(0.02))?,
            projection: Linear::patches_no_bias(&embeddings.at("patch_embedding"), kernel)?,
            positions: Embedding::new(&embeddings.at("position_embedding"), patches + 1, d)?,
            place: Place::embedding(&embeddings, 0.0),
            // The name's spelling is the checkpoints'.
            first_norm: Norm::layer(&path.at("pre_layrnorm"), d, eps)?,
            blocks: config.vision.blocks(path, false)?,
            last_norm: Norm::layer(&path.at("post_layernorm"), d, eps)?,
            image: [channels, side, side],
            patch,
        })
    }

    /// Images `[B, C, H, W]` to hidden states `[B, 1 + patches, d]`, the class token first.
    ///
    /// # Errors
    /// Images of other sizes than the model's.
    pub fn forward(&self, ctx: &Context, pixels: &Tensor) -> Result<Tensor> {
        let (batch, [channels, height, width]) =
            (pixels.shape().first().copied().unwrap_or(0), self.image);
        pixels.expect_shape("clip", "pixels", &[batch, channels, height, width])?;
        let patches = self.projection.forward(ctx, &cut(pixels, self.patch)?)?;
        let d = patches.last_dim();
        let class = self.class.tensor().reshape(&[1, 1, d])?;
        let tokens = Tensor::concat(&[&class.expand(&[batch, 1, d])?, &patches], 1)?;
        let positions = Tensor::arange(tokens.shape()[1], pixels.device())?;
        let x = tokens.add(&self.positions.forward(&positions)?)?;
        let x = self.place.finish(ctx, pixels, x)?;
        // A mask of the texts says nothing of patches.
        let mut ctx = ctx.clone();
        ctx.mask = None;
        self.blocks
            .iter()
            .try_fold(self.first_norm.forward(&x)?, |x, block| {
                block.forward(&ctx, &x, None)
            })
    }

    /// The class token's state, `[B, d]`.
    ///
    /// # Errors
    /// As [`VisionTower::forward`].
    pub fn pooled(&self, ctx: &Context, pixels: &Tensor) -> Result<Tensor> {
        let states = self.forward(ctx, pixels)?;
        self.last_norm.forward(&states.narrow(1, 0, 1)?.squeeze(1)?)
    }
}

/// Both towers, their projections and the factor of similarities.
pub struct Clip {
    /// The tower of texts.
    pub text: TextTower,
    /// The tower of images.
    pub vision: VisionTower,
    text_projection: Linear,
    visual_projection: Linear,
    logit_scale: Param,
}

impl Clip {
    /// A new CLIP; `path` is usually the store's root.
    ///
    /// # Errors
    /// Sizes that do not divide, or names that are taken.
    pub fn new(path: &Path, config: &ClipConfig) -> Result<Self> {
        let projection = |leaf: &str, tower: &TowerConfig| {
            let (d, layer) = (tower.hidden_size, tower.num_hidden_layers);
            let path = path.at(leaf);
            Linear::no_bias(&path, Role::Other, layer, d, config.projection_dim)
        };
        let scale = Init::Constant(config.logit_scale_init_value);
        Ok(Clip {
            text: TextTower::new(&path.at("text_model"), config)?,
            vision: VisionTower::new(&path.at("vision_model"), config)?,
            text_projection: projection("text_projection", &config.text)?,
            visual_projection: projection("visual_projection", &config.vision)?,
            logit_scale: path.param("logit_scale", &[], scale)?,
        })
    }

    /// Texts `[B, T]` to directions `[B, projection_dim]` of length 1; `ctx.mask` says which tokens are real.
    ///
    /// # Errors
    /// Texts longer than the model's, indices out of range.
    pub fn texts(&self, ctx: &Context, ids: &Tensor) -> Result<Tensor> {
        let pooled = self.text.pooled(ctx, ids)?;
        direction(&self.text_projection.forward(ctx, &pooled)?)
    }

    /// Images `[B, C, H, W]` to directions `[B, projection_dim]` of length 1.
    ///
    /// # Errors
    /// Images of other sizes than the model's.
    pub fn images(&self, ctx: &Context, pixels: &Tensor) -> Result<Tensor> {
        let pooled = self.vision.pooled(ctx, pixels)?;
        direction(&self.visual_projection.forward(ctx, &pooled)?)
    }

    /// `e^s·cos` of each image with each text, `[images, texts]`.
    ///
    /// # Errors
    /// Directions of different widths.
    pub fn logits(&self, images: &Tensor, texts: &Tensor) -> Result<Tensor> {
        images
            .matmul_t(texts, false, true)?
            .mul(&self.logit_scale.tensor().exp()?)
    }
}

/// `x/‖x‖` of each row.
fn direction(x: &Tensor) -> Result<Tensor> {
    x.div(&x.mul(x)?.sum_keep(&[1])?.sqrt()?)
}

/// The contrastive loss of logits `[N, N]` whose row i and column i belong together: the mean of the cross-entropies of rows
/// and of columns.
///
/// # Errors
/// Logits that are not square.
pub fn contrastive_loss(logits: &Tensor) -> Result<Tensor> {
    let n = logits.last_dim();
    logits.expect_shape("contrastive_loss", "logits", &[n, n])?;
    let (own, options) = (
        Tensor::arange(n, logits.device())?,
        CrossEntropyOptions::default(),
    );
    let images = cross_entropy(logits, &own, &options)?;
    let texts = cross_entropy(&logits.t()?, &own, &options)?;
    images.add(&texts)?.affine(0.5, 0.0)
}
