//! Adapters of PEFT with inputs and what PEFT computes; `tests/fixtures/make_fixtures.py` and `make_peft.py` made the files,
//! in f64.

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;
use deltaw_models::decoder::Decoder;
use deltaw_models::methods::{Adapter, Attached};
use serde_json::{Map, Value};

use crate::small::{Bert, close, gpt2};

/// A base, an adapter, inputs and results.
pub struct Fixture {
    /// Everything in the file.
    pub weights: Weights,
    /// What the reference itself rounds to f32 beside its numbers: how many units of the largest result.
    pub inner: usize,
    metadata: Map<String, Value>,
}

/// Those whose name starts with `prefix`, without it.
pub fn below(weights: &Weights, prefix: &str) -> Weights {
    let inside = weights
        .iter()
        .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone())));
    Weights::new(inside)
}

impl Fixture {
    /// The file of that name in `tests/fixtures`.
    ///
    /// # Panics
    /// It is not there.
    pub fn open(name: &str) -> Self {
        let path = format!("{}/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let metadata = header["__metadata__"].as_object().cloned();
        Fixture {
            weights: checkpoint::from_file_bytes(&path, &bytes).unwrap(),
            inner: 0,
            metadata: metadata.unwrap_or_default(),
        }
    }

    /// The adapter whose settings the metadata holds under `key`, and whose tensors lie below `prefix`.
    ///
    /// # Panics
    /// There is none.
    pub fn adapter_of(&self, key: &str, prefix: &str) -> Adapter {
        let config = serde_json::from_str(self.metadata[key].as_str().unwrap()).unwrap();
        Adapter::new(config, below(&self.weights, prefix))
    }

    /// The fixture's adapter.
    pub fn adapter(&self) -> Adapter {
        self.adapter_of("adapter_config", "adapter.")
    }

    /// A tensor of the file.
    ///
    /// # Panics
    /// There is none.
    pub fn floats(&self, name: &str, device: &Device) -> Tensor {
        self.weights.get(name).unwrap().to_device(device).unwrap()
    }

    /// Token ids and classes, which the file holds as f32.
    ///
    /// # Panics
    /// There are none.
    pub fn integers(&self, name: &str, device: &Device) -> Tensor {
        let tensor = self.weights.get(name).unwrap();
        let values: Vec<u32> = tensor
            .to_vec::<f32>()
            .unwrap()
            .iter()
            .map(|x| *x as u32)
            .collect();
        Tensor::from_slice(&values, tensor.shape(), device).unwrap()
    }

    /// On the oracle only the file's numbers (half a unit of f32) and the update's scale (another half of ΔW, which what
    /// follows may enlarge) are rounded: 2 units. On the CPU every rounding of the longest chain: `chain` units.
    ///
    /// # Panics
    /// They differ by more.
    pub fn compare(&self, name: &str, got: &Tensor, chain: usize) -> f64 {
        let want = self.weights.get(name).unwrap().to_vec::<f64>().unwrap();
        let units = match got.device().is_cpu() {
            true => chain,
            false => 2 + self.inner,
        };
        close(name, &got.to_vec::<f64>().unwrap(), &want, units as f64)
    }

    /// The small BERT with the base of another fixture, under this prefix.
    ///
    /// # Panics
    /// Weights that do not fit.
    pub fn bert(base: &str, prefix: &str, device: &Device) -> Bert {
        let bert = Bert::new(device);
        let weights = below(&Fixture::open(base).weights, prefix);
        bert.store.load(&weights, |_| true).unwrap();
        bert
    }

    /// What BERT computes for the fixture's inputs.
    ///
    /// # Panics
    /// Inputs that do not fit.
    pub fn bert_logits(&self, bert: &Bert) -> Tensor {
        let device = bert.store.device();
        let ctx = Context::eval().with_mask(self.floats("input.attention_mask", device));
        let ids = self.integers("input.input_ids", device);
        bert.logits(&ctx, &ids).unwrap()
    }

    /// The small GPT-2 with the base of the fixture `gpt2`.
    ///
    /// # Panics
    /// Weights that do not fit.
    pub fn gpt2(device: &Device) -> (Store, Decoder) {
        let (store, decoder) = gpt2(device);
        store
            .load(&Fixture::open("gpt2").weights, |_| true)
            .unwrap();
        (store, decoder)
    }

    /// What GPT-2 computes for the fixture's inputs.
    ///
    /// # Panics
    /// Inputs that do not fit.
    pub fn gpt2_logits(&self, store: &Store, decoder: &Decoder) -> Tensor {
        let device = store.device();
        let ctx = Context::eval().with_mask(self.floats("input.attention_mask", device));
        let ids = self.integers("input.input_ids", device);
        decoder.forward(&ctx, &ids).unwrap()
    }
}

/// Settings that PEFT writes and that change nothing about a saved adapter: how a basis was drawn, when it is written, too.
const INERT: [&str; 15] = [
    "auto_mapping",
    "d_initial",
    "eps",
    "init_ia3_weights",
    "init_lora_weights",
    "inference_mode",
    "init_weights",
    "megatron_core",
    "mini_r",
    "peft_version",
    "qalora_group_size",
    "r",
    "save_projection",
    "sparse",
    "very_sparse",
];
/// Settings that name modules, which we write one by one.
const NAMING: [&str; 9] = [
    "alpha_pattern",
    "exclude_modules",
    "feedforward_modules",
    "layers_pattern",
    "layers_to_transform",
    "modules_to_save",
    "rank_pattern",
    "target_modules",
    "task_type",
];

/// What was loaded and saved again is what PEFT's own files say: the same tensors to the bit under the same names (but the
/// copies below modules that `copies` names), and every setting that acts.
///
/// # Panics
/// They differ.
pub fn saved_as_it_came(name: &str, attached: &dyn Attached, theirs: &Adapter, copies: &[&str]) {
    let ours = attached.save().unwrap();
    let copy = |key: &str| copies.iter().any(|c| key.contains(c));
    for (key, tensor) in theirs.weights.iter().filter(|(key, _)| !copy(key)) {
        let own = ours.weights.get(key);
        let own = own.unwrap_or_else(|| panic!("{name}: {key} was not saved"));
        assert_eq!(own.shape(), tensor.shape(), "{name}: {key}");
        let bits = |t: &Tensor| t.to_vec::<f64>().unwrap();
        assert!(bits(own) == bits(tensor), "{name}: {key} differs");
    }
    // Where PEFT keeps a seed alone, we write the matrices that it names too.
    let shared =
        ["vera_A", "vera_B", "randlora_A", "randlora_B"].map(|m| format!("base_model.{m}"));
    let foreign = |key: &&String| theirs.weights.get(key).is_none() && !shared.contains(key);
    let extra = ours.weights.names().find(foreign);
    assert_eq!(extra, None, "{name}: a tensor that PEFT has not");

    let off = |v: &Value| match v {
        Value::Null | Value::Bool(false) => true,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::String(s) => s == "none",
        Value::Bool(true) => false,
    };
    for (key, theirs) in &theirs.config {
        match ours.config.get(key) {
            _ if NAMING.contains(&key.as_str()) => {}
            Some(own) => {
                let same =
                    own == theirs || own.as_f64().is_some() && own.as_f64() == theirs.as_f64();
                let written = INERT.contains(&key.as_str()) || (off(own) && off(theirs));
                assert!(same || written, "{name}: `{key}` is {own}, PEFT's {theirs}");
            }
            None => assert!(
                off(theirs) || INERT.contains(&key.as_str()),
                "{name}: `{key}` = {theirs} was lost"
            ),
        }
    }
    let foreign = ours
        .config
        .keys()
        .find(|key| !theirs.config.contains_key(*key));
    assert_eq!(foreign, None, "{name}: a setting that PEFT has not");
}
