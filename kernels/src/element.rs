//! Element types of the kernels that move and map; see `ptx/element.ptx`.

/// Type of an element in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE single.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// A byte.
    U8,
    /// An index.
    U32,
    /// A label.
    I64,
}

impl Element {
    /// All of them.
    pub const ALL: [Element; 6] = [
        Element::F32,
        Element::Bf16,
        Element::F16,
        Element::U8,
        Element::U32,
        Element::I64,
    ];

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Element::U8 => 1,
            Element::Bf16 | Element::F16 => 2,
            Element::F32 | Element::U32 => 4,
            Element::I64 => 8,
        }
    }

    /// The name in errors and in names of kernels.
    pub fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::Bf16 => "bf16",
            Element::F16 => "f16",
            Element::U8 => "u8",
            Element::U32 => "u32",
            Element::I64 => "i64",
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Element::F32 | Element::Bf16 | Element::F16)
    }

    /// How elements of this type are named in the template that turns them into another: by their type, or by their size where
    /// they are only moved. None where no kernel does.
    pub(crate) fn converted(self, to: Element) -> Option<[&'static str; 2]> {
        let raw = match self.bytes() {
            1 => "b8",
            2 => "b16",
            4 => "f32",
            _ => "b64",
        };
        if self == to {
            return Some([raw, raw]);
        }
        let possible = to.is_float() || (self.is_float() && to != Element::I64);
        possible.then_some([self.name(), to.name()])
    }
}

/// The register type of an element of a template's type.
pub(crate) fn class(of: &str) -> &'static str {
    match of {
        "b8" | "b16" => "b16",
        "b64" => "b64",
        _ => "f32",
    }
}
