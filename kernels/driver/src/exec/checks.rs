//! Checks of registers and of global memory: bounds of allocations, initialisation.

use super::FaultKind;
use super::access::{Region, lanes};
use super::block::Block;
use super::fault::Fail;
use super::lanes::WARP;
use super::op::{Access, Address, Kind, Op, Pc};
use super::request::{Request, Shape};
use super::warp::Warp;
use crate::counters::Class;
use crate::memory::{ALLOCATED, INITIALISED};
use crate::ptx::Space;

/// The shadow of a byte that can be read.
const READY: u8 = ALLOCATED | INITIALISED;

/// Every one of `bytes` shadow bytes is [`READY`].
///
/// # Safety
/// That many bytes can be read at `p`.
#[inline(always)]
unsafe fn ready(p: *const u8, bytes: u64) -> bool {
    const ALL: u128 = u128::from_ne_bytes([READY; 16]);
    // SAFETY: the caller's promise.
    unsafe {
        match bytes {
            1 => p.read() == READY,
            2 => p.cast::<u16>().read_unaligned() == ALL as u16,
            4 => p.cast::<u32>().read_unaligned() == ALL as u32,
            8 => p.cast::<u64>().read_unaligned() == ALL as u64,
            16 => p.cast::<u128>().read_unaligned() == ALL,
            _ => std::slice::from_raw_parts(p, bytes as usize)
                .iter()
                .all(|&s| s == READY),
        }
    }
}

impl Block<'_> {
    /// Every active lane's address is initialised.
    pub fn check_address(
        &self,
        warp: &Warp,
        address: &Address,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        let unknown = mask & !warp.addresses_valid(address);
        if unknown == 0 || !self.launch.checks.memory {
            return Ok(());
        }
        let text = format!(
            "{}: the address is not initialised",
            self.program.info[pc as usize].name
        );
        Err(self.fail(
            FaultKind::Uninitialised,
            pc,
            warp.id,
            unknown.trailing_zeros() as usize,
            None,
            text,
        ))
    }

    /// Lanes that compute with registers that are not initialised.
    #[inline(always)]
    pub fn note_read(&self, warp: &Warp, pc: Pc, unknown: u32) -> Result<(), Fail> {
        if unknown == 0 {
            return Ok(());
        }
        self.uninitialised_read(warp, pc, unknown, None)
    }

    /// Uninitialised data read by the lanes of a mask, from memory if there is an address: in strict mode a fault.
    /// Calls pass their frames whole, padding included.
    #[cold]
    pub fn uninitialised_read(
        &self,
        warp: &Warp,
        pc: Pc,
        unknown: u32,
        address: Option<u64>,
    ) -> Result<(), Fail> {
        let info = &self.program.info[pc as usize];
        let checks = &self.launch.checks;
        if !(checks.strict && checks.memory) || info.class == Class::Control {
            return Ok(());
        }
        let name = &info.name;
        let text = match address {
            Some(address) => format!("{name} reads uninitialised memory at {address:#x}"),
            None => format!("{name} reads a register that is not initialised"),
        };
        let lane = unknown.trailing_zeros() as usize;
        Err(self.fail(FaultKind::Uninitialised, pc, warp.id, lane, address, text))
    }

    /// A guard that is not initialised: whatever the operation writes is not either; a branch, a store or a barrier
    /// that depends on it is a fault.
    #[cold]
    pub fn uninitialised_guard(
        &self,
        warp: &mut Warp,
        op: &Op,
        pc: Pc,
        unknown: u32,
    ) -> Result<(), Fail> {
        if !self.launch.checks.strict {
            match &op.kind {
                Kind::Map { d, .. } | Kind::Select { d, .. } | Kind::Carry { d, .. } => {
                    warp.set_valid(*d, 0, unknown);
                    return Ok(());
                }
                Kind::Test { p, q, .. } => {
                    warp.set_valid_pred(*p, 0, unknown);
                    warp.set_valid_pred(*q, 0, unknown);
                    return Ok(());
                }
                Kind::Predicate { d, .. } => {
                    warp.set_valid_pred(*d, 0, unknown);
                    return Ok(());
                }
                _ => {}
            }
        }
        if !self.launch.checks.memory {
            return Ok(());
        }
        let name = &self.program.info[pc as usize].name;
        let text = format!("an uninitialised predicate guards {name}");
        let lane = unknown.trailing_zeros() as usize;
        Err(self.fail(FaultKind::Uninitialised, pc, warp.id, lane, None, text))
    }

    /// Allocations, races, copies under way: the lanes whose data are initialised. The request is in bounds.
    pub fn check_read(&mut self, warp: &Warp, r: &Request, pc: Pc) -> Result<u32, Fail> {
        let valid = match r.space {
            Space::Shared => self.shared_reads(warp, r, pc)?,
            Space::Global | Space::Const if self.launch.checks.memory => {
                self.global_reads(warp, r, pc)?
            }
            _ => !0,
        };
        let unknown = r.mask & !valid;
        if unknown != 0 {
            let lane = unknown.trailing_zeros() as usize;
            self.uninitialised_read(warp, pc, unknown, Some(r.a[lane]))?;
        }
        Ok(valid)
    }

    /// As [`Block::check_read`], for each element of a vector. Compilers widen loads to vectors that run over the end of
    /// an allocation where alignment keeps them from a fault: what lies beyond is not initialised.
    #[inline(always)]
    pub fn check_load(
        &mut self,
        warp: &Warp,
        access: &Access,
        r: &Request,
        pc: Pc,
    ) -> Result<[u32; 4], Fail> {
        let whole = self.check_read(warp, r, pc);
        match whole {
            Ok(valid) if access.count == 1 || valid & r.mask == r.mask => Ok([valid; 4]),
            Err(fault) if access.count == 1 || r.space == Space::Shared => Err(fault),
            _ if self.launch.checks.strict => whole.map(|valid| [valid; 4]),
            _ => self.check_elements(warp, access, r, pc),
        }
    }

    #[cold]
    fn check_elements(
        &mut self,
        warp: &Warp,
        access: &Access,
        r: &Request,
        pc: Pc,
    ) -> Result<[u32; 4], Fail> {
        let bytes = u64::from(access.bytes);
        let mut elements = [0; 4];
        for (i, known) in (0..).zip(&mut elements[..access.count as usize]) {
            let at = r.a.map(|a| a + i * bytes);
            // The first element has to be there.
            let inside = |&l: &usize| {
                i == 0 || r.space == Space::Shared || self.shadow(warp, at[l], bytes, pc, l).is_ok()
            };
            let inside = lanes(r.mask).filter(inside).fold(0, |all, l| all | 1 << l);
            if inside != 0 {
                let part = Request::new(r.space, at, inside, bytes);
                *known = self.check_read(warp, &part, pc)? & inside;
            }
        }
        Ok(elements)
    }

    /// The shadow of an address of global memory.
    fn shadow_at(&self, address: u64) -> *mut u8 {
        let view = &self.launch.view;
        view.shadow.wrapping_add((address - view.base) as usize)
    }

    /// All that a request in bounds touches is allocated and initialised.
    pub fn all_ready(&self, r: &Request) -> bool {
        let view = &self.launch.view;
        // SAFETY: the request is in bounds, and the shadow has a byte for every byte of the memory.
        unsafe {
            match r.shape {
                Shape::Row => {
                    let all = r.bytes as usize * WARP;
                    let shadow = std::slice::from_raw_parts(self.shadow_at(r.a[0]), all);
                    shadow.iter().fold(true, |all, &s| all & (s == READY))
                }
                Shape::Same => ready(self.shadow_at(r.a[0]), r.bytes),
                Shape::Scattered => {
                    let base = view.shadow.wrapping_sub(view.base as usize);
                    let at = |a: u64| base.wrapping_add(a as usize).cast_const();
                    // The lanes' cache misses overlap if no lane's outcome decides about the next.
                    macro_rules! all {
                        ($bytes:literal) => {
                            r.a.iter().fold(true, |all, &a| all & ready(at(a), $bytes))
                        };
                    }
                    match r.bytes {
                        4 => all!(4),
                        8 => all!(8),
                        16 => all!(16),
                        bytes => r.a.iter().all(|&a| ready(at(a), bytes)),
                    }
                }
            }
        }
    }

    fn global_reads(&self, warp: &Warp, r: &Request, pc: Pc) -> Result<u32, Fail> {
        if self.all_ready(r) {
            return Ok(!0);
        }
        let mut valid = 0;
        for l in lanes(r.mask) {
            let shadow = self.shadow(warp, r.a[l], r.bytes, pc, l)?;
            // SAFETY: `shadow` returned the bytes of an allocated element.
            let shadow = unsafe { &*shadow };
            valid |= u32::from(shadow.iter().all(|&s| s & INITIALISED != 0)) << l;
        }
        Ok(valid)
    }

    /// Which of up to 16 bytes that a lane reads from global memory are initialised, the first one's in bit 0.
    pub fn bytes_known(
        &self,
        warp: &Warp,
        address: u64,
        bytes: u64,
        pc: Pc,
        lane: usize,
    ) -> Result<u16, Fail> {
        // SAFETY: the caller's read is in bounds.
        if unsafe { ready(self.shadow_at(address), bytes) } {
            return Ok(!0);
        }
        let mut known = !0;
        for i in 0..bytes {
            let shadow = self.shadow(warp, address + i, 1, pc, lane)?;
            // SAFETY: as in `global_reads`.
            let unknown = unsafe { &*shadow }[0] & INITIALISED == 0;
            known &= !(u16::from(unknown) << i);
        }
        if known != !0 {
            self.uninitialised_read(warp, pc, 1 << lane, Some(address))?;
        }
        Ok(known)
    }

    /// The shadow of an allocated element, a byte for each of its bytes; aligned accesses never straddle allocations.
    fn shadow(
        &self,
        warp: &Warp,
        address: u64,
        bytes: u64,
        pc: Pc,
        lane: usize,
    ) -> Result<*mut [u8], Fail> {
        let view = &self.launch.view;
        let shadow = Region {
            space: Space::Global,
            data: view.shadow,
            origin: view.base,
            len: view.len,
        };
        if let Some(p) = shadow.at(address, bytes) {
            let bytes = std::ptr::slice_from_raw_parts_mut(p, bytes as usize);
            // SAFETY: the shadow has a byte for every byte of the region.
            if unsafe { &*bytes }.iter().all(|&s| s & ALLOCATED != 0) {
                return Ok(bytes);
            }
        }
        Err(self.access_fault(warp, Space::Global, address, bytes, pc, lane))
    }

    /// The checks of a store; the request is in bounds.
    pub fn check_write(
        &mut self,
        warp: &Warp,
        access: &Access,
        r: &Request,
        pc: Pc,
    ) -> Result<(), Fail> {
        let known = access.regs[..access.count as usize]
            .iter()
            .fold(!0, |all, &r| all & warp.valid[r as usize]);
        if r.space == Space::Shared {
            let same = |block: &mut Self, lane| block.stores_the_same(warp, access, r, lane);
            self.shared_writes(warp, r, known, pc, same)
        } else {
            self.global_writes(warp, r, known, pc)
        }
    }

    /// Marks bytes of global memory as written; what is stored must be initialised.
    pub fn global_writes(
        &mut self,
        warp: &Warp,
        r: &Request,
        known: u32,
        pc: Pc,
    ) -> Result<(), Fail> {
        if !self.launch.checks.memory {
            return Ok(());
        }
        let unknown = r.mask & !known;
        if unknown != 0 {
            let lane = unknown.trailing_zeros() as usize;
            let text = format!(
                "{} stores an uninitialised value",
                self.program.info[pc as usize].name
            );
            return Err(self.fail(
                FaultKind::Uninitialised,
                pc,
                warp.id,
                lane,
                Some(r.a[lane]),
                text,
            ));
        }
        if self.all_ready(r) {
            return Ok(());
        }
        for l in lanes(r.mask) {
            let shadow = self.shadow(warp, r.a[l], r.bytes, pc, l)?;
            // SAFETY: as in `global_reads`; only the threads that touch the data touch its shadow.
            unsafe { &mut *shadow }.fill(READY);
        }
        Ok(())
    }
}
