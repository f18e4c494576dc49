//! An unmodified cudarc finds the driver after `install()`, wherever the program lies and whatever other libraries
//! are called libcuda.so.

use std::path::{Path, PathBuf};
use std::process::Command;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const SAXPY: &str = include_str!("ptx/saxpy.ptx");

/// y = a·x + y for n elements, by way of every step of cudarc's safe interface.
fn saxpy(ordinal: usize, n: usize) -> Result {
    let context = CudaContext::new(ordinal)?;
    let stream = context.default_stream();
    let kernel = context
        .load_module(Ptx::from_src(SAXPY))?
        .load_function("saxpy")?;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let x = stream.clone_htod(&x)?;
    let mut y = stream.alloc_zeros::<f32>(n)?;
    for _ in 0..2 {
        let (a, count) = (3.0f32, n as u32);
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&count).arg(&a).arg(&x).arg(&mut y);
        // SAFETY: the kernel writes y[..n] alone.
        unsafe { launch.launch(LaunchConfig::for_num_elems(count)) }?;
    }
    let y = stream.clone_dtoh(&y)?;
    assert!((0..n).all(|i| y[i] == 6.0 * i as f32), "{y:?}");
    Ok(())
}

#[test]
fn saxpy_runs_and_is_counted() -> Result {
    let device = deltaw_emulator::install()?.device()?;
    saxpy(device.ordinal(), 1000)?;
    let launches = device.launches()?;
    assert_eq!(launches.len(), 2);
    assert_eq!(
        (
            launches[0].kernel.as_str(),
            launches[0].grid,
            launches[0].block
        ),
        ("saxpy", [1, 1, 1], [1024, 1, 1])
    );
    assert!(launches[0].counters.warp_instructions > 32);
    Ok(())
}

/// Run by [`moved_programs_ignore_decoys`] in another process.
#[test]
#[ignore = "a part of another test"]
fn child() -> Result {
    saxpy(deltaw_emulator::install()?.device()?.ordinal(), 33)
}

/// The file that a library of this process was loaded from.
fn loaded_library(name: &str) -> Result<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let paths = maps
        .lines()
        .filter_map(|line| line.split_once('/'))
        .map(|(_, path)| format!("/{path}"));
    let found = paths.into_iter().find(|path| {
        Path::new(path)
            .file_name()
            .is_some_and(|f| f.to_string_lossy().starts_with(name))
    });
    Ok(found.ok_or(format!("{name} is not loaded"))?.into())
}

#[test]
fn moved_programs_ignore_decoys() -> Result {
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("moved");
    std::fs::copy(std::env::current_exe()?, &program)?;
    // A library that loads well but has none of the driver's symbols.
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::copy(loaded_library("libgcc_s")?, directory.path().join(name))?;
    }
    let output = Command::new(&program)
        .args(["--ignored", "--exact", "child"])
        .current_dir(directory.path())
        .env("LD_LIBRARY_PATH", directory.path())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
