//! Optimiser steps of all parameters in one launch.

pub use deltaw_kernels::update::Rule as Formula;
use deltaw_kernels::update::{self as kernel, Update};

use std::ops::Range;

use super::Cuda;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

const OP: &str = "optimizer";

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
        run: &Range<usize>,
        value: &mut Tensor,
        slots: &mut [Tensor],
        grad: &Tensor,
        mask: Option<&Tensor>,
        step: [f32; 3],
    ) -> Result<Part> {
        let w = self.address_mut(OP, value)?;
        let part = self.observed(run, value, slots, grad)?;
        let mask = mask.map(|mask| self.run_of(run, mask)).transpose()?;
        Ok(Part(kernel::Part {
            w: w + 4 * run.start as u64,
            mask,
            step,
            ..part.0
        }))
    }

    /// The same where the weights are only read.
    ///
    /// # Errors
    /// As [`Cuda::part`].
    pub(crate) fn observed(
        &self,
        run: &Range<usize>,
        value: &Tensor,
        slots: &mut [Tensor],
        grad: &Tensor,
    ) -> Result<Part> {
        let mut kept = [0; 2];
        for (kept, slot) in kept.iter_mut().zip(slots) {
            self.address_mut(OP, slot)?;
            *kept = self.run_of(run, slot)?;
        }
        Ok(Part(kernel::Part {
            n: run.len(),
            w: self.run_of(run, value)?,
            g: self.run_of(run, grad)?,
            mask: None,
            slots: kept,
            step: [0.0; 3],
        }))
    }

    /// Address of a run of elements.
    fn run_of(&self, run: &Range<usize>, x: &Tensor) -> Result<u64> {
        x.expect_dtype(OP, DType::F32)?;
        if !x.is_contiguous() {
            return Err(Error::shape(OP, "a tensor with gaps"));
        }
        Ok(self.address(OP, x)? + 4 * run.start as u64)
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
            op: OP,
            detail: format!("{} runs: {e}", parts.len()),
        })
    }
}
