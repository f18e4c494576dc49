//! The CUDA driver API, as a C program sees it: the functions of `cuda.h` by their exported names, and those of our
//! own, which begin with `deltaw_`.
//!
//! What an exported function does is NVIDIA's documentation's to say; comments here tell where this driver differs.
//! All state lives behind these symbols, in the shared library: a Rust program that linked this crate as well would
//! have a second copy of it.

mod architecture;
mod border;
mod context;
mod device;
mod event;
mod handle;
mod launch;
mod lookup;
mod memory;
mod module;
mod pool;
mod report;
mod settings;
mod status;
mod stream;
mod unsupported;
