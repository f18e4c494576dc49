//! What a launch did, counted at the level of PTX (ptxas may merge or hoist accesses).

use std::collections::BTreeMap;
use std::ops::AddAssign;

/// A class of instructions.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
