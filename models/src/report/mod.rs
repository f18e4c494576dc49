//! What an experiment leaves behind: `results.json`, `curves.csv`, `report.html`, and the table on the terminal.
//!
//! `results.json` is one [`Report`]. Its parts:
//!
//! | key        | holds                                                                          | depends on      |
//! |------------|--------------------------------------------------------------------------------|-----------------|
//! | `format`   | the number of this layout                                                      | nothing         |
//! | `paper`    | slug, title, year, claim, reference, its own figures, what differs in scale    | the binary      |
//! | `device`   | device and instruction set                                                     | the machine     |
//! | `verdict`  | outcome, rule, notes                                                           | results         |
//! | `claims`   | state, estimate, interval, p, p corrected, detectable effect, value a seed     | results         |
//! | `config`   | scale, seeds, settings, every stage's name and id, and the hash of all these   | options         |
//! | `results`  | cells, failures, sweeps, digests of curves and test items                      | seed and device |
//! | `measured` | seconds, threads, bytes, stage timings                                         | the day         |
//! | `record`   | the comparison with the committed record                                       | both            |
//!
//! `results` is the same, bit for bit, for every run with the same configuration and device, however often it was
//! interrupted and with however many threads.

mod csv;
mod html;
mod plots;
mod terminal;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::experiment::environment::{Environment, peak_rss};
use crate::experiment::hash::sha256;
use crate::experiment::record::Comparison;
use crate::experiment::run::StageRecord;
use crate::experiment::tune::Sweep;
use crate::experiment::{
    Cell, CellId, Cube, Error, Figure, Judged, Matrix, Metric, Outcome, Result, Run, Scale,
    Verdict, files,
};

/// The number of the layout of results.json.
pub const FORMAT: u32 = 1;

/// Everything that results.json holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// What the paper says.
    pub paper: PaperText,
    /// Device and instruction set.
    pub device: Environment,
    /// What the experiment says of it.
    pub verdict: Decision,
    /// And why.
    pub claims: Vec<Judged>,
    /// What was asked for.
    pub config: Config,
    /// What the seeds determine.
    pub results: Results,
    /// What the day determined.
    pub measured: Measured,
    /// Whether it agrees with the committed record, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Comparison>,
}

/// [`crate::experiment::Paper`] without its constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaperText {
    /// The binary's name.
    pub slug: String,
    /// The title.
    pub title: String,
    /// The year of the first version.
    pub year: u16,
    /// The claim in plain words.
    pub claim: String,
    /// Authors, venue, code.
    pub reference: String,
    /// The paper's own figures.
    pub figures: Vec<Figure<String>>,
    /// What differs in scale.
    pub scale: String,
    /// What else should be known.
    pub notes: Vec<String>,
    /// (task, what it is).
    pub tasks: Vec<(String, String)>,
    /// (arm, what it is), in the order of the report.
    pub arms: Vec<(String, String)>,
}

/// The verdict without its claims, which stand beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// In one word.
    pub outcome: Outcome,
    /// The rule, in words.
    pub rule: String,
    /// What else bears on it.
    pub notes: Vec<String>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// A digest of all that follows: equal where the same was asked for.
    pub hash: String,
    /// quick, default or full.
    pub scale: Scale,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The experiment's own settings.
    pub settings: BTreeMap<String, Value>,
    /// (stage, id) of every stage; the id is the digest of name and key.
    pub stages: BTreeSet<(String, String)>,
}

/// What the seeds determine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The metrics that claims are about, the leading one first.
    pub metrics: Vec<Metric>,
    /// Every cell's metrics.
    pub cells: Vec<CellResult>,
    /// Runs that failed: which, and why.
    pub failures: Vec<(CellId, String)>,
    /// The logs of the searches.
    pub sweeps: Vec<Sweep>,
    /// SHA-256 of all curves.
    pub curves_sha256: String,
    /// SHA-256 of all test items' scores.
    pub items_sha256: String,
}

/// One cell of the cube.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Where it stands.
    #[serde(flatten)]
    pub id: CellId,
    /// Its metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Its heat maps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub matrices: BTreeMap<String, Matrix>,
}

/// What the day determined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// When the run ended, seconds since 1970.
    pub ended_unix: u64,
    /// How long this sitting took.
    pub seconds: f64,
    /// Computing time of all stages, over all sittings.
    pub stage_seconds: f64,
    /// Threads computed with.
    pub threads: usize,
    /// The most memory the process had, bytes.
    pub peak_rss_bytes: Option<u64>,
    /// Mean seconds of an arm's runs.
    pub arm_seconds: BTreeMap<String, f64>,
    /// What the experiment measured besides.
    pub values: BTreeMap<String, f64>,
    /// Every stage.
    pub stages: Vec<StageRecord>,
}

impl Report {
    /// Gathers a finished run.
    ///
    /// # Errors
    /// A cube that cannot be written as JSON.
    pub fn of(run: &Run, verdict: Verdict) -> Result<Self> {
        let stages = run
            .stages
            .iter()
            .map(|s| (s.stage.clone(), s.id.clone()))
            .collect();
        let mut config = Config {
            hash: String::new(),
            scale: run.scale(),
            seeds: run.seeds(),
            settings: run.settings.clone(),
            stages,
        };
        config.hash = digest(&config)?[..16].to_owned();
        let Verdict {
            outcome,
            rule,
            claims,
            notes,
        } = verdict;
        let mut report = Self {
            format: FORMAT,
            paper: paper_text(run),
            device: run.environment.clone(),
            verdict: Decision {
                outcome,
                rule,
                notes,
            },
            claims,
            config,
            results: results(run)?,
            measured: measured(run),
            record: None,
        };
        let record = run.paper.record.filter(|_| !run.options().departs());
        report.record = record.map(|record| Comparison::of(&report, record));
        Ok(report)
    }

    /// Writes results.json, curves.csv and report.html, and returns their paths.
    ///
    /// # Errors
    /// A file that cannot be written, a plot that cannot be drawn.
    pub fn save(&self, out: &Path, cube: &Cube) -> Result<Vec<PathBuf>> {
        let mut json = serde_json::to_vec_pretty(self).map_err(Error::other)?;
        json.push(b'\n');
        let files = [
            ("results.json", json),
            ("curves.csv", csv::curves(cube).into_bytes()),
            ("report.html", html::page(self, cube)?.into_bytes()),
        ];
        let write = |(name, bytes): (&str, Vec<u8>)| {
            let path = out.join(name);
            files::write(&path, &bytes).map(|()| path)
        };
        files.into_iter().map(write).collect()
    }

    /// The table and the verdict for the terminal.
    pub fn in_words(&self) -> String {
        terminal::text(self)
    }

    /// The metrics to show: those that claims are about, or else all.
    fn shown_metrics(&self) -> Vec<Metric> {
        if !self.results.metrics.is_empty() {
            return self.results.metrics.clone();
        }
        let names: BTreeSet<&String> = self
            .results
            .cells
            .iter()
            .flat_map(|c| c.metrics.keys())
            .collect();
        let shown = names
            .into_iter()
            .filter(|n| *n != crate::experiment::TRAINABLE);
        shown.map(Metric::new).collect()
    }

    /// Arms and (task, setting) groups in the paper's order.
    fn axes(&self) -> (Vec<String>, Vec<(String, String)>) {
        let mut cube = Cube::default();
        for cell in &self.results.cells {
            // Places only: an empty cell is always accepted.
            let _ = cube.insert(cell.id.clone(), Cell::new());
        }
        for (id, why) in &self.results.failures {
            cube.fail(id.clone(), why.clone());
        }
        fn order(rows: &[(String, String)]) -> Vec<(&str, &str)> {
            rows.iter()
                .map(|(name, what)| (name.as_str(), what.as_str()))
                .collect()
        }
        (
            cube.arms(&order(&self.paper.arms)),
            cube.groups(&order(&self.paper.tasks)),
        )
    }

    /// A metric's values over the seeds of one (arm, task, setting).
    fn values(&self, arm: &str, group: &(String, String), metric: &str) -> Vec<f64> {
        let wanted = |id: &CellId| id.arm == arm && id.task == group.0 && id.setting == group.1;
        let cells = self.results.cells.iter().filter(|c| wanted(&c.id));
        cells
            .filter_map(|c| c.metrics.get(metric).copied())
            .collect()
    }

    /// A metric's mean and spread of one (arm, task, setting) as text, with the number of runs that failed.
    fn entry(&self, arm: &str, group: &(String, String), metric: &Metric) -> String {
        let values = self.values(arm, group, &metric.name);
        let failed = self
            .results
            .failures
            .iter()
            .filter(|(id, _)| id.arm == arm && id.task == group.0 && id.setting == group.1);
        match failed.count() {
            0 => terminal::spread(&values, metric.decimals),
            n => format!(
                "{} ({n} failed)",
                terminal::spread(&values, metric.decimals)
            ),
        }
    }

    /// A metric of an arm: each seed's mean over its tasks and settings.
    fn per_seed(&self, arm: &str, metric: &str) -> Vec<f64> {
        let mut seeds: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for cell in self.results.cells.iter().filter(|c| c.id.arm == arm) {
            if let Some(value) = cell.metrics.get(metric) {
                seeds.entry(cell.id.seed).or_default().push(*value);
            }
        }
        seeds
            .values()
            .map(|v| crate::experiment::stats::mean(v))
            .collect()
    }
}

fn digest(value: &impl Serialize) -> Result<String> {
    Ok(sha256(&serde_json::to_vec(value).map_err(Error::other)?))
}

fn paper_text(run: &Run) -> PaperText {
    let paper = &run.paper;
    let owned = |rows: &[(&str, &str)]| {
        rows.iter()
            .map(|(n, w)| (n.to_string(), w.to_string()))
            .collect()
    };
    PaperText {
        slug: paper.slug.into(),
        title: paper.title.into(),
        year: paper.year,
        claim: paper.claim.into(),
        reference: paper.reference.into(),
        figures: paper.figures.iter().map(Figure::to_owned).collect(),
        scale: paper.scale.into(),
        notes: paper.notes.iter().map(|n| n.to_string()).collect(),
        tasks: owned(paper.tasks),
        arms: owned(paper.arms),
    }
}

fn results(run: &Run) -> Result<Results> {
    let cell = |(id, cell): (&CellId, &Cell)| CellResult {
        id: id.clone(),
        metrics: cell.metrics.clone(),
        matrices: cell.matrices.clone(),
    };
    let curves: Vec<_> = run
        .cube
        .cells()
        .map(|(id, cell)| (id, &cell.curves))
        .collect();
    let items: Vec<_> = run
        .cube
        .cells()
        .map(|(id, cell)| (id, &cell.items))
        .collect();
    Ok(Results {
        metrics: run.metrics.clone(),
        cells: run.cube.cells().map(cell).collect(),
        failures: run
            .cube
            .failures()
            .map(|(id, why)| (id.clone(), why.to_owned()))
            .collect(),
        sweeps: run.sweeps.clone(),
        curves_sha256: digest(&curves)?,
        items_sha256: digest(&items)?,
    })
}

fn measured(run: &Run) -> Measured {
    let mut arms: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (id, seconds) in &run.cell_seconds {
        arms.entry(id.arm.clone()).or_default().push(*seconds);
    }
    Measured {
        ended_unix: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs()),
        seconds: run.started.elapsed().as_secs_f64(),
        stage_seconds: run.stages.iter().map(|s| s.seconds).sum(),
        threads: deltaw_engine::cpu::threads::threads(),
        peak_rss_bytes: peak_rss(),
        arm_seconds: arms
            .into_iter()
            .map(|(a, s)| (a, crate::experiment::stats::mean(&s)))
            .collect(),
        values: run.measured.clone(),
        stages: run.stages.clone(),
    }
}
