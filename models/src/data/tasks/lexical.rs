//! Tasks from WordNet: topic and part of speech of a gloss, `is W a kind of H`, `does W have gloss G`.
//!
//! The pair tasks are built so that neither text alone tells the class: every premise occurs once with each
//! class, and the wrong second texts of a split are its right ones in another order, so each second text is
//! right as often as wrong. Splits keep families of shared words and glosses together
//! ([`crate::data::wordnet::Sense::identity`]): no test word and no test gloss is seen in training.
//!
//! Test accuracy of shortcuts at the default fractions (logistic regression over bags of words, 24,000 training
//! examples; 50 % is chance for the pair tasks):
//!
//! | task | either text alone | both bags | overlap of the two and its place | `H stands in the gloss` |
//! |---|---|---|---|---|
//! | `kind-of` | 50.0 | 50.2 | 69.1 | 56.6 |
//! | `kind-of-word` | 50.0 | 49.3 | 57.6 | |
//! | `gloss-match` | 50.0 | 50.4 | 61.0 | |
//!
//! Bags of words reach 63.7 % on `supersense` (most frequent class 3.2 %) and 93.5 % on `part-of-speech` (71.9 %).

use crate::data::draw::Draw;
use crate::data::error::Result;
use crate::data::split::{Fractions, Splits, text_identity};
use crate::data::text::{Example, Objective, Target, TextTask};
use crate::data::wordnet::{self, Sense, Table};
use std::collections::{BTreeMap, HashSet};

/// What a `kind-of` example says of the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Premise {
    /// The word alone.
    Word,
    /// `word: gloss`.
    WordAndGloss,
}

fn senses(fractions: &Fractions) -> Result<(&'static Table, Splits<Vec<&'static Sense>>)> {
    let table = wordnet::load()?;
    let splits = Splits::of(&table.senses, |s| fractions.assign("wordnet", s.identity));
    Ok((table, splits))
}

fn gloss_task(
    name: &str,
    classes: Vec<String>,
    fractions: &Fractions,
    class: impl Fn(&Sense) -> u32,
) -> Result<TextTask> {
    let example = |s: &Sense| Example {
        text: s.gloss.into(),
        pair: None,
        target: Target::Class(class(s)),
    };
    Ok(TextTask {
        name: name.into(),
        objective: Objective::Classify(classes),
        splits: senses(fractions)?
            .1
            .map(|part| part.into_iter().map(example).collect()),
    })
}

/// The supersense of a gloss: 41 classes, the 17 largest of 1,500 senses.
pub fn supersense(fractions: &Fractions) -> Result<TextTask> {
    let classes = wordnet::load()?
        .supersenses
        .iter()
        .map(|s| s.to_string())
        .collect();
    gloss_task("supersense", classes, fractions, |s| s.supersense)
}

/// Whether a gloss defines a noun (0) or a verb (1).
pub fn part_of_speech(fractions: &Fractions) -> Result<TextTask> {
    let names = &wordnet::load()?.supersenses;
    let classes = ["noun", "verb"].map(String::from).to_vec();
    gloss_task("part-of-speech", classes, fractions, |s| {
        u32::from(names[s.supersense as usize].starts_with("verb"))
    })
}

/// Is the word a kind of H? Each sense gives its hypernym (class 1) and a wrong H (class 0).
///
/// A wrong H is never among the word's known ancestors. Where possible it is a phrase of the gloss, so that
/// occurring there does not make an H right; elsewhere it is the hypernym of a sense of the same supersense where
/// possible, so that the topic does not make it wrong.
pub fn kind_of(premise: Premise, fractions: &Fractions) -> Result<TextTask> {
    let (table, splits) = senses(fractions)?;
    let text = |s: &Sense| match premise {
        Premise::Word => s.word.to_string(),
        Premise::WordAndGloss => format!("{}: {}", s.word, s.gloss),
    };
    let name = match premise {
        Premise::Word => "kind-of-word",
        Premise::WordAndGloss => "kind-of",
    };
    let examples = |part: Vec<&'static Sense>| {
        let wrong = wrong_hypernyms(table, &part, premise);
        pairs(&part, wrong, text, |s| s.hypernym)
    };
    Ok(pair_task(name, splits.map(examples)))
}

/// Does the word have this gloss? Each sense gives its gloss (class 1) and one of the same supersense (class 0).
pub fn gloss_match(fractions: &Fractions) -> Result<TextTask> {
    let (_, splits) = senses(fractions)?;
    let examples = |part: Vec<&'static Sense>| {
        let all: Vec<usize> = (0..part.len()).collect();
        let clash = |i: usize, j: usize| part[i].identity == part[j].identity;
        let wrong = exchange(&part, all.clone(), all, clash);
        pairs(&part, wrong, |s| s.word.to_string(), |s| s.gloss)
    };
    Ok(pair_task("gloss-match", splits.map(examples)))
}

fn pair_task(name: &str, splits: Splits<Vec<Example>>) -> TextTask {
    TextTask {
        name: name.into(),
        objective: Objective::Classify(["no", "yes"].map(String::from).to_vec()),
        splits,
    }
}

/// For each (sense, donor) an example with the sense's own second text and one with the donor's.
fn pairs(
    part: &[&'static Sense],
    wrong: Vec<(usize, usize)>,
    text: impl Fn(&Sense) -> String,
    second: impl Fn(&Sense) -> &'static str,
) -> Vec<Example> {
    let example = |i: usize, j: usize, class| Example {
        text: text(part[i]),
        pair: Some(second(part[j]).into()),
        target: Target::Class(class),
    };
    wrong
        .into_iter()
        .flat_map(|(i, j)| [example(i, i, 1), example(i, j, 0)])
        .collect()
}

/// For each sense another whose hypernym is wrong for it, so that every sense donates once.
fn wrong_hypernyms(
    table: &Table,
    part: &[&'static Sense],
    premise: Premise,
) -> Vec<(usize, usize)> {
    let ancestors: Vec<HashSet<u32>> = part.iter().map(|s| table.ancestors(s.word)).collect();
    let concept: Vec<Option<u32>> = part.iter().map(|s| table.concept(s.hypernym)).collect();
    let is_above =
        |i: usize, concept: &Option<u32>| concept.is_none_or(|c| ancestors[i].contains(&c));
    let clash = |i: usize, j: usize| is_above(i, &concept[j]);
    let mut receivers: Vec<usize> = (0..part.len()).collect();
    Draw::at(0, "wrong hypernyms", &[]).shuffle(&mut receivers);
    let mut assigned = Vec::with_capacity(part.len());
    let mut donors: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (j, concept) in concept.iter().enumerate() {
        if let Some(concept) = concept {
            donors.entry(*concept).or_default().push(j);
        }
    }
    if premise == Premise::WordAndGloss {
        receivers.retain(|&i| {
            let phrases = phrases(part[i].gloss);
            let known = phrases.iter().filter_map(|p| table.concept(p));
            let free = |c: &u32| donors.get(c).is_some_and(|d| !d.is_empty());
            let mut fitting: Vec<u32> = known
                .filter(|c| free(c) && !ancestors[i].contains(c))
                .collect();
            fitting.sort_unstable();
            let pick = Draw::at(0, "phrase of the gloss", &[i as u64]).below(fitting.len());
            let donor = fitting.get(pick).and_then(|c| donors.get_mut(c)?.pop());
            let Some(j) = donor else { return true };
            assigned.push((i, j));
            false
        });
    }
    let left = donors.into_values().flatten().collect();
    assigned.extend(exchange(part, receivers, left, clash));
    assigned.sort_unstable();
    assigned
}

/// Phrases of one to three words, in lower case.
fn phrases(text: &str) -> HashSet<String> {
    let identity = text_identity(text);
    let words: Vec<&str> = identity.split(' ').collect();
    (1..=3)
        .flat_map(|n| words.windows(n).map(|w| w.join(" ")))
        .collect()
}

/// Pairs each receiver with a donor that does not `clash` with it, within a supersense as far as it goes.
///
/// Both sides are shuffled, sorted by supersense and laid side by side; a clashing pair changes donors with the
/// nearest pair after it (in the circle) such that neither then clashes. One that finds none is left out.
fn exchange(
    part: &[&'static Sense],
    receivers: Vec<usize>,
    donors: Vec<usize>,
    clash: impl Fn(usize, usize) -> bool,
) -> Vec<(usize, usize)> {
    let arrange = |mut side: Vec<usize>, purpose| {
        side.sort_unstable();
        Draw::at(0, purpose, &[]).shuffle(&mut side);
        side.sort_by_key(|&i| part[i].supersense);
        side
    };
    let (receivers, mut donors) = (arrange(receivers, "receivers"), arrange(donors, "donors"));
    let n = receivers.len();
    for k in 0..n {
        if !clash(receivers[k], donors[k]) {
            continue;
        }
        let fits = |&m: &usize| !clash(receivers[k], donors[m]) && !clash(receivers[m], donors[k]);
        if let Some(m) = (1..n).map(|step| (k + step) % n).find(fits) {
            donors.swap(k, m);
        }
    }
    let mut pairs: Vec<(usize, usize)> = receivers.into_iter().zip(donors).collect();
    pairs.retain(|&(i, j)| !clash(i, j));
    pairs.sort_unstable();
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::split::Split;
    use std::collections::HashMap;

    /// Every premise once, every second text as often, in each class.
    fn assert_balanced(task: &TextTask) {
        for split in [Split::Train, Split::Validation, Split::Test] {
            let mut balance: HashMap<(bool, &str), i64> = HashMap::new();
            for example in task.splits.get(split) {
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
            assert!(balance.values().all(|&b| b == 0), "{} {split:?}", task.name);
        }
    }

    #[test]
    fn neither_text_alone_tells_the_class() {
        let fractions = Fractions::default();
        for task in [
            kind_of(Premise::Word, &fractions).unwrap(),
            kind_of(Premise::WordAndGloss, &fractions).unwrap(),
            gloss_match(&fractions).unwrap(),
        ] {
            assert_balanced(&task);
            assert_eq!(task.splits.sizes(), [63_874, 7_728, 8_512], "{}", task.name);
            assert_eq!(task.majority(), 0.5);
        }
    }

    #[test]
    fn wrong_hypernyms_are_wrong_and_often_stand_in_the_gloss() {
        let table = wordnet::load().unwrap();
        let task = kind_of(Premise::WordAndGloss, &Fractions::default()).unwrap();
        let (mut inside, mut outside) = ([0usize; 2], [0usize; 2]);
        for example in &task.splits.test {
            let hypernym = example.pair.as_deref().unwrap();
            let concept = table.concept(hypernym).unwrap();
            let (word, gloss) = example.text.split_once(": ").unwrap();
            let class = example.target.class().unwrap() as usize;
            assert!(
                class == 1 || !table.ancestors(word).contains(&concept),
                "{example:?}"
            );
            let stands = phrases(gloss).contains(&text_identity(hypernym));
            *(if stands {
                &mut inside[class]
            } else {
                &mut outside[class]
            }) += 1;
        }
        let rule = (inside[1] + outside[0]) as f64 / task.splits.test.len() as f64;
        assert!(
            rule < 0.7,
            "`H stands in the gloss` alone is right in {rule}: {inside:?} {outside:?}"
        );
    }

    #[test]
    fn no_word_and_no_gloss_is_in_two_splits() {
        let (_, splits) = senses(&Fractions::default()).unwrap();
        assert_eq!(splits.sizes(), [31_937, 3_864, 4_256]);
        let keys = |part: &Vec<&Sense>| -> HashSet<(bool, String)> {
            let both = |s: &&Sense| {
                [
                    (true, text_identity(s.word)),
                    (false, text_identity(s.gloss)),
                ]
            };
            part.iter().flat_map(both).collect()
        };
        let [train, validation, test] = [&splits.train, &splits.validation, &splits.test].map(keys);
        assert!(
            train.is_disjoint(&test)
                && train.is_disjoint(&validation)
                && validation.is_disjoint(&test)
        );
    }
}
