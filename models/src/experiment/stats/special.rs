//! The normal and Student's t distribution.
//!
//! ```text
//! I_x(a, b)   regularised incomplete beta function, by its continued fraction (Lentz)
//! T_ν(t)      = 1 − ½ I_{ν/(ν+t²)}(ν/2, ½)   for t ≥ 0
//! Φ(x)        = ½ erfc(−x/√2), by series near 0 and continued fraction in the tail
//! ```
//!
//! Quantiles are found by bisection on these, to the last bit that the function can tell apart.

/// ln Γ(x) for x > 0: Stirling's series at x + 10, brought back by Γ(x+1) = x Γ(x).
fn ln_gamma(x: f64) -> f64 {
    let back: f64 = (0..10).map(|k| (x + f64::from(k)).ln()).sum();
    let y = x + 10.0;
    let y2 = y * y;
    // 1/12y − 1/360y³ + 1/1260y⁵ − 1/1680y⁷ + 1/1188y⁹
    let coefficients = [
        1.0 / 1188.0,
        -1.0 / 1680.0,
        1.0 / 1260.0,
        -1.0 / 360.0,
        1.0 / 12.0,
    ];
    let series = coefficients.iter().fold(0.0, |sum, c| sum / y2 + c) / y;
    (y - 0.5) * y.ln() - y + 0.5 * std::f64::consts::TAU.ln() + series - back
}

/// I_x(a, b) for 0 ≤ x ≤ 1 and a, b > 0.
fn beta_regularised(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast below the mean; above it the symmetric form does.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta_regularised(1.0 - x, b, a);
    }
    let front = a * x.ln() + b * (-x).ln_1p() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    let guard = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let (mut c, mut d) = (1.0, 1.0 / guard(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / guard(1.0 + even * d);
        c = guard(1.0 + even / c);
        fraction *= c * d;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / guard(1.0 + odd * d);
        c = guard(1.0 + odd / c);
        fraction *= c * d;
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front.exp() * fraction / a
}

/// P(T ≤ t) for Student's t with `df` > 0 degrees of freedom, not necessarily whole.
pub fn t_cdf(t: f64, df: f64) -> f64 {
    if t.is_infinite() {
        return if t > 0.0 { 1.0 } else { 0.0 };
    }
    // Either form loses digits where its argument is near 1: the first about 0, the second in the tails.
    let tail = if t * t < 1.0 {
        0.5 - 0.5 * beta_regularised(t * t / (df + t * t), 0.5, 0.5 * df)
    } else {
        0.5 * beta_regularised(df / (df + t * t), 0.5 * df, 0.5)
    };
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// The t below which Student's t with `df` degrees of freedom lies with probability `p` in (0, 1).
pub fn t_quantile(p: f64, df: f64) -> f64 {
    if p > 0.5 {
        -invert(|t| t_cdf(t, df), 1.0 - p)
    } else {
        invert(|t| t_cdf(t, df), p)
    }
}

/// Φ(x) = P(Z ≤ x) for a standard normal Z.
pub fn normal_cdf(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let tail = if z < 2.0 {
        // erf(z) = 2/√π Σ (−1)ⁿ z^(2n+1) / (n! (2n+1)), written with all terms positive.
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term > 1e-18 * sum {
            n += 1.0;
            term *= 2.0 * z * z / (2.0 * n + 1.0);
            sum += term;
        }
        0.5 - (-z * z).exp() * sum / std::f64::consts::PI.sqrt()
    } else {
        // erfc(z) = e^(−z²)/√π · 1/(z + ½/(z + 1/(z + 3/2/(z + …)))), from the far end.
        let fraction = (1..=80).rev().fold(z, |f, k| z + 0.5 * f64::from(k) / f);
        0.5 * (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// Φ⁻¹(p) for p in (0, 1).
pub fn normal_quantile(p: f64) -> f64 {
    if p > 0.5 {
        -invert(normal_cdf, 1.0 - p)
    } else {
        invert(normal_cdf, p)
    }
}

/// The x ≤ 0 at which the increasing `cdf` of a symmetric distribution reaches `p` ≤ ½.
fn invert(cdf: impl Fn(f64) -> f64, p: f64) -> f64 {
    if p >= 0.5 {
        return 0.0;
    }
    let mut low = -1.0;
    while cdf(low) > p && low > -1e300 {
        low *= 2.0;
    }
    let mut high = 0.0;
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if cdf(middle) < p {
            low = middle
        } else {
            high = middle
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn near(a: f64, b: f64, relative: f64) {
        assert!(
            (a - b).abs() <= relative * b.abs().max(1e-300),
            "{a} against {b}"
        );
    }

    #[test]
    fn gamma_at_known_points() {
        near(ln_gamma(0.5), 0.5 * std::f64::consts::PI.ln(), 1e-13);
        near(ln_gamma(5.0), 24f64.ln(), 1e-13);
        near(
            ln_gamma(100.0),
            (1..100).map(|k| f64::from(k).ln()).sum(),
            1e-13,
        );
    }

    // ν = 1 is Cauchy, ν = 2 has T = ½ + t / (2√(2 + t²)), ν = 3 an arctangent form.
    #[test]
    fn t_has_its_closed_forms() {
        for t in [-40.0, -3.0, -0.5, 0.0, 0.1, 1.0, 4.303, 30.0f64] {
            near(t_cdf(t, 1.0), 0.5 + t.atan() / std::f64::consts::PI, 1e-9);
            near(t_cdf(t, 2.0), 0.5 + t / (2.0 * (2.0 + t * t).sqrt()), 1e-9);
            let u = t / 3f64.sqrt();
            near(
                t_cdf(t, 3.0),
                0.5 + (u / (1.0 + u * u) + u.atan()) / std::f64::consts::PI,
                1e-9,
            );
        }
    }

    // The usual printed tables.
    #[test]
    fn tabulated_quantiles() {
        for (df, t) in [
            (1.0, 12.7062),
            (2.0, 4.30265),
            (4.0, 2.77645),
            (9.0, 2.26216),
            (30.0, 2.04227),
        ] {
            near(t_quantile(0.975, df), t, 2e-6);
        }
        near(normal_quantile(0.975), 1.959963984540054, 1e-13);
        near(normal_quantile(1e-10), -6.361340902404056, 1e-12);
        near(normal_cdf(-3.0), 1.3498980316300945e-3, 1e-12);
        near(normal_cdf(1.0), 0.8413447460685429, 1e-14);
    }

    proptest! {
        #[test]
        fn quantile_and_cdf_are_inverse(p in 1e-6..(1.0 - 1e-6f64), df in 0.7..200.0f64) {
            prop_assert!((t_cdf(t_quantile(p, df), df) - p).abs() < 1e-11);
            prop_assert!((normal_cdf(normal_quantile(p)) - p).abs() < 1e-13);
        }

        #[test]
        fn t_is_symmetric_and_tends_to_the_normal(t in -8.0..8.0f64, df in 0.7..200.0f64) {
            prop_assert!((t_cdf(t, df) + t_cdf(-t, df) - 1.0).abs() < 1e-12);
            // The first correction of the t distribution is of order 1/(4ν).
            prop_assert!((t_cdf(t, 1e6) - normal_cdf(t)).abs() < 1e-6);
        }
    }
}
