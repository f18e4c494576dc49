//! What the lanes of a warp ask of memory at once.

use super::access::{Addresses, lanes};
use super::lanes::{Isa, Lanes, WARP, for_isa};
use super::op::{Address, Base};
use crate::ptx::Space;

/// How the addresses of a request lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All 32 lanes' elements one after the other.
    Row,
    /// All at one address.
    Same,
    Scattered,
}

impl Shape {
    #[inline(always)]
    fn of(mask: u32, row: bool, same: bool) -> Shape {
        if mask == !0 && row {
            Shape::Row
        } else if same {
            Shape::Same
        } else {
            Shape::Scattered
        }
    }
}

/// What the lanes of a warp ask of one space at once.
pub struct Request {
    pub space: Space,
    /// Relative to the space. Lanes that take no part have the first one's that does.
    pub a: Addresses,
    pub mask: u32,
    /// Bytes of a lane's element.
    pub bytes: u64,
    pub shape: Shape,
    /// The lowest and the highest address, and the bits that are set in one.
    min: u64,
    max: u64,
    bits: u64,
}

/// Surveys the addresses that a register holds.
///
/// Safety: the register is in the file that the pointer begins, and the host has the instruction set.
pub type Survey = unsafe fn(*const Lanes, &Address, u32, u64) -> Request;

impl Request {
    /// At least one lane takes part.
    #[inline(always)]
    pub fn new(space: Space, mut a: Addresses, mask: u32, bytes: u64) -> Request {
        if mask != !0 {
            let first = a[mask.trailing_zeros() as usize];
            for (l, a) in a.iter_mut().enumerate() {
                *a = if mask >> l & 1 != 0 { *a } else { first };
            }
        }
        let (mut row, mut same, mut bits) = (0, 0, 0);
        let (mut min, mut max) = (u64::MAX, 0);
        for (l, &x) in a.iter().enumerate() {
            let distance = x.wrapping_sub(a[0]);
            same |= distance;
            row |= distance ^ (l as u64 * bytes);
            bits |= x;
            min = min.min(x);
            max = max.max(x);
        }
        let shape = Shape::of(mask, row == 0, same == 0);
        Request {
            space,
            a,
            mask,
            bytes,
            shape,
            min,
            max,
            bits,
        }
    }

    /// As [`Request::new`], for addresses of 32 bits.
    #[inline(always)]
    fn narrow(space: Space, mut a: [u32; WARP], mask: u32, bytes: u64) -> Request {
        if mask != !0 {
            let first = a[mask.trailing_zeros() as usize];
            for (l, a) in a.iter_mut().enumerate() {
                *a = if mask >> l & 1 != 0 { *a } else { first };
            }
        }
        let (mut row, mut same, mut bits) = (0, 0, 0);
        let (mut min, mut max) = (u32::MAX, 0);
        for (l, &x) in a.iter().enumerate() {
            let distance = x.wrapping_sub(a[0]);
            same |= distance;
            row |= distance ^ (l as u32 * bytes as u32);
            bits |= x;
            min = min.min(x);
            max = max.max(x);
        }
        // A row that wraps round at 2³² is none.
        let shape = Shape::of(mask, row == 0 && min == a[0], same == 0);
        let mut wide = [0; WARP];
        for (wide, a) in wide.iter_mut().zip(a) {
            *wide = a.into();
        }
        Request {
            space,
            a: wide,
            mask,
            bytes,
            shape,
            min: min.into(),
            max: max.into(),
            bits: bits.into(),
        }
    }

    /// The first lane that takes part.
    pub fn first(&self) -> usize {
        self.mask.trailing_zeros() as usize
    }

    /// Every element is aligned and among the `len` bytes from `origin` on; otherwise the first lane whose is not.
    pub fn fits(&self, origin: u64, len: u64) -> Result<(), usize> {
        let low = self.bytes - 1;
        let inside = |a: u64| a >= origin && self.bytes <= len && a - origin <= len - self.bytes;
        if self.bits & low == 0 && inside(self.min) && inside(self.max) {
            return Ok(());
        }
        let fits = |l: &usize| self.a[*l] & low == 0 && inside(self.a[*l]);
        Err(lanes(self.mask).find(|l| !fits(l)).unwrap_or(self.first()))
    }
}

#[inline(always)]
unsafe fn survey(regs: *const Lanes, address: &Address, mask: u32, bytes: u64) -> Request {
    let offset = address.offset as u64;
    // Loops here and above: an array's `map` may stay a call, for every lane one.
    match address.base {
        Base::None => Request::new(address.space, [offset; WARP], mask, bytes),
        Base::Narrow(slot) => {
            // SAFETY: the caller's promise.
            let mut a = unsafe { *regs.add(slot as usize) }.0;
            for a in &mut a {
                *a = a.wrapping_add(offset as u32);
            }
            Request::narrow(address.space, a, mask, bytes)
        }
        Base::Wide(slot) => {
            // SAFETY: the caller's promise; a wide slot is two `Lanes` in a row, 32 times 64 bits.
            let mut a = unsafe { *regs.add(slot as usize).cast::<Addresses>() };
            for a in &mut a {
                *a = a.wrapping_add(offset);
            }
            Request::new(address.space, a, mask, bytes)
        }
    }
}

/// [`Survey`] for an instruction set.
pub fn surveyor(isa: Isa) -> Survey {
    for_isa!(isa, survey(regs: *const Lanes, address: &Address, mask: u32, bytes: u64) -> Request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_bounds() {
        let request = |a: Addresses, mask| Request::new(Space::Global, a, mask, 8);
        let row: Addresses = std::array::from_fn(|l| 64 + 8 * l as u64);
        let r = request(row, !0);
        assert_eq!(r.shape, Shape::Row);
        assert_eq!(
            (r.fits(64, 256), r.fits(64, 255), r.fits(65, 256)),
            (Ok(()), Err(31), Err(0))
        );
        assert_eq!(request([16; 32], !0).shape, Shape::Same);
        // Lanes that take no part have no say.
        let mut odd = [16; 32];
        odd[5] = 3;
        let r = request(odd, !32);
        assert_eq!((r.shape, r.fits(16, 8), r.a[5]), (Shape::Same, Ok(()), 16));
        assert_eq!(request(odd, !0).fits(0, 1 << 20), Err(5));
        assert_eq!(request(row, 1 << 4).shape, Shape::Same);
        assert_eq!(request(row, 3).shape, Shape::Scattered);
        assert_eq!(request([u64::MAX - 7; 32], !0).fits(0, 64), Err(0));
        assert_eq!(request([0; 32], !0).fits(0, 4), Err(0));
    }
}
