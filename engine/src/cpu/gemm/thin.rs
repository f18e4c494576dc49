//! Products with one short side, such as those with the factors of a low-rank update: they read the long operand once, where
//! it lies.

use super::lanes::{Kernel, Lanes, run};
use super::scratch::{self, Kind};
use super::tile::{Columns, Epilogue, Rows, product, store};
use super::{Dims, Job, Layout, PIECE, Scale};
use crate::cpu::threads::{self, Disjoint};

/// Terms that a piece of a product with few rows sums before the pieces are added.
const STRIP_TERMS: usize = 256;

/// Rows at a time in [`Dots`].
const DOT_ROWS: usize = 3;

/// `C[i, j] = α·Σ_p a[i, p]·b[j, p] + β·C[i, j]` with both sides contiguous along p: lanes run along p, and a tile's sums over
/// the lanes are taken at the end.
struct Dots {
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
    rows: usize,
    columns: usize,
    k: usize,
    scale: Scale,
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
            let (mut a, mut b) = ([self.a; DOT_ROWS], [self.b; N]);
            for i in 0..DOT_ROWS {
                a[i] = self.a.add((first + i).min(self.rows - 1) * self.a_stride);
            }
            for j in 0..N {
                b[j] = self
                    .b
                    .add((column + j).min(self.columns - 1) * self.b_stride);
            }
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
struct Strips {
    a: *const f32,
    layout: Layout,
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
    rows: usize,
    columns: usize,
    k: usize,
    epilogue: Epilogue,
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

impl Job<'_> {
    /// n ≤ [`super::THIN`], A's rows contiguous.
    pub(super) fn few_columns(&self, b: &[f32], layout: Layout) {
        let Dims { m, n, k } = self.dims;
        let grain = (PIECE / (n.next_multiple_of(4) * k))
            .max(1)
            .next_multiple_of(12);
        let rows = |b: *const f32, b_stride: usize| {
            let b = Shared(b);
            threads::par_chunks(m, grain, |range| {
                // SAFETY: pieces are rows of C, each taken once; the slices were checked.
                unsafe {
                    let dots = Dots {
                        a: self.a.as_ptr().add(range.start * self.a_layout.rows),
                        a_stride: self.a_layout.rows,
                        b: b.get(),
                        b_stride,
                        c: self.c.as_ptr().add(range.start * self.c_stride),
                        c_stride: self.c_stride,
                        rows: range.len(),
                        columns: n,
                        k,
                        scale: self.scale,
                    };
                    run(self.isa, &dots);
                }
            });
        };
        if layout.rows == 1 {
            return rows(b.as_ptr(), layout.cols);
        }
        scratch::with(Kind::Columns, n * k, |columns| {
            for (p, j) in (0..k).flat_map(|p| (0..n).map(move |j| (p, j))) {
                columns[j * k + p] = b[p * layout.rows + j * layout.cols];
            }
            rows(columns.as_ptr(), k);
        });
    }

    /// m ≤ [`super::THIN`], B's rows contiguous and `b_stride` apart.
    pub(super) fn few_rows(&self, b: &[f32], b_stride: usize) {
        let Dims { m, n, k } = self.dims;
        if k <= STRIP_TERMS {
            let grain = (PIECE / (m.next_multiple_of(4) * k.max(1))).next_multiple_of(48);
            threads::par_chunks(n, grain, |range| {
                let bias = self
                    .bias
                    .map_or(std::ptr::null(), |bias| bias[range.start..].as_ptr());
                // SAFETY: pieces are columns of C, each taken once; the slices were checked.
                unsafe {
                    let strips = Strips {
                        a: self.a.as_ptr(),
                        layout: self.a_layout,
                        b: b.as_ptr().add(range.start),
                        b_stride,
                        c: self.c.as_ptr().add(range.start),
                        c_stride: self.c_stride,
                        rows: m,
                        columns: range.len(),
                        k,
                        epilogue: Epilogue {
                            alpha: self.scale.alpha,
                            beta: self.scale.beta,
                            bias,
                        },
                    };
                    run(self.isa, &strips);
                }
            });
            return;
        }
        self.summed(
            (self.a, self.a_layout),
            m,
            (b, b_stride),
            n,
            |row, column| row * self.c_stride + column,
        );
    }

    /// n ≤ [`super::THIN`], A's columns contiguous: Cᵀ = Bᵀ·Aᵀ.
    pub(super) fn few_columns_transposed(&self, b: &[f32], layout: Layout) {
        let Dims { m, n, .. } = self.dims;
        let turned = Layout {
            rows: layout.cols,
            cols: layout.rows,
        };
        self.summed(
            (b, turned),
            n,
            (self.a, self.a_layout.cols),
            m,
            |row, column| column * self.c_stride + row,
        );
    }

    /// `S = X·Y` with few rows of X, summed in pieces along k; element (i, j) goes to C at `place(i, j)`.
    fn summed(
        &self,
        (x, layout): (&[f32], Layout),
        rows: usize,
        (y, y_stride): (&[f32], usize),
        columns: usize,
        place: impl Fn(usize, usize) -> usize + Sync,
    ) {
        let k = self.dims.k;
        let terms = STRIP_TERMS.max(k.div_ceil(16));
        let (pieces, size) = (k.div_ceil(terms), rows * columns);
        scratch::with(Kind::Columns, pieces * size, |sums| {
            let parts = Disjoint::new(sums);
            threads::par_pieces(pieces, |piece| {
                let first = piece * terms;
                // SAFETY: each piece has a matrix of its own; the slices were checked.
                unsafe {
                    let strips = Strips {
                        a: x.as_ptr().add(first * layout.cols),
                        layout,
                        b: y.as_ptr().add(first * y_stride),
                        b_stride: y_stride,
                        c: parts.slice(piece * size..(piece + 1) * size).as_mut_ptr(),
                        c_stride: columns,
                        rows,
                        columns,
                        k: terms.min(k - first),
                        epilogue: Epilogue {
                            alpha: 1.0,
                            beta: 0.0,
                            bias: std::ptr::null(),
                        },
                    };
                    run(self.isa, &strips);
                }
            });
            let Scale { alpha, beta } = self.scale;
            threads::par_chunks(columns, (PIECE / 4 / (rows * pieces)).max(1), |range| {
                // SAFETY: all pieces are written and none is written now.
                let sums = unsafe {
                    std::slice::from_raw_parts(parts.as_ptr().cast_const(), pieces * size)
                };
                for i in 0..rows {
                    for j in range.clone() {
                        let sum: f32 = sums[i * columns + j..].iter().step_by(size).sum();
                        // SAFETY: the place of one element of C, which no other piece has.
                        let c = unsafe { &mut *self.c.as_ptr().add(place(i, j)) };
                        let old = if beta == 0.0 { 0.0 } else { beta * *c };
                        let bias = self.bias.map_or(0.0, |bias| bias[j]);
                        *c = alpha * sum + (old + bias);
                    }
                }
            });
        });
    }
}

/// An address that several threads read from.
struct Shared(*const f32);

// SAFETY: nobody writes there while it is shared.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(&self) -> *const f32 {
        self.0
    }
}
