//! Operands laid out for the register tiles: B in panels of columns, shared by all threads; A in tiles of rows where its own
//! layout would be walked across.

use std::ops::Range;

use super::lanes::{Kernel, Lanes, prefetch};
use super::tile::{Columns, Epilogue, Rows, product, store};
use super::{Layout, Operand, ROWS, Term};

/// Rows that a copy asks for before it comes to them: each may be on another page, where the processor guesses nothing.
const AHEAD: usize = 8;

/// Brings `len` elements near.
#[inline(always)]
fn ahead(row: *const f32, len: usize) {
    for i in (0..len).step_by(16) {
        prefetch(row.wrapping_add(i));
    }
}

/// Packs rows `terms` of columns `first..first + columns` of B into `panel`: rows of whole registers, zeros after the last column.
pub(super) struct Panel<'a, B> {
    pub b: &'a [B],
    pub layout: Layout,
    pub terms: Range<usize>,
    pub first: usize,
    pub columns: usize,
    pub term: Option<Term<'a>>,
    /// A row of `columns`, rounded up to whole registers, for each of the terms, then `rank` such rows as room for the update.
    pub panel: *mut f32,
}

impl<B: Operand> Kernel for Panel<'_, B> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self) {
        let stride = self.columns.next_multiple_of(L::WIDTH);
        let (start, k) = (self.terms.start, self.terms.len());
        // SAFETY: the caller made `panel` long enough and checked that B holds its layout's elements.
        unsafe {
            copy::<L, B>(
                self.b.get(start * self.layout.rows..).unwrap_or_default(),
                self.layout,
                k,
                self.first,
                self.columns,
                self.panel,
                stride,
            );
            if let Some(mut term) = self.term {
                let right = self.panel.add(k * stride);
                copy::<L, f32>(
                    term.right.0,
                    term.right.1,
                    term.rank,
                    self.first,
                    self.columns,
                    right,
                    stride,
                );
                let (left, layout) = term.left;
                term.left.0 = left.get(start * layout.rows..).unwrap_or_default();
                add::<L>(term, k, self.panel, right, stride);
            }
        }
    }
}

/// The transpose of `columns` rows of `k` elements, `between` apart: element p of row j to `[p, j]`, rows of `to` `stride` apart.
pub(super) struct Turn<'a> {
    pub from: &'a [f32],
    pub between: usize,
    pub k: usize,
    pub columns: usize,
    /// `k` rows of `stride` ≥ `columns` elements, which hold zeros after the last column.
    pub to: *mut f32,
    pub stride: usize,
}

impl Kernel for Turn<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self) {
        // SAFETY: the caller made `to` long enough; elements of `from` are checked.
        unsafe {
            copy_transposed::<L, f32>(
                self.from,
                self.between,
                self.k,
                0,
                self.columns,
                self.to,
                self.stride,
            );
        }
    }
}

/// `panel += left·right`.
#[inline(always)]
unsafe fn add<L: Lanes>(term: Term, k: usize, panel: *mut f32, right: *const f32, stride: usize) {
    let epilogue = Epilogue {
        alpha: 1.0,
        beta: 1.0,
        bias: std::ptr::null(),
    };
    let (left, layout) = term.left;
    for first in (0..k).step_by(ROWS) {
        let count = ROWS.min(k - first);
        for at in (0..stride).step_by(L::WIDTH) {
            // SAFETY: rows below k, columns below the panel's stride.
            unsafe {
                let a = Rows {
                    start: left.as_ptr().add(first * layout.rows),
                    row: layout.rows,
                    step: layout.cols,
                    count,
                };
                let b = Columns {
                    start: right.add(at),
                    stride,
                    part: 0,
                };
                let sum = product::<L, ROWS, 1, false>(term.rank, a, b);
                store::<L, ROWS, 1>(
                    sum,
                    count,
                    0,
                    epilogue,
                    panel.add(first * stride + at),
                    stride,
                );
            }
        }
    }
}

/// `to[p, j] = b[p, first + j]`, widened.
#[inline(always)]
unsafe fn copy<L: Lanes, B: Operand>(
    b: &[B],
    layout: Layout,
    k: usize,
    first: usize,
    columns: usize,
    to: *mut f32,
    stride: usize,
) {
    if layout.rows == 1 && layout.cols != 1 {
        // SAFETY: as for the function.
        unsafe { copy_transposed::<L, B>(b, layout.cols, k, first, columns, to, stride) };
        return;
    }
    for p in 0..k {
        let start = p * layout.rows + first * layout.cols;
        if let (1, Some(b)) = (layout.cols, B::as_f32(b)) {
            let from = b[start..start + columns].as_ptr();
            for j in (0..columns).step_by(L::WIDTH) {
                // SAFETY: elements of `from`, and whole registers of row p of the panel.
                unsafe {
                    let left = columns - j;
                    let x = if left < L::WIDTH {
                        L::load_part(from.add(j), left)
                    } else {
                        L::load(from.add(j))
                    };
                    L::store(to.add(p * stride + j), x);
                }
            }
            continue;
        }
        // SAFETY: row p of the panel.
        let row = unsafe { std::slice::from_raw_parts_mut(to.add(p * stride), stride) };
        if layout.cols == 1 {
            for (y, x) in row.iter_mut().zip(&b[start..start + columns]) {
                *y = x.widen();
            }
        } else {
            for (j, y) in row.iter_mut().enumerate().take(columns) {
                *y = b[start + j * layout.cols].widen();
            }
        }
        row[columns..].fill(0.0);
    }
}

/// The same where B's columns are contiguous, `between` apart: 8×8 blocks turn in registers.
#[inline(always)]
unsafe fn copy_transposed<L: Lanes, B: Operand>(
    b: &[B],
    between: usize,
    k: usize,
    first: usize,
    columns: usize,
    to: *mut f32,
    stride: usize,
) {
    let (blocks, whole) = (columns / 8 * 8, k / 8 * 8);
    // SAFETY: blocks stay below k and `columns` in B, and below k and the stride in the panel.
    unsafe {
        for j in (0..blocks).step_by(8) {
            for p in (0..whole).step_by(8) {
                let start = (first + j) * between + p;
                let target = to.add(p * stride + j);
                match B::as_f32(b) {
                    Some(b) => L::transpose(
                        b[start..start + 7 * between + 8].as_ptr(),
                        between,
                        target,
                        stride,
                    ),
                    None => {
                        let mut wide = [0.0f32; 64];
                        for (i, row) in wide.chunks_exact_mut(8).enumerate() {
                            let from = &b[start + i * between..][..8];
                            row.iter_mut().zip(from).for_each(|(y, x)| *y = x.widen());
                        }
                        L::transpose(wide.as_ptr(), 8, target, stride);
                    }
                }
            }
        }
        for j in 0..stride {
            // Whole blocks left the last rows; other columns lack all of them.
            for p in if j < blocks { whole } else { 0 }..k {
                *to.add(p * stride + j) = if j < columns {
                    b[(first + j) * between + p].widen()
                } else {
                    0.0
                };
            }
        }
    }
}

/// Packs rows of A, `k` columns, in tiles of [`ROWS`]: element (i, p) of a tile at `p·ROWS + i`, tiles `stride` apart.
/// Rows past the end repeat nothing and hold 0.
///
/// # Safety
/// `to` holds `rows / ROWS` tiles, rounded up; A's elements lie in `a`.
#[inline(always)]
pub(super) unsafe fn rows(
    a: *const f32,
    layout: Layout,
    rows: usize,
    k: usize,
    to: *mut f32,
    stride: usize,
) {
    let tiles = rows.div_ceil(ROWS);
    for p in 0..k {
        if layout.rows == 1 {
            ahead(a.wrapping_add((p + AHEAD) * layout.cols), rows);
        }
        for tile in 0..tiles {
            let count = ROWS.min(rows - tile * ROWS);
            // SAFETY: element (tile·ROWS + i, p) of A, and its place in the tile.
            unsafe {
                let from = a.add(p * layout.cols + tile * ROWS * layout.rows);
                let to = to.add(tile * stride + p * ROWS);
                if count == ROWS && layout.rows == 1 {
                    to.cast::<[f32; ROWS]>()
                        .write_unaligned(from.cast::<[f32; ROWS]>().read_unaligned());
                } else {
                    for i in 0..ROWS {
                        *to.add(i) = if i < count {
                            *from.add(i * layout.rows)
                        } else {
                            0.0
                        };
                    }
                }
            }
        }
    }
}
