//! Updates made a panel of rows at a time on the CUDA backend against the CPU: values and gradients, and memory.

use deltaw_engine::prelude::*;
use deltaw_tests::gpu::{near, tensor};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

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
