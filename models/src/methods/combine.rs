//! One LoRA out of several times weights, as PEFT's `add_weighted_adapter` makes it.
//!
//! ```text
//! linear         A = Σ sgn(c_i)·√|c_i|·A_i    B = Σ √|c_i|·B_i    c_i = weight·scale; ΔW has mixed terms, and A_i one rank
//! concatenated   A = [c_1·A_1; c_2·A_2; …]    B = [B_1, B_2, …]   ΔW = Σ c_i·B_i·A_i, of rank Σr_i
//! svd            A = V_rᵀ    B = U_r·S_r      of Σ c_i·B_i·A_i, the nearest of rank r
//! ```
//!
//! The result's scale is 1. A module that some have not is combined of the others; zeros fill up its rank.

use std::collections::BTreeSet;

use deltaw_engine::linalg;
use deltaw_engine::prelude::*;
use serde_json::json;

use super::Adapter;
use super::adapter::PREFIX;

/// How adapters become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combination {
    /// Factor by factor.
    Linear,
    /// All factors side by side.
    Concatenated,
    /// The nearest update of a rank: this, or the largest of the parts'.
    Svd(Option<usize>),
}

/// One part's update of a module.
struct Term {
    a: Tensor,
    b: Tensor,
    /// weight·scale.
    factor: f32,
}

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

fn refused(detail: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("combining adapters: {detail}"))
}

impl Adapter {
    /// The combination of plain LoRAs.
    ///
    /// # Errors
    /// Other methods, heads among the tensors, shapes or (linear) ranks that differ.
    pub fn combined(parts: &[(&Adapter, f32)], how: Combination) -> Result<Adapter> {
        let first = parts.first().ok_or_else(|| refused("none given"))?.0;
        let (mut modules, mut ranks) = (BTreeSet::new(), vec![]);
        for (part, _) in parts {
            part.plain_lora()?;
            let mut most = 0;
            for (name, tensor) in part.weights.iter() {
                let module = name.strip_suffix(A).or(name.strip_suffix(B));
                let module = module.filter(|_| tensor.rank() == 2).ok_or_else(|| {
                    refused(format!(
                        "`{name}` {:?} is no factor of a matrix",
                        tensor.shape()
                    ))
                })?;
                modules.insert(module.to_string());
                if name.ends_with(A) {
                    most = most.max(tensor.shape()[0]);
                }
            }
            ranks.push(most);
        }
        // One part has one form.
        let how = if parts.len() == 1 {
            Combination::Linear
        } else {
            how
        };
        let largest = ranks.iter().copied().max().unwrap_or(0);
        let rank = match how {
            Combination::Linear => largest,
            Combination::Concatenated => ranks.iter().sum(),
            Combination::Svd(rank) => rank.unwrap_or(largest),
        };
        if rank == 0 {
            return Err(refused("a result of rank 0 changes nothing"));
        }
        let mut weights = Weights::default();
        for module in &modules {
            let terms = parts
                .iter()
                .filter_map(|part| Term::of(part, module).transpose());
            let terms = terms.collect::<Result<Vec<_>>>()?;
            let [a, b] = match how {
                Combination::Linear => linear_sum(&terms, module)?,
                Combination::Concatenated => side_by_side(&terms)?,
                Combination::Svd(_) => nearest(&terms, rank)?,
            };
            let missing = rank - a.shape()[0];
            weights.insert(format!("{module}{A}"), a.pad(0, 0, missing)?);
            weights.insert(format!("{module}{B}"), b.pad(1, 0, missing)?);
        }
        let mut config = first.config.clone();
        for key in [
            "rank_pattern",
            "alpha_pattern",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
        ] {
            config.remove(key);
        }
        let names = modules.iter().map(|m| m.trim_start_matches(PREFIX));
        let names: Vec<&str> = names.collect();
        for (key, value) in [
            ("r", json!(rank)),
            ("lora_alpha", json!(rank)),
            ("target_modules", json!(names)),
            ("use_rslora", json!(false)),
            ("init_lora_weights", json!(true)),
        ] {
            config.insert(key.into(), value);
        }
        Ok(Adapter::new(config, weights))
    }

    fn plain_lora(&self) -> Result<()> {
        let on = |key: &str| self.config.get(key).is_some_and(|v| v == true);
        let start = self
            .config
            .get("init_lora_weights")
            .and_then(|v| v.as_str());
        let kind = self.config.get("peft_type").and_then(|v| v.as_str());
        if kind != Some("LORA") || on("use_dora") || start == Some("pissa") {
            return Err(refused(
                "wanted plain LoRAs, for other updates are no products of two factors on the same base",
            ));
        }
        Ok(())
    }
}

impl Term {
    fn of(&(part, weight): &(&Adapter, f32), module: &str) -> Result<Option<Term>> {
        let [a, b] = [A, B].map(|leaf| part.weights.get(&format!("{module}{leaf}")));
        match (a, b) {
            (None, None) => Ok(None),
            (Some(a), Some(b)) if a.shape()[0] == b.shape()[1] => {
                let scale = part.lora()?.scale_of(module.trim_start_matches(PREFIX))?;
                let host = |t: &Tensor| t.to_device(&Device::cpu())?.converted(DType::F32);
                Ok(Some(Term {
                    a: host(a)?,
                    b: host(b)?,
                    factor: weight * scale,
                }))
            }
            _ => Err(refused(format!(
                "`{module}` has no two factors of one rank"
            ))),
        }
    }
}

/// Σ of tensors of one shape.
fn sum(mut parts: impl Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
    let first = parts.next().ok_or_else(|| refused("nothing to add"))??;
    parts.try_fold(first, |sum, part| sum.add(&part?))
}

fn linear_sum(terms: &[Term], module: &str) -> Result<[Tensor; 2]> {
    let shape = |t: &Term| (t.a.shape().to_vec(), t.b.shape().to_vec());
    if terms.iter().any(|t| shape(t) != shape(&terms[0])) {
        return Err(refused(format!(
            "the factors of `{module}` have several shapes, of which there is no linear combination; Concatenated and Svd take several ranks"
        )));
    }
    let root = |t: &Term| f64::from(t.factor.abs().sqrt());
    Ok([
        sum(terms
            .iter()
            .map(|t| t.a.affine(root(t) * f64::from(t.factor.signum()), 0.0)))?,
        sum(terms.iter().map(|t| t.b.affine(root(t), 0.0)))?,
    ])
}

fn side_by_side(terms: &[Term]) -> Result<[Tensor; 2]> {
    let scaled = terms.iter().map(|t| t.a.affine(f64::from(t.factor), 0.0));
    let scaled = scaled.collect::<Result<Vec<_>>>()?;
    let left: Vec<&Tensor> = terms.iter().map(|t| &t.b).collect();
    Ok([
        Tensor::concat(&scaled.iter().collect::<Vec<_>>(), 0)?,
        Tensor::concat(&left, 1)?,
    ])
}

fn nearest(terms: &[Term], rank: usize) -> Result<[Tensor; 2]> {
    let delta = sum(terms
        .iter()
        .map(|t| t.b.matmul(&t.a)?.affine(f64::from(t.factor), 0.0)))?;
    let svd = linalg::svd(&delta)?;
    let rank = rank.min(svd.s.len());
    let left = svd.u.narrow(1, 0, rank)?.mul(&svd.s.narrow(0, 0, rank)?)?;
    Ok([svd.v.narrow(1, 0, rank)?.t()?.contiguous()?, left])
}
