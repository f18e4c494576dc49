//! From noise to samples.

use deltaw_engine::prelude::*;

use super::Process;

/// The variance of a DDPM step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variance {
    /// βₜ.
    Large,
    /// β̃ₜ, the posterior's.
    Small,
    /// As the model says, between the two.
    Learned,
}

/// How a step goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampler {
    /// Ancestral sampling (Ho et al. 2020): xₜ₋₁ ~ N(μ̂, σ²).
    Ddpm(Variance),
    /// Song et al. (2021), with η from 0 (deterministic) to 1 (as noisy as DDPM).
    Ddim {
        /// η.
        eta: f64,
    },
}

/// Draws samples of `shape` `[B, C, …]` by running the process backwards. `predict(xₜ, t)` is a model's answer: ε̂ and, with
/// a learned variance, v behind it along axis 1. x̂₀ is held to [−1, 1], the range of data, where `clip`. The noise of sample
/// i depends on the seed and on `first + i` alone, so that samples drawn in parts are those drawn at once.
///
/// # Errors
/// What the model returns; a prediction of another shape.
pub fn sample(
    process: &Process,
    sampler: Sampler,
    shape: &[usize],
    (seed, first): (u64, usize),
    clip: bool,
    device: &Device,
    mut predict: impl FnMut(&Tensor, u32) -> Result<Tensor>,
) -> Result<Tensor> {
    let noise = |step: usize| -> Result<Tensor> {
        let (rows, width) = (
            shape.iter().take(1).product::<usize>(),
            shape.iter().skip(1).product::<usize>(),
        );
        let key = RandomKey {
            step: step as u64,
            ..RandomKey::new(seed, Purpose::Sample, "diffusion")
        };
        let window = first..first + rows;
        Tensor::random_window(window, 0..width, Distribution::Normal, key, device)?.reshape(shape)
    };
    no_grad(|| {
        let mut x = noise(process.len())?;
        for t in (0..process.len()).rev() {
            let answer = predict(&x, process.steps[t])?;
            let move_to = Step { process, t, clip };
            let (mean, spread) = move_to.next(sampler, &x, &answer)?;
            x = match spread {
                Some(spread) if t > 0 => mean.add(&noise(t)?.mul(&spread)?)?,
                _ => mean,
            };
        }
        Ok(x)
    })
}

pub(super) struct Step<'a> {
    pub process: &'a Process,
    pub t: usize,
    pub clip: bool,
}

impl Step<'_> {
    /// Mean of xₜ₋₁ and its standard deviation, if there is any.
    pub fn next(
        &self,
        sampler: Sampler,
        x: &Tensor,
        answer: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (process, t) = (self.process, self.t);
        let channels = x.shape().get(1).copied().unwrap_or(0);
        let eps = answer.narrow(1, 0, channels)?;
        let (now, before) = (process.alpha_bar[t], process.before(t));
        // x̂₀ = (xₜ − √(1 − ᾱ)·ε̂)/√ᾱ.
        let mut start = x
            .sub(&eps.affine((1.0 - now).sqrt(), 0.0)?)?
            .affine(now.powf(-0.5), 0.0)?;
        if self.clip {
            start = start.clamp(-1.0, 1.0)?;
        }
        let constant = |std: f64| Tensor::full(&[1], std, x.dtype(), x.device()).map(Some);
        match sampler {
            Sampler::Ddpm(variance) => {
                let posterior = process.posterior(t);
                let mean = (start.affine(posterior.of_start, 0.0)?)
                    .add(&x.affine(posterior.of_sample, 0.0)?)?;
                let spread = match variance {
                    Variance::Large => constant(process.beta[t].sqrt())?,
                    Variance::Small => constant(posterior.variance.sqrt())?,
                    Variance::Learned => {
                        let (small, large) =
                            (process.log_posterior_variance(t), process.beta[t].ln());
                        let v = answer.narrow(1, channels, channels)?;
                        let half = v.affine((large - small) / 4.0, (large + small) / 4.0)?;
                        Some(half.exp()?)
                    }
                };
                Ok((mean, spread))
            }
            Sampler::Ddim { eta } => {
                let std = eta * ((1.0 - before) / (1.0 - now) * (1.0 - now / before)).sqrt();
                // The noise that x̂₀ leaves, which is ε̂ unless it was clipped.
                let eps = (x.sub(&start.affine(now.sqrt(), 0.0)?)?)
                    .affine((1.0 - now).powf(-0.5), 0.0)?;
                let direction = (1.0 - before - std * std).max(0.0).sqrt();
                let mean = start
                    .affine(before.sqrt(), 0.0)?
                    .add(&eps.affine(direction, 0.0)?)?;
                Ok((mean, if std > 0.0 { constant(std)? } else { None }))
            }
        }
    }
}
