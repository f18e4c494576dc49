//! Matrix products of CPU tensors: strides and element types on their way to [`crate::cpu::gemm`].

use super::walk::Walk;
use crate::cpu::gemm as kernel;
use crate::device::Gemm;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::tensor::Tensor;

/// [`crate::device::Backend::gemm`].
pub(super) fn batched(gemm: Gemm, a: &Tensor, b: &Tensor, c: &mut Tensor) -> Result<()> {
    let rank = c.rank();
    let (m, n) = (c.shape()[rank - 2], c.shape()[rank - 1]);
    let k = a.shape()[a.rank() - if gemm.trans_a { 2 } else { 1 }];
    let batch = Dims::new(&c.shape()[..rank - 2])?;
    let view = |x: &Tensor| {
        x.broadcast_view(
            "matmul",
            &Dims::new(&[&*batch, &x.shape()[x.rank() - 2..]].concat())?,
        )
    };
    let (a, b) = (view(a)?, view(b)?);
    let matrix = |x: &Tensor, transposed: bool| {
        let (rows, cols) = (x.layout().strides[rank - 2], x.layout().strides[rank - 1]);
        if transposed {
            kernel::Layout {
                rows: cols,
                cols: rows,
            }
        } else {
            kernel::Layout { rows, cols }
        }
    };
    let (la, lb) = (matrix(&a, gemm.trans_a), matrix(&b, gemm.trans_b));
    let dims = kernel::Dims { m, n, k };
    let scale = kernel::Scale {
        alpha: gemm.alpha,
        beta: gemm.beta,
    };
    // Starts of the matrices: one step per operand where the batch axes merge, else each on its own.
    let lead = |x: &Tensor| Layout {
        shape: batch,
        strides: Dims::new(&x.layout().strides[..rank - 2]).unwrap_or(Dims::SCALAR),
        offset: x.layout().offset,
    };
    let (wa, wb, wc) = (lead(&a), lead(&b), lead(c));
    let walk = Walk::new([&wc, &wa, &wb]);
    let source = a.storage_slice::<f32>()?;
    with_operand(&b, |operand| {
        let target = c.storage_mut::<f32>()?;
        let (count, step) = walk.run();
        for r in 0..batch.count() / count.max(1) {
            let [at_c, at_a, at_b] = walk.start(r);
            macro_rules! run {
                ($b:expr) => {
                    kernel::gemm_batched(
                        count,
                        dims,
                        scale,
                        (&source[at_a.min(source.len())..], la, step[1]),
                        (&$b[at_b.min($b.len())..], lb, step[2]),
                        (&mut target[at_c..], n, step[0]),
                    )
                };
            }
            match operand {
                Operand::F32(b) => run!(b),
                Operand::Bf16(b) => run!(b),
                Operand::F16(b) => run!(b),
            }
        }
        Ok(())
    })
}

/// `C = α·op(A)·(op(B) + term) + β·C + bias` of CPU matrices, with A f32 and each transposed or not; C is contiguous.
///
/// # Errors
/// Element types other than f32 · (f32, bf16, f16) → f32.
pub(crate) fn product_with(
    (a, trans_a): (&Tensor, bool),
    (b, trans_b): (&Tensor, bool),
    extra: kernel::Extra,
    alpha: f32,
    beta: f32,
    c: &mut Tensor,
) -> Result<()> {
    let matrix = |x: &Tensor, transposed: bool| {
        let (rows, cols) = (x.layout().strides[0], x.layout().strides[1]);
        if transposed {
            kernel::Layout {
                rows: cols,
                cols: rows,
            }
        } else {
            kernel::Layout { rows, cols }
        }
    };
    let (la, lb) = (matrix(a, trans_a), matrix(b, trans_b));
    let (m, n) = (c.shape()[0], c.shape()[1]);
    let k = a.shape()[if trans_a { 0 } else { 1 }];
    let (dims, scale) = (kernel::Dims { m, n, k }, kernel::Scale { alpha, beta });
    let (start_a, start_b) = (a.layout().offset, b.layout().offset);
    let a = (
        a.storage_slice::<f32>()?.get(start_a..).unwrap_or_default(),
        la,
    );
    with_operand(b, |operand| {
        let c = (c.as_mut_slice::<f32>()?, n);
        macro_rules! run {
            ($b:expr) => {
                kernel::gemm_with(
                    dims,
                    scale,
                    a,
                    ($b.get(start_b..).unwrap_or_default(), lb),
                    extra,
                    c,
                )
            };
        }
        match operand {
            Operand::F32(b) => run!(b),
            Operand::Bf16(b) => run!(b),
            Operand::F16(b) => run!(b),
        }
        Ok(())
    })
}

/// The right-hand side of a product in its own type.
enum Operand<'a> {
    F32(&'a [f32]),
    Bf16(&'a [half::bf16]),
    F16(&'a [half::f16]),
}

fn with_operand<R>(b: &Tensor, f: impl FnOnce(Operand) -> Result<R>) -> Result<R> {
    match b.dtype() {
        DType::F32 => f(Operand::F32(b.storage_slice()?)),
        DType::Bf16 => f(Operand::Bf16(b.storage_slice()?)),
        DType::F16 => f(Operand::F16(b.storage_slice()?)),
        got => Err(Error::DType {
            op: "matmul",
            operand: "rhs",
            got,
            want: "f32, bf16 or f16",
        }),
    }
}
