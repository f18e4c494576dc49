//! Addressed random numbers: what is drawn depends on where it is used, never on what was drawn before.
//!
//! A stream is named by (seed, purpose, address…) and is SplitMix64 (Steele, Lea & Flood 2014) started from
//! the chained mix of those words. Two streams of different names are independent for every use made here
//! (orders, masks, subsets); one stream always gives the same numbers, on every machine.

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Draw {
    state: u64,
}

/// The golden ratio in 64 bits: SplitMix64's increment.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser: a bijection of 64 bits in which every input bit moves every output bit.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// FNV-1a of a byte string, finished by SplitMix64's mixer: the stable hash of identities and purposes.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let fold = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

impl Draw {
    /// The stream at (seed, purpose, address).
    pub fn at(seed: u64, purpose: &str, address: &[u64]) -> Self {
        let start = mix(seed.wrapping_add(STEP)) ^ stable_hash(purpose.as_bytes());
        let chain = |h: u64, word: &u64| mix(h.wrapping_add(STEP) ^ mix(word.wrapping_add(STEP)));
        Self {
            state: address.iter().fold(mix(start), chain),
        }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// A number in `0..n`, uniform to within n / 2⁶⁴; 0 for n = 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// A number in [0, 1) on a grid of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Shuffles in place (Fisher–Yates, from the end).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// The first `k` items of each class in a seeded order: indices into `labels`, ascending.
///
/// A class with fewer than `k` items gives all it has. Smaller `k` of the same seed are subsets of larger.
pub fn few_shot(labels: &[u32], k: usize, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..labels.len() as u32).collect();
    Draw::at(seed, "few-shot", &[]).shuffle(&mut order);
    let mut taken = vec![0; labels.iter().max().map_or(0, |&m| m as usize + 1)];
    order.retain(|&i| {
        let count = &mut taken[labels[i as usize] as usize];
        *count += 1;
        *count <= k
    });
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_its_published_numbers() {
        // The reference implementation's first outputs for the state 1234567.
        let mut draw = Draw { state: 1_234_567 };
        let first: Vec<u64> = (0..3).map(|_| draw.bits()).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn every_word_of_the_address_matters() {
        let names = [
            Draw::at(1, "a", &[]),
            Draw::at(2, "a", &[]),
            Draw::at(1, "b", &[]),
            Draw::at(1, "a", &[0]),
            Draw::at(1, "a", &[0, 1]),
            Draw::at(1, "a", &[1, 0]),
        ];
        let mut first: Vec<u64> = names.into_iter().map(|mut d| d.bits()).collect();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 6);
    }

    #[test]
    fn below_is_even() {
        let mut draw = Draw::at(0, "test", &[]);
        let mut counts = [0usize; 7];
        for _ in 0..70_000 {
            counts[draw.below(7)] += 1;
        }
        // Binomial with mean 10,000 and deviation 93: five deviations.
        assert!(
            counts.iter().all(|c| c.abs_diff(10_000) < 465),
            "{counts:?}"
        );
        assert_eq!(draw.below(0), 0);
    }

    #[test]
    fn few_shot_subsets_are_nested_and_balanced() {
        let labels: Vec<u32> = (0..100).map(|i| i % 3).chain([3]).collect();
        let (few, many) = (few_shot(&labels, 2, 5), few_shot(&labels, 8, 5));
        assert_eq!((few.len(), many.len()), (7, 25)); // the fourth class has one item
        assert!(few.iter().all(|i| many.contains(i)));
        assert_ne!(few, few_shot(&labels, 2, 6));
        assert!(few_shot(&[], 3, 0).is_empty());
    }
}
