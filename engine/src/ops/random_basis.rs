//! RandLoRA's update (Albert et al. 2025): a sum of low-rank products of fixed random bases, scaled by trained diagonals, of full
//! rank.
//!
//! ```text
//! m ≥ n:   ΔW  = s·Σ_j B_j·Λ_j·A·Γ_j      d = min(m, n), D = max(m, n), N = ⌈d/r⌉ terms j
//! m < n:   ΔWᵀ = the same, so that A and Γ are on the smaller side
//! A [r, d], B [D, N·r] random      λ [r, N], γ [N, d]: Λ_j = diag(λ[:, j]), Γ_j = diag(γ[j, :]), N·(r + d) numbers
//! dλ_kj = Σ_b U_(jk)b·A_kb·γ_jb    dγ_jb = Σ_k U_(jk)b·A_kb·λ_kj      U = s·Bᵀ·G (m ≥ n) or s·Bᵀ·Gᵀ, G = dyᵀ·x
//! ```
//!
//! The bases are numbers of Philox streams with mean 0 and variance 1, made where they are used and stored nowhere: (seed, row,
//! column) gives each, so that a smaller layer has the leading part of a larger one's and one seed serves a whole model.
//! Making ΔW costs `2·m·n·N·r ≈ 2·m·n·d` FLOPs a pass and `N·r·D` random numbers, whatever the number of tokens; scratch is half
//! a million bytes, on CUDA a million ([`device`]), or one term's factors of a panel where they are larger. On the CPU few tokens
//! go through the factors instead ([`thin`]).

use std::ops::Range;

use crate::cpu::gemm::{Dims, Layout as Strides, Scale, gemm};
use crate::cpu::philox::{self, Window};
use crate::cpu::{simd, threads};
use crate::device::{Device, Distribution};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::apply;
use crate::ops::produced::{DeviceProducer, Panel, Producer, produced_linear};
use crate::pool::with_scratch;
use crate::random::{Purpose, RandomKey};
use crate::tensor::Tensor;

mod device;
mod thin;

use thin::Thin;

/// How the bases are distributed, always with mean 0 and variance 1.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bases {
    /// Uniform in [−√3, √3): a Kaiming-uniform draw divided by its deviation.
    Uniform,
    /// ±√s with probability 1/2s each, else 0. The paper takes s = 3, and √d for the very sparse form.
    Ternary(f32),
}

impl Bases {
    /// From numbers uniform in [0, 1).
    #[inline(always)]
    fn of(self, u: &mut [f32]) {
        match self {
            Bases::Uniform => u
                .iter_mut()
                .for_each(|u| *u = (*u * 2.0 - 1.0) * 3f32.sqrt()),
            Bases::Ternary(s) => {
                let (share, root) = (0.5 / s, s.sqrt());
                for u in u {
                    let sign = f32::from(*u >= 1.0 - share) - f32::from(*u < share);
                    *u = sign * root;
                }
            }
        }
    }
}

/// A sum of scaled random low-rank products.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomBasis {
    /// r of each product.
    pub rank: usize,
    /// s.
    pub scale: f32,
    /// Names the bases.
    pub seed: u64,
    /// Their distribution.
    pub bases: Bases,
    /// How many B_j differ: B_j is that of j modulo this. 1 keeps the rank of ΔW at r with as many trained numbers.
    pub distinct: usize,
}

const NAME: &str = "random_basis";
/// Numbers of both factors that are made at a time: many terms, so that a panel is gone through for few runs of them.
const ROOM: usize = 1 << 17;
/// Numbers that make a piece of parallel work.
const GRAIN: usize = 1 << 12;
/// Sizes of a layer, and A.
pub struct Prepared {
    tall: bool,
    /// d.
    small: usize,
    /// N.
    terms: usize,
    /// `[r, d]`.
    a: Vec<f32>,
}

impl RandomBasis {
    /// N = ⌈min(m, n)/r⌉.
    pub fn terms(&self, m: usize, n: usize) -> usize {
        m.min(n).div_ceil(self.rank.max(1))
    }

    /// Trained numbers of a matrix: N·(r + min(m, n)).
    pub fn parameters(&self, m: usize, n: usize) -> usize {
        self.terms(m, n) * (self.rank + m.min(n))
    }

    fn key(&self, basis: &str) -> RandomKey {
        RandomKey::new(self.seed, Purpose::Basis, basis)
    }

    /// Rows and columns of A or B.
    fn window(&self, basis: &str, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        let (stream, wide) = (self.key(basis).stream(), columns.len());
        let grain = threads::rows_per_piece(wide, GRAIN);
        threads::par_rows(out, wide, grain, |first, out| {
            // Matrices in memory lie far inside a stream's 2³² rows of 2³⁴ columns.
            let window = Window {
                first_row: (rows.start + first) as u32,
                columns: columns.start as u64..columns.end as u64,
            };
            simd::dispatch(
                #[inline(always)]
                || {
                    philox::fill_here(Distribution::Uniform, stream, &window, out);
                    self.bases.of(out);
                },
            );
        });
    }

    /// The same on a device, `[rows, columns]`.
    fn basis(&self, basis: &str, shape: [usize; 2], device: &Device) -> Result<Tensor> {
        let u = Tensor::random(&shape, Distribution::Uniform, self.key(basis), device)?;
        match self.bases {
            Bases::Uniform => u.affine(2.0, -1.0)?.affine(f64::from(3f32.sqrt()), 0.0),
            Bases::Ternary(s) => {
                let share = 0.5 / s;
                let at = |value: f32| Tensor::from_slice(&[value], &[1], device);
                let low = at(share)?.gt(&u)?;
                let high = u.ge(&at(1.0 - share)?)?;
                high.sub(&low)?.affine(f64::from(s.sqrt()), 0.0)
            }
        }
    }

    /// The numbers themselves, A `[r, d]` and B `[D, N·r]` with a column for every term, d = `small` and D = `large`.
    ///
    /// # Errors
    /// None but those of the device.
    pub fn in_memory(&self, small: usize, large: usize, device: &Device) -> Result<[Tensor; 2]> {
        let (r, terms) = (self.rank, small.div_ceil(self.rank.max(1)));
        let a = self.basis("randlora.A", [r, small], device)?;
        let distinct = self.basis("randlora.B", [large, terms.min(self.distinct) * r], device)?;
        let runs = (0..terms.div_ceil(self.distinct.max(1)))
            .map(|i| distinct.narrow(1, 0, (terms - i * self.distinct).min(self.distinct) * r));
        let runs = runs.collect::<Result<Vec<Tensor>>>()?;
        let b = match runs.as_slice() {
            [] | [_] => distinct,
            several => Tensor::concat(&several.iter().collect::<Vec<_>>(), 1)?,
        };
        Ok([a, b])
    }

    /// The terms in runs that share one window of B, each run's factors in `room` if a single term's are.
    fn runs(&self, terms: usize, rows: usize, room: usize) -> impl Iterator<Item = Range<usize>> {
        let (most, distinct) = ((room / (rows * self.rank).max(1)).max(1), self.distinct);
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = next;
            next = terms
                .min(first + most)
                .min((first / distinct + 1) * distinct);
            (first < next).then_some(first..next)
        })
    }

    /// B's columns of a run, `[rows, run·r]`.
    fn left(&self, rows: Range<usize>, run: &Range<usize>, out: &mut [f32]) {
        let first = run.start % self.distinct;
        let columns = first * self.rank..(first + run.len()) * self.rank;
        self.window("randlora.B", rows, columns, out);
    }

    /// s·Λ·A·Γ of a run, `[run·r, columns]`, of the given columns of the smaller side.
    fn right(
        &self,
        prepared: &Prepared,
        [lambda, gamma]: [&[f32]; 2],
        run: &Range<usize>,
        columns: &Range<usize>,
        out: &mut [f32],
    ) {
        let (r, d, wide) = (self.rank, prepared.small, columns.len());
        let grain = threads::rows_per_piece(wide, GRAIN);
        threads::par_rows(out, wide, grain, |first, out| {
            simd::dispatch(
                #[inline(always)]
                || {
                    for (row, out) in (first..).zip(out.chunks_exact_mut(wide)) {
                        let (j, k) = (run.start + row / r, row % r);
                        let factor = self.scale * lambda[k * prepared.terms + j];
                        let a = &prepared.a[k * d..][columns.clone()];
                        let gamma = &gamma[j * d..][columns.clone()];
                        for ((out, a), gamma) in out.iter_mut().zip(a).zip(gamma) {
                            *out = factor * a * gamma;
                        }
                    }
                },
            );
        });
    }

    /// Adds what U of a run, `[run·r, columns]`, contributes to dλ and dγ, and leaves U ⊙ A.
    fn reduce(
        &self,
        prepared: &Prepared,
        [lambda, gamma]: [&[f32]; 2],
        run: &Range<usize>,
        columns: &Range<usize>,
        u: &mut [f32],
        [d_lambda, d_gamma]: [&mut [f32]; 2],
    ) {
        let (r, d, terms, wide) = (self.rank, prepared.small, prepared.terms, columns.len());
        let (d_lambda, d_gamma) = (
            threads::Disjoint::new(d_lambda),
            threads::Disjoint::new(d_gamma),
        );
        threads::par_rows(u, r * wide, 1, |first, u| {
            let j = run.start + first;
            let gamma = &gamma[j * d..][columns.clone()];
            // SAFETY: a piece is one term, whose row of γ is its own.
            let d_gamma = unsafe { d_gamma.slice(j * d + columns.start..j * d + columns.end) };
            simd::dispatch(
                #[inline(always)]
                || {
                    for (k, u) in u.chunks_exact_mut(wide).enumerate() {
                        let (at, a) = (k * terms + j, &prepared.a[k * d..][columns.clone()]);
                        let lambda = lambda[at];
                        for ((u, a), d_gamma) in u.iter_mut().zip(a).zip(&mut *d_gamma) {
                            *u *= a;
                            *d_gamma += *u * lambda;
                        }
                        // SAFETY: column j of λ is this term's.
                        let d_lambda = unsafe { d_lambda.slice(at..at + 1) };
                        d_lambda[0] += simd::dot(u, gamma);
                    }
                },
            );
        });
    }
}

/// `Λ_j·A·Γ_j` of all terms one below the other, `[N·r, d]`, of A `[r, d]`, λ `[r, N]` and γ `[N, d]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn scaled(a: &Tensor, lambda: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    let (terms, small) = (gamma.shape()[0], gamma.last_dim());
    let rows = lambda.t()?.unsqueeze(2)?.mul(a)?;
    rows.mul(&gamma.unsqueeze(1)?)?
        .reshape(&[terms * a.shape()[0], small])
}

/// Rows of B and columns of A that a panel takes, of W's larger and smaller side.
fn sides(prepared: &Prepared, panel: &Panel) -> (Range<usize>, Range<usize>) {
    let (rows, columns) = (panel.rows.clone(), panel.columns.clone());
    if prepared.tall {
        (rows, columns)
    } else {
        (columns, rows)
    }
}

impl Producer for RandomBasis {
    type Prepared = Prepared;

    fn name(&self) -> &'static str {
        NAME
    }

    fn check(&self, m: usize, n: usize, params: &[&Tensor]) -> Result<()> {
        let sparse = matches!(self.bases, Bases::Ternary(s) if s.is_nan() || s < 1.0);
        if self.rank == 0 || self.distinct == 0 || sparse {
            return Err(Error::shape(
                NAME,
                format!(
                    "rank {}, {} distinct bases, {:?}; wanted at least 1 of each, and a sparsity of 1 or more",
                    self.rank, self.distinct, self.bases
                ),
            ));
        }
        let [lambda, gamma] = params else {
            return Err(Error::shape(
                NAME,
                format!("{} parameters, wanted λ and γ", params.len()),
            ));
        };
        let terms = self.terms(m, n);
        lambda.expect_shape(NAME, "λ", &[self.rank, terms])?;
        gamma.expect_shape(NAME, "γ", &[terms, m.min(n)])
    }

    fn dense(&self, weight: &Tensor, params: &[&Tensor]) -> Result<Tensor> {
        let (m, n) = (weight.shape()[0], weight.shape()[1]);
        self.check(m, n, params)?;
        let (small, large, terms) = (m.min(n), m.max(n), self.terms(m, n));
        let [a, b] = self.in_memory(small, large, weight.device())?;
        let delta = match terms {
            0 => Tensor::zeros(&[large, small], DType::F32, weight.device())?,
            _ => b.matmul(&scaled(&a, params[0], params[1])?)?,
        };
        let delta = delta.affine(f64::from(self.scale), 0.0)?;
        if m >= n { Ok(delta) } else { delta.t() }
    }

    fn room(&self) -> usize {
        ROOM
    }

    fn prepare(&self, m: usize, n: usize, _: &[&[f32]]) -> Result<Prepared> {
        let small = m.min(n);
        let mut a = vec![0.0; self.rank * small];
        self.window("randlora.A", 0..self.rank, 0..small, &mut a);
        Ok(Prepared {
            tall: m >= n,
            small,
            terms: self.terms(m, n),
            a,
        })
    }

    fn produce(&self, prepared: &Prepared, panel: &Panel, out: &mut [f32]) {
        let [m, n] = [panel.rows.len(), panel.columns.len()];
        let (of_b, of_a) = sides(prepared, panel);
        for run in self.runs(prepared.terms, m + n, ROOM) {
            let k = run.len() * self.rank;
            with_scratch(k * (m + n), |room| {
                let (b, a) = room.split_at_mut(k * of_b.len());
                self.left(of_b.clone(), &run, b);
                self.right(prepared, [panel.params[0], panel.params[1]], &run, &of_a, a);
                let (left, right) = if prepared.tall {
                    ((&*b, Strides::row_major(k)), (&*a, Strides::row_major(n)))
                } else {
                    ((&*a, Strides::transposed(m)), (&*b, Strides::transposed(k)))
                };
                gemm(Dims { m, n, k }, Scale::ADD, left, right, (&mut *out, n));
            });
        }
    }

    fn contract(&self, prepared: &Prepared, panel: &Panel, g: &[f32], grads: &mut [&mut [f32]]) {
        let [m, n] = [panel.rows.len(), panel.columns.len()];
        let (of_b, of_a) = sides(prepared, panel);
        let scale = Scale {
            alpha: self.scale,
            beta: 0.0,
        };
        let of_g = if prepared.tall {
            Strides::row_major(n)
        } else {
            Strides::transposed(n)
        };
        let [d_lambda, d_gamma] = grads else { return };
        for run in self.runs(prepared.terms, m + n, ROOM) {
            let k = run.len() * self.rank;
            let dims = Dims {
                m: k,
                n: of_a.len(),
                k: of_b.len(),
            };
            with_scratch(k * (m + n), |room| {
                let (b, u) = room.split_at_mut(k * of_b.len());
                self.left(of_b.clone(), &run, b);
                gemm(
                    dims,
                    scale,
                    (&*b, Strides::transposed(k)),
                    (g, of_g),
                    (&mut *u, of_a.len()),
                );
                let params = [panel.params[0], panel.params[1]];
                self.reduce(prepared, params, &run, &of_a, u, [d_lambda, d_gamma]);
            });
        }
    }

    fn factored(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        params: &[&Tensor],
    ) -> Option<Result<Tensor>> {
        let (m, n) = (weight.shape()[0], weight.shape()[1]);
        if !x.device().is_cpu() || !self.is_thin(x.rows(), m, n) {
            return None;
        }
        let op = Thin {
            update: *self,
            has_bias: bias.is_some(),
        };
        let inputs = [x, weight].into_iter().chain(params.iter().copied());
        Some(apply(op, &inputs.chain(bias).collect::<Vec<_>>()))
    }

    fn on_device(&self) -> Option<&dyn DeviceProducer> {
        Some(self)
    }
}

/// `x·(W + ΔW)ᵀ + b` with a frozen W and ΔW of λ `[r, N]` and γ `[N, min(m, n)]`.
///
/// # Errors
/// Shapes that do not fit, or a W that is trained.
pub fn random_basis_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    (lambda, gamma): (&Tensor, &Tensor),
    update: RandomBasis,
) -> Result<Tensor> {
    produced_linear(update, x, weight, bias, &[lambda, gamma])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_have_mean_0_and_variance_1() {
        const POINTS: usize = 60_000;
        for bases in [Bases::Uniform, Bases::Ternary(3.0), Bases::Ternary(10.0)] {
            let grid = (0..POINTS).map(|i| (i as f32 + 0.5) / POINTS as f32);
            let mut values: Vec<f32> = grid.collect();
            bases.of(&mut values);
            let values = || values.iter().map(|v| f64::from(*v));
            let mean = values().sum::<f64>() / POINTS as f64;
            let square = values().map(|v| v.powi(2)).sum::<f64>() / POINTS as f64;
            // A step of the grid more or less on either side of a jump of √10 to 10, and f32's roundings.
            assert!(
                mean.abs() < 1e-3 && (square - 1.0).abs() < 1e-3,
                "{bases:?}: {mean}, {square}"
            );
        }
    }
}
