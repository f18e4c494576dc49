//! What NVIDIA's assembler makes of a text: the main loop's instructions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// ptxas and nvdisasm, where both are installed (PyPI: `nvidia-cuda-nvcc`, `nvidia-cuda-nvdisasm`).
pub struct Tools {
    ptxas: PathBuf,
    nvdisasm: PathBuf,
}

/// The loop that does the work.
#[derive(Debug, PartialEq)]
pub struct Loop {
    /// Registers of a thread.
    pub registers: usize,
    /// Instructions of a turn.
    pub instructions: usize,
    /// Of those, products and fused multiply-adds.
    pub useful: usize,
    /// Barriers of a turn.
    pub barriers: usize,
}

impl Loop {
    /// useful / instructions.
    pub fn share(&self) -> f64 {
        self.useful as f64 / self.instructions as f64
    }
}

impl Tools {
    /// ptxas as the environment variable `PTXAS` names it or from `PATH`, nvdisasm beside it or from `PATH`.
    pub fn find() -> Option<Tools> {
        let path = std::env::var_os("PATH")?;
        let in_path = |name: &str| {
            let mut files = std::env::split_paths(&path).map(|directory| directory.join(name));
            files.find(|file| file.is_file())
        };
        let ptxas = std::env::var_os("PTXAS")
            .map(PathBuf::from)
            .or_else(|| in_path("ptxas"))?;
        let beside = Some(ptxas.with_file_name("nvdisasm")).filter(|file| file.is_file());
        Some(Tools {
            nvdisasm: beside.or_else(|| in_path("nvdisasm"))?,
            ptxas,
        })
    }

    /// The assembler's release, as `13.5.37`.
    pub fn version(&self) -> String {
        let text = output(Command::new(&self.ptxas).arg("--version"));
        let version = text.rsplit_once(", V").map_or("", |(_, v)| v);
        version.split_whitespace().next().unwrap_or("?").into()
    }

    /// The main loop of a text with one kernel: the innermost one with most useful instructions.
    pub fn main_loop(&self, ptx: &str, capability: u32) -> Loop {
        let directory = tempfile::tempdir().expect("a directory");
        let (text, cubin) = (
            directory.path().join("k.ptx"),
            directory.path().join("k.cubin"),
        );
        std::fs::write(&text, ptx).expect("a file");
        let words = output(
            Command::new(&self.ptxas)
                .args(["-v", &format!("-arch=sm_{capability}"), "-o"])
                .arg(&cubin)
                .arg(&text),
        );
        let used = words.split_once("Used ").expect("registers").1;
        let registers = used
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number");
        let code = output(
            Command::new(&self.nvdisasm)
                .arg("-c")
                .arg(Path::new(&cubin)),
        );
        let found = loops(&code)
            .into_iter()
            .max_by_key(|l| l.1)
            .expect("a loop");
        Loop {
            registers,
            instructions: found.0,
            useful: found.1,
            barriers: found.2,
        }
    }
}

fn output(command: &mut Command) -> String {
    let out = command.output().expect("the tool runs");
    let words = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {words}");
    words.into_owned()
}

/// Instructions, useful ones and barriers of the innermost loops of a disassembly.
fn loops(code: &str) -> Vec<(usize, usize, usize)> {
    let (mut labels, mut names, mut jumps) = (HashMap::new(), Vec::new(), Vec::new());
    for line in code.lines().map(str::trim) {
        if let Some(label) = line.strip_suffix(':').filter(|l| l.starts_with(".L_")) {
            labels.insert(label, names.len());
        } else if let Some((_, instruction)) =
            line.strip_prefix("/*").and_then(|l| l.split_once("*/"))
        {
            let words = instruction
                .split_whitespace()
                .find(|word| !word.starts_with('@'));
            let Some(name) = words.and_then(|word| word.split(['.', ';']).next()) else {
                continue;
            };
            if name == "BRA" {
                let target = instruction
                    .split_once("`(")
                    .and_then(|(_, rest)| rest.split(')').next());
                jumps.extend(target.map(|target| (target, names.len())));
            }
            names.push(name);
        }
    }
    let mut back: Vec<(usize, usize)> = Vec::new();
    for (target, from) in jumps {
        back.extend(
            labels
                .get(target)
                .filter(|to| **to < from)
                .map(|to| (*to, from)),
        );
    }
    let inner = |l: &&(usize, usize)| !back.iter().any(|m| m != *l && l.0 <= m.0 && m.1 <= l.1);
    let count = |l: &(usize, usize)| {
        let body = &names[l.0..=l.1];
        let of = |wanted: &[&str]| body.iter().filter(|name| wanted.contains(name)).count();
        (body.len(), of(&["HMMA", "FFMA"]), of(&["BAR"]))
    };
    back.iter().filter(inner).map(count).collect()
}
