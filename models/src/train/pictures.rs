//! Vision transformers: pre-training on one kind of pictures, and fine-tuning on others.

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;

use super::comparison::{Part, Scored, Sets, Task};
use super::{Learner, Recipe, fit};
use crate::data::draw::few_shot;
use crate::data::emoji::Style;
use crate::data::images::{ImageSet, ImageTask, Normalisation};
use crate::data::order::Order;
use crate::data::split::Fractions;
use crate::data::tasks::pictures::{Level, emoji, mnist};
use crate::experiment::{Cell, Error, Result, Run, Stage};
use crate::vit::{ImageHead, Vit, VitConfig};

/// What every method trains besides its own parameters.
const HEADS: [&str; 1] = ["classifier."];
/// The file that pre-training leaves beside its stage.
const WEIGHTS: &str = "base.safetensors";
/// Pictures scored at a time.
const ROWS: usize = 128;

/// A pre-trained vision transformer.
pub struct Seer {
    /// Sizes.
    pub config: VitConfig,
    /// All parameters, the head's included.
    pub weights: Weights,
    /// The stage that made it.
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
            let model =
                Classifier::new(&config, &task.splits.train, task.classes.len(), 0, &device)?;
            let curve = fit(stage, &model, None, recipe, 0)?;
            stage.save_artefact(WEIGHTS, &checkpoint::to_bytes(&model.store.weights())?)?;
            Ok(curve)
        })?;
        Ok(Seer {
            weights: checkpoint::load(&stage.artefact(WEIGHTS))?,
            id: stage.id().to_owned(),
            config,
            device,
        })
    }
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
        let (store, channels) = (Store::new(&self.device, 0), self.config.num_channels);
        let classes = self.weights.get("classifier.bias").map_or(0, Tensor::len);
        let vit = Vit::new(&store.at("vit"), &self.config)?;
        let head = ImageHead::new(&store.root(), &self.config, classes)?;
        store.load(&self.weights, |_| true)?;
        // (x/2 + 1/2 − mean)/std.
        let Normalisation { mean, std } = Normalisation::EMOJI;
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

/// The vision transformer that papers share, three blocks of width 96, taught the groups of Noto's emoji.
///
/// # Errors
/// As [`Seer::on`].
pub fn base(run: &mut Run) -> Result<Seer> {
    let recipe = Recipe::new(run.pick(10, 800, 800), 64, 2e-3);
    run.config("pre-training steps", recipe.steps)?;
    let noto = emoji(Style::Noto, Level::Group, &Fractions::default())?;
    Seer::on(run, VitConfig::new(32, 8, 3, 96, 3, 4), &recipe, &noto)
}

/// A vision transformer with a classifier, and pictures.
struct Classifier<'a> {
    store: Store,
    vit: Vit,
    head: ImageHead,
    pictures: &'a ImageSet,
}

impl<'a> Classifier<'a> {
    fn new(
        config: &VitConfig,
        pictures: &'a ImageSet,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let store = Store::new(device, seed);
        Ok(Classifier {
            vit: Vit::new(&store.at("vit"), config)?,
            head: ImageHead::new(&store.root(), config, classes)?,
            store,
            pictures,
        })
    }

    /// Logits `[B, classes]` and the classes. All are normalised as the pictures of the base.
    fn logits(&self, ctx: &Context, set: &ImageSet, items: &[u32]) -> Result<(Tensor, Vec<u32>)> {
        let batch = set.batch(items, &Normalisation::EMOJI)?;
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
    /// validation and test. Pictures are made RGB.
    ///
    /// # Errors
    /// An empty split, pictures of another size than the model's.
    pub fn new(
        base: &'a Seer,
        name: &str,
        task: ImageTask,
        shots: usize,
        most: usize,
    ) -> Result<Self> {
        let (splits, side) = (task.splits.map(ImageSet::rgb), base.config.image_size);
        if splits.train.side != side || splits.test.is_empty() || splits.validation.is_empty() {
            return Err(Error::Invalid(format!(
                "{name}: pictures of {} pixels, {} to validate and {} to test; wanted {side} pixels and some of both",
                splits.train.side,
                splits.validation.len(),
                splits.test.len()
            )));
        }
        let some = |set: &ImageSet| {
            let step = set.len().div_ceil(most.max(1));
            let items: Vec<u32> = (0..set.len() as u32).step_by(step).collect();
            set.subset(&items)
        };
        let few = few_shot(&splits.train.labels, shots, 0);
        Ok(Pictures {
            base,
            sets: Sets {
                train: splits.train.subset(&few)?,
                validation: some(&splits.validation)?,
                tests: vec![(name.into(), some(&splits.test)?)],
            },
            classes: task.classes.len(),
        })
    }
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
        .try_map(|set| Ok::<_, Error>(set.padded(base.config.image_size, 0)?.inverted()))?;
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
        let model = Classifier::new(config, &self.sets.train, self.classes, seed, device)?;
        model
            .store
            .load(&self.base.weights, |name| !name.starts_with(HEADS[0]))?;
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
        let (set, mut right) = (self.task.sets.of(part), vec![]);
        let items: Vec<u32> = (0..set.len() as u32).collect();
        for chunk in items.chunks(ROWS) {
            stage.check()?;
            let (logits, labels) = no_grad(|| self.model.logits(&Context::eval(), set, chunk))?;
            let said = logits.argmax()?.to_vec::<u32>()?;
            right.extend(said.iter().zip(&labels).map(|(a, b)| a == b));
        }
        Ok(Cell::new().accuracy(right))
    }
}
