//! Dropout (Srivastava et al. 2014): in training each element is 0 with probability p, else `x/(1 − p)`.

use crate::context::Context;
use crate::device::Distribution;
use crate::error::{Error, Result};
use crate::random::Purpose;
use crate::tensor::Tensor;

/// Dropout at the place `path`; the mask is a function of the run's seed, the step and the path.
///
/// # Errors
/// `p` outside [0, 1).
pub fn dropout(x: &Tensor, p: f32, ctx: &Context, path: &str) -> Result<Tensor> {
    drop_with(x, x.shape(), p, ctx, path)
}

/// Drops whole samples of `[B, …]` (DropPath, Huang et al. 2016).
///
/// # Errors
/// `p` outside [0, 1).
pub fn drop_path(x: &Tensor, p: f32, ctx: &Context, path: &str) -> Result<Tensor> {
    let shape: Vec<usize> = x
        .shape()
        .iter()
        .enumerate()
        .map(|(axis, n)| if axis == 0 { *n } else { 1 })
        .collect();
    drop_with(x, &shape, p, ctx, path)
}

fn drop_with(x: &Tensor, shape: &[usize], p: f32, ctx: &Context, path: &str) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        return Err(Error::Invalid(format!(
            "dropout at {path}: p = {p} is outside [0, 1)"
        )));
    }
    if p == 0.0 || !ctx.train {
        return Ok(x.clone());
    }
    let mask = Tensor::random(
        shape,
        Distribution::Bernoulli(1.0 - p),
        ctx.key(Purpose::Dropout, path),
        x.device(),
    )?;
    x.mul(&mask.affine(1.0 / (1.0 - p as f64), 0.0)?)
}
