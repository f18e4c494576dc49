//! Optimisers, schedules and clipping.

mod adamw;
mod clip;
mod importance;
mod schedule;

pub use adamw::AdamW;
pub use clip::{clip_global_norm, global_norm};
pub use importance::ImportanceAverages;
pub use schedule::Schedule;
