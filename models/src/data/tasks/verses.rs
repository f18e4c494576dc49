//! Does the second verse follow the first? (BERT's next-sentence prediction, on the King James Bible.)

use crate::data::corpus::chapter_split;
use crate::data::draw::Draw;
use crate::data::error::Result;
use crate::data::kjv;
use crate::data::split::{Fractions, Split, Splits};
use crate::data::text::{Example, Objective, Target, TextTask};

/// Pairs of verses: each verse with its successor in the chapter (class 1), and with a verse of the same chapter
/// that is neither its successor nor itself (class 0).
///
/// Within a chapter the wrong verses are the right ones in another order, so that neither verse alone tells the
/// class and topic tells little. Chapters of fewer than four verses are left out; chapters are the items.
pub fn next_verse(fractions: &Fractions) -> Result<TextTask> {
    let mut splits: Splits<Vec<Example>> = Splits::default();
    let verses = kjv::load()?;
    for (number, chapter) in verses
        .chunk_by(|a, b| (a.book, a.chapter) == (b.book, b.chapter))
        .enumerate()
    {
        if chapter.len() < 4 {
            continue;
        }
        let part = match chapter_split(fractions, &chapter[0]) {
            Split::Train => &mut splits.train,
            Split::Validation => &mut splits.validation,
            Split::Test => &mut splits.test,
        };
        let wrong = misplaced(chapter.len() - 1, number as u64);
        for (i, j) in wrong.into_iter().enumerate() {
            for (next, class) in [(i + 1, 1), (j, 0)] {
                part.push(Example {
                    text: chapter[i].text.into(),
                    pair: Some(chapter[next].text.into()),
                    target: Target::Class(class),
                });
            }
        }
    }
    Ok(TextTask {
        name: "next-verse".into(),
        objective: Objective::Classify(["other", "next"].map(String::from).to_vec()),
        splits,
    })
}

/// A permutation of 1..=n in which place i (from 0) holds neither i + 1 nor i; n ≥ 3.
fn misplaced(n: usize, chapter: u64) -> Vec<usize> {
    let mut draw = Draw::at(0, "next verse", &[chapter]);
    let mut order: Vec<usize> = (1..=n).collect();
    // About one permutation in e² fits, and for n = 3 one in six: the loop ends soon.
    loop {
        draw.shuffle(&mut order);
        if order.iter().enumerate().all(|(i, &v)| v != i && v != i + 1) {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::split::Split;
    use std::collections::HashMap;

    #[test]
    fn neither_verse_alone_tells_the_class() {
        let task = next_verse(&Fractions::default()).unwrap();
        let counts = task.class_counts(Split::Test);
        assert_eq!(counts[0], counts[1]);
        let mut balance: HashMap<(bool, &str), i64> = HashMap::new();
        for example in &task.splits.test {
            let sign = if example.target == Target::Class(1) {
                1
            } else {
                -1
            };
            *balance.entry((true, &example.text)).or_default() += sign;
            *balance
                .entry((false, example.pair.as_deref().unwrap()))
                .or_default() += sign;
        }
        assert!(balance.values().all(|&b| b == 0));
    }

    #[test]
    fn misplaced_orders_avoid_both_places() {
        for n in 3..40 {
            let order = misplaced(n, n as u64);
            assert!(order.iter().enumerate().all(|(i, &v)| v != i && v != i + 1));
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (1..=n).collect::<Vec<_>>());
        }
    }
}
