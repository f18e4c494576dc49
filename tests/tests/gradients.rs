//! Every differentiable op: its gradient against central differences in f64, and the CPU against the oracle.
//! `every_op_is_checked` walks the ops' names in the source and fails for one that no test below names.

use deltaw_engine::ops::{binary::Binary, unary::Unary};
use deltaw_engine::prelude::*;
use deltaw_tests::{check, numbers};
use proptest::prelude::*;

/// Inputs of these shapes in [−1, 1).
fn inputs(shapes: &[Vec<usize>], seed: u64) -> Vec<Vec<f32>> {
    shapes
        .iter()
        .enumerate()
        .map(|(k, s)| numbers(s.iter().product(), seed.wrapping_add(k as u64)))
        .collect()
}

fn run(
    name: &str,
    shapes: Vec<Vec<usize>>,
    seed: u64,
    roundings: f64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let values = inputs(&shapes, seed);
    check(name, &f, &shapes, &values, roundings);
}

/// Moves inputs away from a function's kinks and into its domain.
fn smooth(f: Unary, x: f32) -> f32 {
    let away = |x: f32, kink: f32| {
        if (x - kink).abs() < 0.01 {
            kink + 0.02
        } else {
            x
        }
    };
    match f {
        Unary::Log | Unary::Sqrt | Unary::Recip | Unary::Pow(_) => x.abs() + 0.3,
        Unary::Clamp(lo, hi) => away(away(x, lo as f32), hi as f32),
        Unary::Abs | Unary::Relu | Unary::Sign => away(x, 0.0),
        _ => 3.0 * x,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn unary_functions(rows in 0usize..4, cols in 1usize..20, seed: u64) {
        for f in Unary::ALL {
            let values = vec![numbers(rows * cols, seed).into_iter().map(|x| smooth(f, x)).collect()];
            check(f.name(), &|x: &[Tensor]| apply(f, &[&x[0]]), &[vec![rows, cols]], &values, 64.0);
        }
    }

    #[test]
    fn binary_functions_broadcast(a in 1usize..4, b in 0usize..4, c in 1usize..6, form in 0usize..5, seed: u64) {
        let (left, right) = match form {
            0 => (vec![a, b, c], vec![a, b, c]),
            1 => (vec![a, b, c], vec![c]),
            2 => (vec![b, 1], vec![a, 1, c]),
            3 => (vec![a, 1, c], vec![1, b, 1]),
            _ => (vec![], vec![b, c]),
        };
        for f in Binary::ALL {
            let shapes = [left.clone(), right.clone()];
            let mut values = inputs(&shapes, seed);
            // Away from 0 (division) and from ties (the larger, comparisons).
            values[1].iter_mut().for_each(|x| *x = x.abs() + 1.01);
            if !matches!(f, Binary::Div) {
                values[0].iter_mut().for_each(|x| *x *= 3.0);
            }
            check(f.name(), &|x: &[Tensor]| apply(f, &[&x[0], &x[1]]), &shapes, &values, 32.0);
        }
    }

    #[test]
    fn where_picks_a_side(n in 0usize..9, seed: u64) {
        let c: Vec<f32> = numbers(n, seed ^ 5).into_iter().map(|x| (x > 0.0) as u8 as f32).collect();
        run("where", vec![vec![2, n], vec![n]], seed, 1.0, |x| Tensor::from_slice(&c, &[n], x[0].device())?.select(&x[0], &x[1]));
    }

    #[test]
    fn reductions(a in 1usize..4, b in 1usize..4, c in 1usize..6, axes in 1usize..8, seed: u64) {
        let axes: Vec<usize> = (0..3).filter(|i| axes >> i & 1 == 1).collect();
        let shape = vec![vec![a, b, c]];
        run("sum", shape.clone(), seed, 64.0, |x| x[0].sum_keep(&axes));
        run("mean", shape.clone(), seed, 64.0, |x| x[0].mean_keep(&axes));
        run("max", shape.clone(), seed, 1.0, |x| x[0].max_keep(&axes));
        run("min", shape.clone(), seed, 1.0, |x| x[0].min_keep(&axes));
        run("norm", shape, seed, 64.0, |x| x[0].norm_all());
    }

    #[test]
    fn views(a in 1usize..4, b in 1usize..5, c in 1usize..5, seed: u64) {
        let shape = vec![vec![a, b, c]];
        run("reshape", shape.clone(), seed, 1.0, |x| x[0].reshape(&[usize::MAX, b])?.square());
        run("permute", shape.clone(), seed, 1.0, |x| x[0].permute(&[2, 0, 1])?.square());
        run("permute", shape.clone(), seed, 1.0, |x| x[0].permute(&[1, 0, 2])?.narrow(0, b / 2, b - b / 2)?.contiguous()?.square());
        run("narrow", shape.clone(), seed, 1.0, |x| x[0].narrow(1, b / 2, b - b / 2)?.narrow(2, c / 2, c - c / 2)?.square());
        run("expand", vec![vec![a, 1, c]], seed, 16.0, |x| x[0].expand(&[2, a, b, c])?.square());
        run("concat", vec![vec![a, b], vec![a, c]], seed, 1.0, |x| Tensor::concat(&[&x[0], &x[1], &x[0]], 1)?.square());
        run("pad", vec![vec![a, b]], seed, 1.0, |x| x[0].pad(1, 1, 2)?.square());
        run("split", shape, seed, 1.0, |x| { let parts = x[0].split(1, &[b / 2, b - b / 2])?; parts[1].mul(&parts[1]) });
        run("cast", vec![vec![a, b]], seed, 1.0, |x| x[0].cast(DType::F32)?.square());
        run("windows", vec![vec![a, b + 1, c + 1]], seed, 8.0, |x| x[0].windows([2, 2], 1)?.square());
    }

    #[test]
    fn products(m in 0usize..5, k in 0usize..6, n in 1usize..5, batch in 1usize..3, seed: u64) {
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let a = if ta { vec![batch, k, m] } else { vec![batch, m, k] };
            let b = if tb { vec![n, k] } else { vec![k, n] };
            run("matmul", vec![a, b], seed, 64.0, |x| x[0].matmul_t(&x[1], ta, tb));
        }
        run("linear", vec![vec![batch, m, k], vec![n, k], vec![n]], seed, 64.0, |x| linear(&x[0], &x[1], Some(&x[2])));
    }

    #[test]
    fn gathers(rows in 1usize..5, cols in 1usize..5, picks in 0usize..6, seed: u64) {
        let index = |n: usize, of: usize| -> Vec<u32> { numbers(n, seed ^ 9).into_iter().map(|x| ((x + 1.0) / 2.0 * of as f32) as u32 % of as u32).collect() };
        let picked = index(picks, rows);
        run("gather_rows", vec![vec![rows, cols]], seed, 16.0, |x| x[0].gather_rows(&Tensor::from_slice(&picked, &[picks], x[0].device())?)?.square());
        run("scatter_add_rows", vec![vec![rows, cols], vec![picks, cols]], seed, 16.0, |x| x[0].scatter_add_rows(&Tensor::from_slice(&picked, &[picks], x[0].device())?, &x[1])?.square());
        let taken = index(rows * picks, cols);
        run("take", vec![vec![rows, cols]], seed, 16.0, |x| x[0].take(&Tensor::from_slice(&taken, &[rows, picks], x[0].device())?)?.square());
        run("scatter_add", vec![vec![rows, cols], vec![rows, picks]], seed, 16.0, |x| x[0].scatter_add(&Tensor::from_slice(&taken, &[rows, picks], x[0].device())?, &x[1])?.square());
    }

    #[test]
    fn rows_normalised(rows in 0usize..4, cols in 2usize..40, seed: u64) {
        let shape = vec![vec![rows, cols]];
        run("softmax", shape.clone(), seed, 64.0, |x| x[0].affine(4.0, 0.0)?.softmax());
        run("log_softmax", shape, seed, 64.0, |x| x[0].affine(4.0, 0.0)?.log_softmax());
        // The gradient of a norm grows with 1/σ; a spread of about ½ keeps it of order one, ε keeps rows apart.
        run("layer_norm", vec![vec![rows, cols], vec![cols], vec![cols]], seed, 2000.0, |x| layer_norm(&x[0], &x[1], &x[2], 0.05));
        run("rms_norm", vec![vec![rows, cols], vec![cols]], seed, 2000.0, |x| rms_norm(&x[0], &x[1], 0.05));
    }

    #[test]
    fn cross_entropies(rows in 1usize..5, classes in 1usize..20, smoothing in 0.0f32..0.5, weighted: bool, seed: u64) {
        let targets: Vec<u32> = numbers(rows, seed ^ 3).into_iter().map(|x| ((x + 1.0) / 2.0 * classes as f32) as u32 % classes as u32).collect();
        run("cross_entropy", vec![vec![rows, classes]], seed, 64.0, |x| {
            let device = x[0].device();
            let weights: Vec<f32> = (0..rows).map(|i| (i % 3) as f32 * 0.5 + if i == 0 { 1.0 } else { 0.0 }).collect();
            let weights = if weighted { Some(Tensor::from_slice(&weights, &[rows], device)?) } else { None };
            cross_entropy(&x[0].affine(5.0, 0.0)?, &Tensor::from_slice(&targets, &[rows], device)?, &CrossEntropyOptions { weights, smoothing })
        });
    }

    #[test]
    fn attentions(tq in 1usize..6, tk in 1usize..6, d in 1usize..5, causal: bool, masked: bool, seed: u64) {
        let (b, h) = (2, 2);
        run("attention", vec![vec![b, h, tq, d], vec![b, h, tk, d], vec![b, h, tk, d]], seed, 256.0, |x| {
            // The first sample may have no key at all: its rows give 0.
            let mask: Vec<f32> = (0..b * tk).map(|i| (i >= tk && (i - tk) % 3 != 1) as u8 as f32).collect();
            let mask = if masked { Some(Tensor::from_slice(&mask, &[b, tk], x[0].device())?) } else { None };
            attention(&x[0], &x[1], &x[2], &AttentionOptions { causal, mask, ..Default::default() })
        });
    }

    #[test]
    fn low_rank_updates(t in 0usize..5, m in 1usize..6, n in 1usize..6, r in 1usize..4, bias: bool, lambda: bool, seed: u64) {
        let shapes = vec![vec![t, n], vec![r, n], vec![m, r], vec![m], vec![r]];
        let w = numbers(m * n, seed ^ 21);
        run("low_rank", shapes, seed, 64.0, |x| {
            let weight = Tensor::from_slice(&w, &[m, n], x[0].device())?;
            low_rank_linear(&x[0], &weight, bias.then_some(&x[3]), &x[1], &x[2], lambda.then_some(&x[4]), 0.75)
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn losses_and_the_like(rows in 1usize..4, cols in 1usize..9, seed: u64) {
        run("bce", vec![vec![rows, cols], vec![cols]], seed, 64.0, |x| {
            let share = |x: &Tensor| x.affine(0.45, 0.5);
            bce(&share(&x[0])?, &share(&x[1])?, &BceOptions { reduction: Reduction::None, ..Default::default() })
        });
        run("rotary", vec![vec![rows, cols, 6]], seed, 8.0, |x| rotary(&x[0], &Tensor::arange(cols, x[0].device())?, 50.0)?.square());
        run("cumsum", vec![vec![rows, cols]], seed, 32.0, |x| x[0].cumsum()?.square());
        run("recompute", vec![vec![rows, cols], vec![cols]], seed, 16.0, |x| recompute(|y: &[Tensor]| y[0].mul(&y[1])?.square(), &[&x[0], &x[1]]));
    }
}

/// Long rows and tiles: the CPU's loops past their unrolled widths, without central differences' cost.
#[test]
fn attention_over_several_tiles_agrees_with_the_oracle() {
    let (t, d) = (70, 3);
    let shape = [1, 1, t, d];
    let make = |seed, device: &Device| {
        Tensor::from_slice(&numbers(t * d, seed), &shape, device)
            .unwrap()
            .trained()
    };
    let run = |device: &Device| {
        let x = [make(1, device), make(2, device), make(3, device)];
        let y = attention(
            &x[0],
            &x[1],
            &x[2],
            &AttentionOptions {
                causal: true,
                ..Default::default()
            },
        )
        .unwrap();
        let grads = backward(&y.square().unwrap().sum_all().unwrap()).unwrap();
        let mut all = y.to_vec::<f64>().unwrap();
        x.iter()
            .for_each(|x| all.extend(grads.of(x).unwrap().to_vec::<f64>().unwrap()));
        all
    };
    for (i, (a, b)) in run(&Device::cpu())
        .iter()
        .zip(run(&Device::oracle()))
        .enumerate()
    {
        // Sums of up to 70 terms of order one.
        assert!(
            (a - b).abs() < 140.0 * f64::from(f32::EPSILON) * b.abs().max(1.0),
            "element {i}: {a} and {b}"
        );
    }
}

/// Names that `fn name` returns in the ops' sources.
fn op_names() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/src/ops");
    let mut names = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for body in source.split("impl Op for ").skip(1) {
            let name = body
                .split("fn name(&self)")
                .nth(1)
                .and_then(|rest| rest.split('}').next())
                .unwrap_or("");
            names.extend(name.split('"').skip(1).step_by(2).map(String::from));
        }
    }
    names.extend(Unary::ALL.map(|f| f.name().to_string()));
    names.extend(Binary::ALL.map(|f| f.name().to_string()));
    names
}

#[test]
fn every_op_is_checked() {
    let here = [
        include_str!("gradients.rs"),
        include_str!("gradients_fused.rs"),
    ]
    .concat();
    let walked: Vec<&str> = Unary::ALL
        .map(|f| f.name())
        .into_iter()
        .chain(Binary::ALL.map(|f| f.name()))
        .collect();
    let names = op_names();
    assert!(names.len() > 40, "the walk found only {names:?}");
    for name in names {
        let tested = walked.contains(&name.as_str()) || here.contains(&format!("run(\"{name}\""));
        assert!(
            tested,
            "op `{name}` has no gradient test in this file or beside it"
        );
    }
}
