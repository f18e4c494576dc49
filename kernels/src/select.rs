//! Order statistics of rows. NaN counts as larger than every number, −0 as 0; of equals the lower index goes first.
//!
//! ```text
//! top   values[r, j], indices[r, j] = the j-th largest element of x[r, :], j < k
//! kth   out[r] = the k-th smallest element of x[r, :], k from 0
//! ```
//!
//! Short rows take one launch: `top` has a warp a row and reads the row once for each of the k; `kth` has a block a row and decides
//! the answer bit by bit. Long ones ([`Select::by_digits`]) have several blocks a row and a launch for each 8 bits of key and index:
//!
//! | | launches | bytes at least 4 rows n; read |
//! |---|---|---|
//! | `top`, k n ≤ [`Select::ROUNDS`] | 1 | 4 k rows n |
//! | `top` | 6 + ⌈log₂₅₆ n⌉ | 4 (5 + ⌈log₂₅₆ n⌉) rows n |
//! | `kth`, n ≤ [`Select::BITS`] | 1 | 128 rows n |
//! | `kth` | 5 | 16 rows n |
//!
//! No floating-point operations; results are exact and do not depend on the order of blocks.

mod radix;

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};
pub use radix::Step;

const TEMPLATE: Template = Template {
    files: &[("select.ptx", include_str!("../ptx/select.ptx")), KEY],
};

const KEY: (&str, &str) = ("select_key.ptx", include_str!("../ptx/select_key.ptx"));

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
    /// Address of [`Select::scratch_bytes`] bytes, a multiple of 8.
    pub scratch: u64,
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
    /// The most k n of a top k in rounds: beyond, reading the row so often takes longer than the launches that it saves.
    pub const ROUNDS: usize = 1 << 17;

    /// The longest row of a k-th by bits.
    pub const BITS: usize = 1 << 14;

    /// Whether it goes by digits of 8 bits.
    pub fn by_digits(&self) -> bool {
        match self.kind {
            // A grid has no more blocks than that along its second axis.
            Kind::Top => self.k * self.n > Self::ROUNDS && self.k < 1 << 24,
            Kind::Kth => self.n > Self::BITS,
        }
    }

    /// Bytes of memory that it works in: 8 KiB and 4 + 8 k bytes for each of up to 1024 rows; none for short ones.
    pub fn scratch_bytes(&self) -> usize {
        if self.by_digits() {
            self.radix_bytes().iter().sum()
        } else {
            0
        }
    }

    /// Launches it on a stream. No rows, or none of a row, launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// x, the results and the scratch memory must lie in memory of the stream's device, free of other use until the stream has come
    /// past, and not overlap.
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
        if self.by_digits() {
            // SAFETY: the caller's promise.
            return unsafe { self.launch_radix(kernels, stream) };
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
