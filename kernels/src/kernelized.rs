//! Rows of W + S(K) for K a kernel of two factors' rows of which the largest entries act, the factors' gradients, and the exact threshold
//! (SNELL: Shen et al. 2024).
//!
//! ```text
//! K[o, i] = κ(a_i, b_o)        t = quantile(|K|, p)        out = W + S(K)
//! linear a·b    polynomial (a·b + shift)^degree    sigmoid tanh(γ a·b + shift)    RBF exp(−γ ‖a − b‖²)    distance c·Σ_h (−1)^h ‖a_h − b_h‖
//! E = G ⊙ S′(K) ⊙ κ′        da_i += Σ_o E[o, i]·b_o        db_o += Σ_i E[o, i]·a_i        of differences: Σ_o E (a_i − b_o), −Σ_i E (a_i − b_o)
//! a, da [H, n, d]        b, db [H, m, d]        r = H·d        W, out, G [rows, n]
//! ```
//!
//! K is made of the factors wherever it is needed and never stored: a block of 256 threads makes a tile of 64 × 64, 4 × 4 a thread, from 32 of
//! the r numbers at a time in shared memory, with the CPU's operations in its order. The threshold takes four passes over K and no copy of it:
//! three count digits of the magnitudes' bits, 11, 11 and 10, and the last looks for the next larger magnitude where the quantile lies
//! between two. Counts are integers, so that no order matters. Each tile sums its share of the gradients, which a second pass adds in the
//! tiles' order; as many rows go at once as keep these sums no larger than G, 64 at least.
//!
//! FLOPs: about 2 rows n r for K, twice that again for the gradients (differences: 3 and 6). Bytes at least: W in, out out; G in; the factors,
//! and in the gradients their sums, besides. A tile brings 512 r bytes of the factors with it.

mod threshold;
mod variant;

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};

pub use crate::element::Element;
use crate::gemm::add_parts;
use crate::kernels::Grid;
use crate::{KernelError, Kernels};
pub use threshold::Step;
pub use variant::{Kernel, Kind, Values, Variant};

const THREADS: usize = 256;
/// Rows and columns of a tile.
const TILE: usize = 64;
/// t.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// A number.
    Above(f32),
    /// The number at this address.
    At(u64),
}

/// A kernelized-sparse update of an `[m, n]` matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kernelized {
    /// κ.
    pub kernel: Kernel,
    /// S.
    pub values: Values,
    /// t, where S has one.
    pub threshold: Threshold,
    /// Rows of the matrix.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// H.
    pub heads: usize,
    /// Numbers of a head.
    pub d: usize,
    /// Address of a.
    pub a: u64,
    /// Address of b.
    pub b: u64,
}

/// Some of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The first.
    pub first: usize,
    /// How many.
    pub count: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    a: u64,
    b: u64,
    /// W or G.
    w: u64,
    /// The result; sums of da; the [`State`].
    out: u64,
    /// Sums of db.
    out_b: u64,
    /// Address of t, or 0.
    t: u64,
    n: u32,
    m: u32,
    first: u32,
    rows: u32,
    d: u32,
    r: u32,
    degree: u32,
    /// The digit: bits from `low` to `high`.
    low: u32,
    high: u32,
    mask: u32,
    tiles: u32,
    /// Tiles side by side.
    across: u32,
    scale: f32,
    shift: f32,
    above: f32,
    _pad: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Kernelized {
    /// Numbers of a row of either factor.
    fn r(&self) -> usize {
        self.heads * self.d
    }

    /// Operations to make `rows` rows of K, but for κ's own; the gradients take twice as many besides.
    pub fn flops(&self, rows: usize) -> u64 {
        let each = if self.kernel.apart() { 3 } else { 2 };
        (each * rows * self.n * self.r()) as u64
    }

    /// Bytes that any kernel moves for `rows` rows: of W, and W + ΔW, and the factors; or of G, the factors and their gradients.
    pub fn minimum_bytes(&self, kind: Kind, rows: usize) -> u64 {
        let factors = 4 * (rows + self.n) * self.r();
        let moved = match kind {
            Kind::Count | Kind::Above => factors,
            Kind::Produce(element) => rows * self.n * (element.bytes() + 4) + factors,
            Kind::Contract => rows * self.n * 4 + 3 * factors,
        };
        moved as u64
    }

    /// Bytes of the factors that the tiles of `rows` rows bring with them, each time that K is made.
    pub fn tile_bytes(&self, rows: usize) -> u64 {
        let tiles = rows.div_ceil(TILE) * self.n.div_ceil(TILE);
        (tiles * 2 * TILE * self.r() * 4) as u64
    }

    /// Rows whose gradients are summed at once: whole tiles.
    fn slice(&self, rows: usize) -> usize {
        let a_tile_row = self.n * self.r() + self.n.div_ceil(TILE) * TILE * self.r();
        let tiles = (rows * self.n / a_tile_row.max(1)).clamp(1, rows.div_ceil(TILE).max(1));
        tiles * TILE
    }

    /// Numbers of the sums that [`Kernelized::contract`] works in: of a's and of b's.
    fn sums(&self, rows: usize) -> [usize; 2] {
        let slice = self.slice(rows).min(rows);
        [
            slice.div_ceil(TILE) * self.n * self.r(),
            self.n.div_ceil(TILE) * slice * self.r(),
        ]
    }

    /// Numbers of the memory that [`Kernelized::contract`] works in, no more than G's, or than two gradients of a and one of 64 rows of b
    /// for each 64 columns.
    pub fn scratch(&self, rows: usize) -> usize {
        self.sums(rows).iter().sum()
    }

    /// Makes rows of W + S(K) at `out` from W's, of type `element`, at `w`.
    ///
    /// # Errors
    /// As [`Kernelized::quantile`].
    ///
    /// # Safety
    /// As for [`Kernelized::quantile`]; W, the result and what they are made of do not overlap.
    pub unsafe fn produce(
        &self,
        rows: Rows,
        (w, element): (u64, Element),
        out: u64,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let arguments = Arguments {
            w,
            out,
            ..self.arguments(rows)
        };
        // SAFETY: the caller's promise.
        unsafe { self.launch(Kind::Produce(element), arguments, kernels, stream) }
    }

    /// Adds to da and db at `grads` what the rows of dL/dΔW at `g` contribute, by way of [`Kernelized::scratch`] numbers at `sums`.
    ///
    /// # Errors
    /// As [`Kernelized::quantile`].
    ///
    /// # Safety
    /// As for [`Kernelized::produce`].
    pub unsafe fn contract(
        &self,
        rows: Rows,
        g: u64,
        [da, db]: [u64; 2],
        sums: u64,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let (n, d, r) = (self.n, self.d, self.r());
        if n * r == 0 {
            return Ok(());
        }
        let sums_b = sums + 4 * self.sums(rows.count)[0] as u64;
        for from in (0..rows.count).step_by(self.slice(rows.count)) {
            let slice = Rows {
                first: rows.first + from,
                count: self.slice(rows.count).min(rows.count - from),
            };
            let arguments = Arguments {
                w: g + 4 * (from * n) as u64,
                out: sums,
                out_b: sums_b,
                ..self.arguments(slice)
            };
            let (down, across) = (slice.count.div_ceil(TILE), n.div_ceil(TILE));
            // SAFETY: the caller's promise; the sums of a slice have been added before those of the next are written.
            unsafe {
                self.launch(Kind::Contract, arguments, kernels, stream)?;
                add_parts((sums, down), da, [self.heads * n, d], kernels, stream)?;
                for h in 0..self.heads {
                    let part = sums_b + 4 * (h * across * slice.count * d) as u64;
                    let target = db + 4 * ((h * self.m + slice.first) * d) as u64;
                    add_parts((part, across), target, [slice.count, d], kernels, stream)?;
                }
            }
        }
        Ok(())
    }

    /// The kernel that computes it of what lies at these addresses.
    pub fn variant(&self, kind: Kind, w: u64, out: u64) -> Variant {
        let bytes = match kind {
            Kind::Produce(element) => element.bytes(),
            _ => 4,
        };
        let aligned = w.is_multiple_of(4 * bytes as u64)
            && (kind == Kind::Contract || out.is_multiple_of(16));
        let passes = matches!(kind, Kind::Count | Kind::Above);
        Variant {
            kind,
            kernel: self.kernel,
            values: if passes { Values::All } else { self.values },
            chunk: if !passes && aligned && self.n.is_multiple_of(4) {
                4
            } else {
                1
            },
        }
    }

    fn arguments(&self, rows: Rows) -> Arguments {
        let (scale, shift, degree) = self.kernel.numbers();
        let (t, above) = match self.threshold {
            Threshold::Above(t) => (0, t),
            Threshold::At(address) => (address, 0.0),
        };
        Arguments {
            a: self.a,
            b: self.b,
            w: 0,
            out: 0,
            out_b: 0,
            t,
            n: self.n as u32,
            m: self.m as u32,
            first: rows.first as u32,
            rows: rows.count as u32,
            d: self.d as u32,
            r: self.r() as u32,
            degree,
            low: 0,
            high: 0,
            mask: 0,
            tiles: (rows.count.div_ceil(TILE) * self.n.div_ceil(TILE)) as u32,
            across: self.n.div_ceil(TILE) as u32,
            scale,
            shift,
            above,
            _pad: 0,
        }
    }

    unsafe fn launch(
        &self,
        kind: Kind,
        arguments: Arguments,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let (m, n) = (self.m, self.n);
        let factors = self.r() * (m.max(n) + 2 * TILE);
        let down = (arguments.rows as usize).div_ceil(TILE);
        if (m + TILE) * (n + TILE) >= 1 << 31 || factors >= 1 << 31 || down > 65_535 {
            return Err(KernelError::Argument {
                kernel: "kernelized",
                what: format!(
                    "a matrix of [{m}, {n}] from {} numbers a row: wanted fewer than 2³¹ elements in it and in each factor, and {} rows \
                     at a time at most",
                    self.r(),
                    65_535 * TILE
                ),
            });
        }
        if arguments.tiles == 0 {
            return Ok(());
        }
        let variant = self.variant(kind, arguments.w, arguments.out);
        let blocks = match kind {
            Kind::Count | Kind::Above => [arguments.tiles.min(2 * kernels.multiprocessors()), 1, 1],
            Kind::Produce(_) | Kind::Contract => [arguments.across, down as u32, 1],
        };
        let grid = Grid {
            blocks,
            threads: THREADS as u32,
            shared: 0,
        };
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(&variant.name(), grid, &arguments, stream, || {
                variant.expand()
            })
        }
    }
}
