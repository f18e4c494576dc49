//! Decoded instructions: dense, with every operand a place in the register file.

use super::lanes::{Carry, Map, Test};
use super::moves::Moves;
use crate::ptx::Space;

/// Index of a register's first [`Lanes`]. Constants and special registers have slots too.
pub type Slot = u32;
/// Index of a predicate; predicate 0 is always true.
pub type Pred = u16;
/// Index of an operation.
pub type Pc = u32;

/// The predicate that is always true.
pub const TRUE: Pred = 0;
/// A predicate that is written and never read; the program's own follow it.
pub const SINK: Pred = 1;

/// A predicate operand: its lanes are those of the register, exclusive-or `flip` (0 or all ones).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cond {
    pub pred: Pred,
    pub flip: u32,
}

impl Cond {
    pub const ALWAYS: Cond = Cond {
        pred: TRUE,
        flip: 0,
    };
    pub const NEVER: Cond = Cond {
        pred: TRUE,
        flip: !0,
    };
}

/// An operation, run for the active lanes whose guard holds.
pub struct Op {
    pub guard: Cond,
    pub kind: Kind,
}

/// What a map does to the halves of a register of 64 bits. Compilers pack a value with an undefined one and take it
/// out again, which is no use of the undefined half: the slot after a wide register's first one notes the lanes whose
/// low half is initialised although the whole is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// Puts a low and a high half together.
    Pack,
    /// Takes the low half.
    Low,
}

/// How predicates are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logic {
    And,
    Or,
    Xor,
}

/// What an operation does.
pub enum Kind {
    /// `d = f(s0, s1, s2, s3)` lane by lane.
    Map {
        f: Map,
        d: Slot,
        s: [Slot; 4],
        wide: bool,
        part: Part,
    },
    /// `p = f(a, b) logic c`, `q = !f(a, b) logic c`.
    Test {
        f: Test,
        p: Pred,
        q: Pred,
        a: Slot,
        b: Slot,
        logic: Logic,
        c: Cond,
    },
    /// `d = p ? a : b`.
    Select {
        d: Slot,
        a: Slot,
        b: Slot,
        p: Cond,
        wide: bool,
    },
    /// `d = a logic b` on predicates.
    Predicate {
        d: Pred,
        logic: Logic,
        a: Cond,
        b: Cond,
    },
    /// Addition with the carry flag.
    Carry {
        f: Carry,
        d: Slot,
        s: [Slot; 3],
        reads: bool,
        writes: bool,
        wide: bool,
    },
    /// A clock: warp-instructions executed so far.
    Clock {
        d: Slot,
        wide: bool,
    },
    Jump {
        target: Pc,
    },
    /// To `target` where the guard holds; the lanes meet again at `join`.
    Branch {
        target: Pc,
        join: Pc,
    },
    /// To `table[index]`.
    Switch {
        index: Slot,
        table: Box<[Pc]>,
        join: Pc,
    },
    /// Where divergent lanes meet again; also the end of a device function.
    Join,
    /// Into a device function that ends at `end`.
    Call {
        entry: Pc,
        end: Pc,
    },
    Exit,
    Trap,
    /// A call of the assertion handler: message, file, line, function.
    AssertFail {
        frame: u32,
    },
    /// Ordering only: execution is in order.
    Nothing,
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    CopyAsync(Box<CopyAsync>),
    CommitAsync,
    /// Waits until at most that many groups are pending; `None`: and what is not committed.
    WaitAsync {
        pending: Option<u32>,
    },
    LoadMatrix(Box<Matrix>),
    StoreMatrix(Box<Matrix>),
    /// The transpose of an 8x8 matrix of 16-bit elements that lies row by row in a register's lanes.
    MoveMatrix {
        d: Slot,
        a: Slot,
    },
    Multiply(Box<Multiply>),
    LoadFragment(Box<Fragment>),
    StoreFragment(Box<Fragment>),
    Shuffle(Box<Shuffle>),
    Vote {
        how: Vote,
        d: Slot,
        p: Pred,
        source: Cond,
        members: Slot,
    },
    Match {
        all: bool,
        d: Slot,
        p: Pred,
        a: Slot,
        wide: bool,
        members: Slot,
    },
    ActiveMask {
        d: Slot,
    },
    Reduce {
        f: fn(u32, u32) -> u32,
        d: Slot,
        a: Slot,
        members: Slot,
    },
    Elect {
        d: Slot,
        p: Pred,
        members: Slot,
    },
    Barrier(Box<Barrier>),
    WarpSync {
        members: Slot,
    },
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    None,
    Narrow(Slot),
    Wide(Slot),
}

/// An address: base plus offset in a space.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub space: Space,
    pub base: Base,
    pub offset: i64,
}

/// A load or store of `count` elements of `bytes` each.
pub struct Access {
    pub address: Address,
    pub bytes: u32,
    pub count: u32,
    pub regs: [Slot; 4],
    /// Bytes of a register: 2, 4 or 8.
    pub register: u32,
    pub signed: bool,
    pub moves: Moves,
}

/// An atomic read-modify-write.
pub struct Atomic {
    pub address: Address,
    pub bytes: u32,
    /// Bytes that the address is a multiple of: of vectors more than an element.
    pub align: u32,
    /// Old value's register, if wanted.
    pub d: Option<Slot>,
    pub a: Slot,
    pub b: Slot,
    pub update: super::atomic::Update,
    /// The same in shared memory.
    pub shared: super::atomic::Update,
}

/// An asynchronous copy of `bytes` from global to shared memory.
pub struct CopyAsync {
    pub target: Address,
    pub source: Address,
    pub bytes: u32,
    /// Bytes really read; the rest is zero.
    pub source_bytes: Option<Slot>,
    /// Reads nothing where it holds.
    pub ignore: Cond,
}

/// `ldmatrix` or `stmatrix` of 8x8 matrices of 16 bits.
pub struct Matrix {
    pub address: Address,
    pub count: u32,
    pub transposed: bool,
    pub regs: [Slot; 4],
}

/// A matrix product of a warp: D = A B + C, registers as in [`super::mma`].
pub struct Multiply {
    pub run: super::mma::Product,
    pub d: Vec<Slot>,
    pub a: Vec<Slot>,
    pub b: Vec<Slot>,
    pub c: Vec<Slot>,
    /// Tiles of 8 columns.
    pub tiles: usize,
    pub flops: u64,
}

/// `wmma.load` or `wmma.store` of a 16x16 fragment.
pub struct Fragment {
    pub address: Address,
    /// Elements from one row (or column) to the next; the register's slot.
    pub stride: Slot,
    pub role: super::wmma::Role,
    /// Rows are contiguous in memory, as opposed to columns.
    pub by_rows: bool,
    /// Bytes of an element: 2 or 4.
    pub bytes: u32,
    pub regs: Vec<Slot>,
}

/// `shfl.sync`.
pub struct Shuffle {
    pub how: ShuffleKind,
    pub d: Slot,
    pub p: Pred,
    pub a: Slot,
    pub b: Slot,
    pub c: Slot,
    pub members: Slot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShuffleKind {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// `bar` and `barrier`.
pub struct Barrier {
    pub id: Slot,
    /// Threads that take part; all of the block if absent.
    pub threads: Option<Slot>,
    /// Does not wait.
    pub arrive: bool,
    pub aligned: bool,
    pub reduce: Option<BarrierReduce>,
}

#[derive(Clone, Copy)]
pub enum BarrierReduce {
    Count { d: Slot, source: Cond },
    And { p: Pred, source: Cond },
    Or { p: Pred, source: Cond },
}
