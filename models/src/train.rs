//! Training loops over text: masked-token pre-training and fine-tuning of an encoder by any method.

use deltaw_engine::checkpoint;
use deltaw_engine::optim::{AdamW, Schedule, clip_global_norm};
use deltaw_engine::prelude::*;
use serde::Serialize;

use crate::data::DataError;
use crate::data::batch::{EncodedText, LmBatch, Pad, Targets, TextBatch};
use crate::data::corpus::Stream;
use crate::data::masking::Masking;
use crate::data::order::Order;
use crate::data::tokenizer::Tokenizer;
use crate::encoder::{Encoder, EncoderConfig, MaskedLmHead, SequenceHead};
use crate::experiment::{Error, Result, Stage};
use crate::methods::Method;

impl From<DataError> for Error {
    fn from(error: DataError) -> Self {
        Error::other(error)
    }
}

/// The file that pre-training leaves beside its stage.
pub const WEIGHTS: &str = "base.safetensors";

/// How a training run goes.
#[derive(Debug, Clone, Serialize)]
pub struct Recipe {
    /// Optimiser steps.
    pub steps: u64,
    /// Sequences per step.
    pub batch: usize,
    /// Peak learning rate; warmed up over a tenth of the steps, then falling linearly to 0.
    pub learning_rate: f32,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f32,
    /// Global norm that gradients are clipped to.
    pub clip: f32,
}

impl Recipe {
    /// Batches of 32, no decay, gradients clipped to norm 1.
    pub fn new(steps: u64, learning_rate: f32) -> Self {
        Recipe {
            steps,
            batch: 32,
            learning_rate,
            weight_decay: 0.0,
            clip: 1.0,
        }
    }
}

/// A matrix of u32 or f32 on the device.
fn matrix<T: deltaw_engine::dtype::Element>(
    values: &[T],
    rows: usize,
    columns: usize,
    device: &Device,
) -> Result<Tensor> {
    Ok(Tensor::from_slice(values, &[rows, columns], device)?)
}

/// One optimiser step on a loss: backward, clip, update. Returns the gradients and the loss.
fn descend(
    stage: &Stage<'_>,
    optimiser: &mut AdamW,
    params: &[Param],
    loss: &Tensor,
    recipe: &Recipe,
    step: u64,
) -> Result<(Gradients, f64)> {
    let value = stage.finite(step, "the training loss", loss.item()?)?;
    let mut grads = backward(loss)?;
    clip_global_norm(&mut grads, recipe.clip)?;
    let schedule = Schedule::LinearWarmup {
        warmup: recipe.steps / 10,
        total: recipe.steps,
    };
    optimiser.step(params, &grads, recipe.learning_rate * schedule.factor(step))?;
    Ok((grads, value))
}

/// Pre-trains an encoder by masked-token modelling on windows of `columns` tokens and keeps it as [`WEIGHTS`].
/// Returns the loss every tenth of the run.
///
/// # Errors
/// An interruption, a loss that is not finite, a file that cannot be written.
pub fn pretrain(
    stage: &mut Stage<'_>,
    config: &EncoderConfig,
    tokenizer: &Tokenizer,
    stream: &Stream,
    columns: usize,
    recipe: &Recipe,
    device: &Device,
) -> Result<Vec<(u64, f64)>> {
    let seed = 0;
    let store = Store::new(device, seed);
    let encoder = Encoder::new(&store.at("bert"), config)?;
    let head = MaskedLmHead::new(&store.at("cls.predictions"), config)?;
    let special = tokenizer.special();
    let missing = |what: &str| {
        Error::Invalid(format!(
            "the tokeniser has no {what} token, which masked-token modelling needs"
        ))
    };
    let (cls, sep) = (
        special.cls.ok_or_else(|| missing("[CLS]"))?,
        special.sep.ok_or_else(|| missing("[SEP]"))?,
    );
    let windows = stream.bracketed(columns, cls, sep)?;
    let masking = Masking::new(tokenizer, seed)?;
    let mut order = Order::new(windows.len(), seed)?;
    let (params, mut optimiser) = (store.trained(), AdamW::new(recipe.weight_decay));
    let mut curve = vec![];
    for step in 0..recipe.steps {
        let items = order.next_batch(recipe.batch);
        let plain = windows.batch(&items)?;
        let batch = masking.apply(&plain.ids, &plain.mask, plain.columns, &plain.items, step);
        let loss = masked_loss(&Context::train(seed, step), &encoder, &head, &batch, device)?;
        let (_, value) = descend(stage, &mut optimiser, &params, &loss, recipe, step)?;
        if step % (recipe.steps / 50).max(1) == 0 {
            curve.push((step, value));
        }
        stage.check()?;
        stage.progress(step + 1, recipe.steps);
    }
    stage.save_artefact(WEIGHTS, &checkpoint::to_bytes(&store.weights())?)?;
    Ok(curve)
}

/// Mean cross-entropy of the hidden tokens; only their rows go through the head.
fn masked_loss(
    ctx: &Context,
    encoder: &Encoder,
    head: &MaskedLmHead,
    batch: &LmBatch,
    device: &Device,
) -> Result<Tensor> {
    let ids = matrix(&batch.ids, batch.rows, batch.columns, device)?;
    let types = Tensor::zeros(&[batch.rows, batch.columns], DType::U32, device)?;
    let hidden = encoder.forward(ctx, &ids, &types)?;
    let asked: Vec<u32> = (0..batch.weights.len() as u32)
        .filter(|i| batch.weights[*i as usize] > 0.0)
        .collect();
    let targets: Vec<u32> = asked.iter().map(|i| batch.targets[*i as usize]).collect();
    let rows = hidden.reshape(&[batch.rows * batch.columns, hidden.last_dim()])?;
    let rows = rows.gather_rows(&Tensor::from_slice(&asked, &[asked.len()], device)?)?;
    let logits = head.forward(ctx, encoder, &rows)?;
    Ok(cross_entropy(
        &logits,
        &Tensor::from_slice(&targets, &[targets.len()], device)?,
        &CrossEntropyOptions::default(),
    )?)
}

/// An encoder with a classifier, loaded from pre-trained weights.
pub struct Classifier {
    store: Store,
    encoder: Encoder,
    head: SequenceHead,
}

/// What every method trains besides its own parameters.
pub const HEADS: [&str; 2] = ["bert.pooler.", "classifier."];

impl Classifier {
    /// The encoder's parameters come from `base`; the head's from `seed`.
    ///
    /// # Errors
    /// Weights that lack a parameter of the encoder.
    pub fn new(
        config: &EncoderConfig,
        base: &Weights,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let store = Store::new(device, seed);
        let encoder = Encoder::new(&store.at("bert"), config)?;
        let head = SequenceHead::new(&store.root(), config, classes)?;
        store.load(base, |name| {
            !HEADS.iter().any(|head| name.starts_with(head))
        })?;
        Ok(Classifier {
            store,
            encoder,
            head,
        })
    }

    /// The parameters and sites.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Logits `[B, classes]`.
    ///
    /// # Errors
    /// Sequences longer than the position table.
    pub fn logits(&self, ctx: &Context, batch: &TextBatch) -> Result<Tensor> {
        let device = self.store.device();
        let ids = matrix(&batch.ids, batch.rows, batch.columns, device)?;
        let types = matrix(&batch.types, batch.rows, batch.columns, device)?;
        let ctx = ctx
            .clone()
            .with_mask(matrix(&batch.mask, batch.rows, batch.columns, device)?);
        let hidden = self.encoder.forward(&ctx, &ids, &types)?;
        Ok(self.head.forward(&ctx, &hidden)?)
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

fn classes(batch: &TextBatch) -> Result<&[u32]> {
    match &batch.targets {
        Targets::Classes(classes) => Ok(classes),
        Targets::Values(_) => Err(Error::Invalid(
            "this task has values, not classes; train it as a regression".into(),
        )),
    }
}

/// What fine-tuning leaves.
pub struct Tuned {
    /// The model, with the method's updates attached.
    pub model: Classifier,
    /// Training loss, a point about every fiftieth of the run.
    pub curve: Vec<(u64, f64)>,
    /// Numbers the update needs in the end.
    pub parameters: usize,
    /// Rank kept per site, where the method decides it.
    pub ranks: Vec<(String, usize)>,
}

/// Fine-tunes pre-trained weights by a method. The order of the data depends on the seed and not on the method.
///
/// # Errors
/// An interruption, a loss that is not finite.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a different part of the experiment"
)]
pub fn fine_tune(
    stage: &mut Stage<'_>,
    config: &EncoderConfig,
    base: &Weights,
    method: &dyn Method,
    train: &EncodedText,
    outputs: usize,
    recipe: &Recipe,
    seed: u64,
    device: &Device,
) -> Result<Tuned> {
    let model = Classifier::new(config, base, outputs, seed, device)?;
    let mut attached = method.attach(model.store(), &HEADS)?;
    let mut order = Order::new(train.len(), seed)?.bucketed(train.lengths(), recipe.batch * 8)?;
    let (params, mut optimiser) = (model.store().trained(), AdamW::new(recipe.weight_decay));
    let mut curve = vec![];
    for step in 0..recipe.steps {
        let batch = train.batch(&order.next_batch(recipe.batch), Pad::Multiple(8))?;
        let logits = model.logits(&Context::train(seed, step), &batch)?;
        let targets = Tensor::from_slice(classes(&batch)?, &[batch.rows], device)?;
        let task = cross_entropy(&logits, &targets, &CrossEntropyOptions::default())?;
        let loss = match attached.penalty()? {
            Some(penalty) => task.add(&penalty)?,
            None => task.clone(),
        };
        let (grads, _) = descend(stage, &mut optimiser, &params, &loss, recipe, step)?;
        attached.after_step(step, recipe.steps, &grads)?;
        if step % (recipe.steps / 50).max(1) == 0 {
            curve.push((step, task.item()?));
        }
        stage.check()?;
        stage.progress(step + 1, recipe.steps);
    }
    Ok(Tuned {
        model,
        curve,
        parameters: attached.parameters(),
        ranks: attached.ranks(),
    })
}
