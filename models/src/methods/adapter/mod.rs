//! Adapters in PEFT's files: `adapter_config.json` with the method's settings, `adapter_model.safetensors` with its tensors
//! under `base_model.model.<module>.<key>`. A method that PEFT has not is written in the same style, under a `peft_type` of
//! its own: SNELL, SPT, SVDIFF, TRIADAPTLORA, RANDLORA_PHILOX, and FULL, LINEAR_PROBE, BITFIT and TAILORS, which have no tensors but the model's.

use std::path::Path;

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;
use serde_json::{Map, Value};

use super::Attached;

mod layout;
mod settings;

/// What PEFT puts before every name.
pub(super) const PREFIX: &str = "base_model.model.";
const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
/// Settings beside the method's that are written again with it.
const ORIGIN: [&str; 9] = [
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "inference_mode",
    "revision",
    "task_type",
    // AdaLoRA's schedule in steps, until it trains again.
    "tfinal",
    "tinit",
    "total_step",
];

/// The shortest decimal of a number: 0.85, not what its 24 bits are.
pub(super) fn decimal(x: f32) -> Value {
    x.to_string().parse::<f64>().unwrap_or(f64::from(x)).into()
}

/// A saved update.
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    /// `adapter_config.json`.
    pub config: Map<String, Value>,
    /// `adapter_model.safetensors`.
    pub weights: Weights,
    /// Where it was read, with a separator at its end; empty if it was not.
    folder: String,
}

impl Adapter {
    /// From settings and tensors.
    pub fn new(config: Map<String, Value>, weights: Weights) -> Self {
        Adapter {
            config,
            weights,
            folder: String::new(),
        }
    }

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
            folder: folder.join("").display().to_string(),
        })
    }

    /// Attaches the method that the configuration describes to a model, with these values. `modules_to_save` and the biases of
    /// the configuration train beside `heads`. A model that is refused is left as it was.
    ///
    /// # Errors
    /// A method or a setting that is not here, or a model without the adapter's modules or with others' shapes.
    pub fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let method = self.method(store)?;
        let named = self.own_names(store)?;
        for name in &named {
            self.own(name)
                .ok_or_else(|| self.bad_tensors(format!("no tensor `{PREFIX}{name}`")))?;
        }
        let all: Vec<&str> = heads
            .iter()
            .copied()
            .chain(named.iter().map(String::as_str))
            .collect();
        let before = Before::of(store);
        let attached = method.attach(store, &all).map_err(|e| self.in_config(e));
        let attached = attached.and_then(|mut attached| {
            let mut origin = self.config.clone();
            origin.retain(|key, value| ORIGIN.contains(&key.as_str()) && !value.is_null());
            // Nobody else can have set it: the method has just made it.
            let _ = attached.adapted().origin.set(origin);
            let loaded = attached.load(self).map_err(|error| match error {
                Error::Checkpoint { .. } => error,
                other => self.bad_tensors(other.to_string()),
            });
            if loaded.is_err() {
                attached.detach()?;
            }
            loaded.map(|()| attached)
        });
        if attached.is_err() {
            before.restore(store)?;
        }
        attached
    }

    /// The model's own parameters that the adapter brings: `modules_to_save`, and biases.
    fn own_names(&self, store: &Store) -> Result<Vec<String>> {
        let saved: Vec<String> = self.strings("modules_to_save")?;
        let bias = self
            .config
            .get("bias")
            .and_then(Value::as_str)
            .unwrap_or("none");
        let chosen = |name: &str| {
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            // As in PEFT, the last letters of the module's own name or of one above it.
            let mut above = module
                .match_indices('.')
                .map(|(i, _)| &module[..i])
                .chain([module]);
            above.any(|m| saved.iter().any(|s| m.ends_with(s.as_str())))
        };
        let biased = match bias {
            "none" => vec![],
            "all" => store
                .params()
                .iter()
                .map(|p| p.name().to_string())
                .collect(),
            only if only.ends_with("_only") => {
                let sites = self.targets(store)?;
                let biases = sites
                    .iter()
                    .filter_map(|s| Some(s.bias()?.name().to_string()));
                biases.collect()
            }
            other => {
                return Err(self.bad_config(format!(
                    "bias is \"{other}\"; none, all and …_only are read"
                )));
            }
        };
        let names = store.params().into_iter().map(|p| p.name().to_string());
        Ok(names
            .filter(|n| chosen(n) || (n.ends_with(".bias") && biased.contains(n)))
            .collect())
    }

    /// The value of one of the model's own parameters. Biases of adapted modules lie one level deeper.
    fn own(&self, name: &str) -> Option<(String, &Tensor)> {
        let deeper = name
            .rsplit_once('.')
            .map(|(module, leaf)| format!("{PREFIX}{module}.base_layer.{leaf}"));
        let keys = [Some(format!("{PREFIX}{name}")), deeper];
        keys.into_iter()
            .flatten()
            .find_map(|key| Some((key.clone(), self.weights.get(&key)?)))
    }

    /// An error in the settings.
    pub(super) fn bad_config(&self, detail: impl Into<String>) -> Error {
        Error::Checkpoint {
            path: format!("{}{CONFIG}", self.folder),
            detail: detail.into(),
        }
    }

    /// An error in the tensors.
    pub(super) fn bad_tensors(&self, detail: impl Into<String>) -> Error {
        Error::Checkpoint {
            path: format!("{}{TENSORS}", self.folder),
            detail: detail.into(),
        }
    }

    /// The same error with the file's name before it.
    fn in_config(&self, error: Error) -> Error {
        match error {
            Error::Checkpoint { .. } => error,
            other => self.bad_config(other.to_string()),
        }
    }
}

/// A model before an adapter is tried on it.
struct Before {
    weights: Weights,
    trained: Vec<Param>,
    plain: Vec<Site>,
}

impl Before {
    fn of(store: &Store) -> Self {
        let mut plain = store.sites();
        plain.retain(|site| !site.is_adapted());
        Before {
            weights: store.weights(),
            trained: store.trained(),
            plain,
        }
    }

    fn restore(&self, store: &Store) -> Result<()> {
        self.plain.iter().try_for_each(Site::detach)?;
        for param in store.params() {
            match self.weights.get(param.name()) {
                Some(value) => param.set(value.clone())?,
                None => store.remove(param.name()),
            }
        }
        store.train_only(|name| self.trained.iter().any(|p| p.name() == name));
        Ok(())
    }
}
