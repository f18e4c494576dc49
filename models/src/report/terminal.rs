//! The table and the verdict on the terminal.

use crate::experiment::stats::{mean, std_dev};
use crate::experiment::{Judged, State, TRAINABLE};

use super::Report;

/// All that is printed at the end of a run.
pub(super) fn text(report: &Report) -> String {
    let mut out = format!("\n{} ({})\n", report.paper.title, report.paper.year);
    out += &wrapped(&report.paper.claim, "");
    let (arms, groups) = report.axes();
    for metric in report.shown_metrics() {
        let unit = if metric.unit.is_empty() {
            String::new()
        } else {
            format!(", {}", metric.unit)
        };
        let seeds = report.config.seeds.len();
        out += &format!(
            "\n{}{unit}: mean ± standard deviation over {seeds} seeds\n",
            metric.name
        );
        let mut rows = vec![vec!["arm".to_owned()]];
        rows[0].extend(
            groups
                .iter()
                .map(|(task, setting)| format!("{task} {setting}").trim().to_owned()),
        );
        rows[0].extend(["trainable".into(), "seconds".into()]);
        for arm in &arms {
            let mut row = vec![arm.clone()];
            row.extend(groups.iter().map(|g| report.entry(arm, g, &metric)));
            let trainable = report.per_seed(arm, TRAINABLE);
            row.push(if trainable.is_empty() {
                "–".into()
            } else {
                count(mean(&trainable))
            });
            let seconds = report.measured.arm_seconds.get(arm);
            row.push(seconds.map_or("–".into(), |s| format!("{s:.1}")));
            rows.push(row);
        }
        out += &table(&rows);
    }
    for (id, why) in &report.results.failures {
        out += &format!("failed: {id}: {why}\n");
    }
    out += "\nclaims\n";
    for claim in &report.claims {
        out += &wrapped(
            &format!("{} {}: {}", mark(claim.state), claim.text, evidence(claim)),
            "    ",
        );
    }
    out += &format!("\nverdict: {}\n", report.verdict.outcome.words());
    out += &wrapped(&format!("rule: {}", report.verdict.rule), "  ");
    for note in &report.verdict.notes {
        out += &wrapped(note, "  ");
    }
    if let Some(record) = &report.record {
        out += &format!("record: {}\n", record.in_words());
        for difference in &record.differences {
            out += &wrapped(difference, "  ");
        }
    }
    out + "\n"
}

fn mark(state: State) -> &'static str {
    match state {
        State::Holds => "  ✓",
        State::Fails => "  ✗",
        State::Inconclusive => "  ?",
    }
}

/// A claim's numbers in words.
fn evidence(claim: &Judged) -> String {
    let mut text = String::new();
    if let Some(estimate) = claim.estimate {
        text += &format!("{} = {estimate:.2} {}", claim.quantity, claim.unit);
        text = text.trim_end().to_owned();
    }
    if let Some((low, high)) = claim.interval {
        text += &format!(", 95 % interval {low:.2} to {high:.2}");
    }
    if let Some(p) = claim.p_corrected {
        text += &format!(", p {}", p_value(p));
    }
    if let Some(reach) = claim.detectable {
        text += &format!(", detectable {reach:.2}");
    }
    if text.is_empty() {
        claim.why.clone()
    } else {
        format!("{text}; {}", claim.why)
    }
}

/// "0.032", "< 0.001".
pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 {
        "< 0.001".into()
    } else {
        format!("{p:.3}")
    }
}

/// "81.20 ± 0.35", "81.20" for one seed, "–" for none.
pub(super) fn spread(values: &[f64], decimals: usize) -> String {
    match values.len() {
        0 => "–".into(),
        1 => format!("{:.decimals$}", values[0]),
        _ => format!(
            "{:.decimals$} ± {:.decimals$}",
            mean(values),
            std_dev(values)
        ),
    }
}

/// "1,234,567".
pub(super) fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 {
        "−".to_owned()
    } else {
        String::new()
    };
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Columns padded to their widest entry: the first to the left, the others to the right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let mut line = String::from("  ");
        for (c, entry) in row.iter().enumerate() {
            let w = widths[c];
            line += &if c == 0 {
                format!("{entry:<w$}")
            } else {
                format!("   {entry:>w$}")
            };
        }
        text += line.trim_end();
        text.push('\n');
        if i == 0 {
            text += &format!(
                "  {}\n",
                "─".repeat(widths.iter().sum::<usize>() + 3 * (columns - 1))
            );
        }
    }
    text
}

/// Lines of at most 96 characters, those after the first indented.
fn wrapped(text: &str, indent: &str) -> String {
    let (mut out, mut line) = (
        String::new(),
        String::from(if text.starts_with(' ') { "  " } else { "" }),
    );
    if !indent.is_empty() && !text.starts_with(' ') {
        line = indent.to_owned();
    }
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > 96 {
            out += &format!("{line}\n");
            line = indent.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    out + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(1_234_567.0), "1,234,567");
        assert_eq!(count(12.0), "12");
        assert_eq!(spread(&[1.0, 3.0], 1), "2.0 ± 1.4");
        assert_eq!(
            (spread(&[], 1), spread(&[2.0], 1)),
            ("–".into(), "2.0".into())
        );
        assert_eq!(
            (p_value(0.0004), p_value(0.0321)),
            ("< 0.001".into(), "0.032".into())
        );
    }

    #[test]
    fn columns_line_up() {
        let rows =
            [["arm", "x"], ["lora", "1.5"], ["é", "10.25"]].map(|r| r.map(String::from).to_vec());
        assert_eq!(
            table(&rows),
            "  arm        x\n  ────────────\n  lora     1.5\n  é      10.25\n"
        );
    }

    #[test]
    fn long_lines_are_wrapped() {
        let text = wrapped(&"word ".repeat(30), "  ");
        assert!(
            text.lines()
                .all(|l| l.chars().count() <= 96 && l.starts_with("  word")),
            "{text}"
        );
    }
}
