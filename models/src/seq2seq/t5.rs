//! T5 (Raffel et al. 2020) and its version 1.1: norms before the sub-layers and without a mean, positions by a bias of attention
//! that all blocks share, scores that are not scaled, no biases. Parameter names are those of Hugging Face's
//! `T5ForConditionalGeneration`.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use super::blocks::{Attention, Block, RelativeBias, Stack};
use super::{EncoderDecoder, Head, Tokens};
use crate::block::Residual;
use crate::hub::Config;
use crate::layers::{Embedding, Linear, Norm};
use crate::transformer::{Activation, FeedForward, Place};

/// Sizes of a T5.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct T5Config {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width `d`.
    pub d_model: usize,
    /// Width of a head; the heads together need not be as wide as the model.
    pub d_kv: usize,
    /// Width of the feed-forward.
    pub d_ff: usize,
    /// Blocks of the encoder.
    pub num_layers: usize,
    /// Blocks of the decoder.
    pub num_decoder_layers: usize,
    /// Heads per block.
    pub num_heads: usize,
    /// Rows of the table of distances.
    pub relative_attention_num_buckets: usize,
    /// Distances from here on share the last bucket.
    pub relative_attention_max_distance: usize,
    /// Between the matrices of the feed-forward.
    pub activation: Activation,
    /// Whether the feed-forward has a gate, as from version 1.1 on.
    pub gated: bool,
    /// ε of the norms.
    pub layer_norm_epsilon: f32,
    /// Whether the word table is the output matrix too; hidden states are then scaled by 1/√d before it.
    pub tied: bool,
    /// Probability of dropping an element of the embeddings and of a sub-layer's output in training.
    pub dropout_rate: f32,
    /// The decoder's first token.
    pub decoder_start_token_id: u32,
    /// Fills rows up.
    pub pad_token_id: u32,
}

impl T5Config {
    /// Of a checkpoint's `config.json`. Attention probabilities are never dropped, whatever it says.
    ///
    /// # Errors
    /// A field that is missing or absurd, or a variant that the model here has not.
    pub fn from_hugging_face(config: &Config) -> Result<Self> {
        config.only("is_encoder_decoder", true)?;
        let size = |name| config.size(&[name]);
        let or = |name, default| Ok::<_, Error>(config.size_if(&[name])?.unwrap_or(default));
        let (layers, pad) = (size("num_layers")?, or("pad_token_id", 0)? as u32);
        let (activation, gated) = match config.text("feed_forward_proj")?.unwrap_or("relu") {
            "relu" => (Activation::Relu, false),
            "gated-gelu" => (Activation::GeluTanh, true),
            "gated-silu" => (Activation::Silu, true),
            other => {
                let detail = format!("is `{other}`; wanted relu, gated-gelu or gated-silu");
                return Err(config.refuse("feed_forward_proj", detail));
            }
        };
        // Newer files call every model tied, and say of version 1.1 that it does not scale.
        let tied = config.flag("tie_word_embeddings", true)?
            && config.flag("scale_decoder_outputs", true)?;
        let sizes = T5Config {
            vocab_size: size("vocab_size")?,
            d_model: size("d_model")?,
            d_kv: size("d_kv")?,
            d_ff: size("d_ff")?,
            num_layers: layers,
            num_decoder_layers: or("num_decoder_layers", layers)?,
            num_heads: size("num_heads")?,
            relative_attention_num_buckets: or("relative_attention_num_buckets", 32)?,
            relative_attention_max_distance: or("relative_attention_max_distance", 128)?,
            activation,
            gated,
            layer_norm_epsilon: config.number("layer_norm_epsilon")?.unwrap_or(1e-6) as f32,
            tied,
            dropout_rate: config.probability("dropout_rate")?,
            decoder_start_token_id: or("decoder_start_token_id", pad as usize)? as u32,
            pad_token_id: pad,
        };
        let refuse = |field: &'static str| move |e: Error| config.refuse(field, e);
        sizes.check_heads().map_err(refuse("num_heads"))?;
        sizes
            .check_buckets()
            .map_err(refuse("relative_attention_num_buckets"))?;
        Ok(sizes)
    }

    fn check_heads(&self) -> Result<()> {
        let (heads, width) = (self.num_heads, self.d_kv);
        if heads > 0 && width > 0 {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "{heads} attention heads of width {width}: wanted at least one of each"
        )))
    }

    fn check_buckets(&self) -> Result<()> {
        let (buckets, farthest) = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        );
        if buckets >= 4 && buckets.is_multiple_of(2) && farthest > buckets / 2 {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "{buckets} buckets of distances up to {farthest}: wanted an even number of at least 4, and more distances than half of it"
        )))
    }

    /// The parameter of a checkpoint's tensor; None for copies of the word table and a table that no release uses.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
        let copy = name.ends_with(".embed_tokens.weight")
            || (self.tied && name == "lm_head.weight")
            || name == unused;
        (!copy).then(|| name.into())
    }

    fn attention(&self, path: &Path, layer: usize) -> Result<Attention> {
        let (d, wide) = (self.d_model, self.num_heads * self.d_kv);
        let linear = |leaf: &str, role, inputs, outputs| {
            Linear::no_bias(&path.at(leaf), role, layer, inputs, outputs)
        };
        Ok(Attention {
            query: linear("q", Role::Query, d, wide)?,
            key: linear("k", Role::Key, d, wide)?,
            value: linear("v", Role::Value, d, wide)?,
            output: linear("o", Role::AttentionOutput, wide, d)?,
            heads: self.num_heads,
            scale: Some(1.0),
        })
    }

    fn feed_forward(&self, path: &Path, layer: usize) -> Result<FeedForward> {
        let (d, wide) = (self.d_model, self.d_ff);
        let linear = |leaf: &str, role, inputs, outputs| {
            Linear::no_bias(&path.at(leaf), role, layer, inputs, outputs)
        };
        let gate = || linear("wi_0", Role::MlpGate, d, wide);
        let up = if self.gated { "wi_1" } else { "wi" };
        Ok(FeedForward {
            up: linear(up, Role::MlpUp, d, wide)?,
            gate: self.gated.then(gate).transpose()?,
            down: linear("wo", Role::MlpDown, wide, d)?,
            activation: self.activation,
        })
    }

    fn residual(&self, path: &Path, layer: usize) -> Result<Residual> {
        let (d, eps) = (self.d_model, self.layer_norm_epsilon);
        let norm = Norm::rms(&path.at("layer_norm"), d, eps)?;
        Ok(Residual::before(
            norm,
            Place::sub_layer(path, layer, self.dropout_rate),
        ))
    }

    fn block(&self, path: &Path, layer: usize, decoder: bool) -> Result<Block> {
        let part = |i: usize| path.at(format!("layer.{i}"));
        let last = if decoder { part(2) } else { part(1) };
        let cross = || {
            let attention = self.attention(&part(1).at("EncDecAttention"), layer)?;
            Ok::<_, Error>((attention, self.residual(&part(1), layer)?))
        };
        Ok(Block {
            path: path.prefix().into(),
            attention: self.attention(&part(0).at("SelfAttention"), layer)?,
            attention_around: self.residual(&part(0), layer)?,
            cross: decoder.then(cross).transpose()?,
            feed_forward: self.feed_forward(&last.at("DenseReluDense"), layer)?,
            feed_forward_around: self.residual(&last, layer)?,
        })
    }

    fn stack(&self, path: &Path, layers: usize, decoder: bool) -> Result<Stack> {
        let (d, buckets) = (self.d_model, self.relative_attention_num_buckets);
        let table = path.at("block.0.layer.0.SelfAttention.relative_attention_bias");
        Ok(Stack {
            scale: 1.0,
            positions: None,
            first_norm: None,
            place: Place::embedding(&path.at("embed_tokens"), self.dropout_rate),
            relative: Some(RelativeBias {
                table: Embedding::new(&table, buckets, self.num_heads)?,
                buckets,
                farthest: self.relative_attention_max_distance,
                both_ways: !decoder,
            }),
            blocks: (0..layers)
                .map(|i| self.block(&path.at(format!("block.{i}")), i, decoder))
                .collect::<Result<_>>()?,
            last_norm: Some(Norm::rms(
                &path.at("final_layer_norm"),
                d,
                self.layer_norm_epsilon,
            )?),
            causal: decoder,
        })
    }
}

impl EncoderDecoder {
    /// A new T5; `path` is usually the store's root.
    ///
    /// # Errors
    /// No heads, too few buckets, or names that are taken.
    pub fn t5(path: &Path, config: &T5Config) -> Result<Self> {
        config.check_heads()?;
        config.check_buckets()?;
        let (d, words) = (config.d_model, config.vocab_size);
        let (encoder, decoder) = (config.num_layers, config.num_decoder_layers);
        let own = || Linear::no_bias(&path.at("lm_head"), Role::Other, decoder, d, words);
        Ok(EncoderDecoder {
            words: Embedding::new(&path.at("shared"), words, d)?,
            encoder: config.stack(&path.at("encoder"), encoder, false)?,
            decoder: config.stack(&path.at("decoder"), decoder, true)?,
            head: Head {
                own: (!config.tied).then(own).transpose()?,
                scale: match config.tied {
                    true => (d as f64).powf(-0.5),
                    false => 1.0,
                },
                bias: None,
            },
            tokens: Tokens {
                start: config.decoder_start_token_id,
                pad: config.pad_token_id,
                longest: None,
            },
        })
    }
}
