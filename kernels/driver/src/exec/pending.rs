//! Asynchronous copies of a warp that have not landed (kept under checks; otherwise a copy lands at once).

use std::collections::VecDeque;

use super::lanes::WARP;

/// What one instruction copies: the bytes land in shared memory at the lanes' waits.
#[derive(Clone, Debug)]
pub struct Copies {
    pub mask: u32,
    /// Bytes of a lane.
    pub bytes: usize,
    /// The operation that issued them.
    pub pc: u32,
    /// By lane: where to, what, and which bytes of it are initialised.
    pub target: [u32; WARP],
    pub data: [[u8; 16]; WARP],
    pub valid: [u16; WARP],
}

impl Copies {
    pub fn new(mask: u32, bytes: usize, pc: u32) -> Copies {
        Copies {
            mask,
            bytes,
            pc,
            target: [0; WARP],
            data: [[0; 16]; WARP],
            valid: [!0; WARP],
        }
    }

    /// Takes the lanes of a mask out; `None` if there are none.
    fn take(&mut self, mask: u32) -> Option<Copies> {
        let taken = self.mask & mask;
        self.mask &= !mask;
        (taken != 0).then(|| Copies {
            mask: taken,
            ..self.clone()
        })
    }
}

#[derive(Clone, Debug, Default)]
pub struct Pending {
    open: Vec<Copies>,
    /// Oldest first: the lanes that committed the group together, and its copies.
    groups: VecDeque<(u32, Vec<Copies>)>,
}

impl Pending {
    pub fn issue(&mut self, copies: Copies) {
        self.open.push(copies);
    }

    pub fn commit(&mut self, mask: u32) {
        let group = take(&mut self.open, mask);
        self.groups.push_back((mask, group));
    }

    /// Takes what has landed once at most `allowed` groups of each lane are pending; `None`: everything, committed or
    /// not.
    pub fn wait(&mut self, mask: u32, allowed: Option<u32>) -> Vec<Copies> {
        let Some(allowed) = allowed else {
            self.commit(mask);
            return self.wait(mask, Some(0));
        };
        let mut landed = Vec::new();
        let mut seen = [0; WARP];
        for (lanes, copies) in self.groups.iter_mut().rev() {
            let mut done = 0;
            for (lane, seen) in seen.iter_mut().enumerate() {
                let takes_part = (mask & *lanes) >> lane & 1;
                done |= (u32::from(*seen >= allowed) * takes_part) << lane;
                *seen += takes_part;
            }
            if done != 0 {
                *lanes &= !done;
                // Older groups are visited later and must land first.
                landed.splice(0..0, take(copies, done));
            }
        }
        self.groups.retain(|(lanes, _)| *lanes != 0);
        landed
    }
}

/// Takes the copies of a mask's lanes out of a list.
fn take(copies: &mut Vec<Copies>, mask: u32) -> Vec<Copies> {
    if copies.iter().all(|c| c.mask & !mask == 0) {
        return std::mem::take(copies);
    }
    let taken = copies.iter_mut().filter_map(|c| c.take(mask)).collect();
    copies.retain(|c| c.mask != 0);
    taken
}

#[cfg(test)]
mod tests {
    use super::{Copies, Pending};

    #[test]
    fn groups_land_in_order_and_per_lane() {
        let copy = |target: u32| {
            let mut copies = Copies::new(3, 4, 0);
            copies.target[..2].copy_from_slice(&[target, 10 + target]);
            copies
        };
        let mut p = Pending::default();
        for target in 0..3 {
            p.issue(copy(target));
            p.commit(3);
        }
        p.issue(copy(3));
        let targets = |landed: Vec<Copies>| -> Vec<u32> {
            let all = landed.iter().flat_map(|c| {
                let lanes = (0..2).filter(|l| c.mask >> l & 1 != 0);
                lanes.map(|l| c.target[l])
            });
            all.collect()
        };
        assert_eq!(targets(p.wait(1, Some(1))), [0, 1]);
        assert_eq!(targets(p.wait(3, Some(1))), [10, 11]);
        assert_eq!(targets(p.wait(3, None)), [2, 12, 3, 13]);
        assert!(p.wait(!0, None).is_empty());
    }
}
