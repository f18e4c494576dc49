//! The methods of PEFT on one matrix: gradients by differences of the loss in f64, merging, and a base without a gradient.

use deltaw_engine::prelude::*;
use deltaw_models::methods::Method;
use deltaw_models::methods::Targets;
use deltaw_models::methods::dora::Dora;
use deltaw_models::methods::ia3::Ia3;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::oft::{Blocks, Oft};
use deltaw_models::methods::randlora::RandLora;
use deltaw_models::methods::vera::Vera;
use deltaw_tests::numbers;
use proptest::prelude::*;

fn on(device: &Device, values: &[f64], shape: &[usize]) -> Tensor {
    let host: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    if device.is_cpu() {
        return Tensor::from_slice(&host, shape, device).unwrap();
    }
    let mut tensor = Tensor::empty(shape, DType::F32, device).unwrap();
    let backend = device.backend();
    backend
        .write(&mut tensor, DType::F64, bytemuck::cast_slice(values))
        .unwrap();
    tensor
}

fn wide(count: usize, seed: u64) -> Vec<f64> {
    numbers(count, seed).into_iter().map(f64::from).collect()
}

/// `y = f(x)` of one adapted matrix with a bias, and what trains.
struct Case {
    store: Store,
    x: Tensor,
    c: Tensor,
}

impl Case {
    fn new(method: &dyn Method, device: &Device, [t, m, n]: [usize; 3], seed: u64) -> Self {
        let store = Store::new(device, seed);
        let add = |name: &str, shape: &[usize], seed| {
            let values = wide(shape.iter().product(), seed);
            store.add(name, on(device, &values, shape)).unwrap()
        };
        let (weight, bias) = (
            add("w.weight", &[m, n], seed),
            add("w.bias", &[m], seed + 1),
        );
        store.add_site(Site::linear("w", Role::Key, 0, &weight, Some(&bias)));
        method.attach(&store, &[]).unwrap();
        for (k, p) in store.trained().iter().enumerate() {
            let values = wide(p.len(), seed + 10 + k as u64);
            p.set(on(device, &values, &p.shape())).unwrap();
        }
        Case {
            x: on(device, &wide(t * n, seed + 5), &[t, n]),
            c: on(device, &wide(t * m, 77), &[t, m]),
            store,
        }
    }

    /// Σ c ⊙ y.
    fn value(&self) -> Tensor {
        let y = self.store.sites()[0]
            .forward(&Context::eval(), &self.x)
            .unwrap();
        y.mul(&self.c).unwrap().sum_all().unwrap()
    }

    fn gradients(&self) -> Vec<Vec<f64>> {
        let grads = backward(&self.value()).unwrap();
        let weight = self.store.get("w.weight").unwrap();
        assert!(grads.get(weight.id()).is_none(), "W is frozen");
        let trained = self.store.trained();
        assert_eq!(grads.len(), trained.len());
        let of = |p: &Param| grads.get(p.id()).unwrap().to_vec().unwrap();
        trained.iter().map(of).collect()
    }
}

fn methods(r: usize) -> Vec<Box<dyn Method>> {
    let oft = |terms, shared| Oft {
        terms,
        shared,
        blocks: Blocks::Size(3),
        targets: Targets::default(),
    };
    let stored = RandLora {
        alpha: r as f32,
        dropout: 0.5,
        ..RandLora::rank(r)
    };
    let ia3 = |inputs| Ia3 {
        inputs: Targets::Roles(inputs),
        ..Ia3::default()
    };
    vec![
        Box::new(Vera::rank(r)),
        Box::new(ia3(vec![])),
        Box::new(ia3(vec![Role::Key])),
        Box::new(oft(None, false)),
        Box::new(oft(Some(6), false)),
        Box::new(oft(Some(3), true)),
        Box::new(oft(Some(2), false)),
        Box::new(stored),
        Box::new(Lora {
            rank_stabilised: true,
            ..Lora::rank(r)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Polynomials and one rational function of bounded numbers: differences of step h = 1e-5 err by h² times the third
    /// derivative, below 1e4, and by 1e-16/h.
    #[test]
    fn gradients_are_those_of_the_formulas(t in 1..4usize, m in 1..7usize, n in 2..8usize, r in 1..4usize, seed in 0..1000u64) {
        for method in methods(r) {
            let name = method.name();
            let exact = Case::new(&*method, &Device::oracle(), [t, m, n], seed);
            let grads = exact.gradients();
            for (k, param) in exact.store.trained().iter().enumerate() {
                let start = param.value().to_vec::<f64>().unwrap();
                for i in 0..start.len() {
                    let moved = |h: f64| {
                        let mut values = start.clone();
                        values[i] += h;
                        param.set(on(&Device::oracle(), &values, &param.shape())).unwrap();
                        exact.value().item().unwrap()
                    };
                    let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    let got = grads[k][i];
                    prop_assert!((got - want).abs() <= 1e-6 * (1.0 + want.abs()), "{name}: {}[{i}] is {got}, wanted {want}", param.name());
                }
                param.set(on(&Device::oracle(), &start, &param.shape())).unwrap();
            }
            // The longest chains: n + m + t products and sums, r and ⌈n/r⌉·r of bases up to √6, k powers of at most five
            // with the row sums of Q, at most 2.
            let near = Case::new(&*method, &Device::cpu(), [t, m, n], seed).gradients();
            let size = grads.iter().flatten().fold(1.0f64, |a, v| a.max(v.abs()));
            let units = 4.0 * (t + m + n + 2 * (n + r) + 6 * 5 * 3) as f64;
            for (a, b) in near.iter().flatten().zip(grads.iter().flatten()) {
                prop_assert!((a - b).abs() <= units * f64::from(f32::EPSILON) * size, "{name}: {a} on the CPU, {b} on the oracle");
            }
        }
    }

    /// The merged matrix computes what the update did, up to the roundings of its elements, and comes back to the bit.
    #[test]
    fn merging_is_the_update(t in 1..4usize, m in 1..7usize, n in 2..8usize, r in 1..4usize, seed in 0..1000u64) {
        for method in methods(r) {
            let name = method.name();
            let case = Case::new(&*method, &Device::cpu(), [t, m, n], seed);
            let (site, y) = (case.store.sites()[0].clone(), case.value().item().unwrap());
            let bits = || ["w.weight", "w.bias"].map(|p| case.store.get(p).unwrap().value().to_vec::<f32>().unwrap());
            let before = bits();
            site.merge().unwrap();
            let merged = case.value().item().unwrap();
            let largest = bits()[0].iter().fold(1.0f32, |a, v| a.max(v.abs()));
            // t·m numbers of n products with elements up to the largest, each made in some 50 roundings.
            let allowed = (t * m * n) as f64 * 50.0 * f64::from(f32::EPSILON * largest);
            prop_assert!((merged - y).abs() <= allowed, "{name}: {merged} merged, {y} before");
            site.unmerge().unwrap();
            prop_assert_eq!(bits(), before);
            prop_assert_eq!(case.value().item().unwrap(), y);
        }
    }
}

/// DoRA with dropout in training: the paper's terms, each worked out from the dropped input.
#[test]
fn doras_dropout_acts_on_everything_but_the_base() {
    let method = Dora {
        lora: Lora {
            dropout: 0.5,
            ..Lora::rank(2)
        },
    };
    let case = Case::new(&method, &Device::oracle(), [3, 4, 5], 3);
    let site = case.store.sites()[0].clone();
    let ctx = Context::train(7, 2);
    let get = |name: &str| case.store.get(name).unwrap().value();
    let (w, b) = (get("w.weight"), get("w.bias"));
    let dropped = dropout(&case.x, 0.5, &ctx, "w.lora_A").unwrap();
    assert_ne!(
        dropped.to_vec::<f64>().unwrap(),
        case.x.to_vec::<f64>().unwrap()
    );
    // W′ − W without dropout, from the identity.
    let eye = Tensor::eye(5, &Device::oracle()).unwrap();
    let plain = linear(&eye, &w, Some(&b)).unwrap();
    let delta = site
        .forward(&Context::eval(), &eye)
        .unwrap()
        .sub(&plain)
        .unwrap();
    let want = linear(&case.x, &w, Some(&b)).unwrap();
    let want = want.add(&dropped.matmul(&delta).unwrap()).unwrap();
    let got = site.forward(&ctx, &case.x).unwrap();
    for (a, b) in got
        .to_vec::<f64>()
        .unwrap()
        .iter()
        .zip(want.to_vec::<f64>().unwrap())
    {
        assert!((a - b).abs() <= 1e-13, "{a} and {b}");
    }
}
