//! Atomic operations on global and shared memory.
//!
//! The lanes of a warp update one after the other, lane 0 first; blocks run in parallel, so sums of floats over
//! several blocks depend on their timing, as on a GPU.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::FaultKind;
use super::access::lanes;
use super::block::Block;
use super::fault::Fail;
use super::op::{Atomic, Pc};
use super::request::Request;
use super::warp::Warp;
use crate::ptx::Space;

/// Replaces a value in memory by a function of it and two operands, and returns the old one.
#[derive(Clone, Copy)]
pub struct Update(pub fn(u64, u64, u64) -> u64);

impl Update {
    /// # Safety
    /// `p` points to `bytes` writable bytes, aligned to them.
    unsafe fn apply(self, p: *mut u8, bytes: u32, a: u64, b: u64) -> u64 {
        // Every order is at least relaxed on the host; PTX's scopes and semantics ask for no more between blocks that
        // communicate through atomics and fences than what acquire-release gives.
        const SET: Ordering = Ordering::AcqRel;
        const GET: Ordering = Ordering::Acquire;
        // SAFETY: the caller's promise; nothing refers to device memory by reference.
        unsafe {
            match bytes {
                2 => {
                    let cell = AtomicU16::from_ptr(p.cast());
                    cell.update(SET, GET, |old| self.0(old.into(), a, b) as u16)
                        .into()
                }
                4 => {
                    let cell = AtomicU32::from_ptr(p.cast());
                    cell.update(SET, GET, |old| self.0(old.into(), a, b) as u32)
                        .into()
                }
                _ => AtomicU64::from_ptr(p.cast()).update(SET, GET, |old| self.0(old, a, b)),
            }
        }
    }
}

impl Block<'_> {
    pub fn atomic<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        atomic: &Atomic,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        let (bytes, wide) = (u64::from(atomic.bytes), atomic.bytes == 8);
        let mut known = !0;
        if CHECK {
            self.check_address(warp, &atomic.address, pc, mask)?;
            known = warp.valid[atomic.a as usize] & warp.valid[atomic.b as usize];
            self.note_read(warp, pc, mask & !known)?;
        }
        let all = self.survey(warp, &atomic.address, mask, bytes);
        self.by_space(&all, |block, r| {
            let Request {
                space, ref a, mask, ..
            } = *r;
            if !matches!(space, Space::Global | Space::Shared) {
                let lane = mask.trailing_zeros() as usize;
                let text = "an atomic operation on local or parameter memory".into();
                return Err(block.fail(
                    FaultKind::OutOfBounds,
                    pc,
                    warp.id,
                    lane,
                    Some(a[lane]),
                    text,
                ));
            }
            if COUNT {
                let mut at: Vec<u64> = lanes(mask).map(|l| a[l]).collect();
                at.sort_unstable();
                let deepest = at
                    .chunk_by(|x, y| x == y)
                    .map(<[u64]>::len)
                    .max()
                    .unwrap_or(0);
                let traffic = &mut block.tally.atomic;
                traffic.requests += 1;
                traffic.units += deepest as u64;
                traffic.ideal_units += 1;
                traffic.bytes += bytes * at.len() as u64;
            }
            let region = block.region(space);
            block.in_bounds(warp, &region, r, pc)?;
            let align = u64::from(atomic.align);
            if let Some(l) = lanes(mask).find(|&l| !a[l].is_multiple_of(align)) {
                return Err(block.access_fault(warp, space, a[l], align, pc, l));
            }
            let mut valid = known;
            if CHECK && space == Space::Shared {
                valid = block.shared_updates(warp, r, known, pc)?;
            } else if CHECK {
                valid &= block.check_read(warp, r, pc)?;
                block.global_writes(warp, r, valid, pc)?;
            }
            let update = match space {
                Space::Shared => atomic.shared,
                _ => atomic.update,
            };
            for l in lanes(mask) {
                let p = block.element(warp, region, a[l], bytes, pc, l)?;
                let (x, y) = (warp.get(atomic.a, l, wide), warp.get(atomic.b, l, wide));
                // SAFETY: `element` checked bounds and alignment, and regions are aligned.
                let old = unsafe { update.apply(p, atomic.bytes, x, y) };
                if let Some(d) = atomic.d {
                    warp.set(d, l, old, wide);
                }
            }
            if CHECK && let Some(d) = atomic.d {
                warp.set_valid(d, valid, mask);
            }
            Ok(())
        })
    }
}
