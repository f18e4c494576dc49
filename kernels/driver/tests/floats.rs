//! Arithmetic of floats against native Rust, on tables of edge cases: zeros of both signs, subnormals, the largest,
//! infinities, NaNs, halfway cases.

mod common;
mod edges;

use common::{Arg, Device, module};
use deltaw_driver::exec::{Checks, Isa, Loaded};
use deltaw_driver::ptx::Module;
use edges::{check, check32, f, f32s, f64s, flush, run, triples};
use half::{bf16, f16};

#[test]
fn f32_to_nearest() {
    check32("add.rn.f32 %d, %a, %b;", |a, b, _| a + b);
    check32("sub.f32 %d, %a, %b;", |a, b, _| a - b);
    check32("mul.rn.f32 %d, %a, %b;", |a, b, _| a * b);
    check32("fma.rn.f32 %d, %a, %b, %c;", f32::mul_add);
    check32("div.rn.f32 %d, %a, %b;", |a, b, _| a / b);
    check32("sqrt.rn.f32 %d, %a;", |a, _, _| a.sqrt());
    check32("rcp.rn.f32 %d, %a;", |a, _, _| 1.0 / a);
    check32("add.ftz.f32 %d, %a, %b;", |a, b, _| {
        flush(flush(a) + flush(b))
    });
    check32("fma.rn.ftz.f32 %d, %a, %b, %c;", |a, b, c| {
        flush(flush(a).mul_add(flush(b), flush(c)))
    });
    check32("mul.ftz.f32 %d, %a, %b;", |a, b, _| {
        flush(flush(a) * flush(b))
    });
    check32("add.sat.f32 %d, %a, %b;", |a, b, _| {
        if (a + b).is_nan() {
            0.0
        } else {
            (a + b).clamp(0.0, 1.0) + 0.0
        }
    });
    check32("neg.f32 %d, %a; add.f32 %d, %d, 0f80000000;", |a, _, _| {
        -a + -0.0
    });
    check32("min.f32 %d, %a, %b;", |a, b, _| {
        if a == b && a.is_sign_negative() {
            a
        } else if a == b {
            b
        } else {
            a.min(b)
        }
    });
    check32("max.f32 %d, %a, %b;", |a, b, _| {
        if a == b && a.is_sign_negative() {
            b
        } else if a == b {
            a
        } else {
            a.max(b)
        }
    });
    check32("max.NaN.f32 %d, %a, %b;", |a, b, _| {
        if a.is_nan() || b.is_nan() {
            f32::NAN
        } else if a == b && a.is_sign_negative() {
            b
        } else if a == b {
            a
        } else {
            a.max(b)
        }
    });
}

/// The neighbour of a rounded value that a directed rounding would give, from the exact sum in i128 units of 2^-149.
#[test]
fn f32_directed_roundings_bracket_the_exact_value() {
    let inputs = triples(&f32s(), &f32s(), &[0]);
    for (op, exact) in [("add", 0), ("sub", 1), ("mul", 2), ("div", 3)] {
        let of = |mode: &str| run(&format!("{op}.{mode}.f32 %d, %a, %b;"), ["f32"; 4], &inputs);
        let (down, up, zero, nearest) = (of("rm"), of("rp"), of("rz"), of("rn"));
        for (i, [a, b, _]) in inputs.iter().enumerate() {
            let (a, b) = (f(*a), f(*b));
            let [down, up, zero, nearest] = [down[i], up[i], zero[i], nearest[i]].map(f);
            if nearest.is_nan() {
                assert!(
                    down.is_nan() && up.is_nan() && zero.is_nan(),
                    "{op} {a:e} {b:e}"
                );
                continue;
            }
            // Sums, differences and products of f32 within 2^100 of one another are exact in f64 or decided by the
            // smaller operand's sign; quotients are never halfway.
            let (x, y) = (f64::from(a), f64::from(b));
            let value = [x + y, x - y, x * y, x / y][exact];
            assert!(
                f64::from(down) <= value && value <= f64::from(up),
                "{op} {a:e} {b:e}: {down:e} {value:e} {up:e}"
            );
            assert!(
                down == up || down.next_up() == up || (down == 0.0 && up == 0.0),
                "{op} {a:e} {b:e}: {down:e} {up:e}"
            );
            assert!(
                nearest == down || nearest == up,
                "{op} {a:e} {b:e}: {nearest:e}"
            );
            assert_eq!(
                zero,
                if value < 0.0 { up } else { down },
                "{op} {a:e} {b:e}"
            );
        }
    }
    // An inexact sum that f64 cannot hold: the tiny operand decides.
    let tiny = [[1.0f32.to_bits().into(), 1.0e-45f32.to_bits().into(), 0]];
    assert_eq!(
        run("add.rp.f32 %d, %a, %b;", ["f32"; 4], &tiny),
        [u64::from(1.0f32.next_up().to_bits())]
    );
    assert_eq!(
        run("sub.rz.f32 %d, %a, %b;", ["f32"; 4], &tiny),
        [u64::from(1.0f32.next_down().to_bits())]
    );
    // x - x is -0 when rounding down only.
    let same = [[1.0f32.to_bits().into(), 1.0f32.to_bits().into(), 0]];
    assert_eq!(
        run("sub.rm.f32 %d, %a, %b;", ["f32"; 4], &same),
        [0x8000_0000]
    );
    assert_eq!(run("sub.rp.f32 %d, %a, %b;", ["f32"; 4], &same), [0]);
}

#[test]
fn f64() {
    let inputs = triples(&f64s(), &f64s(), &[1.0f64.to_bits(), 1e-310f64.to_bits()]);
    let g = f64::from_bits;
    let same = |got: u64, want: f64| got == want.to_bits() || g(got).is_nan() && want.is_nan();
    for (op, want) in [
        (
            "add.f64 %d, %a, %b;",
            (|a, b, _| a + b) as fn(f64, f64, f64) -> f64,
        ),
        ("mul.rn.f64 %d, %a, %b;", |a, b, _| a * b),
        ("fma.rn.f64 %d, %a, %b, %c;", f64::mul_add),
        ("div.rn.f64 %d, %a, %b;", |a, b, _| a / b),
        ("sqrt.rn.f64 %d, %a;", |a, _, _| a.sqrt()),
    ] {
        for ([a, b, c], got) in inputs.iter().zip(run(op, ["f64"; 4], &inputs)) {
            assert!(
                same(got, want(g(*a), g(*b), g(*c))),
                "{op} {a:x} {b:x} {c:x}: {got:x}"
            );
        }
    }
    // 1 + 2^-60 and 1 - 2^-60, of which f64 holds neither.
    let eps = [[1.0f64.to_bits(), 2f64.powi(-60).to_bits(), 0]];
    assert_eq!(
        run("add.rp.f64 %d, %a, %b;", ["f64"; 4], &eps),
        [1.0f64.next_up().to_bits()]
    );
    assert_eq!(
        run("sub.rm.f64 %d, %a, %b;", ["f64"; 4], &eps),
        [1.0f64.next_down().to_bits()]
    );
    assert_eq!(
        run("fma.rz.f64 %d, %a, %a, %b;", ["f64"; 4], &eps),
        [1.0f64.to_bits()]
    );
}

#[test]
fn f16_and_bf16() {
    let values: Vec<u64> = [
        0x0000, 0x8000, 0x0001, 0x03ff, 0x0400, 0x3c00, 0x3c01, 0xc000, 0x7bff, 0x7c00, 0xfc00,
        0x7e00, 0x3555, 0x1234,
    ]
    .to_vec();
    let inputs = triples(&values, &values, &values);
    let h = |x: u64| f16::from_bits(x as u16);
    let b = |x: u64| bf16::from_bits(x as u16);
    let half = |x: f64| {
        if x.is_nan() {
            0x7fff
        } else {
            u64::from(f16::from_f64(x).to_bits())
        }
    };
    let brain = |x: f64| {
        if x.is_nan() {
            0x7fff
        } else {
            u64::from(bf16::from_f64(x).to_bits())
        }
    };
    // Products and sums of two are exact in f64; fma is within what the half crate rounds once.
    check("add.f16 %d, %a, %b;", ["f16"; 4], &inputs, |[x, y, _]| {
        half(h(x).to_f64() + h(y).to_f64())
    });
    check("mul.f16 %d, %a, %b;", ["f16"; 4], &inputs, |[x, y, _]| {
        half(h(x).to_f64() * h(y).to_f64())
    });
    check(
        "fma.rn.f16 %d, %a, %b, %c;",
        ["f16"; 4],
        &inputs,
        |[x, y, z]| half(h(x).to_f64().mul_add(h(y).to_f64(), h(z).to_f64())),
    );
    check(
        "fma.rn.bf16 %d, %a, %b, %c;",
        ["bf16"; 4],
        &inputs,
        |[x, y, z]| brain(b(x).to_f64().mul_add(b(y).to_f64(), b(z).to_f64())),
    );
    let pairs: Vec<[u64; 3]> = inputs
        .iter()
        .map(|&[x, y, z]| [x | y << 16, y | z << 16, 0])
        .collect();
    check("add.f16x2 %d, %a, %b;", ["b32"; 4], &pairs, |[x, y, _]| {
        half(h(x).to_f64() + h(y).to_f64()) | half(h(x >> 16).to_f64() + h(y >> 16).to_f64()) << 16
    });
}

/// The approximations stay within the errors that the ISA states.
#[test]
fn approximations() {
    let n = 4096;
    let inputs: Vec<[u64; 3]> = (0..n)
        .map(|i| [((i as f32 - 2048.0) / 17.0).to_bits().into(), 0, 0])
        .collect();
    let far = |name: &str, got: u64, want: f64, bound: f64| {
        let error = (f64::from(f(got)) - want).abs();
        assert!(
            error <= bound || f64::from(f(got)) == want,
            "{name}: {} for {want}",
            f(got)
        );
    };
    for (op, want, relative, absolute) in [
        (
            "ex2.approx.ftz.f32 %d, %a;",
            f64::exp2 as fn(f64) -> f64,
            2f64.powi(-22),
            f64::from(f32::MIN_POSITIVE),
        ),
        ("sin.approx.f32 %d, %a;", f64::sin, 0.0, 2f64.powf(-20.5)),
        ("cos.approx.f32 %d, %a;", f64::cos, 0.0, 2f64.powf(-20.5)),
        ("tanh.approx.f32 %d, %a;", f64::tanh, 2f64.powi(-11), 0.0),
        (
            "abs.f32 %d, %a; lg2.approx.f32 %d, %d;",
            |x| x.abs().log2(),
            2f64.powi(-22),
            2f64.powi(-22),
        ),
        (
            "abs.f32 %d, %a; rsqrt.approx.f32 %d, %d;",
            |x| 1.0 / x.abs().sqrt(),
            2f64.powf(-22.9),
            0.0,
        ),
        ("rcp.approx.f32 %d, %a;", |x| 1.0 / x, 2f64.powi(-23), 0.0),
    ] {
        for ([a, ..], got) in inputs.iter().zip(run(op, ["f32"; 4], &inputs)) {
            let want = want(f64::from(f(*a)));
            far(op, got, want, relative * want.abs() + absolute);
        }
    }
}

/// Every instruction set gives the same bits.
#[test]
fn instruction_sets_agree() {
    let body = "
        .reg .f32 %f<4>; .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p;
        ld.param.u64 %rd1, [x]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2;
        ld.global.f32 %f1, [%rd1]; fma.rn.f32 %f2, %f1, %f1, 0f3DCCCCCD; ex2.approx.f32 %f3, %f1; add.f32 %f2, %f2, %f3;
        lg2.approx.f32 %f3, %f2; sqrt.rn.f32 %f2, %f2; max.f32 %f2, %f2, %f3; cvt.rn.bf16x2.f32 %r2, %f2, %f3;
        popc.b32 %r3, %r2; xor.b32 %r2, %r2, %r3; st.global.u32 [%rd1], %r2; ret;";
    let module = Module::parse(&module(".param .u64 x", body)).unwrap();
    let all = [Isa::Baseline, Isa::detect()].map(|isa| {
        let mut device = Device::new(&common::module("", "ret;"));
        device.loaded = Loaded::for_isa(&module, &device.memory, isa).unwrap();
        let x: Vec<f32> = (0..96).map(|i| (i as f32 - 40.0) * 0.37).collect();
        let dx = device.upload(&x);
        device
            .launch_with(
                "k",
                [1; 3],
                [96, 1, 1],
                0,
                &[Arg::U64(dx)],
                &Checks::NONE,
                common::LIMIT,
            )
            .unwrap();
        device.download::<u32>(dx, 96)
    });
    assert_eq!(all[0], all[1]);
}

/// The smaller or larger magnitude with the exclusive or of the signs.
#[test]
fn signs_by_exclusive_or() {
    let inputs = triples(&f32s(), &f32s(), &[0]);
    for (name, larger) in [("min", false), ("max", true)] {
        for nan in [false, true] {
            let text = format!(
                "{name}{}.xorsign.abs.f32 %d, %a, %b;",
                if nan { ".NaN" } else { "" }
            );
            for ([a, b, _], got) in inputs.iter().zip(run(&text, ["f32"; 4], &inputs)) {
                let (a, b, got) = (f(*a), f(*b), f(got));
                if a.is_nan() && b.is_nan() || nan && (a.is_nan() || b.is_nan()) {
                    assert_eq!(got.to_bits(), 0x7fff_ffff, "{text} {a:e} {b:e}");
                    continue;
                }
                let magnitude = if larger {
                    a.abs().max(b.abs())
                } else {
                    a.abs().min(b.abs())
                };
                let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
                assert_eq!(
                    got.to_bits(),
                    magnitude.to_bits() | sign,
                    "{text} {a:e} {b:e}"
                );
            }
        }
    }
    let pairs = [[0xbc00_4000, 0x4200_c200, 0], [0x7e00_0001, 0xbc00_8002, 0]];
    let got = run("max.xorsign.abs.f16x2 %d, %a, %b;", ["b32"; 4], &pairs);
    // -1 and 3, 2 and -3; NaN and -1, the smallest and minus twice that.
    assert_eq!(got, [0xc200_c200, 0xbc00_8002]);
}

#[test]
fn pairs_are_set_by_comparison() {
    let inputs = [[0x3c00_4000, 0x4000_4000, 0], [0x7e00_8000, 0x3c00_0000, 0]];
    let t = ["b32"; 4];
    assert_eq!(
        run("set.lt.f16x2.f16x2 %d, %a, %b;", t, &inputs),
        [0x3c00_0000, 0]
    );
    assert_eq!(
        run("set.geu.f16x2.f16x2 %d, %a, %b;", t, &inputs),
        [0x0000_3c00, 0x3c00_3c00]
    );
    assert_eq!(
        run("set.eq.bf16x2.bf16x2 %d, %a, %a;", t, &inputs),
        [0x3f80_3f80; 2]
    );
    // A subnormal number is zero under .ftz.
    let tiny = [[0x0001_0000, 0, 0]];
    assert_eq!(
        run("set.gt.f16x2.f16x2 %d, %a, %b;", t, &tiny),
        [0x3c00_0000]
    );
    assert_eq!(run("set.gt.ftz.f16x2.f16x2 %d, %a, %b;", t, &tiny), [0]);
}

/// Only the upper words of a number and of its reciprocal count, and subnormal ones are zero.
#[test]
fn rough_reciprocals_of_f64() {
    for (text, exact) in [
        (
            "rcp.approx.ftz.f64 %d, %a;",
            (|x: f64| 1.0 / x) as fn(f64) -> f64,
        ),
        ("rsqrt.approx.ftz.f64 %d, %a;", |x: f64| 1.0 / x.sqrt()),
    ] {
        let values = [1.0, 3.0, 1.1e-300, 7.3e200, 0.1];
        let inputs = values.map(|x: f64| [x.to_bits(), 0, 0]);
        for (x, got) in values.iter().zip(run(text, ["f64"; 4], &inputs)) {
            assert_eq!(got << 32, 0, "{text} {x:e}");
            let error = (f64::from_bits(got) / exact(*x) - 1.0).abs();
            assert!(error < f64::powi(2.0, -19), "{text} {x:e}: {error:e}");
        }
        let edges = [f64::MIN_POSITIVE / 2.0, f64::INFINITY, f64::NAN];
        let got = run(text, ["f64"; 4], &edges.map(|x| [x.to_bits(), 0, 0]));
        assert_eq!([got[0], got[1]], [f64::INFINITY.to_bits(), 0], "{text}");
        assert!(f64::from_bits(got[2]).is_nan(), "{text}");
    }
}
