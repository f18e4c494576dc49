//! Checks shared by the cross-crate tests: gradients by central differences on the f64 oracle, and the CPU against the oracle.

pub mod fixture;
pub mod gpu;
pub mod peft;
pub mod small;

use std::path::Path;

pub use deltaw_benches::compare::numbers;
use deltaw_engine::cpu::threads;
use deltaw_engine::prelude::*;

/// Compares a table with the committed file of that name in `tests/data`; with `UPDATE=1` in the environment it is written anew.
///
/// # Panics
/// They differ.
pub fn as_committed(file: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, table).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == table,
        "{} differs; UPDATE=1 writes it anew:\n{table}",
        path.display()
    );
}

/// A function under test.
pub type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Numbers in (−1, 1) of which any two lie 2/count apart: no ties, and none within the reach of a difference.
pub fn distinct(count: usize, seed: u64) -> Vec<f32> {
    let keys = numbers(count, seed);
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|i, j| keys[*i].total_cmp(&keys[*j]));
    let mut out = vec![0.0; count];
    for (rank, i) in order.into_iter().enumerate() {
        out[i] = (2 * rank + 1) as f32 / count as f32 - 1.0;
    }
    out
}

/// How far f32 may be from f64, in units of ε = 2⁻²³ of the largest number of the result or 1: an element that is a sum of
/// `terms` products of numbers up to 1, each made in `steps` roundings of 2⁻²⁴, errs by up to `(terms + steps)·2⁻²⁴` of the
/// sum of their magnitudes, `terms` (Higham 2002, §3.1). `terms` counts the longest sum, forward or backward.
pub fn roundings(terms: usize, steps: usize) -> f64 {
    let terms = terms.max(1);
    (terms * (terms + steps)) as f64 / 2.0
}

fn on(device: &Device, shapes: &[Vec<usize>], values: &[Vec<f64>]) -> Vec<Tensor> {
    let make = |(shape, values): (&Vec<usize>, &Vec<f64>)| {
        let host: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        if device.is_cpu() {
            return Tensor::from_slice(&host, shape, device);
        }
        // The oracle holds f64 under the label f32.
        let mut t = Tensor::empty(shape, DType::F32, device)?;
        device
            .backend()
            .write(&mut t, DType::F64, bytemuck::cast_slice(values))?;
        Ok(t)
    };
    shapes
        .iter()
        .zip(values)
        .map(make)
        .collect::<Result<Vec<_>>>()
        .expect("inputs of matching shapes")
}

/// `Σ f(x) ⊙ c` for fixed pseudo-random c, so that the incoming gradient is not constant.
fn weighted(y: &Tensor) -> Vec<f64> {
    numbers(y.len(), 77).into_iter().map(f64::from).collect()
}

/// Values and gradients on a device.
fn evaluate(
    f: Function,
    device: &Device,
    shapes: &[Vec<usize>],
    values: &[Vec<f64>],
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let inputs: Vec<Tensor> = on(device, shapes, values)
        .iter()
        .map(Tensor::trained)
        .collect();
    let y = f(&inputs).expect("the function accepts these inputs");
    let out = y.to_vec::<f64>().expect("values");
    let c = weighted(&y);
    let host: Vec<f32> = c.iter().map(|v| *v as f32).collect();
    let dy = Tensor::from_slice(&host, y.shape(), device).expect("dy");
    if !y.requires_grad() {
        return (out, values.iter().map(|v| vec![0.0; v.len()]).collect());
    }
    let grads = backward_with(&y, dy).expect("backward");
    let of = |(x, v): (&Tensor, &Vec<f64>)| {
        grads.of(x).map_or_else(
            || vec![0.0; v.len()],
            |g| g.to_vec::<f64>().expect("gradient"),
        )
    };
    (out, inputs.iter().zip(values).map(of).collect())
}

/// Checks `f`'s gradient on the oracle against central differences in f64, then value and gradient on the CPU against the
/// oracle's. Central differences of step h = 1e-5 err by h²/6 = 2e-11 times the third derivative, which is below 1e4 in the
/// tests, and by 1e-16/h = 1e-11 of the sum's rounding; the CPU by `roundings` units of f32 ([`roundings`]) relative to the
/// largest number of the result, at least 1. A NaN matches a NaN.
///
/// # Panics
/// When they differ: that is the test's failure.
pub fn check(name: &str, f: Function, shapes: &[Vec<usize>], values: &[Vec<f32>], roundings: f64) {
    let values: Vec<Vec<f64>> = values
        .iter()
        .map(|v| v.iter().map(|x| f64::from(*x)).collect())
        .collect();
    let (exact, grads) = evaluate(f, &Device::oracle(), shapes, &values);
    let value_at = |values: &[Vec<f64>]| {
        let y = no_grad(|| f(&on(&Device::oracle(), shapes, values)))
            .expect("the function accepts these inputs");
        let out = y.to_vec::<f64>().expect("values");
        out.iter()
            .zip(weighted(&y))
            .map(|(a, b)| a * b)
            .sum::<f64>()
    };
    let h = 1e-5;
    for (k, grad) in grads.iter().enumerate() {
        for (i, got) in grad.iter().enumerate() {
            let mut moved = values.clone();
            moved[k][i] = values[k][i] + h;
            let up = value_at(&moved);
            moved[k][i] = values[k][i] - h;
            let want = (up - value_at(&moved)) / (2.0 * h);
            assert!(
                (got - want).abs() <= 1e-6 * (1.0 + want.abs()),
                "{name}: gradient of input {k}[{i}] is {got}, by differences {want}; shapes {shapes:?}"
            );
        }
    }
    let (near, near_grads) = evaluate(f, &Device::cpu(), shapes, &values);
    let compare = |what: &str, got: &[f64], want: &[f64]| {
        let size = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        for (i, (a, b)) in got.iter().zip(want).enumerate() {
            assert!(
                (a - b).abs() <= roundings * f64::from(f32::EPSILON) * size
                    || (a.is_nan() && b.is_nan()),
                "{name}: {what}[{i}] is {a} on the CPU, {b} on the oracle; shapes {shapes:?}"
            );
        }
    };
    compare("value", &near, &exact);
    for (k, (a, b)) in near_grads.iter().zip(&grads).enumerate() {
        compare(&format!("gradient of input {k}"), a, b);
    }
}

/// Unit roundoff of f32.
const UNIT: f64 = f32::EPSILON as f64 / 2.0;

/// Numbers of these shapes.
pub fn inputs(shapes: &[Vec<usize>], seed: u64) -> Vec<Vec<f32>> {
    shapes
        .iter()
        .enumerate()
        .map(|(k, s)| numbers(s.iter().product(), seed.wrapping_add(k as u64)))
        .collect()
}

/// Value and gradients on a device for a fixed incoming gradient, one after the other.
fn sweep(
    device: &Device,
    shapes: &[Vec<usize>],
    seed: u64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Vec<Vec<f64>> {
    let x: Vec<Tensor> = shapes
        .iter()
        .zip(inputs(shapes, seed))
        .map(|(s, v)| Tensor::from_slice(&v, s, device).unwrap().trained())
        .collect();
    let y = f(&x).unwrap();
    let dy = Tensor::from_slice(&numbers(y.len(), seed ^ 77), y.shape(), device).unwrap();
    let grads = backward_with(&y, dy).unwrap();
    let mut all = vec![y.to_vec::<f64>().unwrap()];
    all.extend(x.iter().map(|x| {
        grads
            .of(x)
            .map_or(vec![0.0; x.len()], |g| g.to_vec::<f64>().unwrap())
    }));
    all
}

/// The CPU within `units` roundoffs of the oracle, relative to each array's largest number (at least 1).
///
/// # Panics
/// When it is further away.
pub fn as_the_oracle(
    what: &str,
    shapes: &[Vec<usize>],
    seed: u64,
    units: f64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    device_as_the_oracle(&Device::cpu(), what, shapes, seed, units, f);
}

/// The same of another device.
///
/// # Panics
/// When it is further away.
pub fn device_as_the_oracle(
    device: &Device,
    what: &str,
    shapes: &[Vec<usize>],
    seed: u64,
    units: f64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let (near, exact) = (
        sweep(device, shapes, seed, &f),
        sweep(&Device::oracle(), shapes, seed, &f),
    );
    for (k, (near, exact)) in near.iter().zip(&exact).enumerate() {
        let size = exact.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        for (i, (a, b)) in near.iter().zip(exact).enumerate() {
            assert!(
                (a - b).abs() <= units * UNIT * size,
                "{what}: array {k} (0 the value), element {i}: {a} on {device}, {b} exactly"
            );
        }
    }
}

/// The same values and gradients, bit for bit, on one thread and on more.
///
/// # Panics
/// When they differ.
pub fn same_bits_with_any_threads(
    what: &str,
    shapes: &[Vec<usize>],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let with = |count| {
        threads::set_threads(count);
        let all = sweep(&Device::cpu(), shapes, 5, &f);
        all.concat()
            .into_iter()
            .map(f64::to_bits)
            .collect::<Vec<_>>()
    };
    let one = with(1);
    assert!(
        one == with(2) && one == with(3),
        "{what}: the bits depend on the number of threads"
    );
    threads::set_threads(0);
}
