//! Methods that train some of the base's own parameters and add none.

use deltaw_engine::prelude::*;
use serde_json::json;

use super::{Adapted, Attached, Method};

/// Every parameter trains.
pub struct Full;

/// Only the head trains.
pub struct LinearProbe;

/// Only biases and the head train (Ben Zaken et al. 2022).
pub struct BitFit;

/// Only tailors of weights in [`crate::components`] train, as KIND is taken to new classes (Xie et al. 2024).
pub struct Tailors;

fn choose(
    store: &Store,
    heads: &[&str],
    kind: &str,
    base: impl Fn(&str) -> bool,
) -> Box<dyn Attached> {
    let settings = json!({ "peft_type": kind });
    Box::new(Adapted::choosing(store, heads, settings, base))
}

impl Method for Full {
    fn name(&self) -> String {
        "full".into()
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        Ok(choose(store, heads, "FULL", |_| true))
    }
}

impl Method for LinearProbe {
    fn name(&self) -> String {
        "linear probe".into()
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        Ok(choose(store, heads, "LINEAR_PROBE", |_| false))
    }
}

impl Method for Tailors {
    fn name(&self) -> String {
        "tailors".into()
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        Ok(choose(store, heads, "TAILORS", |name| {
            name.contains(".tailors.")
        }))
    }
}

impl Method for BitFit {
    fn name(&self) -> String {
        "bitfit".into()
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        Ok(choose(store, heads, "BITFIT", |name| {
            name.ends_with(".bias")
        }))
    }
}
