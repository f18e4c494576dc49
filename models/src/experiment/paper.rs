//! What a paper says: the text around an experiment.

use serde::{Deserialize, Serialize};

use super::options::Scales;

/// A paper and the frame of its reproduction. Write it as a constant that ends in `..Paper::BLANK`.
#[derive(Clone, Copy, Debug)]
pub struct Paper {
    /// The binary's and the folder's name: "adalora".
    pub slug: &'static str,
    /// The paper's title.
    pub title: &'static str,
    /// The year of its first version.
    pub year: u16,
    /// What it claims, in plain words.
    pub claim: &'static str,
    /// Authors, venue, and the reference code that was read.
    pub reference: &'static str,
    /// (name, what it is), in the order of the report.
    pub tasks: &'static [(&'static str, &'static str)],
    /// (name, what it is), in the order of the report.
    pub arms: &'static [(&'static str, &'static str)],
    /// How many seeds each scale runs.
    pub seeds: Scales<u64>,
    /// The first of them: above 1 where the results of earlier ones were seen before the experiment was settled.
    pub first_seed: u64,
    /// The paper's own figures, beside which ours stand.
    pub figures: &'static [Figure],
    /// What differs in scale between the paper's experiment and this one.
    pub scale: &'static str,
    /// A sentence for whoever has the weights: the checkpoint and data of the paper's own scale, or the nearest that
    /// `--checkpoint` and `--data` load. Empty where none does.
    pub own_scale: &'static str,
    /// Anything else that a reader should know.
    pub notes: &'static [&'static str],
    /// The binary's own text, `include_str!("<slug>.rs")`: stages that another text of it has cached are not taken.
    /// Changes in the libraries are noticed without it.
    pub source: &'static str,
    /// The committed record, `include_str!("../../records/<slug>.json")`.
    pub record: Option<&'static str>,
}

impl Paper {
    /// Empty fields to start from.
    pub const BLANK: Self = Self {
        slug: "",
        title: "",
        year: 0,
        claim: "",
        reference: "",
        tasks: &[],
        arms: &[],
        seeds: Scales {
            quick: 2,
            default: 3,
            full: 5,
        },
        first_seed: 1,
        figures: &[],
        scale: "",
        own_scale: "",
        notes: &[],
        source: "",
        record: None,
    };

    /// Arms, tasks and the claim as `--list` prints them.
    pub fn listing(&self) -> String {
        let mut text = format!(
            "{} ({})\n{}\n{}\n",
            self.title, self.year, self.reference, self.claim
        );
        for (heading, rows) in [("tasks", self.tasks), ("arms", self.arms)] {
            let width = rows
                .iter()
                .map(|(name, _)| name.chars().count())
                .max()
                .unwrap_or(0);
            text += &format!("\n{heading}\n");
            for (name, what) in rows {
                text += &format!("  {name:width$}  {what}\n");
            }
        }
        let Scales {
            quick,
            default,
            full,
        } = self.seeds;
        text + &format!("\nseeds: {quick} with --quick, {default} by default, {full} with --full\n")
    }
}

/// One figure out of a paper.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure<S = &'static str> {
    /// What was measured and on what: "GLUE average at 0.32M parameters".
    pub what: S,
    /// The arm of ours that is its counterpart.
    pub arm: S,
    /// The paper's figure, as printed.
    pub value: S,
    /// Where it stands, or where it was learned: "Table 1".
    pub source: S,
    /// Whether it was checked against the paper's text.
    pub verified: bool,
}

impl Figure {
    /// A figure that was read in the paper.
    pub const fn verified(
        what: &'static str,
        arm: &'static str,
        value: &'static str,
        source: &'static str,
    ) -> Self {
        Self {
            what,
            arm,
            value,
            source,
            verified: true,
        }
    }

    /// A figure from memory or second hand; it is marked so wherever it is shown.
    pub const fn unverified(
        what: &'static str,
        arm: &'static str,
        value: &'static str,
        source: &'static str,
    ) -> Self {
        Self {
            what,
            arm,
            value,
            source,
            verified: false,
        }
    }

    /// The same with owned text.
    pub fn to_owned(&self) -> Figure<String> {
        let Self {
            what,
            arm,
            value,
            source,
            verified,
        } = *self;
        Figure {
            what: what.into(),
            arm: arm.into(),
            value: value.into(),
            source: source.into(),
            verified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listing_has_arms_and_tasks() {
        let paper = Paper {
            title: "T",
            year: 2023,
            tasks: &[("sentiment", "movie, then tweets")],
            arms: &[("lora", "rank 2"), ("full", "every weight")],
            ..Paper::BLANK
        };
        let listing = paper.listing();
        assert!(
            listing.contains("\ntasks\n  sentiment  movie, then tweets\n"),
            "{listing}"
        );
        assert!(
            listing.contains("\narms\n  lora  rank 2\n  full  every weight\n"),
            "{listing}"
        );
        assert!(listing.ends_with("2 with --quick, 3 by default, 5 with --full\n"));
    }
}
