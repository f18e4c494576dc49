//! Every text against its snapshot, and through NVIDIA's assembler where it is installed.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use common::committed::{PTXAS, compare, skip};
use deltaw_kernels::registry;
use kernel_profile::{GPUS, Ptxas};

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
    let entries = registry::entries().unwrap();
    let targets = entries.iter().flat_map(|e| [80, 90, 120].map(|sm| (e, sm)));
    let work = Mutex::new(targets.collect::<Vec<_>>());
    let found = Mutex::new(BTreeMap::new());
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
            let gpu = GPUS.iter().find(|gpu| gpu.capability == sm).unwrap();
            let shared = r.static_shared + entry.shared;
            let o = gpu.occupancy(entry.threads as u32, r.registers, shared);
            let cell = format!("{:5} {:4.0} %", r.registers, 100.0 * o.fraction);
            found.lock().unwrap().insert((&entry.name, sm), cell);
        }
    };
    std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(assemble));
        threads
            .into_iter()
            .for_each(|t| t.join().expect("no text fails"));
    });
    if ptxas.version().unwrap() != PTXAS {
        skip(&format!("the table of registers is of ptxas {PTXAS}"));
        return;
    }
    let found = found.into_inner().unwrap();
    let mut table = format!(
        "# ptxas {PTXAS}: registers of a thread and warps of those that a multiprocessor holds, on sm_80, sm_90 and sm_120; \
         no kernel spills\n"
    );
    for entry in &entries {
        let cells = [80, 90, 120].map(|sm| found[&(&entry.name, sm)].as_str());
        writeln!(table, "{:48} {}", entry.name, cells.join("   ")).unwrap();
    }
    compare("data/registers.txt", &table);
}
