//! Transformer decoders that predict the next token: GPT-2's shape (Radford et al. 2019: learned positions, layer norm, one
//! matrix for query, key and value) and LLaMA's (Touvron et al. 2023: RMS norm, rotary positions, gated feed-forward, no
//! biases, keys and values that may be shared by several heads), of which Qwen2 (biases on query, key and value) and Mistral (a
//! sliding window) are variants. Parameter names are those of Hugging Face's
//! `GPT2LMHeadModel` and `LlamaForCausalLM`.

use deltaw_engine::prelude::*;

mod config;
mod generate;

pub use crate::generate::Generation;
pub use config::{DecoderConfig, Family};

use crate::block::{Block, Residual};
use crate::cache::KeyValues;
use crate::layers::{Embedding, FusedQkv, Linear, Norm};
use crate::transformer::{FeedForward, Place, Projections, SelfAttention, check_heads};

fn gpt2_block(path: &Path, layer: usize, config: &DecoderConfig) -> Result<Block> {
    let (d, wide, eps) = (
        config.hidden_size,
        config.intermediate_size,
        config.norm_eps,
    );
    // The residual stream sums 2·layers outputs; the paper divides their initial weights by √ of that.
    let narrow = 0.02 / (2.0 * config.num_hidden_layers as f64).sqrt();
    let conv = |leaf: &str, role, inputs, outputs, std| {
        Linear::conv1d(&path.at(leaf), role, layer, inputs, outputs, std)
    };
    let around = |norm: Result<Norm>, place: &str| {
        let place = Place::sub_layer(&path.at(place), layer, config.dropout);
        Ok::<_, Error>(Residual::before(norm?, place))
    };
    Ok(Block {
        path: path.prefix().into(),
        attention: SelfAttention {
            projections: Projections::Fused(FusedQkv::new(&path.at("attn.c_attn"), layer, d, d)?),
            output: conv("attn.c_proj", Role::AttentionOutput, d, d, narrow)?,
            heads: config.num_attention_heads,
            key_heads: config.num_attention_heads,
            causal: true,
        },
        attention_around: around(Norm::layer(&path.at("ln_1"), d, eps), "attn")?,
        feed_forward: FeedForward {
            up: conv("mlp.c_fc", Role::MlpUp, d, wide, 0.02)?,
            gate: None,
            down: conv("mlp.c_proj", Role::MlpDown, wide, d, narrow)?,
            activation: config.hidden_act,
        },
        feed_forward_around: around(Norm::layer(&path.at("ln_2"), d, eps), "mlp")?,
    })
}

fn llama_block(path: &Path, layer: usize, config: &DecoderConfig) -> Result<Block> {
    let (d, wide, eps) = (
        config.hidden_size,
        config.intermediate_size,
        config.norm_eps,
    );
    let keys = d / config.num_attention_heads * config.num_key_value_heads;
    let linear = |leaf: &str, role, inputs, outputs| {
        Linear::no_bias(&path.at(leaf), role, layer, inputs, outputs)
    };
    let projection = |leaf: &str, role, outputs| match config.qkv_bias {
        true => Linear::new(&path.at(leaf), role, layer, d, outputs),
        false => linear(leaf, role, d, outputs),
    };
    let around = |norm: Result<Norm>, place: &str| {
        let place = Place::sub_layer(&path.at(place), layer, config.dropout);
        Ok::<_, Error>(Residual::before(norm?, place))
    };
    Ok(Block {
        path: path.prefix().into(),
        attention: SelfAttention {
            projections: Projections::Separate([
                projection("self_attn.q_proj", Role::Query, d)?,
                projection("self_attn.k_proj", Role::Key, keys)?,
                projection("self_attn.v_proj", Role::Value, keys)?,
            ]),
            output: linear("self_attn.o_proj", Role::AttentionOutput, d, d)?,
            heads: config.num_attention_heads,
            key_heads: config.num_key_value_heads,
            causal: true,
        },
        attention_around: around(Norm::rms(&path.at("input_layernorm"), d, eps), "self_attn")?,
        feed_forward: FeedForward {
            up: linear("mlp.up_proj", Role::MlpUp, d, wide)?,
            gate: Some(linear("mlp.gate_proj", Role::MlpGate, d, wide)?),
            down: linear("mlp.down_proj", Role::MlpDown, wide, d)?,
            activation: config.hidden_act,
        },
        feed_forward_around: around(
            Norm::rms(&path.at("post_attention_layernorm"), d, eps),
            "mlp",
        )?,
    })
}

/// Embeddings, pre-norm blocks, a last norm and the head over the vocabulary.
pub struct Decoder {
    config: DecoderConfig,
    words: Embedding,
    /// GPT-2's; LLaMA turns queries and keys instead.
    positions: Option<Embedding>,
    place: Place,
    blocks: Vec<Block>,
    norm: Norm,
    /// None: the word table.
    head: Option<Linear>,
}

impl Decoder {
    /// A new decoder; `path` is usually the store's root, since Hugging Face's names begin with `transformer.` or `model.`.
    ///
    /// # Errors
    /// Heads that do not divide, fewer key heads in GPT-2's family, or names that are taken.
    pub fn new(path: &Path, config: &DecoderConfig) -> Result<Self> {
        let (d, layers) = (config.hidden_size, config.num_hidden_layers);
        check_heads(d, config.num_attention_heads, config.num_key_value_heads)?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(Linear::no_bias(
                &path.at("lm_head"),
                Role::Other,
                layers,
                d,
                config.vocab_size,
            )?),
        };
        let (words, positions, place, blocks, norm);
        match config.family {
            Family::Gpt2 => {
                if config.num_key_value_heads != config.num_attention_heads {
                    return Err(Error::Invalid(
                        "GPT-2's family has as many key heads as heads".into(),
                    ));
                }
                let path = path.at("transformer");
                words = Embedding::new(&path.at("wte"), config.vocab_size, d)?;
                positions = Some(Embedding::new(
                    &path.at("wpe"),
                    config.max_position_embeddings,
                    d,
                )?);
                place = Place::embedding(&path.at("wte"), config.dropout);
                blocks = (0..layers)
                    .map(|i| gpt2_block(&path.at(format!("h.{i}")), i, config))
                    .collect::<Result<_>>()?;
                norm = Norm::layer(&path.at("ln_f"), d, config.norm_eps)?;
            }
            Family::Llama { .. } => {
                let path = path.at("model");
                words = Embedding::new(&path.at("embed_tokens"), config.vocab_size, d)?;
                positions = None;
                place = Place::embedding(&path.at("embed_tokens"), config.dropout);
                blocks = (0..layers)
                    .map(|i| llama_block(&path.at(format!("layers.{i}")), i, config))
                    .collect::<Result<_>>()?;
                norm = Norm::rms(&path.at("norm"), d, config.norm_eps)?;
            }
        }
        Ok(Decoder {
            config: config.clone(),
            words,
            positions,
            place,
            blocks,
            norm,
            head,
        })
    }

    /// The sizes.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Ids `[B, T]` to embeddings `[B, T, d]`. `positions` `[T]` or `[B, T]` stand for 0, 1, … (left-padded rows).
    ///
    /// # Errors
    /// Sequences longer than the model's, indices out of range.
    pub fn embed(&self, ctx: &Context, ids: &Tensor, positions: Option<&Tensor>) -> Result<Tensor> {
        let (len, most) = (ids.last_dim(), self.config.longest());
        if len > most {
            let what = match self.config.sliding_window {
                Some(window) if window == most => "tokens in attention's sliding window",
                _ => "positions",
            };
            return Err(Error::Invalid(format!(
                "decoder: sequences of {len} tokens, but there are {most} {what}; truncate"
            )));
        }
        let words = self.words.forward(ids)?;
        let x = match &self.positions {
            Some(table) => words.add(&table.forward(&placed(positions, len, ids)?)?)?,
            None => words,
        };
        self.place.finish(ctx, ids, x)
    }

    /// Blocks and the last norm over embeddings `[B, T, d]`; `ctx.mask` says which tokens are real, `positions` is as in
    /// [`Decoder::embed`].
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn body(&self, ctx: &Context, x: &Tensor, positions: Option<&Tensor>) -> Result<Tensor> {
        let rotation = self.rotation(x, positions)?;
        let x = self.blocks.iter().try_fold(x.clone(), |x, block| {
            block.forward(ctx, &x, rotation.as_ref())
        })?;
        self.norm.forward(&x)
    }

    /// An empty cache for [`Decoder::extend`].
    pub fn cache(&self) -> Vec<KeyValues> {
        self.blocks.iter().map(|_| KeyValues::default()).collect()
    }

    /// [`Decoder::body`] over embeddings `[B, T, d]` of tokens that follow those in `cache`, which they join; `positions` are
    /// their own, and `ctx.mask` says which of all tokens are real, the cache's first. For use without a tape ([`no_grad`]).
    ///
    /// # Errors
    /// Shapes that do not fit, or another model's cache.
    pub fn extend(
        &self,
        ctx: &Context,
        x: &Tensor,
        positions: &Tensor,
        cache: &mut [KeyValues],
    ) -> Result<Tensor> {
        let (blocks, kept) = (self.blocks.len(), cache.len());
        if blocks != kept {
            let detail = format!("decoder: a cache of {kept} blocks for a model of {blocks}");
            return Err(Error::Invalid(detail));
        }
        let rotation = self.rotation(x, Some(positions))?;
        let x = self
            .blocks
            .iter()
            .zip(cache)
            .try_fold(x.clone(), |x, (block, cache)| {
                block.extend(ctx, &x, rotation.as_ref(), cache)
            })?;
        self.norm.forward(&x)
    }

    /// The turn of queries and keys `[B, H, T, D]` at positions `[T]` or `[B, T]`, in LLaMA's family.
    fn rotation(&self, x: &Tensor, positions: Option<&Tensor>) -> Result<Option<Rotation>> {
        let Family::Llama { rope_theta } = self.config.family else {
            return Ok(None);
        };
        let width = self.config.hidden_size / self.config.num_attention_heads;
        let rotation = match positions {
            None if x.rank() == 3 => Rotation::first(x.shape()[1], width, rope_theta, x.device())?,
            Some(p) if p.rank() == 1 => Rotation::new(p, width, rope_theta)?,
            Some(p) if p.rank() == 2 => Rotation::new(&p.unsqueeze(1)?, width, rope_theta)?,
            Some(p) => {
                let detail = format!("positions are {:?}, wanted [T] or [B, T]", p.shape());
                return Err(Error::Invalid(detail));
            }
            None => return Ok(None),
        };
        Ok(Some(rotation))
    }

    /// Hidden states `[…, d]` to logits `[…, vocabulary]`.
    ///
    /// # Errors
    /// Hidden states of another width.
    pub fn head(&self, ctx: &Context, hidden: &Tensor) -> Result<Tensor> {
        match &self.head {
            Some(head) => head.forward(ctx, hidden),
            None => linear(hidden, &self.words.table(), None),
        }
    }

    /// Ids `[B, T]` to logits `[B, T, vocabulary]`; row t's predict token t + 1.
    ///
    /// # Errors
    /// As [`Decoder::embed`].
    pub fn forward(&self, ctx: &Context, ids: &Tensor) -> Result<Tensor> {
        let x = self.embed(ctx, ids, None)?;
        self.head(ctx, &self.body(ctx, &x, None)?)
    }
}

/// The given positions, or 0, 1, ….
fn placed(positions: Option<&Tensor>, len: usize, like: &Tensor) -> Result<Tensor> {
    positions.map_or_else(|| Tensor::arange(len, like.device()), |p| Ok(p.clone()))
}

/// Mean cross-entropy of each token given those before it: logits `[B, T, V]` of ids `[B, T]`, where `mask` `[B, T]`
/// (1 or 0) says which tokens are real and so asked for. A row's first token is never asked for.
///
/// # Errors
/// Shapes that do not fit, or no token to predict.
pub fn next_token_loss(logits: &Tensor, ids: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let &[batch, len] = ids.shape() else {
        return Err(Error::Invalid(format!(
            "next_token_loss: ids are {:?}, wanted [B, T]",
            ids.shape()
        )));
    };
    logits.expect_shape(
        "next_token_loss",
        "logits",
        &[batch, len, logits.last_dim()],
    )?;
    // Every row has a logit more than targets: the last one stays, with weight 0, so that nothing is copied. Ids and mask are taken
    // where they are, each from its right neighbour: nobody waits for them.
    let (n, device) = (batch * len, logits.device());
    let place = |i: usize| (i % len + 1).min(len - 1) as u32;
    let next = Tensor::from_slice(
        &(0..n).map(place).collect::<Vec<_>>(),
        &[batch, len],
        device,
    )?;
    let asked = |i: usize| if i % len + 1 < len { 1.0 } else { 0.0 };
    let asked: Vec<f32> = (0..n).map(asked).collect();
    let mut weights = Tensor::from_slice(&asked, &[batch, len], device)?;
    if let Some(mask) = mask {
        weights = weights.mul(&mask.to_device(device)?.take(&next)?)?;
    }
    let targets = ids.to_device(device)?.take(&next)?;
    let options = CrossEntropyOptions {
        weights: Some(weights.reshape(&[n])?),
        ..Default::default()
    };
    let logits = logits.reshape(&[n, logits.last_dim()])?;
    cross_entropy(&logits, &targets.reshape(&[n])?, &options)
}
