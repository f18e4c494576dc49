//! The software CUDA driver's device. The driver is compiled with the feature `emulated` only: it takes as long as a third of all
//! the rest.

use deltaw_engine::device::Device;

use super::error::Result;

#[cfg(feature = "emulated")]
mod driver {
    use std::sync::OnceLock;

    use deltaw_emulator::{Checks, Log};

    use super::{Device, Result};
    use crate::experiment::Error;

    /// A virtual GPU, which lives as long as the process, and its tensors' device.
    struct Emulated {
        gpu: deltaw_emulator::Device,
        tensors: Device,
    }

    static EMULATED: OnceLock<std::result::Result<Emulated, String>> = OnceLock::new();

    impl Emulated {
        fn new() -> std::result::Result<Self, String> {
            let emulator = deltaw_emulator::install().map_err(|e| e.to_string())?;
            emulator.log(Log::Faults).map_err(|e| e.to_string())?;
            let gpu = emulator.device().map_err(|e| e.to_string())?;
            let tensors = Device::cuda("emulated", gpu.ordinal()).map_err(|e| e.to_string())?;
            Ok(Emulated { gpu, tensors })
        }
    }

    pub fn open() -> std::result::Result<Device, String> {
        let emulated = EMULATED.get_or_init(Emulated::new).as_ref();
        emulated.map(|e| e.tensors.clone()).map_err(Clone::clone)
    }

    pub fn end_checks() -> Result<()> {
        if let Some(Ok(emulated)) = EMULATED.get() {
            // What was asked for so far is still checked.
            let cuda = emulated.tensors.as_cuda();
            cuda.map_or(Ok(()), |cuda| cuda.synchronize())?;
            (emulated.gpu.set_checks(Checks::NONE)).map_err(Error::other)?;
        }
        Ok(())
    }
}

#[cfg(not(feature = "emulated"))]
mod driver {
    use super::{Device, Result};

    pub fn open() -> std::result::Result<Device, String> {
        Err("this build has no software driver; add `--features emulated` to cargo's command, or compute with --device cpu".into())
    }

    pub fn end_checks() -> Result<()> {
        Ok(())
    }
}

/// The device, made once for the process, or why there is none.
pub(super) fn open() -> std::result::Result<Device, String> {
    driver::open()
}

/// Ends the software driver's checks, which make it many times slower: once a training step has gone through, the steps after
/// it launch the same kernels. Does nothing on other devices.
///
/// # Errors
/// The driver refuses.
pub(crate) fn end_checks() -> Result<()> {
    driver::end_checks()
}
