//! Denoising diffusion (Ho et al. 2020): the forward process, the training loss with a fixed or a learned variance (Nichol &
//! Dhariwal 2021), and samplers.
//!
//! ```text
//! q(xₜ | x₀) = N(√ᾱₜ·x₀, (1 − ᾱₜ)·I),   ᾱₜ = Π_{s ≤ t} (1 − βₛ)
//! ```

mod sample;

use deltaw_engine::prelude::*;

pub use sample::{Sampler, Variance, sample};

/// β, ᾱ and what follows from them, for steps 0 to T − 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// The step of the original process that each step is: what a model is asked with.
    pub steps: Vec<u32>,
    /// βₜ.
    pub beta: Vec<f64>,
    /// ᾱₜ.
    pub alpha_bar: Vec<f64>,
}

/// `q(xₜ₋₁ | xₜ, x₀) = N(of_start·x₀ + of_sample·xₜ, variance·I)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Posterior {
    /// Factor of x₀.
    pub of_start: f64,
    /// Factor of xₜ.
    pub of_sample: f64,
    /// β̃ₜ; 0 at t = 0.
    pub variance: f64,
}

impl Process {
    /// β from 10⁻⁴ to 0.02 in equal steps for T = 1000, and for other T scaled by 1000/T so that the noise at the end stays
    /// the same (Ho et al. 2020, section 4).
    pub fn linear(steps: usize) -> Self {
        let scale = 1000.0 / steps as f64;
        let last = (steps.max(2) - 1) as f64;
        let beta = |t: usize| scale * (1e-4 + (0.02 - 1e-4) * t as f64 / last);
        Self::of((0..steps as u32).collect(), (0..steps).map(beta).collect())
    }

    fn of(steps: Vec<u32>, beta: Vec<f64>) -> Self {
        let alpha_bar = beta.iter().scan(1.0, |product, beta| {
            *product *= 1.0 - beta;
            Some(*product)
        });
        Process {
            alpha_bar: alpha_bar.collect(),
            steps,
            beta,
        }
    }

    /// Steps T.
    pub fn len(&self) -> usize {
        self.beta.len()
    }

    /// Whether there is no step.
    pub fn is_empty(&self) -> bool {
        self.beta.is_empty()
    }

    /// The process seen at `count` of its steps, evenly spaced from the first to the last (Nichol & Dhariwal 2021):
    /// `βᵢ = 1 − ᾱ(tᵢ)/ᾱ(tᵢ₋₁)`.
    pub fn spaced(&self, count: usize) -> Self {
        let (count, last) = (count.clamp(1, self.len().max(1)), self.len().max(1) - 1);
        let chosen = (0..count).map(|i| match count {
            1 => last,
            _ => (i as f64 * last as f64 / (count - 1) as f64).round() as usize,
        });
        let mut before = 1.0;
        let (steps, beta) = chosen
            .map(|t| {
                let beta = 1.0 - self.alpha_bar[t] / before;
                before = self.alpha_bar[t];
                (self.steps[t], beta)
            })
            .unzip();
        Self::of(steps, beta)
    }

    /// ᾱₜ₋₁, 1 before the first step.
    fn before(&self, t: usize) -> f64 {
        t.checked_sub(1).map_or(1.0, |t| self.alpha_bar[t])
    }

    /// `q(xₜ₋₁ | xₜ, x₀)`.
    pub fn posterior(&self, t: usize) -> Posterior {
        let (now, before, beta) = (self.alpha_bar[t], self.before(t), self.beta[t]);
        Posterior {
            of_start: before.sqrt() * beta / (1.0 - now),
            of_sample: (1.0 - beta).sqrt() * (1.0 - before) / (1.0 - now),
            variance: beta * (1.0 - before) / (1.0 - now),
        }
    }

    /// ln β̃ₜ, where at t = 0 that of t = 1 stands for the −∞.
    fn log_posterior_variance(&self, t: usize) -> f64 {
        let t = t.max(1).min(self.len() - 1);
        self.posterior(t).variance.max(1e-20).ln()
    }

    /// A factor for each sample of a batch, `[B, 1, …]` beside x.
    fn each(&self, t: &[u32], x: &Tensor, f: impl Fn(usize) -> f64) -> Result<Tensor> {
        let values: Vec<f32> = t.iter().map(|t| f(*t as usize) as f32).collect();
        let mut shape = vec![1; x.rank()];
        shape[0] = t.len();
        Tensor::from_slice(&values, &shape, x.device())?.converted(x.dtype())
    }

    fn check(&self, x: &Tensor, t: &[u32]) -> Result<()> {
        if x.shape().first() != Some(&t.len()) || t.iter().any(|t| *t as usize >= self.len()) {
            return Err(Error::Invalid(format!(
                "diffusion: samples {:?} at {} steps of {}: wanted one step for each sample, all below that",
                x.shape(),
                t.len(),
                self.len()
            )));
        }
        Ok(())
    }

    /// `xₜ = √ᾱₜ·x₀ + √(1 − ᾱₜ)·ε`, each sample `[B, …]` at its own step.
    ///
    /// # Errors
    /// As many steps as samples, all below T, are wanted.
    pub fn noised(&self, x0: &Tensor, noise: &Tensor, t: &[u32]) -> Result<Tensor> {
        self.check(x0, t)?;
        let each = |f: &dyn Fn(f64) -> f64| self.each(t, x0, |t| f(self.alpha_bar[t]));
        let signal = x0.mul(&each(&|a| a.sqrt())?)?;
        signal.add(&noise.mul(&each(&|a| (1.0 - a).sqrt())?)?)
    }

    /// `mean ‖ε − ε̂‖²` per sample, `[B]`. A prediction with twice the channels holds the interpolation v of a learned
    /// variance behind ε̂; the variational bound then trains v alone, ε̂ held fixed, and is added as it is:
    ///
    /// ```text
    /// ln σ² = ((v + 1)/2)·ln βₜ + ((1 − v)/2)·ln β̃ₜ
    /// bound = KL(q(xₜ₋₁ | xₜ, x₀) ‖ N(μ̂, σ²)) for t > 0, −ln p(x₀ | x₁) of 256 grey levels for t = 0, in bits per element
    /// ```
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn losses(
        &self,
        predicted: &Tensor,
        x0: &Tensor,
        noise: &Tensor,
        t: &[u32],
    ) -> Result<Tensor> {
        self.check(x0, t)?;
        let channels = x0.shape().get(1).copied().unwrap_or(0);
        let out = predicted.shape().get(1).copied().unwrap_or(0);
        let eps = predicted.narrow(1, 0, channels.min(out))?;
        eps.expect_shape("diffusion", "the prediction", x0.shape())?;
        let axes: Vec<usize> = (1..x0.rank()).collect();
        let per_sample = |x: &Tensor| x.mean_keep(&axes)?.reshape(&[t.len()]);
        let simple = per_sample(&eps.sub(noise)?.square()?)?;
        if out == channels {
            return Ok(simple);
        }
        let v = predicted.narrow(1, channels, out - channels)?;
        v.expect_shape("diffusion", "the learned variance", x0.shape())?;
        simple.add(&per_sample(&self.bound(
            &eps.detach(),
            &v,
            x0,
            noise,
            t,
        )?)?)
    }

    /// The mean of [`Process::losses`].
    ///
    /// # Errors
    /// As there.
    pub fn loss(
        &self,
        predicted: &Tensor,
        x0: &Tensor,
        noise: &Tensor,
        t: &[u32],
    ) -> Result<Tensor> {
        self.losses(predicted, x0, noise, t)?.mean_all()
    }

    /// Elementwise bound in bits.
    fn bound(
        &self,
        eps: &Tensor,
        v: &Tensor,
        x0: &Tensor,
        noise: &Tensor,
        t: &[u32],
    ) -> Result<Tensor> {
        let each = |f: &dyn Fn(usize) -> f64| self.each(t, x0, f);
        let xt = self.noised(x0, noise, t)?;
        // μ̂ − μ = of_start·(x̂₀ − x₀), since both means share xₜ; and x̂₀ − x₀ = √((1 − ᾱ)/ᾱ)·(ε − ε̂).
        let ratio = |t: usize| ((1.0 - self.alpha_bar[t]) / self.alpha_bar[t]).sqrt();
        let start = x0.add(&noise.sub(eps)?.mul(&each(&ratio)?)?)?;
        let mean = (start.mul(&each(&|t| self.posterior(t).of_start)?)?)
            .add(&xt.mul(&each(&|t| self.posterior(t).of_sample)?)?)?;
        let apart = start
            .sub(x0)?
            .mul(&each(&|t| self.posterior(t).of_start)?)?;
        let (small, large) = (
            each(&|t| self.log_posterior_variance(t))?,
            each(&|t| self.beta[t].ln())?,
        );
        let share = v.affine(0.5, 0.5)?;
        let log_variance = share.mul(&large.sub(&small)?)?.add(&small)?;
        // 2·KL = −1 + ln σ² − ln β̃ + (β̃ + (μ̂ − μ)²)/σ².
        let precision = log_variance.neg()?.exp()?;
        let variance = each(&|t| self.log_posterior_variance(t).exp())?;
        let kl = log_variance
            .sub(&small)?
            .affine(1.0, -1.0)?
            .add(&apart.square()?.add(&variance)?.mul(&precision)?)?
            .affine(0.5, 0.0)?;
        let nll = grey_levels(x0, &mean, &log_variance)?;
        let first = each(&|t| f64::from(t == 0))?;
        let later = first.affine(-1.0, 1.0)?;
        (kl.mul(&later)?.add(&nll.mul(&first)?)?).affine(1.0 / std::f64::consts::LN_2, 0.0)
    }
}

/// `−ln P(x's grey level)` for N(mean, σ²) cut into 256 levels of [−1, 1], the outermost open; Φ by `(1 + tanh …)/2`
/// (Nichol & Dhariwal's form).
fn grey_levels(x: &Tensor, mean: &Tensor, log_variance: &Tensor) -> Result<Tensor> {
    let centred = x.sub(mean)?;
    let precision = log_variance.affine(-0.5, 0.0)?.exp()?;
    let below = |edge: f64| -> Result<Tensor> {
        let z = centred.affine(1.0, edge)?.mul(&precision)?;
        let cubic = z.mul(&z.square()?)?.affine(0.044715, 0.0)?;
        let c = (2.0 / std::f64::consts::PI).sqrt();
        z.add(&cubic)?.affine(c, 0.0)?.tanh()?.affine(0.5, 0.5)
    };
    let (upper, lower) = (below(1.0 / 255.0)?, below(-1.0 / 255.0)?);
    let log = |p: &Tensor| p.clamp(1e-12, f64::INFINITY)?.log();
    let edge = |value: f64| Tensor::full(&[1], value, x.dtype(), x.device());
    let (darkest, lightest) = (edge(-0.999)?.gt(x)?, x.gt(&edge(0.999)?)?);
    let inside = log(&upper.sub(&lower)?)?;
    let outside = lightest.select(&log(&lower.affine(-1.0, 1.0)?)?, &inside)?;
    darkest.select(&log(&upper)?, &outside)?.neg()
}

#[cfg(test)]
mod tests;
