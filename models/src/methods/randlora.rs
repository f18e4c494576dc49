//! RandLoRA (Albert et al. 2025): `ΔW = (α/r)·Σ_j B_j·Λ_j·A·Γ_j` of full rank, with fixed random A and B_j that are shared by the
//! whole model and trained diagonals ([`deltaw_engine::ops::random_basis`]). λ starts at 0, so that ΔW does, and γ at 1 over the
//! larger size of its parameter, as in PEFT. A smaller r means more terms, and more trained numbers.
//!
//! The bases are Philox numbers of the seed, made where they are used and divided by their distribution's deviation. PEFT draws
//! them of PyTorch's generator, divides by the sample's deviation and keeps them, A `[r, 1, d]` and B `[D, N, r]` of the largest
//! sizes: an adapter of PEFT's is computed with its own, and ours is written with its numbers.
//!
//! PEFT flattens Λ_j·A·Γ_j with its rows' k outermost and B with its columns' j outermost, so that column `k·N + j` of B meets
//! row k of term j; files are read and written so. One B of files serves matrices of one N: an update of several is written as
//! `RANDLORA_PHILOX`, of λ, γ and the seed, which PEFT does not know.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use deltaw_engine::ops::random_basis::{Bases, RandomBasis, scaled};
use deltaw_engine::prelude::*;
use serde_json::json;

use super::adapter::decimal;
use super::produced::Produced;
use super::torch_random::TorchRandom;
use super::{Adapted, Attached, Factor, Form, Method, Targets};

/// A sum of scaled random bases.
#[derive(Debug, Clone)]
pub struct RandLora {
    /// r of each term.
    pub rank: usize,
    /// Scale's numerator α.
    pub alpha: f32,
    /// Names the bases.
    pub seed: u64,
    /// Their distribution.
    pub bases: Bases,
    /// How many B_j differ, as in [`RandomBasis::distinct`]; all by default.
    pub distinct: usize,
    /// A `[r, 1, d]` and B `[D, N, r]` for at least the largest sizes, in place of the seed's.
    pub stored: Option<[Tensor; 2]>,
    /// Probability of dropping an element of the update's input in training; the bases are then held in memory.
    pub dropout: f32,
    /// Which linears.
    pub targets: Targets,
}

impl RandLora {
    /// The paper's sparse bases: ±1 with probability 1/6 each, before they are divided by their deviation.
    pub const TERNARY: Bases = Bases::Ternary(3.0);

    /// Terms of rank `rank` with α = 20·rank, uniform bases, on every linear of the blocks.
    pub fn rank(rank: usize) -> Self {
        RandLora {
            rank,
            alpha: 20.0 * rank as f32,
            seed: 0,
            bases: Bases::Uniform,
            distinct: usize::MAX,
            stored: None,
            dropout: 0.0,
            targets: Targets::default(),
        }
    }

    /// The same on the sparse bases that PEFT draws of the seed for a model, up to the last place of their deviation:
    /// ±1 with probability 1/2s each, s = √d for the very sparse.
    ///
    /// # Errors
    /// No linear among the targets.
    pub(super) fn with_pefts_sparse_basis(self, store: &Store, very: bool) -> Result<Self> {
        let (small, large) = largest(&self.targets.of(store)?)?;
        let (r, terms) = (self.rank.max(1), small.div_ceil(self.rank.max(1)));
        let sparsity = if very { (small as f64).sqrt() } else { 3.0 };
        let [low, high] = [1.0 / (2.0 * sparsity), 1.0 - 1.0 / (2.0 * sparsity)].map(|u| u as f32);
        let mut random = TorchRandom::new(self.seed);
        let mut tensor = |shape: [usize; 3]| {
            let count = shape.iter().product::<usize>();
            let signs = (0..count).map(|_| random.unit());
            let signs: Vec<f64> = signs
                .map(|u| f64::from(u8::from(u > high)) - f64::from(u8::from(u < low)))
                .collect();
            let mean = signs.iter().sum::<f64>() / count as f64;
            let squares = signs.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            let deviation = (squares / (count as f64 - 1.0)).sqrt() as f32;
            let values: Vec<f32> = signs.iter().map(|v| *v as f32 / deviation).collect();
            Tensor::from_slice(&values, &shape, &Device::cpu())
        };
        let stored = [tensor([r, 1, small])?, tensor([large, terms, r])?];
        Ok(RandLora {
            stored: Some(stored),
            ..self
        })
    }

    fn producer(&self) -> RandomBasis {
        RandomBasis {
            rank: self.rank,
            scale: self.alpha / self.rank as f32,
            seed: self.seed,
            bases: self.bases,
            distinct: self.distinct,
        }
    }

    /// A `[r, d]` and B `[D, N·r]` of a matrix in memory, column `j·r + k` for row k of term j, where they have to be.
    fn held(&self, small: usize, large: usize, device: &Device) -> Result<Option<[Tensor; 2]>> {
        let (r, terms) = (self.rank, small.div_ceil(self.rank));
        let Some([a, b]) = &self.stored else {
            let numbers = || self.producer().in_memory(small, large, device);
            return (self.dropout > 0.0).then(numbers).transpose();
        };
        let (s, t) = (a.shape(), b.shape());
        let fits = s.len() == 3 && s[..2] == [r, 1] && s[2] >= small;
        if !fits || t.len() != 3 || t[0] < large || t[1] < terms || t[2] != r {
            return Err(Error::Invalid(format!(
                "randlora: `randlora_A` {s:?} and `randlora_B` {t:?}; wanted at least [{r}, 1, {small}] and [{large}, {terms}, {r}]"
            )));
        }
        let on = |t: &Tensor| t.converted(DType::F32)?.to_device(device);
        let a = on(a)?.narrow(2, 0, small)?.reshape(&[r, small])?;
        let b = on(b)?
            .narrow(0, 0, large)?
            .narrow(1, 0, terms)?
            .contiguous()?;
        Ok(Some([
            a.contiguous()?,
            swapped(&b, [large, r, terms], [large, terms * r])?,
        ]))
    }

    /// The seed's numbers as files hold them.
    fn numbers(&self, small: usize, large: usize) -> Result<[Tensor; 2]> {
        let (r, terms) = (self.rank, small.div_ceil(self.rank));
        let [a, b] = self.producer().in_memory(small, large, &Device::cpu())?;
        let b = swapped(&b, [large, terms, r], [large, terms, r])?;
        Ok([a.reshape(&[r, 1, small])?, b])
    }
}

/// With the last two axes of `from` changed for each other, in the shape `to`.
fn swapped<const N: usize>(b: &Tensor, from: [usize; 3], to: [usize; N]) -> Result<Tensor> {
    b.reshape(&from)?
        .transpose(1, 2)?
        .contiguous()?
        .reshape(&to)
}

/// min and max of the largest number of outputs and the largest number of inputs: sizes of the bases in files.
fn largest(sites: &[Site]) -> Result<(usize, usize)> {
    let (mut m, mut n) = (0, 0);
    for site in sites {
        m = m.max(site.out_features()?);
        n = n.max(site.in_features()?);
    }
    Ok((m.min(n), m.max(n)))
}

/// The update on bases in memory.
struct Stored {
    /// `[r, d]`.
    a: Tensor,
    /// `[D, N·r]`.
    b: Tensor,
    lambda: Param,
    gamma: Param,
    scale: f64,
    dropout: f32,
}

impl Stored {
    /// `[N·r, d]`.
    fn right(&self) -> Result<Tensor> {
        scaled(&self.a, &self.lambda.tensor(), &self.gamma.tensor())?.affine(self.scale, 0.0)
    }
}

impl Delta for Stored {
    fn dense(&self, weight: &Tensor) -> Result<Tensor> {
        let delta = self.b.matmul(&self.right()?)?;
        if weight.shape()[0] >= weight.last_dim() {
            Ok(delta)
        } else {
            delta.t()
        }
    }

    fn apart(&self) -> bool {
        true
    }

    fn branch(&self, ctx: &Context, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let x = dropout(x, self.dropout, ctx, self.lambda.name())?;
        linear(&x, &self.dense(weight)?, None)
    }
}

impl Method for RandLora {
    fn name(&self) -> String {
        let limited = match self.distinct {
            usize::MAX => String::new(),
            few => format!(", {few} bases"),
        };
        let sparse = match self.bases {
            Bases::Uniform => "",
            Bases::Ternary(_) => ", sparse",
        };
        format!("randlora r={}{limited}{sparse}", self.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let r = self.rank;
        if r == 0 || !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::Invalid(format!(
                "randlora: terms of rank {r} and dropout {}; wanted at least 1, and a probability below 1",
                self.dropout
            )));
        }
        let sites = self.targets.of(store)?;
        let producer = self.producer();
        let terms_of = |site: &Site| Ok(producer.terms(site.out_features()?, site.in_features()?));
        let counts = sites.iter().map(terms_of).collect::<Result<HashSet<_>>>()?;
        let shared = self.stored.is_some() || counts.len() == 1;
        let mut settings = json!({
            "peft_type": if shared { "RANDLORA" } else { "RANDLORA_PHILOX" }, "r": r,
            "randlora_alpha": decimal(self.alpha), "randlora_dropout": decimal(self.dropout),
            "projection_prng_key": self.seed, "save_projection": shared,
        });
        if self.stored.is_none() {
            // Of these the bases can be made again.
            settings["bases"] = json!(self.bases);
            settings["distinct"] = json!(self.distinct);
        }
        let (small, large) = largest(&sites)?;
        let mut held: HashMap<(usize, usize), Option<[Tensor; 2]>> = HashMap::new();
        let mut adapted = Adapted::new(store, heads, settings);
        for site in sites {
            let (m, n) = (site.out_features()?, site.in_features()?);
            let (terms, small, path) = (producer.terms(m, n), m.min(n), store.at(site.path()));
            let start = Init::Constant(1.0 / terms.max(small) as f64);
            let lambda = path.param("randlora_lambda", &[r, terms], Init::ZEROS)?;
            let gamma = path.param("randlora_gamma", &[terms, small], start)?;
            let factors = vec![
                Factor::new("randlora_lambda", Form::Whole, &lambda),
                Factor::new("randlora_gamma", Form::Whole, &gamma),
            ];
            let sizes = (small, m.max(n));
            let bases = match held.entry(sizes) {
                Entry::Occupied(found) => found.get().clone(),
                Entry::Vacant(place) => {
                    let made = self.held(sizes.0, sizes.1, store.device())?;
                    place.insert(made).clone()
                }
            };
            let delta: Arc<dyn Delta> = match bases {
                None => Arc::new(Produced {
                    producer,
                    params: vec![lambda, gamma],
                }),
                Some([a, b]) => Arc::new(Stored {
                    a,
                    b,
                    lambda,
                    gamma,
                    scale: f64::from(self.alpha) / r as f64,
                    dropout: self.dropout,
                }),
            };
            adapted.add(&site, delta, factors)?;
        }
        let keys = ["base_model.randlora_A", "base_model.randlora_B"];
        for (i, key) in keys.into_iter().enumerate().filter(|_| shared) {
            let method = self.clone();
            adapted.share(key, move || match &method.stored {
                Some(stored) => Ok(stored[i].clone()),
                None => {
                    let [a, b] = method.numbers(small, large)?;
                    Ok(if i == 0 { a } else { b })
                }
            });
        }
        Ok(Box::new(adapted))
    }
}
