//! Dropout (Srivastava et al. 2014): in training each element is 0 with probability p, else `x/(1 − p)`.
//!
//! ```text
//! y = m ⊙ x / (1 − p)      dx = m ⊙ dy / (1 − p)      m = [the stream's number < 1 − p]
//! ```
//!
//! Saved: nothing. Backward draws the same numbers again.

use deltaw_kernels::dropout as kernel;

use crate::context::Context;
use crate::cpu::{philox, simd, threads};
use crate::device::cuda::{Cuda, failed};
use crate::device::{Device, Distribution};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Forward, Op, Saved, apply};
use crate::random::{Purpose, RandomKey};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Elements per piece of parallel work; the nearest cache holds them between mask and use.
const GRAIN: usize = 1 << 12;

struct Dropout {
    p: f32,
    key: RandomKey,
}

impl Dropout {
    /// `x ⊙ m / (1 − p)`.
    fn masked(&self, x: &Tensor) -> Result<Tensor> {
        let (x, keep) = (x.packed()?, 1.0 - self.p);
        let mut y = Tensor::empty(x.shape(), DType::F32, x.device())?;
        let (width, stream) = (x.last_dim(), self.key.stream());
        if x.rows() as u64 > 1 << 32 {
            return Err(Error::shape(
                "dropout",
                format!("{:?} has more than 2³² rows", x.shape()),
            ));
        }
        if let Some(cuda) = x.device().as_cuda() {
            self.launch(cuda, &x, &mut y)?;
            return Ok(y);
        }
        let (source, scale) = (x.as_slice::<f32>()?, 1.0 / keep);
        threads::par_rows(
            y.as_mut_slice::<f32>()?,
            width,
            threads::rows_per_piece(width, GRAIN),
            |first, part| {
                let window = philox::Window {
                    first_row: first as u32,
                    columns: 0..width as u64,
                };
                let x = &source[first * width..][..part.len()];
                simd::dispatch(
                    #[inline(always)]
                    || {
                        philox::fill_here(Distribution::Bernoulli(keep), stream, &window, part);
                        for (y, x) in part.iter_mut().zip(x) {
                            *y = if *y == 0.0 { 0.0 } else { x * scale };
                        }
                    },
                );
            },
        );
        Ok(y)
    }

    fn launch(&self, cuda: &Cuda, x: &Tensor, y: &mut Tensor) -> Result<()> {
        let call = kernel::Dropout {
            rows: x.rows(),
            width: x.last_dim(),
            stream: self.key.stream(),
            keep: 1.0 - self.p,
            x: cuda.address("dropout", x)?,
            y: cuda.address_mut("dropout", y)?,
        };
        let (kernels, stream) = cuda.launcher();
        // SAFETY: contiguous tensors of one size; y is unshared.
        unsafe { call.launch(kernels, stream) }.map_err(|e| failed("dropout", &[x], e))
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn supports(&self, device: &Device) -> bool {
        device.has_kernels()
    }

    fn forward(&self, _: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0].expect_dtype("dropout", DType::F32)?;
        self.masked(inputs[0])
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        drop_with(x, x.shape(), self.p, self.key)
    }

    fn backward(&self, _: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        grads.add(0, self.masked(&dy)?)
    }
}

/// Dropout at the place `path`; the mask is a function of the run's seed, the step and the path.
///
/// # Errors
/// `p` outside [0, 1).
pub fn dropout(x: &Tensor, p: f32, ctx: &Context, path: &str) -> Result<Tensor> {
    if !drops(p, ctx, path)? {
        return Ok(x.clone());
    }
    apply(
        Dropout {
            p,
            key: ctx.key(Purpose::Dropout, path),
        },
        &[x],
    )
}

/// Drops whole samples of `[B, …]` (DropPath, Huang et al. 2016).
///
/// # Errors
/// `p` outside [0, 1).
pub fn drop_path(x: &Tensor, p: f32, ctx: &Context, path: &str) -> Result<Tensor> {
    if !drops(p, ctx, path)? {
        return Ok(x.clone());
    }
    let shape: Vec<usize> = x
        .shape()
        .iter()
        .enumerate()
        .map(|(axis, n)| if axis == 0 { *n } else { 1 })
        .collect();
    drop_with(x, &shape, p, ctx.key(Purpose::Dropout, path))
}

/// Whether anything is dropped at all.
fn drops(p: f32, ctx: &Context, path: &str) -> Result<bool> {
    if !(0.0..1.0).contains(&p) {
        return Err(Error::Invalid(format!(
            "dropout at {path}: p = {p} is outside [0, 1)"
        )));
    }
    Ok(p > 0.0 && ctx.train)
}

/// `x` times a mask of `shape`.
fn drop_with(x: &Tensor, shape: &[usize], p: f32, key: RandomKey) -> Result<Tensor> {
    let mask = Tensor::random(shape, Distribution::Bernoulli(1.0 - p), key, x.device())?;
    x.mul(&mask.affine(1.0 / (1.0 - p as f64), 0.0)?)
}
