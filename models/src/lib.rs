//! deltaw.
pub mod experiment;
pub mod report;
