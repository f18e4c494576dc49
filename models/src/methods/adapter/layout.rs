//! How an update's parameters lie in PEFT's files.
//!
//! PEFT adapts a fused matrix (GPT-2's `c_attn`) as a whole, we its parts. Factors `A_i`, `B_i` of the parts are the blocks of
//! one update of the rank Σrᵢ: A stacks the `A_i`, B has the `B_i` on its diagonal. An update of PEFT's on the whole is loaded
//! into parts of the same rank, each with a copy of A and its rows of B, and written as it came while the copies are equal.

use std::collections::BTreeSet;

use deltaw_engine::prelude::*;
use serde_json::{Map, Value, json};

use super::{Adapter, PREFIX, decimal};
use crate::methods::adapted::{Adapted, Axes, Factor, Form, Place, starts_with_one};

/// The places on one module, in the order of their rows.
struct Module<'a> {
    name: String,
    places: Vec<&'a Place>,
}

/// Settings beside ranks and scales that an adapter shares with the method of this kind that loads it.
fn form_settings(kind: &str) -> &'static [&'static str] {
    match kind {
        "LORA" => &["peft_type", "use_dora"],
        "MISS" => &["peft_type", "init_weights"],
        "OFT" => &["peft_type", "block_share", "use_cayley_neumann"],
        _ => &["peft_type", "lora_alpha"],
    }
}

impl Adapted {
    fn modules(&self) -> Result<Vec<Module<'_>>> {
        let mut modules: Vec<Module> = vec![];
        for place in &self.places {
            let name = place.site.module()?.to_string();
            match modules.iter_mut().find(|m| m.name == name) {
                Some(module) => module.places.push(place),
                None => modules.push(Module {
                    name,
                    places: vec![place],
                }),
            }
        }
        for module in &mut modules {
            module
                .places
                .sort_by_key(|p| p.site.rows().map_or(0, |r| r.start));
        }
        Ok(modules)
    }

    /// The update and the heads as PEFT's files hold them.
    ///
    /// # Errors
    /// An update on parts of a fused matrix, or on a convolution, that the method's form in files does not have.
    pub fn save(&self) -> Result<Adapter> {
        let (mut weights, mut config) = (Weights::default(), self.settings.clone());
        let (lora, names) = (self.kind() == "LORA", self.modules()?);
        for module in &names {
            module.check_form(lora && !self.settings.contains_key("use_dora"), lora)?;
            let blocks = lora && module.places.len() > 1 && !module.copies()?;
            for i in 0..module.places[0].factors.len() {
                let key = format!(
                    "{PREFIX}{}.{}",
                    module.name, module.places[0].factors[i].key
                );
                weights.insert(key, module.joined(i, blocks)?);
            }
            if blocks {
                self.note_blocks(module, &mut config)?;
            }
        }
        for constant in &self.constants {
            weights.insert(constant.key.clone(), (constant.value)()?);
        }
        if let Some(origin) = self.origin.get() {
            config.extend(origin.clone());
        }
        let biased = !matches!(
            config.get("bias").and_then(Value::as_str),
            None | Some("none")
        );
        let mut kept = BTreeSet::new();
        for param in &self.own {
            let (module, leaf) = param.name().rsplit_once('.').unwrap_or(("", param.name()));
            let key = match names.iter().any(|m| m.name == module) {
                true => format!("{module}.base_layer.{leaf}"),
                false => param.name().to_string(),
            };
            weights.insert(format!("{PREFIX}{key}"), param.value());
            if !(biased && leaf == "bias") {
                kept.insert(module);
            }
        }
        // Those of which all is there; a method that trains parts of modules finds them again itself.
        let params = self.store.params();
        kept.retain(|module| {
            let inside = |p: &&Param| {
                p.name()
                    .strip_prefix(module)
                    .is_some_and(|n| n.starts_with('.'))
            };
            let mut inside = params.iter().filter(inside);
            !module.is_empty() && inside.all(|p| self.own.iter().any(|own| own.id() == p.id()))
        });
        let modules: Vec<&str> = names.iter().map(|m| m.name.as_str()).collect();
        config.insert("target_modules".into(), json!(modules));
        let kept = (!kept.is_empty()).then_some(kept);
        config.insert("modules_to_save".into(), json!(kept));
        let transposed = |p: &Place| p.site.transposed().unwrap_or(false);
        if self.places.iter().any(transposed) {
            config.insert("fan_in_fan_out".into(), true.into());
        }
        Ok(Adapter::new(config, weights))
    }

    /// Rank and α of a module whose parts are written as blocks.
    fn note_blocks(&self, module: &Module, config: &mut Map<String, Value>) -> Result<()> {
        let lora = Adapter::new(self.settings.clone(), Weights::default()).lora()?;
        let times = module.places.len();
        let factor = match lora.rank_stabilised {
            true => (times as f32).sqrt(),
            false => times as f32,
        };
        let (rank, alpha) = (lora.rank_of(&module.name)?, lora.alpha_of(&module.name)?);
        for (key, value) in [
            ("rank_pattern", json!(rank * times)),
            ("alpha_pattern", decimal(alpha * factor)),
        ] {
            let pattern = config.entry(key).or_insert_with(|| json!({}));
            if let Some(pattern) = pattern.as_object_mut() {
                pattern.insert(module.name.clone(), value);
            }
        }
        Ok(())
    }

    /// Puts the values of an adapter in place: those of every factor, and of heads where it has them.
    ///
    /// # Errors
    /// Missing or foreign tensors, other shapes, or a scale other than this method's.
    pub fn load(&self, adapter: &Adapter) -> Result<()> {
        self.check_settings(adapter)?;
        let mut known = BTreeSet::new();
        let mut values: Vec<(&Param, Tensor)> = vec![];
        for module in self.modules()? {
            for i in 0..module.places[0].factors.len() {
                let key = format!(
                    "{PREFIX}{}.{}",
                    module.name, module.places[0].factors[i].key
                );
                let missing = || adapter.bad_tensors(format!("no tensor `{key}`"));
                let whole = adapter.weights.get(&key).ok_or_else(missing)?;
                let whole = self.brought(whole, DType::F32)?;
                let parts = module.parts_of(i, &whole);
                let parts = parts
                    .map_err(|detail| adapter.bad_tensors(format!("tensor `{key}` {detail}")))?;
                values.extend(module.places.iter().map(|p| &p.factors[i].param).zip(parts));
                known.insert(key);
            }
        }
        for param in &self.own {
            if let Some((key, value)) = adapter.own(param.name()) {
                if value.shape() != param.shape() {
                    return Err(adapter.bad_tensors(format!(
                        "tensor `{key}` is {:?}, the model's {:?}",
                        value.shape(),
                        param.shape()
                    )));
                }
                values.push((param, self.brought(value, param.value().dtype())?));
                known.insert(key);
            } else if !starts_with_one(param.name(), &self.heads) {
                return Err(adapter.bad_tensors(format!("no tensor `{PREFIX}{}`", param.name())));
            }
        }
        for constant in &self.constants {
            self.check_constant(adapter, &constant.key, &(constant.value)()?)?;
        }
        let named = |name: &String| {
            // PEFT repeats a shared matrix below every module, and a head's bias under the names of its own copies.
            let copy = name
                .replace(".modules_to_save.", ".")
                .replace(".original_module.", ".");
            let leaf = |key: &str| key.rsplit_once('.').map(|(_, leaf)| leaf.to_string());
            known.contains(name)
                || (copy != *name && known.contains(&copy))
                || self.constants.iter().any(|c| leaf(&c.key) == leaf(name))
        };
        if let Some(name) = adapter.weights.names().find(|name| !named(name)) {
            return Err(adapter.bad_tensors(format!(
                "tensor `{name}` has no place in this model; it belongs to another model or method"
            )));
        }
        // Nothing is put in place before all fits.
        values
            .into_iter()
            .try_for_each(|(param, value)| param.set(value))
    }

    fn brought(&self, value: &Tensor, dtype: DType) -> Result<Tensor> {
        value.converted(dtype)?.to_device(self.store.device())
    }

    fn check_settings(&self, adapter: &Adapter) -> Result<()> {
        let off = |v: Option<&Value>| matches!(v, None | Some(Value::Null | Value::Bool(false)));
        let lora = self.kind() == "LORA"
            && adapter.config.get("peft_type") == self.settings.get("peft_type");
        for key in form_settings(self.kind()) {
            let (ours, theirs) = (self.settings.get(*key), adapter.config.get(*key));
            let number = |v: Option<&Value>| v.and_then(Value::as_f64);
            let same = ours == theirs
                || (off(ours) && off(theirs))
                || (number(ours).is_some() && number(ours) == number(theirs));
            if !same {
                let shown = |v: Option<&Value>| v.map_or("not set".into(), Value::to_string);
                return Err(adapter.bad_config(format!(
                    "`{key}` is {}, the attached method's {}; `Adapter::attach` makes the method that fits",
                    shown(theirs),
                    shown(ours)
                )));
            }
        }
        if !lora {
            return Ok(());
        }
        let ours = Adapter::new(self.settings.clone(), Weights::default()).lora()?;
        let theirs = adapter.lora()?;
        for module in self.modules()? {
            let (a, b) = (ours.scale_of(&module.name)?, theirs.scale_of(&module.name)?);
            // √r of parts and of the whole differ by roundings.
            if (a - b).abs() > 8.0 * f32::EPSILON * a.abs() {
                return Err(adapter.bad_config(format!(
                    "`lora_alpha` and `r` scale `{}` by {b}, the attached method by {a}",
                    module.name
                )));
            }
        }
        Ok(())
    }

    fn check_constant(&self, adapter: &Adapter, key: &str, own: &Tensor) -> Result<()> {
        let Some(theirs) = adapter.weights.get(key) else {
            return Ok(());
        };
        let values = |t: &Tensor| t.converted(DType::F32)?.to_vec::<f32>();
        if theirs.shape() == own.shape() && values(theirs)? == values(own)? {
            return Ok(());
        }
        Err(adapter.bad_tensors(format!(
            "tensor `{key}` {:?} is not the basis {:?} that the attached method drew; `Adapter::attach` takes the file's",
            theirs.shape(),
            own.shape()
        )))
    }
}

impl Module<'_> {
    fn outputs(&self) -> Result<usize> {
        let site = &self.places[0].site;
        Ok(site.param()?.len() / site.in_features()?)
    }

    /// Whether the places are all of the module's outputs.
    fn covered(&self) -> Result<bool> {
        let own = self.places.iter().map(|p| Ok(p.site.rows()?.len()));
        Ok(own.sum::<Result<usize>>()? == self.outputs()?)
    }

    /// Whether it is one place.
    fn single(&self) -> Result<bool> {
        Ok(self.places.len() == 1 && self.covered()?)
    }

    /// How many outputs a vector of [`Form::Rows`] has in files.
    fn rows_in_files(&self, neutral: Option<f64>) -> Result<usize> {
        match neutral {
            Some(_) => self.outputs(),
            None => self.places.iter().map(|p| Ok(p.site.rows()?.len())).sum(),
        }
    }

    fn ranks(&self) -> Vec<usize> {
        let rank = |place: &&Place| {
            let ranked = |f: &&Factor| matches!(f.form, Form::Right | Form::Rank);
            place
                .factors
                .iter()
                .find(ranked)
                .map_or(0, |f| f.param.shape()[0])
        };
        self.places.iter().map(rank).collect()
    }

    /// Whether the parts' right factors are copies of one.
    fn copies(&self) -> Result<bool> {
        if !self.covered()? {
            return Ok(false);
        }
        let own = |place: &Place| {
            let right = place.factors.iter().filter(|f| f.form == Form::Right);
            right
                .map(|f| f.param.value().to_vec::<f32>())
                .collect::<Result<Vec<_>>>()
        };
        let first = own(self.places[0])?;
        let mut rest = self.places[1..].iter().map(|place| own(place));
        rest.try_fold(true, |all, next| Ok(all && next? == first))
    }

    /// Refuses what the method's form in files cannot say.
    fn check_form(&self, convolutions: bool, blocks: bool) -> Result<()> {
        let has = |form: Form| self.places[0].factors.iter().any(|f| f.form == form);
        let site = &self.places[0].site;
        let refuse = |why: &str| Err(Error::Invalid(format!("adapter: `{}` {why}", self.name)));
        if site.param()?.shape().len() > 2 && !convolutions {
            return refuse("is a convolution, which this method's form in files does not have");
        }
        let ranked = has(Form::Right) || has(Form::Rank);
        let several = self.places.len() > 1 && !blocks;
        let in_parts = ranked && (several || (has(Form::Rows) && !self.covered()?));
        if in_parts || (has(Form::Whole) && !self.single()?) {
            return refuse("is adapted in parts, which this method's form in files does not have");
        }
        Ok(())
    }

    /// What files hold of factor `i` when its rank is `rank`.
    fn shape(&self, i: usize, rank: usize) -> Result<Vec<usize>> {
        let (factor, site) = (&self.places[0].factors[i], &self.places[0].site);
        let (own, stored) = (factor.param.shape(), site.param()?.shape());
        let kernel: &[usize] = if stored.len() > 2 { &stored[1..] } else { &[] };
        let ones = vec![1; kernel.len().saturating_sub(1)];
        let shape = match factor.form {
            Form::Right if !kernel.is_empty() => [&[rank], kernel].concat(),
            Form::Right => vec![rank, own[1]],
            Form::Left => [&[self.outputs()?, rank], &ones[..]].concat(),
            Form::Rank => vec![rank],
            Form::Rows => vec![self.rows_in_files(factor.neutral)?],
            Form::Columns => vec![own[0], self.outputs()?],
            Form::Shared | Form::Whole => own,
        };
        Ok(match factor.axes {
            Axes::Plain => shape,
            Axes::Column => [&shape[..], &[1]].concat(),
            Axes::Row => [&[1], &shape[..]].concat(),
        })
    }

    /// Factor `i` of all places as one tensor.
    fn joined(&self, i: usize, blocks: bool) -> Result<Tensor> {
        let (form, ranks) = (self.places[0].factors[i].form, self.ranks());
        let parts: Vec<Tensor> = self
            .places
            .iter()
            .map(|p| p.factors[i].param.value())
            .collect();
        let outputs = self.outputs()?;
        // Rows that no place has are 0.
        let padded = |axis: usize| {
            let part = |(part, place): (&Tensor, &&Place)| {
                let rows = place.site.rows()?;
                part.pad(axis, rows.start, outputs - rows.end)
            };
            parts
                .iter()
                .zip(&self.places)
                .map(part)
                .collect::<Result<Vec<_>>>()
        };
        let concat =
            |parts: &[Tensor], axis| Tensor::concat(&parts.iter().collect::<Vec<_>>(), axis);
        let sum = |parts: Vec<Tensor>| {
            let zeros = parts[0].affine(0.0, 0.0)?;
            parts.iter().try_fold(zeros, |sum, part| sum.add(part))
        };
        let whole = match form {
            _ if self.single()? => parts[0].contiguous()?,
            Form::Right | Form::Rank if blocks => concat(&parts, 0)?,
            Form::Left if blocks => concat(&padded(0)?, 1)?,
            Form::Left | Form::Rows if self.covered()? => concat(&parts, 0)?,
            Form::Columns if self.covered()? => concat(&parts, 1)?,
            Form::Left => sum(padded(0)?)?,
            Form::Rows => match self.places[0].factors[i].neutral {
                None => concat(&parts, 0)?,
                Some(neutral) => {
                    let (mut pieces, mut at) = (vec![], 0);
                    let gap = |len| Tensor::full(&[len], neutral, DType::F32, parts[0].device());
                    for (part, place) in parts.iter().zip(&self.places) {
                        let rows = place.site.rows()?;
                        pieces.extend([gap(rows.start - at)?, part.clone()]);
                        at = rows.end;
                    }
                    pieces.push(gap(outputs - at)?);
                    pieces.retain(|piece| !piece.is_empty());
                    concat(&pieces, 0)?
                }
            },
            Form::Columns => sum(padded(1)?)?,
            Form::Right | Form::Rank | Form::Shared | Form::Whole => {
                let first = parts[0].to_vec::<f32>()?;
                for (part, place) in parts.iter().zip(&self.places) {
                    if part.to_vec::<f32>()? != first {
                        return Err(Error::Invalid(format!(
                            "adapter: `{}` has a {} of its own, which files hold once for all of `{}`; adapt unfused matrices",
                            place.site.path(),
                            place.factors[i].key,
                            self.name
                        )));
                    }
                }
                parts[0].contiguous()?
            }
        };
        let rank = if blocks { ranks.iter().sum() } else { ranks[0] };
        whole.reshape(&self.shape(i, rank)?)
    }

    /// The places' parts of factor `i`, in the parameters' shapes; an error says what is wrong with `whole`.
    fn parts_of(&self, i: usize, whole: &Tensor) -> std::result::Result<Vec<Tensor>, String> {
        let ranks = self.ranks();
        let all: usize = ranks.iter().sum();
        let shapes = [all, ranks[0]].map(|rank| self.shape(i, rank));
        let [blocks, copies] = shapes.map(|shape| shape.map_err(|e| e.to_string()));
        let (blocks, copies) = (blocks?, copies?);
        let is_blocks = whole.shape() == blocks;
        if !is_blocks && (whole.shape() != copies || ranks.iter().any(|r| *r != ranks[0])) {
            return Err(format!("is {:?}, wanted {copies:?}", whole.shape()));
        }
        let part = |part: usize| -> Result<Tensor> {
            let place = self.places[part];
            let (shape, rows) = (place.factors[i].param.shape(), place.site.rows()?);
            let (form, axes) = (place.factors[i].form, place.factors[i].axes);
            let before: usize = ranks[..part].iter().sum();
            // Without the axes of 1 that files add.
            let flat = match (axes, form) {
                (Axes::Plain, Form::Right) => whole.reshape(&[whole.shape()[0], shape[1]])?,
                (Axes::Plain, Form::Left) => {
                    whole.reshape(&[whole.shape()[0], whole.shape()[1]])?
                }
                (Axes::Plain, _) => whole.clone(),
                (Axes::Column | Axes::Row, _) => whole.reshape(&[whole.len()])?,
            };
            let cut = |axis: usize| match is_blocks {
                true => flat.narrow(axis, before, ranks[part]),
                false => Ok(flat.clone()),
            };
            let own = match form {
                Form::Right | Form::Rank => cut(0)?,
                Form::Left => cut(1)?.narrow(0, rows.start, rows.len())?,
                Form::Rows => {
                    let lens = self.places[..part].iter().map(|p| Ok(p.site.rows()?.len()));
                    let start = match place.factors[i].neutral {
                        Some(_) => rows.start,
                        None => lens.sum::<Result<usize>>()?,
                    };
                    flat.narrow(0, start, rows.len())?
                }
                Form::Columns => flat.narrow(1, rows.start, rows.len())?,
                Form::Shared | Form::Whole => flat.clone(),
            };
            own.contiguous()?.reshape(&shape)
        };
        (0..self.places.len())
            .map(|i| part(i).map_err(|e| e.to_string()))
            .collect()
    }
}
