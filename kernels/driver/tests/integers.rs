//! Integers, bits and comparisons against native Rust, on tables of edge cases, shift amounts beyond the width among them.

mod common;
mod edges;

use edges::{INTEGERS, check, f, f32s, triples};

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

/// The two halves of a word, each by itself.
fn halves(a: u64, b: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
    u64::from(f(a as u16, b as u16)) | u64::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

#[test]
fn pairs_of_16_bits() {
    let values = [0, 1, 0x7fff_8000, 0x8000_7fff, 0xffff_0001, 0x1234_fedc];
    let inputs = triples(&values, &values, &[0]);
    let s = |x: u16| x as i16;
    let on = |text: &str, f: &dyn Fn(u16, u16) -> u16| {
        check(
            &format!("{text} %d, %a, %b;"),
            ["b32"; 4],
            &inputs,
            |[a, b, _]| halves(a, b, f),
        );
    };
    on("add.u16x2", &|a, b| a.wrapping_add(b));
    on("add.s16x2", &|a, b| a.wrapping_add(b));
    on("min.u16x2", &|a, b| a.min(b));
    on("max.u16x2", &|a, b| a.max(b));
    on("min.s16x2", &|a, b| s(a).min(s(b)) as u16);
    on("max.s16x2", &|a, b| s(a).max(s(b)) as u16);
    on("min.relu.s16x2", &|a, b| s(a).min(s(b)).max(0) as u16);
    on("max.relu.s16x2", &|a, b| s(a).max(s(b)).max(0) as u16);
}

/// The upper half of a signed product of 64 bits and its carry.
#[test]
fn carries_of_upper_halves() {
    let values = [
        0,
        1,
        u64::MAX,
        1 << 63,
        i64::MAX as u64,
        0x1234_5678_9abc_def0,
    ];
    let inputs = triples(&values, &values, &values);
    let high = |a: u64, b: u64| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64;
    let text = "mad.hi.cc.s64 %d, %a, %b, %c;";
    check(text, ["b64"; 4], &inputs, |[a, b, c]| {
        high(a, b).wrapping_add(c)
    });
    let text = "mad.hi.cc.s64 %d, %a, %b, %c; addc.u64 %d, 0, 0;";
    check(text, ["b64"; 4], &inputs, |[a, b, c]| {
        u64::from(high(a, b).overflowing_add(c).1)
    });
    let inputs = triples(
        &[0x7f_ffff, 0x80_0000, 3],
        &[0x7f_ffff, 0x80_0001],
        &[0, 0x7fff_ffff, 1 << 31],
    );
    let text = "mad24.hi.sat.s32 %d, %a, %b, %c;";
    check(text, ["b32"; 4], &inputs, |[a, b, c]| {
        let s = |x: u64| i64::from((x as u32 as i32) << 8 >> 8);
        u64::from((((s(a) * s(b)) >> 16) as i32).saturating_add(c as i32) as u32)
    });
}
