//! Every shape and type of `mma.sync` and `stmatrix` against the places that the ISA's tables give to a lane's elements.
//! The numbers are small integers, so that every sum is exact in every order; rounding is the matter of `mma.rs`.

mod common;

use common::{Arg, Device, module};
use half::{bf16, f16};

/// Row and column of an element of A, B or C that a lane holds, by its place among that lane's elements.
type Place = fn(lane: usize, element: usize) -> (usize, usize);

/// A shape and types of `mma`.
struct Form {
    /// `m16n8kK.row.col.D.A.B.C` without the first part.
    k: usize,
    types: &'static str,
    /// Elements of A and of B that a lane holds, and their bits.
    held: (usize, usize),
    bits: usize,
    a: Place,
    b: Place,
    encode_a: fn(i32) -> u32,
    encode_b: fn(i32) -> u32,
}

/// C and D, in all shapes.
fn place_c(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2)
}

/// 16-bit elements: pairs in a row of A, halves 8 rows apart, quarters 8 columns apart; B alike by columns.
fn pairs_a(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + i / 2 % 2 * 8, lane % 4 * 2 + i % 2 + i / 4 * 8)
}

fn pairs_b(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + i % 2 + i / 2 * 8, lane / 4)
}

/// 32-bit elements: rows 8 apart, then columns 4 apart.
fn singles_a(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + i % 2 * 8, lane % 4 + i / 2 * 4)
}

fn singles_b(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 + i * 4, lane / 4)
}

/// 8-bit elements: fours in a row, rows 8 apart, columns 16 apart.
fn fours_a(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + i / 4 % 2 * 8, lane % 4 * 4 + i % 4 + i / 8 * 16)
}

fn fours_b(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 4 + i % 4 + i / 4 * 16, lane / 4)
}

fn half(x: i32) -> u32 {
    f16::from_f32(x as f32).to_bits().into()
}

fn brain(x: i32) -> u32 {
    bf16::from_f32(x as f32).to_bits().into()
}

fn single(x: i32) -> u32 {
    (x as f32).to_bits()
}

/// Two's complement, or the bits of an unsigned byte.
fn byte(x: i32) -> u32 {
    u32::from(x as u8)
}

/// The 8-bit floats of -3 to 3.
fn e4m3(x: i32) -> u32 {
    [0, 0x38, 0x40, 0x44][x.unsigned_abs() as usize] | u32::from(x < 0) << 7
}

fn e5m2(x: i32) -> u32 {
    [0, 0x3c, 0x40, 0x42][x.unsigned_abs() as usize] | u32::from(x < 0) << 7
}

fn form(k: usize, types: &'static str, encode_a: fn(i32) -> u32, encode_b: fn(i32) -> u32) -> Form {
    let (bits, a, b): (_, Place, Place) = match types.split('.').nth(1) {
        Some("f16" | "bf16") => (16, pairs_a, pairs_b),
        Some("tf32") => (32, singles_a, singles_b),
        _ => (8, fours_a, fours_b),
    };
    Form {
        k,
        types,
        held: (16 * k / 32, 8 * k / 32),
        bits,
        a,
        b,
        encode_a,
        encode_b,
    }
}

fn integers(n: usize, seed: i32) -> Vec<i32> {
    (0..n as i32)
        .map(|i| (i * i * 31 + i * 7 + seed) % 7 - 3)
        .collect()
}

/// A lane's elements packed into registers, the first lowest.
fn pack(bits: usize, elements: impl Iterator<Item = u32>) -> Vec<u32> {
    let elements: Vec<u32> = elements.collect();
    let words = elements.chunks(32 / bits);
    words
        .map(|word| {
            word.iter()
                .rev()
                .fold(0u64, |w, &e| w << bits | u64::from(e)) as u32
        })
        .collect()
}

fn list(first: usize, count: usize) -> String {
    let names: Vec<String> = (first..first + count).map(|i| format!("%r{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

fn check(form: &Form) {
    let Form {
        k,
        types,
        held,
        bits,
        ..
    } = *form;
    let (in_a, in_b) = (held.0 * bits / 32, held.1 * bits / 32);
    let parts: Vec<&str> = types.split('.').collect();
    let (unsigned_a, unsigned_b) = (parts[1] == "u8", parts[2] == "u8");
    let in_c = if parts[0] == "f16" { 2 } else { 4 };
    let total = in_a + in_b + in_c;
    let loads: String = (0..total)
        .map(|i| format!("ld.global.b32 %r{i}, [%x+{}]; ", 4 * i))
        .collect();
    let stores: String = (0..in_c)
        .map(|i| format!("st.global.b32 [%y+{}], %r{}; ", 4 * i, in_a + in_b + i))
        .collect();
    let (a, b, c) = (list(0, in_a), list(in_a, in_b), list(in_a + in_b, in_c));
    let text = module(
        ".param .u64 x, .param .u64 y",
        &format!(
            ".reg .b32 %r<20>, %t; .reg .b64 %x, %y, %o;
            ld.param.u64 %x, [x]; ld.param.u64 %y, [y]; mov.u32 %t, %tid.x;
            mul.wide.u32 %o, %t, {}; add.u64 %x, %x, %o; mul.wide.u32 %o, %t, {}; add.u64 %y, %y, %o;
            {loads}
            mma.sync.aligned.m16n8k{k}.row.col.{types} {c}, {a}, {b}, {c};
            {stores} ret;",
            4 * total,
            4 * in_c
        ),
    );
    // Negative numbers of a signed type, the upper half of an unsigned one.
    let lift = |unsigned: bool, x: &mut Vec<i32>| {
        x.iter_mut()
            .filter(|x| unsigned && **x < 0)
            .for_each(|x| *x += 256)
    };
    let (mut ma, mut mb, mc) = (integers(16 * k, 1), integers(k * 8, 2), integers(128, 3));
    lift(unsigned_a, &mut ma);
    lift(unsigned_b, &mut mb);
    let encode_c: fn(i32) -> u32 = match parts[0] {
        "f16" => half,
        "f32" => single,
        _ => |x| x as u32,
    };
    let bits_c = if parts[0] == "f16" { 16 } else { 32 };
    let mut input = Vec::new();
    for lane in 0..32 {
        input.extend(pack(
            bits,
            (0..held.0).map(|i| {
                let (row, column) = (form.a)(lane, i);
                (form.encode_a)(ma[row * k + column])
            }),
        ));
        input.extend(pack(
            bits,
            (0..held.1).map(|i| {
                let (row, column) = (form.b)(lane, i);
                (form.encode_b)(mb[row * 8 + column])
            }),
        ));
        input.extend(pack(
            bits_c,
            (0..4).map(|i| {
                let (row, column) = place_c(lane, i);
                encode_c(mc[row * 8 + column])
            }),
        ));
    }
    let device = Device::new(&text);
    let (x, y) = (device.upload(&input), device.alloc::<u32>(32 * in_c));
    let counters = device
        .launch("k", 1, 32, 0, &[Arg::U64(x), Arg::U64(y)])
        .unwrap();
    assert_eq!(counters.matrix_flops, 2 * 16 * 8 * k as u64);
    let got = device.download::<u32>(y, 32 * in_c);
    let want: Vec<u32> = (0..32)
        .flat_map(|lane| {
            pack(
                bits_c,
                (0..4).map(|i| {
                    let (row, column) = place_c(lane, i);
                    let sum: i32 = (0..k).map(|t| ma[row * k + t] * mb[t * 8 + column]).sum();
                    encode_c(mc[row * 8 + column] + sum)
                }),
            )
        })
        .collect();
    assert_eq!(got, want, "m16n8k{k} {types}");
}

#[test]
fn products_of_16_bits() {
    for k in [8, 16] {
        check(&form(k, "f32.f16.f16.f32", half, half));
        check(&form(k, "f16.f16.f16.f16", half, half));
        check(&form(k, "f32.bf16.bf16.f32", brain, brain));
    }
}

#[test]
fn products_of_tf32() {
    check(&form(4, "f32.tf32.tf32.f32", single, single));
    check(&form(8, "f32.tf32.tf32.f32", single, single));
}

#[test]
fn products_of_bytes() {
    for k in [16, 32] {
        for types in [
            "s32.s8.s8.s32",
            "s32.u8.u8.s32",
            "s32.s8.u8.s32",
            "s32.u8.s8.s32",
        ] {
            check(&form(k, types, byte, byte));
        }
        check(&form(k, "f32.e4m3.e4m3.f32", e4m3, e4m3));
        check(&form(k, "f32.e4m3.e5m2.f32", e4m3, e5m2));
        check(&form(k, "f16.e5m2.e4m3.f16", e5m2, e4m3));
        check(&form(k, "f16.e5m2.e5m2.f16", e5m2, e5m2));
    }
}

/// The eight lanes of a matrix name its rows; a lane's register holds two neighbours of a row, or, transposed, of a
/// column.
#[test]
fn matrices_are_stored_by_row_addresses() {
    for (count, transposed) in [
        (1, false),
        (2, false),
        (4, false),
        (1, true),
        (2, true),
        (4, true),
    ] {
        let trans = if transposed { ".trans" } else { "" };
        let text = module(
            ".param .u64 x, .param .u64 y",
            &format!(
                ".reg .b32 %r<4>, %t, %a, %s; .reg .b64 %x, %y, %o; .reg .pred %p; .shared .align 16 .b8 tile[1024];
                ld.param.u64 %x, [x]; ld.param.u64 %y, [y]; mov.u32 %t, %tid.x; mul.wide.u32 %o, %t, 16;
                add.u64 %x, %x, %o; ld.global.v4.b32 {{%r0, %r1, %r2, %r3}}, [%x];
                mov.u32 %a, tile; mad.lo.u32 %s, %t, 32, %a;
                stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%s], {};
                bar.sync 0;
                setp.ge.u32 %p, %t, {}; @%p ret;
                ld.shared.v4.b32 {{%r0, %r1, %r2, %r3}}, [%s];
                add.u64 %y, %y, %o; st.global.v4.b32 [%y], {{%r0, %r1, %r2, %r3}}; ret;",
                list(0, count),
                8 * count
            ),
        );
        let device = Device::new(&text.replace("sm_80", "sm_90"));
        let word =
            |lane: usize, register: usize, part: usize| (lane * 16 + register * 2 + part) as u16;
        let input: Vec<u16> = (0..256).map(|i| word(i / 8, i % 8 / 2, i % 2)).collect();
        let (x, y) = (device.upload(&input), device.upload(&[0u16; 256]));
        device
            .launch("k", 1, 32, 0, &[Arg::U64(x), Arg::U64(y)])
            .unwrap();
        let rows = device.download::<u16>(y, 256);
        for (i, got) in rows.into_iter().enumerate() {
            let (matrix, row, column) = (i / 64, i / 8 % 8, i % 8);
            let (row, column) = if transposed {
                (column, row)
            } else {
                (row, column)
            };
            let want = if matrix < count {
                word(row * 4 + column / 2, matrix, column % 2)
            } else {
                0
            };
            assert_eq!(
                got, want,
                "x{count}{trans}, matrix {matrix}, {row}, {column}"
            );
        }
    }
}
