//! The floats of 8 bits: e4m3 (largest 448, no infinity) and e5m2.

use super::float16::{NAN16, f16_to_f32, f32_to_f16};

/// To nearest, ties to even; beyond the largest becomes the largest, NaN 0x7f. `MANTISSA` bits, the exponent of the
/// smallest normal number, the code of the largest number.
#[inline(always)]
fn encode<const MANTISSA: i32, const LEAST: i32, const LARGEST: u32>(x: f32) -> u8 {
    let magnitude = x.abs().min(f32::MAX);
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).clamp(LEAST, 127);
    // In units of the last place; a carry moves the exponent up.
    let unit = f32::from_bits(((127 + MANTISSA - exponent) as u32) << 23);
    let rounded = (magnitude * unit).round_ties_even() as u32;
    let code = (((exponent - LEAST) as u32) << MANTISSA) + rounded;
    let sign = x.to_bits() >> 24 & 0x80;
    if x.is_nan() {
        0x7f
    } else {
        (code.min(LARGEST) | sign) as u8
    }
}

#[inline(always)]
pub fn f32_to_e4m3(x: f32) -> u8 {
    encode::<3, -6, 0x7e>(x)
}

#[inline(always)]
pub fn f32_to_e5m2(x: f32) -> u8 {
    encode::<2, -14, 0x7b>(x)
}

/// Exact.
#[inline(always)]
pub fn e4m3_to_f16(code: u8) -> u16 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let (significand, power) = if exponent == 0 {
        (mantissa, -9)
    } else {
        (8.0 + mantissa, exponent - 10)
    };
    let magnitude = significand * f32::from_bits(((127 + power) as u32) << 23);
    if code & 0x7f == 0x7f {
        NAN16
    } else {
        f32_to_f16(magnitude) | u16::from(code & 0x80) << 8
    }
}

/// Exact: f16's upper half, but for the NaN.
#[inline(always)]
pub fn e5m2_to_f16(code: u8) -> u16 {
    let bits = u16::from(code) << 8;
    if f16_to_f32(bits).is_nan() {
        NAN16
    } else {
        bits
    }
}
