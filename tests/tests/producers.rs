//! Updates that are made a panel at a time: gradients, panels, the exact threshold of a competition, the same bits with
//! any number of threads.

use deltaw_engine::linalg;
use deltaw_engine::ops::kernelized::{Competition, Kernel, Values};
use deltaw_engine::ops::random_basis::{Bases, RandomBasis};
use deltaw_engine::ops::sparse::Sparse;
use deltaw_engine::prelude::*;
use deltaw_tests::{as_the_oracle, check, numbers, roundings, same_bits_with_any_threads};
use proptest::prelude::*;

/// More elements than a panel has, for panels of rows and of columns.
const LARGE: [[usize; 2]; 2] = [[1300, 450], [450, 1300]];

/// A frozen W.
fn weight(m: usize, n: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    Tensor::from_slice(&numbers(m * n, 22), &[m, n], device)?.converted(dtype)
}

/// Factors near ±½ and from 1 to 2, so that no distance is below ½.
fn factors(shapes: &[Vec<usize>], seed: u64) -> Vec<Vec<f32>> {
    let mut all = deltaw_tests::inputs(shapes, seed);
    all[1].iter_mut().for_each(|a| *a *= 0.5);
    all[2].iter_mut().for_each(|b| *b = 1.5 + 0.5 * *b);
    all
}

fn kernel(heads: usize) -> impl Strategy<Value = (usize, Kernel)> {
    let kernel = prop_oneof![
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
    ];
    (1..=heads, kernel)
}

/// The middle of the widest gap between magnitudes, so that no difference moves an entry over the threshold.
fn widest_gap(k: &[f64]) -> f32 {
    let mut sizes: Vec<f64> = k.iter().map(|k| k.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let gap = sizes
        .windows(2)
        .max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0])));
    gap.map_or(0.0, |g| ((g[0] + g[1]) / 2.0) as f32)
}

fn random_basis(rank: usize, distinct: usize, sparse: bool) -> RandomBasis {
    let bases = if sparse {
        Bases::Ternary(3.0)
    } else {
        Bases::Uniform
    };
    RandomBasis {
        rank,
        scale: 0.5,
        seed: 4,
        bases,
        distinct,
    }
}

/// The roundings of a random basis' value and gradients, for numbers up to 1 and bases up to √3: an entry of ΔW sums N·r
/// products up to 1.5, a row's U sums D products up to √3/2 of a gradient up to t, dλ and dγ sum d or r of them again.
fn random_basis_roundings(update: &RandomBasis, [t, m, n]: [usize; 3]) -> f64 {
    let (terms, small, large) = (update.terms(m, n) * update.rank, m.min(n), m.max(n));
    let value = large as f64 * (1.0 + 1.5 * terms as f64);
    let gradient = 1.5 * (large * small.max(update.rank) * t) as f64;
    value.max(gradient) * (t + large + small + terms + 16) as f64 / 2.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_bases(t in 0usize..16, m in 0usize..7, n in 0usize..7, r in 1usize..4, distinct in 1usize..4, sparse: bool, bias: bool, seed: u64) {
        let update = random_basis(r, distinct, sparse);
        let shapes = vec![vec![t, n], vec![r, update.terms(m, n)], vec![update.terms(m, n), m.min(n)], vec![m]];
        check("random_basis", &|x| {
            let weight = weight(m, n, DType::F32, x[0].device())?;
            random_basis_linear(&x[0], &weight, bias.then_some(&x[3]), (&x[1], &x[2]), update)
        }, &shapes, &deltaw_tests::inputs(&shapes, seed), random_basis_roundings(&update, [t, m, n]));
    }

    /// The composed form adds v to W; y and dx sum n and m products, dv the tokens'.
    #[test]
    fn chosen_places(t in 0usize..4, m in 0usize..7, n in 0usize..7, keep in 0usize..4, bias: bool, seed: u64) {
        let places: Vec<u32> = (0..m * n).filter(|i| i * 7 % 5 < keep).map(|i| i as u32).collect();
        let shapes = vec![vec![t, n], vec![places.len()], vec![m]];
        let update = Sparse::new(places).unwrap();
        let units = 2.0 * (m.max(n).max(t) + 4) as f64 * m.max(n).max(t).max(1) as f64;
        check("sparse", &|x| {
            let weight = weight(m, n, DType::F32, x[0].device())?;
            produced_linear(update.clone(), &x[0], &weight, bias.then_some(&x[2]), &[&x[1]])
        }, &shapes, &deltaw_tests::inputs(&shapes, seed), units);
    }

    /// Numbers reach r in a kernel's argument, so (r + 1)³ in a cubic one and three times its square in its slope; every entry
    /// takes 2r + 16 roundings, and is then summed with up to m, n or t others, twice over in the factors' gradients.
    #[test]
    fn kernels((heads, kernel) in kernel(3), t in 0usize..4, m in 0usize..5, n in 0usize..5, d in 1usize..4, sparse: bool, bias: bool, seed: u64) {
        let shapes = vec![vec![t, n], vec![heads, n, d], vec![heads, m, d], vec![m]];
        let values = factors(&shapes, seed);
        let r = heads * d;
        let update = KernelizedSparse { heads, kernel, competition: Competition::Off, values: Values::Soft };
        let on = |k: usize| Tensor::from_slice(&values[k], &shapes[k], &Device::oracle());
        let k = update.dense(&weight(m, n, DType::F32, &Device::oracle()).unwrap(), &[&on(1).unwrap(), &on(2).unwrap()]).unwrap();
        let t_fixed = Competition::Above(widest_gap(&k.to_vec::<f64>().unwrap()));
        let update = KernelizedSparse { competition: if sparse { t_fixed } else { Competition::Off }, ..update };
        let size = match kernel {
            Kernel::Linear => r,
            Kernel::Polynomial { .. } => 3 * (r + 1).pow(3),
            _ => 2,
        } as f64;
        let sums = t.max(1) * m.max(n).max(1);
        check("kernelized_sparse", &|x| {
            let weight = weight(m, n, DType::F32, x[0].device())?;
            kernelized_sparse_linear(&x[0], &weight, bias.then_some(&x[3]), (&x[1], &x[2]), update)
        }, &shapes, &values, size * roundings(sums, 2 * r + 16));
    }

    /// Without ties `N − 1 − ⌊p(N − 1)⌋` entries lie above the p-quantile, which the composed form finds by sorting.
    #[test]
    fn the_threshold_is_the_exact_quantile(m in 1usize..90, n in 1usize..200, p in 0.0f64..=1.0, seed: u64) {
        let shapes = vec![vec![0], vec![2, n, 3], vec![2, m, 3]];
        let values = factors(&shapes, seed);
        let on = |k: usize| Tensor::from_slice(&values[k], &shapes[k], &Device::cpu()).unwrap();
        let update = KernelizedSparse {
            heads: 2, kernel: Kernel::Distance { scale: 0.1 }, competition: Competition::Quantile(p), values: Values::Soft,
        };
        let zero = Tensor::zeros(&[m, n], DType::F32, &Device::cpu()).unwrap();
        let made = kernelized_sparse_linear(&Tensor::eye(n, &Device::cpu()).unwrap(), &zero, None, (&on(1), &on(2)), update).unwrap();
        let acting = made.to_vec::<f32>().unwrap().iter().filter(|k| **k != 0.0).count();
        let last = m * n - 1;
        // Two of 18,000 magnitudes may be one number of f32, and lie at the threshold: then one more or less acts.
        let want = last - (p * last as f64).floor() as usize;
        prop_assert!(acting.abs_diff(want) <= 1, "{acting} of {m}×{n} act at p = {p}, wanted {want}");
    }

    /// Integers, so that every K is exact and ties are many: value and gradients are those of the composed form, which sorts.
    #[test]
    fn a_competition_with_ties(m in 1usize..60, n in 1usize..150, p in 0.0f64..=1.0, squared: bool, seed in 0u64..1000) {
        let shapes = [vec![2, n], vec![1, n, 3], vec![1, m, 3]];
        let update = KernelizedSparse {
            heads: 1, kernel: Kernel::Linear, competition: Competition::Quantile(p),
            values: if squared { Values::Squared } else { Values::Soft },
        };
        let whole = |x: &Tensor| -> Result<Tensor> {
            let integers: Vec<f32> = x.to_vec::<f32>()?.iter().map(|v| (v * 4.0).round()).collect();
            // The integers' values with x's gradient.
            x.add(&Tensor::from_slice(&integers, x.shape(), x.device())?.sub(&x.detach())?)
        };
        // |K| ≤ 48, or its square; sums of n or m of them.
        let units = 48.0 * 48.0 * ((m.max(n) + 8) * 8) as f64;
        as_the_oracle("competition", &shapes, seed, units, |x| {
            let weight = weight(m, n, DType::F32, x[0].device())?;
            kernelized_sparse_linear(&x[0], &weight, None, (&whole(&x[1])?, &whole(&x[2])?), update)
        });
    }
}

/// Several panels, W in each type, with and without whole blocks.
#[test]
fn over_several_panels() {
    LARGE.into_iter().for_each(several_panels);
}

fn several_panels([m, n]: [usize; 2]) {
    for (block, dtype) in [
        (9, DType::F32),
        (50, DType::F32),
        (50, DType::Bf16),
        (64, DType::F16),
    ] {
        let shapes = [vec![5, n], vec![m.div_ceil(block), block, block], vec![m]];
        // ΔW's elements sum `block` products and are at most block + 1; y and dx sum n and m of them, dR n·5.
        let largest = (block + 1) as f64;
        let units = 2.0 * largest * largest * (m.max(5 * n) + block + 4) as f64;
        as_the_oracle("block_affine", &shapes, 3, units, |x| {
            let weight = weight(m, n, dtype, x[0].device())?;
            block_affine_linear(&x[0], &weight, Some(&x[2]), &x[1])
        });
    }
    let places: Vec<u32> = (0..(m * n) as u32).filter(|i| i % 11 == 3).collect();
    let shapes = [vec![5, n], vec![places.len()]];
    let update = Sparse::new(places).unwrap();
    let units = 4.0 * (m.max(n) + 4) as f64 * m.max(n) as f64;
    as_the_oracle("sparse", &shapes, 3, units, |x| {
        let weight = weight(m, n, DType::F16, x[0].device())?;
        produced_linear(update.clone(), &x[0], &weight, None, &[&x[1]])
    });
    let shapes = [vec![5, n], vec![2, n, 4], vec![2, m, 4]];
    let update = KernelizedSparse {
        heads: 2,
        kernel: Kernel::Rbf { gamma: 0.3 },
        competition: Competition::Off,
        values: Values::Soft,
    };
    let units = 4.0 * (m.max(5 * n) + 40) as f64 * 5.0;
    as_the_oracle("kernelized_sparse", &shapes, 3, units, |x| {
        let weight = weight(m, n, DType::Bf16, x[0].device())?;
        kernelized_sparse_linear(&x[0], &weight, None, (&x[1], &x[2]), update)
    });
}

/// ΔW of a random basis.
fn random_delta(update: RandomBasis, [m, n]: [usize; 2], lambda: &[f32], gamma: &[f32]) -> Tensor {
    let (device, terms) = (Device::cpu(), update.terms(m, n));
    let zero = Tensor::zeros(&[m, n], DType::F32, &device).unwrap();
    let lambda = Tensor::from_slice(lambda, &[update.rank, terms], &device).unwrap();
    let gamma = Tensor::from_slice(gamma, &[terms, m.min(n)], &device).unwrap();
    update.dense(&zero, &[&lambda, &gamma]).unwrap()
}

#[test]
fn random_bases_over_several_panels_and_runs() {
    // Few tokens go through the factors, over several runs of terms; many through W + ΔW, over several panels.
    for ([t, m, n], rank, sparse) in [
        ([5, 1300, 450], 90, false),
        ([5, 450, 1300], 7, true),
        ([1100, 770, 700], 90, false),
        ([1100, 700, 770], 90, true),
    ] {
        let update = random_basis(rank, usize::MAX, sparse);
        let terms = update.terms(m, n);
        let shapes = [vec![t, n], vec![rank, terms], vec![terms, m.min(n)]];
        let units = random_basis_roundings(&update, [t, m, n]);
        as_the_oracle("random_basis", &shapes, 3, units, |x| {
            let weight = weight(m, n, DType::F32, x[0].device())?;
            random_basis_linear(&x[0], &weight, None, (&x[1], &x[2]), update)
        });
    }
}

/// The sum of the paper, from the outer products that single terms show: what λ = 1 at (k, j) alone gives is B_jk·A_kᵀ.
#[test]
fn a_random_basis_is_the_sum_of_its_terms() {
    for shape in [[7, 5], [5, 7]] {
        let update = RandomBasis {
            scale: 1.0,
            ..random_basis(2, usize::MAX, false)
        };
        let ([m, n], terms) = (shape, update.terms(7, 5));
        let (lambda, gamma) = (numbers(2 * terms, 1), numbers(terms * 5, 2));
        let mut want = vec![0.0f64; m * n];
        for (j, k) in (0..terms).flat_map(|j| [(j, 0), (j, 1)]) {
            let mut single = vec![0.0; 2 * terms];
            single[k * terms + j] = 1.0;
            let product = random_delta(update, shape, &single, &vec![1.0; terms * 5]);
            for (i, product) in product.to_vec::<f64>().unwrap().iter().enumerate() {
                let small = if m >= n { i % n } else { i / n };
                want[i] += product * f64::from(lambda[k * terms + j] * gamma[j * 5 + small]);
            }
        }
        let got = random_delta(update, shape, &lambda, &gamma)
            .to_vec::<f64>()
            .unwrap();
        for (got, want) in got.iter().zip(&want) {
            // Six products below 3, each made in a few roundings of 2⁻²⁴.
            assert!(
                (got - want).abs() <= 6.0 * 3.0 * 12.0 * 2f64.powi(-24),
                "{got} and {want}"
            );
        }
    }
}

#[test]
fn a_smaller_layer_has_the_leading_part_of_the_bases() {
    let update = random_basis(2, usize::MAX, false);
    // B_1's first column times A's first row.
    let delta = |shape: [usize; 2]| {
        let terms = update.terms(shape[0], shape[1]);
        let mut lambda = vec![0.0; 2 * terms];
        lambda[1] = 1.0;
        random_delta(
            update,
            shape,
            &lambda,
            &vec![1.0; terms * shape[0].min(shape[1])],
        )
    };
    let (small, large) = (delta([6, 4]), delta([40, 31]));
    let cut = large.narrow(0, 0, 6).unwrap().narrow(1, 0, 4).unwrap();
    assert_eq!(small.to_vec::<f32>().unwrap(), cut.to_vec::<f32>().unwrap());
    let wide = delta([4, 6]).t().unwrap();
    assert_eq!(
        small.to_vec::<f32>().unwrap(),
        wide.to_vec::<f32>().unwrap()
    );
}

/// The smallest of d singular values that counts is far above d·ε of the largest for random matrices of this size.
#[test]
fn the_rank_is_full_or_that_of_one_basis() {
    for ([m, n], distinct, want) in [
        ([20, 12], usize::MAX, 12),
        ([12, 20], usize::MAX, 12),
        ([20, 12], 1, 3),
        ([20, 12], 2, 6),
    ] {
        let update = random_basis(3, distinct, false);
        let terms = update.terms(m, n);
        let delta = random_delta(
            update,
            [m, n],
            &numbers(3 * terms, 5),
            &numbers(terms * 12, 6),
        );
        let s = linalg::svd(&delta).unwrap().s.to_vec::<f64>().unwrap();
        let rank = s.iter().filter(|v| **v > 1e-5 * s[0]).count();
        assert_eq!(rank, want, "{m}×{n}, {distinct} bases: {s:?}");
        assert_eq!(update.parameters(m, n), 4 * (3 + 12));
    }
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    LARGE.into_iter().for_each(same_bits);
}

fn same_bits([m, n]: [usize; 2]) {
    let update = random_basis(7, usize::MAX, false);
    let shapes = [
        vec![40, n],
        vec![7, update.terms(m, n)],
        vec![update.terms(m, n), m.min(n)],
    ];
    same_bits_with_any_threads("random_basis", &shapes, |x| {
        let weight = weight(m, n, DType::F32, x[0].device())?;
        random_basis_linear(&x[0], &weight, None, (&x[1], &x[2]), update)
    });
    let shapes = [vec![40, n], vec![m.div_ceil(9), 9, 9]];
    same_bits_with_any_threads("block_affine", &shapes, |x| {
        block_affine_linear(
            &x[0],
            &weight(m, n, DType::F32, x[0].device())?,
            None,
            &x[1],
        )
    });
    let shapes = [vec![40, n], vec![2, n, 4], vec![2, m, 4]];
    let update = KernelizedSparse {
        heads: 2,
        kernel: Kernel::Distance { scale: 0.1 },
        competition: Competition::Quantile(0.9),
        values: Values::Soft,
    };
    same_bits_with_any_threads("kernelized_sparse", &shapes, |x| {
        let weight = weight(m, n, DType::F32, x[0].device())?;
        kernelized_sparse_linear(&x[0], &weight, None, (&x[1], &x[2]), update)
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let device = Device::cpu();
    let x = Tensor::zeros(&[2, 6], DType::F32, &device).unwrap();
    let w = weight(4, 6, DType::F32, &device).unwrap();
    let r = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device).unwrap();
    let refused = |result: Result<Tensor>| result.unwrap_err().to_string();
    let places = |places: &[u32]| Sparse::new(places.to_vec());
    let said = places(&[1, 3, 3]).unwrap_err().to_string();
    assert!(said.contains("wanted increasing places"), "{said}");
    let beyond = places(&[1, 24]).unwrap();
    let said = refused(produced_linear(beyond, &x, &w, None, &[&r(&[2])]));
    assert!(said.contains("place 24 of a matrix 4×6"), "{said}");
    let said = refused(block_affine_linear(&x, &w, None, &r(&[3, 2, 2])));
    assert!(said.contains("[2, 2, 2]"), "{said}");
    let trained = w.trained();
    let said = refused(block_affine_linear(&x, &trained, None, &r(&[2, 2, 2])));
    assert!(said.contains("dense form"), "{said}");
    let update = KernelizedSparse {
        heads: 2,
        kernel: Kernel::Linear,
        competition: Competition::Quantile(1.5),
        values: Values::Soft,
    };
    let factors = (&r(&[2, 6, 1]), &r(&[2, 4, 1]));
    let said = refused(kernelized_sparse_linear(&x, &w, None, factors, update));
    assert!(said.contains("1.5"), "{said}");
}
