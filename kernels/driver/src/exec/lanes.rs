//! A register's 32 lanes, and pure functions over them compiled for the instruction sets of the host.
//!
//! A register of up to 32 bits is one [`Lanes`] (8 and 16 bits zero-extended), a 64-bit one is two in a row. What an
//! instruction computes is a closure over one lane's values; [`Isa`] turns it into a function over all lanes, of
//! which the compiler makes vector code once per instruction set.

use std::ptr::NonNull;

/// Lanes of a warp.
pub const WARP: usize = 32;

/// 32 lanes of 32 bits.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Lanes(pub [u32; WARP]);

impl Lanes {
    pub const ZERO: Lanes = Lanes([0; WARP]);
}

/// A value that a register's lane holds.
pub trait Lane: Copy + Default + 'static {
    /// The register takes two [`Lanes`].
    const WIDE: bool = false;
    /// # Safety
    /// `p` points to a register of this type's width and `i < 32`.
    unsafe fn get(p: *const Lanes, i: usize) -> Self;
    /// # Safety
    /// As for `get`, and the register may be written.
    unsafe fn set(p: *mut Lanes, i: usize, value: Self);
}

macro_rules! lane {
    ($($ty:ty as $store:ty, $wide:literal, $from:expr, $to:expr;)*) => {$(
        impl Lane for $ty {
            const WIDE: bool = $wide;
            #[inline(always)]
            unsafe fn get(p: *const Lanes, i: usize) -> Self {
                // SAFETY: the caller's promise; every bit pattern is a value.
                $from(unsafe { *p.cast::<$store>().add(i) })
            }
            #[inline(always)]
            unsafe fn set(p: *mut Lanes, i: usize, value: Self) {
                // SAFETY: the caller's promise.
                unsafe { *p.cast::<$store>().add(i) = $to(value) }
            }
        }
    )*};
}

lane! {
    u32 as u32, false, |x| x, |x| x;
    i32 as i32, false, |x| x, |x| x;
    f32 as f32, false, |x| x, |x| x;
    u64 as u64, true, |x| x, |x| x;
    i64 as i64, true, |x| x, |x| x;
    f64 as f64, true, |x| x, |x| x;
    u16 as u32, false, |x| x as u16, u32::from;
    i16 as u32, false, |x| x as u16 as i16, |x: i16| u32::from(x as u16);
    u8 as u32, false, |x| x as u8, u32::from;
    i8 as u32, false, |x| x as u8 as i8, |x: i8| u32::from(x as u8);
}

/// A function of up to four registers into one. Unused sources point anywhere valid.
///
/// Safety: the pointers hold registers of the widths that the function was made for, and the host has its
/// instruction set. The target may be one of the sources.
pub type Map = unsafe fn(*mut Lanes, *const Lanes, *const Lanes, *const Lanes, *const Lanes);
/// A test of two registers, lane 0 in bit 0. Safety as for [`Map`].
pub type Test = unsafe fn(*const Lanes, *const Lanes) -> u32;
/// A function of three registers and a carry into one register and a carry. Safety as for [`Map`].
pub type Carry = unsafe fn(*mut Lanes, *const Lanes, *const Lanes, *const Lanes, u32) -> u32;

/// An instruction set of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What the compilation target guarantees.
    Baseline,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, CD, DQ, VL with VPOPCNTDQ.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best one that this processor has.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c") && has!("bmi1") && has!("bmi2");
            let avx2 = avx2 && has!("popcnt") && has!("lzcnt");
            let avx512 =
                has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq");
            if avx2 && avx512 && has!("avx512vl") && has!("avx512vpopcntdq") {
                return Isa::Avx512;
            }
            if avx2 {
                return Isa::Avx2;
            }
        }
        Isa::Baseline
    }
}

/// The function compiled for an instruction set; it must be `inline(always)`. What it is generic over is named again:
/// `for_isa!(isa, f::<T>(x: T) -> u32 where [T: Copy])`.
macro_rules! for_isa {
    ($isa:expr, $body:ident $(::<$($g:ident),*>)? ($($arg:ident: $ty:ty),*) $(-> $out:ty)? $(where [$($bound:tt)*])?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
        #[allow(unused_unsafe, reason = "some bodies are safe")]
        unsafe fn avx2 $(<$($bound)*>)? ($($arg: $ty),*) $(-> $out)? {
            // SAFETY: the caller keeps the promises of the body.
            unsafe { $body $(::<$($g),*>)? ($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vpopcntdq")]
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
        #[allow(unused_unsafe, reason = "some bodies are safe")]
        unsafe fn avx512 $(<$($bound)*>)? ($($arg: $ty),*) $(-> $out)? {
            // SAFETY: as above.
            unsafe { $body $(::<$($g),*>)? ($($arg),*) }
        }
        match $isa {
            $crate::exec::lanes::Isa::Baseline => $body $(::<$($g),*>)?,
            #[cfg(target_arch = "x86_64")]
            $crate::exec::lanes::Isa::Avx2 => avx2 $(::<$($g),*>)?,
            #[cfg(target_arch = "x86_64")]
            $crate::exec::lanes::Isa::Avx512 => avx512 $(::<$($g),*>)?,
        }
    }};
}
pub(crate) use for_isa;

/// The value of a closure that captures nothing.
#[inline(always)]
fn conjure<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "the closure captures something") };
    // SAFETY: F has no bytes to read, and whoever names it has a value of it (`Isa`'s methods take one).
    unsafe { NonNull::<F>::dangling().read() }
}

/// Makes, for a body generic over a closure's types, one function per instruction set and the method that chooses.
macro_rules! versions {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) -> $out:ty, $kind:ty, [$($g:ident),*],
        $bound:path, |$f:ident| $body:expr) => {
        mod $name {
            use super::*;
            #[inline(always)]
            unsafe fn body<$($g: Lane,)* F: $bound + Copy>($($arg: $ty),*) -> $out {
                let $f: F = conjure();
                // SAFETY: the caller keeps the promises of the function type.
                unsafe { $body }
            }
            pub(super) unsafe fn baseline<$($g: Lane,)* F: $bound + Copy>($($arg: $ty),*) -> $out {
                // SAFETY: as above.
                unsafe { body::<$($g,)* F>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
            pub(super) unsafe fn avx2<$($g: Lane,)* F: $bound + Copy>($($arg: $ty),*) -> $out {
                // SAFETY: as above.
                unsafe { body::<$($g,)* F>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vpopcntdq")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
            pub(super) unsafe fn avx512<$($g: Lane,)* F: $bound + Copy>($($arg: $ty),*) -> $out {
                // SAFETY: as above.
                unsafe { body::<$($g,)* F>($($arg),*) }
            }
        }
        impl Isa {
            $(#[$doc])*
            pub fn $name<$($g: Lane,)* F: $bound + Copy>(self, _: F) -> $kind {
                match self {
                    Isa::Baseline => $name::baseline::<$($g,)* F>,
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => $name::avx2::<$($g,)* F>,
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => $name::avx512::<$($g,)* F>,
                }
            }
        }
    };
}

// All lanes are computed before the first is stored: the target may be a source, and loop-carried aliasing would
// forbid vector code.
macro_rules! map {
    ($d:ident: $D:ty, $value:expr) => {{
        let mut out = [<$D>::default(); WARP];
        for (i, out) in out.iter_mut().enumerate() {
            *out = $value(i);
        }
        for (i, &out) in out.iter().enumerate() {
            <$D>::set($d, i, out);
        }
    }};
}

versions!(
    /// A function of one value.
    one(d: *mut Lanes, a: *const Lanes, _b: *const Lanes, _c: *const Lanes, _e: *const Lanes) -> (), Map, [D, A],
    Fn(A) -> D, |f| map!(d: D, |i| f(A::get(a, i)))
);
versions!(
    /// A function of two values.
    two(d: *mut Lanes, a: *const Lanes, b: *const Lanes, _c: *const Lanes, _e: *const Lanes) -> (), Map, [D, A, B],
    Fn(A, B) -> D, |f| map!(d: D, |i| f(A::get(a, i), B::get(b, i)))
);
versions!(
    /// A function of three values.
    three(d: *mut Lanes, a: *const Lanes, b: *const Lanes, c: *const Lanes, _e: *const Lanes) -> (), Map,
    [D, A, B, C], Fn(A, B, C) -> D, |f| map!(d: D, |i| f(A::get(a, i), B::get(b, i), C::get(c, i)))
);
versions!(
    /// A function of four values.
    four(d: *mut Lanes, a: *const Lanes, b: *const Lanes, c: *const Lanes, e: *const Lanes) -> (), Map,
    [D, A, B, C, E], Fn(A, B, C, E) -> D,
    |f| map!(d: D, |i| f(A::get(a, i), B::get(b, i), C::get(c, i), E::get(e, i)))
);
versions!(
    /// A test of two values.
    test(a: *const Lanes, b: *const Lanes) -> u32, Test, [A, B], Fn(A, B) -> bool, |f| {
        let mut bits = 0;
        for i in 0..WARP {
            bits |= u32::from(f(A::get(a, i), B::get(b, i))) << i;
        }
        bits
    }
);
versions!(
    /// A function of three values and a carry.
    carry(d: *mut Lanes, a: *const Lanes, b: *const Lanes, c: *const Lanes, carry: u32) -> u32, Carry, [A],
    Fn(A, A, A, bool) -> (A, bool), |f| {
        let mut bits = 0;
        let mut out = [A::default(); WARP];
        for (i, out) in out.iter_mut().enumerate() {
            let (value, carry) = f(A::get(a, i), A::get(b, i), A::get(c, i), carry >> i & 1 != 0);
            *out = value;
            bits |= u32::from(carry) << i;
        }
        for (i, &out) in out.iter().enumerate() {
            A::set(d, i, out);
        }
        bits
    }
);
