//! Moves of a warp's elements between memory and registers, one function for every width and count.

use super::access::{Addresses, lanes};
use super::lanes::{Lanes, WARP};

/// Moves all lanes' elements, in a row from the pointer on, or all from the one there.
///
/// Safety: the memory holds them all, and the registers are of the width that the function was made for.
pub type Together = unsafe fn(*mut u8, &[*mut Lanes; 4]);
/// Moves the elements of the lanes of a mask, each at its own distance from the pointer. Safety as for [`Together`].
pub type Each = unsafe fn(*mut u8, &Addresses, u32, &[*mut Lanes; 4]);

/// The moves of an instruction.
#[derive(Clone, Copy)]
pub struct Moves {
    pub row: Together,
    /// Loads only: a row of stores to one place is `each`.
    pub same: Together,
    pub each: Each,
}

/// The moves of `count` elements of `bytes`, extended by their sign if `signed`, and registers of `register` bytes (2,
/// 4 or 8; 2 are held in 4). `None` for other numbers, or a register too small.
pub fn moves(bytes: u32, count: u32, signed: bool, register: u32, load: bool) -> Option<Moves> {
    macro_rules! counts {
        ($f:ident, $($types:ty),*) => {
            match count {
                1 => $f::<$($types,)* 1>(),
                2 => $f::<$($types,)* 2>(),
                4 => $f::<$($types,)* 4>(),
                _ => return None,
            }
        };
    }
    Some(if load {
        match (bytes, signed, register) {
            (1, false, 2 | 4) => counts!(loads, u8, u32),
            (1, false, 8) => counts!(loads, u8, u64),
            (1, true, 2) => counts!(loads, i8, Half),
            (1, true, 4) => counts!(loads, i8, u32),
            (1, true, 8) => counts!(loads, i8, u64),
            (2, false, 4) | (2, _, 2) => counts!(loads, u16, u32),
            (2, false, 8) => counts!(loads, u16, u64),
            (2, true, 4) => counts!(loads, i16, u32),
            (2, true, 8) => counts!(loads, i16, u64),
            (4, _, 4) => counts!(loads, u32, u32),
            (4, false, 8) => counts!(loads, u32, u64),
            (4, true, 8) => counts!(loads, i32, u64),
            (8, _, 8) => counts!(loads, u64, u64),
            _ => return None,
        }
    } else {
        match (bytes, register) {
            (1, 2 | 4) => counts!(stores, u32, u8),
            (1, 8) => counts!(stores, u64, u8),
            (2, 2 | 4) => counts!(stores, u32, u16),
            (2, 8) => counts!(stores, u64, u16),
            (4, 4) => counts!(stores, u32, u32),
            (4, 8) => counts!(stores, u64, u32),
            (8, 8) => counts!(stores, u64, u64),
            _ => return None,
        }
    })
}

/// A lane of a register of 16 bits, zero-extended.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Half(u32);

/// A value that becomes another by truncation or extension.
trait Becomes<T>: Copy + Default {
    fn becomes(self) -> T;
}

macro_rules! conversions {
    ($($from:ty => $to:ty: $f:expr;)*) => {$(
        impl Becomes<$to> for $from {
            #[inline(always)]
            fn becomes(self) -> $to {
                let f: fn($from) -> $to = $f;
                f(self)
            }
        }
    )*};
}
conversions! {
    u8 => u32: u32::from;
    u8 => u64: u64::from;
    i8 => Half: |x| Half((x as i16 as u16).into());
    i8 => u32: |x| x as u32;
    i8 => u64: |x| x as u64;
    u16 => u32: u32::from;
    u16 => u64: u64::from;
    i16 => u32: |x| x as u32;
    i16 => u64: |x| x as u64;
    u32 => u32: |x| x;
    u32 => u64: u64::from;
    i32 => u64: |x| x as u64;
    u64 => u64: |x| x;
    u32 => u8: |x| x as u8;
    u32 => u16: |x| x as u16;
    u64 => u8: |x| x as u8;
    u64 => u16: |x| x as u16;
    u64 => u32: |x| x as u32;
}

fn loads<M: Becomes<R>, R: Copy + Default, const N: usize>() -> Moves {
    Moves {
        row: load_row::<M, R, N>,
        same: load_same::<M, R, N>,
        each: load_each::<M, R, N>,
    }
}

fn stores<R: Becomes<M>, M: Copy + Default, const N: usize>() -> Moves {
    Moves {
        row: store_row::<R, M, N>,
        same: store_row::<R, M, N>,
        each: store_each::<R, M, N>,
    }
}

unsafe fn load_row<M: Becomes<R>, R: Copy + Default, const N: usize>(
    memory: *mut u8,
    regs: &[*mut Lanes; 4],
) {
    // SAFETY: the caller's promise: 32 N elements in memory.
    let block = unsafe { memory.cast::<[[M; N]; WARP]>().read_unaligned() };
    for (part, reg) in regs.iter().enumerate().take(N) {
        let mut lanes = [R::default(); WARP];
        for (lane, elements) in lanes.iter_mut().zip(&block) {
            *lane = elements[part].becomes();
        }
        // SAFETY: the caller's promise: N registers of 32 lanes.
        unsafe { reg.cast::<[R; WARP]>().write(lanes) };
    }
}

unsafe fn load_same<M: Becomes<R>, R: Copy + Default, const N: usize>(
    memory: *mut u8,
    regs: &[*mut Lanes; 4],
) {
    // SAFETY: the caller's promise: N elements in memory.
    let elements = unsafe { memory.cast::<[M; N]>().read_unaligned() };
    for (element, reg) in elements.into_iter().zip(regs) {
        // SAFETY: as in `load_row`.
        unsafe { reg.cast::<[R; WARP]>().write([element.becomes(); WARP]) };
    }
}

unsafe fn load_each<M: Becomes<R>, R: Copy + Default, const N: usize>(
    memory: *mut u8,
    a: &Addresses,
    mask: u32,
    regs: &[*mut Lanes; 4],
) {
    let mut one = |lane: usize| {
        // SAFETY: the caller's promise: N elements at every address, N registers of 32 lanes.
        unsafe {
            let from = memory.wrapping_add(a[lane] as usize);
            let elements = from.cast::<[M; N]>().read_unaligned();
            for (element, reg) in elements.into_iter().zip(regs) {
                reg.cast::<R>().add(lane).write(element.becomes());
            }
        }
    };
    if mask == !0 {
        (0..WARP).for_each(one);
    } else {
        lanes(mask).for_each(&mut one);
    }
}

unsafe fn store_row<R: Becomes<M>, M: Copy + Default, const N: usize>(
    memory: *mut u8,
    regs: &[*mut Lanes; 4],
) {
    let mut block = [[M::default(); N]; WARP];
    for (part, reg) in regs.iter().enumerate().take(N) {
        // SAFETY: as in `load_row`.
        let lanes = unsafe { reg.cast::<[R; WARP]>().read() };
        for (elements, &lane) in block.iter_mut().zip(&lanes) {
            elements[part] = lane.becomes();
        }
    }
    // SAFETY: as in `load_row`.
    unsafe { memory.cast::<[[M; N]; WARP]>().write_unaligned(block) };
}

unsafe fn store_each<R: Becomes<M>, M: Copy + Default, const N: usize>(
    memory: *mut u8,
    a: &Addresses,
    mask: u32,
    regs: &[*mut Lanes; 4],
) {
    for lane in lanes(mask) {
        let mut elements = [M::default(); N];
        // SAFETY: as in `load_each`.
        unsafe {
            for (element, reg) in elements.iter_mut().zip(regs) {
                *element = reg.cast::<R>().add(lane).read().becomes();
            }
            let to = memory.wrapping_add(a[lane] as usize);
            to.cast::<[M; N]>().write_unaligned(elements);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sign and zero extension of every width into every register, by all three moves.
    #[test]
    fn loads_extend() {
        let memory: Vec<u8> = (0..32 * 8).map(|i| (i * 37 + 129) as u8).collect();
        for (bytes, register) in [
            (1, 2),
            (1, 4),
            (1, 8),
            (2, 2),
            (2, 4),
            (2, 8),
            (4, 4),
            (4, 8),
            (8, 8),
        ] {
            for signed in [false, true] {
                let m = moves(bytes, 1, signed, register, true).unwrap();
                let expected = |lane: usize| {
                    let mut raw = [0; 8];
                    raw[..bytes as usize]
                        .copy_from_slice(&memory[lane * bytes as usize..][..bytes as usize]);
                    let shift = 64 - 8 * bytes;
                    let bits = u64::from_le_bytes(raw) << shift;
                    let bits = if signed {
                        ((bits as i64) >> shift) as u64
                    } else {
                        bits >> shift
                    };
                    bits & u64::MAX >> (64 - 8 * register)
                };
                let a: Addresses = std::array::from_fn(|l| l as u64 * u64::from(bytes));
                let p = memory.as_ptr().cast_mut();
                for which in 0..3 {
                    let mut regs = [Lanes::ZERO; 2];
                    let at = [regs.as_mut_ptr(); 4];
                    // SAFETY: 32 elements of at most 8 bytes, and a wide register; loads do not write memory.
                    unsafe {
                        match which {
                            0 => (m.row)(p, &at),
                            1 => (m.each)(p, &a, !0, &at),
                            _ => (m.same)(p.add(bytes as usize), &at),
                        }
                    }
                    for lane in 0..32 {
                        let words: Vec<u32> = regs.iter().flat_map(|r| r.0).collect();
                        let got = if register == 8 {
                            u64::from(words[2 * lane]) | u64::from(words[2 * lane + 1]) << 32
                        } else {
                            words[lane].into()
                        };
                        let from = if which == 2 { 1 } else { lane };
                        assert_eq!(got, expected(from), "{bytes} {signed} {register} {which}");
                    }
                }
            }
        }
    }
}
