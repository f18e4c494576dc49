//! The harness that every paper's reproduction shares.
//!
//! A paper's binary is a [`Paper`] (what it claims, its own figures), a function that fills a cube of results
//! through cached stages, and the claims over that cube:
//!
//! ```no_run
//! use deltaw_models::experiment::*;
//!
//! const PAPER: Paper = Paper {
//!     slug: "halving",
//!     title: "Halving",
//!     year: 2024,
//!     claim: "Halving twice is better than halving once.",
//!     ..Paper::BLANK
//! };
//!
//! fn experiment(run: &mut Run) -> Result<Verdict> {
//!     for (arm, factor) in [("once", 0.5), ("twice", 0.25)] {
//!         for seed in run.seeds() {
//!             run.cell("halve", CellId::new(arm, "loss", seed), &factor, |_| {
//!                 Ok(Cell::new().metric("loss", factor * (1.0 + seed as f64)))
//!             })?;
//!         }
//!     }
//!     let scores = run.scores(Metric::new("loss").lower_is_better());
//!     Verdict::all([scores.claim("twice").superior_to("once")])
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     deltaw_models::experiment::main(&PAPER, experiment)
//! }
//! ```
//!
//! - [`run`]: stages, cached by what they depend on; [`stage`]: checkpoints, Ctrl-C, divergence within one.
//! - [`cube`]: (arm, task, setting, seed) → metrics, test items' scores, curves, heat maps.
//! - [`tune`]: the same grid for every arm.
//! - [`claim`], [`verdict`], [`stats`]: what the data say, with intervals over seeds and test items.
//! - [`record`]: whether a run agrees with the committed one. The outputs are [`crate::report`]'s.

mod cache;
pub mod claim;
mod console;
pub mod cube;
mod driver;
pub(crate) mod emulated;
pub mod environment;
pub mod error;
pub mod files;
pub mod hash;
mod interrupt;
pub mod options;
pub mod paper;
pub mod picture;
mod progress;
pub mod record;
pub mod rng;
pub mod run;
pub mod stage;
pub mod stats;
pub mod subject;
pub mod tune;
pub mod verdict;

pub use claim::{Claim, Scores, Term};
pub use cube::{Better, Cell, CellId, Cube, Matrix, Metric, TRAINABLE};
pub use driver::{UNDECIDED, main, run_with};
pub use environment::Environment;
pub use error::{Error, Result};
pub use options::{Device, Isa, Options, Scale, Scales};
pub use paper::{Figure, Paper};
pub use picture::Picture;
pub use run::{Run, Staged};
pub use stage::Stage;
pub use tune::{Trial, Tuned};
pub use verdict::{Judged, Outcome, State, Verdict};
