//! Softmax and its logarithm over the rows of a matrix.
//!
//! ```text
//! lse = ln Σ eˣ      y = e^(x − lse)      dx = y (dy − Σ y dy)
//!                    y = x − lse          dx = dy − eʸ Σ dy
//! ```
//!
//! A warp has a row; see `ptx/row.ptx`. FLOPs: some 30 an element, for the exponentials. Bytes: x in and y out; y and dy in and dx
//! out. Error: that of a sum of n numbers, n u relative to it (Higham 2002, §4.2), and the exponential's ulp.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::{self, Rows};
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[
        ("softmax.ptx", include_str!("../ptx/softmax.ptx")),
        ("log_sum_exp.ptx", include_str!("../ptx/log_sum_exp.ptx")),
        ("row.ptx", include_str!("../ptx/row.ptx")),
        ("function.ptx", include_str!("../ptx/function.ptx")),
        ("math.ptx", include_str!("../ptx/math.ptx")),
    ],
};

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The logarithm of it.
    pub log: bool,
    /// The gradient.
    pub backward: bool,
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

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match (self.log, self.backward) {
            (false, false) => "softmax",
            (false, true) => "softmax_gradient",
            (true, false) => "log_softmax",
            (true, true) => "log_softmax_gradient",
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
            log: bool,
            backward: bool,
            threads: u32,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            log: self.log,
            backward: self.backward,
            threads: kernels::ROW_THREADS,
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
        let name = self.variant.name();
        let Some(Rows { rows, n, grid }) = Rows::new(name, self.rows, self.n)? else {
            return Ok(());
        };
        let arguments = Arguments {
            x: self.x,
            y: self.y,
            dy: self.dy,
            rows,
            n,
        };
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe { kernels.launch(name, grid, &arguments, stream, || self.variant.expand()) }
    }
}
