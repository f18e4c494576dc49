//! Matrix products with everything that surrounds them.
//!
//! ```text
//! Y[z] = act(α (A[z] B[z] + s A₂[z] B₂[z]) + bias) + β R[z]        z < batch
//! A [m, k]   B [k, n]   A₂ [m, k₂]   B₂ [k₂, n]   bias [n]   R, Y [m, n]
//! ```
//!
//! A and B are bf16, f16 or f32 (as tf32 or exactly), each by rows or by columns; sums are f32; Y, R and bias are of one
//! type. R may be Y itself (β = 1: accumulation). The second pair (the K-extension, W x + s B (A x) in one product) has
//! layouts of its own.
//!
//! | | |
//! |---|---|
//! | FLOPs | 2 batch m n (k + k₂), all on mma but for exact f32 ([`Gemm::flops`]) |
//! | least bytes | A, A₂, B, B₂, bias, R once in, Y once out ([`Gemm::minimum_bytes`]) |
//! | of a split k | the raw sums out and in again, 8 bytes for each part of k and element of Y ([`Plan`]) |
//! | tile traffic | ⌈m/M⌉ ⌈n/N⌉ (M + N) (k + k₂) elements in, the rest as above ([`Gemm::tile_bytes`]) |
//! | error | a sum of K = k + k₂ products errs by at most K u/(1 − K u) Σ abs(a b), u = 2⁻²⁴ (Higham 2002, §3.1); tf32 first cuts a and b to 11 bits, 2⁻¹⁰ each |
//!
//! The plan: a block has a tile M × N of Y and walks over k in tiles of K; `stages` tiles of A and B are in shared memory or
//! on their way (cp.async); a warp multiplies its part from registers, loading the next fragments meanwhile; one barrier a
//! tile. See `ptx/gemm.ptx`, with the tables of [`Tile`] for the shapes.

mod plan;
mod split;

use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg};

use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};
pub use plan::{Activation, Loader, Major, Output, Tile, Type, Variant};
pub(crate) use split::add_parts;
pub use split::{Fold, Plan};

const TEMPLATE: Template = Template {
    files: &[
        ("gemm.ptx", include_str!("../ptx/gemm.ptx")),
        ("gemm_copy.ptx", include_str!("../ptx/gemm_copy.ptx")),
        ("mma.ptx", include_str!("../ptx/mma.ptx")),
        ("gemm_mma.ptx", include_str!("../ptx/gemm_mma.ptx")),
        ("gemm_fma.ptx", include_str!("../ptx/gemm_fma.ptx")),
        (
            "gemm_epilogue.ptx",
            include_str!("../ptx/gemm_epilogue.ptx"),
        ),
        ("math.ptx", include_str!("../ptx/math.ptx")),
    ],
};

/// A matrix in device memory, or a batch of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Address of the first element.
    pub pointer: u64,
    /// Elements from one row to the next; of a transposed matrix, from one column to the next.
    pub stride: usize,
    /// Elements from one matrix of the batch to the next; 0 if they share one.
    pub batch_stride: usize,
    /// Whether columns, not rows, are contiguous. Only for A and B.
    pub transposed: bool,
}

/// The second operand pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extension {
    /// A₂ [m, k₂].
    pub a: Matrix,
    /// B₂ [k₂, n].
    pub b: Matrix,
    /// k₂ ≥ 1.
    pub k: usize,
    /// s.
    pub scale: f32,
}

/// A product to launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// Type of A and B.
    pub operands: Type,
    /// Type of Y, R and bias.
    pub output: Output,
    /// Rows of Y.
    pub m: usize,
    /// Columns of Y.
    pub n: usize,
    /// Inner size; 0 is an empty sum.
    pub k: usize,
    /// Products.
    pub batch: usize,
    /// A [m, k].
    pub a: Matrix,
    /// B [k, n].
    pub b: Matrix,
    /// The second pair.
    pub extension: Option<Extension>,
    /// α.
    pub alpha: f32,
    /// Address of n elements.
    pub bias: Option<u64>,
    /// act.
    pub activation: Activation,
    /// β and R.
    pub residual: Option<(f32, Matrix)>,
    /// Y.
    pub y: Matrix,
    /// The length of a part of k, whole tiles of it, where each part has a Y of its own, one after another: raw sums, with
    /// nothing around them. See [`Plan`].
    pub split: Option<usize>,
}

/// A matrix as the kernel is told of it: strides in bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Place {
    pointer: u64,
    batch: u64,
    stride: u32,
}

impl Place {
    /// The offsets of a kernel's arguments with those of its matrices' fields.
    fn within(mut arguments: crate::Offsets) -> crate::Offsets {
        let own = crate::offsets!(Place: batch stride);
        arguments.extend(own.into_iter().filter(|(name, _)| *name != "size"));
        arguments
    }

    /// A matrix of elements of so many bytes.
    fn new(x: Matrix, bytes: usize) -> Place {
        Place {
            pointer: x.pointer,
            batch: (x.batch_stride * bytes) as u64,
            stride: (x.stride * bytes) as u32,
        }
    }
}

/// The kernel's argument, as the template reads it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    a: Place,
    b: Place,
    a2: Place,
    b2: Place,
    y: Place,
    r: Place,
    bias: u64,
    m: u32,
    n: u32,
    k: u32,
    k2: u32,
    alpha: f32,
    beta: f32,
    scale: f32,
    /// 1 if every row of Y and R, and the bias, start at multiples of 16 bytes.
    chunks: u32,
    /// The length of a part of k.
    chunk: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

/// Largest number of rows, columns or inner steps: sums with a tile's size stay below 2³¹.
const MAX_SIZE: usize = (1 << 31) - (1 << 10);

impl Gemm {
    /// Floating-point operations.
    pub fn flops(&self) -> u64 {
        2 * (self.batch * self.m * self.n) as u64 * self.inner() as u64
    }

    fn inner(&self) -> usize {
        self.k + self.extension.map_or(0, |e| e.k)
    }

    /// Bytes that any kernel moves: each operand once, each matrix that a batch shares once.
    pub fn minimum_bytes(&self) -> u64 {
        let times = |x: &Matrix| if x.batch_stride == 0 { 1 } else { self.batch };
        let second = self
            .extension
            .map_or(0, |e| e.k * (times(&e.a) * self.m + times(&e.b) * self.n));
        let operands = self.k * (times(&self.a) * self.m + times(&self.b) * self.n) + second;
        (operands * self.operands.bytes()) as u64 + self.result_bytes()
    }

    fn result_bytes(&self) -> u64 {
        let bias = self.bias.map_or(0, |_| self.n);
        let parts = self.split.map_or(1, |chunk| self.k.div_ceil(chunk));
        let matrices = self.batch * (parts + usize::from(self.residual.is_some()));
        ((matrices * self.m * self.n + bias) * self.output.bytes()) as u64
    }

    /// Bytes of global memory that the kernel with this tile asks for: whole tiles of A and B, also at the edges.
    pub fn tile_bytes(&self, tile: &Tile) -> u64 {
        let tiles = self.batch * self.m.div_ceil(tile.m) * self.n.div_ceil(tile.n);
        let operands = tiles * (tile.m + tile.n) * self.inner() * self.operands.bytes();
        operands as u64 + self.result_bytes()
    }

    /// The tiles that it may have, the largest first: not the largest, which leaves no registers for that, where elements are
    /// copied one by one, or tf32 has a second pair. A second pair that is turned is done with before the main loop begins.
    pub fn tiles(&self) -> &'static [Tile] {
        let second = self.extension.map(|e| self.loaders(&e.a, &e.b));
        let mut loaders = [Some(self.loaders(&self.a, &self.b)), second]
            .into_iter()
            .flatten();
        let whole = loaders.all(|pair| !pair.contains(&Loader::Elements));
        let tight = self.operands == Type::Tf32 && self.extension.is_some();
        &Tile::of(self.operands)[usize::from(!whole || tight)..]
    }

    fn majors(&self) -> [Major; 2] {
        // A by rows and B by columns lie along k.
        let major = |along_k| if along_k { Major::K } else { Major::Other };
        [major(!self.a.transposed), major(self.b.transposed)]
    }

    fn loaders(&self, a: &Matrix, b: &Matrix) -> [Loader; 2] {
        let [a_major, b_major] = self.majors();
        let per_chunk = 16 / self.operands.bytes();
        let whole = |elements: usize| elements.is_multiple_of(per_chunk);
        let loader = |x: &Matrix, first: &Matrix, major, extent| {
            if x.transposed != first.transposed {
                return Loader::Turned;
            }
            let rows = x.pointer.is_multiple_of(16) && whole(x.stride) && whole(x.batch_stride);
            if rows && (major == Major::K || whole(extent)) {
                Loader::Chunks
            } else {
                Loader::Elements
            }
        };
        [
            loader(a, &self.a, a_major, self.m),
            loader(b, &self.b, b_major, self.n),
        ]
    }

    /// The kernel that computes it with this tile, one of [`Gemm::tiles`].
    ///
    /// # Errors
    /// [`KernelError::Argument`]: sizes or strides that no kernel takes.
    pub fn variant(&self, tile: &'static Tile) -> Result<Variant, KernelError> {
        self.check()?;
        Ok(Variant {
            operands: self.operands,
            output: self.output,
            tile,
            majors: self.majors(),
            loaders: self.loaders(&self.a, &self.b),
            extension: self.extension.map(|e| self.loaders(&e.a, &e.b)),
            bias: self.bias.is_some(),
            activation: self.activation,
            residual: self.residual.is_some(),
            split: self.split.is_some(),
        })
    }

    fn check(&self) -> Result<(), KernelError> {
        let error = |what| {
            Err(KernelError::Argument {
                kernel: "gemm",
                what,
            })
        };
        let sizes = [self.m, self.n, self.k, self.extension.map_or(1, |e| e.k)];
        if sizes.iter().any(|&size| size > MAX_SIZE) || self.batch > 65_535 {
            return error(format!(
                "m, n, k, k₂ of {sizes:?} in a batch of {}: at most {MAX_SIZE} and 65535; split it",
                self.batch
            ));
        }
        if !self.output.of(self.operands) {
            return error(format!(
                "operands of {:?} give no result of {:?}: f32, or their own type, if it has 16 bits",
                self.operands, self.output
            ));
        }
        let second = self.extension.iter().flat_map(|e| {
            let a2 = ("A₂", e.a, self.m, e.k, self.operands.bytes(), true);
            [a2, ("B₂", e.b, e.k, self.n, self.operands.bytes(), true)]
        });
        let matrices = [
            ("A", self.a, self.m, self.k, self.operands.bytes(), true),
            ("B", self.b, self.k, self.n, self.operands.bytes(), true),
            (
                "Y",
                self.y,
                self.m,
                self.n,
                self.output.bytes(),
                !self.y.transposed,
            ),
        ];
        let residual = self
            .residual
            .iter()
            .map(|(_, r)| ("R", *r, self.m, self.n, self.output.bytes(), !r.transposed));
        for (name, x, rows, columns, bytes, fitting) in
            matrices.into_iter().chain(second).chain(residual)
        {
            let row = if x.transposed { rows } else { columns };
            if !fitting {
                return error(format!("{name} is transposed: Y and R must lie by rows"));
            }
            if x.stride < row || x.stride * bytes >= 1 << 32 {
                return error(format!(
                    "{name} [{rows}, {columns}]: a stride of {} elements, wanted {row} at least and less than 4 GiB",
                    x.stride
                ));
            }
            if !x.pointer.is_multiple_of(bytes as u64) {
                return error(format!(
                    "{name} at {:#x}: not aligned to its {bytes}-byte elements",
                    x.pointer
                ));
            }
        }
        if let Some(chunk) = self.split {
            let whole = chunk > 0
                && chunk.is_multiple_of(split::LEAST_CHUNK)
                && self.k.div_ceil(chunk) <= 65_535;
            let bare = self.bias.is_none() && self.residual.is_none() && self.extension.is_none();
            let raw = self.activation == Activation::Identity && self.output == Output::F32;
            let dense = self.y.stride == self.n && self.y.batch_stride == self.m * self.n;
            if !(whole && bare && raw && dense) {
                return error(format!(
                    "k = {} in parts of {chunk}: wanted multiples of {}, and raw sums in f32 without gaps or anything around them",
                    self.k,
                    split::LEAST_CHUNK
                ));
            }
        }
        if self.extension.is_some_and(|e| e.k == 0) {
            return error("k₂ = 0: leave the extension out".into());
        }
        Ok(())
    }

    /// Launches it on a stream by a plan of [`Gemm::plan`], which may want scratch memory. An empty result launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: arguments that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// The matrices, and [`Plan::scratch_bytes`] at `scratch`, must lie in memory of the stream's device, free of other use
    /// until the stream has come past; Y may overlap R only as the same matrix, and no other operand.
    pub unsafe fn launch(
        &self,
        plan: &Plan,
        scratch: u64,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let launch = |gemm: &Gemm| {
            let variant = gemm.variant(plan.tile)?;
            let shared = plan.tile.shared(self.operands);
            let function = kernels.get(&variant.name(), shared, || variant.expand())?;
            // SAFETY: the caller's promise; the function is this variant's.
            unsafe { gemm.launch_variant(&variant, &function, stream) }
        };
        match plan.chunk {
            None => launch(self),
            Some(_) if self.batch * self.m * self.n == 0 => Ok(()),
            Some(chunk) => {
                self.check()?;
                launch(&self.sums(chunk, scratch))?;
                // SAFETY: the caller's promise.
                unsafe { self.fold(chunk, scratch, kernels, stream) }
            }
        }
    }

    /// Launches a loaded variant.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    ///
    /// # Safety
    /// As for [`Gemm::launch`]; `variant` must come from this product's [`Gemm::variant`], and `function` from its text.
    pub unsafe fn launch_variant(
        &self,
        variant: &Variant,
        function: &CudaFunction,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let tile = variant.tile;
        let tiles = self.m.div_ceil(tile.m) * self.n.div_ceil(tile.n);
        let parts = self.split.map_or(1, |chunk| self.k.div_ceil(chunk));
        if tiles * self.batch == 0 {
            return Ok(());
        }
        let config = LaunchConfig {
            grid_dim: (tiles as u32, parts as u32, self.batch as u32),
            block_dim: (tile.threads() as u32, 1, 1),
            shared_mem_bytes: tile.shared(self.operands),
        };
        let arguments = self.arguments();
        let mut launch = stream.launch_builder(function);
        launch.arg(&arguments);
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        let launched = unsafe { launch.launch(config) };
        launched.map(drop).map_err(|error| KernelError::Driver {
            kernel: variant.name(),
            action: "launching it",
            error,
        })
    }

    fn arguments(&self) -> Arguments {
        let aligned = |x: &Place| {
            x.pointer.is_multiple_of(16)
                && x.batch.is_multiple_of(16)
                && x.stride.is_multiple_of(16)
        };
        let operand = |x: Option<Matrix>| {
            x.map_or(Place::default(), |x| Place::new(x, self.operands.bytes()))
        };
        let result =
            |x: Option<Matrix>| x.map_or(Place::default(), |x| Place::new(x, self.output.bytes()));
        let (y, r) = (result(Some(self.y)), result(self.residual.map(|(_, r)| r)));
        let bias = self.bias.unwrap_or(0);
        Arguments {
            a: operand(Some(self.a)),
            b: operand(Some(self.b)),
            a2: operand(self.extension.map(|e| e.a)),
            b2: operand(self.extension.map(|e| e.b)),
            y,
            r,
            bias,
            m: self.m as u32,
            n: self.n as u32,
            k: self.k as u32,
            k2: self.extension.map_or(0, |e| e.k as u32),
            alpha: self.alpha,
            beta: self.residual.map_or(0.0, |(beta, _)| beta),
            scale: self.extension.map_or(0.0, |e| e.scale),
            chunks: u32::from(aligned(&y) && aligned(&r) && bias.is_multiple_of(16)),
            chunk: self.split.unwrap_or(0) as u32,
        }
    }
}

impl Variant {
    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(&self) -> Result<Ptx, KernelError> {
        TEMPLATE.expand(self.values())
    }
}
