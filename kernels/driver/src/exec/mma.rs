//! `mma.sync`: a warp's product D = A B + C of 16 or 8 rows, 8 columns and K inner steps.
//!
//! **Order and error.** Each element is `fma(a_K, b_K, … fma(a_2, b_2, fma(a_1, b_1, c)))` in f32, k ascending; the
//! products of f16, bf16, tf32 and 8-bit floats are exact inside the fma, and f64 is summed alike in f64. So with
//! u = 2^-24, |d - exact| ≤ K u / (1 - K u) · (|c| + Σ|a_k b_k|), plus the final rounding where D is f16. Hardware sums
//! in another order, with fewer bits for the smallest terms; the ISA fixes neither. Integer products are exact.
//!
//! **Registers.** With g = lane / 4 and t = lane % 4, a register of A holds row g of a tile of 8 rows and 4E columns,
//! columns tE to tE + E - 1, where E elements fill 32 bits: in lane order the tile lies row by row. A's registers
//! count tiles down, then right; B's are tiles of its transpose; C and D hold row g, columns 2t and 2t + 1 of 8x8
//! tiles, in one register of two f16, or in two of 32 bits.

use super::FaultKind;
use super::block::Block;
use super::fault::Fail;
use super::float8::{e4m3_to_f16, e5m2_to_f16};
use super::float16::{canonical, f16_to_f32, f32_to_f16};
use super::lanes::{Isa, Lanes, for_isa};
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
    /// All elements of a register.
    type Tile: AsMut<[Self::Sum]>;
    const ZEROS: Self::Tile;
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

impl Sum for i64 {
    #[inline(always)]
    fn fma(a: i64, b: i64, c: i64) -> i64 {
        a * b + c
    }
}

macro_rules! elements {
    ($($(#[$doc:meta])* $name:ident: $n:literal in a word, as $sum:ty, |$word:ident, $i:ident| $get:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Element for $name {
            const PER_WORD: usize = $n;
            type Sum = $sum;
            type Tile = [$sum; 32 * $n];
            const ZEROS: Self::Tile = [0 as $sum; 32 * $n];
            #[inline(always)]
            fn get($word: u32, $i: usize) -> $sum {
                $get
            }
        }
    )*};
}
elements! {
    F16: 2 in a word, as f32, |word, i| f16_to_f32((word >> (16 * i)) as u16);
    Bf16: 2 in a word, as f32, |word, i| f32::from_bits(word >> (16 * i) << 16);
    /// The 13 bits below tf32's are ignored.
    Tf32: 1 in a word, as f32, |word, _i| f32::from_bits(word & !0x1fff);
    S8: 4 in a word, as i64, |word, i| (word >> (8 * i)) as i8 as i64;
    U8: 4 in a word, as i64, |word, i| (word >> (8 * i)) as u8 as i64;
    S4: 8 in a word, as i64, |word, i| ((word << (28 - 4 * i)) as i32 >> 28) as i64;
    U4: 8 in a word, as i64, |word, i| (word >> (4 * i) & 15) as i64;
    E4m3: 4 in a word, as f32, |word, i| f16_to_f32(e4m3_to_f16((word >> (8 * i)) as u8));
    E5m2: 4 in a word, as f32, |word, i| f16_to_f32(e5m2_to_f16((word >> (8 * i)) as u8));
}

/// How C and D lie in registers.
pub trait Accumulator: 'static {
    type Sum: Sum;
    /// Registers of an 8x8 tile.
    const REGISTERS: usize;
    fn get(words: [u32; 2], i: usize) -> Self::Sum;
    /// Register `i` of a pair of sums.
    fn put(pair: [Self::Sum; 2], i: usize) -> u32;
}

pub struct InF32;
pub struct InF16;
/// Wraps.
pub struct InS32;
/// Saturates: `.satfinite`.
pub struct InS32Saturated;

impl Accumulator for InF32 {
    type Sum = f32;
    const REGISTERS: usize = 2;
    #[inline(always)]
    fn get(words: [u32; 2], i: usize) -> f32 {
        f32::from_bits(words[i])
    }
    #[inline(always)]
    fn put(pair: [f32; 2], i: usize) -> u32 {
        canonical(pair[i]).to_bits()
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
    fn put(pair: [f32; 2], _: usize) -> u32 {
        u32::from(f32_to_f16(pair[0])) | u32::from(f32_to_f16(pair[1])) << 16
    }
}

macro_rules! integers {
    ($($name:ident: |$x:ident| $put:expr;)*) => {$(
        impl Accumulator for $name {
            type Sum = i64;
            const REGISTERS: usize = 2;
            #[inline(always)]
            fn get(words: [u32; 2], i: usize) -> i64 {
                (words[i] as i32).into()
            }
            #[inline(always)]
            fn put(pair: [i64; 2], i: usize) -> u32 {
                let $x = pair[i];
                ($put) as u32
            }
        }
    )*};
}
integers! {
    InS32: |x| x as i32;
    InS32Saturated: |x| x.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
}

/// One product of 8 or 16 rows and 8 columns, K inner steps: the upper and the lower 8x8 sums, row by row.
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
) -> [[A::Sum; 8 * N]; 2] {
    // SAFETY: the caller's promise for every slot.
    let words = |slot: Slot| unsafe { &(*regs.add(slot as usize)).0 };
    let width = 4 * A::PER_WORD;
    // Loops over indices here and below: of iterators so deep in one function some stay calls, and the loops scalar.
    // B's transpose lies row by row in its registers: a word holds elements of one column.
    let mut right = [[A::Sum::default(); N]; K];
    for r in 0..K / width {
        let words = words(b[r]);
        for t in 0..4 {
            for e in 0..A::PER_WORD {
                let row = &mut right[r * width + t * A::PER_WORD + e];
                for n in 0..N {
                    row[n] = B::get(words[4 * n + t], e);
                }
            }
        }
    }
    let mut sums = [[A::Sum::default(); 8 * N]; 2];
    let halves = a.len() * width / K;
    for half in 0..halves {
        let (sum, first) = (&mut sums[half], half * C::REGISTERS);
        let (low, high) = (words(c[first]), words(c[first + C::REGISTERS - 1]));
        for lane in 0..32 {
            let words = [low[lane], high[lane]];
            sum[2 * lane] = C::get(words, 0);
            sum[2 * lane + 1] = C::get(words, 1);
        }
        for r in 0..K / width {
            // A tile of A lies row by row in its register.
            let mut tile = A::ZEROS;
            let (left, words) = (tile.as_mut(), words(a[halves * r + half]));
            for lane in 0..32 {
                for e in 0..A::PER_WORD {
                    left[lane * A::PER_WORD + e] = A::get(words[lane], e);
                }
            }
            // The sums of so many rows stay in registers.
            const ROWS: usize = 4;
            for block in 0..8 / ROWS {
                let mut own = [[A::Sum::default(); N]; ROWS];
                for row in 0..ROWS {
                    for n in 0..N {
                        own[row][n] = sum[(block * ROWS + row) * N + n];
                    }
                }
                for k in 0..width {
                    let right = &right[r * width + k];
                    for row in 0..ROWS {
                        let x = left[(block * ROWS + row) * width + k];
                        for n in 0..N {
                            own[row][n] = A::Sum::fma(x, right[n], own[row][n]);
                        }
                    }
                }
                for row in 0..ROWS {
                    for n in 0..N {
                        sum[(block * ROWS + row) * N + n] = own[row][n];
                    }
                }
            }
        }
    }
    sums
}

/// Writes a tile's sums into D's registers.
#[inline(always)]
unsafe fn write<C: Accumulator>(regs: *mut Lanes, d: &[Slot], sums: &[[C::Sum; 8 * N]; 2]) {
    for (r, &slot) in d.iter().enumerate() {
        let sums = &sums[r / C::REGISTERS];
        // SAFETY: the caller's promise.
        let words = unsafe { &mut (*regs.add(slot as usize)).0 };
        for lane in 0..32 {
            words[lane] = C::put([sums[2 * lane], sums[2 * lane + 1]], r % C::REGISTERS);
        }
    }
}

/// The column tiles of a product: one for `mma`, two for `wmma`. D may be among the sources: all is read before the
/// first is written.
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
    // SAFETY: the caller's promise.
    unsafe {
        let first = tile::<K, A, B, C>(regs, &m.a, &m.b, &m.c);
        if m.tiles == 2 {
            let second = tile::<K, A, B, C>(regs, &m.a, &m.b[b..], &m.c[c..]);
            write::<C>(regs, &m.d[c..], &second);
        }
        write::<C>(regs, &m.d[..c.min(m.d.len())], &first);
    }
}

/// `mma.m8n8k4` of f64: with g = lane / 4 and t = lane % 4 a lane holds A's row g, column t, B's row t, column g, and
/// columns 2t and 2t + 1 of row g of C and D.
#[inline(always)]
unsafe fn tile_f64(regs: *mut Lanes, m: &Multiply) {
    // SAFETY: the caller's promise; a wide register is 32 times 64 bits.
    unsafe {
        let numbers = |slot: Slot| regs.add(slot as usize).cast::<[f64; 32]>();
        let (a, b) = (*numbers(m.a[0]), *numbers(m.b[0]));
        let mut sums = [*numbers(m.c[0]), *numbers(m.c[1])];
        for (i, sum) in sums.iter_mut().enumerate() {
            for (lane, sum) in sum.iter_mut().enumerate() {
                let (row, column) = (lane / 4, lane % 4 * 2 + i);
                for k in 0..4 {
                    *sum = a[4 * row + k].mul_add(b[4 * column + k], *sum);
                }
            }
        }
        for (&slot, sum) in m.d.iter().zip(sums) {
            *numbers(slot) = sum;
        }
    }
}

/// The product of f64 for an instruction set.
pub fn product_f64(isa: Isa) -> Product {
    for_isa!(isa, tile_f64(regs: *mut Lanes, m: &Multiply))
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
    for_isa!(isa, tiles::<K, A, B, C>(regs: *mut Lanes, m: &Multiply)
        where [const K: usize, A: Element, B: Element<Sum = A::Sum>, C: Accumulator<Sum = A::Sum>])
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
        // Of m8n8k4 there is one half, in registers of 64 bits.
        let single = self.a.len() == 1;
        let per_tile = self.d.len() / self.tiles;
        let columns = self.b.len() / self.tiles;
        // The lanes of a row (of A) or column (of B).
        let group = |bad: u32, g: usize| bad >> (4 * g) & 15 != 0;
        let known: Vec<u32> = (0..self.d.len())
            .map(|r| {
                let tile = r / per_tile;
                let half = if single {
                    0
                } else {
                    r % per_tile / (per_tile / 2)
                };
                let column = bad(&mut self.b[tile * columns..][..columns].iter());
                let mut bits = valid(&self.c[r]);
                for lane in 0..32 {
                    // A register of 32-bit elements holds one of two columns, one of f16 both.
                    let t = lane % 4 * 2;
                    let mut mine = if per_tile == 4 || single {
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
