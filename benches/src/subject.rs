//! The models and methods that `train-step` times, at the sizes of the peers' script: head width 64, MLP 4×, vocabulary 2048.

use clap::ValueEnum;
use deltaw_engine::prelude::*;
use deltaw_models::decoder::{Decoder, DecoderConfig, next_token_loss};
use deltaw_models::encoder::{Encoder, EncoderConfig, SequenceHead};
use deltaw_models::methods::adalora::AdaLora;
use deltaw_models::methods::bone::Bone;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::miss::Miss;
use deltaw_models::methods::randlora::RandLora;
use deltaw_models::methods::selective::Full;
use deltaw_models::methods::{Attached, Method as _};
use deltaw_models::vit::{ImageHead, Vit, VitConfig};

use crate::bound::{Wants, Work};

const VOCABULARY: usize = 2048;
const CLASSES: usize = 2;
const IMAGE: [usize; 2] = [3, 32];
const PATCH: usize = 4;
const IMAGE_CLASSES: usize = 10;

/// Which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// GPT-2's shape with a tied head; the loss is the next token's.
    Gpt,
    /// ViT on 32×32 RGB images with patches of 4: 65 tokens whatever `--seq` says; ten classes.
    Vit,
    /// BERT with a two-class head over the first token.
    Bert,
}

/// How it is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Every parameter.
    Full,
    /// LoRA on every linear of the blocks.
    Lora,
    /// AdaLoRA on every linear of the blocks, inside the phase in which the budget falls.
    Adalora,
    /// RandLoRA on every linear of the blocks.
    Randlora,
    /// MiSS on every linear of the blocks; the rank is the width of its shards.
    Miss,
    /// Bone on every linear of the blocks; the rank is the side of its blocks.
    Bone,
}

/// Sizes of the step.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Sequences.
    pub batch: usize,
    /// Tokens per sequence.
    pub seq: usize,
    /// Width.
    pub dim: usize,
    /// Heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Rank of the update.
    pub rank: usize,
}

/// A model with a method attached and one batch in memory.
pub struct Subject {
    store: Store,
    attached: Box<dyn Attached>,
    loss: Loss,
    /// Tokens per step.
    pub tokens: usize,
    /// FLOPs of the step's products.
    pub work: Work,
}

/// Pseudo-random token ids or classes below `bound`.
fn integers(shape: &[usize], bound: usize, device: &Device) -> Result<Tensor> {
    let values: Vec<u32> = (0..shape.iter().product::<usize>() as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) % bound as u32)
        .collect();
    Tensor::from_slice(&values, shape, device)
}

impl Subject {
    /// Builds it with random weights.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn new(model: Model, method: Method, sizes: Sizes, device: &Device) -> Result<Self> {
        let store = Store::new(device, 0);
        let sizes = match model {
            Model::Vit => Sizes {
                seq: (IMAGE[1] / PATCH).pow(2) + 1,
                ..sizes
            },
            Model::Gpt | Model::Bert => sizes,
        };
        // PEFT's script trains the classifiers beside the adapters, and not the output matrix of a language model.
        let (loss, heads): (_, &[&str]) = match model {
            Model::Gpt => (gpt(&store, sizes, device)?, &[]),
            Model::Bert => (bert(&store, sizes, device)?, &["classifier."]),
            Model::Vit => (vit(&store, sizes, device)?, &["classifier."]),
        };
        let attached = match method {
            Method::Full => Full.attach(&store, heads)?,
            Method::Lora => Lora::rank(sizes.rank).attach(&store, heads)?,
            // The budget falls from the first step on, so that every timed step prunes or may prune.
            Method::Adalora => AdaLora {
                initial_phase: 0.0,
                ..AdaLora::target_rank(sizes.rank)
            }
            .attach(&store, heads)?,
            Method::Randlora => RandLora::rank(sizes.rank).attach(&store, heads)?,
            Method::Miss => Miss::rank(sizes.rank).attach(&store, heads)?,
            Method::Bone => Bone::block(sizes.rank).attach(&store, heads)?,
        };
        let tokens = sizes.batch * sizes.seq;
        Ok(Subject {
            work: work(&store, model, method, sizes)?,
            store,
            attached,
            loss,
            tokens,
        })
    }

    /// What the optimiser updates.
    pub fn trained(&self) -> Vec<Param> {
        self.store.trained()
    }

    /// Loss and penalty of step `step`.
    ///
    /// # Errors
    /// An op's own.
    pub fn loss(&self, step: u64) -> Result<Tensor> {
        let loss = (self.loss)(&Context::train(0, step))?;
        match self.attached.penalty()? {
            Some(penalty) => loss.add(&penalty),
            None => Ok(loss),
        }
    }

    /// What the method does after the optimiser's step.
    ///
    /// # Errors
    /// The method's own.
    pub fn after_step(&mut self, step: u64, total: u64, grads: &Gradients) -> Result<()> {
        self.attached.after_step(step, total, grads)
    }
}

type Loss = Box<dyn Fn(&Context) -> Result<Tensor>>;

fn gpt(store: &Store, sizes: Sizes, device: &Device) -> Result<Loss> {
    let config = DecoderConfig::gpt2(VOCABULARY, sizes.dim, sizes.layers, sizes.heads, sizes.seq);
    let decoder = Decoder::new(&store.root(), &config)?;
    let ids = integers(&[sizes.batch, sizes.seq], VOCABULARY, device)?;
    Ok(Box::new(move |ctx| {
        next_token_loss(&decoder.forward(ctx, &ids)?, &ids, None)
    }))
}

fn vit(store: &Store, sizes: Sizes, device: &Device) -> Result<Loss> {
    let [channels, side] = IMAGE;
    let config = VitConfig::new(side, PATCH, channels, sizes.dim, sizes.layers, sizes.heads);
    let vit = Vit::new(&store.at("vit"), &config)?;
    let head = ImageHead::new(&store.root(), &config, IMAGE_CLASSES)?;
    let shape = [sizes.batch, channels, side, side];
    let grey: Vec<f32> = (0..shape.iter().product::<usize>() as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect();
    let pixels = Tensor::from_slice(&grey, &shape, device)?;
    let targets = integers(&[sizes.batch], IMAGE_CLASSES, device)?;
    Ok(Box::new(move |ctx| {
        let logits = head.forward(ctx, &vit.forward(ctx, &pixels)?)?;
        cross_entropy(&logits, &targets, &CrossEntropyOptions::default())
    }))
}

fn bert(store: &Store, sizes: Sizes, device: &Device) -> Result<Loss> {
    let config = EncoderConfig {
        hidden_size: sizes.dim,
        num_hidden_layers: sizes.layers,
        num_attention_heads: sizes.heads,
        intermediate_size: 4 * sizes.dim,
        ..EncoderConfig::small(VOCABULARY, sizes.seq)
    };
    let encoder = Encoder::new(&store.at("bert"), &config)?;
    let head = SequenceHead::new(&store.root(), &config, CLASSES)?;
    let shape = [sizes.batch, sizes.seq];
    let ids = integers(&shape, VOCABULARY, device)?;
    let types = Tensor::zeros(&shape, DType::U32, device)?;
    let targets = integers(&[sizes.batch], CLASSES, device)?;
    Ok(Box::new(move |ctx| {
        let logits = head.forward(ctx, &encoder.forward(ctx, &ids, &types)?)?;
        cross_entropy(&logits, &targets, &CrossEntropyOptions::default())
    }))
}

/// FLOPs of the step: the linears in the store with low-rank updates' factors, attention, and a decoder's tied head. What the
/// other updates take is not counted.
fn work(store: &Store, model: Model, method: Method, sizes: Sizes) -> Result<Work> {
    let mut work = Work::default();
    let (full, tokens) = (method == Method::Full, sizes.batch * sizes.seq);
    let rank = match method {
        Method::Full | Method::Randlora | Method::Miss | Method::Bone => 0,
        Method::Lora => sizes.rank,
        Method::Adalora => AdaLora::target_rank(sizes.rank).initial_rank,
    };
    for site in store.sites().into_iter().filter(Site::is_linear) {
        let (m, n) = (site.out_features()?, site.in_features()?);
        let inside = site.role() != Role::Other;
        let first =
            site.layer() == 0 && matches!(site.role(), Role::Query | Role::Key | Role::Value);
        let patches = !inside && site.layer() == 0;
        // Heads see one row a sequence. Nothing trains below the first block's adapters, and pixels have no gradient.
        let rows = if inside {
            tokens
        } else if patches {
            tokens - sizes.batch
        } else {
            sizes.batch
        };
        work.linear(
            rows,
            m,
            n,
            Wants {
                dx: !patches && (full || !first),
                dw: site.param()?.is_trained(),
                rank: if inside { rank } else { 0 },
            },
        );
    }
    if model == Model::Gpt {
        work.linear(
            tokens,
            VOCABULARY,
            sizes.dim,
            Wants {
                dx: true,
                dw: full,
                rank: 0,
            },
        );
    }
    for _ in 0..sizes.layers {
        work.attention(
            sizes.batch,
            sizes.heads,
            sizes.seq,
            sizes.dim / sizes.heads,
            model == Model::Gpt,
        );
    }
    Ok(work)
}
