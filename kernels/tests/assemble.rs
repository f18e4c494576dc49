//! Every text against its snapshot, and through NVIDIA's assembler where it is installed.

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;

use common::sass::Tools;
use deltaw_kernels::gemm::{Loader, Tile, Type, Variant};
use deltaw_kernels::registry;
use kernel_profile::{GPUS, Ptxas};

/// The release whose code the committed table describes.
const PTXAS: &str = "13.5.37";

/// Compares a text with a committed file; with `UPDATE=1` in the environment it is written instead.
fn compare(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).expect("the file can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differ = committed
        .lines()
        .zip(text.lines())
        .position(|(a, b)| a != b);
    let line = differ.unwrap_or(committed.lines().count().min(text.lines().count()));
    assert!(
        committed == text,
        "{file}:{}: committed `{}`, now `{}`; UPDATE=1 writes it anew",
        line + 1,
        committed.lines().nth(line).unwrap_or("nothing"),
        text.lines().nth(line).unwrap_or("nothing"),
    );
}

/// Says what is not tested, past the test harness, which would swallow it.
fn skip(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

/// FNV-1a (Fowler, Noll & Vo).
fn hash(text: &str) -> u64 {
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[test]
fn texts_are_as_committed() {
    // Four in full, to be read; of the others length and hash.
    let in_full = [
        "gemm_bf16_nt_64x64x32_bf16",
        "gemm_f32_nn_32x64x16_f32",
        "gemm_f32_nt_64x64x16_f32_bias_gelu_residual",
        "philox_normal",
    ];
    let mut list = String::from("# lines and FNV-1a hash of every expanded text\n");
    for entry in registry::entries().unwrap() {
        let text = entry.ptx.text();
        writeln!(
            list,
            "{} {} {:016x}",
            entry.name,
            text.lines().count(),
            hash(text)
        )
        .unwrap();
        if in_full.contains(&entry.name.as_str()) {
            compare(&format!("snapshots/{}.ptx", entry.name), text);
        }
    }
    compare("snapshots/entries.txt", &list);
}

#[test]
fn every_text_assembles_without_spills() {
    let Some(ptxas) = Ptxas::find() else {
        skip(&format!(
            "no ptxas in PATH and PTXAS is not set (pip install --no-deps nvidia-cuda-nvcc=={PTXAS})"
        ));
        return;
    };
    let work: Vec<_> = registry::entries().unwrap();
    let work = Mutex::new(
        work.iter()
            .flat_map(|e| [80, 90, 120].map(|sm| (e.clone(), sm)))
            .collect::<Vec<_>>(),
    );
    let assemble = || {
        loop {
            let next = work.lock().unwrap().pop();
            let Some((entry, sm)) = next else { break };
            let kernels = ptxas
                .resources(entry.ptx.text(), sm)
                .unwrap_or_else(|error| {
                    // `line 15` of the text is a line of the template.
                    let words = error.to_string();
                    let line = words
                        .split_once(", line ")
                        .and_then(|(_, rest)| rest.split(';').next()?.trim().parse().ok());
                    panic!(
                        "{}: {words} ({})",
                        entry.name,
                        line.and_then(|l| entry.ptx.origin(l)).unwrap_or("?")
                    )
                });
            let r = &kernels[&entry.name];
            assert_eq!(
                (r.stack, r.spill_stores, r.spill_loads),
                (0, 0, 0),
                "{} on sm_{sm}: {r:?}",
                entry.name
            );
            // What a block takes must fit the multiprocessor that the text asks for.
            assert!(
                r.registers as usize * entry.threads <= 65_536,
                "{} on sm_{sm}: {r:?}",
                entry.name
            );
        }
    };
    std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(assemble));
        threads
            .into_iter()
            .for_each(|t| t.join().expect("no text fails"));
    });
}

/// What the loops of Triton's kernels were, of the same tile, warps, stages and layout, without guards: see
/// `triton/generate.py`. Name of the shape, registers, instructions, useful ones, barriers.
fn triton(variant: &Variant, sm: u32) -> Option<(usize, f64)> {
    let Tile { m, n, k, .. } = variant.tile;
    let name = variant.name();
    let [_, of, layout, ..] = name.split('_').collect::<Vec<_>>()[..] else {
        return None;
    };
    let wanted = format!("{of}_{layout}_{m}x{n}x{k} sm_{sm} ");
    let line = include_str!("triton/loops.txt")
        .lines()
        .find_map(|line| line.strip_prefix(&wanted))?;
    let [registers, instructions, useful] = line
        .split_whitespace()
        .map(|n| n.parse::<usize>().expect("a number"))
        .collect::<Vec<_>>()[..]
    else {
        return None;
    };
    Some((registers, useful as f64 / instructions as f64))
}

/// Blocks of a variant that a multiprocessor holds with so many registers of a thread.
fn blocks(variant: &Variant, registers: usize, sm: u32) -> u32 {
    let gpu = GPUS.iter().find(|gpu| gpu.capability == sm);
    let shared = variant.tile.shared(variant.operands);
    gpu.expect("a GPU like it")
        .occupancy(variant.tile.threads() as u32, registers as u32, shared)
        .blocks
}

/// The share of useful instructions is larger than Triton's; where there are more registers, as many blocks fit.
#[test]
fn main_loops_are_as_committed_and_better_than_tritons() {
    let Some(tools) = Tools::find().filter(|tools| tools.version() == PTXAS) else {
        skip(&format!(
            "the table of main loops needs ptxas and nvdisasm {PTXAS}"
        ));
        return;
    };
    let mut table = format!(
        "# Main loops by ptxas {PTXAS}: instructions and useful ones (HMMA, FFMA) of a tile of K, their share, registers; \
         and Triton 3.9's\n# kernel                          sm  instructions useful share registers   Triton: share registers\n"
    );
    let plain = |v: &&Variant| {
        v.loaders == [Loader::Chunks; 2]
            && v.extension.is_none()
            && !v.bias
            && v.operands != Type::F16
    };
    let mut worse = Vec::new();
    for variant in registry::gemm().iter().filter(plain) {
        for sm in [80, 90, 120] {
            let found = tools.main_loop(variant.expand().unwrap().text(), sm);
            let turns = found.barriers as f64;
            let (share, registers) = (found.share(), found.registers);
            write!(
                table,
                "{:32} {sm:4} {:12.1} {:7.1} {share:5.3} {registers:9}",
                variant.name(),
                found.instructions as f64 / turns,
                found.useful as f64 / turns
            )
            .unwrap();
            let mut wrong =
                |what: &str| worse.push(format!("{} on sm_{sm}: {what}", variant.name()));
            if let Some((theirs, their_share)) = triton(variant, sm) {
                writeln!(table, "   {their_share:13.3} {theirs:9}").unwrap();
                if share <= their_share {
                    wrong(&format!(
                        "{share:.3} of the loop is useful, of Triton's {their_share:.3}"
                    ));
                }
                if registers > theirs
                    && blocks(variant, registers, sm) < blocks(variant, theirs, sm)
                {
                    wrong(&format!(
                        "{registers} registers, Triton's has {theirs}, and more blocks at a time"
                    ));
                }
                if sm == 80 && (variant.tile.share - share).abs() > 0.005 {
                    wrong(&format!(
                        "{:?} claims another share than {share:.3}",
                        variant.tile
                    ));
                }
            } else {
                table.push('\n');
            }
        }
    }
    compare("data/sass.txt", &table);
    assert!(worse.is_empty(), "{worse:#?}");
}
