//! Compilers and assemblers of other makers, where they are installed: `.ci/tools` installs them and prints the variables
//! that name them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;

/// A Python with NVRTC, or with Triton, in its packages: `DELTAW_PYTHON`.
pub const PYTHON: &str = "DELTAW_PYTHON";
/// NVIDIA's assembler.
pub const PTXAS: &str = "PTXAS";
/// Clang with the NVPTX target.
pub const CLANG: &str = "CLANG";

/// Says what is not tested, past the test harness, which swallows what passing tests print.
fn skipped(why: &str) {
    // A message that cannot be written is no reason to fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// The tool that an environment variable names, if it does. A test without its tool says so and passes.
pub fn tool(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).filter(|path| !path.is_empty());
    if path.is_none() {
        skipped(&format!("{variable} names no tool; .ci/tools installs it"));
    }
    path.map(PathBuf::from)
}

/// Whether a Python has a package.
pub fn has_package(python: &Path, package: &str) -> Result<bool> {
    let status = Command::new(python)
        .args(["-c", &format!("import {package}")])
        .stderr(std::process::Stdio::null())
        .status()?;
    if !status.success() {
        skipped(&format!("{} has no {package}", python.display()));
    }
    Ok(status.success())
}

/// Runs a command to its end, which must be a good one.
pub fn run(command: &mut Command) -> Result {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}\n{text}", output.status).into())
}
