//! Models of other libraries with inputs and what they compute; `tests/fixtures/make_fixtures.py` made the files.

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;
use deltaw_models::hub::Folder;

/// A fixture on a device.
pub struct Fixture {
    /// Where it is computed.
    pub device: Device,
    /// Weights, inputs and what is wanted.
    pub weights: Weights,
    /// The model's `config.json`.
    pub config: String,
    /// What the reference itself rounds to f32: how many times.
    pub inner: usize,
}

impl Fixture {
    /// The file of that name in `tests/fixtures`.
    pub fn open(name: &str, device: &Device) -> Self {
        let path = format!("{}/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let config = header["__metadata__"]["config"]
            .as_str()
            .unwrap()
            .to_string();
        Fixture {
            device: device.clone(),
            weights: checkpoint::from_file_bytes(&path, &bytes).unwrap(),
            config,
            inner: 0,
        }
    }

    /// A checkpoint's folder with the model's files as Hugging Face's libraries write them.
    pub fn folder(&self) -> (tempfile::TempDir, Folder) {
        let folder = tempfile::tempdir().unwrap();
        let weights = self.weights.iter();
        let weights = weights.filter(|(n, _)| !n.starts_with("input.") && !n.starts_with("want."));
        let weights = Weights::new(weights.map(|(n, t)| (n.to_string(), t.clone())));
        checkpoint::save(&folder.path().join("model.safetensors"), &weights).unwrap();
        std::fs::write(folder.path().join("config.json"), &self.config).unwrap();
        let opened = Folder::open(folder.path()).unwrap();
        (folder, opened)
    }

    /// The configuration.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.config).unwrap()
    }

    /// A tensor of the file.
    pub fn floats(&self, name: &str) -> Tensor {
        self.weights
            .get(name)
            .unwrap()
            .to_device(&self.device)
            .unwrap()
    }

    /// Token ids and classes, which the file holds as f32.
    pub fn integers(&self, name: &str) -> Tensor {
        let tensor = self.weights.get(name).unwrap();
        let values: Vec<u32> = tensor
            .to_vec::<f32>()
            .unwrap()
            .iter()
            .map(|x| *x as u32)
            .collect();
        Tensor::from_slice(&values, tensor.shape(), &self.device).unwrap()
    }

    /// Every parameter of the store has its value in the file, under its own name.
    pub fn load(&self, store: &Store) {
        let unused = store.load(&self.weights, |_| true).unwrap();
        assert!(
            unused
                .iter()
                .all(|n| n.starts_with("input.") || n.starts_with("want.")),
            "{unused:?}"
        );
    }

    /// On the oracle (f64) what differs is the rounding of the file's numbers to f32, half a unit in the last place, and what
    /// the reference itself rounds to f32, `inner` times; on other devices every rounding of the longest chain of sums and products,
    /// `chain`, costs a unit of the largest number at most.
    pub fn compare(&self, name: &str, got: &Tensor, chain: usize) -> f64 {
        let want = self.weights.get(name).unwrap();
        assert_eq!(got.shape(), want.shape(), "{name}");
        let (got, want) = (got.to_vec::<f64>().unwrap(), want.to_vec::<f64>().unwrap());
        let size = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let unit = f64::from(f32::EPSILON) * size;
        let tolerance = if self.device == Device::oracle() {
            (0.5 + self.inner as f64) * unit + 1e-11
        } else {
            chain as f64 * unit
        };
        let worst = got
            .iter()
            .zip(&want)
            .fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(
            worst <= tolerance,
            "{name} on {}: off by {worst:e}, allowed {tolerance:e}",
            self.device
        );
        worst / size
    }

    /// Logits, loss and gradients of the loss.
    pub fn check(&self, store: &Store, logits: &Tensor, loss: &Tensor, chain: usize) {
        let mut worst = [self.compare("want.logits", logits, chain), 0.0, 0.0];
        worst[1] = self.compare("want.loss", &loss.reshape(&[1]).unwrap(), chain);
        let grads = backward(loss).unwrap();
        let named: Vec<&String> = self
            .weights
            .names()
            .filter(|n| n.starts_with("want.grad."))
            .collect();
        assert!(named.len() >= 6);
        for name in named {
            let param = store.get(name.trim_start_matches("want.grad.")).unwrap();
            // Backward sums over what forward did, and over the batch.
            worst[2] = worst[2].max(self.compare(name, grads.get(param.id()).unwrap(), 3 * chain));
        }
        println!(
            "{}: relative errors of logits, loss, gradients {:?}",
            self.device,
            worst.map(|e| format!("{e:.1e}"))
        );
    }
}
