//! Order statistics of rows. NaN counts as larger than every number, −0 as 0; of equals the lower index goes first.
//!
//! ```text
//! top   values[r, j], indices[r, j] = the j-th largest element of x[r, :], j < k
//! kth   out[r] = the k-th smallest element of x[r, :], k from 0
//! ```
//!
//! `top` has a warp a row and reads the row once for each of the k: meant for few. `kth` has a block a row and decides the
//! answer bit by bit, 32 reads of the row whatever k is. Bytes: 4 k rows n and 128 rows n, from the caches where a row fits.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[("select.ptx", include_str!("../ptx/select.ptx"))],
};

/// What is selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The k largest, in decreasing order, with their indices.
    Top,
    /// The k-th smallest.
    Kth,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::Top, Kind::Kth];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Top => "select_top",
            Kind::Kth => "select_kth",
        }
    }

    /// Threads of a block.
    pub fn threads(self) -> usize {
        match self {
            Kind::Top => 128,
            Kind::Kth => 512,
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
            threads: usize,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            kind: match self {
                Kind::Top => "top",
                Kind::Kth => "kth",
            },
            threads: self.threads(),
            at: crate::offsets!(Arguments: x values indices rows n k),
        })
    }
}

/// A selection to launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Select {
    /// What is selected.
    pub kind: Kind,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub n: usize,
    /// k ≤ n, or k < n for the k-th.
    pub k: usize,
    /// Address of x, f32, contiguous.
    pub x: u64,
    /// Address of the values, f32.
    pub values: u64,
    /// Address of the indices, u32; [`Kind::Kth`] gives none.
    pub indices: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    x: u64,
    values: u64,
    indices: u64,
    rows: u32,
    n: u32,
    k: u32,
    _pad: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Select {
    /// Launches it on a stream. No rows, or none of a row, launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// x and the results must lie in memory of the stream's device, free of other use until the stream has come past, and not
    /// overlap.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let Select { rows, n, k, .. } = *self;
        let enough = match self.kind {
            Kind::Top => k <= n,
            Kind::Kth => k < n,
        };
        if !enough || n >= 1 << 31 || rows >= 1 << 26 {
            return Err(KernelError::Argument {
                kernel: self.kind.name(),
                what: format!(
                    "k = {k} of {rows} rows of {n}: wanted k within a row, rows shorter than 2³¹ and fewer than 2²⁶"
                ),
            });
        }
        let (lanes, nothing) = match self.kind {
            Kind::Top => (32, k == 0),
            Kind::Kth => (self.kind.threads(), false),
        };
        if rows == 0 || nothing {
            return Ok(());
        }
        let arguments = Arguments {
            x: self.x,
            values: self.values,
            indices: self.indices,
            rows: rows as u32,
            n: n as u32,
            k: k as u32,
            _pad: 0,
        };
        let threads = self.kind.threads() as u32;
        let grid = Grid {
            blocks: [(rows * lanes).div_ceil(threads as usize) as u32, 1, 1],
            threads,
            shared: 0,
        };
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(self.kind.name(), grid, &arguments, stream, || {
                self.kind.expand()
            })
        }
    }
}
