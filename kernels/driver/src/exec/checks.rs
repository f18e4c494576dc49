//! Checks of accesses: bounds and initialisation by the shadows, races, copies under way.

use super::FaultKind;
use super::access::{Addresses, Region, in_a_row, lanes, read_bytes};
use super::block::Block;
use super::fault::Fail;
use super::lanes::WARP;
use super::op::{Access, Address, Pc};
use super::shadow::{Actor, Conflict};
use super::warp::Warp;
use crate::memory::{ALLOCATED, INITIALISED};
use crate::ptx::Space;

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

    /// Bounds, races, pending copies: the lanes whose data are initialised.
    pub fn check_read(
        &mut self,
        warp: &Warp,
        space: Space,
        a: &Addresses,
        mask: u32,
        bytes: u64,
        pc: Pc,
    ) -> Result<u32, Fail> {
        match space {
            Space::Shared => {
                let mut valid = 0;
                for l in lanes(mask) {
                    valid |= u32::from(self.shared_read(warp, l, a[l], bytes, pc, false)?) << l;
                }
                Ok(valid)
            }
            Space::Global | Space::Const if self.launch.checks.memory => {
                if mask == !0 && in_a_row(a, bytes) && self.shadow_all(a[0], bytes * WARP as u64) {
                    return Ok(!0);
                }
                let mut valid = 0;
                for l in lanes(mask) {
                    let shadow = self.shadow(warp, a[l], bytes, pc, l)?;
                    // SAFETY: `shadow` returned the bytes of an allocated element.
                    let shadow = unsafe { &*shadow };
                    valid |= u32::from(shadow.iter().all(|&s| s & INITIALISED != 0)) << l;
                }
                Ok(valid)
            }
            _ => Ok(!0),
        }
    }

    /// All bytes are allocated and initialised.
    fn shadow_all(&self, address: u64, bytes: u64) -> bool {
        let view = &self.launch.view;
        let shadow = Region {
            space: Space::Global,
            data: view.shadow,
            origin: view.base,
            len: view.len,
        };
        let Some(p) = shadow.at(address, bytes) else {
            return false;
        };
        // SAFETY: the shadow has a byte for every byte of the region.
        unsafe { std::slice::from_raw_parts(p, bytes as usize) }
            .iter()
            .fold(true, |all, &s| all & (s == 3))
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
        if let Some(p) = shadow.at(address, bytes)
            && address.is_multiple_of(bytes)
        {
            let bytes = std::ptr::slice_from_raw_parts_mut(p, bytes as usize);
            // SAFETY: the shadow has a byte for every byte of the region.
            if unsafe { &*bytes }.iter().all(|&s| s & ALLOCATED != 0) {
                return Ok(bytes);
            }
        }
        Err(self.access_fault(warp, Space::Global, address, bytes, pc, lane))
    }

    pub fn check_write(
        &mut self,
        warp: &Warp,
        space: Space,
        a: &Addresses,
        mask: u32,
        access: &Access,
        pc: Pc,
    ) -> Result<(), Fail> {
        let bytes = u64::from(access.bytes * access.count);
        let known = access.regs[..access.count as usize]
            .iter()
            .fold(!0, |all, &r| all & warp.valid[r as usize]);
        if space == Space::Shared {
            for l in lanes(mask) {
                let same = self.stores_the_same(warp, access, a, l, mask);
                self.shared_write(warp, l, a[l], bytes, known >> l & 1 != 0, same, pc, false)?;
            }
            return Ok(());
        }
        self.check_global_write(warp, a, mask, bytes, known, pc)
    }

    /// Marks bytes of global memory as written; what is stored must be initialised.
    pub fn check_global_write(
        &mut self,
        warp: &Warp,
        a: &Addresses,
        mask: u32,
        bytes: u64,
        known: u32,
        pc: Pc,
    ) -> Result<(), Fail> {
        if !self.launch.checks.memory {
            return Ok(());
        }
        let unknown = mask & !known;
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
                Some(a[lane]),
                text,
            ));
        }
        if mask == !0 && in_a_row(a, bytes) && self.shadow_all(a[0], bytes * WARP as u64) {
            return Ok(());
        }
        for l in lanes(mask) {
            let shadow = self.shadow(warp, a[l], bytes, pc, l)?;
            // SAFETY: as above; only the threads that touch the data touch its shadow.
            unsafe { &mut *shadow }
                .iter_mut()
                .for_each(|s| *s |= INITIALISED);
        }
        Ok(())
    }

    /// The lane stores what is there already, or what a lane before it stores there by the same instruction.
    fn stores_the_same(
        &mut self,
        warp: &Warp,
        access: &Access,
        a: &Addresses,
        lane: usize,
        mask: u32,
    ) -> bool {
        let bits = |l: usize, part: usize| warp.get(access.regs[part], l, access.register == 8);
        let mut parts = 0..access.count as usize;
        if let Some(before) = lanes(mask & ((1 << lane) - 1)).find(|&l| a[l] == a[lane]) {
            return parts.all(|part| bits(before, part) == bits(lane, part));
        }
        let region = self.region(Space::Shared);
        let Some(p) = region.at(a[lane], u64::from(access.bytes * access.count)) else {
            return false;
        };
        parts.all(|part| {
            // SAFETY: the region holds all parts.
            let old = unsafe { read_bytes(p.add(part * access.bytes as usize), access.bytes) };
            old == bits(lane, part) & u64::MAX >> (64 - 8 * access.bytes)
        })
    }

    fn actor<'a>(&self, warp: &'a Warp, lane: usize, pc: Pc, atomic: bool) -> Actor<'a> {
        Actor {
            warp: warp.id,
            lane,
            clock: &warp.clock,
            pc,
            atomic,
            races: self.launch.checks.races,
        }
    }

    /// Notes a read of shared memory: whether it is initialised.
    pub fn shared_read(
        &mut self,
        warp: &Warp,
        lane: usize,
        address: u64,
        bytes: u64,
        pc: Pc,
        atomic: bool,
    ) -> Result<bool, Fail> {
        let at = self.shared_place(warp, lane, address, bytes, pc)?;
        let actor = self.actor(warp, lane, pc, atomic);
        self.shadow
            .read(at, bytes as usize, &actor)
            .map_err(|c| self.race(warp, lane, address, pc, c, "reads"))
    }

    /// Notes a write of shared memory.
    #[expect(
        clippy::too_many_arguments,
        reason = "an access is who, where, what and how"
    )]
    pub fn shared_write(
        &mut self,
        warp: &Warp,
        lane: usize,
        address: u64,
        bytes: u64,
        valid: bool,
        same: bool,
        pc: Pc,
        atomic: bool,
    ) -> Result<(), Fail> {
        let at = self.shared_place(warp, lane, address, bytes, pc)?;
        let actor = self.actor(warp, lane, pc, atomic);
        let noted = self.shadow.write(at, bytes as usize, valid, same, &actor);
        noted.map_err(|c| self.race(warp, lane, address, pc, c, "writes"))
    }

    /// The offset of an access to shared memory that is in bounds and does not meet an asynchronous copy under way.
    pub fn shared_place(
        &self,
        warp: &Warp,
        lane: usize,
        address: u64,
        bytes: u64,
        pc: Pc,
    ) -> Result<usize, Fail> {
        if address + bytes > u64::from(self.launch.shared_bytes) || !address.is_multiple_of(bytes) {
            return Err(self.access_fault(warp, Space::Shared, address, bytes, pc, lane));
        }
        let at = address as usize;
        if self.launch.checks.synchronisation && self.shadow.is_pending(at, bytes as usize) {
            let text = format!(
                "{} at shared address {address:#x}, where an asynchronous copy is under way: its thread has not waited",
                self.program.info[pc as usize].name
            );
            return Err(self.fail(FaultKind::AsyncRead, pc, warp.id, lane, Some(address), text));
        }
        Ok(at)
    }

    #[cold]
    fn race(
        &self,
        warp: &Warp,
        lane: usize,
        address: u64,
        pc: Pc,
        other: Conflict,
        verb: &str,
    ) -> Fail {
        let name = &self.program.info[pc as usize].name;
        let thread = self.thread(u32::from(other.thread) / 32, usize::from(other.thread) % 32);
        let did = if other.wrote { "wrote" } else { "read" };
        let line = self.program.info[other.pc as usize].line;
        let text = format!(
            "{name} {verb} shared address {address:#x}, which thread {thread:?} {did} in line {line}, with no barrier between"
        );
        self.fail(FaultKind::Race, pc, warp.id, lane, Some(address), text)
    }
}
