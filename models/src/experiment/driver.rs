//! From the command line to the exit status.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use deltaw_engine::trace;

use super::console;
use super::error::{Error, Result};
use super::interrupt;
use super::options::{Options, Scale};
use super::paper::Paper;
use super::run::Run;
use super::verdict::Verdict;
use crate::report;

/// The exit status of an experiment that failed runs left undecided.
pub const UNDECIDED: u8 = 3;

/// A paper's `main`: reads the command line, runs the experiment, prints the table and the verdict, and leaves
/// `results.json`, `curves.csv` and `report.html` in the output folder.
///
/// The status is 0 for a finished experiment whatever its verdict, [`UNDECIDED`] where nothing could be concluded because
/// runs failed, 2 for a command line that cannot be understood, 130 after Ctrl-C and 1 for every other error. Finished
/// stages are kept in each case.
pub fn main(paper: &Paper, experiment: impl FnOnce(&mut Run) -> Result<Verdict>) -> ExitCode {
    run_with(paper, std::env::args_os(), experiment)
}

/// [`main`] with a given command line, the program's name first.
pub fn run_with(
    paper: &Paper,
    args: impl IntoIterator<Item = OsString>,
    experiment: impl FnOnce(&mut Run) -> Result<Verdict>,
) -> ExitCode {
    let options = match Options::parse_for(paper, args) {
        Ok(options) => options,
        Err(e) => {
            // Printing can only fail where nobody listens.
            let _ = e.print();
            return ExitCode::from(e.exit_code() as u8);
        }
    };
    if options.list {
        console::print(paper.listing());
        return ExitCode::SUCCESS;
    }
    let out = options.out(paper.slug);
    match carry_out(paper, options, experiment) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            console::tell(format!(
                "{}: nothing could be concluded, because runs failed: they are listed above",
                paper.slug
            ));
            ExitCode::from(UNDECIDED)
        }
        Err(Error::Interrupted) => {
            let kept = out.join("cache");
            console::tell(format!(
                "stopped; what was finished is in {}: give the same command to go on",
                kept.display()
            ));
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(error) => {
            console::tell(format!("{}: {error}", paper.slug));
            let mut cause = std::error::Error::source(&error);
            while let Some(deeper) = cause {
                let text = deeper.to_string();
                if !error.to_string().contains(&text) {
                    console::tell(format!("  because: {text}"));
                }
                cause = deeper.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether failed runs left room for a conclusion.
fn carry_out(
    paper: &Paper,
    options: Options,
    experiment: impl FnOnce(&mut Run) -> Result<Verdict>,
) -> Result<bool> {
    interrupt::listen();
    let profile = options.profile.clone();
    if let Some(path) = &profile {
        // Better to learn now than in an hour that it cannot be written.
        File::create(path).map_err(|e| Error::io("write", path, e))?;
        trace::start();
    }
    let mut run = Run::open(paper, options)?;
    let result = experiment(&mut run);
    run.progress.clear();
    if let Some(path) = &profile {
        trace::stop();
        save_trace(path)?;
    }
    let mut verdict = result?;
    let concluded = !verdict.lost_to_failures();
    if run.scale() == Scale::Quick {
        verdict.open("--quick proves the plumbing only".into());
    }
    let report = report::Report::of(&run, verdict)?;
    let written = report.save(&run.out(), run.cube());
    console::print(report.in_words());
    for path in written? {
        console::print(format!("  {}\n", path.display()));
    }
    Ok(concluded)
}

fn save_trace(path: &Path) -> Result<()> {
    let file = File::create(path).map_err(|e| Error::io("write", path, e))?;
    trace::write(file).map_err(|e| Error::io("write", path, e))
}
