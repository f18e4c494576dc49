//! AdaLoRA (Zhang et al. 2023): at an equal budget, rank put where it matters beats rank spread evenly.
//!
//! A byte-level encoder learns English from the King James Bible by masked-token modelling and is then fine-tuned on modern
//! text: it is to find misspelt dictionary definitions (tested on definitions and, shifted, on tweets), and to restore hidden
//! letters in film reviews (tested on reviews and, shifted, on tweets).

use std::process::ExitCode;

use deltaw_models::data::corpus;
use deltaw_models::data::sentiment::Domain;
use deltaw_models::data::split::{Fractions, Splits};
use deltaw_models::data::tasks::spelling;
use deltaw_models::data::tokenizer::Tokenizer;
use deltaw_models::data::user::{self, Labels};
use deltaw_models::encoder::EncoderConfig;
use deltaw_models::experiment::{
    self, Error, Figure, Metric, Outcome, Paper, Result, Run, Scale, Scales, Verdict,
};
use deltaw_models::methods::adalora::{AdaLora, Importance};
use deltaw_models::methods::selective::{BitFit, Full};
use deltaw_models::methods::{Method, lora::Lora};
use deltaw_models::train::masked::Cloze;
use deltaw_models::train::{Base, Comparison, Recipe, Task};

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
    source: include_str!("adalora.rs"),
    record: Some(include_str!("../../records/adalora/results.json")),
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

/// Three blocks of width 96 over bytes, pre-trained on the Bible; or the user's checkpoint.
fn base(run: &mut Run) -> Result<Base> {
    let options = run.options().clone();
    match (&options.checkpoint, &options.tokenizer, &options.data) {
        (Some(weights), Some(tokenizer), Some(_)) => return Base::from_files(weights, tokenizer, run),
        (None, None, _) => {}
        _ => return Err(Error::Invalid(
            "--checkpoint, --tokenizer and --data belong together: a model, its tokenizer.json, and what to fine-tune it on".into(),
        )),
    }
    let tokenizer = Tokenizer::bytes()?;
    let config = EncoderConfig {
        hidden_size: 96,
        intermediate_size: 384,
        num_hidden_layers: 3,
        ..EncoderConfig::small(tokenizer.vocabulary(), COLUMNS)
    };
    let cloze = Cloze {
        columns: COLUMNS,
        rate: 0.2,
        asked: 4,
    };
    let recipe = Recipe::new(run.pick(30, 1000, 2000), 64, 4e-3);
    run.config("pre-training steps", recipe.steps)?;
    Base::pretrained(run, config, tokenizer, cloze, &recipe, || {
        Ok(corpus::scripture(&Fractions::default(), |_| true)?.train)
    })
}

/// Misspelt definitions and hidden letters of reviews. At most `most` items are scored per test.
fn tasks(base: &Base, most: usize) -> Result<Vec<Task>> {
    let fractions = Fractions::default();
    let misspelt = |name, texts| spelling::spelling(name, texts, COLUMNS - 2, SWAPS);
    let definitions = corpus::definitions(&fractions)?;
    let definitions = definitions.map(|part| part.into_iter().map(|d| d.1).collect());
    let reviews = corpus::reviews(&fractions, &[Domain::Movie])?;
    // Nothing is trained or tuned on tweets: all of them are a test.
    let Splits {
        train,
        validation,
        test,
    } = corpus::reviews(&fractions, &[Domain::Tweet])?;
    let tweets = Splits {
        test: [test, validation, train].concat(),
        ..Splits::default()
    };
    let spelling = [
        ("spelling", &misspelt("spelling", definitions)?),
        (
            "spelling, tweets",
            &misspelt("spelling, tweets", tweets.clone())?,
        ),
    ];
    let letters = [
        ("letters", &reviews.test[..]),
        ("letters, tweets", &tweets.test[..]),
    ];
    Ok(vec![
        // A passage and its misspelt twin stay together.
        Task::classes(base, &spelling, most, 2)?,
        Task::cloze(base, &reviews.train, &reviews.validation, &letters, most)?,
    ])
}

fn experiment(run: &mut Run) -> Result<Verdict> {
    let most = run.pick(64, 1000, 2000);
    // A file that cannot be used should be known before the base is made.
    let own = run.options().data.as_ref();
    let own = own.map(|path| user::read(path, &Labels::Found, &Fractions::default()));
    let own = own.transpose()?;
    let base = base(run)?;
    let recipe = Recipe::new(run.pick(8, 150, 300), run.pick(16, 32, 32), 0.0);
    run.config(
        "optimiser",
        "AdamW, linear warm-up over a tenth of the steps and decay, gradients clipped to norm 1",
    )?;
    run.config("fine-tuning steps", recipe.steps)?;
    run.config("fine-tuning batch", recipe.batch)?;
    run.config("test items", most)?;
    let tasks = match &own {
        Some(task) => vec![Task::classes(&base, &[(&task.name, task)], most, 1)?],
        None => tasks(&base, most)?,
    };
    let mut methods = arms();
    if run.scale() == Scale::Default {
        methods.truncate(6); // The ablations are --full's.
    }
    let rates = match (run.scale(), own.is_some()) {
        (Scale::Quick, _) => vec![4e-3],
        (Scale::Default, false) => vec![2.5e-3, 6.3e-3, 1.6e-2],
        (Scale::Full, false) => vec![4e-4, 1e-3, 2.5e-3, 6.3e-3, 1.6e-2, 4e-2, 1e-1],
        (_, true) => vec![2e-5, 6e-5, 2e-4, 6e-4, 2e-3, 6e-3],
    };
    let comparison = Comparison {
        methods: &methods,
        recipe,
        rates,
        recorded_rates: run.scale() == Scale::Default && own.is_none(),
        most,
    };
    comparison.fill(run, &base, &tasks)?;

    let scores = run.scores(Metric::accuracy());
    let mut claims = vec![
        scores.claim("adalora r=2").superior_to("lora r=2"),
        scores.claim("adalora r=8").within(0.5, "lora r=8"),
        scores.claim("lora r=8").superior_to("lora r=2").aside(),
        scores.claim("full").superior_to("bitfit").aside(),
    ];
    for part in methods.iter().skip(6) {
        let without = part.name();
        claims.push(scores.claim("adalora r=2").superior_to(&without).aside());
    }
    let rule = "reproduced if both claims hold; partly if AdaLoRA's mean is above LoRA's at r = 2 but not all of it is shown; \
                not reproduced if the mean is not above and the interval excludes an advantage of 0.5 points; else inconclusive";
    let verdict = Verdict::rule(rule, claims, |judged| {
        let (low, high) = (&judged[0], &judged[1]);
        match low.interval {
            Some(_) if low.holds() && high.holds() => Outcome::Reproduced,
            Some(_) if low.estimate() > 0.0 => Outcome::PartlyReproduced,
            Some((_, top)) if top < 0.5 => Outcome::NotReproduced,
            _ => Outcome::Inconclusive,
        }
    })?;
    Ok(verdict.needing_seeds(5))
}

fn main() -> ExitCode {
    experiment::main(&PAPER, experiment)
}
