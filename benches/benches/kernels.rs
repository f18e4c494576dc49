//! Every kernel family at the sizes of GPT-2 small, ViT-B/16, DiT-B/2 and LLaMA-7B layers, on the device that
//! `DELTAW_BENCH_DEVICE` names (cpu unless set; cuda; emulated, whose times are the software driver's own).
//! `DELTAW_BENCH_DEVICE=cuda cargo bench -p deltaw-benches --bench kernels`

use std::time::{Duration, Instant};

use clap::ValueEnum;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use deltaw_benches::speed;
use deltaw_engine::device::cuda::Cuda;
use deltaw_models::experiment::{Device, environment};

fn kernels(criterion: &mut Criterion) {
    let named = std::env::var("DELTAW_BENCH_DEVICE").unwrap_or_else(|_| "cpu".into());
    let which =
        Device::from_str(&named, true).unwrap_or_else(|e| panic!("DELTAW_BENCH_DEVICE: {e}"));
    let device = environment::open(which).unwrap_or_else(|e| panic!("{e}"));
    let tokens = if which == Device::Emulated { 128 } else { 2048 };
    let mut subjects = speed::families(&device, tokens).unwrap_or_else(|e| panic!("{e}"));
    subjects.extend(speed::products(&device, tokens).unwrap_or_else(|e| panic!("{e}")));
    let mut group = criterion.benchmark_group(named);
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(200));
    for mut subject in subjects {
        group.throughput(if subject.flops > 0 {
            Throughput::Elements(subject.flops)
        } else {
            Throughput::Bytes(subject.bytes)
        });
        group.bench_function(&subject.name, |bencher| {
            bencher.iter_custom(|count| {
                let start = Instant::now();
                for _ in 0..count {
                    (subject.run)().unwrap_or_else(|e| panic!("{e}"));
                }
                let waited = device.as_cuda().map_or(Ok(()), Cuda::synchronize);
                waited.unwrap_or_else(|e| panic!("{e}"));
                start.elapsed()
            });
        });
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
