//! KIND (Xie et al. 2024): a diffusion model that is pre-trained in components, those of all classes apart from those of each,
//! is taken to new classes better than by fine-tuning a dense one with as many numbers.
//!
//! Small diffusion transformers learn twenty kinds of emoji, in components and dense; ten other kinds are what they are taken to.

mod transfer;

use std::collections::BTreeMap;
use std::process::ExitCode;

use deltaw_models::components::Partition;
use deltaw_models::data::draw::few_shot;
use deltaw_models::data::emoji::Style;
use deltaw_models::data::images::ImageTask;
use deltaw_models::data::split::Fractions;
use deltaw_models::data::tasks::kinds::{Share, kinds};
use deltaw_models::dit::DitConfig;
use deltaw_models::experiment::{
    self, Claim, Figure, Judged, Metric, Outcome, Paper, Result, Run, Scale, Scales, Verdict,
};
use deltaw_models::methods::Method;
use deltaw_models::methods::dora::Dora;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::pissa::Pissa;
use deltaw_models::methods::selective::{Full, Tailors};
use deltaw_models::methods::svdiff::SvDiff;
use deltaw_models::train::denoise::Sampling;
use deltaw_models::train::{Comparison, Recipe, Seer, Task};
use deltaw_models::vit::VitConfig;

use transfer::{Ancestor, Arm, Base, Inherits, LOSS, Setup, Transfer, pretrain, taken_apart};

const PAPER: Paper = Paper {
    slug: "kind",
    title: "KIND: Knowledge Integration and Diversion in Diffusion Models",
    year: 2024,
    claim: "A diffusion model whose every weight is a sum of components, pre-trained with a class gate so that some (learngenes) hold what is common to all classes and others (tailors) what is peculiar to one, is taken to new classes by its learngenes and fresh tailors better than a conventional one by parameter-efficient fine-tuning, at fewer multiplications.",
    reference: "Xie, Shi, Feng, Wang, Geng et al.; the abstract was read, and DivControl (2025) by the same authors, which restates the method; what they do not say is marked in the notes",
    tasks: &[
        (
            NOVEL,
            "ten kinds of emoji in Noto's and Twemoji's styles that pre-training has not seen, held-out emoji for the test",
        ),
        (
            SHIFT,
            "the same ten kinds in OpenMoji's black lines, a style of which pre-training has seen nothing; in --full only",
        ),
        (
            "seen kinds",
            "the pre-trained models themselves on held-out emoji of their twenty kinds",
        ),
    ],
    arms: &[
        (
            "kind",
            "the learngenes, frozen, and fresh tailors for each novel kind that start at zero",
        ),
        (
            "kind, random start",
            "tailors that start like the learngenes",
        ),
        (
            "kind, shared tailors",
            "as many fresh components, but all for every kind",
        ),
        (
            "no gate",
            "as kind, from an ancestor whose components all served all kinds",
        ),
        (
            "random gate",
            "as kind, from an ancestor whose kinds were given other tailors in every step",
        ),
        (LORA, "every linear of the dense twin's blocks, rank 20"),
        ("dora r=20", "the same with a magnitude for every output"),
        ("pissa r=20", "LoRA from the 20 largest singular triplets"),
        (
            "svdiff",
            "every singular value shifted: as many numbers as there are",
        ),
        (
            "lora r=20, thrifty twin",
            "LoRA on the twin that was pre-trained for KIND's multiplications",
        ),
        ("full", "every parameter of the dense twin"),
        (
            "heuristic learngene",
            "the twin's upper half of blocks and output, the rest new; every parameter",
        ),
        ("from scratch", "every parameter of a new dense model"),
        ("pre-trained kind", "each kind with its own tailors"),
        ("kind without tailors", "the learngenes alone"),
        (
            "kind with another kind's tailors",
            "each kind with the next one's",
        ),
        ("pre-trained without a gate", "all components"),
        (
            "pre-trained with a random gate",
            "each kind with tailors that were every kind's",
        ),
        ("dense twin", "as many steps of pre-training"),
        ("thrifty twin", "as many multiplications of pre-training"),
    ],
    seeds: Scales {
        quick: 2,
        default: 3,
        full: 3,
    },
    figures: &[
        Figure::verified(
            "FID on novel classes below the best rival's, DiT-L/2, by at least",
            "kind",
            "6.54",
            "abstract",
        ),
        Figure::verified(
            "sFID on novel classes below the best rival's, DiT-L/2, by at least",
            "kind",
            "1.07",
            "abstract",
        ),
        Figure::verified("trainable parameters, DiT-L/2", "kind", "45.4M", "abstract"),
        Figure::verified(
            "FLOPs saved, DiT-L/2, at least",
            "kind",
            "35.4G",
            "abstract",
        ),
    ],
    scale: "The paper pre-trains DiT-B/2 and DiT-L/2 on latents of 150 ImageNet classes and takes them to 461 more; here a DiT of four blocks of width 128 draws emoji of 16×16 pixels in patches of 4, twenty kinds and ten more. Its larger shifts of domain, OFT, LoHa and its learngene rivals other than the heuristic one are not among the arms.",
    own_scale: "The paper pre-trains DiT-L/2 on ImageNet's latents: none of it loads here, since ancestors are pre-trained in components. facebook/DiT-XL-2-256's transformer loads in a program of one's own (`hub::Folder::dit`).",
    notes: &[
        "FD and spatial FD are Fréchet distances on the features of a classifier that is trained here on the novel kinds (a ViT of three blocks), against as many real test pictures as are drawn. They are not FID and sFID.",
        "Held-out loss is 1000 times the mean squared error of the predicted noise on fixed pairs of step and noise, the same for all arms.",
        "Inferred, not read: how many components (40 learngenes and 4 tailors of each seen kind; 2 of each novel one), that modulation and embeddings stay whole, that without a class learngenes act alone, that fresh tailors start at zero (at random in an arm beside), the gate of fresh tailors by kind (shared in an arm beside), and that embeddings of the new kinds train in every arm.",
        "Every arm's rate is searched on the same grid with one seed of its own, from the first seed's ancestors. The rate of pre-training comes from pilots with seed 77 on validation, of the dense twin and of KIND alike: 2,000 steps of 32 pictures at 2e-3, 4e-3 and 8e-3 (losses 62.3, 58.5 and 58.0 of the twin, 67.5, 63.4 and 62.5 of KIND). Steps are what the time allows.",
        "Multiplications are those of the active components. Training here also multiplies the closed components of a batch's other kinds, by zero: a step takes more time than a dense one, not less.",
        "By default pre-training is too short for pictures that anyone would recognise: FD, precision and recall then compare noise with noise, and the held-out loss is what can be read. In --full faces, hands and signs can be told apart.",
        "Evaluated are moving averages of the parameters. SVDiff has fewer numbers than the others by its nature.",
    ],
    record: Some(include_str!("../../../records/kind/results.json")),
    source: concat!(include_str!("main.rs"), include_str!("transfer.rs")),
    ..Paper::BLANK
};

const LORA: &str = "lora r=20";
const NOVEL: &str = "novel kinds";
const SHIFT: &str = "line drawings";
/// The rivals that the claim is about.
const PEFT: [&str; 4] = [LORA, "dora r=20", "pissa r=20", "svdiff"];

/// In pre-training.
const SEEN: Partition = Partition {
    learngenes: 40,
    tailors: 4,
    groups: 20,
    silent: false,
};

/// In transfer: as many fresh components in all as LoRA's rank.
const FRESH: Partition = Partition {
    learngenes: 40,
    tailors: 2,
    groups: 10,
    silent: true,
};

/// Of models of so many blocks.
fn arms(blocks: usize) -> Vec<Arm> {
    let (all, top) = (Inherits::Whole, Inherits::Top(blocks / 2));
    let gated = |name, ancestor, partition| Arm {
        name,
        ancestor: Some(ancestor),
        inherits: Inherits::Learngenes,
        partition: Some(partition),
        method: Box::new(Tailors) as Box<dyn Method>,
    };
    let dense = |name, ancestor, inherits, method| Arm {
        name,
        ancestor,
        inherits,
        partition: None,
        method,
    };
    let twin = Some(Ancestor::Twin);
    vec![
        gated("kind", Ancestor::Kind, FRESH),
        gated(
            "kind, random start",
            Ancestor::Kind,
            Partition {
                silent: false,
                ..FRESH
            },
        ),
        gated(
            "kind, shared tailors",
            Ancestor::Kind,
            Partition {
                tailors: 20,
                groups: 1,
                ..FRESH
            },
        ),
        gated("no gate", Ancestor::Ungated, FRESH),
        gated("random gate", Ancestor::Shuffled, FRESH),
        dense(LORA, twin, all, Box::new(Lora::rank(20))),
        dense("dora r=20", twin, all, Box::new(Dora::rank(20))),
        dense("pissa r=20", twin, all, Box::new(Pissa::rank(20))),
        dense("svdiff", twin, all, Box::<SvDiff>::default()),
        dense(
            "lora r=20, thrifty twin",
            Some(Ancestor::Thrifty),
            all,
            Box::new(Lora::rank(20)),
        ),
        dense("full", twin, all, Box::new(Full)),
        dense("heuristic learngene", twin, top, Box::new(Full)),
        dense("from scratch", None, all, Box::new(Full)),
    ]
}

/// A share's kinds; of each at most so many pictures to train, and to validate and test.
fn pictures(share: Share, styles: &[Style], [train, rest]: [usize; 2]) -> Result<ImageTask> {
    let mut task = kinds(share, styles, &Fractions::new(0.1, 0.2)?)?;
    let splits = &mut task.splits;
    for (set, most) in [
        (&mut splits.train, train),
        (&mut splits.validation, rest),
        (&mut splits.test, rest),
    ] {
        *set = set.subset(&few_shot(&set.labels, most, 0))?;
    }
    Ok(task)
}

fn experiment(run: &mut Run) -> Result<Verdict> {
    run.makes_its_own()?;
    let small = |patch, width, blocks| DitConfig::small(16, patch, 3, width, blocks, SEEN.groups);
    let setup = Setup {
        config: run.pick(small(8, 64, 2), small(4, 128, 4), small(4, 128, 4)),
        partition: SEEN,
        recipe: Recipe {
            average: Some(run.pick(0.99, 0.99, 0.995)),
            ..Recipe::new(run.pick(3, 220, 2000), run.pick(4, 32, 32), 8e-3)
        },
        levels: run.pick(1, 8, 8),
        sampling: Sampling {
            steps: run.pick(2, 20, 50),
            guidance: 1.5,
        },
        shots: [128, run.pick(1, 16, 32)],
    };
    run.config("setup", &setup)?;
    let colours = [Style::Noto, Style::Twemoji];
    let seen = pictures(Share::Seen, &colours, setup.shots)?;
    let mut shares = vec![(NOVEL, &colours[..])];
    if run.scale() == Scale::Full {
        shares.push((SHIFT, &[Style::Lines]));
    }
    run.expect(
        "pre-train",
        shares.len() + Ancestor::ALL.len() * run.seeds().len(),
    );
    let mut targets = vec![];
    for (name, styles) in shares {
        let task = pictures(Share::Novel, styles, setup.shots)?;
        let eyes = VitConfig::new(16, 4, 3, 64, 3, 2);
        let recipe = Recipe::new(run.pick(10, 600, 1000), run.pick(16, 64, 64), 2e-3);
        targets.push((name, Seer::on(run, eyes, &recipe, &task)?, task));
    }
    let mut bases: BTreeMap<(Ancestor, u64), Base> = BTreeMap::new();
    for seed in run.seeds() {
        for ancestor in Ancestor::ALL {
            bases.insert(
                (ancestor, seed),
                pretrain(run, &setup, &seen, ancestor, seed)?,
            );
        }
    }
    let first = &bases[&(Ancestor::Kind, 1)];
    run.config("updates of each kind's tailors, first seed", &first.updates)?;
    let device = run.device();
    let apart = run.stage("take apart", &(&first.id, &setup), |stage| {
        taken_apart(stage, &setup, &seen, &first.weights, &device)
    })?;

    let blocks = setup.config.num_layers;
    let arms = arms(blocks);
    let mut tasks: Vec<Box<dyn Task>> = vec![];
    let mut judges = vec![];
    for (name, judge, task) in &targets {
        let transfer = Transfer::new(&setup, &arms, &bases, judge, name, task)?;
        judges.push((&judge.id, transfer.judge_accuracy()));
        tasks.push(Box::new(transfer));
    }
    let accuracies: Vec<f64> = judges.iter().map(|(_, accuracy)| *accuracy).collect();
    run.config(
        "accuracy of each task's judge on real test pictures",
        accuracies,
    )?;
    let macs = |name: &str| {
        let arm = arms.iter().find(|a| a.name == name);
        arm.map(|a| setup.sized(FRESH.groups).macs(a.partition.as_ref()))
    };
    let fewer = PEFT.iter().all(|rival| macs("kind") < macs(rival));
    let methods = self::arms(blocks).into_iter();
    let methods: Vec<Box<dyn Method>> = methods.map(|arm| Box::new(arm) as _).collect();
    let comparison = Comparison {
        methods: &methods,
        recipe: Recipe {
            average: Some(0.99),
            ..Recipe::new(run.pick(2, 60, 200), run.pick(4, 32, 32), 0.0)
        },
        rates: run.pick(
            vec![4e-3],
            vec![1e-3, 4e-3],
            vec![3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
        ),
        most: setup.shots[1],
        ranks: false,
    };
    let ids: Vec<&String> = Ancestor::ALL.iter().map(|a| &bases[&(*a, 1)].id).collect();
    let judges: Vec<&String> = judges.iter().map(|(id, _)| *id).collect();
    let key = serde_json::to_string(&(ids, judges, &setup)).map_err(experiment::Error::other)?;
    comparison.fill(run, &key, &tasks)?;
    verdict(run, &apart, fewer)
}

/// The rule of the specification, written before any seed was looked at.
fn verdict(run: &mut Run, [same, sized]: &[bool; 2], fewer: bool) -> Result<Verdict> {
    let loss = run.scores(Metric::new(LOSS).unit("·10⁻³").lower_is_better());
    let lower = |name: &str| Metric::new(name).lower_is_better();
    let (fd, _) = (run.scores(lower("FD")), run.scores(lower("spatial FD")));
    let seen = loss.on(["seen kinds"]);
    let shifts = [&loss, &fd].map(|scores| scores.on([SHIFT]));
    let (loss, fd) = (loss.on([NOVEL]), fd.on([NOVEL]));
    for name in ["precision", "recall", "samples seen as asked"] {
        run.scores(Metric::new(name).unit("points"));
    }
    run.scores(lower("multiplications a step").unit("M"));
    let mut claims: Vec<Claim> = vec![];
    for scores in [&loss, &fd] {
        claims.extend(PEFT.map(|rival| scores.claim("kind").superior_to(rival)));
    }
    claims.push(Claim::invariant(
        "kind multiplies less than each of the four",
        fewer,
    ));
    claims.extend([
        seen.claim("pre-trained kind").ordered(["kind without tailors", "kind with another kind's tailors"]),
        Claim::invariant("without the other kinds' tailors each kind is drawn the same, to the bit", *same),
        Claim::invariant("a kind's model holds (learngenes + tailors)·(m + n + 1) numbers for every m × n matrix", *sized),
        loss.claim("kind").superior_to_each(["no gate", "random gate"]),
        loss.claim("kind").superior_to("lora r=20, thrifty twin"),
        loss.claim("kind").superior_to("heuristic learngene"),
        loss.claim("kind").superior_to("from scratch"),
        loss.claim("kind").superior_to("full"),
        loss.claim("kind").superior_to("kind, random start"),
        loss.claim("kind").superior_to("kind, shared tailors"),
    ].map(Claim::aside));
    if run.scale() == Scale::Full {
        claims.extend(shifts.map(|scores| scores.claim("kind").superior_to_each(PEFT).aside()));
    }
    let words = "reproduced if kind is below all four PEFT arms in held-out loss and in FD on novel kinds and multiplies less; partly if below all \
        in held-out loss, or below three of four in both; not if the opposite was shown of so many that neither can be; else inconclusive";
    let decide = |claims: &[Judged]| {
        let (loss, fd) = (&claims[..PEFT.len()], &claims[PEFT.len()..2 * PEFT.len()]);
        let holding = |of: &[Judged]| of.iter().filter(|c| c.holds()).count();
        let failing = |of: &[Judged]| of.iter().filter(|c| c.fails()).count();
        let most = PEFT.len() - 1;
        if holding(loss) == PEFT.len()
            && holding(fd) == PEFT.len()
            && claims[2 * PEFT.len()].holds()
        {
            Outcome::Reproduced
        } else if holding(loss) == PEFT.len() || (holding(loss) >= most && holding(fd) >= most) {
            Outcome::PartlyReproduced
        } else if failing(loss) > 0 && (failing(loss) > 1 || failing(fd) > 1) {
            Outcome::NotReproduced
        } else {
            Outcome::Inconclusive
        }
    };
    Ok(Verdict::rule(words, claims, decide)?.needing_seeds(3))
}

fn main() -> ExitCode {
    experiment::main(&PAPER, experiment)
}
