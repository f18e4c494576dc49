//! What every kernel family does at the sizes of real layers, by the software driver's counters, in a committed table.

use std::fmt::Write;

use deltaw_benches::speed::{self, Subject};
use deltaw_emulator::{Checks, Counters};
use deltaw_tests::as_committed;
use deltaw_tests::gpu::Gpu;

const TOKENS: usize = 128;

/// What reads each operand once and writes each result once.
const STREAMING: [&str; 13] = [
    "gelu",
    "transpose",
    "sum over",
    "softmax",
    "layer norm",
    "RMS norm",
    "cross-entropy",
    "dropout",
    "rotary",
    "patches 16",
    "patches' gradient 16",
    "normal",
    "AdamW",
];

/// A subject's kernel launches and what they did together.
fn counted(gpu: &Gpu, subject: &mut Subject) -> (usize, Counters) {
    let driver = gpu
        .counters()
        .expect("the software driver counts: unset DELTAW_TEST_DEVICE");
    let finish = || {
        let done = gpu.device.as_cuda().unwrap().synchronize();
        done.unwrap_or_else(|e| gpu.fail(e));
    };
    // What made the operands is no part of it.
    finish();
    driver.clear().unwrap();
    (subject.run)().unwrap_or_else(|e| gpu.fail(e));
    gpu.device
        .as_cuda()
        .unwrap()
        .synchronize()
        .unwrap_or_else(|e| gpu.fail(e));
    let launches = driver.launches().unwrap();
    let mut all = Counters::default();
    for launch in &launches {
        all += &launch.counters;
    }
    (launches.len(), all)
}

/// What streams moves at most a tenth more than it must; accesses of global memory are coalesced, products meet no other lane in a
/// bank, and those of the tensor cores' types are all on them. `UPDATE=1` in the environment writes the table anew.
#[test]
fn the_counters_are_as_committed() {
    let gpu = Gpu::new();
    let counters = Checks {
        counters: true,
        ..Checks::NONE
    };
    gpu.counters().unwrap().set_checks(counters).unwrap();
    let mut subjects = speed::families(&gpu.device, TOKENS).unwrap();
    let products = speed::products(&gpu.device, TOKENS).unwrap();
    // The larger layers add minutes and say nothing new.
    subjects.extend(
        products
            .into_iter()
            .filter(|s| s.name.starts_with("gpt2") || s.name.starts_with("vit")),
    );
    let mut table = String::from(
        "# launches; bytes of global memory asked for, the fewest there could be, their ratio; share of the fewest possible sectors;\n\
         # share of the fewest possible passes over the banks; operations outside and on the tensor cores\n",
    );
    for mut subject in subjects {
        let (launches, counters) = counted(&gpu, &mut subject);
        let (global, banks) = (counters.global, counters.shared.efficiency());
        writeln!(
            table,
            "{:<64} {launches:3} {:>11} {:>11} {:5.2} {:5.3} {banks:5.3} {:>11} {:>11}",
            subject.name,
            global.bytes,
            subject.bytes,
            global.bytes as f64 / subject.bytes as f64,
            global.efficiency(),
            counters.float_flops,
            counters.matrix_flops,
        )
        .unwrap();
        if STREAMING.iter().any(|kind| subject.name.starts_with(kind)) {
            assert!(
                10 * global.bytes <= 11 * subject.bytes && global.efficiency() >= 0.95,
                "{}: {global:?} for {} bytes",
                subject.name,
                subject.bytes
            );
        }
        if [" tf32", " bf16", " f16"]
            .iter()
            .any(|kind| subject.name.ends_with(kind))
        {
            let on_cores = counters.matrix_flops as f64
                / (counters.matrix_flops + counters.float_flops) as f64;
            assert!(
                on_cores >= 0.95,
                "{}: {on_cores} of the operations on the tensor cores",
                subject.name
            );
        }
        if ["f32", "tf32", "bf16", "f16"]
            .iter()
            .any(|kind| subject.name.ends_with(kind))
        {
            assert!(
                global.efficiency() >= 0.95 && banks >= 1.0,
                "{}: {global:?}, {banks}",
                subject.name
            );
        }
    }
    as_committed("counters.txt", &table);
}
