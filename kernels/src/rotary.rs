//! Rotary position embedding (Su et al. 2021), pairing elements j and j + half of a row.
//!
//! ```text
//! y[r, j]        = x[r, j] c[j] − x[r, j + half] s[j]
//! y[r, j + half] = x[r, j + half] c[j] + x[r, j] s[j]        c, s: the cosines and sines of row r's position; −s turns back
//! ```
//!
//! Rows lie along axes with strides of their own in x, y and the tables. Along one axis on which the tables repeat a thread keeps its c and
//! s for [`REPEATS`] rows; the other axes' places come by division. FLOPs: 6 for a pair. Bytes at least: x in, y out, the tables in.
//! Bits: the CPU's.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[("rotary.ptx", include_str!("../ptx/rotary.ptx"))],
};

const THREADS: u32 = 128;

/// Rows for which a thread keeps its angles, unless there are more than a grid's 65 535 times as many.
const REPEATS: usize = 8;

/// The most axes of rows.
pub const MAX_AXES: usize = 8;

/// An axis of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Rows along it.
    pub size: usize,
    /// Elements from one to the next, of x, y and the tables.
    pub strides: [usize; 3],
}

/// A rotation to launch, of f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Half a row's elements.
    pub half: usize,
    /// Axes of rows.
    pub axes: Vec<Axis>,
    /// Turns by −s.
    pub back: bool,
    /// Address of x.
    pub x: u64,
    /// Address of y; it may be x's, with the same strides.
    pub y: u64,
    /// Addresses of the cosines and sines.
    pub tables: [u64; 2],
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Axes but for the one along which the angles repeat.
    pub axes: usize,
    /// Neighbours that are moved at a time: 1 or 4.
    pub chunk: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    x: u64,
    y: u64,
    cos: u64,
    sin: u64,
    half: u64,
    /// From the innermost axis on.
    sizes: [u32; MAX_AXES],
    strides: [[u32; 3]; MAX_AXES],
    /// Strides of x and y along the repeated axis, its size and the stretch of it that a thread has.
    walk: [u32; 2],
    repeated: u32,
    repeats: u32,
    /// Of a row's half; and of all but the repeated axis.
    chunks: u32,
    total: u32,
    sign: f32,
    _pad: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Variant {
    /// One of each text with up to two axes.
    pub fn all() -> impl Iterator<Item = Variant> {
        (0..3).flat_map(|axes| [1, 4].map(|chunk| Variant { axes, chunk }))
    }

    /// The kernel's name.
    pub fn name(self) -> String {
        format!("rotary_{}_{}", self.axes, self.chunk)
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
            axes: usize,
            chunk: usize,
            threads: u32,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            axes: self.axes,
            chunk: self.chunk,
            threads: THREADS,
            at: crate::offsets!(
                Arguments: x y cos sin half sizes strides walk repeated repeats chunks total sign
            ),
        })
    }
}

impl Rotary {
    fn rows(&self) -> usize {
        self.axes.iter().map(|axis| axis.size).product()
    }

    /// The repeated axis, and the others from the innermost on.
    fn split(&self) -> (Axis, Vec<Axis>) {
        let repeats = |axis: &Axis| axis.strides[2] == 0;
        let mut others = self.axes.clone();
        let repeated = (0..others.len())
            .filter(|i| repeats(&others[*i]))
            .max_by_key(|i| others[*i].size)
            .map(|i| others.remove(i));
        others.reverse();
        let once = Axis {
            size: 1,
            strides: [0; 3],
        };
        (repeated.unwrap_or(once), others)
    }

    /// Bytes that any kernel moves.
    pub fn minimum_bytes(&self) -> u64 {
        let angles = self.axes.iter().filter(|axis| axis.strides[2] > 0);
        let tables = angles.map(|axis| axis.size).product::<usize>();
        8 * (self.half * (2 * self.rows() + tables)) as u64
    }

    /// The kernel that computes it.
    pub fn variant(&self) -> Variant {
        let pointers = [self.x, self.y, self.tables[0], self.tables[1]];
        let strides = self.axes.iter().flat_map(|axis| axis.strides);
        let whole = self.half.is_multiple_of(4)
            && pointers.iter().all(|p| p.is_multiple_of(16))
            && strides.into_iter().all(|s| s.is_multiple_of(4));
        Variant {
            axes: self.split().1.len(),
            chunk: if whole { 4 } else { 1 },
        }
    }

    /// Launches it on a stream. Nothing to rotate launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// All operands must lie in memory of the stream's device, free of other use until the stream has come past; y shows no element
    /// twice and overlaps the others nowhere, but where it is x.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let (repeated, axes) = self.split();
        let variant = self.variant();
        let chunks = self.half / variant.chunk;
        let total = axes.iter().map(|axis| axis.size).product::<usize>() * chunks;
        let strides = self.axes.iter().flat_map(|axis| axis.strides);
        let fits = |x: usize| x < 1 << 31;
        if axes.len() > MAX_AXES || !strides.chain([total, repeated.size]).all(fits) {
            return Err(KernelError::Argument {
                kernel: "rotary",
                what: format!(
                    "{:?} of rows of {}: wanted fewer than 2³¹ of each, along at most {MAX_AXES} axes; split it",
                    self.axes,
                    2 * self.half
                ),
            });
        }
        if total * repeated.size == 0 {
            return Ok(());
        }
        let repeats = REPEATS.max(repeated.size.div_ceil(65_535));
        let mut arguments = Arguments {
            x: self.x,
            y: self.y,
            cos: self.tables[0],
            sin: self.tables[1],
            half: self.half as u64,
            sizes: [1; MAX_AXES],
            strides: [[0; 3]; MAX_AXES],
            walk: [repeated.strides[0] as u32, repeated.strides[1] as u32],
            repeated: repeated.size as u32,
            repeats: repeats as u32,
            chunks: chunks as u32,
            total: total as u32,
            sign: if self.back { -1.0 } else { 1.0 },
            _pad: 0,
        };
        for (i, axis) in axes.iter().enumerate() {
            arguments.sizes[i] = axis.size as u32;
            arguments.strides[i] = axis.strides.map(|stride| stride as u32);
        }
        let mut grid = Grid::over(total as u32, THREADS);
        grid.blocks[1] = repeated.size.div_ceil(repeats) as u32;
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(&variant.name(), grid, &arguments, stream, || {
                variant.expand()
            })
        }
    }
}
