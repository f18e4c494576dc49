//! Train, validation and test, decided by what an item is and not by where it stands.
//!
//! An item's identity (its text without case and punctuation, a word with all its senses, an emoji whatever
//! the style) is hashed to u in [0, 1): u < `test` is test, u < `test` + `validation` is validation, the
//! rest is train. Whatever shares an identity stays together; adding items moves no other item; changing the
//! validation fraction never touches the test split.

use super::draw::stable_hash;
use super::error::{DataError, Result};
use serde::{Deserialize, Serialize};

/// One of the three parts of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Seen by training.
    Train,
    /// Seen by tuning only.
    Validation,
    /// Seen once, at the end.
    Test,
}

/// The shares of validation and test; the rest is train.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fractions {
    validation: f64,
    test: f64,
}

impl Default for Fractions {
    /// A tenth each, as the shipped tokeniser was trained.
    fn default() -> Self {
        Self {
            validation: 0.1,
            test: 0.1,
        }
    }
}

impl Fractions {
    /// Fractions in [0, 1) whose sum is below 1.
    pub fn new(validation: f64, test: f64) -> Result<Self> {
        let in_range = |f: f64| (0.0..1.0).contains(&f);
        if in_range(validation) && in_range(test) && validation + test < 1.0 {
            return Ok(Self { validation, test });
        }
        Err(DataError::Invalid {
            what: "Fractions::new".into(),
            found: format!("validation {validation}, test {test}"),
            wanted: "both in [0, 1) with a sum below 1".into(),
        })
    }

    /// The split of the item `identity` of the data set `set`.
    pub fn assign(&self, set: &str, identity: &str) -> Split {
        let name = format!("{set}\0{identity}");
        let u = (stable_hash(name.as_bytes()) >> 11) as f64 / (1u64 << 53) as f64;
        if u < self.test {
            Split::Test
        } else if u < self.test + self.validation {
            Split::Validation
        } else {
            Split::Train
        }
    }
}

/// One value for each split.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Splits<T> {
    /// For training.
    pub train: T,
    /// For tuning.
    pub validation: T,
    /// For the final figures.
    pub test: T,
}

impl<T> Splits<T> {
    /// The value of one split.
    pub fn get(&self, split: Split) -> &T {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        }
    }

    /// The same splits with each value mapped.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Splits<U> {
        Splits {
            train: f(self.train),
            validation: f(self.validation),
            test: f(self.test),
        }
    }

    /// The same splits with each value mapped, or the first error.
    pub fn try_map<U, E>(
        self,
        mut f: impl FnMut(T) -> std::result::Result<U, E>,
    ) -> std::result::Result<Splits<U>, E> {
        Ok(Splits {
            train: f(self.train)?,
            validation: f(self.validation)?,
            test: f(self.test)?,
        })
    }
}

impl<T> Splits<Vec<T>> {
    /// Distributes items by `assign`; their order within a split is kept.
    pub fn of(items: impl IntoIterator<Item = T>, mut assign: impl FnMut(&T) -> Split) -> Self {
        let mut splits = Splits {
            train: Vec::new(),
            validation: Vec::new(),
            test: Vec::new(),
        };
        for item in items {
            match assign(&item) {
                Split::Train => splits.train.push(item),
                Split::Validation => splits.validation.push(item),
                Split::Test => splits.test.push(item),
            }
        }
        splits
    }

    /// Items in train, validation and test.
    pub fn sizes(&self) -> [usize; 3] {
        [self.train.len(), self.validation.len(), self.test.len()]
    }
}

/// A text's identity: its letters and digits in lower case, runs of all else one space.
///
/// Texts that differ in case, punctuation or spacing only are one item.
pub fn text_identity(text: &str) -> String {
    let mut identity = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_alphanumeric() {
            identity.extend(c.to_lowercase());
        } else if !identity.is_empty() && !identity.ends_with(' ') {
            identity.push(' ');
        }
    }
    identity.truncate(identity.trim_end().len());
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_ignores_case_punctuation_and_spacing() {
        assert_eq!(
            text_identity("  I LOVE this -- feeling!! :D"),
            "i love this feeling d"
        );
        assert_eq!(
            text_identity("I love this feeling D"),
            "i love this feeling d"
        );
        assert_eq!(text_identity("?!"), "");
        assert_eq!(text_identity("Münch's"), "münch s");
    }

    #[test]
    fn shares_are_met_and_test_does_not_move_with_validation() {
        let (a, b) = (
            Fractions::new(0.1, 0.2).unwrap(),
            Fractions::new(0.3, 0.2).unwrap(),
        );
        let items: Vec<String> = (0..20_000).map(|i| format!("item {i}")).collect();
        let sizes = Splits::of(&items, |i| a.assign("set", i)).sizes();
        // Binomial deviations are at most 65 here: five of them.
        assert!(
            sizes[1].abs_diff(2_000) < 325 && sizes[2].abs_diff(4_000) < 325,
            "{sizes:?}"
        );
        for item in &items {
            let tested = |f: &Fractions| f.assign("set", item) == Split::Test;
            assert_eq!(tested(&a), tested(&b));
        }
        assert!(
            items
                .iter()
                .any(|i| a.assign("set", i) != a.assign("other", i))
        );
    }

    #[test]
    fn nothing_is_held_out_at_fraction_zero() {
        let all = Fractions::new(0.0, 0.0).unwrap();
        assert!((0..1_000).all(|i| all.assign("s", &i.to_string()) == Split::Train));
    }

    #[test]
    fn fractions_out_of_range_are_refused() {
        for (v, t) in [(0.5, 0.5), (-0.1, 0.1), (0.1, 1.0), (f64::NAN, 0.1)] {
            let error = Fractions::new(v, t).unwrap_err().to_string();
            assert!(error.contains("sum below 1"), "{error}");
        }
    }
}
