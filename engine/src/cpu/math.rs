//! Elementary functions for f32 that vectorise: no branches, no tables, no calls.
//!
//! Each is `#[inline(always)]` and made of correctly rounded operations in a written order, so that
//! it gives the same bits on every instruction-set path and in every lane. Use inside
//! [`super::simd::dispatch`]. The polynomials are minimax fits (Lawson's weighted least squares),
//! their coefficients rounded one after the other. Errors stated are the largest seen over dense
//! sweeps against f64; the tests hold them.
//!
//! | function | domain | error |
//! |---|---|---|
//! | [`exp`] | all; 0 below −104, ∞ above 88.73 | 1.1 ulp |
//! | [`log`] | all; −∞ at 0, NaN below | 1.0 ulp |
//! | [`log1p`] | x ≥ 0 | 2 ulp |
//! | [`sin`], [`cos`] | abs x ≤ 10⁵ (beyond: see [`sin_all`]) | 1.6 ulp, 2⁻²⁴ near zeros |
//! | [`tanh`] | all | 2 ulp |
//! | [`sigmoid`] | all | 2.5 ulp |
//! | [`erf`] | all | 1.5 ulp |
//! | [`normal_cdf`] | above −13 (below, Φ < 10⁻³⁸) | 2.2 ulp above −1, 4 ulp below |

/// Adding and subtracting 1.5·2²³ rounds to the nearest integer, which the sum's low bits show.
const ROUND: f32 = 12_582_912.0;
const LN2_HI: f32 = std::f32::consts::LN_2;
/// ln 2 − LN2_HI.
const LN2_LO: f32 = -1.904_654_2e-9;

#[inline(always)]
fn poly<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut p = c[N - 1];
    for i in (0..N - 1).rev() {
        p = p.mul_add(x, c[i]);
    }
    p
}

/// eˣ = 2ⁿ·eʳ, n = round(x/ln 2), abs r ≤ ln 2/2, eʳ = 1 + r + r²·p(r).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    exp_of_sum(x, 0.0)
}

/// e^{x + y} for a y of less than an ulp of x.
#[inline(always)]
fn exp_of_sum(x: f32, y: f32) -> f32 {
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, x) + y);
    let p = poly(
        r,
        [
            0.5,
            0.166_666_64,
            0.041_666_46,
            0.008_333_896,
            0.001_393_542_2,
            0.000_195_694_88,
        ],
    );
    let y = (r * r).mul_add(p, r) + 1.0;
    // 2ⁿ in two factors, so that subnormal results and ∞ come out of the last product.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// 2ⁿ for −126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// ln x = e·ln 2 + ln(1+f), 1+f in [√½, √2), ln(1+f) = f − f²/2 + f³·p(f).
#[inline(always)]
pub fn log(x: f32) -> f32 {
    let subnormal = x < f32::MIN_POSITIVE;
    let scaled = if subnormal { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits();
    // The exponent's step lies at √½, so that f straddles 0.
    let steps = bits.wrapping_sub(0x3f35_04f3) as i32 >> 23;
    let f = f32::from_bits(bits.wrapping_sub((steps as u32) << 23)) - 1.0;
    let e = steps as f32 - if subnormal { 23.0 } else { 0.0 };
    let p = poly(
        f,
        [
            0.333_333_13,
            -0.250_000_12,
            0.200_020_73,
            -0.166_678_55,
            0.142_202_33,
            -0.124_081_97,
            0.118_862_04,
            -0.116_606_61,
            0.067_330_11,
        ],
    );
    let f2 = f * f;
    let tail = (f2 * f).mul_add(p, f2.mul_add(-0.5, e * LN2_LO));
    let y = e.mul_add(LN2_HI, f + tail);
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 || x.is_nan() { f32::NAN } else { y }
}

/// ln(1 + x) for x ≥ 0: ln w + (x − (w − 1))/w with w = 1 + x rounded.
#[inline(always)]
pub fn log1p(x: f32) -> f32 {
    let w = 1.0 + x;
    let lost = (x - (w - 1.0)) / w;
    let y = log(w) + lost;
    if x == f32::INFINITY { x } else { y }
}

/// ln(1 + eˣ) = max(x, 0) + ln(1 + e^−|x|), which does not overflow.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    (if x > 0.0 { x } else { 0.0 }) + log1p(exp(-x.abs()))
}

/// Beyond this the reduction of [`sin`] and [`cos`] loses its accuracy.
pub const TRIG_MAX: f32 = 1e5;

/// sin r and cos r for abs r ≤ π/4.
#[inline(always)]
pub fn sin_cos_near_zero(r: f32) -> (f32, f32) {
    let z = r * r;
    let s = poly(
        z,
        [
            -0.166_666_67,
            0.008_333_373,
            -0.000_198_502_91,
            2.804_291_4e-6,
        ],
    );
    let c = poly(
        z,
        [
            0.041_666_668,
            -0.001_388_897_3,
            2.481_927e-5,
            -2.861_611_4e-7,
        ],
    );
    let sin = (z * r).mul_add(s, r);
    let cos = (z * z).mul_add(c, z.mul_add(-0.5, 1.0));
    (sin, cos)
}

/// x = q·π/2 + r, abs r ≤ π/4: sin r, cos r and q. π/2 in three parts, each product exact.
#[inline(always)]
fn reduced_sin_cos(x: f32) -> (f32, f32, u32) {
    const PIO2: [f32; 3] = [1.570_796_4, -4.371_138_8e-8, -1.715_124_5e-15];
    let shifted = x.mul_add(std::f32::consts::FRAC_2_PI, ROUND);
    let q = shifted - ROUND;
    let r = q.mul_add(-PIO2[2], q.mul_add(-PIO2[1], q.mul_add(-PIO2[0], x)));
    let (sin, cos) = sin_cos_near_zero(r);
    (sin, cos, shifted.to_bits())
}

/// sin x for abs x ≤ [`TRIG_MAX`].
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    let (s, c, q) = reduced_sin_cos(x);
    let y = if q & 1 == 0 { s } else { c };
    f32::from_bits(y.to_bits() ^ ((q & 2) << 30))
}

/// cos x for abs x ≤ [`TRIG_MAX`].
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    let (s, c, q) = reduced_sin_cos(x);
    let y = if q & 1 == 0 { c } else { s };
    f32::from_bits(y.to_bits() ^ (((q.wrapping_add(1)) & 2) << 30))
}

/// `y[i] = sin x[i]` for any x: beyond [`TRIG_MAX`] by way of f64. Lengths must agree.
pub fn sin_all(x: &[f32], y: &mut [f32]) {
    trig_all(
        x,
        y,
        #[inline(always)]
        |v| sin(v),
        f64::sin,
    );
}

/// `y[i] = cos x[i]` for any x: beyond [`TRIG_MAX`] by way of f64. Lengths must agree.
pub fn cos_all(x: &[f32], y: &mut [f32]) {
    trig_all(
        x,
        y,
        #[inline(always)]
        |v| cos(v),
        f64::cos,
    );
}

fn trig_all(x: &[f32], y: &mut [f32], near: impl Fn(f32) -> f32, far: fn(f64) -> f64) {
    assert_eq!(
        x.len(),
        y.len(),
        "sin or cos between slices of different lengths"
    );
    for (x, y) in x.chunks(1024).zip(y.chunks_mut(1024)) {
        super::simd::dispatch(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = near(x);
                }
            },
        );
        for (y, &x) in y.iter_mut().zip(x).filter(|(_, x)| x.abs() > TRIG_MAX) {
            *y = far(f64::from(x)) as f32;
        }
    }
}

/// tanh x = x + x³·p(x²) where abs x < 0.625, else 1 − 2/(e^{2x} + 1), with x's sign.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let p = poly(
        z,
        [
            -0.333_333_3,
            0.133_332_22,
            -0.053_948_45,
            0.021_708_63,
            -0.008_194_678,
            0.002_157_184_3,
        ],
    );
    let near = (z * x).mul_add(p, x);
    let far = 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    (if a < 0.625 { near } else { far }).copysign(x)
}

/// 1/(1 + e^−x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// ½·e^{x²/2}·erfc(x/√2) for x ≥ 1, the tail of Φ without its bell: t·P(t − 3/8), given t = 1/(x + 3/4).
#[inline(always)]
fn scaled_tail(t: f32) -> f32 {
    t * poly(
        t - 0.375,
        [
            0.462_619_13,
            0.026_149_41,
            -0.317_664_8,
            0.309_593_53,
            0.021_029_597,
            -0.548_054_87,
            0.982_429_98,
            -0.983_383_6,
            -0.787_171_07,
            5.192_416,
            -0.899_152_64,
        ],
    )
}

/// erf x = x + x·q(x²) where abs x < 1, else 1 − e^{−x²}·erfcx, with x's sign.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let q = poly(
        z,
        [
            0.128_379_17,
            -0.376_126_26,
            0.112_835_79,
            -0.026_853_347,
            0.005_187_162,
            -0.000_799_785_3,
            7.806_903e-5,
        ],
    );
    let t = 1.0 / a.mul_add(std::f32::consts::SQRT_2, 0.75);
    let far = (-2.0 * exp(-z)).mul_add(scaled_tail(t), 1.0);
    if a < 1.0 {
        x.mul_add(q, x)
    } else {
        far.copysign(x)
    }
}

/// The standard normal distribution Φ(x) and e^{−x²/2} = √(2π)·φ(x), from one exponential: Φ = ½ + x·q(x²) where abs x < 1,
/// else the tail or 1 less it.
#[inline(always)]
pub fn normal_cdf(x: f32) -> (f32, f32) {
    // −x²/2 and what its rounding lost: the bell is steep far out.
    let half = -0.5 * x;
    let square = half * x;
    let square = if square < -1e4 { -1e4 } else { square };
    let lost = half.mul_add(x, -square);
    let lost = if square < -104.0 { 0.0 } else { lost };
    let bell = exp_of_sum(square, lost);
    let q = poly(
        x * x,
        [
            0.398_942_3,
            -0.066_490_91,
            0.009_977_573,
            -0.001_197_918_1,
            0.000_126_465_63,
            -1.276_341_2e-5,
        ],
    );
    let tail = bell * scaled_tail(1.0 / (x.abs() + 0.75));
    let far = if x < 0.0 { tail } else { 1.0 - tail };
    (
        if x.abs() < 1.0 {
            x.mul_add(q, 0.5)
        } else {
            far
        },
        bell,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulp(v: f64) -> f64 {
        let v = (v.abs() as f32).max(f32::MIN_POSITIVE);
        f64::from(f32::from_bits(v.to_bits() + 1)) - f64::from(v)
    }

    /// The largest error, in ulps of the exact value, over `steps` points of [lo, hi].
    fn worst(lo: f32, hi: f32, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> (f64, f32) {
        let steps = 400_000;
        let mut worst = (0.0, lo);
        for i in 0..=steps {
            let x = (f64::from(lo)
                + (f64::from(hi) - f64::from(lo)) * f64::from(i) / f64::from(steps))
                as f32;
            let want = exact(f64::from(x));
            let error = (f64::from(f(x)) - want).abs() / ulp(want);
            if error > worst.0 || error.is_nan() {
                worst = (error, x);
            }
        }
        worst
    }

    macro_rules! within {
        ($limit:expr, $lo:expr, $hi:expr, $f:expr, $exact:expr) => {
            let (error, at) = worst($lo, $hi, $f, $exact);
            assert!(error <= $limit, "{}: {error} ulp at {at}", stringify!($f));
        };
    }

    #[test]
    fn errors_stay_within_what_is_stated() {
        within!(1.1, -87.3, 88.7, exp, f64::exp);
        within!(1.1, -1.0, 1.0, exp, f64::exp);
        within!(1.0, 1e-30, 4.0, log, f64::ln);
        within!(1.0, 0.5, 1.6, log, f64::ln);
        within!(1.0, 1.0, 1e30, log, f64::ln);
        within!(2.0, 0.0, 1.0, log1p, f64::ln_1p);
        within!(2.0, 0.0, 1e6, log1p, f64::ln_1p);
        within!(2.0, -3.0, 3.0, tanh, f64::tanh);
        within!(2.0, -20.0, 20.0, tanh, f64::tanh);
        within!(2.5, -80.0, 20.0, sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
        within!(1.5, -6.0, 6.0, erf, libm::erf);
        within!(1.5, -1.1, 1.1, erf, libm::erf);
        let phi = |x: f64| 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
        within!(2.2, -1.0, 8.0, |x| normal_cdf(x).0, phi);
        within!(4.0, -5.0, -1.0, |x| normal_cdf(x).0, phi);
        within!(4.0, -13.0, -5.0, |x| normal_cdf(x).0, phi);
        within!(2.0, -13.0, 13.0, |x| normal_cdf(x).1, |x: f64| (-0.5
            * x
            * x)
            .exp());
        within!(3.0, -40.0, 40.0, softplus, |x| x.max(0.0)
            + (-x.abs()).exp().ln_1p());
    }

    #[test]
    fn trigonometry_is_near_absolutely_and_relatively() {
        for (lo, hi) in [(-4.0, 4.0), (-1e3, 1e3), (-1e5, 1e5)] {
            for i in 0..=400_000 {
                let x = (lo + (hi - lo) * f64::from(i) / 4e5) as f32;
                for (got, want) in [(sin(x), f64::from(x).sin()), (cos(x), f64::from(x).cos())] {
                    let error = (f64::from(got) - want).abs();
                    assert!(
                        error <= (1.6 * ulp(want)).max(2f64.powi(-24)),
                        "{error:e} at {x}"
                    );
                }
            }
        }
    }

    #[test]
    fn large_arguments_take_the_long_way() {
        let x = [0.0f32, 1.0, 1e6, -3e7, 1e30];
        let (mut s, mut c) = ([0.0; 5], [0.0; 5]);
        sin_all(&x, &mut s);
        cos_all(&x, &mut c);
        for i in 0..5 {
            assert!((f64::from(s[i]) - f64::from(x[i]).sin()).abs() < 1e-7);
            assert!((f64::from(c[i]) - f64::from(x[i]).cos()).abs() < 1e-7);
        }
    }

    #[test]
    fn special_values() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        assert_eq!(
            (exp(-inf), exp(0.0), exp(inf), exp(-200.0)),
            (0.0, 1.0, inf, 0.0)
        );
        assert_eq!((log(0.0), log(1.0), log(inf)), (-inf, 0.0, inf));
        assert_eq!(
            (tanh(-inf), tanh(inf), tanh(-0.0).to_bits()),
            (-1.0, 1.0, 0x8000_0000)
        );
        assert_eq!((sigmoid(-inf), sigmoid(0.0), sigmoid(inf)), (0.0, 0.5, 1.0));
        assert_eq!((erf(-inf), erf(0.0), erf(inf)), (-1.0, 0.0, 1.0));
        assert_eq!((normal_cdf(-inf).0, normal_cdf(inf).0), (0.0, 1.0));
        assert_eq!((softplus(-inf), softplus(inf)), (0.0, inf));
        for f in [exp, log, log1p, tanh, sigmoid, erf, sin, cos, softplus] {
            assert!(f(nan).is_nan());
        }
        assert!(log(-1.0).is_nan());
        let tiny = f32::from_bits(1);
        assert!((f64::from(log(tiny)) - f64::from(tiny).ln()).abs() < 1e-5);
        assert!((f64::from(exp(-100.0)) - (-100f64).exp()).abs() <= f64::from(tiny));
    }

    #[test]
    fn every_path_gives_the_same_bits() {
        use crate::cpu::simd::{Isa, dispatch_on};
        struct Run<'a>(&'a [f32], &'a mut [f32]);
        impl pulp::WithSimd for Run<'_> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: pulp::Simd>(self, _: S) {
                for (y, &x) in self.1.iter_mut().zip(self.0) {
                    *y = exp(x)
                        + tanh(x)
                        + log(x.abs())
                        + erf(x) * sin(x)
                        + normal_cdf(x).0 * cos(x);
                }
            }
        }
        let x: Vec<f32> = (0..10_007).map(|i| (i as f32 - 5000.0) * 0.0131).collect();
        let on = |isa| {
            let mut y = vec![0.0; x.len()];
            dispatch_on(isa, Run(&x, &mut y));
            y.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let scalar = on(Isa::Scalar);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            assert_eq!(on(isa), scalar, "{isa}");
        }
    }
}
