//! deltaw.
pub mod trace;
