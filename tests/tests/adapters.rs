//! Several adapters on one base: switched, added up, merged, combined and unloaded, against PEFT and bit for bit.

use deltaw_engine::optim::AdamW;
use deltaw_engine::prelude::*;
use deltaw_models::methods::bone::Bone;
use deltaw_models::methods::ia3::Ia3;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::oft::Oft;
use deltaw_models::methods::pissa::Pissa;
use deltaw_models::methods::vera::Vera;
use deltaw_models::methods::{Adapter, Adapters, Combination, Method, Targets};
use deltaw_tests::peft::{Fixture, below};
use deltaw_tests::small::{Bert, CHAIN, HEADS, close};

fn values(t: &Tensor) -> Vec<f64> {
    t.to_vec().unwrap()
}

/// The values of every parameter, and where they lie.
fn base(store: &Store) -> Vec<(String, Vec<f32>, *const f32)> {
    let one = |p: &Param| {
        let value = p.value();
        let at = value.as_slice::<f32>().unwrap().as_ptr();
        (p.name().to_string(), value.to_vec::<f32>().unwrap(), at)
    };
    store.params().iter().map(one).collect()
}

/// PEFT's three adapters under their names.
fn loaded(fixture: &Fixture, device: &Device) -> (Bert, Adapters) {
    let bert = Fixture::bert("bert-classes", "", device);
    let mut adapters = Adapters::new(&bert.store);
    for name in ["first", "second", "third"] {
        let adapter = fixture.adapter_of(name, &format!("{name}."));
        adapters.load(name, &adapter).unwrap();
    }
    (bert, adapters)
}

#[test]
fn adapters_switch_add_up_and_leave_as_in_peft() {
    let fixture = Fixture::open("peft-weighted");
    for device in [Device::oracle(), Device::cpu()] {
        let (bert, mut adapters) = loaded(&fixture, &device);
        let plain = Fixture::bert("bert-classes", "", &device);
        let alone = values(&fixture.bert_logits(&plain));
        assert_eq!(
            values(&fixture.bert_logits(&bert)),
            alone,
            "none is active yet"
        );
        for name in ["first", "third", "second", "first"] {
            adapters.activate(&[name]).unwrap();
            fixture.compare(&format!("want.{name}"), &fixture.bert_logits(&bert), CHAIN);
        }
        adapters.activate(&["first", "second"]).unwrap();
        assert_eq!(adapters.active(), ["first", "second"]);
        fixture.compare("want.both", &fixture.bert_logits(&bert), CHAIN);
        let both = values(&fixture.bert_logits(&bert));

        // Merged and back.
        let before = bert.store.weights();
        adapters.merge().unwrap();
        fixture.compare("want.both", &fixture.bert_logits(&bert), CHAIN);
        for refused in [
            adapters.merge(),
            adapters.activate(&["third"]),
            adapters.unload("first"),
            adapters.load("fourth", &fixture.adapter_of("first", "first.")),
        ] {
            let message = refused.unwrap_err().to_string();
            assert!(
                message.contains("the base is merged; unmerge it"),
                "{message}"
            );
        }
        adapters.unmerge().unwrap();
        assert_eq!(values(&fixture.bert_logits(&bert)), both);
        for (name, tensor) in before.iter() {
            let now = bert.store.get(name).unwrap().value();
            assert_eq!(values(&now), values(tensor), "{name}");
        }
        adapters.unload("second").unwrap();
        assert_eq!(adapters.active(), ["first"]);
        fixture.compare("want.first", &fixture.bert_logits(&bert), CHAIN);
        adapters.activate(&[]).unwrap();
        assert_eq!(values(&fixture.bert_logits(&bert)), alone);

        adapters.activate(&["first"]).unwrap();
        adapters.merge_and_unload().unwrap();
        fixture.compare("want.first", &fixture.bert_logits(&bert), CHAIN);
        assert!(bert.store.sites().iter().all(|s| !s.is_adapted()));
        assert_eq!(bert.store.params().len(), plain.store.params().len());
    }
}

#[test]
fn weighted_combinations_are_pefts() {
    let fixture = Fixture::open("peft-weighted");
    for device in [Device::oracle(), Device::cpu()] {
        for (name, parts, how) in [
            ("linear", ["first", "second"], Combination::Linear),
            ("cat", ["first", "third"], Combination::Concatenated),
            ("svd", ["first", "third"], Combination::Svd(Some(4))),
        ] {
            let (bert, mut adapters) = loaded(&fixture, &device);
            let parts = [(parts[0], 0.7), (parts[1], -0.4)];
            adapters.combine(name, &parts, how).unwrap();
            adapters.activate(&[name]).unwrap();
            // Factors are made in f32: a few roundings of each, which the model may enlarge.
            let logits = values(&fixture.bert_logits(&bert));
            let want = values(fixture.weights.get(&format!("want.{name}")).unwrap());
            close(name, &logits, &want, CHAIN as f64);

            let saved = adapters.save(name).unwrap();
            for (key, want) in below(&fixture.weights, &format!("weighted.{name}.")).iter() {
                let got = saved.weights.get(key).unwrap();
                assert_eq!(got.shape(), want.shape(), "{key}");
                // The root of the scale, its product with two factors, and their sum.
                close(key, &values(got), &values(want), 4.0);
            }
        }
    }
}

#[test]
fn the_base_is_there_once() {
    let bert = Bert::new(&Device::cpu());
    let before = base(&bert.store);
    let mut adapters = Adapters::new(&bert.store);
    adapters.add("lora", &Lora::rank(2), &[]).unwrap();
    adapters.add("vera", &Vera::rank(4), &[]).unwrap();
    adapters.add("oft", &Oft::block_size(4), &[]).unwrap();
    for name in ["oft", "lora", "vera"] {
        adapters.activate(&[name]).unwrap();
        let now: Vec<_> = base(&bert.store);
        for own in &before {
            assert!(now.contains(own), "{name}: {} was copied", own.0);
        }
    }
    adapters.activate(&[]).unwrap();
    assert_eq!(base(&bert.store), before);
}

#[test]
fn each_trains_its_own_parameters_and_heads() {
    let bert = Bert::new(&Device::cpu());
    let start = bert.store.weights();
    let mut adapters = Adapters::new(&bert.store);
    adapters.add("a", &Lora::rank(2), &HEADS).unwrap();
    adapters.add("b", &Pissa::rank(2), &HEADS).unwrap();
    let loss = || bert.loss(0).unwrap().item().unwrap();
    let first = loss();
    let mut after = vec![];
    for name in ["a", "b"] {
        adapters.activate(&[name]).unwrap();
        let (params, mut optimiser) = (bert.store.trained(), AdamW::new(0.0));
        assert!(params.iter().any(|p| p.name() == "classifier.weight"));
        for _ in 0..8 {
            let grads = backward(&bert.loss(0).unwrap()).unwrap();
            optimiser.step(&params, &grads, 0.02).unwrap();
        }
        after.push(loss());
    }
    assert!(
        after.iter().all(|l| *l < first - 0.05),
        "{first} to {after:?}"
    );
    adapters.activate(&["a"]).unwrap();
    assert_eq!(loss(), after[0], "its head came back with it");
    let saved = adapters.save("b").unwrap();
    adapters.activate(&["b"]).unwrap();
    assert_eq!(loss(), after[1]);
    adapters.activate(&[]).unwrap();
    assert_eq!(loss(), first);
    for (name, tensor) in start.iter() {
        assert_eq!(
            values(&bert.store.get(name).unwrap().value()),
            values(tensor),
            "{name}"
        );
    }
    // An inactive one was saved with its own head.
    let fresh = Bert::new(&Device::cpu());
    let mut again = Adapters::new(&fresh.store);
    again.load("b", &saved).unwrap();
    again.activate(&["b"]).unwrap();
    assert_eq!(fresh.loss(0).unwrap().item().unwrap(), after[1]);
}

#[test]
fn what_does_not_add_up_is_refused_with_reasons() {
    let bert = Bert::new(&Device::cpu());
    let mut adapters = Adapters::new(&bert.store);
    let query = || Targets::Roles(vec![Role::Query]);
    adapters.add("lora", &Lora::rank(2), &HEADS).unwrap();
    adapters.add("other", &Lora::rank(2), &HEADS).unwrap();
    let methods: [(&str, Box<dyn Method>); 4] = [
        ("ia3", Box::new(Ia3::default())),
        (
            "oft",
            Box::new(Oft {
                targets: query(),
                ..Oft::block_size(4)
            }),
        ),
        (
            "bone",
            Box::new(Bone {
                targets: query(),
                ..Bone::block(4)
            }),
        ),
        ("pissa", Box::new(Pissa::rank(2))),
    ];
    for (name, method) in &methods {
        adapters.add(name, &**method, &[]).unwrap();
    }
    let loss = bert.loss(0).unwrap().item().unwrap();
    for (names, reason) in [
        (vec!["lora", "ia3"], "`ia3` multiplies the weight"),
        (vec!["oft", "lora"], "`oft` multiplies the weight"),
        (vec!["lora", "bone"], "`bone` multiplies the weight"),
        (vec!["lora", "pissa"], "`pissa` has a base of its own"),
        (
            vec!["lora", "other"],
            "`lora` and `other` both bring `bert.pooler",
        ),
        (vec!["lora", "lora"], "`lora` is named twice"),
        (vec!["nobody"], "no `nobody` among"),
    ] {
        let message = adapters.activate(&names).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
    let message = adapters
        .add("lora", &Lora::rank(1), &[])
        .unwrap_err()
        .to_string();
    assert!(message.contains("is there already"), "{message}");
    let none = Lora {
        targets: Targets::modules(["nowhere"]),
        ..Lora::rank(1)
    };
    assert!(adapters.add("none", &none, &[]).is_err());
    for (parts, reason) in [
        (
            vec![("lora", 1.0), ("other", 1.0)],
            "is no factor of a matrix",
        ),
        (vec![("pissa", 1.0)], "wanted plain LoRAs"),
        (vec![("ia3", 1.0)], "wanted plain LoRAs"),
        (vec![], "none given"),
    ] {
        let message = adapters
            .combine("new", &parts, Combination::Linear)
            .unwrap_err()
            .to_string();
        assert!(message.contains(reason), "{message}");
    }
    adapters.add("r3", &Lora::rank(3), &[]).unwrap();
    adapters.add("r2", &Lora::rank(2), &[]).unwrap();
    let message = adapters.combine("new", &[("r3", 1.0), ("r2", 1.0)], Combination::Linear);
    assert!(
        message
            .unwrap_err()
            .to_string()
            .contains("Concatenated and Svd take several ranks")
    );
    assert_eq!(
        bert.loss(0).unwrap().item().unwrap(),
        loss,
        "refusals leave the model as it is"
    );
}

/// (IA)³ scales the bias too: merging and unmerging cover it.
#[test]
fn a_merge_of_scaled_outputs_takes_the_bias_along() {
    let fixture = Fixture::open("peft-ia3");
    for device in [Device::oracle(), Device::cpu()] {
        let bert = Fixture::bert("bert-classes", "", &device);
        let before = bert.store.weights();
        let mut adapters = Adapters::new(&bert.store);
        adapters.load("ia3", &fixture.adapter()).unwrap();
        adapters.activate(&["ia3"]).unwrap();
        adapters.merge().unwrap();
        fixture.compare("want.logits", &fixture.bert_logits(&bert), CHAIN);
        let bias = "bert.encoder.layer.0.attention.self.query.bias";
        assert_ne!(
            values(&bert.store.get(bias).unwrap().value()),
            values(before.get(bias).unwrap())
        );
        adapters.activate(&[]).unwrap_err();
        adapters.unmerge().unwrap();
        adapters.activate(&[]).unwrap();
        for (name, tensor) in before.iter() {
            assert_eq!(
                values(&bert.store.get(name).unwrap().value()),
                values(tensor),
                "{name}"
            );
        }
        adapters.activate(&["ia3"]).unwrap();
        adapters.merge_and_unload().unwrap();
        fixture.compare("want.logits", &fixture.bert_logits(&bert), CHAIN);
    }
}

#[test]
fn an_adapter_that_does_not_fit_leaves_the_others_at_work() {
    let fixture = Fixture::open("peft-weighted");
    let (bert, mut adapters) = loaded(&fixture, &Device::cpu());
    adapters.activate(&["first"]).unwrap();
    let before = values(&fixture.bert_logits(&bert));
    let good = fixture.adapter_of("second", "second.");
    let mut bad = Adapter::new(good.config.clone(), good.weights.clone());
    let key = "base_model.model.bert.encoder.layer.1.output.dense.lora_B.weight";
    bad.weights.insert(key, Tensor::from([1.0]));
    let message = adapters.load("bad", &bad).unwrap_err().to_string();
    assert!(
        message.contains(key) && message.contains("wanted [16, 3]"),
        "{message}"
    );
    assert_eq!(values(&fixture.bert_logits(&bert)), before);
    assert_eq!(adapters.active(), ["first"]);
    assert_eq!(
        adapters.names().collect::<Vec<_>>(),
        ["first", "second", "third"]
    );
}
