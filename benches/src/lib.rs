//! What the benches share: the models and methods of `train-step`, the bound its time is compared with, and a profile.

pub mod bound;
pub mod memory;
pub mod profile;
pub mod subject;
