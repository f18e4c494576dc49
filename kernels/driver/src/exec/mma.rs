//! `mma.sync`: a warp's product D = A B + C of 16 rows, 8 columns and K inner steps.
//!
//! **Order and error.** Each element is `fma(a_K, b_K, … fma(a_2, b_2, fma(a_1, b_1, c)))` in f32, k ascending; the
//! products of f16, bf16 and tf32 are exact inside the fma. So with u = 2^-24, |d - exact| ≤ K u / (1 - K u) ·
//! (|c| + Σ|a_k b_k|), plus the final rounding where D is f16. Hardware sums in another order, with fewer bits for the
//! smallest terms; the ISA fixes neither. Integer products are exact.
//!
//! **Registers.** With g = lane / 4 and t = lane % 4, a register of A holds row g of a tile of 8 rows and 4E columns,
//! columns tE to tE + E - 1, where E elements fill 32 bits: in lane order the tile lies row by row. A's registers
//! count tiles down, then right; B's are tiles of its transpose; C and D hold row g, columns 2t and 2t + 1 of 8x8
//! tiles, in one register of two f16, or in two of 32 bits.

use super::FaultKind;
use super::block::Block;
use super::fault::Fail;
use super::lanes::{Isa, Lanes};
use super::op::{Multiply, Pc, Slot};
use super::warp::Warp;

/// Computes a product on the registers of a warp.
///
/// Safety: the slots lie in the register file, as many as the product takes, and the host has the instruction set.
pub type Product = unsafe fn(*mut Lanes, &Multiply);

const N: usize = 8;

/// The elements of A and B.
pub trait Element: 'static {
    /// In 32 bits.
    const PER_WORD: usize;
    type Sum: Sum;
    fn get(word: u32, i: usize) -> Self::Sum;
}

/// What products are summed in.
pub trait Sum: Copy + Default + 'static {
    fn fma(a: Self, b: Self, c: Self) -> Self;
}

impl Sum for f32 {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl Sum for i32 {
    #[inline(always)]
    fn fma(a: i32, b: i32, c: i32) -> i32 {
        a.wrapping_mul(b).wrapping_add(c)
    }
}

pub struct F16;
pub struct Bf16;
pub struct Tf32;
pub struct S8;
pub struct U8;

impl Element for F16 {
    const PER_WORD: usize = 2;
    type Sum = f32;
    #[inline(always)]
    fn get(word: u32, i: usize) -> f32 {
        super::float16::f16_to_f32((word >> (16 * i)) as u16)
    }
}

impl Element for Bf16 {
    const PER_WORD: usize = 2;
    type Sum = f32;
    #[inline(always)]
    fn get(word: u32, i: usize) -> f32 {
        f32::from_bits(word >> (16 * i) << 16)
    }
}

impl Element for Tf32 {
    const PER_WORD: usize = 1;
    type Sum = f32;
    // The 13 bits below tf32's are ignored.
    #[inline(always)]
    fn get(word: u32, _: usize) -> f32 {
        f32::from_bits(word & !0x1fff)
    }
}

impl Element for S8 {
    const PER_WORD: usize = 4;
    type Sum = i32;
    #[inline(always)]
    fn get(word: u32, i: usize) -> i32 {
        (word >> (8 * i)) as i8 as i32
    }
}

impl Element for U8 {
    const PER_WORD: usize = 4;
    type Sum = i32;
    #[inline(always)]
    fn get(word: u32, i: usize) -> i32 {
        (word >> (8 * i)) as u8 as i32
    }
}

/// How C and D lie in registers.
pub trait Accumulator: 'static {
    type Sum: Sum;
    /// Registers of an 8x8 tile.
    const REGISTERS: usize;
    fn get(words: [u32; 2], i: usize) -> Self::Sum;
    fn put(pair: [Self::Sum; 2]) -> [u32; 2];
}

pub struct InF32;
pub struct InF16;
pub struct InS32;

impl Accumulator for InF32 {
    type Sum = f32;
    const REGISTERS: usize = 2;
    #[inline(always)]
    fn get(words: [u32; 2], i: usize) -> f32 {
        f32::from_bits(words[i])
    }
    #[inline(always)]
    fn put(pair: [f32; 2]) -> [u32; 2] {
        pair.map(|x| super::float16::canonical(x).to_bits())
    }
}

impl Accumulator for InF16 {
    type Sum = f32;
    const REGISTERS: usize = 1;
    #[inline(always)]
    fn get(words: [u32; 2], i: usize) -> f32 {
        F16::get(words[0], i)
    }
    #[inline(always)]
    fn put(pair: [f32; 2]) -> [u32; 2] {
        let [low, high] = pair.map(|x| u32::from(super::float16::f32_to_f16(x)));
        [low | high << 16, 0]
    }
}

impl Accumulator for InS32 {
    type Sum = i32;
    const REGISTERS: usize = 2;
    #[inline(always)]
    fn get(words: [u32; 2], i: usize) -> i32 {
        words[i] as i32
    }
    #[inline(always)]
    fn put(pair: [i32; 2]) -> [u32; 2] {
        pair.map(|x| x as u32)
    }
}

/// A register's lanes.
type Words = [u32; 32];

/// One product of 16x8, K inner steps. Returns D's registers: they may be among the sources of the next tile.
#[inline(always)]
unsafe fn tile<
    const K: usize,
    A: Element,
    B: Element<Sum = A::Sum>,
    C: Accumulator<Sum = A::Sum>,
>(
    regs: *const Lanes,
    a: &[Slot],
    b: &[Slot],
    c: &[Slot],
) -> [Words; 4] {
    // SAFETY: the caller's promise for every slot.
    let words = |slot: Slot| unsafe { &(*regs.add(slot as usize)).0 };
    let width = 4 * A::PER_WORD;
    // B's transpose lies row by row in its registers: a word holds elements of one column.
    let mut right = [[A::Sum::default(); N]; K];
    for (r, &slot) in b.iter().take(K / width).enumerate() {
        let words = words(slot);
        for t in 0..4 {
            let column: [u32; N] = std::array::from_fn(|n| words[4 * n + t]);
            for e in 0..A::PER_WORD {
                right[r * width + t * A::PER_WORD + e] = column.map(|word| B::get(word, e));
            }
        }
    }
    let mut out = [[0; 32]; 4];
    for half in 0..2 {
        let first = half * C::REGISTERS;
        let [low, high] = [c[first], c[first + C::REGISTERS - 1]].map(words);
        let mut sum = [A::Sum::default(); 8 * N];
        for (lane, pair) in sum.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let words = [low[lane], high[lane]];
            *pair = [C::get(words, 0), C::get(words, 1)];
        }
        for r in 0..K / width {
            // A tile of A lies row by row in its register.
            let mut left = [A::Sum::default(); 128];
            unpack::<A>(words(a[2 * r + half]), &mut left);
            for (k, right) in right[r * width..].iter().take(width).enumerate() {
                for (row, sum) in sum.as_chunks_mut::<N>().0.iter_mut().enumerate() {
                    let x = left[row * width + k];
                    for (s, &y) in sum.iter_mut().zip(right) {
                        *s = A::Sum::fma(x, y, *s);
                    }
                }
            }
        }
        for (lane, &pair) in sum.as_chunks::<2>().0.iter().enumerate() {
            let words = C::put(pair);
            for (i, word) in words.into_iter().enumerate().take(C::REGISTERS) {
                out[first + i][lane] = word;
            }
        }
    }
    out
}

/// The elements of a register's lanes in order.
#[inline(always)]
fn unpack<E: Element>(words: &Words, tile: &mut [E::Sum; 128]) {
    for (lane, &word) in words.iter().enumerate() {
        for e in 0..E::PER_WORD {
            tile[lane * E::PER_WORD + e] = E::get(word, e);
        }
    }
}

/// The column tiles of a product: one for `mma`, two for `wmma`.
#[inline(always)]
unsafe fn tiles<
    const K: usize,
    A: Element,
    B: Element<Sum = A::Sum>,
    C: Accumulator<Sum = A::Sum>,
>(
    regs: *mut Lanes,
    m: &Multiply,
) {
    let (b, c) = (K / (4 * A::PER_WORD), 2 * C::REGISTERS);
    let mut out = [[[0; 32]; 4]; 2];
    let count = m.d.len() / c;
    for (i, out) in out.iter_mut().enumerate().take(count) {
        // SAFETY: the caller's promise.
        *out = unsafe { tile::<K, A, B, C>(regs, &m.a, &m.b[i * b..], &m.c[i * c..]) };
    }
    for (r, &slot) in m.d.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { (*regs.add(slot as usize)).0 = out[r / c][r % c] };
    }
}

/// The product for an instruction set.
pub fn product<
    const K: usize,
    A: Element,
    B: Element<Sum = A::Sum>,
    C: Accumulator<Sum = A::Sum>,
>(
    isa: Isa,
) -> Product {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    unsafe fn avx2<
        const K: usize,
        A: Element,
        B: Element<Sum = A::Sum>,
        C: Accumulator<Sum = A::Sum>,
    >(
        regs: *mut Lanes,
        m: &Multiply,
    ) {
        // SAFETY: the caller's promise.
        unsafe { tiles::<K, A, B, C>(regs, m) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vpopcntdq")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    unsafe fn avx512<
        const K: usize,
        A: Element,
        B: Element<Sum = A::Sum>,
        C: Accumulator<Sum = A::Sum>,
    >(
        regs: *mut Lanes,
        m: &Multiply,
    ) {
        // SAFETY: the caller's promise.
        unsafe { tiles::<K, A, B, C>(regs, m) }
    }
    match isa {
        Isa::Baseline => tiles::<K, A, B, C>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::<K, A, B, C>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::<K, A, B, C>,
    }
}

impl Block<'_> {
    pub fn multiply<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        m: &Multiply,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        self.whole_warp(warp, pc, mask)?;
        // SAFETY: the slots are of this program's register file, and their number was checked when decoding.
        unsafe { (m.run)(warp.regs.as_mut_ptr(), m) };
        if COUNT {
            self.tally.matrix_flops += m.flops;
        }
        if CHECK && !m.propagate(warp) {
            self.uninitialised_read(warp, pc, mask, None)?;
        }
        Ok(())
    }

    /// Matrix instructions need all 32 lanes.
    pub fn whole_warp(&self, warp: &Warp, pc: Pc, mask: u32) -> Result<(), Fail> {
        if mask == !0 {
            return Ok(());
        }
        let name = &self.program.info[pc as usize].name;
        let text = format!(
            "{name} needs all 32 lanes of the warp, {} execute it",
            mask.count_ones()
        );
        Err(self.fail(
            FaultKind::LaneMask,
            pc,
            warp.id,
            mask.trailing_zeros() as usize,
            None,
            text,
        ))
    }
}

impl Multiply {
    /// An element of D is initialised if its row of A, its column of B and its element of C are. True if all are.
    fn propagate(&self, warp: &mut Warp) -> bool {
        let valid = |slot: &Slot| warp.valid[*slot as usize];
        if self
            .a
            .iter()
            .chain(&self.b)
            .chain(&self.c)
            .all(|s| valid(s) == !0)
        {
            self.d.iter().for_each(|&d| warp.set_valid(d, !0, !0));
            return true;
        }
        let bad = |regs: &mut dyn Iterator<Item = &Slot>| regs.fold(0, |bad, s| bad | !valid(s));
        let rows: [u32; 2] =
            std::array::from_fn(|half| bad(&mut self.a.iter().skip(half).step_by(2)));
        let per_tile = self.d.len() / self.tiles;
        let columns = self.b.len() / self.tiles;
        // The lanes of a row (of A) or column (of B).
        let group = |bad: u32, g: usize| bad >> (4 * g) & 15 != 0;
        let known: Vec<u32> = (0..self.d.len())
            .map(|r| {
                let (tile, half) = (r / per_tile, r % per_tile / (per_tile / 2));
                let column = bad(&mut self.b[tile * columns..][..columns].iter());
                let mut bits = valid(&self.c[r]);
                for lane in 0..32 {
                    // A register of 32-bit elements holds one of two columns, one of f16 both.
                    let t = lane % 4 * 2;
                    let mut mine = if per_tile == 4 {
                        t + r % 2..t + r % 2 + 1
                    } else {
                        t..t + 2
                    };
                    if group(rows[half], lane / 4) || mine.any(|n| group(column, n)) {
                        bits &= !(1 << lane);
                    }
                }
                bits
            })
            .collect();
        self.d
            .iter()
            .zip(known)
            .for_each(|(&d, bits)| warp.set_valid(d, bits, !0));
        false
    }
}
