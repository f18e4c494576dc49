//! Both rules against their formulas in f64, and what the optimiser adds to a rule.

use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::param::Param;
use crate::tape::Gradients;
use crate::tensor::Tensor;

fn gradients(param: &Param, grad: &[f32]) -> Gradients {
    let mut grads = Gradients::default();
    let grad = Tensor::from_slice(grad, &param.shape(), &Device::cpu()).unwrap();
    grads.set(param.id(), grad);
    grads
}

fn step<R: Rule>(optimizer: &mut Optimizer<R>, param: &Param, grad: &[f32], lr: f32) {
    let grads = gradients(param, grad);
    optimizer
        .step(std::slice::from_ref(param), &grads, lr)
        .unwrap();
}

fn value(param: &Param) -> Vec<f64> {
    param.value().to_vec().unwrap()
}

/// Within `roundings` of f32 of numbers up to 1.
fn near(got: &[f64], want: &[f64], roundings: usize) {
    assert_eq!(got.len(), want.len());
    for (a, b) in got.iter().zip(want) {
        let limit = roundings as f64 * f64::from(f32::EPSILON) / 2.0;
        assert!((a - b).abs() <= limit, "{got:?}, wanted {want:?}");
    }
}

#[test]
fn the_first_adam_step_has_the_size_of_the_rate() {
    let param = Param::new("w", Tensor::from([1.0, -1.0]));
    step(&mut AdamW::new(0.0), &param, &[0.3, -70.0], 0.01);
    near(&value(&param), &[0.99, -0.99], 4);
}

#[test]
fn momentum_by_hand() {
    let param = Param::new("w", Tensor::from([1.0]));
    let mut plain = Sgd::new(0.9);
    for want in [0.9, 0.71] {
        step(&mut plain, &param, &[1.0], 0.1);
        near(&value(&param), &[want], 3);
    }
    let param = Param::new("w", Tensor::from([1.0]));
    let mut ahead = Sgd::new(0.9);
    ahead.rule.nesterov = true;
    // v = 1, then 1.9; steps 1 + 0.9·1 and 1 + 0.9·1.9.
    for want in [0.81, 0.539] {
        step(&mut ahead, &param, &[1.0], 0.1);
        near(&value(&param), &[want], 4);
    }
    let param = Param::new("w", Tensor::from([1.0]));
    let mut bare = Sgd::new(0.0);
    bare.weight_decay = 0.5;
    step(&mut bare, &param, &[0.25], 0.1);
    near(&value(&param), &[1.0 - 0.1 * 0.75], 2);
}

#[test]
fn rows_grown_later_count_their_own_updates() {
    let param = Param::new("w", Tensor::from([[0.0]]));
    let mut optimizer = AdamW::new(0.0);
    for _ in 0..5 {
        step(&mut optimizer, &param, &[1.0], 0.01);
    }
    param
        .grow(&Tensor::from([[0.0]]), optimizer.steps())
        .unwrap();
    step(&mut optimizer, &param, &[1.0, 1.0], 0.01);
    // A constant gradient moves every row by the rate at each of its updates.
    near(&value(&param), &[-0.06, -0.01], 12);
    optimizer.reset_rows(&param, 0..1).unwrap();
    step(&mut optimizer, &param, &[-1.0, 1.0], 0.01);
    near(&value(&param), &[-0.05, -0.02], 14);
}

#[test]
fn steps_without_a_gradient_do_not_age() {
    let param = Param::new("w", Tensor::from([0.0]));
    let mut optimizer = AdamW::new(0.0);
    step(&mut optimizer, &param, &[1.0], 0.01);
    for _ in 0..10 {
        optimizer
            .step(std::slice::from_ref(&param), &Gradients::default(), 0.01)
            .unwrap();
    }
    step(&mut optimizer, &param, &[1.0], 0.01);
    near(&value(&param), &[-0.02], 4);
    assert_eq!(optimizer.steps(), 12);
}

#[test]
fn row_settings_hold() {
    let param = Param::new("w", Tensor::from([[1.0], [1.0], [1.0], [1.0]]));
    param.edit_rows(1..3, |r| r.lr_scale = 0.5).unwrap();
    param.edit_rows(2..3, |r| r.frozen = true).unwrap();
    param
        .edit_rows(3..4, |r| r.weight_decay = Some(2.0))
        .unwrap();
    assert_eq!(
        param
            .ranges()
            .iter()
            .map(|r| r.rows.clone())
            .collect::<Vec<_>>(),
        [0..1, 1..2, 2..3, 3..4]
    );
    step(&mut Sgd::new(0.0), &param, &[1.0; 4], 0.1);
    near(&value(&param), &[0.9, 0.95, 1.0, 0.7], 3);
    let message = param.edit_rows(3..5, |_| ()).unwrap_err().to_string();
    assert_eq!(message, "parameter `w`: has 4 rows, asked for 3..5");
}

#[test]
fn a_group_that_joins_late_has_its_own_clock() {
    let (base, late) = (
        Param::new("base", Tensor::from([0.0])),
        Param::new("late", Tensor::from([0.0])),
    );
    late.set_group("late");
    let mut optimizer = Sgd::new(0.0);
    for _ in 0..3 {
        step(&mut optimizer, &base, &[1.0], 0.125);
    }
    let rate = Rate::Own {
        peak: 0.5,
        schedule: Schedule::LinearWarmup {
            warmup: 2,
            total: 4,
        },
    };
    optimizer.set_group(
        "late",
        Group {
            rate,
            weight_decay: 0.0,
        },
    );
    // Factors ½, 1, 1, ½ of 0.5.
    for want in [-0.25, -0.75, -1.25, -1.5] {
        step(&mut optimizer, &late, &[1.0], 0.125);
        assert_eq!(value(&late), [want]);
    }
    let rate = Rate::Scaled(2.0);
    optimizer.set_group(
        "late",
        Group {
            rate,
            weight_decay: 0.0,
        },
    );
    step(&mut optimizer, &late, &[1.0], 0.125);
    assert_eq!((value(&late), value(&base)), (vec![-1.75], vec![-0.375]));
}

#[test]
fn masked_elements_keep_value_and_state() {
    let param = Param::new("w", Tensor::from([1.0, 1.0]));
    let mut optimizer = AdamW::new(0.5);
    optimizer
        .set_mask(&param, Some(&Tensor::from([1.0, 0.0])))
        .unwrap();
    step(&mut optimizer, &param, &[1.0, 1.0], 0.125);
    assert_eq!(value(&param)[1], 1.0);
    near(&value(&param)[..1], &[1.0 - 0.125 - 0.0625], 3);
    optimizer.set_mask(&param, None).unwrap();
    optimizer.weight_decay = 0.0;
    let saved = optimizer.state(std::slice::from_ref(&param)).unwrap();
    assert_eq!(
        saved.get("w.mean").unwrap().to_vec::<f32>().unwrap()[1],
        0.0
    );
    let wrong = optimizer.set_mask(&param, Some(&Tensor::from([1.0])));
    assert_eq!(
        wrong.unwrap_err().to_string(),
        "set_mask: w is [1], wanted [2]"
    );
}

#[test]
fn a_master_copy_keeps_what_16_bits_lose() {
    let half = |x: f32| Tensor::from([x]).converted(DType::Bf16).unwrap();
    let run = |precision| {
        let param = Param::new("w", half(1.0));
        let mut optimizer = Sgd::new(0.0);
        optimizer.precision = precision;
        for _ in 0..10 {
            step(&mut optimizer, &param, &[1.0], 0.001);
        }
        (param, optimizer)
    };
    // A unit below 1 is 2⁻⁸: steps of 0.001 round away.
    assert_eq!(value(&run(Precision::Pure).0), [1.0]);
    let (param, mut optimizer) = run(Precision::Master);
    assert_eq!(value(&param), [bf16::from_f32(0.99).to_f64()]);
    // Somebody sets another value: the copy follows.
    param.set(half(0.5)).unwrap();
    step(&mut optimizer, &param, &[0.0], 0.001);
    assert_eq!(value(&param), [0.5]);
    // Rows that are added leave the others' copies alone.
    let (param, mut optimizer) = run(Precision::Master);
    param.grow(&half(2.0), optimizer.steps()).unwrap();
    step(&mut optimizer, &param, &[0.0, 0.0], 0.001);
    let saved = optimizer.state(std::slice::from_ref(&param)).unwrap();
    near(
        &saved.get("w.master").unwrap().to_vec().unwrap(),
        &[0.99, 2.0],
        12,
    );
}

#[test]
fn a_run_goes_on_from_its_state_bit_for_bit() {
    let start = Tensor::from([[0.3, -1.0], [2.0, 0.1]]);
    let grads = [
        [0.5, -0.25, 1.0, 2.0],
        [-1.0, 0.125, 0.3, 0.7],
        [0.1, 0.2, -0.3, 0.4],
    ];
    let make = || {
        let mut optimizer = AdamW::new(0.1);
        let rate = Rate::Own {
            peak: 0.1,
            schedule: Schedule::Cosine {
                warmup: 1,
                total: 5,
                floor: 0.0,
            },
        };
        optimizer.set_group(
            "default",
            Group {
                rate,
                weight_decay: 0.1,
            },
        );
        optimizer
    };
    let (param, mut whole) = (Param::new("w", start.clone()), make());
    grads.iter().for_each(|g| step(&mut whole, &param, g, 0.0));

    let (other, mut first) = (Param::new("w", start), make());
    step(&mut first, &other, &grads[0], 0.0);
    let saved = first.state(std::slice::from_ref(&other)).unwrap();
    let bytes = crate::checkpoint::to_bytes(&saved).unwrap();
    let read = crate::checkpoint::from_file_bytes("state", &bytes).unwrap();
    let mut second = make();
    second
        .load_state(std::slice::from_ref(&other), &read)
        .unwrap();
    grads[1..]
        .iter()
        .for_each(|g| step(&mut second, &other, g, 0.0));
    assert_eq!(value(&param), value(&other));
    let missing = second
        .load_state(&[], &Default::default())
        .unwrap_err()
        .to_string();
    assert_eq!(
        missing,
        "parameter `optimizer.steps`: missing in the optimiser's state"
    );
}

#[test]
fn hooks_are_called_in_order_with_gradients_alive() {
    #[derive(Default)]
    struct Log(Vec<(&'static str, f64)>);
    impl Log {
        fn note(&mut self, at: &'static str, grads: &Gradients) -> Result<()> {
            let norm = global_norm(grads)?;
            self.0.push((at, norm));
            Ok(())
        }
    }
    impl Hooks for Log {
        fn before_clipping(&mut self, grads: &mut Gradients) -> Result<()> {
            grads.scale(2.0)?;
            self.note("before", grads)
        }
        fn after_clipping(&mut self, grads: &mut Gradients) -> Result<()> {
            self.note("after", grads)
        }
        fn after_step(&mut self, grads: &Gradients) -> Result<()> {
            self.note("step", grads)
        }
    }
    let param = Param::new("w", Tensor::from([1.0]));
    let (mut grads, mut log) = (gradients(&param, &[2.0]), Log::default());
    let params = std::slice::from_ref(&param);
    let clip = Clip::Norm(1.0);
    let norm = descend(&mut Sgd::new(0.0), params, &mut grads, 0.5, clip, &mut log).unwrap();
    assert_eq!((norm, value(&param)), (4.0, vec![0.5]));
    assert_eq!(log.0, [("before", 4.0), ("after", 1.0), ("step", 1.0)]);
}

#[test]
fn misfits_are_said() {
    let param = Param::new("w", Tensor::from([1.0]));
    let mut grads = Gradients::default();
    grads.set(param.id(), Tensor::from([1.0, 2.0]));
    let params = std::slice::from_ref(&param);
    let message = AdamW::new(0.0)
        .step(params, &grads, 0.1)
        .unwrap_err()
        .to_string();
    assert_eq!(message, "parameter `w`: is [1], its gradient [2]");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// On lengths around the vector width; gradients in [−1, 1), where a step of Adam is at most 0.01·(1 + λ|w|) and has
    /// some ten roundings, and a step of momentum grows to 0.01·1/(1 − μ).
    #[test]
    fn both_as_their_formulas(n in 1usize..70, steps in 1usize..6, decay in 0.0f32..0.5, nesterov: bool, oracle: bool, seed: u32) {
        let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let device = if oracle { Device::oracle() } else { Device::cpu() };
        let start: Vec<f32> = (0..n).map(number).collect();
        let make = || Param::new("w", Tensor::from_slice(&start, &[n], &device).unwrap());
        let (adam, sgd) = (make(), make());
        let (mut a, mut s) = (AdamW::new(decay), Sgd::new(0.75));
        s.weight_decay = decay;
        s.rule.nesterov = nesterov;
        let exact = || start.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let (mut wa, mut m, mut v) = (exact(), vec![0.0f64; n], vec![0.0f64; n]);
        let (mut ws, mut u) = (exact(), vec![0.0f64; n]);
        let (b1, b2, lr, decay) = (f64::from(0.9f32), f64::from(0.999f32), f64::from(0.01f32), f64::from(decay));
        for t in 1..=steps {
            let grad: Vec<f32> = (0..n).map(|i| number(i + 1000 * t)).collect();
            step(&mut a, &adam, &grad, 0.01);
            step(&mut s, &sgd, &grad, 0.01);
            for i in 0..n {
                let g = f64::from(grad[i]);
                m[i] = b1 * m[i] + (1.0 - b1) * g;
                v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                let root = (v[i] / (1.0 - b2.powi(t as i32))).sqrt() + 1e-8;
                wa[i] -= lr * (m[i] / (1.0 - b1.powi(t as i32)) / root + decay * wa[i]);
                let g = g + decay * ws[i];
                u[i] = 0.75 * u[i] + g;
                ws[i] -= lr * if nesterov { g + 0.75 * u[i] } else { u[i] };
            }
        }
        // One rounding of a weight up to 1.1 a step, and ten of a move up to 0.06; and moments whose sums nearly cancel
        // move by their roundings over the root, which is at least |g|/32.
        near(&value(&adam), &wa, 4 * steps);
        near(&value(&sgd), &ws, 4 * steps);
    }
}
