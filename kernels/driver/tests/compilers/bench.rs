//! A device with a module, all checks on.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits,
};
use cudarc::nvrtc::Ptx;
use deltaw_emulator::Device;

use super::{Random, Result};

/// A device of one's own with a module loaded.
pub struct Bench {
    pub stream: Arc<CudaStream>,
    pub module: Arc<CudaModule>,
    pub random: Random,
    // Last, so that what lives on the device goes first.
    pub device: Device,
}

impl Bench {
    pub fn new(ptx: &str, capability: u32) -> Result<Bench> {
        let emulator = deltaw_emulator::install()?;
        let device = emulator.device_like(capability, 0)?;
        let context = CudaContext::new(device.ordinal())?;
        let module =
            context
                .load_module(Ptx::from_src(ptx))
                .map_err(|e| match emulator.last_error() {
                    Ok(text) => format!("{e}: {text}"),
                    Err(_) => e.to_string(),
                })?;
        Ok(Bench {
            stream: context.default_stream(),
            module,
            random: Random(3),
            device,
        })
    }

    pub fn kernel(&self, name: &str) -> Result<CudaFunction> {
        Ok(self.module.load_function(name)?)
    }

    pub fn upload<T: DeviceRepr>(&self, data: &[T]) -> Result<CudaSlice<T>> {
        Ok(self.stream.clone_htod(data)?)
    }

    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> Result<CudaSlice<T>> {
        Ok(self.stream.alloc_zeros(count)?)
    }

    /// The content of a slice; the error has the fault's text if a kernel failed.
    pub fn read<T: DeviceRepr>(&self, slice: &CudaSlice<T>) -> Result<Vec<T>> {
        match self.stream.clone_dtoh(slice) {
            Ok(host) => Ok(host),
            Err(e) => {
                Err(format!("{e}: {:?}", self.device.last_fault()?.map(|f| f.message)).into())
            }
        }
    }
}
