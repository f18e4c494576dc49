//! Gives the library the digest of the sources that decide what a stage computes, so that a result cached by an
//! older build is not taken for this one's: the kernels, the engine and the models, but not the papers' binaries
//! (which have a version of their own) nor what only presents results.

use std::path::{Path, PathBuf};

#[allow(dead_code)] // The library uses more of it.
#[path = "src/experiment/hash.rs"]
mod hash;

const SOURCES: [&str; 4] = ["../kernels/src", "../kernels/ptx", "../engine/src", "src"];
const PRESENTATION: [&str; 11] = [
    "src/bin",
    "src/report",
    "src/experiment/stats",
    "src/experiment/claim.rs",
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
    for folder in SOURCES {
        if Path::new(folder).exists() {
            println!("cargo::rerun-if-changed={folder}");
            collect(Path::new(folder), &mut files)?;
        }
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
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if PRESENTATION.iter().any(|skip| path == Path::new(skip)) {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?
        } else {
            files.push(path)
        }
    }
    Ok(())
}
