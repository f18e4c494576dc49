//! What can go wrong around an experiment, said so that the reader knows what to do next.

use std::path::{Path, PathBuf};

/// The result of everything in [`crate::experiment`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an experiment, or one stage of it, stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ctrl-C: the run ends here and goes on from here when it is started again.
    #[error("interrupted")]
    Interrupted,

    /// A loss or a metric stopped being a finite number. It ends one run of one arm, not the experiment.
    #[error("diverged at step {step}: {what}")]
    Diverged {
        /// The training step at which it was seen, counted from 0.
        step: u64,
        /// What was not finite, and if known the first operation that made it so.
        what: String,
    },

    /// A search in which no candidate of an arm came through. It ends that arm's runs, not the experiment.
    #[error("{search}: every candidate of `{arm}` diverged; give the grid gentler ones")]
    Untuned {
        /// What was searched.
        search: String,
        /// For which arm.
        arm: String,
    },

    /// A file or folder could not be used.
    #[error("cannot {action} {path}: {source}{help}")]
    Io {
        /// What was tried: "write", "create".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
        /// What helps, beginning with a separator; empty where nothing is known to.
        help: &'static str,
    },

    /// An option that cannot be obeyed on this machine or in this build.
    #[error("--{option} {value}: {why}")]
    Option {
        /// The option's long name.
        option: &'static str,
        /// What was given.
        value: String,
        /// Why it cannot be, and what can.
        why: String,
    },

    /// A stage's value does not survive being written and read back.
    #[error("stage `{stage}`: its result cannot be kept: {source} (a NaN or an infinity in it?)")]
    Unstorable {
        /// The stage's name.
        stage: String,
        /// What serde says.
        source: serde_json::Error,
    },

    /// A claim names an arm, task, setting or metric that no cell has.
    #[error("{context}: no {kind} `{name}`; there are: {known}")]
    Unknown {
        /// Who asked.
        context: String,
        /// "arm", "task", "setting", "metric".
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are, nearest first.
        known: String,
    },

    /// A value that breaks a rule of this module; the text says which, and what to do.
    #[error("{0}")]
    Invalid(String),

    /// An error of another layer (engine, data, a paper's own), passed on as it is.
    #[error(transparent)]
    Other(#[from] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps any other error.
    pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }

    /// Whether it is the failure of one run of one arm, beside which the others go on.
    pub fn is_of_one_run(&self) -> bool {
        matches!(self, Self::Diverged { .. } | Self::Untuned { .. })
    }

    /// Wraps a system error with what was tried on which path.
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let help = match source.kind() {
            StorageFull | QuotaExceeded => {
                "; finished stages are kept: free some space and give the same command again"
            }
            PermissionDenied | ReadOnlyFilesystem | NotADirectory => {
                "; --out DIR names another folder"
            }
            _ => "",
        };
        Self::Io {
            action,
            path: path.to_owned(),
            source,
            help,
        }
    }

    /// An unknown name, with the known ones sorted by likeness to it.
    pub(crate) fn unknown<'a>(
        context: &str,
        kind: &'static str,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut known: Vec<&str> = known.into_iter().collect();
        known.sort_by_key(|other| edit_distance(name, other));
        known.dedup();
        let known = if known.is_empty() {
            "none".into()
        } else {
            known.join(", ")
        };
        Self::Unknown {
            context: context.into(),
            kind,
            name: name.into(),
            known,
        }
    }
}

impl From<deltaw_engine::error::Error> for Error {
    fn from(error: deltaw_engine::error::Error) -> Self {
        Self::other(error)
    }
}

/// Levenshtein's distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_comes_first() {
        let error = Error::unknown(
            "claim",
            "arm",
            "adalra r=2",
            ["lora r=2", "full", "adalora r=2"],
        );
        assert_eq!(
            error.to_string(),
            "claim: no arm `adalra r=2`; there are: adalora r=2, lora r=2, full"
        );
    }

    #[test]
    fn distances_worked_by_hand() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }

    #[test]
    fn a_full_disk_says_what_helps() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let text = Error::io("write", Path::new("results/x.json"), full).to_string();
        assert!(text.starts_with("cannot write results/x.json: "), "{text}");
        assert!(
            text.ends_with("free some space and give the same command again"),
            "{text}"
        );
    }
}
