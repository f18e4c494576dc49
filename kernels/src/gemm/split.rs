//! How a product is launched: its tile, and whether its k is split.
//!
//! A product of few tiles and a long k, as a weight's gradient over many tokens, leaves most multiprocessors idle. Then each
//! block sums a part of k into a matrix of its own, and a second pass adds these in their order, with what else surrounds the
//! product: no atomic adds, the same bits on every run of a device.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use super::plan::surroundings;
use super::{Activation, Gemm, Matrix, Output, Place, Tile, Type};
use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[
        ("gemm_fold.ptx", include_str!("../../ptx/gemm_fold.ptx")),
        ("math.ptx", include_str!("../../ptx/math.ptx")),
    ],
};

/// Threads of a block of the second pass.
const THREADS: u32 = 128;
/// A part of k is a multiple of it, as every tile's k divides it.
pub(super) const LEAST_CHUNK: usize = 64;
/// The most parts of k: the second pass reads as many matrices.
const MOST_PARTS: usize = 64;
/// Clocks before a tile's first product and after its last, of a second launch, and bytes that a multiprocessor moves in a
/// clock: round figures of an A100 (2 µs a launch, 1.5 TB/s at 1.4 GHz over 108), which only choose.
const TILE_CLOCKS: f64 = 2000.0;
const LAUNCH_CLOCKS: f64 = 3000.0;
const BYTES_PER_CLOCK: f64 = 10.0;

/// How a product is launched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The tile.
    pub tile: &'static Tile,
    /// The length of a part of k, where k is split.
    pub chunk: Option<usize>,
}

impl Plan {
    /// Bytes of scratch memory that the launch of a product needs: its raw sums.
    pub fn scratch_bytes(&self, gemm: &Gemm) -> usize {
        self.chunk.map_or(0, |chunk| {
            4 * gemm.k.div_ceil(chunk) * gemm.batch * gemm.m * gemm.n
        })
    }
}

impl Type {
    /// Fused multiply-adds of a multiprocessor in a clock (A100).
    fn rate(self) -> f64 {
        match self {
            Type::Bf16 | Type::F16 => 1024.0,
            Type::Tf32 => 512.0,
            Type::F32 => 64.0,
        }
    }
}

impl Gemm {
    /// The plan for a device: of [`Gemm::tiles`], and of k whole or in parts, what takes the fewest clocks by a model of them:
    /// `waves (M N K / (rate share) + 2000)`, where waves = ⌈blocks / multiprocessors⌉ counts how often every multiprocessor
    /// works on a tile and share is the useful share of the main loop's instructions; a split adds its second pass. So large
    /// products take the large tile, whose loop wastes least, and small ones as many blocks as there are multiprocessors. No
    /// tile whose stages exceed the shared memory of a block.
    pub fn plan(&self, multiprocessors: u32, shared_limit: u32) -> Plan {
        let processors = multiprocessors.max(1) as usize;
        let elements = self.batch * self.m * self.n;
        let cost = |plan: &Plan| {
            let tile = plan.tile;
            let tiles = self.batch * self.m.div_ceil(tile.m) * self.n.div_ceil(tile.n);
            let inner = self.k + self.extension.map_or(0, |e| e.k);
            let chunk = plan.chunk.unwrap_or(inner);
            let parts = inner.div_ceil(chunk.max(1)).max(1);
            let waves = (tiles * parts).div_ceil(processors);
            let products = (tile.m * tile.n * chunk) as f64;
            let sums =
                waves as f64 * (products / (self.operands.rate() * tile.share) + TILE_CLOCKS);
            let second = plan.chunk.map_or(0.0, |_| {
                let bytes = 4.0 * (2 * parts * elements) as f64;
                LAUNCH_CLOCKS + bytes / (BYTES_PER_CLOCK * processors as f64)
            });
            sums + second
        };
        let tiles = self.tiles();
        let fitting = tiles
            .iter()
            .filter(|tile| tile.shared(self.operands) <= shared_limit);
        let plans = fitting.flat_map(|tile| {
            let whole = Plan { tile, chunk: None };
            let blocks = self.batch * self.m.div_ceil(tile.m) * self.n.div_ceil(tile.n);
            let splittable = self.extension.is_none() && elements < 1 << 31;
            // As many parts as fill the multiprocessors once, twice or four times, whole tiles of k of any type.
            let split = [1, 2, 4].into_iter().filter_map(move |times| {
                let parts = (times * processors / blocks.max(1)).clamp(1, MOST_PARTS);
                let chunk = self.k.div_ceil(parts).next_multiple_of(LEAST_CHUNK);
                let worth = splittable && chunk < self.k;
                worth.then_some(Plan {
                    tile,
                    chunk: Some(chunk),
                })
            });
            std::iter::once(whole).chain(split)
        });
        let cheapest = plans.min_by(|s, t| cost(s).total_cmp(&cost(t)));
        cheapest.unwrap_or(Plan {
            tile: &tiles[tiles.len() - 1],
            chunk: None,
        })
    }

    /// The first pass of a split: raw sums of parts of k in scratch memory.
    pub fn sums(&self, chunk: usize, scratch: u64) -> Gemm {
        Gemm {
            output: Output::F32,
            split: Some(chunk),
            alpha: 1.0,
            bias: None,
            activation: Activation::Identity,
            residual: None,
            y: Matrix {
                pointer: scratch,
                stride: self.n,
                batch_stride: self.m * self.n,
                transposed: false,
            },
            ..*self
        }
    }

    /// Launches the second pass of a split, after [`Gemm::sums`].
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    ///
    /// # Safety
    /// As for [`Gemm::launch`]; `scratch` must hold what the first pass wrote.
    pub unsafe fn fold(
        &self,
        chunk: usize,
        scratch: u64,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let variant = Fold {
            output: self.output,
            bias: self.bias.is_some(),
            activation: self.activation,
            residual: self.residual.is_some(),
        };
        let place = |x: Matrix| Place::new(x, self.output.bytes());
        let count = (self.batch * self.m * self.n) as u32;
        let arguments = Arguments {
            sums: scratch,
            y: place(self.y),
            r: self.residual.map_or(Place::default(), |(_, r)| place(r)),
            bias: self.bias.unwrap_or(0),
            count,
            parts: self.k.div_ceil(chunk) as u32,
            m: self.m as u32,
            n: self.n as u32,
            alpha: self.alpha,
            beta: self.residual.map_or(0.0, |(beta, _)| beta),
        };
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(
                &variant.name(),
                Grid::over(count, THREADS),
                &arguments,
                stream,
                || variant.expand(),
            )
        }
    }
}

/// Adds `parts` matrices of `[m, n]`, which lie one after another at `sums`, to the one at `y`, in their order; all f32.
///
/// # Errors
/// [`KernelError::Driver`].
///
/// # Safety
/// As for [`Gemm::launch`].
pub(crate) unsafe fn add_parts(
    (sums, parts): (u64, usize),
    y: u64,
    [m, n]: [usize; 2],
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
) -> Result<(), KernelError> {
    let matrix = Matrix {
        pointer: y,
        stride: n,
        batch_stride: 0,
        transposed: false,
    };
    let gemm = Gemm {
        operands: Type::F32,
        output: Output::F32,
        m,
        n,
        k: parts,
        batch: 1,
        a: matrix,
        b: matrix,
        extension: None,
        alpha: 1.0,
        bias: None,
        activation: Activation::Identity,
        residual: Some((1.0, matrix)),
        y: matrix,
        split: None,
    };
    // SAFETY: the caller's promise.
    unsafe { gemm.fold(1, sums, kernels, stream) }
}

/// What is fixed in the second pass's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Type of Y, R and bias.
    pub output: Output,
    /// Whether there is a bias.
    pub bias: bool,
    /// act.
    pub activation: Activation,
    /// Whether there is a residual.
    pub residual: bool,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    sums: u64,
    y: Place,
    r: Place,
    bias: u64,
    count: u32,
    parts: u32,
    m: u32,
    n: u32,
    alpha: f32,
    beta: f32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Fold {
    /// One of every choice.
    pub fn all() -> Vec<Fold> {
        let plain = |output| Fold {
            output,
            bias: false,
            activation: Activation::Identity,
            residual: false,
        };
        let mut all = vec![plain(Output::F32)];
        all.extend(Activation::ALL.map(|activation| Fold {
            bias: true,
            activation,
            residual: true,
            ..plain(Output::F32)
        }));
        all.extend([Output::Bf16, Output::F16].map(|output| Fold {
            bias: true,
            residual: true,
            ..plain(output)
        }));
        all
    }

    /// Threads of a block.
    pub fn threads() -> usize {
        THREADS as usize
    }

    /// The kernel's name, different for each variant.
    pub fn name(&self) -> String {
        let around = surroundings(self.bias, self.activation, self.residual);
        format!("gemm_fold_{}{around}", self.output.name())
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(&self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: String,
            out: &'static str,
            out_bytes: usize,
            bias: bool,
            activation: &'static str,
            residual: bool,
            threads: u32,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            out: self.output.name(),
            out_bytes: self.output.bytes(),
            bias: self.bias,
            activation: self.activation.name(),
            residual: self.residual,
            threads: THREADS,
            at: Place::within(crate::offsets!(Arguments: sums y r bias count parts m n alpha beta)),
        })
    }
}
