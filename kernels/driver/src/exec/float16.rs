//! f16 and bf16 by bits, without branches, so that loops over lanes become vector code.

/// The NaN that f32 instructions return.
pub const NAN: u32 = 0x7fff_ffff;
/// The NaN that f16 and bf16 instructions return.
pub const NAN16: u16 = 0x7fff;

/// Replaces every NaN by the canonical one. On the bits, since a compiler may take one NaN for another.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 {
        NAN
    } else {
        bits
    })
}

/// Exact.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let h = u32::from(h);
    // Exponent and mantissa in place, then the bias put right by an exact product, which also normalises subnormals.
    let scaled = f32::from_bits((h & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = f32::from_bits((h & 0x7fff) << 13 | 0x7f80_0000);
    let magnitude = if h & 0x7c00 == 0x7c00 {
        special
    } else {
        scaled
    };
    f32::from_bits(magnitude.to_bits() | (h & 0x8000) << 16)
}

/// To nearest, ties to even; NaN becomes the canonical one.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let (sign, magnitude) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
    // Normal: drop 13 bits, rounding to even. A carry moves the exponent up, to infinity if need be.
    let normal =
        (magnitude.wrapping_sub(112 << 23)).wrapping_add(0xfff + (magnitude >> 13 & 1)) >> 13;
    // Subnormal (below 2^-14): adding 0.5 leaves the value in units of 2^-24 in the mantissa, rounded by the addition.
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0.5f32.to_bits());
    let finite = if magnitude < 113 << 23 {
        subnormal
    } else {
        normal.min(0x7c00)
    };
    let out = if magnitude > 0x7f80_0000 {
        u32::from(NAN16)
    } else {
        finite | sign
    };
    out as u16
}

/// Exact.
#[inline(always)]
pub fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// To nearest, ties to even; NaN becomes the canonical one.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        NAN16
    } else {
        rounded as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_and_bf16_comes_back() {
        for h in 0..=u16::MAX {
            let reference = half::f16::from_bits(h);
            assert!(
                f16_to_f32(h).to_bits() == reference.to_f32().to_bits() || reference.is_nan(),
                "{h:#x}"
            );
            let back = if reference.is_nan() { NAN16 } else { h };
            assert_eq!(f32_to_f16(f16_to_f32(h)), back, "{h:#x}");
            let back = if half::bf16::from_bits(h).is_nan() {
                NAN16
            } else {
                h
            };
            assert_eq!(f32_to_bf16(bf16_to_f32(h)), back, "{h:#x}");
        }
    }

    #[test]
    fn rounding_agrees_with_the_half_crate() {
        // Around every f16: the neighbours of each value and of each midpoint, and a spread of all exponents.
        let near = (0..0x7c00u16).flat_map(|h| {
            let (a, b) = (f16_to_f32(h), f16_to_f32(h + 1));
            let middle = if b.is_finite() {
                (a + b) / 2.0
            } else {
                65520.0
            };
            [a, middle]
                .into_iter()
                .flat_map(|x: f32| [x, x.next_up(), x.next_down()])
        });
        let spread = (0..=u32::MAX / 65_537).map(|i| f32::from_bits(i * 65_537));
        for x in near.chain(spread).filter(|x| !x.is_nan()) {
            assert_eq!(f32_to_f16(x), half::f16::from_f32(x).to_bits(), "{x:e}");
            assert_eq!(f32_to_bf16(x), half::bf16::from_f32(x).to_bits(), "{x:e}");
        }
    }
}
