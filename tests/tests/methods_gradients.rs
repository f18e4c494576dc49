//! Composite updates' gradients against central differences of their formulas.

use deltaw_engine::prelude::*;
use deltaw_models::methods::Method;
use deltaw_models::methods::adalora::AdaLora;
use deltaw_models::methods::dora::Dora;
use deltaw_models::methods::lora::Lora;
use deltaw_tests::numbers;
use proptest::prelude::*;

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
