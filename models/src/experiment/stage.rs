//! Inside a stage: progress, Ctrl-C, checkpoints, files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::cache::{Artefact, Found, Place};
use super::error::{Error, Result};
use super::interrupt;
use super::progress::Progress;

/// How long a stage goes on between two checkpoints.
const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(20);

/// A stage that is being computed.
pub struct Stage<'run> {
    place: &'run Place,
    progress: &'run mut Progress,
    artefacts: BTreeMap<String, Artefact>,
    state: Option<Vec<u8>>,
    /// Seconds of earlier sittings.
    before: f64,
    began: Instant,
    saved: Instant,
}

impl<'run> Stage<'run> {
    pub(super) fn new(place: &'run Place, progress: &'run mut Progress) -> Result<Self> {
        let now = Instant::now();
        let (mut state, mut before, mut artefacts) = (None, 0.0, BTreeMap::new());
        match place.load_state()? {
            Found::Value(header, body) => {
                progress.note(&format!("stage `{}` goes on where it stopped", place.stage));
                (state, before, artefacts) = (Some(body), header.seconds, header.artefacts);
            }
            Found::Nothing(Some(why)) => {
                progress.note(&format!(
                    "stage `{}` begins anew: of its checkpoint, {why}",
                    place.stage
                ));
            }
            Found::Outdated | Found::Nothing(None) => {}
        }
        Ok(Self {
            place,
            progress,
            artefacts,
            state,
            before,
            began: now,
            saved: now,
        })
    }

    /// What [`Stage::checkpoint`] last kept, where this stage was interrupted before. A second call gives None.
    pub fn resume(&mut self) -> Option<Vec<u8>> {
        self.state.take()
    }

    /// Keeps where the stage stands: all it needs to go on (parameters, optimiser, position, curves so far).
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn checkpoint(&mut self, state: &[u8]) -> Result<()> {
        self.place
            .save_state(state, self.seconds(), &self.artefacts)?;
        self.saved = Instant::now();
        Ok(())
    }

    /// To be called once a step: shows the progress, keeps `state` every 20 seconds and when the user asks to
    /// stop, and then stops.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after Ctrl-C; a checkpoint that cannot be written.
    pub fn step(
        &mut self,
        done: u64,
        total: u64,
        state: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<()> {
        self.progress(done, total);
        if interrupt::asked() || self.saved.elapsed() >= BETWEEN_CHECKPOINTS {
            self.checkpoint(&state()?)?;
        }
        self.check()
    }

    /// To be called once a step where no state is kept.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after Ctrl-C.
    pub fn check(&self) -> Result<()> {
        interrupt::check()
    }

    /// Shows how far the stage is.
    pub fn progress(&mut self, done: u64, total: u64) {
        self.progress.step(done, total);
    }

    /// A line for whoever watches.
    pub fn note(&self, text: &str) {
        self.progress.note(text);
    }

    /// Passes a finite number on; anything else ends this run as diverged.
    ///
    /// # Errors
    /// [`Error::Diverged`] with the step and the number's name.
    pub fn finite(&self, step: u64, what: &str, value: f64) -> Result<f64> {
        if value.is_finite() {
            return Ok(value);
        }
        Err(Error::Diverged {
            step,
            what: format!("{what} is {value}"),
        })
    }

    /// Keeps a file, such as weights, beside the stage's value.
    ///
    /// # Errors
    /// A name that is not a plain file name; a file that cannot be written.
    pub fn save_artefact(&mut self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let artefact = self.place.save_artefact(name, bytes)?;
        self.artefacts.insert(name.into(), artefact);
        Ok(self.artefact(name))
    }

    /// Where a saved file lies.
    pub fn artefact(&self, name: &str) -> PathBuf {
        self.place.folder.join(name)
    }

    fn seconds(&self) -> f64 {
        self.before + self.began.elapsed().as_secs_f64()
    }

    pub(super) fn close(self) -> (f64, BTreeMap<String, Artefact>) {
        (self.seconds(), self.artefacts)
    }
}
