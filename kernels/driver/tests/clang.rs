//! C functions compiled by clang to PTX and run on the driver, against the same functions compiled by this machine's C
//! compiler. The bits must agree. `clang/generate.py` draws some of the functions at random and compiles them.

mod compilers;

use std::path::Path;
use std::process::Command;

use compilers::bench::Bench;
use compilers::tools::{self, CLANG};
use compilers::{Random, Result, check_fresh};
use cudarc::driver::{LaunchConfig, PushKernelArg};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clang");

/// `struct input`: a b u v, p q r s, x y, d e, in native order.
const RECORD: usize = 72;
const RECORDS: usize = 1024;

/// A record of edge values and random bits.
fn record(random: &mut Random) -> [u8; RECORD] {
    const EDGES_32: [u32; 8] = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, u32::MAX, 31, 32];
    const EDGES_64: [u64; 8] = [0, 1, 3, i64::MAX as u64, 1 << 63, u64::MAX, 63, 1 << 32];
    const SINGLES: [f32; 8] = [
        0.0,
        -0.0,
        1.0,
        f32::INFINITY,
        f32::NAN,
        f32::MIN_POSITIVE / 8.0,
        f32::MAX,
        -2147483648.0,
    ];
    const DOUBLES: [f64; 8] = [
        0.0,
        -0.0,
        -1.0,
        f64::NEG_INFINITY,
        f64::NAN,
        f64::MIN_POSITIVE / 8.0,
        f64::MAX,
        4294967295.5,
    ];
    let mut bytes = Vec::with_capacity(RECORD);
    for field in 0..12 {
        // A third are edges, a third small or ordinary, a third any bits.
        let (kind, pick, raw) = (random.below(3), random.below(8) as usize, random.bits());
        match (field, kind) {
            (0..4, 0) => bytes.extend(EDGES_32[pick].to_ne_bytes()),
            (0..4, 1) => bytes.extend(((raw % 200) as i32 - 100).to_ne_bytes()),
            (0..4, _) => bytes.extend((raw as u32).to_ne_bytes()),
            (4..8, 0) => bytes.extend(EDGES_64[pick].to_ne_bytes()),
            (4..8, 1) => bytes.extend(((raw % 200) as i64 - 100).to_ne_bytes()),
            (4..8, _) => bytes.extend(raw.to_ne_bytes()),
            (8..10, 0) => bytes.extend(SINGLES[pick].to_ne_bytes()),
            (8..10, 1) => bytes.extend(((raw as i32 as f32) / 65536.0).to_ne_bytes()),
            (8..10, _) => bytes.extend((raw as u32).to_ne_bytes()),
            (_, 0) => bytes.extend(DOUBLES[pick].to_ne_bytes()),
            (_, 1) => bytes.extend(((raw as i64 as f64) / 4294967296.0 / 1024.0).to_ne_bytes()),
            (_, _) => bytes.extend(raw.to_ne_bytes()),
        }
    }
    bytes.try_into().expect("the fields fill the record")
}

/// The names of the functions in a source.
fn functions(source: &str) -> Vec<&str> {
    source
        .lines()
        .filter_map(|line| line.strip_prefix("FUNCTION(")?.split(')').next())
        .collect()
}

/// Runs every function of a C source on the driver, from its PTX, and natively.
fn compare(directory: &Path, source: &str, ptx: &str) -> Result {
    let read = |file: &str| std::fs::read_to_string(directory.join(file));
    let (header, file, ptx) = (read("differential.h")?, directory.join(source), read(ptx)?);
    let source = read(source)?;
    check_fresh(&ptx, &[&header, &source], "tests/clang/generate.py")?;
    let scratch = tempfile::tempdir()?;
    let library = scratch.path().join("native.so");
    let flags = "-O1 -fwrapv -ffp-contract=off -w -shared -fPIC -o".split(' ');
    tools::run(
        Command::new("cc")
            .args(flags)
            .args([&library, &file])
            .arg("-lm"),
    )?;
    // SAFETY: plain C without initialisers.
    let native = unsafe { libloading::Library::new(&library) }?;

    let bench = Bench::new(&ptx, 80)?;
    let stream = &bench.stream;
    let mut random = Random(7);
    let records: Vec<[u8; RECORD]> = (0..RECORDS).map(|_| record(&mut random)).collect();
    let input = stream.clone_htod(records.as_flattened())?;
    let mut wrong = Vec::new();
    let names = functions(&source);
    assert!(names.len() > 20, "{names:?}");
    for name in &names {
        let mut expected = vec![0i64; RECORDS];
        // SAFETY: FUNCTION in differential.h has this signature, and both arrays RECORDS elements.
        unsafe {
            let function: libloading::Symbol<unsafe extern "C" fn(*const u8, *mut i64, u32)> =
                native.get(name.as_bytes())?;
            function(
                records.as_flattened().as_ptr(),
                expected.as_mut_ptr(),
                RECORDS as u32,
            );
        }
        let kernel = bench.kernel(name)?;
        let mut output = stream.alloc_zeros::<i64>(RECORDS)?;
        let count = RECORDS as u32;
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&input).arg(&mut output).arg(&count);
        let shape = LaunchConfig {
            grid_dim: (count.div_ceil(96), 1, 1),
            block_dim: (96, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the kernel writes output[..count] alone.
        unsafe { launch.launch(shape) }?;
        let actual = bench.read(&output).map_err(|e| format!("{name}: {e}"))?;
        let differ: Vec<usize> = (0..RECORDS).filter(|&i| actual[i] != expected[i]).collect();
        if let Some(&i) = differ.first() {
            wrong.push(format!(
                "{name}: {} of {RECORDS}; record {i}: {:#x}, natively {:#x}",
                differ.len(),
                actual[i],
                expected[i]
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} functions differ:\n{}",
        wrong.len(),
        names.len(),
        wrong.join("\n")
    );
    Ok(())
}

#[test]
fn written_functions_unoptimised() -> Result {
    compare(COMMITTED.as_ref(), "written.c", "written_O0.ptx")
}

#[test]
fn written_functions_optimised() -> Result {
    compare(COMMITTED.as_ref(), "written.c", "written_O2.ptx")
}

#[test]
fn random_functions() -> Result {
    compare(COMMITTED.as_ref(), "random.c", "random_O2.ptx")
}

/// What the installed clang makes of the same functions, and of others drawn at random.
#[test]
fn fresh() -> Result {
    let Some(clang) = tools::tool(CLANG) else {
        return Ok(());
    };
    for seed in ["1", "2", "3"] {
        let directory = tempfile::tempdir()?;
        let mut generate = Command::new("python3");
        generate.arg(format!("{COMMITTED}/generate.py"));
        tools::run(generate.arg(directory.path()).arg(seed).env(CLANG, &clang))?;
        compare(directory.path(), "random.c", "random_O2.ptx")?;
        if seed == "1" {
            compare(directory.path(), "written.c", "written_O0.ptx")?;
            compare(directory.path(), "written.c", "written_O2.ptx")?;
        }
    }
    Ok(())
}
