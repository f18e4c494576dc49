//! Instructions in which lanes see one another: shuffles, votes, matches, reductions.

use super::FaultKind;
use super::access::lanes;
use super::block::Block;
use super::fault::Fail;
use super::local::local_read;
use super::op::{Kind, Pc, Shuffle, ShuffleKind, Slot, Vote};
use super::warp::Warp;

impl Block<'_> {
    /// The lanes that take part in a `.sync` instruction: those of its mask that are here.
    fn participants<const CHECK: bool>(
        &self,
        warp: &Warp,
        members: Slot,
        pc: Pc,
        mask: u32,
    ) -> Result<u32, Fail> {
        let members = warp.get32(members, mask.trailing_zeros() as usize);
        if CHECK {
            self.check_members(warp, pc, members, mask, mask)?;
        }
        Ok(members & mask)
    }

    /// Every executing lane is named by the mask, and every named lane is `present`.
    pub fn check_members(
        &self,
        warp: &Warp,
        pc: Pc,
        members: u32,
        mask: u32,
        present: u32,
    ) -> Result<(), Fail> {
        let (unnamed, absent) = (mask & !members, members & !present);
        if !self.launch.checks.synchronisation || unnamed | absent == 0 {
            return Ok(());
        }
        let name = &self.program.info[pc as usize].name;
        let (lane, text) = if unnamed != 0 {
            (
                unnamed,
                format!("{name} executed by a lane that its mask {members:#x} does not name"),
            )
        } else {
            let lane = absent.trailing_zeros();
            (
                mask,
                format!("{name}: lane {lane} of its mask {members:#x} has exited or is elsewhere"),
            )
        };
        Err(self.fail(
            FaultKind::LaneMask,
            pc,
            warp.id,
            lane.trailing_zeros() as usize,
            None,
            text,
        ))
    }

    pub fn collective<const CHECK: bool>(
        &self,
        warp: &mut Warp,
        kind: &Kind,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        if CHECK {
            let known = match kind {
                Kind::Shuffle(shuffle) => warp.valid[shuffle.a as usize],
                Kind::Match { a, .. } | Kind::Reduce { a, .. } => warp.valid[*a as usize],
                Kind::Vote { source, .. } => warp.valid_preds[source.pred as usize],
                _ => !0,
            };
            self.note_read(warp, pc, mask & !known)?;
        }
        match kind {
            Kind::Shuffle(shuffle) => {
                let here = self.participants::<CHECK>(warp, shuffle.members, pc, mask)?;
                shuffle.run(warp, here, mask);
            }
            Kind::Vote {
                how,
                d,
                p,
                source,
                members,
            } => {
                let here = self.participants::<CHECK>(warp, *members, pc, mask)?;
                let holds = warp.cond(*source) & here;
                let known = warp.valid_preds[source.pred as usize] & here == here;
                let yes = match how {
                    Vote::All => holds == here,
                    Vote::Any => holds != 0,
                    Vote::Uniform => holds == 0 || holds == here,
                    Vote::Ballot => {
                        lanes(mask).for_each(|l| warp.set(*d, l, holds.into(), false));
                        warp.set_valid(*d, if known { !0 } else { 0 }, mask);
                        return Ok(());
                    }
                };
                warp.set_pred(*p, if yes { !0 } else { 0 }, mask);
                warp.set_valid_pred(*p, if known { !0 } else { 0 }, mask);
            }
            Kind::Match {
                all,
                d,
                p,
                a,
                wide,
                members,
            } => {
                let here = self.participants::<CHECK>(warp, *members, pc, mask)?;
                let values: [u64; 32] = std::array::from_fn(|l| warp.get(*a, l, *wide));
                let mut agree = 0;
                for l in lanes(mask) {
                    let same = lanes(here)
                        .filter(|&o| values[o] == values[l])
                        .fold(0u32, |m, o| m | 1 << o);
                    let result = if *all && same != here { 0 } else { same };
                    agree |= u32::from(result != 0) << l;
                    warp.set(*d, l, result.into(), false);
                }
                let known = if warp.valid[*a as usize] & here == here {
                    !0
                } else {
                    0
                };
                warp.set_pred(*p, agree, mask);
                warp.set_valid_pred(*p, known, mask);
                warp.set_valid(*d, known, mask);
            }
            Kind::ActiveMask { d } => {
                lanes(mask).for_each(|l| warp.set(*d, l, mask.into(), false));
                warp.set_valid(*d, !0, mask);
            }
            Kind::Reduce { f, d, a, members } => {
                let here = self.participants::<CHECK>(warp, *members, pc, mask)?;
                let total = lanes(here)
                    .map(|l| warp.get32(*a, l))
                    .reduce(f)
                    .unwrap_or(0);
                let known = if warp.valid[*a as usize] & here == here {
                    !0
                } else {
                    0
                };
                lanes(mask).for_each(|l| warp.set(*d, l, total.into(), false));
                warp.set_valid(*d, known, mask);
            }
            Kind::Elect { d, p, members } => {
                let here = self.participants::<CHECK>(warp, *members, pc, mask)?;
                let leader = here.trailing_zeros();
                lanes(mask).for_each(|l| warp.set(*d, l, leader.into(), false));
                warp.set_pred(*p, 1u32.unbounded_shl(leader), mask);
                warp.set_valid(*d, !0, mask);
                warp.set_valid_pred(*p, !0, mask);
            }
            _ => unreachable!("the interpreter handles every other operation"),
        }
        Ok(())
    }

    /// A failed device-side assertion: (message, file, line, function) by generic pointers in the parameter frame.
    #[cold]
    pub fn assertion(&self, warp: &Warp, frame: u32, pc: Pc, mask: u32) -> Fail {
        let lane = mask.trailing_zeros() as usize;
        let text = |at: u32| {
            let mut address = local_read(&warp.frame, at as usize, lane, 8);
            let mut out = String::new();
            let mut byte = [0];
            while out.len() < 200
                && self.launch.memory.read(address, &mut byte).is_ok()
                && byte[0] != 0
            {
                out.push(byte[0].into());
                address += 1;
            }
            out
        };
        let line = local_read(&warp.frame, frame as usize + 16, lane, 4);
        let text = format!(
            "assertion failed: {} at {}:{line} in {}",
            text(frame),
            text(frame + 8),
            text(frame + 24)
        );
        self.fail(FaultKind::Assertion, pc, warp.id, lane, None, text)
    }
}

impl Shuffle {
    /// The source lane of every lane, and whether it is in range (the ISA's formulas).
    fn run(&self, warp: &mut Warp, here: u32, mask: u32) {
        let mut values = [(0u32, false, false); 32];
        for l in lanes(mask) {
            let lane = l as i32;
            let b = (warp.get32(self.b, l) & 31) as i32;
            let c = warp.get32(self.c, l);
            let (clamp, segment) = ((c & 31) as i32, (c >> 8 & 31) as i32);
            let max_lane = lane & segment | clamp & !segment;
            let min_lane = lane & segment;
            let (source, inside) = match self.how {
                ShuffleKind::Up => (lane - b, lane - b >= max_lane),
                ShuffleKind::Down => (lane + b, lane + b <= max_lane),
                ShuffleKind::Butterfly => (lane ^ b, (lane ^ b) <= max_lane),
                ShuffleKind::Index => {
                    let source = min_lane | b & !segment;
                    (source, source <= max_lane)
                }
            };
            let source = if inside { (source & 31) as usize } else { l };
            let known = warp.valid[self.a as usize] >> source & 1 != 0 && here >> source & 1 != 0;
            values[l] = (warp.get32(self.a, source), inside, known);
        }
        for l in lanes(mask) {
            let (value, inside, known) = values[l];
            warp.set(self.d, l, value.into(), false);
            warp.set_valid(self.d, u32::from(known) << l, 1 << l);
            warp.set_pred(self.p, u32::from(inside) << l, 1 << l);
            warp.set_valid_pred(self.p, !0, 1 << l);
        }
    }
}
