//! PEFT's settings and methods: what it saved computes the same here, and is written back as it came.

use deltaw_engine::prelude::*;
use deltaw_models::methods::randlora::RandLora;
use deltaw_models::methods::{Method, Targets};
use deltaw_tests::numbers;
use deltaw_tests::peft::{Fixture, saved_as_it_came};
use deltaw_tests::small::{Bert, CHAIN};

/// An adapter on the base of `bert-classes`: logits, loss and the loss's gradients; the sites that it adapted.
fn on_bert(name: &str, chain: usize, copies: &[&str]) -> usize {
    let mut adapted = 0;
    for device in [Device::oracle(), Device::cpu()] {
        let mut fixture = Fixture::open(name);
        if name.starts_with("peft-randlora-") {
            // PEFT divides both bases by their deviation in f32: its sum, its root and the quotient, of each.
            fixture.inner = 6;
        }
        let bert = Fixture::bert("bert-classes", "", &device);
        let attached = fixture.adapter().attach(&bert.store, &[]).unwrap();
        adapted = sites(&bert);
        let logits = fixture.bert_logits(&bert);
        let mut worst = [fixture.compare("want.logits", &logits, chain), 0.0, 0.0];
        let labels = fixture.integers("input.labels", &device);
        let loss = cross_entropy(&logits, &labels, &CrossEntropyOptions::default()).unwrap();
        worst[1] = fixture.compare("want.loss", &loss.reshape(&[1]).unwrap(), chain);
        let grads = backward(&loss).unwrap();
        let wanted = fixture
            .weights
            .names()
            .filter(|n| n.starts_with("want.grad."));
        for name in wanted {
            let param = ours(&bert.store, name.trim_start_matches("want.grad."));
            // A bias of keys moves all scores of a query alike: its gradient is 0 but for roundings.
            if let Some(param) = param.filter(|p| !p.name().ends_with("key.bias")) {
                let grad = grads.get(param.id()).unwrap();
                worst[2] = worst[2].max(fixture.compare(name, grad, 3 * chain));
            }
        }
        println!(
            "{name} on {device}: relative errors of logits, loss, gradients {:?}",
            worst.map(|e| format!("{e:.1e}"))
        );
        saved_as_it_came(name, &*attached, &fixture.adapter(), copies);
    }
    adapted
}

fn sites(bert: &Bert) -> usize {
    bert.store.sites().iter().filter(|s| s.is_adapted()).count()
}

/// The parameter that PEFT calls `name`.
fn ours(store: &Store, name: &str) -> Option<Param> {
    store
        .get(name.trim_end_matches(".weight"))
        .or_else(|_| store.get(name))
        .ok()
}

#[test]
fn modules_are_chosen_as_peft_chooses_them() {
    // Two blocks of query, key, value, attention output and the feed-forward's two; pooler and classifier.
    for (name, adapted) in [
        ("patterns", 8),
        ("regex", 5),
        ("all-linear", 13),
        ("exclude", 6),
        ("layers", 4),
        ("heads", 4),
        ("bias-only", 4),
        ("rsdora", 4),
    ] {
        let name = format!("peft-config-{name}");
        assert_eq!(on_bert(&name, CHAIN, &[]), adapted, "{name}");
    }
}

#[test]
fn all_biases_come_and_go() {
    let own_copies = ["classifier.modules_to_save", "classifier.original_module"];
    assert_eq!(on_bert("peft-config-bias-all", CHAIN, &own_copies), 4);
}

/// r products and two more vectors a token.
#[test]
fn vera_is_pefts_with_its_projections_and_with_their_seed() {
    assert_eq!(on_bert("peft-vera", CHAIN, &[]), 8);
    // Files of a seed alone gain the matrices that it names.
    assert_eq!(on_bert("peft-vera-seed", CHAIN, &[]), 8);
}

#[test]
fn ia3_is_pefts() {
    assert_eq!(on_bert("peft-ia3", CHAIN, &[]), 8);
}

/// Blocks of k: k products a number of the rotated input, and as many for every power of Q.
#[test]
fn oft_is_pefts() {
    for name in ["peft-oft", "peft-oft-neumann", "peft-oft-shared"] {
        assert_eq!(on_bert(name, CHAIN + 2 * 6 * 6 * 8, &[]), 8);
    }
}

/// N·r products more for every number of ΔW.
#[test]
fn randlora_is_pefts_with_its_basis_and_with_its_sparse_seed() {
    let chain = CHAIN + 2 * 6 * 2 * 18;
    // PEFT repeats the shared matrices below every module.
    let modules = ["dense", "query", "value"];
    let copies = modules.map(|m| [format!("{m}.randlora_A"), format!("{m}.randlora_B")]);
    let copies: Vec<&str> = copies.iter().flatten().map(String::as_str).collect();
    for name in ["", "-sparse", "-very-sparse"] {
        assert_eq!(on_bert(&format!("peft-randlora{name}"), chain, &copies), 8);
    }
}

#[test]
fn updates_of_a_fused_matrix_act_on_its_parts() {
    for device in [Device::oracle(), Device::cpu()] {
        for name in ["peft-vera-gpt2", "peft-ia3-gpt2", "peft-dora-gpt2"] {
            let fixture = Fixture::open(name);
            let (store, decoder) = Fixture::gpt2(&device);
            let attached = fixture.adapter().attach(&store, &[]).unwrap();
            let logits = fixture.gpt2_logits(&store, &decoder);
            let chain = 2 * (2 * 2 * 16 + 2 * 16 + 9 + (16 + 9) + 16 + 64) + 3 * 16 + 8 * 64;
            fixture.compare("want.logits", &logits, chain);
            saved_as_it_came(name, &*attached, &fixture.adapter(), &[]);
        }
    }
}

/// Matrices of one number of terms share a basis in PEFT's files; others are written with the seed alone, under a name of ours.
#[test]
fn terms_of_several_numbers_have_no_basis_in_files() {
    let model = || {
        let store = Store::new(&Device::cpu(), 0);
        for (name, shape) in [("a", [6, 6]), ("b", [4, 8])] {
            let weight = store
                .at(name)
                .param("weight", &shape, Init::Normal(1.0))
                .unwrap();
            store.add_site(Site::linear(name, Role::Query, 0, &weight, None));
        }
        store
    };
    let method = |names: &[&str]| RandLora {
        targets: Targets::modules(names.iter().copied()),
        ..RandLora::rank(2)
    };
    let saved = method(&["a"])
        .attach(&model(), &[])
        .unwrap()
        .save()
        .unwrap();
    assert_eq!(saved.config["peft_type"], "RANDLORA");
    assert_eq!(
        saved.weights.get("base_model.randlora_B").unwrap().shape(),
        [6, 3, 2]
    );

    let store = model();
    let attached = method(&["a", "b"]).attach(&store, &[]).unwrap();
    for (k, p) in store.trained().iter().enumerate() {
        let values = numbers(p.len(), k as u64);
        p.set(Tensor::from_slice(&values, &p.shape(), &Device::cpu()).unwrap())
            .unwrap();
    }
    let saved = attached.save().unwrap();
    assert_eq!(saved.config["peft_type"], "RANDLORA_PHILOX");
    assert_eq!(saved.weights.len(), 4);
    let again = model();
    saved.attach(&again, &[]).unwrap();
    for (a, b) in store.sites().iter().zip(again.sites()) {
        let delta = |s: &Site| s.delta().unwrap().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(delta(a), delta(&b));
        assert!(delta(a).iter().any(|x| *x != 0.0));
    }
}
