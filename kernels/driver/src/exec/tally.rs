//! Counting by operation while a launch runs.

use crate::counters::{Class, Counters, Traffic};

/// Counts by operation while a launch runs.
#[derive(Clone, Debug)]
pub struct Tally {
    pub executed: u64,
    pub ops: Vec<OpTally>,
    pub global: Traffic,
    pub shared: Traffic,
    pub atomic: Traffic,
    pub matrix_flops: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct OpTally {
    pub warps: u64,
    pub lanes: u64,
    pub off: u64,
}

impl Tally {
    pub fn new(ops: usize) -> Tally {
        let none = Traffic::default();
        let ops = vec![OpTally::default(); ops];
        Tally {
            executed: 0,
            ops,
            global: none,
            shared: none,
            atomic: none,
            matrix_flops: 0,
        }
    }

    pub fn add(&mut self, other: &Tally) {
        self.executed += other.executed;
        for (mine, theirs) in self.ops.iter_mut().zip(&other.ops) {
            mine.warps += theirs.warps;
            mine.lanes += theirs.lanes;
            mine.off += theirs.off;
        }
        self.global += other.global;
        self.shared += other.shared;
        self.atomic += other.atomic;
        self.matrix_flops += other.matrix_flops;
    }
}

impl Counters {
    /// Sums up; `ops` are (line, class, floating-point operations of a lane).
    pub fn new(tally: &Tally, ops: impl Iterator<Item = (u32, Class, u32)>) -> Counters {
        let mut c = Counters {
            warp_instructions: tally.executed,
            global: tally.global,
            shared: tally.shared,
            atomic: tally.atomic,
            matrix_flops: tally.matrix_flops,
            ..Counters::default()
        };
        for (op, (line, class, flops)) in tally.ops.iter().zip(ops).filter(|(op, _)| op.warps > 0) {
            c.thread_instructions += op.lanes;
            c.predicated_off += op.off;
            c.float_flops += op.lanes * u64::from(flops);
            *c.classes.entry(class).or_default() += op.warps;
            c.barriers += if class == Class::Barrier { op.warps } else { 0 };
            let entry = c.lines.entry(line).or_default();
            *entry = (entry.0 + op.warps, entry.1 + op.lanes);
        }
        c
    }
}
