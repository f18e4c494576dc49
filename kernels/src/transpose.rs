//! Copies that move the contiguous axis, by tiles through shared memory.
//!
//! ```text
//! out[.., i, j] = in[.., j, i]        i contiguous in `in`, j in `out`; up to six axes more
//! ```
//!
//! | | |
//! |---|---|
//! | FLOPs | none |
//! | bytes | each element once in and once out ([`Transpose::minimum_bytes`]) |
//! | sectors | the fewest where rows of both begin at multiples of 32 bytes; else one more for each 32 elements of a row |
//!
//! The plan: a block has a tile of 32 x 32 elements, of 64 x 64 where they are of one or two bytes, so that enough bytes are on
//! their way; a warp reads rows of the tile as `in` has them and writes rows as `out` has them, 32 neighbours at a time. An
//! element by element copy ([`Map`]) would use one element of each sector that it reads.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::Grid;
use crate::map::{Function, MAX_RANK, Map};
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[("transpose.ptx", include_str!("../ptx/transpose.ptx"))],
};

const WARPS: usize = 8;

/// Axes beside the two that change places.
const OTHERS: usize = MAX_RANK - 2;

/// The fewest rows and columns for which a tile is taken: of shorter ones most lanes would have nothing.
pub const MIN_SIDE: usize = 8;

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Bytes of an element: 1, 2, 4 or 8.
    pub bytes: usize,
    /// Axes beside the two that change places.
    pub others: usize,
}

/// A copy to launch: its two contiguous axes and the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transpose {
    /// Which kernel.
    pub variant: Variant,
    arguments: Arguments,
}

/// The kernel's argument, as the template reads it; strides in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Arguments {
    source: u64,
    target: u64,
    /// From one j to the next in `in`, from one i to the next in `out`.
    source_row: u64,
    target_row: u64,
    /// Of the other axes, the one that changes fastest first.
    source_strides: [u64; OTHERS],
    target_strides: [u64; OTHERS],
    shape: [u32; OTHERS],
    /// Of i and j, and the tiles along them.
    width: u32,
    height: u32,
    across: u32,
    down: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Variant {
    /// One of each size of an element, alone and with two axes more.
    pub fn all() -> impl Iterator<Item = Variant> {
        [1, 2, 4, 8]
            .into_iter()
            .flat_map(|bytes| [0, 2].map(|others| Variant { bytes, others }))
    }

    /// The kernel's name.
    pub fn name(self) -> String {
        format!("transpose_b{}_{}", 8 * self.bytes, self.others)
    }

    /// Threads of a block.
    pub fn threads(self) -> usize {
        32 * WARPS
    }

    /// Rows and columns of the tile.
    pub fn tile(self) -> usize {
        if self.bytes <= 2 { 64 } else { 32 }
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: String,
            bytes: usize,
            others: usize,
            /// The register that holds an element, and the type that it moves as.
            class: &'static str,
            moved: &'static str,
            tile: usize,
            tile_log2: u32,
            warps: usize,
            warps_log2: u32,
            /// Elements of a thread: down and across the tile.
            rows: usize,
            columns: usize,
            stride: usize,
            at: crate::Offsets,
        }
        let tile = self.tile();
        let (class, moved) = match self.bytes {
            1 => ("b16", "u8"),
            2 => ("b16", "b16"),
            4 => ("b32", "b32"),
            _ => ("b64", "b64"),
        };
        TEMPLATE.expand(Values {
            name: self.name(),
            bytes: self.bytes,
            others: self.others,
            class,
            moved,
            tile,
            tile_log2: tile.ilog2(),
            warps: WARPS,
            warps_log2: WARPS.ilog2(),
            rows: tile / WARPS,
            columns: tile / 32,
            stride: tile * self.bytes + self.bytes.max(4),
            at: crate::offsets!(Arguments: source target source_row target_row source_strides target_strides shape width height
                across down),
        })
    }
}

impl Transpose {
    /// The transposition that a map is: a copy within one type whose operands are contiguous along two different axes, each
    /// [`MIN_SIDE`] long at least, and fewer than 2³¹ tiles.
    pub fn of(map: &Map) -> Option<Transpose> {
        let [input] = &map.inputs[..] else {
            return None;
        };
        let (out, rank) = (&map.out, map.shape.len());
        let bytes = out.element.bytes();
        let plain = map.function == Function::Copy && input.element == out.element;
        let axis_of = |strides: &[usize; MAX_RANK]| {
            (0..rank).find(|a| strides[*a] == 1 && map.shape[*a] >= MIN_SIDE)
        };
        if !plain || !(2..=MAX_RANK).contains(&rank) {
            return None;
        }
        let (i, j) = (axis_of(&input.strides)?, axis_of(&out.strides)?);
        if i == j || map.shape.iter().any(|n| *n >= 1 << 31) {
            return None;
        }
        let variant = Variant {
            bytes,
            others: rank - 2,
        };
        let tiles = |n: usize| n.div_ceil(variant.tile());
        let step = |stride: usize| (stride * bytes) as u64;
        let mut arguments = Arguments {
            source: input.pointer,
            target: out.pointer,
            source_row: step(input.strides[j]),
            target_row: step(out.strides[i]),
            width: map.shape[i] as u32,
            height: map.shape[j] as u32,
            across: tiles(map.shape[i]) as u32,
            down: tiles(map.shape[j]) as u32,
            ..Arguments::default()
        };
        let others = (0..rank).rev().filter(|a| *a != i && *a != j);
        let mut blocks = tiles(map.shape[i]).checked_mul(tiles(map.shape[j]))?;
        for (to, axis) in others.enumerate() {
            arguments.shape[to] = map.shape[axis] as u32;
            arguments.source_strides[to] = step(input.strides[axis]);
            arguments.target_strides[to] = step(out.strides[axis]);
            blocks = blocks.checked_mul(map.shape[axis])?;
        }
        (blocks < 1 << 31).then_some(Transpose { variant, arguments })
    }

    fn others(&self) -> impl Iterator<Item = u64> + '_ {
        let shape = &self.arguments.shape[..self.variant.others];
        shape.iter().map(|n| u64::from(*n))
    }

    /// Bytes that any kernel moves.
    pub fn minimum_bytes(&self) -> u64 {
        let Arguments { width, height, .. } = self.arguments;
        let matrix = u64::from(width) * u64::from(height);
        2 * self.variant.bytes as u64 * matrix * self.others().product::<u64>()
    }

    /// Launches it on a stream. An empty shape launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: the driver's refusal.
    ///
    /// # Safety
    /// As for [`Map::launch`], but that `out` and the operand may not overlap.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let Arguments { across, down, .. } = self.arguments;
        let blocks = u64::from(across) * u64::from(down) * self.others().product::<u64>();
        if blocks == 0 {
            return Ok(());
        }
        let grid = Grid {
            blocks: [blocks as u32, 1, 1],
            threads: self.variant.threads() as u32,
            shared: 0,
        };
        let variant = self.variant;
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(&variant.name(), grid, &self.arguments, stream, || {
                variant.expand()
            })
        }
    }
}
