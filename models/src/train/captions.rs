//! Two towers (CLIP): pre-trained on pictures of one style with their captions, and taken to other styles, where a picture is
//! classified by the name that lies nearest.

use std::sync::Arc;

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;

use super::comparison::{Part, Scored, Sets, Task, accuracy};
use super::{Learner, Recipe, base, fit, matrix};
use crate::clip::{Clip, ClipConfig, TowerConfig, contrastive_loss};
use crate::data::draw::few_shot;
use crate::data::emoji::{self, SIDE, Style};
use crate::data::images::{ImageSet, ImageTask, Normalisation};
use crate::data::order::Order;
use crate::data::split::Fractions;
use crate::data::tasks::pictures::{Level, emoji};
use crate::data::tokenizer::Tokenizer;
use crate::experiment::{Cell, Error, Result, Run, Stage};
use crate::transformer::Activation;

/// Tokens per text, the first and the last included.
const COLUMNS: usize = 24;
/// The file that pre-training leaves beside its stage.
const WEIGHTS: &str = "base.safetensors";

/// Pre-trained towers and what reads their texts.
pub struct Towers {
    /// Sizes.
    pub config: ClipConfig,
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// All parameters.
    pub weights: Arc<dyn Source>,
    /// What they were made of: the stage's id.
    pub id: String,
    /// Where models of them compute.
    pub device: Device,
}

impl Towers {
    /// Towers of three blocks of width 96, taught Noto's emoji with captions of the form "subgroup: name", as a stage of the run.
    ///
    /// # Errors
    /// As [`fit`].
    pub fn on_noto(run: &mut Run, recipe: &Recipe) -> Result<Self> {
        let tokenizer = Tokenizer::shipped()?;
        let config = small(&tokenizer)?;
        let device = run.device();
        let stage = run.stage("pre-train towers", &(&config, recipe), |stage| {
            let task = emoji_of(Style::Noto)?;
            let captions = encode(&tokenizer, captions(&task)?.into_iter())?;
            let model = Model::new(Store::new(&device, 0), &config)?;
            let width = config.text.hidden_size;
            base::start(&model.store, width, "position_embedding.weight")?;
            let pairs = Pairs {
                model,
                pictures: task.splits.train,
                captions,
            };
            let curve = fit(stage, &pairs, None, recipe, 0)?;
            let weights = pairs.model.store.weights();
            stage.save_artefact(WEIGHTS, &checkpoint::to_bytes(&weights)?)?;
            Ok(curve)
        })?;
        Ok(Towers {
            weights: Arc::new(checkpoint::load(&stage.artefact(WEIGHTS))?),
            id: stage.id().to_owned(),
            config,
            tokenizer,
            device,
        })
    }
}

fn emoji_of(style: Style) -> Result<ImageTask> {
    Ok(emoji(style, Level::Subgroup, &Fractions::default())?)
}

/// "subgroup: name" of each picture to train on.
fn captions(task: &ImageTask) -> Result<Vec<String>> {
    let (pictures, table) = (&task.splits.train, emoji::table()?);
    let caption = |(source, class): (&u32, &u32)| {
        let class = spoken(&task.classes[*class as usize]);
        format!("{class}: {}", table.emoji[*source as usize].name)
    };
    Ok((pictures.sources.iter().zip(&pictures.labels))
        .map(caption)
        .collect())
}

fn small(tokenizer: &Tokenizer) -> Result<ClipConfig> {
    let tower = TowerConfig {
        hidden_size: 96,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        intermediate_size: 384,
        layer_norm_eps: 1e-5,
        hidden_act: Activation::QuickGelu,
    };
    Ok(ClipConfig {
        text: tower.clone(),
        vocab_size: tokenizer.vocabulary(),
        max_position_embeddings: COLUMNS,
        eos_token_id: ends(tokenizer)?[1],
        vision: tower,
        image_size: SIDE,
        patch_size: 8,
        num_channels: 3,
        projection_dim: 64,
        logit_scale_init_value: 2.6592,
    })
}

/// The first token of a text, and the last.
fn ends(tokenizer: &Tokenizer) -> Result<[u32; 2]> {
    let special = tokenizer.special();
    let ends = special.cls.zip(special.sep).map(|(cls, sep)| [cls, sep]);
    ends.ok_or_else(|| Error::Invalid("the tokeniser has no [CLS] or no [SEP]".into()))
}

/// A class's name as it stands in a caption: "animal-mammal" is "animal mammal".
fn spoken(class: &str) -> String {
    class.replace('-', " ")
}

/// Rows of [`COLUMNS`] ids; a longer text loses its end.
fn encode(tokenizer: &Tokenizer, texts: impl Iterator<Item = String>) -> Result<Vec<u32>> {
    let ([first, last], pad) = (ends(tokenizer)?, tokenizer.special().pad);
    let mut rows = vec![];
    for text in texts {
        let ids = tokenizer.encode(&text)?;
        let own = &ids[..ids.len().min(COLUMNS - 2)];
        rows.push(first);
        rows.extend(own);
        rows.push(last);
        rows.extend(vec![pad; COLUMNS - 2 - own.len()]);
    }
    Ok(rows)
}

/// The towers with their parameters.
struct Model {
    store: Store,
    clip: Clip,
}

impl Model {
    fn new(store: Store, config: &ClipConfig) -> Result<Self> {
        let clip = Clip::new(&store.root(), config)?;
        Ok(Model { store, clip })
    }

    /// Similarities of pictures with texts, `[pictures, texts]`, and the pictures' classes.
    fn logits(
        &self,
        ctx: &Context,
        set: &ImageSet,
        items: &[u32],
        texts: &[u32],
    ) -> Result<(Tensor, Vec<u32>)> {
        let (batch, device) = (
            set.batch(items, &Normalisation::EMOJI)?,
            self.store.device(),
        );
        let pixels = Tensor::from_slice(&batch.pixels, &batch.shape, device)?;
        let texts = matrix(texts, texts.len() / COLUMNS, COLUMNS, device)?;
        let (images, texts) = (
            self.clip.images(ctx, &pixels)?,
            self.clip.texts(ctx, &texts)?,
        );
        Ok((self.clip.logits(&images, &texts)?, batch.labels))
    }
}

/// Pictures that belong to captions one by one.
struct Pairs {
    model: Model,
    pictures: ImageSet,
    captions: Vec<u32>,
}

impl Learner for Pairs {
    fn store(&self) -> &Store {
        &self.model.store
    }

    fn order(&self, seed: u64, _: usize) -> Result<Order> {
        Ok(Order::new(self.pictures.len(), seed)?)
    }

    fn loss(&self, ctx: &Context, items: &[u32], _: u64) -> Result<Tensor> {
        let row = |item: &u32| &self.captions[*item as usize * COLUMNS..][..COLUMNS];
        let captions: Vec<u32> = items.iter().flat_map(row).copied().collect();
        let (logits, _) = (self.model).logits(ctx, &self.pictures, items, &captions)?;
        Ok(contrastive_loss(&logits)?)
    }
}

/// Pictures of one style, each to be given the name of its subgroup, one of 98, by the similarity of the towers; both towers are
/// tuned, and there is no head.
pub struct Naming<'a> {
    base: &'a Towers,
    sets: Sets<ImageSet>,
    names: Vec<u32>,
}

impl<'a> Naming<'a> {
    /// A style, with at most `shots` pictures of each subgroup to learn from.
    ///
    /// # Errors
    /// As [`emoji`].
    pub fn new(base: &'a Towers, style: Style, shots: usize) -> Result<Self> {
        let task = emoji_of(style)?;
        let few = few_shot(&task.splits.train.labels, shots, 0);
        Ok(Naming {
            base,
            names: encode(&base.tokenizer, task.classes.iter().map(|c| spoken(c)))?,
            sets: Sets {
                train: task.splits.train.subset(&few)?.rgb(),
                validation: task.splits.validation.rgb(),
                tests: vec![(format!("names, {}", style.name()), task.splits.test.rgb())],
            },
        })
    }
}

impl Task for Naming<'_> {
    fn tests(&self) -> Vec<String> {
        self.sets.names()
    }

    fn model(&self, seed: u64) -> Result<Box<dyn Scored + '_>> {
        let Towers { config, device, .. } = self.base;
        let store = Store::from_source(device, seed, self.base.weights.clone(), &[]);
        let model = Model::new(store, config)?;
        Ok(Box::new(Namer { model, task: self }))
    }
}

/// Towers that are tuned to name pictures.
struct Namer<'a> {
    model: Model,
    task: &'a Naming<'a>,
}

impl Learner for Namer<'_> {
    fn store(&self) -> &Store {
        &self.model.store
    }

    fn order(&self, seed: u64, _: usize) -> Result<Order> {
        Ok(Order::new(self.task.sets.train.len(), seed)?)
    }

    fn loss(&self, ctx: &Context, items: &[u32], _: u64) -> Result<Tensor> {
        let Naming { sets, names, .. } = self.task;
        let (logits, labels) = self.model.logits(ctx, &sets.train, items, names)?;
        let labels = Tensor::from_slice(&labels, &[labels.len()], self.model.store.device())?;
        Ok(cross_entropy(
            &logits,
            &labels,
            &CrossEntropyOptions::default(),
        )?)
    }
}

impl Scored for Namer<'_> {
    fn learner(&self) -> &dyn Learner {
        self
    }

    fn score(&self, stage: &Stage<'_>, part: Part) -> Result<Cell> {
        let Naming { sets, names, .. } = self.task;
        let set = sets.of(part);
        let items: Vec<u32> = (0..set.len() as u32).collect();
        accuracy(stage, &items, |items| {
            self.model.logits(&Context::eval(), set, items, names)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_begin_and_end_whatever_their_length() {
        let tokenizer = Tokenizer::shipped().unwrap();
        let ([first, last], pad) = (ends(&tokenizer).unwrap(), tokenizer.special().pad);
        let texts = ["cat".to_string(), "a very long name ".repeat(20)];
        let rows = encode(&tokenizer, texts.into_iter()).unwrap();
        let (short, long) = rows.split_at(COLUMNS);
        let own = tokenizer.encode("cat").unwrap();
        assert_eq!(short[0], first);
        assert_eq!(short[1..=own.len()], own[..]);
        assert_eq!(short[own.len() + 1], last);
        assert!(short[own.len() + 2..].iter().all(|id| *id == pad));
        assert_eq!(
            (long[0], long[COLUMNS - 1], long.len()),
            (first, last, COLUMNS)
        );
    }

    #[test]
    fn a_caption_begins_with_what_its_class_is_called() {
        let captions = captions(&emoji_of(Style::Noto).unwrap()).unwrap();
        assert_eq!(captions[0], "face smiling: grinning face");
    }
}
