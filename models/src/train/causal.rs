//! Decoders: pre-training on text, and fine-tuning to complete prompts.

use std::path::Path;
use std::sync::Arc;

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;

use super::comparison::{Part, Scored, Sets, Task};
use super::{Learner, Recipe, base, fit, matrix};
use crate::data::batch::{LmBatch, Pad, Rows};
use crate::data::corpus::Windows;
use crate::data::order::Order;
use crate::data::split::Splits;
use crate::data::tokenizer::Tokenizer;
use crate::decoder::{Decoder, DecoderConfig, Generation};
use crate::experiment::hash::sha256;
use crate::experiment::{Cell, Error, Metric, Result, Run, Stage};
use crate::hub::Folder;

/// The file that pre-training leaves beside its stage.
const WEIGHTS: &str = "base.safetensors";
/// Rows scored at a time.
const ROWS: usize = 128;
/// The most tokens of a prompt and its completion from a user's data.
pub const LONGEST: usize = 512;

/// A pre-trained decoder and what reads and writes its text.
pub struct Pretrained {
    /// Sizes.
    pub config: DecoderConfig,
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// All parameters.
    pub weights: Arc<dyn Source>,
    /// The most tokens that it reads at a time.
    pub longest: usize,
    /// What it was made of: the stage's id, or the digest of its files.
    pub id: String,
    /// Where models of it compute.
    pub device: Device,
}

impl Pretrained {
    /// Trains a new decoder on documents, in windows as long as it has positions, as a stage of the run. It starts as
    /// [`super::masked::MaskedLm::new`] does.
    ///
    /// # Errors
    /// A tokeniser without an end-of-text token; as [`fit`].
    pub fn on(
        run: &mut Run,
        config: DecoderConfig,
        tokenizer: Tokenizer,
        recipe: &Recipe,
        documents: impl FnOnce() -> Result<Vec<String>>,
    ) -> Result<Self> {
        let device = run.device();
        let stage = run.stage("pre-train", &(&config, recipe), |stage| {
            let end = tokenizer.special().end.ok_or_else(|| {
                Error::Invalid("the tokeniser has no token that ends a document".into())
            })?;
            let stream = tokenizer.stream(&documents()?, end)?;
            let store = Store::new(&device, 0);
            let decoder = Decoder::new(&store.root(), &config)?;
            base::start(&store, config.hidden_size, "wpe.weight")?;
            let model = CausalLm {
                text: Text::Windows(stream.causal(config.max_position_embeddings)?),
                store,
                decoder,
            };
            let curve = fit(stage, &model, None, recipe, 0)?;
            stage.save_artefact(WEIGHTS, &checkpoint::to_bytes(&model.store.weights())?)?;
            Ok(curve)
        })?;
        Ok(Pretrained {
            weights: Arc::new(checkpoint::load(&stage.artefact(WEIGHTS))?),
            longest: config.longest(),
            id: stage.id().to_owned(),
            config,
            tokenizer,
            device,
        })
    }

    /// A decoder from a checkpoint's folder, with its own tokeniser or another, that reads at most [`LONGEST`] tokens. Every model
    /// of it reads its own values from the files, so that none are held twice.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`Folder::decoder`]; a tokeniser of another vocabulary.
    pub fn from_folder(path: &Path, tokenizer: Option<&Path>, run: &Run) -> Result<Self> {
        let folder = Folder::open(path)?;
        let device = run.device();
        // Better to learn now than in the first run that a tensor is missing.
        let config = folder
            .decoder(&folder.store(&device, 0, &[]))?
            .config()
            .clone();
        let (tokenizer, seal) = base::reader(&folder, tokenizer, config.vocab_size)?;
        Ok(Pretrained {
            weights: folder.source(),
            longest: config.longest().min(LONGEST),
            id: sha256([folder.digest(), seal].concat().as_bytes())[..32].to_owned(),
            config,
            tokenizer,
            device,
        })
    }
}

/// What a decoder reads.
enum Text<'a> {
    Windows(Windows<'a>),
    Rows(&'a Rows),
}

/// A decoder and its text.
struct CausalLm<'a> {
    store: Store,
    decoder: Decoder,
    text: Text<'a>,
}

impl CausalLm<'_> {
    /// Logits `[asked, vocabulary]` of the tokens to predict, and what they are; only their rows go through the head. Rows are
    /// filled up on the right, where no token before sees.
    fn asked(&self, ctx: &Context, batch: &LmBatch) -> Result<(Tensor, Tensor)> {
        let device = self.store.device();
        let ids = matrix(&batch.ids, batch.rows, batch.columns, device)?;
        let hidden = self
            .decoder
            .body(ctx, &self.decoder.embed(ctx, &ids, None)?, None)?;
        let asked: Vec<u32> = (0..batch.weights.len() as u32)
            .filter(|i| batch.weights[*i as usize] > 0.0)
            .collect();
        let rows = hidden.reshape(&[batch.rows * batch.columns, hidden.last_dim()])?;
        let rows = rows.gather_rows(&Tensor::from_slice(&asked, &[asked.len()], device)?)?;
        let targets: Vec<u32> = asked.iter().map(|i| batch.targets[*i as usize]).collect();
        let targets = Tensor::from_slice(&targets, &[targets.len()], device)?;
        Ok((self.decoder.head(ctx, &rows)?, targets))
    }
}

impl Learner for CausalLm<'_> {
    fn store(&self) -> &Store {
        &self.store
    }

    fn order(&self, seed: u64, batch: usize) -> Result<Order> {
        Ok(match &self.text {
            Text::Windows(windows) => Order::new(windows.len(), seed)?,
            Text::Rows(rows) => {
                Order::new(rows.len(), seed)?.bucketed(rows.lengths(), batch * 8)?
            }
        })
    }

    fn loss(&self, ctx: &Context, items: &[u32], _: u64) -> Result<Tensor> {
        let batch = match &self.text {
            Text::Windows(windows) => windows.batch(items)?,
            Text::Rows(rows) => rows.batch(items, Pad::Longest)?,
        };
        let (logits, targets) = self.asked(ctx, &batch)?;
        Ok(cross_entropy(
            &logits,
            &targets,
            &CrossEntropyOptions::default(),
        )?)
    }
}

/// Prompts to complete. Right is the greedy completion that is the wanted one to the last token; where many would do, what
/// counts is the loss on the one that is there ([`Completion::by_loss`]).
pub struct Completion<'a> {
    base: &'a Pretrained,
    sets: Sets<Rows>,
    by_loss: bool,
}

impl<'a> Completion<'a> {
    /// Pairs of a prompt and its completion. Of validation and test at most `most` are scored, evenly spaced; what is longer
    /// than the decoder's positions loses its end.
    ///
    /// # Errors
    /// An empty split; a tokeniser without an end-of-text token; a text that it cannot encode.
    pub fn new(
        base: &'a Pretrained,
        name: &str,
        pairs: &Splits<Vec<(String, String)>>,
        most: usize,
    ) -> Result<Self> {
        // A row of n tokens is read without its last.
        let longest = base.longest + 1;
        if pairs.sizes().contains(&0) {
            return Err(Error::Invalid(format!(
                "{name}: {:?} items in the three splits; each needs one",
                pairs.sizes()
            )));
        }
        let some = |all: &Vec<(String, String)>| -> Result<Rows> {
            let step = all.len().div_ceil(most.max(1));
            let some: Vec<(String, String)> = all.iter().step_by(step).cloned().collect();
            Ok(base.tokenizer.completions(&some, longest)?)
        };
        Ok(Completion {
            base,
            sets: Sets {
                train: base.tokenizer.completions(&pairs.train, longest)?,
                validation: some(&pairs.validation)?,
                tests: vec![(name.into(), some(&pairs.test)?)],
            },
            by_loss: false,
        })
    }

    /// The same, scored by [`loss_metric`].
    pub fn by_loss(self) -> Self {
        Completion {
            by_loss: true,
            ..self
        }
    }
}

impl Task for Completion<'_> {
    fn tests(&self) -> Vec<String> {
        self.sets.names()
    }

    fn metric(&self) -> Metric {
        if self.by_loss {
            loss_metric()
        } else {
            Metric::accuracy()
        }
    }

    fn learning(&self) -> Option<&str> {
        Some(LEARNING)
    }

    fn model(&self, seed: u64) -> Result<Box<dyn Scored + '_>> {
        let weights = self.base.weights.clone();
        let store = Store::from_source(&self.base.device, seed, weights, &[]);
        let decoder = Decoder::new(&store.root(), &self.base.config)?;
        let text = Text::Rows(&self.sets.train);
        Ok(Box::new(Writer {
            model: CausalLm {
                store,
                decoder,
                text,
            },
            task: self,
        }))
    }
}

/// The mean training loss over the steps of a run, nats per token.
const LEARNING: &str = "training loss";

/// [`LEARNING`] as a metric.
pub fn learning_metric() -> Metric {
    Metric::new(LEARNING)
        .unit("nats")
        .lower_is_better()
        .decimals(3)
}

/// The mean cross-entropy of the tokens of held-out completions and their ends, nats per token.
pub fn loss_metric() -> Metric {
    Metric::new("held-out loss")
        .unit("nats")
        .lower_is_better()
        .decimals(3)
}

/// A model with what it is tested on.
struct Writer<'a> {
    model: CausalLm<'a>,
    task: &'a Completion<'a>,
}

impl Writer<'_> {
    /// Whether each row's greedy completion is the right one.
    fn right(&self, rows: &Rows, items: &[u32]) -> Result<Vec<bool>> {
        let pairs: Vec<_> = items.iter().map(|i| rows.split(*i as usize)).collect();
        let prompts: Vec<&[u32]> = pairs.iter().map(|p| p.0).collect();
        let longest = pairs.iter().map(|p| p.1.len()).max().unwrap_or(0);
        let options = Generation {
            end: self.task.base.tokenizer.special().end,
            ..Generation::greedy(longest)
        };
        let written = self.model.decoder.generate_batch(&prompts, &options)?;
        Ok(written.iter().zip(&pairs).map(|(w, p)| w == p.1).collect())
    }

    /// The summed cross-entropy of some rows' completions, and their tokens.
    fn losses(&self, rows: &Rows, items: &[u32]) -> Result<(f64, usize)> {
        let batch = rows.batch(items, Pad::Longest)?;
        if batch.weights.iter().all(|w| *w == 0.0) {
            return Ok((0.0, 0));
        }
        let ctx = Context::eval();
        let (logits, targets) = no_grad(|| self.model.asked(&ctx, &batch))?;
        let mean = cross_entropy(&logits, &targets, &CrossEntropyOptions::default())?;
        let tokens = targets.len();
        Ok((f64::from(mean.to_vec::<f32>()?[0]) * tokens as f64, tokens))
    }
}

impl Scored for Writer<'_> {
    fn learner(&self) -> &dyn Learner {
        &self.model
    }

    fn score(&self, stage: &Stage<'_>, part: Part) -> Result<Cell> {
        let rows = self.task.sets.of(part);
        let items: Vec<u32> = (0..rows.len() as u32).collect();
        let (mut right, mut sum, mut tokens) = (vec![], 0.0, 0);
        for chunk in items.chunks(ROWS) {
            stage.check()?;
            if self.task.by_loss {
                let (loss, count) = self.losses(rows, chunk)?;
                (sum, tokens) = (sum + loss, tokens + count);
            } else {
                right.extend(self.right(rows, chunk)?);
            }
        }
        Ok(if self.task.by_loss {
            Cell::new().metric(loss_metric().name, sum / tokens as f64)
        } else {
            Cell::new().accuracy(right)
        })
    }
}
