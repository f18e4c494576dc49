//! What every kernel family does at the sizes of real layers, by the software driver's counters, in a committed table.

use std::collections::BTreeMap;
use std::fmt::Write;

use deltaw_benches::speed::{self, Subject};
use deltaw_emulator::{Checks, Counters, Launch};
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

/// Kernels of the updates, told apart from the products around them.
const UPDATES: [&str; 4] = ["triangular", "block_affine", "kernelized", "random_basis"];

/// A subject's kernel launches.
fn counted(gpu: &Gpu, subject: &mut Subject) -> Vec<Launch> {
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
    driver.launches().unwrap()
}

/// How many launches, and what they did together.
fn together<'a>(launches: impl Iterator<Item = &'a Launch>) -> (usize, Counters) {
    launches.fold((0, Counters::default()), |(count, mut all), launch| {
        all += &launch.counters;
        (count + 1, all)
    })
}

/// What streams moves at most a tenth more than it must; accesses of global memory are coalesced, products and attention meet no
/// other lane in a bank, and those of the tensor cores' types are all on them. Linears with an update are followed by its own kernels.
/// `UPDATE=1` in the environment writes the table anew.
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
    let mut wasteful = Vec::new();
    for mut subject in subjects {
        let launches = counted(&gpu, &mut subject);
        let (count, counters) = together(launches.iter());
        let (global, banks) = (counters.global, counters.shared.efficiency());
        writeln!(
            table,
            "{:<64} {count:3} {:>11} {:>11} {:5.2} {:5.3} {banks:5.3} {:>11} {:>11}",
            subject.name,
            global.bytes,
            subject.bytes,
            global.bytes as f64 / subject.bytes as f64,
            global.efficiency(),
            counters.float_flops,
            counters.matrix_flops,
        )
        .unwrap();
        let mut own: BTreeMap<&str, Vec<&Launch>> = BTreeMap::new();
        for launch in &launches {
            if UPDATES.iter().any(|kind| launch.kernel.starts_with(kind)) {
                own.entry(&launch.kernel).or_default().push(launch);
            }
        }
        for (kernel, launches) in own {
            let (count, counters) = together(launches.into_iter());
            let (coalesced, banks) = (counters.global.efficiency(), counters.shared.efficiency());
            writeln!(
                table,
                "  {kernel:<62} {count:3} {:>11} {:17} {coalesced:5.3} {banks:5.3} {:>11} {:>11}",
                counters.global.bytes, "", counters.float_flops, counters.matrix_flops,
            )
            .unwrap();
            if coalesced < 0.95 || banks < 0.95 {
                wasteful.push(format!("{}: {kernel}", subject.name));
            }
        }
        if STREAMING.iter().any(|kind| subject.name.starts_with(kind)) {
            assert!(
                10 * global.bytes <= 11 * subject.bytes && global.efficiency() >= 0.95,
                "{}: {global:?} for {} bytes",
                subject.name,
                subject.bytes
            );
        }
        let on_tensor_cores = [" tf32", " bf16", " f16"]
            .iter()
            .any(|kind| subject.name.ends_with(kind));
        if on_tensor_cores && subject.name.starts_with("attention") {
            // The softmax is outside.
            assert!(
                counters.matrix_flops >= subject.flops,
                "{}: {} operations on the tensor cores",
                subject.name,
                counters.matrix_flops
            );
        } else if on_tensor_cores {
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
    assert!(wasteful.is_empty(), "{wasteful:#?}");
}
