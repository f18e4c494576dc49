//! Sequence classification: the mean of the encoder's states over the real tokens, through one linear.

use deltaw_engine::prelude::*;

use super::{Base, Learner, matrix};
use crate::data::batch::{EncodedText, Pad, Targets, TextBatch};
use crate::data::order::Order;
use crate::encoder::Encoder;
use crate::experiment::{Error, Result, Stage};
use crate::layers::Linear;

/// What every method trains besides its own parameters.
pub const HEADS: [&str; 1] = ["classifier."];

/// An encoder with a classifier, and examples.
pub struct Classifier<'a> {
    store: Store,
    encoder: Encoder,
    classifier: Linear,
    train: &'a EncodedText,
}

impl<'a> Classifier<'a> {
    /// The encoder's parameters come from the base; the head's from `seed`.
    ///
    /// # Errors
    /// Weights that lack a parameter of the encoder, or have it in another shape.
    pub fn new(base: &Base, train: &'a EncodedText, classes: usize, seed: u64) -> Result<Self> {
        let store = Store::new(&base.device, seed);
        let encoder = Encoder::new(&store.at("bert"), &base.config)?;
        let (layer, d) = (base.config.num_hidden_layers, base.config.hidden_size);
        let classifier = Linear::new(&store.at("classifier"), Role::Other, layer, d, classes)?;
        store.load(&base.weights, |name| {
            !HEADS.iter().any(|head| name.starts_with(head))
        })?;
        Ok(Classifier {
            store,
            encoder,
            classifier,
            train,
        })
    }

    /// Logits `[B, classes]`.
    ///
    /// # Errors
    /// Sequences longer than the position table.
    pub fn logits(&self, ctx: &Context, batch: &TextBatch) -> Result<Tensor> {
        let device = self.store.device();
        let ids = matrix(&batch.ids, batch.rows, batch.columns, device)?;
        let types = matrix(&batch.types, batch.rows, batch.columns, device)?;
        let mask = matrix(&batch.mask, batch.rows, batch.columns, device)?;
        let ctx = ctx.clone().with_mask(mask);
        let hidden = self.encoder.forward(&ctx, &ids, &types)?;
        let mut shares = batch.mask.clone();
        for row in shares.chunks_mut(batch.columns.max(1)) {
            let real: f32 = row.iter().sum();
            row.iter_mut().for_each(|m| *m /= real.max(1.0));
        }
        let shares = Tensor::from_slice(&shares, &[batch.rows, 1, batch.columns], device)?;
        let mean = shares.matmul(&hidden)?.squeeze(1)?;
        Ok(self.classifier.forward(&ctx, &mean)?)
    }

    /// Which items of a set are classified rightly, in order.
    ///
    /// # Errors
    /// As [`Classifier::logits`].
    pub fn right(&self, stage: &Stage<'_>, set: &EncodedText) -> Result<Vec<bool>> {
        let mut right = vec![];
        let items: Vec<u32> = (0..set.len() as u32).collect();
        for chunk in items.chunks(128) {
            stage.check()?;
            let batch = set.batch(chunk, Pad::Multiple(8))?;
            let said = no_grad(|| self.logits(&Context::eval(), &batch))?
                .argmax()?
                .to_vec::<u32>()?;
            right.extend(said.iter().zip(classes(&batch)?).map(|(a, b)| a == b));
        }
        Ok(right)
    }
}

impl Learner for Classifier<'_> {
    fn store(&self) -> &Store {
        &self.store
    }

    fn order(&self, seed: u64, batch: usize) -> Result<Order> {
        Ok(Order::new(self.train.len(), seed)?.bucketed(self.train.lengths(), batch * 8)?)
    }

    fn loss(&self, ctx: &Context, items: &[u32], _: u64) -> Result<Tensor> {
        let batch = self.train.batch(items, Pad::Multiple(8))?;
        let logits = self.logits(ctx, &batch)?;
        let targets = Tensor::from_slice(classes(&batch)?, &[batch.rows], self.store.device())?;
        Ok(cross_entropy(
            &logits,
            &targets,
            &CrossEntropyOptions::default(),
        )?)
    }
}

/// Whether the base's weights make an encoder of its configuration.
pub(super) fn check(base: &Base) -> Result<()> {
    Classifier::new(base, &EncodedText::new(0), 1, 0).map(drop)
}

fn classes(batch: &TextBatch) -> Result<&[u32]> {
    match &batch.targets {
        Targets::Classes(classes) => Ok(classes),
        Targets::Values(_) => Err(Error::Invalid(
            "this task has values, not classes; it cannot be classified".into(),
        )),
    }
}
