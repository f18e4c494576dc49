//! Linears on the CUDA backend against the CPU: bias in the product's epilogue, low-rank updates by a second operand pair, sums
//! over many tokens in parts; products with packed triangles by panels.

use deltaw_engine::ops::linear::linear_stored;
use deltaw_engine::ops::low_rank::low_rank_linear;
use deltaw_engine::ops::triangular::Core;
use deltaw_engine::prelude::*;
use deltaw_tests::gpu::{Gpu, near, tensor};
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

/// Few rows, or so many that a gradient's sum over them is split.
fn rows() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1..40usize, 1 => 900..1100usize]
}

proptest! {
    #![proptest_config(cases(24))]

    /// Everything lies in [−1, 1): a sum of k products is at most k.
    #[test]
    fn plain_linears(t in rows(), n in 1..60usize, m in 1..60usize, stored: bool, seed: u64) {
        let shape = if stored { [n, m] } else { [m, n] };
        let inputs = [tensor(&[t, n], seed), tensor(&shape, seed ^ 1), tensor(&[m], seed ^ 2)];
        let sum = |k: usize| bound(k, k as f64 + 1.0);
        near("linear", &inputs, &[sum(n), sum(m), sum(t), sum(t)], |x| linear_stored(&x[0], &x[1], stored, Some(&x[2])));
    }

    /// h and g are sums of n and m products, with which the products of rank r go on.
    #[test]
    fn low_rank_updates(
        t in rows(), n in 1..60usize, m in 1..60usize, r in 1..10usize, gated: bool, half: bool, seed: u64,
    ) {
        let mut inputs = vec![
            tensor(&[t, n], seed), tensor(&[m, n], seed ^ 1), tensor(&[r, n], seed ^ 2), tensor(&[m, r], seed ^ 3), tensor(&[m], seed ^ 4),
        ];
        if half {
            inputs[1] = inputs[1].converted(DType::Bf16).unwrap();
        }
        if gated {
            inputs.push(tensor(&[r], seed ^ 5));
        }
        let s = 1.5;
        let [tf, nf, mf, rf] = [t, n, m, r].map(|k| k as f64);
        let mut bounds = vec![
            bound(n + r, nf * (1.0 + s * rf) + 1.0),
            bound(m + r, mf * (1.0 + s * rf)),
            bound(t + m, s * tf * mf),
            bound(t + n, s * tf * nf),
            bound(t, tf),
        ];
        if gated {
            bounds.push(bound(t + m + n, s * tf * mf * nf));
        }
        near("low_rank", &inputs, &bounds, |x| {
            low_rank_linear(&x[0], &x[1].detach(), Some(&x[4]), &x[2], &x[3], x.get(5), s as f32)
        });
    }
}

/// C·x on the device and on the CPU: entries of C are up to 2, so that y and dx sum r products of up to 2, and dC n of up to 1.
fn triangles(core: &Core, there: [bool; 2], n: usize, seed: u64) {
    let (r, sum) = (core.rank(), |k: usize, size: f64| {
        bound(k + 1, size * k as f64)
    });
    let (mut inputs, mut bounds) = (vec![tensor(&[r, n], seed)], vec![sum(r, 2.0); 2]);
    for part in 0..2u64 {
        if there[part as usize] {
            inputs.push(tensor(&[core.entries()], seed ^ (part + 1)));
            bounds.push(sum(n, 1.0));
        }
    }
    near("triangular", &inputs, &bounds, |x| {
        let mut parts = x[1..].iter();
        let [lower, upper] = there.map(|is| is.then(|| parts.next()).flatten());
        triangular_matmul(core, lower, upper, &x[0])
    });
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn packed_triangles(blocks in prop::collection::vec(1..20usize, 0..5), n in 0..40usize, which in 0..3usize, seed: u64) {
        let ends: Vec<usize> = blocks.iter().scan(0, |end, b| { *end += b; Some(*end) }).collect();
        triangles(&Core::new(&ends).unwrap(), [which != 1, which != 2], n, seed);
    }
}

/// Several panels, of which some have no entries in some columns.
#[test]
fn packed_triangles_over_several_panels() {
    triangles(&Core::triangle(300), [true, false], 33, 1);
    triangles(&Core::triangle(300), [false, true], 20, 2);
    triangles(&Core::new(&[1, 129, 130, 290]).unwrap(), [true, true], 9, 3);
}

/// With tf32 a product differs from the exact one, by what cutting both factors to 11 bits may make.
#[test]
fn tf32_is_asked_for() {
    let gpu = Gpu::new();
    let cuda = gpu.device.as_cuda().unwrap();
    let [a, b] = [1, 2].map(|seed| tensor(&[96, 128], seed).to_device(&gpu.device).unwrap());
    let product = || {
        let y = a.matmul_t(&b, false, true).and_then(|y| y.to_vec::<f32>());
        y.unwrap_or_else(|e| gpu.fail(e))
    };
    let exact = product();
    cuda.set_tf32(true);
    let cut = product();
    cuda.set_tf32(false);
    assert_eq!(product(), exact);
    assert_ne!(cut, exact);
    let [a, b] = [&a, &b].map(|x| x.abs().unwrap());
    let size = a
        .matmul_t(&b, false, true)
        .unwrap()
        .to_vec::<f32>()
        .unwrap();
    // Each factor by less than 2⁻¹⁰, and 128 sums on each side.
    let allowed = 2f64.powi(-9) + 2f64.powi(-20) + 2.0 * 130.0 * U;
    for ((cut, exact), size) in cut.iter().zip(&exact).zip(&size) {
        let error = f64::from((cut - exact).abs());
        assert!(error <= allowed * f64::from(*size), "{cut} for {exact}");
    }
}
