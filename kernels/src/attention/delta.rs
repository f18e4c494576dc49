//! The kernel of δ.

use serde::Serialize;

use super::plan::offsets;
use crate::KernelError;
use crate::gemm::Type;
use crate::template::{Ptx, Template};

const TEMPLATE: Template = Template {
    files: &[
        (
            "attention_delta.ptx",
            include_str!("../../ptx/attention_delta.ptx"),
        ),
        ("element.ptx", include_str!("../../ptx/element.ptx")),
    ],
};

/// The kernel of δ, for dy in the operands' type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta(pub Type);

impl Delta {
    /// One of each text.
    pub const ALL: [Delta; 3] = [Delta(Type::F32), Delta(Type::Bf16), Delta(Type::F16)];

    /// dy's type in memory.
    fn element(self) -> &'static str {
        match self.0 {
            Type::Tf32 => Type::F32.name(),
            other => other.name(),
        }
    }

    /// The kernel's name.
    pub fn name(self) -> String {
        match self.element() {
            "f32" => "attention_delta".into(),
            other => format!("attention_delta_{other}"),
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
            #[serde(rename = "type")]
            operands: &'static str,
            bytes: usize,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            operands: self.element(),
            bytes: self.0.bytes(),
            at: offsets(),
        })
    }
}
