//! `cp.async`: without checks a copy lands at once; under checks at its thread's wait, as late as the ISA allows.

use super::access::lanes;
use super::block::Block;
use super::fault::Fail;
use super::op::{CopyAsync, Pc};
use super::pending::Copies;
use super::request::Request;
use super::shadow::{Trouble, Write};
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
        let (ignore, bytes) = (warp.cond(copy.ignore), u64::from(copy.bytes));
        let to = self.survey(warp, &copy.target, mask, bytes);
        let from = self.survey(warp, &copy.source, mask, bytes);
        let source_bytes = |warp: &Warp, l: usize| match copy.source_bytes {
            _ if ignore >> l & 1 != 0 => 0,
            Some(slot) => warp.get32(slot, l).min(copy.bytes),
            None => copy.bytes,
        };
        if COUNT {
            // Zeros come from nowhere.
            let reading = match copy.source_bytes {
                None => mask & !ignore,
                Some(_) => lanes(mask)
                    .filter(|&l| source_bytes(warp, l) > 0)
                    .fold(0, |m, l| m | 1 << l),
            };
            if reading == mask {
                self.count(&from);
            } else if reading != 0 {
                self.count(&Request::new(from.space, from.a, reading, bytes));
            }
            self.count(&to);
        }
        // Nobody need look at a lane's bytes if all of them can be read.
        let whole = copy.source_bytes.is_none() && ignore & mask == 0;
        let ready = CHECK
            && self.launch.checks.memory
            && whole
            && from
                .fits(self.launch.view.base, self.launch.view.len)
                .is_ok()
            && self.all_ready(&from);
        let look = CHECK && self.launch.checks.memory && !ready;
        let from = &from.a;
        let (shared, global) = (self.region(Space::Shared), self.region(Space::Global));
        self.in_bounds(warp, &shared, &to, pc)?;
        let mut copies = CHECK.then(|| Copies::new(mask, copy.bytes as usize, pc));
        for l in lanes(mask) {
            let read = source_bytes(warp, l);
            let mut data = [0; 16];
            if read > 0 {
                // With fewer bytes read than copied, only those must exist.
                let p = match global.at(from[l], read.into()) {
                    Some(p) if from[l].is_multiple_of(bytes) => p,
                    _ => self.element(warp, global, from[l], bytes, pc, l)?,
                };
                // SAFETY: the region holds `read` bytes, at most 16.
                unsafe {
                    if read == 16 {
                        data = p.cast::<[u8; 16]>().read();
                    } else {
                        p.copy_to_nonoverlapping(data.as_mut_ptr(), read as usize);
                    }
                }
            }
            if let Some(copies) = &mut copies {
                if read > 0 && look {
                    copies.valid[l] = self.bytes_known(warp, from[l], read.into(), pc, l)?;
                }
                (copies.target[l], copies.data[l]) = (to.a[l] as u32, data);
                if self.launch.checks.synchronisation {
                    let (target, bytes) = (to.a[l] as usize, copy.bytes as usize);
                    let actor = self.actor(warp, pc);
                    if let Err(met) = self.shadow.begin_copy(target, bytes, &actor, l) {
                        return Err(self.trouble(warp, l, to.a[l], pc, met, "writes"));
                    }
                }
            } else {
                // SAFETY: the target is in bounds.
                unsafe {
                    let target = shared.data.add(to.a[l] as usize);
                    target.copy_from_nonoverlapping(data.as_ptr(), copy.bytes as usize);
                }
            }
        }
        if let Some(copies) = copies {
            warp.pending.issue(copies);
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
        for copies in warp.pending.wait(mask, allowed) {
            for l in lanes(copies.mask) {
                self.land(warp, &copies, l)?;
            }
        }
        Ok(())
    }

    /// A lane's copy lands.
    fn land(&mut self, warp: &Warp, copies: &Copies, lane: usize) -> Result<(), Fail> {
        let (at, bytes) = (copies.target[lane] as usize, copies.bytes);
        if self.launch.checks.synchronisation {
            self.shadow.end_copy(at, bytes);
        }
        let shared = self.region(Space::Shared);
        // SAFETY: the target was in bounds when the copy was issued.
        unsafe {
            let target = shared.data.add(at);
            match bytes {
                16 => target.cast::<[u8; 16]>().write(copies.data[lane]),
                _ => target.copy_from_nonoverlapping(copies.data[lane].as_ptr(), bytes),
            }
        }
        let actor = self.actor(warp, copies.pc);
        let run = self.shadow.row(at, bytes, bytes, lane, &actor);
        if copies.valid[lane] == !0 && self.shadow.write_runs(&[run], &actor) {
            return Ok(());
        }
        for word in (0..bytes).step_by(4) {
            let how = Write {
                valid: copies.valid[lane] >> word & 15 == 15,
                same: false,
                atomic: false,
            };
            match self.shadow.write(at + word, 4, how, &actor, lane) {
                // Two copies into one place may overlap in time; that is a race only if the waits do not order them.
                Ok(()) | Err(Trouble::Copy) => {}
                Err(met) => {
                    let address = (at + word) as u64;
                    return Err(self.trouble(warp, lane, address, copies.pc, met, "writes"));
                }
            }
        }
        Ok(())
    }
}
