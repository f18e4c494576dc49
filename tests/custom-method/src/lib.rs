//! A worked example: a fine-tuning method in a crate of its own. It learns the length of every row of the chosen matrices and
//! leaves their directions as they are, `y = l ⊙ (x·Wᵀ) + b`, so that with l `[m]`
//!
//! ```text
//! ΔW = diag(l − 1)·W      l = 1 at the start
//! ```
//!
//! What has to be written is the update ([`Delta`]) and where it goes ([`Method`]); a method that also acts during training
//! implements [`Attached`] itself. Counting, merging, saving, loading and taking it off follow from that description.

use std::sync::Arc;

use deltaw_models::prelude::*;
use serde_json::json;

/// A length for every row of keys, values and the feed-forward's inner layer.
#[derive(Debug, Clone, PartialEq)]
pub struct RowScale {
    /// Which linears.
    pub targets: Targets,
}

impl Default for RowScale {
    fn default() -> Self {
        RowScale {
            targets: Targets::Roles(vec![Role::Key, Role::Value, Role::MlpUp]),
        }
    }
}

/// `diag(l − 1)·W`.
struct Scaled {
    l: Param,
}

impl Delta for Scaled {
    /// What merging and the checks use.
    fn dense(&self, weight: &Tensor) -> Result<Tensor> {
        let change = self.l.tensor().affine(1.0, -1.0)?.unsqueeze(1)?;
        weight.cast(DType::F32)?.mul(&change)
    }

    /// The same without ever making an m×n matrix; leave it out and the dense form is used.
    fn linear(
        &self,
        _: &Context,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let y = linear(x, weight, None)?.mul(&self.l.tensor())?;
        match bias {
            Some(bias) => y.add(bias),
            None => Ok(y),
        }
    }
}

impl Method for RowScale {
    fn name(&self) -> String {
        "row scale".into()
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let sites = self.targets.of(store)?;
        let mut adapted = Adapted::new(store, heads, json!({ "peft_type": "ROW_SCALE" }));
        for site in sites {
            let path = store.at(site.path());
            let l = path.param("row_scale", &[site.out_features()?], Init::ONES)?;
            let factors = vec![Factor::new("row_scale", Form::Rows, &l)];
            adapted.add(&site, Arc::new(Scaled { l }), factors)?;
        }
        Ok(Box::new(adapted))
    }
}
