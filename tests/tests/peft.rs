//! Adapters against PEFT: its files on the same base give the same logits, losses and gradients, and are written back to the
//! bit. `tests/fixtures/make_fixtures.py` made the files; what they want was computed in f64.

use deltaw_engine::prelude::*;
use deltaw_models::decoder::next_token_loss;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::{Method, Targets};
use deltaw_tests::numbers;
use deltaw_tests::peft::{Fixture, below, saved_as_it_came};
use deltaw_tests::small::{Bert, CHAIN, close, gpt2};

/// A PEFT adapter on BERT, loaded from its files: logits, loss and the loss's gradients by the adapter.
fn bert_as_peft(name: &str) {
    for device in [Device::oracle(), Device::cpu()] {
        let (fixture, bert) = (Fixture::open(name), Bert::new(&device));
        bert.store
            .load(&below(&fixture.weights, "base."), |_| true)
            .unwrap();
        let attached = fixture.adapter().attach(&bert.store, &[]).unwrap();
        saved_as_it_came(name, &*attached, &fixture.adapter(), &[]);
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
        let mut plain = fixture.adapter();
        plain.config["init_lora_weights"] = true.into();
        plain.attach(&residual.store, &[]).unwrap();
        fixture.compare("want.logits", &residual.logits(&ctx, &ids).unwrap(), CHAIN);
        if !device.is_cpu() {
            continue;
        }
        // The original base, from which our own decomposition makes the residual: PEFT's took its SVD and its residual in f32,
        // so that both differ from W − s·B·A by roundings of W's elements.
        let bert = Fixture::bert("bert-classes", "", &device);
        fixture.adapter().attach(&bert.store, &[]).unwrap();
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
        let attached = fixture.adapter().attach(&store, &[]).unwrap();
        let mask = fixture.floats("input.attention_mask", &device);
        let whole = fixture.gpt2_logits(&store, &decoder);
        let chain = 2 * (2 * 2 * 16 + 2 * 16 + 9 + (16 + 9) + 16 + 64) + 3 * 16 + 8 * 64;
        fixture.compare("want.logits", &whole, chain);
        let loss = next_token_loss(
            &whole,
            &fixture.integers("input.input_ids", &device),
            Some(&mask),
        )
        .unwrap();
        fixture.compare("want.loss", &loss.reshape(&[1]).unwrap(), chain);
        saved_as_it_came("gpt2", &*attached, &fixture.adapter(), &[]);

        // Once the parts go ways of their own they are saved as one update of three times the rank: the same function.
        for part in ["query", "key", "value"] {
            let a = format!("transformer.h.0.attn.c_attn.{part}.lora_A");
            let a = store.get(&a).unwrap();
            let seed = part.len() as u64;
            let value = Tensor::from_slice(&numbers(a.len(), seed), &a.shape(), &Device::cpu());
            a.set(value.unwrap().to_device(&device).unwrap()).unwrap();
        }
        let moved = fixture.gpt2_logits(&store, &decoder);
        let saved = attached.save().unwrap();
        let c_attn = "transformer.h.0.attn.c_attn";
        let shape = |leaf: &str| {
            let key = format!("base_model.model.{c_attn}.{leaf}.weight");
            saved.weights.get(&key).unwrap().shape().to_vec()
        };
        assert_eq!(
            (shape("lora_A"), shape("lora_B")),
            (vec![9, 16], vec![48, 9])
        );
        assert_eq!(saved.config["rank_pattern"][c_attn], 9);
        assert_eq!(saved.config["alpha_pattern"][c_attn], 15.0);
        let method = Lora {
            alpha: 5.0,
            targets: Targets::modules(["c_attn", "c_proj"]),
            ..Lora::rank(3)
        };
        for from_files in [true, false] {
            let (store, again) = gpt2(&device);
            store
                .load(&below(&fixture.weights, "base."), |_| true)
                .unwrap();
            let attached = match from_files {
                true => saved.attach(&store, &[]).unwrap(),
                false => method.attach(&store, &[]).unwrap(),
            };
            let mut attached = attached;
            attached.load(&saved).unwrap();
            assert_eq!(
                fixture.gpt2_logits(&store, &again).to_vec::<f64>().unwrap(),
                moved.to_vec::<f64>().unwrap()
            );
            // The blocks were found: the parts have their own rank.
            let a = store.get(&format!("{c_attn}.key.lora_A")).unwrap();
            assert_eq!(a.shape(), [3, 16]);
        }
    }
}
