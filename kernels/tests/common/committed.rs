//! Texts and tables that are committed.

use std::io::Write as _;
use std::path::Path;

/// The assembler's release whose code the committed tables describe.
pub const PTXAS: &str = "13.5.37";

/// Compares a text with a committed file; with `UPDATE=1` in the environment it is written instead.
pub fn compare(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).expect("the file can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differ = committed
        .lines()
        .zip(text.lines())
        .position(|(a, b)| a != b);
    let line = differ.unwrap_or(committed.lines().count().min(text.lines().count()));
    assert!(
        committed == text,
        "{file}:{}: committed `{}`, now `{}`; UPDATE=1 writes it anew",
        line + 1,
        committed.lines().nth(line).unwrap_or("nothing"),
        text.lines().nth(line).unwrap_or("nothing"),
    );
}

/// Says what is not tested, past the test harness, which would swallow it.
pub fn skip(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}
