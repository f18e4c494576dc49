//! What a launch did, counted at the level of PTX (ptxas may merge or hoist accesses).

use std::collections::BTreeMap;
use std::ops::AddAssign;

/// A class of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Integer arithmetic, logic, bit fields.
    Integer,
    /// f32, f16 and bf16 arithmetic.
    Float,
    /// f64 arithmetic.
    Double,
    /// Reciprocal, roots, exponentials, trigonometry.
    Special,
    /// Conversions between types.
    Convert,
    /// Moves and selections.
    Move,
    /// Comparisons and predicate logic.
    Compare,
    /// Branches, calls, exits.
    Control,
    /// Loads and stores of global or generic memory.
    Global,
    /// Loads and stores of shared memory, matrix loads included.
    Shared,
    /// Loads and stores of parameters, constants and local memory.
    OtherMemory,
    /// Atomic operations.
    Atomic,
    /// Asynchronous copies, their commits and waits.
    Async,
    /// Tensor-core products.
    Matrix,
    /// Shuffles, votes, matches, warp reductions.
    Warp,
    /// Barriers and fences.
    Barrier,
}

/// The counters of one launch, or the sum of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Instructions executed, once per warp.
    pub warp_instructions: u64,
    /// Instructions executed, once per lane that did something. The fields from here on need the counters on.
    pub thread_instructions: u64,
    /// Lanes that were active but predicated off.
    pub predicated_off: u64,
    /// Warp-instructions by class.
    pub classes: BTreeMap<Class, u64>,
    /// Loads, stores and asynchronous copies of global memory.
    pub global: Traffic,
    /// Loads, stores and matrix loads of shared memory.
    pub shared: Traffic,
    /// Atomic operations of any space; `units` counts the serialised steps of lanes that meet at one address.
    pub atomic: Traffic,
    /// Floating-point operations outside of matrix products (an FMA is 2).
    pub float_flops: u64,
    /// Floating-point (or integer) operations of matrix products.
    pub matrix_flops: u64,
    /// Barriers, once per warp.
    pub barriers: u64,
    /// Warp-instructions and lanes by line of the text.
    pub lines: BTreeMap<u32, (u64, u64)>,
}

/// Traffic of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Warp-wide requests.
    pub requests: u64,
    /// Global: 32-byte sectors. Shared: wavefronts (passes over the 32 banks). Atomic: serialised steps.
    pub units: u64,
    /// The fewest units that the same bytes could take.
    pub ideal_units: u64,
    /// Bytes asked for by all lanes.
    pub bytes: u64,
}

impl Traffic {
    /// The fewest possible units over those used: coalescing efficiency, or freedom from bank conflicts.
    pub fn efficiency(&self) -> f64 {
        if self.units == 0 {
            1.0
        } else {
            self.ideal_units as f64 / self.units as f64
        }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.requests += other.requests;
        self.units += other.units;
        self.ideal_units += other.ideal_units;
        self.bytes += other.bytes;
    }
}

impl AddAssign<&Counters> for Counters {
    fn add_assign(&mut self, other: &Counters) {
        self.warp_instructions += other.warp_instructions;
        self.thread_instructions += other.thread_instructions;
        self.predicated_off += other.predicated_off;
        for (&class, n) in &other.classes {
            *self.classes.entry(class).or_default() += n;
        }
        self.global += other.global;
        self.shared += other.shared;
        self.atomic += other.atomic;
        self.float_flops += other.float_flops;
        self.matrix_flops += other.matrix_flops;
        self.barriers += other.barriers;
        for (&line, &(warps, lanes)) in &other.lines {
            let entry = self.lines.entry(line).or_default();
            *entry = (entry.0 + warps, entry.1 + lanes);
        }
    }
}

/// Counts by operation while a launch runs.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub executed: u64,
    pub ops: Vec<OpTally>,
    pub global: Traffic,
    pub shared: Traffic,
    pub atomic: Traffic,
    pub matrix_flops: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OpTally {
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
    pub(crate) fn new(tally: &Tally, ops: impl Iterator<Item = (u32, Class, u32)>) -> Counters {
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
