//! Times forward and backward of one frozen linear with a method's update, whenever standard input asks: the line
//! `METHOD M N TOKENS RANK` is answered by one line of JSON.

use std::io::{BufRead, stdin};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use deltaw_benches::bound::median;
use deltaw_engine::cpu::{simd, threads};
use deltaw_engine::pool;
use deltaw_engine::prelude::*;
use deltaw_models::layers::Linear;
use deltaw_models::methods::bone::Bone;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::miss::Miss;
use deltaw_models::methods::randlora::RandLora;
use deltaw_models::methods::snell::Snell;
use deltaw_models::methods::triadaptlora::TriAdaptLora;
use deltaw_models::methods::{Attached, Method};
use serde_json::{Value, json};

/// Time forward and backward of a frozen linear with an update, f32, on the CPU.
#[derive(Debug, Parser)]
#[command(after_help = "\
Example:
  echo snell 768 3072 2048 16 | update-step

M outputs, N inputs; METHOD is lora, randlora, triadaptlora (at its full rank), miss, bone or snell; RANK is bone's block. All but
the weight and the bias has a gradient. The answer: median_ms and fastest_ms, and peak_mib, the most that tensors took beyond
weight, input and parameters.")]
struct Arguments {
    /// Threads; 0 takes one per core.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Instruction set: scalar, avx2 or avx512; the widest that the CPU has unless given.
    #[arg(long)]
    isa: Option<simd::Isa>,
    /// Timed repetitions per line; the median counts.
    #[arg(long, default_value_t = 5)]
    steps: usize,
}

/// Whose update.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Update {
    Lora,
    Randlora,
    Triadaptlora,
    Miss,
    Bone,
    Snell,
}

impl Update {
    fn attach(self, rank: usize, store: &Store) -> Result<Box<dyn Attached>> {
        match self {
            Update::Lora => Lora::rank(rank).attach(store, &[]),
            Update::Randlora => RandLora::rank(rank).attach(store, &[]),
            Update::Triadaptlora => TriAdaptLora {
                initial_rank: rank,
                ..TriAdaptLora::target_rank(rank)
            }
            .attach(store, &[]),
            Update::Miss => Miss::rank(rank).attach(store, &[]),
            Update::Bone => Bone::block(rank).attach(store, &[]),
            Update::Snell => Snell::rank(rank).attach(store, &[]),
        }
    }
}

/// The answer to one line.
fn answer(line: &str, steps: usize) -> std::result::Result<Value, Box<dyn std::error::Error>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [method, sizes @ ..] = &words[..] else {
        return Err("an empty line; wanted METHOD M N TOKENS RANK".into());
    };
    let sizes: Vec<usize> = sizes
        .iter()
        .map(|word| word.parse())
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| format!("`{line}`: {error}"))?;
    let &[m, n, tokens, rank] = &sizes[..] else {
        return Err(format!("`{line}`; wanted METHOD M N TOKENS RANK").into());
    };
    let device = Device::cpu();
    let store = Store::new(&device, 0);
    let linear = Linear::new(&store.at("linear"), Role::MlpUp, 0, n, m)?;
    let _attached = Update::from_str(method, false)?.attach(rank, &store)?;
    let x = Tensor::randn(&[tokens, n], 1, &device)?.trained();
    let dy = Tensor::randn(&[tokens, m], 2, &device)?;
    let step = |k: u64| -> Result<f64> {
        let start = Instant::now();
        backward_with(&linear.forward(&Context::train(0, k), &x)?, dy.clone())?;
        Ok(1e3 * start.elapsed().as_secs_f64())
    };
    step(0)?;
    let before = pool::usage().live_total;
    pool::reset_peak();
    let mut milliseconds: Vec<f64> = (1..=steps as u64).map(step).collect::<Result<_>>()?;
    let peak = pool::usage().peak_total - before;
    let rounded = |x: f64| (x * 1e3).round() / 1e3;
    let middle = median(&mut milliseconds);
    Ok(json!({
        "program": "deltaw", "method": method, "m": m, "n": n, "tokens": tokens, "rank": rank, "threads": threads::threads(),
        "isa": simd::isa().name(), "median_ms": rounded(middle), "fastest_ms": rounded(milliseconds[0]),
        "peak_mib": rounded(peak as f64 / f64::from(1 << 20)),
    }))
}

fn run(args: &Arguments) -> std::result::Result<(), Box<dyn std::error::Error>> {
    if args.steps == 0 {
        return Err("--steps must be at least 1".into());
    }
    if let Some(isa) = args.isa {
        simd::set_isa(isa)?;
    }
    threads::set_threads(args.threads);
    for line in stdin().lock().lines() {
        println!("{}", answer(&line?, args.steps)?);
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("update-step: {error}");
            ExitCode::FAILURE
        }
    }
}
