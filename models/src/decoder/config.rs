//! Sizes of a decoder, and how they are read from a checkpoint's `config.json`.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use crate::hub::Config;
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
    /// Number of positions.
    pub max_position_embeddings: usize,
    /// ε of the norms.
    pub norm_eps: f32,
    /// Between the matrices of the feed-forward.
    pub hidden_act: Activation,
    /// Whether the word table is the output matrix too.
    pub tie_word_embeddings: bool,
    /// Probability of dropping an element of the embeddings and of a sub-layer's output in training.
    pub dropout: f32,
    /// Whether query, key and value have biases in LLaMA's family, as in Qwen2.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub qkv_bias: bool,
    /// How many tokens attention sees at once, where fewer than all, as in Mistral; longer sequences are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
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
            qkv_bias: false,
            sliding_window: None,
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

impl DecoderConfig {
    /// Of a checkpoint's `config.json`. Attention probabilities are never dropped, whatever it says.
    ///
    /// # Errors
    /// A field that is missing or absurd; a variant that the blocks here have not: other biases than Qwen2's, scaled or partial
    /// rotary positions, heads that do not span the width, attention scaled by layer.
    pub fn from_hugging_face(config: &Config) -> Result<Self> {
        let model = config.text("model_type")?.unwrap_or_default();
        let gpt2 = model == "gpt2";
        for (field, supported) in [
            ("attention_bias", false),
            ("mlp_bias", false),
            ("add_cross_attention", false),
            ("scale_attn_weights", true),
            ("scale_attn_by_inverse_layer_idx", false),
        ] {
            config.only(field, supported)?;
        }
        config.only("partial_rotary_factor", 1.0)?;
        let hidden_size = config.size(&["hidden_size", "n_embd"])?;
        let heads = config.size(&["num_attention_heads", "n_head"])?;
        if let Some(width) = config.size_if(&["head_dim"])?
            && width.checked_mul(heads) != Some(hidden_size)
        {
            let detail = format!("is {width}: {heads} heads do not span the width {hidden_size}");
            return Err(config.refuse("head_dim", detail));
        }
        let family = match gpt2 {
            true => Family::Gpt2,
            false => Family::Llama {
                rope_theta: rope_theta(config)?,
            },
        };
        Ok(DecoderConfig {
            family,
            vocab_size: config.size(&["vocab_size"])?,
            hidden_size,
            num_hidden_layers: config.size(&["num_hidden_layers", "n_layer"])?,
            num_attention_heads: heads,
            num_key_value_heads: config.size_if(&["num_key_value_heads"])?.unwrap_or(heads),
            intermediate_size: match config.size_if(&["intermediate_size", "n_inner"])? {
                Some(size) => size,
                None => 4 * hidden_size,
            },
            max_position_embeddings: config.size(&["max_position_embeddings", "n_positions"])?,
            norm_eps: match gpt2 {
                true => config.number("layer_norm_epsilon")?.unwrap_or(1e-5),
                false => config.number("rms_norm_eps")?.unwrap_or(1e-6),
            } as f32,
            hidden_act: config.activation(&["hidden_act", "activation_function"])?,
            tie_word_embeddings: config.flag("tie_word_embeddings", gpt2)?,
            dropout: config.probability("resid_pdrop")?,
            qkv_bias: model == "qwen2",
            sliding_window: sliding_window(config, model)?,
        })
    }

    /// The longest sequence: as many tokens as there are positions, or as a sliding window shows at once.
    pub fn longest(&self) -> usize {
        let positions = self.max_position_embeddings;
        self.sliding_window
            .map_or(positions, |window| window.min(positions))
    }

    /// The parameter of a checkpoint's tensor: a bare model lacks the `transformer.` or `model.`. None for buffers and for a copy of
    /// the word table.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let buffers = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];
        let copy = self.tie_word_embeddings && name == "lm_head.weight";
        if copy || buffers.iter().any(|end| name.ends_with(end)) {
            return None;
        }
        let (prefix, bare): (_, &[&str]) = match self.family {
            Family::Gpt2 => ("transformer", &["wte.", "wpe.", "h.", "ln_f."]),
            Family::Llama { .. } => ("model", &["embed_tokens.", "layers.", "norm."]),
        };
        Some(match bare.iter().any(|part| name.starts_with(part)) {
            true => format!("{prefix}.{name}"),
            false => name.into(),
        })
    }
}

/// The base of rotary angles, which files have had in three places.
fn rope_theta(config: &Config) -> Result<f64> {
    let mut theta = config.number("rope_theta")?;
    for field in ["rope_parameters", "rope_scaling"] {
        let Some(rope) = config.within(field)? else {
            continue;
        };
        for kind in ["rope_type", "type"] {
            rope.only(kind, "default")?;
        }
        rope.only("partial_rotary_factor", 1.0)?;
        theta = rope.number("rope_theta")?.or(theta);
    }
    match theta.unwrap_or(10_000.0) {
        theta if theta > 0.0 && theta.is_finite() => Ok(theta),
        theta => Err(config.refuse(
            "rope_theta",
            format!("is {theta}; wanted a positive number"),
        )),
    }
}

/// How many tokens back attention sees, where not all. Qwen2's configurations name a window that is mostly not in use.
fn sliding_window(config: &Config, model: &str) -> Result<Option<usize>> {
    let used = match config.get("layer_types") {
        Some(types) => {
            let types = types.as_array().into_iter().flatten();
            let mut slides = false;
            for kind in types {
                match kind.as_str() {
                    Some("full_attention") => {}
                    Some("sliding_attention") => slides = true,
                    _ => {
                        return Err(config
                            .refuse("layer_types", format!("has {kind}, which is not supported")));
                    }
                }
            }
            slides
        }
        None => config.flag("use_sliding_window", model == "mistral")?,
    };
    Ok(config.size_if(&["sliding_window"])?.filter(|_| used))
}
