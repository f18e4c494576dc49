//! Is the text spelt rightly? A task of the family of acceptability, made of any corpus: each passage occurs once as it is
//! and once with pairs of neighbouring letters swapped, so that neither its letters nor its words in themselves tell.

use crate::data::draw::{Draw, stable_hash};
use crate::data::error::Result;
use crate::data::split::Splits;
use crate::data::text::{Example, Objective, Target, TextTask};

/// Passages of at most `longest` characters, one of each text, with `swaps` swaps (class 0) and without (class 1).
///
/// Two neighbours are swapped inside a word, in lower case, and where they differ; texts too short for that many are left out.
pub fn spelling(
    name: &str,
    texts: Splits<Vec<String>>,
    longest: usize,
    swaps: usize,
) -> Result<TextTask> {
    let both = |text: &String| {
        let mut draw = Draw::at(0, "passage", &[stable_hash(text.as_bytes())]);
        let passage = passage(text, longest, &mut draw);
        let wrong = swapped(&passage, swaps, &mut draw)?;
        let example = |text: String, class| Example {
            text,
            pair: None,
            target: Target::Class(class),
        };
        Some([example(wrong, 0), example(passage, 1)])
    };
    Ok(TextTask {
        name: name.into(),
        objective: Objective::Classify(["misspelt", "right"].map(String::from).to_vec()),
        splits: texts.map(|part| part.iter().filter_map(both).flatten().collect()),
    })
}

/// Whole words out of the text, from a drawn word on.
fn passage(text: &str, longest: usize, draw: &mut Draw) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let length = |words: &[&str]| words.iter().map(|w| w.chars().count() + 1).sum::<usize>();
    let last = (0..words.len())
        .rev()
        .find(|&i| length(&words[i..]) > longest)
        .unwrap_or(0);
    let first = draw.below(last + 1);
    let mut end = first;
    while end < words.len() && length(&words[first..=end]) <= longest + 1 {
        end += 1;
    }
    words[first..end].join(" ")
}

/// The text with that many disjoint pairs of neighbouring letters swapped; None where it has not as many.
fn swapped(text: &str, swaps: usize, draw: &mut Draw) -> Option<String> {
    let mut letters: Vec<char> = text.chars().collect();
    let lower = |c: char| c.is_ascii_lowercase();
    let mut open: Vec<usize> = (0..letters.len().saturating_sub(1))
        .filter(|&i| lower(letters[i]) && lower(letters[i + 1]) && letters[i] != letters[i + 1])
        .collect();
    for _ in 0..swaps {
        let place = *open.get(draw.below(open.len()))?;
        letters.swap(place, place + 1);
        open.retain(|i| i.abs_diff(place) > 1);
    }
    Some(letters.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::corpus;
    use crate::data::split::Fractions;

    fn definitions() -> TextTask {
        let texts = corpus::definitions(&Fractions::default()).unwrap();
        let texts = texts.map(|part| part.into_iter().map(|d| d.1).collect());
        spelling("spelling", texts, 30, 2).unwrap()
    }

    fn letters(text: &str) -> Vec<char> {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    }

    #[test]
    fn twins_differ_by_two_swaps_and_in_no_letter() {
        let task = definitions();
        for twins in task.splits.test.chunks(2) {
            let [wrong, right] = twins else {
                panic!("an odd number of passages")
            };
            assert_eq!(
                (wrong.target, right.target),
                (Target::Class(0), Target::Class(1))
            );
            assert_eq!(letters(&wrong.text), letters(&right.text));
            let differing = wrong.text.chars().zip(right.text.chars());
            assert_eq!(differing.filter(|(a, b)| a != b).count(), 4, "{wrong:?}");
            assert!(right.text.chars().count() <= 30, "{right:?}");
        }
    }

    #[test]
    fn the_splits_are_these() {
        assert_eq!(definitions().splits.sizes(), [63_874, 7_728, 8_512]);
    }

    #[test]
    fn a_passage_is_whole_words_that_fit() {
        for seed in 0..50 {
            let text = "to be or not to be that is the question";
            let passage = passage(text, 12, &mut Draw::at(seed, "test", &[]));
            assert!((1..=12).contains(&passage.len()), "{passage:?}");
            assert!(format!(" {text} ").contains(&format!(" {passage} ")));
        }
        assert_eq!(passage("short", 30, &mut Draw::at(0, "test", &[])), "short");
    }
}
