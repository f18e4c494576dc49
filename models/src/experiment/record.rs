//! Whether a run agrees with the committed record of its paper.
//!
//! A record is the results.json of a `--full` run. With the same configuration on the same device every number must
//! be the same, bit for bit. Otherwise the question is whether the two tell the same story: for each claim that both
//! have, the states must not contradict each other (one holds, one fails), and at the same scale the estimates' intervals
//! must meet. At another scale (fewer steps, a weaker base) an effect may well have another size: that is only noted.

use serde::{Deserialize, Serialize};

use super::verdict::{Judged, State};
use crate::report::Report;

/// The outcome of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Nothing contradicts the record.
    pub agrees: bool,
    /// The run has the record's configuration and device, so that all results must be equal.
    pub same_configuration: bool,
    /// The record's verdict, in words.
    pub verdict: String,
    /// The record's configuration hash.
    pub hash: String,
    /// In what they differ, and what could not be compared.
    pub differences: Vec<String>,
}

impl Comparison {
    /// Compares a report with the record's text. A record that cannot be read agrees with nothing.
    pub fn of(report: &Report, record: &str) -> Self {
        match serde_json::from_str::<Report>(record) {
            Ok(record) => compare(report, &record),
            Err(e) => Self {
                agrees: false,
                same_configuration: false,
                verdict: String::new(),
                hash: String::new(),
                differences: vec![format!("the record cannot be read: {e}")],
            },
        }
    }

    /// In a sentence.
    pub fn in_words(&self) -> String {
        let how = match (self.agrees, self.same_configuration) {
            (true, true) => "the same, bit for bit",
            (true, false) => "agrees with the record",
            (false, _) => "differs from the record",
        };
        format!(
            "{how} (record: {}, configuration {})",
            self.verdict, self.hash
        )
    }
}

fn compare(ours: &Report, record: &Report) -> Comparison {
    let same_configuration = ours.config.hash == record.config.hash && ours.device == record.device;
    let mut differences = Vec::new();
    let mut agrees = true;
    if same_configuration && ours.results != record.results {
        agrees = false;
        differences.push("the configuration is the record's, but the results are not".into());
    }
    for claim in &ours.claims {
        match record.claims.iter().find(|c| c.text == claim.text) {
            Some(there) => {
                if let Some(difference) = opposite(claim, there) {
                    agrees = false;
                    differences.push(difference);
                } else if let Some(difference) = apart(claim, there) {
                    agrees &= ours.config.scale != record.config.scale;
                    differences.push(difference);
                }
            }
            None => differences.push(format!("the record has no claim \"{}\"", claim.text)),
        }
    }
    if ours.verdict.outcome != record.verdict.outcome {
        differences.push(format!(
            "verdict: {} here, {} in the record",
            ours.verdict.outcome.words(),
            record.verdict.outcome.words()
        ));
    }
    Comparison {
        agrees,
        same_configuration,
        verdict: record.verdict.outcome.words().into(),
        hash: record.config.hash.clone(),
        differences,
    }
}

/// One holds and the other fails.
fn opposite(ours: &Judged, record: &Judged) -> Option<String> {
    let opposite = matches!(
        (ours.state, record.state),
        (State::Holds, State::Fails) | (State::Fails, State::Holds)
    );
    opposite.then(|| {
        format!(
            "\"{}\": {:?} here, {:?} in the record",
            ours.text, ours.state, record.state
        )
    })
}

/// The intervals do not meet.
fn apart(ours: &Judged, record: &Judged) -> Option<String> {
    let ((low, high), (there_low, there_high)) = (ours.interval?, record.interval?);
    (high < there_low || there_high < low).then(|| {
        format!(
            "\"{}\": interval {low:.2} to {high:.2} here, {there_low:.2} to {there_high:.2} in the record",
            ours.text
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Cell, CellId, Metric, Options, Outcome, Paper, Run, Scale, Verdict};
    use clap::Parser;

    /// A run in which `better` beats `base` by `gap`.
    fn report(gap: f64, setting: u32) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().to_string_lossy().into_owned();
        let paper = Paper {
            slug: "record-test",
            ..Paper::BLANK
        };
        let mut run = Run::open_silent(&paper, Options::parse_from(["x", "--out", &out])).unwrap();
        run.config("setting", setting).unwrap();
        for seed in 1..=4u64 {
            let noise = (seed % 3) as f64 * 0.1;
            for (arm, value) in [("base", 1.0), ("better", 1.0 + gap + noise)] {
                run.insert(
                    CellId::new(arm, "t", seed),
                    Cell::new().metric("accuracy", value),
                )
                .unwrap();
            }
        }
        let scores = run.scores(Metric::accuracy());
        let verdict = Verdict::all([scores.claim("better").superior_to("base")]).unwrap();
        Report::of(&run, verdict).unwrap()
    }

    fn compared(ours: &Report, record: &Report) -> Comparison {
        Comparison::of(ours, &serde_json::to_string(record).unwrap())
    }

    #[test]
    fn the_same_run_is_the_same_bit_for_bit() {
        let same = compared(&report(2.0, 1), &report(2.0, 1));
        assert!(same.agrees && same.same_configuration && same.differences.is_empty());
        assert!(
            same.in_words()
                .starts_with("the same, bit for bit (record: reproduced, configuration ")
        );
    }

    #[test]
    fn the_same_configuration_must_give_the_same_numbers() {
        let other = compared(&report(2.0, 1), &report(2.0 + 1e-12, 1));
        assert!(!other.agrees && other.same_configuration);
        assert_eq!(
            other.differences,
            ["the configuration is the record's, but the results are not"]
        );
    }

    #[test]
    fn another_configuration_must_tell_the_same_story() {
        let near = compared(&report(2.0, 1), &report(2.05, 2));
        assert!(
            near.agrees && !near.same_configuration,
            "{:?}",
            near.differences
        );
        let far = compared(&report(2.0, 1), &report(5.0, 2));
        assert!(
            !far.agrees && far.differences[0].contains("interval"),
            "{:?}",
            far.differences
        );
        // Another scale may find an effect of another size, but not of the other sign.
        let at_scale = |gap, scale| {
            let mut other = report(gap, 2);
            other.config.scale = scale;
            other
        };
        let larger = compared(&report(2.0, 1), &at_scale(5.0, Scale::Full));
        assert!(larger.agrees && larger.differences[0].contains("interval"));
        assert!(!compared(&report(-2.0, 1), &at_scale(5.0, Scale::Full)).agrees);
        let opposite = compared(&report(-2.0, 1), &report(2.0, 2));
        assert!(!opposite.agrees);
        assert!(opposite.differences[0].contains("Fails here, Holds in the record"));
        assert_eq!(
            opposite.differences[1],
            "verdict: not reproduced here, reproduced in the record"
        );
        assert_eq!(report(2.0, 1).verdict.outcome, Outcome::Reproduced);
    }

    #[test]
    fn a_run_on_weights_or_data_of_the_users_own_is_not_compared() {
        let with = |more: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().to_string_lossy().into_owned();
            let paper = Paper {
                slug: "record-test",
                record: Some("{}"),
                ..Paper::BLANK
            };
            let options = Options::parse_from([&["x", "--out", &out], more].concat());
            let run = Run::open_silent(&paper, options).unwrap();
            Report::of(&run, Verdict::all([]).unwrap()).unwrap().record
        };
        assert!(with(&[]).is_some());
        for more in [["--data", "d.tsv"], ["--checkpoint", "c"], ["--steps", "9"]] {
            assert_eq!(with(&more), None);
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_agrees_with_nothing() {
        let comparison = Comparison::of(&report(2.0, 1), "{\"format\": 1}");
        assert!(
            !comparison.agrees
                && comparison.differences[0].starts_with("the record cannot be read")
        );
    }
}
