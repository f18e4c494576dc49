//! Updates merged into their sites' weights and taken out again: to the bit, in any storage, parts of a fused matrix too.

use std::sync::Arc;

use deltaw_engine::prelude::*;
use deltaw_models::decoder::Decoder;
use deltaw_models::methods::adalora::AdaLora;
use deltaw_models::methods::ia3::Ia3;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::low_rank::LowRank;
use deltaw_models::methods::{Method, Targets};
use deltaw_tests::numbers;
use deltaw_tests::small::{CHAIN, bits, close, gpt2};

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
