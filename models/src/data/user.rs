//! A user's own data: JSONL or TSV with the columns `text`, `label` and, for pairs, `text_pair`; the same with the columns
//! `prompt` and `completion` for decoders; plain text for language models.
//!
//! JSONL (`.jsonl`, `.json`): an object a line, `{"text": "…", "text_pair": "…", "label": 1}`; a label is a string,
//! an integer or, for ratings, a number. TSV (`.tsv`, `.txt`): the first line names the columns in any order, fields
//! are separated by tabs and not quoted. Other columns are ignored, empty lines skipped.

use super::error::{DataError, Result};
use super::split::{Fractions, Splits, text_identity};
use super::text::{Example, Objective, Target, TextTask};
use serde_json::Value;
use std::path::Path;

/// What the column `label` holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// Classes to be found in the file: the integers 0 to the largest, or else all names in alphabetical order.
    Found,
    /// These classes, by name or by number from 0.
    Classes(Vec<String>),
    /// Values in this range.
    Values {
        /// The least value.
        low: f32,
        /// The greatest value.
        high: f32,
    },
}

/// What a record's columns are called.
struct Columns {
    text: &'static str,
    label: &'static str,
    pair: Option<&'static str>,
    /// All of them, in words.
    all: &'static str,
}

const LABELLED: Columns = Columns {
    text: "text",
    label: "label",
    pair: Some("text_pair"),
    all: "the columns `text`, `label` and, for pairs, `text_pair`",
};

const COMPLETED: Columns = Columns {
    text: "prompt",
    label: "completion",
    pair: None,
    all: "the columns `prompt` and `completion`",
};

struct Record {
    line: usize,
    text: String,
    pair: Option<String>,
    label: String,
}

/// Reads a file as a task named after it, split by the identity of its first text.
pub fn read(path: &Path, labels: &Labels, fractions: &Fractions) -> Result<TextTask> {
    let (examples, objective) = read_examples(path, labels)?;
    let name = stem(path);
    let splits = Splits::of(examples, |e| {
        fractions.assign(&name, &text_identity(&e.text))
    });
    Ok(TextTask {
        name,
        objective,
        splits,
    })
}

/// A file's name without folder and extension: what the data set is called, wherever the file lies.
fn stem(path: &Path) -> String {
    let name = path.file_stem().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Reads a file's examples in their order.
pub fn read_examples(path: &Path, labels: &Labels) -> Result<(Vec<Example>, Objective)> {
    let file = path.display().to_string();
    let mut records = records(path, &LABELLED)?;
    for record in &mut records {
        record.label = record.label.trim().into();
    }
    let objective = objective(&records, labels);
    let examples = records
        .into_iter()
        .map(|record| {
            let target = target(&file, &record, &objective)?;
            Ok(Example {
                text: record.text,
                pair: record.pair,
                target,
            })
        })
        .collect::<Result<_>>()?;
    Ok((examples, objective))
}

/// Reads prompts and what should follow them, character by character, split by the identity of the prompt.
pub fn read_pairs(path: &Path, fractions: &Fractions) -> Result<Splits<Vec<(String, String)>>> {
    let pairs = records(path, &COMPLETED)?
        .into_iter()
        .map(|r| (r.text, r.label));
    Ok(Splits::of(pairs, |(prompt, _)| {
        fractions.assign(&stem(path), &text_identity(prompt))
    }))
}

/// The records of a file, at least one.
fn records(path: &Path, columns: &Columns) -> Result<Vec<Record>> {
    let file = path.display().to_string();
    let wanted = format!("{} as JSONL or TSV", columns.all);
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let lines = read_lines(path, &wanted)?;
    let records = match extension.as_deref() {
        Some("jsonl" | "json") => jsonl(&file, &lines, columns)?,
        Some("tsv" | "txt") => tsv(&file, &lines, columns)?,
        _ => {
            return Err(DataError::Read {
                file,
                reason: "its name ends in neither .jsonl nor .tsv".into(),
                wanted,
            });
        }
    };
    if records.is_empty() {
        return Err(DataError::Empty {
            file,
            wanted: format!("at least one record with {}", columns.all),
        });
    }
    Ok(records)
}

/// Reads plain text for a language model: paragraphs, separated by empty lines, are the documents and the items.
pub fn read_documents(path: &Path, fractions: &Fractions) -> Result<Splits<Vec<String>>> {
    let wanted = "paragraphs of UTF-8 text, separated by empty lines";
    let lines = read_lines(path, wanted)?;
    let paragraphs = lines
        .split(|line| line.trim().is_empty())
        .filter(|p| !p.is_empty());
    let documents: Vec<String> = paragraphs.map(|p| p.join("\n")).collect();
    let file = path.display().to_string();
    if documents.is_empty() {
        let wanted = wanted.into();
        return Err(DataError::Empty { file, wanted });
    }
    Ok(Splits::of(documents, |d| {
        fractions.assign(&stem(path), &text_identity(d))
    }))
}

/// The lines of a file, without their ends and without a byte-order mark.
fn read_lines(path: &Path, wanted: &str) -> Result<Vec<String>> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|e| DataError::Read {
        file: file.clone(),
        reason: e.to_string(),
        wanted: wanted.into(),
    })?;
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let mut lines = Vec::new();
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let text = std::str::from_utf8(line).map_err(|e| DataError::NotUtf8 {
            file: file.clone(),
            line: number + 1,
            column: e.valid_up_to() + 1,
        })?;
        lines.push(text.strip_suffix('\r').unwrap_or(text).to_string());
    }
    Ok(lines)
}

fn missing(
    file: &str,
    line: usize,
    (columns, column): (&Columns, &str),
    found: Vec<String>,
) -> DataError {
    DataError::MissingColumn {
        file: file.into(),
        line,
        column: column.into(),
        found: if found.is_empty() {
            "none".into()
        } else {
            found.join(", ")
        },
        wanted: columns.all.into(),
    }
}

fn jsonl(file: &str, lines: &[String], columns: &Columns) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for (i, text) in lines
        .iter()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty())
    {
        let line = i + 1;
        let field = |what: &str, found: String, wanted: &str| DataError::Field {
            file: file.into(),
            line,
            what: what.into(),
            found,
            wanted: wanted.into(),
        };
        let object = match serde_json::from_str(text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => {
                let wanted = format!("{{\"{}\": …, \"{}\": …}}", columns.text, columns.label);
                return Err(field("record", "is not an object".into(), &wanted));
            }
            Err(e) => {
                return Err(field(
                    "record",
                    format!("is no JSON: {e}"),
                    "one object a line",
                ));
            }
        };
        let string = |column: &str| match object.get(column) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(other) => Err(field(&format!("`{column}`"), other.to_string(), "a string")),
        };
        let missing = |column| {
            missing(
                file,
                line,
                (columns, column),
                object.keys().cloned().collect(),
            )
        };
        let label = match object.get(columns.label) {
            Some(Value::String(s)) => s.clone(),
            Some(Value::Number(n)) => n.to_string(),
            Some(Value::Bool(b)) => u8::from(*b).to_string(),
            None | Some(Value::Null) => return Err(missing(columns.label)),
            Some(other) => {
                let what = format!("`{}`", columns.label);
                return Err(field(&what, other.to_string(), "a string or a number"));
            }
        };
        records.push(Record {
            line,
            text: string(columns.text)?.ok_or_else(|| missing(columns.text))?,
            pair: columns.pair.map_or(Ok(None), string)?,
            label,
        });
    }
    Ok(records)
}

fn tsv(file: &str, lines: &[String], columns: &Columns) -> Result<Vec<Record>> {
    let mut filled = lines
        .iter()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty());
    let Some((at, header)) = filled.next() else {
        return Ok(Vec::new());
    };
    let names: Vec<&str> = header.split('\t').map(str::trim).collect();
    let place = |column: &str| {
        let found = || names.iter().map(|n| format!("`{n}`")).collect();
        let place = names.iter().position(|n| *n == column);
        place.ok_or_else(|| missing(file, at + 1, (columns, column), found()))
    };
    let (text, label) = (place(columns.text)?, place(columns.label)?);
    let pair = columns.pair.and_then(|pair| place(pair).ok());
    let mut records = Vec::new();
    for (i, row) in filled {
        let fields: Vec<&str> = row.split('\t').collect();
        if fields.len() != names.len() {
            return Err(DataError::Field {
                file: file.into(),
                line: i + 1,
                what: "row".into(),
                found: format!("has {} fields", fields.len()),
                wanted: format!("{}, as in the header, separated by tabs", names.len()),
            });
        }
        records.push(Record {
            line: i + 1,
            text: fields[text].into(),
            pair: pair.map(|p| fields[p].into()),
            label: fields[label].into(),
        });
    }
    Ok(records)
}

fn objective(records: &[Record], labels: &Labels) -> Objective {
    match labels {
        Labels::Classes(names) => Objective::Classify(names.clone()),
        &Labels::Values { low, high } => Objective::Regress { low, high },
        Labels::Found => {
            let numbers: Option<Vec<u16>> = records.iter().map(|r| r.label.parse().ok()).collect();
            if let Some(largest) = numbers.and_then(|n| n.into_iter().max()) {
                return Objective::Classify((0..=largest).map(|n| n.to_string()).collect());
            }
            let mut names: Vec<String> = records.iter().map(|r| r.label.clone()).collect();
            names.sort_unstable();
            names.dedup();
            Objective::Classify(names)
        }
    }
}

fn target(file: &str, record: &Record, objective: &Objective) -> Result<Target> {
    let label = &record.label;
    let (found, wanted) = match objective {
        Objective::Classify(names) => {
            let by_name = names.iter().position(|n| n == label);
            let by_number = || label.parse().ok().filter(|&n: &usize| n < names.len());
            if let Some(class) = by_name.or_else(by_number) {
                return Ok(Target::Class(class as u32));
            }
            let shown: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
            let more = if names.len() > shown.len() {
                ", …"
            } else {
                ""
            };
            let last = names.len().saturating_sub(1);
            (
                label,
                format!("0 to {last} or one of: {}{more}", shown.join(", ")),
            )
        }
        Objective::Regress { low, high } => {
            if let Some(value) = label.parse().ok().filter(|v| (*low..=*high).contains(v)) {
                return Ok(Target::Value(value));
            }
            (label, format!("a number in [{low}, {high}]"))
        }
    };
    Err(DataError::Field {
        file: file.into(),
        line: record.line,
        what: "`label`".into(),
        found: format!("`{found}`"),
        wanted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn error(name: &str, bytes: &[u8], labels: &Labels) -> String {
        let (dir, path) = write(name, bytes);
        let error = read_examples(&path, labels).unwrap_err().to_string();
        let parent = format!("{}/", dir.path().display());
        error.strip_prefix(&parent).unwrap_or(&error).to_string()
    }

    #[test]
    fn jsonl_and_tsv_of_one_content_are_one() {
        let jsonl = b"{\"text\": \"a\", \"text_pair\": \"b\", \"label\": \"yes\"}\n\n{\"label\": \"no\", \"text\": \"c\", \"text_pair\": \"\"}\n";
        let tsv = b"\xef\xbb\xbfid\tlabel\ttext_pair\ttext\r\n1\tyes\tb\ta\r\n2\tno\t\tc\r\n";
        let [one, two] = [("x.jsonl", &jsonl[..]), ("x.tsv", &tsv[..])].map(|(name, bytes)| {
            let (_dir, path) = write(name, bytes);
            read_examples(&path, &Labels::Found).unwrap()
        });
        assert_eq!(one, two);
        assert_eq!(one.1, Objective::Classify(vec!["no".into(), "yes".into()]));
        assert_eq!(one.0[0].target, Target::Class(1));
        assert_eq!(one.0[0].pair.as_deref(), Some("b"));
    }

    #[test]
    fn numbers_are_classes_or_values() {
        let (_dir, path) = write("n.tsv", b"text\tlabel\na\t2\nb\t0\n");
        let (examples, objective) = read_examples(&path, &Labels::Found).unwrap();
        assert_eq!(objective.outputs(), 3);
        assert_eq!(examples[0].target, Target::Class(2));
        let values = Labels::Values {
            low: 0.0,
            high: 5.0,
        };
        let (examples, _) = read_examples(&path, &values).unwrap();
        assert_eq!(examples[0].target, Target::Value(2.0));
        let task = read(&path, &Labels::Found, &Fractions::default()).unwrap();
        assert_eq!(
            (
                task.name.as_str(),
                task.splits.sizes().iter().sum::<usize>()
            ),
            ("n", 2)
        );
    }

    #[test]
    fn errors_name_file_line_and_what_was_wanted() {
        let two = Labels::Classes(vec!["no".into(), "yes".into()]);
        let values = Labels::Values {
            low: -4.0,
            high: 4.0,
        };
        let columns = LABELLED.all;
        for (name, bytes, labels, wanted) in [
            ("e.tsv", &b""[..], &two, format!("e.tsv: holds no record; wanted at least one record with {columns}")),
            ("e.jsonl", b"\n\n", &two, format!("e.jsonl: holds no record; wanted at least one record with {columns}")),
            ("h.tsv", b"text\tlabel\n", &two, format!("h.tsv: holds no record; wanted at least one record with {columns}")),
            ("c.tsv", b"sentence\tlabel\na\t1\n", &two, format!("c.tsv:1: no column `text`; found `sentence`, `label`; wanted {columns}")),
            ("c.jsonl", b"{\"text\": \"a\"}", &two, format!("c.jsonl:1: no column `label`; found text; wanted {columns}")),
            ("l.tsv", b"text\tlabel\na\t1\nb\t7\n", &two, "l.tsv:3: `label` `7`; wanted 0 to 1 or one of: no, yes".into()),
            ("v.tsv", b"text\tlabel\na\tgood\n", &values, "v.tsv:2: `label` `good`; wanted a number in [-4, 4]".into()),
            ("w.tsv", b"text\tlabel\na\t1\t2\n", &two, "w.tsv:2: row has 3 fields; wanted 2, as in the header, separated by tabs".into()),
            ("t.jsonl", b"{\"text\": 3, \"label\": 1}", &two, "t.jsonl:1: `text` 3; wanted a string".into()),
            ("a.jsonl", b"[1]", &two, "a.jsonl:1: record is not an object; wanted {\"text\": …, \"label\": …}".into()),
            ("u.tsv", b"text\tlabel\nab\xff\t1\n", &two, "u.tsv:2: byte 3 of the line is not UTF-8; wanted UTF-8 text (`iconv -t UTF-8` converts)".into()),
        ] {
            assert_eq!(error(name, bytes, labels), wanted);
        }
        let broken = error("b.jsonl", b"{\"text\": \"a\"", &two);
        assert!(
            broken.starts_with("b.jsonl:1: record is no JSON: EOF"),
            "{broken}"
        );
        let other = error("x.parquet", b"PAR1", &two);
        assert!(other.contains("neither .jsonl nor .tsv"), "{other}");
        let none = read_examples(Path::new("none.tsv"), &two)
            .unwrap_err()
            .to_string();
        assert!(none.starts_with("none.tsv: cannot be read: "), "{none}");
    }

    #[test]
    fn completions_are_read_to_the_last_space() {
        let all = Fractions::new(0.0, 0.0).unwrap();
        let jsonl = b"{\"prompt\": \"2 + 2 =\", \"completion\": \" 4 \"}\n{\"prompt\": \"x\", \"completion\": 7}";
        let (_dir, path) = write("p.jsonl", jsonl);
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        let pairs = read_pairs(&path, &all).unwrap().train;
        assert_eq!(pairs, [pair("2 + 2 =", " 4 "), pair("x", "7")]);
        let (_dir, path) = write("p.tsv", b"completion\tprompt\n 4\t2 + 2 =\n");
        assert_eq!(
            read_pairs(&path, &all).unwrap().train,
            [pair("2 + 2 =", " 4")]
        );
        let (_dir, path) = write("p.tsv", b"text\tlabel\na\t1\n");
        let message = read_pairs(&path, &all).unwrap_err().to_string();
        assert!(message.contains("no column `prompt`"), "{message}");
    }

    #[test]
    fn paragraphs_are_documents() {
        let (_dir, path) = write("t.txt", b"one\ntwo\n\n \nthree\n");
        let all = Fractions::new(0.0, 0.0).unwrap();
        assert_eq!(
            read_documents(&path, &all).unwrap().train,
            ["one\ntwo", "three"]
        );
        let (_dir, path) = write("t.txt", b" \n");
        assert!(matches!(
            read_documents(&path, &all),
            Err(DataError::Empty { .. })
        ));
    }
}
