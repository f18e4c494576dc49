//! Element types.

use half::{bf16, f16};

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single: activations, gradients, adapters, moments and every accumulator.
    F32,
    /// bfloat16: base weights.
    Bf16,
    /// IEEE half: base weights.
    F16,
    /// IEEE double, on the oracle device only.
    F64,
    /// Bytes: images, masks.
    U8,
    /// Indices.
    U32,
    /// Labels that may be negative (−100 = ignored).
    I64,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::Bf16 | DType::F16 => 2,
            DType::F32 | DType::U32 => 4,
            DType::F64 | DType::I64 => 8,
        }
    }

    /// Whether values can carry gradients.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::Bf16 | DType::F16 | DType::F64)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::F64 => "f64",
            DType::U8 => "u8",
            DType::U32 => "u32",
            DType::I64 => "i64",
        })
    }
}

/// A Rust type that can be an element.
pub trait Element: bytemuck::Pod + Send + Sync + std::fmt::Debug {
    /// Its tag.
    const DTYPE: DType;
    /// Exact for everything but `i64` beyond 2⁵³.
    fn to_f64(self) -> f64;
    /// Rounds to nearest, saturates integers.
    fn from_f64(x: f64) -> Self;
}

macro_rules! element {
    ($($t:ty => $d:ident, $to:expr, $from:expr;)*) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$d;
            #[inline(always)]
            fn to_f64(self) -> f64 { $to(self) }
            #[inline(always)]
            fn from_f64(x: f64) -> Self { $from(x) }
        }
    )*};
}

element! {
    f32 => F32, |x: f32| x as f64, |x: f64| x as f32;
    f64 => F64, |x: f64| x, |x: f64| x;
    bf16 => Bf16, |x: bf16| x.to_f64(), |x: f64| bf16::from_f32(x as f32);
    f16 => F16, |x: f16| x.to_f64(), |x: f64| f16::from_f32(x as f32);
    u8 => U8, |x: u8| x as f64, |x: f64| x as u8;
    u32 => U32, |x: u32| x as f64, |x: f64| x as u32;
    i64 => I64, |x: i64| x as f64, |x: f64| x as i64;
}

/// Runs `$body` with `$t` bound to the Rust type of a [`DType`].
macro_rules! with_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::dtype::DType::F64 => {
                type $t = f64;
                $body
            }
            $crate::dtype::DType::Bf16 => {
                type $t = half::bf16;
                $body
            }
            $crate::dtype::DType::F16 => {
                type $t = half::f16;
                $body
            }
            $crate::dtype::DType::U8 => {
                type $t = u8;
                $body
            }
            $crate::dtype::DType::U32 => {
                type $t = u32;
                $body
            }
            $crate::dtype::DType::I64 => {
                type $t = i64;
                $body
            }
        }
    };
}
pub(crate) use with_dtype;

/// The elements whose bytes these are; the bytes need no alignment.
pub(crate) fn from_bytes<T: Element>(bytes: &[u8]) -> Vec<T> {
    bytes
        .chunks_exact(size_of::<T>())
        .map(bytemuck::pod_read_unaligned)
        .collect()
}
