//! What can go wrong in the engine, said so that a user can act on it.

use crate::dtype::DType;

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error names who failed, what came, what was wanted and, where it can, what helps.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Shapes, axes or sizes that do not fit together.
    #[error("{op}: {detail}")]
    Shape {
        /// The op that refused.
        op: &'static str,
        /// What came and what was wanted.
        detail: String,
    },
    /// An element type the op does not take.
    #[error("{op}: {operand} is {got}, wanted {want}")]
    DType {
        /// The op that refused.
        op: &'static str,
        /// Which operand.
        operand: &'static str,
        /// Its type.
        got: DType,
        /// The type or types it takes.
        want: &'static str,
    },
    /// Operands on different devices.
    #[error("{op}: operands on {left} and {right}; move one with `to_device`")]
    Device {
        /// The op that refused.
        op: &'static str,
        /// The first operand's device.
        left: String,
        /// The other's.
        right: String,
    },
    /// An op has neither a native kernel nor a composed form on a device.
    #[error("{op}: not available on {device}")]
    Unavailable {
        /// The op.
        op: &'static str,
        /// The device.
        device: String,
    },
    /// A CUDA device, its driver or a kernel.
    #[error("{op}: {detail}")]
    Cuda {
        /// What was to be done.
        op: &'static str,
        /// With which shapes or how much memory, the driver's answer, and what helps.
        detail: String,
    },
    /// The tape cannot be swept.
    #[error("backward: {0}")]
    Backward(String),
    /// A value that is not finite; `op` is the first that made one or was given one.
    #[error("{op}{}: {detail}", place.as_ref().map_or_else(String::new, |p| format!(" at {p}")))]
    NonFinite {
        /// The op, `backward of …` in the backward pass.
        op: String,
        /// The layer or site that it is a part of, where known.
        place: Option<String>,
        /// How many elements, of how many, where the first is, and whether the op made them.
        detail: String,
    },
    /// A parameter, by its full name.
    #[error("parameter `{name}`: {detail}")]
    Param {
        /// Full path of the parameter.
        name: String,
        /// What is wrong.
        detail: String,
    },
    /// A checkpoint file.
    #[error("{path}: {detail}")]
    Checkpoint {
        /// The file.
        path: String,
        /// What is wrong and, where known, what helps.
        detail: String,
    },
    /// An option or setting out of range.
    #[error("{0}")]
    Invalid(String),
    /// A linear-algebra routine that did not converge.
    #[error("{op}: {detail}")]
    Numeric {
        /// The routine.
        op: &'static str,
        /// What happened.
        detail: String,
    },
}

impl Error {
    /// A shape error of `op`.
    pub fn shape(op: &'static str, detail: impl Into<String>) -> Self {
        Error::Shape {
            op,
            detail: detail.into(),
        }
    }
}
