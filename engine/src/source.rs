//! Where the values of parameters come from.

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use crate::weights::Weights;

/// Named values, in memory ([`Weights`]) or in files ([`crate::checkpoint::Checkpoint`]), of which a
/// [`crate::store::Store::from_source`] takes each when its parameter is made.
pub trait Source: Send + Sync {
    /// All names.
    fn names(&self) -> Vec<String>;

    /// Element type and shape of a value, before it is read.
    fn describe(&self, name: &str) -> Option<(DType, Vec<usize>)>;

    /// A value in an element type, on a device.
    ///
    /// # Errors
    /// There is none of that name; memory that the device lacks.
    fn read(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor>;

    /// An error about a value that says where it is from.
    fn error(&self, name: &str, detail: &str) -> Error;
}

impl Source for Weights {
    fn names(&self) -> Vec<String> {
        Weights::names(self).cloned().collect()
    }

    fn describe(&self, name: &str) -> Option<(DType, Vec<usize>)> {
        self.get(name).map(|t| (t.dtype(), t.shape().to_vec()))
    }

    fn read(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self
            .get(name)
            .ok_or_else(|| self.error(name, "not found"))?;
        tensor.converted(dtype)?.to_device(device)
    }

    fn error(&self, name: &str, detail: &str) -> Error {
        Error::Param {
            name: name.into(),
            detail: detail.into(),
        }
    }
}

/// The element type in which a parameter is held: matrices (and kernels that are used as matrices) of 16 bits stay as they are,
/// since products take them so; what is added or multiplied elementwise is small, and widened to f32 without loss. None for
/// integers, which no parameter holds.
pub(crate) fn held(stored: DType, rank: usize) -> Option<DType> {
    match stored {
        DType::Bf16 | DType::F16 if rank == 2 || rank == 4 => Some(stored),
        _ if stored.is_float() => Some(DType::F32),
        _ => None,
    }
}
