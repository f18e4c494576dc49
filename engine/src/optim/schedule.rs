//! Learning-rate schedules: pure functions of the step.

/// The factor of the learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Schedule {
    /// 1 throughout.
    Constant,
    /// Up from 0 over `warmup` steps, then linearly down to 0 at `total`.
    LinearWarmup {
        /// Steps of warm-up.
        warmup: u64,
        /// Steps in all.
        total: u64,
    },
    /// Up from 0 over `warmup` steps, then along half a cosine down to `floor` at `total` (Loshchilov & Hutter 2017).
    Cosine {
        /// Steps of warm-up.
        warmup: u64,
        /// Steps in all.
        total: u64,
        /// The factor at the end.
        floor: f32,
    },
}

impl Schedule {
    /// The factor at `step`, from 0. The first step of a warm-up has `1/warmup`, so that no step is wasted.
    pub fn factor(self, step: u64) -> f32 {
        let (warmup, total) = match self {
            Schedule::Constant => return 1.0,
            Schedule::LinearWarmup { warmup, total } | Schedule::Cosine { warmup, total, .. } => {
                (warmup, total)
            }
        };
        if step < warmup {
            return (step + 1) as f32 / warmup as f32;
        }
        let done = ((step - warmup) as f32 / total.saturating_sub(warmup).max(1) as f32).min(1.0);
        match self {
            Schedule::Cosine { floor, .. } => {
                floor + (1.0 - floor) * 0.5 * (1.0 + (std::f32::consts::PI * done).cos())
            }
            _ => 1.0 - done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_rise_to_one_and_fall_to_their_end() {
        let linear = Schedule::LinearWarmup {
            warmup: 4,
            total: 12,
        };
        assert_eq!(
            [0, 3, 4, 8, 12, 20].map(|s| linear.factor(s)),
            [0.25, 1.0, 1.0, 0.5, 0.0, 0.0]
        );
        let cosine = Schedule::Cosine {
            warmup: 0,
            total: 10,
            floor: 0.1,
        };
        assert_eq!(cosine.factor(0), 1.0);
        assert!((cosine.factor(5) - 0.55).abs() < 1e-6 && (cosine.factor(10) - 0.1).abs() < 1e-6);
    }
}
