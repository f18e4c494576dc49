//! Text tasks: examples of one or two texts with a class or a value, in three splits.

use super::split::{Split, Splits};

/// What is asked about a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Index of a class.
    Class(u32),
    /// A value to regress.
    Value(f32),
}

impl Target {
    /// The class, if it is one.
    pub fn class(self) -> Option<u32> {
        match self {
            Target::Class(c) => Some(c),
            Target::Value(_) => None,
        }
    }
}

/// One or two texts and what is asked about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The text, or the first of a pair.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// The answer.
    pub target: Target,
}

/// What a task asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Objective {
    /// One of these classes, by name.
    Classify(Vec<String>),
    /// A value in this range.
    Regress {
        /// The least value.
        low: f32,
        /// The greatest value.
        high: f32,
    },
}

impl Objective {
    /// Width of the output: one per class, one for a value.
    pub fn outputs(&self) -> usize {
        match self {
            Objective::Classify(classes) => classes.len(),
            Objective::Regress { .. } => 1,
        }
    }
}

/// A task on texts.
#[derive(Debug, Clone, PartialEq)]
pub struct TextTask {
    /// Name, as in results.
    pub name: String,
    /// What is asked.
    pub objective: Objective,
    /// The examples; an example's item number is its place in its split.
    pub splits: Splits<Vec<Example>>,
}

impl TextTask {
    /// How many examples of a split each class has; empty for regression.
    pub fn class_counts(&self, split: Split) -> Vec<usize> {
        let Objective::Classify(classes) = &self.objective else {
            return Vec::new();
        };
        let mut counts = vec![0; classes.len()];
        for class in self
            .splits
            .get(split)
            .iter()
            .filter_map(|e| e.target.class())
        {
            counts[class as usize] += 1;
        }
        counts
    }

    /// Test accuracy of always answering the training split's most frequent class; NaN for regression.
    pub fn majority(&self) -> f64 {
        let train = self.class_counts(Split::Train);
        let best = (0..train.len()).max_by_key(|&c| (train[c], std::cmp::Reverse(c)));
        let test = self.class_counts(Split::Test);
        let all: usize = test.iter().sum();
        best.map_or(f64::NAN, |c| test[c] as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majority_is_chosen_on_train_and_scored_on_test() {
        let examples = |classes: &[u32]| {
            let example = |&c: &u32| Example {
                text: String::new(),
                pair: None,
                target: Target::Class(c),
            };
            classes.iter().map(example).collect()
        };
        let task = TextTask {
            name: "t".into(),
            objective: Objective::Classify(vec!["a".into(), "b".into()]),
            splits: Splits {
                train: examples(&[1, 1, 0]),
                validation: vec![],
                test: examples(&[0, 0, 0, 1]),
            },
        };
        assert_eq!(task.class_counts(Split::Test), [3, 1]);
        assert_eq!(task.majority(), 0.25);
        assert_eq!(task.objective.outputs(), 2);
    }
}
