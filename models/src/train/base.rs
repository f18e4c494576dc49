//! What is fine-tuned: an encoder with its tokeniser, pre-trained here or read from Hugging Face's files.

use std::path::Path;

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;

use super::masked::{self, Cloze};
use super::{Recipe, classify};
use crate::data::corpus::Stream;
use crate::data::tokenizer::Tokenizer;
use crate::encoder::EncoderConfig;
use crate::experiment::hash::sha256;
use crate::experiment::{Error, Result, Run};

/// A pre-trained encoder and what reads and writes its text.
pub struct Base {
    /// Sizes.
    pub config: EncoderConfig,
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// The encoder's parameters under `bert.`, and where it has one, the masked-token head's.
    pub weights: Weights,
    /// How text is cut and hidden.
    pub cloze: Cloze,
    /// What it was made of: the stage's id, or the digest of its files.
    pub id: String,
    /// Where models of it compute.
    pub device: Device,
}

impl Base {
    /// Pre-trains an encoder on documents, as a stage of the run.
    ///
    /// # Errors
    /// As [`masked::pretrain`].
    pub fn pretrained(
        run: &mut Run,
        config: EncoderConfig,
        tokenizer: Tokenizer,
        cloze: Cloze,
        recipe: &Recipe,
        documents: impl FnOnce() -> Result<Vec<String>>,
    ) -> Result<Self> {
        let device = run.device();
        let stage = run.stage("pre-train", &(&config, cloze, recipe), |stage| {
            let stream = stream(&tokenizer, &documents()?)?;
            masked::pretrain(stage, &config, &tokenizer, &stream, cloze, recipe, &device)
        })?;
        Ok(Base {
            weights: checkpoint::load(&stage.artefact(masked::WEIGHTS))?,
            id: stage.id().to_owned(),
            config,
            tokenizer,
            cloze,
            device,
        })
    }

    /// An encoder of BERT's shape from a safetensors file, its `tokenizer.json`, and the `config.json` in the same folder.
    ///
    /// # Errors
    /// A file that is missing, cut short or of another shape.
    pub fn from_files(weights: &Path, tokenizer: &Path, run: &Run) -> Result<Self> {
        let config_path = weights.with_file_name("config.json");
        let read = |path: &Path| std::fs::read(path).map_err(|e| Error::io("read", path, e));
        let json = read(&config_path)?;
        let config: EncoderConfig = serde_json::from_slice(&json).map_err(|e| {
            Error::Invalid(format!(
                "{}: no configuration of an encoder of BERT's shape: {e}",
                config_path.display()
            ))
        })?;
        let bytes = read(weights)?;
        let loaded = checkpoint::from_file_bytes(&weights.display().to_string(), &bytes)?;
        let files = [sha256(&bytes), sha256(&json), sha256(&read(tokenizer)?)];
        let base = Base {
            cloze: Cloze {
                columns: config.max_position_embeddings.min(128),
                rate: 0.15,
                asked: 8,
            },
            config,
            tokenizer: Tokenizer::from_file(tokenizer)?,
            weights: prefixed(loaded),
            id: sha256(files.concat().as_bytes())[..32].to_owned(),
            device: run.device(),
        };
        if base.tokenizer.vocabulary() > base.config.vocab_size {
            return Err(Error::Invalid(format!(
                "{}: {} tokens, but {} has embeddings for {}; give the tokenizer of this checkpoint",
                tokenizer.display(),
                base.tokenizer.vocabulary(),
                weights.display(),
                base.config.vocab_size
            )));
        }
        // Better to learn now than in the first run that a tensor is missing.
        classify::check(&base)?;
        Ok(base)
    }

    /// The tokens of documents in a row, each ended by `[SEP]`.
    ///
    /// # Errors
    /// A text that the tokeniser cannot encode.
    pub fn stream(&self, documents: &[String]) -> Result<Stream> {
        stream(&self.tokenizer, documents)
    }
}

fn stream(tokenizer: &Tokenizer, documents: &[String]) -> Result<Stream> {
    Ok(tokenizer.stream(documents, tokenizer.special().sep.unwrap_or(0))?)
}

/// Names as `BertForPreTraining` has them: a bare `BertModel`, as sentence-transformers writes it, lacks the `bert.`, and the
/// oldest files call a norm's parameters `gamma` and `beta`.
fn prefixed(weights: Weights) -> Weights {
    let rename = |name: &str| {
        let name = name
            .replace("LayerNorm.gamma", "LayerNorm.weight")
            .replace("LayerNorm.beta", "LayerNorm.bias");
        let bare = ["embeddings.", "encoder.", "pooler."];
        if bare.iter().any(|part| name.starts_with(part)) {
            format!("bert.{name}")
        } else {
            name
        }
    };
    Weights::new(weights.iter().map(|(name, t)| (rename(name), t.clone())))
}

/// Rescales the first draw of a new model to its width, and lets positions start as sinusoids (Vaswani et al. 2017) of
/// wavelengths 2π to 2000π: the published N(0, 0.02²) is made for d = 768, and from it a narrow model predicts token frequencies
/// for minutes before it attends. `positions` is how the name of their table ends.
pub(super) fn start(
    store: &Store,
    d: usize,
    positions: &str,
) -> deltaw_engine::prelude::Result<()> {
    let std = (d as f32).sqrt().recip();
    for param in store.params().iter().filter(|p| p.shape().len() == 2) {
        let scaled = if param.name().ends_with(positions) {
            let wave = |i: usize| {
                let (position, column) = ((i / d) as f32, i % d);
                let angle = position * 1000f32.powf(-((column - column % 2) as f32) / d as f32);
                let value = if column % 2 == 0 {
                    angle.sin()
                } else {
                    angle.cos()
                };
                value * std * std::f32::consts::SQRT_2
            };
            let values: Vec<f32> = (0..param.len()).map(wave).collect();
            Tensor::from_slice(&values, &param.shape(), store.device())?
        } else {
            no_grad(|| param.value().affine(f64::from(std / 0.02), 0.0))?
        };
        param.set(scaled)?;
    }
    Ok(())
}
