//! What the kernels of attention give for every type of operands, against f64 within bounds that follow from the roundings.
//!
//! With u = 2⁻²⁴ every number here carries how far the kernel's may be from it. A sum of n products errs by γ = n u / (1 − n u)
//! of its terms' sizes (Higham 2002, §3.1), however it is ordered. Beside that
//!
//! | | factors | weights p and ds |
//! |---|---|---|
//! | tf32 | are cut by less than 2⁻¹⁰ | too |
//! | bf16 | are what they are | are rounded by 2⁻⁸ |
//! | f16 | are what they are | are rounded by 2⁻¹¹, or below f16's normal numbers by 2⁻²⁵ |
//!
//! and an exponential errs by 2⁻²² (`ex2.approx`, PTX ISA) and by what its argument does.

mod common;

use std::f64::consts::{LN_2, LOG2_E};

use common::attention::{Case, Matrix};
use common::near::{Near, U, dot, sum};
use common::{Format, Gpu, cases, numbers};
use deltaw_kernels::attention::{Attention, Bias, BiasGradient, Gradient};
use deltaw_kernels::gemm::Type;
use proptest::prelude::*;

/// Everything on the device, and the scores' parts here.
struct Run<'a> {
    gpu: &'a Gpu,
    case: &'a Case,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    mask: Vec<f32>,
    bias: Vec<f32>,
    attention: Attention,
    _kept: Vec<cudarc::driver::CudaSlice<u8>>,
}

impl Case {
    fn start<'a>(&'a self, gpu: &'a Gpu) -> Run<'a> {
        let matrix = |t, seed| Matrix::new(gpu, self, self.operands.into(), t, seed);
        let (q, k, v) = (matrix(self.tq, 1), matrix(self.tk, 2), matrix(self.tk, 3));
        // The first sample has no key at all, the others none here and there.
        let mask: Vec<f32> = (0..self.batch * self.tk)
            .map(|i| f32::from(i >= self.tk && i % 3 != 1))
            .collect();
        let shape = self.bias_shape();
        let bias = numbers(shape.iter().product(), self.seed ^ 4);
        let uploaded = [&mask, &bias].map(|x| gpu.upload(&Format::F32.encode(x)));
        let step = |i: usize| shape[i + 1..].iter().product::<usize>();
        let attention = Attention {
            operands: self.operands,
            batch: self.batch,
            heads: self.heads,
            tq: self.tq,
            tk: self.tk,
            d: self.d,
            scale: self.scale,
            causal: self.causal,
            q: q.heads,
            k: k.heads,
            v: v.heads,
            mask: self.masked.then_some(uploaded[0].1),
            bias: self.bias.map(|repeats| Bias {
                pointer: uploaded[1].1,
                strides: std::array::from_fn(|i| if repeats[i] { 0 } else { step(i) }),
            }),
        };
        let _kept = uploaded.map(|x| x.0).into();
        Run {
            gpu,
            case: self,
            q,
            k,
            v,
            mask,
            bias,
            attention,
            _kept,
        }
    }
}

impl Run<'_> {
    fn sees(&self, head: usize, i: usize, j: usize) -> bool {
        let Case {
            heads,
            tq,
            tk,
            causal,
            masked,
            ..
        } = *self.case;
        (!causal || j + tq <= i + tk) && (!masked || self.mask[head / heads * tk + j] != 0.0)
    }

    /// Scores of a head's query in units of log₂, −∞ where hidden.
    fn exponents(&self, head: usize, i: usize) -> Vec<Option<Near>> {
        let case = self.case;
        let q = case.factors(&self.q.row(case, head, i));
        let scale = Near::exact(f64::from(case.scale) * LOG2_E).rounded(2.0 * U, 0.0);
        let of = |j: usize| {
            let k = case.factors(&self.k.row(case, head, j));
            let score = dot(q.iter().copied().zip(k)).times(scale);
            let bias = self.bias[case.bias_at(head, i, j)];
            let bias = Near::exact(f64::from(bias) * LOG2_E).rounded(2.0 * U, 0.0);
            if case.bias.is_some() {
                score.plus(bias)
            } else {
                score
            }
        };
        (0..case.tk)
            .map(|j| self.sees(head, i, j).then(|| of(j)))
            .collect()
    }

    /// A row of o, and its log-sum-exp.
    fn row(&self, head: usize, i: usize) -> (Vec<Near>, Near) {
        let case = self.case;
        let x = self.exponents(head, i);
        let seen = || x.iter().flatten();
        let most = seen().fold(f64::NEG_INFINITY, |m, x| m.max(x.x));
        if most == f64::NEG_INFINITY {
            return (vec![Near::exact(0.0); case.d], Near::exact(most));
        }
        // Whatever is subtracted goes through both sums and comes back in lse. A tile of 16 keys at least multiplies by a power of 2
        // once, whose exponents sum up to no more than the exponents' range.
        let (range, lost) =
            seen().fold((0.0f64, 0.0f64), |(r, e), x| (r.max(x.x.abs()), e.max(x.e)));
        let tiles = case.tk.div_ceil(16) as f64;
        let fade = tiles * (2f64.powi(-22) + 2.0 * U) + 4.0 * LN_2 * U * (range + lost);
        let p: Vec<Near> = x
            .iter()
            .map(|x| {
                x.map_or(Near::exact(0.0), |x| {
                    let y = Near {
                        x: x.x - most,
                        e: x.e + U * (x.x.abs() + most.abs() + 2.0 * lost),
                    };
                    y.exp2().rounded(fade, 0.0)
                })
            })
            .collect();
        let total = sum(p.iter().copied());
        let v: Vec<_> = (0..case.tk)
            .map(|j| case.factors(&self.v.row(case, head, j)))
            .collect();
        let column = |f: usize| {
            let terms = (0..case.tk).map(|j| (case.weight(p[j]), v[j][f]));
            dot(terms).over(total)
        };
        let log = Near {
            x: total.x.ln(),
            e: total.e / (total.x - total.e) + 8.0 * U * (1.0 + total.x.ln().abs()),
        };
        let lse = log.plus(Near::exact(most * LN_2).rounded(2.0 * U, 0.0));
        ((0..case.d).map(column).collect(), lse)
    }

    fn rows(&self) -> Vec<(Vec<Near>, Near)> {
        let Case {
            batch, heads, tq, ..
        } = *self.case;
        (0..batch * heads * tq)
            .map(|row| self.row(row / tq, row % tq))
            .collect()
    }

    fn forward(&self) -> Result<(), String> {
        let (gpu, case) = (self.gpu, self.case);
        let o = Matrix::new(gpu, case, Format::F32, case.tq, 5);
        let (memory, lse) = gpu.fresh(4 * case.batch * case.heads * case.tq);
        // SAFETY: what it reads and writes lives until the results are read.
        unsafe {
            self.attention
                .forward(o.heads, lse, &gpu.kernels, &gpu.stream)
        }
        .map_err(|e| e.to_string())?;
        gpu.finish()?;
        let (rows, sums): (Vec<_>, Vec<_>) = self.rows().into_iter().unzip();
        o.check(gpu, case, "o", &rows)?;
        let bytes = gpu
            .stream
            .clone_dtoh(&memory)
            .map_err(|e| format!("{e:?}"))?;
        for (row, (got, want)) in Format::F32.decode(&bytes).into_iter().zip(sums).enumerate() {
            want.allows(got)
                .then_some(())
                .ok_or(format!("lse[{row}] of {case:?}: {got} for {want:?}"))?;
        }
        Ok(())
    }

    fn backward(&self) -> Result<(), String> {
        let (gpu, case) = (self.gpu, self.case);
        let Case {
            batch,
            heads,
            tq,
            tk,
            d,
            ..
        } = *case;
        let matrix = |format, t, seed| Matrix::new(gpu, case, format, t, seed);
        let [o, dq] = [5, 6].map(|seed| matrix(Format::F32, tq, seed));
        let [dk, dv] = [7, 8].map(|seed| matrix(Format::F32, tk, seed));
        let dy = matrix(case.operands.into(), tq, 9);
        // Any lse is one for some softmax: the exact one, of which f32 keeps what it can.
        let lse: Vec<f32> = self.rows().iter().map(|(_, lse)| lse.x as f32).collect();
        let (_lse, lse_at) = gpu.upload(&Format::F32.encode(&lse));
        let (_delta, delta) = gpu.fresh(4 * lse.len());
        let shape = case.bias_shape();
        let (dbias, dbias_at) = gpu.fresh(4 * shape.iter().product::<usize>());
        let biased = case.bias.is_some() && batch * heads > 0;
        let gradient = Gradient {
            o: o.heads,
            dy: dy.heads,
            lse: lse_at,
            delta,
            dq: Some(dq.heads),
            dk: Some(dk.heads),
            dv: Some(dv.heads),
            beta: case.beta,
            dbias: biased.then_some(BiasGradient {
                pointer: dbias_at,
                parts: 1,
                shape,
            }),
        };
        // SAFETY: as above.
        unsafe {
            self.attention
                .backward(&gradient, &gpu.kernels, &gpu.stream)
        }
        .map_err(|e| e.to_string())?;
        gpu.finish()?;

        let old = |x: &Matrix| -> Vec<Vec<Near>> {
            let rows = (0..batch * heads * x.tokens)
                .map(|row| x.row(case, row / x.tokens, row % x.tokens));
            let beta = Near::exact(f64::from(case.beta));
            rows.map(|row| {
                row.into_iter()
                    .map(|x| beta.times(Near::exact(x)))
                    .collect()
            })
            .collect()
        };
        let mut want = [old(&dq), old(&dk), old(&dv)];
        let mut sums = vec![vec![]; shape.iter().product()];
        let scale = Near::exact(f64::from(case.scale));
        for head in 0..batch * heads {
            let row_of = |x: &Matrix, t| case.factors(&x.row(case, head, t));
            let rows = |x: &Matrix| (0..x.tokens).map(|t| row_of(x, t)).collect::<Vec<_>>();
            let (q, k, v, g) = (rows(&self.q), rows(&self.k), rows(&self.v), rows(&dy));
            let (mut p, mut ds) = (vec![vec![]; tq], vec![vec![]; tq]);
            for i in 0..tq {
                let exact = |x: &Matrix| x.row(case, head, i).into_iter().map(Near::exact);
                let delta = dot(exact(&dy).zip(exact(&o)));
                let lse = f64::from(lse[head * tq + i]);
                let lse = Near::exact(-lse * LOG2_E).rounded(2.0 * U, 0.0);
                for (j, x) in self.exponents(head, i).into_iter().enumerate() {
                    let of = x.map(|x| {
                        let p = x.plus(lse).exp2();
                        let slope = dot(g[i].iter().copied().zip(v[j].iter().copied()));
                        (
                            p,
                            p.times(slope.plus(Near {
                                x: -delta.x,
                                ..delta
                            })),
                        )
                    });
                    let (weight, slope) = of.unwrap_or_default();
                    p[i].push(case.weight(weight));
                    ds[i].push(case.weight(slope));
                    sums[case.bias_at(head, i, j)].push(slope);
                }
            }
            let mut add = |of: usize, t: usize, tokens: usize, f: usize, x: Near| {
                let to = &mut want[of][head * tokens + t][f];
                *to = to.plus(x);
            };
            for f in 0..d {
                for (i, ds) in ds.iter().enumerate() {
                    let x = dot((0..tk).map(|j| (ds[j], k[j][f])));
                    add(0, i, tq, f, x.times(scale));
                }
                for j in 0..tk {
                    let x = dot((0..tq).map(|i| (ds[i][j], q[i][f])));
                    add(1, j, tk, f, x.times(scale));
                    add(2, j, tk, f, dot((0..tq).map(|i| (p[i][j], g[i][f]))));
                }
            }
        }
        for (got, what, want) in [
            (&dq, "dq", &want[0]),
            (&dk, "dk", &want[1]),
            (&dv, "dv", &want[2]),
        ] {
            got.check(gpu, case, what, want)?;
        }
        if biased {
            let bytes = gpu
                .stream
                .clone_dtoh(&dbias)
                .map_err(|e| format!("{e:?}"))?;
            for (at, (got, terms)) in Format::F32.decode(&bytes).into_iter().zip(sums).enumerate() {
                let want = sum(terms.into_iter());
                want.allows(got)
                    .then_some(())
                    .ok_or(format!("dbias[{at}] of {case:?}: {got} for {want:?}"))?;
            }
        }
        Ok(())
    }
}

/// Sizes up to and past two tiles of 64 keys and one of 128 queries; widths of every kernel, by chunks and by elements.
fn case() -> impl Strategy<Value = Case> {
    let operands = prop_oneof![
        1 => Just(Type::F32),
        3 => Just(Type::Tf32),
        3 => Just(Type::Bf16),
        1 => Just(Type::F16)
    ];
    let size = || prop_oneof![1 => Just(0usize), 1 => Just(1), 6 => 2..=150usize];
    let width = prop_oneof![
        1..=130usize,
        (1..=16usize).prop_map(|n| 8 * n),
        Just(64),
        Just(128)
    ];
    let scale = prop_oneof![4 => Just(0.25f32), 1 => Just(-0.5), 1 => Just(0.0)];
    let bias = prop_oneof![2 => Just(None), 1 => any::<[bool; 4]>().prop_map(Some)];
    let padding = prop_oneof![Just(0usize), Just(8), Just(3)];
    let sizes = (1..3usize, 1..3usize, size(), size(), width);
    (
        operands,
        sizes,
        scale,
        any::<[bool; 2]>(),
        bias,
        padding,
        prop_oneof![Just(0.0f32), Just(0.5)],
        any::<u64>(),
    )
        .prop_map(
            |(
                operands,
                (batch, heads, tq, tk, d),
                scale,
                [causal, masked],
                bias,
                padding,
                beta,
                seed,
            )| Case {
                operands,
                batch,
                heads,
                tq,
                tk,
                d: d.min(Attention::MAX_WIDTH),
                scale,
                causal,
                masked,
                bias,
                padding,
                beta,
                seed,
            },
        )
}

fn passes(result: Result<(), String>) -> Result<(), TestCaseError> {
    result.map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn forward_is_as_in_f64(case in case()) {
        passes(case.start(&Gpu::new(80)).forward())?;
    }
}

proptest! {
    #![proptest_config(cases(30))]

    #[test]
    fn gradients_are_as_in_f64(case in case()) {
        passes(case.start(&Gpu::new(80)).backward())?;
    }
}

/// Over several tiles of keys, where the largest score moves from tile to tile, with more keys than queries and fewer.
#[test]
fn over_several_tiles() {
    for operands in [Type::Tf32, Type::Bf16] {
        for (tq, tk, d, causal) in [
            (130, 260, 64, true),
            (260, 130, 32, true),
            (70, 300, 128, false),
            (150, 150, 128, true),
        ] {
            let case = Case {
                operands,
                batch: 1,
                heads: 1,
                tq,
                tk,
                d,
                scale: 1.0,
                causal,
                masked: false,
                bias: None,
                padding: 0,
                beta: 0.0,
                seed: 9,
            };
            let gpu = Gpu::new(80);
            let run = case.start(&gpu);
            run.forward()
                .and_then(|()| run.backward())
                .unwrap_or_else(|e| panic!("{e}"));
        }
    }
}
