//! GPUs by their data sheets: how many blocks of a kernel they hold, and the least time that a launch can take.

use deltaw_emulator::Counters;
use serde::Serialize;

/// A GPU. Occupancy follows NVIDIA's occupancy calculator, the peaks the data sheets.
#[derive(Debug)]
pub struct Gpu {
    /// Its name.
    pub name: &'static str,
    /// 80 for sm_80.
    pub capability: u32,
    /// Threads of a multiprocessor.
    pub threads: u32,
    /// Blocks of a multiprocessor.
    pub blocks: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared: u32,
    /// Peak bytes per second of device memory.
    pub bandwidth: f64,
    /// Peak f32 operations per second outside of the tensor cores.
    pub float_flops: f64,
    /// Peak f16 and bf16 operations per second of the tensor cores, dense, accumulating in f32.
    pub matrix_flops: f64,
}

/// The GPUs that a profile speaks of.
pub static GPUS: [Gpu; 4] = [
    Gpu {
        name: "A100",
        capability: 80,
        threads: 2048,
        blocks: 32,
        shared: 164 << 10,
        bandwidth: 1.555e12,
        float_flops: 19.5e12,
        matrix_flops: 312e12,
    },
    Gpu {
        name: "RTX 4090",
        capability: 89,
        threads: 1536,
        blocks: 24,
        shared: 100 << 10,
        bandwidth: 1.008e12,
        float_flops: 82.6e12,
        matrix_flops: 165.2e12,
    },
    Gpu {
        name: "H100",
        capability: 90,
        threads: 2048,
        blocks: 32,
        shared: 228 << 10,
        bandwidth: 3.35e12,
        float_flops: 66.9e12,
        matrix_flops: 989.4e12,
    },
    Gpu {
        name: "RTX 5090",
        capability: 120,
        threads: 1536,
        blocks: 24,
        shared: 100 << 10,
        bandwidth: 1.792e12,
        float_flops: 104.8e12,
        matrix_flops: 209.5e12,
    },
];

/// What keeps more blocks from fitting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Blocks of a multiprocessor.
    Blocks,
    /// Threads of a multiprocessor.
    Threads,
    /// Registers.
    Registers,
    /// Shared memory.
    Shared,
}

/// How full a multiprocessor gets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Occupancy {
    /// Blocks at a time.
    pub blocks: u32,
    /// Their warps over those that a multiprocessor can hold.
    pub fraction: f64,
    /// The scarcest resource.
    pub limit: Limit,
}

/// The least time of a launch by one of the peaks: a prediction, and no measurement. It takes every sector as coming
/// from device memory and every matrix product as of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// Microseconds.
    pub microseconds: f64,
    /// Which peak: `memory`, `float` or `matrix`.
    pub peak: &'static str,
}

impl Gpu {
    /// Blocks of `threads` threads with so many registers each and `shared` bytes that fit on a multiprocessor.
    pub fn occupancy(&self, threads: u32, registers: u32, shared: u32) -> Occupancy {
        let warps = threads.div_ceil(32).max(1);
        // A warp's registers come in units of 256, and warps by fours: one for each of the four schedulers.
        let by_registers = match (registers * 32).next_multiple_of(256) {
            0 => u32::MAX,
            each => (65536 / each) / 4 * 4 / warps,
        };
        // Of each block's shared memory the system keeps 1 KiB; it comes in units of 128 bytes.
        let by_shared = self.shared / (shared + 1024).next_multiple_of(128);
        let by_threads = self.threads / 32 / warps;
        let (blocks, limit) = [
            (by_shared, Limit::Shared),
            (by_registers, Limit::Registers),
            (by_threads, Limit::Threads),
            (self.blocks, Limit::Blocks),
        ]
        .into_iter()
        .min_by_key(|&(blocks, _)| blocks)
        .expect("four candidates");
        Occupancy {
            blocks,
            fraction: f64::from(blocks * warps) / f64::from(self.threads / 32),
            limit,
        }
    }

    /// The least time by the peaks.
    pub fn bound(&self, counters: &Counters) -> Bound {
        let candidates = [
            (
                32.0 * counters.global.units as f64 / self.bandwidth,
                "memory",
            ),
            (counters.float_flops as f64 / self.float_flops, "float"),
            (counters.matrix_flops as f64 / self.matrix_flops, "matrix"),
        ];
        let (seconds, peak) = candidates
            .into_iter()
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .expect("three candidates");
        Bound {
            microseconds: seconds * 1e6,
            peak,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_is_that_of_the_calculator() {
        let [a100, rtx4090, ..] = &GPUS;
        let of = |gpu: &Gpu, threads, registers, shared| {
            let o = gpu.occupancy(threads, registers, shared);
            (o.blocks, (o.fraction * 100.0).round() as u32, o.limit)
        };
        // 32 registers are 1024 a warp: 64 warps, all of them.
        assert_eq!(of(a100, 256, 32, 0), (8, 100, Limit::Registers));
        // 40 registers: 1280 a warp, 51 warps, by fours 48, 6 blocks of 8.
        assert_eq!(of(a100, 256, 40, 0), (6, 75, Limit::Registers));
        assert_eq!(of(a100, 128, 16, 48 << 10), (3, 19, Limit::Shared));
        assert_eq!(of(a100, 32, 16, 0), (32, 50, Limit::Blocks));
        assert_eq!(of(rtx4090, 1024, 16, 0), (1, 67, Limit::Threads));
        assert_eq!(of(rtx4090, 128, 255, 0), (2, 17, Limit::Registers));
    }
}
