//! Smooth gates x·g(x): GELU in its exact and tanh forms (Hendrycks & Gimpel 2016), and SiLU.
//!
//! ```text
//! exact   y = x·Φ(x)                  y' = Φ(x) + x·φ(x)
//! tanh    y = x·σ(2u)                 y' = s + 2·x·s·(1−s)·u',  s = σ(2u)
//!         u = √(2/π)·(x + 0.044715·x³)  u' = √(2/π)·(1 + 3·0.044715·x²)
//! SiLU    y = x·σ(x)                  y' = s + x·s·(1−s),       s = σ(x)
//! ```
//!
//! The tanh form is the usual ½x(1 + tanh u), since ½(1 + tanh u) = σ(2u). Elementwise; the backward
//! needs x alone. Absolute errors are within 4 ulp of max(|y|, 2⁻²⁰).

use super::math;
use super::simd;
use super::threads;

/// Which gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// x·Φ(x).
    Exact,
    /// The tanh approximation of GPT-2.
    Tanh,
    /// x·σ(x).
    Silu,
}

/// Elements in a piece of work.
const GRAIN: usize = 1 << 15;
/// 2·√(2/π).
const SLOPE: f32 = 1.595_769;
/// 2·√(2/π)·0.044715.
const CUBIC: f32 = 0.071_354_814;

#[inline(always)]
fn exact(x: f32) -> f32 {
    x * math::normal_cdf(x).0
}

#[inline(always)]
fn exact_slope(x: f32) -> f32 {
    const INV_SQRT_2PI: f32 = 0.398_942_3;
    let (cdf, bell) = math::normal_cdf(x);
    (x * INV_SQRT_2PI).mul_add(bell, cdf)
}

/// 2u, bounded where σ(2u) is 0 or 1 in f32 anyway, so that x³ cannot overflow into NaN.
#[inline(always)]
fn twice_u(x: f32) -> f32 {
    let c = if x > 20.0 { 20.0 } else { x };
    let c = if c < -20.0 { -20.0 } else { c };
    c * (c * c).mul_add(CUBIC, SLOPE)
}

#[inline(always)]
fn tanh_form(x: f32) -> f32 {
    x * math::sigmoid(twice_u(x))
}

#[inline(always)]
fn tanh_slope(x: f32) -> f32 {
    let s = math::sigmoid(twice_u(x));
    let c = if x.abs() > 20.0 { 20.0 } else { x };
    (c * s * (1.0 - s)).mul_add((c * c).mul_add(3.0 * CUBIC, SLOPE), s)
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x * math::sigmoid(x)
}

#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let s = math::sigmoid(x);
    (x * s).mul_add(1.0 - s, s)
}

#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for v in x {
        *v = f(*v);
    }
}

#[inline(always)]
fn map_into(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = f(x);
    }
}

#[inline(always)]
fn scale(x: &[f32], dy: &mut [f32], slope: impl Fn(f32) -> f32) {
    for (d, &x) in dy.iter_mut().zip(x) {
        *d *= slope(x);
    }
}

/// `y ← f(y)` on one thread, for use inside [`simd::dispatch`].
#[inline(always)]
pub fn forward_row(y: &mut [f32], form: Form) {
    match form {
        Form::Exact => map(
            y,
            #[inline(always)]
            |v| exact(v),
        ),
        Form::Tanh => map(
            y,
            #[inline(always)]
            |v| tanh_form(v),
        ),
        Form::Silu => map(
            y,
            #[inline(always)]
            |v| silu(v),
        ),
    }
}

/// y = f(x). Lengths must agree.
pub fn forward(form: Form, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "gelu: x and y of different lengths");
    threads::par_rows(y, 1, GRAIN, |first, y| {
        let x = &x[first..first + y.len()];
        simd::dispatch(
            #[inline(always)]
            || match form {
                Form::Exact => map_into(
                    x,
                    y,
                    #[inline(always)]
                    |v| exact(v),
                ),
                Form::Tanh => map_into(
                    x,
                    y,
                    #[inline(always)]
                    |v| tanh_form(v),
                ),
                Form::Silu => map_into(
                    x,
                    y,
                    #[inline(always)]
                    |v| silu(v),
                ),
            },
        );
    });
}

/// `dy ← dy ⊙ f'(x)`. Lengths must agree.
pub fn backward(form: Form, x: &[f32], dy: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "gelu: x and dy of different lengths");
    threads::par_rows(dy, 1, GRAIN, |first, dy| {
        let x = &x[first..first + dy.len()];
        simd::dispatch(
            #[inline(always)]
            || match form {
                Form::Exact => scale(
                    x,
                    dy,
                    #[inline(always)]
                    |v| exact_slope(v),
                ),
                Form::Tanh => scale(
                    x,
                    dy,
                    #[inline(always)]
                    |v| tanh_slope(v),
                ),
                Form::Silu => scale(
                    x,
                    dy,
                    #[inline(always)]
                    |v| silu_slope(v),
                ),
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORMS: [Form; 3] = [Form::Exact, Form::Tanh, Form::Silu];

    fn value(form: Form, x: f64) -> f64 {
        match form {
            // Φ by Simpson's rule on the density from 0.
            Form::Exact => {
                let (n, h) = (400, x / 400.0);
                let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let inner: f64 = (1..n)
                    .map(|i| density(f64::from(i) * h) * if i % 2 == 0 { 2.0 } else { 4.0 })
                    .sum();
                x * (0.5 + h / 3.0 * (density(0.0) + inner + density(x)))
            }
            Form::Tanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + u.tanh())
            }
            Form::Silu => x / (1.0 + (-x).exp()),
        }
    }

    proptest! {
        /// Value against f64, slope against central differences of it in f64 (step 1e-4: 1e-8).
        #[test]
        fn value_and_slope(x in -9.0f32..9.0, lead in 0usize..40) {
            for form in FORMS {
                let xs = vec![x; lead + 1];
                let (mut y, mut d) = (vec![0.0; lead + 1], vec![1.0; lead + 1]);
                forward(form, &xs, &mut y);
                backward(form, &xs, &mut d);
                let wide = f64::from(x);
                let want = value(form, wide);
                let slope = (value(form, wide + 1e-4) - value(form, wide - 1e-4)) / 2e-4;
                // Φ's tail is good to 12 ulp, the products add two halves.
                let near = 13.0 * f64::from(f32::EPSILON) * want.abs() + 1e-11;
                prop_assert!((f64::from(y[lead]) - want).abs() <= near, "{form:?} {x}: {} {want}", y[lead]);
                // The slope's terms reach 5 in size before they cancel: a few ulp of that.
                prop_assert!((f64::from(d[lead]) - slope).abs() <= 2.5e-6, "{form:?} {x}: {} {slope}", d[lead]);
            }
        }
    }

    #[test]
    fn far_out_it_is_x_or_nothing() {
        for form in FORMS {
            let x = [1e4f32, -1e4, 1e30, -1e30];
            let (mut y, mut d) = ([0.0; 4], [1.0; 4]);
            forward(form, &x, &mut y);
            backward(form, &x, &mut d);
            assert_eq!(y, [1e4, 0.0, 1e30, 0.0]);
            assert_eq!(d, [1.0, 0.0, 1.0, 0.0]);
        }
    }
}
