//! CUDA C++ compiled by NVRTC 12.9 (`tests/ptx/nvrtc.cu` for compute_80), against plain Rust, with all checks on.

mod common;

use common::{Arg, Device};
use half::{bf16, f16};

fn device() -> Device {
    Device::new(include_str!("ptx/nvrtc.ptx"))
}

/// Small integers as floats, so that sums are exact in any order.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37) % 19) as f32 - 9.0).collect()
}

#[test]
fn warp_sum() {
    let d = device();
    let x = numbers(5000);
    let (dx, out) = (d.upload(&x), d.alloc::<f32>(4));
    d.launch(
        "warp_sum",
        4,
        256,
        0,
        &[Arg::U64(dx), Arg::U64(out), Arg::U32(5000)],
    )
    .unwrap();
    let sum: f32 = d.download::<f32>(out, 4).iter().sum();
    assert_eq!(sum, x.iter().sum::<f32>());
}

#[test]
fn scan() {
    let d = device();
    let x: Vec<i32> = (0..200).map(|i| i % 13 - 5).collect();
    let dx = d.upload(&x);
    d.launch("scan", 1, 256, 1024, &[Arg::U64(dx), Arg::U32(200)])
        .unwrap();
    let want: Vec<i32> = x
        .iter()
        .scan(0, |s, x| {
            *s += x;
            Some(*s)
        })
        .collect();
    assert_eq!(d.download::<i32>(dx, 200), want);
}

#[test]
fn transpose_and_matmul() {
    let d = device();
    let (rows, cols) = (70, 45);
    let x = numbers(rows * cols);
    let (dx, dy) = (d.upload(&x), d.alloc::<f32>(rows * cols));
    let args = [
        Arg::U64(dx),
        Arg::U64(dy),
        Arg::U32(rows as u32),
        Arg::U32(cols as u32),
    ];
    let checks = deltaw_driver::exec::Checks::ALL;
    let counters = d
        .launch_with(
            "transpose",
            [2, 3, 1],
            [32, 8, 1],
            0,
            &args,
            &checks,
            common::LIMIT,
        )
        .unwrap();
    let y = d.download::<f32>(dy, rows * cols);
    assert!((0..rows * cols).all(|i| y[i % cols * rows + i / cols] == x[i]));
    // The padded column keeps the tile free of bank conflicts.
    assert_eq!(counters.shared.efficiency(), 1.0);

    let (m, n, k) = (33, 20, 50);
    let (a, b) = (numbers(m * k), numbers(k * n));
    let (da, db, dc) = (d.upload(&a), d.upload(&b), d.alloc::<f32>(m * n));
    let args = [
        Arg::U64(da),
        Arg::U64(db),
        Arg::U64(dc),
        Arg::U32(33),
        Arg::U32(20),
        Arg::U32(50),
    ];
    d.launch_with(
        "matmul",
        [2, 3, 1],
        [16, 16, 1],
        0,
        &args,
        &checks,
        common::LIMIT,
    )
    .unwrap();
    let c = d.download::<f32>(dc, m * n);
    for i in 0..m * n {
        let want: f32 = (0..k).map(|t| a[i / n * k + t] * b[t * n + i % n]).sum();
        assert_eq!(c[i], want, "element {i}");
    }
}

#[test]
fn wmma() {
    let d = device();
    let k = 48;
    let (a, b) = (numbers(16 * k), numbers(16 * k));
    let half = |x: &[f32]| {
        x.iter()
            .map(|&x| f16::from_f32(x).to_bits())
            .collect::<Vec<u16>>()
    };
    let brain = |x: &[f32]| {
        x.iter()
            .map(|&x| bf16::from_f32(x).to_bits())
            .collect::<Vec<u16>>()
    };
    let (da, db, dc) = (
        d.upload(&half(&a)),
        d.upload(&half(&b)),
        d.alloc::<f32>(256),
    );
    d.launch(
        "wmma_f16",
        1,
        32,
        0,
        &[Arg::U64(da), Arg::U64(db), Arg::U64(dc), Arg::U32(48)],
    )
    .unwrap();
    let c = d.download::<f32>(dc, 256);
    for (i, &c) in c.iter().enumerate() {
        let want: f32 = (0..k)
            .map(|t| 2.0 * a[i / 16 * k + t] * b[i % 16 * k + t])
            .sum();
        assert_eq!(c, want, "element {i}");
    }
    let start = numbers(256);
    let (da, db, dc) = (d.upload(&brain(&a)), d.upload(&brain(&b)), d.upload(&start));
    let counters = d
        .launch(
            "wmma_bf16",
            1,
            32,
            0,
            &[Arg::U64(da), Arg::U64(db), Arg::U64(dc), Arg::U32(48)],
        )
        .unwrap();
    let c = d.download::<f32>(dc, 256);
    for row in 0..16 {
        for col in 0..16 {
            let product: f32 = (0..k).map(|t| a[row * k + t] * b[t * 16 + col]).sum();
            assert_eq!(
                c[col * 16 + row],
                start[col * 16 + row] + product,
                "{row}, {col}"
            );
        }
    }
    assert_eq!(counters.matrix_flops, 3 * 2 * 16 * 16 * 16);
}

#[test]
fn histogram() {
    let d = device();
    let x: Vec<u8> = (0..10_000u32).map(|i| ((i * i) >> 3) as u8).collect();
    let (dx, bins) = (d.upload(&x), d.upload(&[0u32; 256]));
    d.launch(
        "histogram",
        5,
        256,
        0,
        &[Arg::U64(dx), Arg::U64(bins), Arg::U32(10_000)],
    )
    .unwrap();
    let mut want = vec![0u32; 256];
    x.iter().for_each(|&b| want[b as usize] += 1);
    assert_eq!(d.download::<u32>(bins, 256), want);
}

#[test]
fn slow_paths_switches_local_arrays() {
    let d = device();
    let n = 1000;
    let x: Vec<f32> = (0..n).map(|i| (i as f32 - 500.0) / 37.0).collect();
    let (dx, dy, dz, dw) = (
        d.upload(&x),
        d.alloc::<f32>(n),
        d.alloc::<f64>(n),
        d.alloc::<i32>(n),
    );
    let args = [
        Arg::U64(dx),
        Arg::U64(dy),
        Arg::U64(dz),
        Arg::U64(dw),
        Arg::U32(n as u32),
    ];
    d.launch("mixed", 8, 128, 0, &args).unwrap();
    let (y, z, w) = (
        d.download::<f32>(dy, n),
        d.download::<f64>(dz, n),
        d.download::<i32>(dw, n),
    );
    let table = [1.0, 0.5, 0.25, 0.125];
    for i in 0..n {
        let v = f64::from(x[i]);
        let want = match i % 7 {
            0 => f64::from(x[i] * 1000.0).sin(),
            1 => v.exp(),
            2 => (v.abs() + 1e-20).ln(),
            3 => v.abs().powf(f64::from(1.7f32)),
            4 => v.tanh(),
            5 => v / 3.0,
            _ => libm::erf(v),
        } * table[i & 3];
        // NVIDIA documents at most 4 units in the last place for these functions (powf 4, expf 2, others below).
        let unit = (want.abs() as f32).max(f32::MIN_POSITIVE);
        let unit = f64::from(unit.next_up() - unit);
        assert!(
            (f64::from(y[i]) - want).abs() <= 5.0 * unit,
            "case {} of {v}: {} for {want}",
            i % 7,
            y[i]
        );
        let want = v.exp() / 3.0 + (i as f64).sqrt();
        assert!(
            (z[i] - want).abs() <= 4.0 * f64::EPSILON * want,
            "{} for {want}",
            z[i]
        );
        let i = i as i32;
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
        assert_eq!(w[i as usize], want, "{i}");
    }
    let (counter, _) = d.loaded.global("counter").unwrap();
    assert_eq!(d.download::<i32>(counter, 1), [8]);
}

#[test]
fn packed_halves() {
    let d = device();
    let n = 100;
    let x = numbers(4 * n);
    let bits = |x: &[f32]| {
        x.iter()
            .map(|&x| f16::from_f32(x).to_bits())
            .collect::<Vec<u16>>()
    };
    let brain = |x: &[f32]| {
        x.iter()
            .map(|&x| bf16::from_f32(x).to_bits())
            .collect::<Vec<u16>>()
    };
    let (a, b) = (d.upload(&bits(&x[..2 * n])), d.upload(&bits(&x[2 * n..])));
    let (c, v, e) = (
        d.alloc::<u16>(2 * n),
        d.upload(&brain(&x[..2 * n])),
        d.alloc::<u16>(2 * n),
    );
    let args = [
        Arg::U64(a),
        Arg::U64(b),
        Arg::U64(c),
        Arg::U64(v),
        Arg::U64(e),
        Arg::U32(n as u32),
    ];
    d.launch("halves", 1, 128, 0, &args).unwrap();
    let (c, e) = (d.download::<u16>(c, 2 * n), d.download::<u16>(e, 2 * n));
    for i in 0..2 * n {
        assert_eq!(
            f16::from_bits(c[i]).to_f32(),
            x[i] * x[2 * n + i] + (x[i] + 0.5)
        );
    }
    for i in 0..n {
        assert_eq!(bf16::from_bits(e[2 * i]).to_f32(), x[2 * i] * x[2 * i + 1]);
        assert_eq!(
            bf16::from_bits(e[2 * i + 1]).to_f32(),
            x[2 * i] - x[2 * i + 1]
        );
    }
}

#[test]
fn pipeline_of_asynchronous_copies() {
    let d = device();
    let x = numbers(5 * 64 * 4);
    let (dx, dy) = (d.upload(&x), d.alloc::<f32>(x.len()));
    d.launch(
        "pipeline",
        1,
        64,
        0,
        &[Arg::U64(dx), Arg::U64(dy), Arg::U32(5)],
    )
    .unwrap();
    assert!(
        d.download::<f32>(dy, x.len())
            .iter()
            .zip(&x)
            .all(|(y, x)| *y == 2.0 * x)
    );
}
