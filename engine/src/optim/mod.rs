//! Optimisers, schedules and clipping.

mod adamw;
mod clip;
mod descend;
mod importance;
mod optimizer;
mod schedule;
mod sgd;

pub use adamw::{Adam, AdamW};
pub use clip::{Clip, clip_global_norm, clip_value, global_norm};
pub use descend::{Hooks, NoHooks, descend};
pub use importance::ImportanceAverages;
pub use optimizer::{Group, Optimizer, Precision, Rate, Rule};
pub use schedule::Schedule;
pub use sgd::{Momentum, Sgd};

#[cfg(test)]
mod tests;
