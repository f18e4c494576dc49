//! Bit fields, counts of bits, masks, byte permutations.

use super::integer::pair;
use super::operands::is_wide;
use super::{Decoder, Ins, Result};
use crate::ptx::Type;

impl<'a> Decoder<'a> {
    /// `prmt`: bytes of b:a by number.
    pub(super) fn prmt(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let mode = ins.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"].map(|m| (m, m)));
        let ty = ins.ty()?;
        let isa = self.isa;
        let f = match mode {
            None => isa.three(|a: u32, b: u32, c: u32| {
                let bytes = pair(a, b);
                let mut out = 0;
                for i in 0..4 {
                    let selector = c >> (4 * i) & 15;
                    let byte = (bytes >> (8 * (selector & 7))) as u8;
                    // The selector's top bit replicates the byte's sign.
                    let sign = ((byte as i8) >> 7) as u8;
                    out |= u32::from(if selector & 8 != 0 { sign } else { byte }) << (8 * i);
                }
                out
            }),
            Some("f4e") => isa.three(|a: u32, b: u32, c: u32| {
                pick_bytes(a, b, [0, 1, 2, 3].map(|i| i + (c & 3)))
            }),
            // Backwards from byte c, around the eight.
            Some("b4e") => isa.three(|a: u32, b: u32, c: u32| {
                pick_bytes(a, b, [8, 7, 6, 5].map(|i| (i + (c & 3)) & 7))
            }),
            Some("rc8") => isa.three(|a: u32, b: u32, c: u32| pick_bytes(a, b, [c & 3; 4])),
            Some("ecl") => isa.three(|a: u32, b: u32, c: u32| {
                pick_bytes(a, b, [0, 1, 2, 3].map(|i| i.max(c & 3)))
            }),
            Some("ecr") => isa.three(|a: u32, b: u32, c: u32| {
                pick_bytes(a, b, [0, 1, 2, 3].map(|i| i.min(c & 3)))
            }),
            Some(_) => isa.three(|a: u32, b: u32, c: u32| {
                pick_bytes(a, b, [0, 1, 0, 1].map(|i| i + 2 * (c & 1)))
            }),
        };
        self.same_type(ins, f, ty, 3)
    }

    pub(super) fn bits(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let isa = self.isa;
        let opcode = ins.i.opcode.as_str();
        let shift_amount = ins.flag("shiftamt");
        let wrap = ins.one_of(&[("wrap", true), ("clamp", false)]);
        if wrap.is_some() != matches!(opcode, "bmsk" | "szext") {
            return Err(ins.error(".wrap or .clamp is for bmsk and szext, which need it"));
        }
        let wrap = wrap.unwrap_or_default();
        let ty = ins.ty()?;
        let (f, types): (_, &[Type]) = match (opcode, ty) {
            ("popc", Type::B32) => (isa.one(|a: u32| a.count_ones()), &[ty]),
            ("popc", Type::B64) => (isa.one(|a: u64| a.count_ones()), &[ty]),
            ("clz", Type::B32) => (isa.one(|a: u32| a.leading_zeros()), &[ty]),
            ("clz", Type::B64) => (isa.one(|a: u64| a.leading_zeros()), &[ty]),
            ("bfind", Type::U32) if shift_amount => {
                (isa.one(|a: u32| a.leading_zeros() | none_if(a == 0)), &[ty])
            }
            ("bfind", Type::U32) => (
                isa.one(|a: u32| 31u32.wrapping_sub(a.leading_zeros()) | none_if(a == 0)),
                &[ty],
            ),
            ("bfind", Type::S32) => {
                let f = if shift_amount {
                    isa.one(|a: i32| (a ^ a >> 31).leading_zeros() | none_if(a ^ a >> 31 == 0))
                } else {
                    isa.one(|a: i32| {
                        31u32.wrapping_sub((a ^ a >> 31).leading_zeros())
                            | none_if(a ^ a >> 31 == 0)
                    })
                };
                (f, &[ty])
            }
            ("bfind", Type::U64) if shift_amount => {
                (isa.one(|a: u64| a.leading_zeros() | none_if(a == 0)), &[ty])
            }
            ("bfind", Type::U64) => (
                isa.one(|a: u64| 63u32.wrapping_sub(a.leading_zeros()) | none_if(a == 0)),
                &[ty],
            ),
            ("bfind", Type::S64) => {
                let f = if shift_amount {
                    isa.one(|a: i64| (a ^ a >> 63).leading_zeros() | none_if(a ^ a >> 63 == 0))
                } else {
                    isa.one(|a: i64| {
                        63u32.wrapping_sub((a ^ a >> 63).leading_zeros())
                            | none_if(a ^ a >> 63 == 0)
                    })
                };
                (f, &[ty])
            }
            ("bfe", Type::U32) => (
                isa.three(|a: u32, pos: u32, len: u32| field_u(a.into(), pos, len, 32) as u32),
                &[ty, Type::U32, Type::U32],
            ),
            ("bfe", Type::U64) => (
                isa.three(|a: u64, pos: u32, len: u32| field_u(a, pos, len, 64)),
                &[ty, Type::U32, Type::U32],
            ),
            ("bfe", Type::S32) => (
                isa.three(|a: i32, pos: u32, len: u32| field_s(a.into(), pos, len, 32) as i32),
                &[ty, Type::U32, Type::U32],
            ),
            ("bfe", Type::S64) => (
                isa.three(|a: i64, pos: u32, len: u32| field_s(a, pos, len, 64)),
                &[ty, Type::U32, Type::U32],
            ),
            ("bfi", Type::B32) => (
                isa.four(|a: u32, b: u32, pos: u32, len: u32| {
                    insert(a.into(), b.into(), pos, len, 32) as u32
                }),
                &[ty, ty, Type::U32, Type::U32],
            ),
            ("bfi", Type::B64) => (
                isa.four(|a: u64, b: u64, pos: u32, len: u32| insert(a, b, pos, len, 64)),
                &[ty, ty, Type::U32, Type::U32],
            ),
            ("bmsk", Type::B32) if wrap => {
                (isa.two(|a: u32, b: u32| ones(a & 31, b & 31)), &[ty, ty])
            }
            ("bmsk", Type::B32) => (isa.two(ones), &[ty, ty]),
            ("szext", Type::U32) => {
                let f = if wrap {
                    isa.two(|a: u32, n: u32| field_u(a.into(), 0, n & 31, 32) as u32)
                } else {
                    isa.two(|a: u32, n: u32| field_u(a.into(), 0, n.min(32), 32) as u32)
                };
                (f, &[ty, Type::U32])
            }
            ("szext", Type::S32) => {
                let f = if wrap {
                    isa.two(|a: i32, n: u32| field_s(a.into(), 0, n & 31, 32) as i32)
                } else {
                    isa.two(|a: i32, n: u32| field_s(a.into(), 0, n.min(32), 32) as i32)
                };
                (f, &[ty, Type::U32])
            }
            ("fns", Type::B32) => (isa.three(nth_set), &[ty, Type::U32, Type::S32]),
            _ => return Err(ins.error("not supported for this type")),
        };
        ins.expect_operands(types.len() + 1)?;
        let out = if matches!(opcode, "popc" | "clz" | "bfind") {
            Type::U32
        } else {
            ty
        };
        let d = self.target(ins, out)?;
        let s: Vec<u32> = types
            .iter()
            .enumerate()
            .map(|(n, &t)| self.source(ins, n + 1, t))
            .collect::<Result<_>>()?;
        self.map(f, d, is_wide(out), &s);
        Ok(())
    }
}

/// Bytes of b:a by number.
#[inline(always)]
fn pick_bytes(a: u32, b: u32, from: [u32; 4]) -> u32 {
    (0..4).fold(0, |out, i| {
        out | ((pair(a, b) >> (8 * from[i as usize])) as u8 as u32) << (8 * i)
    })
}

#[inline(always)]
fn none_if(none: bool) -> u32 {
    u32::from(none).wrapping_neg()
}

/// Ones from bit `first`, `count` of them; those beyond bit 31 are lost.
#[inline(always)]
fn ones(first: u32, count: u32) -> u32 {
    u32::MAX.unbounded_shl(first) & !u32::MAX.unbounded_shl(first.saturating_add(count))
}

/// The place of the `n`-th set bit from `base` on, of the `-n`-th from there down, or for 0 of the bit at `base` itself.
#[inline(always)]
fn nth_set(mask: u32, base: u32, n: i32) -> u32 {
    let step = if n < 0 { -1 } else { 1 };
    let (mut left, mut at) = (n.unsigned_abs().max(1), i64::from(base));
    while (0..32).contains(&at) {
        left -= mask >> at & 1;
        if left == 0 {
            return at as u32;
        }
        if n == 0 {
            break;
        }
        at += step;
    }
    u32::MAX
}

/// Position and length count modulo 256; what lies beyond the width reads as zero.
#[inline(always)]
fn field_u(a: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    let moved = if pos >= width { 0 } else { a >> (pos & 63) };
    if len >= 64 {
        moved
    } else {
        moved & ((1 << (len & 63)) - 1)
    }
}

/// As `field_u`, and the field's top bit (the value's, if it ends beyond) fills the rest.
#[inline(always)]
fn field_s(a: i64, pos: u32, len: u32, width: u32) -> i64 {
    let (pos, len) = (pos & 255, len & 255);
    let moved = a >> pos.min(63);
    if len == 0 {
        0
    } else if pos + len >= width {
        moved
    } else {
        moved << (64 - len) >> (64 - len)
    }
}

#[inline(always)]
fn insert(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    let ones = if len >= 64 {
        !0
    } else {
        (1u64 << (len & 63)) - 1
    };
    let mask = if pos >= width { 0 } else { ones << (pos & 63) };
    let moved = if pos >= width { 0 } else { a << (pos & 63) };
    b & !mask | moved & mask
}
