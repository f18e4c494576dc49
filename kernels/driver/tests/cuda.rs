//! CUDA C++ compiled by NVRTC (`cuda/generate.py`), against plain Rust. All checks are on: these kernels are clean.

mod compilers;

use std::path::Path;
use std::process::Command;

use compilers::bench::Bench;
use compilers::tools::{self, PYTHON};
use compilers::{Result, check_fresh, near};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use half::{bf16, f16};

const SOURCE: &str = include_str!("cuda/kernels.cu");
const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda");

/// The kernels for a compute capability, on a device of it.
fn open(directory: &Path, capability: u32) -> Result<Bench> {
    let ptx = std::fs::read_to_string(directory.join(format!("kernels_sm{capability}.ptx")))?;
    check_fresh(&ptx, &[SOURCE], "tests/cuda/generate.py")?;
    Bench::new(&ptx, capability)
}

/// Launches a kernel by name with a grid, a block and bytes of dynamic shared memory.
macro_rules! launch {
    ($bench:ident, $name:literal, $grid:expr, $block:expr, $shared:expr; $($arg:expr),*) => {{
        let kernel = $bench.kernel($name)?;
        let mut launch = $bench.stream.launch_builder(&kernel);
        $(launch.arg($arg);)*
        let shape = LaunchConfig { grid_dim: $grid, block_dim: $block, shared_mem_bytes: $shared };
        // SAFETY: the arguments are those of the kernel in kernels.cu, with as many elements as it touches.
        unsafe { launch.launch(shape) }?;
    }};
}

fn reductions(bench: &mut Bench) -> Result {
    let n = 5000i32;
    let x = bench.random.floats(n as usize);
    let (input, mut sum) = (bench.upload(&x)?, bench.zeros::<f32>(1)?);
    launch!(bench, "reduce_sum", (7, 1, 1), (256, 1, 1), 0; &input, &mut sum, &n);
    let exact: f64 = x.iter().map(|&v| f64::from(v)).sum();
    let magnitude: f64 = x.iter().map(|&v| f64::from(v).abs()).sum();
    // Depth of the summation tree: 3 strided terms a thread, 8 levels, 7 blocks.
    let bound = 18.0 * f64::from(f32::EPSILON) / 2.0 * magnitude;
    assert!(near(bench.read(&sum)?[0].into(), exact, bound));

    let n = 1000i32;
    let x: Vec<i32> = (0..n).map(|_| bench.random.bits() as i32).collect();
    let input = bench.upload(&x)?;
    let (mut least, mut greatest) = (bench.upload(&[i32::MAX])?, bench.upload(&[i32::MIN])?);
    let mut any = bench.zeros::<u32>(1)?;
    launch!(bench, "extremes", (8, 1, 1), (128, 1, 1), 0; &input, &mut least, &mut greatest, &mut any, &n);
    assert_eq!(bench.read(&least)?[0], *x.iter().min().expect("not empty"));
    assert_eq!(
        bench.read(&greatest)?[0],
        *x.iter().max().expect("not empty")
    );
    assert_eq!(bench.read(&any)?[0], x.iter().fold(0, |a, &v| a | v as u32));
    Ok(())
}

fn scans(bench: &mut Bench) -> Result {
    for (n, block) in [(1000i32, 1024), (32, 32), (70, 96)] {
        let x: Vec<i32> = (0..n).map(|_| bench.random.below(1000) as i32).collect();
        let (input, mut output) = (bench.upload(&x)?, bench.zeros::<i32>(n as usize)?);
        launch!(bench, "scan", (1, 1, 1), (block, 1, 1), 0; &input, &mut output, &n);
        let sums: Vec<i32> = x
            .iter()
            .scan(0, |total, &v| {
                *total += v;
                Some(*total)
            })
            .collect();
        assert_eq!(bench.read(&output)?, sums);

        let mut kept = bench.upload(&vec![0i32; n as usize])?;
        let mut count = bench.zeros::<i32>(1)?;
        launch!(bench, "keep_odd", (1, 1, 1), (block, 1, 1), 0; &input, &mut kept, &mut count, &n);
        let odd: Vec<i32> = x.iter().copied().filter(|v| v & 1 == 1).collect();
        assert_eq!(bench.read(&count)?[0] as usize, odd.len());
        assert_eq!(bench.read(&kept)?[..odd.len()], odd);
    }
    Ok(())
}

fn tiles(bench: &mut Bench) -> Result {
    let (m, n, k) = (45i32, 70i32, 33i32);
    let x = bench.random.floats((m * n) as usize);
    let (input, mut output) = (bench.upload(&x)?, bench.zeros::<f32>((m * n) as usize)?);
    launch!(bench, "transpose", (3, 2, 1), (32, 8, 1), 0; &input, &mut output, &m, &n);
    let y = bench.read(&output)?;
    assert!((0..m * n).all(|i| y[(i % n * m + i / n) as usize] == x[i as usize]));
    // The padded column keeps the tile free of bank conflicts.
    assert_eq!(
        bench.device.launches()?[0].counters.shared.efficiency(),
        1.0
    );

    let (a, b) = (
        bench.random.floats((m * k) as usize),
        bench.random.floats((k * n) as usize),
    );
    let (da, db) = (bench.upload(&a)?, bench.upload(&b)?);
    launch!(bench, "matmul_tiled", (5, 3, 1), (16, 16, 1), 0; &da, &db, &mut output, &m, &n, &k);
    let c = bench.read(&output)?;
    for (i, &actual) in c.iter().enumerate() {
        let (row, column) = (i / n as usize, i % n as usize);
        // The kernel's order, fused as the compiler fuses it, padded with zeros to a multiple of 16.
        let sum = (0..k as usize).fold(0f32, |s, t| {
            a[row * k as usize + t].mul_add(b[t * n as usize + column], s)
        });
        assert_eq!(actual, sum, "element {row}, {column}");
    }
    Ok(())
}

fn tensor_cores(bench: &mut Bench) -> Result {
    let (m, n, k) = (32usize, 48usize, 64usize);
    let (a, b) = (bench.random.floats(m * k), bench.random.floats(k * n));
    let exact = |i: usize| -> (f64, f64) {
        let terms = |t: usize| f64::from(a[i / n * k + t]) * f64::from(b[t * n + i % n]);
        (
            (0..k).map(terms).sum(),
            (0..k).map(|t| terms(t).abs()).sum(),
        )
    };
    let (ni, ki) = (n as i32, k as i32);
    // a and b are multiples of 1/256 below 4: exact in f16, and in bf16 only after rounding; so use halves there.
    let mut output = bench.zeros::<f32>(m * n)?;
    let to_f16 = |v: &[f32]| {
        v.iter()
            .map(|&x| f16::from_f32(x).to_bits())
            .collect::<Vec<_>>()
    };
    let (da, db) = (bench.upload(&to_f16(&a))?, bench.upload(&to_f16(&b))?);
    launch!(bench, "wmma_f16", (3, 1, 1), (64, 1, 1), 0; &da, &db, &mut output, &ni, &ki);
    // f32 accumulation: at most one rounding a term, whatever the order.
    let bound = |magnitude: f64| k as f64 * f64::from(f32::EPSILON) * magnitude;
    let c = bench.read(&output)?;
    for (i, &half) in c.iter().enumerate() {
        let (sum, magnitude) = exact(i);
        assert!(
            near(2.0 * f64::from(half), sum, bound(magnitude)),
            "wmma f16, element {i}: {} and {sum}",
            2.0 * half
        );
    }

    let coarse: Vec<f32> = a.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    let coarse_b: Vec<f32> = b.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    let to_bf16 = |v: &[f32]| {
        v.iter()
            .map(|&x| bf16::from_f32(x).to_bits())
            .collect::<Vec<_>>()
    };
    let (da, db) = (bench.upload(&to_bf16(&a))?, bench.upload(&to_bf16(&b))?);
    launch!(bench, "wmma_bf16", (3, 1, 1), (64, 1, 1), 0; &da, &db, &mut output, &ni, &ki);
    let c = bench.read(&output)?;
    for i in 0..m * n {
        let terms =
            |t: usize| f64::from(coarse[i / n * k + t]) * f64::from(coarse_b[t * n + i % n]);
        let (sum, magnitude) = (
            (0..k).map(terms).sum(),
            (0..k).map(|t| terms(t).abs()).sum(),
        );
        assert!(
            near(2.0 * f64::from(c[i]), sum, bound(magnitude)),
            "wmma bf16, element {i}"
        );
    }

    assert_eq!(
        bench.device.launches()?[0].counters.matrix_flops,
        (2 * m * n * k) as u64
    );

    // a: the first 16 rows; b: the first 8·k values as 8 rows of k.
    let mut output = bench.zeros::<f32>(16 * 8)?;
    launch!(bench, "mma_ldmatrix", (1, 1, 1), (32, 1, 1), 0; &da, &db, &mut output, &ki);
    let c = bench.read(&output)?;
    for i in 0..16 * 8 {
        let terms =
            |t: usize| f64::from(coarse[i / 8 * k + t]) * f64::from(coarse_b[i % 8 * k + t]);
        let (sum, magnitude) = (
            (0..k).map(terms).sum(),
            (0..k).map(|t| terms(t).abs()).sum(),
        );
        assert!(near(c[i].into(), sum, bound(magnitude)), "mma, element {i}");
    }
    Ok(())
}

/// Small integers, so that sums are exact in f16 too.
fn accumulators(bench: &mut Bench) -> Result {
    let k = 48i32;
    let mut integers = |count: usize| -> Vec<f32> {
        (0..count)
            .map(|_| bench.random.below(7) as f32 - 3.0)
            .collect()
    };
    let (a, b, c) = (integers(16 * 48), integers(16 * 48), integers(256));
    let want: Vec<f32> = (0..256)
        .map(|i| {
            c[i] + (0..48)
                .map(|t| a[i % 16 * 48 + t] * b[i / 16 * 48 + t])
                .sum::<f32>()
        })
        .collect();
    let halves =
        |v: &[f32]| -> Vec<u16> { v.iter().map(|&x| f16::from_f32(x).to_bits()).collect() };
    let (da, db) = (bench.upload(&halves(&a))?, bench.upload(&halves(&b))?);
    let mut single = bench.upload(&c)?;
    launch!(bench, "wmma_columns_f32", (1, 1, 1), (32, 1, 1), 0; &da, &db, &mut single, &k);
    assert_eq!(bench.read(&single)?, want);
    let mut half = bench.upload(&halves(&c))?;
    launch!(bench, "wmma_columns_f16", (1, 1, 1), (32, 1, 1), 0; &da, &db, &mut half, &k);
    assert_eq!(bench.read(&half)?, halves(&want));
    Ok(())
}

fn atomics(bench: &mut Bench) -> Result {
    let n = 10_000i32;
    let x: Vec<u8> = (0..n)
        .map(|_| (bench.random.bits() & bench.random.bits()) as u8)
        .collect();
    let (input, mut bins) = (bench.upload(&x)?, bench.zeros::<u32>(256)?);
    launch!(bench, "histogram", (4, 1, 1), (192, 1, 1), 0; &input, &mut bins, &n);
    let mut expected = vec![0u32; 256];
    x.iter().for_each(|&v| expected[v as usize] += 1);
    assert_eq!(bench.read(&bins)?, expected);

    let n = 777i32;
    let x: Vec<f32> = bench
        .random
        .floats(n as usize)
        .iter()
        .map(|v| v.abs())
        .collect();
    let input = bench.upload(&x)?;
    let (mut best, mut tickets) = (bench.zeros::<u32>(1)?, bench.zeros::<u32>(1)?);
    let mut sum = bench.zeros::<u64>(1)?;
    launch!(bench, "compare_and_swap", (7, 1, 1), (128, 1, 1), 0; &input, &mut best, &mut tickets, &mut sum, &n);
    assert_eq!(
        f32::from_bits(bench.read(&best)?[0]),
        x.iter().copied().fold(0.0, f32::max)
    );
    assert_eq!(bench.read(&tickets)?[0], 777 % 10);
    assert_eq!(
        bench.read(&sum)?[0],
        (0..777u64).map(|i| i * i).sum::<u64>()
    );
    Ok(())
}

fn exchanges(bench: &mut Bench) -> Result {
    let x: Vec<i32> = (0..64).map(|_| bench.random.below(50) as i32).collect();
    let (input, mut output) = (bench.upload(&x)?, bench.zeros::<i32>(64)?);
    launch!(bench, "shuffles", (1, 1, 1), (64, 1, 1), 0; &input, &mut output);
    let y = bench.read(&output)?;
    for (i, &actual) in y.iter().enumerate() {
        let (base, lane) = (i / 32 * 32, i % 32);
        let v = |l: usize| x[base + l];
        let mut r = v(lane ^ 5).wrapping_mul(3);
        r = r.wrapping_add(v((lane * 7 + 3) & 31));
        r ^= v(if lane % 8 + 3 < 8 { lane + 3 } else { lane });
        r = r.wrapping_sub(v(if lane % 16 >= 2 { lane - 2 } else { lane }));
        let same = (0..32).fold(0u32, |mask, l| {
            mask | u32::from(v(l) & 3 == v(lane) & 3) << l
        });
        r = r.wrapping_add(same as i32);
        let (any, all) = ((0..32).any(|l| v(l) == 0), (0..32).all(|l| v(l) != 0));
        r ^= i32::from(any) << 9 ^ i32::from(all) << 10;
        assert_eq!(actual, r, "lane {i}");
    }
    Ok(())
}

fn row_softmax(bench: &mut Bench) -> Result {
    let (rows, n) = (3usize, 200i32);
    let x = bench.random.floats(rows * n as usize);
    let (input, mut output) = (bench.upload(&x)?, bench.zeros::<f32>(x.len())?);
    launch!(bench, "softmax", (3, 1, 1), (96, 1, 1), 4 * n as u32; &input, &mut output, &n);
    let y = bench.read(&output)?;
    for (row, result) in x.chunks(n as usize).zip(y.chunks(n as usize)) {
        let top = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|&v| f64::from(v - top).exp()).sum();
        for (&v, &r) in row.iter().zip(result) {
            let exact = f64::from(v - top).exp() / sum;
            // expf: 1 ulp by CUDA's table, twice; a sum of depth 12; one division.
            assert!(
                near(r.into(), exact, 20.0 * f64::from(f32::EPSILON) * exact),
                "{r} and {exact}"
            );
        }
    }
    Ok(())
}

fn library_functions(bench: &mut Bench) -> Result {
    let mut x = bench.random.floats(200);
    x.extend([0.0, -0.0, 1e-30, 3e4, -3e4, 1e7]);
    let n = x.len() as i32;
    let (input, mut output) = (bench.upload(&x)?, bench.zeros::<f32>(12 * x.len())?);
    launch!(bench, "functions", (2, 1, 1), (128, 1, 1), 0; &input, &mut output, &n);
    // Errors in units of the last place from CUDA's programming guide; the two intrinsics have absolute ones.
    type Function = (&'static str, fn(f64) -> f64, f64);
    let functions: [Function; 12] = [
        ("expf", f64::exp, 1.0),
        ("logf", |v| v.abs().ln(), 1.0),
        ("sinf", f64::sin, 2.0),
        ("cosf", f64::cos, 2.0),
        ("tanhf", f64::tanh, 2.0),
        ("erff", libm::erf, 2.0),
        ("rsqrtf", |v| v.abs().sqrt().recip(), 2.0),
        ("powf", |v| v.abs().powf(f64::from(1.7f32)), 4.0),
        ("__expf", f64::exp, f64::NAN),
        ("__sinf", f64::sin, f64::NAN),
        ("cbrtf", f64::cbrt, 1.0),
        ("atan2f", |v| v.atan2(2.0), 3.0),
    ];
    for (row, &v) in bench.read(&output)?.chunks(12).zip(&x) {
        for (&actual, (name, exact, ulps)) in row.iter().zip(functions) {
            let exact = exact(v.into());
            let ulp = f64::from((exact as f32).abs().next_up()) - f64::from((exact as f32).abs());
            let bound = match name {
                // 2 + |1.173 x| ulps; 2^-21.41 for |x| ≤ π, and not specified beyond.
                "__expf" => (2.0 + (1.173 * f64::from(v)).abs()) * ulp,
                "__sinf" if f64::from(v).abs() > std::f64::consts::PI => continue,
                "__sinf" => 2f64.powf(-21.41),
                _ => ulps * ulp,
            };
            // Results below the least normal number may be flushed by the approximate forms.
            let bound = bound.max(f64::from(f32::MIN_POSITIVE));
            assert!(
                near(actual.into(), exact, bound) || exact as f32 == actual,
                "{name}({v}) = {actual}, exactly {exact}"
            );
        }
    }
    let x: Vec<f64> = x.iter().map(|&v| f64::from(v) * 1.1).collect();
    let (input, mut output) = (bench.upload(&x)?, bench.zeros::<f64>(6 * x.len())?);
    launch!(bench, "functions_f64", (2, 1, 1), (128, 1, 1), 0; &input, &mut output, &n);
    for (row, &v) in bench.read(&output)?.chunks(6).zip(&x) {
        let exact = [
            v.exp(),
            v.abs().ln(),
            v.sin(),
            v.tanh(),
            v.abs().sqrt(),
            v.recip(),
        ];
        for (i, (&actual, &exact)) in row.iter().zip(&exact).enumerate() {
            // At most 2 ulps by CUDA's table, and one of the reference's own; square root and division are exact.
            let ulps = if i < 4 { 3.0 } else { 0.0 };
            let ulp = exact.abs().next_up() - exact.abs();
            assert!(
                near(actual, exact, ulps * ulp),
                "function {i} of {v}: {actual}, {exact}"
            );
        }
    }
    Ok(())
}

fn packed_halves(bench: &mut Bench) -> Result {
    let values = bench.random.floats(256);
    let h: Vec<u16> = values.iter().map(|&v| f16::from_f32(v).to_bits()).collect();
    let w: Vec<u16> = values
        .iter()
        .map(|&v| bf16::from_f32(v).to_bits())
        .collect();
    let n = 64i32;
    let (a, b) = (bench.upload(&h[..128])?, bench.upload(&h[128..])?);
    let (x, y) = (bench.upload(&w[..128])?, bench.upload(&w[128..])?);
    let (mut c, mut z) = (bench.zeros::<u16>(128)?, bench.zeros::<u16>(128)?);
    launch!(bench, "half_pairs", (1, 1, 1), (64, 1, 1), 0; &a, &b, &mut c, &x, &y, &mut z, &n);
    let (c, z) = (bench.read(&c)?, bench.read(&z)?);
    for i in 0..128 {
        // f64 holds the products and sums of two 16-bit numbers exactly, so that each step rounds once.
        let [p, q] = [i, 128 + i].map(|k| f16::from_bits(h[k]).to_f64());
        let largest = p.max(f16::from_f64(q * 0.5).to_f64());
        assert_eq!(
            f16::from_bits(c[i]),
            f16::from_f64(p * q + largest),
            "f16, element {i}"
        );
        let [p, q] = [i, 128 + i].map(|k| bf16::from_bits(w[k]).to_f64());
        let sum = bf16::from_f64(p + q.min(p)).to_f64();
        assert_eq!(
            bf16::from_bits(z[i]),
            bf16::from_f64(p * q + sum),
            "bf16, element {i}"
        );
    }
    Ok(())
}

fn asynchronous_copies(bench: &mut Bench) -> Result {
    let tiles = 5i32;
    let x = bench.random.floats(256 * tiles as usize);
    let (input, mut output) = (bench.upload(&x)?, bench.zeros::<f32>(x.len())?);
    launch!(bench, "pipelined_scale", (1, 1, 1), (64, 1, 1), 0; &input, &mut output, &tiles);
    let y = bench.read(&output)?;
    for (i, &actual) in y.iter().enumerate() {
        let (tile, four, j) = (i / 256, i % 256 / 4, i % 4);
        assert_eq!(
            actual,
            2.0 * x[tile * 256 + (63 - four) * 4 + j],
            "element {i}"
        );
    }
    Ok(())
}

fn module_variables(bench: &mut Bench) -> Result {
    let n = 100i32;
    let x = bench.random.floats(n as usize);
    let (input, mut output) = (bench.upload(&x)?, bench.zeros::<f32>(n as usize)?);
    launch!(bench, "convolve", (2, 1, 1), (64, 1, 1), 0; &input, &mut output, &n);
    let y = bench.read(&output)?;
    let weights = [0.5f32, -1.0, 2.0, 0.25, 4.0, -0.125, 1.0, 3.0];
    for i in 0..=92 {
        let sum = (0..8).fold(0f32, |s, k| weights[k].mul_add(x[i + k], s));
        assert_eq!(y[i], sum, "element {i}");
    }
    assert!(y[93..].iter().all(|&v| v == 0.0));
    let calls = bench.module.get_global("calls", &bench.stream)?;
    let mut count = [0u8; 4];
    bench.stream.memcpy_dtoh(&calls, &mut count)?;
    assert_eq!(i32::from_ne_bytes(count), 128);
    Ok(())
}

/// A switch, local arrays, bit tricks, a constant table, votes: what compilers make of ordinary code.
fn odds_and_ends(bench: &mut Bench) -> Result {
    let n = 1000i32;
    let x: Vec<f32> = (0..n).map(|i| (i as f32 - 500.0) / 37.0).collect();
    let input = bench.upload(&x)?;
    let (mut y, mut z) = (bench.zeros::<f32>(x.len())?, bench.zeros::<i32>(x.len())?);
    launch!(bench, "odds_and_ends", (8, 1, 1), (128, 1, 1), 0; &input, &mut y, &mut z, &n);
    let (y, z) = (bench.read(&y)?, bench.read(&z)?);
    let table = [0.5f32, -1.0, 2.0, 0.25];
    for (i, &v) in (0..n).zip(&x) {
        let piece = match i % 7 {
            0 => v * 1000.0,
            1 => v.sqrt(),
            2 => v.abs() + 1e-20,
            3 => v.floor(),
            4 => v / 3.0,
            5 => v.mul_add(v, 1.0),
            _ => v.recip(),
        };
        let (got, want) = (y[i as usize], piece * table[i as usize & 3]);
        assert!(
            got == want || got.is_nan() && want.is_nan(),
            "{i}: {got} for {want}"
        );
        let sum: i32 = (0..8).map(|k| i * ((k * (i & 7)) & 7)).sum();
        let dot: i32 = (0..4).map(|b| i32::from((i >> (8 * b)) as i8).pow(2)).sum();
        let first = if i == 0 {
            0
        } else {
            i.trailing_zeros() as i32 + 1
        };
        let want = sum
            + i.leading_zeros() as i32
            + (i.cast_unsigned().reverse_bits() % 3) as i32
            + first
            + dot
            + 3
            + ((i64::from(i) * 1_000_003) >> 7) as i32;
        assert_eq!(z[i as usize], want, "{i}");
    }
    Ok(())
}

/// One test a kernel family, on the PTX for both architectures.
macro_rules! on_both {
    ($($name:ident)*) => {
        const CASES: &[(&str, fn(&mut Bench) -> Result)] = &[$((stringify!($name), $name)),*];
        mod sm80 { $(#[test] fn $name() -> super::Result { super::$name(&mut super::open(super::COMMITTED.as_ref(), 80)?) })* }
        mod sm90 { $(#[test] fn $name() -> super::Result { super::$name(&mut super::open(super::COMMITTED.as_ref(), 90)?) })* }
    };
}

on_both! {
    reductions scans tiles tensor_cores accumulators atomics exchanges row_softmax library_functions packed_halves
    asynchronous_copies module_variables odds_and_ends
}

/// What the installed NVRTC makes of the same kernels.
#[test]
fn fresh() -> Result {
    let Some(python) = tools::tool(PYTHON) else {
        return Ok(());
    };
    if !tools::has_package(&python, "nvidia.cu13")? {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let script = format!("{COMMITTED}/generate.py");
    tools::run(Command::new(python).arg(script).arg(directory.path()))?;
    for capability in [80, 90] {
        for (name, case) in CASES {
            case(&mut open(directory.path(), capability)?).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}
