//! What the stacks of encoder–decoders are made of: attention to one's own or another sequence, blocks.

use deltaw_engine::prelude::*;

use crate::block::Residual;
use crate::cache::KeyValues;
use crate::layers::{Embedding, Linear, Norm};
use crate::transformer::{FeedForward, Place, merge, split};

/// Multi-head attention whose queries and keys may be of different sequences.
pub(super) struct Attention {
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
    pub(super) heads: usize,
    /// In place of 1/√D.
    pub(super) scale: Option<f32>,
}

impl Attention {
    /// Keys and values `[B, H, S, D]` of a sequence `[B, S, d]`.
    pub(super) fn keys_values(&self, ctx: &Context, x: &Tensor) -> Result<[Tensor; 2]> {
        Ok([
            split(&self.key.forward(ctx, x)?, self.heads)?,
            split(&self.value.forward(ctx, x)?, self.heads)?,
        ])
    }

    /// What the sequence `[B, T, d]` finds among keys and values: `[B, T, d]`.
    fn forward(
        &self,
        ctx: &Context,
        x: &Tensor,
        [keys, values]: [&Tensor; 2],
        options: &AttentionOptions,
    ) -> Result<Tensor> {
        let queries = split(&self.query.forward(ctx, x)?, self.heads)?;
        let options = AttentionOptions {
            scale: self.scale,
            ..options.clone()
        };
        let mixed = attention(&queries, keys, values, &options)?;
        self.output.forward(ctx, &merge(&mixed)?)
    }
}

/// What a decoder's blocks see of the source: each its own keys and values, worked out once.
pub struct Memory {
    pub(super) blocks: Vec<[Tensor; 2]>,
    /// Which tokens of the source are real.
    pub(super) mask: Option<Tensor>,
}

/// Attention to the own sequence, in a decoder to the source's, and the feed-forward.
pub(super) struct Block {
    /// For taps.
    pub(super) path: String,
    pub(super) attention: Attention,
    pub(super) attention_around: Residual,
    pub(super) cross: Option<(Attention, Residual)>,
    pub(super) feed_forward: FeedForward,
    pub(super) feed_forward_around: Residual,
}

impl Block {
    /// `[B, T, d] → [B, T, d]`. Attention to the own sequence goes by `options`, that to the source by `memory` and its mask.
    fn forward(
        &self,
        ctx: &Context,
        x: &Tensor,
        options: &AttentionOptions,
        memory: Option<(&[Tensor; 2], Option<&Tensor>)>,
        cache: Option<&mut KeyValues>,
    ) -> Result<Tensor> {
        let mut x = self.attention_around.around(ctx, x, |x| {
            let new = self.attention.keys_values(ctx, x)?;
            let [keys, values] = match cache {
                Some(cache) => cache.extend(new.each_ref())?,
                None => new,
            };
            self.attention.forward(ctx, x, [&keys, &values], options)
        })?;
        if let (Some((cross, around)), Some((source, mask))) = (&self.cross, memory) {
            let options = AttentionOptions {
                mask: mask.cloned(),
                ..Default::default()
            };
            x = around.around(ctx, &x, |x| {
                cross.forward(ctx, x, source.each_ref(), &options)
            })?;
        }
        let x = self
            .feed_forward_around
            .around(ctx, &x, |x| self.feed_forward.forward(ctx, x))?;
        ctx.tap(&self.path, &x);
        Ok(x)
    }
}

/// T5's bias of attention by distance (Raffel et al. 2020): a number per head and bucket of distances, one table for all blocks
/// of a stack. Half of the buckets hold one distance each, the others ranges that grow by a constant factor up to `farthest`.
pub(super) struct RelativeBias {
    /// `[buckets, heads]`.
    pub(super) table: Embedding,
    pub(super) buckets: usize,
    pub(super) farthest: usize,
    /// Whether keys ahead of the query have buckets of their own, half of them.
    pub(super) both_ways: bool,
}

impl RelativeBias {
    /// The bucket of the key at `key` for the query at `query`.
    fn bucket(&self, query: usize, key: usize) -> usize {
        let (buckets, first) = match (self.both_ways, key > query) {
            (true, ahead) => (self.buckets / 2, usize::from(ahead) * (self.buckets / 2)),
            (false, _) => (self.buckets, 0),
        };
        let distance = match self.both_ways {
            true => query.abs_diff(key),
            false => query.saturating_sub(key),
        };
        let single = buckets / 2;
        if distance < single {
            return first + distance;
        }
        let steps = (buckets - single) as f64;
        let ratio = (distance as f64 / single as f64).ln();
        let whole = (self.farthest as f64 / single as f64).ln();
        first + (single + (ratio / whole * steps) as usize).min(buckets - 1)
    }

    /// `[1, H, queries, keys]` for the last queries of so many tokens.
    fn forward(&self, queries: usize, keys: usize) -> Result<Tensor> {
        let (first, device) = (keys - queries, self.table.table().device().clone());
        let index: Vec<u32> = (first..keys)
            .flat_map(|query| (0..keys).map(move |key| self.bucket(query, key) as u32))
            .collect();
        let index = Tensor::from_slice(&index, &[queries, keys], &device)?;
        self.table
            .forward(&index)?
            .permute(&[2, 0, 1])?
            .unsqueeze(0)
    }
}

/// An encoder or a decoder: embeddings, blocks, a last norm.
pub(super) struct Stack {
    /// Factor of the word vectors.
    pub(super) scale: f64,
    /// BART's, whose first two rows stand for no position.
    pub(super) positions: Option<Embedding>,
    /// Of the embeddings.
    pub(super) first_norm: Option<Norm>,
    pub(super) place: Place,
    pub(super) relative: Option<RelativeBias>,
    pub(super) blocks: Vec<Block>,
    pub(super) last_norm: Option<Norm>,
    pub(super) causal: bool,
}

/// Rows of BART's table before the first position.
pub(super) const OFFSET: usize = 2;

impl Stack {
    /// Ids `[B, T]`, the first at position `start`, to embeddings `[B, T, d]`.
    pub(super) fn embed(
        &self,
        ctx: &Context,
        words: &Embedding,
        ids: &Tensor,
        start: usize,
    ) -> Result<Tensor> {
        let mut x = words.forward(ids)?;
        if self.scale != 1.0 {
            x = x.affine(self.scale, 0.0)?;
        }
        if let Some(table) = &self.positions {
            let (from, to) = (start + OFFSET, start + OFFSET + ids.last_dim());
            let rows: Vec<u32> = (from as u32..to as u32).collect();
            let rows = Tensor::from_slice(&rows, &[ids.last_dim()], ids.device())?;
            x = x.add(&table.forward(&rows)?)?;
        }
        if let Some(norm) = &self.first_norm {
            x = norm.forward(&x)?;
        }
        self.place.finish(ctx, ids, x)
    }

    /// Blocks and the last norm over embeddings `[B, T, d]`, which follow the tokens in `cache`; `mask` is of the own sequence.
    pub(super) fn body(
        &self,
        ctx: &Context,
        x: &Tensor,
        mask: Option<Tensor>,
        memory: Option<&Memory>,
        cache: Option<&mut [KeyValues]>,
    ) -> Result<Tensor> {
        let &[_, new, _] = x.shape() else {
            let detail = format!("embeddings are {:?}, wanted [B, T, d]", x.shape());
            return Err(Error::Invalid(detail));
        };
        if let Some(memory) = memory
            && memory.blocks.len() != self.blocks.len()
        {
            return Err(Error::Invalid(format!(
                "encoder–decoder: a memory of {} blocks for {}",
                memory.blocks.len(),
                self.blocks.len()
            )));
        }
        let seen = cache
            .as_ref()
            .and_then(|c| c.first())
            .map_or(0, KeyValues::len);
        let bias = |table: &RelativeBias| table.forward(new, seen + new);
        let options = AttentionOptions {
            causal: self.causal,
            mask,
            bias: self.relative.as_ref().map(bias).transpose()?,
            scale: None,
        };
        let mut caches = cache.map(|cache| cache.iter_mut());
        let mut x = x.clone();
        for (i, block) in self.blocks.iter().enumerate() {
            let source = memory.map(|m| (&m.blocks[i], m.mask.as_ref()));
            let cache = caches.as_mut().and_then(Iterator::next);
            x = block.forward(ctx, &x, &options, source, cache)?;
        }
        match &self.last_norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As T5's implementation has them, worked out by hand: of 8 buckets to a distance of 16, one way 0..4 stand alone, and
    /// those from 4 · 4^(i/4) on are shared: 4, 5.7, 8, 11.3.
    #[test]
    fn distances_fall_into_buckets_that_widen() {
        let store = Store::new(&Device::cpu(), 0);
        let mut bias = RelativeBias {
            table: Embedding::new(&store.root(), 8, 1).unwrap(),
            buckets: 8,
            farthest: 16,
            both_ways: false,
        };
        let behind: Vec<usize> = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 99]
            .map(|distance| bias.bucket(100, 100 - distance))
            .to_vec();
        assert_eq!(behind, [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 7, 7]);
        assert_eq!(bias.bucket(0, 5), 0, "a decoder does not look ahead");
        // Both ways: four buckets each; 0 and 1 stand alone, the others begin at 2 and 2·√8 = 5.7.
        bias.both_ways = true;
        let around: Vec<usize> = [0, 1, 2, 5, 6, 50]
            .map(|d| bias.bucket(50, 50 - d))
            .to_vec();
        assert_eq!(around, [0, 1, 2, 2, 3, 3]);
        let ahead: Vec<usize> = [1, 2, 5, 6, 50].map(|d| bias.bucket(50, 50 + d)).to_vec();
        assert_eq!(ahead, [5, 6, 6, 7, 7]);
        assert_eq!(bias.forward(2, 5).unwrap().shape(), [1, 1, 2, 5]);
    }
}
