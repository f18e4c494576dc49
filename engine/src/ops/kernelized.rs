//! SNELL's update (Shen et al. 2024): a kernel of two low-rank factors, of which the largest entries compete to act.
//!
//! ```text
//! K[o, i] = κ(a_i, b_o)      t = quantile(|K|, p)      ΔW = S(K)
//! soft:    S = sign(K)·max(|K| − t, 0)                 squared: S = K·|K|, |K| taken as a constant, where |K| > t
//! ```
//!
//! a `[H, n, d]`, b `[H, m, d]`, r = H·d. The inner products and distances of the kernels run over all r numbers, but for the
//! distance kernel of the reference code, `κ = c·Σ_h (−1)^h ‖a_hi − b_ho‖`, whose heads have signs. At distance 0 its gradient
//! is 0. t has no gradient; it is the exact quantile, linearly interpolated, found by making K once more and keeping a few of its
//! elements. Making K costs `2·m·n·r` FLOPs. On CUDA devices t stays there.

use crate::cpu::simd::LANES;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::no_grad;
use crate::ops::produced::{DeviceProducer, Panel, Producer, produced_linear};
use crate::tensor::Tensor;

mod device;
mod gather;
mod native;
mod threshold;

/// κ of two rows of factors.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// `a·b`: LoRA's product.
    Linear,
    /// `(a·b + shift)^degree`.
    Polynomial {
        /// At least 1.
        degree: u32,
        /// Added to the product.
        shift: f32,
    },
    /// `tanh(γ·a·b + shift)`.
    Sigmoid {
        /// γ.
        gamma: f32,
        /// Added to the product.
        shift: f32,
    },
    /// `exp(−γ·‖a − b‖²)`.
    Rbf {
        /// γ.
        gamma: f32,
    },
    /// `scale·Σ_h (−1)^h ‖a_h − b_h‖`.
    Distance {
        /// c; 0.1 in the reference code.
        scale: f32,
    },
}

/// Which entries of K act.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Competition {
    /// All, as they are: ΔW = K.
    Off,
    /// Those whose magnitude is above this quantile of all magnitudes.
    Quantile(f64),
    /// Those whose magnitude is above a fixed threshold.
    Above(f32),
}

/// What becomes of an entry that acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// `sign(K)·(|K| − t)`: the paper's.
    Soft,
    /// `K·|K|` with |K| as a constant for the gradient: the reference code's.
    Squared,
}

/// A kernelized-sparse update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KernelizedSparse {
    /// H, the first size of both factors.
    pub heads: usize,
    /// κ.
    pub kernel: Kernel,
    /// Which entries act.
    pub competition: Competition,
    /// And how.
    pub values: Values,
}

const NAME: &str = "kernelized_sparse";

impl KernelizedSparse {
    /// K `[m, n]` by other ops.
    fn whole(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let flat = |x: &Tensor| {
            let (rows, r) = (x.shape()[1], x.shape()[0] * x.shape()[2]);
            x.permute(&[1, 0, 2])?.reshape(&[rows, r])
        };
        // ‖a − b‖² of each pair, the differences taken before they are squared.
        let squared = |a: &Tensor, b: &Tensor| {
            let difference = a.unsqueeze(0)?.sub(&b.unsqueeze(1)?)?;
            difference.square()?.sum(2)
        };
        let product = || flat(b)?.matmul_t(&flat(a)?, false, true);
        match self.kernel {
            Kernel::Linear => product(),
            Kernel::Polynomial { degree, shift } => {
                let inner = product()?.affine(1.0, f64::from(shift))?;
                (1..degree).try_fold(inner.clone(), |power, _| power.mul(&inner))
            }
            Kernel::Sigmoid { gamma, shift } => product()?
                .affine(f64::from(gamma), f64::from(shift))?
                .tanh(),
            Kernel::Rbf { gamma } => squared(&flat(a)?, &flat(b)?)?
                .affine(-f64::from(gamma), 0.0)?
                .exp(),
            Kernel::Distance { scale } => {
                let mut sum: Option<Tensor> = None;
                for h in 0..self.heads {
                    let squares = squared(&a.get(h)?, &b.get(h)?)?;
                    // The root of 0 has gradient 0 here: it is taken of 1 and struck out.
                    let zeros = Tensor::zeros(&[], squares.dtype(), squares.device())?;
                    let apart = squares.detach().gt(&zeros)?;
                    let safe = squares.add(&apart.affine(-1.0, 1.0)?)?.sqrt()?;
                    let sign = if h % 2 == 0 { scale } else { -scale };
                    let part = safe.mul(&apart)?.affine(f64::from(sign), 0.0)?;
                    sum = Some(match sum {
                        Some(sum) => sum.add(&part)?,
                        None => part,
                    });
                }
                sum.ok_or_else(|| Error::shape(NAME, "no heads; wanted at least 1"))
            }
        }
    }
}

impl Producer for KernelizedSparse {
    type Prepared = native::Prepared;

    fn name(&self) -> &'static str {
        "kernelized_sparse"
    }

    fn check(&self, m: usize, n: usize, params: &[&Tensor]) -> Result<()> {
        let [a, b] = params else {
            return Err(Error::shape(
                NAME,
                format!("{} parameters, wanted a and b", params.len()),
            ));
        };
        if self.heads == 0 || matches!(self.kernel, Kernel::Polynomial { degree: 0, .. }) {
            return Err(Error::shape(
                NAME,
                "no heads, or a degree of 0; wanted at least 1",
            ));
        }
        if let Competition::Quantile(p) = self.competition
            && !(0.0..=1.0).contains(&p)
        {
            return Err(Error::shape(
                NAME,
                format!("quantile {p}, wanted one in [0, 1]"),
            ));
        }
        let d = a.shape().last().copied().unwrap_or(0);
        a.expect_shape(NAME, "a", &[self.heads, n, d])?;
        b.expect_shape(NAME, "b", &[self.heads, m, d])
    }

    fn dense(&self, weight: &Tensor, params: &[&Tensor]) -> Result<Tensor> {
        let (m, n) = (weight.shape()[0], weight.shape()[1]);
        self.check(m, n, params)?;
        let k = self.whole(params[0], params[1])?;
        let size = k.detach().abs()?;
        let t = match self.competition {
            Competition::Off => return Ok(k),
            Competition::Above(t) => Tensor::full(&[], f64::from(t), DType::F32, weight.device())?,
            Competition::Quantile(_) if k.is_empty() => return Ok(k),
            Competition::Quantile(p) => no_grad(|| size.reshape(&[m * n])?.quantile(p))?.detach(),
        };
        // A NaN acts, so that it is seen.
        let acting = size.le(&t)?.affine(-1.0, 1.0)?;
        let values = match self.values {
            Values::Soft => k.sub(&k.detach().sign()?.mul(&t)?)?,
            Values::Squared => k.mul(&size)?,
        };
        values.mul(&acting)
    }

    /// Whole vectors of columns.
    fn granularity(&self) -> usize {
        LANES
    }

    fn prepare(&self, m: usize, n: usize, params: &[&[f32]]) -> Result<native::Prepared> {
        Ok(native::Prepared::new(*self, m, n, params))
    }

    fn produce(&self, prepared: &native::Prepared, panel: &Panel, out: &mut [f32]) {
        prepared.produce(panel, out);
    }

    fn contract(
        &self,
        prepared: &native::Prepared,
        panel: &Panel,
        g: &[f32],
        grads: &mut [&mut [f32]],
    ) {
        let [da, db] = grads else { return };
        prepared.contract(panel, g, da, db);
    }

    fn on_device(&self) -> Option<&dyn DeviceProducer> {
        Some(self)
    }
}

/// `x·(W + S(K))ᵀ + b` with K a kernel of `a` `[H, n, d]` and `b` `[H, m, d]`; W is frozen.
///
/// # Errors
/// Shapes that do not fit, a quantile outside [0, 1], or a W that is trained.
pub fn kernelized_sparse_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    (a, b): (&Tensor, &Tensor),
    update: KernelizedSparse,
) -> Result<Tensor> {
    produced_linear(update, x, weight, bias, &[a, b])
}
