//! VeRA (Kopiczko et al. 2024): one pair of frozen random matrices for the whole model, and two trained vectors a matrix.
//!
//! ```text
//! ΔW = diag(b)·B·diag(d)·A      A [r, n], B [m, r]: the first n columns and the matrix's rows of the shared ones
//! b [m] = 0, d [r] = 0.1 at the start; m + r numbers a matrix
//! ```
//!
//! A and B are Kaiming-uniform, U(±√(6/fan_in)), and drawn as PEFT draws them, bit for bit: files may hold the seed alone.

use std::sync::Arc;

use deltaw_engine::prelude::*;
use serde_json::json;

use super::adapter::decimal;
use super::torch_random::TorchRandom;
use super::{Adapted, Attached, Factor, Form, Method, Targets};

/// Vectors beside shared random matrices.
#[derive(Debug, Clone)]
pub struct Vera {
    /// Rank r.
    pub rank: usize,
    /// Names the random matrices; PEFT's `projection_prng_key`.
    pub seed: u64,
    /// Where d starts.
    pub initial: f64,
    /// Probability of dropping an element of the update's input in training.
    pub dropout: f32,
    /// A `[r, n]` and B `[m, r]` for at least the largest sizes, in place of the seed's.
    pub projections: Option<[Tensor; 2]>,
    /// Which linears.
    pub targets: Targets,
}

impl Vera {
    /// Rank `rank` on every linear of the blocks.
    pub fn rank(rank: usize) -> Self {
        Vera {
            rank,
            seed: 0,
            initial: 0.1,
            dropout: 0.0,
            projections: None,
            targets: Targets::default(),
        }
    }

    /// A and B for the largest sizes, on the CPU.
    fn shared(&self, m: usize, n: usize) -> Result<[Tensor; 2]> {
        if let Some([a, b]) = &self.projections {
            let fits = |t: &Tensor, rows: usize, columns: usize| {
                t.rank() == 2 && t.shape()[0] >= rows && t.shape()[1] >= columns
            };
            if fits(a, self.rank, n)
                && a.shape()[0] == self.rank
                && fits(b, m, self.rank)
                && b.shape()[1] == self.rank
            {
                return Ok([a.converted(DType::F32)?, b.converted(DType::F32)?]);
            }
            return Err(Error::Invalid(format!(
                "vera: `vera_A` {:?} and `vera_B` {:?} do not fit rank {} and a matrix {m}×{n}",
                a.shape(),
                b.shape(),
                self.rank
            )));
        }
        let mut random = TorchRandom::new(self.seed);
        let mut matrix = |rows: usize, columns: usize| {
            let bound = 3f64.sqrt() * (2f64.sqrt() / (columns as f64).sqrt());
            let values = random.uniform(bound, rows * columns);
            Tensor::from_slice(&values, &[rows, columns], &Device::cpu())
        };
        Ok([matrix(self.rank, n)?, matrix(m, self.rank)?])
    }
}

/// `diag(b)·B·diag(d)·A`.
struct Vectors {
    /// `[r, n]`.
    a: Tensor,
    /// `[m, r]`.
    b: Tensor,
    lambda_d: Param,
    lambda_b: Param,
    dropout: f32,
}

impl Delta for Vectors {
    fn dense(&self, _: &Tensor) -> Result<Tensor> {
        let inner = self.a.mul(&self.lambda_d.tensor().unsqueeze(1)?)?;
        let rows = self.lambda_b.tensor().unsqueeze(1)?;
        self.b.matmul(&inner)?.mul(&rows)
    }

    fn apart(&self) -> bool {
        true
    }

    fn branch(&self, ctx: &Context, x: &Tensor, _: &Tensor) -> Result<Tensor> {
        let x = dropout(x, self.dropout, ctx, self.lambda_d.name())?;
        let h = linear(&x, &self.a, None)?.mul(&self.lambda_d.tensor())?;
        linear(&h, &self.b, None)?.mul(&self.lambda_b.tensor())
    }
}

impl Method for Vera {
    fn name(&self) -> String {
        format!("vera r={}", self.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let r = self.rank;
        if r == 0 || !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::Invalid(format!(
                "vera: rank {r} and dropout {}; wanted at least 1, and a probability below 1",
                self.dropout
            )));
        }
        let sites = self.targets.of(store)?;
        let (mut rows, mut columns) = (0, 0);
        for site in &sites {
            // Of the whole module, as in files.
            rows = rows.max(site.param()?.len() / site.in_features()?);
            columns = columns.max(site.in_features()?);
        }
        let [a, b] = self.shared(rows, columns)?;
        let settings = json!({
            "peft_type": "VERA", "r": r, "projection_prng_key": self.seed, "save_projection": true,
            "d_initial": self.initial, "vera_dropout": decimal(self.dropout),
        });
        let mut adapted = Adapted::new(store, heads, settings);
        let placed = [&a, &b].map(|t| t.to_device(store.device()));
        let [on_a, on_b] = placed;
        let (on_a, on_b) = (on_a?, on_b?);
        for site in sites {
            let (path, own) = (store.at(site.path()), site.rows()?);
            let (lambda_d, lambda_b) = (
                path.param("vera_lambda_d", &[r], Init::Constant(self.initial))?,
                path.param("vera_lambda_b", &[own.len()], Init::ZEROS)?,
            );
            let factors = vec![
                Factor::new("vera_lambda_d", Form::Shared, &lambda_d),
                Factor::new("vera_lambda_b", Form::Rows, &lambda_b).with_neutral(0.0),
            ];
            let vectors = Vectors {
                a: on_a.narrow(1, 0, site.in_features()?)?,
                b: on_b.narrow(0, own.start, own.len())?,
                lambda_d,
                lambda_b,
                dropout: self.dropout,
            };
            adapted.add(&site, Arc::new(vectors), factors)?;
        }
        adapted.share("base_model.vera_A", move || Ok(a.clone()));
        adapted.share("base_model.vera_B", move || Ok(b.clone()));
        Ok(Box::new(adapted))
    }
}
