//! A paper that trains nothing: numbers drawn from a seeded generator take the place of accuracies. It is the
//! smallest complete user of the harness, and what the harness is tested with.
//!
//! `SYNTHETIC_STEP_MS` slows its steps down; `SYNTHETIC_ABORT=stage` ends the process in the middle of the stage
//! of that number, as `kill -9` would; `SYNTHETIC_NAN` names an arm that diverges with seed 2.

use std::process::ExitCode;
use std::time::Duration;

use deltaw_models::experiment::rng::Rng;
use deltaw_models::experiment::*;

const PAPER: Paper = Paper {
    slug: "synthetic-paper",
    title: "Synthetic budgets: rank where it matters",
    year: 2023,
    claim: "At an equal budget, rank put where it matters beats rank spread evenly, most of all when there is little.",
    reference: "No paper: the harness's own example.",
    tasks: &[
        ("sentiment", "made-up film reviews"),
        ("entailment", "made-up hypernyms"),
    ],
    arms: &[
        ("full", "every weight"),
        ("bitfit", "biases only"),
        ("lora r=2", "the same rank everywhere"),
        ("adaptive r=2", "rank moved to where it matters"),
        ("lora r=8", "the same rank everywhere"),
        ("adaptive r=8", "rank moved to where it matters"),
    ],
    seeds: Scales {
        quick: 2,
        default: 5,
        full: 12,
    },
    figures: &[
        Figure::unverified(
            "GLUE average, 0.32M parameters",
            "adaptive r=2",
            "88.86",
            "from memory",
        ),
        Figure::verified(
            "GLUE average, 0.33M parameters",
            "lora r=2",
            "88.15",
            "Table 1",
        ),
        Figure::verified("GLUE average, all parameters", "full", "88.09", "Table 1"),
    ],
    scale: "numbers from a generator instead of a model of 184M parameters.",
    notes: &["Nothing here is evidence of anything."],
    source: include_str!("synthetic-paper.rs"),
    ..Paper::BLANK
};

/// Per arm: trainable parameters, accuracy to come, matched to the order of the paper's claim.
const TRUTH: [(&str, usize, f64); 6] = [
    ("full", 3_200_000, 84.0),
    ("bitfit", 9_200, 79.0),
    ("lora r=2", 49_000, 81.0),
    ("adaptive r=2", 49_400, 83.6),
    ("lora r=8", 197_000, 83.4),
    ("adaptive r=8", 197_600, 83.7),
];

fn experiment(run: &mut Run) -> Result<Verdict> {
    let steps = run.pick(20, 60, 200);
    run.config("steps", steps)?;
    run.config("optimiser", "none")?;
    let base = run.stage("pre-train", &steps, |stage| {
        let loss = descend(stage, steps, 0, 0.0)?.last().map_or(0.0, |p| p.1);
        stage.save_artefact("weights.bin", &loss.to_le_bytes())?;
        Ok(loss)
    })?;
    let names = TRUTH.map(|t| t.0);
    let accuracy = Metric::accuracy();
    let rates = run.grid(
        "learning rate",
        &accuracy,
        &&base,
        &names,
        &[1e-4f64, 1e-3, 1e-2],
        &[101],
        |trial, _| {
            let mut rng = Rng::new(trial.seed ^ trial.arm.len() as u64);
            Ok(80.0 - (trial.candidate.log10() + 3.0).abs() * 4.0 + rng.normal())
        },
    )?;
    let seeds = run.seeds();
    run.expect("fine-tune", names.len() * seeds.len() * 2);
    for (arm, trainable, level) in TRUTH {
        for (task, shift) in [("sentiment", 0.0), ("entailment", -6.0)] {
            for &seed in &seeds {
                let key = (&base, steps, rates.best(arm)?);
                run.cell("fine-tune", CellId::new(arm, task, seed), &key, |stage| {
                    let curve = descend(stage, steps, seed, level)?;
                    if seed == 2 && std::env::var("SYNTHETIC_NAN").is_ok_and(|name| name == arm) {
                        stage.finite(17, "loss", f64::NAN)?;
                    }
                    let right = answers(level + shift, seed, task);
                    let cell = Cell::new()
                        .trainable(trainable)
                        .curve("loss", curve)
                        .accuracy(right);
                    Ok(if arm.starts_with("adaptive") {
                        cell.matrix("rank", ranks(seed))
                    } else {
                        cell
                    })
                })?;
            }
        }
    }
    let scores = run.scores(accuracy);
    Verdict::all([
        scores.claim("adaptive r=2").superior_to("lora r=2"),
        scores.claim("adaptive r=8").within(1.5, "lora r=8"),
        scores.claim("full").ordered(["lora r=2", "bitfit"]).aside(),
        Claim::invariant("the budget was kept in every step", true),
    ])
    .map(|verdict| verdict.needing_seeds(5))
}

/// A falling loss: the state is the whole curve and the generator's position, kept and taken up again.
fn descend(stage: &mut Stage<'_>, steps: u64, seed: u64, level: f64) -> Result<Vec<(u64, f64)>> {
    let slow = std::env::var("SYNTHETIC_STEP_MS")
        .ok()
        .and_then(|ms| ms.parse().ok());
    let mut curve: Vec<(u64, f64)> = stage
        .resume()
        .and_then(|state| serde_json::from_slice(&state).ok())
        .unwrap_or_default();
    for step in curve.len() as u64..steps {
        let noise = Rng::new(seed << 32 | step).normal();
        let loss =
            0.4 + 2.0 * (-(step as f64) / steps as f64 * 4.0).exp() - level / 200.0 + 0.04 * noise;
        curve.push((step, stage.finite(step, "loss", loss)?));
        stage.step(step + 1, steps, || {
            serde_json::to_vec(&curve).map_err(Error::other)
        })?;
        if let Some(ms) = slow {
            std::thread::sleep(Duration::from_millis(ms));
        }
        if step == steps / 2 {
            count_down(stage, &curve)?;
        }
    }
    Ok(curve)
}

/// Ends the process in the middle of the stage that `SYNTHETIC_ABORT` names, after a checkpoint.
fn count_down(stage: &mut Stage<'_>, curve: &[(u64, f64)]) -> Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static STAGES: AtomicU64 = AtomicU64::new(0);
    let number = STAGES.fetch_add(1, Relaxed);
    if std::env::var("SYNTHETIC_ABORT").is_ok_and(|wanted| wanted == number.to_string()) {
        stage.checkpoint(&serde_json::to_vec(curve).map_err(Error::other)?)?;
        std::process::abort();
    }
    Ok(())
}

/// 400 test items, right with the given chance; the items are as hard for every seed.
fn answers(percent: f64, seed: u64, task: &str) -> Vec<bool> {
    let mut shared = Rng::new(task.len() as u64);
    let mut own = Rng::new(seed * 31 + percent.to_bits() % 97);
    let wobble = own.normal() * 0.4;
    (0..400)
        .map(|_| 100.0 * (0.7 * shared.unit() + 0.3 * own.unit()) < (percent + wobble) * 0.86)
        .collect()
}

fn ranks(seed: u64) -> Matrix {
    let mut rng = Rng::new(seed);
    let rows: Vec<String> = (1..=4).map(|l| format!("layer {l}")).collect();
    let columns: Vec<String> = ["query", "key", "value", "output", "up", "down"]
        .map(String::from)
        .into();
    let values = (0..24)
        .map(|i| Some((i / 6 + i % 6) as f64 + rng.below(3) as f64))
        .collect();
    Matrix {
        caption: "Final rank of each matrix.".into(),
        rows,
        columns,
        values,
    }
}

fn main() -> ExitCode {
    deltaw_models::experiment::main(&PAPER, experiment)
}
