//! The experiment of most papers on fine-tuning: every method on every task, each at the rate that validation chose for it.

use deltaw_engine::prelude::{Tensor, no_grad};
use serde::Serialize;

use super::{Learner, Recipe, fit};
use crate::experiment::{Cell, CellId, Error, Matrix, Metric, Result, Run, Stage};
use crate::methods::Method;

/// What a task is made of: what is learnt, what chooses the rates, and the tests by name, in domain first.
pub struct Sets<T> {
    /// For training.
    pub train: T,
    /// For tuning.
    pub validation: T,
    /// For the final figures.
    pub tests: Vec<(String, T)>,
}

impl<T> Sets<T> {
    /// What a trained model is scored on.
    pub fn of(&self, part: Part) -> &T {
        match part {
            Part::Validation => &self.validation,
            Part::Test(i) => &self.tests[i].1,
        }
    }

    /// The tests' names.
    pub fn names(&self) -> Vec<String> {
        self.tests.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// A set that a trained model is scored on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part {
    /// While rates are chosen.
    Validation,
    /// The test of this number.
    Test(usize),
}

/// What methods are compared on.
pub trait Task {
    /// The tests' names, in domain first.
    fn tests(&self) -> Vec<String>;

    /// What the scores' main metric is; it chooses the rates.
    fn metric(&self) -> Metric {
        Metric::accuracy()
    }

    /// Prefixes of the parameters that every method trains.
    fn heads(&self) -> &[&str] {
        &[]
    }

    /// The metric, if there is one, that the mean training loss over the steps goes under: it tells how fast a method learns.
    fn learning(&self) -> Option<&str> {
        None
    }

    /// A new copy of the base; what the base has not is drawn from `seed`.
    ///
    /// # Errors
    /// A base that does not fit the task.
    fn model(&self, seed: u64) -> Result<Box<dyn Scored + '_>>;

    /// The same for one arm, where arms start from different bases.
    ///
    /// # Errors
    /// As [`Task::model`].
    fn model_of(&self, arm: &str, seed: u64) -> Result<Box<dyn Scored + '_>> {
        let _ = arm;
        self.model(seed)
    }
}

/// A model that is fine-tuned and tested.
pub trait Scored {
    /// As it is trained.
    fn learner(&self) -> &dyn Learner;

    /// Its scores on a set.
    ///
    /// # Errors
    /// An interruption.
    fn score(&self, stage: &Stage<'_>, part: Part) -> Result<Cell>;
}

/// Items scored at a time.
const ROWS: usize = 128;

/// Of each item whether its own class is the likeliest. `order` is that in which they are looked at, all items of a set; `logits`
/// gives those of some of them, `[items, classes]`, and their classes.
///
/// # Errors
/// An interruption; as `logits`.
pub fn accuracy(
    stage: &Stage<'_>,
    order: &[u32],
    logits: impl Fn(&[u32]) -> Result<(Tensor, Vec<u32>)>,
) -> Result<Cell> {
    let mut right = vec![false; order.len()];
    for chunk in order.chunks(ROWS) {
        stage.check()?;
        let (logits, classes) = no_grad(|| logits(chunk))?;
        let said = logits.argmax()?.to_vec::<u32>()?;
        for ((item, said), class) in chunk.iter().zip(said).zip(classes) {
            right[*item as usize] = said == class;
        }
    }
    Ok(Cell::new().accuracy(right))
}

/// The metric of [`Comparison::ranks`]: the mean over matrices.
pub const UPDATE_RANK: &str = "rank of ΔW";

/// How methods are compared.
pub struct Comparison<'a> {
    /// The arms.
    pub methods: &'a [Box<dyn Method>],
    /// What all runs share; the learning rate is searched.
    pub recipe: Recipe,
    /// The learning rates that every arm is tried with, on validation; where [`Run::recorded`] knows each arm's own, that is taken.
    pub rates: Vec<f64>,
    /// The most items scored per test; part of the stages' keys.
    pub most: usize,
    /// Whether the numerical rank of what each arm learnt is taken, as [`UPDATE_RANK`].
    pub ranks: bool,
}

/// One training run.
struct One<'a> {
    method: &'a dyn Method,
    recipe: &'a Recipe,
    seed: u64,
    ranks: bool,
}

impl One<'_> {
    /// Fine-tunes a new copy of the base and scores it: a cell for each part.
    fn run(&self, task: &dyn Task, parts: &[Part], stage: &mut Stage<'_>) -> Result<Vec<Cell>> {
        let model = task.model_of(&self.method.name(), self.seed)?;
        let learner = model.learner();
        learner.store().settle();
        let mut attached = self.method.attach(learner.store(), task.heads())?;
        let curve = fit(stage, learner, Some(&mut *attached), self.recipe, self.seed)?;
        let parameters = attached.parameters()?;
        let score = |part: &Part| Ok(model.score(stage, *part)?.trainable(parameters));
        let mut cells = parts.iter().map(score).collect::<Result<Vec<Cell>>>()?;
        // The tests share one training run: its curve and pattern stand with the first.
        if let Some(first) = cells.first_mut() {
            let mut cell = std::mem::take(first);
            if let Some(name) = task.learning() {
                let mean = curve.iter().map(|(_, loss)| loss).sum::<f64>() / curve.len() as f64;
                cell = cell.metric(name, mean);
            }
            cell = cell.curve("loss", curve);
            let rank = self.ranks.then(|| attached.adapted().update_rank());
            if let Some(rank) = rank.transpose()?.flatten() {
                cell = cell.metric(UPDATE_RANK, rank);
            }
            let ranks = attached.ranks()?;
            if !ranks.is_empty() {
                cell = cell.matrix("rank", rank_map(&ranks));
            }
            *first = cell;
        }
        Ok(cells)
    }
}

impl Comparison<'_> {
    /// Notes the settings, tunes every method on every task, then trains it with every seed, and fills the cube. `base` is what the tasks' models
    /// are copies of, as the stages' keys name it.
    ///
    /// # Errors
    /// What the stages return; a run that diverges is noted as failed and the others go on.
    pub fn fill(&self, run: &mut Run, base: &str, tasks: &[Box<dyn Task + '_>]) -> Result<()> {
        run.config(
            "optimiser",
            "AdamW, linear warm-up over a tenth of the steps and decay, gradients clipped to norm 1",
        )?;
        run.config("fine-tuning steps", self.recipe.steps)?;
        run.config("fine-tuning batch", self.recipe.batch)?;
        run.config("test items", self.most)?;
        let names: Vec<String> = self.methods.iter().map(|m| m.name()).collect();
        run.expect("fine-tune", tasks.len() * names.len() * run.seeds().len());
        for task in tasks {
            let (steps, batch, tests) = (self.recipe.steps, self.recipe.batch, task.tests());
            let key = (base, &tests, steps, batch, self.most);
            let rates = self.tune(run, &**task, &names, &key)?;
            let parts: Vec<Part> = (0..tests.len()).map(Part::Test).collect();
            for (method, name) in self.methods.iter().zip(&names) {
                for seed in run.seeds() {
                    let ids: Vec<CellId> = (tests.iter())
                        .map(|test| CellId::new(name, test, seed))
                        .collect();
                    let rate = rates.best(name).ok().copied();
                    run.cells("fine-tune", &ids, &(&key, rate), |stage| {
                        let recipe = self.at(*rates.best(name)?);
                        let one = One {
                            method: &**method,
                            recipe: &recipe,
                            seed,
                            ranks: self.ranks,
                        };
                        one.run(&**task, &parts, stage)
                    })?;
                }
            }
        }
        Ok(())
    }

    fn at(&self, rate: f64) -> Recipe {
        Recipe {
            learning_rate: rate as f32,
            ..self.recipe.clone()
        }
    }

    fn tune(
        &self,
        run: &mut Run,
        task: &dyn Task,
        names: &[String],
        key: &impl Serialize,
    ) -> Result<crate::experiment::Tuned<f64>> {
        let search = format!("learning rate, {}", task.tests()[0]);
        if let Some(tuned) = run.recorded(&search) {
            run.config(
                search,
                "each arm's own, chosen by the sweep of the committed record",
            )?;
            return Ok(tuned);
        }
        run.grid(
            &search,
            &task.metric(),
            key,
            names,
            &self.rates,
            &[101],
            |trial, stage| {
                let method = self.methods.iter().find(|m| m.name() == trial.arm);
                let method =
                    method.ok_or_else(|| Error::Invalid(format!("no arm `{}`", trial.arm)))?;
                let one = One {
                    method: &**method,
                    recipe: &self.at(*trial.candidate),
                    seed: trial.seed,
                    ranks: false,
                };
                let cells = one.run(task, &[Part::Validation], stage)?;
                Ok(cells[0].metrics[&task.metric().name])
            },
        )
    }
}

/// Kept rank by block (rows) and matrix (columns).
fn rank_map(ranks: &[(String, usize)]) -> Matrix {
    let split = |path: &str| {
        let rest = path.strip_prefix("bert.encoder.layer.").unwrap_or(path);
        let (layer, matrix) = rest.split_once('.').unwrap_or(("0", rest));
        let matrix = matrix
            .replace("attention.self.", "")
            .replace("attention.output", "attention output");
        (format!("block {layer}"), matrix.replace(".dense", ""))
    };
    let places: Vec<(String, String)> = ranks.iter().map(|(path, _)| split(path)).collect();
    let mut rows: Vec<String> = places.iter().map(|(row, _)| row.clone()).collect();
    rows.dedup();
    let first = places.iter().filter(|(row, _)| Some(row) == rows.first());
    Matrix {
        caption: "Rank kept of each matrix.".into(),
        columns: first.map(|(_, matrix)| matrix.clone()).collect(),
        values: ranks.iter().map(|(_, rank)| Some(*rank as f64)).collect(),
        rows,
    }
}
