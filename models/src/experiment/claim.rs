//! Claims over the cube: what is said about which arms, and the evidence for it.
//!
//! A comparison is a linear contrast Σ w · mean(metric of an arm's cells), computed seed by seed (so that arms are
//! paired) and, where cells hold the scores of test items, item by item. A ratio is the contrast of logarithms.
//! Whether a claim holds is decided with the others of its [`Verdict`](super::Verdict), because their p values
//! are corrected together.

use std::collections::{BTreeMap, BTreeSet};

use super::cube::{Better, Cell, CellId, Cube, Metric};
use super::error::{Error, Result};
use super::stats::bootstrap::Bootstrap;
use super::stats::{Estimate, Sample, mean};
use super::subject::Subject;

/// From this many seeds on the interval comes from the bootstrap; below, from Student's t.
pub const BOOTSTRAP_FROM: usize = 10;

/// The cube through one metric.
#[derive(Clone, Debug)]
pub struct Scores {
    cells: BTreeMap<CellId, Cell>,
    failures: BTreeMap<CellId, String>,
    pub(super) metric: Metric,
    pub(super) tasks: Option<Vec<String>>,
    pub(super) settings: Option<Vec<String>>,
    replicates: usize,
}

/// Whether a claim asks for a number above, below or between bounds, or something else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Question {
    /// θ > threshold.
    Above(f64),
    /// θ < threshold.
    Below(f64),
    /// low < θ < high.
    Between(f64, f64),
    /// The sign is right in at least this share of the seeds: k of n.
    Signs(usize, usize),
    /// Something that is so or is not.
    Fact(bool),
}

/// The evidence for one number.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// What the number is: "adalora r=2 − lora r=2".
    pub label: String,
    /// The estimate with its standard error.
    pub estimate: Estimate,
    /// θ_s, one a seed.
    pub per_seed: Vec<f64>,
    /// Replicates, where there are seeds enough to decide by them.
    pub bootstrap: Option<Bootstrap>,
    /// Seeds that are missing because a run of an arm in question failed.
    pub lost: usize,
}

/// Something that a paper says, as far as the cube can tell.
#[derive(Debug)]
pub struct Claim {
    pub(super) text: String,
    pub(super) metric: Option<Metric>,
    pub(super) question: Question,
    pub(super) evidence: Result<Vec<Evidence>>,
    /// The numbers are logarithms of ratios.
    pub(super) ratio: bool,
    pub(super) worth: f64,
    pub(super) aside: bool,
}

/// One term of a contrast: a weight, and whose mean over which tasks (None: all).
#[derive(Clone, Debug)]
pub struct Term {
    /// The factor.
    pub weight: f64,
    /// The arm.
    pub arm: String,
    /// Only these tasks.
    pub tasks: Option<Vec<String>>,
    /// Only these settings.
    pub settings: Option<Vec<String>>,
}

impl Term {
    /// `weight` times the arm's mean over all its cells.
    pub fn new(weight: f64, arm: impl Into<String>) -> Self {
        Self {
            weight,
            arm: arm.into(),
            tasks: None,
            settings: None,
        }
    }

    /// Over these tasks only.
    pub fn on<const N: usize>(mut self, tasks: [&str; N]) -> Self {
        self.tasks = Some(tasks.map(String::from).into());
        self
    }

    /// In these settings only.
    pub fn at<const N: usize>(mut self, settings: [&str; N]) -> Self {
        self.settings = Some(settings.map(String::from).into());
        self
    }
}

impl Scores {
    pub(super) fn new(cube: &Cube, metric: Metric, replicates: usize) -> Self {
        // Curves and matrices take no part in claims.
        let slim = |cell: &Cell| Cell {
            metrics: cell.metrics.clone(),
            items: cell.items.clone(),
            ..Cell::new()
        };
        let cells = cube
            .cells()
            .map(|(id, cell)| (id.clone(), slim(cell)))
            .collect();
        let failures = cube
            .failures()
            .map(|(id, why)| (id.clone(), why.to_owned()))
            .collect();
        Self {
            cells,
            failures,
            metric,
            tasks: None,
            settings: None,
            replicates,
        }
    }

    /// Only these tasks; metrics are averaged over them.
    pub fn on<const N: usize>(&self, tasks: [&str; N]) -> Self {
        Self {
            tasks: Some(tasks.map(String::from).into()),
            ..self.clone()
        }
    }

    /// Only these settings; metrics are averaged over them.
    pub fn at<const N: usize>(&self, settings: [&str; N]) -> Self {
        Self {
            settings: Some(settings.map(String::from).into()),
            ..self.clone()
        }
    }

    /// Begins a claim about an arm.
    pub fn claim(&self, arm: impl Into<String>) -> Subject<'_> {
        Subject {
            scores: self,
            arm: arm.into(),
        }
    }

    /// A number Σ weight · mean of an arm, of which [`Claim::above`] or [`Claim::below`] is asked: differences of
    /// differences and the like.
    pub fn contrast<const N: usize>(&self, text: impl Into<String>, terms: [Term; N]) -> Claim {
        let text = text.into();
        let evidence = self.evidence(&text, &terms, false).map(|e| vec![e]);
        self.build(text, Question::Above(0.0), evidence)
    }

    /// The arm's mean over the chosen tasks and settings, and over seeds.
    ///
    /// # Errors
    /// An arm that is not there.
    pub fn mean(&self, arm: &str) -> Result<f64> {
        Ok(self
            .evidence(arm, &[Term::new(1.0, arm)], false)?
            .estimate
            .value)
    }

    pub(super) fn build(
        &self,
        text: String,
        question: Question,
        evidence: Result<Vec<Evidence>>,
    ) -> Claim {
        let metric = Some(self.metric.clone());
        Claim {
            text,
            metric,
            question,
            evidence,
            ratio: false,
            worth: 0.0,
            aside: false,
        }
    }

    /// The advantage of `arm` over `other`: positive where it is better.
    pub(super) fn advantage(&self, arm: &str, other: &str) -> Result<Evidence> {
        let sign = if self.metric.better == Better::Higher {
            1.0
        } else {
            -1.0
        };
        let label = if sign > 0.0 {
            format!("{arm} − {other}")
        } else {
            format!("{other} − {arm}")
        };
        self.evidence(
            &label,
            &[Term::new(sign, arm), Term::new(-sign, other)],
            false,
        )
    }

    pub(super) fn evidence(&self, label: &str, terms: &[Term], ratio: bool) -> Result<Evidence> {
        let sample = self.sample(label, terms, ratio)?;
        let estimate = Estimate::of(&sample);
        let enough = sample.per_seed.len() >= BOOTSTRAP_FROM;
        let bootstrap = if enough {
            Bootstrap::draw(&sample, self.replicates, 1)
        } else {
            None
        };
        Ok(Evidence {
            label: label.into(),
            estimate,
            per_seed: sample.per_seed,
            bootstrap,
            lost: self.lost(terms),
        })
    }

    /// Seeds of which a run that the terms are about failed.
    fn lost(&self, terms: &[Term]) -> usize {
        let failed = |term: &Term| {
            let term = term.clone();
            self.failures
                .keys()
                .filter(move |id| self.concerns(&term, id))
                .map(|id| id.seed)
        };
        terms.iter().flat_map(failed).collect::<BTreeSet<_>>().len()
    }

    /// Whether a cell is one that the term averages over.
    fn concerns(&self, term: &Term, id: &CellId) -> bool {
        let chosen = |of_term: &Option<Vec<String>>, of_scores: &Option<Vec<String>>, name| {
            let list = of_term.as_ref().or(of_scores.as_ref());
            list.is_none_or(|list| list.contains(name))
        };
        id.arm == term.arm
            && chosen(&term.tasks, &self.tasks, &id.task)
            && chosen(&term.settings, &self.settings, &id.setting)
    }

    /// The cells of one term that have the metric, by seed.
    fn cells_of(&self, context: &str, term: &Term) -> Result<BTreeMap<u64, Vec<(&CellId, &Cell)>>> {
        let ids = || self.cells.keys().chain(self.failures.keys());
        if !ids().any(|id| id.arm == term.arm) {
            return Err(Error::unknown(
                context,
                "arm",
                &term.arm,
                ids().map(|id| id.arm.as_str()),
            ));
        }
        let tasks = term.tasks.as_ref().or(self.tasks.as_ref());
        let settings = term.settings.as_ref().or(self.settings.as_ref());
        for task in tasks.into_iter().flatten() {
            if !ids().any(|id| id.task == *task) {
                return Err(Error::unknown(
                    context,
                    "task",
                    task,
                    ids().map(|id| id.task.as_str()),
                ));
            }
        }
        for setting in settings.into_iter().flatten() {
            if !ids().any(|id| id.setting == *setting) {
                return Err(Error::unknown(
                    context,
                    "setting",
                    setting,
                    ids().map(|id| id.setting.as_str()),
                ));
            }
        }
        let wanted = |id: &CellId| self.concerns(term, id);
        let mut by_seed: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for (id, cell) in self.cells.iter().filter(|(id, _)| wanted(id)) {
            if cell.metrics.contains_key(&self.metric.name) {
                by_seed.entry(id.seed).or_default().push((id, cell));
            }
        }
        if by_seed.is_empty() && self.failures.keys().all(|id| !wanted(id)) {
            let known = self.cells.iter().filter(|(id, _)| wanted(id));
            let known = known.flat_map(|(_, cell)| cell.metrics.keys().map(String::as_str));
            return Err(Error::unknown(context, "metric", &self.metric.name, known));
        }
        // A seed counts only if no (task, setting) of it is missing, or averages would not be comparable.
        let place = |id: &CellId| (id.task.clone(), id.setting.clone());
        let whole: BTreeSet<_> = by_seed
            .values()
            .flatten()
            .map(|(id, _)| place(id))
            .collect();
        by_seed.retain(|_, cells| cells.len() == whole.len());
        Ok(by_seed)
    }

    /// The contrast seed by seed and item by item, over the seeds that every term has.
    fn sample(&self, context: &str, terms: &[Term], ratio: bool) -> Result<Sample> {
        let name = &self.metric.name;
        let found = terms
            .iter()
            .map(|t| self.cells_of(context, t))
            .collect::<Result<Vec<_>>>()?;
        let Some(first) = found.first() else {
            return Ok(Sample::default());
        };
        let seeds: Vec<u64> = first
            .keys()
            .copied()
            .filter(|s| found.iter().all(|term| term.contains_key(s)))
            .collect();
        let mut per_seed = Vec::new();
        // (task, setting) → [seed][item]: the item's pull on θ_s.
        let mut sets: BTreeMap<(String, String), Vec<Vec<f64>>> = BTreeMap::new();
        for &seed in &seeds {
            let mut theta = 0.0;
            let mut pulls: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
            for (term, cells) in terms.iter().zip(&found) {
                let cells = &cells[&seed];
                let value = mean(
                    &cells
                        .iter()
                        .map(|(_, c)| c.metrics[name])
                        .collect::<Vec<_>>(),
                );
                if ratio && value <= 0.0 {
                    return Err(Error::Invalid(format!(
                        "{context}: a ratio needs positive values, and `{}` has {value} with seed {seed}",
                        term.arm
                    )));
                }
                theta += term.weight * if ratio { value.ln() } else { value };
                // d ln x = dx / x
                let scale = term.weight / cells.len() as f64 / if ratio { value } else { 1.0 };
                for (id, cell) in cells {
                    let Some(items) = cell.items.get(name) else {
                        continue;
                    };
                    let pull = pulls
                        .entry((id.task.clone(), id.setting.clone()))
                        .or_default();
                    pull.resize(items.len().max(pull.len()), 0.0);
                    for (sum, item) in pull.iter_mut().zip(items) {
                        *sum += scale * f64::from(*item);
                    }
                }
            }
            per_seed.push(theta);
            for (set, pull) in pulls {
                sets.entry(set).or_default().push(pull);
            }
        }
        // Settings of one task are tested on the same items, so their pulls add up item by item.
        let mut by_task: BTreeMap<(String, usize), Vec<Vec<f64>>> = BTreeMap::new();
        for ((task, _), pulls) in sets {
            let items = pulls.first().map_or(0, Vec::len);
            if pulls.len() != seeds.len() || pulls.iter().any(|p| p.len() != items) {
                continue; // Test sets that differ between seeds vary with them already.
            }
            let sums = by_task
                .entry((task, items))
                .or_insert_with(|| vec![vec![0.0; items]; seeds.len()]);
            for (sum, pull) in sums.iter_mut().flatten().zip(pulls.iter().flatten()) {
                *sum += pull;
            }
        }
        Ok(Sample {
            per_seed,
            items: by_task.into_values().collect(),
        })
    }
}

impl Claim {
    /// Something that is so or is not, such as a budget that was kept in every step.
    pub fn invariant(text: impl Into<String>, holds: bool) -> Self {
        let (text, question, evidence) = (text.into(), Question::Fact(holds), Ok(Vec::new()));
        Self {
            text,
            metric: None,
            question,
            evidence,
            ratio: false,
            worth: 0.0,
            aside: false,
        }
    }

    /// By at least this much, in the metric's unit.
    pub fn by(self, margin: f64) -> Self {
        let text = format!("{} by at least {margin}", self.text);
        Self {
            question: Question::Above(margin),
            text,
            ..self
        }
    }

    /// The number is above a value.
    pub fn above(self, value: f64) -> Self {
        Self {
            question: Question::Above(value),
            ..self
        }
    }

    /// The number is below a value.
    pub fn below(self, value: f64) -> Self {
        Self {
            question: Question::Below(value),
            ..self
        }
    }

    /// An effect smaller than this would not be worth having: where the interval excludes it, the claim
    /// fails rather than staying open.
    pub fn worth(self, effect: f64) -> Self {
        Self {
            worth: effect,
            ..self
        }
    }

    /// In these words.
    pub fn called(self, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..self
        }
    }

    /// Reported, but without a part in the verdict or in the correction.
    pub fn aside(self) -> Self {
        Self {
            aside: true,
            ..self
        }
    }
}
