//! The fused ops: gradients against central differences in f64, each against its composed form (which is what the f64 oracle
//! runs), at sizes that straddle the kernels' tiles, and the same bits with any number of threads.

mod common;

use common::{Case, case};
use deltaw_engine::prelude::*;
use deltaw_tests::{as_the_oracle, check, inputs, numbers, same_bits_with_any_threads};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn attention_by_central_differences(case in case(5, 1..=4usize)) {
        let shapes = case.shapes();
        check("attention", &|x| case.run(x), &shapes, &inputs(&shapes, case.seed), case.units() / 2.0);
    }

    /// Sizes up to and past the tiles of 32 queries and of 16 lanes.
    #[test]
    fn attention_as_composed_in_f64(case in case(70, 1..=40usize)) {
        as_the_oracle(&format!("{case:?}"), &case.shapes(), case.seed, case.units(), |x| case.run(x));
    }
}

/// Past the tile of 128 keys, where the running maximum moves.
#[test]
fn attention_over_several_key_tiles() {
    for (tq, tk, causal) in [(129, 129, true), (40, 300, false), (33, 257, true)] {
        let case = Case {
            batch: 1,
            heads: 2,
            tq,
            tk,
            d: 17,
            causal,
            masked: false,
            bias: Some([true, true, false, false]),
            scale: None,
            packed: false,
            seed: 9,
        };
        as_the_oracle(
            &format!("{case:?}"),
            &case.shapes(),
            case.seed,
            case.units(),
            |x| case.run(x),
        );
    }
}

#[test]
fn attention_has_the_same_bits_with_any_threads() {
    let case = Case {
        batch: 5,
        heads: 3,
        tq: 45,
        tk: 45,
        d: 20,
        causal: true,
        masked: true,
        bias: Some([true, false, false, false]),
        scale: None,
        packed: true,
        seed: 3,
    };
    same_bits_with_any_threads("attention", &case.shapes(), |x| case.run(x));
}

/// `f` by central differences and against the oracle, at sizes small enough for differences.
fn run(
    name: &str,
    shapes: &[Vec<usize>],
    seed: u64,
    roundings: f64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    check(name, &f, shapes, &inputs(shapes, seed), roundings);
}

/// `numbers` as classes below `count`.
fn classes(n: usize, count: usize, seed: u64) -> Vec<u32> {
    numbers(n, seed)
        .into_iter()
        .map(|x| ((x + 1.0) / 2.0 * count as f32) as u32 % count as u32)
        .collect()
}

fn loss(x: &Tensor, smoothing: f32, weighted: bool, seed: u64) -> Result<Tensor> {
    let (n, c, device) = (x.shape()[0], x.shape()[1], x.device());
    // Row 0 counts always, every third row never.
    let weights: Vec<f32> = (0..n)
        .map(|i| if i == 0 { 1.0 } else { (i % 3) as f32 * 0.5 })
        .collect();
    let weights = if weighted {
        Some(Tensor::from_slice(&weights, &[n], device)?)
    } else {
        None
    };
    let targets = Tensor::from_slice(&classes(n, c, seed ^ 3), &[n], device)?;
    cross_entropy(
        &x.affine(5.0, 0.0)?,
        &targets,
        &CrossEntropyOptions { weights, smoothing },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Sums over n terms below 4, a root and a quotient; ε = 0.05 keeps r below 5, which multiplies the errors of dx thrice.
    #[test]
    fn norms(rows in 0usize..4, n in 1usize..12, seed: u64) {
        let units = 125.0 * (n as f64 + 8.0);
        run("layer_norm", &[vec![rows, n], vec![n], vec![n]], seed, units, |x| layer_norm(&x[0], &x[1], &x[2], 0.05));
        run("rms_norm", &[vec![rows, n], vec![n]], seed, units, |x| rms_norm(&x[0], &x[1], 0.05));
    }

    #[test]
    fn norms_as_composed(rows in 0usize..300, n in 0usize..70, seed: u64) {
        let units = 125.0 * (n as f64 + 8.0) + 2.0 * rows as f64;
        as_the_oracle("layer_norm", &[vec![rows, n], vec![n], vec![n]], seed, units, |x| layer_norm(&x[0], &x[1], &x[2], 0.05));
        as_the_oracle("rms_norm", &[vec![rows, n], vec![n]], seed, units, |x| rms_norm(&x[0], &x[1], 0.05));
    }

    /// Logits within ±5 err by a rounding of 5, which the softmax passes on to every term of its sum.
    #[test]
    fn losses(rows in 1usize..5, c in 1usize..9, smoothing in 0.0f32..0.5, weighted: bool, seed: u64) {
        run("cross_entropy", &[vec![rows, c]], seed, 2.0 * (c as f64 + 32.0), |x| loss(&x[0], smoothing, weighted, seed));
    }

    #[test]
    fn losses_as_composed(rows in 1usize..70, c in 1usize..70, smoothing in 0.0f32..0.5, weighted: bool, seed: u64) {
        as_the_oracle("cross_entropy", &[vec![rows, c]], seed, 4.0 * (c as f64 + rows as f64 + 32.0), |x| loss(&x[0], smoothing, weighted, seed));
        as_the_oracle("softmax", &[vec![rows, c]], seed, 4.0 * (c as f64 + 32.0), |x| x[0].affine(5.0, 0.0)?.softmax());
        as_the_oracle("log_softmax", &[vec![rows, c]], seed, 8.0 * (c as f64 + 32.0), |x| x[0].affine(5.0, 0.0)?.log_softmax());
    }

    /// One product each; both devices draw the same mask.
    #[test]
    fn dropouts(rows in 0usize..5, n in 0usize..150, p in 0.0f32..0.9, step in 0u64..9, seed: u64) {
        let ctx = Context::train(seed, step);
        let small = [vec![rows.min(2), n.min(6)]];
        run("dropout", &small, seed, 64.0, |x| dropout(&x[0], p, &ctx, "here"));
        run("drop_path", &small, seed, 64.0, |x| drop_path(&x[0], p, &ctx, "here"));
        as_the_oracle("dropout", &[vec![rows, n]], seed, 64.0, |x| dropout(&x[0], p, &ctx, "here"));
    }

    /// Every order of axes and every set of reduced ones, at sizes past the blocks of a transposition and of a sum.
    #[test]
    fn strided_copies_and_reductions(a in 0usize..40, b in 1usize..70, c in 1usize..40, order in 0usize..6, axes in 1usize..8, seed: u64) {
        let order = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]][order];
        as_the_oracle("permute", &[vec![a, b, c]], seed, 1.0, |x| x[0].permute(&order)?.contiguous()?.affine(2.0, 0.0));
        let axes: Vec<usize> = (0..3).filter(|i| axes >> i & 1 == 1).collect();
        let terms = (a * b * c) as f64;
        as_the_oracle("sum", &[vec![a, b, c]], seed, terms, |x| x[0].permute(&order)?.sum_keep(&axes));
        if a > 0 {
            as_the_oracle("max", &[vec![a, b, c]], seed, 1.0, |x| x[0].max_keep(&axes));
        }
    }
}

/// Long columns and long rows: sums in several blocks, whose number depends on the sizes alone.
#[test]
fn long_sums() {
    for shape in [
        vec![3000, 70],
        vec![5, 3000, 33],
        vec![200_000],
        vec![70, 5000],
    ] {
        let terms = shape.iter().product::<usize>() as f64;
        as_the_oracle("sum", std::slice::from_ref(&shape), 4, terms, |x| {
            x[0].sum_keep(&[shape.len().saturating_sub(2)])
        });
        as_the_oracle("sum of all", std::slice::from_ref(&shape), 4, terms, |x| {
            x[0].sum_all()
        });
    }
}

/// What PyTorch gives for sizes of 0, on both devices.
#[test]
fn empty_sizes() {
    for device in [Device::cpu(), Device::oracle()] {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device).unwrap();
        let values = |x: Tensor| x.to_vec::<f64>().unwrap();
        assert_eq!(values(zeros(&[3, 0]).softmax().unwrap()), [0.0; 0]);
        assert_eq!(values(zeros(&[3, 0]).log_softmax().unwrap()), [0.0; 0]);
        assert_eq!(
            (
                values(zeros(&[]).softmax().unwrap()),
                values(zeros(&[]).log_softmax().unwrap())
            ),
            (vec![1.0], vec![0.0])
        );
        let nothing = zeros(&[2, 3, 0, 4]);
        let options = AttentionOptions::default();
        assert_eq!(
            values(attention(&zeros(&[2, 3, 5, 4]), &nothing, &nothing, &options).unwrap()),
            [0.0; 120]
        );
        assert_eq!(
            values(attention(&nothing, &nothing, &nothing, &options).unwrap()),
            [0.0; 0]
        );
        let none = Tensor::zeros(&[0], DType::U32, &device).unwrap();
        let loss = cross_entropy(&zeros(&[0, 7]), &none, &CrossEntropyOptions::default()).unwrap();
        assert!(loss.item().unwrap().is_nan());
        assert!(
            layer_norm(&zeros(&[]), &zeros(&[1]), &zeros(&[1]), 1e-5)
                .unwrap_err()
                .to_string()
                .contains("scalar")
        );
    }
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    let ctx = Context::train(3, 1);
    let (rows, n) = (700, 130);
    let matrix = vec![rows, n];
    same_bits_with_any_threads("layer_norm", &[matrix.clone(), vec![n], vec![n]], |x| {
        layer_norm(&x[0], &x[1], &x[2], 1e-5)
    });
    same_bits_with_any_threads("rms_norm", &[matrix.clone(), vec![n]], |x| {
        rms_norm(&x[0], &x[1], 1e-5)
    });
    same_bits_with_any_threads("cross_entropy", std::slice::from_ref(&matrix), |x| {
        loss(&x[0], 0.1, true, 8)
    });
    same_bits_with_any_threads("dropout", std::slice::from_ref(&matrix), |x| {
        dropout(&x[0], 0.3, &ctx, "here")
    });
    same_bits_with_any_threads("gelu", std::slice::from_ref(&matrix), |x| x[0].gelu());
    same_bits_with_any_threads("sums", std::slice::from_ref(&matrix), |x| {
        x[0].square()?.sum(0)?.add(&x[0].sum_all()?)
    });
    same_bits_with_any_threads("transposition", &[matrix], |x| x[0].t());
}
