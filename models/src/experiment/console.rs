//! Words for whoever watches. A reader that has gone (`adalora | head`) must not end an experiment, so that nobody listens
//! is no error.

use std::fmt::Display;
use std::io::Write;

/// A line on standard error.
pub fn tell(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Text on standard output.
pub fn print(text: impl Display) {
    let _ = write!(std::io::stdout(), "{text}");
}
