//! The register tile: a few rows by a few registers of C, summed along k without leaving the registers.

use super::lanes::Lanes;

/// Rows of A, at most `R`; element (i, p) lies at `start + i·row + p·step`.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub start: *const f32,
    pub row: usize,
    pub step: usize,
    /// How many there are; a tile repeats the last one and drops what it gives.
    pub count: usize,
}

/// `k` rows of B, `stride` apart; the last register of each holds `part` elements (0: all).
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub start: *const f32,
    pub stride: usize,
    pub part: usize,
}

/// `Σ_p a[i, p]·b[p, j]` over `k` terms, left to right. B's part registers are read with zeros after their end if `PART`.
///
/// # Safety
/// The path's instructions, and addresses good for what `a`, `b` and `k` name.
#[inline(always)]
pub(super) unsafe fn product<L: Lanes, const R: usize, const N: usize, const PART: bool>(
    k: usize,
    a: Rows,
    b: Columns,
) -> [[L::V; N]; R] {
    // SAFETY: the caller's; rows stay below `a.count`.
    unsafe {
        let mut rows = [a.start; R];
        for i in 0..R {
            rows[i] = a.start.add(i.min(a.count - 1) * a.row);
        }
        // A known 0 would be written to memory by `memset` and read back, once a tile.
        let mut sum = [[L::splat(&std::hint::black_box(0.0)); N]; R];
        let (mut at, mut b_row) = (0, b.start);
        for _ in 0..k {
            let mut columns = [L::zero(); N];
            for j in 0..N {
                columns[j] = if PART && j + 1 == N {
                    L::load_part(b_row.add(j * L::WIDTH), b.part)
                } else {
                    L::load(b_row.add(j * L::WIDTH))
                };
            }
            for i in 0..R {
                let x = L::splat(rows[i].add(at));
                for j in 0..N {
                    sum[i][j] = L::mul_add(x, columns[j], sum[i][j]);
                }
            }
            at += a.step;
            b_row = b_row.wrapping_add(b.stride);
        }
        sum
    }
}

/// How a tile's sums go into C.
#[derive(Clone, Copy)]
pub(super) struct Epilogue {
    pub alpha: f32,
    /// Factor of what C holds; 0 does not read it.
    pub beta: f32,
    /// Added to each row: elements for the tile's columns, or null.
    pub bias: *const f32,
}

/// `C = α·sum + β·C + bias` for the first `rows` rows; C's last register holds `part` elements (0: all).
///
/// # Safety
/// As [`product`], with `c` good for `rows` rows `stride` apart.
#[inline(always)]
pub(super) unsafe fn store<L: Lanes, const R: usize, const N: usize>(
    sum: [[L::V; N]; R],
    rows: usize,
    part: usize,
    epilogue: Epilogue,
    c: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let (alpha, beta) = (L::splat(&epilogue.alpha), L::splat(&epilogue.beta));
        for j in 0..N {
            let cut = j + 1 == N && part > 0;
            let bias = if epilogue.bias.is_null() {
                L::zero()
            } else {
                load_cut::<L>(epilogue.bias.add(j * L::WIDTH), cut, part)
            };
            for i in 0..R {
                if i < rows {
                    let p = c.add(i * stride + j * L::WIDTH);
                    let old = if epilogue.beta == 0.0 {
                        bias
                    } else {
                        L::mul_add(beta, load_cut::<L>(p, cut, part), bias)
                    };
                    let new = L::mul_add(alpha, sum[i][j], old);
                    if cut {
                        L::store_part(p, part, new)
                    } else {
                        L::store(p, new)
                    };
                }
            }
        }
    }
}

/// A register, or its first `part` elements.
#[inline(always)]
unsafe fn load_cut<L: Lanes>(p: *const f32, cut: bool, part: usize) -> L::V {
    // SAFETY: the caller's.
    unsafe {
        if cut {
            L::load_part(p, part)
        } else {
            L::load(p)
        }
    }
}
