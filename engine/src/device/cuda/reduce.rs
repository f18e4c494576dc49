//! Reductions: one group of adjacent axes after the other, from the last, each in parts of a size that depends on sizes alone.

use deltaw_kernels::reduce::{self as kernel, Fold};

use super::{Cuda, failed, map};
use crate::device::Reduce;
use crate::device::axes::{Groups, Step};
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

/// `[outer, n, inner] → [outer, inner]`, of contiguous tensors.
fn step(cuda: &Cuda, fold: Fold, x: &Tensor, size: [usize; 3], out: &mut Tensor) -> Result<()> {
    let [outer, n, inner] = size;
    let part = kernel::part(outer, n, inner);
    let parts = n.div_ceil(part).max(1);
    let mut partial = (parts > 1)
        .then(|| Tensor::empty(&[outer, parts, inner], DType::F32, x.device()))
        .transpose()?;
    let reduce = kernel::Reduce {
        fold,
        size,
        part,
        x: cuda.address("reduce", x)?,
        y: cuda.address_mut("reduce", partial.as_mut().unwrap_or(out))?,
    };
    // SAFETY: the operands are contiguous tensors of these sizes, and the result is unshared.
    unsafe { reduce.launch(&cuda.kernels, &cuda.stream) }.map_err(|e| failed("reduce", &[x], e))?;
    match partial {
        Some(partial) => step(cuda, fold, &partial, [outer, parts, inner], out),
        None => Ok(()),
    }
}

/// [`crate::device::Backend::reduce`]; other types than f32 by way of f32.
pub(super) fn reduce(cuda: &Cuda, reduce: Reduce, x: &Tensor, out: &mut Tensor) -> Result<()> {
    if out.dtype() != DType::F32 {
        let mut result = Tensor::empty(out.shape(), DType::F32, out.device())?;
        self::reduce(cuda, reduce, &x.converted(DType::F32)?, &mut result)?;
        return map::copy(cuda, &result, out);
    }
    let fold = match reduce {
        Reduce::Sum => Fold::Sum,
        Reduce::Max => Fold::Max,
        Reduce::Min => Fold::Min,
    };
    let mut source = x.packed()?;
    for Step { sizes, last } in Groups::new(&x.layout().shape, &out.layout().shape) {
        if last {
            return step(cuda, fold, &source, sizes, out);
        }
        let mut next = Tensor::empty(&[sizes[0], sizes[2]], DType::F32, out.device())?;
        step(cuda, fold, &source, sizes, &mut next)?;
        source = next;
    }
    map::copy(cuda, &source, out)
}
