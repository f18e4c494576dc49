//! Every differentiable op: its gradient against central differences in f64, and the CPU against the oracle.
//! `every_op_is_checked` walks the ops' names in the engine's source and fails for one that no test below names.
//!
//! # Kinks and ties
//!
//! Differences say nothing where a function has no derivative. The policy, and how it is tested:
//!
//! - |x|, ReLU, clamp, sign: inputs keep 0.01 away from the kink here; the value at the kink (0, 0, 1 on the closed
//!   interval, 0) is stated in `ops/unary.rs` and held by `kinks_have_the_slopes_that_are_stated`.
//! - max, min, maximum, minimum: inputs are distinct by more than the difference's step here; ties share the gradient
//!   equally, which `ties_share` holds.
//! - top-k, k-th value, quantile: distinct inputs here; of equal elements the lower index is the larger (tests of
//!   `ops/select.rs`).
//! - the norm of all elements at 0 has gradient 0 (`kinks_have_the_slopes_that_are_stated`).
//! - comparisons and indices have no gradient.
//!
//! # Sizes
//!
//! Every axis is drawn from 0 or 1 up, whatever the op accepts. Where a size has no meaning (the maximum of nothing, windows
//! larger than the image) the op refuses, which is tested with it.

use deltaw_engine::ops::{binary::Binary, unary::Unary};
use deltaw_engine::prelude::*;
use deltaw_tests::{check, distinct, numbers, roundings};
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

/// As [`run`] on numbers without ties.
fn run_distinct(
    name: &str,
    shape: Vec<usize>,
    seed: u64,
    roundings: f64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let values = distinct(shape.iter().product(), seed);
    check(name, &f, &[shape], &[values], roundings);
}

/// Indices below `of`, a function of the seed.
fn indices(count: usize, of: usize, seed: u64) -> Vec<u32> {
    numbers(count, seed)
        .into_iter()
        .map(|x| ((x + 1.0) / 2.0 * of as f32) as u32 % of.max(1) as u32)
        .collect()
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

/// Probabilities strictly between 0.05 and 0.95.
fn shares(x: &Tensor) -> Result<Tensor> {
    x.affine(0.45, 0.5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn unary_functions(rows in 0usize..4, cols in 0usize..20, seed: u64) {
        for f in Unary::ALL {
            let values = vec![numbers(rows * cols, seed).into_iter().map(|x| smooth(f, x)).collect()];
            // The longest derivative, GELU's in its tanh form, takes some 30 roundings.
            check(f.name(), &|x: &[Tensor]| apply(f, &[&x[0]]), &[vec![rows, cols]], &values, roundings(1, 31));
        }
    }

    #[test]
    fn binary_functions_broadcast(a in 0usize..4, b in 0usize..4, c in 0usize..6, form in 0usize..5, seed: u64) {
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
                let near = |x: f32| values[1].iter().any(|y| (x - y).abs() < 1e-3);
                let moved: Vec<f32> = values[0].iter().map(|x| if near(*x) { 0.5 * x } else { *x }).collect();
                values[0] = moved;
            }
            // A gradient adds what broadcasting repeated: up to a·b·c terms of size 3.
            check(f.name(), &|x: &[Tensor]| apply(f, &[&x[0], &x[1]]), &shapes, &values, 3.0 * roundings(a * b * c, 6));
        }
    }

    #[test]
    fn where_picks_a_side(n in 0usize..9, seed: u64) {
        let c: Vec<f32> = numbers(n, seed ^ 5).into_iter().map(|x| (x > 0.0) as u8 as f32).collect();
        run("where", vec![vec![2, n], vec![n]], seed, roundings(2, 0), |x| Tensor::from_slice(&c, &[n], x[0].device())?.select(&x[0], &x[1]));
    }

    #[test]
    fn reductions(a in 0usize..4, b in 0usize..4, c in 0usize..6, axes in 0usize..8, seed: u64) {
        let axes: Vec<usize> = (0..3).filter(|i| axes >> i & 1 == 1).collect();
        let (size, shape) = ([a, b, c], vec![a, b, c]);
        let terms: usize = axes.iter().map(|i| size[*i]).product();
        run("sum", vec![shape.clone()], seed, roundings(terms, 0), |x| x[0].sum_keep(&axes));
        if terms > 0 {
            run("mean", vec![shape.clone()], seed, roundings(terms, 2), |x| x[0].mean_keep(&axes));
            run_distinct("max", shape.clone(), seed, 0.0, |x| x[0].max_keep(&axes));
            run_distinct("min", shape.clone(), seed, 0.0, |x| x[0].min_keep(&axes));
        } else {
            let none = Tensor::zeros(&shape, DType::F32, &Device::cpu()).unwrap();
            prop_assert!(none.max_keep(&axes).is_err() && none.min_keep(&axes).is_err());
            let means = none.mean_keep(&axes).unwrap().to_vec::<f32>().unwrap();
            prop_assert!(means.iter().all(|m| m.is_nan()));
        }
        run("norm", vec![shape.clone()], seed, roundings(a * b * c, 6), |x| x[0].norm_all());
        run("norm of rows", vec![shape], seed, roundings(c, 6), |x| x[0].norm());
    }

    #[test]
    fn views(a in 0usize..4, b in 0usize..5, c in 0usize..5, seed: u64) {
        // Squares, so that the gradient that comes back is not constant: one rounding each.
        let (shape, each) = (vec![vec![a, b, c]], roundings(1, 3));
        run("reshape", shape.clone(), seed, each, |x| x[0].reshape(&[a * c, b])?.square());
        run("permute", shape.clone(), seed, each, |x| x[0].permute(&[2, 0, 1])?.square());
        run("permute", shape.clone(), seed, each, |x| x[0].permute(&[1, 0, 2])?.narrow(0, b / 2, b - b / 2)?.contiguous()?.square());
        run("narrow", shape.clone(), seed, each, |x| x[0].narrow(1, b / 2, b - b / 2)?.narrow(2, c / 2, c - c / 2)?.square());
        run("expand", vec![vec![a, 1, c]], seed, 2.0 * roundings(2 * b, 3), |x| x[0].expand(&[2, a, b, c])?.square());
        run("concat", vec![vec![a, b], vec![a, c]], seed, 2.0 * roundings(2, 3), |x| Tensor::concat(&[&x[0], &x[1], &x[0]], 1)?.square());
        run("pad", vec![vec![a, b]], seed, each, |x| x[0].pad(1, 1, 2)?.square());
        run("split", shape, seed, each, |x| { let parts = x[0].split(1, &[b / 2, b - b / 2])?; parts[1].mul(&parts[1]) });
        run("cast", vec![vec![a, b]], seed, each, |x| x[0].cast(DType::F32)?.square());
        run("windows", vec![vec![a, b + 2, c + 2]], seed, 2.0 * roundings(4, 3), |x| x[0].windows([2, 2], 1)?.square());
    }

    #[test]
    fn shorthands(a in 0usize..4, b in 0usize..5, seed: u64) {
        let shape = vec![vec![a, b]];
        run("tril", shape.clone(), seed, roundings(1, 3), |x| x[0].tril(-1)?.square());
        run("triu", shape.clone(), seed, roundings(1, 3), |x| x[0].triu(1)?.square());
        run("transpose", shape.clone(), seed, roundings(1, 3), |x| x[0].transpose(0, 1)?.square());
        run("flatten", shape.clone(), seed, roundings(1, 3), |x| x[0].flatten(0, 1)?.square());
        run("masked_fill", shape.clone(), seed, roundings(1, 3), |x| x[0].masked_fill(&Tensor::eye(b.max(1), x[0].device())?.narrow(0, 0, 1)?.narrow(1, 0, b)?, 0.5)?.square());
        run("outer", vec![vec![a], vec![b]], seed, roundings(a.max(b), 1), |x| x[0].outer(&x[1]));
        run("get", vec![vec![a + 1, b]], seed, roundings(1, 3), |x| x[0].get(a)?.square());
        run("chunk", vec![vec![a, b + 1]], seed, roundings(1, 3), |x| x[0].chunk(2, 1)?[0].square());
    }

    #[test]
    fn products(m in 0usize..5, k in 0usize..6, n in 0usize..5, batch in 0usize..3, seed: u64) {
        // B is shared by the batch, whose rows its gradient adds up.
        let bound = roundings(k.max(n).max(batch * m), 1);
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let a = if ta { vec![batch, k, m] } else { vec![batch, m, k] };
            let b = if tb { vec![n, k] } else { vec![k, n] };
            run("matmul", vec![a, b], seed, bound, |x| x[0].matmul_t(&x[1], ta, tb));
        }
        let bound = roundings((k + 1).max(n).max(batch * m), 1);
        run("linear", vec![vec![batch, m, k], vec![n, k], vec![n]], seed, bound, |x| linear(&x[0], &x[1], Some(&x[2])));
    }

    #[test]
    fn gathers(rows in 1usize..5, cols in 0usize..5, picks in 0usize..6, seed: u64) {
        // A row may be picked every time.
        let bound = 2.0 * roundings(picks + 1, 4);
        let picked = indices(picks, rows, seed ^ 9);
        run("gather_rows", vec![vec![rows, cols]], seed, bound, |x| x[0].gather_rows(&Tensor::from_slice(&picked, &[picks], x[0].device())?)?.square());
        // The square of a sum of picks + 1 terms.
        let square = bound * (picks + 1) as f64;
        run("scatter_add_rows", vec![vec![rows, cols], vec![picks, cols]], seed, square, |x| x[0].scatter_add_rows(&Tensor::from_slice(&picked, &[picks], x[0].device())?, &x[1])?.square());
        let picks = if cols == 0 { 0 } else { picks };
        let taken = indices(rows * picks, cols, seed ^ 9);
        run("take", vec![vec![rows, cols]], seed, bound, |x| x[0].take(&Tensor::from_slice(&taken, &[rows, picks], x[0].device())?)?.square());
        run("scatter_add", vec![vec![rows, cols], vec![rows, picks]], seed, square, |x| x[0].scatter_add(&Tensor::from_slice(&taken, &[rows, picks], x[0].device())?, &x[1])?.square());
    }

    #[test]
    fn rows_normalised(rows in 0usize..4, cols in 1usize..40, seed: u64) {
        let shape = vec![vec![rows, cols]];
        // An exponential of a number up to 8 in size carries that number's rounding: 8 more.
        run("softmax", shape.clone(), seed, 4.0 * roundings(1, cols + 20), |x| x[0].affine(4.0, 0.0)?.softmax());
        run("log_softmax", shape, seed, 4.0 * roundings(1, cols + 20) * (cols as f64).sqrt(), |x| x[0].affine(4.0, 0.0)?.log_softmax());
        // 1/σ² ≤ 1/ε = 20 amplifies the roundings of mean and variance; a gain's gradient adds up to 3 rows.
        let bound = 20.0 * 2.0 * roundings(1, 2 * cols + 8);
        run("layer_norm", vec![vec![rows, cols], vec![cols], vec![cols]], seed, bound, |x| layer_norm(&x[0], &x[1], &x[2], 0.05));
        run("rms_norm", vec![vec![rows, cols], vec![cols]], seed, bound, |x| rms_norm(&x[0], &x[1], 0.05));
    }

    #[test]
    fn cross_entropies(rows in 1usize..5, classes in 1usize..20, k in 0usize..4, smoothing in 0.0f32..0.5, weighted: bool, seed: u64) {
        let targets = indices(rows, classes, seed ^ 3);
        // Logits up to 5 in size, a log-sum-exp of all classes, a sum over rows.
        let bound = 5.0 * 5.0 * roundings(1, classes + rows + 16);
        run("cross_entropy", vec![vec![rows, classes]], seed, bound, |x| {
            let device = x[0].device();
            let weights: Vec<f32> = (0..rows).map(|i| (i % 3) as f32 * 0.5 + if i == 0 { 1.0 } else { 0.0 }).collect();
            let weights = if weighted { Some(Tensor::from_slice(&weights, &[rows], device)?) } else { None };
            cross_entropy(&x[0].affine(5.0, 0.0)?, &Tensor::from_slice(&targets, &[rows], device)?, &CrossEntropyOptions { weights, smoothing })
        });
        // Distributions get gradients too: logarithms down to −10 − ln C.
        let bound = bound * (classes + k) as f64;
        run("soft_cross_entropy", vec![vec![rows, classes], vec![rows, classes]], seed, bound, |x| soft_cross_entropy(&x[0].affine(5.0, 0.0)?, &shares(&x[1])?, Reduction::Mean));
        let named = indices(rows * k, classes, seed ^ 4);
        run("sparse_soft_cross_entropy", vec![vec![rows, classes], vec![rows, k]], seed, bound, |x| {
            let named = Tensor::from_slice(&named, &[rows, k], x[0].device())?;
            sparse_soft_cross_entropy(&x[0].affine(5.0, 0.0)?, &named, &shares(&x[1])?, Reduction::Sum)
        });
    }

    #[test]
    fn losses(rows in 0usize..4, cols in 0usize..6, form in 0usize..4, seed: u64) {
        let reduction = [Reduction::Mean, Reduction::Sum, Reduction::BatchMean, Reduction::None][form];
        let reduction = if rows * cols == 0 { Reduction::Sum } else { reduction };
        let (shapes, terms) = (vec![vec![rows, cols], vec![cols]], rows * cols);
        let factors = numbers(cols, seed ^ 6);
        let factors = |x: &Tensor| Tensor::from_slice(&factors, &[cols], x.device());
        // Terms up to 4 in size.
        run("mse", shapes.clone(), seed, 4.0 * roundings(terms, 6), |x| mse(&x[0], &x[1], reduction));
        run("mae", shapes.clone(), seed, 4.0 * roundings(terms, 6), |x| mae(&x[0].affine(1.0, 3.0)?, &x[1], reduction));
        // Slopes up to 1/0.05; logarithms up to 3.
        run("bce", shapes.clone(), seed, 20.0 * roundings(terms, 24), |x| {
            bce(&shares(&x[0])?, &shares(&x[1])?, &BceOptions { weight: Some(factors(&x[0])?), reduction, ..Default::default() })
        });
        run("bce_with_logits", shapes.clone(), seed, 8.0 * roundings(terms, 24), |x| {
            let options = BceOptions { positive_weight: Some(shares(&factors(&x[0])?)?), reduction, ..Default::default() };
            bce_with_logits(&x[0].affine(4.0, 0.0)?, &shares(&x[1])?, &options)
        });
        run("kl_divergence", shapes.clone(), seed, 8.0 * roundings(terms, 24), |x| kl_divergence(&x[0], KlTarget::Probabilities(&shares(&x[1])?), reduction));
        run("kl_divergence", shapes, seed, 8.0 * roundings(terms, 24), |x| kl_divergence(&x[0], KlTarget::Logarithms(&x[1]), reduction));
    }

    #[test]
    fn attentions(tq in 0usize..6, tk in 0usize..6, d in 1usize..5, causal: bool, masked: bool, seed: u64) {
        let (b, h) = (2, 2);
        // Scores of d terms, weights of tk, gradients of tq.
        let bound = 4.0 * roundings(1, 2 * (d + tk + tq) + 32);
        run("attention", vec![vec![b, h, tq, d], vec![b, h, tk, d], vec![b, h, tk, d]], seed, bound, |x| {
            // The first sample may have no key at all: its rows give 0.
            let mask: Vec<f32> = (0..b * tk).map(|i| (i >= tk && (i - tk) % 3 != 1) as u8 as f32).collect();
            let mask = if masked { Some(Tensor::from_slice(&mask, &[b, tk], x[0].device())?) } else { None };
            attention(&x[0], &x[1], &x[2], &AttentionOptions { causal, mask, ..Default::default() })
        });
    }

    #[test]
    fn positions_sums_and_second_runs(rows in 0usize..4, cols in 0usize..7, half in 0usize..4, seed: u64) {
        run("rotary", vec![vec![rows, cols, 2 * half]], seed, 2.0 * roundings(2, 8), |x| rotary(&x[0], &Tensor::arange(cols, x[0].device())?, 50.0)?.square());
        // The square of a sum of cols terms, whose gradient adds cols of those.
        run("cumsum", vec![vec![rows, cols]], seed, 2.0 * cols as f64 * roundings(cols, 4), |x| x[0].cumsum()?.square());
        run("recompute", vec![vec![rows, cols], vec![cols]], seed, 2.0 * roundings(rows, 6), |x| recompute(|y: &[Tensor]| y[0].mul(&y[1])?.square(), &[&x[0], &x[1]]));
    }

    #[test]
    fn convolutions(b in 0usize..3, group in 1usize..3, h in 1usize..5, w in 1usize..5, kernel in 0usize..4, step in 1usize..3, padding in 0usize..2, seed: u64) {
        let kernel = [1 + kernel % 2, 1 + kernel / 2];
        let options = Conv2dOptions { stride: [step, 1], padding: [padding, 1], dilation: [1, step], groups: group };
        let (c, o) = (2 * group, 3 * group);
        let reach = [kernel[0], 1 + step * (kernel[1] - 1)];
        let fits = h + 2 * padding >= reach[0] && w + 2 >= reach[1];
        let shapes = vec![vec![b, c, h, w], vec![o, 2, kernel[0], kernel[1]], vec![o]];
        if fits {
            // A kernel's gradient adds every window; a pixel's, every channel and place it is seen from.
            let terms = (2 * kernel[0] * kernel[1] + 1).max(b * (h + 2) * (w + 2)).max(3 * kernel[0] * kernel[1]);
            run("conv2d", shapes, seed, roundings(terms, 2), |x| conv2d(&x[0], &x[1], Some(&x[2]), &options));
        } else {
            let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32, &Device::cpu()).unwrap();
            prop_assert!(conv2d(&zeros(&shapes[0]), &zeros(&shapes[1]), None, &options).is_err());
        }
    }

    #[test]
    fn order_statistics(rows in 0usize..4, cols in 1usize..9, q in 0.0f64..1.0, seed: u64) {
        let shape = vec![rows, cols];
        let k = (q * cols as f64) as usize;
        run_distinct("top_k", shape.clone(), seed, roundings(1, 3), |x| x[0].top_k(k)?.0.square());
        run_distinct("sort_descending", shape.clone(), seed, roundings(1, 3), |x| x[0].sort_descending()?.0.square());
        run_distinct("kth_value", shape.clone(), seed, roundings(1, 3), |x| x[0].kth_value(k)?.square());
        run_distinct("quantile", shape, seed, roundings(2, 8), |x| x[0].quantile(q)?.square());
    }

    #[test]
    fn dropouts(rows in 0usize..4, cols in 0usize..6, p in 0.0f32..0.9, seed: u64) {
        let ctx = Context::train(seed, 3);
        let bound = 20.0 * roundings(1, 6);
        run("dropout", vec![vec![rows, cols]], seed, bound, |x| dropout(&x[0], p, &ctx, "a")?.square());
        run("drop_path", vec![vec![rows, cols, 2]], seed, bound, |x| drop_path(&x[0], p, &ctx, "a")?.square());
    }

    #[test]
    fn low_rank_updates(t in 0usize..5, m in 0usize..6, n in 0usize..6, r in 0usize..4, bias: bool, lambda: bool, seed: u64) {
        let shapes = vec![vec![t, n], vec![r, n], vec![m, r], vec![m], vec![r]];
        let w = numbers(m * n, seed ^ 21);
        // Two products in turn: n terms of x·Aᵀ, each in r terms of ·Bᵀ, or m of dy·B.
        let inner = n.max(m).max(1) * r.max(t).max(1);
        run("low_rank", shapes, seed, roundings(inner + n.max(m), 4), |x| {
            let weight = Tensor::from_slice(&w, &[m, n], x[0].device())?;
            low_rank_linear(&x[0], &weight, bias.then_some(&x[3]), &x[1], &x[2], lambda.then_some(&x[4]), 0.75)
        });
    }

    #[test]
    fn block_affine_updates(t in 0usize..5, m in 0usize..8, n in 0usize..8, block in 1usize..5, bias: bool, seed: u64) {
        let shapes = vec![vec![t, n], vec![m.div_ceil(block), block, block], vec![m]];
        let w = numbers(m * n, seed ^ 22);
        // Each element of ΔW is a sum of `block` products and a constant, then one of n, m or t of them is summed; dR adds a row of blocks.
        let inner = (block + 1) * n.max(m).max(t).max(1);
        run("block_affine", shapes, seed, roundings(inner, 4), |x| {
            let weight = Tensor::from_slice(&w, &[m, n], x[0].device())?;
            block_affine_linear(&x[0], &weight, bias.then_some(&x[2]), &x[1])
        });
    }
}

#[test]
fn kinks_have_the_slopes_that_are_stated() {
    let slope = |f: fn(&Tensor) -> Result<Tensor>, at: f32| {
        let x = Tensor::from([at]).trained();
        let y = f(&x).unwrap().sum_all().unwrap();
        backward(&y).unwrap().of(&x).unwrap().item().unwrap()
    };
    assert_eq!(slope(Tensor::abs, 0.0), 0.0);
    assert_eq!(slope(Tensor::relu, 0.0), 0.0);
    assert_eq!(slope(Tensor::sign, 0.0), 0.0);
    assert_eq!(slope(|x| x.clamp(-1.0, 2.0), -1.0), 1.0);
    assert_eq!(slope(|x| x.clamp(-1.0, 2.0), 2.0), 1.0);
    assert_eq!(slope(Tensor::norm_all, 0.0), 0.0);
}

#[test]
fn ties_share() {
    let x = Tensor::from([2.0, 1.0, 2.0]).trained();
    let gradient = |y: Result<Tensor>| {
        let grads = backward(&y.unwrap().sum_all().unwrap()).unwrap();
        grads.of(&x).unwrap().to_vec::<f32>().unwrap()
    };
    assert_eq!(gradient(x.max_keep(&[0])), [0.5, 0.0, 0.5]);
    assert_eq!(gradient(x.neg().unwrap().min_keep(&[0])), [-0.5, 0.0, -0.5]);
    let other = Tensor::from([2.0, 2.0, 0.0]);
    assert_eq!(gradient(x.maximum(&other)), [0.5, 0.0, 1.0]);
    assert_eq!(gradient(x.minimum(&other)), [0.5, 1.0, 0.0]);
}

/// Names that `fn name` of every `impl Op` and `impl Producer` returns in the engine's source, tests and examples left out.
fn op_names() -> Vec<String> {
    let mut folders = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../engine/src"
    ))];
    let mut names = vec![];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("tests.rs") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            let source = source.split("#[cfg(test)]").next().unwrap_or("");
            let code: Vec<&str> = source
                .lines()
                .filter(|l| !l.trim_start().starts_with("//"))
                .collect();
            let code = code.join("\n");
            let producers = code.split(" Producer for ").skip(1);
            for body in code.split(" Op for ").skip(1).chain(producers) {
                let name = body
                    .split("fn name(&self)")
                    .nth(1)
                    .and_then(|rest| rest.split("fn ").next());
                names.extend(
                    name.unwrap_or("")
                        .split('"')
                        .skip(1)
                        .step_by(2)
                        .map(String::from),
                );
            }
        }
    }
    names.extend(Unary::ALL.map(|f| f.name().to_string()));
    names.extend(Binary::ALL.map(|f| f.name().to_string()));
    names
}

#[test]
fn every_op_is_checked() {
    let sources = [
        include_str!("gradients.rs"),
        include_str!("gradients_fused.rs"),
        include_str!("producers.rs"),
    ];
    let dense: String = sources.concat().split_whitespace().collect();
    let walked: Vec<&str> = (Unary::ALL.map(|f| f.name()).into_iter())
        .chain(Binary::ALL.map(|f| f.name()))
        .collect();
    let names = op_names();
    assert!(names.len() > 50, "the walk found only {names:?}");
    for name in names {
        let named = ["run", "run_distinct", "check"].map(|f| format!("{f}(\"{name}\""));
        let tested =
            walked.contains(&name.as_str()) || named.iter().any(|call| dense.contains(call));
        assert!(tested, "op `{name}` has no gradient test");
    }
}
