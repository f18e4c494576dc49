//! The header of a safetensors file: eight bytes of length, then JSON that says of every tensor its type, its shape and where
//! it lies. Nothing in it is believed before it is checked, and nothing is allocated beyond a small multiple of its own size.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::dtype::DType;
use crate::layout::{Dims, MAX_RANK};

/// The format's own limit.
const MOST: u64 = 100_000_000;
/// The key under which a file says things about itself.
const METADATA: &str = "__metadata__";

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub dtype: DType,
    pub shape: Dims,
    /// Bytes of the file.
    pub bytes: Range<usize>,
}

/// The names that the format has for the types that are read here.
fn dtype(name: &str) -> Option<DType> {
    Some(match name {
        "F32" => DType::F32,
        "BF16" => DType::Bf16,
        "F16" => DType::F16,
        "F64" => DType::F64,
        "U8" | "BOOL" => DType::U8,
        "U32" => DType::U32,
        "I64" => DType::I64,
        _ => return None,
    })
}

/// The name that a file has for a type.
pub(super) fn stored(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::Bf16 => "BF16",
        DType::F16 => "F16",
        DType::F64 => "F64",
        DType::U8 => "U8",
        DType::U32 => "U32",
        DType::I64 => "I64",
    }
}

/// Sizes, of which no more are read than a tensor may have.
struct Shape(Dims);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a list of sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let (mut sizes, mut rank) = ([0; MAX_RANK], 0);
                while let Some(size) = list.next_element::<usize>()? {
                    *sizes.get_mut(rank).ok_or_else(|| {
                        A::Error::custom(format!(
                            "the shape has more than the {MAX_RANK} axes that a tensor may have"
                        ))
                    })? = size;
                    rank += 1;
                }
                Dims::new(&sizes[..rank])
                    .map(Shape)
                    .map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Shape,
    data_offsets: [u64; 2],
}

/// Reads the object, whose data follow in `data` bytes from `start` on.
struct Tensors {
    start: usize,
    data: usize,
}

impl<'de> DeserializeSeed<'de> for Tensors {
    type Value = BTreeMap<String, Entry>;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tensors {
    type Value = BTreeMap<String, Entry>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let of = |detail: String| A::Error::custom(format!("tensor `{name}`: {detail}"));
            let info = map.next_value::<Info>().map_err(|e| of(e.to_string()))?;
            let entry = self.entry(&info).map_err(of)?;
            if all.contains_key(&name) {
                return Err(of("is there twice".into()));
            }
            all.insert(name, entry);
        }
        Ok(all)
    }
}

impl Tensors {
    fn entry(&self, info: &Info) -> Result<Entry, String> {
        let dtype = dtype(&info.dtype).ok_or_else(|| {
            format!(
                "is {}; f64, f32, bf16, f16, u8, bool, u32 and i64 are read: convert it first",
                info.dtype
            )
        })?;
        let shape = info.shape.0;
        // An axis of size 0 must not hide sizes whose strides would overflow.
        let most = shape
            .iter()
            .filter(|n| **n > 0)
            .try_fold(dtype.size(), |product, n| {
                product
                    .checked_mul(*n)
                    .filter(|p| *p < isize::MAX as usize / 2)
            });
        let wanted = match most {
            None => return Err(format!("a shape of {shape:?} is no tensor's")),
            Some(_) if shape.contains(&0) => 0,
            Some(bytes) => bytes as u64,
        };
        let [begin, end] = info.data_offsets;
        if begin > end || end > self.data as u64 {
            return Err(format!(
                "lies at bytes {begin} to {end} of {} that the file has",
                self.data
            ));
        }
        if end - begin != wanted {
            return Err(format!(
                "{shape:?} of {dtype} take {wanted} bytes, but it lies at {begin} to {end}"
            ));
        }
        Ok(Entry {
            dtype,
            shape,
            bytes: self.start + begin as usize..self.start + end as usize,
        })
    }
}

/// The tensors of a file, or what is wrong with it.
pub(super) fn parse(file: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    let (length, rest) = file
        .split_first_chunk::<8>()
        .ok_or_else(|| format!("of {} bytes; the header's length alone takes 8", file.len()))?;
    let length = u64::from_le_bytes(*length);
    if length > MOST || length > rest.len() as u64 {
        return Err(format!(
            "a header of {length} bytes in a file of {}, at most {MOST}",
            file.len()
        ));
    }
    let (json, data) = rest.split_at(length as usize);
    let mut json = serde_json::Deserializer::from_slice(json);
    let tensors = Tensors {
        start: 8 + length as usize,
        data: data.len(),
    };
    let all = tensors
        .deserialize(&mut json)
        .and_then(|all| json.end().map(|()| all))
        .map_err(|e| format!("its header: {e}"))?;
    lies_whole(&all, 8 + length as usize, file.len())?;
    Ok(all)
}

/// Tensors must follow each other without overlap or gap from the header to the end: anything else was cut or tampered with.
fn lies_whole(all: &BTreeMap<String, Entry>, start: usize, len: usize) -> Result<(), String> {
    let mut order: Vec<(&String, &Range<usize>)> = all.iter().map(|(n, e)| (n, &e.bytes)).collect();
    order.sort_by_key(|(_, bytes)| (bytes.start, bytes.end));
    let (mut at, mut before) = (start, None::<&String>);
    for (name, bytes) in order {
        if bytes.start != at {
            let neighbour = before.map_or("the header".into(), |b| format!("`{b}`"));
            let how = if bytes.start < at {
                "overlaps"
            } else {
                "leaves a gap behind"
            };
            return Err(format!("tensor `{name}`: {how} {neighbour}"));
        }
        (at, before) = (bytes.end, Some(name));
    }
    if at != len {
        return Err(format!("{} bytes at its end belong to no tensor", len - at));
    }
    Ok(())
}
