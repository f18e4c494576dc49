//! From `adapter_config.json` to a method. Every setting is either read, known to have no effect on a saved adapter, or
//! refused by name when it is set: none is ignored.

use std::cell::RefCell;
use std::collections::BTreeSet;

use deltaw_engine::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Adapter, PREFIX};
use crate::methods::adalora::AdaLora;
use crate::methods::bone::Bone;
use crate::methods::dora::Dora;
use crate::methods::ia3::Ia3;
use crate::methods::lora::Lora;
use crate::methods::miss::Miss;
use crate::methods::oft::{Blocks, Oft};
use crate::methods::pattern::Pattern;
use crate::methods::pissa::Pissa;
use crate::methods::randlora::RandLora;
use crate::methods::selective::{BitFit, Full, LinearProbe, Tailors};
use crate::methods::snell::Snell;
use crate::methods::spt::Spt;
use crate::methods::svdiff::SvDiff;
use crate::methods::targets::{Names, Selection};
use crate::methods::triadaptlora::TriAdaptLora;
use crate::methods::vera::Vera;
use crate::methods::{Method, Targets};

/// Settings that say how an adapter came about, or how its base is stored, which the model knows.
const WITHOUT_EFFECT: [&str; 26] = [
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "blocks",
    "corda_config",
    "eps",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "init_ia3_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "module_dropout",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "exclude_modules",
    "task_type",
    "velora_config",
];

/// A configuration that notes what was read of it.
struct Settings<'a> {
    adapter: &'a Adapter,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Settings<'a> {
    /// A setting that is there and not null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key.into());
        self.adapter.config.get(key).filter(|v| !v.is_null())
    }

    fn maybe<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let parsed = self.get(key).map(|value| T::deserialize(value)).transpose();
        parsed.map_err(|e| self.adapter.bad_config(format!("`{key}`: {e}")))
    }

    fn or<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T> {
        Ok(self.maybe(key)?.unwrap_or(default))
    }

    fn needed<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let missing = || self.adapter.bad_config(format!("`{key}` is missing"));
        self.maybe(key)?.ok_or_else(missing)
    }

    /// A size that tensors are made of: at most as large as the files' own.
    fn size(&self, key: &str, default: usize) -> Result<usize> {
        let (size, config) = (self.or(key, default)?, &self.adapter.config);
        let shapes = self.adapter.weights.iter().map(|(_, t)| t.len());
        let pattern = config.get("rank_pattern").and_then(Value::as_object);
        let kept = pattern
            .into_iter()
            .flat_map(Map::values)
            .filter_map(Value::as_array);
        let most = shapes.chain(kept.map(Vec::len)).max().unwrap_or(0) + 1;
        if size > most {
            return Err(self.adapter.bad_config(format!(
                "`{key}` is {size}, more than the {most} that fit any tensor beside it"
            )));
        }
        Ok(size)
    }

    /// Values by pattern, in the order of their text, in which PEFT writes and reads them.
    fn patterned<T: DeserializeOwned>(&self, key: &str) -> Result<Vec<(Pattern, T)>> {
        let map: std::collections::BTreeMap<String, T> = self.or(key, Default::default())?;
        map.into_iter()
            .map(|(text, value)| Ok((Pattern::tail(&text)?, value)))
            .collect()
    }

    /// Refuses what is set and was not read.
    fn finish(&self) -> Result<()> {
        let read = self.read.borrow();
        let off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            Value::Bool(true) => false,
        };
        let unread = self.adapter.config.iter().find(|(key, value)| {
            !read.contains(*key) && !WITHOUT_EFFECT.contains(&key.as_str()) && !off(value)
        });
        unread.map_or(Ok(()), |(key, value)| {
            let mut shown = value.to_string();
            shown.truncate(shown.char_indices().nth(60).map_or(shown.len(), |(i, _)| i));
            Err(self.adapter.bad_config(format!(
                "`{key}` is set ({shown}), which is not read here; merge the adapter in PEFT and load the merged model, or train it without"
            )))
        })
    }
}

impl Adapter {
    fn settings(&self) -> Settings<'_> {
        Settings {
            adapter: self,
            read: RefCell::default(),
        }
    }

    /// A name or a list of them.
    pub(super) fn strings(&self, key: &str) -> Result<Vec<String>> {
        match self.config.get(key) {
            Some(Value::String(one)) => Ok(vec![one.clone()]),
            Some(Value::Array(_)) => self.settings().needed(key),
            None | Some(Value::Null) => Ok(vec![]),
            Some(other) => {
                Err(self.bad_config(format!("`{key}` is {other}; wanted a list of names")))
            }
        }
    }

    /// Names, or an expression for them; none without the setting.
    fn names(&self, key: &str, ending: bool) -> Result<Names> {
        match self.config.get(key) {
            Some(Value::String(text)) => Ok(Names::Matching(
                Pattern::whole(text).map_err(|e| self.in_config(e))?,
            )),
            _ if ending => Ok(Names::Ending(self.strings(key)?)),
            _ => Ok(Names::Listed(self.strings(key)?)),
        }
    }

    fn selection(&self) -> Result<Targets> {
        let settings = self.settings();
        let modules = match settings.get("target_modules") {
            None => {
                return Err(self.bad_config(
                    "`target_modules` is null; wanted names, an expression or \"all-linear\"",
                ));
            }
            Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => None,
            Some(_) => Some(self.names("target_modules", false)?),
        };
        let layers = match settings.get("layers_to_transform") {
            Some(Value::Number(_)) => vec![settings.needed("layers_to_transform")?],
            _ => settings.or("layers_to_transform", vec![])?,
        };
        let patterns = self.strings("layers_pattern")?;
        let heads: &[&str] = match settings.maybe::<String>("task_type")?.as_deref() {
            Some("SEQ_CLS") => &["score", "classifier"],
            _ => &[],
        };
        Ok(Targets::Selected(Box::new(Selection {
            modules,
            exclude: self.names("exclude_modules", false)?,
            layers,
            layers_pattern: patterns
                .iter()
                .map(|p| Pattern::layer(p))
                .collect::<Result<_>>()
                .map_err(|e| self.in_config(e))?,
            whole: self.strings("modules_to_save")?,
            heads: heads.iter().map(|head| head.to_string()).collect(),
        })))
    }

    /// The adapted sites of a model.
    pub(super) fn targets(&self, store: &Store) -> Result<Vec<Site>> {
        self.selection()?.of(store).map_err(|e| self.in_config(e))
    }

    /// Ranks and scales of a LoRA, on no particular linears.
    pub(in crate::methods) fn lora(&self) -> Result<Lora> {
        self.lora_of(&self.settings(), Targets::default())
            .map_err(|e| self.in_config(e))
    }

    fn lora_of(&self, settings: &Settings, targets: Targets) -> Result<Lora> {
        let lora = Lora {
            // Compared with the tensors by `check_ranks`.
            rank: settings.or("r", 8)?,
            alpha: settings.or("lora_alpha", 8.0)?,
            rank_stabilised: settings.or("use_rslora", false)?,
            dropout: settings.or("lora_dropout", 0.0)?,
            ranks: settings.patterned("rank_pattern")?,
            alphas: settings.patterned("alpha_pattern")?,
            targets,
        };
        if !(0.0..1.0).contains(&lora.dropout) {
            let detail = format!(
                "`lora_dropout` is {}; wanted a probability below 1",
                lora.dropout
            );
            return Err(self.bad_config(detail));
        }
        Ok(lora)
    }

    /// That every module's A has as many rows as its rank says, before anything of that size is made.
    fn check_ranks(&self, lora: &Lora, store: &Store) -> Result<()> {
        for site in lora.targets.of(store)? {
            let (module, rank) = (site.module()?, lora.rank_of(site.module()?)?);
            let key = format!("{PREFIX}{module}.lora_A.weight");
            let found = self.weights.get(&key).map(|a| a.shape().first().copied());
            let Some(rows) = found else {
                return Err(self.bad_tensors(format!(
                    "no tensor `{key}`, though `{module}` is among the target modules; were others renamed?"
                )));
            };
            if rows != Some(rank) {
                let shape = self
                    .weights
                    .get(&key)
                    .map(Tensor::shape)
                    .unwrap_or_default();
                return Err(self.bad_tensors(format!(
                    "tensor `{key}` is {shape:?}, but `r` and `rank_pattern` give `{module}` rank {rank}"
                )));
            }
        }
        Ok(())
    }

    fn lora_method(
        &self,
        settings: &Settings,
        targets: Targets,
        store: &Store,
    ) -> Result<Box<dyn Method>> {
        let mut lora = self.lora_of(settings, targets)?;
        self.check_ranks(&lora, store)?;
        self.split_blocks(&mut lora, store)?;
        let start = settings.get("init_lora_weights");
        let dora = settings.or("use_dora", false)?;
        match start {
            Some(Value::String(start)) if start == "pissa" && !dora => Ok(Box::new(Pissa { lora })),
            Some(Value::String(start)) if !["gaussian", "eva", "orthogonal"].contains(&start.as_str()) => {
                Err(self.bad_config(format!(
                    "init_lora_weights is \"{start}\"{}, which changes the base in a way that is not here; PEFT's `save_pretrained(…, path_initial_model_for_weight_conversion=…)` writes the same update for the unchanged base",
                    if dora { " with use_dora" } else { "" }
                )))
            }
            _ if dora => Ok(Box::new(Dora { lora })),
            _ => Ok(Box::new(lora)),
        }
    }

    /// An update of a fused matrix that is blocks of its parts' updates becomes these.
    fn split_blocks(&self, lora: &mut Lora, store: &Store) -> Result<()> {
        let mut parts = std::collections::BTreeMap::<String, Vec<Site>>::new();
        for site in lora.targets.of(store)? {
            parts.entry(site.module()?.into()).or_default().push(site);
        }
        for (module, sites) in parts.iter_mut().filter(|(_, sites)| sites.len() > 1) {
            sites.sort_by_key(|site| site.rows().map_or(0, |rows| rows.start));
            let (rank, times) = (lora.rank_of(module)?, sites.len());
            let b = self.weights.get(&format!("{PREFIX}{module}.lora_B.weight"));
            let Some(b) = b.filter(|b| b.rank() == 2 && b.shape()[1] == rank && rank % times == 0)
            else {
                continue;
            };
            let (values, own) = (b.to_vec::<f32>()?, rank / times);
            let mut blocks = true;
            for (i, site) in sites.iter().enumerate() {
                for row in site.rows()? {
                    let row = values.get(row * rank..(row + 1) * rank).unwrap_or_default();
                    let outside = row.iter().enumerate().filter(|(k, _)| k / own != i);
                    blocks &= outside.map(|(_, value)| *value).all(|value| value == 0.0);
                }
            }
            // A single B of zeros is no sign of blocks.
            if blocks && values.iter().any(|value| *value != 0.0) {
                let factor = if lora.rank_stabilised {
                    (times as f32).sqrt()
                } else {
                    times as f32
                };
                let alpha = lora.alpha_of(module)? / factor;
                let pattern = Pattern::tail(&fancy_regex::escape(module))?;
                lora.ranks.insert(0, (pattern.clone(), own));
                lora.alphas.insert(0, (pattern, alpha));
            }
        }
        Ok(())
    }

    /// The method with its settings.
    pub(super) fn method(&self, store: &Store) -> Result<Box<dyn Method>> {
        let settings = self.settings();
        let method = self
            .method_of(&settings, store)
            .map_err(|e| self.in_config(e))?;
        settings.finish()?;
        Ok(method)
    }

    fn method_of(&self, settings: &Settings, store: &Store) -> Result<Box<dyn Method>> {
        let kind: String = settings.needed("peft_type")?;
        // These have no targets.
        match kind.as_str() {
            "FULL" => return Ok(Box::new(Full)),
            "LINEAR_PROBE" => return Ok(Box::new(LinearProbe)),
            "BITFIT" => return Ok(Box::new(BitFit)),
            "TAILORS" => return Ok(Box::new(Tailors)),
            _ => {}
        }
        let targets = self.selection()?;
        targets.of(store)?;
        let number = |key: &str, default: f64| settings.or(key, default);
        Ok(match kind.as_str() {
            "LORA" => self.lora_method(settings, targets, store)?,
            "ADALORA" => {
                settings.get("r");
                settings.get("rank_pattern");
                settings.get("init_lora_weights");
                let steps = number("total_step", 1.0)?.max(1.0);
                Box::new(AdaLora {
                    initial_rank: settings.size("init_r", 12)?,
                    alpha: settings.or("lora_alpha", 8.0)?,
                    gamma: number("orth_reg_weight", 0.5)?,
                    beta1: settings.or("beta1", 0.85)?,
                    beta2: settings.or("beta2", 0.85)?,
                    initial_phase: number("tinit", 0.0)? / steps,
                    final_phase: number("tfinal", 0.0)? / steps,
                    every: settings.or("deltaT", 1)?,
                    dropout: settings.or("lora_dropout", 0.0)?,
                    targets,
                    ..AdaLora::target_rank(settings.size("target_r", 8)?)
                })
            }
            "MISS" => {
                let rank = settings.size("r", 64)?;
                settings.get("mini_r");
                match settings.get("init_weights") {
                    Some(Value::String(form)) if form == "bat" => Box::new(Bone {
                        block: rank,
                        targets,
                    }),
                    Some(Value::Bool(_)) | None => Box::new(Miss { rank, targets }),
                    Some(other) => {
                        return Err(self.bad_config(format!(
                            "init_weights is {other}; true and \"bat\" are read"
                        )));
                    }
                }
            }
            "VERA" => {
                let rank = settings.size("r", 256)?;
                settings.get("init_weights");
                let saved = settings.or("save_projection", true)?;
                Box::new(Vera {
                    rank,
                    seed: settings.or("projection_prng_key", 0)?,
                    initial: settings.or("d_initial", 0.1)?,
                    dropout: settings.or("vera_dropout", 0.0)?,
                    projections: self.basis(saved, ["vera_A", "vera_B"])?,
                    targets,
                })
            }
            "IA3" => {
                settings.get("feedforward_modules");
                Box::new(Ia3 {
                    inputs: Targets::Selected(Box::new(Selection {
                        modules: Some(self.names("feedforward_modules", true)?),
                        ..Selection::default()
                    })),
                    targets,
                })
            }
            "OFT" => {
                settings.get("init_weights");
                let (count, size) = (settings.size("r", 0)?, settings.size("oft_block_size", 32)?);
                let blocks = match (count, size) {
                    (0, size) => Blocks::Size(size),
                    (count, 0) => Blocks::Count(count),
                    _ => {
                        return Err(self.bad_config(format!(
                            "`r` is {count} and `oft_block_size` {size}; one of them has to be 0"
                        )));
                    }
                };
                let neumann = settings.or("use_cayley_neumann", true)?;
                let terms = settings.or("num_cayley_neumann_terms", 5)?;
                Box::new(Oft {
                    blocks,
                    terms: neumann.then_some(terms),
                    shared: settings.or("block_share", false)?,
                    targets,
                })
            }
            "RANDLORA" | "RANDLORA_PHILOX" => {
                let rank = settings.size("r", 32)?;
                settings.get("init_weights");
                let saved = settings.or("save_projection", true)?;
                let dropout = settings.or("randlora_dropout", 0.0)?;
                let bases = settings.maybe("bases")?;
                let (sparse, very_sparse) = (
                    settings.or("sparse", false)?,
                    settings.or("very_sparse", false)?,
                );
                let method = RandLora {
                    alpha: settings.or("randlora_alpha", 640.0)?,
                    seed: settings.or("projection_prng_key", 0)?,
                    distinct: settings.or("distinct", usize::MAX)?,
                    dropout,
                    targets,
                    ..RandLora::rank(rank)
                };
                match (bases, self.basis(saved, ["randlora_A", "randlora_B"])?) {
                    (Some(bases), _) => Box::new(RandLora { bases, ..method }),
                    (None, Some(stored)) => Box::new(RandLora {
                        stored: Some(stored),
                        ..method
                    }),
                    (None, None) if sparse || very_sparse => {
                        Box::new(method.with_pefts_sparse_basis(store, very_sparse)?)
                    }
                    (None, None) => {
                        return Err(self.bad_config(
                            "`save_projection` is false, and of dense bases PEFT's seed gives bf16 or f16 numbers by the machine; save with `save_projection=True`",
                        ));
                    }
                }
            }
            "SNELL" => Box::new(Snell {
                rank: settings.size("r", 8)?,
                heads: settings.size("heads", 2)?,
                kernel: settings.needed("kernel")?,
                competition: settings.needed("competition")?,
                values: settings.needed("values")?,
                targets,
            }),
            "SPT" => Box::new(Spt {
                rank: settings.or("r", 1)?,
                batches: settings.or("batches", 1)?,
                located: Some(Spt::places_of(self)?),
                targets,
            }),
            "SVDIFF" => Box::new(SvDiff { targets }),
            "TRIADAPTLORA" => Box::new(TriAdaptLora {
                initial_rank: settings.size("init_r", 1)?,
                block: settings.size("block", 1)?,
                alpha: settings.or("lora_alpha", 8.0)?,
                gamma: number("orth_reg_weight", 0.5)?,
                every: settings.or("deltaT", 5)?,
                targets,
                ..TriAdaptLora::target_rank(settings.or("target_r", 8)?)
            }),
            other => {
                return Err(self.bad_config(format!(
                    "peft_type is \"{other}\"; LORA, ADALORA, MISS, VERA, IA3, OFT, RANDLORA, RANDLORA_PHILOX, SNELL, SPT, SVDIFF, TRIADAPTLORA, FULL, LINEAR_PROBE, BITFIT and TAILORS are read"
                )));
            }
        })
    }

    /// The random matrices that the file holds, if it does.
    fn basis(&self, saved: bool, keys: [&str; 2]) -> Result<Option<[Tensor; 2]>> {
        if !saved {
            return Ok(None);
        }
        let tensor = |key: &str| {
            let key = format!("base_model.{key}");
            let found = self.weights.get(&key).cloned();
            found.ok_or_else(|| {
                self.bad_tensors(format!("no tensor `{key}`, though save_projection is true"))
            })
        };
        Ok(Some([tensor(keys[0])?, tensor(keys[1])?]))
    }
}
