//! Random numbers for resampling: SplitMix64 to seed (Steele et al. 2014), xoshiro256++ to draw
//! (Blackman & Vigna 2019). Integers only, so every machine draws the same.

/// A xoshiro256++ generator.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// A generator whose whole sequence is determined by `seed`.
    pub fn new(mut seed: u64) -> Self {
        let state = std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Self { state }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.state;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A uniform integer in 0..n, without bias (Lemire 2019). `n` must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        debug_assert!(n > 0);
        let n = n as u64;
        loop {
            let wide = u128::from(self.bits()) * u128::from(n);
            if wide as u64 >= n.wrapping_neg() % n {
                return (wide >> 64) as usize;
            }
        }
    }

    /// A uniform number in [0, 1) with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * 2f64.powi(-53)
    }

    /// A standard normal number (Box–Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SplitMix64 from seed 0 begins with these words (the reference implementation's output).
    #[test]
    fn seeding_matches_splitmix64() {
        assert_eq!(
            Rng::new(0).state,
            [
                0xe220_a839_7b1d_cdaf,
                0x6e78_9e6a_a1b9_65f4,
                0x06c4_5d18_8009_454f,
                0xf88b_b8a8_724c_81ec
            ]
        );
    }

    // xoshiro256++ from state [1, 2, 3, 4]: first = rotl(1 + 4, 23) + 1.
    #[test]
    fn first_draws_worked_by_hand() {
        let mut rng = Rng {
            state: [1, 2, 3, 4],
        };
        assert_eq!(rng.bits(), (5 << 23) + 1);
        assert_eq!(rng.state, [7, 0, 0x40002, 0x0000_c000_0000_0000]);
    }

    #[test]
    fn draws_are_uniform_and_normal() {
        let mut rng = Rng::new(7);
        let mut counts = [0usize; 6];
        let n = 60_000;
        for _ in 0..n {
            counts[rng.below(6)] += 1;
        }
        // Five standard deviations of a binomial count.
        let tolerance = 5.0 * (n as f64 / 6.0 * 5.0 / 6.0).sqrt();
        assert!(
            counts.iter().all(|&c| (c as f64 - 1e4).abs() < tolerance),
            "{counts:?}"
        );
        let draws: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / n as f64;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / n as f64;
        assert!(mean.abs() < 5.0 / (n as f64).sqrt(), "{mean}");
        assert!(
            (variance - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt(),
            "{variance}"
        );
    }
}
