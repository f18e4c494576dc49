//! NVIDIA's assembler takes every PTX file of the repository.

mod compilers;

use std::path::{Path, PathBuf};
use std::process::Command;

use compilers::Result;
use compilers::tools::{self, PTXAS};

/// The PTX files below a directory, build outputs and the kernels' templates aside: the tests of the kernels assemble what those
/// expand to.
fn texts(directory: &Path, found: &mut Vec<PathBuf>) -> Result {
    for entry in directory.read_dir()? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && (name == "target" || name == ".git" || path.ends_with("kernels/ptx")) {
            continue;
        }
        if path.is_dir() {
            texts(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending == "ptx") {
            found.push(path);
        }
    }
    Ok(())
}

/// The architecture that a text names by `.target`.
fn target(ptx: &str) -> Option<&str> {
    let rest = ptx.lines().find_map(|line| line.strip_prefix(".target"))?;
    rest.split([',', ' '])
        .map(str::trim)
        .find(|word| !word.is_empty())
}

#[test]
fn every_text_assembles() -> Result {
    let Some(ptxas) = tools::tool(PTXAS) else {
        return Ok(());
    };
    let mut found = Vec::new();
    texts(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../..").as_ref(),
        &mut found,
    )?;
    assert!(found.len() > 20, "{found:?}");
    let directory = tempfile::tempdir()?;
    for path in found {
        let text = std::fs::read_to_string(&path)?;
        let architecture =
            target(&text).ok_or_else(|| format!("{}: no .target", path.display()))?;
        let cubin = directory.path().join("out.cubin");
        let mut assemble = Command::new(&ptxas);
        assemble
            .arg(format!("-arch={architecture}"))
            .arg(&path)
            .arg("-o")
            .arg(cubin);
        tools::run(&mut assemble)?;
    }
    Ok(())
}
