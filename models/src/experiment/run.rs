//! A run: a graph of cached stages that fills the cube.
//!
//! ```no_run
//! use deltaw_models::experiment::*;
//! # fn f(run: &mut Run) -> Result<()> {
//! let base = run.stage("pre-train", &("encoder", 128), |stage| {
//!     stage.save_artefact("weights.safetensors", &[])?;
//!     Ok(0.25f64)
//! })?;
//! // The key holds `&base`, so another base makes another stage.
//! run.cell("fine-tune", CellId::new("lora", "sentiment", 1), &(&base, 1e-3), |stage| {
//!     let mut w = 1.0f64;
//!     for step in 0..100 {
//!         w *= 0.99;
//!         stage.finite(step, "loss", w)?;
//!         stage.step(step + 1, 100, || Ok(w.to_le_bytes().to_vec()))?;
//!     }
//!     Ok(Cell::new().metric("loss", w))
//! })?;
//! # Ok(()) }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Instant;

use deltaw_engine::trace;
use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};
use serde_json::Value;

use super::cache::{self, Cache, Found};
use super::claim::Scores;
use super::cube::{Cell, CellId, Cube, Metric};
use super::environment::Environment;
use super::error::{Error, Result};
use super::files;
use super::options::{Options, Scale, Scales};
use super::paper::Paper;
use super::progress::Progress;
use super::stage::Stage;
use super::tune::Sweep;

/// A stage's value, with the name under which other stages' keys refer to it: it serialises as its id.
#[derive(Clone, Debug)]
pub struct Staged<T> {
    value: T,
    id: String,
    folder: PathBuf,
}

impl<T> Staged<T> {
    /// The digest of what was computed.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The path of a file that the stage saved under this name.
    pub fn artefact(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The value alone.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Staged<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Serialize for Staged<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.id)
    }
}

/// How a stage ended, as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ending<T> {
    Value(T),
    Diverged { step: u64, what: String },
}

/// What a stage was, and what it cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// The stage's name.
    pub stage: String,
    /// Which of them: a cell, a trial.
    pub label: String,
    /// The digest of name and key.
    pub id: String,
    /// Computing time over all sittings.
    pub seconds: f64,
    /// Whether this process took it from the cache.
    pub cached: bool,
}

/// An experiment under way.
pub struct Run {
    pub(crate) paper: Paper,
    pub(crate) options: Options,
    pub(crate) environment: Environment,
    pub(crate) cube: Cube,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) sweeps: Vec<Sweep>,
    pub(crate) settings: BTreeMap<String, Value>,
    pub(crate) measured: BTreeMap<String, f64>,
    pub(crate) stages: Vec<StageRecord>,
    pub(crate) cell_seconds: BTreeMap<CellId, f64>,
    pub(crate) started: Instant,
    pub(super) progress: Progress,
    cache: Cache,
    computed: BTreeSet<String>,
    /// Whether it was said that the cache holds another version's stages.
    outdated: bool,
}

impl Run {
    /// Opens the output folder and its cache. Progress goes to standard error.
    ///
    /// # Errors
    /// An output folder that cannot be written or is in use; an option that this machine cannot obey.
    pub fn open(paper: &Paper, options: Options) -> Result<Self> {
        Self::with(paper, options, Progress::new())
    }

    /// The same without any output to the screen.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub fn open_silent(paper: &Paper, options: Options) -> Result<Self> {
        Self::with(paper, options, Progress::silent())
    }

    fn with(paper: &Paper, options: Options, progress: Progress) -> Result<Self> {
        let environment = Environment::enter(&options)?;
        let out = options.out(paper.slug);
        files::create_folder(&out)?;
        let cache = Cache::open(&out, &environment.label(), paper.source)?;
        Ok(Self {
            paper: *paper,
            options,
            environment,
            cube: Cube::default(),
            metrics: Vec::new(),
            sweeps: Vec::new(),
            settings: BTreeMap::new(),
            measured: BTreeMap::new(),
            stages: Vec::new(),
            cell_seconds: BTreeMap::new(),
            started: Instant::now(),
            progress,
            cache,
            computed: BTreeSet::new(),
            outdated: false,
        })
    }

    /// The command line.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Device and instruction set.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Where tensors of this run live.
    pub fn device(&self) -> deltaw_engine::device::Device {
        self.environment.tensors()
    }

    /// The output folder.
    pub fn out(&self) -> PathBuf {
        self.options.out(self.paper.slug)
    }

    /// How much is to be run.
    pub fn scale(&self) -> Scale {
        self.options.scale()
    }

    /// Steps of fine-tuning: the user's number, or this scale's.
    pub fn steps(&self, quick: u64, default: u64, full: u64) -> u64 {
        let own = self.options.steps;
        own.unwrap_or_else(|| self.pick(quick, default, full))
    }

    /// Refuses a checkpoint and data of the user's, for an experiment that makes its own.
    ///
    /// # Errors
    /// The options name one.
    pub fn makes_its_own(&self) -> Result<()> {
        let given = [
            ("checkpoint", &self.options.checkpoint),
            ("data", &self.options.data),
        ];
        match given
            .into_iter()
            .find_map(|(option, path)| Some((option, path.as_ref()?)))
        {
            None => Ok(()),
            Some((option, path)) => Err(Error::Option {
                option,
                value: path.display().to_string(),
                why: "this experiment pre-trains its own models on the embedded data".into(),
            }),
        }
    }

    /// The value for this run's scale.
    pub fn pick<T>(&self, quick: T, default: T, full: T) -> T {
        Scales {
            quick,
            default,
            full,
        }
        .at(self.scale())
    }

    /// The seeds to run: from the paper's first, its number for this scale or `--seeds`.
    pub fn seeds(&self) -> Vec<u64> {
        let number = self.options.seeds;
        let number = number.unwrap_or(self.paper.seeds.at(self.scale()));
        (self.paper.first_seed..).take(number as usize).collect()
    }

    /// Notes a setting for the report and the configuration's hash.
    ///
    /// # Errors
    /// When the value is not JSON's.
    pub fn config(&mut self, name: impl Into<String>, value: impl Serialize) -> Result<()> {
        self.settings.insert(
            name.into(),
            serde_json::to_value(value).map_err(Error::other)?,
        );
        Ok(())
    }

    /// Notes a measured number (bytes, a rate); it stays out of the results.
    pub fn measure(&mut self, name: impl Into<String>, value: f64) {
        self.measured.insert(name.into(), value);
    }

    /// A line for whoever watches.
    pub fn note(&self, text: &str) {
        self.progress.note(text);
    }

    /// Announces so many stages of a name, for the estimate of the time left.
    pub fn expect(&mut self, stage: &str, count: usize) {
        self.progress.expect(stage, count);
    }

    /// The results so far.
    pub fn cube(&self) -> &Cube {
        &self.cube
    }

    /// The cube seen through one metric, to make claims about. The first metric asked for leads the report.
    pub fn scores(&mut self, metric: Metric) -> Scores {
        if !self.metrics.iter().any(|m| m.name == metric.name) {
            self.metrics.push(metric.clone());
        }
        Scores::new(&self.cube, metric, self.pick(1000, 4000, 10_000))
    }

    /// Runs a stage, or takes its value from the cache. `key` is all that the value depends on: settings, seeds,
    /// and the [`Staged`] values it builds on.
    ///
    /// # Errors
    /// What `compute` returns; [`Error::Interrupted`] after Ctrl-C; a divergence also when it was cached.
    pub fn stage<T, K>(
        &mut self,
        name: &str,
        key: &K,
        compute: impl FnOnce(&mut Stage<'_>) -> Result<T>,
    ) -> Result<Staged<T>>
    where
        T: Serialize + DeserializeOwned,
        K: Serialize + ?Sized,
    {
        self.labelled(name, "", key, compute)
            .map(|(staged, _)| staged)
    }

    /// Runs a stage that fills one cell. A run that diverges is noted as failed and gives None; the others go on.
    ///
    /// # Errors
    /// As [`Run::stage`], but for divergence.
    pub fn cell<K: Serialize + ?Sized>(
        &mut self,
        name: &str,
        id: CellId,
        key: &K,
        compute: impl FnOnce(&mut Stage<'_>) -> Result<Cell>,
    ) -> Result<Option<Staged<Cell>>> {
        let one = |stage: &mut Stage<'_>| Ok(vec![compute(stage)?]);
        let Some(Staged { value, id, folder }) = self.cells(name, &[id], key, one)? else {
            return Ok(None);
        };
        let cell = value.into_iter().next();
        Ok(cell.map(|value| Staged { value, id, folder }))
    }

    /// Runs a stage that fills several cells, such as one trained model on several tests. A run that fails
    /// ([`Error::is_of_one_run`]) is noted as failed in all of them and gives None; the others go on.
    ///
    /// # Errors
    /// As [`Run::stage`], but for such a failure; another number of cells than ids.
    pub fn cells<K: Serialize + ?Sized>(
        &mut self,
        name: &str,
        ids: &[CellId],
        key: &K,
        compute: impl FnOnce(&mut Stage<'_>) -> Result<Vec<Cell>>,
    ) -> Result<Option<Staged<Vec<Cell>>>> {
        let label = ids.first().map(CellId::to_string).unwrap_or_default();
        let checked = |stage: &mut Stage<'_>| {
            let cells: Vec<Cell> = compute(stage)?
                .into_iter()
                .map(Cell::checked)
                .collect::<Result<_>>()?;
            if cells.len() != ids.len() {
                return Err(Error::Invalid(format!(
                    "stage `{name}`: {} cells for {} places",
                    cells.len(),
                    ids.len()
                )));
            }
            Ok(cells)
        };
        match self.labelled(name, &label, &(ids, key), checked) {
            Ok((cells, seconds)) => {
                for (id, cell) in ids.iter().zip(&cells.value) {
                    *self.cell_seconds.entry(id.clone()).or_default() += seconds;
                    self.cube.insert(id.clone(), cell.clone())?;
                }
                Ok(Some(cells))
            }
            Err(failure) if failure.is_of_one_run() => {
                self.progress
                    .note(&format!("{label}: {failure}; the other runs go on"));
                for id in ids {
                    self.cube.fail(id.clone(), failure.to_string());
                }
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Puts a cell that was derived from others in the cube.
    ///
    /// # Errors
    /// As [`Cube::insert`].
    pub fn insert(&mut self, id: CellId, cell: Cell) -> Result<()> {
        self.cube.insert(id, cell)
    }

    /// A stage with a label for the screen; also returns its seconds.
    pub(super) fn labelled<T, K>(
        &mut self,
        name: &str,
        label: &str,
        key: &K,
        compute: impl FnOnce(&mut Stage<'_>) -> Result<T>,
    ) -> Result<(Staged<T>, f64)>
    where
        T: Serialize + DeserializeOwned,
        K: Serialize + ?Sized,
    {
        super::interrupt::check()?;
        let id = cache::stage_id(name, &serde_json::to_value(key).map_err(Error::other)?);
        let place = self.cache.place(name, &id);
        if self.options.fresh && !self.computed.contains(&id) {
            place.clear()?;
        }
        let mut found = None;
        match place.load()? {
            Found::Value(header, body) => match serde_json::from_slice(&body) {
                Ok(ending) => found = Some((ending, header.seconds, true)),
                Err(why) => self.warn(name, label, &format!("it cannot be read: {why}")),
            },
            Found::Nothing(Some(why)) => self.warn(name, label, &why),
            Found::Outdated if !self.outdated => {
                self.outdated = true;
                self.progress
                    .note("stages kept by another version of the code are computed again");
            }
            Found::Outdated | Found::Nothing(None) => {}
        }
        let (ending, seconds, cached) = match found {
            Some(found) => found,
            None => {
                self.progress.begin(name, label);
                let mut stage = Stage::new(&place, &mut self.progress)?;
                let span = trace::span("stage");
                let ending = match compute(&mut stage) {
                    Ok(value) => Ending::Value(value),
                    Err(Error::Diverged { step, what }) => Ending::Diverged { step, what },
                    Err(other) => return Err(other),
                };
                drop(span);
                let unstorable = |source| Error::Unstorable {
                    stage: name.into(),
                    source,
                };
                let body = serde_json::to_vec(&ending).map_err(unstorable)?;
                // What is handed on is what a later run will read, so that both see the same bits.
                let reread: Ending<T> = serde_json::from_slice(&body).map_err(unstorable)?;
                let (seconds, artefacts) = stage.close();
                place.finish(&body, seconds, artefacts)?;
                (reread, seconds, false)
            }
        };
        self.computed.insert(id.clone());
        self.progress.end(name, (!cached).then_some(seconds));
        let record = StageRecord {
            stage: name.into(),
            label: label.into(),
            id: id.clone(),
            seconds,
            cached,
        };
        self.stages.push(record);
        match ending {
            Ending::Value(value) => Ok((
                Staged {
                    value,
                    id,
                    folder: place.folder,
                },
                seconds,
            )),
            Ending::Diverged { step, what } => Err(Error::Diverged { step, what }),
        }
    }

    fn warn(&self, stage: &str, label: &str, why: &str) {
        let label = if label.is_empty() {
            String::new()
        } else {
            format!(" ({label})")
        };
        self.progress
            .note(&format!("stage `{stage}`{label} is computed again: {why}"));
    }
}
