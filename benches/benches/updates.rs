//! Forward and backward of a frozen linear with an update, fused beside ΔW made whole, at the layer sizes of ViT-B and GPT-2
//! small: times by criterion, and the most memory beyond operands and gradients. `cargo bench -p deltaw-benches --bench updates`

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use deltaw_engine::ops::block_affine::BlockAffine;
use deltaw_engine::ops::kernelized::{Competition, Kernel, Values};
use deltaw_engine::pool;
use deltaw_engine::prelude::*;

/// Outputs and inputs: attention's projections, the feed-forward's two matrices, GPT-2's fused qkv.
const LAYERS: [(usize, usize); 4] = [(768, 768), (3072, 768), (768, 3072), (2304, 768)];
const TOKENS: [usize; 2] = [256, 2048];
const RANK: usize = 16;
const BLOCK: usize = 64;

/// One update in both forms.
struct Subject {
    name: &'static str,
    params: Vec<Tensor>,
    fused: fn(&Tensor, &Tensor, &[Tensor]) -> Result<Tensor>,
    dense: fn(&Tensor, &[Tensor]) -> Result<Tensor>,
}

const SNELL: KernelizedSparse = KernelizedSparse {
    heads: 2,
    kernel: Kernel::Distance { scale: 0.1 },
    competition: Competition::Quantile(0.9),
    values: Values::Soft,
};

fn subjects(m: usize, n: usize) -> Result<Vec<Subject>> {
    let device = Device::cpu();
    let random = |shape: &[usize], seed| Ok(Tensor::randn(shape, seed, &device)?.trained());
    Ok(vec![
        Subject {
            name: "low_rank",
            params: vec![random(&[RANK, n], 1)?, random(&[m, RANK], 2)?],
            fused: |x, w, p| low_rank_linear(x, w, None, &p[0], &p[1], None, 0.5),
            dense: |_, p| p[1].matmul(&p[0])?.affine(0.5, 0.0),
        },
        Subject {
            name: "block_affine",
            params: vec![random(&[m.div_ceil(BLOCK), BLOCK, BLOCK], 3)?],
            fused: |x, w, p| block_affine_linear(x, w, None, &p[0]),
            dense: |w, p| BlockAffine { block: BLOCK }.dense(w, &[&p[0]]),
        },
        Subject {
            name: "kernelized_sparse",
            params: vec![random(&[2, n, RANK / 2], 4)?, random(&[2, m, RANK / 2], 5)?],
            fused: |x, w, p| kernelized_sparse_linear(x, w, None, (&p[0], &p[1]), SNELL),
            dense: |w, p| SNELL.dense(w, &[&p[0], &p[1]]),
        },
    ])
}

/// Runs once and returns the most bytes in use beyond those before.
fn peak(run: impl Fn()) -> usize {
    run();
    let before = pool::usage().live_total;
    pool::reset_peak();
    run();
    pool::usage().peak_total - before
}

fn updates(criterion: &mut Criterion) {
    let device = Device::cpu();
    for (m, n) in LAYERS {
        for tokens in TOKENS {
            let tensor =
                |shape: &[usize], seed| Tensor::randn(shape, seed, &device).expect("memory");
            let (x, w) = (tensor(&[tokens, n], 6).trained(), tensor(&[m, n], 7));
            let dy = tensor(&[tokens, m], 8);
            for subject in subjects(m, n).expect("memory") {
                let step = |y: Result<Tensor>| {
                    backward_with(&y.expect("shapes fit"), dy.clone()).expect("a gradient");
                };
                let fused = || step((subject.fused)(&x, &w, &subject.params));
                let dense = || {
                    let whole = (subject.dense)(&w, &subject.params).and_then(|d| w.add(&d));
                    step(whole.and_then(|whole| linear(&x, &whole, None)));
                };
                let title = format!("{} {m}x{n}, {tokens} tokens", subject.name);
                let (thin, thick) = (peak(fused), peak(dense));
                println!(
                    "{title}: {} KiB fused, {} KiB dense",
                    thin >> 10,
                    thick >> 10
                );
                let mut group = criterion.benchmark_group(title);
                group.bench_function(BenchmarkId::from_parameter("fused"), |b| b.iter(fused));
                group.bench_function(BenchmarkId::from_parameter("dense"), |b| b.iter(dense));
                group.finish();
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
    targets = updates
}
criterion_main!(benches);
