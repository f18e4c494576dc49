//! Any bytes as a PTX text: loaded, and every kernel launched once within limits. Start from `../tests/ptx`.
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
    for function in module.functions.iter().filter(|f| f.is_kernel) {
        let bytes = function.param_bytes();
        let (Some(kernel), true) = (loaded.kernel(&function.name), bytes <= 4096) else { continue };
        let params = vec![0; bytes as usize];
        let shape = LaunchConfig { grid: [1, 1, 1], block: [32, 1, 1], dynamic_shared: 64, params: &params };
        let _ = launch(kernel, &shape, &memory, &Checks::ALL, 1_000);
    }
});
