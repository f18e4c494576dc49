//! Products with one short side, such as those with the factors of a low-rank update: they read the long operand once, where
//! it lies.

use super::lanes::{Kernel, Lanes};
use super::tile::{Columns, Epilogue, Rows, product, store};
use super::{Layout, Scale};

/// Rows at a time in [`Dots`].
const DOT_ROWS: usize = 3;

/// `C[i, j] = α·Σ_p a[i, p]·b[j, p] + β·C[i, j]` with both sides contiguous along p: lanes run along p, and a tile's sums over
/// the lanes are taken at the end.
pub(super) struct Dots {
    pub a: *const f32,
    pub a_stride: usize,
    pub b: *const f32,
    pub b_stride: usize,
    pub c: *mut f32,
    pub c_stride: usize,
    pub rows: usize,
    pub columns: usize,
    pub k: usize,
    pub scale: Scale,
}

impl Kernel for Dots {
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self) {
        for i in (0..self.rows).step_by(DOT_ROWS) {
            let mut j = 0;
            while j < self.columns {
                // SAFETY: the caller's; both tiles stay below `rows` and `columns`.
                unsafe {
                    if L::ACROSS == 4 && self.columns - j > 4 {
                        self.tile::<L, 8>(i, j);
                        j += 8;
                    } else {
                        self.tile::<L, 4>(i, j);
                        j += 4;
                    }
                }
            }
        }
    }
}

impl Dots {
    /// Rows and columns past the end repeat the last one and are dropped.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const N: usize>(&self, first: usize, column: usize) {
        // SAFETY: the caller's.
        unsafe {
            let a: [*const f32; DOT_ROWS] = std::array::from_fn(
                #[inline(always)]
                |i| self.a.add((first + i).min(self.rows - 1) * self.a_stride),
            );
            let b: [*const f32; N] = std::array::from_fn(
                #[inline(always)]
                |j| {
                    self.b
                        .add((column + j).min(self.columns - 1) * self.b_stride)
                },
            );
            let mut sum = [[L::zero(); 8]; DOT_ROWS];
            let whole = self.k / L::WIDTH * L::WIDTH;
            for p in (0..whole).step_by(L::WIDTH) {
                let mut x = [L::zero(); DOT_ROWS];
                for i in 0..DOT_ROWS {
                    x[i] = L::load(a[i].add(p));
                }
                for j in 0..N {
                    let y = L::load(b[j].add(p));
                    for i in 0..DOT_ROWS {
                        sum[i][j] = L::mul_add(x[i], y, sum[i][j]);
                    }
                }
            }
            if whole < self.k {
                let left = self.k - whole;
                let mut x = [L::zero(); DOT_ROWS];
                for i in 0..DOT_ROWS {
                    x[i] = L::load_part(a[i].add(whole), left);
                }
                for j in 0..N {
                    let y = L::load_part(b[j].add(whole), left);
                    for i in 0..DOT_ROWS {
                        sum[i][j] = L::mul_add(x[i], y, sum[i][j]);
                    }
                }
            }
            for i in 0..DOT_ROWS.min(self.rows - first) {
                let sums = L::sums(&sum[i]);
                for j in 0..N.min(self.columns - column) {
                    let c = self.c.add((first + i) * self.c_stride + column + j);
                    let old = if self.scale.beta == 0.0 {
                        0.0
                    } else {
                        self.scale.beta * *c
                    };
                    *c = self.scale.alpha * sums[j] + old;
                }
            }
        }
    }
}

/// `C = α·A·B + β·C` for few rows of A and B's rows contiguous: nothing is packed.
pub(super) struct Strips {
    pub a: *const f32,
    pub layout: Layout,
    pub b: *const f32,
    pub b_stride: usize,
    pub c: *mut f32,
    pub c_stride: usize,
    pub rows: usize,
    pub columns: usize,
    pub k: usize,
    pub epilogue: Epilogue,
}

impl Kernel for Strips {
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self) {
        let mut first = 0;
        while first < self.rows {
            // SAFETY: the caller's; both kinds of tile repeat the last row and drop what it gives.
            unsafe {
                if L::ACROSS == 4 && self.rows - first > 4 {
                    self.strips::<L, 8>(first);
                    first += 8;
                } else {
                    self.strips::<L, 4>(first);
                    first += 4;
                }
            }
        }
    }
}

impl Strips {
    #[inline(always)]
    unsafe fn strips<L: Lanes, const R: usize>(&self, first: usize) {
        let mut column = 0;
        while column < self.columns {
            let left = self.columns - column;
            // SAFETY: the caller's; a strip ends at the last column.
            column += unsafe {
                match left.div_ceil(L::WIDTH) {
                    1 => self.strip::<L, R, 1>(first, column),
                    2 => self.strip::<L, R, 2>(first, column),
                    _ => self.strip::<L, R, 3>(first, column),
                }
            };
        }
    }

    /// Returns the columns done.
    #[inline(always)]
    unsafe fn strip<L: Lanes, const R: usize, const N: usize>(
        &self,
        first: usize,
        column: usize,
    ) -> usize {
        let columns = (N * L::WIDTH).min(self.columns - column);
        let part = columns % L::WIDTH;
        // SAFETY: the caller's.
        unsafe {
            let count = R.min(self.rows - first);
            let start = self.a.add(first * self.layout.rows);
            let a = Rows {
                start,
                row: self.layout.rows,
                step: self.layout.cols,
                count,
            };
            let b = Columns {
                start: self.b.add(column),
                stride: self.b_stride,
                part,
            };
            let sum = if part == 0 {
                product::<L, R, N, false>(self.k, a, b)
            } else {
                product::<L, R, N, true>(self.k, a, b)
            };
            let c = self.c.add(first * self.c_stride + column);
            let mut epilogue = self.epilogue;
            if !epilogue.bias.is_null() {
                epilogue.bias = epilogue.bias.add(column);
            }
            store::<L, R, N>(sum, count, part, epilogue, c, self.c_stride);
        }
        columns
    }
}
