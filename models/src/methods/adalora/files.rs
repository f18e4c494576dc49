//! AdaLoRA's files: `rank_pattern` says which triplets were kept, and tensors hold those alone.

use deltaw_engine::prelude::*;
use serde_json::{Map, Value, json};

use crate::methods::Adapter;
use crate::methods::adapter::PREFIX;

/// A triplet's tensors, and whether it is a column.
const LEAVES: [(&str, bool); 3] = [("lora_A", false), ("lora_B", true), ("lora_E", false)];

fn indices(kept: &[bool]) -> Result<Tensor> {
    let rows: Vec<u32> = (0..kept.len() as u32)
        .filter(|i| kept[*i as usize])
        .collect();
    Tensor::from_slice(&rows, &[rows.len()], &Device::cpu())
}

impl Adapter {
    /// The tensor `leaf` of the triplets that `name` in the pattern speaks of.
    fn triplets(&self, name: &str, leaf: &str) -> Result<(String, Tensor)> {
        let key = format!("{PREFIX}{}.{leaf}", name.trim_end_matches(".lora_E"));
        let tensor = self.weights.get(&key).filter(|t| t.rank() == 2);
        let tensor = tensor.ok_or_else(|| {
            self.bad_tensors(format!("no matrix `{key}`, of which rank_pattern speaks"))
        })?;
        let tensor = tensor.to_device(&Device::cpu())?;
        Ok((key, tensor))
    }

    /// Without the triplets that are not kept, and with the pattern in the configuration.
    pub(super) fn pruned(
        mut self,
        patterns: impl Iterator<Item = (String, Vec<bool>)>,
    ) -> Result<Self> {
        let mut all = Map::new();
        for (name, kept) in patterns {
            let rows = indices(&kept)?;
            for (leaf, transposed) in LEAVES {
                let (key, whole) = self.triplets(&name, leaf)?;
                let part = match transposed {
                    true => whole.t()?.gather_rows(&rows)?.t()?,
                    false => whole.gather_rows(&rows)?,
                };
                self.weights.insert(key, part);
            }
            all.insert(name, json!(kept));
        }
        self.config
            .insert("rank_pattern".into(), Value::Object(all));
        Ok(self)
    }

    /// Which of `rank` triplets a pattern keeps; all where there is none.
    pub(super) fn pattern(&self, name: &str, rank: usize) -> Result<Vec<bool>> {
        let Some(pattern) = self.config.get("rank_pattern").and_then(|p| p.get(name)) else {
            return Ok(vec![true; rank]);
        };
        let kept: Option<Vec<bool>> = pattern
            .as_array()
            .and_then(|p| p.iter().map(Value::as_bool).collect());
        kept.filter(|k| k.len() == rank).ok_or_else(|| {
            self.bad_config(format!(
                "rank_pattern of `{name}` is {pattern}, wanted {rank} truth values"
            ))
        })
    }

    /// With zeros for the triplets that the pattern left out.
    pub(super) fn unpruned(&self) -> Result<Self> {
        let mut whole = self.clone();
        let patterns = self.config.get("rank_pattern").and_then(Value::as_object);
        for (name, pattern) in patterns.into_iter().flatten() {
            let rank = pattern.as_array().map_or(0, Vec::len);
            let kept = self.pattern(name, rank)?;
            let rows = indices(&kept)?;
            for (leaf, transposed) in LEAVES {
                let (key, part) = self.triplets(name, leaf)?;
                let part = if transposed { part.t()? } else { part };
                if part.shape()[0] != rows.len() {
                    return Err(self.bad_tensors(format!(
                        "tensor `{key}` has {} triplets, rank_pattern keeps {}",
                        part.shape()[0],
                        rows.len()
                    )));
                }
                let zeros = Tensor::zeros(&[rank, part.last_dim()], part.dtype(), part.device())?;
                let full = zeros.scatter_add_rows(&rows, &part)?;
                whole
                    .weights
                    .insert(key, if transposed { full.t()? } else { full });
            }
        }
        Ok(whole)
    }
}
