//! deltaw.
pub mod data;
pub mod experiment;
pub mod report;
