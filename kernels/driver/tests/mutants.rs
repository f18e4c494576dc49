//! Faults planted mechanically into what compilers made of clean kernels: every line of a kind is changed in turn. A
//! change is either found, with the kind of fault and the line that it must have, or it was harmless: then the result
//! has the same bits. Nothing wrong passes unseen.

mod common;
mod subjects;

use deltaw_driver::exec::{Fault, FaultKind};
use subjects::{Inputs, MATMUL, PIPELINE, SOFTMAX, SUM, Subject, TILES, TRANSPOSE, records};

impl Subject {
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
            ("matmul", 7, 8),
            ("softmax", 3, 3),
            ("transpose", 1, 1),
            ("matmul_tiled", 2, 2),
            ("reduce_sum", 2, 2),
            ("pipelined_scale", 8, 10)
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

/// Lane 5 passes a barrier by; and a barrier waits for more threads than there are.
#[test]
fn incomplete_barriers() {
    let one_less = "{ .reg .pred %some; .reg .b32 %lane; mov.u32 %lane, %laneid; setp.ne.u32 %some, %lane, 5; \
        @%some bar.sync 0; }";
    for changed in [one_less, "bar.sync 0, 1024;"] {
        let found = counts(
            [MATMUL, SOFTMAX, TRANSPOSE, TILES, SUM, PIPELINE],
            |subject| {
                let change = |text: &str| text.contains("bar.sync").then(|| changed.to_string());
                subject.plant(change, |fault, line| {
                    fault.kind == FaultKind::BarrierDivergence && fault.line == line as u32
                })
            },
        );
        assert_eq!(
            found,
            [
                ("matmul", 8, 8),
                ("softmax", 3, 3),
                ("transpose", 1, 1),
                ("matmul_tiled", 2, 2),
                ("reduce_sum", 2, 2),
                ("pipelined_scale", 10, 10)
            ],
            "{changed}"
        );
    }
}

/// Inputs that nobody wrote are found where they reach global memory, freed ones where they are read.
#[test]
fn unwritten_and_freed_inputs() {
    for subject in [MATMUL, SOFTMAX, TRANSPOSE, TILES, SUM, PIPELINE, records()] {
        let fault = subject.run_on(Inputs::Unwritten, &[]).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Uninitialised, "{fault}");
        let writes = ["st.global", "atom.global"];
        assert!(
            writes
                .iter()
                .any(|word| subject.text(fault.line).contains(word)),
            "{fault}"
        );
        let fault = subject.run_on(Inputs::Freed, &[]).unwrap_err();
        assert_eq!(fault.kind, FaultKind::UseAfterFree, "{fault}");
        let reads = ["ld.global", "cp.async"];
        assert!(
            reads
                .iter()
                .any(|word| subject.text(fault.line).contains(word)),
            "{fault}"
        );
    }
}
