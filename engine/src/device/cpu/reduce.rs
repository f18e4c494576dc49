//! Reductions. Any set of axes is reduced one group of adjacent axes after the other, from the last: each step sees
//! `[outer, n, inner]` and gives `[outer, inner]`. Long sums are cut into blocks whose partial results are reduced in their
//! order, so that the bits depend on the sizes alone.

use super::copy;
use super::map::widened;
use super::walk::GRAIN;
use crate::cpu::threads::Disjoint;
use crate::cpu::{simd, threads};
use crate::device::Reduce;
use crate::device::axes::{Groups, Step};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::binary::Binary;
use crate::pool::with_scratch;
use crate::tensor::Tensor;

/// A reduction as a monoid, and how it folds a contiguous row.
trait Fold: Sync {
    const START: f32;
    fn join(a: f32, b: f32) -> f32;
    fn row(x: &[f32]) -> f32;
}

struct Sum;
struct Max;
struct Min;

impl Fold for Sum {
    const START: f32 = 0.0;
    #[inline(always)]
    fn join(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn row(x: &[f32]) -> f32 {
        simd::sum_of(
            x,
            #[inline(always)]
            |v| v,
        )
    }
}

impl Fold for Max {
    const START: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn join(a: f32, b: f32) -> f32 {
        Binary::Maximum.eval(a, b)
    }
    #[inline(always)]
    fn row(x: &[f32]) -> f32 {
        x.iter().fold(Self::START, |a, b| Self::join(a, *b))
    }
}

impl Fold for Min {
    const START: f32 = f32::INFINITY;
    #[inline(always)]
    fn join(a: f32, b: f32) -> f32 {
        Binary::Minimum.eval(a, b)
    }
    #[inline(always)]
    fn row(x: &[f32]) -> f32 {
        x.iter().fold(Self::START, |a, b| Self::join(a, *b))
    }
}

/// Folds `rows` rows, `stride` apart, into `y`, four at a time.
#[inline(always)]
fn fold_rows<F: Fold>(x: &[f32], stride: usize, rows: usize, y: &mut [f32]) {
    let n = y.len();
    y.fill(F::START);
    let row = |i: usize| &x[i * stride..][..n];
    for i in (0..rows / 4 * 4).step_by(4) {
        let (a, b, c, d) = (row(i), row(i + 1), row(i + 2), row(i + 3));
        for (j, y) in y.iter_mut().enumerate() {
            *y = F::join(*y, F::join(F::join(a[j], b[j]), F::join(c[j], d[j])));
        }
    }
    for i in rows / 4 * 4..rows {
        y.iter_mut()
            .zip(row(i))
            .for_each(|(y, x)| *y = F::join(*y, *x));
    }
}

/// Columns of a piece of work at most.
const COLUMNS: usize = 1 << 12;
/// Rows that are not worth cutting into blocks.
const ROWS: usize = 64;

/// `[outer, n, inner] → [outer, inner]`.
fn step<F: Fold>(x: &[f32], [outer, n, inner]: [usize; 3], out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    let block = threads::rows_per_piece(inner, 4 * GRAIN).max(ROWS);
    let (blocks, columns) = (n.div_ceil(block).max(1), inner.div_ceil(COLUMNS));
    let fold = |partial: &mut [f32]| {
        let target = Disjoint::new(partial);
        let grain = GRAIN / (block.min(n) * COLUMNS.min(inner)).max(1);
        threads::par_chunks(outer * blocks * columns, grain, |pieces| {
            for piece in pieces {
                let (part, first) = (piece / columns, piece % columns * COLUMNS);
                let (o, start) = (part / blocks, part % blocks * block);
                let (rows, width) = (block.min(n - start), COLUMNS.min(inner - first));
                // SAFETY: each piece writes its own columns of its own partial row.
                let y = unsafe { target.slice(part * inner + first..part * inner + first + width) };
                let x = &x[(o * n + start) * inner..][..rows * inner];
                simd::dispatch(
                    #[inline(always)]
                    || match inner {
                        1 => y[0] = F::row(x),
                        _ => fold_rows::<F>(x.get(first..).unwrap_or_default(), inner, rows, y),
                    },
                );
            }
        });
    };
    if blocks == 1 {
        fold(out);
    } else {
        with_scratch(outer * blocks * inner, |partial| {
            fold(partial);
            step::<F>(partial, [outer, blocks, inner], out);
        });
    }
}

fn run<F: Fold>(x: &Tensor, out: &mut Tensor) -> Result<()> {
    let x = x.packed()?;
    let groups = Groups::new(&x.layout().shape, &out.layout().shape);
    let mut source = x;
    for Step { sizes, last } in groups {
        if last {
            step::<F>(source.as_slice()?, sizes, out.as_mut_slice()?);
            return Ok(());
        }
        let mut next = Tensor::empty(&[sizes[0], sizes[2]], DType::F32, out.device())?;
        step::<F>(source.as_slice()?, sizes, next.as_mut_slice()?);
        source = next;
    }
    copy::copy(&source, out)
}

/// Reduces the axes on which `out` has size 1; other types than f32 by way of f32.
pub(super) fn reduce(reduce: Reduce, x: &Tensor, out: &mut Tensor) -> Result<()> {
    if out.dtype() != DType::F32 {
        let mut result = Tensor::empty(out.shape(), DType::F32, out.device())?;
        self::reduce(reduce, &widened(x)?, &mut result)?;
        return copy::copy(&result, out);
    }
    match reduce {
        Reduce::Sum => run::<Sum>(x, out),
        Reduce::Max => run::<Max>(x, out),
        Reduce::Min => run::<Min>(x, out),
    }
}
