//! The machine an experiment runs on: which instruction set, how many threads, how much memory.

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::options::{Device, Isa, Options};

/// What results may depend on: bits are equal where these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Where the arithmetic runs.
    pub device: Device,
    /// The CPU path in use, never `auto`.
    pub isa: Isa,
}

impl Environment {
    /// Resolves `--isa auto` and refuses what this machine lacks.
    ///
    /// # Errors
    /// [`Error::Option`] for an instruction set that the processor does not have.
    pub fn resolve(options: &Options) -> Result<Self> {
        let widest = widest_isa();
        let rank = |isa| {
            [Isa::Scalar, Isa::Avx2, Isa::Avx512]
                .iter()
                .position(|&i| i == isa)
        };
        let isa = match options.isa {
            Isa::Auto => widest,
            wanted if rank(wanted) > rank(widest) => {
                return Err(Error::Option {
                    option: "isa",
                    value: name(wanted),
                    why: format!(
                        "this processor does not have it; the widest it has is {}",
                        name(widest)
                    ),
                });
            }
            wanted => wanted,
        };
        Ok(Self {
            device: options.device,
            isa,
        })
    }

    /// A folder's name for what was computed here: "cpu-avx2".
    pub fn label(&self) -> String {
        format!("{}-{}", name(self.device), name(self.isa))
    }
}

/// An option's value as it is typed.
pub(crate) fn name(value: impl clap::ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|v| v.get_name().to_owned())
        .unwrap_or_default()
}

fn widest_isa() -> Isa {
    #[cfg(target_arch = "x86_64")]
    {
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if avx512 {
            return Isa::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Isa::Avx2;
        }
    }
    Isa::Scalar
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
        let options = Options::parse_from(["x"]);
        let found = Environment::resolve(&options).unwrap();
        assert_ne!(found.isa, Isa::Auto);
        let scalar = Environment::resolve(&Options::parse_from(["x", "--isa", "scalar"])).unwrap();
        assert_eq!(scalar.label(), "cpu-scalar");
    }

    #[test]
    fn memory_is_measured_on_linux() {
        let block = vec![1u8; 32 << 20];
        assert!(block.iter().map(|&b| u64::from(b)).sum::<u64>() <= peak_rss().unwrap());
    }
}
