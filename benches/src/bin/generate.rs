//! Times greedy text of a GPT-2-shaped decoder with random weights: beside the cache of keys and values, and from the whole text
//! for every token. Prints one JSON line.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use deltaw_engine::cpu::threads;
use deltaw_engine::prelude::*;
use deltaw_models::decoder::{Decoder, DecoderConfig, Generation};
use serde_json::json;

/// Time greedy generation, f32, on the CPU.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  generate --dim 512 --layers 6
  benches/peers/transformers_generate.py --command target/release/generate

The JSON line: prompt_ms, the first token; cached_ms, all tokens beside the cache; whole_ms, all tokens each from the whole
text; each the fastest of the rounds.")]
struct Arguments {
    /// Texts at a time.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Tokens per prompt.
    #[arg(long, default_value_t = 64)]
    prompt: usize,
    /// Tokens to add.
    #[arg(long, default_value_t = 64)]
    new: usize,
    /// Width of the model; heads are 64 wide.
    #[arg(long, default_value_t = 512)]
    dim: usize,
    /// Blocks.
    #[arg(long, default_value_t = 6)]
    layers: usize,
    /// Tokens in the vocabulary.
    #[arg(long, default_value_t = 2048)]
    vocabulary: usize,
    /// Threads; 0 takes one per core.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Leave the whole text's way out.
    #[arg(long)]
    cached_only: bool,
}

/// The likeliest tokens, each from the whole text before it.
fn whole(model: &Decoder, prompts: &[Vec<u32>], new: usize) -> Result<Vec<Vec<u32>>> {
    let mut texts = prompts.to_vec();
    for _ in 0..new {
        let len = texts[0].len();
        let ids = Tensor::from_slice(&texts.concat(), &[texts.len(), len], &Device::cpu())?;
        let ctx = Context::eval();
        let hidden = model.body(&ctx, &model.embed(&ctx, &ids, None)?, None)?;
        let logits = model.head(&ctx, &hidden.narrow(1, len - 1, 1)?.squeeze(1)?)?;
        for (text, token) in texts.iter_mut().zip(logits.argmax()?.to_vec::<u32>()?) {
            text.push(token);
        }
    }
    Ok(texts
        .iter()
        .zip(prompts)
        .map(|(t, p)| t[p.len()..].to_vec())
        .collect())
}

fn run(args: &Arguments) -> Result<()> {
    let Arguments {
        batch,
        prompt,
        new,
        dim,
        layers,
        vocabulary,
        rounds,
        ..
    } = *args;
    if [batch, prompt, new, layers, vocabulary, rounds].contains(&0) || !dim.is_multiple_of(64) {
        let detail = "sizes must be at least 1, and the width a multiple of 64";
        return Err(Error::Invalid(detail.into()));
    }
    threads::set_threads(args.threads);
    let store = Store::new(&Device::cpu(), 1);
    let config = DecoderConfig::gpt2(vocabulary, dim, layers, dim / 64, prompt + new);
    let model = Decoder::new(&store.root(), &config)?;
    let prompts: Vec<Vec<u32>> = (0..batch)
        .map(|row| {
            (0..prompt)
                .map(|t| ((31 * row + 17 * t) % vocabulary) as u32)
                .collect()
        })
        .collect();
    let slices: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let [mut first, mut cached, mut uncached] = [f64::INFINITY; 3];
    for _ in 0..rounds {
        let timed = |fastest: &mut f64, f: &dyn Fn() -> Result<Vec<Vec<u32>>>| {
            let start = Instant::now();
            let texts = f()?;
            *fastest = fastest.min(1e3 * start.elapsed().as_secs_f64());
            Ok::<_, Error>(texts)
        };
        timed(&mut first, &|| {
            model.generate_batch(&slices, &Generation::greedy(1))
        })?;
        let texts = timed(&mut cached, &|| {
            model.generate_batch(&slices, &Generation::greedy(new))
        })?;
        if !args.cached_only {
            let same = timed(&mut uncached, &|| no_grad(|| whole(&model, &prompts, new)))?;
            if same != texts {
                return Err(Error::Invalid("the two ways wrote different texts".into()));
            }
        }
    }
    let rounded = |x: f64| (x.is_finite()).then_some((x * 1e2).round() / 1e2);
    let line = json!({
        "batch": batch, "prompt": prompt, "new": new, "dim": dim, "layers": layers, "vocabulary": vocabulary,
        "threads": threads::threads(), "prompt_ms": rounded(first), "cached_ms": rounded(cached),
        "whole_ms": rounded(uncached), "whole_over_cached": rounded(uncached / cached),
        "tokens_per_s": rounded(1e3 * (batch * new) as f64 / cached),
    });
    println!("{line}");
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("generate: {e}");
            ExitCode::FAILURE
        }
    }
}
