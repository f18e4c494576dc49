//! Kernels without one of their instructions, or with one of them changed, on the software driver with its strictest checks.

use std::collections::{BTreeMap, BTreeSet};

use cudarc::driver::CudaSlice;
use deltaw_emulator::Checks;
use deltaw_kernels::KernelError;
use deltaw_kernels::map::Element;
use deltaw_kernels::template::Ptx;

use super::{Format, Gpu, numbers};

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

    /// Numbers of a floating-point type.
    pub fn weight(&mut self, count: usize, element: Element) -> u64 {
        let format = match element {
            Element::Bf16 => Format::Bf16,
            Element::F16 => Format::F16,
            _ => Format::F32,
        };
        self.bytes(&format.encode(&numbers(count, 1)))
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
    /// What all memory holds after it, and the bytes that went to and from memory of each kind, the kernel's text exchanged for `text`.
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
        let launches = gpu.virtual_device().launches().expect("counters");
        for deltaw_emulator::Launch { counters, .. } in launches {
            let moved = [counters.global, counters.shared, counters.atomic];
            all.extend(moved.iter().flat_map(|kind| kind.bytes.to_le_bytes()));
        }
        Ok(all)
    }
}

/// An instruction, not a directive or a label, and none that only ends the text.
fn is_instruction(line: &str) -> bool {
    let line = line.trim();
    line.ends_with(';') && !line.starts_with('.') && line != "ret;"
}

/// Comparisons of integers, each beside the one with its edge on the other side.
const EDGES: [[&str; 2]; 4] = [
    ["setp.lt.", "setp.le."],
    ["setp.le.", "setp.lt."],
    ["setp.gt.", "setp.ge."],
    ["setp.ge.", "setp.gt."],
];

/// What becomes of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// Nothing.
    Dropped,
    /// The same for all lanes, not only those with a predicate.
    Unguarded,
    /// A comparison that decides otherwise at its edge.
    Edge,
}

impl Change {
    /// The line changed, if there is anything to change.
    fn apply(self, line: &str) -> Option<String> {
        match self {
            Change::Dropped => Some(String::new()),
            Change::Unguarded => {
                let (_, rest) = line.trim().strip_prefix('@')?.split_once(' ')?;
                Some(rest.to_owned())
            }
            Change::Edge => {
                let of_floats = line.contains(".f32 ");
                let edge = EDGES.iter().find(|[from, _]| line.contains(from));
                let [from, to] = edge.filter(|_| !of_floats)?;
                Some(line.replacen(from, to, 1))
            }
        }
    }
}

/// Which template a line, or an instruction after its template's name, comes from.
fn file(origin: &str) -> &str {
    origin.split(':').next().unwrap_or_default()
}

/// Changes each instruction of the cases' texts that comes from these files, and says which changes none of the cases notices, by what becomes
/// of the instruction and where it stands.
fn unnoticed(files: &[&str], changes: &[Change], cases: &[Case]) -> BTreeMap<String, String> {
    let mut seen: BTreeMap<(String, Change), (String, bool)> = BTreeMap::new();
    for case in cases {
        let want = case
            .run(case.ptx.text())
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let origins: BTreeSet<&str> = (case.ptx.lines())
            .filter(|(line, _)| is_instruction(line))
            .map(|(_, origin)| origin)
            .filter(|origin| files.contains(&file(origin)))
            .collect();
        for (origin, change) in
            (origins.into_iter()).flat_map(|o| changes.iter().map(move |c| (o, *c)))
        {
            let here = |line: &str, at: &str| at == origin && is_instruction(line);
            let mut whole = case.ptx.lines();
            let Some((line, changed)) = whole.find_map(|(line, at)| {
                let changed = here(line, at).then(|| change.apply(line))??;
                Some((line.trim().to_owned(), changed))
            }) else {
                continue;
            };
            let told = match change {
                Change::Dropped => line,
                _ => format!("{line} as {}", changed.trim()),
            };
            let entry = seen.entry((origin.to_owned(), change)).or_default();
            if entry.1 {
                continue;
            }
            let text: Vec<String> = (case.ptx.lines())
                .map(|(line, at)| {
                    let changed = here(line, at).then(|| change.apply(line));
                    changed.flatten().unwrap_or_else(|| line.to_owned())
                })
                .collect();
            *entry = (told, case.run(&text.join("\n")).as_ref() != Ok(&want));
        }
    }
    let missed = seen.into_iter().filter(|(_, (_, noticed))| !noticed);
    missed
        .map(|((at, _), (told, _))| (format!("{}: {told}", file(&at)), at))
        .collect()
}

/// Fails with the instructions of these files that none of the cases misses, but for `spare` ones, which come with a reason.
pub fn all_are_needed(files: &[&str], cases: &[Case], spare: &[(&str, &str)]) {
    let mut missed = unnoticed(files, &[Change::Dropped], cases);
    missed.retain(|told, _| spare.iter().all(|(spare, _)| spare != told));
    assert!(missed.is_empty(), "{missed:#?}");
}

/// The same, and each must be as it is: its guard and, where it compares integers, its edge are needed too, but for `spare` changes, all of
/// which go unnoticed.
pub fn all_are_as_needed(files: &[&str], cases: &[Case], spare: &[(&str, &str)]) {
    let changes = [Change::Dropped, Change::Unguarded, Change::Edge];
    let mut missed = unnoticed(files, &changes, cases);
    let noticed: Vec<_> = (spare.iter())
        .filter(|(told, _)| missed.remove(*told).is_none())
        .collect();
    assert!(
        missed.is_empty() && noticed.is_empty(),
        "{missed:#?}; noticed, though said to be spare: {noticed:#?}"
    );
}
