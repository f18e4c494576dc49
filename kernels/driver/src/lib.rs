//! A CUDA driver in software: it parses PTX text and runs it on the CPU.
//!
//! [`ptx`] turns text into a module, [`memory`] is the device memory of one context, [`exec`] binds a module to
//! a memory and launches its kernels, and [`counters`] says what a launch did.

mod api;
pub mod counters;
pub mod exec;
pub mod memory;
pub mod ptx;
