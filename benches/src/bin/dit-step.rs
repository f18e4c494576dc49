//! Times one step of a diffusion transformer: of training, or of sampling with guidance. Prints one JSON line.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use deltaw_benches::bound::median;
use deltaw_benches::memory;
use deltaw_engine::cpu::{simd, threads};
use deltaw_engine::optim::AdamW;
use deltaw_engine::prelude::*;
use deltaw_models::diffusion::{Process, Sampler, sample};
use deltaw_models::dit::{Dit, DitConfig};
use deltaw_models::experiment::environment;
use deltaw_models::methods::Method as _;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::selective::Full;
use serde_json::json;

const SIDE: usize = 32;
const PATCH: usize = 4;
const CHANNELS: usize = 3;
const CLASSES: usize = 10;
const GUIDANCE: f64 = 1.5;

/// Time one step of DiT on the CPU: f32, fixed random inputs of 3×32×32 in patches of 4, head width 64.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  dit-step --method lora
  benches/peers/diffusers_dit.py --command target/release/dit-step --method all

The JSON line: median_ms and fastest_ms over the timed steps, peak_rss_mib and rss_before_model_mib.")]
struct Arguments {
    #[arg(long, value_enum, default_value = "full")]
    method: Method,
    /// Pictures per step.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Width of the model.
    #[arg(long, default_value_t = 256)]
    dim: usize,
    /// Blocks.
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Rank of the low-rank updates.
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Threads; 0 takes one per core.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Timed steps; the median counts.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Steps before the clock starts.
    #[arg(long, default_value_t = 5)]
    warmup: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// A training step of every parameter.
    Full,
    /// A training step of LoRA on every linear of the blocks.
    Lora,
    /// A step of DDIM with guidance: a pass of twice the batch, and the move.
    Sample,
}

/// Milliseconds of each timed step.
fn timed(args: &Arguments, mut step: impl FnMut(u64) -> Result<()>) -> Result<Vec<f64>> {
    let mut milliseconds = vec![];
    for i in 0..args.warmup + args.steps {
        let start = Instant::now();
        step(i as u64)?;
        if i >= args.warmup {
            milliseconds.push(1e3 * start.elapsed().as_secs_f64());
        }
    }
    Ok(milliseconds)
}

fn run(args: &Arguments) -> std::result::Result<(), Box<dyn std::error::Error>> {
    if [args.batch, args.dim, args.layers, args.rank, args.steps].contains(&0) {
        return Err("batch, dim, layers, rank and steps must be at least 1".into());
    }
    threads::set_threads(args.threads);
    let before = memory::resident_mib();
    let (device, store) = (Device::cpu(), Store::new(&Device::cpu(), 0));
    let config = DitConfig {
        num_attention_heads: (args.dim / 64).max(1),
        attention_head_dim: args.dim.min(64),
        ..DitConfig::small(SIDE, PATCH, CHANNELS, args.dim, args.layers, CLASSES)
    };
    let dit = Dit::new(&store.root(), &config, None)?;
    let shape = [args.batch, CHANNELS, SIDE, SIDE];
    let (x0, noise) = (
        Tensor::randn(&shape, 1, &device)?,
        Tensor::randn(&shape, 2, &device)?,
    );
    let classes: Vec<u32> = (0..args.batch as u32).map(|i| i % CLASSES as u32).collect();
    let labels = Tensor::from_slice(&classes, &[args.batch], &device)?;
    let process = Process::linear(1000);
    let t: Vec<u32> = (0..args.batch as u32).map(|i| i * 97 % 1000).collect();
    let asked: Vec<f32> = t.iter().map(|t| *t as f32).collect();
    let _attached = match args.method {
        Method::Lora => Lora::rank(args.rank).attach(&store, &[])?,
        Method::Full | Method::Sample => Full.attach(&store, &[])?,
    };
    let (params, mut optimiser) = (store.trained(), AdamW::new(0.01));
    let mut milliseconds = match args.method {
        Method::Full | Method::Lora => timed(args, |step| {
            let noised = process.noised(&x0, &noise, &t)?;
            let predicted = dit.forward(&Context::train(0, step), &noised, &asked, &labels)?;
            let loss = process.loss(&predicted, &x0, &noise, &t)?;
            let grads = backward(&loss)?;
            optimiser.step(&params, &grads, 1e-4)
        })?,
        Method::Sample => {
            let last = process.spaced(1);
            timed(args, |step| {
                let (ctx, sampler) = (Context::eval(), Sampler::Ddim { eta: 0.0 });
                let predict = |x: &Tensor, t: u32| {
                    dit.guided(&ctx, x, &vec![t as f32; args.batch], &labels, GUIDANCE)
                };
                sample(&last, sampler, &shape, (step, 0), true, &device, predict).map(drop)
            })?
        }
    };
    let rounded = |x: f64| (x * 1e3).round() / 1e3;
    let fastest = milliseconds.iter().copied().fold(f64::INFINITY, f64::min);
    let line = json!({
        "program": "deltaw", "model": "dit", "method": environment::name(args.method), "batch": args.batch, "seq": (SIDE / PATCH).pow(2),
        "dim": args.dim, "layers": args.layers, "rank": args.rank, "threads": threads::threads(),
        "isa": simd::isa().name(), "trainable_parameters": store.count_trained(),
        "median_ms": rounded(median(&mut milliseconds)), "fastest_ms": rounded(fastest),
        "peak_rss_mib": rounded(memory::peak_mib()), "rss_before_model_mib": rounded(before),
    });
    println!("{line}");
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dit-step: {error}");
            ExitCode::FAILURE
        }
    }
}
