//! No text, however broken, makes the parser or the decoder panic or take memory without bound.

mod common;

use deltaw_driver::exec::Loaded;
use deltaw_driver::memory::{LOWEST_BASE, Memory, MemoryConfig};
use deltaw_driver::ptx::Module;
use proptest::prelude::*;

const TEXT: &str = include_str!("cuda/kernels_sm80.ptx");

/// Parses and, if that succeeds, decodes.
fn load(text: &str) -> Result<(), String> {
    let memory = Memory::new(MemoryConfig {
        base: LOWEST_BASE,
        capacity: 1 << 20,
        shadow: false,
    })
    .unwrap();
    let module = Module::parse(text).map_err(|e| e.to_string())?;
    Loaded::new(&module, &memory)
        .map(|_| ())
        .map_err(|e| e.to_string())
}

/// A stretch of the module that begins with its header, so that most mutations reach deep code.
fn stretch(start: usize) -> String {
    let header = TEXT.find(".visible").unwrap();
    let entries: Vec<usize> = TEXT.match_indices(".entry").map(|(i, _)| i).collect();
    let start = entries[start % entries.len()];
    let end = TEXT[start..]
        .find("\n}")
        .map_or(TEXT.len(), |i| start + i + 2);
    format!("{}{}", &TEXT[..header], &TEXT[start..end])
}

proptest! {
    #![proptest_config(common::same_cases(300))]

    #[test]
    fn mutated_text_is_an_error_or_a_module(
        start: usize, edits in prop::collection::vec((any::<prop::sample::Index>(), "[ -~\n]{0,3}", 0..4usize), 1..6),
    ) {
        let mut text = stretch(start);
        for (at, insert, delete) in edits {
            let at = at.index(text.len());
            if text.is_ascii() {
                text.replace_range(at..(at + delete).min(text.len()), &insert);
            }
        }
        let _ = load(&text);
    }

    #[test]
    fn lines_in_any_order_are_an_error_or_a_module(start: usize, swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..8)) {
        let text = stretch(start);
        let mut lines: Vec<&str> = text.lines().collect();
        for (a, b) in swaps {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
        }
        let _ = load(&lines.join("\n"));
    }
}

#[test]
fn errors_name_line_column_and_text() {
    let body = ".reg .b32 %r<4>; .reg .f32 %f1; .reg .b64 %rd1;\n";
    for (instruction, what) in [
        ("add.s32 %r1, %r2;", "2 operands, 3 wanted"),
        (
            "add.s32 %r1, %r2, %rd1;",
            "a register of 8 bytes where 4 are wanted",
        ),
        (
            "add.wrong.s32 %r1, %r2, %r3;",
            "modifier .wrong is not supported here",
        ),
        (
            "frobnicate.b32 %r1, %r2;",
            "this instruction is not supported",
        ),
        ("mov.u32 %r1, %r9;", "%r9 is not known here"),
        ("bra NOWHERE;", "a label is wanted"),
        (
            "wgmma.fence.sync.aligned;",
            "this instruction is not supported",
        ),
    ] {
        let error = load(&common::module("", &format!("{body}  {instruction}\nret;"))).unwrap_err();
        assert!(
            error.starts_with("line 7, column 3") && error.contains(what),
            "{error}"
        );
    }
    let error =
        load(".version 8.0\n.target sm_80\n.address_size 64\n.entry k() { add.s32 %r1, ; }")
            .unwrap_err();
    assert!(
        error.contains("line 4") && error.contains("expected an operand"),
        "{error}"
    );
}

#[test]
fn huge_declarations_stay_small() {
    for declaration in [
        ".reg .b32 %r<4000000000>;",
        ".local .align 4 .b8 x[4000000000];",
        ".shared .align 4 .b8 x[4000000000];",
    ] {
        let _ = load(&common::module("", &format!("{declaration}\nret;")));
    }
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.global .b8 x[200000000000];\n";
    assert!(load(text).unwrap_err().contains("bytes requested"));
    assert!(
        load(&format!(
            ".version 8.0\n.target sm_80\n.entry k() {}",
            "{".repeat(100_000)
        ))
        .is_err()
    );
}
