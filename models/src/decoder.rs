//! Transformer decoders that predict the next token: GPT-2's shape (Radford et al. 2019: learned positions, layer norm, one
//! matrix for query, key and value) and LLaMA's (Touvron et al. 2023: RMS norm, rotary positions, gated feed-forward, no
//! biases, keys and values that may be shared by several heads). Parameter names are those of Hugging Face's
//! `GPT2LMHeadModel` and `LlamaForCausalLM`.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use crate::layers::{Embedding, FusedQkv, Linear, Norm};
use crate::transformer::{
    Activation, FeedForward, Place, PreNormBlock, Projections, Rotation, SelfAttention, check_heads,
};

/// Which family's block a decoder has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Family {
    /// Learned positions, layer norm, biases, a fused qkv.
    Gpt2,
    /// RMS norm, rotary positions of base `rope_theta`, a gated feed-forward, no biases.
    Llama {
        /// Base of the angles, 10,000 in the first models.
        rope_theta: f64,
    },
}

/// Sizes of a decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// Which block.
    pub family: Family,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width `d`.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads per block; divides the width.
    pub num_attention_heads: usize,
    /// Heads of keys and values; divides the heads. GPT-2's family has as many as heads.
    pub num_key_value_heads: usize,
    /// Width of the feed-forward.
    pub intermediate_size: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// ε of the norms.
    pub norm_eps: f32,
    /// Between the matrices of the feed-forward.
    pub hidden_act: Activation,
    /// Whether the word table is the output matrix too.
    pub tie_word_embeddings: bool,
    /// Probability of dropping an element of the embeddings and of a sub-layer's output in training.
    pub dropout: f32,
}

impl DecoderConfig {
    /// GPT-2's shape: feed-forward of 4d, tanh GELU, tied head.
    pub fn gpt2(
        vocab_size: usize,
        hidden_size: usize,
        layers: usize,
        heads: usize,
        positions: usize,
    ) -> Self {
        DecoderConfig {
            family: Family::Gpt2,
            vocab_size,
            hidden_size,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            intermediate_size: 4 * hidden_size,
            max_position_embeddings: positions,
            norm_eps: 1e-5,
            hidden_act: Activation::GeluTanh,
            tie_word_embeddings: true,
            dropout: 0.0,
        }
    }

    /// LLaMA's shape: gated feed-forward of 8d/3 rounded up to 16, as many key heads as heads, a head of its own.
    pub fn llama(
        vocab_size: usize,
        hidden_size: usize,
        layers: usize,
        heads: usize,
        positions: usize,
    ) -> Self {
        DecoderConfig {
            family: Family::Llama {
                rope_theta: 10_000.0,
            },
            intermediate_size: (8 * hidden_size).div_ceil(3).next_multiple_of(16),
            norm_eps: 1e-6,
            hidden_act: Activation::Silu,
            tie_word_embeddings: false,
            ..Self::gpt2(vocab_size, hidden_size, layers, heads, positions)
        }
    }
}

/// What is read of Hugging Face's `config.json`, under both families' names.
#[derive(Deserialize)]
struct Published {
    model_type: String,
    vocab_size: usize,
    #[serde(alias = "n_embd")]
    hidden_size: usize,
    #[serde(alias = "n_layer")]
    num_hidden_layers: usize,
    #[serde(alias = "n_head")]
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    #[serde(alias = "n_inner")]
    intermediate_size: Option<usize>,
    #[serde(alias = "n_positions")]
    max_position_embeddings: usize,
    #[serde(alias = "layer_norm_epsilon")]
    rms_norm_eps: Option<f32>,
    #[serde(alias = "activation_function")]
    hidden_act: Activation,
    tie_word_embeddings: Option<bool>,
    resid_pdrop: Option<f32>,
    rope_theta: Option<f64>,
    #[serde(alias = "rope_scaling")]
    rope_parameters: Option<Rope>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    head_dim: Option<usize>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

impl DecoderConfig {
    /// From the text of a checkpoint's `config.json`.
    ///
    /// # Errors
    /// A model of another type, or a variant that the blocks here do not have: biases in LLaMA, scaled rotary positions,
    /// heads that do not span the width.
    pub fn from_hugging_face(json: &str) -> Result<Self> {
        let refuse = |detail: String| Error::Invalid(format!("config.json: {detail}"));
        let p: Published = serde_json::from_str(json).map_err(|e| refuse(e.to_string()))?;
        let rope = p.rope_parameters.as_ref();
        let scaled = rope
            .and_then(|r| r.rope_type.as_deref())
            .unwrap_or("default");
        if p.attention_bias || p.mlp_bias || scaled != "default" {
            let detail = format!(
                "biases (attention {}, feed-forward {}) or rotary positions of type `{scaled}`",
                p.attention_bias, p.mlp_bias
            );
            return Err(refuse(format!("{detail} are not supported")));
        }
        if p.head_dim
            .is_some_and(|width| width * p.num_attention_heads != p.hidden_size)
        {
            return Err(refuse(format!(
                "{} heads of {:?} do not span the width {}",
                p.num_attention_heads, p.head_dim, p.hidden_size
            )));
        }
        let (llama, theta) = match p.model_type.as_str() {
            "gpt2" => (false, 0.0),
            "llama" => (
                true,
                rope.and_then(|r| r.rope_theta)
                    .or(p.rope_theta)
                    .unwrap_or(10_000.0),
            ),
            other => {
                return Err(refuse(format!(
                    "model_type `{other}`; wanted gpt2 or llama"
                )));
            }
        };
        Ok(DecoderConfig {
            family: if llama {
                Family::Llama { rope_theta: theta }
            } else {
                Family::Gpt2
            },
            vocab_size: p.vocab_size,
            hidden_size: p.hidden_size,
            num_hidden_layers: p.num_hidden_layers,
            num_attention_heads: p.num_attention_heads,
            num_key_value_heads: p.num_key_value_heads.unwrap_or(p.num_attention_heads),
            intermediate_size: p.intermediate_size.unwrap_or(4 * p.hidden_size),
            max_position_embeddings: p.max_position_embeddings,
            norm_eps: p.rms_norm_eps.unwrap_or(if llama { 1e-6 } else { 1e-5 }),
            hidden_act: p.hidden_act,
            tie_word_embeddings: p.tie_word_embeddings.unwrap_or(!llama),
            dropout: p.resid_pdrop.unwrap_or(0.0),
        })
    }
}

fn gpt2_block(path: &Path, layer: usize, config: &DecoderConfig) -> Result<PreNormBlock> {
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
    Ok(PreNormBlock {
        path: path.prefix().into(),
        attention_norm: Norm::layer(&path.at("ln_1"), d, eps)?,
        attention: SelfAttention {
            projections: Projections::Fused(FusedQkv::new(&path.at("attn.c_attn"), layer, d, d)?),
            output: conv("attn.c_proj", Role::AttentionOutput, d, d, narrow)?,
            heads: config.num_attention_heads,
            key_heads: config.num_attention_heads,
            causal: true,
        },
        attention_place: Place::sub_layer(&path.at("attn"), layer, config.dropout),
        feed_forward_norm: Norm::layer(&path.at("ln_2"), d, eps)?,
        feed_forward: FeedForward {
            up: conv("mlp.c_fc", Role::MlpUp, d, wide, 0.02)?,
            gate: None,
            down: conv("mlp.c_proj", Role::MlpDown, wide, d, narrow)?,
            activation: config.hidden_act,
        },
        feed_forward_place: Place::sub_layer(&path.at("mlp"), layer, config.dropout),
    })
}

fn llama_block(path: &Path, layer: usize, config: &DecoderConfig) -> Result<PreNormBlock> {
    let (d, wide, eps) = (
        config.hidden_size,
        config.intermediate_size,
        config.norm_eps,
    );
    let keys = d / config.num_attention_heads * config.num_key_value_heads;
    let linear = |leaf: &str, role, inputs, outputs| {
        Linear::no_bias(&path.at(leaf), role, layer, inputs, outputs)
    };
    Ok(PreNormBlock {
        path: path.prefix().into(),
        attention_norm: Norm::rms(&path.at("input_layernorm"), d, eps)?,
        attention: SelfAttention {
            projections: Projections::Separate([
                linear("self_attn.q_proj", Role::Query, d, d)?,
                linear("self_attn.k_proj", Role::Key, d, keys)?,
                linear("self_attn.v_proj", Role::Value, d, keys)?,
            ]),
            output: linear("self_attn.o_proj", Role::AttentionOutput, d, d)?,
            heads: config.num_attention_heads,
            key_heads: config.num_key_value_heads,
            causal: true,
        },
        attention_place: Place::sub_layer(&path.at("self_attn"), layer, config.dropout),
        feed_forward_norm: Norm::rms(&path.at("post_attention_layernorm"), d, eps)?,
        feed_forward: FeedForward {
            up: linear("mlp.up_proj", Role::MlpUp, d, wide)?,
            gate: Some(linear("mlp.gate_proj", Role::MlpGate, d, wide)?),
            down: linear("mlp.down_proj", Role::MlpDown, wide, d)?,
            activation: config.hidden_act,
        },
        feed_forward_place: Place::sub_layer(&path.at("mlp"), layer, config.dropout),
    })
}

/// Embeddings, pre-norm blocks, a last norm and the head over the vocabulary.
pub struct Decoder {
    config: DecoderConfig,
    words: Embedding,
    /// GPT-2's; LLaMA turns queries and keys instead.
    positions: Option<Embedding>,
    place: Place,
    blocks: Vec<PreNormBlock>,
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
        let (len, most) = (ids.last_dim(), self.config.max_position_embeddings);
        if len > most {
            return Err(Error::Invalid(format!(
                "decoder: sequences of {len} tokens, but there are {most} positions; truncate"
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
        let rotation = match self.config.family {
            Family::Llama { rope_theta } if x.rank() == 3 => {
                let width = self.config.hidden_size / self.config.num_attention_heads;
                Some(Rotation::new(
                    &placed(positions, x.shape()[1], x)?,
                    width,
                    rope_theta,
                )?)
            }
            _ => None,
        };
        let x = self.blocks.iter().try_fold(x.clone(), |x, block| {
            block.forward(ctx, &x, rotation.as_ref())
        })?;
        self.norm.forward(&x)
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

    /// Continues `prompt` by at most `options.new_tokens` tokens; every one is computed from the whole text so far, of
    /// which the model sees the last `max_position_embeddings` tokens. Returns the new tokens, the end token included.
    ///
    /// # Errors
    /// An empty prompt, tokens out of range, a temperature below 0.
    pub fn generate(&self, prompt: &[u32], options: &Generation) -> Result<Vec<u32>> {
        if prompt.is_empty() || options.temperature.is_nan() || options.temperature < 0.0 {
            let detail = format!(
                "generate: a prompt of {} tokens at temperature {}",
                prompt.len(),
                options.temperature
            );
            return Err(Error::Invalid(format!(
                "{detail}; wanted at least one token and a temperature of 0 or more"
            )));
        }
        let (device, mut text) = (self.words.table().device().clone(), prompt.to_vec());
        for step in 0..options.new_tokens {
            let seen = &text[text
                .len()
                .saturating_sub(self.config.max_position_embeddings)..];
            let ids = Tensor::from_slice(seen, &[1, seen.len()], &device)?;
            let logits = no_grad(|| {
                let hidden = self.body(
                    &Context::eval(),
                    &self.embed(&Context::eval(), &ids, None)?,
                    None,
                )?;
                self.head(&Context::eval(), &hidden.narrow(1, seen.len() - 1, 1)?)
            })?;
            let key = RandomKey {
                step: step as u64,
                ..RandomKey::new(options.seed, Purpose::Sample, "generate")
            };
            let u = Tensor::random(&[], Distribution::Uniform, key, &device)?.item()?;
            let token = pick(&logits.to_vec::<f64>()?, options.temperature, u);
            text.push(token);
            if options.end == Some(token) {
                break;
            }
        }
        Ok(text.split_off(prompt.len()))
    }
}

/// How [`Decoder::generate`] goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The most tokens to add.
    pub new_tokens: usize,
    /// 0 takes the likeliest token; else tokens are drawn from softmax(logits / temperature).
    pub temperature: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// A token that ends the text.
    pub end: Option<u32>,
}

/// The likeliest token (the first of equals), or the one at `u` in [0, 1) of softmax(logits / temperature).
fn pick(logits: &[f64], temperature: f64, u: f64) -> u32 {
    let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    if temperature == 0.0 {
        return best as u32;
    }
    let weights: Vec<f64> = logits
        .iter()
        .map(|z| ((z - logits[best]) / temperature).exp())
        .collect();
    let mut left = u * weights.iter().sum::<f64>();
    let drawn = weights.iter().position(|w| {
        left -= w;
        left < 0.0
    });
    drawn.unwrap_or(best) as u32
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
    let (ids, asked) = (
        ids.to_vec::<u32>()?,
        mask.map(Tensor::to_vec::<f32>).transpose()?,
    );
    // Every row has a logit more than targets: the last one stays, with weight 0, so that nothing is copied.
    let (mut targets, mut weights) = (vec![0; batch * len], vec![0.0f32; batch * len]);
    for i in (0..batch * len).filter(|i| i % len + 1 < len) {
        targets[i] = ids[i + 1];
        weights[i] = asked.as_ref().map_or(1.0, |m| m[i + 1]);
    }
    let (n, device) = (batch * len, logits.device());
    let options = CrossEntropyOptions {
        weights: Some(Tensor::from_slice(&weights, &[n], device)?),
        ..Default::default()
    };
    let logits = logits.reshape(&[n, logits.last_dim()])?;
    cross_entropy(
        &logits,
        &Tensor::from_slice(&targets, &[n], device)?,
        &options,
    )
}
