//! Run-time choice of the instruction set.
//!
//! One path is chosen for the whole process: the widest the CPU has, or the one forced by
//! [`set_isa`]. Two ways lead into it:
//!
//! - [`dispatch`] runs a closure compiled for the path, so that plain loops over slices and
//!   `[f32; 16]` accumulators vectorise with the path's width and its fused multiply-add;
//! - [`dispatch_with`] hands a [`pulp::Simd`] token to a kernel written with explicit vectors.
//!
//! Everything called from inside must be `#[inline(always)]`: what is not inlined is compiled for
//! the baseline and runs several times slower, though with the same result.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

use pulp::{NullaryFnOnce, Scalar, WithSimd};

/// An instruction-set path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// The baseline of the target; fused multiply-add goes through the C library.
    Scalar,
    /// AVX2 with FMA: 8 lanes of `f32`.
    Avx2,
    /// AVX-512 (F, BW, CD, DQ, VL): 16 lanes of `f32`.
    Avx512,
}

impl Isa {
    /// All paths, narrowest first.
    pub const ALL: [Isa; 3] = [Isa::Scalar, Isa::Avx2, Isa::Avx512];

    /// The widest path that this CPU has.
    pub fn best() -> Isa {
        Isa::ALL
            .into_iter()
            .rev()
            .find(|isa| isa.available())
            .unwrap_or(Isa::Scalar)
    }

    /// Whether this CPU has the path's instructions.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => pulp::x86::V3::try_new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => pulp::x86::V4::try_new().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The name that the command line takes and the results state.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an instruction-set path cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// The CPU lacks the path's instructions.
    #[error(
        "isa: this CPU lacks `{wanted}`; its widest path is `{best}` (leave the choice out to take it)"
    )]
    Unavailable {
        /// The path that was asked for.
        wanted: Isa,
        /// The widest path that this CPU has.
        best: Isa,
    },
    /// The name is none of [`Isa::name`]'s.
    #[error("isa: `{0}` is none of scalar, avx2, avx512")]
    Unknown(String),
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Isa, IsaError> {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| IsaError::Unknown(name.to_owned()))
    }
}

const UNSET: u8 = u8::MAX;
static CHOSEN: AtomicU8 = AtomicU8::new(UNSET);

/// The path in use.
#[inline]
pub fn isa() -> Isa {
    match CHOSEN.load(Ordering::Relaxed) {
        0 => Isa::Scalar,
        1 => Isa::Avx2,
        2 => Isa::Avx512,
        _ => {
            let best = Isa::best();
            CHOSEN.store(best as u8, Ordering::Relaxed);
            best
        }
    }
}

/// Forces a path for the whole process. Results are the same bits only on the same path, so this
/// belongs at the start of a program.
pub fn set_isa(isa: Isa) -> Result<(), IsaError> {
    if !isa.available() {
        return Err(IsaError::Unavailable {
            wanted: isa,
            best: Isa::best(),
        });
    }
    CHOSEN.store(isa as u8, Ordering::Relaxed);
    Ok(())
}

/// Runs an explicitly vectorised kernel on the path in use.
#[inline]
pub fn dispatch_with<Op: WithSimd>(op: Op) -> Op::Output {
    dispatch_on(isa(), op)
}

/// Runs an explicitly vectorised kernel on a given path, which must be available.
#[inline]
pub fn dispatch_on<Op: WithSimd>(isa: Isa, op: Op) -> Op::Output {
    use pulp::Simd;
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Avx512 => {
            if let Some(simd) = pulp::x86::V4::try_new() {
                return Simd::vectorize(simd, op);
            }
        }
        Isa::Avx2 => {
            if let Some(simd) = pulp::x86::V3::try_new() {
                return Simd::vectorize(simd, op);
            }
        }
        Isa::Scalar => {}
    }
    let _ = isa;
    Simd::vectorize(Scalar::new(), op)
}

struct Plain<F>(F);

impl<R, F: FnOnce() -> R> NullaryFnOnce for Plain<F> {
    type Output = R;

    #[inline(always)]
    fn call(self) -> R {
        (self.0)()
    }
}

/// Runs `body` compiled for the path in use. Write the closure as `#[inline(always)] || …`.
#[inline]
pub fn dispatch<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    match isa() {
        Isa::Avx512 => {
            if let Some(simd) = pulp::x86::V4::try_new() {
                return simd.vectorize(Plain(body));
            }
        }
        Isa::Avx2 => {
            if let Some(simd) = pulp::x86::V3::try_new() {
                return simd.vectorize(Plain(body));
            }
        }
        Isa::Scalar => {}
    }
    body()
}

/// Lanes of an accumulator in the vectorised reductions of this module.
pub const LANES: usize = 16;

/// Adds the lanes of an accumulator pairwise: 16 → 8 → 4 → 2 → 1. The same bits on every path.
#[inline(always)]
pub fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    let mut half = [0.0; 8];
    for i in 0..8 {
        half[i] = lanes[i] + lanes[i + 8];
    }
    ((half[0] + half[4]) + (half[2] + half[6])) + ((half[1] + half[5]) + (half[3] + half[7]))
}

/// Σ f(xᵢ), each of 16 lanes summed left to right, then [`sum_lanes`].
#[inline(always)]
pub fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut whole = [0.0f32; LANES];
    for chunk in chunks {
        let mut next = whole;
        for l in 0..LANES {
            next[l] += f(chunk[l]);
        }
        whole = next;
    }
    // A copy, because lanes that are indexed by a variable live in memory.
    let mut lanes = whole;
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane += f(v);
    }
    sum_lanes(lanes)
}

/// Folds `s ← f(xᵢ, yᵢ, s)` in each of 16 lanes from 0, then [`sum_lanes`]. Lengths must agree.
#[inline(always)]
pub fn sum_of_pairs(x: &[f32], y: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    debug_assert_eq!(x.len(), y.len());
    let (xs, x_tail) = x.as_chunks::<LANES>();
    let (ys, y_tail) = y.as_chunks::<LANES>();
    let mut whole = [0.0f32; LANES];
    for (a, b) in xs.iter().zip(ys) {
        let mut next = whole;
        for l in 0..LANES {
            next[l] = f(a[l], b[l], whole[l]);
        }
        whole = next;
    }
    let mut lanes = whole;
    for ((lane, &a), &b) in lanes.iter_mut().zip(x_tail).zip(y_tail) {
        *lane = f(a, b, *lane);
    }
    sum_lanes(lanes)
}

/// Σ xᵢ·yᵢ with fused multiply-adds. Lengths must agree.
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    sum_of_pairs(
        x,
        y,
        #[inline(always)]
        |a, b, s| a.mul_add(b, s),
    )
}

/// The largest element; −∞ for an empty slice; NaN elements are passed over.
#[inline(always)]
pub fn max_of(x: &[f32]) -> f32 {
    let mut whole = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        let mut next = whole;
        for l in 0..LANES {
            if chunk[l] > whole[l] {
                next[l] = chunk[l];
            }
        }
        whole = next;
    }
    let mut lanes = whole;
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane = if v > *lane { v } else { *lane };
    }
    lanes
        .into_iter()
        .fold(f32::NEG_INFINITY, |m, v| if v > m { v } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse::<Isa>(), Ok(isa));
        }
        let message = "avx3".parse::<Isa>().unwrap_err().to_string();
        assert!(
            message.contains("`avx3`") && message.contains("avx2"),
            "{message}"
        );
    }

    #[test]
    fn sums_of_small_integers_are_exact_on_any_length() {
        for n in [0usize, 1, 15, 16, 17, 33, 100] {
            let x: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            let expected = (n * (n + 1) / 2) as f32;
            assert_eq!(dispatch(|| sum_of(&x, |v| v)), expected);
            assert_eq!(dispatch(|| dot(&x, &vec![1.0; n])), expected);
            assert_eq!(
                dispatch(|| max_of(&x)),
                if n == 0 { f32::NEG_INFINITY } else { n as f32 }
            );
        }
    }
}
