//! Runs PTX text on the driver's core.
#![allow(dead_code, reason = "every test uses a part of it")]

use deltaw_driver::counters::Counters;
use deltaw_driver::exec::{Checks, Fault, LaunchConfig, Loaded, launch};
use deltaw_driver::memory::{LOWEST_BASE, Memory, MemoryConfig};
use deltaw_driver::ptx::Module;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

/// Property tests with the same cases on every machine.
pub fn same_cases(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(1),
        ..Config::default()
    }
}

pub const LIMIT: u64 = 100_000_000;

/// A device with one module.
pub struct Device {
    pub memory: Memory,
    pub loaded: Loaded,
}

/// A kernel argument.
#[derive(Clone, Copy)]
pub enum Arg {
    U64(u64),
    U32(u32),
    F32(f32),
}

impl Device {
    pub fn new(ptx: &str) -> Device {
        let memory = Memory::new(MemoryConfig {
            base: LOWEST_BASE,
            capacity: 1 << 30,
            shadow: true,
        })
        .unwrap();
        let module = Module::parse(ptx).unwrap_or_else(|e| panic!("{e}"));
        let loaded = Loaded::new(&module, &memory).unwrap_or_else(|e| panic!("{e}"));
        Device { memory, loaded }
    }

    pub fn upload<T: Copy>(&self, data: &[T]) -> u64 {
        let bytes = size_of_val(data);
        let address = self.memory.alloc(bytes as u64).unwrap();
        // SAFETY: tests upload plain numbers.
        let raw = unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), bytes) };
        self.memory.write(address, raw).unwrap();
        address
    }

    pub fn alloc<T>(&self, n: usize) -> u64 {
        self.memory.alloc((n * size_of::<T>()) as u64).unwrap()
    }

    pub fn download<T: Copy + Default>(&self, address: u64, n: usize) -> Vec<T> {
        let mut out = vec![T::default(); n];
        // SAFETY: tests download plain numbers.
        let raw =
            unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), n * size_of::<T>()) };
        self.memory.read(address, raw).unwrap();
        out
    }

    pub fn launch(
        &self,
        kernel: &str,
        grid: u32,
        block: u32,
        shared: u32,
        args: &[Arg],
    ) -> Result<Counters, Fault> {
        self.launch_with(
            kernel,
            [grid, 1, 1],
            [block, 1, 1],
            shared,
            args,
            &Checks::ALL,
            LIMIT,
        )
    }

    #[allow(clippy::too_many_arguments, reason = "a launch has that many parts")]
    pub fn launch_with(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        args: &[Arg],
        checks: &Checks,
        limit: u64,
    ) -> Result<Counters, Fault> {
        let kernel = self
            .loaded
            .kernel(kernel)
            .expect("the kernel is in the module");
        let mut params = vec![0; kernel.function().param_bytes() as usize];
        for (arg, param) in args.iter().zip(&kernel.function().params) {
            let bytes: Vec<u8> = match arg {
                Arg::U64(x) => x.to_le_bytes().to_vec(),
                Arg::U32(x) => x.to_le_bytes().to_vec(),
                Arg::F32(x) => x.to_le_bytes().to_vec(),
            };
            params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let config = LaunchConfig {
            grid,
            block,
            dynamic_shared,
            params: &params,
        };
        launch(kernel, &config, &self.memory, checks, limit)
    }
}

/// A module of one kernel `k` with a body.
pub fn module(params: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k({params})\n{{\n{body}\n}}\n"
    )
}
