//! Adapters in PEFT's files: `adapter_config.json` with the method's settings, `adapter_model.safetensors` with its tensors
//! under `base_model.model.<module>.<key>`. A method that PEFT has not is written in the same style.
//!
//! PEFT adapts a fused matrix (GPT-2's `c_attn`) as a whole, we its parts. Factors `A_i`, `B_i` of the parts are the blocks of
//! one update of the rank Σrᵢ: A stacks the `A_i`, B has the `B_i` on its diagonal. An update of PEFT's on the whole is loaded
//! into parts of the same rank, each with a copy of A and its rows of B.

use std::path::Path;

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;
use serde_json::{Map, Value, json};

use super::adalora::AdaLora;
use super::adapted::{Adapted, Form, Place};
use super::bone::Bone;
use super::dora::Dora;
use super::lora::Lora;
use super::miss::Miss;
use super::pissa::Pissa;
use super::randlora::RandLora;
use super::snell::Snell;
use super::svdiff::SvDiff;
use super::triadaptlora::TriAdaptLora;
use super::{Attached, Method, Targets};

/// What PEFT puts before every name.
const PREFIX: &str = "base_model.model.";
const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// A saved update.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// `adapter_config.json`.
    pub config: Map<String, Value>,
    /// `adapter_model.safetensors`.
    pub weights: Weights,
}

fn refuse(detail: impl Into<String>) -> Error {
    Error::Checkpoint {
        path: CONFIG.into(),
        detail: detail.into(),
    }
}

impl Adapter {
    /// Writes both files into `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let failed = |e: std::io::Error| Error::Checkpoint {
            path: folder.display().to_string(),
            detail: format!("cannot be written: {e}"),
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let text = format!("{:#}\n", Value::Object(self.config.clone()));
        std::fs::write(folder.join(CONFIG), text).map_err(failed)?;
        checkpoint::save(&folder.join(TENSORS), &self.weights)
    }

    /// Reads both files.
    ///
    /// # Errors
    /// Files that are not there or not whole.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let failed = |detail: String| Error::Checkpoint {
            path: path.display().to_string(),
            detail,
        };
        let text =
            std::fs::read_to_string(&path).map_err(|e| failed(format!("cannot be read: {e}")))?;
        let config = serde_json::from_str(&text)
            .map_err(|e| failed(format!("is no object in JSON: {e}")))?;
        Ok(Adapter {
            config,
            weights: checkpoint::load(&folder.join(TENSORS))?,
        })
    }

    /// Attaches the method that the configuration describes to a model, with these values.
    ///
    /// # Errors
    /// A method or a variant that is not here, or a model without the adapter's modules.
    pub fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let mut attached = self.method()?.attach(store, heads)?;
        attached.load(self)?;
        Ok(attached)
    }

    fn number(&self, key: &str, default: f64) -> f64 {
        self.config
            .get(key)
            .and_then(Value::as_f64)
            .unwrap_or(default)
    }

    fn parsed<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        let value = self.config.get(key).cloned().unwrap_or_default();
        serde_json::from_value(value).map_err(|e| refuse(format!("`{key}`: {e}")))
    }

    fn on(&self, key: &str) -> bool {
        self.config
            .get(key)
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }

    /// The method with its settings.
    fn method(&self) -> Result<Box<dyn Method>> {
        let text = |key: &str| self.config.get(key).and_then(Value::as_str);
        let modules = self.config.get("target_modules").and_then(Value::as_array);
        let names = modules.ok_or_else(|| refuse("`target_modules` is no list of names"))?;
        let targets = Targets::modules(names.iter().filter_map(Value::as_str));
        let patterned = |key: &str| {
            self.config
                .get(key)
                .and_then(Value::as_object)
                .is_some_and(|map| !map.is_empty())
        };
        let (rank, alpha) = (
            self.number("r", 8.0) as usize,
            self.number("lora_alpha", 8.0) as f32,
        );
        match (text("peft_type"), text("init_lora_weights")) {
            (Some("ADALORA"), _) => Ok(Box::new(AdaLora {
                initial_rank: self.number("init_r", 12.0) as usize,
                alpha,
                gamma: self.number("orth_reg_weight", 0.5),
                beta1: self.number("beta1", 0.85) as f32,
                beta2: self.number("beta2", 0.85) as f32,
                every: self.number("deltaT", 1.0) as u64,
                targets,
                ..AdaLora::target_rank(self.number("target_r", 8.0) as usize)
            })),
            (Some("LORA"), _) if patterned("rank_pattern") || patterned("alpha_pattern") => {
                Err(refuse(
                    "ranks or scales that differ by module (`rank_pattern`, `alpha_pattern`); attach the method that wrote it and `load`",
                ))
            }
            (Some("LORA"), Some("pissa")) => Ok(Box::new(Pissa {
                rank,
                alpha,
                targets,
            })),
            (Some("LORA"), _) if self.on("use_dora") => Ok(Box::new(Dora {
                rank,
                alpha,
                targets,
            })),
            (Some("LORA"), _) => Ok(Box::new(Lora {
                rank,
                alpha,
                rank_stabilised: self.on("use_rslora"),
                dropout: self.number("lora_dropout", 0.0) as f32,
                targets,
            })),
            (Some("MISS"), _) => match self.config.get("init_weights") {
                Some(Value::String(form)) if form == "bat" => Ok(Box::new(Bone {
                    block: rank,
                    targets,
                })),
                Some(Value::Bool(_)) | None => Ok(Box::new(Miss { rank, targets })),
                Some(other) => Err(refuse(format!(
                    "init_weights {other}; true and \"bat\" are read"
                ))),
            },
            (Some("SNELL"), _) => Ok(Box::new(Snell {
                rank,
                heads: self.number("heads", 2.0) as usize,
                kernel: self.parsed("kernel")?,
                competition: self.parsed("competition")?,
                values: self.parsed("values")?,
                targets,
            })),
            (Some("SVDIFF"), _) => Ok(Box::new(SvDiff { targets })),
            (Some("RANDLORA"), _) => Ok(Box::new(RandLora {
                rank,
                alpha: self.number("randlora_alpha", 640.0) as f32,
                seed: self.number("projection_prng_key", 0.0) as u64,
                bases: self.parsed("bases")?,
                distinct: self.parsed("distinct")?,
                targets,
            })),
            (Some("TRIADAPTLORA"), _) => Ok(Box::new(TriAdaptLora {
                initial_rank: self.number("init_r", 1.0) as usize,
                block: self.number("block", 1.0) as usize,
                alpha,
                gamma: self.number("orth_reg_weight", 0.5),
                every: self.number("deltaT", 5.0) as u64,
                targets,
                ..TriAdaptLora::target_rank(self.number("target_r", 8.0) as usize)
            })),
            (other, _) => Err(refuse(format!(
                "peft_type {other:?}; LORA, ADALORA, MISS, SNELL, SVDIFF, RANDLORA and TRIADAPTLORA are read"
            ))),
        }
    }

    /// Without the triplets that are not kept, and with the pattern in the configuration.
    pub(super) fn pruned(
        mut self,
        patterns: impl Iterator<Item = (String, Vec<bool>)>,
    ) -> Result<Self> {
        let mut all = Map::new();
        for (name, kept) in patterns {
            let rows: Vec<u32> = (0..kept.len() as u32)
                .filter(|i| kept[*i as usize])
                .collect();
            let module = format!("{PREFIX}{}", name.trim_end_matches(".lora_E"));
            let rows = Tensor::from_slice(&rows, &[rows.len()], &Device::cpu())?;
            for (leaf, transposed) in [("lora_A", false), ("lora_B", true), ("lora_E", false)] {
                let key = format!("{module}.{leaf}");
                let whole = self
                    .weights
                    .get(&key)
                    .ok_or_else(|| refuse(format!("no tensor `{key}`")))?
                    .to_device(&Device::cpu())?;
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
            refuse(format!(
                "rank_pattern of `{name}` is {pattern}, wanted {rank} truth values"
            ))
        })
    }

    /// With zeros for the triplets that the pattern left out.
    pub(super) fn unpruned(&self) -> Result<Self> {
        let mut whole = self.clone();
        let patterns = self.config.get("rank_pattern").and_then(Value::as_object);
        for name in patterns.into_iter().flat_map(Map::keys) {
            let rank = patterns
                .and_then(|p| p[name].as_array())
                .map_or(0, Vec::len);
            let kept = self.pattern(name, rank)?;
            let rows: Vec<u32> = (0..rank as u32).filter(|i| kept[*i as usize]).collect();
            let rows = Tensor::from_slice(&rows, &[rows.len()], &Device::cpu())?;
            let module = format!("{PREFIX}{}", name.trim_end_matches(".lora_E"));
            for (leaf, transposed) in [("lora_A", false), ("lora_B", true), ("lora_E", false)] {
                let key = format!("{module}.{leaf}");
                let part = self
                    .weights
                    .get(&key)
                    .ok_or_else(|| refuse(format!("no tensor `{key}`")))?;
                let part = if transposed { part.t()? } else { part.clone() };
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

impl Adapted {
    /// The places by module, and whether a module is one place.
    fn modules(&self) -> Result<Vec<(String, Vec<&Place>)>> {
        let mut modules: Vec<(String, Vec<&Place>)> = vec![];
        for place in &self.places {
            let name = place.site.module()?.to_string();
            match modules.iter_mut().find(|(n, _)| *n == name) {
                Some((_, places)) => places.push(place),
                None => modules.push((name, vec![place])),
            }
        }
        for (_, places) in &mut modules {
            places.sort_by_key(|p| p.site.rows().map_or(0, |r| r.start));
        }
        Ok(modules)
    }

    /// The update and the heads as PEFT's files hold them.
    ///
    /// # Errors
    /// AdaLoRA on parts of a fused matrix: PEFT gives all modules the same initial rank.
    pub fn save(&self) -> Result<Adapter> {
        let (mut weights, mut config) = (Weights::default(), self.settings.clone());
        let (mut names, mut ranks, mut alphas) = (vec![], Map::new(), Map::new());
        for (module, places) in self.modules()? {
            for (i, factor) in places[0].factors.iter().enumerate() {
                let parts: Vec<Tensor> =
                    places.iter().map(|p| p.factors[i].param.value()).collect();
                weights.insert(
                    format!("{PREFIX}{module}.{}", factor.key),
                    joined(factor.form, &parts, &places)?,
                );
            }
            let has = |form: Form| places[0].factors.iter().any(|f| f.form == form);
            let ranked = has(Form::Right) || has(Form::Rank);
            let lora = config.get("peft_type").and_then(Value::as_str) == Some("LORA");
            let partial = !covered(&places)?;
            if ranked && ((places.len() > 1 && !lora) || (partial && has(Form::Rows))) {
                return Err(refuse(format!(
                    "`{module}` is adapted in parts, which this method's form does not have"
                )));
            }
            if ranked && places.len() > 1 {
                let number = |key: &str| config[key].as_f64().unwrap_or(1.0);
                let (r, alpha, times) = (number("r"), number("lora_alpha"), places.len() as f64);
                let stabilised = config.get("use_rslora").and_then(Value::as_bool);
                let factor = if stabilised == Some(true) {
                    times.sqrt()
                } else {
                    times
                };
                ranks.insert(module.clone(), json!((r * times) as u64));
                alphas.insert(module.clone(), json!(alpha * factor));
            }
            names.push(module);
        }
        let own = self.own();
        for param in &own {
            weights.insert(format!("{PREFIX}{}", param.name()), param.value());
        }
        let mut kept: Vec<&str> = own
            .iter()
            .filter_map(|p| Some(p.name().rsplit_once('.')?.0))
            .collect();
        kept.dedup();
        config.insert("target_modules".into(), json!(names));
        config.insert(
            "modules_to_save".into(),
            if kept.is_empty() {
                Value::Null
            } else {
                json!(kept)
            },
        );
        if !ranks.is_empty() {
            config.insert("rank_pattern".into(), Value::Object(ranks));
            config.insert("alpha_pattern".into(), Value::Object(alphas));
        }
        Ok(Adapter { config, weights })
    }

    /// Puts the values of an adapter in place: those of every factor, and of heads where it has them.
    ///
    /// # Errors
    /// Missing or foreign tensors, other shapes, or a scale other than this method's.
    pub fn load(&self, adapter: &Adapter) -> Result<()> {
        for key in [
            "peft_type",
            "lora_alpha",
            "use_rslora",
            "use_dora",
            "init_weights",
        ] {
            let (ours, theirs) = (self.settings.get(key), adapter.config.get(key));
            let number = |v: Option<&Value>| v.and_then(Value::as_f64);
            let off =
                |v: Option<&Value>| matches!(v, None | Some(Value::Null | Value::Bool(false)));
            let same = ours == theirs
                || (off(ours) && off(theirs))
                || (number(ours).is_some() && number(ours) == number(theirs));
            if !same {
                return Err(refuse(format!(
                    "{key} is {theirs:?}, the attached method's {ours:?}"
                )));
            }
        }
        let mut known = vec![];
        for (module, places) in self.modules()? {
            for (i, factor) in places[0].factors.iter().enumerate() {
                let key = format!("{PREFIX}{module}.{}", factor.key);
                let whole = adapter
                    .weights
                    .get(&key)
                    .ok_or_else(|| refuse(format!("no tensor `{key}` in {TENSORS}")))?;
                let whole = whole
                    .to_device(self.store.device())?
                    .converted(DType::F32)?;
                for (part, place) in places.iter().enumerate() {
                    let value = part_of(factor.form, &whole, part, &places)?;
                    let param = &place.factors[i].param;
                    param.set(value.reshape(&param.shape()).map_err(|_| {
                        refuse(format!(
                            "tensor `{key}` is {:?}, wanted {:?}",
                            whole.shape(),
                            param.shape()
                        ))
                    })?)?;
                }
                known.push(key);
            }
        }
        for param in self.own() {
            let key = format!("{PREFIX}{}", param.name());
            if let Some(value) = adapter.weights.get(&key) {
                param.set(
                    value
                        .to_device(self.store.device())?
                        .converted(param.value().dtype())?,
                )?;
                known.push(key);
            }
        }
        match adapter.weights.names().find(|name| !known.contains(name)) {
            Some(name) => Err(refuse(format!(
                "tensor `{name}` in {TENSORS} has no place in this model"
            ))),
            None => Ok(()),
        }
    }
}

/// Whether the places are all of their module's outputs.
fn covered(places: &[&Place]) -> Result<bool> {
    let own = places
        .iter()
        .map(|p| Ok(p.site.rows()?.len()))
        .sum::<Result<usize>>()?;
    Ok(own * places[0].site.in_features()? == places[0].site.param()?.len())
}

/// One tensor for the parts of a module.
fn joined(form: Form, parts: &[Tensor], places: &[&Place]) -> Result<Tensor> {
    let all: Vec<&Tensor> = parts.iter().collect();
    match form {
        Form::Rank => Tensor::concat(&all, 0)?.unsqueeze(1),
        Form::Right | Form::Rows => Tensor::concat(&all, 0),
        Form::Columns => Tensor::concat(&all, 1),
        Form::Whole if covered(places)? => parts[0].contiguous(),
        Form::Whole => Err(fused_whole(places)),
        Form::Left => {
            let param = places[0].site.param()?;
            let outputs = param.shape().iter().product::<usize>() / places[0].site.in_features()?;
            let columns = parts.iter().zip(places).map(|(part, place)| {
                let rows = place.site.rows()?;
                part.pad(0, rows.start, outputs - rows.end)
            });
            let columns = columns.collect::<Result<Vec<_>>>()?;
            Tensor::concat(&columns.iter().collect::<Vec<_>>(), 1)
        }
    }
}

fn fused_whole(places: &[&Place]) -> Error {
    refuse(format!(
        "`{}` is a part of a fused matrix, which this method's form does not split",
        places[0].site.path()
    ))
}

/// What part `part` of a module's tensor is its own.
fn part_of(form: Form, whole: &Tensor, part: usize, places: &[&Place]) -> Result<Tensor> {
    if places.len() == 1 && covered(places)? {
        return whole.contiguous();
    }
    let rows = places[part].site.rows()?;
    let rank = |place: &Place| {
        place
            .factors
            .iter()
            .find(|f| f.form == Form::Right)
            .map_or(0, |f| f.param.shape()[0])
    };
    let ranks: Vec<usize> = places.iter().map(|p| rank(p)).collect();
    let (before, own, all) = (
        ranks[..part].iter().sum::<usize>(),
        ranks[part],
        ranks.iter().sum::<usize>(),
    );
    // Blocks where the rank is the sum of the parts', one update on all rows where it is theirs.
    let cut = |axis: usize| match whole.shape()[axis] {
        n if n == all => whole.narrow(axis, before, own),
        _ => Ok(whole.clone()),
    };
    match form {
        Form::Right | Form::Rank => cut(0)?.contiguous(),
        Form::Left => cut(1)?.narrow(0, rows.start, rows.len())?.contiguous(),
        Form::Columns => whole.narrow(1, rows.start, rows.len())?.contiguous(),
        Form::Whole => Err(fused_whole(places)),
        // Of the adapted parts alone, or of the whole module.
        Form::Rows => {
            let lens: Vec<usize> = places
                .iter()
                .map(|p| Ok(p.site.rows()?.len()))
                .collect::<Result<_>>()?;
            let all = whole.len() == lens.iter().sum::<usize>();
            let start = if all {
                lens[..part].iter().sum()
            } else {
                rows.start
            };
            whole.narrow(0, start, rows.len())?.contiguous()
        }
    }
}
