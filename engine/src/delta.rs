//! The descriptions of updates that a [`crate::site::Site`] takes.
//!
//! An update is described, not executed: [`Delta::dense`] says what it adds to a weight, [`Delta::linear`] may do the same
//! with a fused op. Merging, counting, saving and the default implementation follow from the description.

use crate::context::Context;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::linear::linear;
use crate::tensor::Tensor;

/// An update of one linear: `W → W + ΔW`, `b → b + Δb`.
pub trait Delta: Send + Sync {
    /// `ΔW`, `[m, n]`, on the tape, for the base `weight`.
    ///
    /// # Errors
    /// The update depends on the token and has no ΔW.
    fn dense(&self, weight: &Tensor) -> Result<Tensor>;

    /// `Δb`, `[m]`, for the base `bias`, where the update changes it: one that scales the whole output does.
    ///
    /// # Errors
    /// None but those of the device.
    fn shift(&self, bias: &Tensor) -> Result<Option<Tensor>> {
        let _ = bias;
        Ok(None)
    }

    /// Whether [`Delta::linear`] is the base's product and a [`Delta::branch`] beside it: where ΔW costs more whole.
    fn apart(&self) -> bool {
        false
    }

    /// `x·(W + ΔW)ᵀ + b + Δb`. The default makes ΔW whole unless the update acts [`apart`](Delta::apart); fused families override
    /// it.
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn linear(
        &self,
        ctx: &Context,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let shift = bias.map_or(Ok(None), |b| self.shift(b))?;
        let moved = match (bias, shift) {
            (Some(bias), Some(shift)) => Some(bias.add(&shift)?),
            (bias, _) => bias.cloned(),
        };
        if self.apart() {
            return linear(x, weight, moved.as_ref())?.add(&self.branch(ctx, x, weight)?);
        }
        let whole = weight.cast(DType::F32)?.add(&self.dense(weight)?)?;
        linear(x, &whole, moved.as_ref())
    }

    /// `x·ΔWᵀ`, for sites with several updates.
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn branch(&self, ctx: &Context, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let _ = ctx;
        linear(x, &self.dense(weight)?, None)
    }

    /// Whether ΔW exists: false for updates that depend on the token.
    fn mergeable(&self) -> bool {
        true
    }
}

/// A change of an output: embeddings, sub-layers, whole hidden states.
pub trait Wrap: Send + Sync {
    /// The new output, from the place's input `x` and its output `y`.
    fn wrap(&self, ctx: &Context, x: &Tensor, y: Tensor) -> Result<Tensor>;
}
