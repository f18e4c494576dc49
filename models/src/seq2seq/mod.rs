//! Encoder–decoders, which read a source and write a target: T5's shape ([`t5`]) and BART's ([`bart`]). One model serves both;
//! the families say what it is made of.

use deltaw_engine::prelude::*;

pub mod bart;
mod blocks;
mod generate;
pub mod t5;

pub use bart::BartConfig;
pub use blocks::Memory;
pub use t5::T5Config;

use blocks::Stack;

use crate::cache::KeyValues;
use crate::layers::{Embedding, Linear};

/// From hidden states to logits.
struct Head {
    /// None: the word table.
    own: Option<Linear>,
    /// Factor of the hidden states.
    scale: f64,
    /// BART's, `[1, vocabulary]`; a constant of the checkpoint, not trained.
    bias: Option<Param>,
}

/// Tokens with a meaning, and how many there may be.
#[derive(Debug, Clone, Copy)]
struct Tokens {
    /// The decoder's first.
    start: u32,
    /// Fills rows up.
    pad: u32,
    /// Positions of a source or target, where they are numbered.
    longest: Option<usize>,
}

/// An encoder and a decoder over one word table.
pub struct EncoderDecoder {
    words: Embedding,
    encoder: Stack,
    decoder: Stack,
    head: Head,
    tokens: Tokens,
}

impl EncoderDecoder {
    /// The token that every target begins with, unseen.
    pub fn start(&self) -> u32 {
        self.tokens.start
    }

    /// The token that fills rows up.
    pub fn pad(&self) -> u32 {
        self.tokens.pad
    }

    fn fits(&self, what: &str, len: usize) -> Result<()> {
        match self.tokens.longest {
            Some(most) if len > most => Err(Error::Invalid(format!(
                "encoder–decoder: a {what} of {len} tokens, but there are {most} positions; truncate"
            ))),
            _ => Ok(()),
        }
    }

    /// Source ids `[B, S]` to hidden states `[B, S, d]`; `ctx.mask` says which tokens are real.
    ///
    /// # Errors
    /// Sequences longer than the model's, indices out of range.
    pub fn encode(&self, ctx: &Context, ids: &Tensor) -> Result<Tensor> {
        self.fits("source", ids.last_dim())?;
        let x = self.encoder.embed(ctx, &self.words, ids, 0)?;
        self.encoder.body(ctx, &x, ctx.mask.clone(), None, None)
    }

    /// What the decoder sees of a source, from its hidden states `[B, S, d]`; `ctx.mask` is the source's.
    ///
    /// # Errors
    /// States of another width.
    pub fn memory(&self, ctx: &Context, states: &Tensor) -> Result<Memory> {
        let crosses = self.decoder.blocks.iter().filter_map(|b| b.cross.as_ref());
        Ok(Memory {
            blocks: crosses
                .map(|(cross, _)| cross.keys_values(ctx, states))
                .collect::<Result<_>>()?,
            mask: ctx.mask.clone(),
        })
    }

    /// Target ids `[B, T]` to hidden states `[B, T, d]`: each sees those up to itself, and the source.
    ///
    /// # Errors
    /// Sequences longer than the model's, indices out of range, a memory of other rows.
    pub fn decode(&self, ctx: &Context, ids: &Tensor, memory: &Memory) -> Result<Tensor> {
        self.fits("target", ids.last_dim())?;
        let x = self.decoder.embed(ctx, &self.words, ids, 0)?;
        self.decoder.body(ctx, &x, None, Some(memory), None)
    }

    /// An empty cache for [`EncoderDecoder::extend`].
    pub fn cache(&self) -> Vec<KeyValues> {
        let blocks = self.decoder.blocks.iter();
        blocks.map(|_| KeyValues::default()).collect()
    }

    /// [`EncoderDecoder::decode`] of ids that follow those in `cache`, which they join. For use without a tape ([`no_grad`]).
    ///
    /// # Errors
    /// As [`EncoderDecoder::decode`], or another model's cache.
    pub fn extend(
        &self,
        ctx: &Context,
        ids: &Tensor,
        memory: &Memory,
        cache: &mut [KeyValues],
    ) -> Result<Tensor> {
        let (blocks, kept) = (self.decoder.blocks.len(), cache.len());
        if blocks != kept {
            let detail = format!("encoder–decoder: a cache of {kept} blocks for {blocks}");
            return Err(Error::Invalid(detail));
        }
        let start = cache.first().map_or(0, KeyValues::len);
        self.fits("target", start + ids.last_dim())?;
        let x = self.decoder.embed(ctx, &self.words, ids, start)?;
        self.decoder.body(ctx, &x, None, Some(memory), Some(cache))
    }

    /// Hidden states `[…, d]` of the decoder to logits `[…, vocabulary]`.
    ///
    /// # Errors
    /// Hidden states of another width.
    pub fn head(&self, ctx: &Context, hidden: &Tensor) -> Result<Tensor> {
        let hidden = match self.head.scale {
            1.0 => hidden.clone(),
            scale => hidden.affine(scale, 0.0)?,
        };
        let logits = match &self.head.own {
            Some(head) => head.forward(ctx, &hidden)?,
            None => linear(&hidden, &self.words.table(), None)?,
        };
        match &self.head.bias {
            Some(bias) => logits.add(&bias.tensor().squeeze(0)?),
            None => Ok(logits),
        }
    }

    /// Source `[B, S]` and the decoder's input `[B, T]` to logits `[B, T, vocabulary]`; `ctx.mask` is the source's.
    ///
    /// # Errors
    /// As [`EncoderDecoder::encode`] and [`EncoderDecoder::decode`].
    pub fn forward(&self, ctx: &Context, source: &Tensor, input: &Tensor) -> Result<Tensor> {
        let memory = self.memory(ctx, &self.encode(ctx, source)?)?;
        self.head(ctx, &self.decode(ctx, input, &memory)?)
    }

    /// The decoder's input and the loss for these labels, row by row in rows of `len`; a label below 0 (Hugging Face's −100) is
    /// not asked for.
    ///
    /// # Errors
    /// Labels that do not fill rows.
    pub fn targets(&self, labels: &[i64], len: usize, device: &Device) -> Result<Targets> {
        if len == 0 || !labels.len().is_multiple_of(len) {
            let detail = format!("{} labels do not fill rows of {len}", labels.len());
            return Err(Error::Invalid(detail));
        }
        let Tokens { start, pad, .. } = self.tokens;
        let token = |label: i64, hidden: u32| u32::try_from(label).unwrap_or(hidden);
        let input: Vec<u32> = labels
            .chunks(len)
            .flat_map(|row| {
                let before = row[..len - 1].iter().map(|label| token(*label, pad));
                std::iter::once(start).chain(before)
            })
            .collect();
        let wanted: Vec<u32> = labels.iter().map(|label| token(*label, 0)).collect();
        let weights: Vec<f32> = labels
            .iter()
            .map(|label| f32::from(u8::from(*label >= 0)))
            .collect();
        let n = labels.len();
        Ok(Targets {
            input: Tensor::from_slice(&input, &[n / len, len], device)?,
            labels: Tensor::from_slice(&wanted, &[n], device)?,
            weights: Tensor::from_slice(&weights, &[n], device)?,
        })
    }
}

/// Labels for teacher-forced training.
pub struct Targets {
    input: Tensor,
    labels: Tensor,
    weights: Tensor,
}

impl Targets {
    /// What the decoder sees, `[B, T]`: the start token, then the labels but for the last, with padding for those not asked for.
    pub fn input(&self) -> &Tensor {
        &self.input
    }

    /// Mean cross-entropy of logits `[B, T, vocabulary]` over the labels that are asked for.
    ///
    /// # Errors
    /// Logits of another shape, labels out of range, or none that is asked for.
    pub fn loss(&self, logits: &Tensor) -> Result<Tensor> {
        let options = CrossEntropyOptions {
            weights: Some(self.weights.clone()),
            ..Default::default()
        };
        let rows = logits.reshape(&[self.labels.len(), logits.last_dim()])?;
        cross_entropy(&rows, &self.labels, &options)
    }
}
