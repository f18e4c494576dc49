//! What can go wrong in a launch, and where it did.

use std::fmt;

/// What went wrong in a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The launch itself is impossible: block size, shared memory, parameter bytes.
    InvalidLaunch,
    /// An access outside of every allocation (hardware: illegal address).
    OutOfBounds,
    /// An access to freed memory (hardware: illegal address, or nothing).
    UseAfterFree,
    /// An access not aligned to its size (hardware: misaligned address).
    Misaligned,
    /// Uninitialised data reached an address, a branch or a global store.
    Uninitialised,
    /// Two threads met in shared memory without a barrier between them.
    Race,
    /// A barrier reached by a part of the threads that must reach it.
    BarrierDivergence,
    /// Data of an asynchronous copy used before its wait.
    AsyncRead,
    /// A collective instruction whose mask and lanes disagree.
    LaneMask,
    /// The instruction limit was reached.
    InstructionLimit,
    /// `trap`.
    Trap,
    /// A failed device-side assertion.
    Assertion,
}

/// A launch that failed, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// Kernel.
    pub kernel: String,
    /// Line of the PTX text, 0 if no instruction is at fault.
    pub line: u32,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index within the block.
    pub thread: [u32; 3],
    /// Address, where one is at fault.
    pub address: Option<u64>,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        if self.line == 0 {
            return write!(f, "{}: {}", self.kernel, self.text);
        }
        write!(
            f,
            "{}: line {}: {}; block {bx},{by},{bz} thread {tx},{ty},{tz}",
            self.kernel, self.line, self.text
        )
    }
}

/// A fault on its way out; boxed, since the interpreter's results should be small.
pub(crate) type Fail = Box<Fault>;
