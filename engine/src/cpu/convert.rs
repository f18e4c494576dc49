//! Bulk conversions between f32 and the 16-bit formats, round to nearest, ties to even.
//!
//! bf16 keeps f32's exponent and 8 bits of significand; f16 has 5 bits of exponent, 11 of
//! significand and subnormals, which are kept. Too large for f16 becomes ±∞; a NaN stays one.

use half::{bf16, f16};

use super::simd;
use super::threads;

/// Elements in a piece of work.
const GRAIN: usize = 1 << 16;

/// The f32 that an f16's bits stand for, exactly.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // The exponent's bias moves by a product, which is exact and makes subnormals normal: 2^112.
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let value = if magnitude >= 0x0f80_0000 {
        magnitude | 0x7f80_0000
    } else {
        finite
    };
    f32::from_bits(sign | value)
}

/// The nearest f16's bits.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Adding ½ lets the float adder round a subnormal at bit 2^-24.
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0.5f32.to_bits());
    // Exponent bias 127 → 15; a carry out of the significand goes into the exponent, up to ∞.
    let normal = magnitude
        .wrapping_sub(112 << 23)
        .wrapping_add(0xfff + ((magnitude >> 13) & 1))
        >> 13;
    let nan = 0x7e00 | ((magnitude >> 13) & 0x1ff);
    let value = if magnitude > 0x7f80_0000 {
        nan
    } else if magnitude >= 0x4780_0000 {
        0x7c00
    } else if magnitude < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    sign | value as u16
}

/// The f32 that a bf16's bits stand for, exactly.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bf16's bits.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 {
        nan
    } else {
        rounded
    }) as u16
}

macro_rules! bulk {
    ($(#[$doc:meta])* $name:ident: $from:ty => $to:ty, $convert:expr) => {
        $(#[$doc])*
        ///
        /// Panics where the lengths differ.
        pub fn $name(from: &[$from], to: &mut [$to]) {
            #[inline(always)]
            fn convert(from: &[$from], to: &mut [$to]) {
                for (t, f) in to.iter_mut().zip(from) {
                    *t = $convert(*f);
                }
            }
            assert_eq!(from.len(), to.len(), "conversion between slices of different lengths");
            threads::par_rows(to, 1, GRAIN, |first, to| {
                let from = &from[first..first + to.len()];
                simd::dispatch(#[inline(always)] || convert(from, to));
            });
        }
    };
}

bulk!(
    /// Widens f16 to f32, exactly.
    widen_f16: f16 => f32, |v: f16| f16_to_f32(v.to_bits())
);
bulk!(
    /// Widens bf16 to f32, exactly.
    widen_bf16: bf16 => f32, |v: bf16| bf16_to_f32(v.to_bits())
);
bulk!(
    /// Rounds f32 to the nearest f16.
    narrow_f16: f32 => f16, |v: f32| f16::from_bits(f32_to_f16(v))
);
bulk!(
    /// Rounds f32 to the nearest bf16.
    narrow_bf16: f32 => bf16, |v: f32| bf16::from_bits(f32_to_bf16(v))
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_16_bit_value_widens_as_in_half_and_comes_back() {
        for bits in 0..=u16::MAX {
            let (wide, expected) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(
                wide == expected || wide.is_nan() && expected.is_nan(),
                "f16 {bits:#06x}"
            );
            if !wide.is_nan() {
                assert_eq!(f32_to_f16(wide), bits);
            }
            let wide = bf16_to_f32(bits);
            assert!(
                wide.is_nan() || f32_to_bf16(wide) == bits,
                "bf16 {bits:#06x}"
            );
        }
    }

    #[test]
    fn narrowing_rounds_as_half_does() {
        // Every 977th pattern meets each exponent, both signs, ties and NaN payloads.
        for bits in (0..=u32::MAX)
            .step_by(977)
            .chain((0..1 << 17).map(|h| h << 15))
        {
            let x = f32::from_bits(bits);
            let (h, b) = (f32_to_f16(x), f32_to_bf16(x));
            if x.is_nan() {
                assert!(
                    f16::from_bits(h).is_nan() && bf16::from_bits(b).is_nan(),
                    "{bits:#010x}"
                );
            } else {
                assert_eq!(h, f16::from_f32(x).to_bits(), "f16 of {bits:#010x}");
                assert_eq!(b, bf16::from_f32(x).to_bits(), "bf16 of {bits:#010x}");
            }
        }
    }

    #[test]
    fn bulk_is_the_scalar_form_on_every_length() {
        for n in [0usize, 1, 7, 16, 31, 1000] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 - 300.3) * 1.7).collect();
            let mut h = vec![f16::ZERO; n];
            let mut back = vec![0.0; n];
            narrow_f16(&x, &mut h);
            widen_f16(&h, &mut back);
            assert!(
                x.iter()
                    .zip(&back)
                    .all(|(a, b)| f16::from_f32(*a).to_f32() == *b)
            );
            let mut b = vec![bf16::ZERO; n];
            narrow_bf16(&x, &mut b);
            widen_bf16(&b, &mut back);
            assert!(
                x.iter()
                    .zip(&back)
                    .all(|(a, b)| bf16::from_f32(*a).to_f32() == *b)
            );
        }
    }
}
