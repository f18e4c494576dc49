//! Random numbers addressed by what they are for, never by call order: recomputation, resumption and paired arms draw
//! the same numbers, and so do all devices.

use crate::cpu::philox;
use crate::device::{Device, Distribution};
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

/// What a stream of numbers is for. Streams with different purposes never share a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Initial values of parameters.
    Init,
    /// Dropout masks.
    Dropout,
    /// Order of the data.
    Data,
    /// Noise of a method or a diffusion process.
    Noise,
    /// Frozen random bases.
    Basis,
    /// Sampling from a model.
    Sample,
}

/// The address of a stream: element `i` of the stream is a pure function of the key and `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RandomKey {
    /// The run's seed.
    pub seed: u64,
    /// What for.
    pub purpose: Purpose,
    /// Training step, 0 outside training.
    pub step: u64,
    /// Which layer or parameter: usually [`site`] of its path.
    pub site: u64,
}

/// A stable 64-bit name of a path (FNV-1a).
pub fn site(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ b as u64).wrapping_mul(0x0100_0000_01b3)
    })
}

impl RandomKey {
    /// A key of step 0.
    pub fn new(seed: u64, purpose: Purpose, path: &str) -> Self {
        RandomKey {
            seed,
            purpose,
            step: 0,
            site: site(path),
        }
    }
}

/// Elements `0..out.len()` of a stream.
pub fn fill(distribution: Distribution, key: RandomKey, out: &mut [f32]) {
    match distribution {
        Distribution::Uniform => philox::fill_uniform(key, 0, out),
        Distribution::Normal => philox::fill_normal(key, 0, out),
        Distribution::Bernoulli(p) => {
            philox::fill_uniform(key, 0, out);
            for x in out {
                *x = (*x < p) as u8 as f32;
            }
        }
    }
}

impl Tensor {
    /// Random f32 elements: element `i` in row-major order is number `i` of the stream.
    pub fn random(
        shape: &[usize],
        distribution: Distribution,
        key: RandomKey,
        device: &Device,
    ) -> Result<Tensor> {
        let mut out = Tensor::empty(shape, DType::F32, device)?;
        device.backend().random(distribution, key, &mut out)?;
        Ok(out)
    }
}
