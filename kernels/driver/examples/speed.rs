//! How fast the core executes: warp-instructions per second of an FMA loop, a shared-memory loop and a global copy,
//! and matrix products in GFLOP/s, without checks, with counters, and with all checks.
//!
//! Rates are per second of processor time, times the number of processors: what the machine does when nothing else
//! runs on it.
//!
//! `cargo run --release -p deltaw-driver --example speed`

use deltaw_driver::exec::{Checks, LaunchConfig, Loaded, launch};
use deltaw_driver::memory::{LOWEST_BASE, Memory, MemoryConfig};
use deltaw_driver::ptx::Module;

const BLOCKS: u32 = 64;

/// `setup`, then `body` so often in a loop that the loop itself hardly counts.
fn kernel(registers: &str, setup: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u32 n)\n{{
        .reg .pred %p; .reg .b32 %i, %n, %t; .reg .b64 %out, %o; {registers}
        ld.param.u64 %out, [out]; ld.param.u32 %n, [n]; mov.u32 %t, %tid.x; mov.u32 %i, 0;
        {setup}
        LOOP: {body}
        add.u32 %i, %i, 1; setp.lt.u32 %p, %i, %n; @%p bra LOOP;
        mul.wide.u32 %o, %t, 4; add.u64 %out, %out, %o; st.global.f32 [%out], %f0; ret; }}"
    )
}

/// Seconds of processor time that this process has used.
fn processor_time() -> f64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `t` is valid for writing; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn main() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let fma: String = (0..32)
        .map(|i| format!("fma.rn.f32 %f{0}, %f{0}, %f8, %f9; ", i % 8))
        .collect();
    let start: String = (0..10)
        .map(|i| format!("mov.f32 %f{i}, 0f3F800000; "))
        .collect();
    let integer: String = (0..8)
        .map(|i| format!("mad.lo.s32 %r{i}, %r{i}, 3, %t; xor.b32 %r{i}, %r{i}, %i; shl.b32 %r{i}, %r{i}, 1; "))
        .collect();
    let integers: String = (0..8).map(|i| format!("mov.u32 %r{i}, {i}; ")).collect();
    let shared: String = (0..8)
        .map(|i| {
            format!(
                "ld.shared.f32 %f{i}, [%a+{}]; fma.rn.f32 %f9, %f{i}, %f8, %f9; ",
                128 * i
            )
        })
        .collect();
    let fill: String = (0..8)
        .map(|i| format!("st.shared.f32 [%a+{}], %f{i}; ", 128 * i))
        .collect();
    let mma: String = (0..4)
        .map(|i| {
            let c = format!(
                "{{%f{}, %f{}, %f{}, %f{}}}",
                2 * i,
                2 * i + 1,
                2 * i + 2,
                2 * i + 3
            );
            let a = "{%r0, %r1, %r2, %r3}";
            format!(
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {c}, {a}, {{%r4, %r5}}, {c}; "
            )
        })
        .collect();
    let cases = [
        ("FMA", kernel(".reg .f32 %f<10>;", &start, &fma), 128, 400),
        (
            "integer",
            kernel(
                ".reg .f32 %f<1>; .reg .b32 %r<8>;",
                &format!("mov.f32 %f0, 0f0; {integers}").replace("0f0;", "0f00000000;"),
                &integer,
            ),
            128,
            400,
        ),
        (
            "shared + FMA",
            kernel(
                ".reg .f32 %f<10>; .reg .b32 %a; .shared .align 16 .b8 buffer[8192];",
                &format!(
                    "{start} shr.u32 %a, %t, 5; mul.lo.u32 %a, %a, 1024; and.b32 %t, %t, 31; shl.b32 %t, %t, 2; add.u32 %a, %a, %t; {fill} bar.sync 0;"
                ),
                &shared,
            ),
            128,
            400,
        ),
        (
            "mma bf16",
            kernel(
                ".reg .f32 %f<12>; .reg .b32 %r<8>;",
                &format!("{start} mov.f32 %f10, %f0; mov.f32 %f11, %f0; {integers}"),
                &mma,
            ),
            128,
            100,
        ),
    ];
    let memory = Memory::new(MemoryConfig {
        base: LOWEST_BASE,
        capacity: 1 << 28,
        shadow: true,
    })
    .expect("address space");
    let out = memory.alloc(1 << 16).expect("memory");
    let counters = Checks {
        counters: true,
        ..Checks::NONE
    };
    println!(
        "{:14} {:>12} {:>12} {:>12}",
        "million/s", "no checks", "counters", "all checks"
    );
    for (name, text, threads, n) in cases {
        let module = Module::parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let loaded = Loaded::new(&module, &memory).unwrap_or_else(|e| panic!("{name}: {e}"));
        let kernel = loaded.kernel("k").expect("the kernel");
        let params = [&out.to_le_bytes()[..], &u32::to_le_bytes(n)].concat();
        let config = LaunchConfig {
            grid: [BLOCKS, 1, 1],
            block: [threads, 1, 1],
            dynamic_shared: 0,
            params: &params,
        };
        let rate = |checks: &Checks| {
            let mut best: (f64, f64) = (0.0, 0.0);
            for _ in 0..5 {
                let start = processor_time();
                let done = launch(kernel, &config, &memory, checks, u64::MAX)
                    .unwrap_or_else(|e| panic!("{name}: {e}"));
                let seconds = (processor_time() - start) / processors;
                best.0 = best.0.max(done.warp_instructions as f64 / seconds / 1e6);
                let flops = f64::from(BLOCKS * threads / 32 * n) * 4.0 * 4096.0;
                best.1 = best.1.max(flops / seconds / 1e9);
            }
            best
        };
        let rates = [Checks::NONE, counters, Checks::ALL].map(|c| rate(&c));
        println!(
            "{name:14} {:12.1} {:12.1} {:12.1}",
            rates[0].0, rates[1].0, rates[2].0
        );
        if name.starts_with("mma") {
            println!(
                "{:14} {:12.1} {:12.1} {:12.1}",
                "  GFLOP/s", rates[0].1, rates[1].1, rates[2].1
            );
        }
    }
}
