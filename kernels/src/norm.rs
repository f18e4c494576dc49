//! Layer norm (Ba, Kiros & Hinton 2016) and RMS norm (Zhang & Sennrich 2019) of the rows of a matrix, and their gradients.
//!
//! ```text
//! y = g ⊙ (x − μ) r + b        r = (mean (x − μ)² + ε)^-½        RMS: μ = 0, no b
//! dx = r (u − mean u − (x − μ) r² mean(u (x − μ))) + β dx        u = g ⊙ dy        RMS: without mean u
//! dg = Σ_rows dy ⊙ (x − μ) r        db = Σ_rows dy
//! ```
//!
//! A row up to [`Row::MOST`] long is loaded once, into the registers of a warp or a block (`ptx/held.ptx`); a block has [`PART`] rows, for
//! which it loads g and b once, and makes dx and its rows' part of dg and db from the same registers. [`Sums`] adds the parts in their
//! order. A longer row is a warp's, which reads it once for each sum and again for the result, and its columns are a kernel's of their
//! own (`ptx/norm_walk.ptx`). FLOPs: 8 and 17 an element. Bytes at least: x in, y out; x and dy in, dx out. Errors: those of sums of n
//! numbers, n u each (Higham 2002, §4.2).

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::{Grid, ROW_THREADS, Rows};
use crate::row::Row;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

mod sums;

pub use sums::Sums;

const HELD: Template = Template {
    files: &[
        ("norm.ptx", include_str!("../ptx/norm.ptx")),
        ("held.ptx", include_str!("../ptx/held.ptx")),
        ("row.ptx", include_str!("../ptx/row.ptx")),
    ],
};

const WALK: Template = Template {
    files: &[
        ("norm_walk.ptx", include_str!("../ptx/norm_walk.ptx")),
        ("row.ptx", include_str!("../ptx/row.ptx")),
    ],
};

/// Rows of a part, whose sums over columns are left to [`Sums`]: a warp each in a block.
const PART: usize = Row::BLOCK / 32;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// y and the statistics.
    Forward {
        /// ε.
        eps: f32,
        /// Address of b, of layer norm.
        bias: u64,
        /// Address of y.
        y: u64,
    },
    /// dx and the parts' sums.
    Backward {
        /// Factor of what dx holds; 0 ignores it.
        beta: f32,
        /// Address of dy.
        dy: u64,
        /// Address of dx, or 0: then it is not made.
        dx: u64,
        /// Address of the sums `[parts, 2, n]` of dg and db, or 0.
        sums: u64,
    },
}

/// What a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// y and the statistics.
    Forward,
    /// dx; of held rows also the parts' sums.
    Backward,
    /// The parts' sums alone.
    Columns,
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Layer norm, not RMS norm.
    pub centred: bool,
    /// What it computes.
    pub step: Step,
    /// Who has a row.
    pub row: Row,
}

/// A norm, or its gradient, to launch; all f32 and contiguous.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Layer norm, not RMS norm.
    pub centred: bool,
    /// Which.
    pub kind: Kind,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub n: usize,
    /// Address of x.
    pub x: u64,
    /// Address of g.
    pub gain: u64,
    /// Address of μ and r of each row.
    pub stats: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    x: u64,
    gain: u64,
    bias: u64,
    stats: u64,
    y: u64,
    dy: u64,
    dx: u64,
    sums: u64,
    rows: u32,
    n: u32,
    eps: f32,
    beta: f32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Kernel {
    /// Every kernel.
    pub fn all() -> impl Iterator<Item = Kernel> {
        let steps = Row::all().flat_map(|row| {
            let columns = (row == Row::Walk).then_some(Step::Columns);
            [Step::Forward, Step::Backward]
                .into_iter()
                .chain(columns)
                .map(move |step| (row, step))
        });
        steps.flat_map(|(row, step)| [true, false].map(|centred| Kernel { centred, step, row }))
    }

    /// The kernel's name.
    pub fn name(self) -> String {
        let norm = if self.centred {
            "layer_norm"
        } else {
            "rms_norm"
        };
        self.row.named(&match self.step {
            Step::Forward => norm.to_owned(),
            Step::Backward => format!("{norm}_gradient"),
            Step::Columns => format!("{norm}_columns"),
        })
    }

    /// Threads of a block.
    pub fn threads(self) -> usize {
        match self.row {
            Row::Walk => ROW_THREADS as usize,
            _ => Row::BLOCK,
        }
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: String,
            centred: bool,
            kind: &'static str,
            backward: bool,
            threads: usize,
            lanes: usize,
            held: usize,
            part: usize,
            /// Of shared memory for a block's sums of four times 32 columns.
            columns_bytes: usize,
            at: crate::Offsets,
        }
        let template = match self.row {
            Row::Walk => WALK,
            _ => HELD,
        };
        template.expand(Values {
            name: self.name(),
            centred: self.centred,
            kind: match self.step {
                Step::Forward => "forward",
                Step::Backward => "backward",
                Step::Columns => "columns",
            },
            backward: self.step == Step::Backward,
            threads: self.threads(),
            lanes: self.row.lanes(),
            held: self.row.held(),
            part: PART,
            columns_bytes: if self.centred { 2 } else { 1 } * PART * 4 * 128,
            at: crate::offsets!(Arguments: x gain bias stats y dy dx sums rows n eps beta),
        })
    }
}

impl Norm {
    /// Parts of so many rows, whose sums are added afterwards.
    pub fn parts(rows: usize) -> usize {
        rows.div_ceil(PART)
    }

    /// Bytes that any kernel moves: the matrices and the statistics.
    pub fn minimum_bytes(&self) -> u64 {
        let matrices = match self.kind {
            Kind::Forward { .. } => 2,
            Kind::Backward { dx: 0, .. } => 2,
            Kind::Backward { beta: 0.0, .. } => 3,
            Kind::Backward { .. } => 4,
        };
        4 * (self.rows * (matrices * self.n + 2)) as u64
    }

    /// Launches it on a stream. An empty matrix launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// All operands must lie in memory of the stream's device, free of other use until the stream has come past; what is written
    /// overlaps none of them.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let kernel = |step| Kernel {
            centred: self.centred,
            step,
            row: Row::of(self.n),
        };
        let name = if self.centred {
            "layer_norm"
        } else {
            "rms_norm"
        };
        let Some(Rows { rows, n, grid }) = Rows::new(name, self.rows, self.n)? else {
            return Ok(());
        };
        let mut arguments = Arguments {
            x: self.x,
            gain: self.gain,
            bias: 0,
            stats: self.stats,
            y: 0,
            dy: 0,
            dx: 0,
            sums: 0,
            rows,
            n,
            eps: 0.0,
            beta: 0.0,
        };
        let launch = |step, grid, arguments: &Arguments| {
            let kernel = kernel(step);
            let grid = match kernel.row {
                Row::Walk => grid,
                _ => Grid {
                    blocks: [Self::parts(self.rows) as u32, 1, 1],
                    threads: kernel.threads() as u32,
                    shared: 0,
                },
            };
            // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
            unsafe { kernels.launch(&kernel.name(), grid, arguments, stream, || kernel.expand()) }
        };
        match self.kind {
            Kind::Forward { eps, bias, y } => {
                (arguments.eps, arguments.bias, arguments.y) = (eps, bias, y);
                launch(Step::Forward, grid, &arguments)
            }
            Kind::Backward { beta, dy, dx, sums } => {
                (arguments.beta, arguments.dy) = (beta, dy);
                (arguments.dx, arguments.sums) = (dx, sums);
                if kernel(Step::Backward).row != Row::Walk {
                    return launch(Step::Backward, grid, &arguments);
                }
                if dx != 0 {
                    launch(Step::Backward, grid, &arguments)?;
                }
                if sums != 0 {
                    let mut grid = Grid::over(n, ROW_THREADS);
                    grid.blocks[1] = Self::parts(self.rows) as u32;
                    if grid.blocks[1] > 65_535 {
                        return Err(KernelError::Argument {
                            kernel: name,
                            what: format!(
                                "{rows} rows: wanted {} at most; split them",
                                65_535 * PART
                            ),
                        });
                    }
                    launch(Step::Columns, grid, &arguments)?;
                }
                Ok(())
            }
        }
    }
}
