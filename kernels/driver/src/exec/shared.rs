//! Checks of shared memory: races, initialisation, asynchronous copies under way.

use super::FaultKind;
use super::access::{lanes, read_bytes};
use super::block::Block;
use super::fault::Fail;
use super::lanes::WARP;
use super::op::{Access, Pc};
use super::pattern::SEGMENTS;
use super::request::{Request, Shape};
use super::shadow::{Actor, Conflict, Run, Trouble, Write};
use super::warp::Warp;
use crate::ptx::Space;

impl Block<'_> {
    pub fn actor<'a>(&self, warp: &'a Warp, pc: Pc) -> Actor<'a> {
        Actor {
            warp: warp.id,
            clock: &warp.clock,
            horizon: if self.launch.checks.races {
                warp.horizon
            } else {
                u64::MAX
            },
            pc,
        }
    }

    /// Notes reads of shared memory that are in bounds: the lanes whose data are initialised.
    pub fn shared_reads(&mut self, warp: &Warp, r: &Request, pc: Pc) -> Result<u32, Fail> {
        let actor = self.actor(warp, pc);
        let (at, bytes, first) = (r.a[r.first()] as usize, r.bytes as usize, r.first());
        let run = match r.shape {
            Shape::Row => Some(self.shadow.row(at, bytes * WARP, bytes, 0, &actor)),
            Shape::Same if r.mask.count_ones() > 1 => {
                Some(self.shadow.together(at, bytes, first, &actor))
            }
            _ => None,
        };
        let all_fine = match run {
            Some(run) => self.shadow.read_runs(&[run], &actor),
            None => self.by_segments::<false>(warp, r, pc),
        };
        if all_fine {
            return Ok(!0);
        }
        let noted = self.shadow.read_lanes(&r.a, r.mask, bytes, &actor);
        noted.map_err(|(lane, met)| self.trouble(warp, lane, r.a[lane], pc, met, "reads"))
    }

    /// Notes the accesses of a scattered request by its segments; writes are of initialised values. False if there is
    /// something to be looked at lane by lane.
    fn by_segments<const WRITE: bool>(&mut self, warp: &Warp, r: &Request, pc: Pc) -> bool {
        let actor = self.actor(warp, pc);
        let (first, bytes) = (r.a[r.first()], r.bytes as usize);
        let pattern = self.pattern(r);
        let Some(segments) = &self.patterns[pattern].segments else {
            return false;
        };
        let mut runs = [Run::default(); SEGMENTS];
        for (run, s) in runs.iter_mut().zip(segments) {
            let at = first.wrapping_add(s.offset) as usize;
            *run = match s.together {
                true if WRITE => return false,
                true => self.shadow.together(at, bytes, s.lane, &actor),
                false => self.shadow.row(at, bytes * s.lanes, bytes, s.lane, &actor),
            };
        }
        let runs = &runs[..segments.len()];
        if WRITE {
            self.shadow.write_runs(runs, &actor)
        } else {
            self.shadow.read_runs(runs, &actor)
        }
    }

    /// Notes writes of shared memory that are in bounds, of values that are `known` or not; `same` says that a lane
    /// stores what is there already or what a lane before it stores.
    pub fn shared_writes(
        &mut self,
        warp: &Warp,
        r: &Request,
        known: u32,
        pc: Pc,
        same: impl Fn(&mut Self, usize) -> bool,
    ) -> Result<(), Fail> {
        let actor = self.actor(warp, pc);
        let unknown = r.mask & !known;
        if unknown != 0 {
            self.uninitialised_read(warp, pc, unknown, None)?;
        }
        let bytes = r.bytes as usize;
        let all_fine = unknown == 0
            && match r.shape {
                Shape::Row => {
                    let at = r.a[0] as usize;
                    let run = self.shadow.row(at, bytes * WARP, bytes, 0, &actor);
                    self.shadow.write_runs(&[run], &actor)
                }
                Shape::Scattered => self.by_segments::<true>(warp, r, pc),
                Shape::Same => false,
            };
        if all_fine {
            return Ok(());
        }
        for l in lanes(r.mask) {
            let mut how = Write {
                valid: known >> l & 1 != 0,
                same: false,
                atomic: false,
            };
            let at = r.a[l] as usize;
            let mut noted = self.shadow.write(at, bytes, how, &actor, l);
            if let Err(Trouble::Race(Conflict {
                pc: by,
                wrote: true,
                ..
            })) = noted
                && by == pc
                && same(self, l)
            {
                how.same = true;
                noted = self.shadow.write(at, bytes, how, &actor, l);
            }
            noted.map_err(|met| self.trouble(warp, l, r.a[l], pc, met, "writes"))?;
        }
        Ok(())
    }

    /// Notes atomic updates of shared memory: the lanes whose old value and operands are initialised.
    pub fn shared_updates(
        &mut self,
        warp: &Warp,
        r: &Request,
        known: u32,
        pc: Pc,
    ) -> Result<u32, Fail> {
        let actor = self.actor(warp, pc);
        let (mut valid, bytes) = (known, r.bytes as usize);
        for l in lanes(r.mask) {
            let at = r.a[l] as usize;
            if !self.shadow.is_valid(at, bytes) {
                valid &= !(1 << l);
                self.uninitialised_read(warp, pc, 1 << l, Some(r.a[l]))?;
            }
            let how = Write {
                valid: valid >> l & 1 != 0,
                same: false,
                atomic: true,
            };
            let noted = self.shadow.write(at, bytes, how, &actor, l);
            noted.map_err(|met| self.trouble(warp, l, r.a[l], pc, met, "writes"))?;
        }
        Ok(valid)
    }

    /// The lane stores what is there already, or what a lane before it stores there by the same instruction.
    pub fn stores_the_same(
        &mut self,
        warp: &Warp,
        access: &Access,
        r: &Request,
        lane: usize,
    ) -> bool {
        let bits = |l: usize, part: usize| warp.get(access.regs[part], l, access.register == 8);
        let mut parts = 0..access.count as usize;
        if let Some(before) = lanes(r.mask & ((1 << lane) - 1)).find(|&l| r.a[l] == r.a[lane]) {
            return parts.all(|part| bits(before, part) == bits(lane, part));
        }
        let region = self.region(Space::Shared);
        let Some(p) = region.at(r.a[lane], r.bytes) else {
            return false;
        };
        parts.all(|part| {
            // SAFETY: the region holds all parts.
            let old = unsafe { read_bytes(p.add(part * access.bytes as usize), access.bytes) };
            old == bits(lane, part) & u64::MAX >> (64 - 8 * access.bytes)
        })
    }

    #[cold]
    pub fn trouble(
        &self,
        warp: &Warp,
        lane: usize,
        address: u64,
        pc: Pc,
        met: Trouble,
        verb: &str,
    ) -> Fail {
        let name = &self.program.info[pc as usize].name;
        let (kind, text) = match met {
            Trouble::Copy => (
                FaultKind::AsyncRead,
                format!(
                    "{name} at shared address {address:#x}, where an asynchronous copy is under way: its thread has not waited"
                ),
            ),
            Trouble::Race(other) => {
                let thread = self.thread(other.thread / 32, other.thread as usize % 32);
                let did = if other.wrote { "wrote" } else { "read" };
                let line = self.program.info[other.pc as usize].line;
                (
                    FaultKind::Race,
                    format!(
                        "{name} {verb} shared address {address:#x}, which thread {thread:?} {did} in line {line}, with no barrier between"
                    ),
                )
            }
        };
        self.fail(kind, pc, warp.id, lane, Some(address), text)
    }
}
