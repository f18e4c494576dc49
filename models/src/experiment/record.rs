//! Whether a run agrees with the committed record of its paper.
//!
//! A record is the results.json of a `--full` run. With the same configuration on the same device every number must
//! be the same, bit for bit. Otherwise the question is whether the two tell the same story: for each claim that both
//! have, the states must not contradict each other (one holds, one fails) and the estimates' intervals must meet.

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
                if let Some(difference) = contradiction(claim, there) {
                    agrees = false;
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

fn contradiction(ours: &Judged, record: &Judged) -> Option<String> {
    let opposite = matches!(
        (ours.state, record.state),
        (State::Holds, State::Fails) | (State::Fails, State::Holds)
    );
    if opposite {
        return Some(format!(
            "\"{}\": {:?} here, {:?} in the record",
            ours.text, ours.state, record.state
        ));
    }
    let ((low, high), (there_low, there_high)) = (ours.interval?, record.interval?);
    (high < there_low || there_high < low).then(|| {
        format!(
            "\"{}\": interval {low:.2} to {high:.2} here, {there_low:.2} to {there_high:.2} in the record",
            ours.text
        )
    })
}
