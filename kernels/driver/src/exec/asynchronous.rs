//! `cp.async`: without checks a copy lands at once; under checks at its thread's wait, as late as the ISA allows.

use super::access::lanes;
use super::block::Block;
use super::fault::Fail;
use super::op::{CopyAsync, Pc};
use super::pending::Copy;
use super::warp::Warp;
use crate::ptx::Space;

impl Block<'_> {
    pub fn copy_async<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        copy: &CopyAsync,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        if CHECK {
            self.check_address(warp, &copy.target, pc, mask)?;
            self.check_address(warp, &copy.source, pc, mask)?;
        }
        let (to, from) = (warp.addresses(&copy.target), warp.addresses(&copy.source));
        let (ignore, bytes) = (warp.cond(copy.ignore), u64::from(copy.bytes));
        if COUNT {
            self.count(Space::Global, &from, mask, bytes);
            self.count(Space::Shared, &to, mask, bytes);
        }
        let (shared, global) = (self.region(Space::Shared), self.region(Space::Global));
        for l in lanes(mask) {
            let read = match copy.source_bytes {
                Some(slot) => warp.get32(slot, l).min(copy.bytes),
                None => copy.bytes,
            };
            let read = if ignore >> l & 1 != 0 { 0 } else { read };
            let mut data = [0; 16];
            let mut valid = u16::MAX;
            if read > 0 {
                let p = self.element(warp, global, from[l], bytes, pc, l);
                // With fewer bytes read than copied, only those must exist.
                let p = match global.at(from[l], read.into()) {
                    Some(p) if from[l].is_multiple_of(bytes) => p,
                    _ => p?,
                };
                // SAFETY: the region holds `read` bytes, at most 16.
                unsafe { p.copy_to_nonoverlapping(data.as_mut_ptr(), read as usize) };
                if CHECK && self.launch.checks.memory {
                    for i in 0..u64::from(read) {
                        let known = self.check_read(
                            warp,
                            Space::Global,
                            &[from[l] + i; 32],
                            1 << l,
                            1,
                            pc,
                        )?;
                        valid &= !(u16::from(known >> l & 1 == 0) << i);
                    }
                }
            }
            let target = self.element(warp, shared, to[l], bytes, pc, l)?;
            if CHECK {
                let at = to[l] as usize;
                self.shadow.set_pending(at, copy.bytes as usize, true);
                let bytes = copy.bytes as usize;
                warp.pending.issue(Copy {
                    lane: l as u32,
                    target: at,
                    data,
                    bytes,
                    valid,
                    pc,
                });
            } else {
                // SAFETY: `element` checked the bounds.
                unsafe { target.copy_from_nonoverlapping(data.as_ptr(), copy.bytes as usize) };
            }
        }
        Ok(())
    }

    /// Lets copies land: the waiting thread writes them, as far as races are concerned.
    pub fn wait_async(
        &mut self,
        warp: &mut Warp,
        allowed: Option<u32>,
        mask: u32,
    ) -> Result<(), Fail> {
        let shared = self.region(Space::Shared);
        for copy in warp.pending.wait(mask, allowed) {
            self.shadow.set_pending(copy.target, copy.bytes, false);
            if let Some(p) = shared.at(copy.target as u64, copy.bytes as u64) {
                // SAFETY: the region holds the bytes.
                unsafe { p.copy_from_nonoverlapping(copy.data.as_ptr(), copy.bytes) };
            }
            for word in (0..copy.bytes).step_by(4) {
                let known = copy.valid >> word & 15 == 15;
                let at = (copy.target + word) as u64;
                let lane = copy.lane as usize;
                self.shared_landed(warp, lane, at, known, copy.pc)?;
            }
        }
        Ok(())
    }

    fn shared_landed(
        &mut self,
        warp: &Warp,
        lane: usize,
        at: u64,
        known: bool,
        pc: Pc,
    ) -> Result<(), Fail> {
        // Two copies into one place may overlap in time; that is a race only if the waits do not order them.
        let same = self.shadow.is_pending(at as usize, 4);
        if same {
            Ok(())
        } else {
            self.shared_write(warp, lane, at, 4, known, false, pc, false)
        }
    }
}
