//! The CUDA backend on the software driver, all its checks on, against the CPU. Where both are made of the same correctly rounded
//! operations in one order the bits must agree; sums in another order may differ by what each may err.

use deltaw_engine::device::Map;
use deltaw_engine::ops::binary::Binary;
use deltaw_engine::ops::unary::Unary;
use deltaw_engine::optim::{AdamW, Sgd};
use deltaw_engine::prelude::*;
use deltaw_tests::gpu::{Gpu, both, gpu, near, same_bits, tensor, values};
use deltaw_tests::numbers;
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

/// Equal bits, but for a NaN's.
fn same(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!(
            a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
            "{what}[{i}]: {a:e}, CPU {b:e}"
        );
    }
}

/// Numbers of every size, zeros of both signs, infinities and NaN among them.
fn wild(count: usize) -> Vec<f32> {
    let mut x: Vec<f32> = numbers(count, 3)
        .into_iter()
        .zip(numbers(count, 4))
        .map(|(a, b)| a * (b * 60.0).exp2())
        .collect();
    let odd = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1e-42,
        -1e-42,
        88.7,
        -104.5,
        3e38,
        -3e38,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        0.625,
        -0.625,
        std::f32::consts::FRAC_PI_4,
        1e5,
        -1e5,
    ];
    x[..odd.len()].copy_from_slice(&odd);
    x
}

/// How many ulps of the CPU's number the device's may be off.
fn close(got: &[f32], want: &[f32], ulps: f64, what: &str, x: &[f32]) {
    for ((got, want), x) in got.iter().zip(want).zip(x) {
        let bound = ulps * 2.0 * U * f64::from(want.abs()).max(f64::from(f32::MIN_POSITIVE));
        let within = (f64::from(*got) - f64::from(*want)).abs() <= bound;
        assert!(
            within || got == want || got.is_nan() && want.is_nan(),
            "{what}({x:e}): {got:e}, CPU {want:e}"
        );
    }
}

#[test]
fn functions_of_one_operand_are_the_cpus() {
    let x = wild(3000);
    for f in Unary::ALL {
        let mut x = x.clone();
        // The C library's power of a number below 0 is another matter, and its sine of a number beyond 2⁴⁰ has another reduction.
        match f {
            Unary::Pow(_) => x.iter_mut().for_each(|x| *x = x.abs()),
            Unary::Sin | Unary::Cos => x
                .iter_mut()
                .filter(|x| x.abs() > 1e9)
                .for_each(|x| *x = 1e5 / *x),
            _ => {}
        }
        let input = Tensor::from_slice(&x, &[x.len()], &Device::cpu()).unwrap();
        let dy = tensor(&[x.len()], 9);
        let [want, got] = both(&[input, dy], |x| {
            let mut y = Tensor::empty(x[0].shape(), DType::F32, x[0].device())?;
            let backend = x[0].device().backend();
            backend.map(Map::Unary(f), &[&x[0]], &mut y)?;
            let mut slope = x[1].deep_clone()?;
            backend.unary_grad(f, Some(&x[0]), &mut slope)?;
            Ok([y, slope])
        });
        for (part, (got, want)) in ["", "'"].iter().zip(got.iter().zip(&want)) {
            let name = format!("{}{part}", f.name());
            match f {
                // Both C library functions are within an ulp, the kernels' sine within 2 (1.6 for the polynomials and a rounding
                // of the reduced angle), a power within ½; slopes have one or two more products.
                Unary::Sin | Unary::Cos => {
                    for ((got, want), x) in values(got).iter().zip(values(want)).zip(&x) {
                        let error = (got - want).abs();
                        assert!(
                            error <= 3.0 * f32::EPSILON || got.is_nan() && want.is_nan(),
                            "{name}({x:e}): {got:e}, CPU {want:e}"
                        );
                    }
                }
                Unary::Pow(_) => close(&values(got), &values(want), 3.0, &name, &x),
                _ => same(&values(got), &values(want), &name),
            }
        }
    }
}

/// A shape and a view of it: rows may have gaps, axes may be permuted and repeat.
fn view(x: &Tensor, order: &[usize], cut: bool) -> Result<Tensor> {
    let x = x.permute(order)?;
    let last = x.rank() - 1;
    if cut && x.shape()[last] > 2 {
        x.narrow(last, 1, x.shape()[last] - 2)
    } else {
        Ok(x)
    }
}

/// The largest k and some in between, of numbers of which many are equal.
fn order_statistics(rows: usize, n: usize, k: usize, seed: u64) {
    let few = numbers(rows * n, seed)
        .into_iter()
        .map(|x| match (x * 40.0) as i32 {
            7 => f32::NAN,
            9 => f32::INFINITY,
            11 => -0.0,
            i => i as f32 * 0.5,
        });
    let few: Vec<f32> = few.collect();
    let x = Tensor::from_slice(&few, &[rows, n], &Device::cpu()).unwrap();
    let [want, got] = both(&[x], |x| {
        let (top, at) = x[0].top_k(k)?;
        Ok([
            top,
            at,
            x[0].kth_value(k - 1)?,
            x[0].kth_value(n - 1)?,
            x[0].kth_value(n / 2)?,
        ])
    });
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        for (a, b) in values(got).iter().zip(values(want)) {
            assert!(
                *a == b || a.is_nan() && b.is_nan(),
                "result {i} of {rows} rows of {n}, k = {k}: {a}, CPU {b}"
            );
        }
    }
}

proptest! {
    #![proptest_config(cases(12))]

    /// Several blocks a row; ties go on over the blocks' bounds.
    #[test]
    fn order_statistics_of_long_rows_are_the_cpus(rows in 1..4usize, n in 16_385..20_000usize, k in 1..500usize, seed: u64) {
        order_statistics(rows, n, k, seed);
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn functions_of_two_operands_are_the_cpus(
        which in 0..9usize, size in [1..4usize, 1..5usize, 1..4usize, 1..40usize], repeat in [any::<bool>(); 4],
        swap: bool, cut: bool, seed: u64,
    ) {
        let f = Binary::ALL[which];
        let order = if swap { [2, 0, 1, 3] } else { [0, 1, 2, 3] };
        // Few values, so that ties occur.
        let few = |shape: &[usize], seed| {
            let few: Vec<f32> = numbers(shape.iter().product(), seed).iter().map(|x| (4.0 * x).floor()).collect();
            Tensor::from_slice(&few, shape, &Device::cpu()).unwrap()
        };
        let a = few(&size, seed);
        let small: Vec<usize> = size.iter().zip(repeat).map(|(n, r)| if r { 1 } else { *n }).collect();
        let b = few(&small, seed ^ 5);
        let [want, got] = both(&[a, b], |x| {
            let (a, b) = (view(&x[0], &order, cut)?, x[1].permute(&order)?);
            let b = if cut && b.last_dim() > 2 { b.narrow(3, 1, b.last_dim() - 2)? } else { b };
            let y = match f {
                Binary::Add => a.add(&b)?,
                Binary::Sub => a.sub(&b)?,
                Binary::Mul => a.mul(&b)?,
                Binary::Div => a.div(&b)?,
                Binary::Maximum => a.maximum(&b)?,
                Binary::Minimum => a.minimum(&b)?,
                Binary::Eq => a.equal(&b)?,
                Binary::Lt => a.lt(&b)?,
                Binary::Le => a.le(&b)?,
            };
            y.select(&b, &a)
        });
        same(&values(&got), &values(&want), f.name());
    }

    #[test]
    fn sums_and_extremes_of_any_axes(
        size in [1..5usize, 1..40usize, 1..6usize, 1..70usize], axes in [any::<bool>(); 4], seed: u64,
    ) {
        let axes: Vec<usize> = (0..4).filter(|i| axes[*i]).collect();
        let [want, got] = both(&[tensor(&size, seed)], |x| {
            Ok([x[0].max_keep(&axes)?, x[0].min_keep(&axes)?, x[0].sum_keep(&axes)?, x[0].abs()?.sum_keep(&axes)?])
        });
        same(&values(&got[0]), &values(&want[0]), "max");
        same(&values(&got[1]), &values(&want[1]), "min");
        let terms: usize = axes.iter().map(|a| size[*a]).product();
        for (i, (a, b)) in values(&got[2]).iter().zip(values(&want[2])).enumerate() {
            // Each side errs by at most n u/(1 − n u) Σ|x|.
            let n = terms as f64 * U;
            let bound = 2.0 * n / (1.0 - n) * f64::from(values(&want[3])[i]) * (1.0 + n);
            prop_assert!((f64::from(*a) - f64::from(b)).abs() <= bound, "sum[{i}] {a} {b}");
        }
    }

    #[test]
    fn products_of_any_layout(
        batch in [1..3usize, 1..4usize], shared in [any::<bool>(); 2], m in 1..40usize, n in 1..70usize, k in 0..50usize,
        trans_a: bool, trans_b: bool, strided: bool, seed: u64,
    ) {
        let shape = |rows, columns, shared: bool, transposed| {
            let lead = if shared { [batch[0], 1] } else { batch };
            let mut shape = lead.to_vec();
            shape.extend(if transposed { [columns, rows] } else { [rows, columns] });
            if strided { shape.push(3) }
            shape
        };
        let (a, b) = (tensor(&shape(m, k, shared[0], trans_a), seed), tensor(&shape(k, n, shared[1], trans_b), seed ^ 1));
        let [want, got] = both(&[a, b], |x| {
            // Neither rows nor columns contiguous.
            let pick = |x: &Tensor| if strided { x.narrow(4, 1, 1)?.squeeze(4) } else { Ok(x.clone()) };
            let (a, b) = (pick(&x[0])?, pick(&x[1])?);
            Ok([a.matmul_t(&b, trans_a, trans_b)?, a.abs()?.matmul_t(&b.abs()?, trans_a, trans_b)?])
        });
        let bound = 2.0 * k as f64 * U / (1.0 - k as f64 * U);
        for (i, ((a, b), size)) in values(&got[0]).iter().zip(values(&want[0])).zip(values(&want[1])).enumerate() {
            let error = (f64::from(*a) - f64::from(b)).abs();
            prop_assert!(error <= bound * f64::from(size) * (1.0 + bound), "element {i}: {a} {b}");
        }
    }

    #[test]
    fn entries_by_index_and_their_sums_are_the_cpus(
        entries in 1..20usize, k in 0..80usize, width in 1..140usize, seed: u64,
    ) {
        let pick: Vec<u32> = numbers(k, seed).iter().map(|x| ((x + 1.0) * 0.5 * entries as f32) as u32).collect();
        let index = Tensor::from_slice(&pick, &[k], &Device::cpu()).unwrap();
        let [want, got] = both(&[tensor(&[entries, width], seed), index, tensor(&[k, width], seed ^ 2)], |x| {
            let (across, turned) = (x[1].reshape(&[1, k])?, x[0].t()?.narrow(0, 0, 1)?);
            let along = x[2].t()?.narrow(0, 0, 1)?.contiguous()?;
            Ok([
                x[0].gather_rows(&x[1])?,
                x[0].scatter_add_rows(&x[1], &x[2])?,
                x[0].converted(DType::Bf16)?.gather_rows(&x[1])?,
                turned.take(&across)?,
                turned.scatter_add(&across, &along)?,
            ])
        });
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            same(&values(got), &values(want), &format!("result {i}"));
        }
    }

    #[test]
    fn order_statistics_are_the_cpus(rows in 1..9usize, n in 1..300usize, k in 1..6usize, seed: u64) {
        order_statistics(rows, n, k.min(n), seed);
    }

    #[test]
    fn copies_convert_as_the_cpus(from in 0..6usize, to in 0..6usize, size in [1..4usize, 1..9usize, 1..30usize], cut: bool) {
        let types = [DType::F32, DType::Bf16, DType::F16, DType::U8, DType::U32, DType::I64];
        let (from, to) = (types[from], types[to]);
        let float = |t: DType| t.is_float();
        prop_assume!(from == to || float(to) || (float(from) && to != DType::I64));
        let x = tensor(&size, 3).affine(300.0, 20.0).unwrap().converted(from).unwrap();
        let [want, got] = both(&[x], |x| view(&x[0], &[1, 0, 2], cut)?.packed()?.converted(to));
        let bytes = |x: &Tensor| x.device().backend().read(x, to).unwrap();
        prop_assert_eq!(bytes(&got), bytes(&want), "{} to {}", from, to);
    }

    /// Every order of three axes, of every type: those that move the contiguous one go by tiles where it is long enough.
    #[test]
    fn permutations_are_the_cpus(which in 0..6usize, size in [1..5usize, 1..50usize, 1..90usize], order in 0..6usize, cut: bool) {
        let t = [DType::F32, DType::Bf16, DType::F16, DType::U8, DType::U32, DType::I64][which];
        let order = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]][order];
        let x = tensor(&size, 3).affine(100.0, 100.0).unwrap().converted(t).unwrap();
        let [want, got] = both(&[x], |x| view(&x[0], &order, cut)?.packed());
        let bytes = |x: &Tensor| x.device().backend().read(x, t).unwrap();
        prop_assert_eq!(bytes(&got), bytes(&want), "{} {:?} {:?}", t, size, order);
    }

    #[test]
    fn windows_give_back_what_they_share(
        size in [1..3usize, 3..9usize, 3..12usize], kernel in [1..4usize, 1..4usize], stride in 1..3usize, seed: u64,
    ) {
        let [want, got] = both(&[tensor(&size, seed)], |x| {
            let x = x[0].trained();
            let y = x.windows(kernel, stride)?;
            let dy = Tensor::from_slice(&numbers(y.len(), seed ^ 1), y.shape(), y.device())?;
            let grads = backward_with(&y, dy)?;
            Ok([y.detach(), grads.of(&x).unwrap().clone()])
        });
        same(&values(&got[0]), &values(&want[0]), "windows");
        // An element is in 9 windows at most: 8 sums of numbers up to 9.
        for (a, b) in values(&got[1]).iter().zip(values(&want[1])) {
            prop_assert!((a - b).abs() <= (2.0 * 8.0 * 9.0 * U) as f32);
        }
    }
}

#[test]
fn conversions_without_a_kernel_are_named() {
    let index = Tensor::from_slice(&[1u32, 2], &[2], &gpu().device).unwrap();
    let message = index.converted(DType::I64).unwrap_err().to_string();
    assert_eq!(
        message,
        "copy: u32 [2]: map: no copy from u32 to i64: go by way of f32"
    );
}

#[test]
fn random_numbers_are_the_cpus() {
    let key = RandomKey::new(3, Purpose::Noise, "x");
    for distribution in [
        Distribution::Uniform,
        Distribution::Normal,
        Distribution::Bernoulli(0.3),
    ] {
        let draw = |device: &Device| {
            let whole = Tensor::random(&[3, 5, 41], distribution, key, device).unwrap();
            let part = Tensor::random_window(2..9, 7..20, distribution, key, device).unwrap();
            [values(&whole), values(&part)].concat()
        };
        same(&draw(&gpu().device), &draw(&Device::cpu()), "random");
    }
}

#[test]
fn optimisers_take_the_cpus_steps() {
    let run = |device: &Device| {
        let store = Store::new(device, 5);
        let shapes: Vec<Vec<usize>> = (0..70).map(|i| vec![1 + i % 7, 1 + 5 * i % 31]).collect();
        let params: Vec<Param> = (shapes.iter().enumerate())
            .map(|(i, s)| {
                store
                    .root()
                    .param(&format!("p{i}"), s, Init::Normal(0.1))
                    .unwrap()
            })
            .collect();
        let mut all = vec![];
        let mut adam = AdamW::new(0.1);
        let mask = tensor(&shapes[3], 1).relu().unwrap();
        adam.set_mask(&params[3], Some(&mask)).unwrap();
        let (mut plain, mut heavy) = (Sgd::new(0.0), Sgd::new(0.9));
        heavy.rule.nesterov = true;
        heavy.weight_decay = 0.01;
        for step in 0..3 {
            let mut grads = deltaw_engine::tape::Gradients::default();
            for (i, p) in params.iter().enumerate() {
                let g = tensor(&shapes[i], step * 100 + i as u64);
                grads.set(p.id(), g.to_device(device).unwrap());
            }
            adam.step(&params, &grads, 0.01).unwrap();
            plain.step(&params, &grads, 0.01).unwrap();
            heavy.step(&params, &grads, 0.01).unwrap();
            adam.reset_rows(&params[6], 0..1).unwrap();
        }
        for p in &params {
            all.extend(values(&p.value()));
        }
        all
    };
    same(&run(&gpu().device), &run(&Device::cpu()), "weights");
}

proptest! {
    #![proptest_config(cases(24))]

    /// Inputs and dy lie in [−1, 1), and both sides err. Softmax: a sum of n exponentials, each with 3 roundings, and its
    /// logarithm err by (n + 8) u; y is at most 1, and so is Σ y dy, whose terms err once more. The logarithm is below 2 + ln n;
    /// its gradient has Σ dy, n at most with n u of that, times an e^y of n + 8 roundings.
    #[test]
    fn softmax_and_its_logarithm(
        rows in 1..6usize, n in prop_oneof![1..150usize, 150..2500usize, 8100..8400usize], seed: u64,
    ) {
        let (x, terms) = (tensor(&[rows, n], seed), n as f64);
        let one = 2.0 * (terms + 8.0) * U;
        near("softmax", std::slice::from_ref(&x), &[one, 3.0 * one], |x| x[0].softmax());
        near("log_softmax", &[x], &[one + 14.0 * U, terms * 3.0 * one], |x| x[0].log_softmax());
    }

    /// Weights sum to 1. A loss is below 2 + ln n, with a log-sum-exp of n + 8 roundings and a mean of n; their sum has as many
    /// terms as rows. The gradient of a logit, at most dy, has the softmax's roundings and four more.
    #[test]
    fn cross_entropies(rows in 1..40usize, n in 1..150usize, smooth: bool, weighted: bool, seed: u64) {
        let classes: Vec<u32> = numbers(rows, seed ^ 3).iter().map(|x| ((x + 1.0) * 0.5 * n as f32) as u32).collect();
        let classes = Tensor::from_slice(&classes, &[rows], &Device::cpu()).unwrap();
        // Some rows are left out.
        let mut weights: Vec<f32> = numbers(rows, seed ^ 4).iter().map(|w| w.max(0.0)).collect();
        weights[0] = 1.0;
        let bound = 2.0 * (2.0 * n as f64 + rows as f64 + 12.0) * U;
        near("cross_entropy", &[tensor(&[rows, n], seed), classes], &[8.0 * bound, bound], |x| {
            let options = CrossEntropyOptions {
                weights: weighted.then(|| Tensor::from_slice(&weights, &[rows], x[0].device())).transpose()?,
                smoothing: if smooth { 0.1 } else { 0.0 },
            };
            cross_entropy(&x[0], &x[1], &options)
        });
    }

    #[test]
    fn dropouts(rows in 0..70usize, n in 0..70usize, p in 0.01f32..0.99, step: u64, seed: u64) {
        let ctx = Context::train(seed, step);
        same_bits("dropout", &[tensor(&[rows, n], seed)], |x| dropout(&x[0], p, &ctx, "here"));
    }

    /// Heads before tokens and after, positions that are shared, of each sample, and of all; heads that are views.
    #[test]
    fn rotations(batch in 1..4usize, heads in 1..20usize, tokens in 1..7usize, half in 1..10usize, packed: bool, seed: u64) {
        let width = 2 * half;
        let places = Tensor::from_slice(
            &(0..batch * tokens).map(|i| (i * 7 % 40) as u32).collect::<Vec<_>>(),
            &[batch, tokens],
            &Device::cpu(),
        ).unwrap();
        let [of_each, of_all] = [[batch, 1, tokens], [batch, tokens, 1]].map(|shape| places.reshape(&shape).unwrap());
        let shared = places.narrow(0, 0, 1).unwrap().reshape(&[tokens]).unwrap();
        for (shape, positions) in [
            ([batch, heads, tokens], &shared),
            ([batch, heads, tokens], &of_each),
            ([batch, tokens, heads], &of_all),
            ([batch, tokens, heads], &shared.unsqueeze(1).unwrap()),
        ] {
            let x = tensor(&[shape[0], shape[1], shape[2], width * if packed { 3 } else { 1 }], seed);
            same_bits("rotary", &[x], |x| {
                let device = x[0].device();
                let own = if packed { x[0].narrow(3, width, width)? } else { x[0].clone() };
                rotary(&own, &positions.to_device(device)?, 50.0)
            });
        }
    }

    /// An element of y is a sum of C/G kh kw products, of dw one of B Ho Wo, of dx one of at most kh kw of O/G each; of db one of B Ho Wo.
    #[test]
    fn convolutions(
        sizes in [1..4usize, 1..3, 1..4, 1..3], image in [4..12usize, 4..14], kernel in [1..5usize, 1..6], stride in [1..5usize, 1..5],
        padding in [0..3usize, 0..5], dilation in [1..3usize, 1..3], fours: bool, seed: u64,
    ) {
        let [batch, groups, channels, outputs] = sizes;
        let four = |x: usize| if fours { x.next_multiple_of(4) } else { x };
        let (image, kernel) = ([image[0], four(image[1])], [kernel[0], four(kernel[1])]);
        let options = Conv2dOptions {
            stride: [stride[0], four(stride[1])],
            padding: [padding[0], if fours { padding[1] / 4 * 4 } else { padding[1] }],
            dilation: if fours { [dilation[0], 1] } else { dilation },
            groups,
        };
        let along = |k: usize| {
            let room = image[k] + 2 * options.padding[k];
            Some(room.checked_sub(options.dilation[k] * (kernel[k] - 1) + 1)? / options.stride[k] + 1)
        };
        let (Some(ho), Some(wo)) = (along(0), along(1)) else { return Ok(()) };
        let inputs = [
            tensor(&[batch, groups * channels, image[0], image[1]], seed),
            tensor(&[groups * outputs, channels, kernel[0], kernel[1]], seed ^ 1),
            tensor(&[groups * outputs], seed ^ 2),
        ];
        let sum = |n: usize, size: usize| 2.0 * (n + 4) as f64 * U * size as f64;
        let (window, windows) = (kernel[0] * kernel[1], batch * ho * wo);
        let bounds = [
            sum(channels * window, channels * window + 1),
            sum(outputs + window, outputs * window),
            sum(windows, windows),
            sum(windows, windows),
        ];
        near("conv2d", &inputs, &bounds, |x| conv2d(&x[0], &x[1], Some(&x[2]), &options));
    }

    #[test]
    fn norms(rows in 1..150usize, n in 1..90usize, seed: u64) {
        norms_agree(rows, n, seed);
    }
}

/// With ε = 1/4, r ≤ 2; |x − μ| ≤ 2, so |x̂| ≤ 4: y, up to 5, has the (n + 8) u of mean and deviation, and dx, up to
/// r (1 + 1 + 4·4), three such sums; dg and db sum rows of numbers up to 4.
fn norms_agree(rows: usize, n: usize, seed: u64) {
    let x = tensor(&[rows, n], seed);
    let (gain, bias) = (tensor(&[n], seed ^ 1), tensor(&[n], seed ^ 2));
    let (one, all) = (2.0 * (n as f64 + 8.0) * U, rows as f64);
    let (value, dx, columns) = (
        2.0 * 5.0 * one,
        3.0 * 36.0 * one,
        all * 4.0 * (one + 2.0 * all * U),
    );
    near(
        "layer_norm",
        &[x.clone(), gain.clone(), bias],
        &[value, dx, columns, columns],
        |x| layer_norm(&x[0], &x[1], &x[2], 0.25),
    );
    near("rms_norm", &[x, gain], &[value, dx, columns], |x| {
        rms_norm(&x[0], &x[1], 0.25)
    });
}

/// Rows that a block keeps, and one that is too long for it.
#[test]
fn norms_of_long_rows() {
    for (rows, n) in [(19, 300), (17, 1027), (3, 5000), (18, 8195)] {
        norms_agree(rows, n, 7);
    }
}

/// Each gradient alone: one that nobody needs is not made.
#[test]
fn norms_give_the_gradients_that_are_asked_for() {
    for (rows, n) in [(18, 40), (17, 1027), (3, 8195)] {
        let (x, gain, bias, dy) = (
            tensor(&[rows, n], 1),
            tensor(&[n], 2),
            tensor(&[n], 3),
            tensor(&[rows, n], 4),
        );
        let of = |trained: [bool; 3]| {
            let mut inputs = [&x, &gain, &bias].map(|x| x.to_device(&gpu().device).unwrap());
            for (x, trained) in inputs.iter_mut().zip(trained) {
                if trained {
                    *x = x.trained();
                }
            }
            let y = layer_norm(&inputs[0], &inputs[1], &inputs[2], 0.25).unwrap();
            let dy = dy.to_device(&gpu().device).unwrap();
            let grads = backward_with(&y, dy).unwrap_or_else(|e| gpu().fail(e));
            inputs.map(|x| grads.of(&x).map(values))
        };
        let all = of([true; 3]);
        for (i, want) in all.iter().enumerate() {
            let mut trained = [false; 3];
            trained[i] = true;
            let mut wanted = [None, None, None];
            wanted[i] = want.clone();
            assert_eq!(of(trained), wanted, "{rows} rows of {n}, input {i}");
        }
    }
}

/// Weights without a sum have no mean: the CPU says so at once, a GPU by what it gives.
#[test]
fn weights_without_a_sum_give_nothing_finite() {
    let loss = |weights: [f32; 3], device: &Device| {
        let on = |x: Tensor| x.to_device(device);
        let options = CrossEntropyOptions {
            weights: Some(on(Tensor::from(weights))?),
            smoothing: 0.0,
        };
        let classes = Tensor::from_slice(&[0u32, 3, 1], &[3], device)?;
        cross_entropy(&on(tensor(&[3, 4], 1))?, &classes, &options)?.item()
    };
    for weights in [[0.0; 3], [1.0, -1.0, 0.0], [0.0, -2.0, 1.0]] {
        let message = loss(weights, &Device::cpu()).unwrap_err().to_string();
        assert!(message.contains("so that there is no mean"), "{message}");
        let value = loss(weights, &gpu().device).unwrap_or_else(|e| gpu().fail(e));
        assert!(!value.is_finite(), "{weights:?}: {value}");
    }
}

/// Indices from the host, from a selection, and copies and selections of either, are checked without being read; others are read.
/// All are checked, and what is wrong is named.
#[test]
fn indices_out_of_range_are_refused() {
    // Of its own: reads are counted.
    let gpu = Gpu::new();
    let device = &gpu.device;
    let table = tensor(&[5, 3], 1).to_device(device).unwrap();
    let index = |values: &[u32]| Tensor::from_slice(values, &[values.len()], device).unwrap();
    let refused = |index: &Tensor| table.gather_rows(index).is_err();
    let reads = || device.as_cuda().unwrap().reads();
    assert!(!refused(&index(&[4, 0])) && refused(&index(&[0, 5])));
    let joined = |a: &[u32], b: &[u32]| Tensor::concat(&[&index(a), &index(b)], 0).unwrap();
    assert!(refused(&joined(&[1, 2], &[3, 7])) && refused(&joined(&[9], &[3])));
    assert!(!refused(&joined(&[1, 2], &[3, 4])));
    let (_, best) = tensor(&[6], 2).to_device(device).unwrap().top_k(6).unwrap();
    assert!(refused(&best));
    let (_, best) = tensor(&[5], 2).to_device(device).unwrap().top_k(2).unwrap();
    let before = reads();
    let shown = |ids: &Tensor| {
        ids.narrow(0, 1, 2)
            .unwrap()
            .take(&index(&[1, 0, 1]))
            .unwrap()
    };
    assert!(!refused(&best) && !refused(&best.deep_clone().unwrap()));
    assert!(!refused(&shown(&index(&[4, 1, 3]))));
    assert_eq!(reads(), before, "reads of indices whose bound is known");
    // Nothing that is shown is out of range, which only a look can say.
    assert!(!refused(&shown(&index(&[5, 1, 3]))) && reads() > before);
    let message = table.gather_rows(&shown(&index(&[4, 1, 5])));
    assert_eq!(
        message.unwrap_err().to_string(),
        "gather_rows: index 5 at position 0, but there are only 5 rows"
    );
}
