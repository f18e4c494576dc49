//! Methods that train some of the base's own parameters and add none.

use deltaw_engine::prelude::*;

use super::{Attached, Method, is_head};

/// Every parameter trains.
pub struct Full;

/// Only the head trains.
pub struct LinearProbe;

/// Only biases and the head train (Ben Zaken et al. 2022).
pub struct BitFit;

struct Chosen {
    count: usize,
}

impl Attached for Chosen {
    fn parameters(&self) -> usize {
        self.count
    }
}

fn choose(store: &Store, heads: &[&str], base: impl Fn(&str) -> bool) -> Box<dyn Attached> {
    store.train_only(|name| is_head(name, heads) || base(name));
    let count = store
        .trained()
        .iter()
        .filter(|p| !is_head(p.name(), heads))
        .map(Param::len)
        .sum();
    Box::new(Chosen { count })
}

impl Method for Full {
    fn name(&self) -> String {
        "full".into()
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        Ok(choose(store, heads, |_| true))
    }
}

impl Method for LinearProbe {
    fn name(&self) -> String {
        "linear probe".into()
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        Ok(choose(store, heads, |_| false))
    }
}

impl Method for BitFit {
    fn name(&self) -> String {
        "bitfit".into()
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        Ok(choose(store, heads, |name| name.ends_with(".bias")))
    }
}
