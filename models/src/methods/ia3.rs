//! (IA)³ (Liu et al. 2022): a trained factor for every output of a linear, or for every input of one.
//!
//! ```text
//! outputs:  y = l ⊙ (x·Wᵀ + b)      ΔW = diag(l − 1)·W      Δb = (l − 1) ⊙ b      l [m], 1 at the start
//! inputs:   y = (l ⊙ x)·Wᵀ + b      ΔW = W·diag(l − 1)                            l [n]
//! ```
//!
//! The paper scales keys, values and what the feed-forward's second matrix reads; m numbers a matrix or n.

use std::sync::Arc;

use deltaw_engine::prelude::*;
use serde_json::json;

use super::{Adapted, Attached, Axes, Factor, Form, Method, Targets};

/// Trained factors of activations.
#[derive(Debug, Clone, PartialEq)]
pub struct Ia3 {
    /// Which of the linears have their inputs scaled, PEFT's `feedforward_modules`; the others have their outputs.
    pub inputs: Targets,
    /// Which linears.
    pub targets: Targets,
}

impl Default for Ia3 {
    fn default() -> Self {
        Ia3 {
            inputs: Targets::Roles(vec![Role::MlpDown]),
            targets: Targets::Roles(vec![Role::Key, Role::Value, Role::MlpDown]),
        }
    }
}

/// `diag(l)` on one side of W.
struct Scaled {
    l: Param,
    inputs: bool,
}

impl Scaled {
    /// l − 1.
    fn change(&self) -> Result<Tensor> {
        self.l.tensor().affine(1.0, -1.0)
    }
}

impl Delta for Scaled {
    fn dense(&self, weight: &Tensor) -> Result<Tensor> {
        let change = self.change()?.unsqueeze(usize::from(!self.inputs))?;
        weight.cast(DType::F32)?.mul(&change)
    }

    fn shift(&self, bias: &Tensor) -> Result<Option<Tensor>> {
        match self.inputs {
            true => Ok(None),
            false => bias.mul(&self.change()?).map(Some),
        }
    }

    fn linear(
        &self,
        _: &Context,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        match self.inputs {
            true => linear(&x.mul(&self.l.tensor())?, weight, bias),
            false => linear(x, weight, bias)?.mul(&self.l.tensor()),
        }
    }

    fn branch(&self, _: &Context, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        match self.inputs {
            true => linear(&x.mul(&self.change()?)?, weight, None),
            false => linear(x, weight, None)?.mul(&self.change()?),
        }
    }
}

impl Method for Ia3 {
    fn name(&self) -> String {
        "ia3".into()
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let sites = self.targets.of(store)?;
        let mut scaled = vec![];
        for site in &sites {
            scaled.push(self.inputs.chooses(site)?);
        }
        let modules = sites.iter().zip(&scaled).filter(|(_, inputs)| **inputs);
        let modules = modules
            .map(|(site, _)| site.module())
            .collect::<Result<std::collections::BTreeSet<_>>>()?;
        let settings = json!({ "peft_type": "IA3", "feedforward_modules": modules });
        let mut adapted = Adapted::new(store, heads, settings);
        for (site, inputs) in sites.iter().zip(scaled) {
            let (form, axes, size) = match inputs {
                true => (Form::Shared, Axes::Row, site.in_features()?),
                false => (Form::Rows, Axes::Column, site.out_features()?),
            };
            let l = store.at(site.path()).param("ia3_l", &[size], Init::ONES)?;
            let factor = Factor::new("ia3_l", form, &l)
                .with_axes(axes)
                .with_neutral(1.0);
            adapted.add(site, Arc::new(Scaled { l, inputs }), vec![factor])?;
        }
        Ok(Box::new(adapted))
    }
}
