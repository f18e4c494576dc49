//! Adapters for Python's PEFT. With a folder in the environment variable `DELTAW_ADAPTERS` they are left there, for
//! `tests/fixtures/check_peft.py` to load; without Python, tensors and settings are those that PEFT writes itself.

use std::path::Path;

use deltaw_engine::checkpoint;
use deltaw_engine::optim::AdamW;
use deltaw_engine::prelude::*;
use deltaw_models::decoder::{Decoder, next_token_loss};
use deltaw_models::methods::adalora::AdaLora;
use deltaw_models::methods::bone::Bone;
use deltaw_models::methods::dora::Dora;
use deltaw_models::methods::ia3::Ia3;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::miss::Miss;
use deltaw_models::methods::oft::{Blocks, Oft};
use deltaw_models::methods::pattern::Pattern;
use deltaw_models::methods::pissa::Pissa;
use deltaw_models::methods::randlora::RandLora;
use deltaw_models::methods::vera::Vera;
use deltaw_models::methods::{Adapter, Attached, Method, Targets};
use deltaw_tests::peft::Fixture;
use deltaw_tests::small::{Bert, HEADS, gpt2};

fn some() -> Targets {
    Targets::modules(["query", "value", "output.dense"])
}

/// Methods on BERT, and PEFT's fixture of the same settings where there is one.
fn methods() -> Vec<(&'static str, Box<dyn Method>, Option<&'static str>)> {
    let lora = |rank, alpha| Lora {
        alpha,
        targets: some(),
        ..Lora::rank(rank)
    };
    let patterned = Lora {
        ranks: vec![(Pattern::tail("query").unwrap(), 2)],
        alphas: vec![(Pattern::tail("value").unwrap(), 9.0)],
        ..lora(3, 5.0)
    };
    let ia3 = Ia3 {
        inputs: Targets::modules(["output.dense"]),
        targets: some(),
    };
    let oft = |blocks, terms, shared| Oft {
        blocks,
        terms,
        shared,
        targets: some(),
    };
    let randlora = |rank| RandLora {
        alpha: 3.0,
        targets: some(),
        ..RandLora::rank(rank)
    };
    let adalora = AdaLora {
        initial_rank: 5,
        alpha: 7.0,
        targets: some(),
        ..AdaLora::target_rank(3)
    };
    vec![
        ("lora", Box::new(lora(3, 5.0)), Some("peft-lora")),
        ("lora-patterns", Box::new(patterned), None),
        (
            "rslora",
            Box::new(Lora {
                rank_stabilised: true,
                ..lora(4, 5.0)
            }),
            Some("peft-rslora"),
        ),
        (
            "dora",
            Box::new(Dora { lora: lora(3, 5.0) }),
            Some("peft-dora"),
        ),
        (
            "pissa",
            Box::new(Pissa { lora: lora(3, 3.0) }),
            Some("peft-pissa"),
        ),
        ("adalora", Box::new(adalora), None),
        (
            "miss",
            Box::new(Miss {
                targets: some(),
                ..Miss::rank(3)
            }),
            Some("peft-miss"),
        ),
        (
            "bone",
            Box::new(Bone {
                targets: some(),
                ..Bone::block(4)
            }),
            Some("peft-bone"),
        ),
        (
            "vera",
            Box::new(Vera {
                targets: some(),
                ..Vera::rank(5)
            }),
            Some("peft-vera"),
        ),
        ("ia3", Box::new(ia3), Some("peft-ia3")),
        (
            "oft",
            Box::new(oft(Blocks::Size(4), None, false)),
            Some("peft-oft"),
        ),
        (
            "oft-neumann",
            Box::new(oft(Blocks::Size(5), Some(4), false)),
            Some("peft-oft-neumann"),
        ),
        (
            "oft-shared",
            Box::new(oft(Blocks::Count(2), Some(5), true)),
            Some("peft-oft-shared"),
        ),
        ("randlora", Box::new(randlora(5)), Some("peft-randlora")),
        (
            "randlora-sparse",
            Box::new(RandLora {
                bases: RandLora::TERNARY,
                ..randlora(3)
            }),
            None,
        ),
    ]
}

fn train(store: &Store, attached: &mut dyn Attached, loss: &dyn Fn() -> Tensor) {
    let (params, mut optimiser) = (store.trained(), AdamW::new(0.0));
    for step in 0..6 {
        let penalty = attached.penalty().unwrap();
        let loss = penalty.map_or(loss(), |p| loss().add(&p).unwrap());
        let grads = backward(&loss).unwrap();
        optimiser.step(&params, &grads, 0.05).unwrap();
        attached.after_step(step, 6, &grads).unwrap();
    }
}

fn left(folder: &Path, adapter: &Adapter, base: &Weights, ids: &Tensor, logits: &Tensor) {
    adapter.write(folder).unwrap();
    let mut expected = Weights::new(base.iter().map(|(n, t)| (format!("base.{n}"), t.clone())));
    expected.insert("ids", ids.clone());
    expected.insert("logits", logits.clone());
    checkpoint::save(&folder.join("expected.safetensors"), &expected).unwrap();
}

/// The same names, shapes and settings as in PEFT's own files.
fn same_files(name: &str, ours: &Adapter, theirs: &Adapter) {
    let copies = |key: &String| {
        key.contains("dense.randlora_")
            || key.contains("query.randlora_")
            || key.contains("value.randlora_")
    };
    let form = |a: &Adapter| -> Vec<(String, Vec<usize>)> {
        let all = a
            .weights
            .iter()
            .map(|(n, t)| (n.to_string(), t.shape().to_vec()));
        // PEFT repeats RandLoRA's shared matrices below every module.
        let all = all.filter(|(n, _)| {
            !(copies(n) && (n.ends_with("randlora_A") || n.ends_with("randlora_B")))
        });
        all.filter(|(n, _)| !HEADS.iter().any(|head| n.contains(head)))
            .collect()
    };
    assert_eq!(form(ours), form(theirs), "{name}");
    let beside = [
        "target_modules",
        "modules_to_save",
        "feedforward_modules",
        "peft_version",
        "bases",
        "distinct",
        "d_initial",
    ];
    for (key, value) in ours
        .config
        .iter()
        .filter(|(key, _)| !beside.contains(&key.as_str()))
    {
        let their = theirs
            .config
            .get(key)
            .unwrap_or_else(|| panic!("{name}: PEFT has no `{key}`"));
        let same = value == their || value.as_f64().is_some() && value.as_f64() == their.as_f64();
        assert!(same, "{name}: `{key}` is {value}, PEFT's {their}");
    }
}

#[test]
fn files_are_those_that_peft_writes() {
    let given = std::env::var_os("DELTAW_ADAPTERS");
    let temporary = tempfile::tempdir().unwrap();
    let root = given.as_ref().map_or(temporary.path(), Path::new);
    let ids: Vec<u32> = (0..24).map(|i| (i * 7 + 3) % 31).collect();
    let ids = Tensor::from_slice(&ids, &[4, 6], &Device::cpu()).unwrap();
    for (name, method, fixture) in methods() {
        let bert = Fixture::bert("bert-classes", "", &Device::cpu());
        let base = bert.store.weights();
        let mut attached = method.attach(&bert.store, &HEADS).unwrap();
        train(&bert.store, &mut *attached, &|| bert.loss(0).unwrap());
        let logits = no_grad(|| bert.logits(&Context::eval(), &ids)).unwrap();
        let adapter = attached.save().unwrap();
        if let Some(fixture) = fixture {
            same_files(name, &adapter, &Fixture::open(fixture).adapter());
        }
        left(&root.join(name), &adapter, &base, &ids, &logits);
        let (again, read) = (
            Bert::new(&Device::cpu()),
            Adapter::read(&root.join(name)).unwrap(),
        );
        again.store.load(&base, |_| true).unwrap();
        read.attach(&again.store, &[]).unwrap();
        let back = no_grad(|| again.logits(&Context::eval(), &ids)).unwrap();
        assert_eq!(
            back.to_vec::<f32>().unwrap(),
            logits.to_vec::<f32>().unwrap(),
            "{name}"
        );
    }
    let parts = || Targets::modules(["c_attn", "mlp.c_proj"]);
    let ia3 = Ia3 {
        inputs: Targets::modules(["mlp.c_proj"]),
        targets: parts(),
    };
    let on_gpt2: [(&str, Box<dyn Method>); 3] = [
        (
            "gpt2-lora",
            Box::new(Lora {
                targets: parts(),
                ..Lora::rank(2)
            }),
        ),
        (
            "gpt2-dora",
            Box::new(Dora {
                lora: Lora {
                    targets: parts(),
                    ..Lora::rank(2)
                },
            }),
        ),
        ("gpt2-ia3", Box::new(ia3)),
    ];
    for (name, method) in on_gpt2 {
        let (store, decoder): (Store, Decoder) = gpt2(&Device::cpu());
        let base = store.weights();
        let logits = || decoder.forward(&Context::eval(), &ids).unwrap();
        let mut attached = method.attach(&store, &[]).unwrap();
        train(&store, &mut *attached, &|| {
            next_token_loss(&logits(), &ids, None).unwrap()
        });
        let adapter = attached.save().unwrap();
        assert_eq!(adapter.config["fan_in_fan_out"], true, "{name}");
        left(
            &root.join(name),
            &adapter,
            &base,
            &ids,
            &no_grad(|| Ok::<_, Error>(logits())).unwrap(),
        );
    }
}
