//! Tasks made of the embedded data, by name.
//!
//! | name | question | classes |
//! |---|---|---|
//! | `sentiment-{movie,product,tweet,editorial}` | is the text positive? | 2 |
//! | `rating-{movie,product,tweet,editorial}` | the mean rating | value in [−4, 4] |
//! | `supersense` | the topic of a gloss | 41 |
//! | `part-of-speech` | does a gloss define a noun or a verb? | 2 |
//! | `kind-of` | given `word: gloss`, is the word a kind of H? | 2 |
//! | `kind-of-word` | given the word alone, is it a kind of H? | 2 |
//! | `gloss-match` | does the word have this gloss? | 2 |
//! | `next-verse` | does the second verse follow the first? | 2 |
//! | `mnist` | the digit | 10 |
//! | `emoji-{noto,twemoji,openmoji,openmoji-black}` | the emoji's group | 9 |
//! | `emoji-subgroup-{…}` | the emoji's subgroup | 98 |

pub mod arithmetic;
pub mod kinds;
pub mod lexical;
pub mod pictures;
pub mod reviews;
pub mod spelling;
pub mod verses;

use super::emoji::Style;
use super::error::{Result, unknown};
use super::images::ImageTask;
use super::sentiment::Domain;
use super::split::Fractions;
use super::text::TextTask;

/// The names that [`text_task`] knows.
pub fn text_names() -> Vec<String> {
    let domains = Domain::ALL.map(Domain::name);
    let sentiment = domains.map(|d| format!("sentiment-{d}"));
    let rating = domains.map(|d| format!("rating-{d}"));
    let lexical = [
        "supersense",
        "part-of-speech",
        "kind-of",
        "kind-of-word",
        "gloss-match",
        "next-verse",
    ];
    let lexical = lexical.map(String::from);
    sentiment.into_iter().chain(rating).chain(lexical).collect()
}

/// The text task of that name.
pub fn text_task(name: &str, fractions: &Fractions) -> Result<TextTask> {
    if let Some(domain) = name
        .strip_prefix("sentiment-")
        .and_then(|d| Domain::from_name(d).ok())
    {
        return reviews::polarity(&[domain], reviews::NEUTRAL_BAND, fractions);
    }
    if let Some(domain) = name
        .strip_prefix("rating-")
        .and_then(|d| Domain::from_name(d).ok())
    {
        return reviews::rating(&[domain], fractions);
    }
    match name {
        "supersense" => lexical::supersense(fractions),
        "part-of-speech" => lexical::part_of_speech(fractions),
        "kind-of" => lexical::kind_of(lexical::Premise::WordAndGloss, fractions),
        "kind-of-word" => lexical::kind_of(lexical::Premise::Word, fractions),
        "gloss-match" => lexical::gloss_match(fractions),
        "next-verse" => verses::next_verse(fractions),
        _ => Err(unknown("text task", name, &borrowed(&text_names()))),
    }
}

/// The names that [`image_task`] knows.
pub fn image_names() -> Vec<String> {
    let styles = Style::ALL.map(Style::name);
    let groups = styles.map(|s| format!("emoji-{s}"));
    let subgroups = styles.map(|s| format!("emoji-subgroup-{s}"));
    [String::from("mnist")]
        .into_iter()
        .chain(groups)
        .chain(subgroups)
        .collect()
}

/// The image task of that name.
pub fn image_task(name: &str, fractions: &Fractions) -> Result<ImageTask> {
    if name == "mnist" {
        return pictures::mnist(fractions);
    }
    let subgroup = name
        .strip_prefix("emoji-subgroup-")
        .and_then(|s| Style::from_name(s).ok());
    if let Some(style) = subgroup {
        return pictures::emoji(style, pictures::Level::Subgroup, fractions);
    }
    if let Some(style) = name
        .strip_prefix("emoji-")
        .and_then(|s| Style::from_name(s).ok())
    {
        return pictures::emoji(style, pictures::Level::Group, fractions);
    }
    Err(unknown("image task", name, &borrowed(&image_names())))
}

fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::split::Split;
    use crate::data::text::Objective;

    #[test]
    fn every_listed_name_opens_and_its_targets_are_in_range() {
        for name in text_names() {
            let task = text_task(&name, &Fractions::default()).unwrap();
            assert_eq!(task.name, name);
            assert!(task.splits.sizes().iter().all(|&n| n > 100), "{name}");
            match &task.objective {
                Objective::Classify(classes) => {
                    assert_eq!(task.class_counts(Split::Train).len(), classes.len());
                    assert!(
                        task.class_counts(Split::Train).iter().all(|&n| n > 0),
                        "{name}"
                    );
                }
                Objective::Regress { low, high } => assert_eq!((*low, *high), (-4.0, 4.0)),
            }
        }
        for name in image_names() {
            let task = image_task(&name, &Fractions::default()).unwrap();
            assert_eq!(task.name, name);
            let in_range = |l: &u32| (*l as usize) < task.classes.len();
            assert!(task.splits.test.labels.iter().all(in_range) && task.splits.test.len() > 100);
        }
    }

    #[test]
    fn unknown_names_list_the_nearest() {
        let text = text_task("sentiment-movies", &Fractions::default()).unwrap_err();
        assert!(
            text.to_string().contains("nearest: `sentiment-movie`"),
            "{text}"
        );
        let image = image_task("emoji-nota", &Fractions::default()).unwrap_err();
        assert!(
            image.to_string().contains("nearest: `emoji-noto`"),
            "{image}"
        );
    }
}
