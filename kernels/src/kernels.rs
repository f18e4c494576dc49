//! The kernels that a context has loaded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{CudaContext, CudaFunction};
use cudarc::nvrtc::Ptx as Module;

use crate::KernelError;
use crate::template::Ptx;

/// The kernels of a context, each expanded and loaded at its first use.
#[derive(Debug)]
pub struct Kernels {
    context: Arc<CudaContext>,
    loaded: Mutex<HashMap<String, CudaFunction>>,
    multiprocessors: u32,
    shared_limit: u32,
}

impl Kernels {
    /// None loaded yet.
    ///
    /// # Errors
    /// [`KernelError::Driver`]: the device does not say what it is like.
    pub fn new(context: &Arc<CudaContext>) -> Result<Kernels, KernelError> {
        let attribute = |which| match context.attribute(which) {
            Ok(value) => Ok(value.unsigned_abs()),
            Err(error) => Err(KernelError::Driver {
                kernel: "kernels".into(),
                action: "asking for a device attribute",
                error,
            }),
        };
        Ok(Kernels {
            context: context.clone(),
            loaded: Mutex::default(),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_limit: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
        })
    }

    /// Multiprocessors of the device.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Bytes of shared memory that a block may have.
    pub fn shared_limit(&self) -> u32 {
        self.shared_limit
    }

    /// The kernel of that name, loaded from `expand`'s text at the first call.
    ///
    /// # Errors
    /// The text does not expand, or the driver does not load it.
    pub fn get(
        &self,
        name: &str,
        shared: u32,
        expand: impl FnOnce() -> Result<Ptx, KernelError>,
    ) -> Result<CudaFunction, KernelError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.get(name) {
            return Ok(function.clone());
        }
        let function = self.load(name, shared, expand()?.text())?;
        loaded.insert(name.into(), function.clone());
        Ok(function)
    }

    /// Loads a kernel from a text, beside those that [`Kernels::get`] keeps.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    pub fn load(&self, name: &str, shared: u32, text: &str) -> Result<CudaFunction, KernelError> {
        let refused = |action| {
            move |error| KernelError::Driver {
                kernel: name.into(),
                action,
                error,
            }
        };
        let module = self.context.load_module(Module::from_src(text));
        let module = module.map_err(refused("loading its module"))?;
        let function = module
            .load_function(name)
            .map_err(refused("finding its entry"))?;
        function
            .set_attribute(
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared as i32,
            )
            .map_err(refused("asking for shared memory"))?;
        Ok(function)
    }
}
