//! Loads and stores.
//!
//! A warp's addresses are looked at together: 32 elements in a row, or one for all lanes, take one bounds check and
//! vector moves; anything else goes lane by lane. Local memory is interleaved word by word, so that lanes with the
//! same local address share a row.

use super::FaultKind;
use super::block::Block;
use super::fault::Fail;
use super::lanes::{Lanes, WARP};
use super::op::{Access, Address, Base, Pc};
use super::warp::Warp;
use crate::memory::{LOWEST_BASE, MemoryError};
use crate::ptx::Space;

/// Windows of the generic address space: `cvta` adds them.
pub const SHARED_WINDOW: u64 = 1 << 32;
pub const LOCAL_WINDOW: u64 = 2 << 32;
pub const PARAM_WINDOW: u64 = 3 << 32;

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
    /// The addresses of all lanes, active or not.
    pub fn addresses(&self, address: &Address) -> Addresses {
        let offset = address.offset as u64;
        match address.base {
            Base::None => [offset; WARP],
            Base::Narrow(slot) => {
                let words = &self.regs[slot as usize].0;
                std::array::from_fn(|l| u64::from(words[l].wrapping_add(offset as u32)))
            }
            Base::Wide(slot) => {
                // SAFETY: a wide slot is two `Lanes` in a row, 32 times 64 bits.
                let words =
                    unsafe { &*self.regs.as_ptr().add(slot as usize).cast::<[u64; WARP]>() };
                std::array::from_fn(|l| words[l].wrapping_add(offset))
            }
        }
    }

    /// Lane 0's address if lane i's is `bytes` times i farther on, without working out the others.
    fn row_start(&self, address: &Address, bytes: u32) -> Option<u64> {
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
                in_a_row(words, bytes.into()).then(|| words[0].wrapping_add(offset))
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

/// Lane i's address is lane 0's plus i elements.
pub fn in_a_row(a: &Addresses, bytes: u64) -> bool {
    let offsets = a
        .iter()
        .enumerate()
        .map(|(i, &x)| x.wrapping_sub(a[0]) ^ (i as u64 * bytes));
    offsets.fold(0, |all, off| all | off) == 0
}

pub fn all_equal(a: &Addresses) -> bool {
    a.iter().fold(0, |off, &x| off | (x ^ a[0])) == 0
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

    /// Runs `one` for each space that generic addresses fall into, with addresses relative to it.
    pub fn by_space(
        &mut self,
        space: Space,
        mut a: Addresses,
        mask: u32,
        mut one: impl FnMut(&mut Self, Space, &Addresses, u32) -> Result<(), Fail>,
    ) -> Result<(), Fail> {
        if space != Space::Generic {
            return one(self, space, &a, mask);
        }
        let mut left = mask;
        while left != 0 {
            let space = space_of(a[left.trailing_zeros() as usize]);
            let here = lanes(left)
                .filter(|&l| space_of(a[l]) == space)
                .fold(0, |m, l| m | 1 << l);
            if space != Space::Global {
                lanes(here).for_each(|l| a[l] &= 0xffff_ffff);
            }
            one(self, space, &a, here)?;
            left &= !here;
        }
        Ok(())
    }

    /// Moves all lanes' elements if they lie in a row in a space that is known: the common case, without more ado.
    fn move_row(&mut self, warp: &mut Warp, access: &Access) -> bool {
        let size = access.bytes * access.count;
        let (Some(bulk), Space::Global | Space::Shared) = (access.bulk, access.address.space)
        else {
            return false;
        };
        let Some(start) = warp.row_start(&access.address, size) else {
            return false;
        };
        let region = self.region(access.address.space);
        match region.at(start, u64::from(size) * WARP as u64) {
            Some(p) if start.is_multiple_of(size.into()) => {
                let regs = access
                    .regs
                    .map(|r| warp.regs.as_mut_ptr().wrapping_add(r as usize));
                // SAFETY: the region holds the 32 elements, and the slots have the width that `bulk` was made for.
                unsafe { bulk(p, &regs) };
                true
            }
            _ => false,
        }
    }

    pub fn load<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        access: &Access,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        if !CHECK && !COUNT && mask == !0 && self.move_row(warp, access) {
            return Ok(());
        }
        if CHECK {
            self.check_address(warp, &access.address, pc, mask)?;
        }
        let a = warp.addresses(&access.address);
        let size = u64::from(access.bytes * access.count);
        self.by_space(access.address.space, a, mask, |block, space, a, mask| {
            if COUNT {
                block.count(space, a, mask, size);
            }
            if space == Space::Local {
                return block.local(warp, access, a, pc, mask, false);
            }
            let region = block.region(space);
            let mut valid = !0;
            if CHECK {
                valid = block.check_read(warp, space, a, mask, size, pc)?;
            }
            let mut done = false;
            if mask == !0
                && let Some(bulk) = access.bulk
                && in_a_row(a, size)
                && a[0].is_multiple_of(size)
                && let Some(p) = region.at(a[0], size * WARP as u64)
            {
                let regs = access
                    .regs
                    .map(|r| warp.regs.as_mut_ptr().wrapping_add(r as usize));
                // SAFETY: the region holds the 32 elements, and the slots have the width that `bulk` was made for.
                unsafe { bulk(p, &regs) };
                done = true;
            }
            if !done && all_equal(a) {
                let p =
                    block.element(warp, region, a[0], size, pc, mask.trailing_zeros() as usize)?;
                for part in 0..access.count as usize {
                    // SAFETY: `element` checked all parts.
                    let bits = unsafe { read(p.add(part * access.bytes as usize), access) };
                    if mask == !0 {
                        warp.fill(access.regs[part], bits, access.register == 8);
                    } else {
                        lanes(mask).for_each(|l| {
                            warp.set(access.regs[part], l, bits, access.register == 8)
                        });
                    }
                }
            } else if !done {
                for l in lanes(mask) {
                    let p = block.element(warp, region, a[l], size, pc, l)?;
                    for part in 0..access.count as usize {
                        // SAFETY: as above.
                        let bits = unsafe { read(p.add(part * access.bytes as usize), access) };
                        warp.set(access.regs[part], l, bits, access.register == 8);
                    }
                }
            }
            if CHECK {
                for &r in &access.regs[..access.count as usize] {
                    warp.set_valid(r, valid, mask);
                }
            }
            Ok(())
        })
    }

    pub fn store<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        access: &Access,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        if !CHECK && !COUNT && mask == !0 && self.move_row(warp, access) {
            return Ok(());
        }
        if CHECK {
            self.check_address(warp, &access.address, pc, mask)?;
        }
        let a = warp.addresses(&access.address);
        let size = u64::from(access.bytes * access.count);
        self.by_space(access.address.space, a, mask, |block, space, a, mask| {
            if COUNT {
                block.count(space, a, mask, size);
            }
            if space == Space::Local {
                return block.local(warp, access, a, pc, mask, true);
            }
            let region = block.region(space);
            if space == Space::Param {
                let lane = mask.trailing_zeros() as usize;
                let text = "a store to a kernel's parameters".into();
                return Err(block.fail(
                    FaultKind::OutOfBounds,
                    pc,
                    warp.id,
                    lane,
                    Some(a[lane]),
                    text,
                ));
            }
            if CHECK {
                block.check_write(warp, space, a, mask, access, pc)?;
            }
            if mask == !0
                && let Some(bulk) = access.bulk
                && in_a_row(a, size)
                && a[0].is_multiple_of(size)
                && let Some(p) = region.at(a[0], size * WARP as u64)
            {
                let regs = access
                    .regs
                    .map(|r| warp.regs.as_mut_ptr().wrapping_add(r as usize));
                // SAFETY: as in `load`.
                unsafe { bulk(p, &regs) };
                return Ok(());
            }
            for l in lanes(mask) {
                let p = block.element(warp, region, a[l], size, pc, l)?;
                for part in 0..access.count as usize {
                    let bits = warp.get(access.regs[part], l, access.register == 8);
                    // SAFETY: `element` checked all parts.
                    unsafe { write(p.add(part * access.bytes as usize), bits, access.bytes) };
                }
            }
            Ok(())
        })
    }

    /// Local memory and parameters of device functions.
    fn local(
        &mut self,
        warp: &mut Warp,
        access: &Access,
        a: &Addresses,
        pc: Pc,
        mask: u32,
        store: bool,
    ) -> Result<(), Fail> {
        let size = u64::from(access.bytes * access.count);
        let checked = self.launch.checks.any();
        if access.bytes == 4
            && access.register == 4
            && mask == !0
            && all_equal(a)
            && a[0].is_multiple_of(size)
        {
            let row = (a[0] / 4) as usize;
            if row + access.count as usize <= warp.frame.len() {
                for part in 0..access.count as usize {
                    let slot = access.regs[part] as usize;
                    if store {
                        warp.frame[row + part] = warp.regs[slot];
                        warp.valid_frame[row + part] = warp.valid[slot];
                    } else {
                        warp.regs[slot] = warp.frame[row + part];
                        warp.valid[slot] = warp.valid_frame[row + part];
                    }
                }
                return Ok(());
            }
        }
        for l in lanes(mask) {
            if !a[l].is_multiple_of(size) || a[l] + size > warp.frame.len() as u64 * 4 {
                let kind = if !a[l].is_multiple_of(size) {
                    FaultKind::Misaligned
                } else {
                    FaultKind::OutOfBounds
                };
                let text = format!(
                    "{} of {size} bytes at local address {:#x}: the thread has {} bytes of local memory",
                    self.program.info[pc as usize].name,
                    a[l],
                    warp.frame.len() * 4
                );
                return Err(self.fail(kind, pc, warp.id, l, Some(a[l]), text));
            }
            for part in 0..access.count as usize {
                let at = a[l] as usize + part * access.bytes as usize;
                let slot = access.regs[part];
                if store {
                    let bits = warp.get(slot, l, access.register == 8);
                    local_write(&mut warp.frame, at, l, bits, access.bytes);
                } else {
                    let mut bytes = local_read(&warp.frame, at, l, access.bytes).to_le_bytes();
                    // SAFETY: eight bytes, of which the access reads at most eight.
                    let bits = unsafe { read(bytes.as_mut_ptr(), access) };
                    warp.set(slot, l, bits, access.register == 8);
                }
                if checked {
                    let rows = at / 4..(at + access.bytes as usize).div_ceil(4);
                    if store {
                        let valid = warp.valid[slot as usize];
                        for v in &mut warp.valid_frame[rows] {
                            *v = *v & !(1 << l) | valid & 1 << l;
                        }
                    } else {
                        let valid = warp.valid_frame[rows].iter().fold(!0, |all, v| all & v);
                        warp.set_valid(slot, valid, 1 << l);
                    }
                }
            }
        }
        Ok(())
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

/// Reads an element, extended to the register.
///
/// # Safety
/// `p` points to `access.bytes` readable bytes.
unsafe fn read(p: *const u8, access: &Access) -> u64 {
    // SAFETY: the caller's promise.
    let bits = unsafe { read_bytes(p, access.bytes) };
    let extended = if access.signed {
        let shift = 64 - 8 * access.bytes;
        (bits << shift)
            .cast_signed()
            .wrapping_shr(shift)
            .cast_unsigned()
    } else {
        bits
    };
    extended & u64::MAX >> (64 - 8 * access.register)
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

/// Bits of interleaved local memory; the access is aligned and inside.
pub fn local_read(frame: &[Lanes], at: usize, lane: usize, bytes: u32) -> u64 {
    let word = u64::from(frame[at / 4].0[lane]);
    match bytes {
        8 => word | u64::from(frame[at / 4 + 1].0[lane]) << 32,
        4 => word,
        _ => word >> (at % 4 * 8) & ((1 << (8 * bytes)) - 1),
    }
}

pub fn local_write(frame: &mut [Lanes], at: usize, lane: usize, bits: u64, bytes: u32) {
    let word = &mut frame[at / 4].0[lane];
    match bytes {
        4 => *word = bits as u32,
        8 => {
            *word = bits as u32;
            frame[at / 4 + 1].0[lane] = (bits >> 32) as u32;
        }
        _ => {
            let mask = ((1u32 << (8 * bytes)) - 1) << (at % 4 * 8);
            *word = *word & !mask | (bits as u32) << (at % 4 * 8) & mask;
        }
    }
}

/// Addresses below every allocation are windows.
const _: () = assert!(PARAM_WINDOW + (1 << 32) <= LOWEST_BASE);
