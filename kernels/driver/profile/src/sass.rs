//! What ptxas makes of a text, by NVIDIA's disassembler (PyPI: `nvidia-cuda-nvdisasm`): a kernel's loops and the instructions in
//! them.
//!
//! A scheduler issues one instruction a clock, so the share of a loop's instructions that compute bounds how near to the peak it
//! comes. Static counts: both sides of a branch within a loop are counted once.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::Command;

use serde::Serialize;

use crate::ptxas::{Ptxas, Resources, installed, said};
use crate::{GPUS, Gpu, Occupancy, ProfileError};

/// What an instruction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// A product on the tensor cores.
    Tensor,
    /// A fused multiply-add of floats.
    Fma,
    /// Other arithmetic of floats.
    Float,
    /// Exponentials, logarithms, reciprocals.
    Special,
    /// Fragments between shared memory and registers.
    Matrix,
    /// Shared memory.
    Shared,
    /// Copies from global to shared memory, and waits for them.
    Async,
    /// Global memory.
    Global,
    /// A thread's own memory: spills.
    Local,
    /// Constants and parameters.
    Constant,
    /// Integers, addresses and predicates.
    Integer,
    /// Moves.
    Move,
    /// Exchange within a warp.
    Shuffle,
    /// A barrier of the block.
    Barrier,
    /// Jumps and the joining of lanes after them.
    Branch,
    /// The rest.
    Other,
}

/// Names of instructions without their modifiers, a leading `U` (a warp's common registers) taken off.
const GROUPS: [(Group, &[&str]); 15] = [
    (
        Group::Tensor,
        &[
            "HMMA", "IMMA", "DMMA", "BMMA", "QMMA", "HGMMA", "IGMMA", "QGMMA", "OMMA",
        ],
    ),
    (Group::Fma, &["FFMA", "FFMA2", "HFMA2", "DFMA"]),
    (
        Group::Float,
        &[
            "FADD", "FADD2", "FMUL", "FMUL2", "FMNMX", "FMNMX3", "FSEL", "FSETP", "FSET", "FCHK",
            "FSWZADD", "F2F", "F2FP", "F2I", "I2F", "I2FP", "FRND", "HADD2", "HMUL2", "HMNMX2",
            "HSETP2", "HSET2", "DADD", "DMUL", "DSETP",
        ],
    ),
    (Group::Special, &["MUFU"]),
    (Group::Matrix, &["LDSM", "STSM", "MOVM"]),
    (Group::Shared, &["LDS", "STS", "ATOMS"]),
    (Group::Async, &["LDGSTS", "LDGDEPBAR", "DEPBAR", "BLKCP"]),
    (
        Group::Global,
        &["LDG", "STG", "LD", "ST", "RED", "REDG", "ATOM", "ATOMG"],
    ),
    (Group::Local, &["LDL", "STL"]),
    (Group::Constant, &["LDC", "LDCU"]),
    (
        Group::Integer,
        &[
            "IADD",
            "IADD3",
            "IMAD",
            "LOP",
            "LOP3",
            "SHF",
            "SHL",
            "SHR",
            "LEA",
            "ISETP",
            "SEL",
            "PRMT",
            "IABS",
            "VIADD",
            "IMNMX",
            "VIMNMX",
            "VIADDMNMX",
            "IMUL",
            "POPC",
            "FLO",
            "BREV",
            "BMSK",
            "SGXT",
            "PLOP3",
            "I2I",
            "I2IP",
            "IADD2",
            "IDP",
            "ISCADD",
            "LEPC",
        ],
    ),
    (
        Group::Move,
        &["MOV", "CS2R", "S2R", "S2UR", "R2UR", "R2P", "P2R", "P2UR"],
    ),
    (Group::Shuffle, &["SHFL", "VOTE", "MATCH", "REDUX"]),
    (Group::Barrier, &["BAR"]),
    (
        Group::Branch,
        &[
            "BRA", "EXIT", "RET", "CALL", "BRX", "JMP", "BREAK", "BREAKFLO", "WARPSYNC", "BSSY",
            "BSYNC", "BMOV", "KILL", "ACQBULK",
        ],
    ),
];

impl Group {
    /// Of an instruction, by its name with or without modifiers.
    pub fn of(name: &str) -> Group {
        let name = name.split('.').next().unwrap_or(name);
        let find = |name: &str| {
            let mut groups = GROUPS.iter();
            groups.find(|(_, names)| names.contains(&name)).map(|g| g.0)
        };
        let common = || find(name.strip_prefix('U')?);
        find(name).or_else(common).unwrap_or(Group::Other)
    }

    /// Whether it computes what a product or a sum of products is made of.
    pub fn is_useful(self) -> bool {
        matches!(self, Group::Tensor | Group::Fma)
    }
}

/// How many instructions of each group.
pub type Mix = BTreeMap<Group, usize>;

/// Instructions that end in a jump back to their first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loop {
    /// Instructions of the kernel before its first.
    pub start: usize,
    /// Instructions of a turn, those of loops within it once.
    pub instructions: usize,
    /// What they are for.
    pub mix: Mix,
    /// Whether there is no loop within it.
    pub innermost: bool,
}

impl Loop {
    /// Of one group.
    pub fn count(&self, group: Group) -> usize {
        self.mix.get(&group).copied().unwrap_or(0)
    }

    /// Products on the tensor cores and fused multiply-adds.
    pub fn useful(&self) -> usize {
        let useful = self.mix.iter().filter(|(group, _)| group.is_useful());
        useful.map(|(_, count)| count).sum()
    }

    /// useful / instructions.
    pub fn share(&self) -> f64 {
        self.useful() as f64 / self.instructions as f64
    }

    /// Whether the other lies within it.
    pub fn holds(&self, other: &Loop) -> bool {
        let ends = [self, other].map(|l| l.start + l.instructions);
        self != other && self.start <= other.start && ends[1] <= ends[0]
    }
}

/// A kernel as an architecture runs it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Code {
    /// The kernel.
    pub kernel: String,
    /// 80 for sm_80.
    pub capability: u32,
    /// What ptxas assigned.
    pub resources: Resources,
    /// How full a multiprocessor gets, where the threads of a block are known.
    pub occupancy: Option<Occupancy>,
    /// Instructions in all, without the padding after the last jump.
    pub instructions: usize,
    /// Its loops in the order of their first instructions.
    pub loops: Vec<Loop>,
}

impl Code {
    /// The innermost loop with most useful instructions, the shorter of two.
    pub fn main_loop(&self) -> Option<&Loop> {
        let inner = self.loops.iter().filter(|l| l.innermost);
        inner.max_by_key(|l| (l.useful(), std::cmp::Reverse(l.instructions)))
    }
}

/// The threads and the dynamic shared memory of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Threads; 0 asks for the text's `.reqntid` or `.maxntid`.
    pub threads: u32,
    /// Bytes beside what the text declares.
    pub shared: u32,
}

/// ptxas and nvdisasm.
#[derive(Clone, Debug)]
pub struct Disassembler {
    ptxas: Ptxas,
    nvdisasm: PathBuf,
}

impl Disassembler {
    /// Those that `PTXAS` and `NVDISASM` name, or else the first in `PATH`.
    ///
    /// # Errors
    /// [`ProfileError::Missing`]: which, and how it is had.
    pub fn find() -> Result<Disassembler, ProfileError> {
        let missing = |tool, package| ProfileError::Missing { tool, package };
        Ok(Disassembler {
            ptxas: Ptxas::find().ok_or_else(|| missing("ptxas", "nvidia-cuda-nvcc"))?,
            nvdisasm: installed("nvdisasm")
                .ok_or_else(|| missing("nvdisasm", "nvidia-cuda-nvdisasm"))?,
        })
    }

    /// The assembler.
    pub fn ptxas(&self) -> &Ptxas {
        &self.ptxas
    }

    /// The kernels of a text, assembled for an architecture and taken apart again.
    ///
    /// # Errors
    /// The text does not assemble, or a tool cannot be run.
    pub fn code(
        &self,
        ptx: &str,
        capability: u32,
        block: Block,
    ) -> Result<Vec<Code>, ProfileError> {
        let io = |error| ProfileError::Io {
            what: "a directory for the assembled text".into(),
            error,
        };
        let directory = tempfile::tempdir().map_err(io)?;
        let cubin = directory.path().join("kernel.cubin");
        let resources = self.ptxas.assemble(ptx, capability, &cubin)?;
        let listing = said(Command::new(&self.nvdisasm).arg("-c").arg(&cubin))?;
        let listing = listing.map_err(|words| ProfileError::Disassembler { words })?;
        let mut bodies = bodies(&listing);
        let gpu = GPUS.iter().find(|gpu| gpu.capability == capability);
        let code = resources.into_iter().map(|(kernel, resources)| {
            let body = bodies.remove(kernel.as_str()).unwrap_or_default();
            let threads = match block.threads {
                0 => threads(ptx, &kernel),
                threads => Some(threads),
            };
            let occupancy = |(gpu, threads): (&Gpu, u32)| {
                let shared = resources.static_shared + block.shared;
                gpu.occupancy(threads, resources.registers, shared)
            };
            Code {
                occupancy: gpu.zip(threads).map(occupancy),
                instructions: body.instructions(),
                loops: body.loops(),
                kernel,
                capability,
                resources,
            }
        });
        Ok(code.collect())
    }
}

/// The threads that a kernel's text asks for.
fn threads(ptx: &str, kernel: &str) -> Option<u32> {
    let entry = ptx.split(".entry").skip(1).find(|entry| {
        let name = entry.split(['(', '{']).next().unwrap_or_default();
        name.trim() == kernel
    })?;
    let head = entry.split('{').next()?;
    let (_, sizes) = (head.split_once(".reqntid")).or_else(|| head.split_once(".maxntid"))?;
    let sizes = sizes.split('.').next()?.split(',');
    sizes
        .map(|size| size.trim().parse::<u32>().ok())
        .try_fold(1, |product, size| Some(product * size?))
}

/// A kernel's instructions: their names, and where those that jump go.
#[derive(Default)]
struct Body<'a> {
    names: Vec<&'a str>,
    labels: HashMap<&'a str, usize>,
    jumps: Vec<(usize, &'a str)>,
}

/// The kernels of what `nvdisasm -c` prints: `.text.NAME:`, labels `.L_x_1:`, and lines `/*0010*/  @P0 BRA.U (.L_x_1) ;`.
fn bodies(listing: &str) -> HashMap<&str, Body<'_>> {
    let mut bodies: HashMap<&str, Body> = HashMap::new();
    let mut current = "";
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix(".text.") {
            current = name.trim_end_matches(':');
            continue;
        }
        let body = bodies.entry(current).or_default();
        if let Some(label) = line
            .strip_suffix(':')
            .filter(|label| label.starts_with(".L_"))
        {
            body.labels.insert(label, body.names.len());
        } else if let Some((_, instruction)) =
            line.strip_prefix("/*").and_then(|l| l.split_once("*/"))
        {
            let mut words = instruction.split_whitespace();
            let Some(name) = words.find(|word| !word.starts_with(['@', '{'])) else {
                continue;
            };
            let name = name.trim_end_matches(';');
            if name.starts_with("BRA") {
                let target = instruction.find(".L_").map(|at| &instruction[at..]);
                let target = target.and_then(|t| t.split([')', ' ', ';', ',']).next());
                body.jumps
                    .extend(target.map(|target| (body.names.len(), target)));
            }
            body.names.push(name);
        }
    }
    bodies
}

impl Body<'_> {
    fn instructions(&self) -> usize {
        let padding = self.names.iter().rev().take_while(|name| **name == "NOP");
        // A jump to itself stands before the padding.
        self.names.len() - padding.count()
    }

    fn loops(&self) -> Vec<Loop> {
        let back = self.jumps.iter().filter_map(|(from, target)| {
            let to = *self.labels.get(target)?;
            // A jump to itself only keeps the fetching of instructions from running on.
            (to < *from).then_some((to, *from))
        });
        let mut ranges: Vec<(usize, usize)> = back.collect();
        ranges.sort_unstable();
        ranges.dedup();
        let within = |a: &(usize, usize), b: &(usize, usize)| a != b && b.0 <= a.0 && a.1 <= b.1;
        let make = |range: &(usize, usize)| {
            let body = &self.names[range.0..=range.1];
            let mut mix = Mix::new();
            body.iter()
                .for_each(|name| *mix.entry(Group::of(name)).or_default() += 1);
            Loop {
                start: range.0,
                instructions: body.len(),
                mix,
                innermost: !ranges.iter().any(|other| within(other, range)),
            }
        };
        ranges.iter().map(make).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
	.section	.text.k,\"ax\",@progbits
.text.k:
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_1:
        /*0010*/                   LDS.128 R4, [R0] ;
.L_x_0:
        /*0020*/                   FFMA R1, R4, R5, R1 ;
        /*0030*/              @!PT UIADD3 UR4, UR4, 0x1, URZ ;
        /*0040*/               @P0 BRA `(.L_x_0) ;
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0060*/               @P1 BRA.U.ANY `(.L_x_1) ;
        /*0070*/                   EXIT ;
.L_x_2:
        /*0080*/                   BRA `(.L_x_2);
        /*0090*/                   NOP;
.L_x_3:";

    #[test]
    fn loops_are_found_in_a_listing() {
        let bodies = bodies(LISTING);
        let body = &bodies["k"];
        assert_eq!(body.instructions(), 9);
        let loops = body.loops();
        let of = |l: &Loop| (l.start, l.instructions, l.useful(), l.innermost);
        assert_eq!(
            loops.iter().map(of).collect::<Vec<_>>(),
            [(1, 6, 1, false), (2, 3, 1, true)]
        );
        assert_eq!(loops[0].count(Group::Barrier), 1);
        assert_eq!(
            loops[1].mix,
            Mix::from([(Group::Fma, 1), (Group::Integer, 1), (Group::Branch, 1)])
        );
        assert!(loops[0].holds(&loops[1]) && !loops[1].holds(&loops[0]));
    }

    #[test]
    fn threads_are_those_of_the_kernel() {
        let ptx = ".visible .entry a(.param .u32 n)\n.maxntid 64, 2, 1\n{\n ret;\n}\n.visible .entry b()\n.reqntid 128\n.maxnreg 80\n{ ret; }\n.entry c() { ret; }";
        assert_eq!(
            ["a", "b", "c"].map(|name| threads(ptx, name)),
            [Some(128), Some(128), None]
        );
    }
}
