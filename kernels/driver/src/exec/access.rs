//! Addresses, spaces, and a warp's requests to them.

use super::FaultKind;
use super::block::Block;
use super::fault::Fail;
use super::lanes::WARP;
use super::op::{Address, Base, Pc};
use super::request::Request;
use super::warp::Warp;
use crate::memory::{LOWEST_BASE, MemoryError};
use crate::ptx::Space;

/// Windows of the generic address space: `cvta` adds them.
pub const SHARED_WINDOW: u64 = 1 << 32;
pub const LOCAL_WINDOW: u64 = 2 << 32;
pub const PARAM_WINDOW: u64 = 3 << 32;
/// Where the addresses of functions lie: no memory is there.
pub const FUNCTION_WINDOW: u64 = 4 << 32;

pub type Addresses = [u64; WARP];

/// The space in which a generic address lies.
pub fn space_of(address: u64) -> Space {
    match address >> 32 {
        1 => Space::Shared,
        2 => Space::Local,
        3 => Space::Param,
        _ => Space::Global,
    }
}

/// The first address of a space's window.
pub fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => PARAM_WINDOW,
        Space::Global | Space::Const | Space::Generic => 0,
    }
}

/// Memory as bytes: `len` of them from device address `origin` on.
#[derive(Clone, Copy)]
pub struct Region {
    pub space: Space,
    pub data: *mut u8,
    pub origin: u64,
    pub len: u64,
}

impl Region {
    /// The host address of `bytes` bytes, unless they leave the region.
    pub fn at(&self, address: u64, bytes: u64) -> Option<*mut u8> {
        let offset = address.wrapping_sub(self.origin);
        let inside = offset < self.len && bytes <= self.len - offset;
        // SAFETY: the offset is inside the region.
        inside.then(|| unsafe { self.data.add(offset as usize) })
    }
}

/// Lanes of a mask.
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..WARP).filter(move |l| mask >> l & 1 != 0)
}

impl Warp {
    /// Lane 0's address if lane i's is `bytes` times i farther on, without working out the others.
    pub fn row_start(&self, address: &Address, bytes: u32) -> Option<u64> {
        let offset = address.offset as u64;
        match address.base {
            Base::None => None,
            Base::Narrow(slot) => {
                let words = &self.regs[slot as usize].0;
                let off = (0..WARP).fold(0, |all, i| {
                    all | (words[i].wrapping_sub(words[0]) ^ (i as u32 * bytes))
                });
                (off == 0).then(|| u64::from(words[0].wrapping_add(offset as u32)))
            }
            Base::Wide(slot) => {
                // SAFETY: a wide slot is two `Lanes` in a row, 32 times 64 bits.
                let words = unsafe { &*self.regs.as_ptr().add(slot as usize).cast::<Addresses>() };
                let off = (0..WARP).fold(0, |all, i| {
                    all | (words[i].wrapping_sub(words[0]) ^ (i as u64 * u64::from(bytes)))
                });
                (off == 0).then(|| words[0].wrapping_add(offset))
            }
        }
    }

    /// Lanes whose address is initialised.
    pub fn addresses_valid(&self, address: &Address) -> u32 {
        match address.base {
            Base::None => !0,
            Base::Narrow(slot) | Base::Wide(slot) => self.valid[slot as usize],
        }
    }
}

impl Block<'_> {
    /// The memory behind a space other than local.
    pub fn region(&mut self, space: Space) -> Region {
        let (data, origin, len) = match space {
            Space::Shared => (
                self.shared.as_mut_ptr().cast(),
                0,
                self.launch.shared_bytes.into(),
            ),
            // Never written: stores to parameters are refused when decoding.
            Space::Param => (
                self.launch.params.as_ptr().cast_mut(),
                0,
                self.launch.params.len() as u64,
            ),
            _ => (
                self.launch.view.data,
                self.launch.view.base,
                self.launch.view.len,
            ),
        };
        Region {
            space,
            data,
            origin,
            len,
        }
    }

    /// What the lanes of a mask ask for, `bytes` each; in generic space addresses are as they come.
    pub fn survey(&self, warp: &Warp, address: &Address, mask: u32, bytes: u64) -> Request {
        // SAFETY: the slots of the program's addresses are in the warp's register file, and the function was chosen
        // for this processor.
        unsafe { (self.survey)(warp.regs.as_ptr(), address, mask, bytes) }
    }

    /// Runs `one` for each space that generic addresses fall into.
    pub fn by_space(
        &mut self,
        all: &Request,
        mut one: impl FnMut(&mut Self, &Request) -> Result<(), Fail>,
    ) -> Result<(), Fail> {
        if all.space != Space::Generic {
            return one(self, all);
        }
        let mut left = all.mask;
        while left != 0 {
            let space = space_of(all.a[left.trailing_zeros() as usize]);
            let here = lanes(left)
                .filter(|&l| space_of(all.a[l]) == space)
                .fold(0, |m, l| m | 1 << l);
            let a = match space {
                Space::Global => all.a,
                _ => all.a.map(|a| a & 0xffff_ffff),
            };
            one(self, &Request::new(space, a, here, all.bytes))?;
            left &= !here;
        }
        Ok(())
    }

    /// Every element is aligned and inside the region.
    pub fn in_bounds(&self, warp: &Warp, region: &Region, r: &Request, pc: Pc) -> Result<(), Fail> {
        r.fits(region.origin, region.len)
            .map_err(|l| self.access_fault(warp, region.space, r.a[l], r.bytes, pc, l))
    }

    /// The host address of an element that a lane accesses.
    pub fn element(
        &self,
        warp: &Warp,
        region: Region,
        address: u64,
        bytes: u64,
        pc: Pc,
        lane: usize,
    ) -> Result<*mut u8, Fail> {
        match region.at(address, bytes) {
            Some(p) if address.is_multiple_of(bytes) => Ok(p),
            _ => Err(self.access_fault(warp, region.space, address, bytes, pc, lane)),
        }
    }

    /// Says what is wrong with an access.
    #[cold]
    pub fn access_fault(
        &self,
        warp: &Warp,
        space: Space,
        address: u64,
        bytes: u64,
        pc: Pc,
        lane: usize,
    ) -> Fail {
        let name = &self.program.info[pc as usize].name;
        let (kind, text) = if !address.is_multiple_of(bytes) {
            (
                FaultKind::Misaligned,
                format!("{name} at {address:#x}, which is not {bytes}-byte aligned"),
            )
        } else if space == Space::Shared {
            let all = self.launch.shared_bytes;
            (
                FaultKind::OutOfBounds,
                format!("{name} of {bytes} bytes at shared address {address:#x} of {all:#x}"),
            )
        } else if space == Space::Param {
            let all = self.launch.params.len();
            (
                FaultKind::OutOfBounds,
                format!("{name} of {bytes} bytes at parameter offset {address} of {all}"),
            )
        } else {
            match self.launch.memory.check(address, bytes) {
                Err(e @ MemoryError::UseAfterFree { .. }) => {
                    (FaultKind::UseAfterFree, format!("{name}: {e}"))
                }
                Err(e) => (FaultKind::OutOfBounds, format!("{name}: {e}")),
                // Another thread of the host allocated it meanwhile.
                Ok(()) => (
                    FaultKind::OutOfBounds,
                    format!("{name} of {bytes} bytes at {address:#x}"),
                ),
            }
        };
        self.fail(kind, pc, warp.id, lane, Some(address), text)
    }
}

/// # Safety
/// `p` points to that many readable bytes.
pub unsafe fn read_bytes(p: *const u8, bytes: u32) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        match bytes {
            1 => p.read().into(),
            2 => p.cast::<u16>().read_unaligned().into(),
            4 => p.cast::<u32>().read_unaligned().into(),
            _ => p.cast::<u64>().read_unaligned(),
        }
    }
}

/// # Safety
/// `p` points to that many writable bytes.
pub unsafe fn write(p: *mut u8, bits: u64, bytes: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        match bytes {
            1 => p.write(bits as u8),
            2 => p.cast::<u16>().write_unaligned(bits as u16),
            4 => p.cast::<u32>().write_unaligned(bits as u32),
            _ => p.cast::<u64>().write_unaligned(bits),
        }
    }
}

/// Addresses below every allocation are windows.
const _: () = assert!(FUNCTION_WINDOW + (1 << 32) <= LOWEST_BASE);
