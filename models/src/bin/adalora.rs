//! AdaLoRA (Zhang et al. 2023): at an equal budget, rank put where it matters beats rank spread evenly.
//!
//! An encoder is pre-trained by masked-token modelling on the King James Bible and WordNet's glosses, then fine-tuned on
//! movie-review sentiment (tested on reviews and, shifted, on tweets) and on WordNet entailment ("is W a kind of H").

use std::process::ExitCode;

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::Device;
use deltaw_models::data::{corpus, split::Fractions, tasks, text::Example, tokenizer::Tokenizer};
use deltaw_models::encoder::EncoderConfig;
use deltaw_models::experiment::{
    self, Cell, CellId, Error, Figure, Matrix, Metric, Paper, Result, Run, Scales, Verdict,
};
use deltaw_models::methods::adalora::{AdaLora, Importance};
use deltaw_models::methods::selective::{BitFit, Full};
use deltaw_models::methods::{Method, lora::Lora};
use deltaw_models::train::{self, Recipe};

const TOKENS: usize = 64;

const PAPER: Paper = Paper {
    slug: "adalora",
    title: "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
    year: 2023,
    claim: "At the same number of trained parameters, pruning the singular triplets that matter least over the whole model does better than giving every matrix the same rank, most of all at low budgets.",
    reference: "Zhang, Chen, Bukharin, Karampatziakis, He, Cheng, Chen, Zhao; ICLR 2023",
    tasks: &[
        (
            "movie",
            "sentiment of movie reviews, trained and tested on them",
        ),
        ("tweet", "the same models tested on tweets"),
        ("kind-of", "WordNet: is W a kind of H"),
    ],
    arms: &[
        ("full", "every parameter"),
        ("bitfit", "biases"),
        ("lora r=2", "every block linear, rank 2"),
        ("adalora r=2", "from rank 3 down to 2 on average"),
        ("lora r=8", "rank 8"),
        ("adalora r=8", "from rank 12 down to 8 on average"),
        ("adalora r=2, no orthogonality", "γ = 0"),
        ("adalora r=2, magnitude", "triplets scored by |λ|"),
    ],
    seeds: Scales {
        quick: 2,
        default: 3,
        full: 8,
    },
    figures: &[
        Figure::unverified(
            "GLUE average at 0.32M parameters (DeBERTaV3-base)",
            "adalora r=2",
            "88.86",
            "from memory",
        ),
        Figure::unverified(
            "GLUE average at 0.32M parameters (DeBERTaV3-base)",
            "lora r=2",
            "88.15",
            "from memory",
        ),
        Figure::unverified(
            "GLUE average at 1.3M parameters",
            "adalora r=8",
            "89.31",
            "from memory",
        ),
        Figure::unverified(
            "GLUE average at 1.3M parameters",
            "lora r=8",
            "88.34",
            "from memory",
        ),
        Figure::unverified("GLUE average", "full", "88.09", "from memory"),
    ],
    scale: "The paper tunes DeBERTaV3-base (184M parameters) on GLUE; here a four-block encoder of width 128 is pre-trained for minutes.",
    ..Paper::BLANK
};

fn arms() -> Vec<Box<dyn Method>> {
    let variant = |change: fn(&mut AdaLora)| {
        let mut method = AdaLora::target_rank(2);
        change(&mut method);
        Box::new(method) as Box<dyn Method>
    };
    vec![
        Box::new(Full),
        Box::new(BitFit),
        Box::new(Lora::rank(2)),
        Box::new(AdaLora::target_rank(2)),
        Box::new(Lora::rank(8)),
        Box::new(AdaLora::target_rank(8)),
        variant(|m| m.gamma = 0.0),
        variant(|m| m.importance = Importance::Magnitude),
    ]
}

fn experiment(run: &mut Run) -> Result<Verdict> {
    let (device, fractions, tokenizer) =
        (Device::cpu(), Fractions::default(), Tokenizer::shipped()?);
    let config = EncoderConfig::small(tokenizer.vocabulary(), TOKENS);
    let pretraining = Recipe::new(run.pick(20, 600, 4000), 1e-3);
    let base = run.stage("pre-train", &(&config, &pretraining), |stage| {
        let mut documents = corpus::scripture(&fractions, |_| true)?.train;
        documents.extend(corpus::glosses(&fractions)?.train);
        let stream = tokenizer.stream(&documents, tokenizer.special().sep.unwrap_or(0))?;
        train::pretrain(
            stage,
            &config,
            &tokenizer,
            &stream,
            TOKENS,
            &pretraining,
            &device,
        )
    })?;
    let weights = checkpoint::load(&base.artefact(train::WEIGHTS))?;
    let (steps, rates) = (
        run.pick(10, 120, 500),
        run.pick(
            vec![2e-3f32],
            vec![1e-3, 4e-3],
            vec![5e-4, 1e-3, 2e-3, 4e-3, 8e-3],
        ),
    );
    let tuning_seeds: Vec<u64> = (101..101 + run.pick(1, 1, 2)).collect();
    // Examples to train on and to score: the whole splits only in the full run.
    let (most, scored) = (
        run.pick(256, 8000, usize::MAX),
        run.pick(64, 1000, usize::MAX),
    );
    // Evenly spaced, since splits stand in the order of their source.
    let encode = |examples: &[Example], most: usize| {
        let step = examples.len().div_ceil(most).max(1);
        tokenizer.encode_examples(
            &examples.iter().step_by(step).cloned().collect::<Vec<_>>(),
            TOKENS,
        )
    };
    let methods = arms();
    let names: Vec<String> = methods.iter().map(|m| m.name()).collect();
    for (task_name, tests) in [
        (
            "sentiment-movie",
            vec![("movie", "sentiment-movie"), ("tweet", "sentiment-tweet")],
        ),
        ("kind-of", vec![("kind-of", "kind-of")]),
    ] {
        let task = tasks::text_task(task_name, &fractions)?;
        let (training, validation) = (
            encode(&task.splits.train, most)?,
            encode(&task.splits.validation, scored)?,
        );
        let sets = tests
            .iter()
            .map(|(test, set)| {
                Ok((
                    *test,
                    encode(&tasks::text_task(set, &fractions)?.splits.test, scored)?,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let outputs = task.objective.outputs();
        let method_of = |name: &str| {
            methods
                .iter()
                .find(|m| m.name() == name)
                .ok_or_else(|| Error::Invalid(format!("no arm `{name}`")))
        };
        let key = (base.id(), task_name, steps, most, scored);
        let tuned = run.grid(
            &format!("learning rate, {task_name}"),
            &Metric::accuracy(),
            &key,
            &names,
            &rates,
            &tuning_seeds,
            |trial, stage| {
                let recipe = Recipe::new(steps, *trial.candidate);
                let outcome = train::fine_tune(
                    stage,
                    &config,
                    &weights,
                    &**method_of(trial.arm)?,
                    &training,
                    outputs,
                    &recipe,
                    trial.seed,
                    &device,
                )?;
                let right = outcome.model.right(stage, &validation)?;
                Ok(100.0 * right.iter().filter(|r| **r).count() as f64 / right.len() as f64)
            },
        )?;
        for name in &names {
            let recipe = Recipe::new(steps, *tuned.best(name)?);
            for seed in run.seeds() {
                let trained = run.stage("fine-tune", &(&key, name, &recipe, seed), |stage| {
                    let outcome = train::fine_tune(
                        stage,
                        &config,
                        &weights,
                        &**method_of(name)?,
                        &training,
                        outputs,
                        &recipe,
                        seed,
                        &device,
                    )?;
                    let mut cells = vec![];
                    for (test, set) in &sets {
                        let cell = Cell::new()
                            .accuracy(outcome.model.right(stage, set)?)
                            .trainable(outcome.parameters)
                            .curve("loss", outcome.curve.clone());
                        let ranks = rank_map(&outcome.ranks);
                        cells.push((
                            test.to_string(),
                            if outcome.ranks.is_empty() {
                                cell
                            } else {
                                cell.matrix("rank", ranks)
                            },
                        ));
                    }
                    Ok(cells)
                });
                match trained {
                    Ok(cells) => cells.iter().try_for_each(|(test, cell)| {
                        run.insert(CellId::new(name, test, seed), cell.clone())
                    })?,
                    Err(diverged @ Error::Diverged { .. }) => run.note(&format!(
                        "{name}, {task_name}, seed {seed}: {diverged}; the other runs go on"
                    )),
                    Err(other) => return Err(other),
                }
            }
        }
    }
    let scores = run.scores(Metric::accuracy());
    Verdict::all([
        scores.claim("adalora r=2").superior_to("lora r=2"),
        scores.claim("adalora r=8").within(0.5, "lora r=8"),
    ])
}

/// Kept rank by layer (rows) and matrix (columns).
fn rank_map(ranks: &[(String, usize)]) -> Matrix {
    let split = |path: &str| {
        let rest = path.strip_prefix("bert.encoder.layer.").unwrap_or(path);
        let (layer, matrix) = rest.split_once('.').unwrap_or(("0", rest));
        (
            layer.to_string(),
            matrix.replace(".self", "").replace(".dense", ""),
        )
    };
    let mut rows: Vec<String> = ranks.iter().map(|(path, _)| split(path).0).collect();
    rows.dedup();
    let columns: Vec<String> = ranks
        .iter()
        .map(|(path, _)| split(path))
        .filter(|(layer, _)| Some(layer) == rows.first())
        .map(|(_, matrix)| matrix)
        .collect();
    let values = ranks.iter().map(|(_, rank)| Some(*rank as f64)).collect();
    Matrix {
        caption: "rank kept".into(),
        rows,
        columns,
        values,
    }
}

fn main() -> ExitCode {
    experiment::main(&PAPER, experiment)
}
