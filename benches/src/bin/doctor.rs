//! A device's self-test: every kernel against the CPU, then how fast it is beside what its data say. Writes one JSON file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use deltaw_benches::checks;
use deltaw_benches::speed::{self, Subject};
use deltaw_engine::device::cuda::Cuda;
use deltaw_engine::prelude::*;
use deltaw_models::experiment::{self, environment};
use serde_json::{Value, json};

/// Check every kernel of a device against the CPU, and time it beside its own peaks; a minute or two.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  doctor --device cuda                 the first GPU; writes doctor.json, to be attached to a report
  doctor --device emulated             the same kernels on the software driver (built with --features emulated)
  benches/peers/cublas.py doctor.json  cuBLAS at the same products, as ratios

The peaks are predicted from what the driver says of clocks, multiprocessors and memory. The status is 1 if a check fails.")]
struct Arguments {
    /// cuda or emulated; cpu times the CPU's own kernels.
    #[arg(long, default_value = "cuda")]
    device: experiment::Device,
    /// Where the report goes.
    #[arg(long, default_value = "doctor.json")]
    out: PathBuf,
    /// Check only.
    #[arg(long)]
    no_speed: bool,
}

/// Runs the checks and prints a line each; the failed ones, and all as JSON.
fn check(device: &Device) -> Result<(usize, Value)> {
    let outcomes = checks::run(device)?;
    let mut failed = 0;
    let mut all = Vec::new();
    for outcome in &outcomes {
        let passed = outcome.passed();
        failed += usize::from(!passed);
        let said = match &outcome.excess {
            Ok(excess) => format!("{excess:.3} of the allowed error"),
            Err(error) => error.to_string(),
        };
        println!(
            "  {} {:<44} {said}",
            if passed { "✓" } else { "✗" },
            outcome.name
        );
        all.push(json!({ "name": outcome.name, "passed": passed, "said": said }));
    }
    println!("{} checks, {failed} failed", outcomes.len());
    Ok((failed, all.into()))
}

/// What a GPU could do by its data: FLOP/s of f32 and bytes/s.
fn peaks(cuda: &Cuda) -> Result<(f64, f64)> {
    let about = cuda.about()?;
    // Multiply-adds of a multiprocessor in a clock: 64 in compute capability 8.0, 128 since.
    let width = if about.capability == (8, 0) {
        64.0
    } else {
        128.0
    };
    let flops = 2.0 * width * f64::from(about.multiprocessors) * about.clock;
    // Two transfers a clock.
    let bytes = 2.0 * about.memory_clock * f64::from(about.bus_bits) / 8.0;
    Ok((flops, bytes))
}

fn time(
    subjects: Vec<Subject>,
    cuda: Option<&Cuda>,
    peaks: Option<(f64, f64)>,
) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for mut subject in subjects {
        let seconds = speed::seconds(&mut subject, cuda, 3e-3)?;
        let (flops, bytes) = (
            subject.flops as f64 / seconds,
            subject.bytes as f64 / seconds,
        );
        let share = peaks.map(|(peak_flops, peak_bytes)| {
            // The tensor cores' peak is another matter: such a kernel is measured by its TFLOP/s alone.
            let exact = subject.flops > 0
                && !subject.name.ends_with("f16")
                && !subject.name.ends_with("tf32");
            if exact {
                (flops / peak_flops).max(bytes / peak_bytes)
            } else {
                bytes / peak_bytes
            }
        });
        let share = share.map_or(String::new(), |s| {
            format!("{:5.1} % of the predicted peak", 100.0 * s)
        });
        let rate = if subject.flops > 0 {
            format!("{:8.2} TFLOP/s", 1e-12 * flops)
        } else {
            format!("{:8.1} GB/s   ", 1e-9 * bytes)
        };
        println!(
            "  {:<64} {:10.1} µs {rate} {share}",
            subject.name,
            1e6 * seconds
        );
        all.push(json!({
            "name": subject.name, "microseconds": 1e6 * seconds, "flops": subject.flops, "bytes": subject.bytes,
            "tflop_per_s": 1e-12 * flops, "gb_per_s": 1e-9 * bytes,
        }));
    }
    Ok(all)
}

/// Microseconds to ask for a small kernel, and to ask for one and wait; GB/s to and from the device.
fn overheads(device: &Device, cuda: &Cuda) -> Result<Value> {
    let small = Tensor::ones(&[32], device)?;
    let mut ask = Subject {
        name: "a small kernel, asked for".into(),
        flops: 0,
        bytes: 256,
        run: Box::new(move || small.affine(2.0, 1.0).map(drop)),
    };
    let asked = speed::seconds(&mut ask, Some(cuda), 3e-3)?;
    let start = Instant::now();
    for _ in 0..100 {
        (ask.run)()?;
        cuda.synchronize()?;
    }
    let waited = start.elapsed().as_secs_f64() / 100.0;
    let host = vec![1.0f32; 16 << 20];
    let there = Tensor::from_slice(&host, &[host.len()], device)?;
    let rate = |work: &dyn Fn() -> Result<()>| -> Result<f64> {
        let start = Instant::now();
        work()?;
        cuda.synchronize()?;
        Ok(4e-9 * host.len() as f64 / start.elapsed().as_secs_f64())
    };
    let up = rate(&|| Tensor::from_slice(&host, &[host.len()], device).map(drop))?;
    let down = rate(&|| there.to_vec::<f32>().map(drop))?;
    println!(
        "  launch {:.2} µs asked for, {:.2} µs waited for; to the device {up:.1} GB/s, from it {down:.1} GB/s",
        1e6 * asked,
        1e6 * waited
    );
    Ok(
        json!({ "launch_us": 1e6 * asked, "launch_and_wait_us": 1e6 * waited, "to_device_gb_per_s": up, "from_device_gb_per_s": down }),
    )
}

fn run(args: &Arguments) -> std::result::Result<bool, Box<dyn std::error::Error>> {
    let device = environment::open(args.device)?;
    let cuda = device.as_cuda();
    let emulated = args.device == experiment::Device::Emulated;
    let about = match cuda {
        Some(cuda) => {
            let about = cuda.about()?;
            let (major, minor) = about.capability;
            println!(
                "{}, compute capability {major}.{minor}, {} multiprocessors, driver {}",
                about.name, about.multiprocessors, about.driver
            );
            json!({
                "name": about.name, "capability": format!("{major}.{minor}"), "multiprocessors": about.multiprocessors,
                "clock_hz": about.clock, "memory_clock_hz": about.memory_clock, "bus_bits": about.bus_bits,
                "memory_bytes": about.memory, "driver": about.driver,
            })
        }
        None => json!({ "name": environment::name(args.device) }),
    };
    let (failed, checked) = check(&device)?;
    let mut report = json!({ "program": "deltaw doctor", "device": about, "checks": checked });
    if !args.no_speed {
        // The software driver's times are its own; its sizes keep the run short.
        let tokens = if emulated { 128 } else { 2048 };
        let peaks = cuda.filter(|_| !emulated).map(peaks).transpose()?;
        if let Some((flops, bytes)) = peaks {
            println!(
                "predicted peaks: {:.1} TFLOP/s of f32, {:.0} GB/s",
                1e-12 * flops,
                1e-9 * bytes
            );
            report["predicted"] =
                json!({ "f32_tflop_per_s": 1e-12 * flops, "gb_per_s": 1e-9 * bytes });
        }
        if let Some(cuda) = cuda {
            report["overheads"] = overheads(&device, cuda)?;
        }
        report["families"] = time(speed::families(&device, tokens)?, cuda, peaks)?.into();
        if !emulated {
            report["products"] = time(speed::products(&device, tokens)?, cuda, peaks)?.into();
        }
    }
    std::fs::write(&args.out, serde_json::to_string_pretty(&report)? + "\n")
        .map_err(|e| format!("{}: {e}", args.out.display()))?;
    println!("{}", args.out.display());
    Ok(failed == 0)
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("doctor: {error}");
            ExitCode::from(2)
        }
    }
}
