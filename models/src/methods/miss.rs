//! MiSS (Kang & Yin 2024), Bone's cheap form: `ΔW[o, j] = D[j mod r, o]`, D `[r, m]`, zero at the start.
//!
//! ```text
//! y = x·Wᵀ + b + S(x)·D      S(x)[k] = Σ_j x[j·r + k]
//! ```
//!
//! S sums x over its ⌈n/r⌉ shards of r, the last filled up with zeros, so that ΔW costs a product of rank r a token.

use std::sync::Arc;

use deltaw_engine::prelude::*;
use serde_json::json;

use super::{Adapted, Attached, Factor, Form, Method, Targets};

/// A shard-sharing update.
#[derive(Debug, Clone, PartialEq)]
pub struct Miss {
    /// Width r of the shards.
    pub rank: usize,
    /// Which linears.
    pub targets: Targets,
}

impl Miss {
    /// Shards of `rank` on every linear of the blocks.
    pub fn rank(rank: usize) -> Self {
        Miss {
            rank,
            targets: Targets::default(),
        }
    }
}

/// `D[j mod r, o]`.
struct Shards {
    d: Param,
}

/// `S(x)`: `[…, n] → […, r]`.
fn shard_sum(x: &Tensor, r: usize) -> Result<Tensor> {
    let (axis, n) = (x.rank() - 1, x.last_dim());
    let shards = n.div_ceil(r);
    let x = match shards * r - n {
        0 => x.clone(),
        missing => x.pad(axis, 0, missing)?,
    };
    let shape = [&x.shape()[..axis], &[shards, r]].concat();
    x.reshape(&shape)?.sum(axis)
}

impl Delta for Shards {
    fn dense(&self, weight: &Tensor) -> Result<Tensor> {
        let d = self.d.tensor();
        let (r, m, n) = (d.shape()[0], d.shape()[1], weight.last_dim());
        let shards = n.div_ceil(r);
        d.t()?
            .unsqueeze(1)?
            .expand(&[m, shards, r])?
            .reshape(&[m, shards * r])?
            .narrow(1, 0, n)
    }

    fn apart(&self) -> bool {
        true
    }

    fn branch(&self, _: &Context, x: &Tensor, _: &Tensor) -> Result<Tensor> {
        let d = self.d.tensor();
        shard_sum(x, d.shape()[0])?.matmul(&d)
    }
}

impl Method for Miss {
    fn name(&self) -> String {
        format!("miss r={}", self.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let r = self.rank;
        if r == 0 {
            return Err(Error::Invalid(
                "miss: shards of 0 features; wanted at least 1".into(),
            ));
        }
        let sites = self.targets.of(store)?;
        let settings = json!({ "peft_type": "MISS", "r": r, "init_weights": true });
        let mut adapted = Adapted::new(store, heads, settings);
        for site in sites {
            let shape = [r, site.out_features()?];
            let d = store
                .at(site.path())
                .param("miss_block", &shape, Init::ZEROS)?;
            let factors = vec![Factor::new("miss_block", Form::Columns, &d)];
            adapted.add(&site, Arc::new(Shards { d }), factors)?;
        }
        Ok(Box::new(adapted))
    }
}
