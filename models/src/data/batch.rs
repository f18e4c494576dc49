//! Encoded texts and their batches: rows padded to one length, with the mask of what is real.

use super::error::{DataError, Result};
use super::text::Target;

/// How long the rows of a batch are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pad {
    /// As long as the longest row.
    Longest,
    /// The longest row rounded up to a multiple, 8 for instance.
    Multiple(usize),
    /// Always this long; a longer row is an error.
    Fixed(usize),
}

impl Pad {
    fn width(self, longest: usize) -> Result<usize> {
        match self {
            Pad::Longest => Ok(longest),
            Pad::Multiple(n) => Ok(longest.next_multiple_of(n.max(1))),
            Pad::Fixed(n) if longest <= n => Ok(n),
            Pad::Fixed(n) => Err(DataError::Invalid {
                what: "Pad::Fixed".into(),
                found: format!("a row of {longest} tokens"),
                wanted: format!("at most {n}: encode with max_len {n}"),
            }),
        }
    }
}

/// The answers of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Classes.
    Classes(Vec<u32>),
    /// Values.
    Values(Vec<f32>),
}

/// A batch of texts with answers; matrices are row-major [rows, columns].
#[derive(Debug, Clone, PartialEq)]
pub struct TextBatch {
    /// Number of rows.
    pub rows: usize,
    /// Length of a row in tokens, padding included.
    pub columns: usize,
    /// Token ids.
    pub ids: Vec<u32>,
    /// 1 for a token, 0 for padding.
    pub mask: Vec<f32>,
    /// Segment: 0 for the first text, 1 for the second, 0 for padding.
    pub types: Vec<u32>,
    /// The answers.
    pub targets: Targets,
    /// The rows' item numbers in their split.
    pub items: Vec<u32>,
}

/// A whole split, encoded: token ids, segments and targets.
#[derive(Debug, Clone)]
pub struct EncodedText {
    ids: Vec<u32>,
    types: Vec<u32>,
    ends: Vec<usize>,
    targets: Option<Targets>,
    pad: u32,
}

impl EncodedText {
    /// An empty set whose batches are padded with `pad`.
    pub fn new(pad: u32) -> Self {
        Self {
            ids: Vec::new(),
            types: Vec::new(),
            ends: vec![0],
            targets: None,
            pad,
        }
    }

    /// Appends a row; all rows of a set have the same kind of target.
    pub fn push(&mut self, ids: &[u32], types: &[u32], target: Target) -> Result<()> {
        let targets = self.targets.get_or_insert(match target {
            Target::Class(_) => Targets::Classes(Vec::new()),
            Target::Value(_) => Targets::Values(Vec::new()),
        });
        match (targets, target) {
            (Targets::Classes(all), Target::Class(c)) => all.push(c),
            (Targets::Values(all), Target::Value(v)) => all.push(v),
            (Targets::Classes(_), Target::Value(v)) => {
                return Err(mixed(format!("the value {v}"), "classes"));
            }
            (Targets::Values(_), Target::Class(c)) => {
                return Err(mixed(format!("the class {c}"), "values"));
            }
        }
        self.ids.extend_from_slice(ids);
        self.types.extend_from_slice(types);
        self.ends.push(self.ids.len());
        Ok(())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Token ids of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn ids(&self, row: usize) -> &[u32] {
        &self.ids[self.ends[row]..self.ends[row + 1]]
    }

    /// Segments of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn types(&self, row: usize) -> &[u32] {
        &self.types[self.ends[row]..self.ends[row + 1]]
    }

    /// Length of each row in tokens, for [`super::order::Order::bucketed`].
    pub fn lengths(&self) -> Vec<u32> {
        self.ends.windows(2).map(|w| (w[1] - w[0]) as u32).collect()
    }

    /// The classes of all rows; empty for values.
    pub fn classes(&self) -> &[u32] {
        match &self.targets {
            Some(Targets::Classes(classes)) => classes,
            _ => &[],
        }
    }

    /// The rows `items` as a batch.
    pub fn batch(&self, items: &[u32], pad: Pad) -> Result<TextBatch> {
        check_items(items, self.len())?;
        let rows: Vec<usize> = items.iter().map(|&i| i as usize).collect();
        let longest = rows.iter().map(|&r| self.ids(r).len()).max().unwrap_or(0);
        let columns = pad.width(longest)?;
        let mut batch = TextBatch {
            rows: rows.len(),
            columns,
            ids: vec![self.pad; rows.len() * columns],
            mask: vec![0.0; rows.len() * columns],
            types: vec![0; rows.len() * columns],
            targets: match &self.targets {
                Some(Targets::Values(all)) => {
                    Targets::Values(rows.iter().map(|&r| all[r]).collect())
                }
                Some(Targets::Classes(all)) => {
                    Targets::Classes(rows.iter().map(|&r| all[r]).collect())
                }
                None => Targets::Classes(Vec::new()),
            },
            items: items.to_vec(),
        };
        for (i, &row) in rows.iter().enumerate() {
            let place = i * columns..i * columns + self.ids(row).len();
            batch.ids[place.clone()].copy_from_slice(self.ids(row));
            batch.types[place.clone()].copy_from_slice(self.types(row));
            batch.mask[place].fill(1.0);
        }
        Ok(batch)
    }
}

/// A batch for a language model, causal or masked; matrices are row-major [rows, columns].
#[derive(Debug, Clone, PartialEq)]
pub struct LmBatch {
    /// Number of rows.
    pub rows: usize,
    /// Length of a row in tokens, padding included.
    pub columns: usize,
    /// Token ids that the model sees.
    pub ids: Vec<u32>,
    /// 1 for a token, 0 for padding.
    pub mask: Vec<f32>,
    /// The token to predict at each position.
    pub targets: Vec<u32>,
    /// Weight of each position's loss, 0 where nothing is asked.
    pub weights: Vec<f32>,
    /// The rows' item numbers.
    pub items: Vec<u32>,
}

/// Rows of tokens for a causal model, each predicted from its `asked`-th token on.
#[derive(Debug, Clone)]
pub struct Rows {
    ids: Vec<u32>,
    ends: Vec<usize>,
    asked: Vec<usize>,
    pad: u32,
}

impl Rows {
    /// An empty set whose batches are padded with `pad`.
    pub fn new(pad: u32) -> Self {
        Self {
            ids: Vec::new(),
            ends: vec![0],
            asked: Vec::new(),
            pad,
        }
    }

    /// Appends a row of which the tokens from place `asked` on are to be predicted (the first never is).
    pub fn push(&mut self, ids: &[u32], asked: usize) {
        self.ids.extend_from_slice(ids);
        self.ends.push(self.ids.len());
        self.asked.push(asked.max(1));
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.asked.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Length of each row in tokens, for [`super::order::Order::bucketed`].
    pub fn lengths(&self) -> Vec<u32> {
        self.ends.windows(2).map(|w| (w[1] - w[0]) as u32).collect()
    }

    /// A row's tokens before its `asked`-th, and from there on.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn split(&self, row: usize) -> (&[u32], &[u32]) {
        let ids = &self.ids[self.ends[row]..self.ends[row + 1]];
        ids.split_at(self.asked[row].min(ids.len()))
    }

    /// The rows `items` as a batch: a row of n tokens gives n − 1 positions, each asked for the next token.
    pub fn batch(&self, items: &[u32], pad: Pad) -> Result<LmBatch> {
        check_items(items, self.len())?;
        let row = |i: u32| &self.ids[self.ends[i as usize]..self.ends[i as usize + 1]];
        let inputs = |i: u32| row(i).len().saturating_sub(1);
        let columns = pad.width(items.iter().map(|&i| inputs(i)).max().unwrap_or(0))?;
        let mut batch = LmBatch {
            rows: items.len(),
            columns,
            ids: vec![self.pad; items.len() * columns],
            mask: vec![0.0; items.len() * columns],
            targets: vec![self.pad; items.len() * columns],
            weights: vec![0.0; items.len() * columns],
            items: items.to_vec(),
        };
        for (r, &item) in items.iter().enumerate() {
            let (ids, count) = (row(item), inputs(item));
            if count == 0 {
                continue;
            }
            let place = r * columns..r * columns + count;
            batch.ids[place.clone()].copy_from_slice(&ids[..count]);
            batch.targets[place.clone()].copy_from_slice(&ids[1..]);
            batch.mask[place.clone()].fill(1.0);
            let first = (self.asked[item as usize] - 1).min(count);
            batch.weights[place][first..].fill(1.0);
        }
        Ok(batch)
    }
}

/// Refuses item numbers beyond the set.
pub(super) fn check_items(items: &[u32], len: usize) -> Result<()> {
    match items.iter().find(|&&i| i as usize >= len) {
        None => Ok(()),
        Some(item) => Err(DataError::Invalid {
            what: "batch: item".into(),
            found: item.to_string(),
            wanted: format!("below {len}, the number of items"),
        }),
    }
}

fn mixed(found: String, wanted: &str) -> DataError {
    DataError::Invalid {
        what: "EncodedText::push: target".into(),
        found,
        wanted: format!("{wanted}, as in the rows before"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> EncodedText {
        let mut set = EncodedText::new(9);
        set.push(&[1, 4, 2], &[0, 0, 0], Target::Class(1)).unwrap();
        set.push(&[1, 5, 2, 6, 2], &[0, 0, 0, 1, 1], Target::Class(0))
            .unwrap();
        set
    }

    #[test]
    fn rows_are_padded_and_masked() {
        let batch = set().batch(&[1, 0], Pad::Longest).unwrap();
        assert_eq!((batch.rows, batch.columns), (2, 5));
        assert_eq!(batch.ids, [1, 5, 2, 6, 2, 1, 4, 2, 9, 9]);
        assert_eq!(batch.mask, [1., 1., 1., 1., 1., 1., 1., 1., 0., 0.]);
        assert_eq!(batch.types, [0, 0, 0, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(batch.targets, Targets::Classes(vec![0, 1]));
        assert_eq!(batch.items, [1, 0]);
    }

    #[test]
    fn widths_follow_the_policy() {
        let columns = |pad| set().batch(&[1], pad).unwrap().columns;
        assert_eq!(
            [Pad::Multiple(8), Pad::Multiple(5), Pad::Fixed(6)].map(columns),
            [8, 5, 6]
        );
        let error = set().batch(&[1], Pad::Fixed(4)).unwrap_err().to_string();
        assert_eq!(
            error,
            "Pad::Fixed: a row of 5 tokens; wanted at most 4: encode with max_len 4"
        );
        assert_eq!(set().batch(&[], Pad::Longest).unwrap().columns, 0);
        assert!(set().batch(&[2], Pad::Longest).is_err());
    }

    #[test]
    fn kinds_of_targets_do_not_mix() {
        let error = set()
            .push(&[1], &[0], Target::Value(0.5))
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("the value 0.5; wanted classes, as in the rows before"),
            "{error}"
        );
    }

    #[test]
    fn a_causal_row_is_shifted_by_one() {
        let mut rows = Rows::new(0);
        rows.push(&[3, 4, 5, 6], 2);
        rows.push(&[7], 0);
        let batch = rows.batch(&[0, 1], Pad::Longest).unwrap();
        assert_eq!(batch.ids, [3, 4, 5, 0, 0, 0]);
        assert_eq!(batch.targets, [4, 5, 6, 0, 0, 0]);
        assert_eq!(batch.weights, [0., 1., 1., 0., 0., 0.]);
        assert_eq!(batch.mask, [1., 1., 1., 0., 0., 0.]);
    }
}
