//! The transformer encoder in BERT's form (Devlin et al. 2019): embeddings, post-norm blocks, heads; the parameter names
//! are those of Hugging Face's `BertModel` under `bert.`, with `classifier` and `cls.predictions` beside it.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use crate::layers::{Embedding, LayerNorm, Linear};

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
    /// Probability of dropping an element of a sub-layer's output in training.
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
            hidden_dropout_prob: 0.0,
        }
    }

    fn check(&self) -> Result<()> {
        if self.num_attention_heads == 0
            || !self.hidden_size.is_multiple_of(self.num_attention_heads)
        {
            let detail = format!(
                "hidden_size {} does not divide into {} heads",
                self.hidden_size, self.num_attention_heads
            );
            return Err(Error::Invalid(detail));
        }
        Ok(())
    }
}

/// One post-norm block.
struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
    path: String,
}

impl Block {
    fn new(path: &Path, layer: usize, config: &EncoderConfig) -> Result<Self> {
        let (d, wide, eps) = (
            config.hidden_size,
            config.intermediate_size,
            config.layer_norm_eps,
        );
        let attention = path.at("attention");
        Ok(Block {
            query: Linear::new(&attention.at("self.query"), Role::Query, layer, d, d)?,
            key: Linear::new(&attention.at("self.key"), Role::Key, layer, d, d)?,
            value: Linear::new(&attention.at("self.value"), Role::Value, layer, d, d)?,
            attention_output: Linear::new(
                &attention.at("output.dense"),
                Role::AttentionOutput,
                layer,
                d,
                d,
            )?,
            attention_norm: LayerNorm::new(&attention.at("output.LayerNorm"), d, eps)?,
            intermediate: Linear::new(&path.at("intermediate.dense"), Role::MlpUp, layer, d, wide)?,
            output: Linear::new(&path.at("output.dense"), Role::MlpDown, layer, wide, d)?,
            output_norm: LayerNorm::new(&path.at("output.LayerNorm"), d, eps)?,
            path: path.prefix().to_string(),
        })
    }

    /// `[B, T, d] → [B, T, d]`.
    fn forward(&self, ctx: &Context, x: &Tensor, config: &EncoderConfig) -> Result<Tensor> {
        let heads = |t: Tensor| {
            let (b, len) = (t.shape()[0], t.shape()[1]);
            t.reshape(&[
                b,
                len,
                config.num_attention_heads,
                config.hidden_size / config.num_attention_heads,
            ])?
            .permute(&[0, 2, 1, 3])
        };
        let q = heads(self.query.forward(ctx, x)?)?;
        let k = heads(self.key.forward(ctx, x)?)?;
        let v = heads(self.value.forward(ctx, x)?)?;
        let options = AttentionOptions {
            mask: ctx.mask.clone(),
            ..Default::default()
        };
        let mixed = attention(&q, &k, &v, &options)?
            .permute(&[0, 2, 1, 3])?
            .reshape(x.shape())?;
        let p = config.hidden_dropout_prob;
        let mixed = dropout(
            &self.attention_output.forward(ctx, &mixed)?,
            p,
            ctx,
            &format!("{}.attention", self.path),
        )?;
        let x = self.attention_norm.forward(&x.add(&mixed)?)?;
        let wide = self.intermediate.forward(ctx, &x)?.gelu()?;
        let wide = dropout(
            &self.output.forward(ctx, &wide)?,
            p,
            ctx,
            &format!("{}.output", self.path),
        )?;
        let y = self.output_norm.forward(&x.add(&wide)?)?;
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
    norm: LayerNorm,
    blocks: Vec<Block>,
}

impl Encoder {
    /// A new encoder below `path` (usually `bert`).
    ///
    /// # Errors
    /// A width that does not divide into the heads, or names that are taken.
    pub fn new(path: &Path, config: &EncoderConfig) -> Result<Self> {
        config.check()?;
        let (embeddings, d) = (path.at("embeddings"), config.hidden_size);
        Ok(Encoder {
            words: Embedding::new(&embeddings.at("word_embeddings"), config.vocab_size, d)?,
            positions: Embedding::new(
                &embeddings.at("position_embeddings"),
                config.max_position_embeddings,
                d,
            )?,
            types: Embedding::new(
                &embeddings.at("token_type_embeddings"),
                config.type_vocab_size,
                d,
            )?,
            norm: LayerNorm::new(&embeddings.at("LayerNorm"), d, config.layer_norm_eps)?,
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

    /// `ids` and `token_types` `[B, T]` to embeddings `[B, T, d]`.
    ///
    /// # Errors
    /// Sequences longer than the position table, indices out of range.
    pub fn embed(&self, ids: &Tensor, token_types: &Tensor) -> Result<Tensor> {
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
        self.norm.forward(&sum)
    }

    /// Blocks over embeddings `[B, T, d]`; `ctx.mask` says which tokens are real.
    pub fn body(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        self.blocks
            .iter()
            .try_fold(x.clone(), |x, block| block.forward(ctx, &x, &self.config))
    }

    /// Embeddings, then blocks.
    pub fn forward(&self, ctx: &Context, ids: &Tensor, token_types: &Tensor) -> Result<Tensor> {
        self.body(ctx, &self.embed(ids, token_types)?)
    }
}

/// Masked-token head: dense, GELU, norm, then the word table as the output matrix, with a bias of its own.
pub struct MaskedLmHead {
    dense: Linear,
    norm: LayerNorm,
    bias: Param,
}

impl MaskedLmHead {
    /// Below `path` (usually `cls.predictions`).
    pub fn new(path: &Path, config: &EncoderConfig) -> Result<Self> {
        let d = config.hidden_size;
        Ok(MaskedLmHead {
            dense: Linear::new(
                &path.at("transform.dense"),
                Role::Other,
                config.num_hidden_layers,
                d,
                d,
            )?,
            norm: LayerNorm::new(&path.at("transform.LayerNorm"), d, config.layer_norm_eps)?,
            bias: path.param("bias", &[config.vocab_size], Init::ZEROS)?,
        })
    }

    /// Rows `[N, d]` of hidden states to logits `[N, vocabulary]`.
    pub fn forward(&self, ctx: &Context, encoder: &Encoder, hidden: &Tensor) -> Result<Tensor> {
        let h = self
            .norm
            .forward(&self.dense.forward(ctx, hidden)?.gelu()?)?;
        linear(&h, &encoder.words.table(), Some(&self.bias.tensor()))
    }
}

/// Sequence classification: the first token's state through the pooler (dense, tanh) and the classifier.
pub struct SequenceHead {
    pooler: Linear,
    classifier: Linear,
}

impl SequenceHead {
    /// `bert.pooler` and `classifier` below `path`.
    pub fn new(path: &Path, config: &EncoderConfig, classes: usize) -> Result<Self> {
        let (d, layer) = (config.hidden_size, config.num_hidden_layers);
        Ok(SequenceHead {
            pooler: Linear::new(&path.at("bert.pooler.dense"), Role::Other, layer, d, d)?,
            classifier: Linear::new(&path.at("classifier"), Role::Other, layer, d, classes)?,
        })
    }

    /// Hidden states `[B, T, d]` to logits `[B, classes]`.
    pub fn forward(&self, ctx: &Context, hidden: &Tensor) -> Result<Tensor> {
        let first = hidden.narrow(1, 0, 1)?.squeeze(1)?;
        self.classifier
            .forward(ctx, &self.pooler.forward(ctx, &first)?.tanh()?)
    }
}
