//! Cases of attention, for the CPU and for the CUDA kernels.
#![allow(dead_code, reason = "each test has bounds of its own")]

use deltaw_engine::prelude::*;
use proptest::prelude::*;

/// What a case of attention is made of.
#[derive(Clone, Debug)]
pub struct Case {
    /// B.
    pub batch: usize,
    /// H.
    pub heads: usize,
    /// Tq.
    pub tq: usize,
    /// Tk.
    pub tk: usize,
    /// D.
    pub d: usize,
    /// Whether it is causal.
    pub causal: bool,
    /// Whether some keys are masked.
    pub masked: bool,
    /// Axes of `[B, H, Tq, Tk]` on which the bias has size 1; `None` without one.
    pub bias: Option<[bool; 4]>,
    /// In place of 1/√D.
    pub scale: Option<f32>,
    /// Whether queries, keys and values are one tensor.
    pub packed: bool,
    /// Of the numbers.
    pub seed: u64,
}

impl Case {
    /// Shapes of the inputs.
    pub fn shapes(&self) -> Vec<Vec<usize>> {
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
    ///
    /// # Errors
    /// Those of the op.
    pub fn run(&self, x: &[Tensor]) -> Result<Tensor> {
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
    pub fn units(&self) -> f64 {
        let (d, tk) = (self.d as f64, self.tk as f64);
        self.gradients(2.0 * (d + 4.0) * self.score() + tk + 8.0)
    }

    /// The same of the CUDA kernels, whose exponents are in units of log₂: the factors of scores and bias and the log-sum-exp,
    /// up to |s| + ln Tk, are rounded once more each, and so is their difference, up to 2 |s|; `ex2.approx` errs by 4 units
    /// (PTX ISA: 2 ulp), in a probability and in the sum that it is divided by.
    pub fn kernel_units(&self) -> f64 {
        let (d, tk, score) = (self.d as f64, self.tk as f64, self.score());
        let exponent = 4.0 * (score + tk.max(1.0).ln()) + 2.0 * score;
        self.gradients(2.0 * (d + 4.0) * score + tk + 8.0 + exponent + 8.0)
    }

    /// The largest |score|.
    fn score(&self) -> f64 {
        let d = self.d as f64;
        d * f64::from(self.scale.unwrap_or(1.0 / (d as f32).sqrt())).abs() + 1.0
    }

    fn gradients(&self, probability: f64) -> f64 {
        let heads = (self.batch * self.heads) as f64;
        let sums = (self.tk + self.tq + self.d) as f64;
        2.0 * (probability + sums + if self.bias.is_some() { heads } else { 0.0 })
    }
}

/// Up to `most` queries and keys, none among them, and heads as wide as `features` says.
pub fn case(most: usize, features: impl Strategy<Value = usize>) -> impl Strategy<Value = Case> {
    let size = prop_oneof![1 => Just(0), 1 => Just(1), 6 => 0..=most];
    let bias = prop_oneof![1 => Just(None), 2 => any::<[bool; 4]>().prop_map(Some)];
    let scale = prop_oneof![Just(None), Just(Some(0.5f32))];
    (
        1..3usize,
        1..3usize,
        size.clone(),
        size,
        features,
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
