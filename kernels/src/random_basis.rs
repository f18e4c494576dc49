//! Numbers of random bases that are stored nowhere, and what is made of them (RandLoRA: Albert et al. 2025).
//!
//! ```text
//! fill      out[i, c] = B[i, c]
//! scaled    out[(j, k), c] = s·λ_kj·A[k, c]·γ_jc                       terms j of a run, k < r
//! gamma     dγ_jc += Σ_k (U[(j, k), c]·A[k, c])·λ_kj                   k ascending
//! lambda    dλ_kj += Σ_c (U[(j, k), c]·A[k, c])·γ_jc
//! A, B: rows and columns of Philox streams      λ, dλ [r, N]      γ, dγ [N, d]      out, U [rows, width], contiguous
//! ```
//!
//! c are the columns of a window, so that a part of a wide basis is made where it is used. A thread makes a block of the generator,
//! four neighbours, and moves them together where window and addresses are whole blocks. FLOPs: none of the basis', 2 and 3 an element of
//! what is scaled or summed. Bytes: [`Window::bytes`]. All but dλ's sum over lanes have the CPU's bits.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::Grid;
use crate::philox;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[
        ("random_basis.ptx", include_str!("../ptx/random_basis.ptx")),
        philox::BLOCK,
        ("row.ptx", include_str!("../ptx/row.ptx")),
    ],
};

const THREADS: u32 = 128;

/// How numbers of a basis are distributed, with mean 0 and variance 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bases {
    /// Uniform in [−√3, √3).
    Uniform,
    /// ±√s with probability 1/2s each, else 0.
    Ternary(f32),
}

/// What a launch makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Numbers of B.
    Fill,
    /// s·Λ·A·Γ of a run of terms.
    Scaled,
    /// dγ.
    Gamma,
    /// dλ.
    Lambda,
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variant {
    /// Which.
    pub kind: Kind,
    /// Their distribution; of the sparsity no text depends.
    pub bases: Bases,
    /// Neighbours that are moved at a time: 1 or 4.
    pub chunk: usize,
}

impl Variant {
    /// One of each text.
    pub fn all() -> impl Iterator<Item = Variant> {
        let kinds = [Kind::Fill, Kind::Scaled, Kind::Gamma, Kind::Lambda];
        kinds.into_iter().flat_map(|kind| {
            [Bases::Uniform, Bases::Ternary(3.0)]
                .into_iter()
                .flat_map(move |bases| [1, 4].map(|chunk| Variant { kind, bases, chunk }))
        })
    }

    fn parts(self) -> [&'static str; 2] {
        let kind = match self.kind {
            Kind::Fill => "fill",
            Kind::Scaled => "scaled",
            Kind::Gamma => "gamma",
            Kind::Lambda => "lambda",
        };
        match self.bases {
            Bases::Uniform => [kind, "uniform"],
            Bases::Ternary(_) => [kind, "ternary"],
        }
    }

    /// The kernel's name, different for each text.
    pub fn name(self) -> String {
        let [kind, bases] = self.parts();
        format!("random_basis_{kind}_{bases}_{}", self.chunk)
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
            kind: &'static str,
            bases: &'static str,
            chunk: usize,
            threads: u32,
            at: crate::Offsets,
        }
        let [kind, bases] = self.parts();
        TEMPLATE.expand(Values {
            name: self.name(),
            kind,
            bases,
            chunk: self.chunk,
            threads: THREADS,
            at: crate::offsets!(
                Arguments: out u lambda gamma stream row rows block blocks skip width rank term terms small scale low high root
            ),
        })
    }
}

/// Columns of a basis.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Its distribution.
    pub bases: Bases,
    /// Its stream.
    pub stream: [u32; 4],
    /// Which columns.
    pub columns: Range<usize>,
}

/// A run of terms, of which A is the basis.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The terms.
    pub terms: Range<usize>,
    /// N.
    pub all: usize,
    /// r.
    pub rank: usize,
    /// d.
    pub small: usize,
    /// Address of λ.
    pub lambda: u64,
    /// Address of γ.
    pub gamma: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Arguments {
    out: u64,
    u: u64,
    lambda: u64,
    gamma: u64,
    stream: [u32; 4],
    /// The first row of the stream.
    row: u32,
    /// Rows of what is made or read.
    rows: u32,
    /// The generator's first block, and how many a row has.
    block: u32,
    blocks: u32,
    /// Elements of the first block before the window.
    skip: u32,
    width: u32,
    rank: u32,
    /// The first term.
    term: u32,
    terms: u32,
    small: u32,
    scale: f32,
    low: f32,
    high: f32,
    root: f32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Window {
    fn blocks(&self) -> usize {
        self.columns.end.div_ceil(4) - self.columns.start / 4
    }

    /// Bytes that a launch moves for so many rows of numbers, of `rank` for each term.
    pub fn bytes(&self, kind: Kind, rows: usize, rank: usize) -> u64 {
        let (width, blocks) = (self.columns.len(), self.blocks());
        let numbers = match kind {
            Kind::Fill => rows * width,
            Kind::Scaled => rows * (2 * width + blocks),
            Kind::Gamma => rows * (width + blocks) + 2 * rows / rank * width,
            Kind::Lambda => 2 * rows * (width + 1),
        };
        4 * numbers as u64
    }

    /// Numbers of these rows at `out`, contiguous. An empty window launches nothing, here and below.
    ///
    /// # Errors
    /// [`KernelError`]: more numbers than a launch makes, or the driver's refusal.
    ///
    /// # Safety
    /// All operands must lie in memory of the stream's device, free of other use until the stream has come past, and have the sizes
    /// that are said; what is written overlaps nothing else.
    pub unsafe fn fill(
        &self,
        rows: Range<usize>,
        out: u64,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let arguments = Arguments {
            out,
            row: rows.start as u32,
            ..Arguments::default()
        };
        // SAFETY: the caller's promise.
        unsafe { self.launch(Kind::Fill, rows.len(), arguments, kernels, stream) }
    }

    /// s·Λ·A·Γ of a run at `out`.
    ///
    /// # Errors
    /// As [`Window::fill`].
    ///
    /// # Safety
    /// As for [`Window::fill`].
    pub unsafe fn scaled(
        &self,
        run: &Run,
        scale: f32,
        out: u64,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let arguments = Arguments {
            out,
            scale,
            ..run.arguments()
        };
        // SAFETY: the caller's promise.
        unsafe { self.launch(Kind::Scaled, run.rows(), arguments, kernels, stream) }
    }

    /// Adds to dγ, and to dλ, what U at `u` contributes.
    ///
    /// # Errors
    /// As [`Window::fill`].
    ///
    /// # Safety
    /// As for [`Window::fill`].
    pub unsafe fn gradients(
        &self,
        run: &Run,
        u: u64,
        [d_lambda, d_gamma]: [u64; 2],
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        for (kind, out) in [(Kind::Gamma, d_gamma), (Kind::Lambda, d_lambda)] {
            let arguments = Arguments {
                out,
                u,
                ..run.arguments()
            };
            // SAFETY: the caller's promise.
            unsafe { self.launch(kind, run.rows(), arguments, kernels, stream) }?;
        }
        Ok(())
    }

    unsafe fn launch(
        &self,
        kind: Kind,
        rows: usize,
        arguments: Arguments,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let (width, blocks) = (self.columns.len(), self.blocks());
        if width == 0 || rows == 0 {
            return Ok(());
        }
        let start = self.columns.start;
        let Arguments {
            out,
            u,
            gamma,
            small,
            ..
        } = arguments;
        let aligned = |number: usize| number.is_multiple_of(4);
        // dλ is not reached by blocks.
        let moved = if kind == Kind::Lambda { 0 } else { out } | u | gamma;
        let whole = aligned(start) && aligned(width) && aligned(small as usize);
        let variant = Variant {
            kind,
            bases: self.bases,
            chunk: if whole && moved.is_multiple_of(16) {
                4
            } else {
                1
            },
        };
        let name = variant.name();
        let work = match kind {
            Kind::Gamma => rows / arguments.rank as usize * blocks,
            Kind::Lambda => rows * 32,
            Kind::Fill | Kind::Scaled => rows * blocks,
        };
        if work >= 1 << 31 || self.columns.end >= 1 << 31 {
            return Err(KernelError::Argument {
                kernel: "random_basis",
                what: format!(
                    "{rows} rows of columns {:?}: wanted fewer than 2³¹ columns, and blocks of four numbers; split it",
                    self.columns
                ),
            });
        }
        let (low, root) = match self.bases {
            Bases::Uniform => (0.0, 3f32.sqrt()),
            Bases::Ternary(s) => (0.5 / s, s.sqrt()),
        };
        let arguments = Arguments {
            stream: self.stream,
            rows: match kind {
                Kind::Gamma => rows as u32 / arguments.rank,
                _ => rows as u32,
            },
            block: (start / 4) as u32,
            blocks: blocks as u32,
            skip: (start % 4) as u32,
            width: width as u32,
            low,
            high: 1.0 - low,
            root,
            ..arguments
        };
        let grid = Grid::over(work as u32, THREADS);
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe { kernels.launch(&name, grid, &arguments, stream, || variant.expand()) }
    }
}

impl Run {
    /// Rows (j, k).
    fn rows(&self) -> usize {
        self.terms.len() * self.rank
    }

    fn arguments(&self) -> Arguments {
        Arguments {
            lambda: self.lambda,
            gamma: self.gamma,
            rank: self.rank as u32,
            term: self.terms.start as u32,
            terms: self.all as u32,
            small: self.small as u32,
            ..Arguments::default()
        }
    }
}
