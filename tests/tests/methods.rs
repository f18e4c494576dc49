//! The methods: counts and gradients by their formulas, merging, saving and taking off again.

use std::sync::Arc;

use deltaw_engine::optim::AdamW;
use deltaw_engine::prelude::*;
use deltaw_models::components::Partition;
use deltaw_models::decoder::Decoder;
use deltaw_models::layers::Linear;
use deltaw_models::methods::adalora::AdaLora;
use deltaw_models::methods::bone::Bone;
use deltaw_models::methods::dora::Dora;
use deltaw_models::methods::ia3::Ia3;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::low_rank::LowRank;
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
use deltaw_tests::small::{Bert, CHAIN, HEADS, close, gpt2};
use proptest::prelude::*;

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

fn bits(weights: &Weights) -> Vec<(String, Vec<u32>)> {
    let of = |t: &Tensor| {
        t.to_vec::<f32>()
            .unwrap()
            .iter()
            .map(|x| x.to_bits())
            .collect()
    };
    weights
        .iter()
        .map(|(name, t)| (name.to_string(), of(t)))
        .collect()
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

/// A linear of its own or the middle third of a fused one, in any storage.
fn site(dtype: DType, fused: bool) -> (Site, Param) {
    let (m, n) = (6, 5);
    let (shape, rows) = if fused {
        ([n, 3 * m], m..2 * m)
    } else {
        ([m, n], 0..m)
    };
    let weight =
        Tensor::from_slice(&numbers(shape[0] * shape[1], 4), &shape, &Device::cpu()).unwrap();
    let weight = Param::new("w.weight", weight.converted(dtype).unwrap());
    weight.set_trained(false);
    (
        Site::part_of("w", Role::Query, 0, &weight, None, rows, fused),
        weight,
    )
}

fn factors(seed: u64) -> LowRank {
    let param = |name: &str, shape: &[usize], seed| {
        Param::new(
            name,
            Tensor::from_slice(
                &numbers(shape.iter().product(), seed),
                shape,
                &Device::cpu(),
            )
            .unwrap(),
        )
    };
    LowRank {
        lora_a: param("a", &[2, 5], seed),
        lora_b: param("b", &[6, 2], seed + 1),
        lambda: Some(param("e", &[2], seed + 2)),
        scale: 0.5,
        dropout: 0.0,
    }
}

#[test]
fn merging_adds_the_updates_and_unmerging_brings_every_bit_back() {
    let x = Tensor::from_slice(&numbers(4 * 5, 8), &[4, 5], &Device::cpu()).unwrap();
    for (dtype, fused) in [
        (DType::F32, false),
        (DType::F32, true),
        (DType::Bf16, false),
        (DType::Bf16, true),
    ] {
        let (site, weight) = site(dtype, fused);
        let stored = weight.value().to_vec::<f64>().unwrap();
        let base = site.weight().unwrap().to_vec::<f64>().unwrap();
        site.attach(Arc::new(factors(40))).unwrap();
        site.attach(Arc::new(factors(50))).unwrap();
        let delta = no_grad(|| site.delta())
            .unwrap()
            .unwrap()
            .to_vec::<f64>()
            .unwrap();
        let y = no_grad(|| site.forward(&Context::eval(), &x))
            .unwrap()
            .to_vec::<f64>()
            .unwrap();
        site.merge().unwrap();
        assert!(
            site.merge()
                .unwrap_err()
                .to_string()
                .contains("is merged already")
        );
        let merged = site.weight().unwrap().to_vec::<f64>().unwrap();
        // One rounding to the stored type, and the f32 sum's.
        let unit = if dtype == DType::F32 {
            f64::from(f32::EPSILON)
        } else {
            1.0 / 256.0
        };
        for ((w, d), got) in base.iter().zip(&delta).zip(&merged) {
            assert!(
                (w + d - got).abs() <= unit * (w + d).abs() + 1e-7,
                "{dtype} {w} + {d}: {got}"
            );
        }
        let z = no_grad(|| site.forward(&Context::eval(), &x))
            .unwrap()
            .to_vec::<f64>()
            .unwrap();
        for (a, b) in y.iter().zip(&z) {
            // Five products of |x| < 1 with elements of W + ΔW, each off by a unit.
            let size = merged.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            assert!(
                (a - b).abs() <= 5.0 * 2.0 * unit * size + 1e-6,
                "{dtype}, fused {fused}: {a} and {b}"
            );
        }
        assert!(
            stored
                .iter()
                .zip(weight.value().to_vec::<f64>().unwrap())
                .any(|(a, b)| *a != b)
        );
        site.unmerge().unwrap();
        assert_eq!(
            weight.value().to_vec::<f64>().unwrap(),
            stored,
            "{dtype}, fused {fused}"
        );
        assert_eq!(
            no_grad(|| site.forward(&Context::eval(), &x))
                .unwrap()
                .to_vec::<f64>()
                .unwrap(),
            y
        );
    }
}

#[test]
fn parts_of_a_fused_matrix_merge_and_unmerge_in_any_order() {
    let (store, decoder) = gpt2(&Device::cpu());
    let before = bits(&store.weights());
    let mut attached = Lora {
        targets: Targets::modules(["c_attn"]),
        ..Lora::rank(2)
    }
    .attach(&store, &[])
    .unwrap();
    for p in store.trained() {
        p.set(Tensor::from_slice(&numbers(p.len(), 1), &p.shape(), &Device::cpu()).unwrap())
            .unwrap();
    }
    let ids = Tensor::from_slice(&[1u32, 2, 3, 4], &[1, 4], &Device::cpu()).unwrap();
    let logits = || -> Vec<f64> {
        no_grad(|| decoder.forward(&Context::eval(), &ids))
            .unwrap()
            .to_vec::<f64>()
            .unwrap()
    };
    let want = logits();
    let sites: Vec<Site> = store
        .sites()
        .into_iter()
        .filter(|s| s.is_adapted())
        .collect();
    assert_eq!(sites.len(), 6);
    sites.iter().for_each(|s| s.merge().unwrap());
    close("merged", &logits(), &want, 2.0 * CHAIN as f64);
    // Keys first, then queries and values: not the order of merging.
    for role in [Role::Key, Role::Query, Role::Value] {
        sites
            .iter()
            .filter(|s| s.role() == role)
            .for_each(|s| s.unmerge().unwrap());
    }
    assert_eq!(logits(), want);
    attached.detach().unwrap();
    assert_eq!(bits(&store.weights()), before);
}

#[test]
fn one_part_of_a_fused_matrix_is_saved_as_rows_of_the_whole() {
    let (store, decoder) = gpt2(&Device::cpu());
    let method = Lora {
        targets: Targets::Roles(vec![Role::Value]),
        ..Lora::rank(2)
    };
    let attached = method.attach(&store, &[]).unwrap();
    for p in store.trained() {
        p.set(Tensor::from_slice(&numbers(p.len(), 1), &p.shape(), &Device::cpu()).unwrap())
            .unwrap();
    }
    let saved = attached.save().unwrap();
    let b = saved
        .weights
        .get("base_model.model.transformer.h.1.attn.c_attn.lora_B.weight")
        .unwrap();
    assert_eq!(b.shape(), [48, 2]);
    assert!(
        b.to_vec::<f32>().unwrap()[..64].iter().all(|x| *x == 0.0),
        "queries and keys get nothing"
    );
    let (again, other) = gpt2(&Device::cpu());
    method.attach(&again, &[]).unwrap().load(&saved).unwrap();
    let ids = Tensor::from_slice(&[1u32, 2, 3, 4], &[1, 4], &Device::cpu()).unwrap();
    let logits = |decoder: &Decoder| {
        decoder
            .forward(&Context::eval(), &ids)
            .unwrap()
            .to_vec::<f32>()
            .unwrap()
    };
    assert_eq!(logits(&decoder), logits(&other));

    // (IA)³ on keys and values: queries keep their factor of 1.
    let (store, decoder) = gpt2(&Device::cpu());
    let attached = Ia3::default().attach(&store, &[]).unwrap();
    for p in store.trained() {
        p.set(Tensor::from_slice(&numbers(p.len(), 2), &p.shape(), &Device::cpu()).unwrap())
            .unwrap();
    }
    let saved = attached.save().unwrap();
    let l = "base_model.model.transformer.h.1.attn.c_attn.ia3_l";
    let l = saved.weights.get(l).unwrap();
    assert_eq!(l.shape(), [48, 1]);
    assert_eq!(l.to_vec::<f32>().unwrap()[..16], [1.0; 16]);
    for from_files in [true, false] {
        let (again, other) = gpt2(&Device::cpu());
        match from_files {
            true => drop(saved.attach(&again, &[]).unwrap()),
            false => {
                let mut method = Ia3::default().attach(&again, &[]).unwrap();
                method.load(&saved).unwrap();
            }
        }
        assert_eq!(logits(&decoder), logits(&other));
    }

    let refused = AdaLora {
        targets: Targets::modules(["c_attn"]),
        ..AdaLora::target_rank(1)
    };
    let (fresh, _decoder) = gpt2(&Device::cpu());
    let message = refused
        .attach(&fresh, &[])
        .unwrap()
        .save()
        .unwrap_err()
        .to_string();
    assert!(message.contains("is adapted in parts"), "{message}");
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

/// `y = x·W′ᵀ` of one site on the host in f64, from θ = (A, B, λ or g).
struct Case {
    t: usize,
    m: usize,
    n: usize,
    r: usize,
    x: Vec<f64>,
    w: Vec<f64>,
}

impl Case {
    /// W + s·B·diag(e)·A, e of ones for DoRA.
    fn sum(&self, a: &[f64], b: &[f64], e: &dyn Fn(usize) -> f64, s: f64) -> Vec<f64> {
        let at = |i: usize, j: usize| {
            (0..self.r)
                .map(|k| b[i * self.r + k] * e(k) * a[k * self.n + j])
                .sum::<f64>()
        };
        (0..self.m * self.n)
            .map(|ij| self.w[ij] + s * at(ij / self.n, ij % self.n))
            .collect()
    }

    /// Σ c ⊙ y.
    fn weighted(&self, whole: &[f64]) -> f64 {
        let y = |i: usize, j: usize| {
            (0..self.n)
                .map(|k| self.x[i * self.n + k] * whole[j * self.n + k])
                .sum::<f64>()
        };
        numbers(self.t * self.m, 77)
            .iter()
            .enumerate()
            .map(|(ij, c)| f64::from(*c) * y(ij / self.m, ij % self.m))
            .sum()
    }
}

fn norms(whole: &[f64], n: usize) -> Vec<f64> {
    whole
        .chunks(n)
        .map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// AdaLoRA's and DoRA's gradients on the oracle against central differences of the host's formula (DoRA's with the
    /// norm held, as the paper has it), and the CPU's against the oracle's.
    #[test]
    fn composite_updates_have_the_gradients_of_their_formulas(t in 1..5usize, m in 1..7usize, n in 1..7usize, r in 1..4usize, seed in 0..1000u64) {
        for dora in [false, true] {
            let mut seen: Vec<Vec<Vec<f64>>> = vec![];
            for device in [Device::oracle(), Device::cpu()] {
                let store = Store::new(&device, 0);
                let place = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::cpu()).unwrap().to_device(&device).unwrap();
                let weight = store.add("w.weight", place(&numbers(m * n, seed), &[m, n])).unwrap();
                store.add_site(Site::linear("w", Role::Query, 0, &weight, None));
                let method: Box<dyn Method> = match dora {
                    true => Box::new(Dora { lora: Lora { alpha: 0.5 * r as f32, ..Lora::rank(r) } }),
                    false => Box::new(AdaLora { initial_rank: r, alpha: 0.5, ..AdaLora::target_rank(1) }),
                };
                method.attach(&store, &[]).unwrap();
                let third = if dora { "w.lora_magnitude_vector" } else { "w.lora_E" };
                let params = ["w.lora_A", "w.lora_B", third].map(|name| store.get(name).unwrap());
                for (k, p) in params.iter().enumerate() {
                    p.set(place(&numbers(p.len(), seed + 10 + k as u64), &p.shape())).unwrap();
                }
                let x = place(&numbers(t * n, seed + 5), &[t, n]);
                let y = store.sites()[0].forward(&Context::eval(), &x).unwrap();
                let grads = backward(&y.mul(&place(&numbers(t * m, 77), &[t, m])).unwrap().sum_all().unwrap()).unwrap();
                seen.push(params.iter().map(|p| grads.get(p.id()).unwrap().to_vec::<f64>().unwrap()).collect());
            }
            let wide = |values: Vec<f32>| -> Vec<f64> { values.into_iter().map(f64::from).collect() };
            let case = Case { t, m, n, r, x: wide(numbers(t * n, seed + 5)), w: wide(numbers(m * n, seed)) };
            let s = if dora { 0.5 } else { f64::from(0.5f32 / (r as f32 + 1e-5)) };
            let thirds = if dora { m } else { r };
            let theta = [r * n, m * r, thirds].iter().enumerate().map(|(k, len)| wide(numbers(*len, seed + 10 + k as u64))).collect::<Vec<_>>();
            let held = norms(&case.sum(&theta[0], &theta[1], &|_| 1.0, s), n);
            let value = |theta: &[Vec<f64>]| match dora {
                true => {
                    let v = case.sum(&theta[0], &theta[1], &|_| 1.0, s);
                    let scaled: Vec<f64> = v.iter().enumerate().map(|(ij, v)| theta[2][ij / n] / held[ij / n] * v).collect();
                    case.weighted(&scaled)
                }
                false => case.weighted(&case.sum(&theta[0], &theta[1], &|k| theta[2][k], s)),
            };
            for k in 0..3 {
                for i in 0..theta[k].len() {
                    let moved = |h: f64| {
                        let mut theta = theta.clone();
                        theta[k][i] += h;
                        value(&theta)
                    };
                    // Polynomials of the third degree at most: differences err by h² and by rounding over h.
                    let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    let got = seen[0][k][i];
                    prop_assert!((got - want).abs() <= 1e-8 * (1.0 + want.abs()), "dora {dora}, factor {k}[{i}]: {got}, wanted {want}");
                }
                // Chains of at most t + m + n + 2r roundings, and DoRA's norm; shared sizes of the largest gradient.
                let units = 4.0 * (t + m + n + 2 * r + 4) as f64;
                let size = seen[0].iter().flatten().fold(1.0f64, |a, v| a.max(v.abs()));
                for (a, b) in seen[1][k].iter().zip(&seen[0][k]) {
                    prop_assert!((a - b).abs() <= units * f64::from(f32::EPSILON) * size, "dora {dora}, factor {k}: {a} on the CPU, {b} on the oracle");
                }
            }
        }
    }
}
