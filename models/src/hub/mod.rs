//! Checkpoint folders as the Hugging Face hub has them: `config.json`, `model.safetensors` or its parts with their index,
//! `tokenizer.json`. Nothing is fetched; a folder is a clone or a snapshot of the user's own.
//!
//! ```no_run
//! use deltaw_models::hub::Folder;
//! use deltaw_models::prelude::*;
//!
//! # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//! let folder = Folder::open("all-MiniLM-L6-v2".as_ref())?;
//! let store = folder.store(&Device::cpu(), 0, &[]);
//! let (encoder, tokenizer) = (folder.encoder(&store)?, folder.tokenizer()?);
//! # Ok(())
//! # }
//! ```
//!
//! Which model it is, `model_type` says ([`Architecture`]); what of the configuration the model here does not do is refused by
//! name, as is a tensor that is missing, left over or of another shape. Weights of bf16 and f16 stay in their type.

pub mod config;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltaw_engine::checkpoint::Checkpoint;
use deltaw_engine::prelude::*;

pub use config::Config;

use crate::clip::{Clip, ClipConfig};
use crate::data::tokenizer::Tokenizer;
use crate::deberta::{Deberta, DebertaConfig};
use crate::decoder::{Decoder, DecoderConfig};
use crate::dit::{Dit, DitConfig};
use crate::encoder::{Encoder, EncoderConfig, SequenceHead, TextEncoder};
use crate::experiment::hash::Sha256;
use crate::seq2seq::{BartConfig, EncoderDecoder, T5Config};
use crate::vit::{Vit, VitConfig};

/// The model of a checkpoint, with its sizes.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// `bert` and `roberta`.
    Encoder(EncoderConfig),
    /// `gpt2`, `llama`, `qwen2` and `mistral`.
    Decoder(DecoderConfig),
    /// `deberta-v2`, which version 3 is called too.
    Deberta(DebertaConfig),
    /// `t5`.
    T5(T5Config),
    /// `bart`.
    Bart(BartConfig),
    /// `vit`.
    Vit(VitConfig),
    /// `clip`.
    Clip(ClipConfig),
    /// diffusers' `DiTTransformer2DModel`.
    Dit(DitConfig),
}

/// What [`Architecture::of`] knows.
const KNOWN: &str = "bert, roberta, deberta-v2, gpt2, llama, qwen2, mistral, t5, bart, vit, clip, or diffusers' DiTTransformer2DModel";

impl Architecture {
    /// The model that a configuration describes.
    ///
    /// # Errors
    /// A model that is not known here, or a variant of it that is not.
    pub fn of(config: &Config) -> Result<Self> {
        // Compressed weights have the names of plain ones, but not their numbers.
        if config.get("quantization_config").is_some() {
            return Err(config.refuse(
                "quantization_config",
                "is not supported; wanted weights of f32, bf16 or f16",
            ));
        }
        match (config.text("model_type")?, config.text("_class_name")?) {
            (Some("bert" | "roberta"), _) => {
                EncoderConfig::from_hugging_face(config).map(Self::Encoder)
            }
            (Some("gpt2" | "llama" | "qwen2" | "mistral"), _) => {
                DecoderConfig::from_hugging_face(config).map(Self::Decoder)
            }
            (Some("deberta-v2"), _) => DebertaConfig::from_hugging_face(config).map(Self::Deberta),
            (Some("t5"), _) => T5Config::from_hugging_face(config).map(Self::T5),
            (Some("bart"), _) => BartConfig::from_hugging_face(config).map(Self::Bart),
            (Some("vit"), _) => VitConfig::from_hugging_face(config).map(Self::Vit),
            (Some("clip"), _) => ClipConfig::from_hugging_face(config).map(Self::Clip),
            (None, Some("DiTTransformer2DModel" | "Transformer2DModel")) => {
                DitConfig::from_diffusers(config).map(Self::Dit)
            }
            (Some(other), _) => {
                Err(config.refuse("model_type", format!("is `{other}`; known are {KNOWN}")))
            }
            (None, Some(other)) => {
                Err(config.refuse("_class_name", format!("is `{other}`; known are {KNOWN}")))
            }
            (None, None) => {
                Err(config.refuse("model_type", format!("is missing; known are {KNOWN}")))
            }
        }
    }

    /// An encoder of text, made in a store; None where this is none.
    ///
    /// # Errors
    /// Values that the store's source lacks or has in another shape.
    pub fn encoder(&self, store: &Store) -> Result<Option<Box<dyn TextEncoder>>> {
        Ok(match self {
            Self::Encoder(config) => {
                let encoder = Encoder::new(&store.at(config.family.prefix()), config)?;
                Some(Box::new(encoder))
            }
            Self::Deberta(config) => Some(Box::new(Deberta::new(&store.at("deberta"), config)?)),
            _ => None,
        })
    }

    /// What the model's kind is called in messages.
    fn kind(&self) -> &'static str {
        match self {
            Self::Encoder(_) | Self::Deberta(_) => "an encoder of text",
            Self::Decoder(_) => "a decoder",
            Self::T5(_) | Self::Bart(_) => "an encoder–decoder",
            Self::Vit(_) => "a vision transformer",
            Self::Clip(_) => "a pair of towers for text and images",
            Self::Dit(_) => "a diffusion transformer",
        }
    }

    /// The parameter whose value a tensor of the file is; None for buffers and copies, which are left out.
    fn parameter(&self, name: &str) -> Option<String> {
        match self {
            Self::Encoder(config) => config.parameter(name),
            Self::Decoder(config) => config.parameter(name),
            Self::Deberta(config) => config.parameter(name),
            Self::T5(config) => config.parameter(name),
            Self::Bart(config) => config.parameter(name),
            Self::Vit(_) => Some(crate::vit::parameter(name)),
            Self::Clip(_) => crate::clip::parameter(name),
            Self::Dit(_) => crate::dit::parameter(name),
        }
    }

    /// Parameters that a bare model's checkpoint lacks, and that are then as they are made.
    fn optional(&self) -> &'static [&'static str] {
        match self {
            Self::Bart(_) => &["final_logits_bias"],
            _ => &[],
        }
    }

    /// How the names of parameters begin that a checkpoint may have and its bare model has not: heads.
    fn heads(&self) -> &'static [&'static str] {
        match self {
            Self::Encoder(config) => config.family.heads(),
            Self::Decoder(_) => &["lm_head.", "score.", "classifier.", "qa_outputs."],
            Self::Deberta(_) => &[
                "pooler.",
                "classifier.",
                "cls.",
                "lm_predictions.",
                "mask_predictions.",
                "qa_outputs.",
            ],
            Self::T5(_) => &["classification_head.", "classifier.", "qa_outputs."],
            Self::Bart(_) => &["classification_head.", "qa_outputs."],
            Self::Vit(_) => &["classifier.", "vit.pooler.", "pooler.", "decoder."],
            Self::Clip(_) => &["classifier."],
            Self::Dit(_) => &[],
        }
    }
}

/// A checkpoint's folder, opened.
pub struct Folder {
    path: PathBuf,
    config: Config,
    architecture: Architecture,
    checkpoint: Arc<Checkpoint>,
}

impl Folder {
    /// Opens a folder, or the folder around a `.safetensors` file. Of a diffusers pipeline, its `transformer` is opened.
    ///
    /// # Errors
    /// Files that are missing or not whole, a model that is not known here.
    pub fn open(path: &Path) -> Result<Self> {
        let pipeline = path.join("transformer");
        let (folder, weights) = match path.parent() {
            Some(parent) if path.is_file() => (parent.to_path_buf(), path),
            _ if path.join("model_index.json").is_file() => (pipeline.clone(), pipeline.as_path()),
            _ => (path.to_path_buf(), path),
        };
        let config = Config::read(&folder.join("config.json"))?;
        let architecture = Architecture::of(&config)?;
        let mut checkpoint = Checkpoint::open(weights)?;
        if let Architecture::Dit(_) = &architecture {
            crate::dit::check_copies(&checkpoint)?;
        }
        checkpoint = checkpoint.renamed(|name| architecture.parameter(name))?;
        Ok(Folder {
            path: folder,
            config,
            architecture,
            checkpoint: Arc::new(checkpoint),
        })
    }

    /// Its `config.json`.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Which model it is.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Its tensors, under the names of the model's parameters.
    pub fn source(&self) -> Arc<dyn Source> {
        self.checkpoint.clone()
    }

    /// Where its `tokenizer.json` lies, if it has one.
    pub fn tokenizer_path(&self) -> PathBuf {
        self.path.join("tokenizer.json")
    }

    /// Its `tokenizer.json`.
    ///
    /// # Errors
    /// There is none, or one that cannot be read.
    pub fn tokenizer(&self) -> std::result::Result<Tokenizer, crate::data::DataError> {
        Tokenizer::from_file(&self.tokenizer_path())
    }

    /// A store whose parameters come from here as they are made, but for those that begin with one of `drawn`: new heads, from
    /// `seed`. Once the model is made, whatever the checkpoint lacks is drawn too.
    pub fn store(&self, device: &Device, seed: u64, drawn: &[&str]) -> Store {
        let optional = self.architecture.optional().iter();
        let absent = optional.filter(|name| self.checkpoint.describe(name).is_none());
        let drawn: Vec<&str> = drawn.iter().chain(absent).copied().collect();
        Store::from_source(device, seed, self.source(), &drawn)
    }

    /// The digest of its configuration and weights: 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::default();
        hash.update(self.config.to_string().as_bytes());
        self.checkpoint.each_piece(|piece| {
            hash.update(piece);
        });
        hash.finish()
    }

    /// The encoder of text that it holds, made in a store of [`Folder::store`].
    ///
    /// # Errors
    /// Another kind of model; tensors that are missing, left over or of another shape.
    pub fn encoder(&self, store: &Store) -> Result<Box<dyn TextEncoder>> {
        let encoder = self.architecture.encoder(store)?;
        let encoder = encoder.ok_or_else(|| self.other("an encoder of text"))?;
        self.complete(store)?;
        Ok(encoder)
    }

    /// The head over classes of texts that it holds beside a [`Folder::encoder`] in the store, with the classes' names.
    ///
    /// # Errors
    /// Another kind of model; a checkpoint without such a head, or whose `id2label` has another number of classes.
    pub fn sequence_head(&self, store: &Store) -> Result<(SequenceHead, Vec<String>)> {
        let Architecture::Encoder(config) = &self.architecture else {
            return Err(self.other("an encoder of text"));
        };
        let name = config.family.classifier();
        let shape = self.checkpoint.describe(&format!("{name}.weight"));
        let Some(classes) = shape.and_then(|(_, shape)| shape.first().copied()) else {
            let detail = format!("has no `{name}`: it is not a classifier of texts");
            return Err(self.failed(detail));
        };
        let labels = match self.config.labels()? {
            Some(labels) if labels.len() == classes => labels,
            Some(labels) => {
                let detail = format!("has {} classes, but `{name}` {classes}", labels.len());
                return Err(self.config.refuse("id2label", detail));
            }
            None => (0..classes).map(|i| format!("LABEL_{i}")).collect(),
        };
        Ok((SequenceHead::new(&store.root(), config, classes)?, labels))
    }

    /// The decoder that it holds.
    ///
    /// # Errors
    /// As [`Folder::encoder`].
    pub fn decoder(&self, store: &Store) -> Result<Decoder> {
        let Architecture::Decoder(config) = &self.architecture else {
            return Err(self.other("a decoder"));
        };
        let decoder = Decoder::new(&store.root(), config)?;
        self.complete(store)?;
        Ok(decoder)
    }

    /// The encoder–decoder that it holds.
    ///
    /// # Errors
    /// As [`Folder::encoder`].
    pub fn encoder_decoder(&self, store: &Store) -> Result<EncoderDecoder> {
        let model = match &self.architecture {
            Architecture::T5(config) => EncoderDecoder::t5(&store.root(), config)?,
            Architecture::Bart(config) => EncoderDecoder::bart(&store.root(), config)?,
            _ => return Err(self.other("an encoder–decoder")),
        };
        self.complete(store)?;
        Ok(model)
    }

    /// The CLIP that it holds.
    ///
    /// # Errors
    /// As [`Folder::encoder`].
    pub fn clip(&self, store: &Store) -> Result<Clip> {
        let Architecture::Clip(config) = &self.architecture else {
            return Err(self.other("a pair of towers for text and images"));
        };
        let clip = Clip::new(&store.root(), config)?;
        self.complete(store)?;
        Ok(clip)
    }

    /// The vision transformer that it holds.
    ///
    /// # Errors
    /// As [`Folder::encoder`].
    pub fn vit(&self, store: &Store) -> Result<Vit> {
        let Architecture::Vit(config) = &self.architecture else {
            return Err(self.other("a vision transformer"));
        };
        let vit = Vit::new(&store.at("vit"), config)?;
        self.complete(store)?;
        Ok(vit)
    }

    /// The diffusion transformer that it holds.
    ///
    /// # Errors
    /// As [`Folder::encoder`].
    pub fn dit(&self, store: &Store) -> Result<Dit> {
        let Architecture::Dit(config) = &self.architecture else {
            return Err(self.other("a diffusion transformer"));
        };
        let dit = Dit::new(&store.root(), config, None)?;
        self.complete(store)?;
        Ok(dit)
    }

    fn failed(&self, detail: String) -> Error {
        Error::Checkpoint {
            path: self.path.display().to_string(),
            detail,
        }
    }

    fn other(&self, wanted: &str) -> Error {
        self.failed(format!(
            "holds {}; wanted {wanted}",
            self.architecture.kind()
        ))
    }

    /// An error unless every tensor has become a parameter or belongs to a head; then the store is settled.
    fn complete(&self, store: &Store) -> Result<()> {
        let heads = self.architecture.heads();
        let left = store.unused();
        match left
            .iter()
            .find(|n| !heads.iter().any(|h| n.starts_with(h)))
        {
            None => {
                store.settle();
                Ok(())
            }
            Some(name) => Err(self.checkpoint.error(
                name,
                "no part of the model that config.json describes; fetch both from one place",
            )),
        }
    }
}
