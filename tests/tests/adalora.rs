//! AdaLoRA's invariants, and the whole method against an independent transcription of the paper in plain f64.

use deltaw_engine::optim::AdamW;
use deltaw_engine::prelude::*;
use deltaw_models::layers::Linear;
use deltaw_models::methods::adalora::{AdaLora, Importance};
use deltaw_models::methods::{Attached, Method};
use deltaw_tests::numbers;

/// Two linears `[m, n]` that see the same number of tokens; their matrices from `numbers`.
struct Toy {
    store: Store,
    layers: Vec<Linear>,
    shapes: Vec<(usize, usize)>,
}

const TOKENS: usize = 7;

impl Toy {
    fn new(device: &Device) -> Self {
        let (store, shapes) = (Store::new(device, 5), vec![(5, 4), (3, 6)]);
        let layers = ["a", "b"]
            .iter()
            .zip(&shapes)
            .map(|(name, (m, n))| Linear::no_bias(&store.at(name), Role::Query, 0, *n, *m));
        let toy = Toy {
            layers: layers.collect::<Result<_>>().unwrap(),
            shapes,
            store,
        };
        for (k, (m, n)) in toy.shapes.iter().enumerate() {
            toy.set(
                &format!("{}.weight", toy.name(k)),
                &[*m, *n],
                &numbers(m * n, k as u64),
            );
        }
        toy
    }

    fn name(&self, k: usize) -> &'static str {
        ["a", "b"][k]
    }

    fn tensor(&self, values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape, &Device::cpu())
            .unwrap()
            .to_device(self.store.device())
            .unwrap()
    }

    fn set(&self, name: &str, shape: &[usize], values: &[f32]) {
        self.store
            .get(name)
            .unwrap()
            .set(self.tensor(values, shape))
            .unwrap();
    }

    fn value(&self, name: &str) -> Vec<f64> {
        self.store
            .get(name)
            .unwrap()
            .value()
            .to_vec::<f64>()
            .unwrap()
    }

    /// Inputs `[TOKENS, n]` and targets `[TOKENS, m]` of layer k.
    fn data(&self, k: usize) -> [Vec<f32>; 2] {
        let (m, n) = self.shapes[k];
        [
            numbers(TOKENS * n, 20 + k as u64),
            numbers(TOKENS * m, 30 + k as u64),
        ]
    }

    /// `Σ_k mean (x_k·W′_kᵀ − t_k)²`.
    fn loss(&self) -> Tensor {
        let mut sum: Option<Tensor> = None;
        for (k, layer) in self.layers.iter().enumerate() {
            let ((m, n), [x, t]) = (self.shapes[k], self.data(k));
            let y = layer
                .forward(&Context::eval(), &self.tensor(&x, &[TOKENS, n]))
                .unwrap();
            let one = y
                .sub(&self.tensor(&t, &[TOKENS, m]))
                .unwrap()
                .square()
                .unwrap()
                .mean_all()
                .unwrap();
            sum = Some(sum.map_or(Ok(one.clone()), |s| s.add(&one)).unwrap());
        }
        sum.unwrap()
    }

    fn total_loss(&self, attached: &dyn Attached) -> Tensor {
        match attached.penalty().unwrap() {
            Some(penalty) => self.loss().add(&penalty).unwrap(),
            None => self.loss(),
        }
    }

    /// λ of both layers.
    fn lambdas(&self) -> Vec<f64> {
        [self.value("a.lora_E"), self.value("b.lora_E")].concat()
    }
}

fn toy_method() -> AdaLora {
    AdaLora {
        initial_rank: 3,
        alpha: 2.0,
        gamma: 0.3,
        initial_phase: 0.1,
        final_phase: 0.3,
        every: 3,
        ..AdaLora::target_rank(2)
    }
}

// ---- the transcription: matrices are row-major Vec<f64>

fn product(a: &[f64], b: &[f64], rows: usize, inner: usize, cols: usize) -> Vec<f64> {
    let at = |i: usize, j: usize| (0..inner).map(|k| a[i * inner + k] * b[k * cols + j]).sum();
    (0..rows * cols)
        .map(|ij| at(ij / cols, ij % cols))
        .collect()
}

fn transposed(a: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..rows * cols)
        .map(|i| a[(i % rows) * cols + i / rows])
        .collect()
}

struct Plain {
    m: usize,
    n: usize,
    w: Vec<f64>,
    /// P, λ, Q.
    factors: [Vec<f64>; 3],
    mean: [Vec<f64>; 3],
    spread: [Vec<f64>; 3],
    x: Vec<f64>,
    t: Vec<f64>,
}

const R: usize = 3;

impl Plain {
    /// ∂loss/∂(P, λ, Q), the penalty's part included.
    fn gradients(&self, scale: f64, gamma: f64, matrices: f64) -> [Vec<f64>; 3] {
        let (m, n, [p, l, q]) = (self.m, self.n, &self.factors);
        let lq: Vec<f64> = (0..R * n).map(|i| l[i / n] * q[i]).collect();
        let plq = product(p, &lq, m, R, n);
        let whole: Vec<f64> = self
            .w
            .iter()
            .zip(&plq)
            .map(|(w, d)| w + scale * d)
            .collect();
        let y = product(&self.x, &transposed(&whole, m, n), TOKENS, n, m);
        let dy: Vec<f64> = y
            .iter()
            .zip(&self.t)
            .map(|(y, t)| 2.0 * (y - t) / (TOKENS * m) as f64)
            .collect();
        let g = product(&transposed(&dy, TOKENS, m), &self.x, m, TOKENS, n);
        let gq = product(&g, &transposed(q, R, n), m, n, R);
        let mut dp: Vec<f64> = (0..m * R).map(|i| scale * gq[i] * l[i % R]).collect();
        let dl: Vec<f64> = (0..R)
            .map(|i| scale * (0..m).map(|j| p[j * R + i] * gq[j * R + i]).sum::<f64>())
            .collect();
        let ptg = product(&transposed(p, m, R), &g, R, m, n);
        let mut dq: Vec<f64> = (0..R * n).map(|i| scale * l[i / n] * ptg[i]).collect();
        // ∂‖PᵀP − I‖_F/∂P = 2·P·(PᵀP − I)/‖PᵀP − I‖_F, and the same for Qᵀ.
        let distance = |gram: &mut Vec<f64>| {
            (0..R).for_each(|i| gram[i * R + i] -= 1.0);
            gram.iter().map(|v| v * v).sum::<f64>().sqrt()
        };
        let mut gram = product(&transposed(p, m, R), p, R, m, R);
        let norm = distance(&mut gram);
        let pull = product(p, &gram, m, R, R);
        dp.iter_mut()
            .zip(pull)
            .for_each(|(d, v)| *d += gamma / matrices * 2.0 * v / norm);
        let mut gram = product(q, &transposed(q, R, n), R, n, R);
        let norm = distance(&mut gram);
        let pull = product(&gram, q, R, R, n);
        dq.iter_mut()
            .zip(pull)
            .for_each(|(d, v)| *d += gamma / matrices * 2.0 * v / norm);
        [dp, dl, dq]
    }

    fn score(&self, i: usize) -> f64 {
        let s = |k: usize, at: usize| self.mean[k][at] * self.spread[k][at];
        let of_p = (0..self.m).map(|j| s(0, j * R + i)).sum::<f64>() / self.m as f64;
        let of_q = (0..self.n).map(|j| s(2, i * self.n + j)).sum::<f64>() / self.n as f64;
        s(1, i) + of_p + of_q
    }
}

/// 50 steps of gradient descent: loss by loss and number by number the same. On the oracle, so that both are f64.
#[test]
fn fifty_steps_equal_the_papers_formulas() {
    const STEPS: u64 = 50;
    let (toy, method) = (Toy::new(&Device::oracle()), toy_method());
    let mut attached = method.attach(&toy.store, &[]).unwrap();
    let mut plain: Vec<Plain> = (0..2)
        .map(|k| {
            let ((m, n), [x, t], name) = (toy.shapes[k], toy.data(k), toy.name(k));
            let factors =
                ["lora_B", "lora_E", "lora_A"].map(|leaf| toy.value(&format!("{name}.{leaf}")));
            let zeros = factors.clone().map(|f| vec![0.0; f.len()]);
            let widen = |v: Vec<f32>| v.into_iter().map(f64::from).collect();
            Plain {
                m,
                n,
                w: toy.value(&format!("{name}.weight")),
                factors,
                mean: zeros.clone(),
                spread: zeros,
                x: widen(x),
                t: widen(t),
            }
        })
        .collect();
    let (scale, beta, rate) = (f64::from(2.0f32 / (3.0 + 1e-5)), f64::from(0.85f32), 0.5);
    let mut patterns = vec![];
    for step in 0..STEPS {
        let grads = backward(&toy.total_loss(&*attached)).unwrap();
        for p in toy.store.trained() {
            let moved = p
                .value()
                .sub(&grads.get(p.id()).unwrap().affine(rate, 0.0).unwrap())
                .unwrap();
            p.set(moved).unwrap();
        }
        attached.after_step(step, STEPS, &grads).unwrap();

        let t = step as f64;
        for site in &mut plain {
            let grads = site.gradients(scale, 0.3, 4.0);
            for (k, grad) in grads.iter().enumerate() {
                for (i, g) in grad.iter().enumerate() {
                    site.factors[k][i] -= rate * g;
                    if t < 35.0 {
                        let now = (site.factors[k][i] * g).abs();
                        site.mean[k][i] = beta * site.mean[k][i] + (1.0 - beta) * now;
                        site.spread[k][i] =
                            beta * site.spread[k][i] + (1.0 - beta) * (now - site.mean[k][i]).abs();
                    }
                }
            }
        }
        // t_i = 5, t_f = 15: b falls from 6 to 4.
        if t >= 35.0 || (t >= 5.0 && step % 3 == 0) {
            let budget = if t >= 35.0 {
                4
            } else {
                4 + (2.0 * (1.0 - (t - 5.0) / 30.0).powi(3)).round() as usize
            };
            let mut all: Vec<(f64, usize, usize)> = (0..6)
                .map(|i| (plain[i / R].score(i % R), i / R, i % R))
                .collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            all[budget..]
                .iter()
                .for_each(|(_, s, i)| plain[*s].factors[1][*i] = 0.0);
            patterns.push(
                all[..budget]
                    .iter()
                    .map(|(_, s, i)| s * R + i)
                    .collect::<std::collections::BTreeSet<_>>(),
            );
        }
        for (k, site) in plain.iter().enumerate() {
            for (leaf, want) in ["lora_B", "lora_E", "lora_A"].iter().zip(&site.factors) {
                let got = toy.value(&format!("{}.{leaf}", toy.name(k)));
                for (a, b) in got.iter().zip(want) {
                    // Two orders of the same sums in f64, over 50 steps: 1e-10 is far above their roundings.
                    assert!(
                        (a - b).abs() <= 1e-10 * (1.0 + b.abs()),
                        "step {step}, site {k}, {leaf}: {a} and {b}"
                    );
                }
            }
        }
    }
    patterns.dedup();
    assert!(patterns.len() > 2, "the pattern moved: {patterns:?}");
    assert_eq!(
        attached
            .ranks()
            .unwrap()
            .iter()
            .map(|(_, r)| r)
            .sum::<usize>(),
        4
    );
}

#[test]
fn training_keeps_the_budget_after_every_step() {
    let (total, device) = (40, Device::cpu());
    for importance in [
        Importance::SensitivityUncertainty,
        Importance::Sensitivity,
        Importance::Magnitude,
    ] {
        let (toy, method) = (
            Toy::new(&device),
            AdaLora {
                importance,
                ..toy_method()
            },
        );
        let before = no_grad(|| toy.loss()).item().unwrap();
        let mut attached = method.attach(&toy.store, &[]).unwrap();
        for site in toy.store.sites() {
            assert!(
                site.delta()
                    .unwrap()
                    .unwrap()
                    .to_vec::<f32>()
                    .unwrap()
                    .iter()
                    .all(|x| *x == 0.0),
                "ΔW = 0 at the start"
            );
        }
        assert_eq!(no_grad(|| toy.loss()).item().unwrap(), before);
        assert_eq!(
            toy.store.count_trained(),
            3 * (5 + 4 + 1) + 3 * (3 + 6 + 1),
            "Σ r₀(m + n + 1)"
        );
        assert_eq!(
            attached.parameters().unwrap(),
            toy.store.count_trained(),
            "nothing is pruned yet"
        );
        let (params, mut optimiser, mut last, mut settled) =
            (toy.store.trained(), AdamW::new(0.1), 6, None);
        for step in 0..total {
            let grads = backward(&toy.total_loss(&*attached)).unwrap();
            optimiser.step(&params, &grads, 0.02).unwrap();
            attached.after_step(step, total, &grads).unwrap();
            let budget = method.budget(step, total, 6, 4);
            assert!(budget <= last && (step < 28 || budget == 4));
            last = budget;
            let kept: Vec<bool> = toy.lambdas().iter().map(|l| *l != 0.0).collect();
            let count = kept.iter().filter(|k| **k).count();
            if step >= 28 || (step >= 4 && step % 3 == 0) {
                assert_eq!(count, budget, "step {step}: exactly b(t) non-zero λ");
            }
            if step >= 28 {
                // Adam's moments and the decay of 0.1 move every λ; the pattern stays.
                assert_eq!(*settled.get_or_insert(kept.clone()), kept, "step {step}");
            }
        }
        let ranks = attached.ranks().unwrap();
        let settled = settled.unwrap();
        assert_eq!(
            ranks[0],
            ("a".to_string(), settled[..3].iter().filter(|k| **k).count())
        );
        assert_eq!(
            ranks[1],
            ("b".to_string(), settled[3..].iter().filter(|k| **k).count())
        );
        assert_eq!(
            attached.parameters().unwrap(),
            ranks[0].1 * 10 + ranks[1].1 * 10,
            "Σ kept·(m + n + 1)"
        );
    }
}

/// Gradients made by hand: 1 for the triplets named, 0 elsewhere.
fn grads_for(toy: &Toy, wanted: &[usize]) -> Gradients {
    let mut grads = Gradients::default();
    for (k, (m, n)) in toy.shapes.iter().enumerate() {
        let on = |i: usize| wanted.contains(&(k * R + i)) as u8 as f32;
        let mut put = |leaf: &str, shape: &[usize], values: Vec<f32>| {
            let id = toy
                .store
                .get(&format!("{}.{leaf}", toy.name(k)))
                .unwrap()
                .id();
            grads.set(id, toy.tensor(&values, shape));
        };
        put("lora_A", &[R, *n], (0..R * n).map(|i| on(i / n)).collect());
        put("lora_B", &[*m, R], (0..R * m).map(|i| on(i % R)).collect());
        put("lora_E", &[R], (0..R).map(on).collect());
    }
    grads
}

#[test]
fn a_pruned_triplet_can_come_back_until_the_pattern_is_fixed() {
    let toy = Toy::new(&Device::cpu());
    let method = AdaLora {
        every: 1,
        initial_phase: 0.0,
        final_phase: 0.5,
        ..toy_method()
    };
    let mut attached = method.attach(&toy.store, &[]).unwrap();
    let revive = || {
        toy.set("a.lora_E", &[R], &[1.0; R]);
        toy.set("b.lora_E", &[R], &[1.0; R]);
    };
    let kept = || -> Vec<usize> { (0..6).filter(|i| toy.lambdas()[*i] != 0.0).collect() };
    // Ten falling steps, the last with a budget of 4, in which triplets 0 and 1 do not matter.
    for step in 0..10 {
        revive();
        attached
            .after_step(step, 20, &grads_for(&toy, &[2, 3, 4, 5]))
            .unwrap();
    }
    assert_eq!(kept(), [2, 3, 4, 5]);
    let toy_again = Toy::new(&Device::cpu());
    let mut again = method.attach(&toy_again.store, &[]).unwrap();
    for step in 0..10 {
        toy_again.set("a.lora_E", &[R], &[1.0; R]);
        toy_again.set("b.lora_E", &[R], &[1.0; R]);
        // From the sixth step on 0 and 1 matter, and 4 and 5 no more: a row that was cut out could not return.
        let wanted: &[usize] = if step < 6 {
            &[2, 3, 4, 5]
        } else {
            &[0, 1, 2, 3]
        };
        let mut grads = grads_for(&toy_again, wanted);
        grads.scale(if step < 6 { 1.0 } else { 100.0 }).unwrap();
        again.after_step(step, 20, &grads).unwrap();
    }
    let kept_again: Vec<usize> = (0..6).filter(|i| toy_again.lambdas()[*i] != 0.0).collect();
    assert_eq!(kept_again, [0, 1, 2, 3]);
    // In the final phase scores are frozen: nothing returns, whatever its gradient.
    for step in 10..20 {
        revive();
        attached
            .after_step(step, 20, &grads_for(&toy, &[0, 1]))
            .unwrap();
        assert_eq!(kept(), [2, 3, 4, 5]);
    }
}

#[test]
fn equal_scores_keep_the_first_and_never_more_than_the_budget() {
    let toy = Toy::new(&Device::cpu());
    let mut attached = AdaLora {
        final_phase: 1.0,
        initial_phase: 0.0,
        ..toy_method()
    }
    .attach(&toy.store, &[])
    .unwrap();
    toy.set("a.lora_E", &[R], &[1.0; R]);
    toy.set("b.lora_E", &[R], &[1.0; R]);
    attached.after_step(0, 10, &Gradients::default()).unwrap();
    assert_eq!(toy.lambdas(), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
}

#[test]
fn the_penalty_is_zero_for_orthonormal_factors_only() {
    let toy = Toy::new(&Device::cpu());
    let attached = toy_method().attach(&toy.store, &[]).unwrap();
    let unit = |rows: usize, cols: usize| -> Vec<f32> {
        (0..rows * cols)
            .map(|i| (i / cols == i % cols) as u8 as f32)
            .collect()
    };
    let orthonormal = || {
        for (name, (m, n)) in ["a", "b"].iter().zip(&toy.shapes) {
            toy.set(&format!("{name}.lora_A"), &[R, *n], &unit(R, *n));
            toy.set(&format!("{name}.lora_B"), &[*m, R], &unit(*m, R));
        }
    };
    orthonormal();
    let penalty = || attached.penalty().unwrap().unwrap();
    // The norm's root starts at the smallest normal number.
    assert!(penalty().item().unwrap() < 1e-18);
    assert!(
        backward(&penalty()).unwrap().iter().all(|(_, g)| g
            .to_vec::<f32>()
            .unwrap()
            .iter()
            .all(|x| *x == 0.0))
    );
    let mut longer = unit(5, R);
    longer[0] = 2.0;
    toy.set("a.lora_B", &[5, R], &longer);
    // PᵀP − I has one element, 2² − 1, in one of four matrices: γ·3/4.
    assert!((penalty().item().unwrap() - 0.3 * 0.75).abs() < 1e-6);
    orthonormal();
    let mut bent = unit(R, 6);
    bent[5] = 1e-3;
    toy.set("b.lora_A", &[R, 6], &bent);
    assert!(penalty().item().unwrap() > 1e-8);
    let none = AdaLora {
        gamma: 0.0,
        ..toy_method()
    };
    assert!(
        none.attach(&Toy::new(&Device::cpu()).store, &[])
            .unwrap()
            .penalty()
            .unwrap()
            .is_none()
    );
}

#[test]
fn impossible_settings_are_refused() {
    let bad: [fn(&mut AdaLora); 6] = [
        |m| m.target_rank = 0,
        |m| m.initial_rank = 1,
        |m| m.initial_phase = 0.9,
        |m| m.beta1 = 1.0,
        |m| m.every = 0,
        |m| m.final_phase = f64::NAN,
    ];
    for change in bad {
        let mut method = toy_method();
        change(&mut method);
        let toy = Toy::new(&Device::cpu());
        let message = method.attach(&toy.store, &[]).err().unwrap().to_string();
        assert!(
            message.starts_with("adalora: wanted 0 < target rank"),
            "{message}"
        );
        assert!(
            toy.store
                .params()
                .iter()
                .all(|p| !p.name().contains("lora")),
            "nothing is left behind"
        );
    }
}
