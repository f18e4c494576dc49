//! RandLoRA (Albert et al. 2025): what LoRA lacks beside full fine-tuning is rank, not numbers to train.
//!
//! A small vision transformer that knows Noto's emoji is taken to three other styles and to MNIST's digits, with few pictures and
//! with all. At two budgets RandLoRA's update of full rank stands beside LoRA, and beside itself with as many numbers but a
//! rank held down to LoRA's.

use std::process::ExitCode;

use deltaw_models::experiment::{self, Metric, Paper, Result, Run, Scale, Scales, Verdict};
use deltaw_models::methods::Method;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::randlora::RandLora;
use deltaw_models::methods::selective::{Full, LinearProbe};
use deltaw_models::train::{Comparison, Recipe, pictures};

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
    ],
    arms: &[
        ("full", "every parameter"),
        ("linear probe", "the head alone"),
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
    ],
    seeds: Scales {
        quick: 2,
        default: 2,
        full: 5,
    },
    scale: "The paper tunes ViT-B, DINOv2 and CLIP on 21 sets of pictures and language models of up to 8B; here a vision transformer of three blocks of width 96 learns 1,533 emoji. Its strongest claim, on vision and language together, is not tested, nor are VeRA and NOLA.",
    notes: &[
        "Bases are Philox numbers, made where they are used. α = 20·r as in PEFT; every arm's rate is searched alike.",
    ],
    own_scale: "The paper's are ViT-B/32 of CLIP, DINOv2 and google/vit-base-patch16-224, of which the last loads, on 21 sets such as Cars and EuroSAT, each as a folder with a folder of PNGs per class.",
    source: include_str!("randlora.rs"),
    ..Paper::BLANK
};

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
    ]
}

fn experiment(run: &mut Run) -> Result<Verdict> {
    let recipe = Recipe::new(run.steps(4, 60, 100), run.pick(8, 32, 32), 0.0);
    let most = run.pick(32, 500, 500);
    let base = pictures::base(run)?;
    let shots: &[usize] = run.pick(&[8], &[8], &[8, usize::MAX]);
    let (tasks, key) = pictures::tasks(run, &base, shots, most)?;
    let methods = arms();
    let comparison = Comparison {
        methods: &methods,
        recipe,
        rates: run.pick(vec![4e-3], vec![1e-3, 8e-3], vec![5e-4, 2e-3, 8e-3, 3.2e-2]),
        recorded_rates: run.scale() == Scale::Default,
        most,
    };
    comparison.fill(run, &key, &tasks)?;

    let scores = run.scores(Metric::accuracy());
    let verdict = Verdict::all([
        scores.claim("randlora r=4").superior_to("lora r=8"),
        scores
            .claim("randlora r=4")
            .superior_to("randlora r=4, 2 bases"),
        scores.claim("randlora r=8").superior_to("lora r=4").aside(),
        scores
            .claim("randlora r=8")
            .superior_to("randlora r=8, 1 bases")
            .aside(),
        scores
            .claim("randlora r=4, sparse")
            .equals(1.0, "randlora r=4")
            .aside(),
        scores.claim("full").superior_to("lora r=8").aside(),
        scores.claim("lora r=4").superior_to("linear probe").aside(),
    ])?;
    Ok(verdict.needing_seeds(5))
}

fn main() -> ExitCode {
    experiment::main(&PAPER, experiment)
}
