//! The kernels that a context has loaded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx as Module;

use crate::KernelError;
use crate::template::Ptx;

/// Blocks, threads of a block, and bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub blocks: [u32; 3],
    pub threads: u32,
    pub shared: u32,
}

impl Grid {
    /// Enough blocks along x for that many threads.
    pub fn over(work: u32, threads: u32) -> Grid {
        Grid {
            blocks: [work.div_ceil(threads), 1, 1],
            threads,
            shared: 0,
        }
    }
}

/// Threads of a block of a kernel that gives every row a warp.
pub(crate) const ROW_THREADS: u32 = 128;

/// The launch of such a kernel.
pub(crate) struct Rows {
    pub rows: u32,
    pub n: u32,
    pub grid: Grid,
}

impl Rows {
    /// None for an empty matrix.
    ///
    /// # Errors
    /// [`KernelError::Argument`]: rows too many or too long.
    pub fn new(kernel: &'static str, rows: usize, n: usize) -> Result<Option<Rows>, KernelError> {
        if rows >= 1 << 26 || n >= 1 << 31 {
            return Err(KernelError::Argument {
                kernel,
                what: format!(
                    "{rows} rows of {n}: wanted fewer than 2²⁶ rows, shorter than 2³¹; split it"
                ),
            });
        }
        Ok((rows * n > 0).then(|| Rows {
            rows: rows as u32,
            n: n as u32,
            grid: Grid::over(32 * rows as u32, ROW_THREADS),
        }))
    }
}

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

    /// Launches the kernel of that name, which takes one argument by value.
    ///
    /// # Errors
    /// As [`Kernels::get`], or the driver's refusal of the launch.
    ///
    /// # Safety
    /// The kernel must take exactly such an argument, and what it reaches must be memory of the stream's device, free of
    /// other use until the stream has come past.
    pub(crate) unsafe fn launch<A: DeviceRepr>(
        &self,
        name: &str,
        grid: Grid,
        argument: &A,
        stream: &Arc<CudaStream>,
        expand: impl FnOnce() -> Result<Ptx, KernelError>,
    ) -> Result<(), KernelError> {
        let function = self.get(name, grid.shared, expand)?;
        let [x, y, z] = grid.blocks;
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (grid.threads, 1, 1),
            shared_mem_bytes: grid.shared,
        };
        let mut launch = stream.launch_builder(&function);
        launch.arg(argument);
        // SAFETY: the caller's promise.
        let launched = unsafe { launch.launch(config) };
        launched.map(drop).map_err(|error| KernelError::Driver {
            kernel: name.into(),
            action: "launching it",
            error,
        })
    }

    /// Loads a kernel from a text in place of the one that [`Kernels::get`] would load.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    pub fn replace(&self, name: &str, shared: u32, text: &str) -> Result<(), KernelError> {
        let function = self.load(name, shared, text)?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.insert(name.into(), function);
        Ok(())
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
