//! Layer norm (Ba, Kiros & Hinton 2016) and RMS norm (Zhang & Sennrich 2019) of the rows of a matrix, and their gradients.
//!
//! ```text
//! y = g ⊙ (x − μ) r + b        r = (mean (x − μ)² + ε)^-½        RMS: μ = 0, no b
//! dx = r (u − mean u − (x − μ) r² mean(u (x − μ))) + β dx        u = g ⊙ dy        RMS: without mean u
//! dg = Σ_rows dy ⊙ (x − μ) r        db = Σ_rows dy
//! ```
//!
//! Forward and dx give a row to a warp (`ptx/row.ptx`); dg and db, a column of a part of the rows to a thread, and the parts' sums
//! are left to a reduction. FLOPs: 8, 13 and 4 an element. Bytes: x in, y out; x and dy in, dx out; x and dy in. Errors: those of sums
//! of n numbers, n u each (Higham 2002, §4.2).

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::{self, Grid, Rows};
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[
        ("norm.ptx", include_str!("../ptx/norm.ptx")),
        ("row.ptx", include_str!("../ptx/row.ptx")),
    ],
};

/// Rows of a part that are summed by one thread.
const PART: usize = 64;

/// What a launch computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// y and the statistics.
    Forward {
        /// ε.
        eps: f32,
    },
    /// dx.
    Backward {
        /// Factor of what dx holds; 0 ignores it.
        beta: f32,
    },
    /// dg and db of each part.
    Columns,
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variant {
    /// Layer norm, not RMS norm.
    pub centred: bool,
    /// Which.
    pub kind: Kind,
}

/// A norm, or a part of its gradient, to launch; all f32 and contiguous.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Which.
    pub variant: Variant,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub n: usize,
    /// Address of x.
    pub x: u64,
    /// Address of g.
    pub gain: u64,
    /// Address of b, of a centred forward.
    pub bias: u64,
    /// Address of μ and r of each row.
    pub stats: u64,
    /// Address of dy, of a gradient.
    pub dy: u64,
    /// Address of the result: y, dx, or `[parts, 2, n]`.
    pub out: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    x: u64,
    gain: u64,
    bias: u64,
    stats: u64,
    dy: u64,
    out: u64,
    rows: u32,
    n: u32,
    part: u32,
    eps: f32,
    beta: f32,
    _pad: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Variant {
    /// One of each text.
    pub fn all() -> impl Iterator<Item = Variant> {
        [true, false].into_iter().flat_map(|centred| {
            [
                Kind::Forward { eps: 0.0 },
                Kind::Backward { beta: 0.0 },
                Kind::Columns,
            ]
            .map(|kind| Variant { centred, kind })
        })
    }

    fn kind(self) -> &'static str {
        match self.kind {
            Kind::Forward { .. } => "forward",
            Kind::Backward { .. } => "backward",
            Kind::Columns => "columns",
        }
    }

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match (self.centred, self.kind) {
            (true, Kind::Forward { .. }) => "layer_norm",
            (true, Kind::Backward { .. }) => "layer_norm_gradient",
            (true, Kind::Columns) => "layer_norm_columns",
            (false, Kind::Forward { .. }) => "rms_norm",
            (false, Kind::Backward { .. }) => "rms_norm_gradient",
            (false, Kind::Columns) => "rms_norm_columns",
        }
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: &'static str,
            kind: &'static str,
            centred: bool,
            threads: u32,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            kind: self.kind(),
            centred: self.centred,
            threads: kernels::ROW_THREADS,
            at: crate::offsets!(Arguments: x gain bias stats dy out rows n part eps beta),
        })
    }
}

impl Norm {
    /// Parts of so many rows, whose sums [`Kind::Columns`] gives.
    pub fn parts(rows: usize) -> usize {
        rows.div_ceil(PART)
    }

    /// Launches it on a stream. An empty matrix launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// All operands must lie in memory of the stream's device, free of other use until the stream has come past; the result
    /// overlaps none of them.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let name = self.variant.name();
        let Some(Rows { rows, n, mut grid }) = Rows::new(name, self.rows, self.n)? else {
            return Ok(());
        };
        let (mut eps, mut beta) = (0.0, 0.0);
        match self.variant.kind {
            Kind::Forward { eps: own } => eps = own,
            Kind::Backward { beta: own } => beta = own,
            Kind::Columns => {
                grid = Grid::over(n, kernels::ROW_THREADS);
                grid.blocks[1] = Self::parts(self.rows) as u32;
            }
        }
        if grid.blocks[1] > 65_535 {
            return Err(KernelError::Argument {
                kernel: name,
                what: format!("{rows} rows: wanted {} at most; split them", 65_535 * PART),
            });
        }
        let arguments = Arguments {
            x: self.x,
            gain: self.gain,
            bias: self.bias,
            stats: self.stats,
            dy: self.dy,
            out: self.out,
            rows,
            n,
            part: PART as u32,
            eps,
            beta,
            _pad: 0,
        };
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe { kernels.launch(name, grid, &arguments, stream, || self.variant.expand()) }
    }
}
