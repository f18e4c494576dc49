//! No text makes the loader panic or a kernel run forever: damaged PTX is refused with a place, or runs within limits.

mod common;

use deltaw_driver::exec::{Checks, LaunchConfig, Loaded, launch};
use deltaw_driver::memory::{LOWEST_BASE, Memory, MemoryConfig};
use deltaw_driver::ptx::{Module, PtxError};
use proptest::prelude::*;

const TEXTS: [&str; 6] = [
    include_str!("ptx/saxpy.ptx"),
    include_str!("ptx/misbehave.ptx"),
    include_str!("ptx/tour.ptx"),
    include_str!("triton/softmax.ptx"),
    include_str!("triton/histogram.ptx"),
    include_str!("triton/matmul_bf16_3.ptx"),
];
/// Of the one buffer that all pointers point to.
const BUFFER: usize = 1 << 16;

/// Loads a text and runs whatever kernels it has.
fn load_and_run(text: &str) -> Result<usize, PtxError> {
    let config = MemoryConfig {
        base: LOWEST_BASE,
        capacity: 1 << 20,
        shadow: true,
    };
    let memory = Memory::new(config).expect("a megabyte of address space");
    let module = Module::parse(text)?;
    let loaded = Loaded::new(&module, &memory)?;
    let buffer = memory.alloc(BUFFER as u64).expect("there is room");
    memory.write(buffer, &[0; BUFFER]).expect("it is allocated");
    let mut ran = 0;
    for function in module.functions.iter().filter(|f| f.is_kernel) {
        let bytes = function.param_bytes();
        let (Some(kernel), true) = (loaded.kernel(&function.name), bytes <= 4096) else {
            continue;
        };
        let mut params = vec![0; bytes as usize];
        for param in &kernel.function().params {
            let value = if param.size == 8 { buffer } else { 32 };
            let value = &value.to_le_bytes()[..(param.size as usize).min(8)];
            params[param.offset as usize..][..value.len()].copy_from_slice(value);
        }
        let block = function.required_threads.unwrap_or([33, 1, 1]);
        let shape = LaunchConfig {
            grid: [2, 1, 1],
            block,
            dynamic_shared: 16384,
            params: &params,
        };
        // Faults are fine: stray pointers, traps, the limit.
        ran += usize::from(launch(kernel, &shape, &memory, &Checks::ALL, 5_000).is_ok());
    }
    loaded.unload(&memory);
    memory.free(buffer).expect("it is allocated");
    assert_eq!(memory.live(), 0);
    Ok(ran)
}

/// One way to damage a text; places are fractions of it.
#[derive(Clone, Debug)]
enum Damage {
    Remove(f64, usize),
    Repeat(f64, usize),
    Insert(f64, String),
    Swap(f64, f64),
}

/// Words that mean something to a parser.
const WORDS: [&str; 24] = [
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ",",
    ";",
    "@",
    "!",
    ".param",
    ".reg",
    ".shared",
    "ret;",
    "0x",
    "0f7fc00000",
    "-",
    "99999999999999999999",
    "%r<1000000000>",
    ".align 3",
    ".v4",
    "bra",
    "\"",
    "/*",
];

fn damage() -> impl Strategy<Value = Damage> {
    let place = 0.0..1.0;
    prop_oneof![
        (place.clone(), 1..40usize).prop_map(|(at, n)| Damage::Remove(at, n)),
        (place.clone(), 1..200usize).prop_map(|(at, n)| Damage::Repeat(at, n)),
        (place.clone(), proptest::sample::select(&WORDS[..]))
            .prop_map(|(at, word)| Damage::Insert(at, word.into())),
        (place.clone(), "\\PC{0,8}").prop_map(|(at, text)| Damage::Insert(at, text)),
        (place.clone(), place).prop_map(|(a, b)| Damage::Swap(a, b)),
    ]
}

fn apply(text: &mut Vec<char>, damage: &Damage) {
    if text.is_empty() {
        return;
    }
    let at = |fraction: f64| ((fraction * text.len() as f64) as usize).min(text.len() - 1);
    match damage {
        Damage::Remove(place, count) => {
            let start = at(*place);
            text.drain(start..(start + count).min(text.len()));
        }
        Damage::Repeat(place, count) => {
            let start = at(*place);
            let piece = text[start..(start + count).min(text.len())].to_vec();
            text.splice(start..start, piece);
        }
        Damage::Insert(place, piece) => {
            let start = at(*place);
            text.splice(start..start, piece.chars());
        }
        Damage::Swap(a, b) => {
            let (a, b) = (at(*a), at(*b));
            text.swap(a, b);
        }
    }
}

/// A line that is gone, comes twice, moves, or ends like another one.
fn rearrange(lines: &mut Vec<String>, kind: usize, at: usize, other: usize) {
    let (at, other) = (at % lines.len(), other % lines.len());
    match kind {
        0 => {
            lines.remove(at);
        }
        1 => lines.insert(other, lines[at].clone()),
        2 => lines.swap(at, other),
        _ => {
            let word = lines[other].split_whitespace().last().map(str::to_string);
            let mut words: Vec<&str> = lines[at].split_whitespace().collect();
            if let (Some(last), Some(word)) = (words.last_mut(), &word) {
                *last = word;
                lines[at] = words.join(" ");
            }
        }
    }
}

proptest! {
    #![proptest_config(common::same_cases(256))]

    #[test]
    fn rearranged_texts_are_refused_or_run(
        which in 0..TEXTS.len(), changes in proptest::collection::vec((0..4usize, any::<u16>(), any::<u16>()), 1..4),
    ) {
        let mut lines: Vec<String> = TEXTS[which].lines().map(String::from).collect();
        for (kind, at, other) in changes {
            rearrange(&mut lines, kind, at.into(), other.into());
        }
        if let Err(error) = load_and_run(&lines.join("\n")) {
            prop_assert!(error.line as usize <= lines.len() + 1, "{error}");
        }
    }

    #[test]
    fn damaged_texts_are_refused_or_run(which in 0..TEXTS.len(), damages in proptest::collection::vec(damage(), 1..6)) {
        let mut text: Vec<char> = TEXTS[which].chars().collect();
        damages.iter().for_each(|damage| apply(&mut text, damage));
        let text: String = text.into_iter().collect();
        if let Err(error) = load_and_run(&text) {
            prop_assert!(error.line as usize <= text.lines().count() + 1, "{error}");
            prop_assert!(!error.message.is_empty());
        }
    }

    #[test]
    fn any_text_is_refused_or_empty(text in "\\PC{0,300}") {
        if let Ok(ran) = load_and_run(&text) {
            prop_assert_eq!(ran, 0);
        }
    }
}

#[test]
fn the_texts_load_undamaged() {
    for text in TEXTS {
        load_and_run(text).unwrap();
    }
}

#[test]
fn nesting_and_sizes_have_limits() {
    let head = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let deep = format!(
        "{head}.visible .entry k() {{ {} ret; {} }}",
        "{".repeat(100_000),
        "}".repeat(100_000)
    );
    let wide = format!("{head}.visible .entry k() {{ .reg .b32 %r<4000000000>; ret; }}");
    let large = format!(
        "{head}.global .align 4 .b8 x[18446744073709551615];\n.visible .entry k() {{ ret; }}"
    );
    let sum = format!(
        "{head}.global .align 4 .b32 x = {}1{};\n.visible .entry k() {{ ret; }}",
        "(".repeat(100_000),
        ")".repeat(100_000)
    );
    for text in [deep, wide, large, sum] {
        // Either is right, as long as the stack and the memory hold.
        let _ = load_and_run(&text);
    }
}
