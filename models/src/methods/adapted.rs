//! What a method put on a model: its parameters by site, and the heads that train beside them.

use std::sync::{Arc, Mutex, OnceLock};

use deltaw_engine::linalg;
use deltaw_engine::prelude::*;
use serde_json::{Map, Value};

/// How a parameter lies along its site's matrix, `[m, n]` of rank r: what splitting a fused matrix needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `[r, n]`: reads the input.
    Right,
    /// `[m, r]`: writes the output.
    Left,
    /// `[r]`, a number per rank.
    Rank,
    /// `[m]`, a number per output.
    Rows,
    /// `[r, m]`: writes the output, transposed.
    Columns,
    /// Acts before the outputs are told apart: `[n]`, `[blocks, …]`. Every part of a fused matrix has a copy.
    Shared,
    /// Belongs to a whole matrix, and is neither joined nor split: `[⌈m/r⌉, r, r]`, `[H, m, d]`, ….
    Whole,
}

/// How files hold a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axes {
    /// As it is.
    Plain,
    /// `[k, 1]`.
    Column,
    /// `[1, k]`.
    Row,
}

/// A parameter of an update.
#[derive(Clone)]
pub struct Factor {
    /// Its name in PEFT's files below the module: `lora_A.weight`.
    pub key: &'static str,
    /// Its form.
    pub form: Form,
    /// Its axes in files.
    pub axes: Axes,
    /// Of [`Form::Rows`], what leaves an output as it is: where only parts of a fused matrix are adapted, files hold it for the
    /// others. Without it they hold the adapted parts alone.
    pub neutral: Option<f64>,
    /// Its values.
    pub param: Param,
}

impl Factor {
    /// A parameter under its name in files.
    pub fn new(key: &'static str, form: Form, param: &Param) -> Self {
        Factor {
            key,
            form,
            axes: Axes::Plain,
            neutral: None,
            param: param.clone(),
        }
    }

    /// The same with other axes in files.
    pub fn with_axes(self, axes: Axes) -> Self {
        Factor { axes, ..self }
    }

    /// The same with the value that changes nothing.
    pub fn with_neutral(self, value: f64) -> Self {
        let neutral = Some(value);
        Factor { neutral, ..self }
    }
}

/// One adapted site.
pub(super) struct Place {
    pub site: Site,
    pub factors: Vec<Factor>,
    delta: Arc<dyn Delta>,
    /// Where the method rewrote the base: the one of the two that the model does not hold now.
    other_base: Mutex<Option<Tensor>>,
}

impl Place {
    fn swap_base(&self) -> Result<()> {
        let mut other = self.other_base.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(base) = other.take() {
            *other = Some(self.site.stored()?);
            self.site.restore(&base)?;
        }
        Ok(())
    }
}

/// A tensor that all sites share and that does not train: a random basis.
pub(super) struct Constant {
    /// Its whole name in files.
    pub key: String,
    /// Makes it.
    pub value: Box<dyn Fn() -> Result<Tensor>>,
}

/// The list of a method's updates on one model.
pub struct Adapted {
    pub(super) store: Store,
    pub(super) heads: Vec<String>,
    pub(super) settings: Map<String, Value>,
    pub(super) places: Vec<Place>,
    pub(super) constants: Vec<Constant>,
    /// Trained parameters of the model itself: heads, and what a method without updates chose.
    pub(super) own: Vec<Param>,
    /// What the files that it came from say beside the method: they are written again.
    pub(super) origin: OnceLock<Map<String, Value>>,
}

impl Adapted {
    /// Nothing yet: freezes all of the model but its heads. `settings` is what `adapter_config.json` says of the method.
    pub fn new(store: &Store, heads: &[&str], settings: Value) -> Self {
        Self::choosing(store, heads, settings, |_| false)
    }

    /// The same, with further parameters of the model that train.
    pub(super) fn choosing(
        store: &Store,
        heads: &[&str],
        settings: Value,
        also: impl Fn(&str) -> bool,
    ) -> Self {
        let heads: Vec<String> = heads.iter().map(|head| head.to_string()).collect();
        store.train_only(|name| starts_with_one(name, &heads) || also(name));
        let settings = match settings {
            Value::Object(map) => map,
            other => Map::from_iter([("peft_type".to_string(), other)]),
        };
        Adapted {
            own: store.trained(),
            store: store.clone(),
            heads,
            settings,
            places: vec![],
            constants: vec![],
            origin: OnceLock::new(),
        }
    }

    /// Puts an update on a site. `factors` are its parameters.
    ///
    /// # Errors
    /// The site is no linear.
    pub fn add(&mut self, site: &Site, delta: Arc<dyn Delta>, factors: Vec<Factor>) -> Result<()> {
        site.attach(delta.clone())?;
        self.places.push(Place {
            site: site.clone(),
            factors,
            delta,
            other_base: Mutex::default(),
        });
        Ok(())
    }

    /// The same for an update that starts from a base of its own, `[m, n]`: [`Adapted::detach`] brings the old one back.
    ///
    /// # Errors
    /// The site is no linear, or a base of another shape.
    pub fn add_on(
        &mut self,
        site: &Site,
        base: &Tensor,
        delta: Arc<dyn Delta>,
        factors: Vec<Factor>,
    ) -> Result<()> {
        let old = site.stored()?;
        site.set_weight(base)?;
        self.add(site, delta, factors)?;
        if let Some(place) = self.places.last_mut() {
            place.other_base = Mutex::new(Some(old));
        }
        Ok(())
    }

    /// Files hold this tensor too, under the whole name `key`; one that is loaded has to be the same.
    pub(super) fn share(&mut self, key: &str, value: impl Fn() -> Result<Tensor> + 'static) {
        self.constants.push(Constant {
            key: key.into(),
            value: Box::new(value),
        });
    }

    /// PEFT's name of the method.
    pub fn kind(&self) -> &str {
        self.settings
            .get("peft_type")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Numbers that train, heads apart.
    pub fn parameters(&self) -> usize {
        let trained = self.store.trained();
        trained
            .iter()
            .filter(|p| !starts_with_one(p.name(), &self.heads))
            .map(Param::len)
            .sum()
    }

    /// The mean numerical rank of ΔW over the matrices; None where there is no ΔW.
    ///
    /// # Errors
    /// Numbers that are not finite.
    pub fn update_rank(&self) -> Result<Option<f64>> {
        let places = self.places.iter().filter(|place| place.delta.mergeable());
        let rank = |place: &Place| -> Result<f64> {
            let delta = no_grad(|| place.delta.dense(&place.site.weight()?))?;
            Ok(linalg::rank(&delta)? as f64)
        };
        let ranks = places.map(rank).collect::<Result<Vec<f64>>>()?;
        let mean = ranks.iter().sum::<f64>() / ranks.len() as f64;
        Ok((!ranks.is_empty()).then_some(mean))
    }

    /// Whether the method put another base in place.
    pub(super) fn rewrites(&self) -> bool {
        let rewrites = |place: &Place| {
            let other = place.other_base.lock().unwrap_or_else(|e| e.into_inner());
            other.is_some()
        };
        self.places.iter().any(rewrites)
    }

    /// The parameters of the updates.
    pub(super) fn params(&self) -> impl Iterator<Item = &Param> {
        let factors = self.places.iter().flat_map(|place| &place.factors);
        factors.map(|factor| &factor.param)
    }

    /// Takes all updates off and their parameters out of the store; a rewritten base comes back bit for bit.
    ///
    /// # Errors
    /// None but those of the device.
    pub fn detach(&self) -> Result<()> {
        for place in &self.places {
            place.site.remove(&place.delta)?;
            place.swap_base()?;
        }
        self.params().for_each(|p| self.store.remove(p.name()));
        Ok(())
    }

    /// Puts the updates that [`Adapted::detach`] took off back on, with their own base where they have one.
    ///
    /// # Errors
    /// None but those of the device.
    pub(super) fn reattach(&self) -> Result<()> {
        for place in &self.places {
            place.swap_base()?;
            place.site.attach(place.delta.clone())?;
        }
        Ok(())
    }
}

/// Whether `name` belongs to one of these heads.
pub(super) fn starts_with_one<S: AsRef<str>>(name: &str, heads: &[S]) -> bool {
    heads.iter().any(|head| name.starts_with(head.as_ref()))
}
