//! What can be wrong with data: who, what came, what was wanted, what helps.

/// An error of a loader, a tokeniser or a batcher.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be opened or read.
    #[error("{file}: cannot be read: {reason}; wanted {wanted}")]
    Read {
        /// Path as given.
        file: String,
        /// The operating system's (or the decoder's) words.
        reason: String,
        /// What the file should have been.
        wanted: String,
    },
    /// A file without a single record.
    #[error("{file}: holds no record; wanted {wanted}")]
    Empty {
        /// Path as given.
        file: String,
        /// What the file should have held.
        wanted: String,
    },
    /// Bytes that are not UTF-8.
    #[error(
        "{file}:{line}: byte {column} of the line is not UTF-8; wanted UTF-8 text (`iconv -t UTF-8` converts)"
    )]
    NotUtf8 {
        /// Path as given.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Byte within the line, from 1.
        column: usize,
    },
    /// A column that the record or the header lacks.
    #[error("{file}:{line}: no column `{column}`; found {found}; wanted {wanted}")]
    MissingColumn {
        /// Path as given.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The column that was looked for.
        column: String,
        /// The columns that are there.
        found: String,
        /// The columns that a file of this kind has.
        wanted: String,
    },
    /// A field that cannot be what it should be.
    #[error("{file}:{line}: {what} {found}; wanted {wanted}")]
    Field {
        /// Path as given.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Name of the field.
        what: String,
        /// What stood there.
        found: String,
        /// What should have stood there.
        wanted: String,
    },
    /// A name that nothing bears.
    #[error("no {what} `{name}`; nearest: {nearest}")]
    Unknown {
        /// The kind of thing that was looked up.
        what: String,
        /// The name as given.
        name: String,
        /// The nearest names, best first.
        nearest: String,
    },
    /// An argument outside its range.
    #[error("{what}: {found}; wanted {wanted}")]
    Invalid {
        /// Function and argument.
        what: String,
        /// The value that came.
        found: String,
        /// The values that would do.
        wanted: String,
    },
}

/// Shorthand for results of this module.
pub type Result<T> = std::result::Result<T, DataError>;

/// The error of a name that is not among `known`: lists the three nearest by edit distance.
pub fn unknown(what: &str, name: &str, known: &[&str]) -> DataError {
    let mut ranked: Vec<_> = known.iter().map(|k| (edit_distance(name, k), *k)).collect();
    ranked.sort();
    let nearest: Vec<String> = ranked
        .iter()
        .take(3)
        .map(|(_, k)| format!("`{k}`"))
        .collect();
    DataError::Unknown {
        what: what.into(),
        name: name.into(),
        nearest: nearest.join(", "),
    }
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_of_known_pairs() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let error = unknown("data set", "mnits", &["emoji", "mnist", "kjv", "sentiment"]);
        assert!(
            error
                .to_string()
                .starts_with("no data set `mnits`; nearest: `mnist`, "),
            "{error}"
        );
    }
}
