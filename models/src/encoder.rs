//! The transformer encoder in BERT's form (Devlin et al. 2019): embeddings, post-norm blocks, heads; the parameter names
//! are those of Hugging Face's `BertModel` under `bert.`, with `classifier` and `cls.predictions` beside it. RoBERTa (Liu et al.
//! 2019) is the same under `roberta.`, but for where its positions start and what its heads are called.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use crate::block::{Block, Residual};
use crate::hub::Config;
use crate::layers::{Embedding, Linear, Norm};
use crate::transformer::{Activation, Place, SubLayers, check_heads};

/// Whose names and positions an encoder has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EncoderFamily {
    /// Positions 0, 1, ….
    #[default]
    Bert,
    /// A row's tokens count from `pad + 1`, and padding is at position `pad`.
    Roberta {
        /// The id of padding.
        pad: u32,
    },
}

impl EncoderFamily {
    /// Where the encoder lies in a store.
    pub fn prefix(self) -> &'static str {
        match self {
            EncoderFamily::Bert => "bert",
            EncoderFamily::Roberta { .. } => "roberta",
        }
    }

    /// Where the masked-token head lies.
    pub fn masked_prefix(self) -> &'static str {
        match self {
            EncoderFamily::Bert => "cls.predictions",
            EncoderFamily::Roberta { .. } => "lm_head",
        }
    }

    /// Where the last matrix of a head over classes lies.
    pub(crate) fn classifier(self) -> &'static str {
        match self {
            EncoderFamily::Bert => "classifier",
            EncoderFamily::Roberta { .. } => "classifier.out_proj",
        }
    }

    /// How names of heads begin.
    pub(crate) fn heads(self) -> &'static [&'static str] {
        match self {
            EncoderFamily::Bert => &["bert.pooler.", "classifier.", "cls.", "qa_outputs."],
            EncoderFamily::Roberta { .. } => {
                &["roberta.pooler.", "classifier.", "lm_head.", "qa_outputs."]
            }
        }
    }

    fn is_bert(&self) -> bool {
        *self == EncoderFamily::Bert
    }
}

/// Sizes of an encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// Whose names and positions it has.
    #[serde(default, skip_serializing_if = "EncoderFamily::is_bert")]
    pub family: EncoderFamily,
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
    /// Rows of the table of positions.
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
            family: EncoderFamily::Bert,
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

    /// Of a checkpoint's `config.json`. Attention probabilities are never dropped, whatever it says.
    ///
    /// # Errors
    /// A field that is missing or absurd, or a variant that the encoder here has not.
    pub fn from_hugging_face(config: &Config) -> Result<Self> {
        config.only("position_embedding_type", "absolute")?;
        config.only("is_decoder", false)?;
        config.only("add_cross_attention", false)?;
        let family = match config.text("model_type")? {
            Some("roberta") => EncoderFamily::Roberta {
                pad: config.size_if(&["pad_token_id"])?.unwrap_or(1) as u32,
            },
            _ => EncoderFamily::Bert,
        };
        let size = |name| config.size(&[name]);
        let sizes = EncoderConfig {
            family,
            vocab_size: size("vocab_size")?,
            hidden_size: size("hidden_size")?,
            num_hidden_layers: size("num_hidden_layers")?,
            num_attention_heads: size("num_attention_heads")?,
            intermediate_size: size("intermediate_size")?,
            max_position_embeddings: size("max_position_embeddings")?,
            type_vocab_size: config.size_if(&["type_vocab_size"])?.unwrap_or(2),
            layer_norm_eps: config.number("layer_norm_eps")?.unwrap_or(1e-12) as f32,
            hidden_act: config.activation(&["hidden_act"])?,
            hidden_dropout_prob: config.probability("hidden_dropout_prob")?,
        };
        if sizes.longest() == 0 {
            let detail = format!(
                "is {}, which leaves no position",
                sizes.max_position_embeddings
            );
            return Err(config.refuse("max_position_embeddings", detail));
        }
        Ok(sizes)
    }

    /// The longest sequence.
    pub fn longest(&self) -> usize {
        match self.family {
            EncoderFamily::Bert => self.max_position_embeddings,
            EncoderFamily::Roberta { pad } => self
                .max_position_embeddings
                .saturating_sub(pad as usize + 1),
        }
    }

    /// The parameter of a checkpoint's tensor: a bare `BertModel`, as sentence-transformers writes it, lacks the `bert.`, and the
    /// oldest files call a norm's parameters `gamma` and `beta`. None for buffers and for copies of the word table.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let copies = ["cls.predictions.decoder.", "lm_head.decoder."];
        if name.ends_with("embeddings.position_ids")
            || name.ends_with("embeddings.token_type_ids")
            || copies.iter().any(|part| name.starts_with(part))
        {
            return None;
        }
        let name = name
            .replace("LayerNorm.gamma", "LayerNorm.weight")
            .replace("LayerNorm.beta", "LayerNorm.bias");
        let bare = ["embeddings.", "encoder.", "pooler."];
        Some(match bare.iter().any(|part| name.starts_with(part)) {
            true => format!("{}.{name}", self.family.prefix()),
            false => name,
        })
    }
}

/// One block, its norms after the sub-layers.
fn block(path: &Path, layer: usize, config: &EncoderConfig) -> Result<Block> {
    let (d, eps) = (config.hidden_size, config.layer_norm_eps);
    let sub_layers = SubLayers {
        width: d,
        inner: config.intermediate_size,
        heads: config.num_attention_heads,
        activation: config.hidden_act,
    };
    let (attention, feed_forward) = sub_layers.build(path, layer, "attention.self")?;
    let around = |norm: &str, place: &str| {
        let place = Place::sub_layer(&path.at(place), layer, config.hidden_dropout_prob);
        Ok::<_, Error>(Residual::after(Norm::layer(&path.at(norm), d, eps)?, place))
    };
    Ok(Block {
        path: path.prefix().into(),
        attention,
        attention_around: around("attention.output.LayerNorm", "attention")?,
        feed_forward,
        feed_forward_around: around("output.LayerNorm", "output")?,
    })
}

/// What fine-tuning sees of a model that reads text in both directions.
pub trait TextEncoder {
    /// Width d of its states.
    fn width(&self) -> usize;

    /// Number of blocks.
    fn layers(&self) -> usize;

    /// The longest sequence.
    fn longest(&self) -> usize;

    /// Number of tokens in the vocabulary.
    fn vocabulary(&self) -> usize;

    /// `ids` and `token_types` `[B, T]` to states `[B, T, d]`; `ctx.mask` says which tokens are real.
    ///
    /// # Errors
    /// Sequences longer than the model's, indices out of range.
    fn forward(&self, ctx: &Context, ids: &Tensor, token_types: &Tensor) -> Result<Tensor>;
}

impl TextEncoder for Encoder {
    fn width(&self) -> usize {
        self.config.hidden_size
    }

    fn layers(&self) -> usize {
        self.config.num_hidden_layers
    }

    fn longest(&self) -> usize {
        self.config.longest()
    }

    fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    fn forward(&self, ctx: &Context, ids: &Tensor, token_types: &Tensor) -> Result<Tensor> {
        Encoder::forward(self, ctx, ids, token_types)
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
    /// A new encoder below `path` (usually [`EncoderFamily::prefix`]).
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
                .map(|i| block(&path.at(format!("encoder.layer.{i}")), i, config))
                .collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// The sizes.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// `ids` and `token_types` `[B, T]` to embeddings `[B, T, d]`, at the family's positions.
    ///
    /// # Errors
    /// Sequences longer than the position table, indices out of range.
    pub fn embed(&self, ctx: &Context, ids: &Tensor, token_types: &Tensor) -> Result<Tensor> {
        let (len, most) = (ids.last_dim(), self.config.longest());
        if len > most {
            return Err(Error::Invalid(format!(
                "encoder: sequences of {len} tokens, but there are {most} positions; truncate"
            )));
        }
        let places = match self.config.family {
            EncoderFamily::Bert => Tensor::arange(len, ids.device())?,
            EncoderFamily::Roberta { pad } => counted(ids, pad)?,
        };
        let sum = self
            .words
            .forward(ids)?
            .add(&self.positions.forward(&places)?)?
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
            .try_fold(x.clone(), |x, block| block.forward(ctx, &x, None))
    }

    /// Embeddings, then blocks.
    ///
    /// # Errors
    /// As [`Encoder::embed`].
    pub fn forward(&self, ctx: &Context, ids: &Tensor, token_types: &Tensor) -> Result<Tensor> {
        self.body(ctx, &self.embed(ctx, ids, token_types)?)
    }
}

/// RoBERTa's positions of ids `[B, T]`: `pad + n` for a row's n-th token, n from 1, and `pad` for padding. Made where the ids are, in
/// f32, which holds both exactly: they lie below 2²⁴.
fn counted(ids: &Tensor, pad: u32) -> Result<Tensor> {
    let (ids, pad) = (ids.converted(DType::F32)?, f64::from(pad));
    let padding = Tensor::full(&[], pad, DType::F32, ids.device())?;
    let real = ids
        .le(&padding)?
        .mul(&ids.ge(&padding)?)?
        .affine(-1.0, 1.0)?;
    let places = real.cumsum()?.mul(&real)?.affine(1.0, pad)?;
    places.indices_below(pad as usize + ids.last_dim() + 1)
}

/// Masked-token head: dense, activation, norm, then the word table as the output matrix, with a bias of its own.
pub struct MaskedLmHead {
    dense: Linear,
    activation: Activation,
    norm: Norm,
    bias: Param,
}

impl MaskedLmHead {
    /// Below `path` (usually [`EncoderFamily::masked_prefix`]).
    ///
    /// # Errors
    /// Names that are taken.
    pub fn new(path: &Path, config: &EncoderConfig) -> Result<Self> {
        let (d, layer) = (config.hidden_size, config.num_hidden_layers);
        let (dense, norm, activation) = match config.family {
            EncoderFamily::Bert => ("transform.dense", "transform.LayerNorm", config.hidden_act),
            EncoderFamily::Roberta { .. } => ("dense", "layer_norm", Activation::Gelu),
        };
        Ok(MaskedLmHead {
            dense: Linear::new(&path.at(dense), Role::Other, layer, d, d)?,
            activation,
            norm: Norm::layer(&path.at(norm), d, config.layer_norm_eps)?,
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

/// Sequence classification: the first token's state through dense, tanh and the classifier.
pub struct SequenceHead {
    pooler: Linear,
    classifier: Linear,
}

impl SequenceHead {
    /// `bert.pooler` and `classifier` below `path`; in RoBERTa, `classifier.dense` and `classifier.out_proj`.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn new(path: &Path, config: &EncoderConfig, classes: usize) -> Result<Self> {
        let (d, layer) = (config.hidden_size, config.num_hidden_layers);
        let classifier = config.family.classifier();
        let pooler = match config.family {
            EncoderFamily::Bert => "bert.pooler.dense",
            EncoderFamily::Roberta { .. } => "classifier.dense",
        };
        Ok(SequenceHead {
            pooler: Linear::new(&path.at(pooler), Role::Other, layer, d, d)?,
            classifier: Linear::new(&path.at(classifier), Role::Other, layer, d, classes)?,
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
