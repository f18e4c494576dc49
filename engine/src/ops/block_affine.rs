//! Bone's update (Kang 2024): every block of W is changed by an affine map of itself, `ΔW_ij = W_ij·R_i + R_i`.
//!
//! ```text
//! W in r×r blocks, i over rows of blocks, j over columns      R [⌈m/r⌉, r, r], shared along a row of blocks
//! dR_i = Σ_j (W_ijᵀ + I)·G_ij      G = dyᵀ·x
//! ```
//!
//! A ragged last block is W's corner padded by zeros, whose update is cut back to W: the last column of blocks uses the leading
//! square of R_i twice over, the last row its leading rows as the constant. `2·m·n·r` FLOPs to make ΔW, as many for dR. On CUDA
//! devices see [`deltaw_kernels::block_affine`].

use std::ops::Range;

use deltaw_kernels::block_affine as kernel;

use crate::cpu::gemm::{Dims, Layout as Strides, Scale, gemm};
use crate::cpu::threads::{Disjoint, par_pieces};
use crate::device::cuda::{element, failed};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::produced::{DevicePanel, DeviceProducer, Panel, Producer, produced_linear};
use crate::pool::with_scratch;
use crate::tensor::Tensor;

/// Blocks of `r × r`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockAffine {
    /// r.
    pub block: usize,
}

impl BlockAffine {
    /// Hands over every row of blocks of a panel on a thread: its rows there, its place among all, W's part without gaps.
    fn each_block_row(self, panel: &Panel, f: impl Fn(Range<usize>, usize, &[f32]) + Sync) {
        let (b, n, count) = (self.block, panel.columns.len(), panel.rows.len());
        par_pieces(count.div_ceil(b), |i| {
            let (rows, place) = (i * b..count.min((i + 1) * b), panel.rows.start / b + i);
            if panel.stride == n {
                let part = rows.start * n..rows.end * n;
                return f(rows, place, &panel.weight[part]);
            }
            with_scratch(rows.len() * n, |room| {
                for (row, to) in rows.clone().zip(room.chunks_exact_mut(n)) {
                    to.copy_from_slice(panel.weight_row(row));
                }
                f(rows, place, room);
            });
        });
    }

    /// Runs of whole blocks in `rows` rows of `n`: (how many, elements between them, blocks in each).
    fn runs(self, rows: usize, n: usize) -> (usize, usize, usize) {
        let whole = n / self.block;
        if n.is_multiple_of(self.block) {
            (1, 0, rows * whole)
        } else {
            (rows, n, whole)
        }
    }

    /// `out = W_i·R + R` added to one row of blocks, `rows` rows of `n`.
    fn block_row(self, weight: &[f32], r: &[f32], n: usize, out: &mut [f32]) {
        let (b, rows) = (self.block, weight.len() / n.max(1));
        let (count, step, blocks) = self.runs(rows, n);
        let square = Strides::row_major(b);
        for run in 0..if blocks == 0 { 0 } else { count } {
            let at = run * step;
            gemm(
                Dims {
                    m: blocks,
                    n: b,
                    k: b,
                },
                Scale::ADD,
                (&weight[at..], square),
                (r, square),
                (&mut out[at..], b),
            );
        }
        let (start, ragged) = (n / b * b, n % b);
        if ragged > 0 {
            gemm(
                Dims {
                    m: rows,
                    n: ragged,
                    k: ragged,
                },
                Scale::ADD,
                (&weight[start..], Strides::row_major(n)),
                (r, square),
                (&mut out[start..], n),
            );
        }
        for (row, constant) in out.chunks_exact_mut(n.max(1)).zip(r.chunks_exact(b)) {
            for part in row.chunks_mut(b) {
                part.iter_mut().zip(constant).for_each(|(y, c)| *y += c);
            }
        }
    }

    /// `dR += Σ_j (W_ijᵀ + I)·G_ij` of one row of blocks.
    fn contract_row(self, weight: &[f32], g: &[f32], n: usize, dr: &mut [f32]) {
        let (b, rows) = (self.block, weight.len() / n.max(1));
        let (count, step, blocks) = self.runs(rows, n);
        let (square, turned) = (Strides::row_major(b), Strides::transposed(b));
        for run in 0..if blocks == 0 { 0 } else { count } {
            let at = run * step;
            gemm(
                Dims {
                    m: b,
                    n: b,
                    k: blocks,
                },
                Scale::ADD,
                (&weight[at..], turned),
                (&g[at..], square),
                (&mut *dr, b),
            );
        }
        let (start, ragged) = (n / b * b, n % b);
        if ragged > 0 {
            gemm(
                Dims {
                    m: ragged,
                    n: ragged,
                    k: rows,
                },
                Scale::ADD,
                (&weight[start..], Strides::transposed(n)),
                (&g[start..], Strides::row_major(n)),
                (&mut *dr, b),
            );
        }
        for (row, target) in g.chunks_exact(n.max(1)).zip(dr.chunks_exact_mut(b)) {
            for part in row.chunks(b) {
                target.iter_mut().zip(part).for_each(|(y, x)| *y += x);
            }
        }
    }
}

impl Producer for BlockAffine {
    type Prepared = ();

    fn name(&self) -> &'static str {
        "block_affine"
    }

    fn check(&self, m: usize, _: usize, params: &[&Tensor]) -> Result<()> {
        let b = self.block;
        let [r] = params else {
            return Err(Error::shape(
                "block_affine",
                format!("{} parameters, wanted R alone", params.len()),
            ));
        };
        if b == 0 {
            return Err(Error::shape(
                "block_affine",
                "blocks of 0 rows; wanted at least 1",
            ));
        }
        r.expect_shape("block_affine", "R", &[m.div_ceil(b), b, b])
    }

    fn dense(&self, weight: &Tensor, params: &[&Tensor]) -> Result<Tensor> {
        let (m, n, b) = (weight.shape()[0], weight.shape()[1], self.block);
        self.check(m, n, params)?;
        let (rows, columns) = (m.div_ceil(b), n.div_ceil(b));
        let w = weight.cast(DType::F32)?.pad(0, 0, rows * b - m)?;
        let w = w.pad(1, 0, columns * b - n)?;
        // [rows, columns, b, b]
        let blocks = w.reshape(&[rows, b, columns, b])?.permute(&[0, 2, 1, 3])?;
        let r = params[0].unsqueeze(1)?;
        blocks
            .matmul(&r)?
            .add(&r)?
            .permute(&[0, 2, 1, 3])?
            .reshape(&[rows * b, columns * b])?
            .narrow(0, 0, m)?
            .narrow(1, 0, n)
    }

    fn granularity(&self) -> usize {
        self.block
    }

    fn prepare(&self, _: usize, _: usize, _: &[&[f32]]) -> Result<()> {
        Ok(())
    }

    fn produce(&self, _: &(), panel: &Panel, out: &mut [f32]) {
        let (b, n) = (self.block, panel.columns.len());
        let out = Disjoint::new(out);
        self.each_block_row(panel, |rows, r, weight| {
            // SAFETY: rows of blocks do not overlap, and each is one piece's.
            let own = unsafe { out.slice(rows.start * n..rows.end * n) };
            self.block_row(weight, &panel.params[0][r * b * b..][..b * b], n, own);
        });
    }

    fn contract(&self, _: &(), panel: &Panel, g: &[f32], grads: &mut [&mut [f32]]) {
        let (b, n) = (self.block, panel.columns.len());
        let dr = Disjoint::new(&mut *grads[0]);
        self.each_block_row(panel, |rows, r, weight| {
            // SAFETY: every row of blocks has a square of its own.
            let own = unsafe { dr.slice(r * b * b..(r + 1) * b * b) };
            self.contract_row(weight, &g[rows.start * n..rows.end * n], n, own);
        });
    }

    fn on_device(&self) -> Option<&dyn DeviceProducer> {
        Some(self)
    }
}

impl BlockAffine {
    fn kernel(self, panel: &DevicePanel) -> Result<kernel::BlockAffine> {
        Ok(kernel::BlockAffine {
            rows: panel.weight.rows(),
            n: panel.weight.last_dim(),
            block: self.block,
            element: element("block_affine", panel.weight)?,
            w: panel.cuda.address("block_affine", panel.weight)?,
        })
    }

    /// Bytes from the first square of R or dR to the panel's first.
    fn squares(self, panel: &DevicePanel) -> u64 {
        (panel.first * self.block * size_of::<f32>()) as u64
    }
}

impl DeviceProducer for BlockAffine {
    fn produce(&self, panel: &DevicePanel) -> Result<Tensor> {
        let (call, name) = (self.kernel(panel)?, "block_affine");
        let mut out = Tensor::empty(panel.weight.shape(), DType::F32, panel.weight.device())?;
        let r = panel.cuda.address(name, panel.params[0])? + self.squares(panel);
        let to = panel.cuda.address_mut(name, &mut out)?;
        let (kernels, stream) = panel.cuda.launcher();
        // SAFETY: the operands are contiguous tensors of this device and of these sizes, and the result is unshared.
        let launched = unsafe { call.produce(r, to, kernels, stream) };
        launched.map_err(|e| failed(name, &[panel.weight, panel.params[0]], e))?;
        Ok(out)
    }

    fn contract(&self, panel: &DevicePanel, g: &Tensor, grads: &mut [Tensor]) -> Result<()> {
        let (call, name) = (self.kernel(panel)?, "block_affine");
        let (kernels, stream) = panel.cuda.launcher();
        let parts = call.parts(kernels.multiprocessors());
        let sums = [parts, call.blocks(), self.block, self.block];
        let mut sums = Tensor::empty(&sums, DType::F32, g.device())?;
        let [from, to] = [&mut sums, &mut grads[0]].map(|x| panel.cuda.address_mut(name, x));
        let (from, to) = (from?, to? + self.squares(panel));
        let g_at = panel.cuda.address(name, g)?;
        // SAFETY: as in `produce`; the sums have room for all parts, and stay until what takes their memory comes later in the stream.
        let launched = unsafe { call.contract(g_at, to, from, kernels, stream) };
        launched.map_err(|e| failed(name, &[panel.weight, g], e))
    }
}

/// `x·(W + ΔW)ᵀ + b` with `ΔW_ij = W_ij·R_i + R_i` on blocks of `r × r`, r the last size of R `[⌈m/r⌉, r, r]`; W is frozen.
///
/// # Errors
/// Shapes that do not fit, or a W that is trained.
pub fn block_affine_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    r: &Tensor,
) -> Result<Tensor> {
    let producer = BlockAffine {
        block: r.shape().last().copied().unwrap_or(0),
    };
    produced_linear(producer, x, weight, bias, &[r])
}
