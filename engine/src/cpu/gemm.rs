//! Matrix products on the CPU: C = α·A·B + β·C with any strides, batched, through the `gemm` crate.
//!
//! The work is cut into blocks of rows or columns of C whose sizes depend on the shapes alone; each block is one
//! single-threaded call. An element's sum runs along K inside one call, so the bits do not depend on the number of threads.
//! The crate chooses its own instruction set: the machine's best, whatever [`super::simd::set_isa`] says.

use half::{bf16, f16};

use super::threads::{self, Disjoint};

/// Where a matrix lies in a slice: element (i, j) at `i·rows + j·cols`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Distance between rows.
    pub rows: usize,
    /// Distance between columns.
    pub cols: usize,
}

impl Layout {
    /// Rows one after the other, `stride` elements apart.
    pub const fn row_major(stride: usize) -> Layout {
        Layout {
            rows: stride,
            cols: 1,
        }
    }

    /// The transpose of rows that are `stride` elements apart.
    pub const fn transposed(stride: usize) -> Layout {
        Layout {
            rows: 1,
            cols: stride,
        }
    }

    /// One past the last element of an `rows` × `cols` matrix; 0 for an empty one.
    fn extent(self, rows: usize, cols: usize) -> usize {
        if rows == 0 || cols == 0 {
            0
        } else {
            (rows - 1) * self.rows + (cols - 1) * self.cols + 1
        }
    }
}

/// Sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// The summed axis.
    pub k: usize,
}

/// Factors of a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old C; 0 ignores it, NaN included.
    pub beta: f32,
}

/// A storage type of B: f32, or 16 bits that are widened exactly.
pub trait Operand: Copy + Send + Sync + 'static {
    /// The value as f32, exactly.
    fn widen(self) -> f32;
    /// The elements when they are f32 already.
    fn as_f32(values: &[Self]) -> Option<&[f32]>;
}

impl Operand for f32 {
    fn widen(self) -> f32 {
        self
    }
    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }
}

impl Operand for bf16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }
}

impl Operand for f16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }
}

/// Multiply-adds that make a piece of parallel work.
const PIECE: usize = 1 << 21;

/// `C = α·A·B + β·C`: A m×k, B k×n, C m×n with rows `c_stride` apart.
///
/// # Panics
/// Slices that are too short for their layouts.
pub fn gemm<B: Operand>(
    dims: Dims,
    scale: Scale,
    (a, a_layout): (&[f32], Layout),
    (b, b_layout): (&[B], Layout),
    (c, c_stride): (&mut [f32], usize),
) {
    let Dims { m, n, k } = dims;
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        a.len() >= a_layout.extent(m, k),
        "gemm: A holds {} elements, {dims:?} {a_layout:?}",
        a.len()
    );
    assert!(
        b.len() >= b_layout.extent(k, n),
        "gemm: B holds {} elements, {dims:?} {b_layout:?}",
        b.len()
    );
    assert!(n <= c_stride || m == 1, "gemm: rows of C overlap");
    assert!(
        c.len() >= Layout::row_major(c_stride).extent(m, n),
        "gemm: C holds {} elements, {dims:?}",
        c.len()
    );
    let wide: Vec<f32>;
    let b = match B::as_f32(b) {
        Some(b) => b,
        None => {
            wide = b[..b_layout.extent(k, n)]
                .iter()
                .map(|v| v.widen())
                .collect();
            &wide
        }
    };
    // Blocks along the longer side of C, whole multiples of the register tile.
    let (by_rows, side, other) = if m >= n { (true, m, n) } else { (false, n, m) };
    let block = (PIECE / (other * k).max(1)).next_multiple_of(48).max(48);
    let c = Disjoint::new(c);
    threads::par_chunks(side, block, |range| {
        let (m, n) = if by_rows {
            (range.len(), n)
        } else {
            (m, range.len())
        };
        let (row, col) = if by_rows {
            (range.start, 0)
        } else {
            (0, range.start)
        };
        // SAFETY: the assertions above keep every element in its slice, and blocks of C do not overlap.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c.as_ptr().add(row * c_stride + col),
                1,
                c_stride as isize,
                scale.beta != 0.0,
                a.as_ptr().wrapping_add(row * a_layout.rows),
                a_layout.cols as isize,
                a_layout.rows as isize,
                b.as_ptr().wrapping_add(col * b_layout.cols),
                b_layout.cols as isize,
                b_layout.rows as isize,
                scale.beta,
                scale.alpha,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

/// `batch` products; operand x of item i starts at `i·step` (0 repeats an operand for all items).
/// The items of C must not overlap.
///
/// # Panics
/// As [`gemm`], or items of C that overlap.
pub fn gemm_batched<B: Operand>(
    batch: usize,
    dims: Dims,
    scale: Scale,
    (a, a_layout, a_step): (&[f32], Layout, usize),
    (b, b_layout, b_step): (&[B], Layout, usize),
    (c, c_stride, c_step): (&mut [f32], usize, usize),
) {
    let extent = Layout::row_major(c_stride).extent(dims.m, dims.n);
    if batch == 0 || extent == 0 {
        return;
    }
    assert!(
        batch == 1 || c_step >= extent,
        "gemm_batched: items of C overlap"
    );
    let c = Disjoint::new(c);
    let item = |i: usize| {
        // SAFETY: items are at least `extent` apart and each is taken once.
        let c = unsafe { c.slice(i * c_step..i * c_step + extent) };
        let (a, b) = (
            a.get(i * a_step..).unwrap_or_default(),
            b.get(i * b_step..).unwrap_or_default(),
        );
        gemm(dims, scale, (a, a_layout), (b, b_layout), (c, c_stride));
    };
    if batch >= 4 {
        let grain = (PIECE / (dims.m * dims.n * dims.k).max(1)).clamp(1, batch);
        threads::par_chunks(batch, grain, |range| range.for_each(item));
    } else {
        (0..batch).for_each(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32)
            .map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
            .collect()
    }

    proptest! {
        /// Against the sum in f64: an error of at most k + 2 roundings of terms below 1.
        #[test]
        fn as_the_sum(m in 0usize..70, n in 0usize..70, k in 0usize..70, ta: bool, tb: bool, beta in 0..2u8, seed: u32) {
            let (a, b, start) = (numbers(m * k, seed), numbers(k * n, seed ^ 1), numbers(m * n, seed ^ 2));
            let la = if ta { Layout::transposed(m) } else { Layout::row_major(k) };
            let lb = if tb { Layout::transposed(k) } else { Layout::row_major(n) };
            let mut c = if beta == 0 { vec![f32::NAN; m * n] } else { start.clone() };
            gemm(Dims { m, n, k }, Scale { alpha: 0.5, beta: beta as f32 }, (&a, la), (&b, lb), (&mut c, n));
            for i in 0..m {
                for j in 0..n {
                    let sum: f64 = (0..k).map(|l| f64::from(a[i * la.rows + l * la.cols]) * f64::from(b[l * lb.rows + j * lb.cols])).sum();
                    let want = 0.5 * sum + if beta == 1 { f64::from(start[i * n + j]) } else { 0.0 };
                    prop_assert!((f64::from(c[i * n + j]) - want).abs() <= (k + 2) as f64 * f64::from(f32::EPSILON), "({i}, {j})");
                }
            }
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        let (m, n, k) = (517, 130, 300);
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let run = |count: usize| {
            threads::set_threads(count);
            let mut c = vec![0.0; m * n];
            gemm(
                Dims { m, n, k },
                Scale {
                    alpha: 1.0,
                    beta: 0.0,
                },
                (&a, Layout::row_major(k)),
                (&b, Layout::row_major(n)),
                (&mut c, n),
            );
            c.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3));
        threads::set_threads(0);
    }
}
