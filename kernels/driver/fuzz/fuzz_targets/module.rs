//! Any text as PTX: loaded, and every kernel launched once within limits, its pointers to a buffer. Seeds are the
//! committed texts:
//!
//!     cargo install cargo-fuzz
//!     cargo +nightly fuzz run module corpus ../tests/ptx ../tests/triton -- -dict=dictionary -timeout=10
#![no_main]

use deltaw_driver::exec::{Checks, LaunchConfig, Loaded, launch};
use deltaw_driver::memory::{LOWEST_BASE, Memory, MemoryConfig};
use deltaw_driver::ptx::Module;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(module) = Module::parse(text) else { return };
    let config = MemoryConfig { base: LOWEST_BASE, capacity: 1 << 20, shadow: true };
    let memory = Memory::new(config).expect("a megabyte of address space");
    let Ok(loaded) = Loaded::new(&module, &memory) else { return };
    let buffer = memory.alloc(1 << 16).expect("there is room");
    memory.write(buffer, &[0; 1 << 16]).expect("it is allocated");
    for function in module.functions.iter().filter(|f| f.is_kernel) {
        let bytes = function.param_bytes();
        let (Some(kernel), true) = (loaded.kernel(&function.name), bytes <= 4096) else { continue };
        let mut params = vec![0; bytes as usize];
        for param in &kernel.function().params {
            let value = if param.size == 8 { buffer } else { 32 };
            let value = &value.to_le_bytes()[..(param.size as usize).min(8)];
            params[param.offset as usize..][..value.len()].copy_from_slice(value);
        }
        let block = function.required_threads.unwrap_or([33, 1, 1]);
        let shape = LaunchConfig { grid: [2, 1, 1], block, dynamic_shared: 16384, params: &params };
        let _ = launch(kernel, &shape, &memory, &Checks::ALL, 1_000);
    }
});
