//! Elementwise functions of one operand, each with its derivative.
//!
//! Kinks: |x|′ and relu′ are 0 at 0; clamp′ is 1 on the closed interval; sign′ is 0 everywhere.

use crate::device::Map;
use crate::error::Result;
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::real::Real;
use crate::tape::Grads;
use crate::tensor::Tensor;

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

/// σ(x), and its slope σ(x)·σ(−x) without the cancellation of 1 − σ(x).
#[inline(always)]
fn sigmoid<T: Real>(x: T) -> (T, T) {
    // The exponential of a negative number never overflows.
    let e = (-x.abs()).exp();
    let r = T::c(1.0) / (T::c(1.0) + e);
    (if x < T::c(0.0) { e * r } else { r }, e * r * r)
}

/// 2u and its slope for GELU's tanh form, u = √(2/π)(x + 0.044715x³): ½(1 + tanh u) = σ(2u). Bounded where σ is 0 or 1, so
/// that x³ does not overflow.
#[inline(always)]
fn gelu_argument<T: Real>(x: T) -> (T, T) {
    let bound = T::c(20.0);
    let x = if x > bound { bound } else { x };
    let x = if x < -bound { -bound } else { x };
    let (linear, cubic) = (
        T::c(2.0 * SQRT_2_OVER_PI),
        T::c(2.0 * SQRT_2_OVER_PI * GELU_CUBIC),
    );
    (
        x * (linear + cubic * x * x),
        linear + T::c(3.0) * cubic * x * x,
    )
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
        let (zero, one) = (T::c(0.0), T::c(1.0));
        match self {
            Unary::Affine(a, b) => T::c(a) * x + T::c(b),
            Unary::Abs => x.abs(),
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Tanh => x.tanh(),
            Unary::Sigmoid => sigmoid(x).0,
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
            Unary::Gelu => x * x.normal_cdf().0,
            Unary::GeluTanh => x * sigmoid(gelu_argument(x).0).0,
            Unary::Silu => x * sigmoid(x).0,
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
            Unary::LogSigmoid => sigmoid(-s).0,
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
                let (cdf, bell) = s.normal_cdf();
                // φ(x) = e^(−x²/2)/√(2π); where it is 0, x may be too large for the product.
                let density = bell * T::c(0.398_942_280_401_432_7);
                if density == zero {
                    cdf
                } else {
                    cdf + s * density
                }
            }
            Unary::GeluTanh => {
                let (v, slope) = gelu_argument(s);
                let (g, dg) = sigmoid(v);
                if dg == zero { g } else { g + s * dg * slope }
            }
            Unary::Silu => {
                let (g, dg) = sigmoid(s);
                if dg == zero { g } else { g + s * dg }
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

    /// Those that keep their operand and cost little more than reading it.
    fn is_remade(&self) -> bool {
        matches!(
            self,
            Unary::Abs
                | Unary::Relu
                | Unary::Square
                | Unary::Clamp(..)
                | Unary::Gelu
                | Unary::GeluTanh
                | Unary::Silu
        )
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let mut dx = dy.into_own()?;
        dx.device()
            .clone()
            .backend()
            .unary_grad(*self, saved.find(0)?, &mut dx)?;
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

    /// In f32 against f64: a value within 5 ulp (Φ's 4, the product's ½), a slope, whose terms reach 1.2
    /// before they cancel, within 6 roundings of that.
    #[test]
    fn smooth_gates_are_near_and_so_are_their_slopes() {
        for f in [Unary::Gelu, Unary::GeluTanh, Unary::Silu] {
            let (mut value, mut slope) = (0.0f64, 0.0f64);
            for i in -130_000..=130_000 {
                let x = i as f32 * 1e-4;
                let (y, want) = (f64::from(f.eval(x)), f.eval(f64::from(x)));
                value = value.max((y - want).abs() / (want.abs() + 1e-30));
                slope = slope.max((f64::from(f.derivative(x)) - f.derivative(f64::from(x))).abs());
            }
            let name = f.name();
            // The tanh form's argument comes with 2½ roundings, and e^−v multiplies them by v, up to 88.
            let ulps = if f == Unary::GeluTanh { 115.0 } else { 5.0 };
            assert!(
                value <= ulps * f64::from(f32::EPSILON),
                "{name}: relative error {value:e}"
            );
            assert!(
                slope <= 6.0 * f64::from(f32::EPSILON),
                "{name}: slope off by {slope:e}"
            );
        }
    }

    #[test]
    fn far_out_a_gate_is_x_or_nothing() {
        for f in [Unary::Gelu, Unary::GeluTanh, Unary::Silu] {
            for x in [1e4f32, 1e30, f32::INFINITY] {
                assert_eq!((f.eval(x), f.derivative(x)), (x, 1.0), "{} {x}", f.name());
            }
            for x in [-1e4f32, -1e30] {
                assert_eq!((f.eval(x), f.derivative(x)), (0.0, 0.0), "{} {x}", f.name());
            }
        }
    }
}
