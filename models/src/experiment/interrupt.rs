//! Ctrl-C: the first asks the run to stop at the next step, the second ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::console;
use super::error::{Error, Result};

static ASKED: AtomicBool = AtomicBool::new(false);

/// The exit status of a run that was interrupted, as the shell would report it.
pub const EXIT_CODE: u8 = 130;

/// Listens for Ctrl-C (and SIGTERM, SIGHUP) from here on. Where the process already has a handler, that one stays.
pub fn listen() {
    let _ = ctrlc::set_handler(|| {
        if ASKED.swap(true, Relaxed) {
            std::process::exit(i32::from(EXIT_CODE));
        }
        console::tell("\nstopping at the next step (Ctrl-C again: at once)");
    });
}

/// Whether the user asked to stop.
pub fn asked() -> bool {
    ASKED.load(Relaxed)
}

/// `Err(Interrupted)` once the user asked to stop.
///
/// # Errors
/// [`Error::Interrupted`], and only that.
pub fn check() -> Result<()> {
    if asked() {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}
