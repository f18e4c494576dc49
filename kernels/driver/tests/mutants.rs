//! Faults planted mechanically into what compilers made of clean kernels: every line of a kind is changed in turn. A
//! change is either found, with the kind of fault and the line that it must have, or it was harmless: then the result
//! has the same bits. Nothing wrong passes unseen.

mod common;

use common::{Arg, Device, LIMIT};
use deltaw_driver::exec::{Checks, Fault, FaultKind};

/// A kernel of a compiler, and a launch that is clean.
struct Subject {
    ptx: &'static str,
    kernel: &'static str,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    /// Bytes of the input buffers; the output comes after them.
    inputs: &'static [usize],
    output: usize,
    values: &'static [u32],
    /// Pointers after the values, which are not used.
    scratch: usize,
}

macro_rules! triton {
    ($file:literal) => {
        include_str!(concat!("triton/", $file, ".ptx"))
    };
}

/// A launch of one block, by NVRTC, of a kernel that takes nothing else.
const BLANK: Subject = Subject {
    ptx: NVRTC,
    kernel: "",
    grid: [1, 1, 1],
    block: [1, 1, 1],
    shared: 0,
    inputs: &[],
    output: 0,
    values: &[],
    scratch: 0,
};

const NVRTC: &str = include_str!("cuda/kernels_sm80.ptx");
const CLANG: &str = include_str!("clang/written_O2.ptx");

/// Barriers and pipelines of asynchronous copies, by Triton: 40 x 64 x 112, rows of 128, 64 and 64 elements.
const MATMUL: Subject = Subject {
    ptx: triton!("matmul_bf16_3"),
    kernel: "matmul",
    block: [128, 1, 1],
    shared: 16384,
    inputs: &[40 * 128 * 2, 112 * 64 * 2],
    output: 40 * 64 * 4,
    values: &[40, 64, 112, 128, 64, 64],
    scratch: 2,
    ..BLANK
};

/// Shuffles, and shared memory between warps, by Triton: a row of 1000.
const SOFTMAX: Subject = Subject {
    ptx: triton!("softmax"),
    kernel: "softmax",
    block: [128, 1, 1],
    shared: 16,
    inputs: &[1000 * 4],
    output: 1000 * 4,
    values: &[1000],
    scratch: 2,
    ..BLANK
};

/// A tile through shared memory, by NVRTC: 45 x 70.
const TRANSPOSE: Subject = Subject {
    kernel: "transpose",
    grid: [3, 2, 1],
    block: [32, 8, 1],
    inputs: &[45 * 70 * 4],
    output: 70 * 45 * 4,
    values: &[45, 70],
    ..BLANK
};

/// Two tiles through shared memory in a loop, by NVRTC: 20 x 18 x 37.
const TILES: Subject = Subject {
    kernel: "matmul_tiled",
    grid: [2, 2, 1],
    block: [16, 16, 1],
    inputs: &[20 * 37 * 4, 37 * 18 * 4],
    output: 20 * 18 * 4,
    values: &[20, 18, 37],
    ..BLANK
};

/// A tree in shared memory and shuffles, by NVRTC.
const SUM: Subject = Subject {
    kernel: "reduce_sum",
    block: [256, 1, 1],
    inputs: &[5000 * 4],
    output: 4,
    values: &[5000],
    ..BLANK
};

/// Two stages of asynchronous copies, by NVRTC.
const PIPELINE: Subject = Subject {
    kernel: "pipelined_scale",
    block: [64, 1, 1],
    inputs: &[5 * 64 * 16],
    output: 5 * 64 * 16,
    values: &[5],
    ..BLANK
};

/// A guard, loads and a store, by clang: 100 records of 72 bytes, of 128 threads.
const RECORDS: Subject = Subject {
    ptx: CLANG,
    block: [128, 1, 1],
    inputs: &[100 * 72],
    output: 100 * 8,
    values: &[100],
    ..BLANK
};

/// clang's kernel of the first function.
fn records() -> Subject {
    let kernel = CLANG
        .split(".entry ")
        .nth(1)
        .and_then(|rest| rest.split('(').next());
    Subject {
        kernel: kernel.expect("a kernel"),
        ..RECORDS
    }
}

impl Subject {
    /// The lines of the kernel's body, counted from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &'static str)> {
        let head = format!(".entry {}(", self.kernel);
        let lines = self.ptx.lines().enumerate().map(|(i, line)| (i + 1, line));
        lines
            .skip_while(move |(_, line)| !line.contains(&head))
            .take_while(|(_, line)| *line != "}")
    }

    /// The bytes of the output of a text in which some lines are replaced.
    fn run(&self, changes: &[(usize, String)]) -> Result<Vec<u8>, Fault> {
        let mut lines: Vec<&str> = self.ptx.lines().collect();
        for (line, text) in changes {
            lines[line - 1] = text;
        }
        let device = Device::new(&lines.join("\n"));
        // 0.5 to 1 as floats, and about as large as bf16: no NaN hides a difference.
        let words = |bytes: usize| -> Vec<u16> {
            (0..bytes / 2)
                .map(|i| 0x3f00 + (i * i % 127) as u16)
                .collect()
        };
        let mut args: Vec<Arg> = self
            .inputs
            .iter()
            .map(|&bytes| Arg::U64(device.upload(&words(bytes))))
            .collect();
        let output = device.upload(&vec![0u8; self.output]);
        args.push(Arg::U64(output));
        args.extend(self.values.iter().map(|&v| Arg::U32(v)));
        args.extend(vec![Arg::U64(0); self.scratch]);
        let checks = Checks::ALL;
        device.launch_with(
            self.kernel,
            self.grid,
            self.block,
            self.shared,
            &args,
            &checks,
            LIMIT,
        )?;
        Ok(device.download(output, self.output))
    }

    /// Changes every line for which `change` has another text, one at a time; `accept` says whether a fault is the
    /// right one for the line. Returns how many were found, of how many.
    fn plant(
        &self,
        change: impl Fn(&str) -> Option<String>,
        accept: impl Fn(&Fault, usize) -> bool,
    ) -> (usize, usize) {
        let clean = self.run(&[]).unwrap_or_else(|fault| panic!("{fault}"));
        let (mut found, mut planted) = (0, 0);
        for (line, text) in self.lines() {
            let Some(changed) = change(text) else {
                continue;
            };
            planted += 1;
            match self.run(&[(line, changed)]) {
                Ok(output) => assert!(
                    output == clean,
                    "{}: line {line} changed unseen: {text}",
                    self.kernel
                ),
                Err(fault) => {
                    assert!(
                        accept(&fault, line),
                        "line {line} ({text}) changed: {:?} {fault}",
                        fault.kind
                    );
                    found += 1;
                }
            }
        }
        (found, planted)
    }

    /// The text of a fault's line.
    fn text(&self, line: u32) -> &str {
        self.ptx.lines().nth(line as usize - 1).unwrap_or_default()
    }

    /// Whether a line is an access of shared memory.
    fn is_shared(&self, line: u32) -> bool {
        ["shared", "ldmatrix"]
            .iter()
            .any(|word| self.text(line).contains(word))
    }

    /// A race of two accesses of shared memory.
    fn is_race(&self, fault: &Fault) -> bool {
        let other = fault
            .text
            .rsplit_once("line ")
            .and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
        fault.kind == FaultKind::Race
            && self.is_shared(fault.line)
            && other.is_some_and(|line| self.is_shared(line))
    }
}

fn dropped(what: &str) -> impl Fn(&str) -> Option<String> {
    move |text| text.contains(what).then(String::new)
}

/// Kernel, faults found, faults planted; the rest was harmless.
type Counts = (&'static str, usize, usize);

fn counts<const N: usize>(
    subjects: [Subject; N],
    plant: impl Fn(&Subject) -> (usize, usize),
) -> [Counts; N] {
    subjects.map(|subject| {
        let (found, planted) = plant(&subject);
        (subject.kernel, found, planted)
    })
}

/// Triton sets barriers that another one makes superfluous.
#[test]
fn dropped_barriers() {
    let found = counts(
        [MATMUL, SOFTMAX, TRANSPOSE, TILES, SUM, PIPELINE],
        |subject| {
            subject.plant(dropped("bar.sync"), |fault, _| {
                subject.is_race(fault)
                    || fault.kind == FaultKind::AsyncRead && subject.is_shared(fault.line)
            })
        },
    );
    assert_eq!(
        found,
        [
            ("matmul", 6, 8),
            ("softmax", 3, 3),
            ("transpose", 1, 1),
            ("matmul_tiled", 2, 2),
            ("reduce_sum", 2, 2),
            ("pipelined_scale", 5, 10)
        ]
    );
}

/// A wait for one group less, and none.
#[test]
fn waits_for_too_little() {
    let early = |subject: &Subject, fault: &Fault| {
        fault.kind == FaultKind::AsyncRead && subject.is_shared(fault.line)
    };
    let less = |text: &str| {
        let groups = text
            .trim()
            .strip_prefix("cp.async.wait_group")?
            .trim()
            .trim_end_matches(';');
        let groups: u32 = groups.parse().ok()?;
        Some(format!("cp.async.wait_group {};", groups + 1))
    };
    let found = counts([MATMUL, PIPELINE], |subject| {
        subject.plant(less, |fault, _| early(subject, fault))
    });
    assert_eq!(found, [("matmul", 1, 5), ("pipelined_scale", 5, 5)]);
    // Of several waits in a row one is enough.
    for subject in [MATMUL, PIPELINE] {
        let waits = subject
            .lines()
            .filter(|(_, text)| text.contains("cp.async.wait_group"));
        let fault = subject
            .run(
                &waits
                    .map(|(line, _)| (line, String::new()))
                    .collect::<Vec<_>>(),
            )
            .unwrap_err();
        assert!(early(&subject, &fault), "{fault}");
    }
}

/// `@%p1 ld.global…` without its guard, and the branch around accesses.
#[test]
fn dropped_guards() {
    let guard = |text: &str| {
        let (guard, rest) = text.trim().split_once(' ')?;
        (guard.starts_with('@') && rest.contains(".global")).then(|| rest.to_string())
    };
    let found = counts([MATMUL, SOFTMAX], |subject| {
        subject.plant(guard, |fault, line| {
            fault.kind == FaultKind::OutOfBounds && fault.line == line as u32
        })
    });
    assert_eq!(found, [("matmul", 3, 8), ("softmax", 2, 16)]);
    let branch = |text: &str| {
        let guarded = text.trim().starts_with("@%p") && text.contains("bra");
        guarded.then(String::new)
    };
    let subject = records();
    let found = subject.plant(branch, |fault, _| {
        fault.kind == FaultKind::OutOfBounds && subject.text(fault.line).contains(".global")
    });
    assert_eq!(found, (1, 1));
}

/// Every address one byte further, where no access of several bytes is aligned any more, and far away.
#[test]
fn shifted_addresses() {
    let shifted = |by: u32| {
        move |text: &str| {
            let accesses = [
                "ld.global",
                "st.global",
                "ld.shared",
                "st.shared",
                "ldmatrix",
                "cp.async.c",
            ];
            if !accesses.iter().any(|access| text.contains(access)) || text.contains("commit") {
                return None;
            }
            let (head, rest) = text.split_once('[')?;
            let (address, rest) = rest.split_once(']')?;
            let (base, offset) = address.split_once('+').unwrap_or((address, "0"));
            let offset: i64 = offset.trim().parse().ok()?;
            Some(format!(
                "{head}[{}+{}]{rest}",
                base.trim(),
                offset + i64::from(by)
            ))
        }
    };
    let subjects = || [MATMUL, SOFTMAX, TRANSPOSE, TILES, SUM, PIPELINE, records()];
    // Three accesses of the matmul and one of the pipeline never execute.
    let want = [
        ("matmul", 45, 48),
        ("softmax", 20, 20),
        ("transpose", 4, 4),
        ("matmul_tiled", 37, 37),
        ("reduce_sum", 6, 6),
        ("pipelined_scale", 15, 16),
        ("arithmetic_32", 3, 3),
    ];
    for (by, kind) in [
        (1, FaultKind::Misaligned),
        (1 << 28, FaultKind::OutOfBounds),
    ] {
        let found = counts(subjects(), |subject| {
            subject.plant(shifted(by), |fault, line| {
                fault.kind == kind && fault.line == line as u32
            })
        });
        assert_eq!(found, want, "{kind:?}");
    }
}

/// Lane 31 takes part, but the mask does not name it.
#[test]
fn lanes_left_out_of_masks() {
    let mask = |text: &str| {
        let (head, _) = text
            .contains("shfl.sync")
            .then(|| text.rsplit_once(','))??;
        Some(format!("{head}, 0x7fffffff;"))
    };
    let found = counts([SOFTMAX, SUM], |subject| {
        subject.plant(mask, |fault, line| {
            fault.kind == FaultKind::LaneMask && fault.line == line as u32
        })
    });
    assert_eq!(found, [("softmax", 14, 14), ("reduce_sum", 5, 5)]);
}

/// A store to shared memory or an asynchronous copy that is missing leaves its place uninitialised, unless it held
/// older data.
#[test]
fn dropped_stores() {
    let store = |text: &str| {
        let stores =
            text.contains("st.shared") || text.contains("cp.async.c") && !text.contains("commit");
        stores.then(String::new)
    };
    let found = counts([TRANSPOSE, TILES], |subject| {
        subject.plant(store, |fault, _| fault.kind == FaultKind::Uninitialised)
    });
    assert_eq!(found, [("transpose", 1, 1), ("matmul_tiled", 2, 2)]);
}

/// Lane 1 stores where lane 0 does, one word lower.
#[test]
fn lanes_that_collide() {
    let collided = |text: &str| {
        let (head, rest) = text.contains("st.shared").then(|| text.split_once('['))??;
        let (address, rest) = rest.split_once(']')?;
        let (base, offset) = address.split_once('+').unwrap_or((address, "0"));
        Some(format!(
            "{{ .reg .pred %one; .reg .b32 %lane, %to; mov.u32 %lane, %laneid; setp.eq.u32 %one, %lane, 1; \
            mov.u32 %to, {base}; @%one sub.u32 %to, %to, 4; {head}[%to+{offset}]{rest} }}"
        ))
    };
    let found = counts([TRANSPOSE, TILES, SUM], |subject| {
        subject.plant(collided, |fault, line| {
            subject.is_race(fault) && fault.line == line as u32
        })
    });
    assert_eq!(
        found,
        [
            ("transpose", 1, 1),
            ("matmul_tiled", 2, 2),
            ("reduce_sum", 2, 2)
        ]
    );
}
