//! Dropout (Srivastava et al. 2014) with its random numbers made where they are used.
//!
//! ```text
//! y[r, c] = x[r, c] / (1 − p)  where number (r, c) of the stream's plane is below 1 − p, else 0        x, y [rows, width]
//! ```
//!
//! The numbers are those of [`crate::philox`], on the CPU and here; the gradient is the same function of dy, so that no mask is ever kept.
//! A thread has a block of four neighbours of a row. FLOPs: none worth counting. Bytes: 8 rows width.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::Grid;
use crate::philox;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[
        ("dropout.ptx", include_str!("../ptx/dropout.ptx")),
        philox::BLOCK,
    ],
};

const THREADS: u32 = 128;

/// A dropout to launch; f32 and contiguous.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// The stream.
    pub stream: [u32; 4],
    /// 1 − p.
    pub keep: f32,
    /// Address of x.
    pub x: u64,
    /// Address of y; it may be x's.
    pub y: u64,
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Neighbours that are moved at a time: 1 or 4.
    pub chunk: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    x: u64,
    y: u64,
    stream: [u32; 4],
    width: u32,
    /// Of four, of a row; and of all rows.
    blocks: u32,
    total: u32,
    keep: f32,
    scale: f32,
    _pad: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Variant {
    /// One of each.
    pub const ALL: [Variant; 2] = [Variant { chunk: 1 }, Variant { chunk: 4 }];

    /// The kernel's name.
    pub fn name(self) -> String {
        format!("dropout_{}", self.chunk)
    }

    /// Threads of a block.
    pub fn threads(self) -> usize {
        THREADS as usize
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: String,
            chunk: usize,
            threads: u32,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            chunk: self.chunk,
            threads: THREADS,
            at: crate::offsets!(Arguments: x y stream width blocks total keep scale),
        })
    }
}

impl Dropout {
    /// Bytes that any kernel moves.
    pub fn minimum_bytes(&self) -> u64 {
        8 * (self.rows * self.width) as u64
    }

    /// The kernel that computes it.
    pub fn variant(&self) -> Variant {
        let whole =
            self.width.is_multiple_of(4) && self.x.is_multiple_of(16) && self.y.is_multiple_of(16);
        Variant {
            chunk: if whole { 4 } else { 1 },
        }
    }

    /// Launches it on a stream. An empty matrix launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// x and y must lie in memory of the stream's device, free of other use until the stream has come past, and be the same or not
    /// overlap.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let blocks = self.width.div_ceil(4);
        let total = self.rows * blocks;
        if total >= 1 << 31 || self.width >= 1 << 32 {
            return Err(KernelError::Argument {
                kernel: "dropout",
                what: format!(
                    "{} rows of {}: wanted fewer than 2³¹ blocks of four; split it",
                    self.rows, self.width
                ),
            });
        }
        if total == 0 {
            return Ok(());
        }
        let arguments = Arguments {
            x: self.x,
            y: self.y,
            stream: self.stream,
            width: self.width as u32,
            blocks: blocks as u32,
            total: total as u32,
            keep: self.keep,
            scale: 1.0 / self.keep,
            _pad: 0,
        };
        let variant = self.variant();
        let grid = Grid::over(total as u32, THREADS);
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(&variant.name(), grid, &arguments, stream, || {
                variant.expand()
            })
        }
    }
}
