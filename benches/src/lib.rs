//! What the benches share: the models and methods of `train-step` and the bound its time is compared with, kernels at the sizes of
//! real models, checks of a device against the CPU, a profile.

pub mod attention;
pub mod bound;
pub mod checks;
pub mod compare;
pub mod memory;
pub mod product;
pub mod profile;
pub mod speed;
pub mod subject;
