//! Orthogonal fine-tuning (Qiu et al. 2023) in the form of its second version (Qiu et al. 2025), PEFT's: the inputs of a
//! linear are rotated in blocks of size k, `y = (x·R)·Wᵀ + b`, so that `W′ = W·Rᵀ`, R block-diagonal.
//!
//! A block is a Cayley transform of a skew-symmetric Q, whose k(k − 1)/2 numbers above the diagonal, row by row, are trained:
//!
//! ```text
//! R = (I − Q)·(I + Q)⁻¹                        exact
//! R = I + 2Q + 2Q² + … + 2Qᵗ⁻² + Qᵗ⁻¹          t terms of PEFT's Neumann series, which is the transform of −Q
//! ```
//!
//! Q = 0 at the start. The exact form's gradient is that of the inverse, `d(P) = −P·dQ·P` with `P = (I + Q)⁻¹`: one Newton step
//! `P·(2I − (I + Q)·P)` from the solved P has this value and this derivative.

use std::sync::Arc;

use deltaw_engine::linalg;
use deltaw_engine::prelude::*;
use serde_json::json;

use super::{Adapted, Attached, Factor, Form, Method, Targets};

/// How many blocks a matrix has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// As many as this size makes; PEFT's `oft_block_size`.
    Size(usize),
    /// This many; PEFT's `r`.
    Count(usize),
}

/// Rotated inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Oft {
    /// Blocks of each matrix; where they do not divide n, the nearest divisor is taken, the smaller of two.
    pub blocks: Blocks,
    /// Terms t of the Neumann series; None for the exact transform.
    pub terms: Option<usize>,
    /// Whether all blocks of a matrix are one.
    pub shared: bool,
    /// Which linears.
    pub targets: Targets,
}

impl Oft {
    /// Blocks of size `size`, five terms, on every linear of the blocks.
    pub fn block_size(size: usize) -> Self {
        Oft {
            blocks: Blocks::Size(size),
            terms: Some(5),
            shared: false,
            targets: Targets::default(),
        }
    }
}

/// Terms beyond which a series that has not converged never will.
const MOST_TERMS: usize = 64;

/// The divisor of `n` nearest to `wanted`.
fn divisor(n: usize, wanted: usize) -> usize {
    let (mut below, mut above) = (wanted.clamp(1, n), wanted.clamp(1, n));
    while !n.is_multiple_of(above) {
        above += 1;
    }
    while !n.is_multiple_of(below) {
        below -= 1;
    }
    let wanted = wanted.clamp(1, n);
    if wanted - below <= above - wanted {
        below
    } else {
        above
    }
}

impl Blocks {
    /// Number and size for n inputs.
    fn of(self, n: usize) -> (usize, usize) {
        match self {
            Blocks::Size(size) => {
                let size = divisor(n, size);
                (n / size, size)
            }
            Blocks::Count(count) => {
                let count = divisor(n, count);
                (count, n / count)
            }
        }
    }
}

/// `W·Rᵀ − W`.
struct Rotation {
    /// `[blocks, k(k − 1)/2]`, one block when all are the same.
    numbers: Param,
    /// Number of blocks.
    count: usize,
    /// k.
    size: usize,
    terms: Option<usize>,
    /// Where in Q, row by row, a number above the diagonal stands.
    places: Tensor,
}

impl Rotation {
    fn new(numbers: &Param, count: usize, size: usize, terms: Option<usize>) -> Result<Self> {
        let rows = numbers.shape()[0];
        let above = (0..size).flat_map(|i| (i + 1..size).map(move |j| (i * size + j) as u32));
        let above: Vec<u32> = above.collect();
        let all: Vec<u32> = std::iter::repeat_n(&above, rows)
            .flatten()
            .copied()
            .collect();
        let device = numbers.value().device().clone();
        Ok(Rotation {
            numbers: numbers.clone(),
            count,
            size,
            terms,
            places: Tensor::from_slice(&all, &[rows, above.len()], &device)?,
        })
    }

    /// Q, `[blocks, k, k]`.
    fn skew(&self) -> Result<Tensor> {
        let (k, numbers) = (self.size, self.numbers.tensor());
        let rows = numbers.shape()[0];
        let upper = Tensor::zeros(&[rows, k * k], DType::F32, numbers.device())?
            .scatter_add(&self.places, &numbers)?
            .reshape(&[rows, k, k])?;
        upper.sub(&upper.transpose(1, 2)?)
    }

    /// R, `[count, k, k]`.
    fn blocks(&self) -> Result<Tensor> {
        let (k, q) = (self.size, self.skew()?);
        let eye = Tensor::eye(k, q.device())?;
        let r = match self.terms {
            Some(terms) => neumann(&q, &eye, terms)?,
            None => cayley(&q, &eye)?,
        };
        match r.shape()[0] == self.count {
            true => Ok(r),
            false => r.expand(&[self.count, k, k]),
        }
    }

    /// The rows of `x`, `[…, n]`, each times `r`.
    fn apply(&self, x: &Tensor, r: &Tensor) -> Result<Tensor> {
        let (rows, shape) = (x.rows(), x.shape().to_vec());
        x.reshape(&[rows, self.count, self.size])?
            .transpose(0, 1)?
            .matmul(r)?
            .transpose(0, 1)?
            .reshape(&shape)
    }
}

/// The last power has one term fewer than PEFT's number of them, but at least three where there are three.
fn neumann(q: &Tensor, eye: &Tensor, terms: usize) -> Result<Tensor> {
    let last = match terms {
        0 | 1 => 0,
        2 => 1,
        more => (more - 1).max(3),
    };
    let (mut sum, mut power) = (q.affine(0.0, 0.0)?.add(eye)?, q.clone());
    for exponent in 1..=last {
        if exponent > 1 {
            power = power.matmul(q)?;
        }
        let weight = if exponent == last && last > 1 {
            1.0
        } else {
            2.0
        };
        sum = sum.add(&power.affine(weight, 0.0)?)?;
    }
    Ok(sum)
}

fn cayley(q: &Tensor, eye: &Tensor) -> Result<Tensor> {
    let plus = q.add(eye)?;
    let solved = no_grad(|| {
        let blocks = (0..q.shape()[0]).map(|i| linalg::solve(&plus.get(i)?.contiguous()?, eye));
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        Tensor::stack(&blocks.iter().collect::<Vec<_>>())
    })?;
    let twice = eye.affine(2.0, 0.0)?;
    let inverse = solved.matmul(&twice.sub(&plus.matmul(&solved)?)?)?;
    // (I − Q)·P = 2P − I, for (I + Q)·P = I.
    inverse.affine(2.0, 0.0)?.sub(eye)
}

impl Delta for Rotation {
    fn dense(&self, weight: &Tensor) -> Result<Tensor> {
        let (weight, r) = (weight.cast(DType::F32)?.contiguous()?, self.blocks()?);
        self.apply(&weight, &r.transpose(1, 2)?)?.sub(&weight)
    }

    fn linear(
        &self,
        _: &Context,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        linear(&self.apply(x, &self.blocks()?)?, weight, bias)
    }
}

impl Method for Oft {
    fn name(&self) -> String {
        let blocks = match self.blocks {
            Blocks::Size(size) => format!("blocks of {size}"),
            Blocks::Count(count) => format!("{count} blocks"),
        };
        format!("oft, {blocks}")
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        if matches!(self.blocks, Blocks::Size(0) | Blocks::Count(0)) {
            return Err(Error::Invalid(
                "oft: blocks of size 0, or none; wanted at least 1".into(),
            ));
        }
        if let Some(terms) = self.terms.filter(|terms| *terms > MOST_TERMS) {
            return Err(Error::Invalid(format!(
                "oft: {terms} terms; the series is taken up to {MOST_TERMS}, and None is exact"
            )));
        }
        let sites = self.targets.of(store)?;
        let (count, size) = match self.blocks {
            Blocks::Size(size) => (0, size),
            Blocks::Count(count) => (count, 0),
        };
        let settings = json!({
            "peft_type": "OFT", "r": count, "oft_block_size": size, "block_share": self.shared,
            "use_cayley_neumann": self.terms.is_some(), "num_cayley_neumann_terms": self.terms.unwrap_or(5),
            // The series changed in 0.18; a file that does not say so is taken for an older one.
            "peft_version": "0.18.0",
        });
        let mut adapted = Adapted::new(store, heads, settings);
        for site in sites {
            let (count, size) = self.blocks.of(site.in_features()?);
            let rows = if self.shared { 1 } else { count };
            let shape = [rows, size * (size - 1) / 2];
            let numbers = store.at(site.path()).param("oft_R", &shape, Init::ZEROS)?;
            let factors = vec![Factor::new("oft_R.weight", Form::Shared, &numbers)];
            let rotation = Rotation::new(&numbers, count, size, self.terms)?;
            adapted.add(&site, Arc::new(rotation), factors)?;
        }
        Ok(Box::new(adapted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_the_nearest_divisors() {
        // PEFT's `adjust_oft_parameters`.
        let cases = [
            (24, 5, 4),
            (24, 7, 6),
            (24, 9, 8),
            (24, 30, 24),
            (16, 3, 2),
            (13, 4, 1),
            (12, 6, 6),
        ];
        for (n, wanted, got) in cases {
            assert_eq!(divisor(n, wanted), got, "{wanted} of {n}");
        }
    }
}
