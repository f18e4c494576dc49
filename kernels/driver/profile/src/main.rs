//! `kernel-profile FILE.ptx LAUNCH.json`: runs a kernel on the software driver and prints what it did.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use kernel_profile::{Description, GPUS, Gpu, Profile, ProfileError, Ptxas};

/// Counts what a PTX kernel does, without a GPU.
///
/// With ptxas (PyPI: nvidia-cuda-nvcc) in PATH or named by PTXAS, also registers, spills and occupancy.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// PTX text.
    ptx: PathBuf,
    /// The launch: {"kernel": "saxpy", "grid": [4], "block": [256], "args": [{"u32": 1000}, {"f32": 2.0},
    /// {"buffer": {"type": "f32", "count": 1000, "fill": "uniform"}}, {"buffer": {"type": "f32", "count": 1000}}]}.
    launch: PathBuf,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Architectures to ask ptxas about (80, 89, 90, 120); all of them unless given.
    #[arg(long, value_name = "SM", value_delimiter = ',')]
    arch: Vec<u32>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("kernel-profile: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<String, ProfileError> {
    let ptx = read(&arguments.ptx)?;
    let description = Description::parse(&read(&arguments.launch)?)?;
    let unknown = arguments
        .arch
        .iter()
        .find(|&&sm| GPUS.iter().all(|gpu| gpu.capability != sm));
    if let Some(sm) = unknown {
        return Err(ProfileError::Description(format!(
            "--arch {sm}: wanted some of 80, 89, 90, 120"
        )));
    }
    let wanted = |gpu: &&Gpu| arguments.arch.is_empty() || arguments.arch.contains(&gpu.capability);
    let gpus: Vec<&Gpu> = GPUS.iter().filter(wanted).collect();
    let profile = Profile::measure(&ptx, &description, Ptxas::find().as_ref(), &gpus)?;
    if arguments.json {
        return serde_json::to_string_pretty(&profile)
            .map_err(|e| ProfileError::Driver(e.to_string()));
    }
    Ok(profile.to_string())
}

fn read(path: &Path) -> Result<String, ProfileError> {
    std::fs::read_to_string(path).map_err(|error| ProfileError::Io {
        what: path.display().to_string(),
        error,
    })
}
