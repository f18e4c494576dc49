//! Random numbers: a window of a stream's plane, made of the CPU's correctly rounded operations in their order.
//!
//! ```text
//! block(r, b) = Philox4x32-10(counter = [b, r, s₂, s₃], key = [s₀, s₁])        s: the stream's four words
//! element (r, c): word c mod 4 of block (r, ⌊c/4⌋), as a uniform or Bernoulli number; pairs of words give pairs of normals
//! ```
//!
//! (Salmon et al. 2011; Box & Muller 1958.) The window's elements do not depend on where it starts. Bytes: 4 rows · width,
//! written once; no FLOPs worth counting but a normal's, some 35. A thread makes a block of four elements in each of its
//! rows and stores 16 bytes, element by element at the window's edges and on rows that are not aligned for it.

use std::mem::offset_of;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr, LaunchConfig, PushKernelArg};
use serde::Serialize;

use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[
        ("philox.ptx", include_str!("../ptx/philox.ptx")),
        BLOCK,
        ("math.ptx", include_str!("../ptx/math.ptx")),
    ],
};

/// The generator, for whatever draws.
pub(crate) const BLOCK: (&str, &str) =
    ("philox_block.ptx", include_str!("../ptx/philox_block.ptx"));

const THREADS: u32 = 128;

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Uniform in [0, 1).
    Uniform,
    /// 1 with this probability, else 0.
    Bernoulli(f32),
    /// Standard normal.
    Normal,
}

impl Distribution {
    /// One of each.
    pub const ALL: [Distribution; 3] = [
        Distribution::Uniform,
        Distribution::Bernoulli(0.5),
        Distribution::Normal,
    ];

    fn name(self) -> &'static str {
        match self {
            Distribution::Uniform => "uniform",
            Distribution::Bernoulli(_) => "bernoulli",
            Distribution::Normal => "normal",
        }
    }

    /// The kernel's name.
    pub fn kernel(self) -> String {
        format!("philox_{}", self.name())
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
        macro_rules! offsets {
            ($($field:ident)*) => {
                Offsets { size: size_of::<Arguments>(), $($field: offset_of!(Arguments, $field)),* }
            };
        }
        TEMPLATE.expand(Values {
            name: self.kernel(),
            distribution: self.name(),
            threads: THREADS,
            at: offsets!(out stride width stream block skip row rows p aligned),
        })
    }
}

#[derive(Serialize)]
struct Values {
    name: String,
    distribution: &'static str,
    threads: u32,
    at: Offsets,
}

#[derive(Serialize)]
struct Offsets {
    size: usize,
    out: usize,
    stride: usize,
    width: usize,
    stream: usize,
    block: usize,
    skip: usize,
    row: usize,
    rows: usize,
    p: usize,
    aligned: usize,
}

/// The kernel's argument, as the template reads it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    out: u64,
    /// Bytes from a row to the next.
    stride: u64,
    width: u64,
    stream: [u32; 4],
    /// The first block of a row, and how many of its elements lie before the window.
    block: u32,
    skip: u32,
    /// The first row, and their number.
    row: u32,
    rows: u32,
    p: f32,
    /// 1 if whole blocks lie at multiples of 16 bytes.
    aligned: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

/// A window to fill with f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Fill {
    /// What is drawn.
    pub distribution: Distribution,
    /// The stream.
    pub stream: [u32; 4],
    /// The first row.
    pub first_row: u32,
    /// Rows.
    pub rows: usize,
    /// Columns of every row, below 2³⁴.
    pub columns: Range<u64>,
    /// Address of the first element.
    pub out: u64,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl Fill {
    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        4 * self.rows as u64 * (self.columns.end - self.columns.start)
    }

    /// Launches it on a stream. An empty window launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: a window outside of the plane, a stride below its width, an address that is no f32's; the driver's
    /// refusal.
    ///
    /// # Safety
    /// The window's rows must lie in memory of the stream's device, free of other use until the stream has come past.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let Range { start, end } = self.columns;
        let last_row = u64::from(self.first_row) + self.rows as u64;
        let width = end.saturating_sub(start);
        if start > end
            || end > 1 << 34
            || last_row > 1 << 32
            || (self.stride as u64) < width
            || !self.out.is_multiple_of(4)
        {
            return Err(KernelError::Argument {
                kernel: "philox",
                what: format!(
                    "rows {}..{last_row}, columns {start}..{end} with a stride of {} to {:#x}: wanted rows to 2³², columns to 2³⁴, \
                     a stride of the width at least, an address divisible by 4",
                    self.first_row, self.stride, self.out
                ),
            });
        }
        if width == 0 || self.rows == 0 {
            return Ok(());
        }
        let (block, skip) = (start / 4, start % 4);
        let blocks = end.div_ceil(4) - block;
        let arguments = Arguments {
            out: self.out,
            stride: 4 * self.stride as u64,
            width,
            stream: self.stream,
            block: block as u32,
            skip: skip as u32,
            row: self.first_row,
            rows: self.rows as u32,
            p: if let Distribution::Bernoulli(p) = self.distribution {
                p
            } else {
                0.0
            },
            aligned: u32::from(
                self.stride.is_multiple_of(4)
                    && (self.out.wrapping_sub(4 * skip)).is_multiple_of(16),
            ),
        };
        let name = self.distribution.kernel();
        let function = kernels.get(&name, 0, || self.distribution.expand())?;
        let mut launch = stream.launch_builder(&function);
        launch.arg(&arguments);
        let config = LaunchConfig {
            grid_dim: (
                blocks.div_ceil(u64::from(THREADS)) as u32,
                self.rows.min(65_535) as u32,
                1,
            ),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        let launched = unsafe { launch.launch(config) };
        launched.map(drop).map_err(|error| KernelError::Driver {
            kernel: name,
            action: "launching it",
            error,
        })
    }
}
