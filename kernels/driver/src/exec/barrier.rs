//! A warp at a barrier of its block.

use super::FaultKind;
use super::block::Block;
use super::fault::Fail;
use super::lanes::WARP;
use super::op::{Barrier, BarrierReduce};
use super::warp::{State, Warp};

impl Block<'_> {
    /// The current split at a barrier: true if it goes on.
    pub fn barrier<const CHECK: bool>(
        &mut self,
        warp: &mut Warp,
        barrier: &Barrier,
        mask: u32,
    ) -> Result<bool, Fail> {
        let at = warp.current;
        let (pc, lane) = (warp.splits[at].pc, mask.trailing_zeros() as usize);
        if let State::AtBarrier { id, .. } = warp.splits[at].state {
            // It was selected again, so the barrier has completed.
            warp.splits[at].state = State::Ready;
            self.leave_barrier::<CHECK>(warp, barrier, id, mask);
            return Ok(true);
        }
        let id = warp.get32(barrier.id, lane);
        if id as usize >= super::block::BARRIERS {
            let text = format!("barrier {id}: a block has 16");
            return Err(self.fail(FaultKind::Trap, pc, warp.id, lane, None, text));
        }
        let absent = warp.alive & !mask;
        if CHECK && self.launch.checks.synchronisation && absent != 0 && barrier.aligned {
            let text = format!(
                "{} reached by {} of {} threads of the warp: thread {:?} is elsewhere",
                self.program.info[pc as usize].name,
                mask.count_ones(),
                warp.alive.count_ones(),
                self.thread(warp.id, absent.trailing_zeros() as usize),
            );
            return Err(self.fail(FaultKind::BarrierDivergence, pc, warp.id, lane, None, text));
        }
        let wanted = barrier.threads.map_or(0, |t| warp.get32(t, lane));
        // With a count, a warp of which every living lane arrives counts whole.
        let threads = if wanted != 0 && absent == 0 {
            WARP as u32
        } else {
            mask.count_ones()
        };
        let votes = match barrier.reduce {
            Some(
                BarrierReduce::Count { source, .. }
                | BarrierReduce::And { source, .. }
                | BarrierReduce::Or { source, .. },
            ) => ((warp.cond(source) & mask).count_ones(), mask.count_ones()),
            None => (0, 0),
        };
        let generation = self.barriers.generation(id);
        let clock = std::mem::take(&mut warp.clock);
        self.barriers
            .arrive(id, threads, wanted, votes, &clock, self.alive);
        warp.clock = clock;
        if barrier.arrive {
            if CHECK {
                warp.advance();
            }
            return Ok(true);
        }
        if self.barriers.generation(id) != generation {
            self.leave_barrier::<CHECK>(warp, barrier, id, mask);
            return Ok(true);
        }
        warp.splits[at].state = State::AtBarrier { id, generation };
        Ok(false)
    }

    fn leave_barrier<const CHECK: bool>(
        &mut self,
        warp: &mut Warp,
        barrier: &Barrier,
        id: u32,
        mask: u32,
    ) {
        let (count, all, any) = self.barriers.reduction(id);
        match barrier.reduce {
            Some(BarrierReduce::Count { d, .. }) => {
                for lane in (0..WARP).filter(|l| mask >> l & 1 != 0) {
                    warp.set(d, lane, count.into(), false);
                }
                warp.set_valid(d, !0, mask);
            }
            Some(BarrierReduce::And { p, .. }) => {
                warp.set_pred(p, if all { !0 } else { 0 }, mask);
                warp.set_valid_pred(p, !0, mask);
            }
            Some(BarrierReduce::Or { p, .. }) => {
                warp.set_pred(p, if any { !0 } else { 0 }, mask);
                warp.set_valid_pred(p, !0, mask);
            }
            None => {}
        }
        if CHECK {
            self.barriers.learn(id, &mut warp.clock);
            warp.advance();
        }
    }
}
