//! The GPU of a test.

use std::fmt::Display;
use std::sync::OnceLock;

use deltaw_benches::compare::{self, swept};
use deltaw_engine::prelude::*;

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

/// One for the whole test.
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(Gpu::new)
}

/// Numbers in [−1, 1), on the CPU.
///
/// # Panics
/// It cannot be made.
pub fn tensor(shape: &[usize], seed: u64) -> Tensor {
    compare::tensor(shape, seed).unwrap()
}

/// The same function of the same tensors on the CPU and on the device; a fault is told in the driver's words.
///
/// # Panics
/// An error, as all of these.
pub fn both<T>(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<T>) -> [T; 2] {
    let moved: Vec<Tensor> = inputs
        .iter()
        .map(|x| x.to_device(&gpu().device).unwrap())
        .collect();
    let on_device = f(&moved).unwrap_or_else(|e| gpu().fail(e));
    [f(inputs).unwrap(), on_device]
}

/// What is in a tensor, as f32.
///
/// # Panics
/// An error.
pub fn values(x: &Tensor) -> Vec<f32> {
    compare::values(x).unwrap_or_else(|e| gpu().fail(e))
}

/// Value and gradients (of the f32 inputs that have one) on the device within `bounds` of the CPU's, one bound each.
///
/// # Panics
/// They are not.
pub fn near(
    what: &str,
    inputs: &[Tensor],
    bounds: &[f64],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let [want, got] = both(inputs, |x| swept(x, &f));
    assert_eq!(got.len(), bounds.len(), "{what}: value and gradients");
    for (k, ((got, want), bound)) in got.iter().zip(&want).zip(bounds).enumerate() {
        for (i, (a, b)) in values(got).iter().zip(values(want)).enumerate() {
            let error = (f64::from(*a) - f64::from(b)).abs();
            assert!(
                error <= *bound || a.is_nan() && b.is_nan(),
                "{what}: array {k} (0 the value), element {i}: {a}, CPU {b}, bound {bound:e}"
            );
        }
    }
}

/// Value and gradients on the device, in the CPU's bits.
///
/// # Panics
/// They are not.
pub fn same_bits(what: &str, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let [want, got] = both(inputs, |x| swept(x, &f));
    let bits = |all: &[Tensor]| -> Vec<Vec<u32>> {
        let bits = |x: &Tensor| values(x).into_iter().map(f32::to_bits).collect();
        all.iter().map(bits).collect()
    };
    assert_eq!(bits(&got), bits(&want), "{what}");
}
