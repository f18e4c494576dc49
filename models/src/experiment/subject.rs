//! The verbs of a claim: what one arm is said to do beside others.

use super::claim::{Claim, Question, Scores, Term};

/// The start of a claim about one arm.
pub struct Subject<'a> {
    pub(super) scores: &'a Scores,
    pub(super) arm: String,
}

impl Subject<'_> {
    /// Better than the other arm.
    pub fn superior_to(self, other: &str) -> Claim {
        let text = format!("{} beats {other} in {}", self.arm, self.what());
        self.compare(text, Question::Above(0.0), other)
    }

    /// Not worse than the other arm by as much as `margin`, in the metric's unit.
    pub fn within(self, margin: f64, other: &str) -> Claim {
        let unit = self.unit();
        let text = format!(
            "{} is not worse than {other} by {margin}{unit} or more in {}",
            self.arm,
            self.what()
        );
        self.compare(text, Question::Above(-margin), other)
    }

    /// Neither better nor worse than the other arm by as much as `margin`.
    pub fn equals(self, margin: f64, other: &str) -> Claim {
        let unit = self.unit();
        let text = format!(
            "{} and {other} differ by less than {margin}{unit} in {}",
            self.arm,
            self.what()
        );
        self.compare(text, Question::Between(-margin, margin), other)
    }

    /// Better than each of the other arms.
    pub fn superior_to_each<const N: usize>(self, others: [&str; N]) -> Claim {
        let text = format!(
            "{} beats each of {} in {}",
            self.arm,
            others.join(", "),
            self.what()
        );
        let evidence = others
            .iter()
            .map(|other| self.scores.advantage(&self.arm, other))
            .collect();
        self.scores.build(text, Question::Above(0.0), evidence)
    }

    /// Better than the next, which is better than the one after it, and so on.
    pub fn ordered<const N: usize>(self, below: [&str; N]) -> Claim {
        let chain: Vec<&str> = std::iter::once(self.arm.as_str()).chain(below).collect();
        let text = format!("{} in {}", chain.join(" > "), self.what());
        let evidence = chain
            .windows(2)
            .map(|p| self.scores.advantage(p[0], p[1]))
            .collect();
        self.scores.build(text, Question::Above(0.0), evidence)
    }

    /// Better than the other arm in at least `k` of `n` seeds; with more seeds, in the same share.
    pub fn sign_in(self, k: usize, n: usize, other: &str) -> Claim {
        let text = format!(
            "{} beats {other} in at least {k} of {n} seeds in {}",
            self.arm,
            self.what()
        );
        self.compare(text, Question::Signs(k, n), other)
    }

    /// The metric is above a value.
    pub fn above(self, value: f64) -> Claim {
        let text = format!(
            "{}: {} is above {value}{}",
            self.arm,
            self.what(),
            self.unit()
        );
        self.alone(text, Question::Above(value))
    }

    /// The metric is below a value.
    pub fn below(self, value: f64) -> Claim {
        let text = format!(
            "{}: {} is below {value}{}",
            self.arm,
            self.what(),
            self.unit()
        );
        self.alone(text, Question::Below(value))
    }

    /// The metric is at most `factor` times the other arm's.
    pub fn at_most(self, factor: f64, other: &str) -> Claim {
        let text = format!(
            "{}: {} is at most {factor} × that of {other}",
            self.arm,
            self.what()
        );
        self.ratio(text, Question::Below(factor.ln()), other)
    }

    /// The metric is at least `factor` times the other arm's.
    pub fn at_least(self, factor: f64, other: &str) -> Claim {
        let text = format!(
            "{}: {} is at least {factor} × that of {other}",
            self.arm,
            self.what()
        );
        self.ratio(text, Question::Above(factor.ln()), other)
    }

    fn compare(self, text: String, question: Question, other: &str) -> Claim {
        let evidence = self.scores.advantage(&self.arm, other).map(|e| vec![e]);
        self.scores.build(text, question, evidence)
    }

    fn alone(self, text: String, question: Question) -> Claim {
        let evidence = self
            .scores
            .evidence(&self.arm, &[Term::new(1.0, &self.arm)], false);
        self.scores.build(text, question, evidence.map(|e| vec![e]))
    }

    fn ratio(self, text: String, question: Question, other: &str) -> Claim {
        let terms = [Term::new(1.0, &self.arm), Term::new(-1.0, other)];
        let evidence = self
            .scores
            .evidence(&format!("{} / {other}", self.arm), &terms, true);
        Claim {
            ratio: true,
            ..self.scores.build(text, question, evidence.map(|e| vec![e]))
        }
    }

    fn unit(&self) -> String {
        let unit = &self.scores.metric.unit;
        if unit.is_empty() {
            String::new()
        } else {
            format!(" {unit}")
        }
    }

    fn what(&self) -> String {
        let mut what = self.scores.metric.name.clone();
        if let Some(tasks) = &self.scores.tasks {
            what += &format!(" on {}", tasks.join(", "));
        }
        if let Some(settings) = &self.scores.settings {
            what += &format!(" at {}", settings.join(", "));
        }
        what
    }
}
