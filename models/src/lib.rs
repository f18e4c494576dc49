//! deltaw.
pub mod experiment;
