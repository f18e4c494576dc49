//! Instructions that compilers seldom emit, on edge values, against definitions by sets of bits and wide integers; and
//! every atomic operation against the order-free part of its meaning.

mod common;

use common::{Arg, Device, module};

/// Runs `%d = instruction(%a, %b, %c)` on triples, all registers `bits` wide, `%p` a predicate and `%i` a word.
fn run(instruction: &str, bits: usize, inputs: &[[u64; 3]]) -> Vec<u64> {
    let body = format!(
        ".reg .pred %p; .reg .b32 %i, %n, %t; .reg .b{bits} %a, %b, %c, %d; .reg .b64 %x, %y, %o;
        ld.param.u64 %x, [x]; ld.param.u64 %y, [y]; ld.param.u32 %n, [n];
        mov.u32 %i, %ctaid.x; mov.u32 %t, %tid.x; mad.lo.u32 %i, %i, 64, %t; setp.ge.u32 %p, %i, %n; @%p ret;
        mul.wide.u32 %o, %i, 24; add.u64 %x, %x, %o; mul.wide.u32 %o, %i, 8; add.u64 %y, %y, %o;
        ld.global.b{bits} %a, [%x]; ld.global.b{bits} %b, [%x+8]; ld.global.b{bits} %c, [%x+16];
        mov.b64 %o, 0; st.global.b64 [%y], %o;
        {instruction}
        st.global.b{bits} [%y], %d; ret;"
    );
    let text = module(".param .u64 x, .param .u64 y, .param .u32 n", &body);
    let device = Device::new(&text);
    let n = inputs.len() as u32;
    let (x, y) = (device.upload(inputs), device.alloc::<u64>(inputs.len()));
    let args = [Arg::U64(x), Arg::U64(y), Arg::U32(n)];
    device.launch("k", n.div_ceil(64), 64, 0, &args).unwrap();
    device.download(y, inputs.len())
}

/// Compares on all triples of edge values and some without a pattern.
fn check(instruction: &str, bits: usize, want: impl Fn(u64, u64, u64) -> u64) {
    let mask = u64::MAX >> (64 - bits);
    let top = 1u64 << (bits - 1);
    let mut edges = vec![
        0,
        1,
        2,
        7,
        31,
        32,
        33,
        0x80,
        0xff00,
        0x7fff_ffff,
        0x89ab_cdef,
        top,
        top - 1,
        top + 1,
        mask,
        mask - 1,
    ];
    edges.iter_mut().for_each(|x| *x &= mask);
    let pairs = edges
        .iter()
        .flat_map(|&a| edges.iter().map(move |&b| (a, b)));
    let thirds = [0, 1, top, mask];
    let inputs: Vec<[u64; 3]> = pairs.flat_map(|(a, b)| thirds.map(|c| [a, b, c])).collect();
    for (&[a, b, c], got) in inputs.iter().zip(run(instruction, bits, &inputs)) {
        let want = want(a, b, c) & mask;
        assert_eq!(
            got, want,
            "{instruction} of {a:#x}, {b:#x}, {c:#x}: {got:#x} for {want:#x}"
        );
    }
}

/// The lowest bits of a word as a number with a sign.
fn signed(x: u64, bits: usize) -> i128 {
    i128::from(x) << (128 - bits) >> (128 - bits)
}

#[test]
fn distances() {
    for bits in [16, 32, 64] {
        check(&format!("sad.u{bits} %d, %a, %b, %c;"), bits, |a, b, c| {
            c.wrapping_add(a.abs_diff(b))
        });
        check(&format!("sad.s{bits} %d, %a, %b, %c;"), bits, |a, b, c| {
            c.wrapping_add((signed(a, bits) - signed(b, bits)).unsigned_abs() as u64)
        });
    }
}

#[test]
fn products_of_24_bits() {
    let unsigned = |a: u64, b: u64| (a & 0xff_ffff) * (b & 0xff_ffff);
    let product = |a: u64, b: u64| (signed(a, 24) * signed(b, 24)) as u64;
    check("mul24.lo.u32 %d, %a, %b;", 32, |a, b, _| unsigned(a, b));
    check("mul24.hi.u32 %d, %a, %b;", 32, |a, b, _| {
        unsigned(a, b) >> 16
    });
    check("mul24.lo.s32 %d, %a, %b;", 32, |a, b, _| product(a, b));
    check("mul24.hi.s32 %d, %a, %b;", 32, |a, b, _| {
        product(a, b) >> 16
    });
    check("mad24.lo.u32 %d, %a, %b, %c;", 32, |a, b, c| {
        unsigned(a, b) + c
    });
    check("mad24.hi.s32 %d, %a, %b, %c;", 32, |a, b, c| {
        (product(a, b) >> 16).wrapping_add(c)
    });
}

/// Bytes, or halves of words, with and without a sign.
fn part(x: u64, bits: usize, i: usize, is_signed: bool) -> i128 {
    let x = x >> (bits * i) & (u64::MAX >> (64 - bits));
    if is_signed { signed(x, bits) } else { x.into() }
}

#[test]
fn dot_products() {
    for (ta, sa) in [("u32", false), ("s32", true)] {
        for (tb, sb) in [("u32", false), ("s32", true)] {
            check(&format!("dp4a.{ta}.{tb} %d, %a, %b, %c;"), 32, |a, b, c| {
                let sum: i128 = (0..4).map(|i| part(a, 8, i, sa) * part(b, 8, i, sb)).sum();
                c.wrapping_add(sum as u64)
            });
            for (half, first) in [("lo", 0), ("hi", 2)] {
                check(
                    &format!("dp2a.{half}.{ta}.{tb} %d, %a, %b, %c;"),
                    32,
                    |a, b, c| {
                        let sum: i128 = (0..2)
                            .map(|i| part(a, 16, i, sa) * part(b, 8, first + i, sb))
                            .sum();
                        c.wrapping_add(sum as u64)
                    },
                );
            }
        }
    }
}

#[test]
fn masks_and_extensions() {
    for bits in [16, 32, 64] {
        check(&format!("cnot.b{bits} %d, %a;"), bits, |a, _, _| {
            u64::from(a == 0)
        });
    }
    // Bits a to a + b - 1.
    let mask = |a: u64, b: u64| {
        (0..32)
            .filter(|&p| (a..a.saturating_add(b)).contains(&p))
            .map(|p| 1u64 << p)
            .sum()
    };
    check("bmsk.clamp.b32 %d, %a, %b;", 32, |a, b, _| mask(a, b));
    check("bmsk.wrap.b32 %d, %a, %b;", 32, |a, b, _| {
        mask(a & 31, b & 31)
    });
    let extended = |a: u64, width: u64, is_signed: bool| match width {
        0 => 0,
        32.. => a,
        _ if is_signed => signed(a, width as usize) as u64,
        _ => a & ((1 << width) - 1),
    };
    check("szext.clamp.u32 %d, %a, %b;", 32, |a, b, _| {
        extended(a, b, false)
    });
    check("szext.clamp.s32 %d, %a, %b;", 32, |a, b, _| {
        extended(a, b, true)
    });
    check("szext.wrap.u32 %d, %a, %b;", 32, |a, b, _| {
        extended(a, b & 31, false)
    });
    check("szext.wrap.s32 %d, %a, %b;", 32, |a, b, _| {
        extended(a, b & 31, true)
    });
    check("bfind.shiftamt.u32 %d, %a;", 32, |a, _, _| {
        if a == 0 {
            u64::MAX
        } else {
            u64::from((a as u32).leading_zeros())
        }
    });
}

/// The n-th set bit at or after a position, or before it for a negative n; 0 asks for the position itself.
#[test]
fn nth_set_bits() {
    let nth = |mask: u64, base: u64, n: i32| -> Option<u64> {
        let set = |p: &u64| mask >> p & 1 != 0;
        match n {
            0 => Some(base).filter(set),
            1.. => (base..32).filter(set).nth(n as usize - 1),
            _ => (0..=base)
                .rev()
                .filter(set)
                .nth(n.unsigned_abs() as usize - 1),
        }
    };
    for base in [0, 5, 16, 31] {
        for n in [-9, -2, -1, 0, 1, 2, 3, 20] {
            check(&format!("fns.b32 %d, %a, {base}, {n};"), 32, |a, _, _| {
                nth(a, base, n).unwrap_or(u64::MAX)
            });
        }
    }
}

#[test]
fn kinds_of_numbers() {
    type Is = fn(f64, bool) -> bool;
    let kinds: [(&str, Is); 6] = [
        ("finite", |x, _| x.is_finite()),
        ("infinite", |x, _| x.is_infinite()),
        ("number", |x, _| !x.is_nan()),
        ("notanumber", |x, _| x.is_nan()),
        // Zeros count as normal.
        ("normal", |x, subnormal| x.is_finite() && !subnormal),
        ("subnormal", |_, subnormal| subnormal),
    ];
    for (kind, is) in kinds {
        let singles = [
            0.0,
            -0.0,
            1.0,
            -1e-40,
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        let inputs = singles.map(|x| [u64::from(x.to_bits()), 0, 0]);
        let got = run(
            &format!("testp.{kind}.f32 %p, %a; selp.b32 %d, 1, 0, %p;"),
            32,
            &inputs,
        );
        let want = singles.map(|x| u64::from(is(x.into(), x.is_subnormal())));
        assert_eq!(got, want, "{kind} of f32");
        let doubles = [
            0.0,
            -0.0,
            1.0,
            -1e-310,
            f64::MIN_POSITIVE,
            f64::MAX,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ];
        let inputs = doubles.map(|x| [x.to_bits(), 0, 0]);
        let got = run(
            &format!("testp.{kind}.f64 %p, %a; selp.b64 %d, 1, 0, %p;"),
            64,
            &inputs,
        );
        let want = doubles.map(|x| u64::from(is(x, x.is_subnormal())));
        assert_eq!(got, want, "{kind} of f64");
    }
}

/// Two warps apply an operation to one place, in global or shared memory: what lies there in the end, and what every
/// thread found.
fn atomically(
    operation: &str,
    ty: &str,
    space: &str,
    start: u64,
    operands: &[u64; 64],
) -> (u64, Vec<u64>) {
    let place = if space == "shared" { "%s" } else { "%z" };
    let size = if ty.ends_with("64") { "b64" } else { "b32" };
    let body = format!(
        ".reg .pred %p; .reg .b32 %t, %s; .reg .b64 %x, %y, %z, %o; .reg .{size} %a, %d; .shared .align 8 .b64 word;
        ld.param.u64 %x, [x]; ld.param.u64 %y, [y]; ld.param.u64 %z, [z]; mov.u32 %t, %tid.x; mov.u32 %s, word;
        mul.wide.u32 %o, %t, 8; add.u64 %x, %x, %o; add.u64 %y, %y, %o; ld.global.{size} %a, [%x];
        setp.ne.u32 %p, %t, 0; @%p bra READY;
        ld.global.{size} %d, [%z]; st.shared.{size} [%s], %d;
        READY: bar.sync 0;
        {}
        bar.sync 0; st.global.{size} [%y], %d; @%p ret;
        ld.{space}.{size} %d, [{place}]; st.global.{size} [%z], %d; ret;",
        operation.replace("PLACE", &format!("[{place}]")).replace("SPACE", space)
    );
    let device = Device::new(&module(
        ".param .u64 x, .param .u64 y, .param .u64 z",
        &body,
    ));
    let (x, y, z) = (
        device.upload(operands),
        device.upload(&[0u64; 64]),
        device.upload(&[start]),
    );
    device
        .launch("k", 1, 64, 0, &[Arg::U64(x), Arg::U64(y), Arg::U64(z)])
        .unwrap();
    (device.download(z, 1)[0], device.download(y, 64))
}

fn operands() -> [u64; 64] {
    std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[test]
fn atomics_that_commute() {
    type Fold = fn(u64, u64) -> u64;
    let narrow = |x: u64| u64::from(x as u32);
    let forms: [(&str, &str, Fold); 16] = [
        ("add", "u32", |a, b| {
            u64::from((a as u32).wrapping_add(b as u32))
        }),
        ("add", "s32", |a, b| {
            u64::from((a as u32).wrapping_add(b as u32))
        }),
        ("add", "u64", u64::wrapping_add),
        ("min", "u32", |a, b| a.min(u64::from(b as u32))),
        ("max", "u32", |a, b| a.max(u64::from(b as u32))),
        ("min", "s32", |a, b| {
            u64::from((a as i32).min(b as i32) as u32)
        }),
        ("max", "s32", |a, b| {
            u64::from((a as i32).max(b as i32) as u32)
        }),
        ("min", "u64", u64::min),
        ("max", "u64", u64::max),
        ("min", "s64", |a, b| (a as i64).min(b as i64) as u64),
        ("max", "s64", |a, b| (a as i64).max(b as i64) as u64),
        ("and", "b32", |a, b| a & u64::from(b as u32)),
        ("or", "b32", |a, b| a | u64::from(b as u32)),
        ("xor", "b32", |a, b| a ^ u64::from(b as u32)),
        ("and", "b64", |a, b| a & b),
        ("xor", "b64", |a, b| a ^ b),
    ];
    let operands = operands();
    for (op, ty, fold) in forms {
        for space in ["global", "shared"] {
            let wide = ty.ends_with("64");
            let start = if wide {
                0x0123_4567_89ab_cdef
            } else {
                0x89ab_cdef
            };
            let want = operands
                .iter()
                .fold(start, |s, &x| fold(s, if wide { x } else { narrow(x) }));
            let (end, found) = atomically(
                &format!("atom.SPACE.{op}.{ty} %d, PLACE, %a;"),
                ty,
                space,
                start,
                &operands,
            );
            assert_eq!(end, want, "atom.{space}.{op}.{ty}");
            // Each thread finds what others left: the start for one, and for each its own next for another or the end.
            let left: Vec<u64> = found
                .iter()
                .zip(&operands)
                .map(|(&f, &x)| fold(f, if wide { x } else { narrow(x) }))
                .collect();
            let (mut before, mut after) = (found, left);
            before.push(end);
            after.push(start);
            before.sort_unstable();
            after.sort_unstable();
            assert_eq!(before, after, "atom.{space}.{op}.{ty}");
            let (end, _) = atomically(
                &format!("red.SPACE.{op}.{ty} PLACE, %a; mov.b{} %d, 0;", &ty[1..]),
                ty,
                space,
                start,
                &operands,
            );
            assert_eq!(end, want, "red.{space}.{op}.{ty}");
        }
    }
}

#[test]
fn atomics_in_turn() {
    let operands = operands();
    for space in ["global", "shared"] {
        // Counts up to a limit and starts again; 64 threads.
        let (end, mut found) = atomically(
            "atom.SPACE.inc.u32 %d, PLACE, 9;",
            "u32",
            space,
            4,
            &operands,
        );
        assert_eq!(end, (4 + 64) % 10);
        found.sort_unstable();
        let mut want: Vec<u64> = (4..68).map(|i| i % 10).collect();
        want.sort_unstable();
        assert_eq!(found, want);
        let (end, _) = atomically(
            "atom.SPACE.inc.u32 %d, PLACE, 9;",
            "u32",
            space,
            100,
            &operands,
        );
        assert_eq!(end, 63 % 10, "a count above the limit starts again");
        let (end, _) = atomically(
            "atom.SPACE.dec.u32 %d, PLACE, 9;",
            "u32",
            space,
            4,
            &operands,
        );
        // 4 to 0, then 9 to 0 for ever.
        assert_eq!(end, 9 - (64 - 5) % 10);
        // Every word is found once, but the one that stays.
        for (ty, start) in [("b32", 77), ("b64", 0x1234_5678_9abc)] {
            let width = if ty == "b32" {
                u64::from(u32::MAX)
            } else {
                u64::MAX
            };
            let (end, mut found) = atomically(
                &format!("atom.SPACE.exch.{ty} %d, PLACE, %a;"),
                ty,
                space,
                start,
                &operands,
            );
            found.push(end);
            found.sort_unstable();
            let mut want: Vec<u64> = operands.iter().map(|x| x & width).chain([start]).collect();
            want.sort_unstable();
            assert_eq!(found, want);
            // One thread alone finds what it compares with.
            let (end, found) = atomically(
                &format!("atom.SPACE.cas.{ty} %d, PLACE, {start}, %a;"),
                ty,
                space,
                start,
                &operands,
            );
            let winners: Vec<usize> = (0..64).filter(|&i| found[i] == start).collect();
            assert_eq!(winners.len(), 1);
            assert_eq!(end, operands[winners[0]] & width);
            assert!((0..64).all(|i| i == winners[0] || found[i] == end));
        }
    }
}

/// Small integers, whose sums are exact in any order.
#[test]
fn atomic_sums_of_floats() {
    for space in ["global", "shared"] {
        let (singles, doubles): (Vec<u64>, Vec<u64>) = (0..64)
            .map(|i| (u64::from((i as f32).to_bits()), f64::from(i).to_bits()))
            .unzip();
        let (end, _) = atomically(
            "atom.SPACE.add.f32 %d, PLACE, %a;",
            "f32",
            space,
            u64::from(0.5f32.to_bits()),
            &singles.try_into().unwrap(),
        );
        assert_eq!(f32::from_bits(end as u32), 2016.5);
        let (end, _) = atomically(
            "atom.SPACE.add.f64 %d, PLACE, %a;",
            "f64",
            space,
            0.5f64.to_bits(),
            &doubles.try_into().unwrap(),
        );
        assert_eq!(f64::from_bits(end), 2016.5);
        let halves: [u64; 64] = std::array::from_fn(|i| {
            let [low, high] =
                [i as f32 / 4.0, -(i as f32)].map(|x| u64::from(half::f16::from_f32(x).to_bits()));
            low | high << 16
        });
        let (end, _) = atomically(
            "atom.SPACE.add.noftz.f16x2 %d, PLACE, %a;",
            "f16x2",
            space,
            0,
            &halves,
        );
        let sums = [end as u16, (end >> 16) as u16].map(|x| half::f16::from_bits(x).to_f32());
        assert_eq!(sums, [504.0, -2016.0]);
        // Sums in global memory flush subnormal numbers.
        let tiny = f32::from_bits(3);
        let (end, _) = atomically(
            "atom.SPACE.add.f32 %d, PLACE, %a;",
            "f32",
            space,
            0,
            &[tiny.to_bits().into(); 64],
        );
        assert_eq!(end, if space == "global" { 0 } else { 3 * 64 }, "{space}");
    }
}
