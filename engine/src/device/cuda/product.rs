//! Matrix products: strided views on their way to the kernel, which takes matrices by rows or by columns.

use deltaw_kernels::gemm::{Activation, Gemm as Product, Matrix, Output, Type};

use super::{Cuda, failed};
use crate::device::Gemm;
use crate::device::cpu::walk::Walk;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::tensor::Tensor;

/// The most products of one launch.
const MOST: usize = 65_535;

/// Where a matrix of `[rows, columns]` with these strides lies, if its rows or its columns are contiguous.
fn matrix([rows, columns]: [usize; 2], [down, across]: [usize; 2]) -> Option<Matrix> {
    let place = |stride: usize, transposed| Matrix {
        pointer: 0,
        stride,
        batch_stride: 0,
        transposed,
    };
    // A single row or column lies anywhere.
    let fits = |count: usize, stride: usize, len: usize| count <= 1 || stride >= len;
    if (across == 1 || columns <= 1) && fits(rows, down, columns) {
        return Some(place(down.max(columns), false));
    }
    ((down == 1 || rows <= 1) && fits(columns, across, rows)).then(|| place(across.max(rows), true))
}

/// A batch of matrices `[…, rows, columns]` as they are multiplied.
struct Side {
    tensor: Tensor,
    matrix: Matrix,
}

impl Side {
    fn new(x: &Tensor, transposed: bool) -> Result<Side> {
        let side = |x: &Tensor| {
            let (s, t, r) = (x.shape(), &x.layout().strides, x.rank());
            let (mut size, mut strides) = ([s[r - 2], s[r - 1]], [t[r - 2], t[r - 1]]);
            if transposed {
                size.reverse();
                strides.reverse();
            }
            matrix(size, strides)
        };
        let wide = if x.dtype() == DType::F32 {
            x.detach()
        } else {
            x.converted(DType::F32)?
        };
        let (tensor, found) = match side(&wide) {
            Some(found) => (wide, Some(found)),
            None => {
                let packed = wide.packed()?;
                let found = side(&packed);
                (packed, found)
            }
        };
        let matrix = found.ok_or_else(|| {
            Error::shape(
                "matmul",
                format!("{:?} cannot be laid out by rows", tensor.shape()),
            )
        })?;
        Ok(Side { tensor, matrix })
    }

    /// The leading axes, repeated to the batch.
    fn lead(&self, batch: &Dims) -> Result<Layout> {
        let (layout, lead) = (self.tensor.layout(), self.tensor.rank() - 2);
        let own = Layout {
            shape: Dims::new(&layout.shape[..lead])?,
            strides: Dims::new(&layout.strides[..lead])?,
            offset: layout.offset,
        };
        own.broadcast(batch).ok_or_else(|| {
            Error::shape(
                "matmul",
                format!(
                    "{:?} does not broadcast to a batch of {batch:?}",
                    self.tensor.shape()
                ),
            )
        })
    }

    fn at(&self, base: u64, element: usize, step: usize) -> Matrix {
        Matrix {
            pointer: base + 4 * element as u64,
            batch_stride: step,
            ..self.matrix
        }
    }
}

/// [`crate::device::Backend::gemm`]; a right-hand side of 16 bits is widened first.
pub(super) fn batched(
    cuda: &Cuda,
    gemm: Gemm,
    a: &Tensor,
    b: &Tensor,
    c: &mut Tensor,
) -> Result<()> {
    a.expect_dtype("matmul", DType::F32)?;
    let rank = c.rank();
    let (m, n) = (c.shape()[rank - 2], c.shape()[rank - 1]);
    let k = a.shape()[a.rank() - if gemm.trans_a { 2 } else { 1 }];
    let batch = Dims::new(&c.shape()[..rank - 2])?;
    let (a, b) = (Side::new(a, gemm.trans_a)?, Side::new(b, gemm.trans_b)?);
    let own = *c.layout();
    let lead = Layout {
        shape: batch,
        strides: Dims::new(&own.strides[..rank - 2])?,
        offset: own.offset,
    };
    let walk = Walk::new([&lead, &a.lead(&batch)?, &b.lead(&batch)?]);
    let to = cuda.address_mut("matmul", c)? - 4 * own.offset as u64;
    let from = [&a, &b].map(|x| cuda.block("matmul", &x.tensor));
    let [a_base, b_base] = from;
    let (a_base, b_base) = (a_base?.address(), b_base?.address());
    let (count, step) = walk.run();
    for r in 0..batch.count().checked_div(count).unwrap_or(0) {
        let start = walk.start(r);
        for first in (0..count).step_by(MOST) {
            let at: [usize; 3] = std::array::from_fn(|k| start[k] + first * step[k]);
            let y = Matrix {
                pointer: to + 4 * at[0] as u64,
                stride: n,
                batch_stride: step[0],
                transposed: false,
            };
            let product = Product {
                operands: Type::F32,
                output: Output::F32,
                m,
                n,
                k,
                batch: MOST.min(count - first),
                a: a.at(a_base, at[1], step[1]),
                b: b.at(b_base, at[2], step[2]),
                extension: None,
                alpha: gemm.alpha,
                bias: None,
                activation: Activation::Identity,
                residual: (gemm.beta != 0.0).then_some((gemm.beta, y)),
                y,
            };
            // SAFETY: the layouts lie within their tensors; `c` is contiguous, unshared and no operand.
            unsafe { product.launch(&cuda.kernels, &cuda.stream) }
                .map_err(|e| failed("matmul", &[&a.tensor, &b.tensor], e))?;
        }
    }
    Ok(())
}
