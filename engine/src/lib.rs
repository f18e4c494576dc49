//! deltaw-engine: tensors, a reverse-mode tape, ops, parameters and optimisers. See [`prelude`].

pub mod accumulate;
pub mod checkpoint;
pub mod context;
pub mod cpu;
pub mod delta;
pub mod device;
mod display;
pub mod dtype;
pub mod error;
pub mod finite;
pub mod layout;
pub mod linalg;
pub mod observe;
pub mod op;
pub mod ops;
pub mod optim;
mod overwrite;
pub mod param;
pub mod pool;
pub mod random;
mod saved;
pub mod site;
pub mod source;
pub mod store;
pub mod tape;
pub mod tensor;
pub mod trace;
pub mod weights;

/// What most programs need.
pub mod prelude {
    pub use crate::accumulate::accumulate;
    pub use crate::context::{Context, Gate};
    pub use crate::device::cuda::Cuda;
    pub use crate::device::{Device, Distribution};
    pub use crate::dtype::DType;
    pub use crate::error::{Error, Result};
    pub use crate::finite::find_non_finite;
    pub use crate::op::{Forward, Op, Saved, apply, no_grad};
    pub use crate::ops::attention::{AttentionOptions, attention, attention_packed};
    pub use crate::ops::bce::{BceOptions, bce, bce_with_logits};
    pub use crate::ops::block_affine::block_affine_linear;
    pub use crate::ops::conv2d::{Conv2dOptions, conv2d};
    pub use crate::ops::cross_entropy::{CrossEntropyOptions, cross_entropy};
    pub use crate::ops::dropout::{drop_path, dropout};
    pub use crate::ops::kernelized::{KernelizedSparse, kernelized_sparse_linear};
    pub use crate::ops::kl::{KlTarget, kl_divergence};
    pub use crate::ops::linear::linear;
    pub use crate::ops::loss::{Reduction, mae, mse};
    pub use crate::ops::low_rank::low_rank_linear;
    pub use crate::ops::norm::{layer_norm, rms_norm};
    pub use crate::ops::produced::{DevicePanel, DeviceProducer, Panel, Producer, produced_linear};
    pub use crate::ops::random_basis::random_basis_linear;
    pub use crate::ops::recompute::recompute;
    pub use crate::ops::rotary::{Rotation, rotary};
    pub use crate::ops::soft_targets::{soft_cross_entropy, sparse_soft_cross_entropy};
    pub use crate::ops::triangular::triangular_matmul;
    pub use crate::optim::{AdamW, Clip, Schedule, Sgd};
    pub use crate::param::{Param, Training};
    pub use crate::random::{Purpose, RandomKey};
    pub use crate::site::{Delta, Role, Site, Wrap};
    pub use crate::source::Source;
    pub use crate::store::{Init, Path, Store};
    pub use crate::tape::{GradVisitor, Gradients, Grads, backward, backward_with};
    pub use crate::tensor::{LeafId, Tensor};
    pub use crate::weights::Weights;
}
