//! Matrix products: strided views on their way to the kernel, which takes matrices by rows or by columns.

use deltaw_kernels::gemm::{Activation, Extension, Gemm as Product, Matrix, Output};

use super::memory::{Block, Pool};
use super::{Cuda, failed};
use crate::device::Gemm;
use crate::device::cpu::walk::Walk;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::tensor::Tensor;

/// The most products of one launch.
const MOST: usize = 65_535;

/// What a product has around it.
#[derive(Default)]
pub(crate) struct Around<'a> {
    /// `[n]`, added to each row.
    pub bias: Option<&'a Tensor>,
    /// The second pair.
    pub second: Option<Pair<'a>>,
}

/// A second operand pair, whose product times `scale` is added: matrices of the first pair's orientation, each in a layout of its
/// own.
pub(crate) struct Pair<'a> {
    /// A₂.
    pub a: &'a Tensor,
    /// B₂.
    pub b: &'a Tensor,
    /// s.
    pub scale: f32,
}

/// Where a matrix of `[rows, columns]` with these strides lies, if its rows (or, transposed, its columns) are contiguous.
fn matrix(
    [rows, columns]: [usize; 2],
    [down, across]: [usize; 2],
    transposed: bool,
) -> Option<Matrix> {
    let (count, len, outer, inner) = if transposed {
        (columns, rows, across, down)
    } else {
        (rows, columns, down, across)
    };
    // A single row or column lies anywhere.
    let lies = (inner == 1 || len <= 1) && (count <= 1 || outer >= len);
    lies.then(|| Matrix {
        pointer: 0,
        stride: outer.max(len),
        batch_stride: 0,
        transposed,
    })
}

/// A batch of matrices `[…, rows, columns]` as they are multiplied.
struct Side {
    tensor: Tensor,
    matrix: Matrix,
}

impl Side {
    /// As it lies if it can be, else packed; `by_columns` is the way that is best, of those in which it may be seen to lie.
    fn new(x: &Tensor, transposed: bool, by_columns: bool) -> Result<Side> {
        let side = |x: &Tensor| {
            let (s, t, r) = (x.shape(), &x.layout().strides, x.rank());
            let (mut size, mut strides) = ([s[r - 2], s[r - 1]], [t[r - 2], t[r - 1]]);
            if transposed {
                size.reverse();
                strides.reverse();
            }
            matrix(size, strides, by_columns).or_else(|| matrix(size, strides, !by_columns))
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

/// Launches a product by its plan, with scratch memory from the pool.
///
/// # Errors
/// Of the pool, or within of the kernel.
///
/// # Safety
/// As for [`Product::launch`].
unsafe fn launch(
    cuda: &Cuda,
    product: &Product,
) -> Result<std::result::Result<(), deltaw_kernels::KernelError>> {
    let kernels = &cuda.kernels;
    let plan = product.plan(kernels.multiprocessors(), kernels.shared_limit());
    let bytes = plan.scratch_bytes(product);
    let scratch = (bytes > 0).then(|| Pool::take(&cuda.pool, bytes, "the sums of a split product"));
    let scratch = scratch.transpose()?;
    let address = scratch.as_ref().map_or(0, Block::address);
    // SAFETY: the caller's promise; what takes the block after this is later in the stream.
    Ok(unsafe { product.launch(&plan, address, kernels, &cuda.stream) })
}

/// [`crate::device::Backend::gemm`] with what surrounds it; a right-hand side of 16 bits is widened first.
pub(super) fn batched(
    cuda: &Cuda,
    gemm: Gemm,
    a: &Tensor,
    b: &Tensor,
    around: &Around,
    c: &mut Tensor,
) -> Result<()> {
    a.expect_dtype("matmul", DType::F32)?;
    let rank = c.rank();
    let (m, n) = (c.shape()[rank - 2], c.shape()[rank - 1]);
    let k = a.shape()[a.rank() - if gemm.trans_a { 2 } else { 1 }];
    let batch = Dims::new(&c.shape()[..rank - 2])?;
    let (a, b) = (
        Side::new(a, gemm.trans_a, false)?,
        Side::new(b, gemm.trans_b, false)?,
    );
    let second = match &around.second {
        Some(pair) => {
            let a = Side::new(pair.a, gemm.trans_a, a.matrix.transposed)?;
            let b = Side::new(pair.b, gemm.trans_b, b.matrix.transposed)?;
            Some((a, b, pair.scale))
        }
        None => None,
    };
    let extension = second.as_ref().map(|(a, b, scale)| {
        let place = |x: &Side| -> Result<Matrix> {
            Ok(Matrix {
                pointer: cuda.address("matmul", &x.tensor)?,
                ..x.matrix
            })
        };
        Ok(Extension {
            a: place(a)?,
            b: place(b)?,
            k: a.tensor.shape()[usize::from(!gemm.trans_a)],
            scale: *scale,
        })
    });
    let extension = extension.transpose()?;
    let bias = around.bias.map(|bias| bias.packed()).transpose()?;
    let bias = match &bias {
        Some(bias) => {
            bias.expect_dtype("matmul", DType::F32)?;
            Some(cuda.address("matmul", bias)?)
        }
        None => None,
    };
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
                // Columns of a wider matrix lie further apart than their own number.
                stride: own.strides[rank - 2].max(n),
                batch_stride: step[0],
                transposed: false,
            };
            let product = Product {
                operands: cuda.f32_products(),
                output: Output::F32,
                m,
                n,
                k,
                batch: MOST.min(count - first),
                a: a.at(a_base, at[1], step[1]),
                b: b.at(b_base, at[2], step[2]),
                extension,
                alpha: gemm.alpha,
                bias,
                activation: Activation::Identity,
                residual: (gemm.beta != 0.0).then_some((gemm.beta, y)),
                y,
                split: None,
            };
            // SAFETY: the layouts lie within their tensors; the rows of `c` are contiguous, and it is unshared and no operand.
            unsafe { launch(cuda, &product) }?
                .map_err(|e| failed("matmul", &[&a.tensor, &b.tensor], e))?;
        }
    }
    Ok(())
}
