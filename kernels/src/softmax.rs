//! Softmax and its logarithm over the rows of a matrix.
//!
//! ```text
//! lse = ln Σ eˣ      y = e^(x − lse)      dx = y (dy − Σ y dy)
//!                    y = x − lse          dx = dy − eʸ Σ dy
//! ```
//!
//! A row up to [`Row::MOST`] long is loaded once, into the registers of a warp or a block; see `ptx/held.ptx`. A longer one is a warp's,
//! which reads it for the sum and again for the result; see `ptx/row.ptx`. FLOPs: some 25 an element, for an exponential. Bytes at
//! least: x in and y out; y and dy in and dx out ([`Softmax::minimum_bytes`]). Error: that of a sum of n numbers, n u relative to it
//! (Higham 2002, §4.2), and the exponential's ulp.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::{Grid, ROW_THREADS, Rows};
pub use crate::row::Row;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[
        ("softmax.ptx", include_str!("../ptx/softmax.ptx")),
        ("held.ptx", include_str!("../ptx/held.ptx")),
        ("log_sum_exp.ptx", include_str!("../ptx/log_sum_exp.ptx")),
        ("row.ptx", include_str!("../ptx/row.ptx")),
        ("function.ptx", include_str!("../ptx/function.ptx")),
        ("math.ptx", include_str!("../ptx/math.ptx")),
    ],
};

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The logarithm of it.
    pub log: bool,
    /// The gradient.
    pub backward: bool,
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// What is computed.
    pub variant: Variant,
    /// Who has a row.
    pub row: Row,
}

/// A softmax, or its gradient, to launch; all f32 and contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Softmax {
    /// Which.
    pub variant: Variant,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub n: usize,
    /// Address of x; of dx, which is written, in the gradient.
    pub x: u64,
    /// Address of y.
    pub y: u64,
    /// Address of dy; read by the gradient alone.
    pub dy: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    x: u64,
    y: u64,
    dy: u64,
    rows: u32,
    n: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Variant {
    /// One of each.
    pub const ALL: [Variant; 4] = [
        Variant {
            log: false,
            backward: false,
        },
        Variant {
            log: false,
            backward: true,
        },
        Variant {
            log: true,
            backward: false,
        },
        Variant {
            log: true,
            backward: true,
        },
    ];

    fn name(self) -> &'static str {
        match (self.log, self.backward) {
            (false, false) => "softmax",
            (false, true) => "softmax_gradient",
            (true, false) => "log_softmax",
            (true, true) => "log_softmax_gradient",
        }
    }
}

impl Kernel {
    /// Every kernel.
    pub fn all() -> impl Iterator<Item = Kernel> {
        Row::all().flat_map(|row| Variant::ALL.map(|variant| Kernel { variant, row }))
    }

    /// The kernel's name.
    pub fn name(self) -> String {
        self.row.named(self.variant.name())
    }

    /// Threads of a block.
    pub fn threads(self) -> usize {
        self.row.lanes().max(ROW_THREADS as usize)
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: String,
            log: bool,
            backward: bool,
            threads: usize,
            lanes: usize,
            held: usize,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            log: self.variant.log,
            backward: self.variant.backward,
            threads: self.threads(),
            lanes: self.row.lanes(),
            held: self.row.held(),
            at: crate::offsets!(Arguments: x y dy rows n),
        })
    }
}

impl Softmax {
    /// Bytes that any kernel moves.
    pub fn minimum_bytes(&self) -> u64 {
        let matrices = if self.variant.backward { 3 } else { 2 };
        4 * (matrices * self.rows * self.n) as u64
    }

    /// Launches it on a stream. An empty matrix launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// The matrices must lie in memory of the stream's device, free of other use until the stream has come past; dx may be y or dy.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let rows = Rows::new(self.variant.name(), self.rows, self.n)?;
        let Some(Rows { rows, n, grid }) = rows else {
            return Ok(());
        };
        let kernel = Kernel {
            variant: self.variant,
            row: Row::of(self.n),
        };
        let grid = match kernel.row {
            Row::Warp(_) | Row::Walk => grid,
            Row::Block(_) => Grid {
                blocks: [rows, 1, 1],
                threads: kernel.threads() as u32,
                shared: 0,
            },
        };
        let arguments = Arguments {
            x: self.x,
            y: self.y,
            dy: self.dy,
            rows,
            n,
        };
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe { kernels.launch(&kernel.name(), grid, &arguments, stream, || kernel.expand()) }
    }
}
