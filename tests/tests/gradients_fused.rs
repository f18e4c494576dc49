//! The fused ops: gradients against central differences in f64, each against its composed form (which is what the f64 oracle
//! runs), at sizes that straddle the kernels' tiles, and the same bits with any number of threads.

use deltaw_engine::cpu::threads;
use deltaw_engine::prelude::*;
use deltaw_tests::{check, numbers};
use proptest::prelude::*;

/// Unit roundoff of f32.
const UNIT: f64 = f32::EPSILON as f64 / 2.0;

fn inputs(shapes: &[Vec<usize>], seed: u64) -> Vec<Vec<f32>> {
    shapes
        .iter()
        .enumerate()
        .map(|(k, s)| numbers(s.iter().product(), seed.wrapping_add(k as u64)))
        .collect()
}

/// What a case of attention is made of.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    heads: usize,
    tq: usize,
    tk: usize,
    d: usize,
    causal: bool,
    masked: bool,
    /// Axes of `[B, H, Tq, Tk]` on which the bias has size 1; `None` without one.
    bias: Option<[bool; 4]>,
    scale: Option<f32>,
    packed: bool,
    seed: u64,
}

impl Case {
    fn shapes(&self) -> Vec<Vec<usize>> {
        let Case {
            batch,
            heads,
            tq,
            tk,
            d,
            ..
        } = *self;
        let mut shapes = if self.packed {
            vec![vec![batch, tq, 3, heads, d]]
        } else {
            vec![
                vec![batch, tq, heads, d],
                vec![batch, tk, heads, d],
                vec![batch, tk, heads, d],
            ]
        };
        if let Some(single) = self.bias {
            let full = [batch, heads, tq, tk];
            shapes.push(
                (0..4)
                    .map(|a| if single[a] { 1 } else { full[a] })
                    .collect(),
            );
        }
        shapes
    }

    /// From projections `[B, T, H, D]` to the mixed `[B, Tq, H·D]`, as a model calls it.
    fn run(&self, x: &[Tensor]) -> Result<Tensor> {
        let Case {
            batch,
            heads,
            tq,
            tk,
            d,
            causal,
            ..
        } = *self;
        // The first sample may have no key at all: its rows give 0.
        let real: Vec<f32> = (0..batch * tk)
            .map(|i| (i >= tk && (i - tk) % 3 != 1) as u8 as f32)
            .collect();
        let mask = if self.masked {
            Some(Tensor::from_slice(&real, &[batch, tk], x[0].device())?)
        } else {
            None
        };
        let bias = self.bias.map(|_| x[x.len() - 1].clone());
        let options = AttentionOptions {
            causal,
            mask,
            bias,
            scale: self.scale,
        };
        if self.packed {
            return attention_packed(&x[0], &options)?.reshape(&[batch, tq, heads * d]);
        }
        let head = |x: &Tensor| x.permute(&[0, 2, 1, 3]);
        attention(&head(&x[0])?, &head(&x[1])?, &head(&x[2])?, &options)?
            .permute(&[0, 2, 1, 3])?
            .reshape(&[batch, tq, heads * d])
    }

    /// A bound on |CPU − exact| for inputs in [−1, 1), in units of the roundoff, with every sum's length in it. Scores err by
    /// (D + 4) units of |s| ≤ D·scale + 1, so that probabilities err relatively by twice that and the softmax's Tk + 8; a result
    /// is a weighted mean of numbers below 1. Gradients go through two more sums of at most Tk, Tq and D terms below 2.
    fn units(&self) -> f64 {
        let (d, tk, tq) = (self.d as f64, self.tk as f64, self.tq as f64);
        let score = d * f64::from(self.scale.unwrap_or(1.0 / (d as f32).sqrt())).abs() + 1.0;
        let probability = 2.0 * (d + 4.0) * score + tk + 8.0;
        let heads = (self.batch * self.heads) as f64;
        let sums = tk + tq + d + if self.bias.is_some() { heads } else { 0.0 };
        2.0 * (probability + sums)
    }
}

fn case(most: usize, features: usize) -> impl Strategy<Value = Case> {
    let size = prop_oneof![1 => Just(0), 1 => Just(1), 6 => 0..=most];
    let bias = prop_oneof![1 => Just(None), 2 => any::<[bool; 4]>().prop_map(Some)];
    let scale = prop_oneof![Just(None), Just(Some(0.5f32))];
    (
        1..3usize,
        1..3usize,
        size.clone(),
        size,
        1..=features,
        any::<[bool; 3]>(),
        bias,
        scale,
        any::<u64>(),
    )
        .prop_map(
            |(batch, heads, tq, tk, d, [causal, masked, packed], bias, scale, seed)| {
                let tk = if packed { tq } else { tk };
                Case {
                    batch,
                    heads,
                    tq,
                    tk,
                    d,
                    causal,
                    masked,
                    bias,
                    scale,
                    packed,
                    seed,
                }
            },
        )
}

/// Value and gradients on a device for a fixed incoming gradient, one after the other.
fn sweep(
    device: &Device,
    shapes: &[Vec<usize>],
    seed: u64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Vec<Vec<f64>> {
    let x: Vec<Tensor> = shapes
        .iter()
        .zip(inputs(shapes, seed))
        .map(|(s, v)| Tensor::from_slice(&v, s, device).unwrap().trained())
        .collect();
    let y = f(&x).unwrap();
    let dy = Tensor::from_slice(&numbers(y.len(), seed ^ 77), y.shape(), device).unwrap();
    let grads = backward_with(&y, dy).unwrap();
    let mut all = vec![y.to_vec::<f64>().unwrap()];
    all.extend(x.iter().map(|x| {
        grads
            .of(x)
            .map_or(vec![0.0; x.len()], |g| g.to_vec::<f64>().unwrap())
    }));
    all
}

/// The CPU within `units` roundoffs of the oracle, relative to each array's largest number (at least 1).
fn as_the_oracle(
    what: &str,
    shapes: &[Vec<usize>],
    seed: u64,
    units: f64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let (near, exact) = (
        sweep(&Device::cpu(), shapes, seed, &f),
        sweep(&Device::oracle(), shapes, seed, &f),
    );
    for (k, (near, exact)) in near.iter().zip(&exact).enumerate() {
        let size = exact.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        for (i, (a, b)) in near.iter().zip(exact).enumerate() {
            assert!(
                (a - b).abs() <= units * UNIT * size,
                "{what}: array {k} (0 the value), element {i}: {a} on the CPU, {b} exactly"
            );
        }
    }
}

fn same_bits_with_any_threads(
    what: &str,
    shapes: &[Vec<usize>],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let with = |count| {
        threads::set_threads(count);
        let all = sweep(&Device::cpu(), shapes, 5, &f);
        all.concat()
            .into_iter()
            .map(f64::to_bits)
            .collect::<Vec<_>>()
    };
    let one = with(1);
    assert!(
        one == with(2) && one == with(3),
        "{what}: the bits depend on the number of threads"
    );
    threads::set_threads(0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn attention_by_central_differences(case in case(5, 4)) {
        let shapes = case.shapes();
        check("attention", &|x| case.run(x), &shapes, &inputs(&shapes, case.seed), case.units() / 2.0);
    }

    /// Sizes up to and past the tiles of 32 queries and of 16 lanes.
    #[test]
    fn attention_as_composed_in_f64(case in case(70, 40)) {
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
