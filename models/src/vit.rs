//! The vision transformer (Dosovitskiy et al. 2021): patches as tokens, a class token, pre-norm blocks; the parameter names
//! are those of Hugging Face's `ViTForImageClassification`.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use crate::block::{Block, Residual};
use crate::hub::Config;
use crate::layers::{Linear, Norm, cut};
use crate::transformer::{Activation, Place, SubLayers, check_heads};

/// Sizes of a ViT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Height and width of an image in pixels.
    pub image_size: usize,
    /// Height and width of a patch; divides the image's.
    pub patch_size: usize,
    /// 1 for grey, 3 for RGB.
    pub num_channels: usize,
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
    /// Between the two matrices of the feed-forward.
    pub hidden_act: Activation,
    /// Probability of dropping an element of the embeddings and of a sub-layer's output in training.
    pub hidden_dropout_prob: f32,
}

impl VitConfig {
    /// Square images in square patches; feed-forward of 4d.
    pub fn new(
        image_size: usize,
        patch_size: usize,
        num_channels: usize,
        hidden_size: usize,
        layers: usize,
        heads: usize,
    ) -> Self {
        VitConfig {
            image_size,
            patch_size,
            num_channels,
            hidden_size,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            intermediate_size: 4 * hidden_size,
            layer_norm_eps: 1e-12,
            hidden_act: Activation::Gelu,
            hidden_dropout_prob: 0.0,
        }
    }

    /// Of a checkpoint's `config.json`. Attention probabilities are never dropped, whatever it says.
    ///
    /// # Errors
    /// A field that is missing or absurd, or a variant that the model here has not.
    pub fn from_hugging_face(config: &Config) -> Result<Self> {
        config.only("qkv_bias", true)?;
        let size = |name| config.size(&[name]);
        let sizes = VitConfig {
            image_size: size("image_size")?,
            patch_size: size("patch_size")?,
            num_channels: size("num_channels")?,
            hidden_size: size("hidden_size")?,
            num_hidden_layers: size("num_hidden_layers")?,
            num_attention_heads: size("num_attention_heads")?,
            intermediate_size: size("intermediate_size")?,
            layer_norm_eps: config.number("layer_norm_eps")?.unwrap_or(1e-12) as f32,
            hidden_act: config.activation(&["hidden_act"])?,
            hidden_dropout_prob: config.probability("hidden_dropout_prob")?,
        };
        sizes.check().map_err(|e| config.refuse("image_size", e))?;
        Ok(sizes)
    }

    /// Patches per image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size.max(1)).pow(2)
    }

    fn check(&self) -> Result<()> {
        if self.patch_size == 0 || !self.image_size.is_multiple_of(self.patch_size) {
            let detail = format!(
                "images of {} pixels do not divide into patches of {}",
                self.image_size, self.patch_size
            );
            return Err(Error::Invalid(detail));
        }
        check_heads(
            self.hidden_size,
            self.num_attention_heads,
            self.num_attention_heads,
        )
    }
}

/// The parameter of a checkpoint's tensor: a bare `ViTModel` lacks the `vit.`.
pub(crate) fn parameter(name: &str) -> String {
    let bare = ["embeddings.", "encoder.", "layernorm.", "pooler."];
    match bare.iter().any(|part| name.starts_with(part)) {
        true => format!("vit.{name}"),
        false => name.into(),
    }
}

fn block(path: &Path, layer: usize, config: &VitConfig) -> Result<Block> {
    let (d, eps) = (config.hidden_size, config.layer_norm_eps);
    let sub_layers = SubLayers {
        width: d,
        inner: config.intermediate_size,
        heads: config.num_attention_heads,
        activation: config.hidden_act,
    };
    let (attention, feed_forward) = sub_layers.build(path, layer, "attention.attention")?;
    let around = |norm: &str, place: &str| {
        let place = Place::sub_layer(&path.at(place), layer, config.hidden_dropout_prob);
        Ok::<_, Error>(Residual::before(
            Norm::layer(&path.at(norm), d, eps)?,
            place,
        ))
    };
    Ok(Block {
        path: path.prefix().into(),
        attention,
        attention_around: around("layernorm_before", "attention")?,
        feed_forward,
        feed_forward_around: around("layernorm_after", "output")?,
    })
}

/// Embeddings, blocks and the last norm.
pub struct Vit {
    config: VitConfig,
    class_token: Param,
    positions: Param,
    projection: Linear,
    place: Place,
    blocks: Vec<Block>,
    norm: Norm,
}

impl Vit {
    /// A new ViT below `path` (usually `vit`).
    ///
    /// # Errors
    /// Sizes that do not divide, or names that are taken.
    pub fn new(path: &Path, config: &VitConfig) -> Result<Self> {
        config.check()?;
        let (embeddings, d) = (path.at("embeddings"), config.hidden_size);
        let kernel = [d, config.num_channels, config.patch_size, config.patch_size];
        Ok(Vit {
            class_token: embeddings.param("cls_token", &[1, 1, d], Init::Normal(0.02))?,
            positions: embeddings.param(
                "position_embeddings",
                &[1, config.patches() + 1, d],
                Init::Normal(0.02),
            )?,
            projection: Linear::patches(&embeddings.at("patch_embeddings.projection"), kernel)?,
            place: Place::embedding(&embeddings, config.hidden_dropout_prob),
            blocks: (0..config.num_hidden_layers)
                .map(|i| block(&path.at(format!("encoder.layer.{i}")), i, config))
                .collect::<Result<_>>()?,
            norm: Norm::layer(&path.at("layernorm"), d, config.layer_norm_eps)?,
            config: config.clone(),
        })
    }

    /// The sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Images `[B, C, H, W]` cut into squares, `[B, patches, C·p²]`, row by row.
    ///
    /// # Errors
    /// Images of other sizes than the model's.
    pub fn cut(&self, pixels: &Tensor) -> Result<Tensor> {
        let VitConfig {
            image_size: side,
            patch_size: p,
            num_channels: channels,
            ..
        } = self.config;
        let batch = pixels.shape().first().copied().unwrap_or(0);
        pixels.expect_shape("vit", "pixels", &[batch, channels, side, side])?;
        cut(pixels, p)
    }

    /// Patches `[B, patches, C·p²]` to embeddings `[B, 1 + patches, d]`, the class token first.
    ///
    /// # Errors
    /// Another number of patches, or patches of another size.
    pub fn embed(&self, ctx: &Context, patches: &Tensor) -> Result<Tensor> {
        let (batch, d) = (
            patches.shape().first().copied().unwrap_or(0),
            self.config.hidden_size,
        );
        patches.expect_shape(
            "vit",
            "patches",
            &[batch, self.config.patches(), patches.last_dim()],
        )?;
        let class = self.class_token.tensor().expand(&[batch, 1, d])?;
        let tokens = Tensor::concat(&[&class, &self.projection.forward(ctx, patches)?], 1)?;
        self.place
            .finish(ctx, patches, tokens.add(&self.positions.tensor())?)
    }

    /// Blocks and the last norm over embeddings `[B, T, d]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn body(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        let x = self
            .blocks
            .iter()
            .try_fold(x.clone(), |x, block| block.forward(ctx, &x, None))?;
        self.norm.forward(&x)
    }

    /// Images `[B, C, H, W]` to hidden states `[B, 1 + patches, d]`.
    ///
    /// # Errors
    /// Images of other sizes than the model's.
    pub fn forward(&self, ctx: &Context, pixels: &Tensor) -> Result<Tensor> {
        self.body(ctx, &self.embed(ctx, &self.cut(pixels)?)?)
    }
}

/// Classification by the class token's state.
pub struct ImageHead {
    classifier: Linear,
}

impl ImageHead {
    /// `classifier` below `path` (usually the root).
    ///
    /// # Errors
    /// Names that are taken.
    pub fn new(path: &Path, config: &VitConfig, classes: usize) -> Result<Self> {
        let (d, layer) = (config.hidden_size, config.num_hidden_layers);
        Ok(ImageHead {
            classifier: Linear::new(&path.at("classifier"), Role::Other, layer, d, classes)?,
        })
    }

    /// Hidden states `[B, T, d]` to logits `[B, classes]`.
    ///
    /// # Errors
    /// Hidden states of another width.
    pub fn forward(&self, ctx: &Context, hidden: &Tensor) -> Result<Tensor> {
        self.classifier
            .forward(ctx, &hidden.narrow(1, 0, 1)?.squeeze(1)?)
    }
}
