//! The hierarchical bootstrap: seeds and test items are drawn again, with replacement, independently of each
//! other (they are crossed: every seed is tested on the same items).
//!
//! ```text
//! θ* = mean over drawn s of [ c_s + Σ_sets mean over drawn i of d_si ],   c_s = θ_s − Σ_sets mean_i d_si
//! ```
//!
//! Percentile and BCa intervals (Efron 1987). With few seeds the plain percentiles are too narrow, by √((S−1)/S)
//! and by taking a normal for a t quantile; both are undone by reading the percentiles further out (Hesterberg
//! 2015's expanded percentile): z = √(S/(S−1)) · t_ν.

use super::super::rng::Rng;
use super::special::{normal_cdf, normal_quantile, t_cdf, t_quantile};
use super::{Estimate, Sample, mean};

/// Which quantiles of the replicates make the interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// Equal tails.
    Percentile,
    /// Corrected for median bias and for a standard error that changes with θ.
    Bca,
}

/// The replicates of one estimate, sorted, with BCa's two constants.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    replicates: Vec<f64>,
    /// z₀ = Φ⁻¹(share of replicates below θ̂).
    bias: f64,
    /// a, the acceleration, from leaving one seed out at a time.
    acceleration: f64,
    df: f64,
    widening: f64,
}

impl Bootstrap {
    /// Draws `count` replicates; the same sample, count and seed give the same bits. None with fewer than two
    /// seeds or no replicates.
    pub fn draw(sample: &Sample, count: usize, seed: u64) -> Option<Self> {
        let estimate = Estimate::of(sample);
        if !estimate.has_interval() || count == 0 {
            return None;
        }
        let seeds = sample.per_seed.len();
        let constants: Vec<f64> = (0..seeds)
            .map(|s| sample.per_seed[s] - sample.items.iter().map(|set| mean(&set[s])).sum::<f64>())
            .collect();
        let mut rng = Rng::new(seed);
        let mut weights = vec![0.0f64; seeds];
        let mut replicates: Vec<f64> = (0..count)
            .map(|_| {
                weights.fill(0.0);
                for _ in 0..seeds {
                    weights[rng.below(seeds)] += 1.0 / seeds as f64;
                }
                let mut theta: f64 = weights.iter().zip(&constants).map(|(w, c)| w * c).sum();
                for set in &sample.items {
                    theta += resampled_mean(set, &weights, &mut rng);
                }
                theta
            })
            .collect();
        replicates.sort_by(f64::total_cmp);
        let middle = rank(&replicates, estimate.value);
        let wide = seeds as f64 / (seeds as f64 - 1.0);
        Some(Self {
            bias: normal_quantile(middle),
            acceleration: acceleration(&sample.per_seed),
            replicates,
            df: estimate.df,
            widening: wide.sqrt(),
        })
    }

    /// The two-sided interval at `level`.
    pub fn interval(&self, level: f64, kind: Interval) -> (f64, f64) {
        let reach = self.widening * t_quantile(0.5 + 0.5 * level, self.df);
        (
            self.quantile(self.shift(-reach, kind)),
            self.quantile(self.shift(reach, kind)),
        )
    }

    /// Twice the chance level at which the lower end of the interval touches `threshold`: at most 0.05
    /// where the 95 % interval lies above it, up to the spacing of the replicates.
    pub fn p_above(&self, threshold: f64, kind: Interval) -> f64 {
        (2.0 * t_cdf(self.place(threshold, kind), self.df)).min(1.0)
    }

    /// [`Bootstrap::p_above`] for the other side.
    pub fn p_below(&self, threshold: f64, kind: Interval) -> f64 {
        (2.0 * t_cdf(-self.place(threshold, kind), self.df)).min(1.0)
    }

    /// Where a threshold stands among the replicates, as a t statistic: the inverse of [`Self::shift`].
    fn place(&self, threshold: f64, kind: Interval) -> f64 {
        let z = normal_quantile(rank(&self.replicates, threshold));
        let plain = match kind {
            Interval::Percentile => z,
            Interval::Bca => {
                let centred = z - self.bias;
                centred / (1.0 + self.acceleration * centred) - self.bias
            }
        };
        plain / self.widening
    }

    /// Where BCa reads the quantile that a normal would have at z.
    fn shift(&self, z: f64, kind: Interval) -> f64 {
        match kind {
            Interval::Percentile => normal_cdf(z),
            Interval::Bca => {
                let moved = self.bias + z;
                normal_cdf(self.bias + moved / (1.0 - self.acceleration * moved))
            }
        }
    }

    /// The replicates' quantile, linear between neighbours.
    fn quantile(&self, p: f64) -> f64 {
        let last = self.replicates.len() - 1;
        let place = p.clamp(0.0, 1.0) * last as f64;
        let below = place.floor() as usize;
        let above = (below + 1).min(last);
        let (low, high) = (self.replicates[below], self.replicates[above]);
        low + (place - below as f64) * (high - low)
    }
}

/// The share of sorted values below x, ties counted half, never exactly 0 or 1.
fn rank(sorted: &[f64], x: f64) -> f64 {
    let below = sorted.partition_point(|&v| v < x);
    let not_above = sorted.partition_point(|&v| v <= x);
    let share = 0.5 * (below + not_above) as f64;
    (share + 0.5) / (sorted.len() as f64 + 1.0)
}

/// One set's part of a replicate: drawn items, averaged over the weighted seeds.
fn resampled_mean(set: &[Vec<f64>], weights: &[f64], rng: &mut Rng) -> f64 {
    let items = set.first().map_or(0, Vec::len);
    if items == 0 {
        return 0.0;
    }
    let mut counts = vec![0u32; items];
    for _ in 0..items {
        counts[rng.below(items)] += 1;
    }
    let mut sum = 0.0;
    for (values, weight) in set.iter().zip(weights) {
        if *weight > 0.0 {
            let drawn: f64 = values
                .iter()
                .zip(&counts)
                .map(|(v, &c)| v * f64::from(c))
                .sum();
            sum += weight * drawn / items as f64;
        }
    }
    sum
}

/// Σ(θ̄ − θ₋ₛ)³ / 6(Σ(θ̄ − θ₋ₛ)²)^{3/2} over the means that leave one seed out.
fn acceleration(per_seed: &[f64]) -> f64 {
    let centre = mean(per_seed);
    // θ̄ − θ₋ₛ is proportional to θ_s − θ̄, and the ratio does not see the factor 1/(S − 1).
    let (mut squares, mut cubes) = (0.0, 0.0);
    for value in per_seed {
        let pull = value - centre;
        squares += pull * pull;
        cubes += pull * pull * pull;
    }
    if squares > 0.0 {
        cubes / (6.0 * squares * squares.sqrt())
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::rng::Rng;
    use proptest::prelude::*;

    fn normal_sample(rng: &mut Rng, seeds: usize, items: usize, spread: [f64; 3]) -> Sample {
        let [of_seed, of_item, of_both] = spread;
        let pull: Vec<f64> = (0..items).map(|_| of_item * rng.normal()).collect();
        let set: Vec<Vec<f64>> = (0..seeds)
            .map(|_| {
                let shift = of_seed * rng.normal();
                pull.iter()
                    .map(|p| shift + p + of_both * rng.normal())
                    .collect()
            })
            .collect();
        Sample {
            per_seed: set.iter().map(|s| mean(s)).collect(),
            items: vec![set],
        }
    }

    #[test]
    fn intervals_cover_as_often_as_they_say() {
        let mut rng = Rng::new(3);
        let runs = 600;
        let error = 4.0 * (0.95f64 * 0.05 / runs as f64).sqrt();
        for (seeds, items, spread) in [(10, 1, [1.0, 0.0, 0.0]), (12, 25, [0.3, 1.0, 0.3])] {
            for kind in [Interval::Percentile, Interval::Bca] {
                let covered = (0..runs).filter(|&run| {
                    let sample = normal_sample(&mut rng, seeds, items, spread);
                    let (low, high) = Bootstrap::draw(&sample, 400, run)
                        .unwrap()
                        .interval(0.95, kind);
                    low <= 0.0 && 0.0 <= high
                });
                let covered = covered.count() as f64 / runs as f64;
                assert!(
                    covered >= 0.95 - error,
                    "{seeds} × {items}, {kind:?}: {covered}"
                );
                assert!(
                    covered <= 0.98 + error,
                    "{seeds} × {items}, {kind:?}: {covered}"
                );
            }
        }
    }

    // With items only, the replicates' spread is the items' standard error.
    #[test]
    fn items_alone_give_their_standard_error() {
        let items: Vec<f64> = (0..200).map(|i| f64::from(i % 2)).collect();
        let sample = Sample {
            per_seed: vec![0.5; 3],
            items: vec![vec![items; 3]],
        };
        let drawn = Bootstrap::draw(&sample, 4000, 1).unwrap();
        let spread = super::super::std_dev(&drawn.replicates);
        let expected = 0.5 / 200f64.sqrt();
        // The spread of 4000 draws is known to 1/√8000, taken five times.
        assert!(
            (spread / expected - 1.0).abs() < 5.0 / 8000f64.sqrt(),
            "{spread} {expected}"
        );
    }

    #[test]
    fn no_spread_no_width() {
        let drawn = Bootstrap::draw(&Sample::of_seeds(vec![2.0; 5]), 100, 1).unwrap();
        assert_eq!(drawn.interval(0.95, Interval::Bca), (2.0, 2.0));
        assert!(Bootstrap::draw(&Sample::of_seeds(vec![2.0]), 100, 1).is_none());
    }

    proptest! {
        #[test]
        fn same_seed_same_bits(values in prop::collection::vec(-5.0..5.0f64, 2..8), seed: u64) {
            let sample = Sample::of_seeds(values);
            let twice = [0, 1].map(|_| Bootstrap::draw(&sample, 50, seed).unwrap().replicates);
            prop_assert_eq!(&twice[0], &twice[1]);
        }

        #[test]
        fn p_and_interval_agree(values in prop::collection::vec(-5.0..5.0f64, 10..16), threshold in -3.0..3.0f64) {
            let drawn = Bootstrap::draw(&Sample::of_seeds(values), 2000, 9).unwrap();
            for kind in [Interval::Percentile, Interval::Bca] {
                let (low, _) = drawn.interval(0.95, kind);
                let p = drawn.p_above(threshold, kind);
                // A threshold within one replicate of the end may fall on either side.
                let near = rank(&drawn.replicates, low) - rank(&drawn.replicates, threshold);
                prop_assume!(near.abs() > 2e-3);
                prop_assert_eq!(low > threshold, p <= 0.05, "{:?} low {} p {}", kind, low, p);
            }
        }
    }
}
