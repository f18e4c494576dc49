//! Vector registers of each instruction-set path, and the way into code compiled for one.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::cpu::simd::Isa;

/// A vector register of f32 and what kernels do with it.
///
/// # Safety
/// Every function needs the path's instructions; addresses must be good for the elements that are named, unaligned.
pub(super) trait Lanes: Copy + 'static {
    /// Elements of a register.
    const WIDTH: usize;
    /// Registers across a tile of 6 rows, so that accumulators, B and one element of A fit the register file.
    const ACROSS: usize;
    /// A register.
    type V: Copy;

    /// All 0.
    unsafe fn zero() -> Self::V;
    /// All `*p`.
    unsafe fn splat(p: *const f32) -> Self::V;
    /// `WIDTH` elements.
    unsafe fn load(p: *const f32) -> Self::V;
    /// `WIDTH` elements.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n < WIDTH` elements, 0 after them.
    unsafe fn load_part(p: *const f32, n: usize) -> Self::V;
    /// The first `n < WIDTH` elements.
    unsafe fn store_part(p: *mut f32, n: usize, v: Self::V);
    /// `a·b + c`; one rounding where the path has fused instructions.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The sums over each register's lanes.
    unsafe fn sums(v: &[Self::V; 8]) -> [f32; 8];
    /// Writes the transpose of an 8×8 block; rows are `from_stride` and `to_stride` apart.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);
}

/// Four lanes in plain Rust: SSE2 on x86-64, whatever the target has elsewhere.
#[derive(Clone, Copy)]
pub(super) struct Quad;

impl Lanes for Quad {
    const WIDTH: usize = 4;
    const ACROSS: usize = 2;
    type V = [f32; 4];

    #[inline(always)]
    unsafe fn zero() -> [f32; 4] {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> [f32; 4] {
        // SAFETY: the caller's.
        [unsafe { *p }; 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 4] {
        // SAFETY: the caller's.
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 4]) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> [f32; 4] {
        // SAFETY: the caller's; lanes from `n` on are not read.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, n: usize, v: [f32; 4]) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: the caller's; lanes from `n` on are not written.
            unsafe { *p.add(i) = x };
        }
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn sums(v: &[[f32; 4]; 8]) -> [f32; 8] {
        std::array::from_fn(|i| (v[i][0] + v[i][2]) + (v[i][1] + v[i][3]))
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for i in 0..8 {
            for j in 0..8 {
                // SAFETY: the caller's.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
            }
        }
    }
}

/// AVX2 with FMA: 8 lanes, 16 registers.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Ymm;

/// The mask whose first `n` lanes are set, from a sliding window.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn mask8(n: usize) -> __m256i {
    const WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: n ≤ 8, so that 8 elements follow.
    unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(8 - n).cast()) }
}

/// Sums over the lanes of 8 registers.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn sums8(v: &[__m256; 8]) -> [f32; 8] {
    // SAFETY: the caller has AVX.
    unsafe {
        let mut pairs = [_mm256_setzero_ps(); 4];
        for i in 0..4 {
            pairs[i] = _mm256_hadd_ps(v[2 * i], v[2 * i + 1]);
        }
        let (a, b) = (
            _mm256_hadd_ps(pairs[0], pairs[1]),
            _mm256_hadd_ps(pairs[2], pairs[3]),
        );
        let (low, high) = (
            _mm256_permute2f128_ps::<0x20>(a, b),
            _mm256_permute2f128_ps::<0x31>(a, b),
        );
        let mut out = [0.0; 8];
        _mm256_storeu_ps(out.as_mut_ptr(), _mm256_add_ps(low, high));
        out
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn transpose8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: the caller's addresses and AVX.
    unsafe {
        // Rows i and i + 4 share a register, so that the rest stays inside 128-bit lanes.
        for j in [0, 4] {
            let mut rows = [_mm256_setzero_ps(); 4];
            for i in 0..4 {
                let low = _mm256_castps128_ps256(_mm_loadu_ps(from.add(i * from_stride + j)));
                let high = _mm_loadu_ps(from.add((i + 4) * from_stride + j));
                rows[i] = _mm256_insertf128_ps::<1>(low, high);
            }
            let [a, b, c, d] = rows;
            let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let columns = [
                _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
                _mm256_shuffle_ps::<0xEE>(ab_low, cd_low),
                _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm256_shuffle_ps::<0xEE>(ab_high, cd_high),
            ];
            for (k, column) in columns.into_iter().enumerate() {
                _mm256_storeu_ps(to.add((j + k) * to_stride), column);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for Ymm {
    const WIDTH: usize = 8;
    const ACROSS: usize = 2;
    type V = __m256;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_set1_ps(*p) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_maskload_ps(p, mask8(n)) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, n: usize, v: __m256) {
        // SAFETY: the caller's.
        unsafe { _mm256_maskstore_ps(p, mask8(n), v) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sums(v: &[__m256; 8]) -> [f32; 8] {
        // SAFETY: the caller's.
        unsafe { sums8(v) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's.
        unsafe { transpose8(from, from_stride, to, to_stride) }
    }
}

/// AVX-512: 16 lanes, 32 registers.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Zmm;

#[cfg(target_arch = "x86_64")]
impl Lanes for Zmm {
    const WIDTH: usize = 16;
    const ACROSS: usize = 4;
    type V = __m512;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_set1_ps(*p) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_maskz_loadu_ps((1u16 << n) - 1, p) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, n: usize, v: __m512) {
        // SAFETY: the caller's.
        unsafe { _mm512_mask_storeu_ps(p, (1u16 << n) - 1, v) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sums(v: &[__m512; 8]) -> [f32; 8] {
        // SAFETY: the caller has AVX-512, and so AVX.
        unsafe {
            let mut halves = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                let high = _mm512_extractf32x8_ps::<1>(v[i]);
                halves[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]), high);
            }
            sums8(&halves)
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's.
        unsafe { transpose8(from, from_stride, to, to_stride) }
    }
}

/// Asks for the cache line at `p`, which will be needed soon; any address will do.
#[inline(always)]
pub(super) fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction, and it faults on no address.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Work that is compiled once for each path.
pub(super) trait Kernel {
    /// Does it. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The path's instructions; the kernel's own conditions.
    unsafe fn run<L: Lanes>(&self);
}

/// Elements across a register tile of 6 rows on a path.
pub(super) fn tile_width(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Zmm::WIDTH * Zmm::ACROSS,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Ymm::WIDTH * Ymm::ACROSS,
        _ => Quad::WIDTH * Quad::ACROSS,
    }
}

/// Runs a kernel on a path.
///
/// # Safety
/// This CPU has the path, and the kernel's own conditions.
#[inline]
pub(super) unsafe fn run(isa: Isa, kernel: &impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn on_avx512(kernel: &impl Kernel) {
        // SAFETY: the features are on; the rest is the caller's.
        unsafe { kernel.run::<Zmm>() }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn on_avx2(kernel: &impl Kernel) {
        // SAFETY: the features are on; the rest is the caller's.
        unsafe { kernel.run::<Ymm>() }
    }
    // SAFETY: the caller's.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => on_avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => on_avx2(kernel),
            _ => kernel.run::<Quad>(),
        }
    }
}
