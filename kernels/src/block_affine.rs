//! Rows of W + ΔW for `ΔW_ij = W_ij·R_i + R_i` on blocks of b × b, and the gradient of R (Bone: Kang 2024).
//!
//! ```text
//! out_ij = W_ij + W_ij·R_i + R_i        dR_i += Σ_j (W_ijᵀ + I)·G_ij
//! W, out, G [rows, n]        R, dR [⌈rows/b⌉, b, b]
//! ```
//!
//! A ragged last block is W's corner filled up with zeros, whose update is cut back to W. The pairs (j, p) of a row of blocks, row p of
//! block j, are one long axis, so that small blocks fill a tile as large ones do. A tile is s columns wide, s the least of 16, 32 and 64
//! that holds b, or 64, and has 4096/s pairs; 256 threads have 4 × 4 results each. To make rows, a block of threads walks over tiles with
//! its columns of R in shared memory. The gradient sums over parts of the pairs, which a second pass adds in their order.
//!
//! FLOPs: 2 rows n b to make rows, as many for the gradient. Bytes at least: W in, out out, R in; W and G in, dR in and out. Errors:
//! those of sums of b + 2 and of n + rows products (Higham 2002, §3.1); the gradient rounds W + I once more.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

pub use crate::element::Element;
use crate::gemm::add_parts;
use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[
        ("block_affine.ptx", include_str!("../ptx/block_affine.ptx")),
        ("element.ptx", include_str!("../ptx/element.ptx")),
    ],
};

const THREADS: usize = 256;
/// Elements of a tile of W.
const TILE: usize = 4096;
/// The most tiles that a block of threads walks over.
const MOST_TILES: usize = 8;

/// What a launch computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rows of W + ΔW.
    Produce,
    /// Parts of dR.
    Contract,
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Which.
    pub kind: Kind,
    /// Type of W.
    pub element: Element,
    /// s: 16, 32 or 64.
    pub side: usize,
    /// Neighbours that a thread loads at a time: 1 or 4.
    pub chunk: usize,
}

/// Rows of a block-affine update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockAffine {
    /// Rows; all blocks but the last are whole.
    pub rows: usize,
    /// Elements of a row.
    pub n: usize,
    /// b.
    pub block: usize,
    /// Type of W.
    pub element: Element,
    /// Address of W's rows, contiguous.
    pub w: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    w: u64,
    /// R or G.
    other: u64,
    out: u64,
    rows: u32,
    n: u32,
    block: u32,
    /// Rows of blocks.
    blocks: u32,
    /// Tiles of a row of blocks.
    tiles: u32,
    /// Tiles of a walk, or of a part.
    walk: u32,
    /// Walks or parts.
    walks: u32,
    _pad: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Variant {
    /// Every kernel for f32; of the other types those of one side.
    pub fn all() -> impl Iterator<Item = Variant> {
        let types = [Element::F32, Element::Bf16, Element::F16];
        let each = types.into_iter().flat_map(|element| {
            [16, 32, 64].into_iter().flat_map(move |side| {
                [1, 4].into_iter().flat_map(move |chunk| {
                    [Kind::Produce, Kind::Contract].map(|kind| Variant {
                        kind,
                        element,
                        side,
                        chunk,
                    })
                })
            })
        });
        each.filter(|v| v.element == Element::F32 || v.side == 64)
    }

    /// The kernel's name.
    pub fn name(self) -> String {
        let kind = match self.kind {
            Kind::Produce => "produce",
            Kind::Contract => "contract",
        };
        let element = self.element.name();
        format!("block_affine_{kind}_{element}_{}_{}", self.side, self.chunk)
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
            #[serde(rename = "type")]
            element: &'static str,
            bytes: usize,
            side: usize,
            chunk: usize,
            /// Threads side by side.
            quads: usize,
            /// Pairs of a tile.
            deep: usize,
            /// Pairs between a thread's.
            step: usize,
            groups: usize,
            at: crate::Offsets,
        }
        let deep = TILE / self.side;
        TEMPLATE.expand(Values {
            name: self.name(),
            kind: match self.kind {
                Kind::Produce => "produce",
                Kind::Contract => "contract",
            },
            element: self.element.name(),
            bytes: self.element.bytes(),
            side: self.side,
            chunk: self.chunk,
            quads: self.side / 4,
            deep,
            step: deep / 4,
            groups: TILE / (self.side * self.side),
            at: crate::offsets!(Arguments: w other out rows n block blocks tiles walk walks),
        })
    }

    /// Threads of a block.
    pub fn threads(self) -> usize {
        THREADS
    }
}

impl BlockAffine {
    /// Rows of blocks.
    pub fn blocks(&self) -> usize {
        self.rows.div_ceil(self.block.max(1))
    }

    /// Operations of either launch.
    pub fn flops(&self) -> u64 {
        2 * (self.rows * self.n * self.block) as u64
    }

    /// Bytes that any kernel moves to make rows, or for the gradient.
    pub fn minimum_bytes(&self, kind: Kind) -> u64 {
        let squares = 4 * self.blocks() * self.block * self.block;
        let squares = match kind {
            Kind::Produce => squares,
            Kind::Contract => 2 * squares,
        };
        (self.rows * self.n * (self.element.bytes() + 4) + squares) as u64
    }

    fn side(&self) -> usize {
        match self.block {
            ..=16 => 16,
            17..=32 => 32,
            _ => 64,
        }
    }

    /// Tiles of a row of blocks.
    fn tiles(&self) -> usize {
        let pairs = self.n.div_ceil(self.block.max(1)) * self.block;
        pairs.div_ceil(TILE / self.side())
    }

    /// Tiles of a walk: one, or as many as leave every multiprocessor a block of threads.
    pub fn walk(&self, multiprocessors: u32) -> usize {
        let all = self.blocks() * self.block.div_ceil(self.side()) * self.tiles();
        (all / multiprocessors.max(1) as usize).clamp(1, MOST_TILES)
    }

    /// Parts of the gradient's sum: enough for two blocks of threads a multiprocessor, but no more than a quarter of G's size in sums.
    pub fn parts(&self, multiprocessors: u32) -> usize {
        let squares = self.blocks() * self.block.div_ceil(self.side()).pow(2);
        let wanted = 2 * multiprocessors as usize / squares.max(1);
        let most = (self.n / (4 * self.block.max(1))).min(self.tiles()).max(1);
        let walk = self.tiles().div_ceil(wanted.clamp(1, most)).max(1);
        self.tiles().div_ceil(walk)
    }

    /// Makes rows of W + ΔW at `out` by the squares at `r`.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// All operands must lie in memory of the stream's device, free of other use until the stream has come past; `out` overlaps none of
    /// them.
    pub unsafe fn produce(
        &self,
        r: u64,
        out: u64,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let walk = self.walk(kernels.multiprocessors());
        // SAFETY: the caller's promise.
        unsafe { self.launch(Kind::Produce, r, out, walk, kernels, stream) }
    }

    /// Adds to the squares at `dr` what the rows of dL/dΔW at `g` contribute, by way of [`BlockAffine::parts`] times their number at
    /// `sums`.
    ///
    /// # Errors
    /// As [`BlockAffine::produce`].
    ///
    /// # Safety
    /// As for [`BlockAffine::produce`].
    pub unsafe fn contract(
        &self,
        g: u64,
        dr: u64,
        sums: u64,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        if self.rows * self.n == 0 {
            return Ok(());
        }
        let parts = self.parts(kernels.multiprocessors());
        let walk = self.tiles().div_ceil(parts);
        let size = [self.blocks() * self.block, self.block];
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(Kind::Contract, g, sums, walk, kernels, stream)?;
            add_parts((sums, parts), dr, size, kernels, stream)
        }
    }

    /// The kernel that computes it, of R or G at `other`.
    pub fn variant(&self, kind: Kind, other: u64, out: u64) -> Variant {
        let whole = self.n.is_multiple_of(4)
            && self.block.is_multiple_of(4)
            && self.w.is_multiple_of(4 * self.element.bytes() as u64)
            && (other | out).is_multiple_of(16);
        Variant {
            kind,
            element: self.element,
            side: self.side(),
            chunk: if whole { 4 } else { 1 },
        }
    }

    unsafe fn launch(
        &self,
        kind: Kind,
        other: u64,
        out: u64,
        walk: usize,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let &BlockAffine { rows, n, block, .. } = self;
        if rows * n == 0 {
            return Ok(());
        }
        let across = block.div_ceil(self.side());
        let fits =
            (n.next_multiple_of(block.max(1)) + TILE) * (rows + 1) < 1 << 31 && across <= 65_535;
        let typed = matches!(self.element, Element::F32 | Element::Bf16 | Element::F16);
        if block == 0 || !fits || !typed {
            return Err(KernelError::Argument {
                kernel: "block_affine",
                what: format!(
                    "{self:?}: wanted blocks of 1 row at least and fewer than 2³¹ elements, of a floating-point type; give it fewer \
                     rows"
                ),
            });
        }
        let walks = self.tiles().div_ceil(walk);
        let arguments = Arguments {
            w: self.w,
            other,
            out,
            rows: rows as u32,
            n: n as u32,
            block: block as u32,
            blocks: self.blocks() as u32,
            tiles: self.tiles() as u32,
            walk: walk as u32,
            walks: walks as u32,
            _pad: 0,
        };
        let grid = Grid {
            blocks: [
                (self.blocks() * walks) as u32,
                across as u32,
                match kind {
                    Kind::Produce => 1,
                    Kind::Contract => across as u32,
                },
            ],
            threads: THREADS as u32,
            shared: 0,
        };
        let variant = self.variant(kind, other, out);
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(&variant.name(), grid, &arguments, stream, || {
                variant.expand()
            })
        }
    }
}
