//! The transformer encoder in BERT's form (Devlin et al. 2019): embeddings, post-norm blocks, heads; the parameter names
//! are those of Hugging Face's `BertModel` under `bert.`, with `classifier` and `cls.predictions` beside it.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use crate::layers::{Embedding, Linear, Norm};
use crate::transformer::{Activation, FeedForward, Place, SelfAttention, SubLayers, check_heads};

/// Sizes of an encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width `d`.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads per block; divides the width.
    pub num_attention_heads: usize,
    /// Width of the feed-forward.
    pub intermediate_size: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Number of segment types.
    pub type_vocab_size: usize,
    /// ε of the norms.
    pub layer_norm_eps: f32,
    /// Between the two matrices of the feed-forward.
    pub hidden_act: Activation,
    /// Probability of dropping an element of the embeddings and of a sub-layer's output in training.
    pub hidden_dropout_prob: f32,
}

impl EncoderConfig {
    /// Four blocks of width 128 with four heads: what the default runs pre-train in about a minute.
    pub fn small(vocab_size: usize, max_position_embeddings: usize) -> Self {
        EncoderConfig {
            vocab_size,
            hidden_size: 128,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            intermediate_size: 512,
            max_position_embeddings,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            hidden_act: Activation::Gelu,
            hidden_dropout_prob: 0.0,
        }
    }
}

/// One post-norm block: `x ← norm(x + attention(x)); x ← norm(x + feed_forward(x))`.
struct Block {
    attention: SelfAttention,
    attention_place: Place,
    attention_norm: Norm,
    feed_forward: FeedForward,
    feed_forward_place: Place,
    feed_forward_norm: Norm,
    path: String,
}

impl Block {
    fn new(path: &Path, layer: usize, config: &EncoderConfig) -> Result<Self> {
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let sub_layers = SubLayers {
            width: d,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
        };
        let (attention, feed_forward) = sub_layers.build(path, layer, "attention.self")?;
        let place =
            |leaf: &str| Place::sub_layer(&path.at(leaf), layer, config.hidden_dropout_prob);
        Ok(Block {
            attention,
            attention_place: place("attention"),
            attention_norm: Norm::layer(&path.at("attention.output.LayerNorm"), d, eps)?,
            feed_forward,
            feed_forward_place: place("output"),
            feed_forward_norm: Norm::layer(&path.at("output.LayerNorm"), d, eps)?,
            path: path.prefix().to_string(),
        })
    }

    /// `[B, T, d] → [B, T, d]`.
    fn forward(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        let y = self.attention.forward(ctx, x, None)?;
        let x = self
            .attention_norm
            .forward(&x.add(&self.attention_place.finish(ctx, x, y)?)?)?;
        let y = self.feed_forward.forward(ctx, &x)?;
        let y = self
            .feed_forward_norm
            .forward(&x.add(&self.feed_forward_place.finish(ctx, &x, y)?)?)?;
        ctx.tap(&self.path, &y);
        Ok(y)
    }
}

/// Embeddings and blocks.
pub struct Encoder {
    config: EncoderConfig,
    words: Embedding,
    positions: Embedding,
    types: Embedding,
    norm: Norm,
    place: Place,
    blocks: Vec<Block>,
}

impl Encoder {
    /// A new encoder below `path` (usually `bert`).
    ///
    /// # Errors
    /// A width that does not divide into the heads, or names that are taken.
    pub fn new(path: &Path, config: &EncoderConfig) -> Result<Self> {
        check_heads(
            config.hidden_size,
            config.num_attention_heads,
            config.num_attention_heads,
        )?;
        let (embeddings, d) = (path.at("embeddings"), config.hidden_size);
        let table = |leaf: &str, entries| Embedding::new(&embeddings.at(leaf), entries, d);
        Ok(Encoder {
            words: table("word_embeddings", config.vocab_size)?,
            positions: table("position_embeddings", config.max_position_embeddings)?,
            types: table("token_type_embeddings", config.type_vocab_size)?,
            norm: Norm::layer(&embeddings.at("LayerNorm"), d, config.layer_norm_eps)?,
            place: Place::embedding(&embeddings, config.hidden_dropout_prob),
            blocks: (0..config.num_hidden_layers)
                .map(|i| Block::new(&path.at(format!("encoder.layer.{i}")), i, config))
                .collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// The sizes.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// `ids` and `token_types` `[B, T]` to embeddings `[B, T, d]`, at positions 0, 1, ….
    ///
    /// # Errors
    /// Sequences longer than the position table, indices out of range.
    pub fn embed(&self, ctx: &Context, ids: &Tensor, token_types: &Tensor) -> Result<Tensor> {
        let len = ids.last_dim();
        if len > self.config.max_position_embeddings {
            return Err(Error::Invalid(format!(
                "encoder: sequences of {len} tokens, but there are {} positions; truncate",
                self.config.max_position_embeddings
            )));
        }
        let positions = self
            .positions
            .forward(&Tensor::arange(len, ids.device())?)?;
        let sum = self
            .words
            .forward(ids)?
            .add(&positions)?
            .add(&self.types.forward(token_types)?)?;
        self.place.finish(ctx, ids, self.norm.forward(&sum)?)
    }

    /// Blocks over embeddings `[B, T, d]`; `ctx.mask` says which tokens are real.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn body(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        self.blocks
            .iter()
            .try_fold(x.clone(), |x, block| block.forward(ctx, &x))
    }

    /// Embeddings, then blocks.
    ///
    /// # Errors
    /// As [`Encoder::embed`].
    pub fn forward(&self, ctx: &Context, ids: &Tensor, token_types: &Tensor) -> Result<Tensor> {
        self.body(ctx, &self.embed(ctx, ids, token_types)?)
    }
}

/// Masked-token head: dense, activation, norm, then the word table as the output matrix, with a bias of its own.
pub struct MaskedLmHead {
    dense: Linear,
    activation: Activation,
    norm: Norm,
    bias: Param,
}

impl MaskedLmHead {
    /// Below `path` (usually `cls.predictions`).
    ///
    /// # Errors
    /// Names that are taken.
    pub fn new(path: &Path, config: &EncoderConfig) -> Result<Self> {
        let (d, transform) = (config.hidden_size, path.at("transform"));
        Ok(MaskedLmHead {
            dense: Linear::new(
                &transform.at("dense"),
                Role::Other,
                config.num_hidden_layers,
                d,
                d,
            )?,
            activation: config.hidden_act,
            norm: Norm::layer(&transform.at("LayerNorm"), d, config.layer_norm_eps)?,
            bias: path.param("bias", &[config.vocab_size], Init::ZEROS)?,
        })
    }

    /// Hidden states `[…, d]` to logits `[…, vocabulary]`.
    ///
    /// # Errors
    /// Hidden states of another width.
    pub fn forward(&self, ctx: &Context, encoder: &Encoder, hidden: &Tensor) -> Result<Tensor> {
        let h = self.activation.forward(&self.dense.forward(ctx, hidden)?)?;
        linear(
            &self.norm.forward(&h)?,
            &encoder.words.table(),
            Some(&self.bias.tensor()),
        )
    }
}

/// Sequence classification: the first token's state through the pooler (dense, tanh) and the classifier.
pub struct SequenceHead {
    pooler: Linear,
    classifier: Linear,
}

impl SequenceHead {
    /// `bert.pooler` and `classifier` below `path`.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn new(path: &Path, config: &EncoderConfig, classes: usize) -> Result<Self> {
        let (d, layer) = (config.hidden_size, config.num_hidden_layers);
        Ok(SequenceHead {
            pooler: Linear::new(&path.at("bert.pooler.dense"), Role::Other, layer, d, d)?,
            classifier: Linear::new(&path.at("classifier"), Role::Other, layer, d, classes)?,
        })
    }

    /// Hidden states `[B, T, d]` to logits `[B, classes]`.
    ///
    /// # Errors
    /// Hidden states of another width.
    pub fn forward(&self, ctx: &Context, hidden: &Tensor) -> Result<Tensor> {
        let first = hidden.narrow(1, 0, 1)?.squeeze(1)?;
        self.classifier
            .forward(ctx, &self.pooler.forward(ctx, &first)?.tanh()?)
    }
}
