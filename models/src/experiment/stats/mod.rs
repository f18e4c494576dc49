//! Statistics of paired runs.
//!
//! A claim is about a number θ that can be computed from each seed's run, such as the mean difference of two
//! arms' accuracies over some tasks. Two things vary: the *seed* (initialisation, data order) and the finite
//! set of *test items*, which all seeds share. With d_si seed s's difference on item i, S seeds and n items,
//!
//! ```text
//! θ̂ = mean_s θ_s     se² = var_s(θ_s)/S + Σ_sets var_i(mean_s d_si)/n     (crossed, slightly conservative)
//! ν  = se⁴ / (se_seeds⁴/(S − 1) + Σ se_items⁴/(n − 1))                   (Welch–Satterthwaite)
//! ```
//!
//! [`Estimate`] holds these and gives t-intervals, which is what a handful of seeds allows;
//! [`bootstrap`] resamples seeds and items when there are enough of them.

pub mod bootstrap;
pub mod special;

use serde::{Deserialize, Serialize};
use special::{t_cdf, t_quantile};

/// The arithmetic mean; NaN for an empty slice.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The unbiased variance Σ(x − x̄)²/(n − 1); 0 for fewer than two values.
pub fn variance(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let centre = mean(values);
    let squares: f64 = values.iter().map(|x| (x - centre) * (x - centre)).sum();
    squares / (values.len() - 1) as f64
}

/// The standard deviation over seeds, with n − 1; 0 for fewer than two values.
pub fn std_dev(values: &[f64]) -> f64 {
    variance(values).sqrt()
}

/// What each seed says about θ, and how each test item pulls it.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// θ_s, one a seed.
    pub per_seed: Vec<f64>,
    /// For each set of test items, `[seed][item]`: the item's part in θ_s, so that the mean over the items is
    /// the set's contribution (up to a constant a seed). Every seed has the same number of items.
    pub items: Vec<Vec<Vec<f64>>>,
}

impl Sample {
    /// Seeds alone.
    pub fn of_seeds(per_seed: Vec<f64>) -> Self {
        Self {
            per_seed,
            items: Vec::new(),
        }
    }

    /// The number of test items over all sets.
    pub fn item_count(&self) -> usize {
        self.items
            .iter()
            .map(|set| set.first().map_or(0, Vec::len))
            .sum()
    }
}

/// θ̂ with its standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// θ̂, the mean over seeds.
    pub value: f64,
    /// The standard error, seeds and items together.
    pub se: f64,
    /// The part of it that more seeds would shrink.
    pub se_seeds: f64,
    /// The part of it that more test items would shrink.
    pub se_items: f64,
    /// Degrees of freedom; 0 for fewer than two seeds, when there is no interval.
    pub df: f64,
    /// S.
    pub seeds: usize,
    /// Test items over all sets.
    pub items: usize,
}

impl Estimate {
    /// Estimates θ from a sample.
    pub fn of(sample: &Sample) -> Self {
        let seeds = sample.per_seed.len();
        let seeds_part = variance(&sample.per_seed) / seeds.max(1) as f64;
        let mut items_part = 0.0;
        let mut denominator = seeds_part * seeds_part / seeds.saturating_sub(1).max(1) as f64;
        for set in &sample.items {
            let means = item_means(set);
            let n = means.len();
            if n > 1 {
                let part = variance(&means) / n as f64;
                items_part += part;
                denominator += part * part / (n - 1) as f64;
            }
        }
        let total = seeds_part + items_part;
        let df = match seeds {
            0 | 1 => 0.0,
            _ if denominator > 0.0 => total * total / denominator,
            _ => (seeds - 1) as f64,
        };
        Self {
            value: mean(&sample.per_seed),
            se: total.sqrt(),
            se_seeds: seeds_part.sqrt(),
            se_items: items_part.sqrt(),
            df,
            seeds,
            items: sample.item_count(),
        }
    }

    /// Whether there are seeds enough for an interval.
    pub fn has_interval(&self) -> bool {
        self.df > 0.0
    }

    /// The two-sided t-interval at `level` (0.95), or None with fewer than two seeds.
    pub fn t_interval(&self, level: f64) -> Option<(f64, f64)> {
        let half = self
            .has_interval()
            .then(|| t_quantile(0.5 + 0.5 * level, self.df) * self.se)?;
        Some((self.value - half, self.value + half))
    }

    /// Twice the probability of an estimate this far above `threshold` were θ equal to it: p ≤ 0.05
    /// exactly when the 95 % t-interval lies above the threshold. 1 with fewer than two seeds.
    pub fn p_above(&self, threshold: f64) -> f64 {
        if !self.has_interval() {
            return 1.0;
        }
        let distance = self.value - threshold;
        if self.se == 0.0 {
            return if distance > 0.0 { 0.0 } else { 1.0 };
        }
        (2.0 * t_cdf(-distance / self.se, self.df)).min(1.0)
    }

    /// [`Estimate::p_above`] for the other side.
    pub fn p_below(&self, threshold: f64) -> f64 {
        Self {
            value: -self.value,
            ..self.clone()
        }
        .p_above(-threshold)
    }

    /// The true distance from a threshold that this design would have noticed four times in five:
    /// (t_{1−α/2} + t_{0.8})·se. None with fewer than two seeds.
    pub fn detectable(&self, alpha: f64) -> Option<f64> {
        let reach = |df| t_quantile(1.0 - 0.5 * alpha, df) + t_quantile(0.8, df);
        self.has_interval().then(|| reach(self.df) * self.se)
    }
}

/// Each item's mean over the seeds.
fn item_means(set: &[Vec<f64>]) -> Vec<f64> {
    let items = set.first().map_or(0, Vec::len);
    (0..items)
        .map(|i| set.iter().map(|seed| seed[i]).sum::<f64>() / set.len() as f64)
        .collect()
}

/// Holm's step-down correction (1979): the adjusted p of each of several tests, such that rejecting those
/// at or below α keeps the chance of any false rejection at or below α.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest: f64 = 0.0;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max(((p.len() - rank) as f64 * p[i]).min(1.0));
        adjusted[i] = largest;
    }
    adjusted
}

/// P(X ≥ k) for X ~ Binomial(n, ½): how surprising k equal signs in n would be by chance.
pub fn sign_test(k: usize, n: usize) -> f64 {
    let mut chance = 0.5f64.powi(n as i32);
    let mut sum = 0.0;
    for j in 0..=n {
        if j >= k {
            sum += chance;
        }
        chance *= (n - j) as f64 / (j + 1) as f64;
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;
    use proptest::prelude::*;

    // Differences 1, 2, 3: mean 2, variance 1, se 1/√3; t(0.975, 2) = 4.30265.
    #[test]
    fn an_interval_worked_by_hand() {
        let estimate = Estimate::of(&Sample::of_seeds(vec![1.0, 2.0, 3.0]));
        let (low, high) = estimate.t_interval(0.95).unwrap();
        let half = 4.302653 / 3f64.sqrt();
        assert!((low - (2.0 - half)).abs() < 1e-5 && (high - (2.0 + half)).abs() < 1e-5);
        assert_eq!(estimate.df, 2.0);
        // T_2(−√12) = ½ − √12/(2√14)
        let p = 2.0 * (0.5 - 12f64.sqrt() / (2.0 * 14f64.sqrt()));
        assert!((estimate.p_above(0.0) - p).abs() < 1e-9);
    }

    // Two seeds, items [0, 2] and [0, 4]: θ = 1, 2; means over seeds 0, 3; var 4.5, /2 = 2.25; seeds ½/2 = 0.25.
    #[test]
    fn items_add_to_the_error() {
        let sample = Sample {
            per_seed: vec![1.0, 2.0],
            items: vec![vec![vec![0.0, 2.0], vec![0.0, 4.0]]],
        };
        let estimate = Estimate::of(&sample);
        assert_eq!((estimate.se_seeds, estimate.se_items), (0.5, 1.5));
        assert_eq!(estimate.df, 2.5 * 2.5 / (0.25 * 0.25 + 2.25 * 2.25));
        assert_eq!((estimate.seeds, estimate.items), (2, 2));
    }

    #[test]
    fn one_seed_has_no_interval() {
        let estimate = Estimate::of(&Sample::of_seeds(vec![3.0]));
        assert_eq!(
            (estimate.t_interval(0.95), estimate.p_above(0.0)),
            (None, 1.0)
        );
        assert_eq!(estimate.detectable(0.05), None);
    }

    #[test]
    fn equal_seeds_are_certain() {
        let estimate = Estimate::of(&Sample::of_seeds(vec![2.0; 4]));
        assert_eq!(estimate.t_interval(0.95), Some((2.0, 2.0)));
        assert_eq!((estimate.p_above(1.0), estimate.p_above(2.0)), (0.0, 1.0));
    }

    #[test]
    fn holm_worked_by_hand() {
        assert_eq!(holm(&[0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]);
        assert_eq!(holm(&[0.6, 0.7]), [1.0, 1.0]);
        assert_eq!(holm(&[]), [0.0; 0]);
    }

    #[test]
    fn signs_by_chance() {
        assert_eq!(sign_test(5, 5), 1.0 / 32.0);
        assert_eq!(sign_test(4, 5), 6.0 / 32.0);
        assert_eq!(sign_test(0, 5), 1.0);
    }

    /// How often the 95 % t-interval of `runs` simulated experiments covers θ = 0.3.
    fn coverage(runs: usize, seeds: usize, items: usize, spread: [f64; 3], rng: &mut Rng) -> f64 {
        let [of_seed, of_item, of_both] = spread;
        let covered = (0..runs).filter(|_| {
            let pull: Vec<f64> = (0..items).map(|_| of_item * rng.normal()).collect();
            let set: Vec<Vec<f64>> = (0..seeds)
                .map(|_| {
                    let shift = 0.3 + of_seed * rng.normal();
                    pull.iter()
                        .map(|p| shift + p + of_both * rng.normal())
                        .collect()
                })
                .collect();
            let per_seed = set.iter().map(|s| mean(s)).collect();
            let interval = Estimate::of(&Sample {
                per_seed,
                items: vec![set],
            })
            .t_interval(0.95);
            interval.is_some_and(|(low, high)| low <= 0.3 && 0.3 <= high)
        });
        covered.count() as f64 / runs as f64
    }

    // Four binomial standard deviations below the nominal level; above it only as far as counting the
    // interaction of seed and item twice explains.
    #[test]
    fn intervals_cover_as_often_as_they_say() {
        let mut rng = Rng::new(11);
        let runs = 2000;
        let error = 4.0 * (0.95f64 * 0.05 / runs as f64).sqrt();
        for (seeds, items, spread, most) in [
            (3, 40, [1.0, 0.0, 0.0], 0.95),
            (5, 40, [1.0, 6.0, 0.0], 0.97),
            (5, 60, [0.0, 1.0, 0.0], 0.95),
            (8, 30, [0.3, 1.0, 3.0], 1.0),
        ] {
            let covered = coverage(runs, seeds, items, spread, &mut rng);
            assert!(
                covered >= 0.95 - error,
                "{seeds} seeds {spread:?}: {covered}"
            );
            assert!(
                covered <= most + error,
                "{seeds} seeds {spread:?}: {covered}"
            );
        }
    }

    // A true effect of one detectable distance is found in about 80 % of the experiments.
    #[test]
    fn the_detectable_effect_has_80_percent_power() {
        let mut rng = Rng::new(5);
        let (runs, seeds) = (4000, 6);
        let se = 1.0 / (seeds as f64).sqrt();
        let known = Estimate {
            value: 0.0,
            se,
            se_seeds: se,
            se_items: 0.0,
            df: 5.0,
            seeds,
            items: 0,
        };
        let effect = known.detectable(0.05).unwrap();
        let found = (0..runs).filter(|_| {
            let draws = (0..seeds).map(|_| effect + rng.normal()).collect();
            Estimate::of(&Sample::of_seeds(draws)).p_above(0.0) <= 0.05
        });
        let power = found.count() as f64 / runs as f64;
        // t + t is the usual approximation of the noncentral t's; 3 % covers it and the simulation.
        assert!((power - 0.8).abs() < 0.03, "{power}");
    }

    proptest! {
        #[test]
        fn holm_is_monotone_and_bounded(p in prop::collection::vec(0.0..1.0f64, 0..12)) {
            let adjusted = holm(&p);
            for (i, &a) in adjusted.iter().enumerate() {
                prop_assert!(a >= p[i] && a <= (p[i] * p.len() as f64).min(1.0));
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || adjusted[i] <= adjusted[j]);
                }
            }
        }

        #[test]
        fn p_and_interval_agree(values in prop::collection::vec(-5.0..5.0f64, 2..9), threshold in -3.0..3.0f64) {
            let estimate = Estimate::of(&Sample::of_seeds(values));
            let (low, _) = estimate.t_interval(0.95).unwrap();
            prop_assume!((low - threshold).abs() > 1e-9);
            prop_assert_eq!(low > threshold, estimate.p_above(threshold) <= 0.05);
        }

        #[test]
        fn shifting_and_scaling_carry_over(values in prop::collection::vec(-5.0..5.0f64, 2..9), a in 0.1..4.0f64, b in -9.0..9.0f64) {
            let plain = Estimate::of(&Sample::of_seeds(values.clone()));
            let moved = Estimate::of(&Sample::of_seeds(values.iter().map(|x| a * x + b).collect()));
            prop_assert!((moved.value - (a * plain.value + b)).abs() < 1e-9);
            prop_assert!((moved.se - a * plain.se).abs() < 1e-9);
            prop_assert!((moved.df - plain.df).abs() < 1e-6);
        }
    }
}
