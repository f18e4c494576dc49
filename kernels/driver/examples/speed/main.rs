//! How fast the core executes: warp-instructions per second (and operations per second of the products) of loops of
//! FMAs, integer arithmetic, shared-memory reads and `mma`, and of kernels in CUDA C++ (`kernels.cu`, compiled by
//! NVRTC): a reduction, a tiled product, a bf16 product by `cp.async`, `ldmatrix` and `mma`; without checks, with
//! counters, and with all checks.
//!
//! Rates are per second of processor time, times the number of processors: what the machine does when nothing else
//! runs on it.
//!
//! `cargo run --release -p deltaw-driver --example speed [part of a title]`

use deltaw_driver::exec::{Checks, LaunchConfig, Loaded, launch};
use deltaw_driver::memory::{LOWEST_BASE, Memory, MemoryConfig};
use deltaw_driver::ptx::Module;

const KERNELS: &str = include_str!("kernels.ptx");

/// A kernel and its launch.
struct Case {
    title: &'static str,
    text: String,
    kernel: &'static str,
    grid: [u32; 3],
    block: [u32; 3],
    pointers: Vec<u64>,
    n: u32,
    /// Operations worth counting, if they are the point.
    flops: Option<f64>,
}

/// `setup`, then `body` so often in a loop that the loop itself hardly counts.
fn looping(registers: &str, setup: &str, body: &str) -> String {
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

fn repeat(n: usize, one: impl Fn(usize) -> String) -> String {
    (0..n).map(one).collect()
}

/// Loops whose body is one kind of instruction.
fn loops(out: u64) -> Vec<Case> {
    let floats = repeat(10, |i| format!("mov.f32 %f{i}, 0f3F800000; "));
    let integers = repeat(8, |i| format!("mov.u32 %r{i}, {i}; "));
    let fma = repeat(32, |i| {
        format!("fma.rn.f32 %f{0}, %f{0}, %f8, %f9; ", i % 8)
    });
    let integer = repeat(8, |i| {
        format!(
            "mad.lo.s32 %r{i}, %r{i}, 3, %t; xor.b32 %r{i}, %r{i}, %i; shl.b32 %r{i}, %r{i}, 1; "
        )
    });
    let fill = repeat(8, |i| format!("st.shared.f32 [%a+{}], %f{i}; ", 128 * i));
    let shared = repeat(8, |i| {
        format!(
            "ld.shared.f32 %f{i}, [%a+{}]; fma.rn.f32 %f9, %f{i}, %f8, %f9; ",
            128 * i
        )
    });
    let mma = repeat(4, |i| {
        let c = format!(
            "{{%f{}, %f{}, %f{}, %f{}}}",
            2 * i,
            2 * i + 1,
            2 * i + 2,
            2 * i + 3
        );
        let (a, b) = ("{%r0, %r1, %r2, %r3}", "{%r4, %r5}");
        format!("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {c}, {a}, {b}, {c}; ")
    });
    let place = "shr.u32 %a, %t, 5; mul.lo.u32 %a, %a, 1024; and.b32 %t, %t, 31; shl.b32 %t, %t, 2; add.u32 %a, %a, %t;";
    let case = |title, text, n, flops| Case {
        title,
        text,
        kernel: "k",
        grid: [64, 1, 1],
        block: [128, 1, 1],
        pointers: vec![out],
        n,
        flops,
    };
    vec![
        case(
            "FMA loop",
            looping(".reg .f32 %f<10>;", &floats, &fma),
            400,
            None,
        ),
        case(
            "integer loop",
            looping(
                ".reg .f32 %f<1>; .reg .b32 %r<8>;",
                &format!("mov.f32 %f0, 0f00000000; {integers}"),
                &integer,
            ),
            400,
            None,
        ),
        case(
            "ld.shared + FMA loop",
            looping(
                ".reg .f32 %f<10>; .reg .b32 %a; .shared .align 16 .b8 buffer[8192];",
                &format!("{floats} {place} {fill} bar.sync 0;"),
                &shared,
            ),
            400,
            None,
        ),
        case(
            "mma bf16 loop",
            looping(
                ".reg .f32 %f<12>; .reg .b32 %r<8>;",
                &format!("{floats} mov.f32 %f10, %f0; mov.f32 %f11, %f0; {integers}"),
                &mma,
            ),
            100,
            Some(64.0 * 4.0 * 100.0 * 4.0 * 4096.0),
        ),
    ]
}

/// Kernels as people write them; `x` holds numbers enough for every operand.
fn kernels(x: u64, out: u64) -> Vec<Case> {
    let case = |title, kernel, grid, block, pointers, n, flops| Case {
        title,
        text: KERNELS.into(),
        kernel,
        grid,
        block,
        pointers,
        n,
        flops,
    };
    let cube = |n: f64| Some(2.0 * n * n * n);
    vec![
        case(
            "reduction",
            "reduction",
            [64, 1, 1],
            [256, 1, 1],
            vec![x, out],
            8,
            None,
        ),
        case(
            "matmul 16×16",
            "matmul",
            [16, 16, 1],
            [16, 16, 1],
            vec![x, x, out],
            256,
            cube(256.0),
        ),
        case(
            "gemm 128×128×32 bf16",
            "gemm",
            [4, 4, 1],
            [256, 1, 1],
            vec![x, x, out],
            512,
            cube(512.0),
        ),
    ]
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
    let memory = Memory::new(MemoryConfig {
        base: LOWEST_BASE,
        capacity: 1 << 28,
        shadow: true,
    })
    .expect("address space");
    // As f32 and as pairs of bf16 alike: 1 or a little more.
    let numbers: Vec<u8> = (0..1 << 17)
        .flat_map(|i| [0x80 + i as u8 % 8, 0x3f, 0x80, 0x3f])
        .collect();
    let x = memory.alloc(numbers.len() as u64).expect("memory");
    memory.write(x, &numbers).expect("memory");
    let out = memory.alloc(1 << 20).expect("memory");
    let counters = Checks {
        counters: true,
        ..Checks::NONE
    };
    println!(
        "{:22} {:>12} {:>12} {:>12}",
        "million/s", "no checks", "counters", "all checks"
    );
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let cases = loops(out).into_iter().chain(kernels(x, out));
    for case in cases.filter(|c| c.title.contains(&wanted)) {
        let title = case.title;
        let module = Module::parse(&case.text).unwrap_or_else(|e| panic!("{title}: {e}"));
        let loaded = Loaded::new(&module, &memory).unwrap_or_else(|e| panic!("{title}: {e}"));
        let kernel = loaded.kernel(case.kernel).expect("the kernel");
        let mut params: Vec<u8> = case.pointers.iter().flat_map(|p| p.to_le_bytes()).collect();
        params.extend(case.n.to_le_bytes());
        let config = LaunchConfig {
            grid: case.grid,
            block: case.block,
            dynamic_shared: 0,
            params: &params,
        };
        // Of several launches the fastest: (warp-instructions, operations) a second.
        let rate = |checks: &Checks| {
            let mut best: (f64, f64) = (0.0, 0.0);
            let begin = processor_time();
            for launches in 0.. {
                if launches >= 3 && processor_time() - begin > 0.5 {
                    break;
                }
                let start = processor_time();
                let done = launch(kernel, &config, &memory, checks, u64::MAX)
                    .unwrap_or_else(|e| panic!("{title}: {e}"));
                let seconds = (processor_time() - start) / processors;
                best.0 = best.0.max(done.warp_instructions as f64 / seconds / 1e6);
                best.1 = best.1.max(case.flops.unwrap_or(0.0) / seconds / 1e9);
            }
            best
        };
        let rates = [Checks::NONE, counters, Checks::ALL].map(|c| rate(&c));
        let [none, counted, all] = rates.map(|r| r.0);
        println!("{title:22} {none:12.1} {counted:12.1} {all:12.1}");
        if case.flops.is_some() {
            let [none, counted, all] = rates.map(|r| r.1);
            println!("{:22} {none:12.2} {counted:12.2} {all:12.2}", "  GFLOP/s");
        }
    }
}
