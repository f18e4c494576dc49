//! `cvt` against native Rust, on tables of edge cases; the 8-bit floats against a table made from their definition.

mod common;
mod edges;

use edges::{INTEGERS, canonical, check, f, f32s, f64s, run, triples};
use half::{bf16, f16};

#[test]
fn conversions() {
    let singles = triples(
        &f32s()
            .into_iter()
            .chain(
                [
                    2.5f32, 3.5, -0.5, 0.5, 300.0, -300.0, 4.0e9, 1.0e19, 65520.0, 65519.0,
                ]
                .map(|x| x.to_bits().into()),
            )
            .collect::<Vec<_>>(),
        &[0],
        &[0],
    );
    let t = |d: &'static str| [d, "f32", "b32", "b32"];
    check("cvt.rzi.s32.f32 %d, %a;", t("b32"), &singles, |[a, ..]| {
        u64::from(f(a) as i32 as u32)
    });
    check("cvt.rni.s32.f32 %d, %a;", t("b32"), &singles, |[a, ..]| {
        u64::from(f(a).round_ties_even() as i32 as u32)
    });
    check("cvt.rmi.u32.f32 %d, %a;", t("b32"), &singles, |[a, ..]| {
        u64::from(f(a).floor() as u32)
    });
    check("cvt.rzi.u64.f32 %d, %a;", t("b64"), &singles, |[a, ..]| {
        if f(a).is_nan() { 1 << 63 } else { f(a) as u64 }
    });
    check("cvt.rzi.s8.f32 %d, %a;", t("b32"), &singles, |[a, ..]| {
        u64::from(f(a) as i8 as i32 as u32)
    });
    check("cvt.rpi.f32.f32 %d, %a;", t("b32"), &singles, |[a, ..]| {
        canonical(f(a).ceil())
    });
    check("cvt.f64.f32 %d, %a;", t("b64"), &singles, |[a, ..]| {
        f64::from(f(a)).to_bits()
    });
    check("cvt.rn.f16.f32 %d, %a;", t("b16"), &singles, |[a, ..]| {
        if f(a).is_nan() {
            0x7fff
        } else {
            f16::from_f32(f(a)).to_bits().into()
        }
    });
    check(
        "cvt.rn.bf16x2.f32 %d, %a, 0f3F800000;",
        t("b32"),
        &singles,
        |[a, ..]| {
            let high = if f(a).is_nan() {
                0x7fff
            } else {
                u64::from(bf16::from_f32(f(a)).to_bits())
            };
            high << 16 | 0x3f80
        },
    );
    check("cvt.rz.f16.f32 %d, %a;", t("b16"), &singles, |[a, ..]| {
        let near = f16::from_f32(f(a));
        let back = if near.to_f32().abs() > f(a).abs() {
            near.to_bits() - 1
        } else {
            near.to_bits()
        };
        if f(a).is_nan() { 0x7fff } else { back.into() }
    });
    check("cvt.rna.tf32.f32 %d, %a;", t("b32"), &singles, |[a, ..]| {
        let x = a as u32;
        if f(a).is_nan() {
            0x7fff_ffff
        } else if f(a).is_infinite() {
            a
        } else {
            u64::from((x + 0x1000) & !0x1fff)
        }
    });
    let wide = triples(&INTEGERS, &[0], &[0]);
    let t = |d: &'static str| [d, "b64", "b32", "b32"];
    check("cvt.rn.f32.s64 %d, %a;", t("f32"), &wide, |[a, ..]| {
        u64::from((a as i64 as f32).to_bits())
    });
    check("cvt.rz.f32.u64 %d, %a;", t("f32"), &wide, |[a, ..]| {
        let near = a as f32;
        u64::from(
            if near as u128 > u128::from(a) {
                near.next_down()
            } else {
                near
            }
            .to_bits(),
        )
    });
    check("cvt.sat.s16.s64 %d, %a;", t("b16"), &wide, |[a, ..]| {
        u64::from((a as i64).clamp(-32768, 32767) as u16)
    });
    check("cvt.u32.u64 %d, %a;", t("b32"), &wide, |[a, ..]| {
        a & 0xffff_ffff
    });
    check("cvt.s64.s8 %d, %a;", t("b64"), &wide, |[a, ..]| {
        i64::from(a as i8) as u64
    });
    let doubles = triples(&f64s(), &[0], &[0]);
    let d = f64::from_bits;
    check(
        "cvt.rn.f32.f64 %d, %a;",
        ["f32", "f64", "b32", "b32"],
        &doubles,
        |[a, ..]| canonical(d(a) as f32),
    );
    check(
        "cvt.rzi.s32.f64 %d, %a;",
        ["b32", "f64", "b32", "b32"],
        &doubles,
        |[a, ..]| {
            if d(a).is_nan() {
                0x8000_0000
            } else {
                u64::from(d(a) as i32 as u32)
            }
        },
    );
}

/// The number of an 8-bit float's code, from the definition: exponent bits, bias; e4m3 has no infinity.
fn number(code: u8, exponent_bits: u32, bias: i32) -> f64 {
    let mantissa_bits = 7 - exponent_bits;
    let exponent = i32::from(code >> mantissa_bits) & ((1 << exponent_bits) - 1);
    let mantissa = f64::from(code & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
    let magnitude = if exponent == 0 {
        mantissa * f64::powi(2.0, 1 - bias)
    } else {
        (1.0 + mantissa) * f64::powi(2.0, exponent - bias)
    };
    if code & 0x80 != 0 {
        -magnitude
    } else {
        magnitude
    }
}

/// An 8-bit float: exponent bits, bias, the code of the largest number.
const E4M3: (u32, i32, u8) = (4, 7, 0x7e);
const E5M2: (u32, i32, u8) = (5, 15, 0x7b);

/// The nearest code by search, ties to the even one; beyond the largest the largest.
fn nearest((exponent_bits, bias, largest): (u32, i32, u8), x: f64) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    let distance = |code: u8| (number(code, exponent_bits, bias) - x.abs()).abs();
    let best = (0..=largest)
        .min_by(|&a, &b| {
            (distance(a), a & 1)
                .partial_cmp(&(distance(b), b & 1))
                .unwrap()
        })
        .unwrap();
    let best = if x.abs() > number(largest, exponent_bits, bias) {
        largest
    } else {
        best
    };
    best | if x.is_sign_negative() { 0x80 } else { 0 }
}

/// Every number of both formats, what lies halfway, just beside, and far beyond.
fn around_bytes() -> Vec<u64> {
    let mut all = f32s();
    for (exponent_bits, bias, largest) in [E4M3, E5M2] {
        for code in 0..=largest {
            let x = number(code, exponent_bits, bias) as f32;
            let next = number(code + 1, exponent_bits, bias) as f32;
            let half = x + (next - x) / 2.0;
            for x in [x, -x, half, -half, half.next_up(), half.next_down()] {
                all.push(x.to_bits().into());
            }
        }
    }
    all
}

#[test]
fn eight_bit_floats() {
    let singles = triples(&around_bytes(), &[1.0f32.to_bits().into()], &[0]);
    let x2 = |x: u64| f16::from_bits(x as u16).to_f64();
    let relu = |x: f64| if x > 0.0 || x.is_nan() { x } else { 0.0 };
    for (name, format) in [("e4m3x2", E4M3), ("e5m2x2", E5M2)] {
        let one = u64::from(nearest(format, 1.0));
        let text = format!("cvt.rn.satfinite.{name}.f32 %d, %a, %b;");
        check(&text, ["b16", "f32", "f32", "b32"], &singles, |[a, ..]| {
            u64::from(nearest(format, f64::from(f(a)))) << 8 | one
        });
        let text = format!("cvt.rn.satfinite.relu.{name}.f32 %d, %b, %a;");
        check(&text, ["b16", "f32", "f32", "b32"], &singles, |[a, ..]| {
            one << 8 | u64::from(nearest(format, relu(f64::from(f(a)))))
        });
        let halves: Vec<u64> = (0..1 << 16).map(|x| x | (x ^ 0x8001) << 16).collect();
        let halves = triples(&halves, &[0], &[0]);
        let text = format!("cvt.rn.satfinite.{name}.f16x2 %d, %a;");
        check(&text, ["b16", "b32", "b32", "b32"], &halves, |[a, ..]| {
            u64::from(nearest(format, x2(a >> 16))) << 8 | u64::from(nearest(format, x2(a)))
        });
        // Back, every pair of a code and its complement.
        let codes: Vec<u64> = (0..256).map(|c| c | (c ^ 0xff) << 8).collect();
        let codes = triples(&codes, &[0], &[0]);
        let wide = |code: u64| {
            let (exponent_bits, bias, largest) = format;
            let code = code as u8;
            let x = match code & 0x7f {
                magnitude if magnitude <= largest => number(code, exponent_bits, bias),
                0x7c if name == "e5m2x2" => {
                    number(code & 0x80 | 0x7c, 5, 15).signum() * f64::INFINITY
                }
                _ => return 0x7fff,
            };
            f16::from_f64(x).to_bits()
        };
        let text = format!("cvt.rn.f16x2.{name} %d, %a;");
        check(&text, ["b32", "b16", "b32", "b32"], &codes, |[a, ..]| {
            u64::from(wide(a >> 8)) << 16 | u64::from(wide(a & 0xff))
        });
        let text = format!("cvt.rn.relu.f16x2.{name} %d, %a;");
        let positive = |h: u16| if h & 0x8000 != 0 { 0 } else { u64::from(h) };
        check(&text, ["b32", "b16", "b32", "b32"], &codes, |[a, ..]| {
            positive(wide(a >> 8)) << 16 | positive(wide(a & 0xff))
        });
    }
}

/// f16 and bf16 in all four directions, from integers and floats: the neighbours of what the half crate rounds to nearest.
#[test]
fn directed_halves() {
    let integers = [
        0,
        1,
        2049,
        2051,
        65_503,
        65_505,
        65_519,
        65_520,
        100_001,
        0x7fff_ffff,
    ];
    for ty in ["f16", "bf16"] {
        let exact = |bits: u64| match ty {
            "f16" => f16::from_bits(bits as u16).to_f64(),
            _ => bf16::from_bits(bits as u16).to_f64(),
        };
        let on = |text: &str, from: &str, value: f64, bits: u64| {
            let of = |mode: &str| {
                let text = format!("cvt.{mode}.{ty}.{text} %d, %a;");
                run(&text, [ty, from, "b32", "b32"], &[[bits, 0, 0]])[0]
            };
            let [down, up, zero, nearest] = ["rm", "rp", "rz", "rn"].map(of);
            let (low, high) = (exact(down), exact(up));
            assert!(
                low <= value && value <= high,
                "{ty} of {value}: {low} {high}"
            );
            // Neighbours: one step apart in their codes, or equal.
            let step = |bits: u64| {
                if bits >> 15 & 1 == 1 {
                    -((bits & 0x7fff) as i64)
                } else {
                    bits as i64
                }
            };
            assert_eq!(
                step(up) - step(down),
                i64::from(low != high),
                "{ty} of {value}"
            );
            assert_eq!(zero, if value < 0.0 { up } else { down }, "{ty} of {value}");
            assert!(nearest == down || nearest == up, "{ty} of {value}");
        };
        for i in integers {
            on("s32", "s32", i as f64, i);
            on(
                "s32",
                "s32",
                -(i as f64),
                u64::from((i as i32).wrapping_neg() as u32),
            );
            on("u64", "u64", i as f64 * 4_294_967_296.0, i << 32);
            on(
                "f32",
                "f32",
                f64::from(i as f32 / 3.0),
                (i as f32 / 3.0).to_bits().into(),
            );
            on(
                "f64",
                "f64",
                -(i as f64) / 7.0,
                (-(i as f64) / 7.0).to_bits(),
            );
        }
    }
}

#[test]
fn saturated_and_finite() {
    let one = |text: &str, types: [&str; 4], a: u64| run(text, types, &[[a, 0, 0]])[0];
    let half = ["f16", "b32", "b32", "b32"];
    assert_eq!(one("cvt.rn.sat.f16.s32 %d, %a;", half, 7), 0x3c00);
    assert_eq!(
        one("cvt.rz.sat.f16.s32 %d, %a;", half, u64::from(u32::MAX)),
        0
    );
    let double = ["f64", "b32", "b32", "b32"];
    assert_eq!(
        one("cvt.rn.sat.f64.s32 %d, %a;", double, 7),
        1.0f64.to_bits()
    );
    assert_eq!(
        one("cvt.rz.sat.f64.s32 %d, %a;", double, u64::from(u32::MAX)),
        0
    );
    for (a, f, b, tf) in [
        (1e38, 0x7bff, 0x7e96, 0x7e96_8000),
        (f32::INFINITY, 0x7bff, 0x7f7f, 0x7f7f_e000),
        (f32::NEG_INFINITY, 0xfbff, 0xff7f, 0xff7f_e000),
        (f32::MAX, 0x7bff, 0x7f7f, 0x7f7f_e000),
    ] {
        let a = u64::from(a.to_bits());
        assert_eq!(one("cvt.rn.satfinite.f16.f32 %d, %a;", half, a), f);
        assert_eq!(one("cvt.rn.satfinite.bf16.f32 %d, %a;", half, a), b);
        let pair = one("cvt.rn.satfinite.f16x2.f32 %d, %a, %a;", ["b32"; 4], a);
        assert_eq!(pair, f | f << 16);
        let word = one("cvt.rna.satfinite.tf32.f32 %d, %a;", ["b32"; 4], a);
        assert_eq!(word & !0x1fff, tf & !0x1fff);
    }
    let nan = u64::from(f32::NAN.to_bits());
    assert_eq!(one("cvt.rn.satfinite.f16.f32 %d, %a;", half, nan), 0x7fff);
}

/// a above b, saturated, and above them what c holds below.
#[test]
fn packs_of_integers() {
    let values = [0, 5, 300, -300, 70_000, -70_000, i32::MAX, i32::MIN];
    for (ty, bits, low, high) in [
        ("u16", 16, 0, 0xffff),
        ("s16", 16, -0x8000, 0x7fff),
        ("u8", 8, 0, 0xff),
        ("s8", 8, -0x80, 0x7f),
        ("u4", 4, 0, 15),
        ("s4", 4, -8, 7),
        ("u2", 2, 0, 3),
        ("s2", 2, -2, 1),
    ] {
        let text = match bits {
            16 => format!("cvt.pack.sat.{ty}.s32 %d, %a, %b;"),
            _ => format!("cvt.pack.sat.{ty}.s32.b32 %d, %a, %b, %c;"),
        };
        let words = values.map(|x: i32| u64::from(x as u32));
        let inputs = triples(&words, &words, &[0x89ab_cdef]);
        check(&text, ["b32"; 4], &inputs, |[a, b, c]| {
            let field =
                |x: u64| i64::from(x as u32 as i32).clamp(low, high) as u64 & ((1 << bits) - 1);
            (field(b) | field(a) << bits | if bits < 16 { c << (2 * bits) } else { 0 })
                & 0xffff_ffff
        });
    }
}
