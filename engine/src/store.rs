//! The store: every parameter of a model and every site a method may adapt, by path. Loading, saving, freezing,
//! grouping, counting and injection are walks over it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::device::{Device, Distribution};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::param::Param;
use crate::pool::{Tag, tagged};
use crate::random::{Purpose, RandomKey};
use crate::site::Site;
use crate::source::{Source, held};
use crate::tensor::Tensor;
use crate::weights::Weights;

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All this value.
    Constant(f64),
    /// N(0, std²).
    Normal(f64),
    /// U(−bound, bound).
    Uniform(f64),
    /// U(±√(6 / ((1 + a²)·fan_in))), fan_in = elements per row (He et al. 2015); a = √5 gives U(±1/√fan_in).
    KaimingUniform(f64),
    /// U(±√(6 / (fan_in + fan_out))) (Glorot & Bengio 2010).
    XavierUniform,
}

impl Init {
    /// All 0.
    pub const ZEROS: Init = Init::Constant(0.0);
    /// All 1.
    pub const ONES: Init = Init::Constant(1.0);

    /// A tensor with these values; element `i` is number `i` of the stream `key`.
    pub fn tensor(self, shape: &[usize], key: RandomKey, device: &Device) -> Result<Tensor> {
        let fan_in = shape.iter().skip(1).product::<usize>().max(1) as f64;
        let fan_out = shape.first().copied().unwrap_or(1) as f64
            * shape.iter().skip(2).product::<usize>() as f64;
        let uniform = |bound: f64| {
            Tensor::random(shape, Distribution::Uniform, key, device)?.affine(2.0 * bound, -bound)
        };
        match self {
            Init::Constant(value) => Tensor::full(shape, value, DType::F32, device),
            Init::Normal(std) => {
                Tensor::random(shape, Distribution::Normal, key, device)?.affine(std, 0.0)
            }
            Init::Uniform(bound) => uniform(bound),
            Init::KaimingUniform(a) => uniform((6.0 / ((1.0 + a * a) * fan_in)).sqrt()),
            Init::XavierUniform => uniform((6.0 / (fan_in + fan_out)).sqrt()),
        }
    }
}

/// Parameters and sites by path. Cloning shares them.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    device: Device,
    seed: u64,
    given: Option<Given>,
    tables: Mutex<Tables>,
}

/// Where the values of parameters are taken from, and which are drawn nevertheless.
struct Given {
    source: Arc<dyn Source>,
    drawn: Vec<String>,
    settled: AtomicBool,
}

#[derive(Default)]
struct Tables {
    params: BTreeMap<String, Param>,
    sites: BTreeMap<String, Site>,
}

impl Store {
    /// An empty store; initial values come from `seed` and each parameter's path.
    pub fn new(device: &Device, seed: u64) -> Self {
        Store(Arc::new(Inner {
            device: device.clone(),
            seed,
            given: None,
            tables: Mutex::default(),
        }))
    }

    /// An empty store whose parameters take their values from a source as they are made, so that no other value is held
    /// meanwhile; those whose name starts with one of `drawn` come from `seed`, and so does, after [`Store::settle`], what the
    /// source lacks. Matrices of bf16 and f16 stay in their type,
    /// everything else is f32.
    pub fn from_source(
        device: &Device,
        seed: u64,
        source: Arc<dyn Source>,
        drawn: &[&str],
    ) -> Self {
        let drawn = drawn.iter().map(|d| d.to_string()).collect();
        Store(Arc::new(Inner {
            device: device.clone(),
            seed,
            given: Some(Given {
                source,
                drawn,
                settled: AtomicBool::new(false),
            }),
            tables: Mutex::default(),
        }))
    }

    /// From now on, what the source lacks is drawn: a model's own parameters are complete, and what follows are new heads and
    /// updates.
    pub fn settle(&self) {
        if let Some(given) = &self.0.given {
            given.settled.store(true, Relaxed);
        }
    }

    /// A value from the source; None where there is no source, or the name is one of those to be drawn.
    ///
    /// # Errors
    /// A value that is missing, of another shape, or no numbers.
    fn given(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let Some(Given {
            source,
            drawn,
            settled,
        }) = &self.0.given
        else {
            return Ok(None);
        };
        if drawn.iter().any(|prefix| name.starts_with(prefix.as_str())) {
            return Ok(None);
        }
        let Some((dtype, found)) = source.describe(name) else {
            if settled.load(Relaxed) {
                return Ok(None);
            }
            let names = source.names();
            let near = nearest(name, names.iter());
            let near = near.map_or(String::new(), |n| format!("; nearest: `{n}`"));
            let detail = format!("missing, of shape {shape:?}{near}");
            return Err(source.error(name, &detail));
        };
        if found != shape {
            let detail = format!("has shape {found:?}, but the model wants {shape:?}");
            return Err(source.error(name, &detail));
        }
        let held = held(dtype, shape.len()).ok_or_else(|| {
            source.error(
                name,
                &format!("is {dtype}, but the model wants numbers (f32, bf16, f16)"),
            )
        })?;
        source.read(name, held, self.device()).map(Some)
    }

    /// Names of the source that no parameter has taken.
    pub fn unused(&self) -> Vec<String> {
        let Some(given) = &self.0.given else {
            return vec![];
        };
        let tables = self.tables();
        let mut names = given.source.names();
        names.retain(|n| !tables.params.contains_key(n));
        names
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.tables.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The seed of initial values.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The top of the tree.
    pub fn root(&self) -> Path {
        Path {
            store: self.clone(),
            prefix: String::new(),
        }
    }

    /// The path `name` below the top.
    pub fn at(&self, name: &str) -> Path {
        self.root().at(name)
    }

    /// Makes a parameter.
    ///
    /// # Errors
    /// The name is taken.
    pub fn add(&self, name: &str, value: Tensor) -> Result<Param> {
        let mut tables = self.tables();
        if tables.params.contains_key(name) {
            return Err(Error::Param {
                name: name.into(),
                detail: "exists already; two layers share a path".into(),
            });
        }
        let param = Param::new(name, value);
        tables.params.insert(name.into(), param.clone());
        Ok(param)
    }

    /// Puts a parameter that was made elsewhere, or removed, under its own name.
    ///
    /// # Errors
    /// The name is taken.
    pub fn insert(&self, param: &Param) -> Result<()> {
        let mut tables = self.tables();
        if tables.params.contains_key(param.name()) {
            return Err(Error::Param {
                name: param.name().into(),
                detail: "exists already; remove the other first".into(),
            });
        }
        tables.params.insert(param.name().into(), param.clone());
        Ok(())
    }

    /// Removes parameters and sites whose path starts with `prefix`.
    pub fn remove(&self, prefix: &str) {
        let mut tables = self.tables();
        tables.params.retain(|name, _| !name.starts_with(prefix));
        tables.sites.retain(|name, _| !name.starts_with(prefix));
    }

    /// The parameter of that name.
    ///
    /// # Errors
    /// There is none; names the nearest.
    pub fn get(&self, name: &str) -> Result<Param> {
        let tables = self.tables();
        tables.params.get(name).cloned().ok_or_else(|| {
            let near = nearest(name, tables.params.keys());
            Error::Param {
                name: name.into(),
                detail: near.map_or("not found; the store is empty".into(), |n| {
                    format!("not found; nearest: `{n}`")
                }),
            }
        })
    }

    /// All parameters in the order of their names.
    pub fn params(&self) -> Vec<Param> {
        self.tables().params.values().cloned().collect()
    }

    /// The trained ones.
    pub fn trained(&self) -> Vec<Param> {
        self.params()
            .into_iter()
            .filter(Param::is_trained)
            .collect()
    }

    /// Trains exactly the parameters for which `choose` says so.
    pub fn train_only(&self, choose: impl Fn(&str) -> bool) {
        for p in self.params() {
            p.set_trained(choose(p.name()));
        }
    }

    /// Holds the parameters that `choose` names in another element type from now on.
    ///
    /// # Errors
    /// None but those of the device.
    pub fn convert(&self, dtype: DType, choose: impl Fn(&str) -> bool) -> Result<()> {
        let params = self.params();
        params
            .iter()
            .filter(|p| choose(p.name()))
            .try_for_each(|p| p.convert(dtype))
    }

    /// Number of trained elements.
    pub fn count_trained(&self) -> usize {
        self.trained().iter().map(Param::len).sum()
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.params().iter().map(Param::len).sum()
    }

    /// Makes a site known to methods.
    pub fn add_site(&self, site: Site) {
        self.tables().sites.insert(site.path().into(), site);
    }

    /// All sites in the order of their paths.
    pub fn sites(&self) -> Vec<Site> {
        self.tables().sites.values().cloned().collect()
    }

    /// The values now, sharing storage until a parameter changes.
    pub fn weights(&self) -> Weights {
        Weights::new(
            self.params()
                .iter()
                .map(|p| (p.name().to_string(), p.value())),
        )
    }

    /// Puts values in place by name.
    ///
    /// # Errors
    /// A parameter chosen by `wanted` without a value, or a value of another shape. Values without a parameter are returned.
    pub fn load(&self, weights: &Weights, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let params = self.params();
        for p in params.iter().filter(|p| wanted(p.name())) {
            let value = weights.get(p.name()).ok_or_else(|| {
                let near = nearest(p.name(), weights.names());
                Error::Param {
                    name: p.name().into(),
                    detail: near.map_or("no values given".into(), |n| {
                        format!("no value given; nearest: `{n}`")
                    }),
                }
            })?;
            let value = value
                .converted(p.value().dtype())?
                .to_device(self.device())?;
            p.set(value)?;
        }
        let known = |n: &str| params.iter().any(|p| p.name() == n && wanted(n));
        Ok(weights.names().filter(|n| !known(n)).cloned().collect())
    }
}

/// The name that shares the longest tail, then the longest head.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let tail = |n: &str| {
        n.bytes()
            .rev()
            .zip(name.bytes().rev())
            .take_while(|(a, b)| a == b)
            .count()
    };
    let head = |n: &str| {
        n.bytes()
            .zip(name.bytes())
            .take_while(|(a, b)| a == b)
            .count()
    };
    names.max_by_key(|n| (tail(n), head(n)))
}

/// A place in the tree, from which layers make their parameters.
#[derive(Clone)]
pub struct Path {
    store: Store,
    prefix: String,
}

impl Path {
    /// The path `name` below this one.
    pub fn at(&self, name: impl std::fmt::Display) -> Path {
        Path {
            store: self.store.clone(),
            prefix: self.name(name),
        }
    }

    /// Full name of `leaf` here.
    pub fn name(&self, leaf: impl std::fmt::Display) -> String {
        if self.prefix.is_empty() {
            leaf.to_string()
        } else {
            format!("{}.{leaf}", self.prefix)
        }
    }

    /// This path.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.store.device()
    }

    /// Makes the parameter `leaf`, with its value from the store's source or else as `init` says.
    ///
    /// # Errors
    /// The name is taken; a source that lacks the value or has it in another shape.
    pub fn param(&self, leaf: &str, shape: &[usize], init: Init) -> Result<Param> {
        let name = self.name(leaf);
        let value = tagged(Tag::Weights, || match self.store.given(&name, shape)? {
            Some(value) => Ok(value),
            None => {
                let key = RandomKey::new(self.store.seed(), Purpose::Init, &name);
                init.tensor(shape, key, self.device())
            }
        })?;
        self.store.add(&name, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Store {
        let store = Store::new(&Device::cpu(), 5);
        let block = store.at("h").at(0);
        block
            .at("attn")
            .param("weight", &[4, 6], Init::Normal(0.02))
            .unwrap();
        block.param("bias", &[4], Init::ZEROS).unwrap();
        store
            .at("head")
            .param("weight", &[2, 4], Init::XavierUniform)
            .unwrap();
        store
    }

    #[test]
    fn one_walk_counts_freezes_and_finds() {
        let store = filled();
        let names: Vec<String> = store
            .params()
            .iter()
            .map(|p| p.name().to_string())
            .collect();
        assert_eq!(names, ["h.0.attn.weight", "h.0.bias", "head.weight"]);
        assert_eq!((store.count(), store.count_trained()), (36, 36));
        store.train_only(|name| name.ends_with("bias"));
        assert_eq!((store.trained().len(), store.count_trained()), (1, 4));
        let message = store.get("attn.weight").unwrap_err().to_string();
        assert_eq!(
            message,
            "parameter `attn.weight`: not found; nearest: `h.0.attn.weight`"
        );
        let twice = store.at("head").param("weight", &[1], Init::ONES);
        assert!(
            twice
                .unwrap_err()
                .to_string()
                .contains("two layers share a path")
        );
        store.remove("h.0");
        assert_eq!(store.params().len(), 1);
    }

    #[test]
    fn initial_values_depend_on_seed_and_path_alone() {
        let (a, b) = (filled(), filled());
        let values = |s: &Store, n: &str| s.get(n).unwrap().value().to_vec::<f32>().unwrap();
        assert_eq!(values(&a, "head.weight"), values(&b, "head.weight"));
        // Whatever else is there, and in whichever order it was made.
        let alone = Store::new(&Device::cpu(), 5);
        alone
            .at("head")
            .param("weight", &[2, 4], Init::XavierUniform)
            .unwrap();
        assert_eq!(values(&a, "head.weight"), values(&alone, "head.weight"));
        let bound = (6.0f32 / 6.0).sqrt();
        assert!(values(&a, "head.weight").iter().all(|x| x.abs() <= bound));
        assert_eq!(values(&a, "h.0.bias"), [0.0; 4]);
    }

    #[test]
    fn weights_are_a_snapshot_that_loads_back() {
        let store = filled();
        let before = store.weights();
        let bias = store.get("h.0.bias").unwrap();
        bias.set(Tensor::from([1.0, 2.0, 3.0, 4.0])).unwrap();
        assert_eq!(
            before.get("h.0.bias").unwrap().to_vec::<f32>().unwrap(),
            [0.0; 4]
        );
        let mut more = before.clone();
        more.insert("pooler.weight", Tensor::from([1.0]));
        let unknown = store.load(&more, |_| true).unwrap();
        assert_eq!(unknown, ["pooler.weight"]);
        assert_eq!(bias.value().to_vec::<f32>().unwrap(), [0.0; 4]);
        let wrong = Weights::new([("h.0.bias".to_string(), Tensor::from([1.0]))]);
        let message = store
            .load(&wrong, |n| n == "h.0.bias")
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "parameter `h.0.bias`: holds [4] f32, given [1] f32"
        );
    }
}
