//! Image classification: digits, and emoji in four styles.

use crate::data::draw::stable_hash;
use crate::data::emoji::{self, Style};
use crate::data::error::Result;
use crate::data::images::{ImageSet, ImageTask, Normalisation};
use crate::data::mnist;
use crate::data::split::{Fractions, Splits};

/// Which of an emoji's classes is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// 9 classes.
    Group,
    /// 98 classes, some of one or two emoji.
    Subgroup,
}

/// The emoji of one style. An emoji stands in the same split whatever its style, together with those that
/// differ in gender only; `sources` are places in the table, the same in all styles.
pub fn emoji(style: Style, level: Level, fractions: &Fractions) -> Result<ImageTask> {
    let table = emoji::table()?;
    let images = emoji::images(style)?;
    let class = |e: &emoji::Emoji| match level {
        Level::Group => e.group,
        Level::Subgroup => e.subgroup,
    };
    let (classes, prefix) = match level {
        Level::Group => (&table.groups, "emoji"),
        Level::Subgroup => (&table.subgroups, "emoji-subgroup"),
    };
    let all = ImageSet {
        channels: images.channels,
        side: emoji::SIDE,
        pixels: images.pixels.clone(),
        labels: table.emoji.iter().map(class).collect(),
        sources: (0..table.emoji.len() as u32).collect(),
    };
    let identities: Vec<String> = table.emoji.iter().map(emoji::Emoji::identity).collect();
    Ok(ImageTask {
        name: format!("{prefix}-{}", style.name()),
        classes: classes.iter().map(|c| c.to_string()).collect(),
        normalisation: Normalisation::EMOJI,
        splits: divide(&all, |i| fractions.assign("emoji", &identities[i]))?,
    })
}

/// The digits; a digit's identity is its pixels.
pub fn mnist(fractions: &Fractions) -> Result<ImageTask> {
    let digits = mnist::load()?;
    let all = ImageSet {
        channels: 1,
        side: mnist::SIDE,
        pixels: digits.pixels.clone(),
        labels: digits.labels.iter().map(|&l| u32::from(l)).collect(),
        sources: (0..digits.labels.len() as u32).collect(),
    };
    let area = mnist::SIDE * mnist::SIDE;
    let identity = |i: usize| format!("{:016x}", stable_hash(&digits.pixels[i * area..][..area]));
    Ok(ImageTask {
        name: "mnist".into(),
        classes: (0..10).map(|d| d.to_string()).collect(),
        normalisation: Normalisation::MNIST,
        splits: divide(&all, |i| fractions.assign("mnist", &identity(i)))?,
    })
}

fn divide(
    all: &ImageSet,
    assign: impl Fn(usize) -> crate::data::split::Split,
) -> Result<Splits<ImageSet>> {
    let items = 0..all.len() as u32;
    Splits::of(items, |&i| assign(i as usize)).try_map(|part| all.subset(&part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn sizes(task: &ImageTask) -> [usize; 3] {
        let splits = &task.splits;
        [&splits.train, &splits.validation, &splits.test].map(ImageSet::len)
    }

    #[test]
    fn an_emoji_is_in_one_split_in_all_styles() {
        let fractions = Fractions::default();
        let tasks = Style::ALL.map(|s| emoji(s, Level::Group, &fractions).unwrap());
        assert_eq!(sizes(&tasks[0]), [1_533, 179, 194]);
        let table = emoji::table().unwrap();
        for task in &tasks[1..] {
            assert_eq!(task.splits.test.sources, tasks[0].splits.test.sources);
            assert_eq!(task.splits.test.labels, tasks[0].splits.test.labels);
        }
        let identities = |set: &ImageSet| -> HashSet<String> {
            set.sources
                .iter()
                .map(|&s| table.emoji[s as usize].identity())
                .collect()
        };
        let splits = &tasks[0].splits;
        let [train, validation, test] =
            [&splits.train, &splits.validation, &splits.test].map(identities);
        assert!(
            train.is_disjoint(&test)
                && train.is_disjoint(&validation)
                && validation.is_disjoint(&test)
        );
    }

    #[test]
    fn stated_normalisations_are_those_of_the_training_splits() {
        let fractions = Fractions::default();
        let noto = emoji(Style::Noto, Level::Group, &fractions).unwrap();
        let digits = mnist(&fractions).unwrap();
        assert_eq!(sizes(&digits), [7_962, 1_072, 966]);
        for (task, stated) in [(noto, Normalisation::EMOJI), (digits, Normalisation::MNIST)] {
            let measured = Normalisation::of(&task.splits.train);
            let near =
                |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 5e-4);
            assert!(
                near(measured.mean, stated.mean) && near(measured.std, stated.std),
                "{measured:?}"
            );
        }
    }
}
