//! From claims to a verdict.
//!
//! A claim *holds* when its p, corrected by Holm's method over the claims that decide, is at most 0.05; it *fails*
//! when the 95 % interval lies wholly on the wrong side of its threshold (or excludes every effect worth having); else
//! it is *inconclusive*, and the detectable effect says how large one this many seeds and items could have shown. Data
//! without any variation decide nothing, and a claim from which failed runs took seeds cannot hold.

use serde::{Deserialize, Serialize};

use super::claim::{Claim, Evidence, Question};
use super::error::{Error, Result};
use super::stats::bootstrap::Interval;
use super::stats::{Estimate, holm, sign_test};

/// The error rate of a verdict.
pub const ALPHA: f64 = 0.05;

/// The method of a number that is the same in every seed and on every item: a p of 0 would be an artefact of it.
const NO_VARIATION: &str = "no variation";

/// What the data say of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Shown to be so.
    Holds,
    /// Shown not to be so.
    Fails,
    /// Not shown either way.
    Inconclusive,
}

/// What the experiment says of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All of it.
    Reproduced,
    /// Part of it.
    PartlyReproduced,
    /// None of it.
    NotReproduced,
    /// The data do not decide.
    Inconclusive,
}

impl Outcome {
    /// In plain words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Reproduced => "reproduced",
            Self::PartlyReproduced => "partly reproduced",
            Self::NotReproduced => "not reproduced",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// A claim with what the data say of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The claim.
    pub text: String,
    /// Whether it holds.
    pub state: State,
    /// Why, in a sentence.
    pub why: String,
    /// What the numbers below measure: "adalora r=2 − lora r=2"; of several, the weakest.
    pub quantity: String,
    /// Its unit; "×" for a ratio.
    pub unit: String,
    /// θ̂ (of ratios the geometric mean).
    pub estimate: Option<f64>,
    /// The 95 % interval.
    pub interval: Option<(f64, f64)>,
    /// How it was found: "t, 4.0 degrees of freedom" or "bootstrap (BCa)".
    pub method: String,
    /// The thresholds that the claim names.
    pub thresholds: Vec<f64>,
    /// p, two-sided scale: at most 0.05 where the 95 % interval lies on the claim's side.
    pub p: Option<f64>,
    /// p after Holm's correction; equal to p for a claim that does not decide.
    pub p_corrected: Option<f64>,
    /// The distance from the threshold that would have been noticed with 80 % power (of a ratio: the factor).
    pub detectable: Option<f64>,
    /// θ_s of each seed.
    pub per_seed: Vec<f64>,
    /// Test items that were resampled; 0 where only seeds were.
    pub items: usize,
    /// Seeds that are missing because a run failed.
    #[serde(default)]
    pub lost: usize,
    /// Whether it takes part in the verdict.
    pub decides: bool,
}

impl Judged {
    /// Whether the claim was shown.
    pub fn holds(&self) -> bool {
        self.state == State::Holds
    }

    /// Whether its opposite was shown.
    pub fn fails(&self) -> bool {
        self.state == State::Fails
    }

    /// θ̂, or NaN where the claim has no number, so that every comparison with it is false.
    pub fn estimate(&self) -> f64 {
        self.estimate.unwrap_or(f64::NAN)
    }
}

/// What the experiment says of the paper, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// In one word.
    pub outcome: Outcome,
    /// The rule, in words.
    pub rule: String,
    /// The claims it was made from.
    pub claims: Vec<Judged>,
    /// What else bears on it.
    pub notes: Vec<String>,
}

impl Verdict {
    /// Reproduced where all claims hold; partly where some do; not where none does and one fails; else inconclusive.
    ///
    /// # Errors
    /// A claim about an arm, task or metric that is not in the cube.
    pub fn all(claims: impl IntoIterator<Item = Claim>) -> Result<Self> {
        let rule = "reproduced if every claim holds, partly if some do, \
                    not if none does and at least one fails, else inconclusive";
        Self::rule(rule, claims, |judged| {
            let deciding = || judged.iter().filter(|c| c.decides);
            // That an invariant holds says that the experiment is sound, not that the paper is right.
            let shown = deciding().any(|c| c.holds() && c.estimate.is_some());
            let all = deciding().all(Judged::holds) && deciding().count() > 0;
            match (all, shown, deciding().any(Judged::fails)) {
                (true, _, _) => Outcome::Reproduced,
                (_, true, _) => Outcome::PartlyReproduced,
                (_, _, true) => Outcome::NotReproduced,
                _ => Outcome::Inconclusive,
            }
        })
    }

    /// A rule of the paper's specification: its words, its claims, and the decision from their states, in order.
    ///
    /// # Errors
    /// As [`Verdict::all`].
    pub fn rule(
        words: impl Into<String>,
        claims: impl IntoIterator<Item = Claim>,
        decide: impl FnOnce(&[Judged]) -> Outcome,
    ) -> Result<Self> {
        let mut judged = Vec::new();
        let mut worths = Vec::new();
        for claim in claims {
            worths.push((claim.question, claim.worth, claim.ratio));
            judged.push(measure(claim)?);
        }
        let deciding: Vec<usize> = (0..judged.len())
            .filter(|&i| judged[i].decides && judged[i].p.is_some())
            .collect();
        let raw: Vec<f64> = deciding.iter().filter_map(|&i| judged[i].p).collect();
        for (&i, p) in deciding.iter().zip(holm(&raw)) {
            judged[i].p_corrected = Some(p);
        }
        for (claim, (question, worth, ratio)) in judged.iter_mut().zip(&worths) {
            settle(claim, question, *worth, *ratio);
        }
        Ok(Self {
            outcome: decide(&judged),
            rule: words.into(),
            claims: judged,
            notes: Vec::new(),
        })
    }

    /// Fewer seeds than the rule asks for leave the verdict open, whatever they show.
    pub fn needing_seeds(mut self, wanted: usize) -> Self {
        let counts = self
            .claims
            .iter()
            .filter(|c| c.decides && c.estimate.is_some());
        if let Some(least) = counts
            .map(|c| c.per_seed.len())
            .min()
            .filter(|&n| n < wanted)
        {
            self.open(format!(
                "the rule asks for at least {wanted} seeds; this run has {least}"
            ));
        }
        self
    }

    /// Whether nothing could be concluded and failed runs have a part in that.
    pub fn lost_to_failures(&self) -> bool {
        let lost = |c: &Judged| c.decides && c.lost > 0 && c.state == State::Inconclusive;
        self.outcome == Outcome::Inconclusive && self.claims.iter().any(lost)
    }

    /// Adds a remark.
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Makes the verdict inconclusive, and says why.
    pub(super) fn open(&mut self, why: String) {
        if self.outcome != Outcome::Inconclusive {
            self.notes.push(format!(
                "{why}; by the claims alone it would be: {}",
                self.outcome.words()
            ));
        } else {
            self.notes.push(why);
        }
        self.outcome = Outcome::Inconclusive;
    }
}

/// Whether seeds or items differ by more than the rounding of equal values' mean.
fn varies(estimate: &Estimate) -> bool {
    estimate.se > 1e-12 * estimate.value.abs()
}

/// One number against the question: p and 95 % interval.
fn test(evidence: &Evidence, question: &Question) -> (Option<f64>, Option<(f64, f64)>, String) {
    let estimate = &evidence.estimate;
    if !estimate.has_interval() {
        return (None, None, "no interval from fewer than two seeds".into());
    }
    if !varies(estimate) {
        return (None, None, NO_VARIATION.into());
    }
    let upper = |threshold| match &evidence.bootstrap {
        Some(drawn) => drawn.p_above(threshold, Interval::Bca),
        None => estimate.p_above(threshold),
    };
    let lower = |threshold: f64| match &evidence.bootstrap {
        Some(drawn) => drawn.p_below(threshold, Interval::Bca),
        None => estimate.p_below(threshold),
    };
    let p = match *question {
        Question::Above(threshold) => Some(upper(threshold)),
        Question::Below(threshold) => Some(lower(threshold)),
        Question::Between(low, high) => Some(upper(low).max(lower(high))),
        Question::Signs(..) | Question::Fact(_) => None,
    };
    let (interval, method) = match &evidence.bootstrap {
        Some(drawn) => (
            Some(drawn.interval(1.0 - ALPHA, Interval::Bca)),
            "bootstrap (BCa)".to_owned(),
        ),
        None => {
            let method = format!("t, {:.1} degrees of freedom", estimate.df);
            (estimate.t_interval(1.0 - ALPHA), method)
        }
    };
    (p, interval, method)
}

/// Everything about a claim but its state.
fn measure(claim: Claim) -> Result<Judged> {
    let evidence = match claim.evidence {
        // An arm of which no run came through is no mistake of the author's.
        Ok(list) => list,
        Err(error) => return Err(Error::Invalid(format!("claim \"{}\": {error}", claim.text))),
    };
    let thresholds = match claim.question {
        Question::Above(t) | Question::Below(t) => vec![t],
        Question::Between(low, high) => vec![low, high],
        Question::Signs(..) => vec![0.0],
        Question::Fact(_) => Vec::new(),
    };
    let back = |x: f64| if claim.ratio { x.exp() } else { x };
    let unit = match &claim.metric {
        _ if claim.ratio => "×".to_owned(),
        Some(metric) => metric.unit.clone(),
        None => String::new(),
    };
    let mut judged = Judged {
        text: claim.text,
        state: State::Inconclusive,
        why: String::new(),
        quantity: String::new(),
        unit,
        estimate: None,
        interval: None,
        method: String::new(),
        thresholds: thresholds.iter().map(|&t| back(t)).collect(),
        p: None,
        p_corrected: None,
        detectable: None,
        per_seed: Vec::new(),
        items: 0,
        lost: evidence.iter().map(|e| e.lost).max().unwrap_or(0),
        decides: !claim.aside,
    };
    // Of several numbers all must hold, so the one that speaks least for the claim stands for it.
    let tested = evidence.iter().map(|e| (e, test(e, &claim.question)));
    let weakness = |p: Option<f64>| p.unwrap_or(f64::INFINITY);
    let weakest = tested.max_by(|(a, (p, ..)), (b, (q, ..))| {
        weakness(*p)
            .total_cmp(&weakness(*q))
            .then(b.estimate.value.total_cmp(&a.estimate.value))
    });
    if let Some((number, (p, interval, method))) = weakest.filter(|(e, _)| e.estimate.seeds > 0) {
        judged.quantity = number.label.clone();
        judged.estimate = Some(back(number.estimate.value));
        judged.interval = interval.map(|(low, high)| (back(low), back(high)));
        judged.method = method;
        (judged.p, judged.p_corrected) = (p, p);
        let varies = varies(&number.estimate);
        judged.detectable = number
            .estimate
            .detectable(ALPHA)
            .filter(|_| varies)
            .map(back);
        judged.per_seed = number.per_seed.iter().map(|&x| back(x)).collect();
        judged.items = number.estimate.items;
    }
    Ok(judged)
}

/// The state, from the corrected p and the interval.
fn settle(claim: &mut Judged, question: &Question, worth: f64, ratio: bool) {
    let into = |x: f64| if ratio { x.ln() } else { x };
    let (state, why) = match (*question, claim.interval) {
        (Question::Fact(true), _) => (State::Holds, "it is so in every run".to_owned()),
        (Question::Fact(false), _) => (State::Fails, "it is not so".to_owned()),
        _ if claim.per_seed.is_empty() => (
            State::Inconclusive,
            "no seed came through in every arm that it compares".to_owned(),
        ),
        (Question::Signs(k, n), _) => signs(&claim.per_seed, k, n),
        (_, None) if claim.method == NO_VARIATION => (
            State::Inconclusive,
            "undecided: no variation, every seed and test item says the same".to_owned(),
        ),
        (_, None) => (
            State::Inconclusive,
            "one seed gives no interval; two are needed at least".to_owned(),
        ),
        (_, Some((low, high))) => {
            let (low, high) = (into(low), into(high));
            let wrong = match *question {
                Question::Above(t) => high < t + worth,
                Question::Below(t) => low > t - worth,
                Question::Between(a, b) => high < a || low > b,
                Question::Signs(..) | Question::Fact(_) => false,
            };
            // Between the spacing of replicates, p and interval may part: both are wanted.
            let right = match *question {
                Question::Above(t) => low > t,
                Question::Below(t) => high < t,
                Question::Between(a, b) => low > a && high < b,
                Question::Signs(..) | Question::Fact(_) => false,
            };
            match claim.p_corrected {
                Some(p) if p <= ALPHA && right && !wrong => {
                    (State::Holds, "the whole interval is on its side".to_owned())
                }
                _ if wrong => (
                    State::Fails,
                    "the whole interval is on the other side".to_owned(),
                ),
                Some(_) if right => (
                    State::Inconclusive,
                    "the interval is on its side, but not after the correction".to_owned(),
                ),
                _ => (State::Inconclusive, open_reason(claim)),
            }
        }
    };
    (claim.state, claim.why) = match state {
        State::Holds if claim.lost > 0 => (
            State::Inconclusive,
            format!(
                "{why}, but {} more lost a run to failure",
                seeds(claim.lost)
            ),
        ),
        _ => (state, why),
    };
}

fn seeds(count: usize) -> String {
    format!("{count} seed{}", if count == 1 { "" } else { "s" })
}

fn open_reason(claim: &Judged) -> String {
    let reach = claim.detectable.map(|d| match claim.unit.as_str() {
        "×" => format!("a factor of {d:.2}"),
        unit => format!("{d:.2} {unit}").trim_end().to_owned(),
    });
    match reach {
        Some(reach) => {
            format!("the interval has both sides in it; {reach} would have been noticed")
        }
        None => "the interval has both sides in it".into(),
    }
}

/// k of n seeds, in proportion where there are more; fewer than n leave it open.
fn signs(per_seed: &[f64], k: usize, n: usize) -> (State, String) {
    let (right, of) = (
        per_seed.iter().filter(|&&x| x > 0.0).count(),
        per_seed.len(),
    );
    let chance = sign_test(right, of);
    let why = format!("in {right} of {of} seeds; by chance alone with probability {chance:.3}");
    let state = match of {
        _ if of < n => State::Inconclusive,
        // right/of ≥ k/n without rounding
        _ if right * n >= k * of => State::Holds,
        _ => State::Fails,
    };
    (state, why)
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
