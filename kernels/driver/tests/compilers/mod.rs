//! What the tests against other compilers share.
#![allow(dead_code, reason = "every test uses a part of it")]

pub mod bench;
pub mod tools;

/// A result with any error.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Fails if a PTX text was compiled from other sources than these: its first line is `// ` and their CRC-32.
pub fn check_fresh(ptx: &str, sources: &[&str], script: &str) -> Result {
    let mut crc = !0u32;
    for byte in sources.iter().flat_map(|source| source.bytes()) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let first = ptx.lines().next().unwrap_or_default();
    if first == format!("// {:08x}", !crc) {
        Ok(())
    } else {
        Err(format!("stale PTX: run {script}").into())
    }
}

/// |a - b| ≤ bound, or equal, or both NaN.
pub fn near(a: f64, b: f64, bound: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= bound
}

/// SplitMix64: the same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// Multiples of 1/256 up to 1000/256 in magnitude: exact in f16 and TF32.
    pub fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| (self.below(2001) as f32 - 1000.0) / 256.0)
            .collect()
    }
}
