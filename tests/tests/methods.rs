//! The methods: counts and gradients by their formulas, merging, saving and taking off again.

use deltaw_engine::optim::AdamW;
use deltaw_engine::prelude::*;
use deltaw_models::components::Partition;
use deltaw_models::layers::Linear;
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
use deltaw_models::methods::selective::{BitFit, Full, LinearProbe, Tailors};
use deltaw_models::methods::snell::Snell;
use deltaw_models::methods::svdiff::SvDiff;
use deltaw_models::methods::triadaptlora::TriAdaptLora;
use deltaw_models::methods::vera::Vera;
use deltaw_models::methods::{Adapter, Attached, Method, Targets};
use deltaw_tests::numbers;
use deltaw_tests::small::{Bert, CHAIN, HEADS, bits, close};

/// Every method with an update of its own.
fn updates() -> Vec<Box<dyn Method>> {
    vec![
        Box::new(Lora::rank(2)),
        Box::new(Lora {
            rank_stabilised: true,
            dropout: 0.25,
            ..Lora::rank(3)
        }),
        Box::new(AdaLora::target_rank(2)),
        Box::new(Dora::rank(2)),
        Box::new(Pissa::rank(2)),
        Box::new(Bone::block(4)),
        Box::new(Bone::block(5)),
        Box::new(Miss::rank(3)),
        Box::new(RandLora::rank(3)),
        Box::new(TriAdaptLora::target_rank(2)),
        Box::new(SvDiff::default()),
        Box::new(Vera::rank(5)),
        Box::new(Ia3::default()),
        Box::new(Oft::block_size(4)),
        Box::new(Oft {
            blocks: Blocks::Count(8),
            terms: None,
            shared: true,
            ..Oft::block_size(4)
        }),
        Box::new(RandLora {
            dropout: 0.25,
            ..RandLora::rank(3)
        }),
        Box::new(Dora {
            lora: Lora {
                dropout: 0.25,
                ranks: vec![(Pattern::tail("query").unwrap(), 1)],
                alphas: vec![(Pattern::tail("self.*").unwrap(), 3.0)],
                ..Lora::rank(2)
            },
        }),
    ]
}

fn all() -> Vec<Box<dyn Method>> {
    let mut all = updates();
    all.extend([
        Box::new(Full) as Box<dyn Method>,
        Box::new(LinearProbe),
        Box::new(BitFit),
        Box::new(Snell::rank(4)),
    ]);
    all
}

/// Some steps of AdamW with everything a method does in a step.
fn train(bert: &Bert, attached: &mut dyn Attached, steps: u64) {
    let (params, mut optimiser) = (bert.store.trained(), AdamW::new(0.01));
    for step in 0..steps {
        let task = bert.loss(step).unwrap();
        let loss = attached
            .penalty()
            .unwrap()
            .map_or(Ok(task.clone()), |p| task.add(&p))
            .unwrap();
        let grads = backward(&loss).unwrap();
        optimiser.step(&params, &grads, 0.05).unwrap();
        attached.after_step(step, steps, &grads).unwrap();
    }
}

fn evaluated(bert: &Bert) -> Vec<f32> {
    let ids = Tensor::from_slice(&[1u32, 5, 9, 30, 2, 7], &[2, 3], bert.store.device()).unwrap();
    no_grad(|| bert.logits(&Context::eval(), &ids))
        .unwrap()
        .to_vec::<f32>()
        .unwrap()
}

#[test]
fn trained_numbers_are_those_of_the_formulas() {
    // Four matrices 16×16, one 24×16 and one 16×24 a block; two blocks.
    let (sides, matrices, outputs) = (2 * (4 * 32 + 2 * 40), 2 * 6, 2 * (4 * 16 + 24 + 16));
    let heads = 16 * 16 + 16 + 3 * 16 + 3;
    let want = [
        2 * sides,
        3 * sides,
        3 * (sides + matrices),
        2 * sides + outputs,
        2 * sides,
        4 * outputs,
        // ⌈16/5⌉ squares of 5×5 for 16 outputs, ⌈24/5⌉ for 24.
        2 * 25 * (5 * 4 + 5),
        3 * outputs,
        // ⌈16/3⌉ terms of 3 + 16 numbers, for every matrix has a side of 16.
        matrices * 6 * (3 + 16),
        // Rank 1, and the core's one entry twice.
        sides + 2 * matrices,
        // As many singular values as the shorter side has rows, and every matrix has a side of 16.
        matrices * 16,
        // A number per output and one per rank.
        outputs + matrices * 5,
        // Keys' and values' outputs, and the inputs of the last matrix.
        2 * (16 + 16 + 24),
        // Six numbers a block of 4×4, for 16 inputs and once for 24.
        2 * 6 * (5 * 4 + 6),
        // One block for 8, of 2×2 and once 3×3.
        2 * (5 + 3),
        matrices * 6 * (3 + 16),
        // Rank 1 for a matrix 16×16 of each block.
        2 * sides + outputs - 2 * 32,
    ];
    for (method, want) in updates().iter().zip(want) {
        let bert = Bert::new(&Device::cpu());
        let attached = method.attach(&bert.store, &HEADS).unwrap();
        assert_eq!(attached.parameters().unwrap(), want, "{}", method.name());
        assert_eq!(
            bert.store.count_trained(),
            want + heads,
            "{}",
            method.name()
        );
    }
    let bert = Bert::new(&Device::cpu());
    let (whole, biases) = (bert.store.count() - heads, outputs + (2 * 2 + 1) * 16);
    for (method, want) in [
        (&Full as &dyn Method, whole),
        (&LinearProbe, 0),
        (&BitFit, biases),
    ] {
        assert_eq!(
            method
                .attach(&bert.store, &HEADS)
                .unwrap()
                .parameters()
                .unwrap(),
            want,
            "{}",
            method.name()
        );
    }
    let method = Lora {
        targets: Targets::Roles(vec![Role::Query, Role::Value]),
        ..Lora::rank(1)
    };
    assert_eq!(
        method
            .attach(&bert.store, &HEADS)
            .unwrap()
            .parameters()
            .unwrap(),
        4 * 32
    );
}

#[test]
fn spectral_shifts_stop_at_zero() {
    let store = Store::new(&Device::cpu(), 0);
    let weight = (store.add("w.weight", Tensor::from([[0.0, 3.0], [-1.0, 0.0]]))).unwrap();
    store.add_site(Site::linear("w", Role::Query, 0, &weight, None));
    SvDiff::default().attach(&store, &[]).unwrap();
    let shift = store.get("w.spectral_shift").unwrap();
    shift.set(Tensor::from([1.0, -2.0])).unwrap();
    let site = &store.sites()[0];
    let y = (site.forward(&Context::eval(), &Tensor::from([[1.0, 2.0]]))).unwrap();
    // Singular values 3 and 1 become 4 and max(1 − 2, 0): W′ = [[0, 4], [0, 0]].
    let rounding = 8.0 * f64::from(f32::EPSILON);
    close("y", &y.to_vec::<f64>().unwrap(), &[8.0, 0.0], 8.0);
    let grads = backward(&y.sum_all().unwrap()).unwrap();
    // ∂y/∂δ₁ = x₂, and nothing below zero.
    let got = grads.get(shift.id()).unwrap().to_vec::<f64>().unwrap();
    assert!((got[0] - 2.0).abs() <= rounding && got[1] == 0.0, "{got:?}");
}

#[test]
fn a_new_update_changes_nothing() {
    for method in updates() {
        let bert = Bert::new(&Device::cpu());
        let before = evaluated(&bert);
        method.attach(&bert.store, &HEADS).unwrap();
        let (after, before): (Vec<f64>, Vec<f64>) = (
            evaluated(&bert).iter().map(|x| f64::from(*x)).collect(),
            before.iter().map(|x| f64::from(*x)).collect(),
        );
        // DoRA divides by the norm and multiplies by it, PiSSA takes its part away and adds it, OFT multiplies by a solved I.
        close(
            &method.name(),
            &after,
            &before,
            if ["dora r=2", "pissa r=2", "oft, 8 blocks"].contains(&method.name().as_str()) {
                CHAIN as f64
            } else {
                0.0
            },
        );
    }
}

#[test]
fn every_method_is_saved_loaded_and_taken_off() {
    for method in all() {
        let name = method.name();
        let (bert, fresh) = (Bert::new(&Device::cpu()), Bert::new(&Device::cpu()));
        let (base, updates) = (
            bits(&bert.store.weights()),
            !["full", "linear probe", "bitfit"].contains(&name.as_str()),
        );
        let mut attached = method.attach(&bert.store, &HEADS).unwrap();
        train(&bert, &mut *attached, 8);
        assert_ne!(evaluated(&bert), evaluated(&fresh), "{name}");

        let folder = tempfile::tempdir().unwrap();
        attached
            .save()
            .unwrap()
            .write(&folder.path().join("adapter"))
            .unwrap();
        let adapter = Adapter::read(&folder.path().join("adapter")).unwrap();
        let mut again = method.attach(&fresh.store, &HEADS).unwrap();
        again.load(&adapter).unwrap();
        assert_eq!(evaluated(&bert), evaluated(&fresh), "{name}");
        assert_eq!(
            (again.parameters().unwrap(), again.ranks().unwrap()),
            (attached.parameters().unwrap(), attached.ranks().unwrap()),
            "{name}"
        );
        // From the files alone, which also say what else trained.
        let third = Bert::new(&Device::cpu());
        let from_files = adapter.attach(&third.store, &[]).unwrap();
        assert_eq!(evaluated(&bert), evaluated(&third), "{name}");
        assert_eq!(
            bits(&from_files.save().unwrap().weights),
            bits(&attached.save().unwrap().weights),
            "{name}"
        );
        if updates {
            bert.store
                .sites()
                .iter()
                .filter(|s| s.is_linear())
                .for_each(|s| s.merge().unwrap());
            attached.detach().unwrap();
            let after = bits(&bert.store.weights());
            let outside = |all: Vec<(String, Vec<u32>)>| -> Vec<_> {
                all.into_iter()
                    .filter(|(n, _)| !HEADS.iter().any(|h| n.starts_with(h)))
                    .collect()
            };
            assert_eq!(
                outside(after),
                outside(base),
                "{name}: the base is back, and no parameter is left"
            );
            assert!(bert.store.sites().iter().all(|s| !s.is_adapted()));
        }
    }
}

#[test]
fn tailors_are_saved_and_loaded() {
    let model = || {
        let store = Store::new(&Device::cpu(), 0);
        let partition = Partition::new(2, 1, 3);
        Linear::gated(&store.at("w"), 6, 5, &partition).unwrap();
        Linear::new(&store.at("classifier"), Role::Other, 1, 5, 3).unwrap();
        store
    };
    let (store, again) = (model(), model());
    let attached = Tailors.attach(&store, &["classifier."]).unwrap();
    // Of three groups one component each, u, σ and v, and the head.
    assert_eq!(attached.parameters().unwrap(), 3 * (6 + 5 + 1));
    for (k, p) in store.trained().iter().enumerate() {
        let values = numbers(p.len(), k as u64);
        p.set(Tensor::from_slice(&values, &p.shape(), &Device::cpu()).unwrap())
            .unwrap();
    }
    let saved = attached.save().unwrap();
    assert_eq!(saved.config["peft_type"], "TAILORS");
    assert_eq!(saved.weights.len(), store.trained().len());
    saved.attach(&again, &[]).unwrap();
    assert_eq!(bits(&again.weights()), bits(&store.weights()));
}

#[test]
fn nothing_below_the_first_adapter_is_on_the_tape() {
    let bert = Bert::new(&Device::cpu());
    let method = Lora {
        targets: Targets::modules(["layer.1.output.dense"]),
        ..Lora::rank(2)
    };
    method.attach(&bert.store, &[]).unwrap();
    let places = ["bert.encoder.layer.0", "bert.encoder.layer.1"];
    let ctx = Context::train(0, 0).with_taps(&places);
    let ids = Tensor::from_slice(&[1u32, 2, 3, 4], &[1, 4], &Device::cpu()).unwrap();
    let logits = bert.logits(&ctx, &ids).unwrap();
    assert!(
        !ctx.tapped(places[0]).unwrap().requires_grad()
            && ctx.tapped(places[1]).unwrap().requires_grad()
    );
    let grads = backward(&logits.sum_all().unwrap()).unwrap();
    let trained: Vec<String> = bert
        .store
        .trained()
        .iter()
        .map(|p| p.name().to_string())
        .collect();
    assert_eq!(
        trained,
        [
            "bert.encoder.layer.1.output.dense.lora_A",
            "bert.encoder.layer.1.output.dense.lora_B"
        ]
    );
    assert_eq!(grads.len(), 2);

    LinearProbe.attach(&bert.store, &[]).unwrap();
    assert!(
        !bert.logits(&ctx, &ids).unwrap().requires_grad(),
        "a frozen model records nothing"
    );
}

#[test]
fn dropout_acts_on_the_update_alone_and_in_training_alone() {
    let bert = Bert::new(&Device::cpu());
    let mut attached = Lora {
        dropout: 0.5,
        ..Lora::rank(2)
    }
    .attach(&bert.store, &HEADS)
    .unwrap();
    let at = |step| bert.loss(step).unwrap().item().unwrap();
    assert_eq!(at(3), at(3));
    let before = at(3);
    train(&bert, &mut *attached, 3);
    let ids = Tensor::from_slice(&[1u32, 2, 3, 4], &[1, 4], &Device::cpu()).unwrap();
    let with = |ctx: Context| bert.logits(&ctx, &ids).unwrap().to_vec::<f32>().unwrap();
    assert_ne!(at(3), before);
    assert_eq!(
        with(Context::train(0, 1)),
        with(Context::train(0, 1)),
        "the same step draws the same mask"
    );
    assert_ne!(with(Context::train(0, 1)), with(Context::train(0, 2)));
    assert_ne!(with(Context::train(0, 1)), with(Context::eval()));
    attached.detach().unwrap();
    assert_eq!(
        with(Context::train(0, 1)),
        with(Context::eval()),
        "the base has no dropout"
    );
}

#[test]
fn foreign_adapters_and_impossible_settings_are_refused_with_reasons() {
    let bert = Bert::new(&Device::cpu());
    let mut attached = Lora::rank(2).attach(&bert.store, &HEADS).unwrap();
    let good = attached.save().unwrap();
    let query = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight";
    let changed = |change: &dyn Fn(&mut Adapter)| {
        let mut adapter = good.clone();
        change(&mut adapter);
        adapter
    };
    let without = Weights::new(
        good.weights
            .iter()
            .filter(|(n, _)| *n != query)
            .map(|(n, t)| (n.to_string(), t.clone())),
    );
    for (adapter, reason) in [
        (
            changed(&|a| a.config["lora_alpha"] = 3.0.into()),
            "lora_alpha",
        ),
        (
            changed(&|a| a.config["peft_type"] = "ADALORA".into()),
            "peft_type",
        ),
        (
            changed(&|a| a.weights = without.clone()),
            "no tensor `base_model",
        ),
        (
            changed(&|a| {
                a.weights
                    .insert("base_model.model.nowhere", Tensor::from([1.0]))
            }),
            "`base_model.model.nowhere`",
        ),
        (
            changed(&|a| a.weights.insert(query, Tensor::from([1.0]))),
            "wanted [2, 16]",
        ),
    ] {
        let message = attached.load(&adapter).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
    let fresh = Bert::new(&Device::cpu());
    for (adapter, reason) in [
        (
            changed(&|a| a.config["peft_type"] = "LOHA".into()),
            "peft_type is \"LOHA\"; LORA, ADALORA, MISS, VERA, IA3, OFT",
        ),
        (
            changed(&|a| a.config["target_modules"] = 3.into()),
            "`target_modules`",
        ),
        (
            changed(&|a| a.config["target_modules"] = serde_json::json!(["mlp"])),
            "no linear among",
        ),
        (
            changed(&|a| {
                drop(
                    a.config
                        .insert("rank_pattern".into(), serde_json::json!({"query": 4})),
                )
            }),
            "give `bert.encoder.layer.0.attention.self.query` rank 4",
        ),
    ] {
        let message = adapter
            .attach(&fresh.store, &HEADS)
            .err()
            .unwrap()
            .to_string();
        assert!(message.contains(reason), "{message}");
    }
    let message = Lora::rank(0)
        .attach(&fresh.store, &[])
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("rank 0"), "{message}");
    assert!(
        Adapter::read(std::path::Path::new("/nonexistent"))
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
}
