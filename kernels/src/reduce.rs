//! Sums, largest and smallest elements along one axis, in a fixed order.
//!
//! ```text
//! y[o, p, j] = fold of x[o, i, j] over the rows i of part p        x [outer, n, inner]  →  y [outer, ⌈n / part⌉, inner]
//! ```
//!
//! Where inner = 1 a warp folds a part, else a thread folds four neighbouring columns (one where they are not whole fours). Long
//! axes are cut into parts ([`part`], a function of the sizes alone), whose results a second launch folds: the order of a sum
//! depends on nothing but the sizes.
//!
//! FLOPs: outer n inner. Bytes: x once in, y once out. Error of a sum of n numbers: (n − 1) u/(1 − n u) Σ|x|, u = 2⁻²⁴ (Higham 2002, §4.2).

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[("reduce.ptx", include_str!("../ptx/reduce.ptx"))],
};

const THREADS: u32 = 128;

/// What is folded. NaN wins in `Max` and `Min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fold {
    /// Σ.
    Sum,
    /// The largest; −∞ of nothing.
    Max,
    /// The smallest; ∞ of nothing.
    Min,
}

impl Fold {
    /// All of them.
    pub const ALL: [Fold; 3] = [Fold::Sum, Fold::Max, Fold::Min];

    fn name(self) -> &'static str {
        match self {
            Fold::Sum => "sum",
            Fold::Max => "max",
            Fold::Min => "min",
        }
    }
}

/// How many rows a part had best have: enough parts for a large device, and no part too short for its overhead.
pub fn part(outer: usize, n: usize, inner: usize) -> usize {
    /// Threads that keep a large device busy.
    const THREADS: usize = 1 << 15;
    /// The fewest elements of a part for a warp, or rows for a thread.
    const LEAST: [usize; 2] = [1 << 11, 1 << 6];
    let (across, least) = match inner {
        1 => (outer * 32, LEAST[0]),
        _ => (outer * inner, LEAST[1]),
    };
    let parts = (THREADS / across.max(1)).clamp(1, n.div_ceil(least).max(1));
    // Whole fours, so that parts stay aligned.
    n.div_ceil(parts).next_multiple_of(4).max(1)
}

/// A fold to launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// What is folded.
    pub fold: Fold,
    /// outer, n, inner.
    pub size: [usize; 3],
    /// Rows of a part, 1 at least.
    pub part: usize,
    /// Address of x, f32, contiguous.
    pub x: u64,
    /// Address of y.
    pub y: u64,
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// What is folded.
    pub fold: Fold,
    /// Whether inner is 1.
    pub rows: bool,
    /// Neighbours that are loaded at a time: 1 or 4.
    pub width: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    x: u64,
    y: u64,
    inner: u64,
    n: u32,
    part: u32,
    /// ⌈n / part⌉.
    parts: u32,
    /// Of `width`: columns.
    columns: u32,
    /// Warps or threads that have work.
    total: u32,
    _pad: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Variant {
    /// One of each.
    pub fn all() -> impl Iterator<Item = Variant> {
        Fold::ALL.into_iter().flat_map(|fold| {
            [(true, 1), (true, 4), (false, 1), (false, 4)].map(|(rows, width)| Variant {
                fold,
                rows,
                width,
            })
        })
    }

    /// The kernel's name, different for each variant.
    pub fn name(&self) -> String {
        let over = if self.rows { "rows" } else { "columns" };
        format!("reduce_{}_{over}_{}", self.fold.name(), self.width)
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(&self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: String,
            fold: &'static str,
            join: &'static str,
            start: &'static str,
            rows: bool,
            width: usize,
            threads: u32,
            at: crate::Offsets,
        }
        let (join, start) = match self.fold {
            Fold::Sum => ("add.rn", "0f00000000"),
            Fold::Max => ("max.NaN", "0fFF800000"),
            Fold::Min => ("min.NaN", "0f7F800000"),
        };
        TEMPLATE.expand(Values {
            name: self.name(),
            fold: self.fold.name(),
            join,
            start,
            rows: self.rows,
            width: self.width,
            threads: THREADS,
            at: crate::offsets!(Arguments: x y inner n part parts columns total),
        })
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        THREADS as usize
    }
}

impl Reduce {
    /// Parts of n: what y has in its place.
    pub fn parts(&self) -> usize {
        self.size[1].div_ceil(self.part).max(1)
    }

    /// Bytes that any kernel moves.
    pub fn minimum_bytes(&self) -> u64 {
        let [outer, n, inner] = self.size;
        4 * (outer * inner * (n + self.parts())) as u64
    }

    /// The kernel that computes it.
    pub fn variant(&self) -> Variant {
        let [_, n, inner] = self.size;
        let rows = inner == 1;
        let whole = if rows {
            n.is_multiple_of(4) && self.part.is_multiple_of(4)
        } else {
            inner.is_multiple_of(4) && self.y.is_multiple_of(16)
        };
        Variant {
            fold: self.fold,
            rows,
            width: if whole && self.x.is_multiple_of(16) {
                4
            } else {
                1
            },
        }
    }

    /// Launches it on a stream. An empty result launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// x and y must lie in memory of the stream's device, free of other use until the stream has come past, and not overlap.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let [outer, n, inner] = self.size;
        let variant = self.variant();
        let columns = inner / variant.width.min(inner.max(1));
        let columns = if variant.rows { 1 } else { columns };
        let work = outer * self.parts() * columns;
        let lanes = if variant.rows { 32 } else { 1 };
        if work * lanes >= 1 << 31 || n >= 1 << 31 || self.part == 0 {
            return Err(KernelError::Argument {
                kernel: "reduce",
                what: format!(
                    "{:?} in parts of {}: wanted fewer than 2³¹ threads and rows; split it",
                    self.size, self.part
                ),
            });
        }
        if work == 0 {
            return Ok(());
        }
        let arguments = Arguments {
            x: self.x,
            y: self.y,
            inner: inner as u64,
            n: n as u32,
            part: self.part as u32,
            parts: self.parts() as u32,
            columns: columns as u32,
            total: work as u32,
            _pad: 0,
        };
        let grid = Grid::over((work * lanes) as u32, THREADS);
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(&variant.name(), grid, &arguments, stream, || {
                variant.expand()
            })
        }
    }
}
