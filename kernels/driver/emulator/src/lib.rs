//! Runs a program's CUDA calls on the software driver.
//!
//! [`install`], called before the first use of `cudarc` (or of anything else that opens `libcuda.so`), loads the
//! driver into the process; from then on every `dlopen("libcuda.so")` finds it, whatever other libraries of that
//! name there are. No environment variable is needed and no file has to lie anywhere: the library is part of this
//! crate. A program that does not call it uses the machine's own driver.
//!
//! ```
//! let emulator = deltaw_emulator::install()?;
//! let device = emulator.device()?; // a virtual device of one's own, so that tests do not disturb one another
//! let context = cudarc::driver::CudaContext::new(device.ordinal())?;
//! let bytes = context.default_stream().clone_htod(&[1u8, 2, 3])?;
//! assert_eq!(context.default_stream().clone_dtoh(&bytes)?, [1, 2, 3]);
//! assert!(device.launches()?.is_empty() && device.last_fault()?.is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[path = "../../src/counters.rs"]
mod counters;
mod library;

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

pub use counters::{Counters, Traffic};
use library::Library;

/// Why the software driver cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EmulatorError {
    /// Another `libcuda.so` is in the process already, and later users would get that one.
    #[error("another libcuda.so is loaded already: call install() before the first use of CUDA")]
    OtherDriver,
    /// The library was not there when this crate was compiled.
    #[error(
        "this crate was compiled without the driver's shared library beside it: build it with cargo"
    )]
    NotEmbedded,
    /// The system would not load the library.
    #[error("cannot load the software CUDA driver: {0}")]
    Load(String),
    /// A call of the driver failed.
    #[error("{0}")]
    Call(String),
    /// The driver's answer could not be read: it is of another version.
    #[error("the driver's answer is not understood: {0}")]
    Answer(String),
}

/// The driver in this process.
#[derive(Debug)]
pub struct Emulator {
    library: Arc<Library>,
}

/// Loads the software driver, once for the process.
///
/// # Errors
/// Another driver was loaded before, or the system refuses to load this one.
pub fn install() -> Result<&'static Emulator, EmulatorError> {
    static EMULATOR: OnceLock<Result<Emulator, EmulatorError>> = OnceLock::new();
    let installed = EMULATOR.get_or_init(|| {
        let library = Arc::new(Library::load()?);
        // A Rust program asks for the fault; it need not be on stderr as well.
        library.log(0)?;
        Ok(Emulator { library })
    });
    installed.as_ref().map_err(Clone::clone)
}

impl Emulator {
    /// A new virtual device like an A100 (sm_80).
    ///
    /// # Errors
    /// [`EmulatorError::Call`].
    pub fn device(&self) -> Result<Device, EmulatorError> {
        self.device_like(80, 0)
    }

    /// A new virtual device like the GPU of a compute capability (80, 86, 89, 90 or 120) with so many bytes of memory
    /// (0: the default, 8 GiB).
    ///
    /// # Errors
    /// [`EmulatorError::Call`]: no such capability.
    pub fn device_like(&self, capability: u32, memory: u64) -> Result<Device, EmulatorError> {
        let ordinal = self.library.device_create(capability, memory)?;
        Ok(Device {
            ordinal,
            library: self.library.clone(),
        })
    }

    /// What is printed to stderr from now on.
    ///
    /// # Errors
    /// [`EmulatorError::Call`].
    pub fn log(&self, log: Log) -> Result<(), EmulatorError> {
        self.library.log(log as u32)
    }

    /// What the last CUDA call of this thread that failed wanted, and why it failed; empty if none did.
    ///
    /// # Errors
    /// [`EmulatorError::Call`].
    pub fn last_error(&self) -> Result<String, EmulatorError> {
        self.library.last_error()
    }
}

/// What the driver prints to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Nothing: the default after [`install`].
    Off = 0,
    /// Kernel faults and calls that are not supported.
    Faults = 1,
    /// Every failed call.
    All = 2,
}

/// What launches check. Loads and stores stay inside the context's memory in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Bounds, use after free, alignment, and uninitialised data that reaches an address, a branch or a global store.
    pub memory: bool,
    /// Races in shared memory between barriers.
    pub races: bool,
    /// Divergent barriers, asynchronous copies read before their wait, masks that name absent lanes.
    pub synchronisation: bool,
    /// Counters.
    pub counters: bool,
    /// With `memory`: uninitialised data are reported where they are read, not only where they matter. For kernels
    /// written by hand; compilers read undefined registers now and then.
    pub strict: bool,
}

impl Checks {
    /// Everything on but `strict`: the default.
    pub const ALL: Checks = Checks {
        memory: true,
        races: true,
        synchronisation: true,
        counters: true,
        strict: false,
    };
    /// Everything on.
    pub const STRICT: Checks = Checks {
        strict: true,
        ..Checks::ALL
    };
    /// Everything off.
    pub const NONE: Checks = Checks {
        memory: false,
        races: false,
        synchronisation: false,
        counters: false,
        strict: false,
    };
}

/// A virtual device. Dropping it destroys its primary context; drop what lives in that context first.
#[derive(Debug)]
pub struct Device {
    ordinal: i32,
    library: Arc<Library>,
}

/// One launch that ended well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Bytes of shared memory of a block, dynamic and static.
    pub shared: u32,
    /// Wall-clock seconds of the emulation: no prediction of any GPU.
    pub seconds: f64,
    /// What it did.
    pub counters: Counters,
}

/// How often the host waited for a device, whether or not there was something to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waits {
    /// For a stream.
    pub stream: u64,
    /// For a context.
    pub context: u64,
    /// For an event.
    pub event: u64,
    /// In calls that return when their work is done: copies of memory that is not pinned.
    pub blocking: u64,
}

/// A launch that failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// `OutOfBounds`, `Misaligned`, `Race`, …
    pub kind: String,
    /// The kernel's name.
    pub kernel: String,
    /// Line of the PTX text; 0 if no instruction is at fault.
    pub line: u32,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index within the block.
    pub thread: [u32; 3],
    /// The address at fault, if there is one.
    pub address: Option<u64>,
    /// What happened.
    pub text: String,
    /// All of it in one line.
    pub message: String,
}

impl Device {
    /// Its number, for `cuDeviceGet` and `CudaContext::new`.
    pub fn ordinal(&self) -> usize {
        self.ordinal as usize
    }

    /// Says what launches check from now on.
    ///
    /// # Errors
    /// [`EmulatorError::Call`]: memory checks were off when the primary context was made, and cannot start now.
    pub fn set_checks(&self, checks: Checks) -> Result<(), EmulatorError> {
        let Checks {
            memory,
            races,
            synchronisation,
            counters,
            strict,
        } = checks;
        let bits = [memory, races, synchronisation, counters, strict];
        let mask = bits
            .iter()
            .enumerate()
            .map(|(i, &on)| u32::from(on) << i)
            .sum();
        self.library.checks(self.ordinal, mask)
    }

    /// Sets how many warp instructions a block may execute before it counts as hung.
    ///
    /// # Errors
    /// [`EmulatorError::Call`].
    pub fn set_instruction_limit(&self, limit: u64) -> Result<(), EmulatorError> {
        self.library.instruction_limit(self.ordinal, limit)
    }

    /// The launches so far, or since [`Device::clear`]: the last 65,536, the oldest first. Synchronise first; only
    /// launches with counters on are in it.
    ///
    /// # Errors
    /// [`EmulatorError::Call`], [`EmulatorError::Answer`].
    pub fn launches(&self) -> Result<Vec<Launch>, EmulatorError> {
        answer(&self.library.launches(self.ordinal)?)
    }

    /// The waits so far, or since [`Device::clear`].
    ///
    /// # Errors
    /// [`EmulatorError::Call`], [`EmulatorError::Answer`].
    pub fn waits(&self) -> Result<Waits, EmulatorError> {
        answer(&self.library.waits(self.ordinal)?)
    }

    /// The last fault.
    ///
    /// # Errors
    /// [`EmulatorError::Call`], [`EmulatorError::Answer`].
    pub fn last_fault(&self) -> Result<Option<Fault>, EmulatorError> {
        answer(&self.library.last_fault(self.ordinal)?)
    }

    /// Forgets launches, waits and fault.
    ///
    /// # Errors
    /// [`EmulatorError::Call`].
    pub fn clear(&self) -> Result<(), EmulatorError> {
        self.library.clear(self.ordinal)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Destroying a device that exists cannot fail, and a drop could not report it.
        let _ = self.library.device_destroy(self.ordinal);
    }
}

fn answer<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, EmulatorError> {
    serde_json::from_str(text).map_err(|e| EmulatorError::Answer(e.to_string()))
}
