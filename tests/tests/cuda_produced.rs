//! Updates made a panel of rows at a time on the CUDA backend against the CPU: values and gradients, and memory.

use deltaw_engine::ops::kernelized::{Competition, Kernel, Values};
use deltaw_engine::ops::random_basis::{Bases, RandomBasis, random_basis_linear};
use deltaw_engine::ops::sparse::Sparse;
use deltaw_engine::prelude::*;
use deltaw_tests::gpu::{Gpu, both, near, tensor, values};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

/// An update's linear of x, W and its parameters.
type Applied<'a> = dyn Fn(&Tensor, &Tensor, &[Tensor]) -> Result<Tensor> + 'a;

/// Unit roundoff of f32.
const U: f64 = f32::EPSILON as f64 / 2.0;

fn cases(count: u32) -> Config {
    Config {
        cases: count,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..Config::default()
    }
}

/// How far two sums may be apart that are at most `size` in all and each go through `terms` roundings.
fn bound(terms: usize, size: f64) -> f64 {
    2.0 * (terms + 4) as f64 * U * size
}

fn stored() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::Bf16), Just(DType::F16)]
}

proptest! {
    #![proptest_config(cases(32))]

    /// Everything lies in [−1, 1), so that an element of W + ΔW is at most b + 2 in b + 2 roundings, and one of dR sums over n
    /// pairs and one row more, whose factors are 2 at most.
    #[test]
    fn block_affine(
        t in 1..20usize, m in 1..90usize, n in 1..150usize, b in 1..80usize, quads: bool, dtype in stored(), seed: u64,
    ) {
        // Whole chunks of four, or whatever there is.
        let [n, b] = [n, b].map(|x| if quads { x.next_multiple_of(4) } else { x });
        let inputs = [
            tensor(&[t, n], seed), tensor(&[m, n], seed ^ 1).converted(dtype).unwrap(), tensor(&[m.div_ceil(b), b, b], seed ^ 2),
            tensor(&[m], seed ^ 3),
        ];
        let [tf, mf, nf, bf] = [t, m, n, b].map(|k| k as f64);
        let bounds = [
            bound(n + b, nf * (bf + 2.0) + 1.0),
            bound(m + b, mf * (bf + 2.0)),
            bound(t + n + b, 2.0 * tf * (nf + bf)),
            bound(t, tf),
        ];
        near("block_affine", &inputs, &bounds, |x| {
            block_affine_linear(&x[0], &x[1].detach(), Some(&x[3]), &x[2])
        });
    }
}

proptest! {
    #![proptest_config(cases(32))]

    /// Without a side of its own on devices, by the composed form; everything lies in [−1, 1).
    #[test]
    fn chosen_places(t in 1..20usize, m in 1..40usize, n in 1..60usize, keep in 1..5u32, dtype in stored(), seed: u64) {
        let places: Vec<u32> = (0..(m * n) as u32).filter(|i| i * 7 % 5 < keep).collect();
        let inputs = [
            tensor(&[t, n], seed), tensor(&[m, n], seed ^ 1).converted(dtype).unwrap(), tensor(&[places.len()], seed ^ 2),
            tensor(&[m], seed ^ 3),
        ];
        let update = Sparse::new(places).unwrap();
        let [tf, mf, nf] = [t, m, n].map(|k| k as f64);
        let bounds = [
            bound(n + 1, 2.0 * nf + 1.0), bound(m + 1, 2.0 * mf), bound(t, tf), bound(t, tf),
        ];
        near("sparse", &inputs, &bounds, |x| {
            produced_linear(update.clone(), &x[0], &x[1].detach(), Some(&x[3]), &[&x[2]])
        });
    }
}

/// Numbers of a head: within the 32 that are in shared memory at a time, and past them.
fn numbers_of_a_head() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1..7usize, 1 => 14..40usize]
}

fn kernel() -> impl Strategy<Value = Kernel> {
    prop_oneof![
        Just(Kernel::Linear),
        (1u32..4).prop_map(|degree| Kernel::Polynomial {
            degree,
            shift: 0.25
        }),
        Just(Kernel::Sigmoid {
            gamma: 0.5,
            shift: -0.1
        }),
        Just(Kernel::Rbf { gamma: 0.3 }),
        Just(Kernel::Distance { scale: 0.1 }),
    ]
}

/// The middle of the widest gap between magnitudes, so that no rounding moves an entry over the threshold.
fn widest_gap(k: &Tensor) -> f32 {
    let mut sizes = values(&k.abs().unwrap());
    sizes.sort_by(f32::total_cmp);
    let gap = sizes
        .windows(2)
        .max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0])));
    gap.map_or(0.0, |g| (g[0] + g[1]) / 2.0)
}

/// A kernelized update and its inputs x, W, a, b and bias: a lies near ±½ and b from 1 to 2, so that no distance is below ½.
fn kernelized(
    (t, m, n): (usize, usize, usize),
    (heads, d): (usize, usize),
    dtype: DType,
    seed: u64,
) -> Vec<Tensor> {
    vec![
        tensor(&[t, n], seed),
        tensor(&[m, n], seed ^ 1).converted(dtype).unwrap(),
        tensor(&[heads, n, d], seed ^ 2).affine(0.5, 0.0).unwrap(),
        tensor(&[heads, m, d], seed ^ 3).affine(0.5, 1.5).unwrap(),
        tensor(&[m], seed ^ 4),
    ]
}

proptest! {
    #![proptest_config(cases(40))]

    /// With r numbers a row, |a| ≤ ½ and |b| ≤ 2, the product is r at most, and K and its slope by it `size`; K has 2r + 16 roundings. S
    /// and its slope are K and 1, or K² and K; the gradients sum t·m or t·n of them times a number of 2½ at most.
    #[test]
    fn kernelized_updates(
        kernel in kernel(), t in 1..6usize, m in 1..150usize, n in 1..150usize, heads in 1..4usize, d in numbers_of_a_head(), sparse: bool,
        squared: bool, quads: bool, dtype in stored(), seed: u64,
    ) {
        let n = if quads { n.next_multiple_of(4) } else { n };
        let inputs = kernelized((t, m, n), (heads, d), dtype, seed);
        let values = if squared { Values::Squared } else { Values::Soft };
        let all = KernelizedSparse { heads, kernel, competition: Competition::Off, values };
        let k = all.dense(&inputs[1], &[&inputs[2], &inputs[3]]).unwrap();
        let competition = if sparse { Competition::Above(widest_gap(&k)) } else { Competition::Off };
        let update = KernelizedSparse { competition, ..all };
        let r = heads * d;
        let size = match kernel {
            Kernel::Linear => (r + 1) as f64,
            Kernel::Polynomial { degree, .. } => 3.0 * ((r + 1) as f64).powi(degree as i32),
            Kernel::Sigmoid { .. } | Kernel::Rbf { .. } => 2.0,
            Kernel::Distance { .. } => 1.0 + 0.25 * (heads as f64) * (d as f64).sqrt(),
        };
        let size = if sparse && squared { size * size } else { size };
        let ([tf, mf, nf], own) = ([t, m, n].map(|k| k as f64), 2 * r + 16);
        let bounds = [
            bound(n + own, nf * (1.0 + size) + 1.0),
            bound(m + own, mf * (1.0 + size)),
            bound(t + m + own, 2.5 * tf * mf * size),
            bound(t + n + own, 2.5 * tf * nf * size),
            bound(t, tf),
        ];
        near("kernelized", &inputs, &bounds, |x| {
            kernelized_sparse_linear(&x[0], &x[1].detach(), Some(&x[4]), (&x[2], &x[3]), update)
        });
    }

    /// The threshold is the quantile on both: S is Lipschitz in K and in t with constant 1, and the quantile moves no further than K.
    #[test]
    fn the_threshold_is_the_same_quantile(
        kernel in kernel(), m in 1..150usize, n in 1..150usize, p in prop_oneof![Just(0.0), Just(1.0), 0.0..=1.0f64], seed: u64,
    ) {
        let inputs = kernelized((1, m, n), (2, 3), DType::F32, seed);
        let update = KernelizedSparse { heads: 2, kernel, competition: Competition::Quantile(p), values: Values::Soft };
        let size = match kernel {
            Kernel::Polynomial { degree, .. } => 3.0 * 7f64.powi(degree as i32),
            _ => 7.0,
        };
        let exact = 3.0 * bound(2 * 6 + 16, size);
        let [want, got] = both(&inputs, |x| {
            let (zero, one) = (Tensor::zeros(&[m, n], DType::F32, x[0].device())?, Tensor::eye(n, x[0].device())?);
            kernelized_sparse_linear(&one, &zero, None, (&x[2], &x[3]), update)
        });
        let (want, got) = (values(&want), values(&got));
        for (a, b) in got.iter().zip(&want) {
            prop_assert!(f64::from((a - b).abs()) <= exact, "{a}, CPU {b}");
        }
        // Without ties so many lie above it; two magnitudes may be one number of f32.
        let last = m * n - 1;
        let acting = got.iter().filter(|k| **k != 0.0).count();
        prop_assert!(acting.abs_diff(last - (p * last as f64).floor() as usize) <= 2, "{acting} of {} act at {p}", m * n);
    }

    /// Integers, so that every K is exact, ties are many and the threshold is the same number: who acts is the same on both.
    #[test]
    fn a_competition_with_ties(m in 1..90usize, n in 1..150usize, p in 0.0..=1.0f64, squared: bool, seed: u64) {
        let whole = |shape: &[usize], seed| {
            let integers: Vec<f32> = values(&tensor(shape, seed)).iter().map(|v| (v * 4.0).round()).collect();
            Tensor::from_slice(&integers, shape, &Device::cpu()).unwrap()
        };
        let inputs = [tensor(&[2, n], seed), whole(&[1, n, 3], seed ^ 1), whole(&[1, m, 3], seed ^ 2)];
        let values = if squared { Values::Squared } else { Values::Soft };
        let update = KernelizedSparse { heads: 1, kernel: Kernel::Linear, competition: Competition::Quantile(p), values };
        // |K| ≤ 48, its value 48² at most.
        let ([mf, nf], size) = ([m, n].map(|k| k as f64), if squared { 48.0 * 48.0 } else { 48.0 });
        let bounds = [
            bound(n + 6, nf * size),
            bound(m + 6, mf * size),
            bound(m + 8, 2.0 * mf * 48.0 * 4.0),
            bound(n + 8, 2.0 * nf * 48.0 * 4.0),
        ];
        near("competition", &inputs, &bounds, |x| {
            let weight = Tensor::zeros(&[m, n], DType::F32, x[0].device())?;
            kernelized_sparse_linear(&x[0], &weight, None, (&x[1], &x[2]), update)
        });
    }
}

/// More rows than a panel has, and x and W as views.
#[test]
fn over_several_panels() {
    let [t, m, n] = [3, 1100, 500];
    let inputs = [
        tensor(&[t, n + 2], 1),
        tensor(&[m, n + 4], 2),
        tensor(&[m.div_ceil(24), 24, 24], 3),
        tensor(&[2, n, 3], 4),
        tensor(&[2, m, 3], 5),
    ];
    let views = |x: &[Tensor]| -> Result<[Tensor; 2]> {
        Ok([x[0].narrow(1, 1, n)?, x[1].detach().narrow(1, 3, n)?])
    };
    let bounds = [
        bound(n + 24, n as f64 * 26.0),
        bound(m + 24, m as f64 * 26.0),
        bound(t + n + 24, 2.0 * t as f64 * (n + 24) as f64),
    ];
    near("block_affine", &inputs[..3], &bounds, |x| {
        let [x0, w] = views(x)?;
        block_affine_linear(&x0, &w, None, &x[2])
    });
    // exp(−s/4) is 1 at most, and its slope by a number s/2·exp(−s/4).
    let rbf = KernelizedSparse {
        heads: 2,
        kernel: Kernel::Rbf { gamma: 0.25 },
        competition: Competition::Off,
        values: Values::Soft,
    };
    let inputs = [0, 1, 3, 4].map(|i| inputs[i].clone());
    let bounds = [
        bound(n + 28, 2.0 * n as f64),
        bound(m + 28, 2.0 * m as f64),
        bound(t + m + 28, (t * m) as f64),
        bound(t + n + 28, (t * n) as f64),
    ];
    near("kernelized", &inputs, &bounds, |x| {
        let [x0, w] = views(x)?;
        kernelized_sparse_linear(&x0, &w, None, (&x[2], &x[3]), rbf)
    });
}

/// A step has W, what goes in and comes out, the gradients, a panel and, for the gradients of a panel, sums no larger than it; not
/// ΔW or its gradient. The host reads nothing. A CUDA pool's blocks are up to a quarter larger than what is asked of them.
#[test]
fn no_matrix_like_the_weight_exists() {
    let [t, m, n, b] = [2, 2048, 1024, 32];
    let heads = 2;
    let sparse = KernelizedSparse {
        heads,
        kernel: Kernel::Distance { scale: 0.1 },
        competition: Competition::Quantile(0.9),
        values: Values::Soft,
    };
    let run = |what: &str, sizes: &[Vec<usize>], f: &Applied<'_>| {
        let gpu = Gpu::new();
        let cuda = gpu.device.as_cuda().unwrap();
        let on = |shape: &[usize], seed| tensor(shape, seed).to_device(&gpu.device).unwrap();
        let (x, w) = (on(&[t, n], 1).trained(), on(&[m, n], 2));
        let params: Vec<Tensor> = sizes.iter().map(|s| on(s, 3).trained()).collect();
        let before = cuda.reads();
        let swept = f(&x, &w, &params).and_then(|y| backward(&y.sum_all()?));
        let grads = swept.unwrap_or_else(|e| gpu.fail(e));
        assert_eq!(cuda.reads(), before, "{what}: the host waited");
        drop(grads);
        let trained: usize = params.iter().map(Tensor::len).sum();
        let panel = 1 << 19;
        let most = 4 * (m * n + 3 * t * (m + n) + 3 * trained + 2 * panel);
        let peak = cuda.peak_bytes();
        assert!(
            peak <= most + most / 20,
            "{what}: {peak} bytes, wanted {most}"
        );
    };
    run("block_affine", &[vec![m / b, b, b]], &|x, w, p| {
        block_affine_linear(x, w, None, &p[0])
    });
    run(
        "kernelized",
        &[vec![heads, n, 2], vec![heads, m, 2]],
        &|x, w, p| kernelized_sparse_linear(x, w, None, (&p[0], &p[1]), sparse),
    );
    // MiSS: S(x)·D and no matrix at all.
    run("miss", &[vec![8, m]], &|x, w, p| {
        let sums = x.reshape(&[t, n / 8, 8])?.sum(1)?;
        linear(x, w, None)?.add(&sums.matmul(&p[0])?)
    });
}

fn random_basis(rank: usize, bases: Bases, distinct: usize) -> RandomBasis {
    RandomBasis {
        rank,
        scale: 0.5,
        seed: 3,
        bases,
        distinct,
    }
}

proptest! {
    #![proptest_config(cases(32))]

    /// With numbers of the bases below √s, an element of ΔW sums N·r products of at most s/2; one of U sums max(m, n) of G's elements,
    /// which are at most t, times √s/2, and dλ and dγ sum min(m, n) and r of U's, again times √s.
    #[test]
    fn random_bases(
        t in 1..20usize, m in 1..90usize, n in 1..90usize, r in 1..9usize, sparse: bool, distinct in 1..4usize, fours: bool,
        dtype in stored(), seed: u64,
    ) {
        let [m, n, r] = [m, n, r].map(|x| if fours { x.next_multiple_of(4) } else { x });
        let (bases, s) = if sparse { (Bases::Ternary(3.0), 3.0) } else { (Bases::Uniform, 3.0) };
        let update = random_basis(r, bases, distinct);
        let (d, k) = (m.min(n), update.terms(m, n) * r);
        let inputs = [
            tensor(&[t, n], seed), tensor(&[m, n], seed ^ 1).converted(dtype).unwrap(), tensor(&[r, update.terms(m, n)], seed ^ 2),
            tensor(&[update.terms(m, n), d], seed ^ 3), tensor(&[m], seed ^ 4),
        ];
        let [tf, mf, nf, df, rf, kf] = [t, m, n, d, r, k].map(|k| k as f64);
        let (row, u) = (1.0 + kf * s / 2.0, mf.max(nf) * tf * s / 2.0);
        let bounds = [
            bound(n + k + 3, nf * row + 1.0),
            bound(m + k + 3, mf * row),
            bound(t + m + n + 3, df * u),
            bound(t + m.max(n) + r + 3, rf * u),
            bound(t, tf),
        ];
        near("random_basis", &inputs, &bounds, |x| {
            random_basis_linear(&x[0], &x[1].detach(), Some(&x[4]), (&x[2], &x[3]), update)
        });
    }
}

/// With one term of rank 1 on a single column, ΔW = B·A exactly: its bits are the bases'. A sparse A is 0 for most seeds.
#[test]
fn random_bases_are_the_cpus_bit_by_bit() {
    const ROWS: usize = 700;
    let ones = |shape: &[usize]| Tensor::full(shape, 1.0, DType::F32, &Device::cpu()).unwrap();
    let weight = Tensor::zeros(&[ROWS, 1], DType::F32, &Device::cpu()).unwrap();
    let inputs = [ones(&[1, 1]), weight, ones(&[1, 1]), ones(&[1, 1])];
    for bases in [Bases::Uniform, Bases::Ternary(3.0)] {
        let mut seen = false;
        for seed in 0..12 {
            let update = RandomBasis {
                seed,
                scale: 1.0,
                ..random_basis(1, bases, 1)
            };
            let [want, got] = both(&inputs, |x| {
                random_basis_linear(&x[0], &x[1], None, (&x[2], &x[3]), update)
            });
            let (want, got) = (values(&want), values(&got));
            assert_eq!(got, want, "{bases:?}");
            seen |= want.iter().any(|x| *x != 0.0);
        }
        assert!(seen, "{bases:?}");
    }
}
