//! Gives the library the digest of the sources that decide what a stage computes, so that a result cached by an
//! older build is not taken for this one's: the kernels, the engine, the models and the versions of what they depend
//! on, but not the papers' binaries (whose own text a paper adds) nor what only presents results.

use std::path::{Path, PathBuf};

#[allow(dead_code)] // The library uses more of it.
#[path = "src/experiment/hash.rs"]
mod hash;

const SOURCES: [&str; 5] = [
    "../Cargo.lock",
    "../kernels/src",
    "../kernels/ptx",
    "../engine/src",
    "src",
];
const PRESENTATION: [&str; 12] = [
    "src/bin",
    "src/report",
    "src/experiment/stats",
    "src/experiment/claim.rs",
    "src/experiment/console.rs",
    "src/experiment/driver.rs",
    "src/experiment/options.rs",
    "src/experiment/paper.rs",
    "src/experiment/progress.rs",
    "src/experiment/record.rs",
    "src/experiment/subject.rs",
    "src/experiment/verdict.rs",
];

fn main() -> std::io::Result<()> {
    let mut files = Vec::new();
    for source in SOURCES.map(Path::new).into_iter().filter(|s| s.exists()) {
        println!("cargo::rerun-if-changed={}", source.display());
        collect(source, &mut files)?;
    }
    files.sort();
    let mut digest = hash::Sha256::default();
    for file in files {
        digest
            .update(file.to_string_lossy().as_bytes())
            .update(&[0]);
        digest.update(&std::fs::read(&file)?).update(&[0]);
    }
    println!("cargo::rustc-env=DELTAW_CODE={}", &digest.finish()[..16]);
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if folder.is_file() {
        files.push(folder.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if PRESENTATION.iter().any(|skip| path == Path::new(skip)) {
            continue;
        }
        collect(&path, files)?;
    }
    Ok(())
}
