//! Sizes of a decoder, and how they are read from a checkpoint's `config.json`.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use crate::transformer::Activation;

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
    /// From the text of a checkpoint's `config.json`. Attention probabilities are never dropped, whatever it says.
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
