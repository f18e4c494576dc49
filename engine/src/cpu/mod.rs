//! Numeric building blocks for the CPU, on raw slices: no tensors, no tape.
//!
//! Conventions shared by every file here:
//!
//! - Matrices are row-major unless a stride says otherwise; sizes are counted in elements.
//! - Work is cut into pieces whose boundaries depend on the sizes alone, never on the number of
//!   threads, and partial sums are added in the order of the pieces. The same binary on the same
//!   instruction set therefore gives the same bits with any number of threads.
//! - The instruction set is chosen once, at run time ([`simd::set_isa`]).
//! - Preconditions (lengths, strides) are the caller's business: they are asserted, with a message,
//!   where a slice enters, and user-facing errors are raised above this module.

// Closures here carry `inline(always)` into `simd::dispatch`, which a function's name would not; constants are written
// with the digits that were fitted; register tiles are arrays walked by several indices at once.
#![allow(
    clippy::redundant_closure,
    clippy::excessive_precision,
    clippy::approx_constant,
    clippy::needless_range_loop
)]

pub mod attention;
pub mod convert;
pub mod gemm;
pub mod math;
pub mod philox;
pub mod select;
pub mod simd;
pub mod threads;
