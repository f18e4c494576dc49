//! Targets from an encoder–decoder: the sources in one pass, then a token at a time beside the caches of both attentions.

use deltaw_engine::prelude::*;

use super::{EncoderDecoder, Memory};
use crate::cache::{KeyValues, select_rows};
use crate::generate::{Continue, Generation, by_row, generate};

impl EncoderDecoder {
    /// Writes a target of at most `options.new_tokens` tokens for a source. Returns it without the start token, the end token
    /// included. Beams, and the tokens that a checkpoint's `generation_config.json` forces or forbids, are not applied.
    ///
    /// # Errors
    /// An empty source, more tokens than positions, tokens out of range, options out of range.
    pub fn generate(&self, source: &[u32], options: &Generation) -> Result<Vec<u32>> {
        Ok(self.generate_batch(&[source], options)?.remove(0))
    }

    /// The same for several sources of any lengths at a time. Greedy targets are those of [`EncoderDecoder::generate`].
    ///
    /// # Errors
    /// As [`EncoderDecoder::generate`].
    pub fn generate_batch(
        &self,
        sources: &[&[u32]],
        options: &Generation,
    ) -> Result<Vec<Vec<u32>>> {
        if sources.iter().any(|source| source.is_empty()) {
            let detail = "generate: a source of no tokens; wanted at least one";
            return Err(Error::Invalid(detail.into()));
        }
        self.fits("target", options.new_tokens)?;
        if sources.is_empty() {
            return Ok(vec![]);
        }
        let device = self.words.table().device().clone();
        let mut state = Targets {
            model: self,
            memory: no_grad(|| self.read(sources, &device))?,
            cache: self.cache(),
            rows: (0..sources.len()).collect(),
        };
        let starts = sources.iter().map(|_| vec![self.start()]).collect();
        generate(&mut state, starts, options, &device)
    }

    /// The memory of sources, filled up on the right.
    fn read(&self, sources: &[&[u32]], device: &Device) -> Result<Memory> {
        let columns = sources.iter().map(|source| source.len()).max().unwrap_or(0);
        let shape = [sources.len(), columns];
        let mut ids = vec![self.pad(); sources.len() * columns];
        let mut real = vec![0f32; ids.len()];
        for (i, source) in sources.iter().enumerate() {
            ids[i * columns..][..source.len()].copy_from_slice(source);
            real[i * columns..][..source.len()].fill(1.0);
        }
        let ctx = match real.contains(&0.0) {
            true => Context::eval().with_mask(Tensor::from_slice(&real, &shape, device)?),
            false => Context::eval(),
        };
        let states = self.encode(&ctx, &Tensor::from_slice(&ids, &shape, device)?)?;
        self.memory(&ctx, &states)
    }
}

/// Targets in the making: all are of one length.
struct Targets<'a> {
    model: &'a EncoderDecoder,
    memory: Memory,
    cache: Vec<KeyValues>,
    /// The targets in the cache.
    rows: Vec<usize>,
}

impl Continue for Targets<'_> {
    fn next(&mut self, open: &[usize], texts: &[Vec<u32>]) -> Result<Vec<Vec<f64>>> {
        let device = self.model.words.table().device().clone();
        if self.rows != open {
            let kept = (0u32..)
                .zip(&self.rows)
                .filter_map(|(i, row)| open.contains(row).then_some(i));
            let kept = Tensor::from_slice(&kept.collect::<Vec<_>>(), &[open.len()], &device)?;
            for cache in &mut self.cache {
                cache.select(&kept)?;
            }
            let memory = &mut self.memory;
            for x in memory.blocks.iter_mut().flatten().chain(&mut memory.mask) {
                *x = select_rows(x, &kept)?;
            }
            self.rows = open.to_vec();
        }
        let last: Vec<u32> = open
            .iter()
            .map(|row| texts[*row].last().copied().unwrap_or_default())
            .collect();
        let (ids, ctx) = (
            Tensor::from_slice(&last, &[last.len(), 1], &device)?,
            Context::eval(),
        );
        let hidden = self
            .model
            .extend(&ctx, &ids, &self.memory, &mut self.cache)?;
        by_row(&self.model.head(&ctx, &hidden.squeeze(1)?)?)
    }
}
