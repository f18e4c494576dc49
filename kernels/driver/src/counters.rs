//! What a launch did, counted at the level of PTX (ptxas may merge or hoist accesses).

/// The counters of one launch, or the sum of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Instructions executed, once per warp.
    pub warp_instructions: u64,
}
