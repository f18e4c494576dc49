//! Instructions against native Rust, on tables of edge cases: zeros of both signs, subnormals, the largest, infinities,
//! NaNs, halfway cases, and shift amounts beyond the width.

mod common;
mod edges;

use common::{Arg, Device, module};
use deltaw_driver::exec::{Checks, Isa, Loaded};
use deltaw_driver::ptx::Module;
use edges::{INTEGERS, check, check32, f, f32s, f64s, flush, run, triples};
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

#[test]
fn integers() {
    let inputs = triples(&INTEGERS, &INTEGERS, &[0, 1, 5, 32, 0xffff_ffff]);
    let s = |x: u64| x as u32 as i32;
    let low = |x: u32| u64::from(x);
    let t = ["b32"; 4];
    check("mul.hi.s32 %d, %a, %b;", t, &inputs, |[a, b, _]| {
        low(((i64::from(s(a)) * i64::from(s(b))) >> 32) as u32)
    });
    check("mul.hi.u32 %d, %a, %b;", t, &inputs, |[a, b, _]| {
        low((((a & 0xffff_ffff) * (b & 0xffff_ffff)) >> 32) as u32)
    });
    check("add.sat.s32 %d, %a, %b;", t, &inputs, |[a, b, _]| {
        low(s(a).saturating_add(s(b)) as u32)
    });
    check("mad.lo.s32 %d, %a, %b, %c;", t, &inputs, |[a, b, c]| {
        low((a as u32).wrapping_mul(b as u32).wrapping_add(c as u32))
    });
    check("shl.b32 %d, %a, %b;", t, &inputs, |[a, b, _]| {
        low((a as u32).unbounded_shl(b as u32))
    });
    check("shr.u32 %d, %a, %b;", t, &inputs, |[a, b, _]| {
        low((a as u32).unbounded_shr(b as u32))
    });
    check("shr.s32 %d, %a, %b;", t, &inputs, |[a, b, _]| {
        low(s(a).unbounded_shr(b as u32) as u32)
    });
    check("shf.l.wrap.b32 %d, %a, %b, %c;", t, &inputs, |[a, b, c]| {
        let pair = a & 0xffff_ffff | b << 32;
        low((pair << (c & 31) >> 32) as u32)
    });
    check(
        "shf.r.clamp.b32 %d, %a, %b, %c;",
        t,
        &inputs,
        |[a, b, c]| {
            let pair = a & 0xffff_ffff | b << 32;
            low((pair >> (c & 0xffff_ffff).min(32)) as u32)
        },
    );
    check("lop3.b32 %d, %a, %b, %c, 0x96;", t, &inputs, |[a, b, c]| {
        low((a ^ b ^ c) as u32)
    });
    check("lop3.b32 %d, %a, %b, %c, 0xe8;", t, &inputs, |[a, b, c]| {
        low((a & b | a & c | b & c) as u32)
    });
    check("popc.b32 %d, %a;", t, &inputs, |[a, ..]| {
        low((a as u32).count_ones())
    });
    check("clz.b32 %d, %a;", t, &inputs, |[a, ..]| {
        low((a as u32).leading_zeros())
    });
    check("brev.b32 %d, %a;", t, &inputs, |[a, ..]| {
        low((a as u32).reverse_bits())
    });
    check("bfind.u32 %d, %a;", t, &inputs, |[a, ..]| {
        low((a as u32).checked_ilog2().unwrap_or(!0))
    });
    check("prmt.b32 %d, %a, %b, 0x7a04;", t, &inputs, |[a, b, _]| {
        let byte = |n: u64| (a & 0xffff_ffff | b << 32) >> (8 * n) & 0xff;
        // 4, 0, the sign of 2, 7
        byte(4) | byte(0) << 8 | (if byte(2) & 0x80 != 0 { 0xff } else { 0 }) << 16 | byte(7) << 24
    });
    check(
        "{ add.cc.u32 %d, %a, %b; addc.u32 %d, 0, 0; }",
        t,
        &inputs,
        |[a, b, _]| u64::from((a as u32).overflowing_add(b as u32).1),
    );
    check(
        "{ sub.cc.u32 %d, %a, %b; subc.u32 %d, %a, 0; }",
        t,
        &inputs,
        |[a, b, _]| low((a as u32).wrapping_sub(u32::from((a as u32) < b as u32))),
    );
    let w = ["b64", "b32", "b32", "b64"];
    check("mad.wide.s32 %d, %a, %b, %c;", w, &inputs, |[a, b, c]| {
        (i64::from(s(a)) * i64::from(s(b))).wrapping_add(c as i64) as u64
    });
    let q = ["b64", "b64", "b32", "b32"];
    check("shl.b64 %d, %a, %b;", q, &inputs, |[a, b, _]| {
        a.unbounded_shl(b as u32)
    });
    check("shr.s64 %d, %a, %b;", q, &inputs, |[a, b, _]| {
        (a as i64).unbounded_shr(b as u32) as u64
    });
    check("mul.hi.u64 %d, %a, %a;", q, &inputs, |[a, ..]| {
        ((u128::from(a) * u128::from(a)) >> 64) as u64
    });
}

#[test]
fn bit_fields() {
    let positions = [0, 1, 16, 31, 32, 40, 255, 256];
    let inputs = triples(
        &[0x8765_4321, 0x1234_5678, 0xffff_ffff],
        &positions,
        &[0, 1, 8, 31, 32, 33, 255],
    );
    let field = |a: u64, pos: u64, len: u64| {
        let bits = (0..(len & 255).min(64)).filter(|i| (pos & 255) + i < 32);
        bits.fold(0, |out, i| out | (a >> ((pos & 255) + i) & 1) << i)
    };
    check(
        "bfe.u32 %d, %a, %b, %c;",
        ["b32"; 4],
        &inputs,
        |[a, pos, len]| field(a, pos, len),
    );
    check(
        "bfe.s32 %d, %a, %b, %c;",
        ["b32"; 4],
        &inputs,
        |[a, pos, len]| {
            let (pos, len) = (pos & 255, len & 255);
            let sign = if len == 0 {
                0
            } else {
                a >> (pos + len - 1).min(31) & 1
            };
            let width = len.min(32).min(32u64.saturating_sub(pos));
            let ones = if sign == 1 && width < 32 {
                u64::from(u32::MAX) << width & 0xffff_ffff
            } else {
                0
            };
            field(a, pos, width) | ones
        },
    );
    check(
        "bfi.b32 %d, %a, 0x55555555, %b, %c;",
        ["b32"; 4],
        &inputs,
        |[a, pos, len]| {
            let (pos, len) = (pos & 255, len & 255);
            (0..32).fold(0, |out, i| {
                let inside = i >= pos && i - pos < len;
                out | (if inside {
                    a >> (i - pos) & 1
                } else {
                    0x5555_5555 >> i & 1
                }) << i
            })
        },
    );
}

/// All bits that three inputs can have, by every truth table's row; the predicate with both logics.
#[test]
fn three_input_logic() {
    let inputs = triples(
        &INTEGERS,
        &[0, !0, 0x0f0f_3355],
        &[0, 1, 0xffff_0000, 0x5a5a_aaaa],
    );
    let of = |table: u32, [a, b, c]: [u64; 3]| {
        (0..32).fold(0u64, |out, bit| {
            let on = |x: u64| (x >> bit & 1) as u32;
            let row = 4 * on(a) + 2 * on(b) + on(c);
            out | u64::from(table >> row & 1) << bit
        })
    };
    for table in [0, 0x80, 0xe8, 0x96, 0xca, 0x01, 0xff] {
        check(
            &format!("lop3.b32 %d, %a, %b, %c, {table};"),
            ["b32"; 4],
            &inputs,
            |i| of(table, i),
        );
        for logic in ["or", "and"] {
            // The other operand: whether a is odd.
            let text = format!(
                "and.b32 %x, %a, 1; setp.ne.u32 %q, %x, 0;
                lop3.{logic}.b32 %d|%p, %a, %b, %c, {table}, %q; selp.b32 %x, 1, 0, %p;
                shl.b32 %d, %d, 1; or.b32 %d, %d, %x;"
            );
            check(&text, ["b32"; 4], &inputs, |i| {
                let (d, odd) = (of(table, i), i[0] & 1 != 0);
                let p = if logic == "or" {
                    d != 0 || odd
                } else {
                    d != 0 && odd
                };
                d << 1 & 0xffff_ffff | u64::from(p)
            });
        }
        let sink = format!(
            "setp.ne.u32 %q, 0, 0; lop3.or.b32 _|%p, %a, %b, %c, {table}, !%q; selp.b32 %d, 1, 0, %p;"
        );
        check(&sink, ["b32"; 4], &inputs, |_| 1);
    }
}

#[test]
fn comparisons() {
    let inputs = triples(&f32s(), &f32s(), &[0]);
    let compare = |name: &str| format!("setp.{name}.f32 %p, %a, %b; selp.b32 %d, 1, 0, %p;");
    for (name, want) in [
        ("lt", (|a, b| a < b) as fn(f32, f32) -> bool),
        ("ge", |a, b| a >= b),
        ("ne", |a, b| a != b && !a.is_nan() && !b.is_nan()),
        ("neu", |a, b| a != b),
        ("equ", |a, b| a == b || a.is_nan() || b.is_nan()),
        ("gtu", |a, b| a > b || a.is_nan() || b.is_nan()),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ] {
        check(
            &compare(name),
            ["b32", "f32", "f32", "b32"],
            &inputs,
            |[a, b, _]| want(f(a), f(b)).into(),
        );
    }
    let integers = triples(&INTEGERS, &INTEGERS, &[0]);
    check(
        "setp.lt.s32 %p|%q, %a, %b; selp.b32 %d, 1, 2, %p; @%q add.u32 %d, %d, 4;",
        ["b32"; 4],
        &integers,
        |[a, b, _]| {
            if (a as i32) < b as i32 { 1 } else { 6 }
        },
    );
    check(
        "slct.b32.s32 %d, 5, 6, %a;",
        ["b32"; 4],
        &integers,
        |[a, ..]| if a as i32 >= 0 { 5 } else { 6 },
    );
    check(
        "set.lo.u32.u32 %d, %a, %b;",
        ["b32"; 4],
        &integers,
        |[a, b, _]| {
            if (a as u32) < b as u32 {
                0xffff_ffff
            } else {
                0
            }
        },
    );
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
