//! The inner products, or squared distances, of a few rows of one factor and many of the other.

use pulp::{Simd, WithSimd};

/// Rows that are gathered together.
pub const ROWS: usize = 4;

/// What κ takes, summed over some numbers of [`ROWS`] rows and of all columns: products, or squares of differences. Sums stay in
/// registers, and a number of a is read once for all rows.
pub struct Gather<'a> {
    /// `[numbers, stride]`, from the first column on.
    pub a: &'a [f32],
    /// Elements between a number's columns and the next's.
    pub stride: usize,
    /// `[numbers, ROWS]`
    pub b: &'a [f32],
    /// `[ROWS, columns]`
    pub sums: &'a mut [f32],
    /// Whether it is the differences.
    pub apart: bool,
}

impl WithSimd for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.apart {
            self.all::<S, true>(simd);
        } else {
            self.all::<S, false>(simd);
        }
    }
}

impl Gather<'_> {
    #[inline(always)]
    fn all<S: Simd, const APART: bool>(mut self, simd: S) {
        let (width, mut first) = (self.sums.len() / ROWS, 0);
        while first + 2 * S::F32_LANES <= width {
            self.some::<S, APART, 2>(simd, first);
            first += 2 * S::F32_LANES;
        }
        while first < width {
            self.some::<S, APART, 1>(simd, first);
            first += S::F32_LANES;
        }
    }

    /// N vectors of columns.
    #[inline(always)]
    fn some<S: Simd, const APART: bool, const N: usize>(&mut self, simd: S, first: usize) {
        let (width, lanes) = (self.sums.len() / ROWS, N * S::F32_LANES);
        let mut sums = [[simd.splat_f32s(0.0); N]; ROWS];
        for (j, b) in self.b.as_chunks::<ROWS>().0.iter().enumerate() {
            let a = S::as_simd_f32s(&self.a[j * self.stride + first..][..lanes]).0;
            for o in 0..ROWS {
                let b = simd.splat_f32s(b[o]);
                for v in 0..N {
                    sums[o][v] = if APART {
                        let apart = simd.sub_f32s(a[v], b);
                        simd.mul_add_f32s(apart, apart, sums[o][v])
                    } else {
                        simd.mul_add_f32s(a[v], b, sums[o][v])
                    };
                }
            }
        }
        #[expect(
            clippy::needless_range_loop,
            reason = "what a variable of the run indexes lives in memory"
        )]
        for o in 0..ROWS {
            let row = &mut self.sums[o * width + first..][..lanes];
            S::as_mut_simd_f32s(row).0.copy_from_slice(&sums[o]);
        }
    }
}
