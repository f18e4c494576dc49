//! Matrix products of the engine beside the `gemm` crate's, in one run: large squares, the layers of a small transformer, the
//! tiles of attention, and the thin products of a low-rank update. `cargo bench -p deltaw-benches --bench products`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use deltaw_engine::cpu::gemm::{Dims, Layout, Scale, gemm};
use deltaw_engine::cpu::threads;

/// m, n, k, and whether A and B are stored transposed.
const SHAPES: [(usize, usize, usize, bool, bool); 19] = [
    (512, 512, 512, false, false),
    (1024, 1024, 1024, false, true),
    (2048, 2048, 2048, false, false),
    (2048, 256, 256, false, true),
    (2048, 1024, 256, false, true),
    (2048, 256, 1024, false, false),
    (1024, 256, 2048, true, false),
    (256, 1024, 2048, true, false),
    (256, 256, 2048, true, false),
    (1, 1024, 2048, false, false),
    (2048, 2048, 256, false, true),
    (64, 128, 64, false, true),
    (128, 64, 64, true, false),
    (2048, 8, 256, false, true),
    (2048, 8, 1024, false, false),
    (8, 1024, 2048, true, false),
    (1024, 8, 2048, true, false),
    (1024, 256, 8, false, false),
    (768, 512, 128, false, true),
];

fn products(criterion: &mut Criterion) {
    let threads = threads::threads();
    let theirs = if threads > 1 {
        gemm::Parallelism::Rayon(threads)
    } else {
        gemm::Parallelism::None
    };
    let scale = Scale {
        alpha: 1.0,
        beta: 0.0,
    };
    for (m, n, k, ta, tb) in SHAPES {
        let numbers = |len: usize| {
            (0..len)
                .map(|i| (i % 17) as f32 / 16.0 - 0.5)
                .collect::<Vec<f32>>()
        };
        let (a, b, mut c) = (numbers(m * k), numbers(k * n), vec![0.0f32; m * n]);
        let la = if ta {
            Layout::transposed(m)
        } else {
            Layout::row_major(k)
        };
        let lb = if tb {
            Layout::transposed(k)
        } else {
            Layout::row_major(n)
        };
        let sign = |t: bool| if t { "ᵀ" } else { "" };
        let mut group =
            criterion.benchmark_group(format!("{m}x{n}x{k} A{}·B{}", sign(ta), sign(tb)));
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        group.bench_function(BenchmarkId::from_parameter("deltaw"), |bencher| {
            bencher.iter(|| {
                gemm(
                    Dims { m, n, k },
                    scale,
                    (&a, la),
                    (&b, lb),
                    (black_box(&mut c), n),
                )
            });
        });
        group.bench_function(BenchmarkId::from_parameter("gemm crate"), |bencher| {
            // SAFETY: the slices hold their layouts' elements.
            bencher.iter(|| unsafe {
                let c = black_box(&mut c).as_mut_ptr();
                let (a_at, b_at) = (a.as_ptr(), b.as_ptr());
                let (ac, ar, bc, br) = (
                    la.cols as isize,
                    la.rows as isize,
                    lb.cols as isize,
                    lb.rows as isize,
                );
                gemm::gemm(
                    m, n, k, c, 1, n as isize, false, a_at, ac, ar, b_at, bc, br, 0.0, 1.0, false,
                    false, false, theirs,
                );
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(15).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800));
    targets = products
}
criterion_main!(benches);
