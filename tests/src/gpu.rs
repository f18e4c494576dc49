//! The GPU of a test.

use std::fmt::Display;

use deltaw_engine::prelude::Device;

/// Set to `cuda`, the tests of the CUDA backend run on the machine's own GPU and driver.
const CHOICE: &str = "DELTAW_TEST_DEVICE";

/// A virtual GPU of the software driver with all its checks on, or the machine's own. Fields are dropped in their order.
pub struct Gpu {
    /// Its tensors' device.
    pub device: Device,
    /// The driver's number of it.
    pub ordinal: usize,
    virtual_device: Option<deltaw_emulator::Device>,
}

impl Gpu {
    /// One like an A100 with a GiB of memory, or the first of the machine.
    ///
    /// # Panics
    /// There is none.
    #[allow(clippy::new_without_default, reason = "it takes a device")]
    pub fn new() -> Gpu {
        let own = std::env::var(CHOICE).is_ok_and(|choice| choice == "cuda");
        let virtual_device = (!own).then(|| {
            let driver = deltaw_emulator::install().expect("the software driver");
            driver
                .device_like(80, 1 << 30)
                .expect("a device like an A100")
        });
        let name = if own { "cuda" } else { "emulated" };
        let ordinal = virtual_device.as_ref().map_or(0, |gpu| gpu.ordinal());
        Gpu {
            device: Device::cuda(name, ordinal).unwrap_or_else(|e| panic!("{e}")),
            ordinal,
            virtual_device,
        }
    }

    /// The software driver's device, which counts and checks.
    pub fn counters(&self) -> Option<&deltaw_emulator::Device> {
        self.virtual_device.as_ref()
    }

    /// Fails the test with an error, and what a kernel did wrong in the software driver's words.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&self, error: impl Display) -> ! {
        let fault = self.virtual_device.as_ref().map(|gpu| gpu.last_fault());
        panic!("{error}; {fault:?}")
    }
}
