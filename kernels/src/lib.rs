//! Hand-written PTX kernels and the code that launches them on raw device buffers.
//!
//! A family is a template `ptx/<family>.ptx` and a file `src/<family>.rs` beside it, which states formula, tile plan,
//! FLOPs and bytes. Texts are expanded at run time, one for each variant that is asked for, so that a program carries
//! only the templates and a device only what it runs; [`registry`] lists the variants that the tests assemble.

mod error;
pub mod gemm;
mod kernels;
pub mod philox;
pub mod registry;
pub mod template;

pub use error::KernelError;
pub use kernels::Kernels;
