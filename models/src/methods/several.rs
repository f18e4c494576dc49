//! Several adapters on one base: loaded by name, one active or several at once, merged, combined and unloaded.
//!
//! The base is there once, whatever the number of adapters: an inactive one keeps its own parameters, and its own values of the
//! heads that it trained, outside the model. What PEFT calls `load_adapter`, `set_adapter`, `add_weighted_adapter`,
//! `delete_adapter` and `merge_and_unload`.

use std::collections::BTreeMap;

use deltaw_engine::prelude::*;

use super::combine::Combination;
use super::{Adapter, Attached, Method};

/// Adapters of one model, by name.
pub struct Adapters {
    store: Store,
    entries: BTreeMap<String, Entry>,
    active: Vec<String>,
    merged: bool,
}

struct Entry {
    attached: Box<dyn Attached>,
    /// Parameters of the model itself that the adapter brings, each with the value that the model does not hold now.
    own: Vec<(Param, Tensor)>,
}

impl Entry {
    fn swap_own(&mut self) -> Result<()> {
        for (param, other) in &mut self.own {
            let now = param.value();
            param.set(std::mem::replace(other, now))?;
        }
        Ok(())
    }

    /// Puts it on the model.
    fn on(&mut self, store: &Store, alone: bool) -> Result<()> {
        self.swap_own()?;
        let adapted = self.attached.adapted();
        adapted.reattach()?;
        adapted.params().for_each(|p| p.set_trained(alone));
        self.own.iter().for_each(|(p, _)| p.set_trained(alone));
        if alone {
            adapted.params().try_for_each(|p| store.insert(p))?;
        }
        Ok(())
    }

    /// Takes it off.
    fn off(&mut self) -> Result<()> {
        self.attached.adapted().detach()?;
        self.own.iter().for_each(|(p, _)| p.set_trained(false));
        self.swap_own()
    }

    /// Why it cannot be active beside others.
    fn alone(&self) -> Option<&'static str> {
        let adapted = self.attached.adapted();
        let block = adapted
            .settings
            .get("init_weights")
            .and_then(|v| v.as_str())
            == Some("bat");
        match adapted.kind() {
            "IA3" | "OFT" => Some("multiplies the weight, so that it and others are no sum"),
            "MISS" if block => Some("multiplies the weight, so that it and others are no sum"),
            _ if adapted.rewrites() => Some("has a base of its own"),
            _ => None,
        }
    }
}

fn refused(detail: String) -> Error {
    Error::Invalid(format!("adapters: {detail}"))
}

impl Adapters {
    /// None yet, on the model in `store`.
    pub fn new(store: &Store) -> Self {
        Adapters {
            store: store.clone(),
            entries: BTreeMap::new(),
            active: vec![],
            merged: false,
        }
    }

    /// Loads an adapter under a name. It is not active yet.
    ///
    /// # Errors
    /// A name that is taken, a merged base, and what [`Adapter::attach`] refuses; the model is then as it was.
    pub fn load(&mut self, name: &str, adapter: &Adapter) -> Result<()> {
        self.put(name, |store| adapter.attach(store, &[]))
    }

    /// Makes a new adapter to train, with the heads that train beside it. It is not active yet.
    ///
    /// # Errors
    /// A name that is taken, a merged base, and what the method refuses.
    pub fn add(&mut self, name: &str, method: &dyn Method, heads: &[&str]) -> Result<()> {
        self.put(name, |store| method.attach(store, heads))
    }

    fn put(
        &mut self,
        name: &str,
        attach: impl FnOnce(&Store) -> Result<Box<dyn Attached>>,
    ) -> Result<()> {
        self.unmerged("load another")?;
        if self.entries.contains_key(name) {
            return Err(refused(format!(
                "`{name}` is there already; unload it first"
            )));
        }
        let active = std::mem::take(&mut self.active);
        for other in &active {
            self.entry(other)?.off()?;
        }
        let before = self.store.weights();
        let attached = attach(&self.store).and_then(|attached| {
            let own = attached.adapted().own.iter();
            let own = own.map(|p| Some((p.clone(), before.get(p.name())?.clone())));
            let mut entry = Entry {
                own: own.flatten().collect(),
                attached,
            };
            entry.off()?;
            Ok(entry)
        });
        let put = attached.map(|entry| drop(self.entries.insert(name.into(), entry)));
        let again: Vec<&str> = active.iter().map(String::as_str).collect();
        self.activate(&again).and(put)
    }

    /// Makes these the active ones, none for the base alone. One alone is in the store, and trains; of several the updates are
    /// added up, and none trains.
    ///
    /// # Errors
    /// Unknown names, a merged base, or updates that do not add up: two that bring the same head, one that multiplies the
    /// weight ((IA)³, OFT, Bone) or has its own base (PiSSA) among others.
    pub fn activate(&mut self, names: &[&str]) -> Result<()> {
        self.unmerged("activate others")?;
        let mut heads: Vec<(&str, &str)> = vec![];
        for (i, name) in names.iter().enumerate() {
            let entry = self.known(name)?;
            if names[..i].contains(name) {
                return Err(refused(format!("`{name}` is named twice")));
            }
            if let (Some(why), true) = (entry.alone(), names.len() > 1) {
                return Err(refused(format!(
                    "`{name}` {why}; activate it alone, or merge it first"
                )));
            }
            for (param, _) in &entry.own {
                if let Some((other, _)) = heads.iter().find(|(_, head)| *head == param.name()) {
                    return Err(refused(format!(
                        "`{other}` and `{name}` both bring `{}`",
                        param.name()
                    )));
                }
                heads.push((name, param.name()));
            }
        }
        for name in std::mem::take(&mut self.active) {
            self.entry(&name)?.off()?;
        }
        let store = self.store.clone();
        for name in names {
            self.entry(name)?.on(&store, names.len() == 1)?;
            self.active.push(name.to_string());
        }
        Ok(())
    }

    /// The active ones.
    pub fn active(&self) -> &[String] {
        &self.active
    }

    /// All names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// One at work: its penalty and what it does after a step.
    ///
    /// # Errors
    /// An unknown name.
    pub fn get(&mut self, name: &str) -> Result<&mut dyn Attached> {
        Ok(&mut *self.entry(name)?.attached)
    }

    /// One as PEFT's files hold it.
    ///
    /// # Errors
    /// An unknown name, or an update that the format cannot express.
    pub fn save(&mut self, name: &str) -> Result<Adapter> {
        let active = self.active.iter().any(|a| a == name);
        let entry = self.entry(name)?;
        // Heads are saved out of the model.
        if !active {
            entry.swap_own()?;
        }
        let saved = entry.attached.save();
        if !active {
            entry.swap_own()?;
        }
        saved
    }

    /// A new adapter out of LoRAs times weights, not active yet ([`Combination`]).
    ///
    /// # Errors
    /// Unknown names, a name that is taken, and what [`Adapter::combined`] refuses.
    pub fn combine(&mut self, name: &str, parts: &[(&str, f32)], how: Combination) -> Result<()> {
        let saved = parts
            .iter()
            .map(|(part, weight)| Ok((self.save(part)?, *weight)));
        let saved = saved.collect::<Result<Vec<_>>>()?;
        let parts: Vec<(&Adapter, f32)> = saved.iter().map(|(a, w)| (a, *w)).collect();
        self.load(name, &Adapter::combined(&parts, how)?)
    }

    /// Writes the active updates into the base.
    ///
    /// # Errors
    /// A base that is merged already, or an update that depends on the token; the base is then as it was.
    pub fn merge(&mut self) -> Result<()> {
        self.unmerged("merge again")?;
        self.merged = true;
        let merged = self.sites()?.iter().try_for_each(Site::merge);
        if merged.is_err() {
            self.unmerge()?;
        }
        merged
    }

    /// Brings the base back as it was, bit for bit; the updates act by themselves again.
    ///
    /// # Errors
    /// None but those of the device.
    pub fn unmerge(&mut self) -> Result<()> {
        self.merged = false;
        self.sites()?.iter().try_for_each(Site::unmerge)
    }

    /// Forgets one. An active one is taken off first.
    ///
    /// # Errors
    /// An unknown name, or a merged base.
    pub fn unload(&mut self, name: &str) -> Result<()> {
        self.known(name)?;
        let others: Vec<String> = self.active.iter().filter(|a| *a != name).cloned().collect();
        if others.len() < self.active.len() {
            self.activate(&others.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        self.entries.remove(name);
        Ok(())
    }

    /// Leaves the model with the active updates merged for good, and forgets all adapters.
    ///
    /// # Errors
    /// As [`Adapters::merge`].
    pub fn merge_and_unload(mut self) -> Result<()> {
        if !self.merged {
            self.merge()?;
        }
        self.sites()?.iter().for_each(Site::keep_merged);
        let active = self.active.iter().filter_map(|name| self.entries.get(name));
        let params = active.flat_map(|entry| entry.attached.adapted().params());
        params.for_each(|p| self.store.remove(p.name()));
        Ok(())
    }

    /// The sites of the active ones, each once.
    fn sites(&self) -> Result<Vec<Site>> {
        let mut sites = BTreeMap::new();
        for name in &self.active {
            for place in &self.known(name)?.attached.adapted().places {
                sites.insert(place.site.path().to_string(), place.site.clone());
            }
        }
        Ok(sites.into_values().collect())
    }

    fn unmerged(&self, what: &str) -> Result<()> {
        match self.merged {
            true => Err(refused(format!("the base is merged; unmerge it to {what}"))),
            false => Ok(()),
        }
    }

    fn known(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| self.unknown(name))
    }

    fn entry(&mut self, name: &str) -> Result<&mut Entry> {
        if !self.entries.contains_key(name) {
            return Err(self.unknown(name));
        }
        self.entries
            .get_mut(name)
            .ok_or_else(|| refused(format!("no `{name}`")))
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<&str> = self.names().collect();
        refused(format!("no `{name}` among {names:?}"))
    }
}
