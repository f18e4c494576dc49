//! Sentence embeddings (Reimers & Gurevych 2019): an encoder's states, pooled over the real tokens and brought to length 1, as
//! sentence-transformers does. The cosine of two sentences is then their product.
//!
//! ```text
//! e = Σₜ mₜ·hₜ / Σₜ mₜ        e ← e / max(‖e‖, 10⁻¹²)
//! ```

use std::path::Path;

use deltaw_engine::prelude::*;
use serde_json::Value;

use crate::data::batch::{Pad, TextBatch};
use crate::data::text::{Example, Target};
use crate::data::tokenizer::Tokenizer;
use crate::encoder::TextEncoder;
use crate::experiment::Error as AnyError;
use crate::hub::{Config, Folder};

/// Sentences that go through the encoder at a time.
const ROWS: usize = 32;
/// The shortest length that an embedding is divided by.
const SHORTEST: f64 = 1e-12;

/// How a sentence's states become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean over the real tokens.
    Mean,
    /// The first token's.
    First,
}

impl Pooling {
    /// States `[B, T, d]` of a batch to `[B, d]`; `mask` is 1 for a token and 0 for padding, row by row.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn pool(self, hidden: &Tensor, mask: &[f32]) -> Result<Tensor> {
        let (rows, columns) = (hidden.shape()[0], hidden.shape()[1]);
        if self == Pooling::First {
            return hidden.narrow(1, 0, 1)?.squeeze(1);
        }
        let mut shares = mask.to_vec();
        for row in shares.chunks_mut(columns.max(1)) {
            let real: f32 = row.iter().sum();
            row.iter_mut().for_each(|m| *m /= real.max(1.0));
        }
        let shares = Tensor::from_slice(&shares, &[rows, 1, columns], hidden.device())?;
        shares.matmul(hidden)?.squeeze(1)
    }
}

/// States of a batch of texts, `[B, T, d]`.
///
/// # Errors
/// Sequences longer than the encoder's, ids out of range.
pub fn states(
    encoder: &dyn TextEncoder,
    ctx: &Context,
    batch: &TextBatch,
    device: &Device,
) -> Result<Tensor> {
    let shape = [batch.rows, batch.columns];
    let mask = Tensor::from_slice(&batch.mask, &shape, device)?;
    let ids = Tensor::from_slice(&batch.ids, &shape, device)?;
    let types = Tensor::from_slice(&batch.types, &shape, device)?;
    encoder.forward(&ctx.clone().with_mask(mask), &ids, &types)
}

/// An encoder of sentences.
pub struct SentenceEncoder {
    encoder: Box<dyn TextEncoder>,
    tokenizer: Tokenizer,
    pooling: Pooling,
    normalised: bool,
    longest: usize,
    device: Device,
}

impl SentenceEncoder {
    /// Opens a folder of sentence-transformers: a checkpoint with `modules.json`, which says how states are pooled and whether
    /// embeddings have length 1, and `sentence_bert_config.json` with the longest sentence in tokens. Without `modules.json`, states are averaged
    /// and embeddings brought to length 1.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`Folder::encoder`]; a module that is not known here.
    pub fn open(path: &Path, device: &Device) -> std::result::Result<Self, AnyError> {
        let folder = Folder::open(path)?;
        let store = folder.store(device, 0, &[]);
        store.train_only(|_| false);
        let encoder = folder.encoder(&store)?;
        let (pooling, normalised) = modules(path)?;
        let limit = path.join("sentence_bert_config.json");
        let limit = match limit.is_file() {
            true => Config::read(&limit)?.size_if(&["max_seq_length"])?,
            false => None,
        };
        Ok(SentenceEncoder {
            longest: limit.unwrap_or(usize::MAX).min(encoder.longest()),
            tokenizer: folder.tokenizer()?,
            encoder,
            pooling,
            normalised,
            device: device.clone(),
        })
    }

    /// Embeddings `[sentences, d]`; what is longer than the model's longest sentence loses its end.
    ///
    /// # Errors
    /// A text that the tokeniser cannot encode.
    pub fn embed(&self, sentences: &[&str]) -> std::result::Result<Tensor, AnyError> {
        let example = |text: &&str| Example {
            text: text.to_string(),
            pair: None,
            target: Target::Class(0),
        };
        let examples: Vec<Example> = sentences.iter().map(example).collect();
        let encoded = self.tokenizer.encode_examples(&examples, self.longest)?;
        let items: Vec<u32> = (0..encoded.len() as u32).collect();
        let mut all = vec![];
        for items in items.chunks(ROWS) {
            let batch = encoded.batch(items, Pad::Longest)?;
            all.push(no_grad(|| self.pooled(&batch))?);
        }
        if all.is_empty() {
            let shape = [0, self.encoder.width()];
            return Ok(Tensor::zeros(&shape, DType::F32, &self.device)?);
        }
        Ok(Tensor::concat(&all.iter().collect::<Vec<_>>(), 0)?)
    }

    fn pooled(&self, batch: &TextBatch) -> Result<Tensor> {
        let hidden = states(&*self.encoder, &Context::eval(), batch, &self.device)?;
        let pooled = self.pooling.pool(&hidden, &batch.mask)?;
        if !self.normalised {
            return Ok(pooled);
        }
        let length = pooled.square()?.sum_keep(&[1])?.sqrt()?;
        pooled.div(&length.clamp(SHORTEST, f64::MAX)?)
    }
}

/// How `modules.json` pools, and whether it normalises.
fn modules(folder: &Path) -> Result<(Pooling, bool)> {
    let path = folder.join("modules.json");
    if !path.is_file() {
        return Ok((Pooling::Mean, true));
    }
    let refuse = |detail: String| Error::Checkpoint {
        path: path.display().to_string(),
        detail,
    };
    // A list, which a configuration is not: as the only field of one.
    let text = std::fs::read(&path).map_err(|e| refuse(format!("cannot be read: {e}")))?;
    let modules: Vec<Value> =
        serde_json::from_slice(&text).map_err(|e| refuse(format!("no list of modules: {e}")))?;
    let (mut pooling, mut normalised) = (None, false);
    for module in &modules {
        let kind = module["type"].as_str().unwrap_or_default();
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => {
                let place = module["path"].as_str().unwrap_or_default();
                if place.contains(['/', '\\']) || place.starts_with('.') {
                    return Err(refuse(format!(
                        "a module in `{place}`; wanted a folder beside it"
                    )));
                }
                pooling = Some(pooled_by(&Config::read(
                    &folder.join(place).join("config.json"),
                )?)?);
            }
            "Normalize" => normalised = true,
            _ => {
                let known = "Transformer, Pooling and Normalize";
                return Err(refuse(format!(
                    "has the module `{kind}`; known are {known}"
                )));
            }
        }
    }
    let pooling = pooling.ok_or_else(|| refuse("has no module that pools".into()))?;
    Ok((pooling, normalised))
}

/// The one kind of pooling that is switched on.
fn pooled_by(config: &Config) -> Result<Pooling> {
    for other in [
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    ] {
        config.only(&format!("pooling_mode_{other}"), false)?;
    }
    let mean = config.flag("pooling_mode_mean_tokens", false)?;
    let first = config.flag("pooling_mode_cls_token", false)?;
    match (mean, first, config.text("pooling_mode")?) {
        (true, false, _) | (false, false, Some("mean")) => Ok(Pooling::Mean),
        (false, true, _) | (false, false, Some("cls")) => Ok(Pooling::First),
        _ => Err(config.refuse(
            "pooling_mode_mean_tokens",
            "or `pooling_mode_cls_token` must be the one way of pooling",
        )),
    }
}
