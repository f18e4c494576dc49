use proptest::prelude::*;

use super::*;

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

fn paths() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

/// A way for an r×c matrix to lie in memory.
fn layout(kind: u8, r: usize, c: usize) -> Layout {
    match kind {
        0 => Layout::row_major(c),
        1 => Layout::transposed(r),
        2 => Layout::row_major(c + 3),
        _ => Layout {
            rows: 2 * c + 1,
            cols: 2,
        },
    }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    dims: Dims,
    kinds: [u8; 2],
    scale: Scale,
    bias: bool,
    rank: usize,
    /// Columns of the product beside it.
    beside: usize,
    seed: u32,
}

/// γ_n = n·u/(1 − n·u) with u = 2⁻²⁴.
fn gamma(n: usize) -> f64 {
    let nu = n as f64 / f64::from(1 << 24);
    nu / (1.0 - nu)
}

/// Every element against the sum in f64, whose own error is below `(k + rank)·2⁻⁵²` of the terms; elements between C's rows stay.
fn check<B: Operand>(case: Case, isa: Isa, narrow: impl Fn(f32) -> B) {
    let Case {
        dims: Dims { m, n, k },
        kinds,
        scale,
        bias,
        rank,
        beside,
        seed,
    } = case;
    let (la, lb, c_stride) = (layout(kinds[0], m, k), layout(kinds[1], k, n), n + 2);
    let a = numbers(la.extent(m, k), seed);
    let b: Vec<B> = numbers(lb.extent(k, n), seed ^ 1)
        .into_iter()
        .map(narrow)
        .collect();
    let start = numbers(m * c_stride, seed ^ 2);
    let bias = bias.then(|| numbers(n, seed ^ 3));
    let (left, right) = (numbers(k * rank, seed ^ 4), numbers(rank * n, seed ^ 5));
    let (ll, lr) = (Layout::transposed(k), Layout::row_major(n));
    let term = (rank > 0).then_some(Term {
        left: (&left, ll),
        right: (&right, lr),
        rank,
    });
    let ls = layout(kinds[1], k, beside);
    let s = numbers(ls.extent(k, beside), seed ^ 6);
    let mut d = vec![f32::NAN; m * beside];
    let out = Disjoint::new(&mut d);
    let mut c = start.clone();
    if scale.beta == 0.0 {
        c.chunks_exact_mut(c_stride)
            .for_each(|row| row[..n].fill(f32::NAN));
    }
    let extra = Extra {
        bias: bias.as_deref(),
        term,
        beside: (beside > 0).then_some(Beside {
            right: (&s, ls),
            n: beside,
            out: &out,
        }),
    };
    gemm_on(
        isa,
        case.dims,
        scale,
        (&a, la),
        (&b, lb),
        extra,
        (&mut c, c_stride),
    );
    let wide = |x: f32| f64::from(x);
    for (at, got) in d.iter().enumerate() {
        let (i, j) = (at / beside, at % beside);
        let terms =
            (0..k).map(|p| wide(a[i * la.rows + p * la.cols]) * wide(s[p * ls.rows + j * ls.cols]));
        let (sum, size) = terms.fold((0.0, 0.0), |(s, z), t| (s + t, z + t.abs()));
        let bound = (gamma(k + 2) + (k + 3) as f64 * f64::EPSILON) * size;
        assert!(
            (wide(*got) - sum).abs() <= bound,
            "{isa} {case:?} beside ({i}, {j}): {got} for {sum}"
        );
    }
    for (i, row) in c.chunks_exact(c_stride).enumerate() {
        assert_eq!(
            row[n..],
            start[i * c_stride + n..][..2],
            "{isa} {case:?}: wrote between the rows"
        );
        for j in 0..n {
            let (mut sum, mut size) = (0.0, 0.0);
            for p in 0..k {
                let mut factor = wide(b[p * lb.rows + j * lb.cols].widen());
                let mut around = factor.abs();
                for l in 0..rank {
                    let term = wide(left[p + l * k]) * wide(right[l * n + j]);
                    factor += term;
                    around += term.abs();
                }
                let x = wide(a[i * la.rows + p * la.cols]);
                sum += x * factor;
                size += x.abs() * around;
            }
            let bias = bias.as_ref().map_or(0.0, |bias| wide(bias[j]));
            let old = if scale.beta == 0.0 {
                0.0
            } else {
                wide(scale.beta) * wide(start[i * c_stride + j])
            };
            let want = wide(scale.alpha) * sum + old + bias;
            let size = wide(scale.alpha).abs() * size + old.abs() + bias.abs();
            // A factor of B with its term has met rank + 1 roundings before the product.
            let roundings = k + 2 + if rank > 0 { rank + 1 } else { 0 };
            let bound = (gamma(roundings) + (k + rank + 3) as f64 * f64::EPSILON) * size;
            let error = (wide(row[j]) - want).abs();
            assert!(
                error <= bound,
                "{isa} {case:?} ({i}, {j}): {} for {want}, off by {error:e} > {bound:e}",
                row[j]
            );
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let side = || prop_oneof![0usize..40, 40usize..100];
    let depth = prop_oneof![0usize..70, 300usize..500];
    let beta = prop_oneof![Just(0.0f32), Just(1.0), Just(-0.5)];
    let rank = prop_oneof![Just(0usize), 1usize..14];
    let beside = prop_oneof![2 => Just(0usize), 1 => 1usize..20];
    (
        side(),
        side(),
        depth,
        any::<[u8; 2]>(),
        beta,
        any::<bool>(),
        rank,
        beside,
        any::<u32>(),
    )
        .prop_map(|(m, n, k, kinds, beta, bias, rank, beside, seed)| Case {
            dims: Dims { m, n, k },
            kinds: kinds.map(|kind| kind % 4),
            scale: Scale { alpha: 0.75, beta },
            bias,
            rank,
            beside,
            seed,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any sizes, layouts and additions, on each path.
    #[test]
    fn as_the_sum(case in cases()) {
        paths().for_each(|isa| check(case, isa, |x| x));
    }

    /// B in 16 bits is widened exactly.
    #[test]
    fn as_the_sum_with_16_bits(case in cases()) {
        for isa in paths() {
            check(case, isa, bf16::from_f32);
            check(case, isa, f16::from_f32);
        }
    }
}

/// The shapes of a low-rank layer, which the short-sided kernels take, and one of several slabs and blocks.
const SHAPES: [(Dims, [u8; 2]); 8] = [
    (
        Dims {
            m: 301,
            n: 8,
            k: 520,
        },
        [0, 1],
    ),
    (
        Dims {
            m: 301,
            n: 12,
            k: 130,
        },
        [2, 0],
    ),
    (
        Dims {
            m: 8,
            n: 300,
            k: 1100,
        },
        [1, 0],
    ),
    (
        Dims {
            m: 13,
            n: 70,
            k: 200,
        },
        [0, 2],
    ),
    (
        Dims {
            m: 301,
            n: 8,
            k: 1100,
        },
        [1, 0],
    ),
    (
        Dims {
            m: 301,
            n: 25,
            k: 700,
        },
        [1, 1],
    ),
    (
        Dims {
            m: 130,
            n: 700,
            k: 1500,
        },
        [0, 1],
    ),
    (
        Dims {
            m: 300,
            n: 130,
            k: 8,
        },
        [0, 0],
    ),
];

#[test]
fn short_and_long_sides() {
    for (seed, (dims, kinds)) in SHAPES.into_iter().enumerate() {
        for (beta, bias, rank, beside) in [(0.0, false, 0, 0), (1.0, true, 0, 0), (1.0, true, 3, 5)]
        {
            let case = Case {
                dims,
                kinds,
                scale: Scale { alpha: 1.5, beta },
                bias,
                rank,
                beside,
                seed: seed as u32,
            };
            paths().for_each(|isa| check(case, isa, |x| x));
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    for (Dims { m, n, k }, kinds) in SHAPES {
        let (la, lb) = (layout(kinds[0], m, k), layout(kinds[1], k, n));
        let (a, b) = (numbers(la.extent(m, k), 1), numbers(lb.extent(k, n), 2));
        let (bias, [left, right]) = (numbers(n, 3), [numbers(k * 3, 4), numbers(3 * n, 5)]);
        let ls = layout(kinds[1], k, 5);
        let s = numbers(ls.extent(k, 5), 6);
        let run = |count: usize, isa: Isa, added: bool| {
            threads::set_threads(count);
            let (mut c, mut d) = (vec![0.0; m * n], vec![0.0; m * 5]);
            let out = Disjoint::new(&mut d);
            let term = Term {
                left: (&left, Layout::row_major(3)),
                right: (&right, Layout::row_major(n)),
                rank: 3,
            };
            let beside = Beside {
                right: (&s, ls),
                n: 5,
                out: &out,
            };
            let extra = Extra {
                bias: added.then_some(&bias),
                term: added.then_some(term),
                beside: added.then_some(beside),
            };
            gemm_on(
                isa,
                Dims { m, n, k },
                Scale::PLAIN,
                (&a, la),
                (&b, lb),
                extra,
                (&mut c, n),
            );
            c.iter().chain(&d).map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        // One of the shapes has slabs for one or two threads each, but not for three.
        for (isa, added) in paths().flat_map(|isa| [(isa, false), (isa, true)]) {
            let one = run(1, isa, added);
            assert!(
                one == run(2, isa, added) && one == run(3, isa, added),
                "{isa} {m} {n} {k}, {added}"
            );
        }
    }
    threads::set_threads(0);
}
