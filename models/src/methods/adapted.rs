//! What a method put on a model: its parameters by site, and the heads that train beside them.

use std::sync::Arc;

use deltaw_engine::prelude::*;
use serde_json::{Map, Value};

/// How a parameter lies along its site's matrix, `[m, n]` of rank r: what splitting a fused matrix needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `[r, n]`: reads the input.
    Right,
    /// `[m, r]`: writes the output.
    Left,
    /// `[r]`, a number per rank; `[r, 1]` in files.
    Rank,
    /// `[m]`, a number per output.
    Rows,
    /// `[r, m]`: writes the output, transposed.
    Columns,
    /// Belongs to a whole matrix, and is neither joined nor split: `[⌈m/r⌉, r, r]`, `[H, m, d]`, ….
    Whole,
}

/// A parameter of an update.
#[derive(Clone)]
pub struct Factor {
    /// Its name in PEFT's files below the module: `lora_A.weight`.
    pub key: &'static str,
    /// Its form.
    pub form: Form,
    /// Its values.
    pub param: Param,
}

impl Factor {
    /// A parameter under its name in files.
    pub fn new(key: &'static str, form: Form, param: &Param) -> Self {
        Factor {
            key,
            form,
            param: param.clone(),
        }
    }
}

/// One adapted site.
pub(super) struct Place {
    pub site: Site,
    pub factors: Vec<Factor>,
    delta: Arc<dyn Delta>,
    /// The base before the method rewrote it.
    base: Option<Tensor>,
}

/// The list of a method's updates on one model.
pub struct Adapted {
    pub(super) store: Store,
    pub(super) heads: Vec<String>,
    pub(super) settings: Map<String, Value>,
    pub(super) places: Vec<Place>,
}

impl Adapted {
    /// Nothing yet: freezes all of the model but its heads. `settings` is what `adapter_config.json` says of the method.
    pub fn new(store: &Store, heads: &[&str], settings: Value) -> Self {
        let heads: Vec<String> = heads.iter().map(|head| head.to_string()).collect();
        store.train_only(|name| starts_with_one(name, &heads));
        let settings = match settings {
            Value::Object(map) => map,
            other => Map::from_iter([("peft_type".to_string(), other)]),
        };
        Adapted {
            store: store.clone(),
            heads,
            settings,
            places: vec![],
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
            base: None,
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
            place.base = Some(old);
        }
        Ok(())
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

    /// Trained parameters of the model itself: heads, and what a method without updates chose.
    pub(super) fn own(&self) -> Vec<Param> {
        let ours = |p: &Param| {
            self.places
                .iter()
                .flat_map(|place| &place.factors)
                .any(|f| f.param.id() == p.id())
        };
        self.store
            .trained()
            .into_iter()
            .filter(|p| !ours(p))
            .collect()
    }

    /// Takes all updates off and their parameters out of the store; a rewritten base comes back bit for bit.
    ///
    /// # Errors
    /// None but those of the device.
    pub fn detach(&self) -> Result<()> {
        for place in &self.places {
            place.site.remove(&place.delta)?;
            if let Some(base) = &place.base {
                place.site.restore(base)?;
            }
            place
                .factors
                .iter()
                .for_each(|f| self.store.remove(f.param.name()));
        }
        Ok(())
    }
}

/// Whether `name` belongs to one of these heads.
pub(super) fn starts_with_one<S: AsRef<str>>(name: &str, heads: &[S]) -> bool {
    heads.iter().any(|head| name.starts_with(head.as_ref()))
}
