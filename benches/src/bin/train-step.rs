//! Times one training step: forward, backward, AdamW. Prints one JSON line.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use deltaw_benches::bound::{median, rate, rate_on};
use deltaw_benches::subject::{Method, Model, Sizes, Subject};
use deltaw_benches::{memory, profile};
use deltaw_engine::cpu::{simd, threads};
use deltaw_engine::device::cuda::Cuda;
use deltaw_engine::optim::AdamW;
use deltaw_engine::param::Param;
use deltaw_engine::tape::backward;
use deltaw_engine::{pool, trace};
use deltaw_models::experiment::{self, environment};
use serde_json::json;

/// Time one training step (forward, backward, AdamW), f32, fixed random inputs.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  train-step --model gpt --method lora
  train-step --model bert --method full --profile trace.json
  benches/peers/pytorch_peft.py --command \"target/release/train-step\" --model bert --method lora

The JSON line: median_ms and fastest_ms over the timed steps; tokens_per_s; peak_rss_mib and rss_before_model_mib;
on a GPU peak_device_mib;
bound_ms, the step's matrix products (thin ones and attention's included) at the rate of a large product in the same run,
gflop_per_s; and over_bound, the ratio of the median to that bound.")]
struct Arguments {
    #[arg(long, value_enum, default_value = "gpt")]
    model: Model,
    #[arg(long, value_enum, default_value = "lora")]
    method: Method,
    /// Sequences per step.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Tokens per sequence.
    #[arg(long, default_value_t = 128)]
    seq: usize,
    /// Width of the model.
    #[arg(long, default_value_t = 256)]
    dim: usize,
    /// Heads; of width 64 unless said otherwise.
    #[arg(long)]
    heads: Option<usize>,
    /// Blocks.
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Rank of the low-rank updates.
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Threads; 0 takes one per core.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// cpu, cuda, or with the feature `emulated` emulated, whose times say nothing of a GPU.
    #[arg(long, default_value = "cpu")]
    device: experiment::Device,
    /// Let a GPU's tensor cores make the products, of factors rounded to 11 bits.
    #[arg(long)]
    tf32: bool,
    /// Instruction set: scalar, avx2 or avx512; the widest that the CPU has unless given.
    #[arg(long)]
    isa: Option<simd::Isa>,
    /// Timed steps; the median counts.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Steps before the clock starts.
    #[arg(long, default_value_t = 5)]
    warmup: usize,
    /// Write a Chrome trace of the timed steps here, and the time per op to standard error.
    #[arg(long)]
    profile: Option<PathBuf>,
}

fn run(args: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(isa) = args.isa {
        simd::set_isa(isa)?;
    }
    if [
        args.batch,
        args.seq,
        args.dim,
        args.layers,
        args.rank,
        args.steps,
    ]
    .contains(&0)
    {
        return Err("batch, seq, dim, layers, rank and steps must be at least 1".into());
    }
    threads::set_threads(args.threads);
    let sizes = Sizes {
        batch: args.batch,
        seq: args.seq,
        dim: args.dim,
        heads: args.heads.unwrap_or((args.dim / 64).max(1)),
        layers: args.layers,
        rank: args.rank,
    };
    let device = environment::open(args.device)?;
    if let Some(cuda) = device.as_cuda() {
        cuda.set_tf32(args.tf32);
    }
    let finish = || device.as_cuda().map_or(Ok(()), Cuda::synchronize);
    let before = memory::resident_mib();
    let mut subject = Subject::new(args.model, args.method, sizes, &device)?;
    let params = subject.trained();
    let mut optimiser = AdamW::new(0.01);
    let (total, mut milliseconds, mut loss_value) =
        (1000 * (args.warmup + args.steps), Vec::new(), 0.0);
    for step in 0..args.warmup + args.steps {
        if step == args.warmup && args.profile.is_some() {
            trace::start();
        }
        let start = Instant::now();
        let loss = subject.loss(step as u64)?;
        loss_value = loss.item()?;
        let grads = backward(&loss)?;
        optimiser.step(&params, &grads, 1e-4)?;
        subject.after_step(step as u64, total as u64, &grads)?;
        drop((loss, grads));
        finish()?;
        if step >= args.warmup {
            milliseconds.push(1e3 * start.elapsed().as_secs_f64());
        }
    }
    trace::stop();
    if !loss_value.is_finite() {
        return Err(format!("the loss is {loss_value}").into());
    }
    if let Some(path) = &args.profile {
        eprint!("{}", profile::table(&trace::events(), args.steps));
        trace::write(File::create(path)?)?;
    }
    let (peak, usage) = (memory::peak_mib(), pool::usage());
    let rate = match device.as_cuda() {
        Some(cuda) => rate_on(cuda, &device, [subject.tokens, 4 * args.dim, args.dim])?,
        None => rate(subject.tokens, 4 * args.dim, args.dim),
    };
    let (work, fastest) = (
        subject.work,
        milliseconds.iter().copied().fold(f64::INFINITY, f64::min),
    );
    let (median, bound) = (median(&mut milliseconds), 1e-6 * work.total() / rate);
    let rounded = |x: f64| (x * 1e3).round() / 1e3;
    let peak_device = device
        .as_cuda()
        .map(|cuda| rounded(cuda.peak_bytes() as f64 / f64::from(1 << 20)));
    let line = json!({
        "device": environment::name(args.device), "tf32": args.tf32, "peak_device_mib": peak_device,
        "program": "deltaw", "model": environment::name(args.model), "method": environment::name(args.method),
        "batch": args.batch, "seq": args.seq, "dim": args.dim, "layers": args.layers, "heads": sizes.heads,
        "rank": args.rank, "threads": threads::threads(), "isa": simd::isa().name(),
        "trainable_parameters": params.iter().map(Param::len).sum::<usize>(), "tokens": subject.tokens,
        "median_ms": rounded(median), "fastest_ms": rounded(fastest),
        "tokens_per_s": rounded(1e3 * subject.tokens as f64 / median),
        "peak_rss_mib": rounded(peak), "rss_before_model_mib": rounded(before),
        "peak_pool_mib": rounded(usage.peak_total as f64 / f64::from(1 << 20)),
        "gflop_per_s": rounded(rate),
        "gflop": { "large": rounded(1e-9 * work.large), "thin": rounded(1e-9 * work.thin), "attention": rounded(1e-9 * work.attention) },
        "bound_ms": rounded(bound), "over_bound": rounded(median / bound), "loss": loss_value,
    });
    println!("{line}");
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train-step: {error}");
            ExitCode::FAILURE
        }
    }
}
