//! The order in which items are seen: a permutation for each epoch, from a seed and nothing else.
//!
//! Batches have always the asked number of items: one that reaches the end of an epoch goes on with the next
//! epoch's start. The state is one [`Cursor`], so a run resumes where it stopped, and arms that share a seed see
//! the same items in the same order.

use super::draw::Draw;
use super::error::{DataError, Result};
use serde::{Deserialize, Serialize};

/// A place in the order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Items of that epoch already given out.
    pub position: usize,
}

/// An endless order of the items `0..len`.
#[derive(Debug, Clone)]
pub struct Order {
    len: usize,
    seed: u64,
    buckets: Option<Buckets>,
    cursor: Cursor,
    current: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Buckets {
    lengths: Vec<u32>,
    pool: usize,
}

impl Order {
    /// An order of `len` items; an empty set is refused.
    pub fn new(len: usize, seed: u64) -> Result<Self> {
        if len == 0 || u32::try_from(len).is_err() {
            return Err(DataError::Invalid {
                what: "Order::new: len".into(),
                found: len.to_string(),
                wanted: "1 to 2³² − 1 items".into(),
            });
        }
        let mut order = Self {
            len,
            seed,
            buckets: None,
            cursor: Cursor::default(),
            current: Vec::new(),
        };
        order.current = order.permutation(0);
        Ok(order)
    }

    /// Brings items of like length together to save padding: pools of `pool` consecutive items of the permutation
    /// are sorted by length, upwards and downwards in turn. A pool of 8 to 16 batches is usual.
    pub fn bucketed(mut self, lengths: Vec<u32>, pool: usize) -> Result<Self> {
        if lengths.len() != self.len || pool == 0 {
            return Err(DataError::Invalid {
                what: "Order::bucketed".into(),
                found: format!("{} lengths, pool {pool}", lengths.len()),
                wanted: format!("{} lengths, pool ≥ 1", self.len),
            });
        }
        self.buckets = Some(Buckets { lengths, pool });
        self.current = self.permutation(self.cursor.epoch);
        Ok(self)
    }

    /// Where the next batch begins.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes to a place that [`Order::cursor`] gave.
    pub fn seek(&mut self, cursor: Cursor) -> Result<()> {
        if cursor.position >= self.len {
            return Err(DataError::Invalid {
                what: "Order::seek: position".into(),
                found: cursor.position.to_string(),
                wanted: format!("below {}, the number of items", self.len),
            });
        }
        self.cursor = cursor;
        self.current = self.permutation(cursor.epoch);
        Ok(())
    }

    /// The next `count` items.
    pub fn next_batch(&mut self, count: usize) -> Vec<u32> {
        let mut items = Vec::with_capacity(count);
        while items.len() < count {
            let take = (count - items.len()).min(self.len - self.cursor.position);
            items.extend_from_slice(&self.current[self.cursor.position..][..take]);
            self.cursor.position += take;
            if self.cursor.position == self.len {
                self.cursor = Cursor {
                    epoch: self.cursor.epoch + 1,
                    position: 0,
                };
                self.current = self.permutation(self.cursor.epoch);
            }
        }
        items
    }

    /// An epoch's order: Fisher–Yates from the stream (seed, "epoch order", epoch).
    fn permutation(&self, epoch: u64) -> Vec<u32> {
        let mut items: Vec<u32> = (0..self.len as u32).collect();
        Draw::at(self.seed, "epoch order", &[epoch]).shuffle(&mut items);
        if let Some(Buckets { lengths, pool }) = &self.buckets {
            for (i, part) in items.chunks_mut(*pool).enumerate() {
                part.sort_by_key(|&item| lengths[item as usize]);
                if i % 2 == 1 {
                    part.reverse();
                }
            }
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every epoch gives every item once, whatever the batch size, and a resumed order goes on as if never stopped.
        #[test]
        fn epochs_are_permutations_and_resume(
            len in 1..60usize, batch in 1..70usize, seed: u64, stop in 0..10usize, pool in 0..20usize,
        ) {
            let make = || {
                let order = Order::new(len, seed).unwrap();
                if pool == 0 { return order; }
                order.bucketed((0..len as u32).map(|i| i * 7 % 5).collect(), pool).unwrap()
            };
            let mut order = make();
            let mut seen = Vec::new();
            let mut resumed = make();
            for step in 0..12 {
                if step == stop { resumed.seek(order.cursor()).unwrap(); }
                let items = order.next_batch(batch);
                prop_assert_eq!(items.len(), batch);
                if step >= stop { prop_assert_eq!(&items, &resumed.next_batch(batch)); }
                seen.extend(items);
            }
            for epoch in seen.chunks_exact(len) {
                let mut sorted = epoch.to_vec();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..len as u32).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let mut order = Order::new(100, 1).unwrap();
        let (first, second) = (order.next_batch(100), order.next_batch(100));
        assert_ne!(first, second);
        assert_ne!(first, Order::new(100, 2).unwrap().next_batch(100));
        assert_eq!(
            order.cursor(),
            Cursor {
                epoch: 2,
                position: 0
            }
        );
    }

    #[test]
    fn the_first_order_is_this_one() {
        // A change of the generator would silently change every recorded result.
        assert_eq!(
            Order::new(8, 0).unwrap().next_batch(8),
            [6, 3, 0, 2, 4, 5, 7, 1]
        );
    }

    #[test]
    fn buckets_save_padding() {
        let lengths: Vec<u32> = (0..4_096).map(|i| 8 + (i * 37) % 57).collect();
        let padded = |mut order: Order| {
            let area = |items: Vec<u32>| {
                items
                    .iter()
                    .map(|&i| lengths[i as usize])
                    .max()
                    .unwrap_or(0)
                    * 16
            };
            (0..256).map(|_| area(order.next_batch(16))).sum::<u32>()
        };
        let needed: u32 = lengths.iter().sum();
        let plain = padded(Order::new(4_096, 3).unwrap());
        let bucketed = padded(
            Order::new(4_096, 3)
                .unwrap()
                .bucketed(lengths.clone(), 256)
                .unwrap(),
        );
        assert!(
            bucketed < needed + needed / 8 && plain > needed + needed / 2,
            "{needed} {bucketed} {plain}"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(
            Order::new(0, 1)
                .unwrap_err()
                .to_string()
                .contains("wanted 1 to")
        );
        assert!(Order::new(3, 1).unwrap().bucketed(vec![1], 4).is_err());
        let late = Cursor {
            epoch: 0,
            position: 3,
        };
        assert!(Order::new(3, 1).unwrap().seek(late).is_err());
    }
}
