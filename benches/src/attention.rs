//! Attention on a GPU's tensor cores beside the CPU's in f32.

use deltaw_engine::prelude::*;

use crate::compare::{U, excess, swept, tensor, values};

/// Queries, keys and values that the tensor cores multiply.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// Of the products' type.
    pub name: &'static str,
    /// What holds them; f32's products are tf32.
    pub dtype: DType,
    /// What a factor loses relatively in a product: q, k and v, and the incoming gradient.
    factor: f64,
    incoming: f64,
    /// What weights and their gradients lose, relatively and at least.
    weight: f64,
    least: f64,
}

const TF32: f64 = 1.0 / 1024.0;
const BF16: f64 = 1.0 / 256.0;
const F16: f64 = 1.0 / 2048.0;

impl Operands {
    /// All of them.
    pub const ALL: [Operands; 3] = [
        Operands {
            name: "tf32",
            dtype: DType::F32,
            factor: TF32,
            incoming: TF32,
            weight: TF32,
            least: 0.0,
        },
        Operands {
            name: "bf16",
            dtype: DType::Bf16,
            factor: 0.0,
            incoming: BF16,
            weight: BF16,
            least: 0.0,
        },
        Operands {
            name: "f16",
            dtype: DType::F16,
            factor: 0.0,
            incoming: F16,
            weight: F16,
            least: U / 2.0,
        },
    ];
}

/// What is compared.
#[derive(Clone, Debug)]
pub struct Case {
    /// B.
    pub batch: usize,
    /// H.
    pub heads: usize,
    /// Tq.
    pub tq: usize,
    /// Tk.
    pub tk: usize,
    /// D.
    pub d: usize,
    /// Whether it is causal.
    pub causal: bool,
    /// Whether every third key is masked.
    pub masked: bool,
    /// Of the numbers.
    pub seed: u64,
}

impl Case {
    /// How far o, dq, dk and dv may be apart on a device and on the CPU, for numbers below 1 and a factor of D^-½.
    ///
    /// A score, at most √D, loses what its factors do, in which e^s is off by as much relatively, once in a weight and once in the sum that
    /// it is divided by; what f32 loses on both sides, in sums of D, Tk and Tq terms and in exponents, comes to that. o is a mean of
    /// numbers below 1. ds = p (dp − δ) with abs(dp) and abs(δ) up to D and Σ p = 1; dq and dk are sums of it, dv of p, over up to
    /// Tk or Tq terms.
    fn bounds(&self, operands: &Operands) -> [f64; 4] {
        let Operands {
            factor,
            incoming,
            weight,
            least,
            ..
        } = *operands;
        let [tq, tk, d] = [self.tq, self.tk, self.d].map(|n| n as f64);
        let scale = 1.0 / d.sqrt();
        let score = scale * d;
        let exact = 2.0 * U * (2.0 * (d + 4.0) + tk + tq + 32.0) * (score + 2.0 + tk.max(1.0).ln());
        let both = |a: f64, b: f64| (1.0 + a) * (1.0 + b) - 1.0;
        let p = (2.0 * score * both(factor, factor)).exp_m1() + exact;
        let rounded = both(p, weight);
        let o = both(rounded, factor) + p + least * tk;
        let (dp, delta) = (d * both(factor, incoming), d * both(o, incoming));
        let ds = 2.0 * d * rounded + (1.0 + rounded) * (dp + delta) + least * tk;
        let dq = scale * (ds * (1.0 + factor) + 2.0 * d * (factor + exact));
        let dv = both(rounded, incoming) + least + exact;
        [o, dq, tq * dq, tq * dv]
    }

    /// The largest error of o or a gradient in units of what is allowed.
    ///
    /// # Errors
    /// The device's own.
    pub fn excess(&self, operands: &Operands, device: &Device) -> Result<f64> {
        let dtype = operands.dtype;
        let inputs = [(self.tq, 1), (self.tk, 2), (self.tk, 3)].map(|(t, seed)| {
            let x = tensor(&[self.batch, self.heads, t, self.d], self.seed ^ seed)?;
            x.converted(dtype)?.converted(DType::F32)
        });
        let inputs = inputs.into_iter().collect::<Result<Vec<_>>>()?;
        let real: Vec<f32> = (0..self.batch * self.tk)
            .map(|i| f32::from(i % 3 != 1))
            .collect();
        let run = |x: &[Tensor]| {
            let mask = Tensor::from_slice(&real, &[self.batch, self.tk], x[0].device())?;
            let options = AttentionOptions {
                causal: self.causal,
                mask: self.masked.then_some(mask),
                ..AttentionOptions::default()
            };
            let [q, k, v] = [0, 1, 2].map(|i| x[i].cast(dtype));
            attention(&q?, &k?, &v?, &options)
        };
        let want = swept(&inputs, run)?;
        let moved = inputs
            .iter()
            .map(|x| x.to_device(device))
            .collect::<Result<Vec<_>>>()?;
        let got = on_tensor_cores(device, || swept(&moved, run))?;
        let mut worst = 0.0f64;
        for ((got, want), bound) in got.iter().zip(&want).zip(self.bounds(operands)) {
            let want = values(want)?.into_iter().map(f64::from);
            worst = worst.max(excess(&values(got)?, want, bound));
        }
        Ok(worst)
    }
}

/// With f32's products on a GPU's tensor cores.
///
/// # Errors
/// `f`'s own.
pub fn on_tensor_cores<T>(device: &Device, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let set = |on| device.as_cuda().map_or((), |cuda| cuda.set_tf32(on));
    set(true);
    let result = f();
    set(false);
    result
}
