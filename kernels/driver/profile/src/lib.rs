//! What a kernel does, counted by the software driver, and what ptxas makes of it.
//!
//! [`Description`] says how to launch a kernel of a PTX text; [`Profile::measure`] launches it on a virtual device and
//! returns its counters, with registers, spills and occupancy of each architecture where ptxas is installed. For
//! kernels that a program launches itself, [`Profile::of_launch`] takes what `deltaw_emulator::Device::launches` gives.
//! [`Disassembler::code`] needs no launch: it looks at the machine code, loop by loop.
//!
//! Counters are properties of the PTX: ptxas may merge or hoist accesses. Times of GPUs are bounds predicted from data
//! sheets, never measured, and are called that.

mod description;
mod gpu;
mod ptxas;
mod sass;
mod table;

use deltaw_emulator::{Device, EmulatorError, Launch};
use serde::Serialize;

pub use description::{Argument, Description, Element, Fill};
pub use gpu::{Bound, GPUS, Gpu, Limit, Occupancy};
pub use ptxas::{Ptxas, Resources};
pub use sass::{Block, Code, Disassembler, Group, Loop, Mix};

/// Why a kernel was not profiled.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The launch description does not say what it must.
    #[error("launch description: {0}")]
    Description(String),
    /// A call of the driver failed: what it said.
    #[error("{0}")]
    Driver(String),
    /// The kernel failed.
    #[error("the kernel failed: {0}")]
    Fault(String),
    /// ptxas refuses the text: its words.
    #[error("ptxas for sm_{capability}: {words}")]
    Ptxas {
        /// 80 for sm_80.
        capability: u32,
        /// What it printed.
        words: String,
    },
    /// nvdisasm refuses what ptxas made: its words.
    #[error("nvdisasm: {words}")]
    Disassembler {
        /// What it printed.
        words: String,
    },
    /// A tool is not installed.
    #[error(
        "{tool}: not in PATH, and {} names none (pip install --no-deps {package})",
        tool.to_uppercase()
    )]
    Missing {
        /// The tool.
        tool: &'static str,
        /// The package of PyPI that has it.
        package: &'static str,
    },
    /// The driver could not be used.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// A file or program could not be used.
    #[error("{what}: {error}")]
    Io {
        /// Which.
        what: String,
        /// Why.
        error: std::io::Error,
    },
}

/// A launch, and what architectures make of its kernel.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// The launch and its counters.
    #[serde(flatten)]
    pub launch: Launch,
    /// One entry for each GPU; empty without ptxas.
    pub predicted: Vec<Predicted>,
}

/// What is predicted for a GPU.
#[derive(Clone, Debug, Serialize)]
pub struct Predicted {
    /// The GPU.
    pub gpu: &'static str,
    /// 80 for sm_80.
    pub capability: u32,
    /// What ptxas assigned.
    pub resources: Resources,
    /// Blocks at a time on a multiprocessor.
    pub occupancy: Occupancy,
    /// The least time that the data sheet allows.
    pub bound: Bound,
}

impl Profile {
    /// Launches a kernel of `ptx` once, with all checks on.
    ///
    /// # Errors
    /// Whatever keeps it from running; a fault of the kernel.
    pub fn measure(
        ptx: &str,
        description: &Description,
        ptxas: Option<&Ptxas>,
        gpus: &[&Gpu],
    ) -> Result<Profile, ProfileError> {
        let emulator = deltaw_emulator::install()?;
        let capability = description::target(ptx).unwrap_or(80);
        let device: Device = emulator.device_like(capability, 0)?;
        description.launch(ptx, emulator, &device)?;
        let launch = device.launches()?.pop();
        let launch =
            launch.ok_or_else(|| ProfileError::Driver("the launch left no counters".into()))?;
        Profile::of_launch(launch, ptx, ptxas, gpus)
    }

    /// Adds what ptxas and the data sheets say to a launch that was counted.
    ///
    /// # Errors
    /// ptxas refuses the text.
    pub fn of_launch(
        launch: Launch,
        ptx: &str,
        ptxas: Option<&Ptxas>,
        gpus: &[&Gpu],
    ) -> Result<Profile, ProfileError> {
        let threads = launch.block.iter().product();
        let mut predicted = Vec::new();
        for (gpu, ptxas) in gpus.iter().filter_map(|gpu| Some((gpu, ptxas?))) {
            // Text for a later architecture says nothing about an earlier one.
            if description::target(ptx).is_some_and(|target| target > gpu.capability) {
                continue;
            }
            let kernels = ptxas.resources(ptx, gpu.capability)?;
            let missing =
                || ProfileError::Driver(format!("ptxas did not report on `{}`", launch.kernel));
            let resources = kernels.get(&launch.kernel).ok_or_else(missing)?.clone();
            predicted.push(Predicted {
                gpu: gpu.name,
                capability: gpu.capability,
                occupancy: gpu.occupancy(threads, resources.registers, launch.shared),
                bound: gpu.bound(&launch.counters),
                resources,
            });
        }
        Ok(Profile { launch, predicted })
    }
}
