//! What is pre-trained, and how it is taken to novel kinds.

use std::collections::BTreeMap;

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;
use deltaw_models::components::Partition;
use deltaw_models::data::images::{ImageSet, ImageTask};
use deltaw_models::dit::DitConfig;
use deltaw_models::experiment::{Cell, CellId, Error, Metric, Picture, Result, Run, Stage};
use deltaw_models::methods::{Attached, Method};
use deltaw_models::train::comparison::{Part, Scored, Sets, Task};
use deltaw_models::train::denoise::{self, Denoiser, Routing, Sampling};
use deltaw_models::train::pictures::Seen;
use deltaw_models::train::{Learner, Recipe, Seer, fit};
use serde::{Deserialize, Serialize};

/// The file that pre-training leaves.
const WEIGHTS: &str = "base.safetensors";
/// What every arm trains: the embeddings of the novel kinds.
const HEADS: [&str; 1] = ["transformer_blocks.0.norm1.emb.class_embedder."];
/// The primary metric: 1000 times the mean squared error of the predicted noise.
pub const LOSS: &str = "held-out loss";

/// A model that arms start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Ancestor {
    /// In components, each kind with tailors of its own.
    Kind,
    /// In as many components without a gate.
    Ungated,
    /// Gated, but each step gives the kinds other tailors.
    Shuffled,
    /// Dense, for as many steps.
    Twin,
    /// Dense, for as many multiplications.
    Thrifty,
}

impl Ancestor {
    /// All.
    pub const ALL: [Ancestor; 5] = [
        Ancestor::Kind,
        Ancestor::Ungated,
        Ancestor::Shuffled,
        Ancestor::Twin,
        Ancestor::Thrifty,
    ];

    /// Its own row on the kinds it has seen.
    pub fn name(self) -> &'static str {
        match self {
            Ancestor::Kind => "pre-trained kind",
            Ancestor::Ungated => "pre-trained without a gate",
            Ancestor::Shuffled => "pre-trained with a random gate",
            Ancestor::Twin => "dense twin",
            Ancestor::Thrifty => "thrifty twin",
        }
    }

    fn partition(self, seen: &Partition) -> Option<Partition> {
        match self {
            Ancestor::Kind | Ancestor::Shuffled => Some(*seen),
            Ancestor::Ungated => Some(Partition {
                tailors: seen.tailors * seen.groups,
                groups: 1,
                ..*seen
            }),
            Ancestor::Twin | Ancestor::Thrifty => None,
        }
    }

    fn routing(self) -> Routing {
        match self {
            Ancestor::Ungated => Routing::Open,
            Ancestor::Shuffled => Routing::Random,
            _ => Routing::Own,
        }
    }
}

/// What an arm takes of its ancestor; never the embeddings of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherits {
    /// All.
    Whole,
    /// All but tailors.
    Learngenes,
    /// The blocks from this one on, and what follows them.
    Top(usize),
}

impl Inherits {
    fn takes(self, name: &str) -> bool {
        let block = name
            .strip_prefix("transformer_blocks.")
            .and_then(|rest| rest.split_once('.'));
        let block = block.and_then(|(number, _)| number.parse::<usize>().ok());
        let within = match self {
            Inherits::Whole => true,
            Inherits::Learngenes => !name.contains(".tailors."),
            Inherits::Top(first) => block.map_or(name.starts_with("proj_out"), |b| b >= first),
        };
        within && !name.starts_with(HEADS[0])
    }
}

/// How an arm begins and is trained.
pub struct Arm {
    /// Its name.
    pub name: &'static str,
    /// Where its weights come from.
    pub ancestor: Option<Ancestor>,
    /// Which of them it takes.
    pub inherits: Inherits,
    /// Its components, if it has any.
    pub partition: Option<Partition>,
    /// What trains.
    pub method: Box<dyn Method>,
}

impl Method for Arm {
    fn name(&self) -> String {
        self.name.into()
    }

    fn attach(
        &self,
        store: &Store,
        heads: &[&str],
    ) -> deltaw_engine::prelude::Result<Box<dyn Attached>> {
        self.method.attach(store, heads)
    }
}

/// What all of the experiment shares.
#[derive(Serialize)]
pub struct Setup {
    /// Sizes of all models, for the kinds that pre-training sees.
    pub config: DitConfig,
    /// Components in pre-training.
    pub partition: Partition,
    /// Pre-training.
    pub recipe: Recipe,
    /// Fixed pairs of step and noise for each held-out picture.
    pub levels: usize,
    /// How pictures are drawn.
    pub sampling: Sampling,
    /// The most pictures of a kind to train on, and to validate and test on.
    pub shots: [usize; 2],
}

impl Setup {
    /// Sizes for other kinds.
    pub fn sized(&self, classes: usize) -> DitConfig {
        DitConfig {
            num_embeds_ada_norm: classes,
            ..self.config.clone()
        }
    }

    /// Steps that take a dense model no more multiplications than pre-training takes one in components.
    fn thrifty_steps(&self) -> u64 {
        let [ours, dense] = [Some(&self.partition), None].map(|p| self.config.macs(p));
        self.recipe.steps * ours as u64 / dense as u64
    }

    fn recipe(&self, ancestor: Ancestor) -> Recipe {
        Recipe {
            steps: match ancestor {
                Ancestor::Thrifty => self.thrifty_steps(),
                _ => self.recipe.steps,
            },
            ..self.recipe.clone()
        }
    }
}

/// A pre-trained model.
pub struct Base {
    /// Its weights.
    pub weights: Weights,
    /// The stage that made it.
    pub id: String,
    /// In how many steps each group's tailors were updated.
    pub updates: Vec<usize>,
}

/// Whose tailors a kind is given, of how many groups.
type Group = fn(u32, u32) -> u32;

/// What pre-training leaves beside its weights.
#[derive(Serialize, Deserialize)]
struct Trained {
    curve: Vec<(u64, f64)>,
    updates: Vec<usize>,
}

/// Pre-trains a model on the seen kinds and scores it there.
///
/// # Errors
/// As [`fit`].
pub fn pretrain(
    run: &mut Run,
    setup: &Setup,
    seen: &ImageTask,
    ancestor: Ancestor,
    seed: u64,
) -> Result<Base> {
    let (device, recipe) = (run.device(), setup.recipe(ancestor));
    let (partition, routing) = (ancestor.partition(&setup.partition), ancestor.routing());
    let new = |pictures, seed| {
        Denoiser::new(
            &setup.config,
            partition.as_ref(),
            pictures,
            routing,
            seed,
            &device,
        )
    };
    let key = (
        &setup.config,
        &partition,
        routing,
        &recipe,
        &seen.name,
        setup.shots,
        seed,
    );
    let stage = run.stage("pre-train", &key, |stage| {
        let denoiser = new(&seen.splits.train, seed)?;
        let curve = fit(stage, &denoiser, None, &recipe, seed)?;
        let weights = checkpoint::to_bytes(&denoiser.store.weights())?;
        stage.save_artefact(WEIGHTS, &weights)?;
        let updates = denoiser.updates(seed, recipe.steps, recipe.batch)?;
        Ok(Trained { curve, updates })
    })?;
    let weights = checkpoint::load(&stage.artefact(WEIGHTS))?;
    // KIND also without tailors, and with another kind's.
    let mut tests: Vec<(&str, Option<Group>)> = vec![(ancestor.name(), None)];
    if ancestor == Ancestor::Kind {
        tests.push(("kind without tailors", Some(|_, _| u32::MAX)));
        tests.push((
            "kind with another kind's tailors",
            Some(|kind, groups| (kind + 1) % groups),
        ));
    }
    let ids: Vec<CellId> = (tests.iter())
        .map(|(name, _)| CellId::new(*name, "seen kinds", seed))
        .collect();
    let (set, levels) = (&seen.splits.test, setup.levels);
    run.cells("test on seen kinds", &ids, &(stage.id(), levels), |cells| {
        let denoiser = new(set, 0)?;
        denoiser.store.load(&weights, |_| true)?;
        let groups = setup.partition.groups as u32;
        let mut all = vec![];
        for (_, group) in &tests {
            all.push(scored(match group {
                None => denoiser.held_out_own(cells, set, levels)?,
                Some(group) => denoiser.held_out(cells, set, levels, |kind| group(kind, groups))?,
            }));
        }
        all[0] = std::mem::take(&mut all[0]).curve("pre-training loss", stage.curve.clone());
        Ok(all)
    })?;
    Ok(Base {
        weights,
        id: stage.id().to_owned(),
        updates: stage.updates.clone(),
    })
}

fn scored(losses: Vec<f32>) -> Cell {
    Cell::new().scored(LOSS, losses.iter().map(|loss| 1000.0 * loss).collect())
}

/// Whether the model of one kind, all other tailors dropped, draws to the bit what the whole one draws, for every kind; and
/// whether it holds as many numbers as the formula says.
///
/// # Errors
/// An interruption.
pub fn taken_apart(
    stage: &Stage<'_>,
    setup: &Setup,
    seen: &ImageTask,
    weights: &Weights,
    device: &Device,
) -> Result<[bool; 2]> {
    let one = Partition {
        groups: 1,
        ..setup.partition
    };
    let new = |partition| {
        Denoiser::new(
            &setup.config,
            Some(partition),
            &seen.splits.test,
            Routing::Own,
            0,
            device,
        )
    };
    let sampling = Sampling {
        steps: 2,
        ..setup.sampling
    };
    let whole = new(&setup.partition)?;
    whole.store.load(weights, |_| true)?;
    let matrices = setup.config.matrices().into_iter();
    let wanted =
        setup.config.num_layers * matrices.map(|(m, n)| one.parameters(m, n)).sum::<usize>();
    let (mut same, mut sized) = (true, true);
    for kind in 0..setup.partition.groups {
        let own = format!(".tailors.{kind}.");
        let kept = weights.iter().filter_map(|(name, value)| {
            let kept = !name.contains(".tailors.") || name.contains(&own);
            kept.then(|| (name.replace(&own, ".tailors.0."), value.clone()))
        });
        let alone = new(&one)?;
        alone.store.load(&Weights::new(kept), |_| true)?;
        let drawn = |model: &Denoiser| {
            model
                .samples(stage, &[kind as u32; 2], sampling, 1)?
                .to_vec::<f32>()
                .map_err(Error::from)
        };
        same &= drawn(&alone)? == drawn(&whole)?;
        let components =
            |p: &Param| p.name().contains(".learngene.") || p.name().contains(".tailors.");
        let held: usize = alone
            .store
            .params()
            .iter()
            .filter(|p| components(p))
            .map(Param::len)
            .sum();
        sized &= held == wanted;
    }
    Ok([same, sized])
}

/// Novel kinds to learn.
pub struct Transfer<'a> {
    setup: &'a Setup,
    arms: &'a [Arm],
    bases: &'a BTreeMap<(Ancestor, u64), Base>,
    judge: &'a Seer,
    name: &'static str,
    classes: usize,
    sets: Sets<ImageSet>,
    real: Tensor,
    seen: Seen,
}

impl<'a> Transfer<'a> {
    /// With a judge of these kinds.
    ///
    /// # Errors
    /// Pictures of another size than the judge's.
    pub fn new(
        setup: &'a Setup,
        arms: &'a [Arm],
        bases: &'a BTreeMap<(Ancestor, u64), Base>,
        judge: &'a Seer,
        name: &'static str,
        task: &ImageTask,
    ) -> Result<Self> {
        let real = denoise::pixels(&task.splits.test, judge)?;
        Ok(Transfer {
            seen: judge.look(&real)?,
            real,
            classes: task.classes.len(),
            sets: Sets {
                train: task.splits.train.clone(),
                validation: task.splits.validation.clone(),
                tests: vec![(name.into(), task.splits.test.clone())],
            },
            setup,
            arms,
            bases,
            judge,
            name,
        })
    }

    /// How often the judge sees a real picture's kind, in points.
    pub fn judge_accuracy(&self) -> f64 {
        let labels = &self.sets.of(Part::Test(0)).labels;
        let right = labels
            .iter()
            .zip(&self.seen.classes)
            .filter(|(a, b)| a == b);
        100.0 * right.count() as f64 / labels.len() as f64
    }
}

impl Task for Transfer<'_> {
    fn tests(&self) -> Vec<String> {
        self.sets.names()
    }

    fn metric(&self) -> Metric {
        Metric::new(LOSS).lower_is_better()
    }

    fn heads(&self) -> &[&str] {
        &HEADS
    }

    fn model(&self, seed: u64) -> Result<Box<dyn Scored + '_>> {
        self.model_of("from scratch", seed)
    }

    fn model_of(&self, arm: &str, seed: u64) -> Result<Box<dyn Scored + '_>> {
        let arm = self.arms.iter().find(|a| a.name == arm);
        let arm = arm.ok_or_else(|| Error::Invalid(format!("{}: no such arm", self.name)))?;
        let config = self.setup.sized(self.classes);
        let (train, device) = (&self.sets.train, &self.judge.device);
        let denoiser = Denoiser::new(
            &config,
            arm.partition.as_ref(),
            train,
            Routing::Own,
            seed,
            device,
        )?;
        if let Some(ancestor) = arm.ancestor {
            // Rates are searched with seeds of their own, on the first ancestor.
            let base = self
                .bases
                .get(&(ancestor, seed))
                .or_else(|| self.bases.get(&(ancestor, 1)));
            let base = base.ok_or_else(|| Error::Invalid(format!("{}: no ancestor", arm.name)))?;
            let taken = |name: &str| arm.inherits.takes(name);
            denoiser.store.load(&base.weights, taken)?;
        }
        Ok(Box::new(Heir {
            denoiser,
            seed,
            macs: config.macs(arm.partition.as_ref()),
            task: self,
        }))
    }
}

/// A model on its way to novel kinds.
struct Heir<'a> {
    denoiser: Denoiser<'a>,
    seed: u64,
    macs: usize,
    task: &'a Transfer<'a>,
}

impl Scored for Heir<'_> {
    fn learner(&self) -> &dyn Learner {
        &self.denoiser
    }

    fn score(&self, stage: &Stage<'_>, part: Part) -> Result<Cell> {
        let Transfer {
            setup,
            judge,
            real,
            seen,
            ..
        } = self.task;
        let set = self.task.sets.of(part);
        let cell = scored(self.denoiser.held_out_own(stage, set, setup.levels)?);
        if part == Part::Validation {
            return Ok(cell);
        }
        let drawn = self
            .denoiser
            .samples(stage, &set.labels, setup.sampling, self.seed)?;
        let cell = denoise::likeness(cell, seen, &judge.look(&drawn)?, &set.labels)?;
        let cell = cell.metric("multiplications a step", self.macs as f64 / 1e6);
        if self.seed > 1 {
            return Ok(cell);
        }
        let caption = "A row for each novel kind: real pictures of the test on the left, drawn ones on the right.";
        let (width, rgb) = denoise::side_by_side(real, &drawn, &set.labels, 8)?;
        let picture = Picture::new(caption, width, &rgb)?;
        Ok(cell.picture("samples", picture))
    }
}
