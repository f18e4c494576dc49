//! Optimiser steps of all parameters in one launch.

pub use deltaw_kernels::update::Rule as Formula;
use deltaw_kernels::update::{self as kernel, Update};

use super::Cuda;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// A run of a parameter's elements with its coefficients, by addresses: what [`Cuda::part`] makes, until [`Cuda::update`].
#[derive(Clone, Copy, Debug)]
pub struct Part(kernel::Part);

impl Cuda {
    /// The elements `run` of a contiguous f32 parameter, its gradient, its mask and what is kept of it. All must stay as they are
    /// until [`Cuda::update`].
    ///
    /// # Errors
    /// Other types than f32, tensors with gaps or on another device, a parameter or slot that is shared.
    pub(crate) fn part(
        &self,
        run: &std::ops::Range<usize>,
        value: &mut Tensor,
        slots: &mut [Tensor],
        grad: &Tensor,
        mask: Option<&Tensor>,
        step: [f32; 3],
    ) -> Result<Part> {
        const OP: &str = "optimizer";
        let at = |address: u64| address + 4 * run.start as u64;
        let read = |x: &Tensor| {
            x.expect_dtype(OP, DType::F32)?;
            if !x.is_contiguous() {
                return Err(Error::shape(OP, "a gradient or mask with gaps"));
            }
            Ok(at(self.address(OP, x)?))
        };
        let mut kept = [0; 2];
        for (kept, slot) in kept.iter_mut().zip(slots) {
            read(slot)?;
            *kept = at(self.address_mut(OP, slot)?);
        }
        read(value)?;
        Ok(Part(kernel::Part {
            n: run.len(),
            w: at(self.address_mut(OP, value)?),
            g: read(grad)?,
            mask: mask.map(read).transpose()?,
            slots: kept,
            step,
        }))
    }

    /// Updates them all.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    ///
    /// # Safety
    /// What the parts were made of must still be there, and no part overlap another.
    pub(crate) unsafe fn update(&self, formula: Formula, parts: &[Part]) -> Result<()> {
        let update = Update {
            rule: formula,
            parts: parts.iter().map(|p| p.0).collect(),
        };
        // SAFETY: parts are runs of unshared tensors of this device; the rest is the caller's promise.
        let launched = unsafe { update.launch(&self.kernels, &self.stream) };
        launched.map_err(|e| Error::Cuda {
            op: "optimizer",
            detail: format!("{} runs: {e}", parts.len()),
        })
    }
}
