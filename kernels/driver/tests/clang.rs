//! C functions compiled by clang to PTX and run on the driver, against the same functions compiled by this machine's C
//! compiler. The bits must agree. `clang/generate.py` draws some of the functions at random and compiles them.

mod compilers;

use std::process::Command;

use compilers::{Random, Result, check_fresh};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const HEADER: &str = include_str!("clang/differential.h");
const WRITTEN: &str = include_str!("clang/written.c");
const RANDOM: &str = include_str!("clang/random.c");
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clang");

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

fn compare(source: &str, file: &str, ptx: &str) -> Result {
    check_fresh(ptx, &[HEADER, source], "tests/clang/generate.py")?;
    let directory = tempfile::tempdir()?;
    let library = directory.path().join("native.so");
    let compiled = Command::new("cc")
        .args([
            "-O1",
            "-fwrapv",
            "-ffp-contract=off",
            "-w",
            "-shared",
            "-fPIC",
            "-o",
        ])
        .arg(&library)
        .args([format!("{DIRECTORY}/{file}").as_str(), "-lm"])
        .status()?;
    assert!(compiled.success(), "cc failed");
    // SAFETY: plain C without initialisers.
    let native = unsafe { libloading::Library::new(&library) }?;

    let emulator = deltaw_emulator::install()?;
    let device = emulator.device()?;
    let context = CudaContext::new(device.ordinal())?;
    let stream = context.default_stream();
    let Ok(module) = context.load_module(Ptx::from_src(ptx)) else {
        return Err(emulator.last_error()?.into());
    };
    let mut random = Random(7);
    let records: Vec<[u8; RECORD]> = (0..RECORDS).map(|_| record(&mut random)).collect();
    let input = stream.clone_htod(records.as_flattened())?;
    let mut wrong = Vec::new();
    let names = functions(source);
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
        let kernel = module.load_function(name)?;
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
        let actual = match stream.clone_dtoh(&output) {
            Ok(actual) => actual,
            Err(error) => {
                return Err(format!(
                    "{name}: {error}: {:?}",
                    device.last_fault()?.map(|fault| fault.message)
                )
                .into());
            }
        };
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
    compare(WRITTEN, "written.c", include_str!("clang/written_O0.ptx"))
}

#[test]
fn written_functions_optimised() -> Result {
    compare(WRITTEN, "written.c", include_str!("clang/written_O2.ptx"))
}

#[test]
fn random_functions() -> Result {
    compare(RANDOM, "random.c", include_str!("clang/random_O2.ptx"))
}
