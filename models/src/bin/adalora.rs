//! AdaLoRA (Zhang et al. 2023): at an equal budget, rank put where it matters beats rank spread evenly.
//!
//! A byte-level encoder learns English from the King James Bible by masked-token modelling and is then fine-tuned on modern
//! text: it is to find misspelt dictionary definitions (tested on definitions and, shifted, on tweets), and to restore hidden
//! letters in film reviews (tested on reviews and, shifted, on tweets).

use std::process::ExitCode;

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::{Device, Weights};
use deltaw_models::data::batch::EncodedText;
use deltaw_models::data::corpus::{self, Stream};
use deltaw_models::data::sentiment::Domain;
use deltaw_models::data::split::{Fractions, Splits};
use deltaw_models::data::tasks::spelling;
use deltaw_models::data::text::Example;
use deltaw_models::data::tokenizer::Tokenizer;
use deltaw_models::encoder::EncoderConfig;
use deltaw_models::experiment::{
    self, Cell, CellId, Figure, Matrix, Metric, Paper, Result, Run, Scales, Stage, Verdict,
};
use deltaw_models::methods::adalora::{AdaLora, Importance};
use deltaw_models::methods::selective::{BitFit, Full};
use deltaw_models::methods::{Method, lora::Lora};
use deltaw_models::train::{self, Classifier, Learner, MaskedLm, Recipe, classify, masked};

/// Bytes per passage, `[CLS]` and `[SEP]` included.
const COLUMNS: usize = 32;
/// Pairs of letters swapped in a misspelt passage.
const SWAPS: usize = 2;

const PAPER: Paper = Paper {
    slug: "adalora",
    title: "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
    year: 2023,
    claim: "At the same number of trained parameters, pruning the singular triplets that matter least over the whole model does better than giving every matrix the same rank, most of all at low budgets.",
    reference: "Zhang, Chen, Bukharin, Karampatziakis, He, Cheng, Chen, Zhao; ICLR 2023",
    tasks: &[
        (
            "spelling",
            "is a passage of a definition misspelt? trained on definitions",
        ),
        ("spelling, tweets", "the same models on tweets"),
        (
            "letters",
            "hidden letters of film reviews; trained on reviews",
        ),
        ("letters, tweets", "the same models on tweets"),
    ],
    arms: &[
        ("full", "every parameter"),
        ("bitfit", "biases"),
        ("lora r=2", "every linear of the blocks, rank 2"),
        ("adalora r=2", "from rank 3 down to 2 on average"),
        ("lora r=8", "rank 8"),
        ("adalora r=8", "from rank 12 down to 8 on average"),
        ("adalora r=2, no orthogonality", "γ = 0"),
        ("adalora r=2, magnitude", "triplets scored by |λ|"),
    ],
    seeds: Scales {
        quick: 2,
        default: 3,
        full: 10,
    },
    figures: &[
        Figure::unverified(
            "GLUE average at 0.32M parameters",
            "adalora r=2",
            "88.86",
            "from memory",
        ),
        Figure::unverified(
            "GLUE average at 0.32M parameters",
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
    scale: "The paper tunes DeBERTaV3-base (184M parameters, pre-trained on 160 GB of text) on GLUE; here an encoder of three blocks of width 96 (0.4M parameters) reads bytes, is pre-trained on 4 MB for a minute or a few, and is tuned for some hundred steps.",
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

/// The pre-trained encoder and what reads and writes its text.
struct Base {
    config: EncoderConfig,
    tokenizer: Tokenizer,
    weights: Weights,
    cloze: masked::Cloze,
    device: Device,
}

/// A task with the sets that its models are scored on.
enum Task {
    Spelling {
        train: EncodedText,
        validation: EncodedText,
        tests: [EncodedText; 2],
    },
    Letters {
        train: Stream,
        validation: Stream,
        tests: [Stream; 2],
        windows: usize,
    },
}

/// On which split a trained model is scored.
#[derive(Clone, Copy, PartialEq)]
enum Score {
    Validation,
    Tests,
}

impl Task {
    /// At most `most` items per test, evenly spaced; a passage and its misspelt twin stay together.
    fn spelling(base: &Base, fractions: &Fractions, most: usize) -> Result<Self> {
        let task = |name, texts| spelling::spelling(name, texts, COLUMNS - 2, SWAPS);
        let definitions = corpus::definitions(fractions)?;
        let glosses = task(
            "spelling",
            definitions.map(|part| part.into_iter().map(|d| d.1).collect()),
        )?;
        let tweets = task(
            "spelling, tweets",
            whole(corpus::reviews(fractions, &[Domain::Tweet])?),
        )?;
        let encode = |examples: &[Example], most: usize| {
            let pairs = examples.chunks(2);
            let step = pairs.len().div_ceil(most / 2).max(1);
            let some: Vec<Example> = pairs.step_by(step).flatten().cloned().collect();
            base.tokenizer.encode_examples(&some, COLUMNS)
        };
        Ok(Task::Spelling {
            train: encode(&glosses.splits.train, usize::MAX)?,
            validation: encode(&glosses.splits.validation, most)?,
            tests: [
                encode(&glosses.splits.test, most)?,
                encode(&tweets.splits.test, most)?,
            ],
        })
    }

    /// A test asks for four letters in each of `most` / 4 windows.
    fn letters(base: &Base, fractions: &Fractions, most: usize) -> Result<Self> {
        let separator = base.tokenizer.special().sep.unwrap_or(0);
        let stream = |texts: &[String]| base.tokenizer.stream(texts, separator);
        let reviews = corpus::reviews(fractions, &[Domain::Movie])?;
        let tweets = whole(corpus::reviews(fractions, &[Domain::Tweet])?);
        Ok(Task::Letters {
            train: stream(&reviews.train)?,
            validation: stream(&reviews.validation)?,
            tests: [stream(&reviews.test)?, stream(&tweets.test)?],
            windows: most / base.cloze.asked,
        })
    }

    /// Fine-tunes a new copy of the base and scores it: a cell for each test, or one for validation.
    fn run(
        &self,
        base: &Base,
        method: &dyn Method,
        recipe: &Recipe,
        seed: u64,
        score: Score,
        stage: &mut Stage<'_>,
    ) -> Result<Vec<Cell>> {
        let (mut attached, curve, right);
        match self {
            Task::Spelling {
                train,
                validation,
                tests,
            } => {
                let model =
                    Classifier::new(&base.config, &base.weights, train, 2, seed, &base.device)?;
                attached = method.attach(model.store(), &classify::HEADS)?;
                curve = train::fit(stage, &model, Some(&mut *attached), recipe, seed)?;
                let sets: &[EncodedText] = if score == Score::Tests {
                    tests
                } else {
                    std::slice::from_ref(validation)
                };
                right = sets
                    .iter()
                    .map(|set| model.right(stage, set))
                    .collect::<Result<Vec<_>>>()?;
            }
            Task::Letters {
                train,
                validation,
                tests,
                windows,
            } => {
                let on = |stream| {
                    MaskedLm::new(
                        &base.config,
                        &base.tokenizer,
                        stream,
                        base.cloze,
                        seed,
                        &base.device,
                    )
                };
                let model = on(train)?;
                model.load(&base.weights)?;
                attached = method.attach(model.store(), &[])?;
                curve = train::fit(stage, &model, Some(&mut *attached), recipe, seed)?;
                let sets: &[Stream] = if score == Score::Tests {
                    tests
                } else {
                    std::slice::from_ref(validation)
                };
                right = sets
                    .iter()
                    .map(|set| model.right(stage, set, *windows))
                    .collect::<Result<Vec<_>>>()?;
            }
        }
        let mut cells: Vec<Cell> = right
            .into_iter()
            .map(|right| Cell::new().accuracy(right).trainable(attached.parameters()))
            .collect();
        // The tests share one training run: its curve and pattern stand with the first.
        if let Some(first) = cells.first_mut() {
            *first = std::mem::take(first).curve("loss", curve);
            let ranks = attached.ranks();
            if !ranks.is_empty() {
                *first = std::mem::take(first).matrix("rank", rank_map(&ranks));
            }
        }
        Ok(cells)
    }
}

/// A set of which nothing is trained or tuned on, all of it as test.
fn whole(texts: Splits<Vec<String>>) -> Splits<Vec<String>> {
    let Splits {
        train,
        validation,
        test,
    } = texts;
    Splits {
        test: [test, validation, train].concat(),
        ..Splits::default()
    }
}

fn experiment(run: &mut Run) -> Result<Verdict> {
    let fractions = Fractions::default();
    let (tokenizer, device) = (Tokenizer::bytes()?, Device::cpu());
    let config = EncoderConfig {
        hidden_size: 96,
        intermediate_size: 384,
        num_hidden_layers: 3,
        ..EncoderConfig::small(tokenizer.vocabulary(), COLUMNS)
    };
    let cloze = masked::Cloze {
        columns: COLUMNS,
        rate: 0.2,
        asked: 4,
    };
    let pretraining = Recipe::new(run.pick(30, 1000, 2000), 64, 4e-3);
    let pretrained = run.stage("pre-train", &(&config, cloze, &pretraining), |stage| {
        let chapters = corpus::scripture(&fractions, |_| true)?.train;
        let stream = tokenizer.stream(&chapters, tokenizer.special().sep.unwrap_or(0))?;
        masked::pretrain(
            stage,
            &config,
            &tokenizer,
            &stream,
            cloze,
            &pretraining,
            &device,
        )
    })?;
    let weights = checkpoint::load(&pretrained.artefact(masked::WEIGHTS))?;
    let base = Base {
        config,
        tokenizer,
        weights,
        cloze,
        device,
    };

    let (steps, batch) = (run.pick(8, 150, 300), run.pick(16, 32, 32));
    let most = run.pick(64, 1000, 2000);
    let mut methods = arms();
    if run.scale() == experiment::Scale::Default {
        methods.truncate(6); // The ablations are --full's.
    }
    let names: Vec<String> = methods.iter().map(|m| m.name()).collect();
    run.config(
        "optimiser",
        "AdamW, linear warm-up over a tenth of the steps and decay, gradients clipped to norm 1",
    )?;
    for (what, value) in [
        ("pre-training steps", pretraining.steps),
        ("fine-tuning steps", steps),
        ("fine-tuning batch", batch as u64),
        ("test items", most as u64),
    ] {
        run.config(what, value)?;
    }
    let tasks = [
        (
            ["spelling", "spelling, tweets"],
            Task::spelling(&base, &fractions, most)?,
        ),
        (
            ["letters", "letters, tweets"],
            Task::letters(&base, &fractions, most)?,
        ),
    ];
    run.expect("fine-tune", tasks.len() * methods.len() * run.seeds().len());
    for (tests, task) in &tasks {
        let key = (pretrained.id(), tests, steps, batch, most);
        let search = format!("learning rate, {}", tests[0]);
        let recorded =
            (run.scale() == experiment::Scale::Default).then(|| run.recorded::<f64>(&search));
        let tuned = match recorded.flatten() {
            Some(tuned) => tuned,
            None => run.grid(
                &search,
                &Metric::accuracy(),
                &key,
                &names,
                &run.pick(
                    vec![4e-3f64],
                    vec![2.5e-3, 1e-2],
                    vec![4e-4, 1e-3, 2.5e-3, 6.3e-3, 1.6e-2, 4e-2],
                ),
                &[101],
                |trial, stage| {
                    let method = methods.iter().find(|m| m.name() == trial.arm);
                    let method = method.ok_or_else(|| {
                        experiment::Error::Invalid(format!("no arm `{}`", trial.arm))
                    })?;
                    let recipe = Recipe::new(steps, batch, *trial.candidate as f32);
                    let cells = task.run(
                        &base,
                        &**method,
                        &recipe,
                        trial.seed,
                        Score::Validation,
                        stage,
                    )?;
                    Ok(cells[0].metrics["accuracy"])
                },
            )?,
        };
        for (method, name) in methods.iter().zip(&names) {
            for seed in run.seeds() {
                let ids = tests.map(|test| CellId::new(name, test, seed));
                let rate = tuned.best(name).ok().copied();
                run.cells("fine-tune", &ids, &(&key, rate), |stage| {
                    let recipe = Recipe::new(steps, batch, *tuned.best(name)? as f32);
                    task.run(&base, &**method, &recipe, seed, Score::Tests, stage)
                })?;
            }
        }
    }
    let scores = run.scores(Metric::accuracy());
    let mut claims = vec![
        scores.claim("adalora r=2").superior_to("lora r=2"),
        scores.claim("adalora r=8").within(0.5, "lora r=8"),
        scores.claim("lora r=8").superior_to("lora r=2").aside(),
        scores.claim("full").superior_to("bitfit").aside(),
    ];
    if names.len() > 6 {
        for part in &names[6..] {
            claims.push(scores.claim("adalora r=2").superior_to(part).aside());
        }
    }
    let rule = "reproduced if both claims hold; partly if AdaLoRA's mean is above LoRA's at r = 2 but not all of it is shown; \
                not reproduced if the mean is not above and the interval excludes an advantage of 0.5 points; else inconclusive";
    let verdict = Verdict::rule(rule, claims, |judged| {
        use experiment::Outcome::*;
        let (low, high) = (&judged[0], &judged[1]);
        match low.interval {
            Some(_) if low.holds() && high.holds() => Reproduced,
            Some(_) if low.estimate() > 0.0 => PartlyReproduced,
            Some((_, top)) if top < 0.5 => NotReproduced,
            _ => Inconclusive,
        }
    })?;
    Ok(verdict.needing_seeds(5))
}

/// Kept rank by layer (rows) and matrix (columns).
fn rank_map(ranks: &[(String, usize)]) -> Matrix {
    let split = |path: &str| {
        let rest = path.strip_prefix("bert.encoder.layer.").unwrap_or(path);
        let (layer, matrix) = rest.split_once('.').unwrap_or(("0", rest));
        let matrix = matrix
            .replace("attention.self.", "")
            .replace("attention.output", "attention output");
        (format!("block {layer}"), matrix.replace(".dense", ""))
    };
    let mut rows: Vec<String> = ranks.iter().map(|(path, _)| split(path).0).collect();
    rows.dedup();
    let first = ranks
        .iter()
        .map(|(path, _)| split(path))
        .filter(|(row, _)| Some(row) == rows.first());
    Matrix {
        caption: "Rank kept of each matrix.".into(),
        columns: first.map(|(_, matrix)| matrix).collect(),
        values: ranks.iter().map(|(_, rank)| Some(*rank as f64)).collect(),
        rows,
    }
}

fn main() -> ExitCode {
    experiment::main(&PAPER, experiment)
}
