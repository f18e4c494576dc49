//! Masked-token modelling (Devlin et al. 2019): pre-training, and adaptation to another domain.

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;
use serde::Serialize;

use super::comparison::{Part, Scored, Sets, Task};
use super::{Base, Curve, Learner, Recipe, base, fit, matrix};
use crate::data::batch::LmBatch;
use crate::data::corpus::{Stream, Windows};
use crate::data::draw::Draw;
use crate::data::masking::Masking;
use crate::data::order::Order;
use crate::data::tokenizer::Tokenizer;
use crate::encoder::{Encoder, EncoderConfig, MaskedLmHead};
use crate::experiment::{Cell, Error, Result, Stage};
use crate::hub::Architecture;

/// The file that pre-training leaves beside its stage.
pub const WEIGHTS: &str = "base.safetensors";

/// How text is cut and hidden.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cloze {
    /// Tokens per window, `[CLS]` and `[SEP]` included.
    pub columns: usize,
    /// Share of tokens hidden in training: of these 80 % become `[MASK]`, 10 % another token, 10 % stay.
    pub rate: f64,
    /// Tokens hidden per window in evaluation, all as `[MASK]`, the same for every model.
    pub asked: usize,
}

/// An encoder with its masked-token head, and text.
pub struct MaskedLm<'a> {
    store: Store,
    encoder: Encoder,
    head: MaskedLmHead,
    windows: Windows<'a>,
    masking: Masking,
    special: [u32; 3],
    cloze: Cloze,
}

impl<'a> MaskedLm<'a> {
    /// A new model over a stream. Weights are drawn from N(0, 1/d) and positions start as sinusoids (Vaswani et al. 2017):
    /// from BERT's N(0, 0.02²), made for d = 768, a narrow model predicts token frequencies for minutes before it attends.
    ///
    /// # Errors
    /// A tokeniser without `[CLS]`, `[SEP]` or `[MASK]`; a stream shorter than a window.
    pub fn new(
        config: &EncoderConfig,
        tokenizer: &Tokenizer,
        stream: &'a Stream,
        cloze: Cloze,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let store = Store::new(device, seed);
        let model = Self::over(store, config, tokenizer, stream, cloze, seed)?;
        base::start(
            &model.store,
            config.hidden_size,
            "position_embeddings.weight",
        )?;
        Ok(model)
    }

    /// A model in a store.
    fn over(
        store: Store,
        config: &EncoderConfig,
        tokenizer: &Tokenizer,
        stream: &'a Stream,
        cloze: Cloze,
        seed: u64,
    ) -> Result<Self> {
        let missing = |what: &str| {
            Error::Invalid(format!(
                "the tokeniser has no {what} token, which masked-token modelling needs"
            ))
        };
        let special = tokenizer.special();
        let cls = special.cls.ok_or_else(|| missing("[CLS]"))?;
        let sep = special.sep.ok_or_else(|| missing("[SEP]"))?;
        let mask = special.mask.ok_or_else(|| missing("[MASK]"))?;
        let encoder = Encoder::new(&store.at(config.family.prefix()), config)?;
        let head = MaskedLmHead::new(&store.at(config.family.masked_prefix()), config)?;
        Ok(MaskedLm {
            store,
            encoder,
            head,
            windows: stream.bracketed(cloze.columns, cls, sep)?,
            masking: Masking::new(tokenizer, seed)?.rate(cloze.rate)?,
            special: [cls, sep, mask],
            cloze,
        })
    }

    /// The base's own model over another stream.
    fn of(base: &Base, stream: &'a Stream, seed: u64) -> Result<Self> {
        let Architecture::Encoder(config) = &base.architecture else {
            let detail = "the base has no head for masked tokens that is known here";
            return Err(Error::Invalid(detail.into()));
        };
        let store = Store::from_source(&base.device, seed, base.weights.clone(), &[]);
        Self::over(store, config, &base.tokenizer, stream, base.cloze, seed)
    }

    /// Logits `[asked, vocabulary]` of the hidden tokens and what they are; only their rows go through the head.
    fn hidden(&self, ctx: &Context, batch: &LmBatch) -> Result<(Tensor, Vec<u32>)> {
        let device = self.store.device();
        let ids = matrix(&batch.ids, batch.rows, batch.columns, device)?;
        let types = Tensor::zeros(&[batch.rows, batch.columns], DType::U32, device)?;
        let hidden = self.encoder.forward(ctx, &ids, &types)?;
        let asked: Vec<u32> = (0..batch.weights.len() as u32)
            .filter(|i| batch.weights[*i as usize] > 0.0)
            .collect();
        let rows = hidden.reshape(&[batch.rows * batch.columns, hidden.last_dim()])?;
        let rows = rows.gather_rows(&Tensor::from_slice(&asked, &[asked.len()], device)?)?;
        let targets = asked.iter().map(|i| batch.targets[*i as usize]).collect();
        Ok((self.head.forward(ctx, &self.encoder, &rows)?, targets))
    }

    /// Which hidden tokens are restored rightly, in `windows` windows evenly spaced over a stream.
    fn right(&self, stage: &Stage<'_>, stream: &Stream, windows: usize) -> Result<Vec<bool>> {
        let [cls, sep, mask] = self.special;
        let text = stream.bracketed(self.cloze.columns, cls, sep)?;
        let step = text.len().div_ceil(windows.max(1));
        let items: Vec<u32> = (0..text.len() as u32).step_by(step).collect();
        let mut right = vec![];
        for chunk in items.chunks(128) {
            stage.check()?;
            let mut batch = text.batch(chunk)?;
            batch.weights.fill(0.0);
            for (row, item) in chunk.iter().enumerate() {
                let mut places: Vec<usize> = (1..batch.columns - 1).collect();
                Draw::at(0, "asked tokens", &[u64::from(*item)]).shuffle(&mut places);
                for place in &places[..self.cloze.asked.min(places.len())] {
                    batch.weights[row * batch.columns + place] = 1.0;
                    batch.ids[row * batch.columns + place] = mask;
                }
            }
            let (logits, targets) = no_grad(|| self.hidden(&Context::eval(), &batch))?;
            let said = logits.argmax()?.to_vec::<u32>()?;
            right.extend(said.iter().zip(&targets).map(|(a, b)| a == b));
        }
        Ok(right)
    }
}

impl Learner for MaskedLm<'_> {
    fn store(&self) -> &Store {
        &self.store
    }

    fn order(&self, seed: u64, _: usize) -> Result<Order> {
        Ok(Order::new(self.windows.len(), seed)?)
    }

    fn loss(&self, ctx: &Context, items: &[u32], step: u64) -> Result<Tensor> {
        let plain = self.windows.batch(items)?;
        let batch = self
            .masking
            .apply(&plain.ids, &plain.mask, plain.columns, items, step);
        let (logits, targets) = self.hidden(ctx, &batch)?;
        let targets = Tensor::from_slice(&targets, &[targets.len()], self.store.device())?;
        Ok(cross_entropy(
            &logits,
            &targets,
            &CrossEntropyOptions::default(),
        )?)
    }
}

/// Masked tokens of another domain.
pub struct Hidden<'a> {
    base: &'a Base,
    sets: Sets<Stream>,
    windows: usize,
}

impl<'a> Hidden<'a> {
    /// Trained on texts, tested on others, at most `most` hidden tokens each.
    ///
    /// # Errors
    /// A text that the tokeniser cannot encode.
    pub fn new(
        base: &'a Base,
        train: &[String],
        validation: &[String],
        tests: &[(&str, &[String])],
        most: usize,
    ) -> Result<Self> {
        let test = |(name, texts): &(&str, &[String])| Ok((name.to_string(), base.stream(texts)?));
        Ok(Hidden {
            base,
            sets: Sets {
                train: base.stream(train)?,
                validation: base.stream(validation)?,
                tests: tests.iter().map(test).collect::<Result<_>>()?,
            },
            windows: most / base.cloze.asked,
        })
    }
}

impl Task for Hidden<'_> {
    fn tests(&self) -> Vec<String> {
        self.sets.names()
    }

    fn model(&self, seed: u64) -> Result<Box<dyn Scored + '_>> {
        Ok(Box::new(Restorer {
            model: MaskedLm::of(self.base, &self.sets.train, seed)?,
            task: self,
        }))
    }
}

/// A model with what it is tested on.
struct Restorer<'a> {
    model: MaskedLm<'a>,
    task: &'a Hidden<'a>,
}

impl Scored for Restorer<'_> {
    fn learner(&self) -> &dyn Learner {
        &self.model
    }

    fn score(&self, stage: &Stage<'_>, part: Part) -> Result<Cell> {
        let stream = self.task.sets.of(part);
        let right = self.model.right(stage, stream, self.task.windows)?;
        Ok(Cell::new().accuracy(right))
    }
}

/// Pre-trains an encoder and keeps it as [`WEIGHTS`].
///
/// # Errors
/// As [`MaskedLm::new`] and [`fit`].
pub fn pretrain(
    stage: &mut Stage<'_>,
    config: &EncoderConfig,
    tokenizer: &Tokenizer,
    stream: &Stream,
    cloze: Cloze,
    recipe: &Recipe,
    device: &Device,
) -> Result<Curve> {
    let model = MaskedLm::new(config, tokenizer, stream, cloze, 0, device)?;
    let curve = fit(stage, &model, None, recipe, 0)?;
    stage.save_artefact(WEIGHTS, &checkpoint::to_bytes(&model.store.weights())?)?;
    Ok(curve)
}
