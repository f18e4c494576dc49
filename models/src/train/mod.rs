//! Training: one loop for every model and method, interrupted and resumed without a trace in the result.
//!
//! A [`Learner`] is a model with its training data; [`fit`] takes optimiser steps on it with a method attached:
//!
//! ```text
//! loss = task + penalty;  backward;  clip;  optimiser;  the method's after_step with the same gradients
//! ```

mod average;
pub mod base;
pub mod captions;
pub mod causal;
pub mod classify;
pub mod comparison;
pub mod denoise;
pub mod english;
pub mod masked;
pub mod pictures;
mod state;

use deltaw_engine::optim::{AdamW, Schedule, clip_global_norm};
use deltaw_engine::prelude::*;
use serde::Serialize;

use crate::data::DataError;
use crate::data::order::Order;
use crate::experiment::{Error, Result, Stage, emulated};
use crate::methods::Attached;

use average::Average;
pub use base::Base;
pub use causal::{Completion, Pretrained};
pub use classify::Classification;
pub use comparison::{Comparison, Task};
pub use denoise::Denoiser;
pub use masked::MaskedLm;
pub use pictures::Seer;
use state::State;

impl From<DataError> for Error {
    fn from(error: DataError) -> Self {
        Error::other(error)
    }
}

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
    /// Decay of the parameters' moving average, which takes their place in the end; None leaves the last step's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average: Option<f32>,
}

impl Recipe {
    /// No decay, gradients clipped to norm 1.
    pub fn new(steps: u64, batch: usize, learning_rate: f32) -> Self {
        Recipe {
            steps,
            batch,
            learning_rate,
            weight_decay: 0.0,
            clip: 1.0,
            average: None,
        }
    }
}

/// (step, training loss) some fifty times in a run.
pub type Curve = Vec<(u64, f64)>;

/// A model with the data that it learns from.
pub trait Learner {
    /// Parameters and sites.
    fn store(&self) -> &Store;

    /// The order in which a run with this seed sees the data: the same for every method.
    ///
    /// # Errors
    /// No data.
    fn order(&self, seed: u64, batch: usize) -> Result<Order>;

    /// The mean loss on these items, a scalar on the tape.
    ///
    /// # Errors
    /// Sequences longer than the model's position table.
    fn loss(&self, ctx: &Context, items: &[u32], step: u64) -> Result<Tensor>;
}

/// Trains what the store has marked as trained. Returns the curve of the task's loss, penalty apart.
///
/// A run keeps its place every 20 seconds and goes on from there after an interruption, to the same bits.
///
/// # Errors
/// An interruption, a loss that is not finite, a checkpoint that cannot be written.
pub fn fit(
    stage: &mut Stage<'_>,
    learner: &dyn Learner,
    mut method: Option<&mut dyn Attached>,
    recipe: &Recipe,
    seed: u64,
) -> Result<Curve> {
    if let Some(method) = &mut method {
        prepare(*method, learner, recipe.batch, seed)?;
    }
    let params = learner.store().trained();
    widen(&params)?;
    let mut state = State {
        optimiser: AdamW::new(recipe.weight_decay),
        order: learner.order(seed, recipe.batch)?,
        average: recipe.average.map(|decay| Average::new(decay, &params)),
        method,
        params,
    };
    let schedule = Schedule::LinearWarmup {
        warmup: recipe.steps / 10,
        total: recipe.steps,
    };
    let (mut begin, mut curve) = (0, Curve::new());
    if let Some(kept) = stage.resume() {
        (begin, curve) = state.restore(&kept)?;
    }
    for step in begin..recipe.steps {
        let items = state.order.next_batch(recipe.batch);
        let forward = || -> Result<(Tensor, Tensor)> {
            let task = learner.loss(&Context::train(seed, step), &items, step)?;
            let penalty = state.method.as_ref().map(|m| m.penalty()).transpose()?;
            let loss = penalty
                .flatten()
                .map_or(Ok(task.clone()), |p| task.add(&p))?;
            Ok((task, loss))
        };
        let (task, loss) = forward()?;
        let value = loss.item()?;
        if !value.is_finite() {
            return Err(diverged(step, value, &state.params, || Ok(forward()?.1)));
        }
        let mut grads = backward(&loss)?;
        clip_global_norm(&mut grads, recipe.clip)?;
        let rate = recipe.learning_rate * schedule.factor(step);
        state.optimiser.step(&state.params, &grads, rate)?;
        if let Some(method) = &mut state.method {
            method.after_step(step, recipe.steps, &grads)?;
        }
        if let Some(average) = &mut state.average {
            average.follow(step, &state.params)?;
        }
        if step == begin {
            emulated::end_checks()?;
        }
        if step % (recipe.steps / 50).max(1) == 0 {
            curve.push((step, task.item()?));
        }
        stage.step(step + 1, recipe.steps, || state.keep(step + 1, &curve))?;
    }
    if let Some(average) = state.average {
        average.install(&state.params)?;
    }
    Ok(curve)
}

/// Lets a method see the task's gradients on the batches that training will begin with.
fn prepare(
    method: &mut dyn Attached,
    learner: &dyn Learner,
    batch: usize,
    seed: u64,
) -> Result<()> {
    let (mut order, mut step) = (learner.order(seed, batch)?, 0);
    let mut pass = || {
        let items = order.next_batch(batch);
        let loss = learner.loss(&Context::train(seed, step), &items, step);
        step += 1;
        backward(&loss.map_err(as_engines)?)
    };
    Ok(method.prepare(&mut pass)?)
}

/// Holds what is trained in f32, whatever type a checkpoint had it in: a step is mostly smaller than what 16 bits tell apart.
///
/// # Errors
/// None but those of the device.
pub fn widen(params: &[Param]) -> Result<()> {
    for param in params {
        param.convert(DType::F32)?;
    }
    Ok(())
}

/// The step is repeated with every op checked, to name the first that made a NaN or an infinity.
fn diverged(
    step: u64,
    value: f64,
    params: &[Param],
    forward: impl FnOnce() -> Result<Tensor>,
) -> Error {
    let again = || backward(&forward().map_err(as_engines)?).map(drop);
    let culprit = find_non_finite(params, again).err();
    let culprit = culprit.map_or(String::new(), |e| format!("; {e}"));
    Error::Diverged {
        step,
        what: format!("the training loss is {value}{culprit}"),
    }
}

/// Where the engine calls back, an error in its words.
fn as_engines(error: Error) -> deltaw_engine::error::Error {
    deltaw_engine::error::Error::Invalid(error.to_string())
}

/// A matrix of indices or numbers on the device.
fn matrix<T: deltaw_engine::dtype::Element>(
    values: &[T],
    rows: usize,
    columns: usize,
    device: &Device,
) -> Result<Tensor> {
    Ok(Tensor::from_slice(values, &[rows, columns], device)?)
}

#[cfg(test)]
mod tests;
