//! dg and db of the sums of a norm's parts; see `ptx/norm_sums.ptx`. Bytes: 4 parts n in and 4 n out for each.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[("norm_sums.ptx", include_str!("../../ptx/norm_sums.ptx"))],
};

/// Warps of a block.
const WARPS: u32 = 16;

/// A sum over parts to launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    /// Parts; the sum over none is 0.
    pub parts: usize,
    /// Elements of a row.
    pub n: usize,
    /// Address of the parts' sums, `[parts, 2, n]`.
    pub sums: u64,
    /// Address of dg.
    pub gain: u64,
    /// Address of db, or 0: then it is not made.
    pub bias: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    sums: u64,
    gain: u64,
    bias: u64,
    parts: u32,
    n: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Sums {
    /// The kernel's name.
    pub const NAME: &'static str = "norm_sums";

    /// Threads of a block.
    pub fn threads() -> usize {
        32 * WARPS as usize
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand() -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: &'static str,
            warps: u32,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: Self::NAME,
            warps: WARPS,
            at: crate::offsets!(Arguments: sums gain bias parts n),
        })
    }

    /// Launches it on a stream. Rows of nothing launch nothing.
    ///
    /// # Errors
    /// [`KernelError`]: the driver's refusal.
    ///
    /// # Safety
    /// The operands must lie in memory of the stream's device, free of other use until the stream has come past, and not overlap;
    /// parts and n are those of a norm that was launched.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        if self.n == 0 {
            return Ok(());
        }
        let arguments = Arguments {
            sums: self.sums,
            gain: self.gain,
            bias: self.bias,
            parts: self.parts as u32,
            n: self.n as u32,
        };
        let grid = Grid {
            blocks: [
                arguments.n.div_ceil(32),
                if self.bias == 0 { 1 } else { 2 },
                1,
            ],
            threads: 32 * WARPS,
            shared: 0,
        };
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe { kernels.launch(Self::NAME, grid, &arguments, stream, Self::expand) }
    }
}
