//! The register tile from which the matrix products are built.
//!
//! ```text
//! acc[i][j] = Σ_k a[i, k] · b[k, j]     i < MR, j < NV vectors of lanes
//! ```
//!
//! `b` is read as vectors along its rows, `a` one element at a time, broadcast. Each element of the
//! tile is one chain of fused multiply-adds over k, first to last: its bits depend neither on the
//! tile's size nor on its place.

use pulp::Simd;

/// An operand that is read one element at a time: element (i, k) lies at `start + i·row + k·depth`.
#[derive(Clone, Copy, Debug)]
pub struct Broadcast {
    /// Element (0, 0).
    pub start: *const f32,
    /// Distance between the tile's rows.
    pub row: isize,
    /// Distance along the summed axis.
    pub depth: isize,
}

/// An operand that is read as rows of vectors: row k starts at `start + k·depth`.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Element (0, 0).
    pub start: *const f32,
    /// Distance along the summed axis.
    pub depth: isize,
}

/// Loads a vector from an address of any alignment.
///
/// # Safety
/// `S::F32_LANES` elements must be readable at `from`.
#[inline(always)]
pub unsafe fn load<S: Simd>(_: S, from: *const f32) -> S::f32s {
    // SAFETY: this function's contract; vectors of f32 have no invalid bit patterns.
    unsafe { from.cast::<S::f32s>().read_unaligned() }
}

/// Stores a vector to an address of any alignment.
///
/// # Safety
/// `S::F32_LANES` elements must be writable at `to`.
#[inline(always)]
pub unsafe fn store<S: Simd>(_: S, to: *mut f32, v: S::f32s) {
    // SAFETY: this function's contract.
    unsafe { to.cast::<S::f32s>().write_unaligned(v) }
}

/// The tile `acc = a·b` over `depth` steps, `MR` rows by `NV` whole vectors.
///
/// # Safety
/// `a` must be readable for `MR` rows and `depth` steps, `b` for `depth` rows of `NV` vectors.
#[inline(always)]
pub unsafe fn tile<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    depth: usize,
    a: Broadcast,
    b: Rows,
) -> [[S::f32s; NV]; MR] {
    let mut acc = [[simd.splat_f32s(0.0); NV]; MR];
    // SAFETY: every address below is inside what the contract names.
    unsafe {
        for k in 0..depth as isize {
            let row = b.start.offset(k * b.depth);
            let mut v = [simd.splat_f32s(0.0); NV];
            for j in 0..NV {
                v[j] = load(simd, row.add(j * S::F32_LANES));
            }
            for i in 0..MR {
                let x = simd.splat_f32s(*a.start.offset(i as isize * a.row + k * a.depth));
                for j in 0..NV {
                    acc[i][j] = simd.mul_add_f32s(x, v[j], acc[i][j]);
                }
            }
        }
    }
    acc
}
