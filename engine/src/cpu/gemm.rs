//! Matrix products on the CPU: C = α·A·B + β·C with any strides, batched, f32 accumulation.
//!
//! B is packed into panels of NR columns (a 16-bit B is widened on the way), A into strips of MR
//! rows; a register tile of MR × NR runs down K in blocks of [`KC`]. The work is cut into blocks of
//! rows (and of columns when there are few rows), shared by the threads.
//!
//! Order of summation: an element of A·B is, per block of [`KC`] steps, one chain of fused
//! multiply-adds from the first step to the last; the blocks' sums, times α, are added to β·C in
//! order. It depends on K alone: not on the tile, the batch or the number of threads. The paths of
//! [`super::simd`] give the same bits, for the same reason.

use std::cell::RefCell;
use std::ops::Range;

use half::{bf16, f16};
use pulp::{Simd, WithSimd};

use super::gelu;
use super::micro::{self, Broadcast, Rows};
use super::simd::{self, Isa};
use super::threads::{self, Disjoint};

/// Depth of a block along K: a panel of B, KC × NR, fits the first-level cache.
pub const KC: usize = 256;
/// Row stride of a packed strip of A; not a multiple of a page, so that rows fall in different sets.
const STRIP: usize = KC + 16;
/// Columns of B packed at a time.
const NC: usize = 1024;

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

/// A storage type of B: f32, or 16 bits that are widened exactly while packing.
pub trait Operand: Copy + Send + Sync + 'static {
    /// The value as f32, exactly.
    fn widen(self) -> f32;
}

impl Operand for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Operand for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Operand for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        super::convert::f16_to_f32(self.to_bits())
    }
}

/// The sizes of a product: C is m × n, A m × k, B k × n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// The summed axis.
    pub k: usize,
}

/// What is done to C's rows while they are still in cache.
#[derive(Debug, Default)]
pub enum Epilogue<'a> {
    /// Nothing.
    #[default]
    None,
    /// Adds a row vector of n elements to each row.
    Bias(&'a [f32]),
    /// Adds the bias, stores the sum in `pre` (rows of n, needed by the backward) where it is
    /// given, and replaces C by its activation.
    BiasGelu {
        /// n elements.
        bias: &'a [f32],
        /// m·n elements, row-major: x before the activation.
        pre: Option<&'a mut [f32]>,
        /// Which form of the activation.
        form: gelu::Form,
    },
}

/// The scalars of α·A·B + β·C. With β = 0 the old C is not read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old C.
    pub beta: f32,
}

impl Scale {
    /// C = A·B.
    pub const SET: Scale = Scale {
        alpha: 1.0,
        beta: 0.0,
    };
    /// C += A·B.
    pub const ADD: Scale = Scale {
        alpha: 1.0,
        beta: 1.0,
    };
}

/// C = α·A·B + β·C. C's rows are `c_stride` ≥ n apart, its columns contiguous.
///
/// Panics where a slice is shorter than its layout says.
pub fn gemm<B: Operand>(
    dims: Dims,
    scale: Scale,
    (a, a_layout): (&[f32], Layout),
    (b, b_layout): (&[B], Layout),
    (c, c_stride): (&mut [f32], usize),
) {
    gemm_with(
        dims,
        scale,
        (a, a_layout),
        (b, b_layout),
        (c, c_stride),
        Epilogue::None,
    );
}

/// [`gemm`] with an epilogue.
pub fn gemm_with<B: Operand>(
    dims: Dims,
    scale: Scale,
    (a, a_layout): (&[f32], Layout),
    (b, b_layout): (&[B], Layout),
    (c, c_stride): (&mut [f32], usize),
    epilogue: Epilogue<'_>,
) {
    let Dims { m, n, k } = dims;
    assert!(
        a.len() >= a_layout.extent(m, k),
        "gemm: A of {} elements, {dims:?}",
        a.len()
    );
    assert!(
        b.len() >= b_layout.extent(k, n),
        "gemm: B of {} elements, {dims:?}",
        b.len()
    );
    assert!(
        c_stride >= n && c.len() >= Layout::row_major(c_stride).extent(m, n),
        "gemm: C of {} elements, rows {c_stride} apart, {dims:?}",
        c.len()
    );
    if m == 0 || n == 0 {
        return;
    }
    let finish = Finish::new(epilogue, dims);
    let c = Disjoint::new(c);
    if k == 0 {
        for i in 0..m {
            // SAFETY: rows do not overlap, and one is in use at a time.
            let row = unsafe { c.slice(i * c_stride..i * c_stride + n) };
            scale_row(row, scale.beta);
            // SAFETY: as above, for the rows of `pre`.
            unsafe { finish.row(i, 0, row) };
        }
        return;
    }
    let job = Product {
        dims,
        scale,
        a,
        a_layout,
        b,
        b_layout,
        c: &c,
        c_stride,
        finish: &finish,
    };
    match simd::isa() {
        Isa::Avx512 => job.run::<12>(32),
        Isa::Avx2 => job.run::<6>(16),
        Isa::Scalar => job.run::<4>(2),
    }
}

/// `batch` products; operand x of item i starts at `i·step` (0 repeats an operand for all items).
/// The items of C must not overlap.
#[allow(clippy::too_many_arguments)]
pub fn gemm_batched<B: Operand>(
    batch: usize,
    dims: Dims,
    scale: Scale,
    (a, a_layout, a_step): (&[f32], Layout, usize),
    (b, b_layout, b_step): (&[B], Layout, usize),
    (c, c_stride, c_step): (&mut [f32], usize, usize),
) {
    let c_extent = Layout::row_major(c_stride).extent(dims.m, dims.n);
    if batch == 0 || c_extent == 0 {
        return;
    }
    assert!(
        batch == 1 || c_step >= c_extent,
        "gemm_batched: items of C overlap"
    );
    let c = Disjoint::new(c);
    let item = |i: usize| {
        // SAFETY: items are at least `c_extent` apart and each is taken once.
        let c = unsafe { c.slice(i * c_step..i * c_step + c_extent) };
        let a = a.get(i * a_step..).unwrap_or_default();
        let b = b.get(i * b_step..).unwrap_or_default();
        gemm(dims, scale, (a, a_layout), (b, b_layout), (c, c_stride));
    };
    let flops = 2 * dims.m * dims.n * dims.k;
    if batch >= 4 || flops < 1 << 20 {
        // About a megaflop a piece.
        let grain = ((1 << 20) / flops.max(1)).clamp(1, batch);
        threads::par_chunks(batch, grain, |range| range.for_each(item));
    } else {
        (0..batch).for_each(item);
    }
}

fn scale_row(row: &mut [f32], beta: f32) {
    if beta == 0.0 {
        row.fill(0.0);
    } else if beta != 1.0 {
        row.iter_mut().for_each(|c| *c *= beta);
    }
}

/// The epilogue in a form that several threads can apply to their own rows.
enum Finish<'a> {
    None,
    Bias(&'a [f32]),
    BiasGelu {
        bias: &'a [f32],
        pre: Option<Disjoint<'a, f32>>,
        n: usize,
        form: gelu::Form,
    },
}

impl<'a> Finish<'a> {
    fn new(epilogue: Epilogue<'a>, Dims { m, n, .. }: Dims) -> Finish<'a> {
        match epilogue {
            Epilogue::None => Finish::None,
            Epilogue::Bias(bias) => {
                assert_eq!(
                    bias.len(),
                    n,
                    "gemm: bias of {} for {n} columns",
                    bias.len()
                );
                Finish::Bias(bias)
            }
            Epilogue::BiasGelu { bias, pre, form } => {
                assert_eq!(
                    bias.len(),
                    n,
                    "gemm: bias of {} for {n} columns",
                    bias.len()
                );
                if let Some(pre) = &pre {
                    assert_eq!(
                        pre.len(),
                        m * n,
                        "gemm: {} elements for x before GELU",
                        pre.len()
                    );
                }
                Finish::BiasGelu {
                    bias,
                    pre: pre.map(Disjoint::new),
                    n,
                    form,
                }
            }
        }
    }

    /// Finishes columns `col..col + part.len()` of row `row`.
    ///
    /// # Safety
    /// No other thread may finish the same part.
    #[inline(always)]
    unsafe fn row(&self, row: usize, col: usize, part: &mut [f32]) {
        match self {
            Finish::None => {}
            Finish::Bias(bias) => add(part, &bias[col..col + part.len()]),
            Finish::BiasGelu { bias, pre, n, form } => {
                add(part, &bias[col..col + part.len()]);
                if let Some(pre) = pre {
                    let start = row * n + col;
                    // SAFETY: this function's contract.
                    unsafe { pre.slice(start..start + part.len()) }.copy_from_slice(part);
                }
                gelu::forward_row(part, *form);
            }
        }
    }
}

#[inline(always)]
fn add(part: &mut [f32], bias: &[f32]) {
    for (c, b) in part.iter_mut().zip(bias) {
        *c += b;
    }
}

thread_local! {
    static PACKED_A: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PACKED_B: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs `body` on a scratch slice of this thread, grown to `len`. Its contents are arbitrary.
fn with_scratch<R>(
    slot: &'static std::thread::LocalKey<RefCell<Vec<f32>>>,
    len: usize,
    body: impl FnOnce(&mut [f32]) -> R,
) -> R {
    let mut scratch = slot.take();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let result = body(&mut scratch[..len]);
    slot.replace(scratch);
    result
}

struct Product<'a, B> {
    dims: Dims,
    scale: Scale,
    a: &'a [f32],
    a_layout: Layout,
    b: &'a [B],
    b_layout: Layout,
    c: &'a Disjoint<'a, f32>,
    c_stride: usize,
    finish: &'a Finish<'a>,
}

impl<B: Operand> Product<'_, B> {
    /// Blocks of columns, then of depth; per block B is packed by all threads, then swept.
    fn run<const MR: usize>(&self, nr: usize) {
        let Dims { m, n, k } = self.dims;
        // Few rows: narrower blocks of columns make up for the missing blocks of rows.
        let mc = (96 / MR * MR).min(m.next_multiple_of(MR));
        let row_blocks = m.div_ceil(mc);
        let serial = m * n * k < 1 << 17;
        with_scratch(
            &PACKED_B,
            n.min(NC).next_multiple_of(nr) * k.min(KC),
            |packed| {
                for j0 in (0..n).step_by(NC) {
                    let cols = j0..n.min(j0 + NC);
                    let panels = cols.len().div_ceil(nr);
                    let col_blocks = if serial {
                        1
                    } else {
                        8usize.div_ceil(row_blocks).min(panels)
                    };
                    let block = panels.div_ceil(col_blocks);
                    for k0 in (0..k).step_by(KC) {
                        let depth = k0..k.min(k0 + KC);
                        let len = depth.len() * nr;
                        let pack = |first: usize, out: &mut [f32]| {
                            for (p, panel) in out.chunks_exact_mut(len).enumerate() {
                                let j = cols.start + (first + p) * nr;
                                self.pack_panel(panel, depth.clone(), j..cols.end.min(j + nr), nr);
                            }
                        };
                        let packed = &mut packed[..panels * len];
                        if serial {
                            pack(0, packed);
                        } else {
                            threads::par_rows(packed, len, (1usize << 15).div_ceil(len), pack);
                        }
                        let packed = &*packed;
                        let piece = |piece: usize| {
                            let (row_block, col_block) = (piece / col_blocks, piece % col_blocks);
                            let rows = row_block * mc..m.min((row_block + 1) * mc);
                            let panels = col_block * block..panels.min((col_block + 1) * block);
                            if !panels.is_empty() {
                                let sweep = Sweep::<B, MR> {
                                    product: self,
                                    packed: &packed[panels.start * len..panels.end * len],
                                    cols: cols.start + panels.start * nr
                                        ..cols.end.min(cols.start + panels.end * nr),
                                    rows,
                                    depth: depth.clone(),
                                };
                                simd::dispatch_with(sweep);
                            }
                        };
                        if serial {
                            (0..row_blocks * col_blocks).for_each(piece);
                        } else {
                            threads::par_pieces(row_blocks * col_blocks, piece);
                        }
                    }
                }
            },
        );
    }

    /// Packs `depth` × `cols` of B as depth rows of nr columns; missing columns become 0.
    fn pack_panel(&self, panel: &mut [f32], depth: Range<usize>, cols: Range<usize>, nr: usize) {
        let Layout { rows, cols: step } = self.b_layout;
        let width = cols.len();
        if width < nr {
            panel.fill(0.0);
        }
        let b = &self.b[depth.start * rows + cols.start * step..];
        if step == 1 {
            for (k, out) in panel.chunks_exact_mut(nr).enumerate() {
                let row = &b[k * rows..k * rows + width];
                for (o, v) in out.iter_mut().zip(row) {
                    *o = v.widen();
                }
            }
        } else if rows == 1 {
            transpose_into(panel, nr, depth.len(), width, |j| {
                &b[j * step..j * step + depth.len()]
            });
        } else {
            for (k, out) in panel.chunks_exact_mut(nr).enumerate() {
                for (j, o) in out[..width].iter_mut().enumerate() {
                    *o = b[k * rows + j * step].widen();
                }
            }
        }
    }
}

/// `panel[k·nr + j] = column(j)[k]`, eight columns at a time so that writes stay in few lines.
#[inline(always)]
fn transpose_into<'a, B: Operand>(
    panel: &mut [f32],
    nr: usize,
    depth: usize,
    width: usize,
    column: impl Fn(usize) -> &'a [B],
) {
    let mut j = 0;
    while j + 8 <= width {
        let source: [&[B]; 8] = std::array::from_fn(|i| &column(j + i)[..depth]);
        for k in 0..depth {
            let out = &mut panel[k * nr + j..k * nr + j + 8];
            for i in 0..8 {
                out[i] = source[i][k].widen();
            }
        }
        j += 8;
    }
    for j in j..width {
        for (k, v) in column(j)[..depth].iter().enumerate() {
            panel[k * nr + j] = v.widen();
        }
    }
}

/// One block of rows against the packed panels of one block of columns.
struct Sweep<'a, B, const MR: usize> {
    product: &'a Product<'a, B>,
    packed: &'a [f32],
    cols: Range<usize>,
    rows: Range<usize>,
    depth: Range<usize>,
}

impl<B: Operand, const MR: usize> WithSimd for Sweep<'_, B, MR> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let strips = self.rows.len().div_ceil(MR);
        with_scratch(
            &PACKED_A,
            strips * MR * STRIP,
            #[inline(always)]
            |strip| {
                self.pack_a(strip);
                self.sweep(simd, strip);
            },
        );
    }
}

impl<B: Operand, const MR: usize> Sweep<'_, B, MR> {
    /// Whether A is contiguous along its rows' index, so that strips are packed [depth][MR].
    fn by_depth(&self) -> bool {
        self.product.a_layout.rows == 1 && self.product.a_layout.cols != 1
    }

    /// Packs the block of A in strips of MR rows: [MR][STRIP], or [depth][MR] where that is a copy.
    #[inline(always)]
    fn pack_a(&self, strips: &mut [f32]) {
        let Layout { rows, cols } = self.product.a_layout;
        let depth = self.depth.len();
        for (s, strip) in strips.chunks_exact_mut(MR * STRIP).enumerate() {
            let first = self.rows.start + s * MR;
            let height = MR.min(self.rows.end - first);
            let a = &self.product.a[first * rows + self.depth.start * cols..];
            if height < MR {
                strip.fill(0.0);
            }
            if self.by_depth() {
                for (k, out) in strip.chunks_exact_mut(MR).take(depth).enumerate() {
                    if height == MR {
                        out.copy_from_slice(&a[k * cols..k * cols + MR]);
                    } else {
                        out[..height].copy_from_slice(&a[k * cols..k * cols + height]);
                    }
                }
            } else {
                for (i, out) in strip.chunks_exact_mut(STRIP).take(height).enumerate() {
                    if cols == 1 {
                        out[..depth].copy_from_slice(&a[i * rows..i * rows + depth]);
                    } else {
                        for (k, o) in out[..depth].iter_mut().enumerate() {
                            *o = a[i * rows + k * cols];
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn sweep<S: Simd>(&self, simd: S, strips: &[f32]) {
        let product = self.product;
        let nr = 2 * S::F32_LANES;
        let depth = self.depth.len();
        let first = self.depth.start == 0;
        let last = self.depth.end == product.dims.k;
        let scale = Scale {
            beta: if first { product.scale.beta } else { 1.0 },
            ..product.scale
        };
        for (p, panel) in self.packed.chunks_exact(depth * nr).enumerate() {
            let col = self.cols.start + p * nr;
            let width = nr.min(self.cols.end - col);
            for (s, strip) in strips.chunks_exact(MR * STRIP).enumerate() {
                let row = self.rows.start + s * MR;
                let height = MR.min(self.rows.end - row);
                let b = Rows {
                    start: panel.as_ptr(),
                    depth: nr as isize,
                };
                // SAFETY: a strip holds MR rows of `depth` ≤ KC elements in either packing, a panel
                // `depth` rows of two vectors.
                let acc = unsafe {
                    if self.by_depth() {
                        let a = Broadcast {
                            start: strip.as_ptr(),
                            row: 1,
                            depth: MR as isize,
                        };
                        micro::tile::<S, MR, 2>(simd, depth, a, b)
                    } else {
                        let a = Broadcast {
                            start: strip.as_ptr(),
                            row: STRIP as isize,
                            depth: 1,
                        };
                        micro::tile::<S, MR, 2>(simd, depth, a, b)
                    }
                };
                let at = row * product.c_stride + col;
                if height == MR && width == nr {
                    // SAFETY: the tile lies inside C (asserted by `gemm_with`), and no other piece
                    // covers it.
                    unsafe {
                        let to = product.c.as_ptr().add(at);
                        store_tile(simd, &acc, scale, to, product.c_stride);
                    }
                } else {
                    let mut edge = [[0.0f32; 64]; MR];
                    for i in 0..MR {
                        for j in 0..2 {
                            // SAFETY: a row of `edge` holds two vectors of at most 16 lanes.
                            unsafe {
                                let to = edge[i].as_mut_ptr().add(j * S::F32_LANES);
                                micro::store(simd, to, acc[i][j]);
                            }
                        }
                    }
                    for (i, from) in edge.iter().enumerate().take(height) {
                        let at = at + i * product.c_stride;
                        // SAFETY: this part of C belongs to this piece alone.
                        let to = unsafe { product.c.slice(at..at + width) };
                        for (c, &v) in to.iter_mut().zip(from) {
                            *c = scaled(v, *c, scale);
                        }
                    }
                }
            }
        }
        if last && !matches!(product.finish, Finish::None) {
            for row in self.rows.clone() {
                let at = row * product.c_stride;
                // SAFETY: these columns of these rows belong to this piece alone.
                unsafe {
                    let part = product.c.slice(at + self.cols.start..at + self.cols.end);
                    product.finish.row(row, self.cols.start, part);
                }
            }
        }
    }
}

#[inline(always)]
fn scaled(product: f32, old: f32, Scale { alpha, beta }: Scale) -> f32 {
    if beta == 0.0 {
        alpha * product
    } else {
        alpha.mul_add(product, beta * old)
    }
}

/// C = α·acc + β·C for a whole tile, as [`scaled`] does for one element.
///
/// # Safety
/// The tile at `to`, rows `stride` apart, must be readable, writable and not in use elsewhere.
#[inline(always)]
unsafe fn store_tile<S: Simd, const MR: usize>(
    simd: S,
    acc: &[[S::f32s; 2]; MR],
    Scale { alpha, beta }: Scale,
    to: *mut f32,
    stride: usize,
) {
    let (va, vb) = (simd.splat_f32s(alpha), simd.splat_f32s(beta));
    for (i, row) in acc.iter().enumerate() {
        for (j, &v) in row.iter().enumerate() {
            // SAFETY: this function's contract.
            unsafe {
                let to = to.add(i * stride + j * S::F32_LANES);
                let v = if beta == 0.0 {
                    simd.mul_f32s(va, v)
                } else {
                    simd.mul_add_f32s(va, v, simd.mul_f32s(vb, micro::load(simd, to)))
                };
                micro::store(simd, to, v);
            }
        }
    }
}
