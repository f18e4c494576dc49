//! Packed triangles L and U of a square matrix C = L + Uᵀ, and panels of C.
//!
//! ```text
//! unpack    panel[i, j] = L_pq + U_qp      p = first row + i, q = first column + j, entries that are not there 0
//! pack      L_pq, U_qp = panel[i, j]       where there are such entries
//! L: row p has entries q < e(p), from s(p) on      U: column q has entries p < e(q), from s(q) on
//! ```
//!
//! e and s are a table `[r, 2]` of u32, the same for both parts. A panel is read and written along its rows and so is each part: U's
//! tile is turned in shared memory. FLOPs: an addition for each element of an unpacked panel. Bytes at least: 4 rows · columns and 4
//! for each entry that the panel meets; the kernels' own, with the table's: [`Panel::bytes`].

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[("triangular.ptx", include_str!("../ptx/triangular.ptx"))],
};

const THREADS: u32 = 256;
/// Rows and columns of a block's tile.
const SIDE: usize = 32;
/// The largest r: e, s and r² stay below 2³¹.
const MOST: usize = 46_340;

/// Which way entries go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the parts to a panel.
    Unpack,
    /// From a panel to the parts.
    Pack,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::Unpack, Kind::Pack];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Unpack => "triangular_unpack",
            Kind::Pack => "triangular_pack",
        }
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
            name: &'static str,
            kind: &'static str,
            side: usize,
            threads: u32,
            steps: usize,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            kind: match self {
                Kind::Unpack => "unpack",
                Kind::Pack => "pack",
            },
            side: SIDE,
            threads: THREADS,
            steps: SIDE * SIDE / THREADS as usize,
            at: crate::offsets!(Arguments: lower upper table panel rows columns first_row first_column),
        })
    }
}

/// Some rows and columns of C to unpack, or to pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panel {
    /// Which way.
    pub kind: Kind,
    /// r.
    pub rank: usize,
    /// Address of L's entries, if it is there.
    pub lower: Option<u64>,
    /// Address of U's entries, if it is there.
    pub upper: Option<u64>,
    /// Address of the pairs e(p), s(p).
    pub table: u64,
    /// Rows of C.
    pub rows: Range<usize>,
    /// Columns of C.
    pub columns: Range<usize>,
    /// Address of the panel, contiguous.
    pub panel: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    lower: u64,
    upper: u64,
    table: u64,
    panel: u64,
    rows: u32,
    columns: u32,
    first_row: u32,
    first_column: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Panel {
    fn tiles(&self) -> [usize; 2] {
        [&self.columns, &self.rows].map(|range| range.len().div_ceil(SIDE))
    }

    /// Bytes that the kernel moves for a panel that meets so many entries.
    pub fn bytes(&self, entries: usize) -> u64 {
        let [across, down] = self.tiles();
        let (rows, columns) = (self.rows.len(), self.columns.len());
        (4 * (rows * columns + entries) + 8 * (across * rows + down * columns)) as u64
    }

    /// Launches it on a stream. An empty panel launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: rows or columns that C does not have, a C of more than 46340 rows; the driver's refusal.
    ///
    /// # Safety
    /// All operands must lie in memory of the stream's device, free of other use until the stream has come past; the table must
    /// be of this C, and what is written overlaps nothing else.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let Panel { rows, columns, .. } = self;
        if self.rank > MOST || rows.end > self.rank || columns.end > self.rank {
            return Err(KernelError::Argument {
                kernel: self.kind.name(),
                what: format!(
                    "rows {rows:?}, columns {columns:?} of {0} × {0}: wanted some of these, and {MOST} at most",
                    self.rank
                ),
            });
        }
        if rows.is_empty() || columns.is_empty() {
            return Ok(());
        }
        let arguments = Arguments {
            lower: self.lower.unwrap_or(0),
            upper: self.upper.unwrap_or(0),
            table: self.table,
            panel: self.panel,
            rows: rows.len() as u32,
            columns: columns.len() as u32,
            first_row: rows.start as u32,
            first_column: columns.start as u32,
        };
        let [across, down] = self.tiles();
        let grid = Grid {
            blocks: [across as u32, down as u32, 1],
            threads: THREADS,
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
