//! The GPUs that a virtual device can be like: figures of NVIDIA's CUDA programming guide (compute capabilities) and
//! of the data sheets.

/// What an architecture gives a kernel. Shared memory in bytes, clocks in kHz.
#[derive(Debug)]
pub struct Architecture {
    /// 80 for sm_80.
    pub capability: u32,
    /// The GPU whose size it has.
    pub like: &'static str,
    pub multiprocessors: u32,
    /// Per multiprocessor.
    pub threads: u32,
    /// Per multiprocessor.
    pub blocks: u32,
    /// Per multiprocessor.
    pub shared: u32,
    /// Per block, after the function opted in; 1024 less than `shared`, which the system keeps.
    pub shared_opt_in: u32,
    pub clock: u32,
    pub memory_clock: u32,
    /// Bits of the memory bus.
    pub bus: u32,
    /// Bytes of L2.
    pub l2: u32,
}

/// Per multiprocessor and per block, on all of them.
pub const REGISTERS: u32 = 65536;
/// What the system keeps of every block's shared memory.
pub const SHARED_RESERVED: u32 = 1024;
/// Per block without opting in.
pub const SHARED_DEFAULT: u32 = 48 << 10;

static ALL: [Architecture; 5] = [
    Architecture {
        capability: 80,
        like: "A100",
        multiprocessors: 108,
        threads: 2048,
        blocks: 32,
        shared: 164 << 10,
        shared_opt_in: 163 << 10,
        clock: 1_410_000,
        memory_clock: 1_215_000,
        bus: 5120,
        l2: 40 << 20,
    },
    Architecture {
        capability: 86,
        like: "RTX 3090",
        multiprocessors: 82,
        threads: 1536,
        blocks: 16,
        shared: 100 << 10,
        shared_opt_in: 99 << 10,
        clock: 1_695_000,
        memory_clock: 9_751_000,
        bus: 384,
        l2: 6 << 20,
    },
    Architecture {
        capability: 89,
        like: "RTX 4090",
        multiprocessors: 128,
        threads: 1536,
        blocks: 24,
        shared: 100 << 10,
        shared_opt_in: 99 << 10,
        clock: 2_520_000,
        memory_clock: 10_501_000,
        bus: 384,
        l2: 72 << 20,
    },
    Architecture {
        capability: 90,
        like: "H100",
        multiprocessors: 132,
        threads: 2048,
        blocks: 32,
        shared: 228 << 10,
        shared_opt_in: 227 << 10,
        clock: 1_980_000,
        memory_clock: 2_619_000,
        bus: 5120,
        l2: 50 << 20,
    },
    Architecture {
        capability: 120,
        like: "RTX 5090",
        multiprocessors: 170,
        threads: 1536,
        blocks: 24,
        shared: 100 << 10,
        shared_opt_in: 99 << 10,
        clock: 2_407_000,
        memory_clock: 14_001_000,
        bus: 512,
        l2: 96 << 20,
    },
];

/// The architecture of that number.
pub fn find(capability: u32) -> Option<&'static Architecture> {
    ALL.iter().find(|a| a.capability == capability)
}

impl Architecture {
    /// `CUdevice_attribute` number `attribute`; 0 for features that the device has not.
    pub fn attribute(&self, attribute: u32) -> Option<u32> {
        Some(match attribute {
            1..=3 => 1024,        // threads of a block; along x, y
            4 => 64,              // along z
            5 => i32::MAX as u32, // blocks of a grid along x
            6 | 7 => 65535,       // along y, z
            8 => SHARED_DEFAULT,
            9 => 65536,            // constant memory
            10 => 32,              // warp size
            11 => i32::MAX as u32, // pitch
            12 | 82 => REGISTERS,
            13 => self.clock,
            14 => 512,         // texture alignment
            15 | 31 | 40 => 1, // copies overlap kernels; concurrent kernels; copy engines
            16 => self.multiprocessors,
            19 => 1, // can map host memory
            36 => self.memory_clock,
            37 => self.bus,
            38 => self.l2,
            39 => self.threads,
            51 => 32, // texture pitch alignment
            75 => self.capability / 10,
            76 => self.capability % 10,
            79 | 80 => 1, // L1 caches global and local
            81 => self.shared,
            87 => 2, // single to double ratio
            97 => self.shared_opt_in,
            106 => self.blocks,
            111 => SHARED_RESERVED,
            115 => 1, // memory pools
            0 | 200.. => return None,
            _ => 0,
        })
    }

    /// Blocks of a kernel that fit on a multiprocessor at one time, by threads and shared memory. Registers are not
    /// in it: what ptxas would assign is not known here.
    pub fn resident_blocks(&self, threads: u32, shared: u32) -> u32 {
        if threads == 0 || threads > 1024 || shared > self.shared_opt_in {
            return 0;
        }
        // Shared memory is given out in pieces of 128 bytes.
        let shared = (shared + SHARED_RESERVED).next_multiple_of(128);
        self.blocks
            .min(self.threads / threads.next_multiple_of(32))
            .min(self.shared / shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residency_is_bound_by_the_scarcest_resource() {
        let a100 = find(80).unwrap();
        assert_eq!(a100.resident_blocks(32, 0), 32); // blocks
        assert_eq!(a100.resident_blocks(1024, 0), 2); // threads
        assert_eq!(a100.resident_blocks(33, 0), 32); // 64 threads each: 32 blocks
        assert_eq!(a100.resident_blocks(128, 48 << 10), 3); // 49 KiB each of 164
        assert_eq!(a100.resident_blocks(128, 163 << 10), 1);
        assert_eq!(a100.resident_blocks(128, (163 << 10) + 1), 0);
    }
}
