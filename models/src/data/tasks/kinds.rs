//! The emoji's 98 subgroups merged to thirty kinds, a third of them held out: for models that are taken to classes they have
//! not seen.

use crate::data::emoji::{self, Style};
use crate::data::error::Result;
use crate::data::images::{ImageSet, ImageTask, Normalisation};
use crate::data::split::{Fractions, Splits};

/// Kinds of some thirty to a hundred emoji, and the subgroups that each is made of: names, or their beginning before a `*`.
const KINDS: [(&str, &[&str]); 30] = [
    ("faces", &["face-*"]),
    ("mammals", &["cat-face", "monkey-face", "animal-mammal"]),
    ("hearts", &["heart", "emotion"]),
    ("hands", &["hand-*", "hands", "body-parts"]),
    ("people", &["person", "person-gesture"]),
    ("roles", &["person-role"]),
    ("fantasy", &["person-fantasy"]),
    ("activity", &["person-activity", "person-resting"]),
    ("athletes", &["person-sport"]),
    ("family", &["family", "person-symbol"]),
    (
        "animals",
        &[
            "animal-bird",
            "animal-amphibian",
            "animal-reptile",
            "animal-marine",
            "animal-bug",
        ],
    ),
    ("plants", &["plant-*"]),
    ("fruit", &["food-fruit", "food-vegetable"]),
    ("dishes", &["food-prepared", "food-asian", "food-sweet"]),
    ("drinks", &["drink", "dishware"]),
    ("places", &["place-*", "hotel"]),
    ("vehicles", &["transport-ground"]),
    ("vessels", &["transport-water", "transport-air"]),
    ("clocks", &["time"]),
    ("sky", &["sky-weather"]),
    ("events", &["event", "award-medal"]),
    ("games", &["sport", "game", "arts-crafts"]),
    ("clothing", &["clothing"]),
    (
        "devices",
        &["sound", "music*", "phone", "computer", "light-video"],
    ),
    (
        "papers",
        &["book-paper", "money", "mail", "writing", "office"],
    ),
    (
        "tools",
        &[
            "lock",
            "tool",
            "science",
            "medical",
            "household",
            "other-object",
        ],
    ),
    ("signs", &["transport-sign", "warning", "av-symbol"]),
    (
        "symbols",
        &[
            "arrow",
            "gender",
            "math",
            "punctuation",
            "currency",
            "other-symbol",
            "religion",
            "zodiac",
        ],
    ),
    ("letters", &["keycap", "alphanum", "geometric"]),
    ("flags", &["flag", "country-flag", "subdivision-flag"]),
];

/// Which kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Two of three: for pre-training.
    Seen,
    /// Every third: for transfer.
    Novel,
}

fn kind_of(subgroup: &str) -> Option<usize> {
    let fits = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => subgroup.starts_with(start),
        None => subgroup == pattern,
    };
    KINDS
        .iter()
        .position(|(_, patterns)| patterns.iter().any(|p| fits(p)))
}

/// A share's emoji in some styles, RGB of 16×16 pixels. An emoji stands in the same split in all styles, together with those that
/// differ in gender only; `sources` are places in the table.
pub fn kinds(share: Share, styles: &[Style], fractions: &Fractions) -> Result<ImageTask> {
    let table = emoji::table()?;
    // Every third, counted, so that no one chose them.
    let chosen = |kind: usize| (kind % 3 == 2) == (share == Share::Novel);
    let mut classes = vec![];
    let mut class_of = [None; KINDS.len()];
    for kind in (0..KINDS.len()).filter(|k| chosen(*k)) {
        class_of[kind] = Some(classes.len() as u32);
        classes.push(KINDS[kind].0.to_string());
    }
    let label = |e: &emoji::Emoji| {
        let kind = kind_of(table.subgroups[e.subgroup as usize])?;
        class_of[kind]
    };
    let mut all = ImageSet {
        channels: 3,
        side: emoji::SIDE / 2,
        pixels: vec![],
        labels: vec![],
        sources: vec![],
    };
    let items = || {
        (0u32..)
            .zip(&table.emoji)
            .filter(|(_, e)| label(e).is_some())
    };
    for style in styles {
        let images = emoji::images(*style)?;
        let whole = ImageSet {
            channels: images.channels,
            side: emoji::SIDE,
            pixels: images.pixels.clone(),
            labels: vec![0; table.emoji.len()],
            sources: (0..table.emoji.len() as u32).collect(),
        };
        let places: Vec<u32> = items().map(|(i, _)| i).collect();
        all.pixels
            .extend(whole.subset(&places)?.rgb().halved().pixels);
        all.sources.extend(places);
        all.labels.extend(items().filter_map(|(_, e)| label(e)));
    }
    let of = |i: &u32| {
        let emoji = &table.emoji[all.sources[*i as usize] as usize];
        fractions.assign("emoji", &emoji.identity())
    };
    let names: Vec<&str> = styles.iter().map(|s| s.name()).collect();
    Ok(ImageTask {
        name: format!("{share:?} kinds, {}", names.join(" and ")).to_lowercase(),
        classes,
        normalisation: Normalisation::SIGNED,
        splits: Splits::of(0..all.sources.len() as u32, of).try_map(|part| all.subset(&part))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_subgroup_is_of_one_kind() {
        for subgroup in &emoji::table().unwrap().subgroups {
            let fits = |(_, patterns): &&(&str, &[&str])| {
                patterns.iter().any(|p| match p.strip_suffix('*') {
                    Some(start) => subgroup.starts_with(start),
                    None => subgroup == p,
                })
            };
            assert_eq!(KINDS.iter().filter(fits).count(), 1, "{subgroup}");
        }
    }

    #[test]
    fn shares_and_splits_have_no_emoji_in_common() {
        let fractions = Fractions::new(0.1, 0.2).unwrap();
        let styles = [Style::Noto, Style::Lines];
        let [seen, novel] =
            [Share::Seen, Share::Novel].map(|share| kinds(share, &styles, &fractions).unwrap());
        assert_eq!((seen.classes.len(), novel.classes.len()), (20, 10));
        assert_eq!(novel.name, "novel kinds, noto and openmoji-black");
        let table = emoji::table().unwrap();
        let identities = |set: &ImageSet| -> HashSet<String> {
            let of = |s: &u32| table.emoji[*s as usize].identity();
            set.sources.iter().map(of).collect()
        };
        let parts = [&seen, &novel].map(|task| {
            let splits = &task.splits;
            [&splits.train, &splits.validation, &splits.test]
        });
        let parts: Vec<&ImageSet> = parts.into_iter().flatten().collect();
        assert_eq!(parts.iter().map(|p| p.len()).sum::<usize>(), 2 * 1_906);
        for (i, a) in parts.iter().enumerate() {
            assert!((a.side, a.channels) == (16, 3) && !a.is_empty());
            for b in &parts[i + 1..] {
                assert!(identities(a).is_disjoint(&identities(b)));
            }
        }
        // Both styles of an emoji are there, under one label.
        let test = &novel.splits.test;
        let (first, second) = test.sources.split_at(test.len() / 2);
        assert_eq!(first, second);
        assert_eq!(test.labels[..first.len()], test.labels[first.len()..]);
    }
}
