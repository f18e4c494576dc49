//! Elementwise functions of one operand, each with its derivative.
//!
//! Kinks: |x|′ and relu′ are 0 at 0; clamp′ is 1 on the closed interval; sign′ is 0 everywhere.

use crate::cpu::math;
use crate::device::Map;
use crate::error::Result;
use crate::op::{Forward, Op, Saved, apply};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Arithmetic shared by f32 (the CPU's scalar path) and f64 (the oracle).
pub trait Real:
    Copy
    + PartialOrd
    + std::ops::Neg<Output = Self>
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
{
    /// A constant.
    fn c(x: f64) -> Self;
    /// eˣ.
    fn exp(self) -> Self;
    /// ln x.
    fn ln(self) -> Self;
    /// ln(1 + x) for x ≥ 0.
    fn ln_1p(self) -> Self;
    /// sin x.
    fn sin(self) -> Self;
    /// cos x.
    fn cos(self) -> Self;
    /// tanh x.
    fn tanh(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// √x.
    fn sqrt(self) -> Self;
    /// |x|.
    fn abs(self) -> Self;
    /// xᵖ.
    fn powf(self, p: Self) -> Self;
    /// Whether NaN.
    fn is_nan(self) -> bool;
}

impl Real for f64 {
    fn c(x: f64) -> Self {
        x
    }
    fn exp(self) -> Self {
        self.exp()
    }
    fn ln(self) -> Self {
        self.ln()
    }
    fn ln_1p(self) -> Self {
        self.ln_1p()
    }
    fn sin(self) -> Self {
        self.sin()
    }
    fn cos(self) -> Self {
        self.cos()
    }
    fn tanh(self) -> Self {
        self.tanh()
    }
    fn erf(self) -> Self {
        libm::erf(self)
    }
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    fn abs(self) -> Self {
        self.abs()
    }
    fn powf(self, p: Self) -> Self {
        self.powf(p)
    }
    fn is_nan(self) -> bool {
        self.is_nan()
    }
}

/// Over [`crate::cpu::math`], whose functions vectorise; sine and cosine keep their accuracy for large arguments.
impl Real for f32 {
    #[inline(always)]
    fn c(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn exp(self) -> Self {
        math::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        math::log(self)
    }
    #[inline(always)]
    fn ln_1p(self) -> Self {
        math::log1p(self)
    }
    fn sin(self) -> Self {
        self.sin()
    }
    fn cos(self) -> Self {
        self.cos()
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        math::tanh(self)
    }
    #[inline(always)]
    fn erf(self) -> Self {
        math::erf(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn abs(self) -> Self {
        self.abs()
    }
    fn powf(self, p: Self) -> Self {
        self.powf(p)
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        self.is_nan()
    }
}

/// A function of one operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unary {
    /// `a·x + b`.
    Affine(f64, f64),
    /// `|x|`.
    Abs,
    /// `eˣ`.
    Exp,
    /// `ln x`.
    Log,
    /// `sin x`.
    Sin,
    /// `cos x`.
    Cos,
    /// `tanh x`.
    Tanh,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `ln σ(x) = −ln(1 + e⁻ˣ)`.
    LogSigmoid,
    /// `max(x, 0)`.
    Relu,
    /// `√x`.
    Sqrt,
    /// `1 / x`.
    Recip,
    /// `x²`.
    Square,
    /// `xᵖ` for x ≥ 0.
    Pow(f64),
    /// −1, 0 or 1.
    Sign,
    /// The error function.
    Erf,
    /// `min(max(x, lo), hi)`.
    Clamp(f64, f64),
    /// `x·Φ(x) = x/2·(1 + erf(x/√2))` (Hendrycks & Gimpel 2016).
    Gelu,
    /// `x/2·(1 + tanh(√(2/π)(x + 0.044715x³)))`, GPT-2's form.
    GeluTanh,
    /// `x·σ(x)` (swish).
    Silu,
}

/// What a function's derivative is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saves {
    /// The operand.
    Input,
    /// The result.
    Output,
    /// Neither.
    Nothing,
}

const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const GELU_CUBIC: f64 = 0.044_715;

fn sigmoid<T: Real>(x: T) -> T {
    // The exponential of a negative number never overflows.
    let e = (-x.abs()).exp();
    if x >= T::c(0.0) {
        T::c(1.0) / (T::c(1.0) + e)
    } else {
        e / (T::c(1.0) + e)
    }
}

impl Unary {
    /// One of each, with typical constants: what tests walk.
    pub const ALL: [Unary; 20] = [
        Unary::Affine(-1.5, 0.25),
        Unary::Abs,
        Unary::Exp,
        Unary::Log,
        Unary::Sin,
        Unary::Cos,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::LogSigmoid,
        Unary::Relu,
        Unary::Sqrt,
        Unary::Recip,
        Unary::Square,
        Unary::Pow(1.7),
        Unary::Sign,
        Unary::Erf,
        Unary::Clamp(-0.5, 0.75),
        Unary::Gelu,
        Unary::GeluTanh,
        Unary::Silu,
    ];

    /// The name in errors and traces.
    pub fn name(self) -> &'static str {
        match self {
            Unary::Affine(..) => "affine",
            Unary::Abs => "abs",
            Unary::Exp => "exp",
            Unary::Log => "log",
            Unary::Sin => "sin",
            Unary::Cos => "cos",
            Unary::Tanh => "tanh",
            Unary::Sigmoid => "sigmoid",
            Unary::LogSigmoid => "log_sigmoid",
            Unary::Relu => "relu",
            Unary::Sqrt => "sqrt",
            Unary::Recip => "recip",
            Unary::Square => "square",
            Unary::Pow(_) => "pow",
            Unary::Sign => "sign",
            Unary::Erf => "erf",
            Unary::Clamp(..) => "clamp",
            Unary::Gelu => "gelu",
            Unary::GeluTanh => "gelu_tanh",
            Unary::Silu => "silu",
        }
    }

    /// The value.
    #[inline(always)]
    pub fn eval<T: Real>(self, x: T) -> T {
        let (zero, one, half) = (T::c(0.0), T::c(1.0), T::c(0.5));
        match self {
            Unary::Affine(a, b) => T::c(a) * x + T::c(b),
            Unary::Abs => x.abs(),
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Tanh => x.tanh(),
            Unary::Sigmoid => sigmoid(x),
            Unary::LogSigmoid => (if x < zero { x } else { zero }) - (-x.abs()).exp().ln_1p(),
            Unary::Relu => {
                if x > zero || x.is_nan() {
                    x
                } else {
                    zero
                }
            }
            Unary::Sqrt => x.sqrt(),
            Unary::Recip => one / x,
            Unary::Square => x * x,
            Unary::Pow(p) => x.powf(T::c(p)),
            Unary::Sign => {
                if x > zero {
                    one
                } else if x < zero {
                    -one
                } else {
                    x * zero
                }
            }
            Unary::Erf => x.erf(),
            Unary::Clamp(lo, hi) => {
                if x < T::c(lo) {
                    T::c(lo)
                } else if x > T::c(hi) {
                    T::c(hi)
                } else {
                    x
                }
            }
            Unary::Gelu => half * x * (one + (x * T::c(std::f64::consts::FRAC_1_SQRT_2)).erf()),
            Unary::GeluTanh => {
                half * x
                    * (one + (T::c(SQRT_2_OVER_PI) * (x + T::c(GELU_CUBIC) * x * x * x)).tanh())
            }
            Unary::Silu => x * sigmoid(x),
        }
    }

    /// The derivative, from the operand or the result as [`Unary::saves`] says.
    #[inline(always)]
    pub fn derivative<T: Real>(self, s: T) -> T {
        let (zero, one, half) = (T::c(0.0), T::c(1.0), T::c(0.5));
        match self {
            Unary::Affine(a, _) => T::c(a),
            Unary::Abs => Unary::Sign.eval(s),
            Unary::Exp => s,
            Unary::Log => one / s,
            Unary::Sin => s.cos(),
            Unary::Cos => -s.sin(),
            Unary::Tanh => one - s * s,
            Unary::Sigmoid => s * (one - s),
            Unary::LogSigmoid => sigmoid(-s),
            Unary::Relu => {
                if s > zero {
                    one
                } else {
                    zero
                }
            }
            Unary::Sqrt => half / s,
            Unary::Recip => -(s * s),
            Unary::Square => s + s,
            Unary::Pow(p) => T::c(p) * s.powf(T::c(p - 1.0)),
            Unary::Sign => zero,
            Unary::Erf => T::c(std::f64::consts::FRAC_2_SQRT_PI) * (-(s * s)).exp(),
            Unary::Clamp(lo, hi) => {
                if s >= T::c(lo) && s <= T::c(hi) {
                    one
                } else {
                    zero
                }
            }
            Unary::Gelu => {
                let cdf = half * (one + (s * T::c(std::f64::consts::FRAC_1_SQRT_2)).erf());
                // φ(x) = e^(−x²/2)/√(2π)
                cdf + s * (-(half * s * s)).exp() * T::c(0.398_942_280_401_432_7)
            }
            Unary::GeluTanh => {
                let t = (T::c(SQRT_2_OVER_PI) * (s + T::c(GELU_CUBIC) * s * s * s)).tanh();
                let inner = T::c(SQRT_2_OVER_PI) * (one + T::c(3.0 * GELU_CUBIC) * s * s);
                half * (one + t) + half * s * (one - t * t) * inner
            }
            Unary::Silu => {
                let g = sigmoid(s);
                g * (one + s * (one - g))
            }
        }
    }

    /// What the derivative is computed from.
    pub fn saves(self) -> Saves {
        match self {
            Unary::Affine(..) | Unary::Sign => Saves::Nothing,
            Unary::Exp | Unary::Tanh | Unary::Sigmoid | Unary::Sqrt | Unary::Recip => Saves::Output,
            _ => Saves::Input,
        }
    }
}

impl Op for Unary {
    fn name(&self) -> &'static str {
        Unary::name(*self)
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        let mut y = Tensor::empty(x.shape(), x.dtype(), x.device())?;
        x.device().backend().map(Map::Unary(*self), &[x], &mut y)?;
        if f.needs(0) {
            match self.saves() {
                Saves::Input => f.save(0, x),
                Saves::Output => f.save(0, &y),
                Saves::Nothing => {}
            }
        }
        Ok(y)
    }

    fn backward(&self, saved: &Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let mut dx = Tensor::empty(dy.shape(), dy.dtype(), dy.device())?;
        let source = saved.find(0).unwrap_or(&dy);
        dy.device()
            .backend()
            .map(Map::UnaryGrad(*self), &[&dy, source], &mut dx)?;
        grads.add(0, dx)
    }
}

macro_rules! methods {
    ($($(#[$doc:meta])* $method:ident => $unary:expr;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            pub fn $method(&self) -> Result<Tensor> { apply($unary, &[self]) }
        )*}
    };
}

methods! {
    /// `−x`.
    neg => Unary::Affine(-1.0, 0.0);
    /// `|x|`.
    abs => Unary::Abs;
    /// `eˣ`.
    exp => Unary::Exp;
    /// `ln x`.
    log => Unary::Log;
    /// `sin x`.
    sin => Unary::Sin;
    /// `cos x`.
    cos => Unary::Cos;
    /// `tanh x`.
    tanh => Unary::Tanh;
    /// The logistic function.
    sigmoid => Unary::Sigmoid;
    /// `ln σ(x)`, finite for every finite x.
    log_sigmoid => Unary::LogSigmoid;
    /// `max(x, 0)`.
    relu => Unary::Relu;
    /// `√x`.
    sqrt => Unary::Sqrt;
    /// `1/x`.
    recip => Unary::Recip;
    /// `x²`.
    square => Unary::Square;
    /// −1, 0 or 1; gradient 0.
    sign => Unary::Sign;
    /// The error function.
    erf => Unary::Erf;
    /// GELU in its exact form.
    gelu => Unary::Gelu;
    /// GELU in GPT-2's tanh form.
    gelu_tanh => Unary::GeluTanh;
    /// `x·σ(x)`.
    silu => Unary::Silu;
}

impl Tensor {
    /// `scale·x + shift`.
    pub fn affine(&self, scale: f64, shift: f64) -> Result<Tensor> {
        apply(Unary::Affine(scale, shift), &[self])
    }

    /// `min(max(x, lo), hi)`; the gradient is 1 on the closed interval.
    pub fn clamp(&self, lo: f64, hi: f64) -> Result<Tensor> {
        apply(Unary::Clamp(lo, hi), &[self])
    }

    /// `xᵖ` for x ≥ 0.
    pub fn pow(&self, p: f64) -> Result<Tensor> {
        apply(Unary::Pow(p), &[self])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert!((Unary::Gelu.eval(1.0f64) - 0.841_344_746_068_542_9).abs() < 1e-15);
        assert!((Unary::GeluTanh.eval(1.0f64) - 0.841_191_990_608_276_6).abs() < 1e-12);
        assert_eq!(Unary::LogSigmoid.eval(-1000.0f64), -1000.0);
        assert_eq!(Unary::Sigmoid.eval(-1000.0f32), 0.0);
        assert!(Unary::Relu.eval(f32::NAN).is_nan() && Unary::Sign.eval(f64::NAN).is_nan());
    }
}
