//! RandLoRA (Albert et al. 2025): what LoRA lacks beside full fine-tuning is rank, not numbers to train.
//!
//! A small vision transformer that knows Noto's emoji is taken to three other styles and to MNIST's digits, with few pictures and
//! with all; two towers that know Noto's emoji by their names name those of another hand; an encoder that has read the Bible learns
//! modern English. At two budgets RandLoRA's update of full rank stands beside LoRA, and beside itself with as many numbers
//! but a rank held down to LoRA's.

use std::process::ExitCode;

use deltaw_models::data::emoji::Style;
use deltaw_models::experiment::{self, Metric, Paper, Result, Run, Scale, Scales, Term, Verdict};
use deltaw_models::methods::Method;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::randlora::RandLora;
use deltaw_models::methods::selective::{Full, LinearProbe};
use deltaw_models::methods::vera::Vera;
use deltaw_models::train::captions::{Naming, Towers};
use deltaw_models::train::comparison::UPDATE_RANK;
use deltaw_models::train::{Comparison, Recipe, Task, english, pictures};

const PAPER: Paper = Paper {
    slug: "randlora",
    title: "RandLoRA: Full-Rank Parameter-Efficient Fine-Tuning of Large Models",
    year: 2025,
    claim: "At LoRA's number of trained parameters an update of full rank, a sum of fixed random low-rank products with trained diagonal scales, closes some of LoRA's gap to full fine-tuning: the gap is one of rank.",
    reference: "Albert, Zhang, Saratchandran, Rodriguez-Opazo, van den Hengel, Abbasnejad; PEFT's src/peft/tuners/randlora was read",
    tasks: &[
        (
            "twemoji, 8 shots",
            "the group of an emoji (9 classes), 8 pictures of each to learn from",
        ),
        ("openmoji, 8 shots", "the same in OpenMoji's style"),
        ("openmoji-black, 8 shots", "the same as line drawings"),
        ("mnist, 8 shots", "digits, black on white, 8 of each"),
        ("twemoji", "all 1,533 pictures to learn from"),
        ("openmoji", "the same in OpenMoji's style"),
        ("openmoji-black", "the same as line drawings"),
        ("mnist", "7,962 digits to learn from"),
        (
            "names, twemoji",
            "which of 98 subgroups' names is the picture's? two towers, 4 pictures of each to learn from",
        ),
        ("names, openmoji", "the same in OpenMoji's style"),
        (
            "spelling",
            "is a passage of a definition misspelt? an encoder of text, trained on definitions",
        ),
        ("spelling, tweets", "the same models on tweets"),
        ("letters", "hidden letters of film reviews"),
        ("letters, tweets", "the same models on tweets"),
    ],
    arms: &[
        ("full", "every parameter"),
        ("linear probe", "the head alone, where there is one"),
        ("lora r=4", "every linear of the blocks, rank 4"),
        (
            "randlora r=8",
            "12 terms of rank 8: full rank, 8 % more numbers than LoRA at 4",
        ),
        (
            "randlora r=8, 1 bases",
            "the same number of numbers with one B: rank 8",
        ),
        ("lora r=8", "rank 8"),
        (
            "randlora r=4",
            "24 terms of rank 4: full rank, 4 % more numbers than LoRA at 8",
        ),
        (
            "randlora r=4, 2 bases",
            "the same number of numbers with two B: rank 8",
        ),
        ("randlora r=4, sparse", "bases of −√3, 0 and √3"),
        (
            "vera r=256",
            "two trained vectors beside shared random matrices, a third of the numbers of LoRA at 4",
        ),
    ],
    seeds: Scales {
        quick: 2,
        default: 2,
        full: 5,
    },
    scale: "The paper tunes ViT-B, DINOv2 and CLIP on 21 sets of pictures and language models of up to 8B; here a vision transformer and two towers, all of three blocks of width 96, learn 1,533 emoji, and an encoder as small reads the Bible. NOLA is not tested.",
    notes: &[
        "Bases are Philox numbers, made where they are used. α = 20·r as in PEFT; every arm's rate is searched alike.",
    ],
    own_scale: "The paper's are ViT-B/32 of CLIP, DINOv2 and google/vit-base-patch16-224, of which the last loads, on 21 sets such as Cars and EuroSAT, each as a folder with a folder of PNGs per class.",
    source: include_str!("randlora.rs"),
    record: Some(include_str!("../../records/randlora/results.json")),
    ..Paper::BLANK
};

/// Arms before those that only --full has; --quick has all.
const COMPARED: usize = 8;
const PROBE: &str = "linear probe";
const PICTURES: [&str; 4] = [
    "twemoji, 8 shots",
    "openmoji, 8 shots",
    "openmoji-black, 8 shots",
    "mnist, 8 shots",
];
const NAMES: [&str; 1] = ["names, twemoji"];

fn arms() -> Vec<Box<dyn Method>> {
    let limited = |rank, distinct| RandLora {
        distinct,
        ..RandLora::rank(rank)
    };
    vec![
        Box::new(Full),
        Box::new(LinearProbe),
        Box::new(Lora::rank(4)),
        Box::new(RandLora::rank(8)),
        Box::new(limited(8, 1)),
        Box::new(Lora::rank(8)),
        Box::new(RandLora::rank(4)),
        Box::new(limited(4, 2)),
        Box::new(RandLora {
            bases: RandLora::TERNARY,
            ..RandLora::rank(4)
        }),
        Box::new(Vera::rank(256)),
    ]
}

/// Pictures, names and text, in this order: the second and the third not where the user's own pictures or weights are tuned to, the
/// third at full scale alone.
fn fill(run: &mut Run) -> Result<()> {
    let most = run.pick(32, 500, 500);
    let recipe = Recipe::new(run.steps(4, 45, 100), run.pick(8, 32, 32), 0.0);
    let rates = run.pick(vec![4e-3], vec![1e-3, 8e-3], vec![5e-4, 2e-3, 8e-3, 3.2e-2]);
    let compare =
        |run: &mut Run, methods: &[Box<dyn Method>], key: &str, tasks: &[Box<dyn Task + '_>]| {
            let comparison = Comparison {
                methods,
                recipe: recipe.clone(),
                rates: rates.clone(),
                most,
                ranks: true,
            };
            comparison.fill(run, key, tasks)
        };
    let mut methods = arms();
    if run.scale() == Scale::Default {
        methods.truncate(COMPARED);
    }
    let base = pictures::base(run)?;
    let shots: &[usize] = run.pick(&[8], &[8], &[8, usize::MAX]);
    let (tasks, key) = pictures::tasks(run, &base, shots, most)?;
    compare(run, &methods, &key, &tasks)?;
    if run.options().own() {
        return Ok(());
    }
    let learning = Recipe::new(run.pick(4, 400, 1500), run.pick(8, 64, 64), 2e-3);
    run.config("pre-training steps of the towers", learning.steps)?;
    let towers = Towers::on_noto(run, &learning)?;
    let styles: &[Style] = run.pick(
        &[Style::Twemoji],
        &[Style::Twemoji],
        &[Style::Twemoji, Style::Openmoji],
    );
    let mut tasks: Vec<Box<dyn Task>> = vec![];
    for style in styles {
        tasks.push(Box::new(Naming::new(&towers, *style, 4)?));
    }
    let english = match run.scale() {
        Scale::Full => Some(english::base(run)?),
        _ => None,
    };
    let mut headless = vec![];
    if let Some(base) = &english {
        let (tasks, key) = english::tasks(None, base, most)?;
        let (headed, others): (Vec<_>, Vec<_>) =
            tasks.into_iter().partition(|task| !task.heads().is_empty());
        compare(run, &methods, &key, &headed)?;
        headless.push((key, others));
    }
    headless.push((towers.id.clone(), tasks));
    // No head, nothing for a probe to train.
    methods.retain(|m| m.name() != PROBE);
    for (key, tasks) in &headless {
        compare(run, &methods, key, tasks)?;
    }
    Ok(())
}

fn experiment(run: &mut Run) -> Result<Verdict> {
    fill(run)?;
    let scores = run.scores(Metric::accuracy());
    let ranks = run.scores(Metric::new(UPDATE_RANK).decimals(1));
    let own = run.options().own();
    let probed = if own {
        scores.clone()
    } else {
        scores.on(PICTURES)
    };
    let mut claims = vec![
        scores.claim("randlora r=4").superior_to("lora r=8"),
        scores
            .claim("randlora r=4")
            .superior_to("randlora r=4, 2 bases"),
        scores.claim("randlora r=8").superior_to("lora r=4").aside(),
        scores
            .claim("randlora r=8")
            .superior_to("randlora r=8, 1 bases")
            .aside(),
        scores.claim("full").superior_to("lora r=8").aside(),
        probed.claim("lora r=4").superior_to(PROBE).aside(),
    ];
    for arm in ["lora r=8", "randlora r=4, 2 bases"] {
        claims.push(ranks.claim("randlora r=4").superior_to(arm).aside());
    }
    if run.scale() != Scale::Default {
        let sparse = scores.claim("randlora r=4, sparse");
        claims.push(sparse.equals(1.0, "randlora r=4").aside());
        let ours = scores.claim("randlora r=8");
        claims.push(ours.superior_to("vera r=256").aside());
    }
    if !own {
        let on_names = |weight, arm| Term::new(weight, arm).on(NAMES);
        let on_pictures = |weight, arm| Term::new(weight, arm).on(PICTURES);
        let terms = [
            on_names(1.0, "randlora r=4"),
            on_names(-1.0, "lora r=8"),
            on_pictures(-1.0, "randlora r=4"),
            on_pictures(1.0, "lora r=8"),
        ];
        let text = "randlora r=4's advantage over lora r=8 is larger on names than on pictures";
        claims.push(scores.contrast(text, terms).above(0.0).aside());
    }
    let verdict = Verdict::all(claims)?;
    Ok(verdict.needing_seeds(5))
}

fn main() -> ExitCode {
    experiment::main(&PAPER, experiment)
}
