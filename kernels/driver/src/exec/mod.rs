//! Execution: a module bound to a memory, and the launch of its kernels.
//!
//! [`Loaded::new`] decodes every kernel into dense operations on a register file of 32-lane vectors; [`launch`] runs
//! a kernel's blocks in parallel over the host's cores, each block's warps in turn.

mod access;
mod asynchronous;
mod atomic;
mod barrier;
mod block;
mod checks;
mod collective;
mod decode;
mod fault;
mod float16;
mod float8;
mod flow;
mod lanes;
mod launch;
mod local;
mod matrix;
mod mma;
mod moves;
mod op;
mod pattern;
mod pending;
mod program;
mod request;
mod shadow;
mod shared;
mod step;
mod tally;
mod traffic;
mod transfer;
mod warp;
mod wmma;

pub use fault::{Fault, FaultKind};
pub use lanes::Isa;
pub use launch::{Checks, LaunchConfig, launch};
pub use program::{Kernel, Loaded};
