//! Numbers that know how far a kernel's may be from them.

use std::f64::consts::LN_2;

/// Unit roundoff of f32.
pub const U: f64 = 1.0 / (1 << 24) as f64;

/// A number, and how far from it the kernel's may be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Near {
    pub x: f64,
    pub e: f64,
}

impl Near {
    /// With no error.
    pub fn exact(x: f64) -> Near {
        Near { x, e: 0.0 }
    }

    /// After a rounding by u relatively, or by `least`.
    pub fn rounded(self, u: f64, least: f64) -> Near {
        let e = self.e + u * (self.x.abs() + self.e) + least;
        Near { e, ..self }
    }

    pub fn plus(self, other: Near) -> Near {
        let (x, e) = (self.x + other.x, self.e + other.e);
        Near { x, e }.rounded(U, 0.0)
    }

    pub fn times(self, other: Near) -> Near {
        let e = self.x.abs() * other.e + other.x.abs() * self.e + self.e * other.e;
        let x = self.x * other.x;
        Near { x, e }.rounded(U, 0.0)
    }

    pub fn over(self, divisor: Near) -> Near {
        let x = self.x / divisor.x;
        let e = (self.e + x.abs() * divisor.e) / (divisor.x - divisor.e);
        Near { x, e }.rounded(2.0 * U, 0.0)
    }

    /// 2^x.
    pub fn exp2(self) -> Near {
        let x = self.x.exp2();
        let e = x * ((1.0 + 2f64.powi(-22)) * (LN_2 * self.e).exp() - 1.0);
        // What is below the normal numbers is 0.
        Near {
            x,
            e: e + 2f64.powi(-126),
        }
    }

    /// Whether the kernel may say that.
    pub fn allows(self, got: f32) -> bool {
        let got = f64::from(got);
        // A NaN is not within any bound.
        got == self.x || (got - self.x).abs() <= self.e
    }
}

/// A sum of so many terms.
pub fn sum(terms: impl Iterator<Item = Near>) -> Near {
    let (mut all, mut size, mut n) = (Near::default(), 0.0, 2.0);
    for term in terms {
        all.x += term.x;
        all.e += term.e;
        size += term.x.abs() + term.e;
        n += 1.0;
    }
    all.e += size * n * U / (1.0 - n * U);
    all
}

/// A sum of products, each of which comes into it unrounded.
pub fn dot(pairs: impl Iterator<Item = (Near, Near)>) -> Near {
    sum(pairs.map(|(a, b)| Near {
        x: a.x * b.x,
        e: a.x.abs() * b.e + b.x.abs() * a.e + a.e * b.e,
    }))
}
