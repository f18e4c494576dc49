//! Copies between strided views, conversions and accumulation.

use super::walk::{GRAIN, Walk, each_pair, is_injective};
use crate::cpu::threads::Disjoint;
use crate::cpu::{convert, simd, threads};
use crate::dtype::{DType, Element, with_dtype};
use crate::error::Result;
use crate::layout::{Dims, Layout};
use crate::tensor::Tensor;

/// Side of the blocks of a transposition: a block's lines stay in the nearest cache.
const SIDE: usize = 16;

/// `dst = src`, converting types; `dst` may be a strided view without repeats.
pub(super) fn copy(src: &Tensor, dst: &mut Tensor) -> Result<()> {
    let (from, to) = (*src.layout(), *dst.layout());
    if from.is_contiguous() && to.is_contiguous() && convert(src, dst)? {
        return Ok(());
    }
    with_dtype!(src.dtype(), S => with_dtype!(dst.dtype(), D => {
        let source = src.storage_slice::<S>()?;
        let target = dst.storage_mut::<D>()?;
        if S::DTYPE == D::DTYPE {
            copy_same(bytemuck::cast_slice(source), target, &from, &to);
        } else {
            each_pair(&from, &to, |i, j| target[j] = D::from_f64(source[i].to_f64()));
        }
    }));
    Ok(())
}

/// Conversions between contiguous f32 and 16-bit tensors; false for other types.
fn convert(src: &Tensor, dst: &mut Tensor) -> Result<bool> {
    match (src.dtype(), dst.dtype()) {
        (DType::F32, DType::Bf16) => convert::narrow_bf16(src.as_slice()?, dst.as_mut_slice()?),
        (DType::F32, DType::F16) => convert::narrow_f16(src.as_slice()?, dst.as_mut_slice()?),
        (DType::Bf16, DType::F32) => convert::widen_bf16(src.as_slice()?, dst.as_mut_slice()?),
        (DType::F16, DType::F32) => convert::widen_f16(src.as_slice()?, dst.as_mut_slice()?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn copy_same<T: Element>(source: &[T], target: &mut [T], from: &Layout, to: &Layout) {
    let walk = Walk::new([from, to]);
    if walk.shape.count() == 0 {
        return;
    }
    let target = Disjoint::new(target);
    let rank = walk.shape.len();
    if walk.run().1 == [1, 1] || rank == 1 || walk.strides[0][rank - 2] != 1 {
        walk.each(|at, n, step| {
            // SAFETY: `to` repeats no element, so runs do not overlap.
            let y = unsafe { target.slice(at[1]..at[1] + n.saturating_sub(1) * step[1] + 1) };
            match step {
                [1, 1] => y.copy_from_slice(&source[at[0]..at[0] + n]),
                [0, 1] => y.fill(source[at[0]]),
                _ => (0..n).for_each(|i| y[i * step[1]] = source[at[0] + i * step[0]]),
            }
        });
        return;
    }
    // The source runs along the last axis but one: a transposition, block by block.
    let (rows, cols) = (walk.shape[rank - 2], walk.shape[rank - 1]);
    let strides = walk.strides.map(|s| (s[rank - 2], s[rank - 1]));
    let lead = |k: usize| Layout {
        shape: Dims::new(&walk.shape[..rank - 2]).unwrap_or(Dims::SCALAR),
        strides: Dims::new(&walk.strides[k][..rank - 2]).unwrap_or(Dims::SCALAR),
        offset: walk.offsets[k],
    };
    let matrices = Walk::new([&lead(0), &lead(1)]);
    let blocks = rows.div_ceil(SIDE);
    let (count, step) = matrices.run();
    threads::par_chunks(
        matrices.shape.count() * blocks,
        (GRAIN / (SIDE * cols)).max(1),
        |pieces| {
            for piece in pieces {
                let (matrix, first) = (piece / blocks, piece % blocks * SIDE);
                let start = matrices.start(matrix / count);
                let at: [usize; 2] = std::array::from_fn(|k| {
                    start[k] + matrix % count * step[k] + first * strides[k].0
                });
                for col in (0..cols).step_by(SIDE) {
                    for i in 0..SIDE.min(rows - first) {
                        for j in col..cols.min(col + SIDE) {
                            let to = at[1] + i * strides[1].0 + j * strides[1].1;
                            // SAFETY: `to` repeats no element, and each is visited once.
                            let y = unsafe { target.slice(to..to + 1) };
                            y[0] = source[at[0] + i * strides[0].0 + j * strides[0].1];
                        }
                    }
                }
            }
        },
    );
}

/// `dst += alpha · src`; elements that `dst` shows more than once are summed in row-major order.
pub(super) fn accumulate(dst: &mut Tensor, src: &Tensor, alpha: f32) -> Result<()> {
    let (from, to) = (*src.layout(), *dst.layout());
    let source = src.storage_slice::<f32>()?;
    let target = dst.storage_mut::<f32>()?;
    if !is_injective(&to) {
        each_pair(&from, &to, |i, j| {
            target[j] = alpha.mul_add(source[i], target[j]);
        });
        return Ok(());
    }
    let target = Disjoint::new(target);
    Walk::new([&from, &to]).each(|at, n, step| {
        // SAFETY: `to` repeats no element, so runs do not overlap.
        let y = unsafe { target.slice(at[1]..at[1] + n.saturating_sub(1) * step[1] + 1) };
        let x = &source[at[0]..];
        simd::dispatch(
            #[inline(always)]
            || match step {
                [1, 1] => y
                    .iter_mut()
                    .zip(x)
                    .for_each(|(y, x)| *y = alpha.mul_add(*x, *y)),
                _ => (0..n)
                    .for_each(|i| y[i * step[1]] = alpha.mul_add(x[i * step[0]], y[i * step[1]])),
            },
        );
    });
    Ok(())
}
