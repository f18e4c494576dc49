//! Asynchronous copies of a warp that have not landed (kept under checks; otherwise a copy lands at once).

use std::collections::VecDeque;

/// A copy that one lane issued: the bytes land in shared memory at the lane's wait.
#[derive(Clone, Debug)]
pub struct Copy {
    pub lane: u32,
    pub target: usize,
    pub data: [u8; 16],
    pub bytes: usize,
    /// The bytes that are initialised.
    pub valid: u16,
    /// The operation that issued it.
    pub pc: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Pending {
    open: Vec<Copy>,
    /// Oldest first: the lanes that committed the group together, and its copies.
    groups: VecDeque<(u32, Vec<Copy>)>,
}

impl Pending {
    pub fn issue(&mut self, copy: Copy) {
        self.open.push(copy);
    }

    pub fn commit(&mut self, mask: u32) {
        let (group, open) = self.open.drain(..).partition(|c| mask >> c.lane & 1 != 0);
        self.open = open;
        self.groups.push_back((mask, group));
    }

    /// Takes what has landed once at most `allowed` groups of each lane are pending; `None`: everything, committed or
    /// not.
    pub fn wait(&mut self, mask: u32, allowed: Option<u32>) -> Vec<Copy> {
        let Some(allowed) = allowed else {
            self.commit(mask);
            return self.wait(mask, Some(0));
        };
        let mut landed = Vec::new();
        let mut seen = [0; 32];
        for (lanes, copies) in self.groups.iter_mut().rev() {
            let mut done = 0;
            for lane in (0..32).filter(|l| (mask & *lanes) >> l & 1 != 0) {
                if seen[lane] >= allowed {
                    done |= 1 << lane;
                }
                seen[lane] += 1;
            }
            if done != 0 {
                *lanes &= !done;
                let (out, rest) = copies.drain(..).partition(|c| done >> c.lane & 1 != 0);
                *copies = rest;
                // Older groups are visited later and must land first.
                let out: Vec<Copy> = out;
                landed.splice(0..0, out);
            }
        }
        self.groups.retain(|(lanes, _)| *lanes != 0);
        landed
    }
}

#[cfg(test)]
mod tests {
    use super::{Copy, Pending};

    fn copy(lane: u32, target: usize) -> Copy {
        Copy {
            lane,
            target,
            data: [0; 16],
            bytes: 4,
            valid: 15,
            pc: 0,
        }
    }

    #[test]
    fn groups_land_in_order_and_per_lane() {
        let mut p = Pending::default();
        for target in 0..3 {
            p.issue(copy(0, target));
            p.issue(copy(1, 10 + target));
            p.commit(3);
        }
        p.issue(copy(0, 3));
        let targets = |copies: Vec<Copy>| copies.iter().map(|c| c.target).collect::<Vec<_>>();
        assert_eq!(targets(p.wait(1, Some(1))), [0, 1]);
        assert_eq!(targets(p.wait(3, Some(1))), [10, 11]);
        assert_eq!(targets(p.wait(3, None)), [2, 12, 3]);
        assert!(p.wait(!0, None).is_empty());
    }
}
