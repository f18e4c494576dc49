//! Rows and elements by index, and the sums that are its adjoint.
//!
//! ```text
//! gather    out[r, i, c] = x[r, index[r, i], c]
//! scatter   out[r, index[r, i], c] += src[r, i, c]        in the order of i
//! x, out of scatter [rows, n, width]        index [rows, k]        src, out of gather [rows, k, width]
//! ```
//!
//! A table's rows are the case rows = 1, elements of a row the case width = 1. Indices must be below n: nobody looks here.
//!
//! A scatter has no atomics: the warp of the first i that goes to a target adds all that go there, one after the other, and the
//! others leave. It reads the index list once a warp, 4 rows k² ⌈width / 32⌉ bytes at most, from the caches.
//!
//! Bytes at least: gather 4 rows k + (from + to) rows k width; scatter 4 rows k (1 + width) and twice 4 width for each target.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

pub use crate::element::Element;
use crate::element::class;
use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const GATHER: Template = Template {
    files: &[
        ("gather.ptx", include_str!("../ptx/gather.ptx")),
        ("element.ptx", include_str!("../ptx/element.ptx")),
    ],
};

const SCATTER: Template = Template {
    files: &[("scatter.ptx", include_str!("../ptx/scatter.ptx"))],
};

const THREADS: u32 = 128;

/// The sizes of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub rows: usize,
    /// Entries of a row.
    pub n: usize,
    /// Indices of a row.
    pub k: usize,
    /// Elements of an entry.
    pub width: usize,
}

impl Size {
    fn check(&self, kernel: &'static str) -> Result<(), KernelError> {
        let Size { rows, n, k, width } = *self;
        let fits = [rows * k, n, width].iter().all(|x| *x < 1 << 31)
            && rows * k * width.div_ceil(4) < 1 << 31
            && width.div_ceil(THREADS as usize) <= 65_535;
        if fits {
            return Ok(());
        }
        Err(KernelError::Argument {
            kernel,
            what: format!(
                "{self:?}: wanted fewer than 2³¹ indices, entries and chunks of four, and rows of 8 million at most; split it"
            ),
        })
    }
}

/// A gather to launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gather {
    /// Sizes.
    pub size: Size,
    /// Types of x and out.
    pub elements: [Element; 2],
    /// Address of x.
    pub x: u64,
    /// Address of the indices, u32.
    pub index: u64,
    /// Address of out.
    pub out: u64,
}

/// What is fixed in a gathering kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Types of x and out.
    pub elements: [Element; 2],
    /// Neighbours that a thread moves: 1 or 4.
    pub chunk: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    x: u64,
    index: u64,
    out: u64,
    width: u64,
    n: u32,
    k: u32,
    /// Of a row's width.
    chunks: u32,
    total: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Variant {
    /// The kernel's name, different for each variant.
    pub fn name(&self) -> String {
        let [from, to] = self.elements.map(Element::name);
        format!("gather_{from}_{to}_{}", self.chunk)
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`]; [`KernelError::Argument`]: a conversion that no kernel makes.
    pub fn expand(&self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: String,
            from: &'static str,
            to: &'static str,
            class: &'static str,
            from_bytes: usize,
            to_bytes: usize,
            chunk: usize,
            threads: u32,
            at: crate::Offsets,
        }
        let [from, to] = self.elements;
        let Some([source, target]) = from.converted(to) else {
            return Err(KernelError::Argument {
                kernel: "gather",
                what: format!("no way from {} to {}", from.name(), to.name()),
            });
        };
        GATHER.expand(Values {
            name: self.name(),
            from: source,
            to: target,
            class: class(source),
            from_bytes: from.bytes(),
            to_bytes: to.bytes(),
            chunk: self.chunk,
            threads: THREADS,
            at: crate::offsets!(Arguments: x index out width n k chunks total),
        })
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        THREADS as usize
    }
}

impl Gather {
    /// Bytes that any kernel moves, if no entry is read twice.
    pub fn minimum_bytes(&self) -> u64 {
        let Size { rows, k, width, .. } = self.size;
        let [from, to] = self.elements.map(Element::bytes);
        (rows * k * (4 + width * (from + to))) as u64
    }

    /// The kernel that computes it.
    pub fn variant(&self) -> Variant {
        let [from, to] = self.elements;
        let aligned = |pointer: u64, element: Element| {
            pointer.is_multiple_of((4 * element.bytes()).min(16) as u64)
        };
        let whole =
            self.size.width.is_multiple_of(4) && aligned(self.x, from) && aligned(self.out, to);
        Variant {
            elements: self.elements,
            chunk: if whole { 4 } else { 1 },
        }
    }

    /// Launches it on a stream. An empty result launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes or types that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// All operands must lie in memory of the stream's device, free of other use until the stream has come past; `out` overlaps
    /// none of them, and every index is below n.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        self.size.check("gather")?;
        let Size { rows, n, k, width } = self.size;
        let variant = self.variant();
        let chunks = width.div_ceil(variant.chunk);
        let total = rows * k * chunks;
        if total == 0 {
            return Ok(());
        }
        let arguments = Arguments {
            x: self.x,
            index: self.index,
            out: self.out,
            width: width as u64,
            n: n as u32,
            k: k as u32,
            chunks: chunks as u32,
            total: total as u32,
        };
        let grid = Grid::over(total as u32, THREADS);
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(&variant.name(), grid, &arguments, stream, || {
                variant.expand()
            })
        }
    }
}

/// A scatter to launch; all f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scatter {
    /// Sizes.
    pub size: Size,
    /// Address of src.
    pub src: u64,
    /// Address of the indices, u32.
    pub index: u64,
    /// Address of out.
    pub out: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ScatterArguments {
    src: u64,
    index: u64,
    out: u64,
    width: u64,
    n: u32,
    k: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for ScatterArguments {}

impl Scatter {
    /// The kernel's name.
    pub const NAME: &str = "scatter_add";

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand() -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: &'static str,
            threads: u32,
            at: crate::Offsets,
        }
        SCATTER.expand(Values {
            name: Self::NAME,
            threads: THREADS,
            at: crate::offsets!(ScatterArguments: src index out width n k),
        })
    }

    /// Threads of a block.
    pub fn threads() -> usize {
        THREADS as usize
    }

    /// Launches it on a stream. Nothing to add launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// As for [`Gather::launch`].
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        self.size.check("scatter")?;
        let Size { rows, n, k, width } = self.size;
        if rows * k * width == 0 {
            return Ok(());
        }
        let arguments = ScatterArguments {
            src: self.src,
            index: self.index,
            out: self.out,
            width: width as u64,
            n: n as u32,
            k: k as u32,
        };
        let grid = Grid {
            blocks: [(rows * k) as u32, (width as u32).div_ceil(THREADS), 1],
            threads: THREADS,
            shared: 0,
        };
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe { kernels.launch(Self::NAME, grid, &arguments, stream, Self::expand) }
    }
}
