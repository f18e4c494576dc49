//! `kernel-profile FILE.ptx LAUNCH.json`: runs a kernel on the software driver and prints what it did.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use kernel_profile::{
    Block, Code, Description, Disassembler, GPUS, Gpu, Profile, ProfileError, Ptxas,
};
use serde::Serialize;

/// Counts what a PTX kernel does, without a GPU.
///
/// With ptxas (PyPI: nvidia-cuda-nvcc) in PATH or named by PTXAS, also registers, spills and occupancy; with nvdisasm
/// (nvidia-cuda-nvdisasm; NVDISASM) also the instructions of each innermost loop.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// PTX text.
    ptx: PathBuf,
    /// The launch: {"kernel": "saxpy", "grid": [4], "block": [256], "args": [{"u32": 1000}, {"f32": 2.0},
    /// {"buffer": {"type": "f32", "count": 1000, "fill": "uniform"}}, {"buffer": {"type": "f32", "count": 1000}}]}.
    /// Without one nothing runs, and all kernels of the text are assembled and taken apart.
    launch: Option<PathBuf>,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Architectures to ask ptxas about (80, 89, 90, 120); all of them unless given.
    #[arg(long, value_name = "SM", value_delimiter = ',')]
    arch: Vec<u32>,
    /// Threads of a block, for the occupancy without a launch; the text's `.reqntid` or `.maxntid` unless given.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    threads: u32,
    /// Bytes of a block's dynamic shared memory, for the same.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    shared: u32,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    profile: Option<Profile>,
    code: Vec<Code>,
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
    let tools = Disassembler::find();
    let (profile, block) = match &arguments.launch {
        Some(launch) => {
            let description = Description::parse(&read(launch)?)?;
            let profile = Profile::measure(&ptx, &description, Ptxas::find().as_ref(), &gpus)?;
            let block = Block {
                threads: profile.launch.block.iter().product(),
                shared: description.shared,
            };
            (Some(profile), block)
        }
        None => {
            let Arguments {
                threads, shared, ..
            } = *arguments;
            (None, Block { threads, shared })
        }
    };
    let code = match (tools, &profile) {
        (Ok(tools), _) => {
            let code = gpus
                .iter()
                .map(|gpu| tools.code(&ptx, gpu.capability, block));
            code.collect::<Result<Vec<_>, _>>()?.concat()
        }
        (Err(missing), None) => return Err(missing),
        (Err(missing), Some(_)) => {
            eprintln!("kernel-profile: the loops are not known: {missing}");
            vec![]
        }
    };
    let launched = |code: &Code| {
        let profile = profile.as_ref();
        profile.is_none_or(|profile| profile.launch.kernel == code.kernel)
    };
    let code: Vec<Code> = code.into_iter().filter(launched).collect();
    if arguments.json {
        return serde_json::to_string_pretty(&Report { profile, code })
            .map_err(|e| ProfileError::Driver(e.to_string()));
    }
    let tables = profile.iter().map(Profile::to_string);
    Ok(tables.chain(code.iter().map(Code::to_string)).collect())
}

fn read(path: &Path) -> Result<String, ProfileError> {
    std::fs::read_to_string(path).map_err(|error| ProfileError::Io {
        what: path.display().to_string(),
        error,
    })
}
