use super::sample::Step;
use super::*;

fn near(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{got}, wanted {want}");
}

/// Two steps by hand: β = 0.05 and 10 (of T = 2, scaled by 500) would leave (0, 1); four of T = 1000 do not.
#[test]
fn the_schedule_is_that_of_the_paper() {
    let process = Process::linear(1000);
    near(process.beta[0], 1e-4, 1e-18);
    near(process.beta[999], 0.02, 1e-15);
    near(process.alpha_bar[0], 0.9999, 1e-15);
    near(
        process.alpha_bar[1],
        0.9999 * (1.0 - process.beta[1]),
        1e-15,
    );
    // Σ ln(1 − βₜ) over the schedule.
    near(process.alpha_bar[999], 4.035_829_765_375_675e-5, 1e-15);
    let first = process.posterior(0);
    near(first.of_start, 1.0, 1e-12);
    near(first.of_sample, 0.0, 1e-15);
    assert_eq!(first.variance, 0.0);
}

#[test]
fn a_spaced_process_has_the_noise_of_the_steps_it_keeps() {
    let process = Process::linear(1000);
    let spaced = process.spaced(5);
    assert_eq!(spaced.steps, [0, 250, 500, 749, 999]);
    for (i, t) in spaced.steps.iter().enumerate() {
        let whole = process.alpha_bar[*t as usize];
        near(spaced.alpha_bar[i], whole, 1e-12 * whole.max(1e-3));
    }
    assert_eq!(process.spaced(1).steps, [999]);
    assert_eq!(process.spaced(1000), {
        let mut same = process.spaced(1000);
        same.steps = (0..1000).collect();
        same
    });
}

/// A process of two steps whose numbers are exact: ᾱ = (0.64, 0.16).
fn two() -> Process {
    Process::of(vec![0, 1], vec![0.36, 0.75])
}

#[test]
fn one_step_of_each_sampler_by_hand() {
    let device = Device::oracle();
    let tensor = |values: &[f64]| Tensor::from_slice(values, &[1, values.len()], &device).unwrap();
    let (x, eps) = (tensor(&[1.0]), tensor(&[0.5]));
    let process = two();
    let step = Step {
        process: &process,
        t: 1,
        clip: false,
    };
    // x̂₀ = (1 − √0.84·0.5)/0.4.
    let start = (1.0 - 0.84f64.sqrt() * 0.5) / 0.4;
    // of_start = 0.8·0.75/0.84, of_sample = 0.5·0.36/0.84, β̃ = 0.75·0.36/0.84.
    let mean = (0.6 * start + 0.18) / 0.84;
    let (got, spread) = step.next(Sampler::Ddpm(Variance::Small), &x, &eps).unwrap();
    near(got.item().unwrap(), mean, 1e-12);
    near(
        spread.unwrap().item().unwrap(),
        (0.27f64 / 0.84).sqrt(),
        1e-7,
    );
    let (_, spread) = step.next(Sampler::Ddpm(Variance::Large), &x, &eps).unwrap();
    near(spread.unwrap().item().unwrap(), 0.75f64.sqrt(), 1e-7);
    // v = 1 is β, v = −1 is β̃.
    for (v, want) in [
        (1.0, 0.75f64),
        (-1.0, 0.27 / 0.84),
        (0.0, (0.75 * 0.27f64 / 0.84).sqrt()),
    ] {
        let answer = tensor(&[0.5, v]);
        let (_, spread) = step
            .next(Sampler::Ddpm(Variance::Learned), &x, &answer)
            .unwrap();
        near(spread.unwrap().item().unwrap(), want.sqrt(), 1e-12);
    }
    let (got, spread) = step.next(Sampler::Ddim { eta: 0.0 }, &x, &eps).unwrap();
    near(got.item().unwrap(), 0.8 * start + 0.6 * 0.5, 1e-12);
    assert!(spread.is_none());
    // η = 1: σ² = 0.36/0.84·0.75 is DDPM's β̃, and the means agree.
    let (got, spread) = step.next(Sampler::Ddim { eta: 1.0 }, &x, &eps).unwrap();
    near(got.item().unwrap(), mean, 1e-12);
    near(
        spread.unwrap().item().unwrap(),
        (0.27f64 / 0.84).sqrt(),
        1e-7,
    );
}

/// A model that knows x₀ is asked: every sampler ends at x₀, whatever the noise.
#[test]
fn samplers_end_where_a_perfect_model_points() {
    let device = Device::cpu();
    let process = Process::linear(1000).spaced(20);
    let goal = Tensor::from_slice(&[0.25f32, -0.5, 0.75, 0.0], &[1, 1, 2, 2], &device).unwrap();
    for sampler in [
        Sampler::Ddpm(Variance::Small),
        Sampler::Ddpm(Variance::Large),
        Sampler::Ddim { eta: 0.0 },
        Sampler::Ddim { eta: 0.7 },
    ] {
        let perfect = |x: &Tensor, t: u32| {
            let at = process.steps.iter().position(|s| *s == t).unwrap();
            let a = process.alpha_bar[at];
            let scaled = goal.expand(x.shape())?.affine(a.sqrt(), 0.0)?;
            x.sub(&scaled)?.affine((1.0 - a).powf(-0.5), 0.0)
        };
        let got = sample(
            &process,
            sampler,
            &[3, 1, 2, 2],
            (5, 0),
            true,
            &device,
            perfect,
        )
        .unwrap();
        for (got, want) in got
            .to_vec::<f32>()
            .unwrap()
            .chunks(4)
            .flat_map(|row| row.iter().copied().zip(goal.to_vec::<f32>().unwrap()))
        {
            // The last step divides what is left by √ᾱ₀ ≈ 1: a few roundings of numbers near 1.
            near(got.into(), want.into(), 1e-5);
        }
    }
}

#[test]
fn samples_depend_on_seed_and_number_alone() {
    let device = Device::cpu();
    let process = Process::linear(100).spaced(4);
    let model = |x: &Tensor, t: u32| x.affine(0.3 + f64::from(t) * 1e-3, 0.1);
    let draw = |count: usize, place| {
        let shape = [count, 2, 3, 3];
        let sampler = Sampler::Ddim { eta: 0.5 };
        let drawn = sample(&process, sampler, &shape, place, true, &device, model).unwrap();
        drawn.to_vec::<f32>().unwrap()
    };
    let whole = draw(5, (9, 0));
    assert_eq!(whole, draw(5, (9, 0)));
    assert_eq!(whole, [draw(2, (9, 0)), draw(3, (9, 2))].concat());
    assert_ne!(whole, draw(5, (10, 0)));
}

/// Where ε̂ = ε and the variance is β̃ the bound is 0; and it grows as ½·(x − 1 − ln x) in the ratio x = β̃/σ².
#[test]
fn the_bound_is_the_divergence_of_two_normals() {
    let device = Device::oracle();
    let process = two();
    let shape = [1, 1, 1, 2];
    let tensor = |v: &[f64]| Tensor::from_slice(v, &shape, &device).unwrap();
    let (x0, noise) = (tensor(&[0.2, -0.3]), tensor(&[0.7, -1.1]));
    let loss = |eps: &[f64], v: f64| {
        let predicted = Tensor::concat(&[&tensor(eps), &tensor(&[v, v])], 1).unwrap();
        let got = process.losses(&predicted, &x0, &noise, &[1]).unwrap();
        got.item().unwrap()
    };
    near(loss(&[0.7, -1.1], -1.0), 0.0, 1e-7);
    let ratio: f64 = (0.27 / 0.84) / 0.75;
    let want = 0.5 * (ratio - 1.0 - ratio.ln()) / std::f64::consts::LN_2;
    near(loss(&[0.7, -1.1], 1.0), want, 1e-7);
    // A mean that is off by δ: of_start·√(0.84/0.16)·0.1 in each element, and 0.01 of the simple loss.
    let off = 0.6 / 0.84 * (0.84f64 / 0.16).sqrt() * 0.1;
    let want = 0.01 + off * off / (2.0 * 0.27 / 0.84) / std::f64::consts::LN_2;
    near(loss(&[0.8, -1.0], -1.0), want, 1e-7);
}

#[test]
fn grey_levels_are_a_distribution() {
    let device = Device::oracle();
    let levels: Vec<f64> = (0..256)
        .map(|i| -1.0 + 2.0 * f64::from(i) / 255.0)
        .collect();
    let x = Tensor::from_slice(&levels, &[256], &device).unwrap();
    let mean = Tensor::full(&[1], 0.1, DType::F64, &device).unwrap();
    for log_variance in [-6.0, -2.0] {
        let log_variance = Tensor::full(&[1], log_variance, DType::F64, &device).unwrap();
        let nll = grey_levels(&x, &mean, &log_variance).unwrap();
        let total: f64 = nll
            .to_vec::<f64>()
            .unwrap()
            .iter()
            .map(|n| (-n).exp())
            .sum();
        near(total, 1.0, 1e-9);
    }
}

#[test]
fn the_variance_is_trained_and_the_mean_is_not_by_the_bound() {
    let device = Device::cpu();
    let process = Process::linear(10);
    let tensor = |seed| Tensor::randn(&[3, 2, 2, 2], seed, &device).unwrap();
    let (x0, noise) = (tensor(1).affine(0.3, 0.0).unwrap(), tensor(2));
    let predicted = Tensor::concat(&[&noise, &tensor(3)], 1).unwrap().trained();
    let loss = process.loss(&predicted, &x0, &noise, &[0, 4, 9]).unwrap();
    let grads = backward(&loss).unwrap();
    let grad = grads.of(&predicted).unwrap();
    let size = |from| {
        let part = grad.narrow(1, from, 2).unwrap().to_vec::<f32>().unwrap();
        part.iter().fold(0.0f32, |m, v| m.max(v.abs()))
    };
    assert_eq!(
        size(0),
        0.0,
        "ε̂ = ε has no simple loss, and the bound leaves ε̂ alone"
    );
    assert!(size(2) > 0.0);
}

#[test]
fn steps_past_the_end_are_refused() {
    let x = Tensor::zeros(&[2, 1, 1, 1], DType::F32, &Device::cpu()).unwrap();
    let message = |t: &[u32]| two().noised(&x, &x, t).unwrap_err().to_string();
    assert!(
        message(&[0, 2]).contains("at 2 steps of 2"),
        "{}",
        message(&[0, 2])
    );
    assert!(message(&[0]).contains("one step for each sample"));
}
