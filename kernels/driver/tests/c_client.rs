//! The shared library serves programs that are not ours: a C program that opens it by its path.

use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// `libdeltaw_driver.so`, which cargo puts beside the tests.
fn library() -> Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let path = tests
        .parent()
        .unwrap_or(Path::new("."))
        .join("libdeltaw_driver.so");
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("no {}", path.display()).into())
    }
}

#[test]
fn a_c_program_runs_kernels_and_is_told_its_faults() -> Result {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let temporary = tempfile::tempdir()?;
    let program = temporary.path().join("client");
    let compiled = Command::new("cc")
        .args(["-Wall", "-o"])
        .arg(&program)
        .arg(directory.join("c_client.c"))
        .arg("-ldl")
        .status()?;
    assert!(compiled.success(), "cc failed");
    let run = |checks: &str| {
        Command::new(&program)
            .arg(library()?)
            .arg(directory.join("ptx/saxpy.ptx"))
            .env("DELTAW_CHECKS", checks)
            .output()
            .map_err(Box::<dyn std::error::Error>::from)
    };

    let output = run("all")?;
    let (text, errors) = (
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    );
    assert!(output.status.success(), "{text}{errors}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["CUDA_ERROR_ILLEGAL_ADDRESS"; 2], "{text}");
    for part in [
        "\"kind\":\"OutOfBounds\"",
        "\"kernel\":\"saxpy\"",
        "\"line\":35",
        "\"block\":[3,0,0]",
        "\"thread\":[4,0,0]",
    ] {
        assert!(lines[2].contains(part), "{part} is not in {text}");
    }
    assert!(
        errors.contains("saxpy") && errors.contains("line 35"),
        "{errors}"
    );

    // Without checks the stray element lands between allocations, as it might on a GPU.
    let output = run("none")?;
    assert!(String::from_utf8(output.stdout)?.starts_with("CUDA_SUCCESS\nCUDA_SUCCESS\nnull"));
    Ok(())
}

#[test]
fn the_library_is_called_libcuda_only_inside() -> Result {
    let image = std::fs::read(library()?)?;
    let name = b"\0libcuda.so\0";
    assert!(image.windows(name.len()).any(|window| window == name));
    Ok(())
}
