//! Matrix products on the CPU: C = α·A·B + β·C with any strides, batched.
//!
//! After Goto & van de Geijn (2008): B is packed into panels once a call, in slabs; a thread takes a block of C, and register
//! tiles of it run along blocks of k (`packed.rs`, `pack.rs`, `tile.rs`). Products with a short side have kernels of their own
//! (`thin.rs`). All of it is written over a vector type and compiled for each instruction-set path (`lanes.rs`).
//!
//! An element's sum runs along k in blocks whose length depends on k alone, whoever takes it, so that the bits do not depend on
//! the number of threads. `|error| ≤ γ_{k+2}·(|α|·Σ|a||b| + |β·c|)` with γ_n = n·u/(1 − n·u), u = 2⁻²⁴,
//! whatever the order of summation: each term meets one rounding as a product, at most k − 1 in sums, one by α and one with β·C.

use half::{bf16, f16};

use super::convert::{bf16_to_f32, f16_to_f32};
use super::simd::{self, Isa};
use super::threads::{self, Disjoint};

mod lanes;
mod pack;
mod packed;
mod scratch;
#[cfg(test)]
mod tests;
mod thin;
mod tile;

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

impl Scale {
    /// `C = A·B`.
    pub const PLAIN: Scale = Scale {
        alpha: 1.0,
        beta: 0.0,
    };
    /// `C += A·B`.
    pub const ADD: Scale = Scale {
        alpha: 1.0,
        beta: 1.0,
    };
}

/// A storage type of B: f32, or 16 bits that are widened exactly.
pub trait Operand: Copy + Send + Sync + 'static {
    /// The value as f32, exactly.
    fn widen(self) -> f32;
    /// The elements when they are f32 already.
    fn as_f32(values: &[Self]) -> Option<&[f32]>;
}

impl Operand for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }
}

impl Operand for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        bf16_to_f32(self.to_bits())
    }
    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }
}

impl Operand for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f16_to_f32(self.to_bits())
    }
    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }
}

/// Rows of a register tile.
const ROWS: usize = 6;
/// Multiply-adds below which a piece is not worth a thread's attention.
const PIECE: usize = 1 << 18;
/// The longest short side of a thin product.
const THIN: usize = 32;

/// A low-rank term `left·right`: k×rank and rank×n.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    /// The left factor.
    pub left: (&'a [f32], Layout),
    /// The right factor.
    pub right: (&'a [f32], Layout),
    /// The size between them.
    pub rank: usize,
}

/// A second product with the same A, `D = A·S`, in the same pass over A: S k×n with few columns, D contiguous.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    /// S.
    pub right: (&'a [f32], Layout),
    /// Columns of S and D.
    pub n: usize,
    /// D, m×n, overwritten.
    pub out: &'a Disjoint<'a, f32>,
}

/// Additions to a product.
#[derive(Clone, Copy, Default)]
pub struct Extra<'a> {
    /// Added to every row of C: n elements.
    pub bias: Option<&'a [f32]>,
    /// Added to B before the product: B + left·right.
    pub term: Option<Term<'a>>,
    /// Another product of A.
    pub beside: Option<Beside<'a>>,
}

/// `C = α·A·B + β·C`: A m×k, B k×n, C m×n with rows `c_stride` apart.
///
/// # Panics
/// Slices that are too short for their layouts.
pub fn gemm<B: Operand>(
    dims: Dims,
    scale: Scale,
    a: (&[f32], Layout),
    b: (&[B], Layout),
    c: (&mut [f32], usize),
) {
    gemm_with(dims, scale, a, b, Extra::default(), c);
}

/// `C = α·A·(B + L·R) + β·C + bias`, and `D = A·S`.
///
/// # Panics
/// Slices that are too short for their layouts.
pub fn gemm_with<B: Operand>(
    dims: Dims,
    scale: Scale,
    a: (&[f32], Layout),
    b: (&[B], Layout),
    extra: Extra,
    c: (&mut [f32], usize),
) {
    gemm_on(simd::isa(), dims, scale, a, b, extra, c);
}

/// [`gemm_with`] on a path, which this CPU must have.
fn gemm_on<B: Operand>(
    isa: Isa,
    dims: Dims,
    scale: Scale,
    (a, a_layout): (&[f32], Layout),
    (b, b_layout): (&[B], Layout),
    extra: Extra,
    (c, c_stride): (&mut [f32], usize),
) {
    let Dims { m, n, k } = dims;
    if m == 0 || (n == 0 && extra.beside.is_none_or(|beside| beside.n == 0)) {
        return;
    }
    let holds = |name, len: usize, layout: Layout, rows, columns| {
        let needs = layout.extent(rows, columns);
        assert!(
            len >= needs,
            "gemm: {name} holds {len} elements, {dims:?} {layout:?} needs {needs}"
        );
    };
    holds("A", a.len(), a_layout, m, k);
    holds("B", b.len(), b_layout, k, n);
    holds("C", c.len(), Layout::row_major(c_stride), m, n);
    assert!(n <= c_stride || m == 1, "gemm: rows of C overlap");
    if let Some(bias) = extra.bias {
        holds("the bias", bias.len(), Layout::row_major(n), 1, n);
    }
    if let Some(Term { left, right, rank }) = extra.term {
        holds("the term's left factor", left.0.len(), left.1, k, rank);
        holds("the term's right factor", right.0.len(), right.1, rank, n);
    }
    if let Some(Beside { right, n, out }) = extra.beside {
        holds("S", right.0.len(), right.1, k, n);
        holds("D", out.len(), Layout::row_major(n), m, n);
    }
    let job = Job {
        isa,
        dims,
        scale,
        a,
        a_layout,
        bias: extra.bias,
        beside: extra.beside,
        c: Disjoint::new(c),
        c_stride,
    };
    if let (Some(b), None, None) = (B::as_f32(b), extra.term, extra.beside) {
        // Turning B pays for few columns only, or many rows.
        let few = n <= THIN && (b_layout.rows == 1 || n <= 16 || m >= 512);
        let wide = job.isa == Isa::Avx512 && n >= 16 || n >= 8;
        if few && a_layout.cols == 1 && k >= 64 && extra.bias.is_none() {
            return job.few_columns(b, b_layout);
        }
        if n <= THIN && a_layout.rows == 1 && m >= 64 && k >= 64 && extra.bias.is_none() {
            return job.few_columns_transposed(b, b_layout);
        }
        if m <= THIN && b_layout.cols == 1 && wide {
            return job.few_rows(b, b_layout.rows);
        }
    }
    job.packed(b, b_layout, extra.term);
}

/// The transpose of `rows` rows of `width` elements, `between` apart, into `width` rows of `stride` elements, zeros after column
/// `rows`.
///
/// # Panics
/// Slices that are too short.
pub(super) fn transpose(
    (from, between): (&[f32], usize),
    [rows, width]: [usize; 2],
    (to, stride): (&mut [f32], usize),
) {
    assert!(
        stride >= rows && to.len() >= width * stride,
        "transpose: {rows} columns in rows of {stride}, {} elements for {width} rows",
        to.len()
    );
    let turn = pack::Turn {
        from,
        between,
        k: width,
        columns: rows,
        to: to.as_mut_ptr(),
        stride,
    };
    // SAFETY: this CPU has the path in use, and `to` holds its rows.
    unsafe { lanes::run(simd::isa(), &turn) }
}

/// `out = β·out + Σ_rows x` for rows of `out.len()` elements: a row of ones times x.
///
/// # Panics
/// An x that is not whole rows.
pub fn sum_rows(x: &[f32], beta: f32, out: &mut [f32]) {
    let n = out.len();
    let k = x.len() / n.max(1);
    assert_eq!(
        x.len(),
        n * k,
        "sum_rows: {} elements in rows of {n}",
        x.len()
    );
    // One 1.0 stands for the whole row of ones.
    let ones = Layout { rows: 1, cols: 0 };
    gemm(
        Dims { m: 1, n, k },
        Scale { alpha: 1.0, beta },
        (&[1.0], ones),
        (x, Layout::row_major(n)),
        (out, n),
    );
}

/// A product whose slices were checked.
struct Job<'a> {
    isa: Isa,
    dims: Dims,
    scale: Scale,
    a: &'a [f32],
    a_layout: Layout,
    bias: Option<&'a [f32]>,
    beside: Option<Beside<'a>>,
    c: Disjoint<'a, f32>,
    c_stride: usize,
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
