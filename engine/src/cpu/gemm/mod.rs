//! Matrix products on the CPU: C = α·A·B + β·C with any strides, batched.
//!
//! After Goto & van de Geijn (2008): B is packed into panels once a call, in slabs that all threads share; a thread takes a
//! block of C, and register tiles of it run along blocks of k (`pack.rs`, `tile.rs`). Products with a short side have kernels of
//! their own (`thin.rs`). All of it is written over a vector type and compiled for each instruction-set path (`lanes.rs`).
//!
//! An element's sum runs along k in blocks whose length depends on k alone, and pieces depend on the sizes alone, so that the
//! bits do not depend on the number of threads. `|error| ≤ γ_{k+2}·(|α|·Σ|a||b| + |β·c|)` with γ_n = n·u/(1 − n·u), u = 2⁻²⁴,
//! whatever the order of summation: each term meets one rounding as a product, at most k − 1 in sums, one by α and one with β·C.

use half::{bf16, f16};

use self::lanes::{Kernel, Lanes, run, tile_width};
use self::pack::Panel;
use self::scratch::Kind;
use self::thin::{Dots, Strips};
use self::tile::{Columns, Epilogue, Rows, product, store};
use super::convert::{bf16_to_f32, f16_to_f32};
use super::simd::{self, Isa};
use super::threads::{self, Disjoint};

mod lanes;
mod pack;
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
/// Terms of a sum that a tile takes before it goes to C: a panel's part of B then stays near.
const DEPTH: usize = 320;
/// Elements of a slab of packed B: 2 MiB.
const SLAB: usize = 1 << 19;
/// Multiply-adds below which a piece is not worth a thread's attention.
const PIECE: usize = 1 << 18;
/// The longest short side of a thin product.
const THIN: usize = 32;
/// Terms that a piece of a product with few rows sums before the pieces are added.
const STRIP_TERMS: usize = 256;

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

/// Additions to a product.
#[derive(Clone, Copy, Default)]
pub struct Extra<'a> {
    /// Added to every row of C: n elements.
    pub bias: Option<&'a [f32]>,
    /// Added to B before the product: B + left·right.
    pub term: Option<Term<'a>>,
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

/// `C = α·A·(B + L·R) + β·C + bias`.
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
    if m == 0 || n == 0 {
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
    let job = Job {
        isa,
        dims,
        scale,
        a,
        a_layout,
        bias: extra.bias,
        c: Disjoint::new(c),
        c_stride,
    };
    if let (Some(b), None) = (B::as_f32(b), extra.term) {
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
    c: Disjoint<'a, f32>,
    c_stride: usize,
}

/// Columns of C over which a slab of B is packed, and what it takes.
#[derive(Clone, Copy)]
struct Slab {
    packed: *const f32,
    first: usize,
    columns: usize,
    /// Columns of a whole panel.
    width: usize,
    /// Elements from one panel to the next.
    panel: usize,
}

// SAFETY: the packed elements are only read while the slab is shared.
unsafe impl Sync for Slab {}

impl Job<'_> {
    fn packed<B: Operand>(&self, b: &[B], layout: Layout, term: Option<Term>) {
        let (Dims { n, k, .. }, width) = (self.dims, tile_width(self.isa));
        let panel = (k + term.map_or(0, |t| t.rank)) * width;
        let most = (SLAB / panel.max(1)).max(1) * width;
        for first in (0..n).step_by(most) {
            let columns = most.min(n - first);
            let panels = columns.div_ceil(width);
            scratch::with(Kind::Shared, panels * panel, |packed| {
                let target = Disjoint::new(packed);
                threads::par_chunks(panels, (PIECE / 8 / panel.max(1)).max(1), |range| {
                    for i in range {
                        let columns = width.min(columns - i * width);
                        // SAFETY: each panel is taken once; B was checked against its layout.
                        unsafe {
                            let panel = target.slice(i * panel..(i + 1) * panel).as_mut_ptr();
                            run(
                                self.isa,
                                &Panel {
                                    b,
                                    layout,
                                    k,
                                    first: first + i * width,
                                    columns,
                                    term,
                                    panel,
                                },
                            );
                        }
                    }
                });
                self.blocks(Slab {
                    packed: target.as_ptr(),
                    first,
                    columns,
                    width,
                    panel,
                });
            });
        }
    }

    /// All rows of C over the columns of a slab.
    fn blocks(&self, slab: Slab) {
        let Dims { m, k, .. } = self.dims;
        let panels = slab.columns.div_ceil(slab.width);
        let group = (256 / slab.width).min(panels);
        let groups = panels.div_ceil(group);
        let work = |rows: usize| rows * group * slab.width * k.max(1);
        let mut rows = 16 * ROWS;
        while rows > 2 * ROWS && m.div_ceil(rows) * groups < 16 && work(rows) > PIECE {
            rows /= 2;
        }
        while rows < m && work(rows) < PIECE / 2 {
            rows *= 2;
        }
        // A whose rows are not contiguous is packed, lest each term of a sum touch another line.
        let pack = self.a_layout.cols != 1;
        let depth = depth(k);
        let tile = depth * ROWS + 16;
        let blocks = m.div_ceil(rows);
        threads::par_pieces(blocks * groups, |piece| {
            // A group of panels stays near while the rows go by.
            let (row, group_at) = (piece % blocks * rows, piece / blocks * group);
            let rows = rows.min(m - row);
            scratch::with(
                Kind::Own,
                if pack { rows.div_ceil(ROWS) * tile } else { 0 },
                |own| {
                    let block = Block {
                        job: self,
                        slab,
                        rows: row..row + rows,
                        panels: group_at..panels.min(group_at + group),
                        depth,
                        tile,
                        own: if pack { Some(own.as_mut_ptr()) } else { None },
                    };
                    // SAFETY: blocks of C do not overlap; the slices were checked; `own` holds the block's tiles.
                    unsafe { run(self.isa, &block) }
                },
            );
        });
    }

    /// n ≤ [`THIN`], A's rows contiguous.
    fn few_columns(&self, b: &[f32], layout: Layout) {
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
        scratch::with(Kind::Shared, n * k, |columns| {
            for (p, j) in (0..k).flat_map(|p| (0..n).map(move |j| (p, j))) {
                columns[j * k + p] = b[p * layout.rows + j * layout.cols];
            }
            rows(columns.as_ptr(), k);
        });
    }

    /// m ≤ [`THIN`], B's rows contiguous and `b_stride` apart.
    fn few_rows(&self, b: &[f32], b_stride: usize) {
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

    /// n ≤ [`THIN`], A's columns contiguous: Cᵀ = Bᵀ·Aᵀ.
    fn few_columns_transposed(&self, b: &[f32], layout: Layout) {
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
        scratch::with(Kind::Shared, pieces * size, |sums| {
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

/// Length of the blocks along k: equal ones, [`DEPTH`] at most.
fn depth(k: usize) -> usize {
    k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1)
}

/// A block of C: some rows over some panels of a slab.
struct Block<'a, 'b> {
    job: &'a Job<'b>,
    slab: Slab,
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    depth: usize,
    /// Elements from one packed tile of A to the next.
    tile: usize,
    /// Room for packed A, unless it is read where it lies.
    own: Option<*mut f32>,
}

impl Kernel for Block<'_, '_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self) {
        let (job, slab, layout) = (self.job, self.slab, self.job.a_layout);
        let (first, k) = (self.rows.start, job.dims.k);
        let mut start = 0;
        loop {
            let depth = self.depth.min(k - start);
            // SAFETY: the caller's: A and C hold their layouts' elements, the slab its panels, `own` the block's tiles.
            unsafe {
                let mut a = job
                    .a
                    .as_ptr()
                    .wrapping_add(first * layout.rows + start * layout.cols);
                let (mut row, mut step, mut next) = (layout.rows, layout.cols, ROWS * layout.rows);
                if let Some(own) = self.own {
                    pack::rows(a, layout, self.rows.len(), depth, own, self.tile);
                    (a, row, step, next) = (own, 1, ROWS, self.tile);
                }
                for panel in self.panels.clone() {
                    let column = panel * slab.width;
                    let columns = slab.width.min(slab.columns - column);
                    let stride = columns.next_multiple_of(L::WIDTH);
                    let b = Columns {
                        start: slab.packed.add(panel * slab.panel + start * stride),
                        stride,
                        part: columns % L::WIDTH,
                    };
                    let column = slab.first + column;
                    let bias = job
                        .bias
                        .filter(|_| start == 0)
                        .map_or(std::ptr::null(), |bias| bias.as_ptr().add(column));
                    let beta = if start == 0 { job.scale.beta } else { 1.0 };
                    let epilogue = Epilogue {
                        alpha: job.scale.alpha,
                        beta,
                        bias,
                    };
                    for (tile, i) in self.rows.clone().step_by(ROWS).enumerate() {
                        let a = Rows {
                            start: a.wrapping_add(tile * next),
                            row,
                            step,
                            count: ROWS.min(self.rows.end - i),
                        };
                        let c = job.c.as_ptr().add(i * job.c_stride + column);
                        match stride / L::WIDTH {
                            1 => tile_into::<L, 1>(depth, a, b, epilogue, c, job.c_stride),
                            2 => tile_into::<L, 2>(depth, a, b, epilogue, c, job.c_stride),
                            3 => tile_into::<L, 3>(depth, a, b, epilogue, c, job.c_stride),
                            _ => tile_into::<L, 4>(depth, a, b, epilogue, c, job.c_stride),
                        }
                    }
                }
            }
            start += depth;
            if start >= k {
                break;
            }
        }
    }
}

#[inline(always)]
unsafe fn tile_into<L: Lanes, const N: usize>(
    k: usize,
    a: Rows,
    b: Columns,
    epilogue: Epilogue,
    c: *mut f32,
    c_stride: usize,
) {
    // SAFETY: the caller's; B's panel is padded to whole registers.
    unsafe {
        let sum = product::<L, ROWS, N, false>(k, a, b);
        store::<L, ROWS, N>(sum, a.count, b.part, epilogue, c, c_stride);
    }
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
