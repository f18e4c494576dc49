//! `mma.sync` and `ldmatrix` against the layouts that the ISA prints, and the error bound that the driver states.

mod common;

use common::{Arg, Device, module};
use half::{bf16, f16};

/// The registers of a lane, from matrices A (16 x k), B (k x 8) and C (16 x 8), by the ISA's formulas for m16n8k16:
/// groupID = lane / 4, threadID = lane % 4.
fn fragments(lane: usize, a: &[u16], b: &[u16], c: &[f32]) -> Vec<u32> {
    let (group, thread) = (lane / 4, lane % 4);
    let mut out = Vec::new();
    for i in (0..8).step_by(2) {
        let row = if i < 2 || (4..6).contains(&i) {
            group
        } else {
            group + 8
        };
        let col = thread * 2 + if i >= 4 { 8 } else { 0 };
        out.push(u32::from(a[row * 16 + col]) | u32::from(a[row * 16 + col + 1]) << 16);
    }
    for i in (0..4).step_by(2) {
        let row = thread * 2 + if i >= 2 { 8 } else { 0 };
        out.push(u32::from(b[row * 8 + group]) | u32::from(b[(row + 1) * 8 + group]) << 16);
    }
    for i in 0..4 {
        let row = if i < 2 { group } else { group + 8 };
        out.push(c[row * 8 + thread * 2 + (i & 1)].to_bits());
    }
    out
}

fn kernel(ty: &str) -> String {
    let loads: String = (0..10)
        .map(|i| format!("ld.global.b32 %r{i}, [%rd1+{}]; ", 4 * i))
        .collect();
    let stores: String = (6..10)
        .map(|i| format!("st.global.b32 [%rd2+{}], %r{i}; ", 4 * (i - 6)))
        .collect();
    module(
        ".param .u64 x, .param .u64 y",
        &format!(
            ".reg .b32 %r<12>; .reg .b64 %rd<4>;
            ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; mov.u32 %r11, %tid.x;
            mul.wide.u32 %rd3, %r11, 40; add.u64 %rd1, %rd1, %rd3; mul.wide.u32 %rd3, %r11, 16; add.u64 %rd2, %rd2, %rd3;
            {loads}
            mma.sync.aligned.m16n8k16.row.col.f32.{ty}.{ty}.f32
                {{%r6, %r7, %r8, %r9}}, {{%r0, %r1, %r2, %r3}}, {{%r4, %r5}}, {{%r6, %r7, %r8, %r9}};
            {stores} ret;"
        ),
    )
}

/// Numbers of very different sizes and both signs, so that the order of summation matters.
fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let x = ((state >> 33) as f64 / f64::from(1u32 << 31)) * 2.0 - 1.0;
            x * f64::powi(2.0, (state >> 20 & 7) as i32 - 4)
        })
        .collect()
}

fn product(ty: &str, round: fn(f64) -> u16, exact: fn(u16) -> f64) {
    let device = Device::new(&kernel(ty));
    for seed in 0..20 {
        let a: Vec<u16> = numbers(256, seed).into_iter().map(round).collect();
        let b: Vec<u16> = numbers(128, seed + 100).into_iter().map(round).collect();
        let c: Vec<f32> = numbers(128, seed + 200)
            .into_iter()
            .map(|x| x as f32)
            .collect();
        let input: Vec<u32> = (0..32)
            .flat_map(|lane| fragments(lane, &a, &b, &c))
            .collect();
        let (x, y) = (device.upload(&input), device.alloc::<f32>(128));
        let counters = device
            .launch("k", 1, 32, 0, &[Arg::U64(x), Arg::U64(y)])
            .unwrap();
        assert_eq!(counters.matrix_flops, 4096);
        let d = device.download::<f32>(y, 128);
        for (n, &got) in d.iter().enumerate() {
            let (lane, i) = (n / 4, n % 4);
            let (row, col) = (lane / 4 + if i < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1));
            let terms = (0..16).map(|k| (exact(a[row * 16 + k]), exact(b[k * 8 + col])));
            let start = c[row * 8 + col];
            // The stated order: f32 fma, k ascending.
            let ordered = terms
                .clone()
                .fold(start, |s, (a, b)| (a as f32).mul_add(b as f32, s));
            assert_eq!(got.to_bits(), ordered.to_bits(), "{ty} {row}, {col}");
            // The stated bound: K u / (1 - K u) of the sum of magnitudes. Every sum here is exact in f64.
            let sum: f64 = f64::from(start) + terms.clone().map(|(a, b)| a * b).sum::<f64>();
            let size: f64 = f64::from(start).abs() + terms.map(|(a, b)| (a * b).abs()).sum::<f64>();
            let ku = 16.0 * f64::powi(2.0, -24);
            assert!(
                (f64::from(got) - sum).abs() <= ku / (1.0 - ku) * size,
                "{ty} {row}, {col}: {got} for {sum}"
            );
        }
    }
}

#[test]
fn m16n8k16_has_the_stated_layout_order_and_error() {
    product(
        "bf16",
        |x| bf16::from_f64(x).to_bits(),
        |b| bf16::from_bits(b).to_f64(),
    );
    product(
        "f16",
        |x| f16::from_f64(x).to_bits(),
        |b| f16::from_bits(b).to_f64(),
    );
}

/// Bytes: A row by row in fours, B's columns in fours; sums of integers are exact.
#[test]
fn m16n8k32_of_signed_bytes() {
    let text = kernel("bf16").replace(
        "m16n8k16.row.col.f32.bf16.bf16.f32",
        "m16n8k32.row.col.s32.s8.s8.s32",
    );
    let device = Device::new(&text);
    let a: Vec<i8> = (0..512).map(|i| (i * 37 % 251) as u8 as i8).collect();
    let b: Vec<i8> = (0..256).map(|i| (i * 91 % 253) as u8 as i8).collect();
    let word =
        |f: &dyn Fn(usize) -> i8| (0..4).fold(0, |w, e| w | u32::from(f(e) as u8) << (8 * e));
    let mut input = Vec::new();
    for lane in 0..32 {
        let (group, thread) = (lane / 4, lane % 4);
        for r in 0..4 {
            let (row, col) = (group + 8 * (r % 2), thread * 4 + 16 * (r / 2));
            input.push(word(&|e| a[row * 32 + col + e]));
        }
        for r in 0..2 {
            input.push(word(&|e| b[(thread * 4 + 16 * r + e) * 8 + group]));
        }
        input.extend([1u32, 2, 3, 4]);
    }
    let (x, y) = (device.upload(&input), device.alloc::<i32>(128));
    device
        .launch("k", 1, 32, 0, &[Arg::U64(x), Arg::U64(y)])
        .unwrap();
    for (n, got) in device.download::<i32>(y, 128).into_iter().enumerate() {
        let (lane, i) = (n / 4, n % 4);
        let (row, col) = (lane / 4 + if i < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1));
        let sum: i32 = (0..32)
            .map(|k| i32::from(a[row * 32 + k]) * i32::from(b[k * 8 + col]))
            .sum();
        assert_eq!(got, sum + i as i32 + 1, "{row}, {col}");
    }
}

#[test]
fn ldmatrix_with_and_without_transposition() {
    for transposed in [false, true] {
        let trans = if transposed { ".trans" } else { "" };
        let body = format!(
            ".reg .b32 %r<9>; .reg .b64 %rd<4>; .shared .align 16 .b8 tile[512];
            ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 16;
            add.u64 %rd1, %rd1, %rd3; add.u64 %rd2, %rd2, %rd3;
            mov.u32 %r2, tile; shl.b32 %r3, %r1, 4; add.u32 %r3, %r2, %r3;
            ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd1]; st.shared.v4.b32 [%r3], {{%r4, %r5, %r6, %r7}};
            bar.sync 0;
            ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r4, %r5, %r6, %r7}}, [%r3];
            st.global.v4.b32 [%rd2], {{%r4, %r5, %r6, %r7}}; ret;"
        );
        let device = Device::new(&module(".param .u64 x, .param .u64 y", &body));
        // Element (matrix m, row r, column c) is 64 m + 8 r + c.
        let x: Vec<u16> = (0..256).collect();
        let (dx, dy) = (device.upload(&x), device.alloc::<u16>(256));
        let counters = device
            .launch("k", 1, 32, 0, &[Arg::U64(dx), Arg::U64(dy)])
            .unwrap();
        assert_eq!(counters.shared.efficiency(), 1.0);
        for (n, got) in device.download::<u16>(dy, 256).into_iter().enumerate() {
            let (lane, m, e) = (n / 8, n / 2 % 4, n % 2);
            let (row, col) = (lane / 4, lane % 4 * 2 + e);
            let (row, col) = if transposed { (col, row) } else { (row, col) };
            assert_eq!(usize::from(got), 64 * m + 8 * row + col);
        }
    }
}

/// Integer products of any width: elements lie in words in order, and sums are exact, wrapped or saturated.
#[test]
fn integer_products_of_four_and_eight_bits() {
    for (shape, k, left, right) in [
        ("m8n8k16", 16, "s8", "u8"),
        ("m8n8k16", 16, "u8", "s8"),
        ("m8n8k32", 32, "s4", "s4"),
        ("m8n8k32", 32, "u4", "s4"),
        ("m16n8k16", 16, "s8", "u8"),
        ("m16n8k32", 32, "u8", "u8"),
        ("m16n8k32", 32, "s4", "u4"),
        ("m16n8k32", 32, "u4", "u4"),
        ("m16n8k64", 64, "s4", "s4"),
        ("m16n8k64", 64, "u4", "s4"),
    ] {
        for saturated in [false, true] {
            integer_product(shape, k, [left, right], saturated);
        }
    }
}

fn integer_product(shape: &str, k: usize, types: [&str; 2], saturated: bool) {
    let bits: usize = types[0][1..].parse().unwrap();
    let per_word = 32 / bits;
    let halves = if shape.starts_with("m8") { 1 } else { 2 };
    let sums = 2 * halves;
    // A number and its low bits.
    let number = |ty: &str, seed: usize| {
        let raw = (seed.wrapping_mul(0x9e37_79b9) >> 7) as u32 & ((1 << bits) - 1);
        let sign = ty.starts_with('s') && raw >> (bits - 1) != 0;
        (i64::from(raw) - if sign { 1 << bits } else { 0 }, raw)
    };
    let a = |row: usize, i: usize| number(types[0], 1 + row * k + i);
    let b = |i: usize, column: usize| number(types[1], 77_777 + column * k + i);
    let (a_words, b_words) = (halves * k * bits / 128, k * bits / 128);
    // C is at the ends of the range, so that some sums leave it.
    let c = |row: usize, column: usize| match (row + column) % 3 {
        0 => i32::MAX - 5,
        1 => i32::MIN + 5,
        _ => 3,
    };
    let mut input = Vec::new();
    for lane in 0..32 {
        let (group, thread) = (lane / 4, lane % 4);
        let word = |f: &dyn Fn(usize) -> u32| (0..per_word).fold(0, |w, e| w | f(e) << (bits * e));
        for r in 0..a_words {
            let (row, first) = (
                group + 8 * (r % halves),
                thread * per_word + 4 * per_word * (r / halves),
            );
            input.push(word(&|e| a(row, first + e).1));
        }
        for r in 0..b_words {
            let first = thread * per_word + 4 * per_word * r;
            input.push(word(&|e| b(first + e, group).1));
        }
        for i in 0..sums {
            input.push(c(group + i / 2 * 8, thread * 2 + i % 2) as u32);
        }
    }
    let words = a_words + b_words + sums;
    let list = |from: usize, n: usize| {
        let all: Vec<String> = (from..from + n).map(|i| format!("%r{i}")).collect();
        format!("{{{}}}", all.join(", "))
    };
    let loads: String = (0..words)
        .map(|i| format!("ld.global.b32 %r{i}, [%rd1+{}]; ", 4 * i))
        .collect();
    let d = list(a_words + b_words, sums);
    let stores: String = (0..sums)
        .map(|i| {
            format!(
                "st.global.b32 [%rd2+{}], %r{}; ",
                4 * i,
                a_words + b_words + i
            )
        })
        .collect();
    let (left, right) = (types[0], types[1]);
    let satfinite = if saturated { ".satfinite" } else { "" };
    let device = Device::new(&module(
        ".param .u64 x, .param .u64 y",
        &format!(
            ".reg .b32 %r<12>; .reg .b64 %rd<4>;
            ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; mov.u32 %r11, %tid.x;
            mul.wide.u32 %rd3, %r11, {}; add.u64 %rd1, %rd1, %rd3;
            mul.wide.u32 %rd3, %r11, {}; add.u64 %rd2, %rd2, %rd3; {loads}
            mma.sync.aligned.{shape}.row.col{satfinite}.s32.{left}.{right}.s32 {d}, {}, {}, {d};
            {stores} ret;",
            4 * words,
            4 * sums,
            list(0, a_words),
            list(a_words, b_words),
        ),
    ));
    let (x, y) = (device.upload(&input), device.alloc::<i32>(32 * sums));
    let counters = device
        .launch("k", 1, 32, 0, &[Arg::U64(x), Arg::U64(y)])
        .unwrap();
    assert_eq!(counters.matrix_flops, (2 * 8 * halves * 8 * k) as u64);
    for (n, got) in device.download::<i32>(y, 32 * sums).into_iter().enumerate() {
        let (lane, i) = (n / sums, n % sums);
        let (row, column) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
        let products = (0..k).map(|i| a(row, i).0 * b(i, column).0);
        let sum = i64::from(c(row, column)) + products.sum::<i64>();
        let want = if saturated {
            sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32
        } else {
            sum as i32
        };
        assert_eq!(got, want, "{shape} {types:?} {satfinite}: {row}, {column}");
    }
}

/// Of f64: A's row and B's column are lane / 4, their other index lane % 4; C and D hold two columns.
#[test]
fn m8n8k4_of_f64() {
    let device = Device::new(&module(
        ".param .u64 x, .param .u64 y",
        ".reg .f64 %fd<5>; .reg .b32 %r<2>; .reg .b64 %rd<4>;
        ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; mov.u32 %r1, %tid.x;
        mul.wide.u32 %rd3, %r1, 32; add.u64 %rd1, %rd1, %rd3; mul.wide.u32 %rd3, %r1, 16; add.u64 %rd2, %rd2, %rd3;
        ld.global.f64 %fd1, [%rd1]; ld.global.f64 %fd2, [%rd1+8]; ld.global.f64 %fd3, [%rd1+16]; ld.global.f64 %fd4, [%rd1+24];
        mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%fd3, %fd4}, {%fd1}, {%fd2}, {%fd3, %fd4};
        st.global.f64 [%rd2], %fd3; st.global.f64 [%rd2+8], %fd4; ret;",
    ));
    let (a, b, c) = (numbers(32, 1), numbers(32, 2), numbers(64, 3));
    let input: Vec<f64> = (0..32)
        .flat_map(|lane| {
            let (g, t) = (lane / 4, lane % 4);
            [
                a[g * 4 + t],
                b[t * 8 + g],
                c[g * 8 + 2 * t],
                c[g * 8 + 2 * t + 1],
            ]
        })
        .collect();
    let (x, y) = (device.upload(&input), device.alloc::<f64>(64));
    let counters = device
        .launch("k", 1, 32, 0, &[Arg::U64(x), Arg::U64(y)])
        .unwrap();
    assert_eq!(counters.matrix_flops, 512);
    for (n, got) in device.download::<f64>(y, 64).into_iter().enumerate() {
        let (row, column) = (n / 8, n % 8);
        let want = (0..4).fold(c[n], |s, k| a[row * 4 + k].mul_add(b[k * 8 + column], s));
        assert_eq!(got.to_bits(), want.to_bits(), "{row}, {column}");
    }
}

#[test]
fn movmatrix_transposes() {
    let device = Device::new(&module(
        ".param .u64 x, .param .u64 y",
        ".reg .b32 %r<4>; .reg .b64 %rd<4>;
        ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 4;
        add.u64 %rd1, %rd1, %rd3; add.u64 %rd2, %rd2, %rd3; ld.global.b32 %r2, [%rd1];
        movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r2; st.global.b32 [%rd2], %r2; ret;",
    ));
    let x: Vec<u16> = (0..64).collect();
    let (dx, dy) = (device.upload(&x), device.alloc::<u16>(64));
    device
        .launch("k", 1, 32, 0, &[Arg::U64(dx), Arg::U64(dy)])
        .unwrap();
    for (n, got) in device.download::<u16>(dy, 64).into_iter().enumerate() {
        assert_eq!(usize::from(got), n % 8 * 8 + n / 8);
    }
}
