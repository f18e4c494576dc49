//! Floating-point functions of one lane, as the ISA defines them.

use super::super::float16::canonical;

/// A subnormal becomes zero with its sign.
#[inline(always)]
pub(super) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE {
        f32::from_bits(x.to_bits() & 0x8000_0000)
    } else {
        x
    }
}

/// Clamps to [0, 1]; NaN becomes 0.
#[inline(always)]
pub(super) fn saturate(x: f32) -> f32 {
    if x > 0.0 {
        if x < 1.0 { x } else { 1.0 }
    } else {
        0.0
    }
}

#[inline(always)]
pub(super) fn saturate64(x: f64) -> f64 {
    if x > 0.0 {
        if x < 1.0 { x } else { 1.0 }
    } else {
        0.0
    }
}

/// A rounding mode other than to nearest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Towards {
    Zero,
    Minus,
    Plus,
}

/// Moves `nearest`, the rounding of an exact value to nearest, to the rounding in a direction; `rest` has the sign of
/// exact value minus `nearest`.
#[inline(always)]
fn directed32(nearest: f32, rest: f64, towards: Towards) -> f32 {
    match towards {
        Towards::Minus if rest < 0.0 => nearest.next_down(),
        Towards::Plus if rest > 0.0 => nearest.next_up(),
        Towards::Zero if rest < 0.0 && nearest > 0.0 => nearest.next_down(),
        Towards::Zero if rest > 0.0 && nearest < 0.0 => nearest.next_up(),
        _ => nearest,
    }
}

#[inline(always)]
fn directed64(nearest: f64, rest: f64, towards: Towards) -> f64 {
    match towards {
        Towards::Minus if rest < 0.0 => nearest.next_down(),
        Towards::Plus if rest > 0.0 => nearest.next_up(),
        Towards::Zero if rest < 0.0 && nearest > 0.0 => nearest.next_down(),
        Towards::Zero if rest > 0.0 && nearest < 0.0 => nearest.next_up(),
        _ => nearest,
    }
}

/// s + e = a + b exactly (Knuth), barring overflow.
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// Rounds s + e to f32, where |e| is at most half a unit of s.
#[inline(always)]
pub(super) fn round32(s: f64, e: f64, towards: Towards) -> f32 {
    let nearest = s as f32;
    if !s.is_finite() {
        return nearest;
    }
    // Not zero, the difference outweighs e: both are multiples of s's unit.
    let rest = s - f64::from(nearest);
    directed32(nearest, if rest == 0.0 { e } else { rest }, towards)
}

/// The sum of opposite values is -0 when rounding down, +0 otherwise; of equal zeros it is that zero.
#[inline(always)]
fn exact_zero(a: f64, b: f64, towards: Towards) -> f64 {
    let negative = if a.is_sign_negative() == b.is_sign_negative() {
        a.is_sign_negative()
    } else {
        towards == Towards::Minus
    };
    if negative { -0.0 } else { 0.0 }
}

#[inline(always)]
pub(super) fn add32(a: f32, b: f32, towards: Towards) -> f32 {
    fma32(a, 1.0, b, towards)
}

#[inline(always)]
pub(super) fn mul32(a: f32, b: f32, towards: Towards) -> f32 {
    canonical(round32(f64::from(a) * f64::from(b), 0.0, towards))
}

#[inline(always)]
pub(super) fn fma32(a: f32, b: f32, c: f32, towards: Towards) -> f32 {
    // The product is exact in f64.
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let (s, e) = two_sum(p, c);
    if s == 0.0 && e == 0.0 {
        return exact_zero(p, c, towards) as f32;
    }
    canonical(round32(s, e, towards))
}

#[inline(always)]
pub(super) fn div32(a: f32, b: f32, towards: Towards) -> f32 {
    let (x, y) = (f64::from(a), f64::from(b));
    let q = x / y;
    // The remainder is exact; over y it has the sign of exact quotient minus q.
    let rest = (-q).mul_add(y, x) * y.signum();
    canonical(round32(
        q,
        if rest.is_finite() { rest } else { 0.0 },
        towards,
    ))
}

#[inline(always)]
pub(super) fn sqrt32(a: f32, towards: Towards) -> f32 {
    let x = f64::from(a);
    let q = x.sqrt();
    let rest = (-q).mul_add(q, x);
    canonical(round32(
        q,
        if rest.is_finite() { rest } else { 0.0 },
        towards,
    ))
}

#[inline(always)]
pub(super) fn fma64(a: f64, b: f64, c: f64, towards: Towards) -> f64 {
    let nearest = a.mul_add(b, c);
    let p = a * b;
    if !nearest.is_finite() || !p.is_finite() {
        return if nearest.is_infinite() && a.is_finite() && b.is_finite() && c.is_finite() {
            directed64(nearest, -nearest, towards)
        } else {
            nearest
        };
    }
    if nearest == 0.0 && p == 0.0 {
        return exact_zero(if p == 0.0 { p } else { a }, c, towards);
    }
    let low = a.mul_add(b, -p);
    let (s, e) = two_sum(p, c);
    if s == 0.0 && e == 0.0 && low == 0.0 {
        return exact_zero(p, c, towards);
    }
    let (t, u) = two_sum(s, -nearest);
    let rest = t + (u + (e + low));
    directed64(nearest, rest, towards)
}

#[inline(always)]
pub(super) fn add64(a: f64, b: f64, towards: Towards) -> f64 {
    fma64(a, 1.0, b, towards)
}

#[inline(always)]
pub(super) fn mul64(a: f64, b: f64, towards: Towards) -> f64 {
    let nearest = a * b;
    if nearest.is_infinite() && a.is_finite() && b.is_finite() {
        return directed64(nearest, -nearest, towards);
    }
    let rest = a.mul_add(b, -nearest);
    if nearest.is_finite() {
        directed64(nearest, rest, towards)
    } else {
        nearest
    }
}

#[inline(always)]
pub(super) fn div64(a: f64, b: f64, towards: Towards) -> f64 {
    let q = a / b;
    let rest = (-q).mul_add(b, a) * b.signum();
    if q.is_finite() && rest.is_finite() {
        directed64(q, rest, towards)
    } else {
        q
    }
}

#[inline(always)]
pub(super) fn sqrt64(a: f64, towards: Towards) -> f64 {
    let q = a.sqrt();
    let rest = (-q).mul_add(q, a);
    if q.is_finite() && rest.is_finite() {
        directed64(q, rest, towards)
    } else {
        q
    }
}

/// The smaller one; a NaN loses against a number; -0 is below +0.
#[inline(always)]
pub(super) fn min32(a: f32, b: f32) -> f32 {
    let low = if a < b || a == b && a.is_sign_negative() {
        a
    } else {
        b
    };
    canonical(if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        low
    })
}

#[inline(always)]
pub(super) fn max32(a: f32, b: f32) -> f32 {
    let high = if a > b || a == b && b.is_sign_negative() {
        a
    } else {
        b
    };
    canonical(if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        high
    })
}

#[inline(always)]
pub(super) fn min64(a: f64, b: f64) -> f64 {
    let low = if a < b || a == b && a.is_sign_negative() {
        a
    } else {
        b
    };
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        low
    }
}

#[inline(always)]
pub(super) fn max64(a: f64, b: f64) -> f64 {
    let high = if a > b || a == b && b.is_sign_negative() {
        a
    } else {
        b
    };
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        high
    }
}

/// A NaN wins.
#[inline(always)]
pub(super) fn nan_of(result: f32, a: f32, b: f32) -> f32 {
    canonical(if a.is_nan() || b.is_nan() {
        f32::NAN
    } else {
        result
    })
}

/// 2^x: to the nearest integer n and a rest in [-1/2, 1/2], whose power is a Taylor series to the 7th term (error
/// 2^-27), scaled by 2^n in two factors so that subnormal results come out. The ISA allows 2^-22.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    let clamped = x.clamp(-160.0, 160.0);
    let n = clamped.round_ties_even();
    let r = (clamped - n) * std::f32::consts::LN_2;
    let mut p = 1.0 / 5040.0;
    for c in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = r.mul_add(p, c);
    }
    // n is within ±160, so that neither half overflows an exponent.
    let n = n as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    canonical(if x.is_nan() {
        x
    } else {
        p * power(half) * power(n - half)
    })
}

/// log2(x) = e + 2/ln 2 · artanh((m - 1) / (m + 1)) with m in [√½, √2). The ISA allows 2^-22 absolute near 1, relative
/// elsewhere.
#[inline(always)]
pub(super) fn log2(x: f32) -> f32 {
    let subnormal = x < f32::MIN_POSITIVE;
    let scaled = if subnormal { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits();
    // Moves the cut between exponents from 1 to √½.
    let shifted = bits.wrapping_sub(0x3f35_04f3);
    let e = shifted as i32 >> 23;
    let m = f32::from_bits(bits.wrapping_sub((e as u32) << 23));
    let e = if subnormal { e - 23 } else { e };
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 1.0 / 11.0;
    for c in [1.0 / 9.0, 1.0 / 7.0, 0.2, 1.0 / 3.0, 1.0] {
        p = z.mul_add(p, c);
    }
    let value = (s * p).mul_add(2.0 * std::f32::consts::LOG2_E, e as f32);
    let edge = if x == 0.0 {
        f32::NEG_INFINITY
    } else if x == f32::INFINITY {
        x
    } else {
        f32::NAN
    };
    canonical(if x > 0.0 && x < f32::INFINITY {
        value
    } else {
        edge
    })
}

/// tanh(x); the ISA allows a relative error of 2^-11.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    // The series to x^9 up to 1/2 (error below 2^-15), the exponential beyond.
    let mut p = 62.0 / 2835.0;
    for c in [-17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0] {
        p = z.mul_add(p, c);
    }
    let t = exp2(-2.0 * std::f32::consts::LOG2_E * a);
    let large = ((1.0 - t) / (1.0 + t)).copysign(x);
    canonical(if a < 0.5 { x * p } else { large })
}
