//! DiT against diffusers, gated components, and the distances of generated from real features.

use deltaw_engine::prelude::*;
use deltaw_models::components::{Components, Partition};
use deltaw_models::diffusion::Process;
use deltaw_models::dit::{Dit, DitConfig};
use deltaw_models::hub::Folder;
use deltaw_models::metrics::{frechet_distance, precision_recall};
use deltaw_tests::fixture::Fixture;
use proptest::prelude::*;

/// The fixture, with the name of its class, by which a folder of diffusers' is known.
fn published(device: &Device) -> Fixture {
    let mut fixture = Fixture::open("dit", device);
    let class = r#"{"_class_name": "DiTTransformer2DModel", "#;
    fixture.config = fixture.config.replacen('{', class, 1);
    fixture
}

/// The oracle computes in f64 what the file holds in f32.
#[test]
fn dit_is_that_of_diffusers() {
    for device in [Device::cpu(), Device::oracle()] {
        // diffusers computes the sinusoids in f32: the frequency, the angle up to 6, and the sine.
        let fixture = Fixture {
            inner: 2 * (6 + 2),
            ..published(&device)
        };
        let (_files, folder) = fixture.folder();
        let store = folder.store(&device, 0, &[]);
        let dit = folder.dit(&store).unwrap();
        let steps = fixture.floats("input.steps").to_vec::<f32>().unwrap();
        let out = dit
            .forward(
                &Context::eval(),
                &fixture.floats("input.samples"),
                &steps,
                &fixture.integers("input.labels"),
            )
            .unwrap();
        let apart = out.sub(&fixture.floats("input.noise")).unwrap();
        let loss = apart.square().unwrap().mean_all().unwrap();
        // Timestep features, two linears and the modulation; two blocks; the output.
        let chain = 256 + 3 * 16 + 2 * (4 * 16 + 2 * 64 + 9 * 8) + 16 + 4 * 6;
        fixture.check(&store, &out, &loss, chain);
    }
}

#[test]
fn multiplications_are_those_of_the_matrices() {
    // Two patches a side of 2×2 grey pixels: 4 tokens of width 32.
    let config = DitConfig::small(4, 2, 1, 32, 3, 5);
    let (d, tokens) = (32, 4);
    // Timestep and modulations for a sample; patches in and out, six matrices and two products of attention for tokens.
    let whole = 256 * d + d * d + 2 * d * d + 2 * tokens * 4 * d;
    let block = 6 * d * d + 2 * tokens * tokens * d;
    assert_eq!(config.macs(None), whole + 3 * (block + tokens * 12 * d * d));
    let partition = Partition::new(3, 2, 5);
    let thin = (3 + 2) * (4 * 2 * d + 2 * 5 * d);
    assert_eq!(
        config.macs(Some(&partition)),
        whole + 3 * (block + tokens * thin)
    );
}

#[test]
fn embedders_that_differ_are_refused() {
    let mut fixture = published(&Device::cpu());
    let (files, _) = fixture.folder();
    let name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias";
    let weights = &mut fixture.weights;
    let other = weights.get(name).unwrap().affine(1.0, 1.0).unwrap();
    weights.insert(name, other);
    deltaw_engine::checkpoint::save(&files.path().join("model.safetensors"), weights).unwrap();
    let message = Folder::open(files.path()).err().unwrap().to_string();
    assert!(
        message.contains(name) && message.contains("share their embedders"),
        "{message}"
    );
}

fn small(partition: Option<&Partition>, seed: u64) -> (Store, Dit) {
    let store = Store::new(&Device::cpu(), seed);
    let dit = Dit::new(
        &store.root(),
        &DitConfig::small(4, 2, 1, 32, 1, 3),
        partition,
    )
    .unwrap();
    // Gates and output away from 0, so that everything shows.
    for param in store.params() {
        if param.name().contains("norm1.linear") || param.name().starts_with("proj_out") {
            let key = RandomKey::new(seed, Purpose::Init, param.name());
            let value = Init::Normal(0.3)
                .tensor(&param.shape(), key, store.device())
                .unwrap();
            param.set(value).unwrap();
        }
    }
    (store, dit)
}

fn ids(values: &[u32]) -> Tensor {
    Tensor::from_slice(values, &[values.len()], &Device::cpu()).unwrap()
}

#[test]
fn guidance_of_one_is_the_conditional_answer_and_gates_the_other_half() {
    let partition = Partition::new(3, 2, 3);
    let (_store, dit) = small(Some(&partition), 4);
    let x = Tensor::randn(&[2, 1, 4, 4], 1, &Device::cpu()).unwrap();
    let (t, labels) = ([3.0, 90.0], ids(&[0, 2]));
    let gated = |route: &[u32]| {
        let gate = partition.gate(route, &Device::cpu()).unwrap();
        Context::eval().with_gate(gate)
    };
    let own = gated(&[0, 2]);
    let values = |y: Tensor| y.to_vec::<f32>().unwrap();
    let with = values(dit.forward(&own, &x, &t, &labels).unwrap());
    let none = gated(&[9, 9]);
    let without = values(dit.forward(&none, &x, &t, &ids(&[3, 3])).unwrap());
    assert_ne!(with, without);
    for scale in [0.0, 1.0, 2.5] {
        let guided = values(dit.guided(&own, &x, &t, &labels, scale).unwrap());
        for ((g, w), n) in guided.iter().zip(&with).zip(&without) {
            let want = n + scale as f32 * (w - n);
            // Three roundings of numbers no larger than these, and the forward passes' own: rows of a larger batch may be
            // summed in another order.
            assert!(
                (g - want).abs() < 1e-4 * (1.0 + want.abs()),
                "{g}, wanted {want}"
            );
        }
    }
}

#[test]
fn absent_tailors_get_no_gradient_and_stay() {
    let partition = Partition::new(2, 1, 4);
    let (store, dit) = small(Some(&partition), 1);
    let process = Process::linear(100);
    let tensor = |seed| Tensor::randn(&[3, 1, 4, 4], seed, &Device::cpu()).unwrap();
    let (x0, noise, t) = (tensor(1), tensor(2), [5, 50, 99]);
    let before: Vec<Vec<f32>> = (store.params().iter())
        .map(|p| p.value().to_vec::<f32>().unwrap())
        .collect();
    store.train_only(|_| true);
    let params = store.trained();
    let mut optimiser = AdamW::new(0.1);
    let mut step = |route: &[u32]| {
        let gate = partition.gate(route, &Device::cpu()).unwrap();
        let ctx = Context::train(0, 0).with_gate(gate);
        let xt = process.noised(&x0, &noise, &t).unwrap();
        let out = dit
            .forward(&ctx, &xt, &t.map(|t| t as f32), &ids(&[0, 1, 2]))
            .unwrap();
        let grads = backward(&process.loss(&out, &x0, &noise, &t).unwrap()).unwrap();
        optimiser.step(&params, &grads, 0.01).unwrap();
        let silent = |p: &Param| grads.get(p.id()).is_none();
        params
            .iter()
            .filter(|p| silent(p))
            .map(|p| p.name().to_string())
            .collect::<Vec<_>>()
    };
    // Groups 1 and 3 take part, then 1 alone: 3 keeps its moments and its values although it once had gradients.
    let absent = step(&[1, 3, 1]);
    assert!(
        absent
            .iter()
            .all(|n| n.contains("tailors.0.") || n.contains("tailors.2.")),
        "{absent:?}"
    );
    assert_eq!(absent.len(), 6 * 2 * 3);
    let third = |p: &&Param| p.name().contains("tailors.3.");
    let values = || -> Vec<Vec<f32>> {
        params
            .iter()
            .filter(third)
            .map(|p| p.value().to_vec::<f32>().unwrap())
            .collect()
    };
    let kept = values();
    step(&[1, 1, 1]);
    assert_eq!(values(), kept);
    for (param, before) in store.params().iter().zip(before) {
        let touched = param.value().to_vec::<f32>().unwrap() != before;
        let absent = param.name().contains("tailors.0.") || param.name().contains("tailors.2.");
        assert_eq!(touched, !absent, "{}", param.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Each sample's output is its own W(c)·x + b; all components serve all without a route; gradients are those of the
    /// composed form, and of absent groups there are none.
    #[test]
    fn components_are_their_weight(
        (batch, tokens) in (1..5usize, 1..4usize),
        (inputs, outputs) in (1..9usize, 1..9usize),
        (learngenes, tailors, groups) in (0..4usize, 0..3usize, 1..4usize),
        route in proptest::collection::vec(0..5u32, 5),
        seed in 0..1000u64,
    ) {
        let device = Device::oracle();
        let store = Store::new(&device, seed);
        let partition = Partition::new(learngenes, tailors, groups);
        let map = Components::new(&store.at("w"), inputs, outputs, &partition).unwrap();
        prop_assert_eq!(store.count(), partition.parameters(outputs, inputs) + outputs);
        let bias = store.get("w.bias").unwrap();
        bias.set(Tensor::randn(&[outputs], seed, &device).unwrap()).unwrap();
        let x = Tensor::randn(&[batch, tokens, inputs], seed + 1, &device).unwrap();
        let route = &route[..batch];
        let ctx = Context::eval().with_gate(partition.gate(route, &device).unwrap());
        store.train_only(|_| true);
        let y = map.forward(&ctx, &x).unwrap();
        let dense = |group: Option<usize>, sample: usize| {
            let x = x.narrow(0, sample, 1).unwrap();
            x.matmul(&map.weight(group).unwrap().t().unwrap()).unwrap().add(&bias.tensor()).unwrap()
        };
        let own = |g: u32| (g as usize) < groups;
        let want: Vec<Tensor> = (0..batch)
            .map(|i| dense(own(route[i]).then_some(route[i] as usize), i))
            .collect();
        let want = Tensor::concat(&want.iter().collect::<Vec<_>>(), 0).unwrap();
        let close = |a: &Tensor, b: &Tensor| {
            let (a, b) = (a.to_vec::<f64>().unwrap(), b.to_vec::<f64>().unwrap());
            a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-12 * (1.0 + a.abs()))
        };
        prop_assert!(close(&y, &want));
        let dy = Tensor::randn(y.shape(), seed + 2, &device).unwrap();
        let got = backward_with(&y, dy.clone()).unwrap();
        let expected = backward_with(&want, dy).unwrap();
        for param in store.params() {
            let wanted = expected.get(param.id());
            match got.get(param.id()) {
                Some(grad) => {
                    let zero = Tensor::zeros(&param.shape(), DType::F32, &device).unwrap();
                    prop_assert!(close(grad, wanted.unwrap_or(&zero)), "{}", param.name());
                }
                None => prop_assert!(wanted.is_none() || param.is_empty(), "{}", param.name()),
            }
        }
        // Without a route: the sum of all.
        let mut all = map.weight(None).unwrap();
        for group in 0..groups {
            let own = map.weight(Some(group)).unwrap().sub(&map.weight(None).unwrap()).unwrap();
            all = all.add(&own).unwrap();
        }
        let want = x.matmul(&all.t().unwrap()).unwrap().add(&bias.tensor()).unwrap();
        prop_assert!(close(&map.forward(&Context::eval(), &x).unwrap(), &want));
    }

    /// Dropping the tailors of other groups changes nothing, to the bit.
    #[test]
    fn a_group_does_not_know_the_others(
        (inputs, outputs) in (1..40usize, 1..40usize),
        (learngenes, tailors) in (1..20usize, 1..6usize),
        seed in 0..1000u64,
    ) {
        let device = Device::cpu();
        let (many, one) = (Store::new(&device, seed), Store::new(&device, seed));
        let whole = Partition::new(learngenes, tailors, 3);
        let map = Components::new(&many.at("w"), inputs, outputs, &whole).unwrap();
        let part = Partition { groups: 1, ..whole };
        let alone = Components::new(&one.at("w"), inputs, outputs, &part).unwrap();
        for (from, to) in [("w.learngene", "w.learngene"), ("w.tailors.2", "w.tailors.0")] {
            for leaf in ["u", "sigma", "v"] {
                let value = many.get(&format!("{from}.{leaf}")).unwrap().value();
                one.get(&format!("{to}.{leaf}")).unwrap().set(value.deep_clone().unwrap()).unwrap();
            }
        }
        let x = Tensor::randn(&[2, 3, inputs], seed, &device).unwrap();
        let run = |map: &Components, partition: &Partition, group: u32| {
            let gate = partition.gate(&[group, group], &device).unwrap();
            let ctx = Context::eval().with_gate(gate);
            map.forward(&ctx, &x).unwrap().to_vec::<f32>().unwrap()
        };
        prop_assert_eq!(run(&map, &whole, 2), run(&alone, &part, 0));
    }

    /// Points ±cᵢeᵢ + μ have the mean μ and the covariance diag(2cᵢ²/(2d − 1)); a common rotation changes nothing.
    #[test]
    fn frechet_distance_of_known_normals(
        d in 1..6usize,
        c1 in proptest::collection::vec(0.0..3.0f64, 6),
        c2 in proptest::collection::vec(0.0..3.0f64, 6),
        shift in proptest::collection::vec(-2.0..2.0f64, 6),
        seed in 0..1000u64,
    ) {
        let device = Device::oracle();
        let normal = Tensor::randn(&[d, d], seed, &device).unwrap();
        let (rotation, _) = deltaw_engine::linalg::qr(&normal).unwrap();
        let set = |c: &[f64], shift: &dyn Fn(usize) -> f64| {
            let mut rows = vec![];
            for (i, c) in c.iter().enumerate().take(d) {
                for sign in [-1.0, 1.0] {
                    rows.extend((0..d).map(|j| shift(j) + if i == j { sign * c } else { 0.0 }));
                }
            }
            let rows = Tensor::from_slice(&rows, &[2 * d, d], &device).unwrap();
            rows.converted(DType::F32).unwrap().matmul(&rotation).unwrap()
        };
        let (a, b) = (set(&c1, &|_| 0.0), set(&c2, &|j| shift[j]));
        let std = |c: f64| c * (2.0 / (2 * d - 1) as f64).sqrt();
        let want: f64 = (0..d).map(|i| shift[i].powi(2) + (std(c1[i]) - std(c2[i])).powi(2)).sum();
        let size: f64 = (0..d).map(|i| shift[i].powi(2) + std(c1[i]).powi(2) + std(c2[i]).powi(2)).sum();
        // The points are rounded to f32: half a unit of each of d columns, twice in products.
        let tolerance = (d + 1) as f64 * f64::from(f32::EPSILON) * size + 1e-12;
        let got = frechet_distance(&a, &b).unwrap();
        prop_assert!((got - want).abs() <= tolerance, "{} {}", got, want);
        prop_assert!(frechet_distance(&a, &a).unwrap() <= tolerance);
    }
}

#[test]
fn precision_and_recall_of_clouds() {
    let device = Device::cpu();
    let line = |from: f32, n: usize| {
        let points: Vec<f32> = (0..n).map(|i| from + i as f32).collect();
        Tensor::from_slice(&points, &[n, 1], &device).unwrap()
    };
    // Balls of radius 1 around 0..9 reach from −1 to 10: of 5, 6, … 14 six lie inside; of 0, … 9 six lie within 4 to 15.
    let found = precision_recall(&line(0.0, 10), &line(5.0, 10), 1).unwrap();
    assert_eq!((found.precision, found.recall), (0.6, 0.6));
    let same = precision_recall(&line(0.0, 10), &line(0.0, 10), 3).unwrap();
    assert_eq!((same.precision, same.recall), (1.0, 1.0));
    let far = precision_recall(&line(0.0, 10), &line(100.0, 4), 3).unwrap();
    assert_eq!((far.precision, far.recall), (0.0, 0.0));
    let error = precision_recall(&line(0.0, 3), &line(0.0, 10), 3)
        .unwrap_err()
        .to_string();
    assert!(error.contains("3-th neighbour among 3"), "{error}");
}
