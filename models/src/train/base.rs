//! What is fine-tuned: an encoder with its tokeniser, pre-trained here or read from Hugging Face's files.

use std::path::Path;
use std::sync::Arc;

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;

use super::Recipe;
use super::masked::{self, Cloze};
use crate::data::corpus::Stream;
use crate::data::tokenizer::Tokenizer;
use crate::encoder::{EncoderConfig, TextEncoder};
use crate::experiment::hash::sha256;
use crate::experiment::{Error, Result, Run, files};
use crate::hub::{Architecture, Folder};

/// A pre-trained encoder and what reads and writes its text.
pub struct Base {
    /// Which encoder, and its sizes.
    pub architecture: Architecture,
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// Its parameters, and where it has one, the masked-token head's.
    pub weights: Arc<dyn Source>,
    /// How text is cut and hidden.
    pub cloze: Cloze,
    /// What it was made of: the stage's id, or the digest of its files.
    pub id: String,
    /// Where models of it compute.
    pub device: Device,
}

impl Base {
    /// Pre-trains an encoder on documents, as a stage of the run.
    ///
    /// # Errors
    /// As [`masked::pretrain`].
    pub fn pretrained(
        run: &mut Run,
        config: EncoderConfig,
        tokenizer: Tokenizer,
        cloze: Cloze,
        recipe: &Recipe,
        documents: impl FnOnce() -> Result<Vec<String>>,
    ) -> Result<Self> {
        let device = run.device();
        let stage = run.stage("pre-train", &(&config, cloze, recipe), |stage| {
            let stream = stream(&tokenizer, &documents()?)?;
            masked::pretrain(stage, &config, &tokenizer, &stream, cloze, recipe, &device)
        })?;
        Ok(Base {
            weights: Arc::new(checkpoint::load(&stage.artefact(masked::WEIGHTS))?),
            id: stage.id().to_owned(),
            architecture: Architecture::Encoder(config),
            tokenizer,
            cloze,
            device,
        })
    }

    /// An encoder from a checkpoint's folder, with its own tokeniser or another. Every model of it reads its own values from the
    /// files, so that none are held twice.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`Folder::encoder`]; a tokeniser of another vocabulary.
    pub fn from_folder(path: &Path, tokenizer: Option<&Path>, run: &Run) -> Result<Self> {
        let folder = Folder::open(path)?;
        let device = run.device();
        // Better to learn now than in the first run that a tensor is missing.
        let encoder = folder.encoder(&folder.store(&device, 0, &[]))?;
        let (tokenizer, seal) = reader(&folder, tokenizer, encoder.vocabulary())?;
        Ok(Base {
            cloze: Cloze {
                columns: encoder.longest().min(128),
                rate: 0.15,
                asked: 8,
            },
            architecture: folder.architecture().clone(),
            tokenizer,
            weights: folder.source(),
            id: sha256([folder.digest(), seal].concat().as_bytes())[..32].to_owned(),
            device,
        })
    }

    /// The encoder, made in a store whose source is the base's weights.
    ///
    /// # Errors
    /// Weights that lack a parameter of the encoder, or have it in another shape; a base that is none of text.
    pub fn encoder(&self, store: &Store) -> Result<Box<dyn TextEncoder>> {
        let encoder = self.architecture.encoder(store)?;
        encoder.ok_or_else(|| Error::Invalid("the base is no encoder of text".into()))
    }

    /// The tokens of documents in a row, each ended by `[SEP]`.
    ///
    /// # Errors
    /// A text that the tokeniser cannot encode.
    pub fn stream(&self, documents: &[String]) -> Result<Stream> {
        stream(&self.tokenizer, documents)
    }
}

fn stream(tokenizer: &Tokenizer, documents: &[String]) -> Result<Stream> {
    Ok(tokenizer.stream(documents, tokenizer.special().sep.unwrap_or(0))?)
}

/// The tokeniser of a folder, or the one given in its place, and the digest of its file.
///
/// # Errors
/// A file that cannot be read; more tokens than the model has embeddings for.
pub(super) fn reader(
    folder: &Folder,
    given: Option<&Path>,
    vocabulary: usize,
) -> Result<(Tokenizer, String)> {
    let path = given.map_or_else(|| folder.tokenizer_path(), Path::to_path_buf);
    let tokenizer = Tokenizer::from_file(&path)?;
    if tokenizer.vocabulary() > vocabulary {
        return Err(Error::Invalid(format!(
            "{}: {} tokens, but the checkpoint has embeddings for {vocabulary}; give the tokenizer of this checkpoint",
            path.display(),
            tokenizer.vocabulary(),
        )));
    }
    Ok((tokenizer, files::digest(&path)?))
}

/// Rescales the first draw of a new model to its width, and lets positions start as sinusoids (Vaswani et al. 2017) of
/// wavelengths 2π to 2000π: the published N(0, 0.02²) is made for d = 768, and from it a narrow model predicts token frequencies
/// for minutes before it attends. `positions` is how the name of their table ends.
pub(super) fn start(
    store: &Store,
    d: usize,
    positions: &str,
) -> deltaw_engine::prelude::Result<()> {
    let std = (d as f32).sqrt().recip();
    for param in store.params().iter().filter(|p| p.shape().len() == 2) {
        let scaled = if param.name().ends_with(positions) {
            let wave = |i: usize| {
                let (position, column) = ((i / d) as f32, i % d);
                let angle = position * 1000f32.powf(-((column - column % 2) as f32) / d as f32);
                let value = if column % 2 == 0 {
                    angle.sin()
                } else {
                    angle.cos()
                };
                value * std * std::f32::consts::SQRT_2
            };
            let values: Vec<f32> = (0..param.len()).map(wave).collect();
            Tensor::from_slice(&values, &param.shape(), store.device())?
        } else {
            no_grad(|| param.value().affine(f64::from(std / 0.02), 0.0))?
        };
        param.set(scaled)?;
    }
    Ok(())
}
