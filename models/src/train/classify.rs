//! Sequence classification: the mean of the encoder's states over the real tokens, through one linear.

use deltaw_engine::prelude::*;

use super::comparison::{Part, Scored, Sets, Task, accuracy};
use super::{Base, Learner};
use crate::data::batch::{EncodedText, Pad, Targets, TextBatch};
use crate::data::order::Order;
use crate::data::text::{Example, TextTask};
use crate::encoder::TextEncoder;
use crate::experiment::{Cell, Error, Result, Stage};
use crate::layers::Linear;
use crate::sentence::{Pooling, states};

/// What every method trains besides its own parameters.
pub const HEADS: [&str; 1] = ["classifier."];

/// Texts to classify.
pub struct Classification<'a> {
    base: &'a Base,
    sets: Sets<EncodedText>,
    classes: usize,
}

impl<'a> Classification<'a> {
    /// Trained on the first task, tested on the test splits of all under the given names. Of each split for scoring at most
    /// `most` examples are taken, evenly spaced in runs of `together`.
    ///
    /// # Errors
    /// No task; values instead of classes; a text that the tokeniser cannot encode.
    pub fn new(
        base: &'a Base,
        tasks: &[(&str, &TextTask)],
        most: usize,
        together: usize,
    ) -> Result<Self> {
        let (_, first) = tasks
            .first()
            .ok_or_else(|| Error::Invalid("a task needs a test at least".into()))?;
        let encode = |examples: &[Example], most: usize| {
            let runs = examples.chunks(together);
            let step = runs.len().div_ceil((most / together).max(1)).max(1);
            let some: Vec<Example> = runs.step_by(step).flatten().cloned().collect();
            base.tokenizer.encode_examples(&some, base.cloze.columns)
        };
        let empty = |what| Error::Invalid(format!("{}: no example for {what}", first.name));
        let splits = &first.splits;
        if splits.train.is_empty() {
            return Err(empty("training"));
        }
        if splits.validation.is_empty() || tasks.iter().any(|(_, t)| t.splits.test.is_empty()) {
            return Err(empty("validation or test; a tenth of the items go to each"));
        }
        let test = |(name, task): &(&str, &TextTask)| {
            Ok((name.to_string(), encode(&task.splits.test, most)?))
        };
        Ok(Classification {
            base,
            sets: Sets {
                train: encode(&splits.train, usize::MAX)?,
                validation: encode(&splits.validation, most)?,
                tests: tasks.iter().map(test).collect::<Result<_>>()?,
            },
            classes: first.objective.outputs(),
        })
    }
}

impl Task for Classification<'_> {
    fn tests(&self) -> Vec<String> {
        self.sets.names()
    }

    fn heads(&self) -> &[&str] {
        &HEADS
    }

    fn model(&self, seed: u64) -> Result<Box<dyn Scored + '_>> {
        let model = Classifier::new(self.base, &self.sets, self.classes, seed)?;
        Ok(Box::new(model))
    }
}

/// An encoder with a classifier, and examples.
struct Classifier<'a> {
    store: Store,
    encoder: Box<dyn TextEncoder>,
    classifier: Linear,
    sets: &'a Sets<EncodedText>,
}

impl<'a> Classifier<'a> {
    /// The encoder's parameters come from the base; the head's from `seed`.
    ///
    /// # Errors
    /// Weights that lack a parameter of the encoder, or have it in another shape.
    fn new(base: &Base, sets: &'a Sets<EncodedText>, classes: usize, seed: u64) -> Result<Self> {
        let store = Store::from_source(&base.device, seed, base.weights.clone(), &HEADS);
        let encoder = base.encoder(&store)?;
        let (layer, d) = (encoder.layers(), encoder.width());
        let classifier = Linear::new(&store.at("classifier"), Role::Other, layer, d, classes)?;
        Ok(Classifier {
            store,
            encoder,
            classifier,
            sets,
        })
    }

    /// Logits `[B, classes]`.
    fn logits(&self, ctx: &Context, batch: &TextBatch) -> Result<Tensor> {
        let hidden = states(&*self.encoder, ctx, batch, self.store.device())?;
        let mean = Pooling::Mean.pool(&hidden, &batch.mask)?;
        Ok(self.classifier.forward(ctx, &mean)?)
    }
}

impl Learner for Classifier<'_> {
    fn store(&self) -> &Store {
        &self.store
    }

    fn order(&self, seed: u64, batch: usize) -> Result<Order> {
        let train = &self.sets.train;
        Ok(Order::new(train.len(), seed)?.bucketed(train.lengths(), batch * 8)?)
    }

    fn loss(&self, ctx: &Context, items: &[u32], _: u64) -> Result<Tensor> {
        let batch = self.sets.train.batch(items, Pad::Multiple(8))?;
        let logits = self.logits(ctx, &batch)?;
        let targets = Tensor::from_slice(classes(&batch)?, &[batch.rows], self.store.device())?;
        Ok(cross_entropy(
            &logits,
            &targets,
            &CrossEntropyOptions::default(),
        )?)
    }
}

impl Scored for Classifier<'_> {
    fn learner(&self) -> &dyn Learner {
        self
    }

    fn score(&self, stage: &Stage<'_>, part: Part) -> Result<Cell> {
        let set = self.sets.of(part);
        let lengths = set.lengths();
        // Items of like lengths together, so that little of a batch is padding.
        let mut items: Vec<u32> = (0..set.len() as u32).collect();
        items.sort_by_key(|item| lengths[*item as usize]);
        accuracy(stage, &items, |items| {
            let batch = set.batch(items, Pad::Multiple(8))?;
            let logits = self.logits(&Context::eval(), &batch)?;
            Ok((logits, classes(&batch)?.to_vec()))
        })
    }
}

fn classes(batch: &TextBatch) -> Result<&[u32]> {
    match &batch.targets {
        Targets::Classes(classes) => Ok(classes),
        Targets::Values(_) => Err(Error::Invalid(
            "this task has values, not classes; it cannot be classified".into(),
        )),
    }
}
