//! Masked-token examples (BERT, Devlin et al. 2019).
//!
//! Each ordinary token is chosen with probability `rate` (15 %); of the chosen, 80 % become `[MASK]`, 10 % a
//! random ordinary token, 10 % stay. The draw is addressed by (seed, step, row): it does not depend on the batch's
//! other rows nor on what was drawn before. A row in which nothing was chosen gets one token chosen evenly.

use super::batch::LmBatch;
use super::draw::Draw;
use super::error::{DataError, Result};
use super::tokenizer::Tokenizer;

/// How tokens are hidden.
#[derive(Debug, Clone)]
pub struct Masking {
    mask: u32,
    ordinary: Vec<u32>,
    rate: f64,
    seed: u64,
}

impl Masking {
    /// BERT's recipe, 15 % · 80/10/10; fails where the tokeniser has no mask token.
    pub fn new(tokenizer: &Tokenizer, seed: u64) -> Result<Self> {
        let mask = tokenizer.special().mask.ok_or_else(|| DataError::Invalid {
            what: "Masking::new".into(),
            found: "a tokeniser without a mask token".into(),
            wanted: "`[MASK]` or `<mask>` in its vocabulary".into(),
        })?;
        let ids = 0..tokenizer.vocabulary() as u32;
        Ok(Self {
            mask,
            ordinary: ids.filter(|&id| !tokenizer.is_special(id)).collect(),
            rate: 0.15,
            seed,
        })
    }

    /// Another share of chosen tokens, in (0, 1].
    pub fn rate(mut self, rate: f64) -> Result<Self> {
        if !(rate > 0.0 && rate <= 1.0) {
            return Err(DataError::Invalid {
                what: "Masking::rate".into(),
                found: rate.to_string(),
                wanted: "a share in (0, 1]".into(),
            });
        }
        self.rate = rate;
        Ok(self)
    }

    /// Hides tokens in rows of `columns` ids: the ids that the model sees, the hidden ones as targets, and
    /// weight 1 where a token was chosen. `mask` and `items` are handed on.
    pub fn apply(
        &self,
        ids: &[u32],
        mask: &[f32],
        columns: usize,
        items: &[u32],
        step: u64,
    ) -> LmBatch {
        let mut batch = LmBatch {
            rows: items.len(),
            columns,
            ids: ids.to_vec(),
            mask: mask.to_vec(),
            targets: ids.to_vec(),
            weights: vec![0.0; ids.len()],
            items: items.to_vec(),
        };
        let rows = ids.chunks(columns.max(1)).enumerate();
        for (row, tokens) in rows {
            let mut draw = Draw::at(self.seed, "masked tokens", &[step, row as u64]);
            let is_ordinary = |&c: &usize| self.ordinary.binary_search(&tokens[c]).is_ok();
            let open: Vec<usize> = (0..tokens.len()).filter(is_ordinary).collect();
            let mut chosen = open.clone();
            chosen.retain(|_| draw.uniform() < self.rate);
            if chosen.is_empty() && !open.is_empty() {
                chosen.push(open[draw.below(open.len())]);
            }
            for column in chosen {
                let place = row * columns + column;
                batch.weights[place] = 1.0;
                batch.ids[place] = match draw.below(10) {
                    0 => self.ordinary[draw.below(self.ordinary.len())],
                    1 => batch.ids[place],
                    _ => self.mask,
                };
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: usize = 100;

    fn masking() -> (Tokenizer, Masking) {
        let tokenizer = Tokenizer::shipped().unwrap();
        let masking = Masking::new(&tokenizer, 1).unwrap();
        (tokenizer, masking)
    }

    #[test]
    fn shares_are_berts() {
        let (tokenizer, masking) = masking();
        let row: Vec<u32> = (0..COLUMNS as u32)
            .map(|i| if i == 0 { 1 } else { 300 + i })
            .collect();
        let ids = row.repeat(400);
        let items: Vec<u32> = (0..400).collect();
        let batch = masking.apply(&ids, &vec![1.0; ids.len()], COLUMNS, &items, 7);
        let (mut chosen, mut hidden, mut same) = (0f64, 0f64, 0f64);
        assert_eq!(batch.targets, ids);
        for (i, &id) in ids.iter().enumerate() {
            if batch.weights[i] == 0.0 {
                assert_eq!(batch.ids[i], id);
                continue;
            }
            assert!(!tokenizer.is_special(id));
            chosen += 1.0;
            hidden += f64::from(u8::from(batch.ids[i] == 3));
            same += f64::from(u8::from(batch.ids[i] == id));
        }
        // Five deviations of the binomials with 39,600 and about 5,940 trials.
        assert!((chosen / 39_600.0 - 0.15).abs() < 0.009, "{chosen}");
        assert!((hidden / chosen - 0.8).abs() < 0.026, "{hidden}");
        assert!((same / chosen - 0.1).abs() < 0.02, "{same}");
    }

    #[test]
    fn a_row_is_addressed_by_seed_step_and_place() {
        let (tokenizer, masking) = masking();
        let ids: Vec<u32> = (0..2 * COLUMNS as u32).map(|i| 300 + i).collect();
        let mask = vec![1.0; ids.len()];
        let both = masking.apply(&ids, &mask, COLUMNS, &[0, 1], 3);
        let first = masking.apply(&ids[..COLUMNS], &mask[..COLUMNS], COLUMNS, &[0], 3);
        assert_eq!(first.ids, both.ids[..COLUMNS]);
        assert_ne!(both.weights[..COLUMNS], both.weights[COLUMNS..]);
        assert_ne!(
            masking.apply(&ids, &mask, COLUMNS, &[0, 1], 4).ids,
            both.ids
        );
        let other = Masking::new(&tokenizer, 2).unwrap();
        assert_ne!(other.apply(&ids, &mask, COLUMNS, &[0, 1], 3).ids, both.ids);
    }

    #[test]
    fn every_row_with_a_token_asks_for_one() {
        let (_, masking) = masking();
        for step in 0..50 {
            let batch = masking.apply(&[1, 500, 2, 0, 1, 2, 0, 0], &[1.0; 8], 4, &[0, 1], step);
            assert_eq!(batch.weights, [0., 1., 0., 0., 0., 0., 0., 0.]);
        }
        assert!(masking.rate(0.0).is_err());
    }
}
