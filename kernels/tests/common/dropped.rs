//! Kernels without one of their instructions, on the software driver with its strictest checks.

use std::collections::{BTreeMap, BTreeSet};

use cudarc::driver::CudaSlice;
use deltaw_emulator::Checks;
use deltaw_kernels::KernelError;
use deltaw_kernels::template::Ptx;

use super::{Gpu, numbers};

/// Warp instructions of a block after which it counts as hung.
const LIMIT: u64 = 200_000;

/// Shared memory that any block may ask for.
const SHARED: u32 = 96 << 10;

/// Operands in device memory; the whole of them is the result.
pub struct Memory<'a> {
    pub gpu: &'a Gpu,
    kept: Vec<CudaSlice<u8>>,
}

impl<'a> Memory<'a> {
    pub fn new(gpu: &'a Gpu) -> Self {
        Memory { gpu, kept: vec![] }
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let (slice, address) = self.gpu.upload(bytes);
        self.kept.push(slice);
        address
    }

    pub fn numbers(&mut self, count: usize, seed: u64) -> u64 {
        let bytes: Vec<u8> = numbers(count, seed)
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        self.bytes(&bytes)
    }

    pub fn indices(&mut self, indices: &[u32]) -> u64 {
        let bytes: Vec<u8> = indices.iter().flat_map(|i| i.to_le_bytes()).collect();
        self.bytes(&bytes)
    }
}

/// Makes its operands and launches.
pub type Launch = Box<dyn Fn(&mut Memory) -> Result<(), KernelError>>;

/// A launch on fixed numbers.
pub struct Case {
    pub name: String,
    pub ptx: Ptx,
    pub launch: Launch,
}

impl Case {
    /// What all memory holds after it, the kernel's text exchanged for `text`.
    fn run(&self, text: &str) -> Result<Vec<u8>, String> {
        let gpu = Gpu::new(80);
        // Without an instruction a loop may have no end.
        gpu.virtual_device()
            .set_instruction_limit(LIMIT)
            .expect("a limit");
        gpu.virtual_device()
            .set_checks(Checks::STRICT)
            .expect("checks");
        gpu.kernels
            .replace(&self.name, SHARED, text)
            .unwrap_or_else(|e| panic!("{e}\n{text}"));
        let mut memory = Memory::new(&gpu);
        (self.launch)(&mut memory).map_err(|e| e.to_string())?;
        gpu.finish()?;
        let mut all = vec![];
        for slice in &memory.kept {
            all.extend(gpu.stream.clone_dtoh(slice).map_err(|e| format!("{e:?}"))?);
        }
        Ok(all)
    }
}

/// An instruction, not a directive or a label, and none that only ends the text.
fn is_instruction(line: &str) -> bool {
    let line = line.trim();
    line.ends_with(';') && !line.starts_with('.') && line != "ret;"
}

/// Drops each instruction of the cases' texts that comes from these files, and says which ones none of the cases misses.
fn survivors(files: &[&str], cases: &[Case], spare: &[(&str, &str)]) -> Vec<String> {
    let file = |origin: &str| origin.split(':').next().unwrap_or_default().to_owned();
    let mut seen: BTreeMap<String, (String, bool)> = BTreeMap::new();
    for case in cases {
        let want = case
            .run(case.ptx.text())
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let origins: BTreeSet<&str> = (case.ptx.lines())
            .filter(|(line, _)| is_instruction(line))
            .map(|(_, origin)| origin)
            .filter(|origin| files.contains(&file(origin).as_str()))
            .collect();
        for origin in origins {
            let entry = seen.entry(origin.to_owned()).or_default();
            if entry.1 {
                continue;
            }
            let kept = (case.ptx.lines()).map(|(line, at)| {
                if at == origin && is_instruction(line) {
                    ""
                } else {
                    line
                }
            });
            let text = kept.collect::<Vec<_>>().join("\n");
            let dropped = case.ptx.lines().find(|(_, at)| *at == origin);
            entry.0 = dropped.map_or(String::new(), |(line, _)| line.trim().to_owned());
            entry.1 = case.run(&text).as_ref() != Ok(&want);
        }
    }
    let missed = seen.into_iter().filter(|(at, (line, caught))| {
        let line = format!("{}: {line}", file(at));
        !caught && spare.iter().all(|(spare, _)| *spare != line)
    });
    missed
        .map(|(at, (line, _))| format!("{at}: {line}"))
        .collect()
}

/// Fails with the instructions that none of the cases misses, but for `spare` ones, which come with a reason.
pub fn all_are_needed(files: &[&str], cases: &[Case], spare: &[(&str, &str)]) {
    let survivors = survivors(files, cases, spare);
    assert!(survivors.is_empty(), "{survivors:#?}");
}
