//! The arithmetic that elementwise functions are written in, once for f32 and f64.

use crate::cpu::math;

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
    /// Φ(x) and e^(−x²/2).
    fn normal_cdf(self) -> (Self, Self);
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
    fn normal_cdf(self) -> (Self, Self) {
        (
            0.5 * libm::erfc(-self * std::f64::consts::FRAC_1_SQRT_2),
            (-0.5 * self * self).exp(),
        )
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
    fn normal_cdf(self) -> (Self, Self) {
        math::normal_cdf(self)
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
