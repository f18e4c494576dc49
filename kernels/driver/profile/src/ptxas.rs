//! NVIDIA's assembler, where it is installed (PyPI: `nvidia-cuda-nvcc`), for registers and spills.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::ProfileError;

/// An installed ptxas.
#[derive(Clone, Debug)]
pub struct Ptxas {
    path: PathBuf,
}

/// What ptxas assigned to a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// 32-bit registers of a thread.
    pub registers: u32,
    /// Barriers.
    pub barriers: u32,
    /// Bytes of static shared memory.
    pub static_shared: u32,
    /// Bytes of a thread's stack frame.
    pub stack: u32,
    /// Bytes of spill stores.
    pub spill_stores: u32,
    /// Bytes of spill loads.
    pub spill_loads: u32,
}

impl Ptxas {
    /// The one that the environment variable `PTXAS` names, or else the first in `PATH`.
    pub fn find() -> Option<Ptxas> {
        installed("ptxas").map(|path| Ptxas { path })
    }

    /// Its release, as `13.5.37`.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn version(&self) -> Result<String, ProfileError> {
        let words = said(Command::new(&self.path).arg("--version"))?.unwrap_or_else(|words| words);
        let version = words.rsplit_once(", V").map_or("", |(_, version)| version);
        Ok(version.split_whitespace().next().unwrap_or_default().into())
    }

    /// Assembles a text and returns what each of its kernels takes.
    ///
    /// # Errors
    /// The text does not assemble, or ptxas cannot be run.
    pub fn resources(
        &self,
        ptx: &str,
        capability: u32,
    ) -> Result<BTreeMap<String, Resources>, ProfileError> {
        let directory = tempfile::tempdir().map_err(|error| self.failed(error))?;
        self.assemble(ptx, capability, &directory.path().join("kernel.cubin"))
    }

    /// The same, leaving the machine code in a file whose directory is there.
    pub(crate) fn assemble(
        &self,
        ptx: &str,
        capability: u32,
        cubin: &Path,
    ) -> Result<BTreeMap<String, Resources>, ProfileError> {
        let input = cubin.with_extension("ptx");
        std::fs::write(&input, ptx).map_err(|error| self.failed(error))?;
        let mut command = Command::new(&self.path);
        command.args(["-v", &format!("-arch=sm_{capability}"), "-o"]);
        match said(command.arg(cubin).arg(&input))? {
            Ok(words) => Ok(parse(&words)),
            Err(words) => Err(ProfileError::Ptxas { capability, words }),
        }
    }

    fn failed(&self, error: std::io::Error) -> ProfileError {
        ProfileError::Io {
            what: self.path.display().to_string(),
            error,
        }
    }
}

/// A tool that the environment variable of its name in capitals names, or else the first in `PATH`.
pub(crate) fn installed(tool: &str) -> Option<PathBuf> {
    let named = std::env::var_os(tool.to_uppercase()).map(PathBuf::from);
    let in_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|directory| directory.join(tool))
            .find(|file| file.is_file())
    };
    named.or_else(in_path)
}

/// What a tool printed, as an error if it failed.
pub(crate) fn said(command: &mut Command) -> Result<Result<String, String>, ProfileError> {
    let output = command.output().map_err(|error| ProfileError::Io {
        what: command.get_program().to_string_lossy().into_owned(),
        error,
    })?;
    let words = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let words = words.trim().to_owned();
    Ok(if output.status.success() {
        Ok(words)
    } else {
        Err(words)
    })
}

/// Reads what `ptxas -v` prints.
fn parse(words: &str) -> BTreeMap<String, Resources> {
    let mut kernels: BTreeMap<String, Resources> = BTreeMap::new();
    let mut current = None;
    for line in words.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            current = rest.split('\'').next().map(str::to_owned);
        }
        let Some(name) = &current else { continue };
        let resources = kernels.entry(name.clone()).or_default();
        let before = |what: &str| {
            let head = line.split_once(what)?.0.trim_end();
            head.rsplit(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        };
        let mut set = |place: fn(&mut Resources) -> &mut u32, what| {
            if let Some(value) = before(what) {
                *place(resources) = value;
            }
        };
        set(|r| &mut r.registers, " registers");
        set(|r| &mut r.barriers, " barriers");
        set(|r| &mut r.static_shared, " bytes smem");
        set(|r| &mut r.stack, " bytes stack frame");
        set(|r| &mut r.spill_stores, " bytes spill stores");
        set(|r| &mut r.spill_loads, " bytes spill loads");
    }
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read() {
        let words = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k2' for 'sm_80'
ptxas info    : Function properties for k2
    16 bytes stack frame, 244 bytes spill stores, 248 bytes spill loads
ptxas info    : Used 64 registers, used 0 barriers, 360 bytes cmem[0]
ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 1 barriers, 400 bytes smem, 360 bytes cmem[0]";
        let kernels = parse(words);
        let spilling = Resources {
            registers: 64,
            stack: 16,
            spill_stores: 244,
            spill_loads: 248,
            ..Resources::default()
        };
        assert_eq!(kernels["k2"], spilling);
        assert_eq!(
            kernels["k"],
            Resources {
                registers: 8,
                barriers: 1,
                static_shared: 400,
                ..Resources::default()
            }
        );
    }
}
