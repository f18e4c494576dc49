//! SNELL (Shen et al. 2024): a sparse update out of two low-rank factors, by a kernel and a competition, beats LoRA at its cost.
//!
//! A small vision transformer that knows Noto's emoji is taken to three other styles and to MNIST's digits. At one r, SNELL
//! stands beside LoRA, and beside its two parts alone: the kernel without competition, and competition without the kernel.

use std::process::ExitCode;

use deltaw_engine::ops::kernelized::{Competition, Kernel, Values};
use deltaw_models::experiment::{self, Metric, Paper, Result, Run, Scale, Scales, Verdict};
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::selective::{BitFit, Full, LinearProbe};
use deltaw_models::methods::spt::Spt;
use deltaw_models::methods::{Method, snell::Snell};
use deltaw_models::train::comparison::UPDATE_RANK;
use deltaw_models::train::{Comparison, Recipe, pictures};

const PAPER: Paper = Paper {
    slug: "snell",
    title: "Expanding Sparse Tuning for Low Memory Usage",
    year: 2024,
    claim: "Two low-rank factors, a nonlinear kernel that raises the rank of their product, and a competition that keeps a tenth of it tune better than LoRA at its number of trained parameters.",
    reference: "Shen, Yao, Chen, Wang, Zhang, Zhang; the reference code ssfgunner/SNELL was read",
    tasks: &[
        (
            "twemoji, 16 shots",
            "the group of an emoji (9 classes), 16 pictures of each to learn from",
        ),
        ("openmoji, 16 shots", "the same in OpenMoji's style"),
        ("openmoji-black, 16 shots", "the same as line drawings"),
        ("mnist, 16 shots", "digits, black on white, 16 of each"),
    ],
    arms: &[
        ("full", "every parameter"),
        ("linear probe", "the head alone"),
        ("bitfit", "biases"),
        ("lora r=8", "every linear of the blocks, rank 8"),
        (
            "spt r=8",
            "as many weights as LoRA has numbers, those with the largest squared gradients",
        ),
        ("snell r=8", "distance kernel, the upper tenth acts, softly"),
        ("snell r=8, dense", "the kernel without competition"),
        ("snell r=8, linear", "LoRA's product with competition"),
        (
            "snell r=8, squared",
            "the values of the reference code: K·|K|",
        ),
        ("snell r=8, p=0", "the least entry alone is left out"),
        ("snell r=8, p=0.5", "the upper half acts"),
        ("snell r=8, p=0.99", "the upper hundredth acts"),
    ],
    seeds: Scales {
        quick: 2,
        default: 5,
        full: 5,
    },
    scale: "The paper tunes ViT-B/16 and larger on FGVC and VTAB-1k; here a vision transformer of three blocks of width 96 learns 1,533 emoji, and is tuned with 144 or 160 pictures. Of its strongest baseline, SPT, the located weights are an arm, without LoRA where they lie densely; the share that acts is swept on the first task alone, in --full.",
    notes: &[
        "A first record, of four learning rates up to 3.2e-2, was not reproduced either; as SNELL's best was the highest on two tasks, all arms were searched anew with a fifth.",
    ],
    own_scale: "The paper's is google/vit-base-patch16-224-in21k (and larger) on FGVC and VTAB-1k, each as a folder with a folder of PNGs per class.",
    source: include_str!("snell.rs"),
    record: Some(include_str!("../../records/snell/results.json")),
    ..Paper::BLANK
};

const SNELL: &str = "snell r=8";

fn variant(change: impl Fn(&mut Snell)) -> Box<dyn Method> {
    let mut method = Snell::rank(8);
    change(&mut method);
    Box::new(method)
}

fn arms() -> Vec<Box<dyn Method>> {
    vec![
        Box::new(Full),
        Box::new(LinearProbe),
        Box::new(BitFit),
        Box::new(Lora::rank(8)),
        Box::new(Spt::rank(8)),
        variant(|_| ()),
        variant(|m| m.competition = Competition::Off),
        variant(|m| m.kernel = Kernel::Linear),
        variant(|m| m.values = Values::Squared),
    ]
}

fn experiment(run: &mut Run) -> Result<Verdict> {
    let recipe = Recipe::new(run.steps(4, 60, 100), run.pick(8, 32, 32), 0.0);
    let most = run.pick(32, 500, 500);
    let base = pictures::base(run)?;
    let (tasks, key) = pictures::tasks(run, &base, &[16], most)?;
    let methods = arms();
    let comparison = Comparison {
        methods: &methods,
        recipe,
        rates: run.pick(
            vec![4e-3],
            vec![2e-3, 8e-3],
            vec![5e-4, 2e-3, 8e-3, 3.2e-2, 1.28e-1],
        ),
        most,
        ranks: true,
    };
    comparison.fill(run, &key, &tasks)?;
    let shares = [0.0, 0.5, 0.99].map(|p| variant(|m| m.competition = Competition::Quantile(p)));
    if run.scale() == Scale::Full {
        let sweep = Comparison {
            methods: &shares,
            ..comparison
        };
        sweep.fill(run, &key, &tasks[..1])?;
    }

    let scores = run.scores(Metric::accuracy());
    let ranks = run.scores(Metric::new(UPDATE_RANK).decimals(1));
    let verdict = Verdict::all([
        scores.claim(SNELL).superior_to("lora r=8"),
        scores
            .claim(SNELL)
            .superior_to_each(["snell r=8, dense", "snell r=8, linear"]),
        scores
            .claim("snell r=8, squared")
            .superior_to("lora r=8")
            .aside(),
        scores.claim(SNELL).superior_to("spt r=8").aside(),
        scores.claim(SNELL).superior_to("full").aside(),
        scores.claim(SNELL).superior_to("bitfit").aside(),
        scores.claim("lora r=8").superior_to("linear probe").aside(),
        ranks.claim(SNELL).superior_to("lora r=8").aside(),
    ])?;
    Ok(verdict.needing_seeds(5))
}

fn main() -> ExitCode {
    experiment::main(&PAPER, experiment)
}
