//! The experiment of most papers on fine-tuning: every method on every task, each at the rate that validation chose for it.

use serde::Serialize;

use super::{Base, Classifier, Learner, MaskedLm, Recipe, classify, fit};
use crate::data::batch::EncodedText;
use crate::data::corpus::Stream;
use crate::data::text::{Example, TextTask};
use crate::experiment::{Cell, CellId, Error, Matrix, Metric, Result, Run, Stage};
use crate::methods::Method;

/// A task: what is learnt, what chooses the rates, and the tests by name, in domain first.
pub struct Task {
    tests: Vec<String>,
    data: Data,
}

enum Data {
    Classes {
        train: EncodedText,
        validation: EncodedText,
        tests: Vec<EncodedText>,
        classes: usize,
    },
    Cloze {
        train: Stream,
        validation: Stream,
        tests: Vec<Stream>,
        windows: usize,
    },
}

/// On which split a trained model is scored.
#[derive(Clone, Copy, PartialEq)]
enum Score {
    Validation,
    Tests,
}

impl Task {
    /// Classification: trained on the first task, tested on the test splits of all under the given names. Of each split for
    /// scoring at most `most` examples are taken, evenly spaced in runs of `together`.
    ///
    /// # Errors
    /// No task; values instead of classes; a text that the tokeniser cannot encode.
    pub fn classes(
        base: &Base,
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
        Ok(Task {
            tests: tasks.iter().map(|(name, _)| name.to_string()).collect(),
            data: Data::Classes {
                train: encode(&splits.train, usize::MAX)?,
                validation: encode(&splits.validation, most)?,
                tests: tasks
                    .iter()
                    .map(|(_, task)| encode(&task.splits.test, most))
                    .collect::<Result<_, _>>()?,
                classes: first.objective.outputs(),
            },
        })
    }

    /// Masked tokens of another domain: trained on texts, tested on others, at most `most` hidden tokens each.
    ///
    /// # Errors
    /// A text that the tokeniser cannot encode.
    pub fn cloze(
        base: &Base,
        train: &[String],
        validation: &[String],
        tests: &[(&str, &[String])],
        most: usize,
    ) -> Result<Self> {
        Ok(Task {
            tests: tests.iter().map(|(name, _)| name.to_string()).collect(),
            data: Data::Cloze {
                train: base.stream(train)?,
                validation: base.stream(validation)?,
                tests: tests
                    .iter()
                    .map(|(_, texts)| base.stream(texts))
                    .collect::<Result<_>>()?,
                windows: most / base.cloze.asked,
            },
        })
    }

    /// Fine-tunes a new copy of the base and scores it: a cell for each test, or one for validation.
    fn run(
        &self,
        base: &Base,
        run: &One<'_>,
        score: Score,
        stage: &mut Stage<'_>,
    ) -> Result<Vec<Cell>> {
        let (mut attached, curve, right);
        match &self.data {
            Data::Classes {
                train,
                validation,
                tests,
                classes,
            } => {
                let model = Classifier::new(base, train, *classes, run.seed)?;
                attached = run.method.attach(model.store(), &classify::HEADS)?;
                curve = fit(stage, &model, Some(&mut *attached), run.recipe, run.seed)?;
                let scored = |set| model.right(stage, set);
                right = score
                    .of(validation, tests)
                    .iter()
                    .map(scored)
                    .collect::<Result<Vec<_>>>()?;
            }
            Data::Cloze {
                train,
                validation,
                tests,
                windows,
            } => {
                let model = MaskedLm::of(base, train, run.seed)?;
                attached = run.method.attach(model.store(), &[])?;
                curve = fit(stage, &model, Some(&mut *attached), run.recipe, run.seed)?;
                let scored = |set| model.right(stage, set, *windows);
                right = score
                    .of(validation, tests)
                    .iter()
                    .map(scored)
                    .collect::<Result<Vec<_>>>()?;
            }
        }
        let mut cells: Vec<Cell> = right
            .into_iter()
            .map(|right| Cell::new().accuracy(right).trainable(attached.parameters()))
            .collect();
        // The tests share one training run: its curve and pattern stand with the first.
        if let Some(first) = cells.first_mut() {
            *first = std::mem::take(first).curve("loss", curve);
            let ranks = attached.ranks();
            if !ranks.is_empty() {
                *first = std::mem::take(first).matrix("rank", rank_map(&ranks));
            }
        }
        Ok(cells)
    }
}

impl Score {
    fn of<'a, T>(self, validation: &'a T, tests: &'a [T]) -> &'a [T] {
        match self {
            Score::Validation => std::slice::from_ref(validation),
            Score::Tests => tests,
        }
    }
}

/// One training run.
struct One<'a> {
    method: &'a dyn Method,
    recipe: &'a Recipe,
    seed: u64,
}

/// How methods are compared.
pub struct Comparison<'a> {
    /// The arms.
    pub methods: &'a [Box<dyn Method>],
    /// What all runs share; the learning rate is searched.
    pub recipe: Recipe,
    /// The learning rates that every arm is tried with, on validation.
    pub rates: Vec<f64>,
    /// Whether the committed record's choice is taken instead, where it has one.
    pub recorded_rates: bool,
    /// The most items scored per test; part of the stages' keys.
    pub most: usize,
}

impl Comparison<'_> {
    /// Tunes every method on every task, then trains it with every seed, and fills the cube.
    ///
    /// # Errors
    /// What the stages return; a run that diverges is noted as failed and the others go on.
    pub fn fill(&self, run: &mut Run, base: &Base, tasks: &[Task]) -> Result<()> {
        let names: Vec<String> = self.methods.iter().map(|m| m.name()).collect();
        run.expect("fine-tune", tasks.len() * names.len() * run.seeds().len());
        for task in tasks {
            let (steps, batch) = (self.recipe.steps, self.recipe.batch);
            let key = (&base.id, &task.tests, steps, batch, self.most);
            let rates = self.tune(run, base, task, &names, &key)?;
            for (method, name) in self.methods.iter().zip(&names) {
                for seed in run.seeds() {
                    let ids: Vec<CellId> = (task.tests.iter())
                        .map(|test| CellId::new(name, test, seed))
                        .collect();
                    let rate = rates.best(name).ok().copied();
                    run.cells("fine-tune", &ids, &(&key, rate), |stage| {
                        let recipe = self.at(*rates.best(name)?);
                        let one = One {
                            method: &**method,
                            recipe: &recipe,
                            seed,
                        };
                        task.run(base, &one, Score::Tests, stage)
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
        base: &Base,
        task: &Task,
        names: &[String],
        key: &impl Serialize,
    ) -> Result<crate::experiment::Tuned<f64>> {
        let search = format!("learning rate, {}", task.tests[0]);
        if self.recorded_rates
            && let Some(tuned) = run.recorded(&search)
        {
            run.config(
                search,
                "each arm's own, chosen by the sweep of the committed record",
            )?;
            return Ok(tuned);
        }
        run.grid(
            &search,
            &Metric::accuracy(),
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
                };
                let cells = task.run(base, &one, Score::Validation, stage)?;
                Ok(cells[0].metrics["accuracy"])
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
