//! DeBERTaV3 (He et al. 2023; disentangled attention of He et al. 2021): an encoder whose scores depend on contents and on
//! relative positions apart, and that has no absolute ones.
//!
//! ```text
//! score(i, j) = (q_i·k_j + q_i·κ_δ(i,j) + k_j·ρ_δ(i,j)) / √(3D)      κ = key(R)   ρ = query(R)
//! ```
//!
//! R are embeddings of relative positions, one table for all blocks, behind a norm; δ(i, j) is the bucket of i − j. Parameter
//! names are those of Hugging Face's `DebertaV2ForSequenceClassification`.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use crate::block::{Block, Residual};
use crate::encoder::TextEncoder;
use crate::hub::Config;
use crate::layers::{Embedding, Linear, Norm};
use crate::transformer::{Activation, FeedForward, Place, check_heads, merge, split};

/// Sizes of a DeBERTa.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DebertaConfig {
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
    /// Number of segment types; 0 for none.
    pub type_vocab_size: usize,
    /// Buckets of relative positions in each direction; half of them hold one each.
    pub position_buckets: usize,
    /// Relative positions from here on share the last bucket.
    pub max_relative_positions: usize,
    /// ε of the norms.
    pub layer_norm_eps: f32,
    /// Between the two matrices of the feed-forward.
    pub hidden_act: Activation,
    /// Behind the pooler's matrix.
    pub pooler_hidden_act: Activation,
    /// Probability of dropping an element of the embeddings and of a sub-layer's output in training.
    pub hidden_dropout_prob: f32,
}

impl DebertaConfig {
    /// Of a checkpoint's `config.json`. Attention probabilities are never dropped, whatever it says.
    ///
    /// # Errors
    /// A field that is missing or absurd, or a variant that the model here has not: convolutions, absolute positions, projections
    /// of positions of their own, other kinds of disentangled attention.
    pub fn from_hugging_face(config: &Config) -> Result<Self> {
        config.only("conv_kernel_size", 0)?;
        let size = |name| config.size(&[name]);
        for (name, wanted, default) in [
            ("relative_attention", true, false),
            ("share_att_key", true, false),
            ("position_biased_input", false, true),
        ] {
            if config.flag(name, default)? != wanted {
                let detail = format!("is {}; only {wanted} is supported", !wanted);
                return Err(config.refuse(name, detail));
            }
        }
        let kinds = match config.get("pos_att_type") {
            Some(serde_json::Value::String(text)) => text.split('|').map(str::to_string).collect(),
            Some(serde_json::Value::Array(list)) => list
                .iter()
                .map(|kind| kind.as_str().unwrap_or_default().to_string())
                .collect(),
            _ => vec![],
        };
        let has = |kind: &str| kinds.iter().any(|k: &String| k.trim() == kind);
        if kinds.len() != 2 || !has("c2p") || !has("p2c") {
            return Err(config.refuse("pos_att_type", format!("is {kinds:?}; wanted c2p and p2c")));
        }
        if config.text("norm_rel_ebd")? != Some("layer_norm") {
            return Err(config.refuse("norm_rel_ebd", "is not layer_norm, which is wanted"));
        }
        let (hidden, longest) = (size("hidden_size")?, size("max_position_embeddings")?);
        config.only("embedding_size", hidden)?;
        config.only("pooler_hidden_size", hidden)?;
        // −1 stands for the longest sequence.
        let farthest = config.number("max_relative_positions")?.unwrap_or(-1.0);
        let sizes = DebertaConfig {
            vocab_size: size("vocab_size")?,
            hidden_size: hidden,
            num_hidden_layers: size("num_hidden_layers")?,
            num_attention_heads: size("num_attention_heads")?,
            intermediate_size: size("intermediate_size")?,
            max_position_embeddings: longest,
            type_vocab_size: config.size_if(&["type_vocab_size"])?.unwrap_or(0),
            position_buckets: size("position_buckets")?,
            max_relative_positions: match farthest < 1.0 {
                true => longest,
                false => size("max_relative_positions")?,
            },
            layer_norm_eps: config.number("layer_norm_eps")?.unwrap_or(1e-7) as f32,
            hidden_act: config.activation(&["hidden_act"])?,
            pooler_hidden_act: match config.get("pooler_hidden_act") {
                Some(_) => config.activation(&["pooler_hidden_act"])?,
                None => Activation::Gelu,
            },
            hidden_dropout_prob: config.probability("hidden_dropout_prob")?,
        };
        sizes
            .check()
            .map_err(|e| config.refuse("position_buckets", e))?;
        Ok(sizes)
    }

    fn check(&self) -> Result<()> {
        let (buckets, farthest) = (self.position_buckets, self.max_relative_positions);
        if buckets >= 2 && buckets.is_multiple_of(2) && farthest > buckets / 2 + 1 {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "{buckets} buckets of relative positions up to {farthest}: wanted an even number of at least 2, and more positions than half of it and 1"
        )))
    }

    /// The parameter of a checkpoint's tensor: a bare `DebertaV2Model` lacks the `deberta.`. None for buffers.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        if name.ends_with("embeddings.position_ids") {
            return None;
        }
        let bare = ["embeddings.", "encoder."];
        Some(match bare.iter().any(|part| name.starts_with(part)) {
            true => format!("deberta.{name}"),
            false => name.into(),
        })
    }

    /// δ: the bucket of the relative position i − j, from −s to s.
    fn bucket(&self, position: isize) -> isize {
        let (middle, distance) = (self.position_buckets / 2, position.unsigned_abs());
        if distance <= middle {
            return position;
        }
        let ratio = |x: usize| (x as f64 / middle as f64).ln();
        let steps = ratio(distance) / ratio(self.max_relative_positions - 1) * (middle - 1) as f64;
        position.signum() * (steps.ceil() as isize + middle as isize)
    }

    /// Rows of R for the pairs of a sequence, `[T, T]`: δ(i, j) + s, within the table.
    fn rows(&self, len: usize, device: &Device) -> Result<Tensor> {
        let span = self.position_buckets as isize;
        let row = |i: usize, j: usize| {
            let bucket = self.bucket(i as isize - j as isize);
            (bucket + span).clamp(0, 2 * span - 1) as u32
        };
        let rows: Vec<u32> = (0..len)
            .flat_map(|i| (0..len).map(move |j| row(i, j)))
            .collect();
        Tensor::from_slice(&rows, &[1, 1, len, len], device)
    }
}

/// Self-attention by contents and relative positions.
struct Disentangled {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
}

impl Disentangled {
    /// `[B, T, d] → [B, T, d]`, with R `[2s, d]` and its rows for pairs, `[1, 1, T, T]`.
    fn forward(&self, ctx: &Context, x: &Tensor, table: &Tensor, rows: &Tensor) -> Result<Tensor> {
        let heads = |linear: &Linear, x: &Tensor| split(&linear.forward(ctx, x)?, self.heads);
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|linear| heads(linear, x));
        let (q, k, v) = (q?, k?, v?);
        let table = table.unsqueeze(0)?;
        let (rho, kappa) = (heads(&self.query, &table)?, heads(&self.key, &table)?);
        let &[batch, count, len, width] = q.shape() else {
            let detail = format!("deberta: queries are {:?}, wanted [B, H, T, D]", q.shape());
            return Err(Error::Invalid(detail));
        };
        let pairs = rows.expand(&[batch, count, len, len])?;
        let by_query = q.matmul_t(&kappa, false, true)?.take(&pairs)?;
        // Of key j, its row holds the queries i at δ(i, j); the buckets of j − i are those of i − j from the other end.
        let back = pairs.permute(&[0, 1, 3, 2])?;
        let by_key = k.matmul_t(&rho, false, true)?.take(&back)?;
        let scale = 1.0 / ((3 * width) as f64).sqrt();
        let bias = by_query.add(&by_key.permute(&[0, 1, 3, 2])?)?;
        let options = AttentionOptions {
            mask: ctx.mask.clone(),
            bias: Some(bias.affine(scale, 0.0)?),
            scale: Some(scale as f32),
            ..Default::default()
        };
        self.output
            .forward(ctx, &merge(&attention(&q, &k, &v, &options)?)?)
    }
}

/// One block, its norms after the sub-layers.
fn block(path: &Path, layer: usize, config: &DebertaConfig) -> Result<Block<Disentangled>> {
    let (d, inner, eps) = (
        config.hidden_size,
        config.intermediate_size,
        config.layer_norm_eps,
    );
    let linear = |leaf: &str, role, inputs, outputs| {
        Linear::new(&path.at(leaf), role, layer, inputs, outputs)
    };
    let around = |norm: &str, place: &str| {
        let place = Place::sub_layer(&path.at(place), layer, config.hidden_dropout_prob);
        Ok::<_, Error>(Residual::after(Norm::layer(&path.at(norm), d, eps)?, place))
    };
    Ok(Block {
        path: path.prefix().into(),
        attention: Disentangled {
            query: linear("attention.self.query_proj", Role::Query, d, d)?,
            key: linear("attention.self.key_proj", Role::Key, d, d)?,
            value: linear("attention.self.value_proj", Role::Value, d, d)?,
            output: linear("attention.output.dense", Role::AttentionOutput, d, d)?,
            heads: config.num_attention_heads,
        },
        attention_around: around("attention.output.LayerNorm", "attention")?,
        feed_forward: FeedForward {
            up: linear("intermediate.dense", Role::MlpUp, d, inner)?,
            gate: None,
            down: linear("output.dense", Role::MlpDown, inner, d)?,
            activation: config.hidden_act,
        },
        feed_forward_around: around("output.LayerNorm", "output")?,
    })
}

/// Embeddings and blocks.
pub struct Deberta {
    config: DebertaConfig,
    words: Embedding,
    types: Option<Embedding>,
    norm: Norm,
    place: Place,
    /// R.
    relative: Embedding,
    relative_norm: Norm,
    blocks: Vec<Block<Disentangled>>,
}

impl Deberta {
    /// A new encoder below `path` (usually `deberta`).
    ///
    /// # Errors
    /// Sizes that do not divide, or names that are taken.
    pub fn new(path: &Path, config: &DebertaConfig) -> Result<Self> {
        let (d, heads, eps) = (
            config.hidden_size,
            config.num_attention_heads,
            config.layer_norm_eps,
        );
        config.check()?;
        check_heads(d, heads, heads)?;
        let (embeddings, encoder) = (path.at("embeddings"), path.at("encoder"));
        let table = |leaf: &str, entries| Embedding::new(&embeddings.at(leaf), entries, d);
        let types = || table("token_type_embeddings", config.type_vocab_size);
        let positions = 2 * config.position_buckets;
        Ok(Deberta {
            words: table("word_embeddings", config.vocab_size)?,
            types: (config.type_vocab_size > 0).then(types).transpose()?,
            norm: Norm::layer(&embeddings.at("LayerNorm"), d, eps)?,
            place: Place::embedding(&embeddings, config.hidden_dropout_prob),
            relative: Embedding::new(&encoder.at("rel_embeddings"), positions, d)?,
            relative_norm: Norm::layer(&encoder.at("LayerNorm"), d, eps)?,
            blocks: (0..config.num_hidden_layers)
                .map(|i| block(&encoder.at(format!("layer.{i}")), i, config))
                .collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// The sizes.
    pub fn config(&self) -> &DebertaConfig {
        &self.config
    }

    /// `ids` and `token_types` `[B, T]` to embeddings `[B, T, d]`; without segment types, these are not looked at.
    ///
    /// # Errors
    /// Sequences longer than the model's, indices out of range.
    pub fn embed(&self, ctx: &Context, ids: &Tensor, token_types: &Tensor) -> Result<Tensor> {
        let (len, most) = (ids.last_dim(), self.config.max_position_embeddings);
        if len > most {
            return Err(Error::Invalid(format!(
                "deberta: sequences of {len} tokens, but the model is made for {most}; truncate"
            )));
        }
        let words = self.words.forward(ids)?;
        let sum = match &self.types {
            Some(types) => words.add(&types.forward(token_types)?)?,
            None => words,
        };
        self.place.finish(ctx, ids, self.norm.forward(&sum)?)
    }

    /// Blocks over embeddings `[B, T, d]`; `ctx.mask` says which tokens are real.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn body(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        let &[_, len, _] = x.shape() else {
            let detail = format!("deberta: embeddings are {:?}, wanted [B, T, d]", x.shape());
            return Err(Error::Invalid(detail));
        };
        let rows = self.config.rows(len, x.device())?;
        let all = Tensor::arange(2 * self.config.position_buckets, x.device())?;
        let table = self.relative_norm.forward(&self.relative.forward(&all)?)?;
        let attend =
            |attention: &Disentangled, x: &Tensor| attention.forward(ctx, x, &table, &rows);
        self.blocks
            .iter()
            .try_fold(x.clone(), |x, block| block.attending(ctx, &x, attend))
    }

    /// Embeddings, then blocks.
    ///
    /// # Errors
    /// As [`Deberta::embed`].
    pub fn forward(&self, ctx: &Context, ids: &Tensor, token_types: &Tensor) -> Result<Tensor> {
        self.body(ctx, &self.embed(ctx, ids, token_types)?)
    }
}

impl TextEncoder for Deberta {
    fn width(&self) -> usize {
        self.config.hidden_size
    }

    fn layers(&self) -> usize {
        self.config.num_hidden_layers
    }

    fn longest(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    fn forward(&self, ctx: &Context, ids: &Tensor, token_types: &Tensor) -> Result<Tensor> {
        Deberta::forward(self, ctx, ids, token_types)
    }
}

/// Sequence classification: the first token's state through the pooler (dense, activation) and the classifier.
pub struct ContextHead {
    pooler: Linear,
    activation: Activation,
    classifier: Linear,
}

impl ContextHead {
    /// `pooler.dense` and `classifier` below `path`.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn new(path: &Path, config: &DebertaConfig, classes: usize) -> Result<Self> {
        let (d, layer) = (config.hidden_size, config.num_hidden_layers);
        Ok(ContextHead {
            pooler: Linear::new(&path.at("pooler.dense"), Role::Other, layer, d, d)?,
            activation: config.pooler_hidden_act,
            classifier: Linear::new(&path.at("classifier"), Role::Other, layer, d, classes)?,
        })
    }

    /// Hidden states `[B, T, d]` to logits `[B, classes]`.
    ///
    /// # Errors
    /// Hidden states of another width.
    pub fn forward(&self, ctx: &Context, hidden: &Tensor) -> Result<Tensor> {
        let first = hidden.narrow(1, 0, 1)?.squeeze(1)?;
        let pooled = self
            .activation
            .forward(&self.pooler.forward(ctx, &first)?)?;
        self.classifier.forward(ctx, &pooled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 8 buckets to 17 positions: up to 4 alone, then ceil(3·log₄(n/4)) more: 5, 6 at 1; 7 … 10 at 2; 11 … 16 at 3.
    #[test]
    fn far_positions_share_buckets_on_either_side() {
        let config = DebertaConfig {
            vocab_size: 1,
            hidden_size: 4,
            num_hidden_layers: 0,
            num_attention_heads: 1,
            intermediate_size: 4,
            max_position_embeddings: 17,
            type_vocab_size: 0,
            position_buckets: 8,
            max_relative_positions: 17,
            layer_norm_eps: 1e-7,
            hidden_act: Activation::Gelu,
            pooler_hidden_act: Activation::Gelu,
            hidden_dropout_prob: 0.0,
        };
        for (position, bucket) in [
            (0, 0),
            (3, 3),
            (4, 4),
            (5, 5),
            (6, 5),
            (7, 6),
            (10, 6),
            (11, 7),
            (16, 7),
        ] {
            assert_eq!(config.bucket(position), bucket, "{position}");
            assert_eq!(config.bucket(-position), -bucket, "{}", -position);
        }
        let rows = config.rows(3, &Device::cpu()).unwrap();
        assert_eq!(rows.to_vec::<u32>().unwrap(), [8, 7, 6, 9, 8, 7, 10, 9, 8]);
    }
}
