//! Vision transformers: pre-training on one kind of pictures, and fine-tuning on others.

use std::path::Path;
use std::sync::Arc;

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;

use super::comparison::{Part, Scored, Sets, Task, accuracy};
use super::{Learner, Recipe, fit};
use crate::data;
use crate::data::draw::few_shot;
use crate::data::emoji::{SIDE, Style};
use crate::data::images::{ImageSet, ImageTask, Normalisation};
use crate::data::order::Order;
use crate::data::split::Fractions;
use crate::data::tasks::pictures::{Level, emoji, mnist};
use crate::experiment::hash::Sha256;
use crate::experiment::{Cell, Error, Result, Run, Stage};
use crate::hub::{Config, Folder};
use crate::vit::{ImageHead, Vit, VitConfig};

/// What every method trains besides its own parameters.
const HEADS: [&str; 1] = ["classifier."];
/// The file that pre-training leaves beside its stage.
const WEIGHTS: &str = "base.safetensors";

/// A pre-trained vision transformer.
pub struct Seer {
    /// Sizes.
    pub config: VitConfig,
    /// All parameters, the head's included where it has one.
    pub weights: Arc<dyn Source>,
    /// How pictures are normalised for it.
    pub normalisation: Normalisation,
    /// What it was made of: the stage's id, or the digest of its files.
    pub id: String,
    /// Where models of it compute.
    pub device: Device,
}

impl Seer {
    /// Trains a new model to classify the pictures of a task, as a stage of the run.
    ///
    /// # Errors
    /// Pictures of another size than the model's; as [`fit`].
    pub fn on(run: &mut Run, config: VitConfig, recipe: &Recipe, task: &ImageTask) -> Result<Self> {
        let device = run.device();
        let stage = run.stage("pre-train", &(&config, recipe, &task.name), |stage| {
            let classes = task.classes.len();
            let store = Store::new(&device, 0);
            let model = Classifier::new(
                store,
                &config,
                &task.splits.train,
                classes,
                Normalisation::EMOJI,
            )?;
            let curve = fit(stage, &model, None, recipe, 0)?;
            stage.save_artefact(WEIGHTS, &checkpoint::to_bytes(&model.store.weights())?)?;
            Ok(curve)
        })?;
        Ok(Seer {
            weights: Arc::new(checkpoint::load(&stage.artefact(WEIGHTS))?),
            normalisation: Normalisation::EMOJI,
            id: stage.id().to_owned(),
            config,
            device,
        })
    }

    /// A model from a checkpoint's folder; `preprocessor_config.json` says how pictures are normalised, and without it their pixels
    /// are in [−1, 1], as of ViT's first checkpoints.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`Folder::vit`]; a model of other than RGB pictures.
    pub fn from_folder(path: &Path, run: &Run) -> Result<Self> {
        let folder = Folder::open(path)?;
        let device = run.device();
        let config = folder.vit(&folder.store(&device, 0, &[]))?.config().clone();
        if config.num_channels != 3 {
            let detail = format!("is {}; wanted 3", config.num_channels);
            return Err(folder.config().refuse("num_channels", detail).into());
        }
        Ok(Seer {
            weights: folder.source(),
            normalisation: normalisation(&path.join("preprocessor_config.json"))?,
            id: folder.digest()[..32].to_owned(),
            config,
            device,
        })
    }
}

/// `image_mean` and `image_std`.
fn normalisation(path: &Path) -> Result<Normalisation> {
    if !path.is_file() {
        return Ok(Normalisation::SIGNED);
    }
    let config = Config::read(path)?;
    let three = |name: &str, or: [f32; 3]| -> Result<[f32; 3]> {
        let Some(value) = config.get(name) else {
            return Ok(or);
        };
        let numbers: Option<[f32; 3]> = serde_json::from_value(value.clone()).ok();
        let usable = numbers.filter(|n| {
            n.iter()
                .all(|x| x.is_finite() && (name == "image_mean" || *x > 0.0))
        });
        usable.ok_or_else(|| {
            config
                .refuse(name, format!("is {value}; wanted three numbers"))
                .into()
        })
    };
    let Normalisation { mean, std } = Normalisation::SIGNED;
    Ok(Normalisation {
        mean: three("image_mean", mean)?,
        std: three("image_std", std)?,
    })
}

/// What a model sees in pictures.
pub struct Seen {
    /// The class token's last state, `[B, d]`: what the classifier reads.
    pub features: Tensor,
    /// Four numbers of every patch's last state, `[B, 4·patches]`: what is where.
    pub map: Tensor,
    /// The most likely classes.
    pub classes: Vec<u32>,
}

impl Seer {
    /// Looks at pictures `[B, C, H, W]` of pixels in [−1, 1].
    ///
    /// # Errors
    /// Pictures of another size than the model's.
    pub fn look(&self, pixels: &Tensor) -> Result<Seen> {
        let channels = self.config.num_channels;
        let store = Store::from_source(&self.device, 0, self.weights.clone(), &[]);
        let head = self.weights.describe("classifier.bias");
        let classes = head.map_or(0, |(_, shape)| shape.iter().product());
        let vit = Vit::new(&store.at("vit"), &self.config)?;
        let head = ImageHead::new(&store.root(), &self.config, classes)?;
        // (x/2 + 1/2 − mean)/std.
        let Normalisation { mean, std } = self.normalisation;
        let along = |f: &dyn Fn(usize) -> f32| {
            let values: Vec<f32> = (0..channels).map(f).collect();
            Tensor::from_slice(&values, &[1, channels, 1, 1], &self.device)
        };
        let scale = along(&|c| 0.5 / std[c])?;
        let shift = along(&|c| (0.5 - mean[c]) / std[c])?;
        no_grad(|| {
            let hidden = vit.forward(&Context::eval(), &pixels.mul(&scale)?.add(&shift)?)?;
            let (batch, patches) = (hidden.shape()[0], self.config.patches());
            let said = head.forward(&Context::eval(), &hidden)?.argmax()?;
            Ok(Seen {
                features: hidden.narrow(1, 0, 1)?.squeeze(1)?,
                map: (hidden.narrow(1, 1, patches)?.narrow(2, 0, 4)?)
                    .reshape(&[batch, 4 * patches])?,
                classes: said.to_vec::<u32>()?,
            })
        })
    }
}

/// The vision transformer that papers share, three blocks of width 96, taught the groups of Noto's emoji; or, where the options name
/// one, the user's checkpoint.
///
/// # Errors
/// As [`Seer::on`] and [`Seer::from_folder`].
pub fn base(run: &mut Run) -> Result<Seer> {
    if let Some(folder) = run.options().checkpoint.clone() {
        return Seer::from_folder(&folder, run);
    }
    let recipe = Recipe::new(run.pick(10, 800, 800), 64, 2e-3);
    run.config("pre-training steps on pictures", recipe.steps)?;
    let noto = emoji(Style::Noto, Level::Group, &Fractions::default())?;
    Seer::on(run, VitConfig::new(32, 8, 3, 96, 3, 4), &recipe, &noto)
}

/// A vision transformer with a classifier, and pictures.
struct Classifier<'a> {
    store: Store,
    vit: Vit,
    head: ImageHead,
    pictures: &'a ImageSet,
    normalisation: Normalisation,
}

impl<'a> Classifier<'a> {
    fn new(
        store: Store,
        config: &VitConfig,
        pictures: &'a ImageSet,
        classes: usize,
        normalisation: Normalisation,
    ) -> Result<Self> {
        Ok(Classifier {
            vit: Vit::new(&store.at("vit"), config)?,
            head: ImageHead::new(&store.root(), config, classes)?,
            store,
            pictures,
            normalisation,
        })
    }

    /// Logits `[B, classes]` and the classes. All are normalised as the pictures of the base.
    fn logits(&self, ctx: &Context, set: &ImageSet, items: &[u32]) -> Result<(Tensor, Vec<u32>)> {
        let batch = set.batch(items, &self.normalisation)?;
        let pixels = Tensor::from_slice(&batch.pixels, &batch.shape, self.store.device())?;
        let hidden = self.vit.forward(ctx, &pixels)?;
        Ok((self.head.forward(ctx, &hidden)?, batch.labels))
    }
}

impl Learner for Classifier<'_> {
    fn store(&self) -> &Store {
        &self.store
    }

    fn order(&self, seed: u64, _: usize) -> Result<Order> {
        Ok(Order::new(self.pictures.len(), seed)?)
    }

    fn loss(&self, ctx: &Context, items: &[u32], _: u64) -> Result<Tensor> {
        let (logits, labels) = self.logits(ctx, self.pictures, items)?;
        let labels = Tensor::from_slice(&labels, &[labels.len()], self.store.device())?;
        Ok(cross_entropy(
            &logits,
            &labels,
            &CrossEntropyOptions::default(),
        )?)
    }
}

/// Pictures to classify.
pub struct Pictures<'a> {
    base: &'a Seer,
    sets: Sets<ImageSet>,
    classes: usize,
}

impl<'a> Pictures<'a> {
    /// The task under a name, with at most `shots` pictures of each class to train on, and at most `most` to be scored of
    /// validation and test. Pictures are made RGB and brought to the model's size.
    ///
    /// # Errors
    /// An empty split.
    pub fn new(
        base: &'a Seer,
        name: &str,
        task: ImageTask,
        shots: usize,
        most: usize,
    ) -> Result<Self> {
        let side = base.config.image_size;
        let splits = task.splits;
        if splits.train.is_empty() || splits.test.is_empty() || splits.validation.is_empty() {
            return Err(Error::Invalid(format!(
                "{name}: {} pictures to learn from, {} to validate and {} to test; wanted some of each",
                splits.train.len(),
                splits.validation.len(),
                splits.test.len()
            )));
        }
        let fit = |set: ImageSet| set.rgb().resized(side);
        let some = |set: &ImageSet| {
            let step = set.len().div_ceil(most.max(1));
            let items: Vec<u32> = (0..set.len() as u32).step_by(step).collect();
            set.subset(&items).map(fit)
        };
        let few = few_shot(&splits.train.labels, shots, 0);
        Ok(Pictures {
            base,
            sets: Sets {
                train: fit(splits.train.subset(&few)?),
                validation: some(&splits.validation)?,
                tests: vec![(name.into(), some(&splits.test)?)],
            },
            classes: task.classes.len(),
        })
    }
}

/// What the options ask for: `--data`'s folder of pictures, or else [`domains`] with the first number of shots and, at full scale,
/// with all pictures too. Returns the tasks and what runs on them with the base depend on.
///
/// # Errors
/// As [`Pictures::new`] and [`crate::data::pictures::read`].
pub fn tasks<'a>(
    run: &Run,
    base: &'a Seer,
    shots: &[usize],
    most: usize,
) -> Result<(Vec<Box<dyn Task + 'a>>, String)> {
    if let Some(path) = &run.options().data {
        let task = data::pictures::read(path, base.config.image_size, &Fractions::default())?;
        let mut seal = Sha256::default();
        for set in [
            &task.splits.train,
            &task.splits.validation,
            &task.splits.test,
        ] {
            seal.update(&set.pixels);
        }
        let name = task.name.clone();
        let pictures = Pictures::new(base, &name, task, usize::MAX, most)?;
        let key = format!("{} on {}", base.id, seal.finish());
        return Ok((vec![Box::new(pictures)], key));
    }
    let mut tasks: Vec<Box<dyn Task + 'a>> = vec![];
    for shots in shots {
        tasks.extend(domains(base, *shots, most)?);
    }
    Ok((tasks, base.id.clone()))
}

/// Three styles of emoji and MNIST's digits, framed and black on white: where a model that knows Noto's emoji is taken. `shots` is
/// as in [`Pictures::new`], and part of the tasks' names where it is not [`usize::MAX`].
///
/// # Errors
/// As [`Pictures::new`].
pub fn domains(base: &Seer, shots: usize, most: usize) -> Result<Vec<Box<dyn Task + '_>>> {
    let fractions = Fractions::default();
    let styles = [Style::Twemoji, Style::Openmoji, Style::Lines];
    let mut all = vec![];
    for style in styles {
        all.push(emoji(style, Level::Group, &fractions)?);
    }
    let mut digits = mnist(&fractions)?;
    digits.splits = digits
        .splits
        .try_map(|set| Ok::<_, Error>(set.padded(SIDE, 0)?.inverted()))?;
    all.push(digits);
    let task = |task: ImageTask| -> Result<Box<dyn Task + '_>> {
        let name = task.name.trim_start_matches("emoji-");
        let name = match shots {
            usize::MAX => name.to_string(),
            few => format!("{name}, {few} shots"),
        };
        Ok(Box::new(Pictures::new(base, &name, task, shots, most)?))
    };
    all.into_iter().map(task).collect()
}

impl Task for Pictures<'_> {
    fn tests(&self) -> Vec<String> {
        self.sets.names()
    }

    fn heads(&self) -> &[&str] {
        &HEADS
    }

    fn model(&self, seed: u64) -> Result<Box<dyn Scored + '_>> {
        let Seer { config, device, .. } = self.base;
        let weights = self.base.weights.clone();
        let store = Store::from_source(device, seed, weights, &HEADS);
        let normalisation = self.base.normalisation;
        let model = Classifier::new(store, config, &self.sets.train, self.classes, normalisation)?;
        Ok(Box::new(Pupil { model, task: self }))
    }
}

/// A model with what it is tested on.
struct Pupil<'a> {
    model: Classifier<'a>,
    task: &'a Pictures<'a>,
}

impl Scored for Pupil<'_> {
    fn learner(&self) -> &dyn Learner {
        &self.model
    }

    fn score(&self, stage: &Stage<'_>, part: Part) -> Result<Cell> {
        let set = self.task.sets.of(part);
        let items: Vec<u32> = (0..set.len() as u32).collect();
        accuracy(stage, &items, |items| {
            self.model.logits(&Context::eval(), set, items)
        })
    }
}
