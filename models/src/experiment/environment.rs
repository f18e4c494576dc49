//! The machine an experiment runs on: which instruction set, how many threads, how much memory.

use std::sync::OnceLock;

use deltaw_engine::cpu::simd;
use deltaw_engine::cpu::threads::set_threads;
use deltaw_engine::device::Device as Tensors;
use serde::{Deserialize, Serialize};

use super::emulated;
use super::error::{Error, Result};
use super::options::{Device, Isa, Options};

/// What results may depend on: bits are equal where these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Where the arithmetic runs.
    pub device: Device,
    /// The CPU path in use, never `auto`.
    pub isa: Isa,
    /// Whether a GPU's f32 products are tf32.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tf32: bool,
}

impl Environment {
    /// Sets threads and instruction set for the whole process, and refuses what this machine or build lacks.
    ///
    /// # Errors
    /// [`Error::Option`] for an instruction set or a device that cannot be used here.
    pub fn enter(options: &Options) -> Result<Self> {
        let refused =
            |option, value: String, why: String| Err(Error::Option { option, value, why });
        let tensors = match open(options.device) {
            Ok(tensors) => tensors,
            Err(why) => return refused("device", name(options.device), why),
        };
        match tensors.as_cuda() {
            Some(cuda) => cuda.set_tf32(options.tf32),
            None if options.tf32 => {
                let why = "only a GPU has it: add --device cuda or emulated".to_owned();
                return refused("tf32", "true".to_owned(), why);
            }
            None => {}
        }
        let path = match options.isa {
            Isa::Auto => simd::Isa::best(),
            Isa::Scalar => simd::Isa::Scalar,
            Isa::Avx2 => simd::Isa::Avx2,
            Isa::Avx512 => simd::Isa::Avx512,
        };
        if let Err(why) = simd::set_isa(path) {
            return refused("isa", name(options.isa), why.to_string());
        }
        set_threads(options.threads.map_or(0, usize::from));
        let isa = match path {
            simd::Isa::Scalar => Isa::Scalar,
            simd::Isa::Avx2 => Isa::Avx2,
            simd::Isa::Avx512 => Isa::Avx512,
        };
        Ok(Self {
            device: options.device,
            isa,
            tf32: options.tf32,
        })
    }

    /// The engine's device.
    pub fn tensors(&self) -> Tensors {
        // What was opened on entering is open.
        open(self.device).unwrap_or_else(|_| Tensors::cpu())
    }

    /// A folder's name for what was computed here: "cpu-avx2", "cuda-avx2-tf32".
    pub fn label(&self) -> String {
        let tf32 = if self.tf32 { "-tf32" } else { "" };
        format!("{}-{}{tf32}", name(self.device), name(self.isa))
    }
}

/// The engine's device, made once for the process, or why there is none.
///
/// # Errors
/// What this machine or build lacks, and what to take instead.
pub fn open(device: Device) -> std::result::Result<Tensors, String> {
    static CUDA: OnceLock<std::result::Result<Tensors, String>> = OnceLock::new();
    match device {
        Device::Cpu => Ok(Tensors::cpu()),
        Device::Oracle => Ok(Tensors::oracle()),
        Device::Cuda => CUDA
            .get_or_init(|| Tensors::cuda("cuda", 0).map_err(|e| e.to_string()))
            .clone(),
        Device::Emulated => emulated::open(),
    }
}

/// An option's value as it is typed.
pub fn name(value: impl clap::ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|v| v.get_name().to_owned())
        .unwrap_or_default()
}

/// The most memory this process ever had in RAM, bytes; None where the system does not say.
pub fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn auto_becomes_what_the_machine_has() {
        let found = Environment::enter(&Options::parse_from(["x"])).unwrap();
        assert_eq!(
            found.isa == Isa::Scalar,
            simd::Isa::best() == simd::Isa::Scalar
        );
        assert_ne!(found.isa, Isa::Auto);
        assert!(found.label().starts_with("cpu-"));
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_and_the_others_named() {
        // A machine with a GPU has nothing to refuse.
        let Err(error) = Environment::enter(&Options::parse_from(["x", "--device", "cuda"])) else {
            return;
        };
        let message = error.to_string();
        assert!(message.starts_with("--device cuda: cuda: "), "{message}");
        assert!(
            message.ends_with("compute with --device cpu or emulated"),
            "{message}"
        );
    }

    #[test]
    fn the_cpu_has_no_tf32() {
        let error = Environment::enter(&Options::parse_from(["x", "--tf32"])).unwrap_err();
        assert!(error.to_string().contains("only a GPU has it"), "{error}");
    }

    #[test]
    fn memory_is_measured_on_linux() {
        let block = vec![1u8; 32 << 20];
        assert!(block.iter().map(|&b| u64::from(b)).sum::<u64>() <= peak_rss().unwrap());
    }
}
