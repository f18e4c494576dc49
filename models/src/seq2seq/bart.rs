//! BART (Lewis et al. 2020): learned positions, norms behind the residual connections, a norm of the embeddings. Parameter names
//! are those of Hugging Face's `BartForConditionalGeneration`.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use super::blocks::{Attention, Block, OFFSET, Stack};
use super::{EncoderDecoder, Head, Tokens};
use crate::block::Residual;
use crate::hub::Config;
use crate::layers::{Embedding, Linear, Norm};
use crate::transformer::{Activation, FeedForward, Place, check_heads};

/// ε of every norm.
const EPS: f32 = 1e-5;

/// Sizes of one of BART's stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BartStack {
    /// Blocks.
    pub layers: usize,
    /// Heads per block; divides the width.
    pub heads: usize,
    /// Width of the feed-forward.
    pub inner: usize,
}

/// Sizes of a BART.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BartConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width `d`.
    pub d_model: usize,
    /// Sizes of the encoder.
    pub encoder: BartStack,
    /// Sizes of the decoder.
    pub decoder: BartStack,
    /// Longest source or target.
    pub max_position_embeddings: usize,
    /// Between the matrices of the feed-forward.
    pub activation_function: Activation,
    /// Whether word vectors are scaled by √d.
    pub scale_embedding: bool,
    /// Probability of dropping an element of the embeddings and of a sub-layer's output in training.
    pub dropout: f32,
    /// The decoder's first token.
    pub decoder_start_token_id: u32,
    /// Fills rows up.
    pub pad_token_id: u32,
}

impl BartConfig {
    /// Of a checkpoint's `config.json`. Attention probabilities are never dropped, whatever it says, and no block is skipped.
    ///
    /// # Errors
    /// A field that is missing or absurd, or a variant that the model here has not.
    pub fn from_hugging_face(config: &Config) -> Result<Self> {
        for (name, value) in [
            ("is_encoder_decoder", true),
            ("normalize_embedding", true),
            ("tie_word_embeddings", true),
            ("normalize_before", false),
            ("add_final_layer_norm", false),
            ("static_position_embeddings", false),
        ] {
            config.only(name, value)?;
        }
        let size = |name| config.size(&[name]);
        let token = |name, default| Ok::<_, Error>(config.size_if(&[name])?.unwrap_or(default));
        let stack = |side: &str| {
            Ok::<_, Error>(BartStack {
                layers: config.size(&[&format!("{side}_layers")])?,
                heads: config.size(&[&format!("{side}_attention_heads")])?,
                inner: config.size(&[&format!("{side}_ffn_dim")])?,
            })
        };
        Ok(BartConfig {
            vocab_size: size("vocab_size")?,
            d_model: size("d_model")?,
            encoder: stack("encoder")?,
            decoder: stack("decoder")?,
            max_position_embeddings: size("max_position_embeddings")?,
            activation_function: config.activation(&["activation_function"])?,
            scale_embedding: config.flag("scale_embedding", false)?,
            dropout: config.probability("dropout")?,
            decoder_start_token_id: token("decoder_start_token_id", 2)? as u32,
            pad_token_id: token("pad_token_id", 1)? as u32,
        })
    }

    /// The parameter of a checkpoint's tensor: a bare `BartModel` lacks the `model.`. None for copies of the word table.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        if name.ends_with(".embed_tokens.weight") || name == "lm_head.weight" {
            return None;
        }
        let bare = ["shared.", "encoder.", "decoder."];
        Some(match bare.iter().any(|part| name.starts_with(part)) {
            true => format!("model.{name}"),
            false => name.into(),
        })
    }

    fn attention(&self, path: &Path, layer: usize, heads: usize) -> Result<Attention> {
        let d = self.d_model;
        let linear = |leaf: &str, role| Linear::new(&path.at(leaf), role, layer, d, d);
        Ok(Attention {
            query: linear("q_proj", Role::Query)?,
            key: linear("k_proj", Role::Key)?,
            value: linear("v_proj", Role::Value)?,
            output: linear("out_proj", Role::AttentionOutput)?,
            heads,
            scale: None,
        })
    }

    fn residual(&self, path: &Path, norm: &str, place: &str, layer: usize) -> Result<Residual> {
        let norm = Norm::layer(&path.at(norm), self.d_model, EPS)?;
        let place = Place::sub_layer(&path.at(place), layer, self.dropout);
        Ok(Residual::after(norm, place))
    }

    fn block(&self, path: &Path, layer: usize, sizes: &BartStack, decoder: bool) -> Result<Block> {
        let (d, inner) = (self.d_model, sizes.inner);
        let attention = |leaf: &str| self.attention(&path.at(leaf), layer, sizes.heads);
        let residual = |leaf: &str, place| {
            let norm = format!("{leaf}_layer_norm");
            self.residual(path, &norm, place, layer)
        };
        let cross = || {
            let around = residual("encoder_attn", "encoder_attn")?;
            Ok::<_, Error>((attention("encoder_attn")?, around))
        };
        Ok(Block {
            path: path.prefix().into(),
            attention: attention("self_attn")?,
            attention_around: residual("self_attn", "self_attn")?,
            cross: decoder.then(cross).transpose()?,
            feed_forward: FeedForward {
                up: Linear::new(&path.at("fc1"), Role::MlpUp, layer, d, inner)?,
                gate: None,
                down: Linear::new(&path.at("fc2"), Role::MlpDown, layer, inner, d)?,
                activation: self.activation_function,
            },
            feed_forward_around: residual("final", "mlp")?,
        })
    }

    fn stack(&self, path: &Path, sizes: &BartStack, decoder: bool) -> Result<Stack> {
        let (d, positions) = (self.d_model, self.max_position_embeddings + OFFSET);
        check_heads(d, sizes.heads, sizes.heads)?;
        Ok(Stack {
            scale: match self.scale_embedding {
                true => (d as f64).sqrt(),
                false => 1.0,
            },
            positions: Some(Embedding::new(&path.at("embed_positions"), positions, d)?),
            first_norm: Some(Norm::layer(&path.at("layernorm_embedding"), d, EPS)?),
            place: Place::embedding(&path.at("embed_tokens"), self.dropout),
            relative: None,
            blocks: (0..sizes.layers)
                .map(|i| self.block(&path.at(format!("layers.{i}")), i, sizes, decoder))
                .collect::<Result<_>>()?,
            last_norm: None,
            causal: decoder,
        })
    }
}

impl EncoderDecoder {
    /// A new BART; `path` is usually the store's root, since Hugging Face's names begin with `model.`.
    ///
    /// # Errors
    /// Heads that do not divide, or names that are taken.
    pub fn bart(path: &Path, config: &BartConfig) -> Result<Self> {
        let (model, words) = (path.at("model"), config.vocab_size);
        let bias = path.param("final_logits_bias", &[1, words], Init::ZEROS)?;
        bias.set_trained(false);
        // It is added, as no matrix is.
        bias.convert(DType::F32)?;
        Ok(EncoderDecoder {
            words: Embedding::new(&model.at("shared"), words, config.d_model)?,
            encoder: config.stack(&model.at("encoder"), &config.encoder, false)?,
            decoder: config.stack(&model.at("decoder"), &config.decoder, true)?,
            head: Head {
                own: None,
                scale: 1.0,
                bias: Some(bias),
            },
            tokens: Tokens {
                start: config.decoder_start_token_id,
                pad: config.pad_token_id,
                longest: Some(config.max_position_embeddings),
            },
        })
    }
}
