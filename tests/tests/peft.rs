//! Adapters against PEFT: its files on the same base give the same logits, losses and gradients, and are written back to the
//! bit. `tests/fixtures/make_fixtures.py` made the files; what they want was computed in f64.

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;
use deltaw_models::decoder::{Decoder, next_token_loss};
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::{Adapter, Method, Targets};
use deltaw_tests::small::{Bert, CHAIN, close, gpt2};

/// A PEFT fixture: base, adapter, inputs and results.
struct Fixture {
    weights: Weights,
    adapter: Adapter,
}

fn below(weights: &Weights, prefix: &str) -> Weights {
    let inside = weights
        .iter()
        .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone())));
    Weights::new(inside)
}

impl Fixture {
    fn weights_of(name: &str) -> Weights {
        let path = format!("{}/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        checkpoint::load(std::path::Path::new(&path)).unwrap()
    }

    fn open(name: &str) -> Self {
        let path = format!("{}/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let config =
            serde_json::from_str(header["__metadata__"]["adapter_config"].as_str().unwrap())
                .unwrap();
        let weights = checkpoint::from_file_bytes(&path, &bytes).unwrap();
        let adapter = Adapter {
            config,
            weights: below(&weights, "adapter."),
        };
        Fixture { weights, adapter }
    }

    fn floats(&self, name: &str, device: &Device) -> Tensor {
        self.weights.get(name).unwrap().to_device(device).unwrap()
    }

    fn integers(&self, name: &str, device: &Device) -> Tensor {
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
    fn compare(&self, name: &str, got: &Tensor, chain: usize) -> f64 {
        let want = self.weights.get(name).unwrap().to_vec::<f64>().unwrap();
        close(
            name,
            &got.to_vec::<f64>().unwrap(),
            &want,
            if got.device().is_cpu() {
                chain as f64
            } else {
                2.0
            },
        )
    }
}

/// A PEFT adapter on BERT, loaded from its files: logits, loss and the loss's gradients by the adapter.
fn bert_as_peft(name: &str) {
    for device in [Device::oracle(), Device::cpu()] {
        let (fixture, bert) = (Fixture::open(name), Bert::new(&device));
        bert.store
            .load(&below(&fixture.weights, "base."), |_| true)
            .unwrap();
        let attached = fixture.adapter.attach(&bert.store, &[]).unwrap();
        let saved = attached.save().unwrap();
        let ctx = Context::eval().with_mask(fixture.floats("input.attention_mask", &device));
        let ids = fixture.integers("input.input_ids", &device);
        let logits = bert.logits(&ctx, &ids).unwrap();
        let mut worst = [fixture.compare("want.logits", &logits, CHAIN), 0.0, 0.0];
        // The files lack what AdaLoRA masked; its penalty sees all.
        for (name, value) in below(&fixture.weights, "whole.base_model.model.").iter() {
            let param = bert.store.get(name).unwrap();
            let value = value.to_device(&device).unwrap();
            param.set(value.reshape(&param.shape()).unwrap()).unwrap();
        }
        let (logits, labels) = (
            bert.logits(&ctx, &ids).unwrap(),
            fixture.integers("input.labels", &device),
        );
        let task = cross_entropy(&logits, &labels, &CrossEntropyOptions::default()).unwrap();
        let penalty = attached.penalty().unwrap();
        let loss = penalty.map_or(Ok(task.clone()), |p| task.add(&p)).unwrap();
        worst[1] = fixture.compare("want.loss", &loss.reshape(&[1]).unwrap(), CHAIN);
        let grads = backward(&loss).unwrap();
        for name in fixture
            .weights
            .names()
            .filter(|n| n.starts_with("want.grad."))
        {
            let ours = name
                .trim_start_matches("want.grad.base_model.model.")
                .trim_end_matches(".weight");
            let grad = grads.get(bert.store.get(ours).unwrap().id()).unwrap();
            worst[2] = worst[2].max(fixture.compare(name, grad, 3 * CHAIN));
        }
        println!(
            "{name} on {device}: relative errors of logits, loss, gradients {:?}",
            worst.map(|e| format!("{e:.1e}"))
        );

        // Loaded and saved again, PEFT's tensors are the same to the bit.
        for (name, tensor) in fixture.adapter.weights.iter() {
            let ours = saved
                .weights
                .get(name)
                .unwrap_or_else(|| panic!("{name} was not saved"));
            assert_eq!(ours.shape(), tensor.shape(), "{name}");
            assert_eq!(
                ours.to_vec::<f64>().unwrap(),
                tensor.to_vec::<f64>().unwrap(),
                "{name}"
            );
        }
        assert_eq!(saved.weights.len(), fixture.adapter.weights.len());
    }
}

#[test]
fn lora_is_pefts() {
    bert_as_peft("peft-lora");
    bert_as_peft("peft-rslora");
}

#[test]
fn dora_is_pefts() {
    bert_as_peft("peft-dora");
}

#[test]
fn bone_and_miss_are_pefts() {
    bert_as_peft("peft-bone");
    bert_as_peft("peft-miss");
}

#[test]
fn adalora_with_its_pattern_and_penalty_is_pefts() {
    bert_as_peft("peft-adalora");
}

#[test]
fn pissa_on_its_residual_is_pefts() {
    // The residual base with plain LoRA: PEFT's numbers as they are.
    for device in [Device::oracle(), Device::cpu()] {
        let fixture = Fixture::open("peft-pissa");
        let ctx = Context::eval().with_mask(fixture.floats("input.attention_mask", &device));
        let ids = fixture.integers("input.input_ids", &device);
        let residual = Bert::new(&device);
        residual
            .store
            .load(&below(&fixture.weights, "base."), |_| true)
            .unwrap();
        let mut plain = fixture.adapter.clone();
        plain.config["init_lora_weights"] = true.into();
        plain.attach(&residual.store, &[]).unwrap();
        fixture.compare("want.logits", &residual.logits(&ctx, &ids).unwrap(), CHAIN);
        if !device.is_cpu() {
            continue;
        }
        // The original base, from which our own decomposition makes the residual: PEFT's took its SVD and its residual in f32,
        // so that both differ from W − s·B·A by roundings of W's elements.
        let original = Fixture::weights_of("bert-classes");
        let bert = Bert::new(&device);
        bert.store.load(&original, |_| true).unwrap();
        fixture.adapter.attach(&bert.store, &[]).unwrap();
        for site in bert.store.sites().iter().filter(|s| s.is_adapted()) {
            let (ours, theirs) = (
                site.stored().unwrap(),
                fixture.floats(&format!("base.{}.weight", site.path()), &device),
            );
            let (ours, theirs) = (
                ours.to_vec::<f64>().unwrap(),
                theirs.to_vec::<f64>().unwrap(),
            );
            println!(
                "{}: {:.1e}",
                site.path(),
                close(site.path(), &ours, &theirs, 64.0)
            );
        }
        fixture.compare("want.logits", &bert.logits(&ctx, &ids).unwrap(), 2 * CHAIN);
    }
}

#[test]
fn an_adapter_of_pefts_on_a_fused_matrix_loads_into_its_parts() {
    for device in [Device::oracle(), Device::cpu()] {
        let fixture = Fixture::open("peft-lora-gpt2");
        let (store, decoder) = gpt2(&device);
        store
            .load(&below(&fixture.weights, "base."), |_| true)
            .unwrap();
        let attached = fixture.adapter.attach(&store, &[]).unwrap();
        let mask = fixture.floats("input.attention_mask", &device);
        let logits = |decoder: &Decoder| {
            let ctx = Context::eval().with_mask(mask.clone());
            decoder
                .forward(&ctx, &fixture.integers("input.input_ids", &device))
                .unwrap()
        };
        let whole = logits(&decoder);
        let chain = 2 * (2 * 2 * 16 + 2 * 16 + 9 + (16 + 9) + 16 + 64) + 3 * 16 + 8 * 64;
        fixture.compare("want.logits", &whole, chain);
        let loss = next_token_loss(
            &whole,
            &fixture.integers("input.input_ids", &device),
            Some(&mask),
        )
        .unwrap();
        fixture.compare("want.loss", &loss.reshape(&[1]).unwrap(), chain);

        // The parts saved as one update of three times the rank: the same function.
        let saved = attached.save().unwrap();
        let c_attn = "base_model.model.transformer.h.0.attn.c_attn";
        assert_eq!(
            saved
                .weights
                .get(&format!("{c_attn}.lora_A.weight"))
                .unwrap()
                .shape(),
            [9, 16]
        );
        assert_eq!(
            saved
                .weights
                .get(&format!("{c_attn}.lora_B.weight"))
                .unwrap()
                .shape(),
            [48, 9]
        );
        assert_eq!(
            saved.config["rank_pattern"]["transformer.h.0.attn.c_attn"],
            9
        );
        assert_eq!(
            saved.config["alpha_pattern"]["transformer.h.0.attn.c_attn"],
            15.0
        );
        let (store, again) = gpt2(&device);
        store
            .load(&below(&fixture.weights, "base."), |_| true)
            .unwrap();
        let method = Lora {
            alpha: 5.0,
            targets: Targets::modules(["c_attn", "c_proj"]),
            ..Lora::rank(3)
        };
        method.attach(&store, &[]).unwrap().load(&saved).unwrap();
        assert_eq!(
            logits(&again).to_vec::<f64>().unwrap(),
            whole.to_vec::<f64>().unwrap()
        );
    }
}
