//! The experiment harness.
pub mod error;
pub mod files;
pub mod hash;
pub mod rng;
pub mod stats;
