//! What is fixed in the kernels' texts.

use serde::Serialize;

use super::{Arguments, THREADS, TILE, threshold};
use crate::KernelError;
use crate::element::Element;
use crate::template::{Ptx, Template};

const TEMPLATE: Template = Template {
    files: &[
        ("kernelized.ptx", include_str!("../../ptx/kernelized.ptx")),
        (
            "kernelized_tile.ptx",
            include_str!("../../ptx/kernelized_tile.ptx"),
        ),
        ("element.ptx", include_str!("../../ptx/element.ptx")),
        ("function.ptx", include_str!("../../ptx/function.ptx")),
        ("math.ptx", include_str!("../../ptx/math.ptx")),
    ],
};

/// Bytes of 32 numbers of 64 rows of a factor, each number's four floats longer.
const HALF: usize = 32 * 4 * (TILE + 4);

/// κ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// The product.
    Linear,
    /// A power of the product.
    Polynomial {
        /// At least 1.
        degree: u32,
        /// Added to the product.
        shift: f32,
    },
    /// tanh.
    Sigmoid {
        /// γ.
        gamma: f32,
        /// Added to the product.
        shift: f32,
    },
    /// The bell of the distance.
    Rbf {
        /// γ.
        gamma: f32,
    },
    /// Distances of the heads, by turns added and subtracted.
    Distance {
        /// c.
        scale: f32,
    },
}

/// S.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// K.
    All,
    /// `sign(K)·(|K| − t)` above t.
    Soft,
    /// `K·|K|` above t, |K| a constant for the gradient.
    Squared,
}

/// What a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Counts of digits.
    Count,
    /// The next larger magnitude.
    Above,
    /// Rows of W + S(K), W of this type.
    Produce(Element),
    /// Sums of the gradients.
    Contract,
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variant {
    /// Which.
    pub kind: Kind,
    /// κ, whatever its numbers.
    pub kernel: Kernel,
    /// S.
    pub values: Values,
    /// Neighbours that a thread loads and stores at a time: 1 or 4.
    pub chunk: usize,
}

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Kernel::Linear => "linear",
            Kernel::Polynomial { .. } => "polynomial",
            Kernel::Sigmoid { .. } => "sigmoid",
            Kernel::Rbf { .. } => "rbf",
            Kernel::Distance { .. } => "distance",
        }
    }

    /// Whether it is one of differences.
    pub(super) fn apart(self) -> bool {
        matches!(self, Kernel::Rbf { .. } | Kernel::Distance { .. })
    }

    /// Scale, shift and degree.
    pub(super) fn numbers(self) -> (f32, f32, u32) {
        match self {
            Kernel::Linear => (1.0, 0.0, 1),
            Kernel::Polynomial { degree, shift } => (1.0, shift, degree),
            Kernel::Sigmoid { gamma, shift } => (gamma, shift, 1),
            Kernel::Rbf { gamma } => (gamma, 0.0, 1),
            Kernel::Distance { scale } => (scale, 0.0, 1),
        }
    }
}

impl Variant {
    /// Every κ with every S, four neighbours at a time; the other types, and single elements, for the distance.
    pub fn all() -> impl Iterator<Item = Variant> {
        let distance = Kernel::Distance { scale: 1.0 };
        let kernels = [
            Kernel::Linear,
            Kernel::Polynomial {
                degree: 1,
                shift: 0.0,
            },
            Kernel::Sigmoid {
                gamma: 1.0,
                shift: 0.0,
            },
            Kernel::Rbf { gamma: 1.0 },
            distance,
        ];
        let variant = |kind, kernel, values, chunk| Variant {
            kind,
            kernel,
            values,
            chunk,
        };
        let passes = kernels.into_iter().flat_map(move |kernel| {
            [Kind::Count, Kind::Above].map(|kind| variant(kind, kernel, Values::All, 1))
        });
        let rows = kernels.into_iter().flat_map(move |kernel| {
            [Values::All, Values::Soft, Values::Squared]
                .into_iter()
                .flat_map(move |values| {
                    [Kind::Produce(Element::F32), Kind::Contract]
                        .map(|kind| variant(kind, kernel, values, 4))
                })
        });
        let others = [
            (Kind::Produce(Element::F32), 1),
            (Kind::Produce(Element::Bf16), 1),
            (Kind::Produce(Element::Bf16), 4),
            (Kind::Produce(Element::F16), 1),
            (Kind::Produce(Element::F16), 4),
            (Kind::Contract, 1),
        ];
        passes
            .chain(rows)
            .chain(others.map(move |(kind, chunk)| variant(kind, distance, Values::Soft, chunk)))
    }

    /// The kernel's name.
    pub fn name(self) -> String {
        let (kernel, chunk) = (self.kernel.name(), self.chunk);
        let values = self.values_name();
        match self.kind {
            Kind::Count => format!("kernelized_count_{kernel}"),
            Kind::Above => format!("kernelized_above_{kernel}"),
            Kind::Produce(element) => {
                let element = element.name();
                format!("kernelized_produce_{kernel}_{values}_{element}_{chunk}")
            }
            Kind::Contract => format!("kernelized_contract_{kernel}_{values}_{chunk}"),
        }
    }

    fn values_name(self) -> &'static str {
        match self.values {
            Values::All => "all",
            Values::Soft => "soft",
            Values::Squared => "squared",
        }
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: String,
            kind: &'static str,
            kernel: &'static str,
            apart: bool,
            values: &'static str,
            #[serde(rename = "type")]
            element: &'static str,
            bytes: usize,
            chunk: usize,
            half: usize,
            state: crate::Offsets,
            at: crate::Offsets,
        }
        let (kind, element) = match self.kind {
            Kind::Count => ("count", Element::F32),
            Kind::Above => ("above", Element::F32),
            Kind::Produce(element) => ("produce", element),
            Kind::Contract => ("contract", Element::F32),
        };
        TEMPLATE.expand(Values {
            name: self.name(),
            kind,
            kernel: self.kernel.name(),
            apart: self.kernel.apart(),
            values: self.values_name(),
            element: element.name(),
            bytes: element.bytes(),
            chunk: self.chunk,
            half: HALF,
            state: threshold::state(),
            at: crate::offsets!(Arguments: a b w out out_b t n m first rows d r degree low high mask tiles across scale shift above),
        })
    }

    /// Threads of a block.
    pub fn threads(self) -> usize {
        THREADS
    }
}
