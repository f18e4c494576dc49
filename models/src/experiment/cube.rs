//! The cube of results: (arm, task, setting, seed) → metrics, scores of test items, curves, matrices.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::picture::Picture;

/// The name of the metric that counts what an arm trained; the report draws the others against it.
pub const TRAINABLE: &str = "trainable parameters";

/// Where a run stands in the cube.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CellId {
    /// The method under comparison: "adalora r=2".
    pub arm: String,
    /// What it was tested on.
    pub task: String,
    /// Anything else that varies, such as a budget or a domain; empty where nothing does.
    pub setting: String,
    /// The seed of initialisation and data order; the same seed pairs arms.
    pub seed: u64,
}

impl CellId {
    /// A cell without a setting.
    pub fn new(arm: impl Into<String>, task: impl Into<String>, seed: u64) -> Self {
        Self {
            arm: arm.into(),
            task: task.into(),
            setting: String::new(),
            seed,
        }
    }

    /// The same cell in a setting.
    pub fn in_setting(mut self, setting: impl Into<String>) -> Self {
        self.setting = setting.into();
        self
    }
}

impl std::fmt::Display for CellId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} · {}", self.arm, self.task)?;
        if !self.setting.is_empty() {
            write!(f, " · {}", self.setting)?;
        }
        write!(f, " · seed {}", self.seed)
    }
}

/// Whether more or less of a metric is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Such as accuracy.
    Higher,
    /// Such as perplexity.
    Lower,
}

/// A metric's name, unit and direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// "accuracy".
    pub name: String,
    /// "points", "nats"; empty for a pure number.
    pub unit: String,
    /// Which way is up.
    pub better: Better,
    /// Digits shown after the point.
    pub decimals: usize,
}

impl Metric {
    /// A metric of which more is better, shown with two decimals.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            unit: String::new(),
            better: Better::Higher,
            decimals: 2,
        }
    }

    /// Accuracy in points, 0 to 100.
    pub fn accuracy() -> Self {
        Self::new("accuracy").unit("points")
    }

    /// Perplexity: less is better.
    pub fn perplexity() -> Self {
        Self::new("perplexity").lower_is_better()
    }

    /// With a unit.
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    /// Of which less is better.
    pub fn lower_is_better(mut self) -> Self {
        self.better = Better::Lower;
        self
    }

    /// Shown with so many digits after the point.
    pub fn decimals(mut self, decimals: usize) -> Self {
        self.decimals = decimals;
        self
    }
}

/// A table of numbers with labels, drawn as a heat map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// What the numbers are.
    pub caption: String,
    /// Labels from top to bottom.
    pub rows: Vec<String>,
    /// Labels from left to right.
    pub columns: Vec<String>,
    /// Row after row; None leaves a gap.
    pub values: Vec<Option<f64>>,
}

/// What one run of one arm gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Named numbers.
    pub metrics: BTreeMap<String, f64>,
    /// Per metric, the score of every test item in the test set's order, in the metric's unit: its mean is the metric.
    pub items: BTreeMap<String, Vec<f32>>,
    /// Named (step, value) series.
    pub curves: BTreeMap<String, Vec<(u64, f64)>>,
    /// Named heat maps.
    pub matrices: BTreeMap<String, Matrix>,
    /// Named pictures, for the report alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pictures: BTreeMap<String, Picture>,
}

impl Cell {
    /// An empty cell.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a number.
    pub fn metric(mut self, name: impl Into<String>, value: f64) -> Self {
        self.metrics.insert(name.into(), value);
        self
    }

    /// Adds the count of trainable parameters.
    pub fn trainable(self, parameters: usize) -> Self {
        self.metric(TRAINABLE, parameters as f64)
    }

    /// Adds a metric as the mean of its test items' scores, which intervals then resample.
    pub fn scored(mut self, name: impl Into<String>, items: Vec<f32>) -> Self {
        let name = name.into();
        let sum: f64 = items.iter().map(|&x| f64::from(x)).sum();
        self.metrics.insert(name.clone(), sum / items.len() as f64);
        self.items.insert(name, items);
        self
    }

    /// Adds accuracy in points from what was right, item by item.
    pub fn accuracy(self, right: impl IntoIterator<Item = bool>) -> Self {
        self.scored(
            "accuracy",
            right
                .into_iter()
                .map(|r| if r { 100.0 } else { 0.0 })
                .collect(),
        )
    }

    /// Adds a curve.
    pub fn curve(mut self, name: impl Into<String>, points: Vec<(u64, f64)>) -> Self {
        self.curves.insert(name.into(), points);
        self
    }

    /// Adds a heat map.
    pub fn matrix(mut self, name: impl Into<String>, matrix: Matrix) -> Self {
        self.matrices.insert(name.into(), matrix);
        self
    }

    /// Adds a picture.
    pub fn picture(mut self, name: impl Into<String>, picture: Picture) -> Self {
        self.pictures.insert(name.into(), picture);
        self
    }

    /// Refuses numbers that are not finite and matrices whose labels do not fit.
    fn check(&self) -> Result<()> {
        let infinite = |what: String| Err(Error::Diverged { step: 0, what });
        for (name, value) in &self.metrics {
            if !value.is_finite() {
                return infinite(format!("metric `{name}` is {value}"));
            }
        }
        for (name, items) in &self.items {
            if let Some(i) = items.iter().position(|x| !x.is_finite()) {
                return infinite(format!("metric `{name}` is {} on test item {i}", items[i]));
            }
        }
        for (name, curve) in &self.curves {
            if let Some((step, value)) = curve.iter().find(|(_, x)| !x.is_finite()) {
                return Err(Error::Diverged {
                    step: *step,
                    what: format!("curve `{name}` is {value}"),
                });
            }
        }
        for (name, m) in &self.matrices {
            if m.values.len() != m.rows.len() * m.columns.len() {
                let (r, c, n) = (m.rows.len(), m.columns.len(), m.values.len());
                return Err(Error::Invalid(format!(
                    "matrix `{name}`: {n} values for {r} rows and {c} columns; {} are wanted",
                    r * c
                )));
            }
        }
        Ok(())
    }

    /// Checks the cell at the end of a stage.
    pub(super) fn checked(self) -> Result<Self> {
        self.check().map(|()| self)
    }
}

/// All cells, and the runs that failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cube {
    cells: BTreeMap<CellId, Cell>,
    failures: BTreeMap<CellId, String>,
}

impl Cube {
    /// Puts a cell in its place.
    ///
    /// # Errors
    /// [`Error::Diverged`] for a number that is not finite, [`Error::Invalid`] for a place that is taken by
    /// another result or a matrix whose labels do not fit.
    pub fn insert(&mut self, id: CellId, cell: Cell) -> Result<()> {
        cell.check()?;
        if self.cells.get(&id).is_some_and(|there| *there != cell) {
            return Err(Error::Invalid(format!(
                "{id}: a second, different result for the same cell"
            )));
        }
        self.cells.insert(id, cell);
        Ok(())
    }

    /// Notes a run that failed, and why.
    pub fn fail(&mut self, id: CellId, reason: String) {
        self.failures.insert(id, reason);
    }

    /// The cells in order.
    pub fn cells(&self) -> impl Iterator<Item = (&CellId, &Cell)> {
        self.cells.iter()
    }

    /// The failed runs in order.
    pub fn failures(&self) -> impl Iterator<Item = (&CellId, &str)> {
        self.failures
            .iter()
            .map(|(id, reason)| (id, reason.as_str()))
    }

    /// One cell.
    pub fn get(&self, id: &CellId) -> Option<&Cell> {
        self.cells.get(id)
    }

    /// Whether there is neither a cell nor a failure.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.failures.is_empty()
    }

    /// The arms that occur, failed ones included: those in `order` first, the others by name.
    pub fn arms(&self, order: &[(&str, &str)]) -> Vec<String> {
        ordered(
            self.cells
                .keys()
                .chain(self.failures.keys())
                .map(|id| id.arm.as_str()),
            order,
        )
    }

    /// The (task, setting) pairs that occur, tasks in `order` first.
    pub fn groups(&self, order: &[(&str, &str)]) -> Vec<(String, String)> {
        let ids = || self.cells.keys().chain(self.failures.keys());
        let tasks = ordered(ids().map(|id| id.task.as_str()), order);
        let pairs: BTreeSet<_> = ids()
            .map(|id| (id.task.as_str(), id.setting.as_str()))
            .collect();
        let of = |task: &String| {
            let settings = pairs
                .iter()
                .filter(|(t, _)| t == task)
                .map(|(_, s)| s.to_string());
            settings.map(|s| (task.clone(), s)).collect::<Vec<_>>()
        };
        tasks.iter().flat_map(of).collect()
    }

    /// The values of a metric over the seeds of one (arm, task, setting).
    pub fn over_seeds(&self, arm: &str, task: &str, setting: &str, metric: &str) -> Vec<f64> {
        let wanted = |id: &CellId| id.arm == arm && id.task == task && id.setting == setting;
        let cells = self.cells.iter().filter(|(id, _)| wanted(id));
        cells
            .filter_map(|(_, cell)| cell.metrics.get(metric).copied())
            .collect()
    }
}

/// Distinct names: those in `order` first, the rest sorted.
fn ordered<'a>(names: impl Iterator<Item = &'a str>, order: &[(&str, &str)]) -> Vec<String> {
    let distinct: BTreeSet<&str> = names.collect();
    let mut names: Vec<&str> = distinct.into_iter().collect();
    let place = |name: &str| {
        order
            .iter()
            .position(|(n, _)| *n == name)
            .unwrap_or(usize::MAX)
    };
    names.sort_by_key(|name| place(name));
    names.into_iter().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scored_metric_is_the_mean_of_its_items() {
        let cell = Cell::new().accuracy([true, false, true, true]);
        assert_eq!(cell.metrics["accuracy"], 75.0);
        assert_eq!(cell.items["accuracy"], [100.0, 0.0, 100.0, 100.0]);
    }

    #[test]
    fn what_is_not_finite_is_a_divergence() {
        let mut cube = Cube::default();
        let id = CellId::new("a", "t", 1);
        for cell in [
            Cell::new().metric("loss", f64::NAN),
            Cell::new().scored("loss", vec![1.0, f32::INFINITY]),
            Cell::new().accuracy([]),
            Cell::new().curve("loss", vec![(0, 1.0), (7, f64::NAN)]),
        ] {
            assert!(matches!(
                cube.insert(id.clone(), cell),
                Err(Error::Diverged { .. })
            ));
        }
        assert!(cube.is_empty());
    }

    #[test]
    fn a_cell_is_not_overwritten_by_another_result() {
        let mut cube = Cube::default();
        let id = CellId::new("a", "t", 1).in_setting("low");
        cube.insert(id.clone(), Cell::new().metric("x", 1.0))
            .unwrap();
        cube.insert(id.clone(), Cell::new().metric("x", 1.0))
            .unwrap();
        let error = cube.insert(id, Cell::new().metric("x", 2.0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a · t · low · seed 1: a second, different result for the same cell"
        );
    }

    #[test]
    fn a_matrix_must_fit_its_labels() {
        let matrix = Matrix {
            caption: String::new(),
            rows: vec!["r".into()],
            columns: vec!["c".into(), "d".into()],
            values: vec![Some(1.0)],
        };
        let error = Cell::new()
            .matrix("m", matrix)
            .checked()
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "matrix `m`: 1 values for 1 rows and 2 columns; 2 are wanted"
        );
    }

    #[test]
    fn arms_and_tasks_keep_the_papers_order() {
        let mut cube = Cube::default();
        for (arm, task) in [("b", "y"), ("a", "x"), ("c", "x")] {
            cube.insert(CellId::new(arm, task, 1), Cell::new()).unwrap();
        }
        cube.fail(CellId::new("d", "x", 1), "diverged".into());
        assert_eq!(cube.arms(&[("c", ""), ("b", "")]), ["c", "b", "a", "d"]);
        assert_eq!(cube.groups(&[("y", "")])[0].0, "y");
        assert_eq!(cube.over_seeds("a", "x", "", "none"), [0.0; 0]);
    }
}
