//! Kernels compiled by Triton (`triton/generate.py`) against plain Rust. All checks are on: these kernels are clean.
//! Every bound is a count of roundings, each at most a unit roundoff of its format, and the ISA's errors of the
//! approximate instructions.

mod compilers;

use std::path::Path;
use std::process::Command;

use compilers::bench::Bench;
use compilers::tools::{self, PYTHON};
use compilers::{Result, check_fresh, near};
use cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg, ValidAsZeroBits};
use half::{bf16, f16};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/triton");
const SOURCES: [&str; 2] = [
    include_str!("triton/kernels.py"),
    include_str!("triton/generate.py"),
];

/// Unit roundoff of f32.
const U: f64 = f32::EPSILON as f64 / 2.0;
/// Largest relative error of `ex2.approx`, and of `div.full` (2 ulp).
const APPROXIMATE: f64 = 4.0 * U;

/// How to launch a kernel: the second line of its file.
#[derive(serde::Deserialize)]
struct Launch {
    name: String,
    threads: u32,
    shared: u32,
    arguments: Vec<String>,
}

/// A kernel of one file, on a device of its own.
struct Program {
    bench: Bench,
    launch: Launch,
}

fn open(directory: &Path, file: &str) -> Result<Program> {
    let ptx = std::fs::read_to_string(directory.join(file).with_extension("ptx"))?;
    check_fresh(&ptx, &SOURCES, "tests/triton/generate.py")?;
    let description = ptx.lines().nth(1).and_then(|line| line.strip_prefix("// "));
    Ok(Program {
        launch: serde_json::from_str(description.ok_or("no description")?)?,
        bench: Bench::new(&ptx, 80)?,
    })
}

/// Launches a program on a grid: references to buffers, then values. After a kernel's own arguments Triton passes two pointers to scratch memory, which
/// these kernels do not use.
macro_rules! launch {
    ($program:ident, $grid:expr; $($buffer:expr),*; $($value:expr),*) => {{
        let Program { bench, launch: description, .. } = &$program;
        let kernel = bench.kernel(&description.name)?;
        let mut launch = bench.stream.launch_builder(&kernel);
        $(launch.arg($buffer);)*
        // As the kernel declares them: 32 bits each.
        let values: &[u32] = &[$(u32::from_ne_bytes($value.to_ne_bytes())),*];
        let buffers = [$(stringify!($buffer)),*].len();
        assert_eq!(buffers + values.len(), description.arguments.len());
        for value in values {
            launch.arg(value);
        }
        let shape = LaunchConfig {
            grid_dim: $grid,
            block_dim: (description.threads, 1, 1),
            shared_mem_bytes: description.shared,
        };
        launch.arg(&0u64).arg(&0u64);
        // SAFETY: the arguments are those of the kernel in kernels.py, with as many elements as it touches.
        unsafe { launch.launch(shape) }?;
    }};
}

/// A number format on the device: rounding to it, its values, and its unit roundoff.
struct Format<T> {
    round: fn(f32) -> T,
    value: fn(T) -> f64,
    unit: f64,
}

const F32: Format<f32> = Format {
    round: |x| x,
    value: f64::from,
    unit: U,
};
const F16: Format<u16> = Format {
    round: |x| f16::from_f32(x).to_bits(),
    value: |x| f16::from_bits(x).to_f64(),
    unit: 1.0 / 2048.0,
};
const BF16: Format<u16> = Format {
    round: |x| bf16::from_f32(x).to_bits(),
    value: |x| bf16::from_bits(x).to_f64(),
    unit: 1.0 / 256.0,
};
const I8: Format<i8> = Format {
    round: |x| (32.0 * x) as i8,
    value: f64::from,
    unit: 0.0,
};
const I32: Format<i32> = Format {
    round: |x| x as i32,
    value: f64::from,
    unit: 0.0,
};

fn add(directory: &Path) -> Result {
    let mut p = open(directory, "add")?;
    let n = 3001;
    let (x, y) = (p.bench.random.floats(n), p.bench.random.floats(n));
    let (dx, dy, mut out) = (
        p.bench.upload(&x)?,
        p.bench.upload(&y)?,
        p.bench.zeros::<f32>(n)?,
    );
    launch!(p, (3, 1, 1); &dx, &dy, &mut out; (n as i32));
    for (i, z) in p.bench.read(&out)?.into_iter().enumerate() {
        assert_eq!(z, x[i] + y[i], "element {i}");
    }
    Ok(())
}

/// Relative error of exp(v - top) computed as ex2.approx((v - top) · log2 e): the difference, the constant and the
/// product are rounded, and an error of the exponent is a relative error of the power.
fn error_of_power(distance: f64) -> f64 {
    3.0 * U * distance.abs() + APPROXIMATE
}

fn softmax(directory: &Path) -> Result {
    let mut p = open(directory, "softmax")?;
    let (rows, columns) = (3, 777);
    let x = p.bench.random.floats(rows * columns);
    let (dx, mut out) = (p.bench.upload(&x)?, p.bench.zeros::<f32>(x.len())?);
    launch!(p, (rows as u32, 1, 1); &dx, &mut out; (columns as i32));
    let y = p.bench.read(&out)?;
    for (row, result) in x.chunks(columns).zip(y.chunks(columns)) {
        let top = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
        let power = |v: f32| (f64::from(v) - top).exp();
        let sum: f64 = row.iter().map(|&v| power(v)).sum();
        // A thread adds 8 powers, a warp 32 sums, a block 4.
        let error_of_sum = error_of_power(8.0) + f64::from(7 + 5 + 2) * U;
        for (&v, &r) in row.iter().zip(result) {
            let exact = power(v) / sum;
            let relative = error_of_power(f64::from(v) - top) + error_of_sum + APPROXIMATE;
            assert!(
                near(r.into(), exact, 1.01 * relative * exact),
                "{r} for {exact}"
            );
        }
    }
    Ok(())
}

fn layer_norm(directory: &Path) -> Result {
    let mut p = open(directory, "layer_norm")?;
    let (rows, columns) = (3, 700);
    let (x, w, b) = (
        p.bench.random.floats(rows * columns),
        p.bench.random.floats(columns),
        p.bench.random.floats(columns),
    );
    let epsilon = 1e-5f32;
    let (dx, dw, db) = (
        p.bench.upload(&x)?,
        p.bench.upload(&w)?,
        p.bench.upload(&b)?,
    );
    let mut out = p.bench.zeros::<f32>(x.len())?;
    launch!(p, (rows as u32, 1, 1); &dx, &dw, &db, &mut out; (columns as i32), epsilon);
    let y = p.bench.read(&out)?;
    let mean = |f: &dyn Fn(usize) -> f64| (0..columns).map(f).sum::<f64>() / columns as f64;
    for (row, result) in x.chunks(columns).zip(y.chunks(columns)) {
        let at = |i: usize| f64::from(row[i]);
        let m = mean(&at);
        let variance = mean(&|i| (at(i) - m).powi(2));
        let scale = (variance + f64::from(epsilon)).sqrt().recip();
        // Three blocks a thread, two elements each; 32 lanes; four warps: 2 + 1 + 5 + 2 roundings; a division.
        let sum = 10.0 * U + APPROXIMATE;
        let off_mean = sum * mean(&|i| at(i).abs());
        // A square is off by its factors and a rounding; the shift of the mean enters squared and by the sum of
        // the deviations, which is zero but for their roundings.
        let off_variance = sum + 4.0 * U + (off_mean * scale).powi(2);
        let off_scale = 0.5 * off_variance + 2.0 * APPROXIMATE;
        for i in 0..columns {
            let (w, b) = (f64::from(w[i]), f64::from(b[i]));
            let normal = (at(i) - m) * scale;
            let exact = normal * w + b;
            let bound = w.abs() * (off_mean * scale + normal.abs() * (off_scale + 3.0 * U))
                + 2.0 * U * exact.abs().max(b.abs());
            assert!(
                near(result[i].into(), exact, 1.01 * bound),
                "{} for {exact} ± {bound:e}",
                result[i]
            );
        }
    }
    Ok(())
}

/// A matrix product whose sums carry a relative error of at most `error` of the sum of the terms' magnitudes.
fn product<A, C>(
    directory: &Path,
    file: &str,
    [m, n, k]: [usize; 3],
    rows_of_tile: usize,
    (input, output): (&Format<A>, &Format<C>),
    error: f64,
) -> Result
where
    A: DeviceRepr + Copy,
    C: DeviceRepr + ValidAsZeroBits + Copy,
{
    let mut p = open(directory, file)?;
    let padded = |length: usize| length.next_multiple_of(16) + 16;
    let (stride_a, stride_b, stride_c) = (padded(k), padded(n), padded(n));
    // The padding too has numbers: wrong ones, if they were used.
    let a: Vec<A> = p
        .bench
        .random
        .floats(m * stride_a)
        .into_iter()
        .map(input.round)
        .collect();
    let b: Vec<A> = p
        .bench
        .random
        .floats(k * stride_b)
        .into_iter()
        .map(input.round)
        .collect();
    let (da, db, mut out) = (
        p.bench.upload(&a)?,
        p.bench.upload(&b)?,
        p.bench.zeros::<C>(m * stride_c)?,
    );
    let grid = (m.div_ceil(rows_of_tile) * n.div_ceil(64)) as u32;
    let [im, int, ik, sa, sb, sc] = [m, n, k, stride_a, stride_b, stride_c].map(|x| x as i32);
    launch!(p, (grid, 1, 1); &da, &db, &mut out; im, int, ik, sa, sb, sc);
    let c = p.bench.read(&out)?;
    for i in 0..m {
        for j in 0..stride_c {
            let got = (output.value)(c[i * stride_c + j]);
            if j >= n {
                assert_eq!(got, 0.0, "padding {i}, {j}");
                continue;
            }
            let terms = (0..k)
                .map(|t| (input.value)(a[i * stride_a + t]) * (input.value)(b[t * stride_b + j]));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
            let bound = error * size * (1.0 + output.unit) + output.unit * sum.abs();
            assert!(
                near(got, sum, bound),
                "{file} {i}, {j}: {got} for {sum} ± {bound:e}"
            );
        }
    }
    let launches = p.bench.device.launches()?;
    let steps = k.next_multiple_of(32) as u64;
    let tiles = u64::from(grid) * rows_of_tile as u64 * 64;
    assert_eq!(
        launches[0].counters.matrix_flops,
        2 * tiles * steps,
        "{file}"
    );
    Ok(())
}

/// f32 sums: at most a rounding a term.
fn single(k: usize) -> f64 {
    let ku = k as f64 * U;
    ku / (1.0 - ku)
}

fn products(directory: &Path) -> Result {
    product(
        directory,
        "matmul_bf16_3",
        [75, 112, 144],
        64,
        (&BF16, &F32),
        single(144),
    )?;
    product(
        directory,
        "matmul_bf16_4",
        [300, 80, 208],
        128,
        (&BF16, &BF16),
        single(208),
    )?;
    // Sums in f16: a rounding of the partial sum every 16 terms, and those within.
    let halves = 10.0 * F16.unit + single(160);
    product(
        directory,
        "matmul_f16",
        [75, 80, 160],
        64,
        (&F16, &F16),
        halves,
    )?;
    product(
        directory,
        "matmul_tf32",
        [70, 37, 50],
        64,
        (&F32, &F32),
        single(64),
    )
}

fn integer_products(directory: &Path) -> Result {
    product(directory, "matmul_i8", [75, 80, 96], 64, (&I8, &I32), 0.0)
}

/// Attention of two heads against softmax(q kᵀ / 8) v in f64.
fn attention(directory: &Path, file: &str, format: &Format<u16>, causal: bool) -> Result {
    let mut p = open(directory, file)?;
    let (heads, length, width) = (2usize, 139usize, 64usize);
    let [q, k, v] = [(); 3].map(|()| -> Vec<u16> {
        p.bench
            .random
            .floats(heads * length * width)
            .into_iter()
            .map(format.round)
            .collect()
    });
    let (dq, dk, dv) = (
        p.bench.upload(&q)?,
        p.bench.upload(&k)?,
        p.bench.upload(&v)?,
    );
    let mut out = p.bench.zeros::<u16>(q.len())?;
    launch!(p, (length.div_ceil(64) as u32, heads as u32, 1); &dq, &dk, &dv, &mut out; (length as i32), 0.125f32);
    let y = p.bench.read(&out)?;
    let value = |x: &[u16], i: usize| (format.value)(x[i]);
    for head in 0..heads {
        for i in 0..length {
            let row = |i: usize| (head * length + i) * width;
            let keys = if causal { i + 1 } else { length };
            let dot = |j: usize| -> (f64, f64) {
                let terms = (0..width).map(|d| value(&q, row(i) + d) * value(&k, row(j) + d));
                terms.fold((0.0, 0.0), |(s, m), x| (s + x, m + x.abs()))
            };
            let scores: Vec<f64> = (0..keys).map(|j| dot(j).0 / 8.0).collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let powers: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
            let sum: f64 = powers.iter().sum();
            // A score's error is that of its sum and of three roundings; twice, for the row's greatest has it too.
            // Then a power, a shrinking for each of up to five blocks of keys, and a power's rounding to the format.
            let size = (0..keys).map(|j| dot(j).1 / 8.0).fold(0.0, f64::max);
            let off_score = 2.0 * (single(width) + 3.0 * U) * size;
            let off_power = off_score + 6.0 * (APPROXIMATE + U) + single(length);
            for d in 0..width {
                let terms = |f: &dyn Fn(f64) -> f64| -> f64 {
                    (0..keys)
                        .map(|j| powers[j] / sum * f(value(&v, row(j) + d)))
                        .sum()
                };
                let (exact, magnitude) = (terms(&|x| x), terms(&f64::abs));
                // Numerator and denominator; the least subnormal of f16 is 2⁻²⁴.
                let bound = (2.0 * off_power + format.unit + APPROXIMATE) * magnitude
                    + format.unit * exact.abs()
                    + 4.0 * keys as f64 * f64::powi(2.0, -25) / sum;
                let got = value(&y, row(i) + d);
                assert!(
                    near(got, exact, 1.01 * bound),
                    "{file} {head}, {i}, {d}: {got} for {exact} ± {bound:e}"
                );
            }
        }
    }
    Ok(())
}

fn attentions(directory: &Path) -> Result {
    attention(directory, "attention", &F16, false)?;
    attention(directory, "attention_causal", &BF16, true)
}

fn histogram(directory: &Path) -> Result {
    let mut p = open(directory, "histogram")?;
    let n = 2000i32;
    let x: Vec<i32> = (0..n)
        .map(|_| (p.bench.random.below(8) * p.bench.random.below(9)) as i32)
        .collect();
    let (dx, mut bins, mut private) = (
        p.bench.upload(&x)?,
        p.bench.zeros::<i32>(64)?,
        p.bench.zeros::<i32>(64)?,
    );
    launch!(p, (4, 1, 1); &dx, &mut bins, &mut private; n);
    let mut want = vec![0; 64];
    x.iter().for_each(|&v| want[v as usize] += 1);
    assert_eq!(p.bench.read(&bins)?, want);
    assert_eq!(p.bench.read(&private)?, want);
    Ok(())
}

fn scans(directory: &Path) -> Result {
    let mut p = open(directory, "scans")?;
    let (block, programs) = (256, 3);
    let x: Vec<i32> = (0..block * programs)
        .map(|_| p.bench.random.below(1000) as i32 - 500)
        .collect();
    let dx = p.bench.upload(&x)?;
    let [mut sums, mut tops, mut order] = [
        p.bench.zeros::<i32>(x.len())?,
        p.bench.zeros::<i32>(x.len())?,
        p.bench.zeros::<i32>(x.len())?,
    ];
    let mut summary = p.bench.zeros::<i32>(4 * programs)?;
    launch!(p, (programs as u32, 1, 1); &dx, &mut sums, &mut tops, &mut order, &mut summary;);
    let (sums, tops, order, summary) = (
        p.bench.read(&sums)?,
        p.bench.read(&tops)?,
        p.bench.read(&order)?,
        p.bench.read(&summary)?,
    );
    for (program, x) in x.chunks(block).enumerate() {
        let part = |y: &[i32]| y[program * block..][..block].to_vec();
        let running =
            |x: &mut dyn Iterator<Item = &i32>, f: fn(i32, i32) -> i32, start: i32| -> Vec<i32> {
                x.scan(start, |s, &v| {
                    *s = f(*s, v);
                    Some(*s)
                })
                .collect()
            };
        assert_eq!(part(&sums), running(&mut x.iter(), |s, v| s + v, 0));
        let mut highest = running(&mut x.iter().rev(), i32::max, i32::MIN);
        highest.reverse();
        assert_eq!(part(&tops), highest);
        let mut sorted = x.to_vec();
        sorted.sort_unstable();
        assert_eq!(part(&order), sorted);
        let (top, least) = (sorted[block - 1], sorted[0]);
        let first = x.iter().position(|&v| v == top).ok_or("empty")?;
        let want = [
            x.iter().sum(),
            first as i32,
            least,
            x.iter().fold(0, |s, v| s ^ v),
        ];
        assert_eq!(summary[4 * program..][..4], want);
    }
    Ok(())
}

/// Philox 4x32 with ten rounds (Salmon et al. 2011), its first word as Triton turns it into a number from [0, 1).
fn uniform(seed: u32, offset: u32) -> f32 {
    let (mut c, mut key) = ([offset, 0, 0, 0], [seed, 0]);
    for _ in 0..10 {
        let [a, b] =
            [(0xd251_1f53, c[0]), (0xcd9e_8d57, c[2])].map(|(x, y): (u64, u32)| x * u64::from(y));
        c = [
            (b >> 32) as u32 ^ c[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ c[3] ^ key[1],
            a as u32,
        ];
        key = [
            key[0].wrapping_add(0x9e37_79b9),
            key[1].wrapping_add(0xbb67_ae85),
        ];
    }
    let x = c[0] as i32;
    (if x < 0 { -x - 1 } else { x }) as f32 * 4.656_612_7e-10
}

fn dropout(directory: &Path) -> Result {
    let p = open(directory, "dropout")?;
    let (n, rate, seed) = (1900usize, 0.3f32, 12345u32);
    let x: Vec<f32> = (1..=n).map(|i| i as f32).collect();
    let (dx, mut out) = (p.bench.upload(&x)?, p.bench.zeros::<f32>(n)?);
    launch!(p, (4, 1, 1); &dx, &mut out; (n as i32), rate, seed);
    let y = p.bench.read(&out)?;
    for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
        let exact = if uniform(seed, i as u32) > rate {
            f64::from(x) / f64::from(1.0 - rate)
        } else {
            0.0
        };
        assert!(
            near(y.into(), exact, APPROXIMATE * exact),
            "element {i}: {y} for {exact}"
        );
    }
    let kept = y.iter().filter(|&&y| y != 0.0).count() as f64;
    // Five standard deviations of a binomial count.
    let (mean, deviation) = (n as f64 * 0.7, (n as f64 * 0.21).sqrt());
    assert!((kept - mean).abs() < 5.0 * deviation, "{kept} of {n}");
    Ok(())
}

fn transpose(directory: &Path) -> Result {
    let mut p = open(directory, "transpose")?;
    let (m, n) = (45, 70);
    let x = p.bench.random.floats(m * n);
    let (dx, mut out) = (p.bench.upload(&x)?, p.bench.zeros::<f32>(m * n)?);
    launch!(p, (2, 3, 1); &dx, &mut out; (m as i32), (n as i32));
    let y = p.bench.read(&out)?;
    assert!((0..m * n).all(|i| y[i % n * m + i / n] == x[i]));
    Ok(())
}

fn unary(directory: &Path) -> Result {
    let mut p = open(directory, "unary")?;
    let mut x = p.bench.random.floats(240);
    x.extend([0.5, -1.0, 1e-30, 3e4, -3e4, 1e7, 88.0, -87.0]);
    let n = x.len();
    let (dx, mut out) = (p.bench.upload(&x)?, p.bench.zeros::<f32>(12 * n)?);
    launch!(p, (n.div_ceil(256) as u32, 1, 1); &dx, &mut out; (n as i32));
    let y = p.bench.read(&out)?;
    for (i, &x) in x.iter().enumerate() {
        let v = f64::from(x);
        let ulp = |y: f64| f64::from((y as f32).abs().next_up()) - f64::from((y as f32).abs());
        let powers = error_of_power(v);
        let sigmoid = (1.0 + (-v).exp()).recip();
        // The libdevice functions' errors in ulps by CUDA's programming guide.
        let exact = [
            (v.exp(), powers * v.exp()),
            (v.abs().ln(), ulp(v.abs().ln())),
            (v.sin(), 2.0 * ulp(v.sin())),
            (v.cos(), 2.0 * ulp(v.cos())),
            // 1 / (1 + exp(-v)): an error of the power is multiplied by 1 - sigmoid, at most 1.
            (sigmoid, (powers + U + APPROXIMATE) * sigmoid),
            (libm::erf(v), 2.0 * ulp(libm::erf(v))),
            (v.abs().sqrt().recip(), 2.0 * ulp(v.abs().sqrt().recip())),
            (v.floor(), 0.0),
            (bf16::from_f32(x).to_f64(), 0.0),
            (f16::from_f32(x).to_f64(), 0.0),
            (v.trunc(), 0.0),
            (f64::from(x.mul_add(x, x)), 0.0),
        ];
        for (row, (exact, bound)) in exact.into_iter().enumerate() {
            let got = y[row * n + i];
            // Overflow, and results below the least normal number, which the approximate forms flush.
            let fits = near(
                got.into(),
                exact,
                bound.max(f64::from(f32::MIN_POSITIVE) * f64::from(u8::from(bound > 0.0))),
            );
            assert!(
                fits || got == exact as f32,
                "function {row} of {x}: {got} for {exact}"
            );
        }
    }
    Ok(())
}

/// The cases by name, and one test a case on the committed PTX.
macro_rules! cases {
    ($($name:ident)*) => {
        const CASES: &[(&str, fn(&Path) -> Result)] = &[$((stringify!($name), $name)),*];
        mod committed { $(#[test] fn $name() -> super::Result { super::$name(super::COMMITTED.as_ref()) })* }
    };
}

cases! { add softmax layer_norm products integer_products attentions histogram scans dropout transpose unary }

/// What the installed Triton makes of the same kernels.
#[test]
fn fresh() -> Result {
    let Some(python) = tools::tool(PYTHON) else {
        return Ok(());
    };
    if !tools::has_package(&python, "triton")? {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let script = format!("{COMMITTED}/generate.py");
    tools::run(
        Command::new(python)
            .arg(script)
            .arg(directory.path())
            .env("PYTHONDONTWRITEBYTECODE", "1"),
    )?;
    for (name, case) in CASES {
        case(directory.path()).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}
