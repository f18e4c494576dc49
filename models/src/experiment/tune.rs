//! Equal tuning: every arm gets the same candidates, seeds and validation, and so the same number of trials.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::cube::{Better, Metric};
use super::error::{Error, Result};
use super::options::Scale;
use super::run::Run;
use super::stage::Stage;
use super::stats::mean;

/// One validation run of a sweep.
pub struct Trial<'a, C> {
    /// Whose.
    pub arm: &'a str,
    /// With what.
    pub candidate: &'a C,
    /// With which seed.
    pub seed: u64,
}

/// The log of a sweep, as it stands in results.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// What was searched: "learning rate, sentiment".
    pub name: String,
    /// The validation metric.
    pub metric: Metric,
    /// The candidates that every arm was given.
    pub candidates: Vec<Value>,
    /// The seeds of each trial.
    pub seeds: Vec<u64>,
    /// What each arm made of them.
    pub arms: Vec<SweptArm>,
}

/// One arm of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweptArm {
    /// Its name.
    pub arm: String,
    /// Per candidate, the score of each seed; None where it diverged.
    pub scores: Vec<Vec<Option<f64>>>,
    /// The index of the candidate with the best mean; None if none came through all its seeds.
    pub chosen: Option<usize>,
    /// Whether that is the first or the last candidate, so that a wider grid might find a better one.
    pub at_edge: bool,
}

/// What a sweep chose.
#[derive(Clone, Debug)]
pub struct Tuned<C> {
    name: String,
    chosen: BTreeMap<String, Option<C>>,
}

impl<C> Tuned<C> {
    /// The arm's candidate with the best mean validation score; of equal ones the first.
    ///
    /// # Errors
    /// An arm that was not swept; [`Error::Untuned`] where no candidate came through all its seeds.
    pub fn best(&self, arm: &str) -> Result<&C> {
        match self.chosen.get(arm) {
            Some(Some(candidate)) => Ok(candidate),
            Some(None) => Err(Error::Untuned {
                search: self.name.clone(),
                arm: arm.into(),
            }),
            None => {
                let known = self.chosen.keys().map(String::as_str);
                Err(Error::unknown(&self.name, "arm", arm, known))
            }
        }
    }
}

impl Run {
    /// What the sweep of that name chose in the committed record, for a run of the default scale; None at another, with weights or
    /// data of the user's own, and where there is no record or no such sweep in it.
    pub fn recorded<C: DeserializeOwned>(&self, name: &str) -> Option<Tuned<C>> {
        #[derive(Deserialize)]
        struct Record {
            results: Sweeps,
        }
        #[derive(Deserialize)]
        struct Sweeps {
            sweeps: Vec<Sweep>,
        }
        if self.scale() != Scale::Default || self.options.own() {
            return None;
        }
        let record: Record = serde_json::from_str(self.paper.record?).ok()?;
        let sweep = record.results.sweeps.into_iter().find(|s| s.name == name)?;
        let chosen = sweep.arms.into_iter().map(|arm| {
            let value = arm.chosen.and_then(|i| sweep.candidates.get(i)).cloned();
            (arm.arm, value.and_then(|v| serde_json::from_value(v).ok()))
        });
        Some(Tuned {
            name: format!("{name}, from the record"),
            chosen: chosen.collect(),
        })
    }

    /// Runs a validation stage for every arm, candidate and seed, and chooses for each arm the candidate with the
    /// best mean. `key` holds what the trials depend on besides. A trial that diverges rules its candidate out.
    ///
    /// # Errors
    /// What `validate` returns, but for divergence; no candidates or no seeds.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a different part of the same table"
    )]
    pub fn grid<A, C, K>(
        &mut self,
        name: &str,
        metric: &Metric,
        key: &K,
        arms: &[A],
        candidates: &[C],
        seeds: &[u64],
        mut validate: impl FnMut(&Trial<'_, C>, &mut Stage<'_>) -> Result<f64>,
    ) -> Result<Tuned<C>>
    where
        A: AsRef<str>,
        C: Serialize + Clone,
        K: Serialize + ?Sized,
    {
        if candidates.is_empty() || seeds.is_empty() {
            return Err(Error::Invalid(format!(
                "{name}: a grid needs at least one candidate and one seed"
            )));
        }
        let stage_name = format!("tune {name}");
        self.expect(&stage_name, arms.len() * candidates.len() * seeds.len());
        let candidate_values: Vec<Value> = candidates
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<_, _>>()
            .map_err(Error::other)?;
        let (mut chosen, mut swept) = (BTreeMap::new(), Vec::new());
        for arm in arms.iter().map(AsRef::as_ref) {
            let mut scores = Vec::new();
            for (candidate, value) in candidates.iter().zip(&candidate_values) {
                let mut of_seeds = Vec::new();
                for &seed in seeds {
                    let label = format!("{arm} · {value} · seed {seed}");
                    let trial = Trial {
                        arm,
                        candidate,
                        seed,
                    };
                    let trial_key = (arm, value, seed, key);
                    let outcome = self.labelled(&stage_name, &label, &trial_key, |stage| {
                        let score = validate(&trial, stage)?;
                        stage.finite(0, &metric.name, score)
                    });
                    of_seeds.push(match outcome {
                        Ok((score, _)) => Some(*score),
                        Err(Error::Diverged { .. }) => None,
                        Err(other) => return Err(other),
                    });
                }
                scores.push(of_seeds);
            }
            let best = choose(&scores, metric.better);
            chosen.insert(arm.to_owned(), best.map(|i| candidates[i].clone()));
            let at_edge =
                candidates.len() > 2 && best.is_some_and(|i| i == 0 || i + 1 == candidates.len());
            swept.push(SweptArm {
                arm: arm.into(),
                scores,
                chosen: best,
                at_edge,
            });
        }
        self.sweeps.push(Sweep {
            name: name.into(),
            metric: metric.clone(),
            candidates: candidate_values,
            seeds: seeds.into(),
            arms: swept,
        });
        Ok(Tuned {
            name: name.into(),
            chosen,
        })
    }
}

/// The first candidate with the best mean, among those that came through all seeds.
fn choose(scores: &[Vec<Option<f64>>], better: Better) -> Option<usize> {
    let sign = if better == Better::Higher { 1.0 } else { -1.0 };
    let mut best: Option<(usize, f64)> = None;
    for (i, of_seeds) in scores.iter().enumerate() {
        let Some(values) = of_seeds.iter().copied().collect::<Option<Vec<f64>>>() else {
            continue;
        };
        let score = sign * mean(&values);
        if best.is_none_or(|(_, there)| score > there) {
            best = Some((i, score));
        }
    }
    best.map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Options, Paper};
    use clap::Parser;

    #[test]
    fn the_best_mean_wins_and_divergence_rules_out() {
        let scores = vec![
            vec![Some(1.0), Some(3.0)],
            vec![Some(2.5), Some(2.5)],
            vec![Some(9.0), None],
        ];
        assert_eq!(choose(&scores, Better::Higher), Some(1));
        assert_eq!(choose(&scores, Better::Lower), Some(0));
        assert_eq!(
            choose(&[vec![Some(1.0)], vec![Some(1.0)]], Better::Higher),
            Some(0)
        );
        assert_eq!(choose(&[vec![None]], Better::Higher), None);
    }

    #[test]
    fn the_record_chooses_for_a_run_of_the_default_scale_on_the_papers_own_weights_and_data() {
        let record = r#"{"results": {"sweeps": [{"name": "rate", "metric": {"name": "accuracy", "unit": "points",
            "better": "higher", "decimals": 2}, "candidates": [0.1, 0.2], "seeds": [1],
            "arms": [{"arm": "a", "scores": [[1.0], [2.0]], "chosen": 1, "at_edge": true}]}]}}"#;
        let chosen = |more: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().to_string_lossy().into_owned();
            let paper = Paper {
                slug: "tune-test",
                record: Some(record),
                ..Paper::BLANK
            };
            let options = Options::parse_from([&["x", "--out", &out], more].concat());
            let run = Run::open_silent(&paper, options).unwrap();
            let tuned = run.recorded::<f64>("rate")?;
            tuned.best("a").ok().copied()
        };
        assert_eq!(chosen(&[]), Some(0.2));
        assert_eq!(chosen(&["--steps", "9"]), Some(0.2));
        for more in [
            &["--full"][..],
            &["--quick"],
            &["--data", "d.tsv"],
            &["--checkpoint", "c"],
        ] {
            assert_eq!(chosen(more), None, "{more:?}");
        }
    }
}
