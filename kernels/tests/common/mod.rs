//! The software driver, and products on it beside the same in f64.
#![allow(dead_code, reason = "every test uses a part of it")]

pub mod attention;
pub mod case;
pub mod committed;
pub mod dropped;
pub mod near;

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use deltaw_emulator::{Device, install};
use deltaw_kernels::Kernels;
use deltaw_kernels::gemm::{Output, Type};
use half::{bf16, f16};
use proptest::test_runner::{Config, RngSeed};

/// Cases from a fixed seed: the same on every machine.
pub fn cases(count: u32) -> Config {
    Config {
        cases: count,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..Config::default()
    }
}

/// A virtual GPU of one's own, all checks on, or the machine's own where `DELTAW_TEST_DEVICE=cuda`. Fields are dropped in
/// their order, the device last.
pub struct Gpu {
    pub kernels: Kernels,
    pub stream: Arc<CudaStream>,
    pub context: Arc<CudaContext>,
    device: Option<Device>,
}

impl Gpu {
    /// Like the GPU of a compute capability.
    pub fn new(capability: u32) -> Gpu {
        let own = std::env::var("DELTAW_TEST_DEVICE").is_ok_and(|choice| choice == "cuda");
        let device = (!own).then(|| {
            let emulator = install().expect("the software driver");
            emulator.device_like(capability, 1 << 30).expect("a device")
        });
        let ordinal = device.as_ref().map_or(0, |device| device.ordinal());
        let context = CudaContext::new(ordinal).expect("a context");
        Gpu {
            kernels: Kernels::new(&context).expect("attributes"),
            stream: context.default_stream(),
            context,
            device,
        }
    }

    /// Bytes in memory of exactly that size, and their address.
    pub fn upload(&self, bytes: &[u8]) -> (CudaSlice<u8>, u64) {
        // An empty matrix has no memory, but a kernel is given some address.
        let slice = if bytes.is_empty() {
            self.stream.alloc_zeros(16)
        } else {
            self.stream.clone_htod(bytes)
        };
        let slice = slice.expect("memory");
        let address = slice.device_ptr(&self.stream).0;
        (slice, address)
    }

    /// Memory that nobody has written, and its address.
    pub fn fresh(&self, bytes: usize) -> (CudaSlice<u8>, u64) {
        // SAFETY: what is in it is the kernels' business; the driver's checks see who reads it before it is written.
        let slice = unsafe { self.stream.alloc(bytes.max(16)) }.expect("memory");
        let address = slice.device_ptr(&self.stream).0;
        (slice, address)
    }

    /// The software driver's device, for its counters and checks.
    pub fn virtual_device(&self) -> &Device {
        let device = self.device.as_ref();
        device.expect("only the software driver counts: unset DELTAW_TEST_DEVICE")
    }

    /// Waits, and says what a kernel did wrong, with the driver's words.
    pub fn finish(&self) -> Result<(), String> {
        let done = self.stream.synchronize();
        let fault = self
            .device
            .as_ref()
            .and_then(|device| device.last_fault().expect("an answer"));
        match fault {
            Some(fault) => Err(fault.message),
            None => done.map_err(|e| format!("{e:?}")),
        }
    }
}

/// Numbers in [-1, 1), a fixed function of the seed.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mix = |i: u64| {
        let x =
            (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    (0..count as u64)
        .map(|i| (mix(i) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// Philox4x32-10 as published (Salmon et al. 2011, §3.3).
pub fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let (p0, p1) = (0xD251_1F53 * u64::from(c[0]), 0xCD9E_8D57 * u64::from(c[2]));
        let [hi0, hi1] = [p0, p1].map(|p| (p >> 32) as u32);
        c = [hi1 ^ c[1] ^ k[0], p1 as u32, hi0 ^ c[3] ^ k[1], p0 as u32];
        k = [
            k[0].wrapping_add(0x9E37_79B9),
            k[1].wrapping_add(0xBB67_AE85),
        ];
    }
    c
}

/// How numbers lie in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    Bf16,
    F16,
    F32,
}

impl From<Type> for Format {
    fn from(t: Type) -> Format {
        match t {
            Type::Bf16 => Format::Bf16,
            Type::F16 => Format::F16,
            Type::Tf32 | Type::F32 => Format::F32,
        }
    }
}

impl From<Output> for Format {
    fn from(t: Output) -> Format {
        match t {
            Output::Bf16 => Format::Bf16,
            Output::F16 => Format::F16,
            Output::F32 => Format::F32,
        }
    }
}

impl Format {
    /// Half an ulp of 1: the largest relative error of rounding to it.
    pub fn rounding(self) -> f64 {
        match self {
            Format::Bf16 => 2f64.powi(-8),
            Format::F16 => 2f64.powi(-11),
            Format::F32 => 2f64.powi(-24),
        }
    }

    pub fn bytes(self) -> usize {
        if self == Format::F32 { 4 } else { 2 }
    }

    pub fn round(self, x: f32) -> f32 {
        match self {
            Format::Bf16 => bf16::from_f32(x).to_f32(),
            Format::F16 => f16::from_f32(x).to_f32(),
            Format::F32 => x,
        }
    }

    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Format::Bf16 => values
                .iter()
                .flat_map(|x| bf16::from_f32(*x).to_le_bytes())
                .collect(),
            Format::F16 => values
                .iter()
                .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                .collect(),
            Format::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Format::Bf16 => pairs(bytes)
                .map(|b| bf16::from_le_bytes(b).to_f32())
                .collect(),
            Format::F16 => pairs(bytes)
                .map(|b| f16::from_le_bytes(b).to_f32())
                .collect(),
            Format::F32 => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        }
    }
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    bytes.chunks_exact(2).map(|b| [b[0], b[1]])
}
