//! SNELL (Shen et al. 2024): a sparse update out of two low-rank factors, ΔW = S(K) with K a kernel of their rows
//! ([`deltaw_engine::ops::kernelized`]). Both factors are Kaiming-uniform (a = √5), so that ΔW is not 0 at the start.

use std::sync::Arc;

use deltaw_engine::ops::kernelized::{Competition, Kernel, Values};
use deltaw_engine::prelude::*;
use serde_json::json;

use super::produced::Produced;
use super::{Adapted, Attached, Factor, Form, Method, Targets};

/// A kernelized-sparse update.
#[derive(Debug, Clone, PartialEq)]
pub struct Snell {
    /// Numbers per row of a factor, over all heads; divisible by [`Snell::heads`].
    pub rank: usize,
    /// Heads of the distance kernel.
    pub heads: usize,
    /// κ.
    pub kernel: Kernel,
    /// Which entries of K act.
    pub competition: Competition,
    /// And how.
    pub values: Values,
    /// Which linears.
    pub targets: Targets,
}

impl Snell {
    /// The distance kernel with two heads and c = 0.1; the upper tenth of the entries acts, softly.
    pub fn rank(rank: usize) -> Self {
        Snell {
            rank,
            heads: 2,
            kernel: Kernel::Distance { scale: 0.1 },
            competition: Competition::Quantile(0.9),
            values: Values::Soft,
            targets: Targets::default(),
        }
    }
}

impl Method for Snell {
    fn name(&self) -> String {
        let kernel = match self.kernel {
            Kernel::Distance { .. } => "",
            Kernel::Linear => ", linear",
            Kernel::Polynomial { .. } => ", polynomial",
            Kernel::Sigmoid { .. } => ", sigmoid",
            Kernel::Rbf { .. } => ", RBF",
        };
        let competition = match self.competition {
            Competition::Quantile(0.9) => String::new(),
            Competition::Quantile(p) => format!(", p={p}"),
            Competition::Above(t) => format!(", above {t}"),
            Competition::Off => ", dense".into(),
        };
        let values = match self.values {
            Values::Soft => "",
            Values::Squared => ", squared",
        };
        format!("snell r={}{kernel}{competition}{values}", self.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let (r, h) = (self.rank, self.heads);
        if r == 0 || h == 0 || !r.is_multiple_of(h) {
            return Err(Error::Invalid(format!(
                "snell: {r} numbers a row in {h} heads; wanted at least 1 in each, the same in all"
            )));
        }
        let update = KernelizedSparse {
            heads: h,
            kernel: self.kernel,
            competition: self.competition,
            values: self.values,
        };
        let sites = self.targets.of(store)?;
        let settings = json!({
            "peft_type": "SNELL", "r": r, "heads": h, "kernel": self.kernel, "competition": self.competition,
            "values": self.values,
        });
        let mut adapted = Adapted::new(store, heads, settings);
        for site in sites {
            let path = store.at(site.path());
            let factor = |name: &str, rows: usize| {
                let init = Init::KaimingUniform(5f64.sqrt());
                path.param(name, &[h, rows, r / h], init)
            };
            let a = factor("snell_in", site.in_features()?)?;
            let b = factor("snell_out", site.out_features()?)?;
            let factors = vec![
                Factor::new("snell_in", Form::Whole, &a),
                Factor::new("snell_out", Form::Whole, &b),
            ];
            let delta = Produced {
                producer: update,
                params: vec![a, b],
            };
            adapted.add(&site, Arc::new(delta), factors)?;
        }
        Ok(Box::new(adapted))
    }
}
