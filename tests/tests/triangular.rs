//! The triangular family: products with packed cores, and TriAdaptLoRA's growth.

use deltaw_engine::ops::triangular::Core;
use deltaw_engine::optim::AdamW;
use deltaw_engine::prelude::*;
use deltaw_models::methods::triadaptlora::{Growth, Start, TriAdaptLora};
use deltaw_models::methods::{Attached, Method};
use deltaw_tests::small::{Bert, HEADS};
use deltaw_tests::{as_the_oracle, check, inputs, numbers, roundings, same_bits_with_any_threads};
use proptest::prelude::*;

fn product(core: &Core, parts: [bool; 2], x: &[Tensor]) -> Result<Tensor> {
    let [lower, upper] = [parts[0].then_some(&x[1]), parts[1].then_some(&x[2])];
    triangular_matmul(core, lower, upper, &x[0])
}

fn shapes(core: &Core, n: usize) -> Vec<Vec<usize>> {
    vec![
        vec![core.rank(), n],
        vec![core.entries()],
        vec![core.entries()],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// An entry of C is up to 2; y and dx sum r of them, dC n products.
    #[test]
    fn packed_products(blocks in prop::collection::vec(1usize..4, 0..4), n in 0usize..5, both in 0usize..3, seed: u64) {
        let ends: Vec<usize> = blocks.iter().scan(0, |end, b| { *end += b; Some(*end) }).collect();
        let (core, parts) = (Core::new(&ends).unwrap(), [both != 1, both != 2]);
        let shapes = shapes(&core, n);
        let units = 2.0 * roundings(n.max(core.rank()), 2);
        check("triangular", &|x| product(&core, parts, x), &shapes, &inputs(&shapes, seed), units);
    }

    /// C of each part written out, and its product in f64.
    #[test]
    fn parts_lie_where_they_are_said_to(blocks in prop::collection::vec(1usize..4, 1..5), seed: u64) {
        let ends: Vec<usize> = blocks.iter().scan(0, |end, b| { *end += b; Some(*end) }).collect();
        let (core, r) = (Core::new(&ends).unwrap(), ends[ends.len() - 1]);
        prop_assert_eq!(core.entries(), blocks.iter().zip(&ends).map(|(a, end)| a * end).sum::<usize>());
        let (lower, upper) = (numbers(core.entries(), seed), numbers(core.entries(), seed ^ 1));
        let mut dense = vec![0.0f32; r * r];
        let mut at = 0;
        for (p, end) in blocks.iter().zip(&ends).flat_map(|(a, end)| vec![*end; *a]).enumerate() {
            for q in 0..end {
                dense[p * r + q] += lower[at];
                dense[q * r + p] += upper[at];
                at += 1;
            }
        }
        let on = |values: &[f32]| Tensor::from_slice(values, &[values.len()], &Device::cpu()).unwrap();
        let eye = Tensor::eye(r, &Device::cpu()).unwrap();
        let got = triangular_matmul(&core, Some(&on(&lower)), Some(&on(&upper)), &eye).unwrap();
        prop_assert_eq!(got.to_vec::<f32>().unwrap(), dense);
    }
}

/// Several panels: plain triangles of LoLDU's kind, alone and together.
#[test]
fn over_several_panels() {
    for (core, parts) in [
        (Core::triangle(200), [true, false]),
        (Core::triangle(200), [false, true]),
        (Core::new(&[1, 65, 90, 190]).unwrap(), [true, true]),
    ] {
        let shapes = shapes(&core, 33);
        let units = 2.0 * roundings(200, 2);
        as_the_oracle("triangular", &shapes, 5, units, |x| {
            product(&core, parts, x)
        });
        same_bits_with_any_threads("triangular", &shapes, |x| product(&core, parts, x));
    }
}

#[test]
fn growth_leaves_the_product_as_it_was() {
    let (old, new, device) = (
        Core::new(&[2, 4]).unwrap(),
        Core::new(&[2, 4, 7]).unwrap(),
        Device::cpu(),
    );
    let part = |seed| {
        Tensor::from_slice(&numbers(old.entries(), seed), &[old.entries()], &device).unwrap()
    };
    let grown = |part: &Tensor| part.pad(0, 0, new.entries() - old.entries()).unwrap();
    let x = Tensor::from_slice(&numbers(7 * 3, 3), &[7, 3], &device).unwrap();
    let (lower, upper) = (part(1), part(2));
    let before = triangular_matmul(
        &old,
        Some(&lower),
        Some(&upper),
        &x.narrow(0, 0, 4).unwrap(),
    )
    .unwrap();
    let after = triangular_matmul(&new, Some(&grown(&lower)), Some(&grown(&upper)), &x).unwrap();
    let (kept, rest) = (
        after.narrow(0, 0, 4).unwrap(),
        after.narrow(0, 4, 3).unwrap(),
    );
    // The new columns add zeros to the same sums.
    assert_eq!(
        kept.to_vec::<f32>().unwrap(),
        before.to_vec::<f32>().unwrap()
    );
    assert!(rest.to_vec::<f32>().unwrap().iter().all(|v| *v == 0.0));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let (core, device) = (Core::new(&[2, 4]).unwrap(), Device::cpu());
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device).unwrap();
    let said = |result: Result<Tensor>| result.unwrap_err().to_string();
    let x = zeros(&[4, 3]);
    assert!(said(triangular_matmul(&core, Some(&zeros(&[11])), None, &x)).contains("[12]"));
    assert!(said(triangular_matmul(&core, None, None, &x)).contains("neither"));
    assert!(
        said(triangular_matmul(
            &core,
            Some(&zeros(&[12])),
            None,
            &zeros(&[3, 3])
        ))
        .contains("[4, 3]")
    );
    assert!(
        Core::new(&[2, 2])
            .unwrap_err()
            .to_string()
            .contains("increasing")
    );
}

fn step(bert: &Bert, attached: &mut dyn Attached, optimiser: &mut AdamW, step: u64, total: u64) {
    let loss = bert.loss(step).unwrap();
    let loss = attached
        .penalty()
        .unwrap()
        .map_or(Ok(loss.clone()), |p| loss.add(&p))
        .unwrap();
    let grads = backward(&loss).unwrap();
    optimiser.step(&bert.store.trained(), &grads, 0.01).unwrap();
    attached.after_step(step, total, &grads).unwrap();
}

/// Largest magnitude of the update's gradients, the penalty apart.
fn gradient_of_the_update(start: Start) -> f64 {
    let bert = Bert::new(&Device::cpu());
    let method = TriAdaptLora {
        start,
        ..TriAdaptLora::target_rank(4)
    };
    method.attach(&bert.store, &HEADS).unwrap();
    let grads = backward(&bert.loss(0).unwrap()).unwrap();
    let ours = bert
        .store
        .trained()
        .into_iter()
        .filter(|p| p.name().contains("lora_"));
    let largest =
        ours.filter_map(|p| Some(grads.get(p.id())?.abs().unwrap().to_vec::<f64>().unwrap()));
    largest.flatten().fold(0.0, f64::max)
}

#[test]
fn the_codes_start_is_stationary_and_ours_is_not() {
    assert_eq!(gradient_of_the_update(Start::Stationary), 0.0);
    assert!(gradient_of_the_update(Start::ZeroCore) > 0.0);
    assert!(gradient_of_the_update(Start::Normal) > 0.0);
}

#[test]
fn ranks_grow_to_the_target_and_count_as_the_formula() {
    const STEPS: u64 = 40;
    for growth in [
        Growth::Linear,
        Growth::NonLinear,
        Growth::AtOnce,
        Growth::Random,
    ] {
        let bert = Bert::new(&Device::cpu());
        let method = TriAdaptLora {
            growth,
            every: 2,
            gamma: 0.1,
            ..TriAdaptLora::target_rank(4)
        };
        let mut attached = method.attach(&bert.store, &HEADS).unwrap();
        let mut optimiser = AdamW::new(0.0);
        let mut before = attached.ranks().unwrap();
        for t in 0..STEPS {
            step(&bert, &mut *attached, &mut optimiser, t, STEPS);
            let now = attached.ranks().unwrap();
            assert!(
                before.iter().zip(&now).all(|(a, b)| a.1 <= b.1),
                "{growth:?}"
            );
            before = now;
        }
        let total: usize = before.iter().map(|(_, rank)| rank).sum();
        // The last allocation may overshoot by a block of two ranks for every matrix.
        let (target, sites) = (4 * before.len(), before.len());
        assert!(
            (target..=target + 2 * sites).contains(&total),
            "{growth:?}: {before:?}"
        );
        if growth == Growth::AtOnce {
            assert!(before.iter().all(|(_, rank)| *rank == 4));
        }
        // r(m + n), and of each part Σ aᵢ·rᵢ with blocks of 1, 2, 2, … ranks (the last of 1 where the target cuts it).
        let want: usize = before
            .iter()
            .map(|(path, rank)| {
                let site = bert
                    .store
                    .sites()
                    .into_iter()
                    .find(|s| s.path() == path)
                    .unwrap();
                let (mut end, mut entries) = (1, 1);
                while end < *rank {
                    let a = 2.min(rank - end);
                    end += a;
                    entries += a * end;
                }
                rank * (site.in_features().unwrap() + site.out_features().unwrap()) + 2 * entries
            })
            .sum();
        assert_eq!(attached.parameters().unwrap(), want, "{growth:?}");

        let saved = attached.save().unwrap();
        let fresh = Bert::new(&Device::cpu());
        let loaded = saved.attach(&fresh.store, &HEADS).unwrap();
        assert_eq!(loaded.ranks().unwrap(), attached.ranks().unwrap());
        let [a, b] = [&bert, &fresh].map(|bert| bert.loss(0).unwrap().item().unwrap());
        assert_eq!(a, b, "{growth:?}");
    }
}
