//! Philox4x32-10 (Salmon et al. 2011): a counter-based generator.

use crate::random::RandomKey;

/// Ten rounds on a counter under a key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let (p0, p1) = (
            0xD251_1F53u64 * counter[0] as u64,
            0xCD9E_8D57u64 * counter[2] as u64,
        );
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    counter
}

fn word(key: RandomKey, i: u64) -> u32 {
    let mixed =
        (key.site ^ (key.purpose as u64) << 56 ^ key.step.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let block = i / 4;
    philox(
        [
            block as u32,
            (block >> 32) as u32,
            mixed as u32,
            (mixed >> 32) as u32,
        ],
        [key.seed as u32, (key.seed >> 32) as u32],
    )[(i % 4) as usize]
}

/// Uniform in [0, 1): elements `first..` of the stream.
pub fn fill_uniform(key: RandomKey, first: u64, out: &mut [f32]) {
    for (i, x) in out.iter_mut().enumerate() {
        *x = (word(key, first + i as u64) >> 8) as f32 * (1.0 / (1 << 24) as f32);
    }
}

/// Standard normal: elements `first..` of the stream, by Box and Muller's transform.
pub fn fill_normal(key: RandomKey, first: u64, out: &mut [f32]) {
    for (i, x) in out.iter_mut().enumerate() {
        let i = 2 * (first + i as u64);
        let (u, v) = (word(key, i), word(key, i + 1));
        let radius = (-2.0 * ((u as f64 + 1.0) / 4_294_967_296.0).ln()).sqrt();
        *x = (radius * (v as f64 / 4_294_967_296.0 * std::f64::consts::TAU).cos()) as f32;
    }
}
