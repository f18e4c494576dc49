//! Hand-written PTX kernels and the code that launches them on raw device buffers.
//!
//! A family is a template `ptx/<family>.ptx` and a file `src/<family>.rs` beside it, which states formula, tile plan,
//! FLOPs and bytes. Texts are expanded at run time, one for each variant that is asked for, so that a program carries
//! only the templates and a device only what it runs; [`registry`] lists the variants that the tests assemble.

pub mod attention;
pub mod block_affine;
pub mod cross_entropy;
pub mod dropout;
mod element;
mod error;
pub mod gather;
pub mod gemm;
pub mod kernelized;
mod kernels;
pub mod map;
pub mod norm;
pub mod patches;
pub mod philox;
pub mod random_basis;
pub mod reduce;
pub mod registry;
pub mod rotary;
pub mod row;
pub mod select;
pub mod softmax;
pub mod template;
pub mod transpose;
pub mod triangular;
pub mod update;

/// Where a template finds the fields of its kernel's argument, and under `size` how large that is.
type Offsets = std::collections::BTreeMap<&'static str, usize>;

/// The [`Offsets`] of these fields.
macro_rules! offsets {
    ($arguments:ty: $($field:ident)*) => {
        $crate::Offsets::from([
            ("size", size_of::<$arguments>()),
            $((stringify!($field), std::mem::offset_of!($arguments, $field)),)*
        ])
    };
}
pub(crate) use offsets;

pub use error::KernelError;
pub use kernels::Kernels;
