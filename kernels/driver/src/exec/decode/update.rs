//! What atomic operations do to a value.

use super::super::atomic::Update;
use super::super::float16::{bf16_to_f32, canonical, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::float::{max32, min32};
use super::operands::is_wide;
use crate::ptx::Type;

/// The two 16-bit halves by themselves.
fn pairs(old: u64, a: u64, f: fn(u16, u16) -> u16) -> u64 {
    let part = |shift: u32| u64::from(f((old >> shift) as u16, (a >> shift) as u16)) << shift;
    part(0) | part(16)
}

fn add_f16(a: u16, b: u16) -> u16 {
    f32_to_f16(f16_to_f32(a) + f16_to_f32(b))
}

fn add_bf16(a: u16, b: u16) -> u16 {
    f32_to_bf16(bf16_to_f32(a) + bf16_to_f32(b))
}

/// A NaN loses against a number; -0 is below +0.
fn min_f16(a: u16, b: u16) -> u16 {
    f32_to_f16(min32(f16_to_f32(a), f16_to_f32(b)))
}

fn max_f16(a: u16, b: u16) -> u16 {
    f32_to_f16(max32(f16_to_f32(a), f16_to_f32(b)))
}

fn min_bf16(a: u16, b: u16) -> u16 {
    f32_to_bf16(min32(bf16_to_f32(a), bf16_to_f32(b)))
}

fn max_bf16(a: u16, b: u16) -> u16 {
    f32_to_bf16(max32(bf16_to_f32(a), bf16_to_f32(b)))
}

/// Flushes a subnormal to zero, keeping its sign: atomic sums in global memory do.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() {
        0f32.copysign(x)
    } else {
        x
    }
}

/// The update of an atomic operation on one element of shared memory, where sums of f32 keep subnormals.
pub(super) fn shared_update(name: &str, ty: Type) -> Option<Update> {
    if (name, ty) == ("add", Type::F32) {
        return Some(Update(|old, a, _| {
            let sum = f32::from_bits(old as u32) + f32::from_bits(a as u32);
            canonical(sum).to_bits().into()
        }));
    }
    update(name, ty)
}

/// The update of an atomic operation on one element.
pub(super) fn update(name: &str, ty: Type) -> Option<Update> {
    let wide = is_wide(ty);
    Some(Update(match (name, ty) {
        ("add", Type::F32) => |old, a, _| {
            let sum = flush(f32::from_bits(old as u32)) + flush(f32::from_bits(a as u32));
            flush(canonical(sum)).to_bits().into()
        },
        ("add", Type::F64) => |old, a, _| (f64::from_bits(old) + f64::from_bits(a)).to_bits(),
        ("add", Type::F16) => |old, a, _| add_f16(old as u16, a as u16).into(),
        ("add", Type::Bf16) => |old, a, _| add_bf16(old as u16, a as u16).into(),
        ("add", Type::F16x2) => |old, a, _| pairs(old, a, add_f16),
        ("add", Type::Bf16x2) => |old, a, _| pairs(old, a, add_bf16),
        ("add", Type::U32 | Type::S32 | Type::U64) => |old, a, _| old.wrapping_add(a),
        ("min", Type::F16) => |old, a, _| min_f16(old as u16, a as u16).into(),
        ("max", Type::F16) => |old, a, _| max_f16(old as u16, a as u16).into(),
        ("min", Type::Bf16) => |old, a, _| min_bf16(old as u16, a as u16).into(),
        ("max", Type::Bf16) => |old, a, _| max_bf16(old as u16, a as u16).into(),
        ("min", Type::F16x2) => |old, a, _| pairs(old, a, min_f16),
        ("max", Type::F16x2) => |old, a, _| pairs(old, a, max_f16),
        ("min", Type::Bf16x2) => |old, a, _| pairs(old, a, min_bf16),
        ("max", Type::Bf16x2) => |old, a, _| pairs(old, a, max_bf16),
        ("min", Type::S32) => |old, a, _| (old as i32).min(a as i32) as u32 as u64,
        ("max", Type::S32) => |old, a, _| (old as i32).max(a as i32) as u32 as u64,
        ("min", Type::S64) => |old, a, _| (old as i64).min(a as i64) as u64,
        ("max", Type::S64) => |old, a, _| (old as i64).max(a as i64) as u64,
        ("min", Type::U32 | Type::U64) => |old, a, _| old.min(a),
        ("max", Type::U32 | Type::U64) => |old, a, _| old.max(a),
        ("and", Type::B32 | Type::B64) => |old, a, _| old & a,
        ("or", Type::B32 | Type::B64) => |old, a, _| old | a,
        ("xor", Type::B32 | Type::B64) => |old, a, _| old ^ a,
        ("exch", _) if ty.bytes() == 4 || wide => |_, a, _| a,
        ("cas", _) if matches!(ty.bytes(), 2 | 4 | 8) => |old, a, b| if old == a { b } else { old },
        ("inc", Type::U32) => |old, a, _| if old >= a { 0 } else { old + 1 },
        ("dec", Type::U32) => |old, a, _| if old == 0 || old > a { a } else { old - 1 },
        _ => return None,
    }))
}
