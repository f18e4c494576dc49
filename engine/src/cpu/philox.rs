//! Philox4x32-10 (Salmon et al. 2011), a counter-based generator, and the numbers made of its words.
//!
//! ```text
//! block(r, b) = philox(counter = [b, r, s₂, s₃], key = [s₀, s₁])        s: the stream's four words
//! element (r, c) comes from block (r, ⌊c/4⌋): word c mod 4 for a uniform, for a normal
//!   (z₀, z₁) = √(−2 ln u)·(cos θ, sin θ)      u = (w₀ + ½)/2³²,  θ = 2π·w₁/2³²       (Box & Muller 1958)
//!   (z₂, z₃) likewise of w₂, w₃
//! ```
//!
//! Every word is used once. The transform is made of correctly rounded operations in a written order (conversion, `fma`,
//! `×`, `√`, integer shifts and selections; the logarithm and the circle are [`super::math`]'s polynomials), so that every
//! instruction-set path, and any device with IEEE arithmetic, gives the same bits. The largest normal is √(66 ln 2) ≈ 6.76.

use std::ops::Range;

use crate::cpu::{math, simd, threads};
use crate::device::Distribution;

/// Blocks that are worked out together, one a lane.
const LANES: usize = 16;
/// Blocks per piece of parallel work.
const GRAIN: usize = 1 << 11;

/// Word `i` of 16 blocks under `words[i]`.
type Words = [[u32; LANES]; 4];

/// Ten rounds on a counter under a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    rounds(counter.map(|word| [word; LANES]), key).map(|word| word[0])
}

/// A word lies in the lower half of 64 bits, as products take and give it; the upper half holds anything.
#[inline(always)]
fn rounds(mut counter: Words, mut key: [u32; 2]) -> Words {
    const LOW: u64 = 0xFFFF_FFFF;
    // Loops rather than `map`, whose call is not compiled for the path in use.
    let mut wide = [[0u64; LANES]; 4];
    for i in 0..4 {
        for l in 0..LANES {
            wide[i][l] = u64::from(counter[i][l]);
        }
    }
    for _ in 0..10 {
        let [c0, c1, c2, c3] = wide;
        for l in 0..LANES {
            let p0 = 0xD251_1F53u64 * (c0[l] & LOW);
            let p1 = 0xCD9E_8D57u64 * (c2[l] & LOW);
            wide[0][l] = p1 >> 32 ^ c1[l] ^ u64::from(key[0]);
            wide[1][l] = p1;
            wide[2][l] = p0 >> 32 ^ c3[l] ^ u64::from(key[1]);
            wide[3][l] = p0;
        }
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    for i in 0..4 {
        for l in 0..LANES {
            counter[i][l] = wide[i][l] as u32;
        }
    }
    counter
}

/// The elements of one block after another.
#[inline(always)]
fn by_blocks(y: &[[f32; LANES]; 4]) -> [f32; 4 * LANES] {
    // Pairs of elements move as one.
    let pair = |a: f32, b: f32| u64::from(a.to_bits()) | u64::from(b.to_bits()) << 32;
    let mut pairs = [0u64; 2 * LANES];
    for l in 0..LANES {
        pairs[2 * l] = pair(y[0][l], y[1][l]);
        pairs[2 * l + 1] = pair(y[2][l], y[3][l]);
    }
    let mut blocks = [0.0; 4 * LANES];
    for (to, pair) in blocks.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
        let (first, second) = (pair as u32, (pair >> 32) as u32);
        *to = [f32::from_bits(first), f32::from_bits(second)];
    }
    blocks
}

/// Uniform in [0, 1): the word's upper 24 bits.
#[inline(always)]
fn uniform(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// Two independent standard normals.
#[inline(always)]
fn normals(w0: u32, w1: u32) -> (f32, f32) {
    const STEP: f32 = 1.0 / 4_294_967_296.0;
    let u = (w0 as f32).mul_add(STEP, 0.5 * STEP);
    let radius = (-2.0 * math::log(u)).sqrt();
    // θ = (q + t)·π/2 with whole q and t in [−½, ½): exact in integers.
    let q = w1.wrapping_add(1 << 29) >> 30;
    let t = w1.wrapping_sub(q << 30) as i32 as f32 * (1.0 / (1 << 30) as f32);
    let (sin, cos) = math::sin_cos_near_zero(t * std::f32::consts::FRAC_PI_2);
    let (sin, cos) = if q & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let flip = |x: f32, q: u32| f32::from_bits(x.to_bits() ^ (q & 2) << 30);
    (radius * flip(cos, q.wrapping_add(1)), radius * flip(sin, q))
}

/// The four elements of each of 16 blocks.
#[inline(always)]
fn elements(distribution: Distribution, words: Words) -> [[f32; LANES]; 4] {
    let mut y = [[0.0; LANES]; 4];
    match distribution {
        Distribution::Uniform => {
            for (y, w) in y.as_flattened_mut().iter_mut().zip(words.as_flattened()) {
                *y = uniform(*w);
            }
        }
        Distribution::Bernoulli(p) => {
            for (y, w) in y.as_flattened_mut().iter_mut().zip(words.as_flattened()) {
                *y = if uniform(*w) < p { 1.0 } else { 0.0 };
            }
        }
        Distribution::Normal => {
            for pair in [0, 2] {
                for l in 0..LANES {
                    (y[pair][l], y[pair + 1][l]) = normals(words[pair][l], words[pair + 1][l]);
                }
            }
        }
    }
    y
}

/// The part of a stream's plane of numbers that a call fills: rows from `first_row`, the given columns of each.
#[derive(Debug, Clone)]
pub struct Window {
    /// The first row.
    pub first_row: u32,
    /// Columns of every row; below 2³⁴.
    pub columns: Range<u64>,
}

impl Window {
    fn width(&self) -> usize {
        (self.columns.end - self.columns.start) as usize
    }

    /// Blocks that a row touches.
    fn blocks(&self) -> usize {
        (self.columns.end.div_ceil(4) - self.columns.start / 4) as usize
    }

    /// Where block `b`, counted row by row, starts in the output.
    fn start(&self, b: usize) -> usize {
        let (row, block) = (b / self.blocks(), b % self.blocks());
        row * self.width()
            + if block == 0 {
                0
            } else {
                4 * block - (self.columns.start % 4) as usize
            }
    }
}

/// Fills whole rows of a window, row-major. `out.len()` must be a multiple of the window's width.
pub fn fill(distribution: Distribution, stream: [u32; 4], window: &Window, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    assert_eq!(
        out.len() % window.width(),
        0,
        "philox: {} elements in rows of {}",
        out.len(),
        window.width()
    );
    let blocks = out.len() / window.width() * window.blocks();
    let out = threads::Disjoint::new(out);
    threads::par_chunks(blocks, GRAIN, |range| {
        // SAFETY: ranges of blocks do not overlap, and `start` is increasing.
        let part = unsafe { out.slice(window.start(range.start)..window.start(range.end)) };
        simd::dispatch(
            #[inline(always)]
            || fill_blocks(distribution, stream, window, range, part),
        );
    });
}

/// [`fill`] on the calling thread, to use inside [`simd::dispatch`]: for ops that make their numbers as they go.
#[inline(always)]
pub fn fill_here(distribution: Distribution, stream: [u32; 4], window: &Window, out: &mut [f32]) {
    if !out.is_empty() {
        let blocks = out.len() / window.width() * window.blocks();
        fill_blocks(distribution, stream, window, 0..blocks, out);
    }
}

#[inline(always)]
fn fill_blocks(
    distribution: Distribution,
    [k0, k1, c2, c3]: [u32; 4],
    window: &Window,
    range: Range<usize>,
    mut out: &mut [f32],
) {
    let (per_row, first) = (window.blocks(), (window.columns.start / 4) as u32);
    let skip = (window.columns.start % 4) as usize;
    let last = (window.columns.end - 1) as usize % 4 + 1;
    let (mut row, mut block) = (range.start / per_row, range.start % per_row);
    let mut left = range.len();
    while left > 0 {
        let (count, start) = (LANES.min(left), block);
        left -= count;
        let mut counter = [[0; LANES], [0; LANES], [c2; LANES], [c3; LANES]];
        let one_row = block + LANES <= per_row;
        if one_row {
            for l in 0..LANES {
                counter[0][l] = first.wrapping_add((block + l) as u32);
                counter[1][l] = window.first_row.wrapping_add(row as u32);
            }
            block += count;
            if block == per_row {
                (row, block) = (row + 1, 0);
            }
        } else {
            for l in 0..count {
                counter[0][l] = first.wrapping_add(block as u32);
                counter[1][l] = window.first_row.wrapping_add(row as u32);
                block += 1;
                if block == per_row {
                    (row, block) = (row + 1, 0);
                }
            }
        }
        let y = elements(distribution, rounds(counter, [k0, k1]));
        let inside = one_row && start > 0 && start + LANES < per_row;
        if count == LANES && (inside || (skip, last) == (0, 4)) {
            let (whole, rest) = out.split_at_mut(4 * LANES);
            whole.copy_from_slice(&by_blocks(&y));
            out = rest;
            continue;
        }
        for l in 0..count {
            let block = (start + l) % per_row;
            let from = if block == 0 { skip } else { 0 };
            let to = if block + 1 == per_row { last } else { 4 };
            let (head, rest) = out.split_at_mut(to - from);
            for (slot, i) in head.iter_mut().zip(from..to) {
                *slot = y[i][l];
            }
            out = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors that the authors publish with Random123 (`kat_vectors`).
    #[test]
    fn published_answers() {
        for (counter, key, answer) in [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), answer);
        }
    }

    fn drawn(
        distribution: Distribution,
        first_row: u32,
        columns: Range<u64>,
        rows: usize,
    ) -> Vec<f32> {
        let window = Window { first_row, columns };
        let mut out = vec![f32::NAN; rows * window.width()];
        fill(distribution, [1, 2, 3, 4], &window, &mut out);
        out
    }

    #[test]
    fn a_window_shows_the_plane() {
        let (rows, columns) = (7, 41);
        for distribution in [Distribution::Normal, Distribution::Uniform] {
            let whole = drawn(distribution, 0, 0..columns, rows);
            let (mut here, window) = (
                whole.clone(),
                Window {
                    first_row: 0,
                    columns: 0..columns,
                },
            );
            here.fill(f32::NAN);
            fill_here(distribution, [1, 2, 3, 4], &window, &mut here);
            assert_eq!(here, whole);
            for (first_row, from, to) in [(0, 0, 41), (2, 1, 40), (3, 5, 6), (6, 8, 24), (0, 3, 4)]
            {
                let part = drawn(distribution, first_row, from..to, rows - first_row as usize);
                let want: Vec<f32> = (first_row as usize..rows)
                    .flat_map(|r| {
                        let row = r * columns as usize;
                        whole[row + from as usize..row + to as usize].to_vec()
                    })
                    .collect();
                assert_eq!(part, want, "rows {first_row}.., columns {from}..{to}");
            }
        }
    }

    /// Lanes, pieces and instruction sets do not show: against one block at a time, compiled for the baseline.
    #[test]
    fn the_same_bits_one_block_at_a_time() {
        let columns = 3 * 4 * GRAIN + 7;
        let many = drawn(Distribution::Normal, 9, 0..columns as u64, 1);
        for (c, got) in many.iter().enumerate() {
            let w = philox([(c / 4) as u32, 9, 3, 4], [1, 2]);
            let pair = c % 4 / 2 * 2;
            let (even, odd) = normals(w[pair], w[pair + 1]);
            let want = if c % 2 == 0 { even } else { odd };
            assert_eq!(got.to_bits(), want.to_bits(), "column {c}");
        }
    }

    /// The normals of the published words of counter 0 and key 0, against the formula in f64.
    #[test]
    fn normals_of_known_words() {
        let (w, f) = (philox([0; 4], [0; 2]), |x: u32| f64::from(x));
        for pair in [0, 2] {
            let u = (f(w[pair]) + 0.5) / 4_294_967_296.0;
            let (radius, angle) = (
                (-2.0 * u.ln()).sqrt(),
                std::f64::consts::TAU * f(w[pair + 1]) / 4_294_967_296.0,
            );
            let (a, b) = normals(w[pair], w[pair + 1]);
            // Five roundings of f32 between the words and the result, the radius below 4.
            assert!((f64::from(a) - radius * angle.cos()).abs() < 5.0 * 2f64.powi(-23));
            assert!((f64::from(b) - radius * angle.sin()).abs() < 5.0 * 2f64.powi(-23));
        }
    }

    #[test]
    fn extreme_words_give_finite_numbers() {
        for w0 in [0, 1, u32::MAX - 1, u32::MAX] {
            for w1 in [
                0,
                1 << 29,
                (1 << 29) - 1,
                1 << 30,
                1 << 31,
                3 << 30,
                u32::MAX,
            ] {
                let (a, b) = normals(w0, w1);
                let radius = (f64::from(a).powi(2) + f64::from(b).powi(2)).sqrt();
                assert!(radius < 6.765, "{w0:x} {w1:x}: {a} {b}");
            }
        }
        // θ = 0, π/2, π, 3π/2.
        let radius = normals(0, 0).0;
        assert_eq!(normals(0, 1 << 30), (-0.0, radius));
        assert_eq!(normals(0, 1 << 31).0, -radius);
        assert_eq!(normals(0, 3 << 30).1, -radius);
    }

    /// The distribution function's largest distance from Φ, times √n; above 1.95 with probability 0.001.
    fn kolmogorov(mut x: Vec<f32>, cdf: impl Fn(f64) -> f64) -> f64 {
        x.sort_by(f32::total_cmp);
        let n = x.len() as f64;
        x.iter()
            .enumerate()
            .map(|(i, x)| {
                let p = cdf(f64::from(*x));
                (p - i as f64 / n).abs().max((p - (i + 1) as f64 / n).abs())
            })
            .fold(0.0, f64::max)
            * n.sqrt()
    }

    #[test]
    fn numbers_are_distributed_as_they_should() {
        let n = 1 << 20;
        let normal_cdf = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        let normal = drawn(Distribution::Normal, 0, 0..n, 1);
        assert!(kolmogorov(normal.clone(), normal_cdf) < 1.95);
        assert!(kolmogorov(drawn(Distribution::Uniform, 0, 0..n, 1), |x| x) < 1.95);
        // The four places of a block apart: their distributions, and their correlations with each other and with the next
        // block's, whose standard error is 1/√m.
        let place = |i: usize| normal.iter().skip(i).step_by(4).copied();
        let m = (n / 4) as f64;
        for i in 0..4 {
            assert!(
                kolmogorov(place(i).collect(), normal_cdf) < 1.95,
                "place {i}"
            );
            for j in i + 1..i + 5 {
                let sum: f64 = place(i)
                    .zip(normal.iter().skip(j).step_by(4))
                    .map(|(a, b)| f64::from(a * b))
                    .sum();
                assert!((sum / m.sqrt()).abs() < 3.3, "places {i} and {j}: {sum}");
            }
        }
        // Moments 1 to 4, with the standard errors of their estimates: √(1/n), √(2/n), √(15/n), √(96/n).
        let moment = |p: i32| normal.iter().map(|x| f64::from(*x).powi(p)).sum::<f64>() / n as f64;
        for (p, want, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let sigmas = (moment(p) - want) / f64::sqrt(variance / n as f64);
            assert!(
                sigmas.abs() < 3.3,
                "moment {p} is off by {sigmas} standard errors"
            );
        }
        // Tails beyond 4σ: 6.3e-5·n = 66 expected.
        let tail = normal.iter().filter(|x| x.abs() > 4.0).count();
        assert!((40..95).contains(&tail), "{tail} numbers beyond 4σ");
        let share = drawn(Distribution::Bernoulli(0.3), 0, 0..n, 1)
            .iter()
            .sum::<f32>()
            / n as f32;
        assert!(
            (share - 0.3).abs() < 3.3 * (0.21 / n as f32).sqrt(),
            "{share}"
        );
    }
}
