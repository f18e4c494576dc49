//! `config.json`: what a checkpoint says about its model, asked for by name so that what is missing, absurd or not supported
//! is refused by name.

use std::path::Path;

use deltaw_engine::prelude::*;
use serde_json::{Map, Value};

use crate::transformer::Activation;

/// Larger than any configuration there is; what is longer is not read.
const LARGEST: u64 = 1 << 24;
/// No count or width of a model is larger.
const MOST: u64 = 1 << 31;

/// The fields of a `config.json`.
#[derive(Debug, Clone)]
pub struct Config {
    path: String,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, of absurd size, or that is no JSON object.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let failed = |detail: String| Error::Checkpoint {
            path: name.clone(),
            detail,
        };
        let unreadable = |e: std::io::Error| failed(format!("cannot be read: {e}"));
        let about = std::fs::metadata(path).map_err(unreadable)?;
        if !about.is_file() || about.len() > LARGEST {
            return Err(failed(format!("no file of at most {LARGEST} bytes")));
        }
        Self::parse(&name, &std::fs::read(path).map_err(unreadable)?)
    }

    /// From a file's text; `path` names it in errors.
    ///
    /// # Errors
    /// Text that is no JSON object.
    pub fn parse(path: &str, text: &[u8]) -> Result<Self> {
        let fields = serde_json::from_slice(text).map_err(|e| Error::Checkpoint {
            path: path.into(),
            detail: format!("no model's configuration: {e}"),
        })?;
        Ok(Config {
            path: path.into(),
            fields,
        })
    }

    /// An error about a field.
    pub fn refuse(&self, field: &str, detail: impl std::fmt::Display) -> Error {
        Error::Checkpoint {
            path: self.path.clone(),
            detail: format!("`{field}` {detail}"),
        }
    }

    /// A field; None where it is absent or null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|v| !v.is_null())
    }

    /// The first of the names that has a value, with it.
    fn first<'a>(&self, names: &[&'a str]) -> Option<(&'a str, &Value)> {
        names.iter().find_map(|n| Some((*n, self.get(n)?)))
    }

    fn missing(&self, names: &[&str]) -> Error {
        self.refuse(&names.join("` or `"), "is missing")
    }

    /// A count or width under one of several names, if it is there.
    ///
    /// # Errors
    /// No whole number, or an absurd one.
    pub fn size_if(&self, names: &[&str]) -> Result<Option<usize>> {
        let Some((name, value)) = self.first(names) else {
            return Ok(None);
        };
        match value.as_u64().filter(|n| *n <= MOST) {
            Some(n) => Ok(Some(n as usize)),
            None => Err(self.refuse(
                name,
                format!("is {value}; wanted a whole number up to {MOST}"),
            )),
        }
    }

    /// A count or width under one of several names.
    ///
    /// # Errors
    /// It is missing, no whole number, or absurd.
    pub fn size(&self, names: &[&str]) -> Result<usize> {
        self.size_if(names)?.ok_or_else(|| self.missing(names))
    }

    /// A number, if it is there.
    ///
    /// # Errors
    /// It is no number.
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        let number = |v: &Value| {
            v.as_f64()
                .ok_or_else(|| self.refuse(name, format!("is {v}; wanted a number")))
        };
        self.get(name).map(number).transpose()
    }

    /// A probability, 0 where it is not there.
    ///
    /// # Errors
    /// A number outside [0, 1).
    pub fn probability(&self, name: &str) -> Result<f32> {
        let p = self.number(name)?.unwrap_or(0.0);
        if (0.0..1.0).contains(&p) {
            return Ok(p as f32);
        }
        Err(self.refuse(name, format!("is {p}; wanted at least 0 and less than 1")))
    }

    /// A yes or no.
    ///
    /// # Errors
    /// It is neither true nor false.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.refuse(name, format!("is {other}; wanted true or false"))),
        }
    }

    /// A text, if it is there.
    ///
    /// # Errors
    /// It is no text.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.refuse(name, format!("is {other}; wanted a text"))),
        }
    }

    /// The activation under one of several names.
    ///
    /// # Errors
    /// It is missing, or one that is not known here.
    pub fn activation(&self, names: &[&str]) -> Result<Activation> {
        let (name, value) = self.first(names).ok_or_else(|| self.missing(names))?;
        serde_json::from_value(value.clone())
            .map_err(|e| self.refuse(name, format!("is {value}, which is not supported: {e}")))
    }

    /// Refuses a variant that models here do not have: the field must be absent or have this value.
    ///
    /// # Errors
    /// Another value.
    pub fn only(&self, name: &str, supported: impl Into<Value>) -> Result<()> {
        let supported = supported.into();
        match self.get(name) {
            Some(other) if *other != supported => {
                Err(self.refuse(name, format!("is {other}; only {supported} is supported")))
            }
            _ => Ok(()),
        }
    }

    /// An object within, as a configuration of its own whose errors name both: a tower of CLIP, rotary parameters.
    ///
    /// # Errors
    /// It is no object.
    pub fn within(&self, name: &str) -> Result<Option<Config>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Config {
                path: format!("{}: {name}", self.path),
                fields: fields.clone(),
            })),
            Some(other) => Err(self.refuse(name, format!("is {other}; wanted an object"))),
        }
    }

    /// Names of the classes by number, as `id2label` or `num_labels` has them; None where neither is there.
    ///
    /// # Errors
    /// Labels that are no texts numbered 0, 1, ….
    pub fn labels(&self) -> Result<Option<Vec<String>>> {
        let Some(labels) = self.get("id2label") else {
            let count = self.size_if(&["num_labels"])?;
            return Ok(count.map(|n| (0..n.min(1 << 16)).map(|i| format!("LABEL_{i}")).collect()));
        };
        let label = |i: usize| Some(labels.get(i.to_string())?.as_str()?.to_string());
        let count = labels.as_object().map_or(0, Map::len);
        let all: Option<Vec<String>> = (0..count).map(label).collect();
        all.map(Some).ok_or_else(|| {
            self.refuse(
                "id2label",
                "is no list of texts by number, {\"0\": …, \"1\": …}",
            )
        })
    }
}

impl std::fmt::Display for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Value::Object(self.fields.clone()).fmt(f)
    }
}
