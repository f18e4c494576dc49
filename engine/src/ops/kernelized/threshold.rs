//! The exact quantile of |K|, which is made block by block and neither stored nor sorted.
//!
//! A sample says between which magnitudes the quantile lies. One sweep over K counts what is below and keeps what is between, at
//! most an eighth of K, and a selection among that finishes. Where the sample misled, or ties leave too much between, a radix
//! selection counts magnitudes by their leading bits, in three sweeps and one more for the interpolation. Magnitudes order as
//! their bits do, and all is in bits here.

use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use super::gather::ROWS;
use super::native::Prepared;
use crate::cpu::simd::{self, LANES};
use crate::cpu::threads::par_chunks;

/// As many elements as are kept without being chosen by a sample.
const FEW: usize = 1 << 16;
/// Tiles of [`ROWS`] × [`LANES`] elements in a sample.
const TILES: u64 = 256;

/// The p-quantile of |K| as [`crate::tensor::Tensor::quantile`] has it.
pub fn quantile(made: &Prepared, p: f64, b: &[f32]) -> f32 {
    let total = made.m * made.n;
    if total == 0 {
        return 0.0;
    }
    let at = p * (total - 1) as f64;
    let between = if total <= FEW {
        0..=u32::MAX
    } else {
        sampled(made, p, b)
    };
    let sieve = sift(made, b, between);
    if f32::from_bits(sieve.largest).is_nan() {
        return f32::NAN;
    }
    let rank = at.floor() as usize;
    let (low, next) = sieve.select(rank).unwrap_or_else(|| radix(made, b, rank));
    let (low, next) = (f32::from_bits(low), f32::from_bits(next));
    if at.fract() == 0.0 || low.is_infinite() {
        return low;
    }
    low + (next - low) * at.fract() as f32
}

/// Magnitudes between which the p-quantile of K lies but for bad luck: the quantiles of a sample at eight of its standard
/// deviations below and above p. Four would do if the elements of a row had nothing to do with each other.
fn sampled(made: &Prepared, p: f64, b: &[f32]) -> RangeInclusive<u32> {
    let (rows, columns) = (made.m.div_ceil(ROWS), made.n.div_ceil(LANES));
    let mut sample = Vec::with_capacity(TILES as usize * ROWS * LANES);
    made.with_block(|mut block| {
        for tile in 0..TILES {
            // Rows at equal distances, columns at multiples of the golden section: a lattice that favours none.
            let section = tile.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let row = (tile * rows as u64 / TILES) as usize * ROWS;
            let first = ((section * columns as u64) >> 32) as usize * LANES;
            let columns = first..made.n.min(first + LANES);
            made.load(b, row, &mut block);
            simd::dispatch(
                #[inline(always)]
                || made.fill(columns.clone(), &mut block),
            );
            for k in block.k.chunks_exact(LANES).take(ROWS.min(made.m - row)) {
                sample.extend(k[..columns.len()].iter().map(|k| k.abs().to_bits()));
            }
        }
    });
    let count = sample.len() as f64;
    let margin = 8.0 * (p * (1.0 - p) / count).sqrt() + 1.0 / count;
    let mut ranked = |rank: f64, beyond: u32| match rank as usize {
        i if rank >= 0.0 && i < sample.len() => *sample.select_nth_unstable(i).1,
        _ => beyond,
    };
    let low = ranked(((p - margin) * count).floor(), 0);
    low..=ranked(((p + margin) * count).ceil(), u32::MAX)
}

/// What one sweep over K finds.
struct Sieve {
    /// How many magnitudes lie below.
    below: usize,
    /// Those between; none if they were too many.
    kept: Option<Vec<u32>>,
    /// The largest of all.
    largest: u32,
    /// How many there are.
    total: usize,
}

impl Sieve {
    /// The magnitudes of `rank` and of the rank above it, if they were kept; the last rank is above itself.
    fn select(self, rank: usize) -> Option<(u32, u32)> {
        let wanted = rank..(rank + 2).min(self.total);
        let mut kept = self.kept?;
        if wanted.start < self.below || wanted.end > self.below + kept.len() {
            return None;
        }
        let rank = rank - self.below;
        let (_, low, rest) = kept.select_nth_unstable(rank);
        let low = *low;
        Some((low, rest.iter().copied().min().unwrap_or(low)))
    }
}

/// What a piece of the sweep finds, in lanes.
struct Piece {
    below: [u32; LANES],
    largest: [u32; LANES],
    kept: Vec<u32>,
    count: usize,
}

impl Piece {
    /// Takes up to [`LANES`] elements.
    #[inline(always)]
    fn take(&mut self, k: &[f32], low: u32, span: u32) {
        let mut inside = [0u32; LANES];
        let (mut below, mut largest) = (self.below, self.largest);
        for l in 0..k.len() {
            let bits = k[l].abs().to_bits();
            below[l] += u32::from(bits < low);
            largest[l] = if bits > largest[l] { bits } else { largest[l] };
            inside[l] = u32::from(bits.wrapping_sub(low) <= span);
        }
        (self.below, self.largest) = (below, largest);
        if inside.iter().fold(0, |any, one| any | one) != 0 {
            for (k, inside) in k.iter().zip(inside) {
                self.kept[self.count] = k.abs().to_bits();
                self.count += inside as usize;
            }
        }
    }
}

/// One sweep over K.
fn sift(made: &Prepared, b: &[f32], between: RangeInclusive<u32>) -> Sieve {
    let most = FEW.max(made.m * made.n / 8);
    let (low, span) = (
        *between.start(),
        between.end().saturating_sub(*between.start()),
    );
    let all = Mutex::new(Sieve {
        below: 0,
        kept: Some(Vec::new()),
        largest: 0,
        total: made.m * made.n,
    });
    par_chunks(made.m, made.grain(), |rows| {
        let mut own = Piece {
            below: [0; LANES],
            largest: [0; LANES],
            // One more, for the element after the last, which is written but not counted.
            kept: vec![0; rows.len() * made.n + 1],
            count: 0,
        };
        made.sweep(
            b,
            (rows, 0..made.n),
            #[inline(always)]
            |_, _, k| {
                let (chunks, rest) = k.as_chunks::<LANES>();
                for chunk in chunks {
                    own.take(chunk, low, span);
                }
                own.take(rest, low, span);
            },
        );
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.below += own.below.iter().map(|n| *n as usize).sum::<usize>();
        all.largest = own.largest.into_iter().fold(all.largest, u32::max);
        all.kept = all
            .kept
            .take()
            .filter(|kept| kept.len() + own.count <= most);
        if let Some(kept) = &mut all.kept {
            kept.extend_from_slice(&own.kept[..own.count]);
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The magnitudes of `rank` and of the rank above it.
fn radix(made: &Prepared, b: &[f32], mut rank: usize) -> (u32, u32) {
    let (mut prefix, mut same) = (0u32, 0);
    for (shift, width) in [(21, 11), (10, 11), (0, 10)] {
        let counts = histogram(made, b, prefix, shift, width);
        let mut digit = 0;
        while digit + 1 < counts.len() && rank >= counts[digit] {
            rank -= counts[digit];
            digit += 1;
        }
        prefix = prefix << width | digit as u32;
        same = counts[digit];
    }
    if rank + 1 < same {
        return (prefix, prefix);
    }
    (prefix, above(made, b, prefix))
}

/// Counts the magnitudes whose leading bits are `prefix` by their next `width` bits, `shift` bits from the end.
fn histogram(made: &Prepared, b: &[f32], prefix: u32, shift: u32, width: u32) -> Vec<usize> {
    let all = Mutex::new(vec![0usize; 1 << width]);
    par_chunks(made.m, made.grain(), |rows| {
        let mut counts = vec![0usize; 1 << width];
        made.sweep(b, (rows, 0..made.n), |_, _, k| {
            for k in k {
                let bits = k.abs().to_bits();
                if bits.checked_shr(shift + width).unwrap_or(0) == prefix {
                    counts[(bits >> shift) as usize & ((1 << width) - 1)] += 1;
                }
            }
        });
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter_mut().zip(counts).for_each(|(y, x)| *y += x);
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The smallest magnitude above `low`, if there is one.
fn above(made: &Prepared, b: &[f32], low: u32) -> u32 {
    let least = Mutex::new(None);
    par_chunks(made.m, made.grain(), |rows| {
        let mut own: Option<u32> = None;
        made.sweep(b, (rows, 0..made.n), |_, _, k| {
            for bits in k
                .iter()
                .map(|k| k.abs().to_bits())
                .filter(|bits| *bits > low)
            {
                own = Some(own.map_or(bits, |least| least.min(bits)));
            }
        });
        let mut least = least.lock().unwrap_or_else(PoisonError::into_inner);
        *least = least.into_iter().chain(own).min();
    });
    let least = least.into_inner().unwrap_or_else(PoisonError::into_inner);
    least.unwrap_or(low)
}

#[cfg(test)]
mod tests {
    use super::super::{Competition, Kernel, KernelizedSparse, Values};
    use super::*;

    /// More than [`FEW`], ragged in rows and columns.
    const SHAPE: [usize; 2] = [301, 459];
    const QUANTILES: [f64; 7] = [0.0, 1e-3, 0.25, 0.5, 0.9, 0.999, 1.0];

    /// K of one number a row, `a_i·b_o`, each number by its place.
    fn products(of_a: impl Fn(usize) -> f32, of_b: impl Fn(usize) -> f32) -> (Prepared, Vec<f32>) {
        let [m, n] = SHAPE;
        let update = KernelizedSparse {
            heads: 1,
            kernel: Kernel::Linear,
            competition: Competition::Off,
            values: Values::Soft,
        };
        let (a, b): (Vec<f32>, Vec<f32>) = ((0..n).map(of_a).collect(), (0..m).map(of_b).collect());
        (Prepared::new(update, m, n, &[&a, &b]), b)
    }

    /// Numbers in [−1, 1) without order.
    fn scattered(i: usize) -> f32 {
        (i as u32).wrapping_mul(0x9e37_79b1) as i32 as f32 / 2f32.powi(31)
    }

    fn sorted(made: &Prepared, b: &[f32]) -> Vec<u32> {
        let mut all = Vec::new();
        made.sweep(b, (0..made.m, 0..made.n), |_, _, k| {
            all.extend(k.iter().map(|k| k.abs().to_bits()))
        });
        all.sort_unstable();
        all
    }

    #[test]
    fn one_sweep_finds_what_sorting_finds() {
        let (made, b) = products(scattered, |o| scattered(o + 1000));
        let all = sorted(&made, &b);
        for p in QUANTILES {
            let at = p * (all.len() - 1) as f64;
            let rank = at as usize;
            let want = (all[rank], all[(rank + 1).min(all.len() - 1)]);
            let found = sift(&made, &b, sampled(&made, p, &b)).select(rank);
            assert_eq!(found, Some(want), "p = {p}");
            assert_eq!(radix(&made, &b, rank), want, "p = {p}");
            let (low, next) = (f32::from_bits(want.0), f32::from_bits(want.1));
            let between = low + (next - low) * at.fract() as f32;
            assert_eq!(quantile(&made, p, &b), between, "p = {p}");
        }
    }

    /// Half of all rows are alike, so that one magnitude has more elements than may be kept; and a bracket that misses.
    #[test]
    fn what_the_sweep_cannot_hold_is_counted() {
        let (made, b) = products(|_| 2.0, |o| if o % 2 == 0 { 3.0 } else { scattered(o) });
        let all = sorted(&made, &b);
        for p in [0.6, 0.75, 1.0] {
            let found = sift(&made, &b, sampled(&made, p, &b))
                .select((p * (all.len() - 1) as f64) as usize);
            assert_eq!(found, None);
            assert_eq!(quantile(&made, p, &b), 6.0);
        }
        let rank = all.len() / 4;
        assert_eq!(sift(&made, &b, all[rank] + 1..=u32::MAX).select(rank), None);
        assert_eq!(sift(&made, &b, 0..=all[rank] - 1).select(rank), None);
    }

    #[test]
    fn infinities_are_magnitudes_and_a_nan_is_seen() {
        let (made, b) = products(|_| 1.0, |o| if o < 200 { f32::INFINITY } else { 1.0 });
        assert_eq!(quantile(&made, 0.2, &b), 1.0);
        assert_eq!(quantile(&made, 0.9, &b), f32::INFINITY);
        let (made, b) = products(|_| 1.0, |o| if o == 299 { f32::NAN } else { 1.0 });
        assert!(quantile(&made, 0.5, &b).is_nan());
    }
}
