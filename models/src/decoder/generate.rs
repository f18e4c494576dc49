//! Text from a decoder: the prompts in one pass, then a token at a time beside the cache.

use deltaw_engine::prelude::*;

use super::Decoder;
use crate::cache::KeyValues;
use crate::generate::{Continue, Generation, by_row, generate};

impl Decoder {
    /// Continues `prompt` by at most `options.new_tokens` tokens. Every one follows from the last [`super::DecoderConfig::longest`]
    /// tokens of the text so far: while the text fits, at the cost of one token beside a cache of keys and values; when it has
    /// outgrown the model, all positions move with every token, and the whole window is computed for each. Returns the new
    /// tokens, the end token included.
    ///
    /// # Errors
    /// An empty prompt, tokens out of range, options out of range.
    pub fn generate(&self, prompt: &[u32], options: &Generation) -> Result<Vec<u32>> {
        Ok(self.generate_batch(&[prompt], options)?.remove(0))
    }

    /// The same for several prompts of any lengths at a time. Greedy texts are those of [`Decoder::generate`].
    ///
    /// # Errors
    /// As [`Decoder::generate`].
    pub fn generate_batch(
        &self,
        prompts: &[&[u32]],
        options: &Generation,
    ) -> Result<Vec<Vec<u32>>> {
        let texts = prompts.iter().map(|prompt| prompt.to_vec()).collect();
        let mut state = Texts {
            decoder: self,
            cache: self.cache(),
            rows: vec![],
            prompts: vec![],
            widest: 0,
            columns: 0,
        };
        generate(&mut state, texts, options, self.words.table().device())
    }
}

/// Texts whose keys and values are kept. Prompts are filled up on the right, where no token before sees; what follows a prompt lies
/// behind the longest one, and the mask hides the gap.
struct Texts<'a> {
    decoder: &'a Decoder,
    cache: Vec<KeyValues>,
    /// The texts in the cache.
    rows: Vec<usize>,
    /// Length of each row's prompt.
    prompts: Vec<usize>,
    /// Length of the longest prompt of all, those that have left included.
    widest: usize,
    /// Tokens per row in the cache, gaps included.
    columns: usize,
}

impl Continue for Texts<'_> {
    fn next(&mut self, open: &[usize], texts: &[Vec<u32>]) -> Result<Vec<Vec<f64>>> {
        let most = self.decoder.config.longest();
        let (fitting, outgrown): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|row| texts[**row].len() <= most);
        let mut all = vec![];
        if !fitting.is_empty() {
            let logits = match self.columns {
                0 => self.prompt(&fitting, texts),
                _ => self.step(&fitting, texts),
            };
            all.extend(fitting.into_iter().zip(by_row(&logits?)?));
        }
        if !outgrown.is_empty() {
            let windows: Vec<&[u32]> = outgrown
                .iter()
                .map(|row| &texts[*row][texts[*row].len() - most..])
                .collect();
            let logits = self.after(&windows, |ctx, x, _| self.decoder.body(ctx, x, None))?;
            all.extend(outgrown.into_iter().zip(by_row(&logits)?));
        }
        all.sort_by_key(|(row, _)| *row);
        Ok(all.into_iter().map(|(_, logits)| logits).collect())
    }
}

impl Texts<'_> {
    /// Logits `[rows, vocabulary]` of what follows these texts, by the body given, of embeddings and positions.
    fn after(
        &self,
        texts: &[&[u32]],
        body: impl FnOnce(&Context, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (decoder, ctx) = (self.decoder, Context::eval());
        let device = decoder.words.table().device().clone();
        let columns = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let (mut ids, mut last) = (vec![0u32; texts.len() * columns], vec![]);
        for (i, text) in texts.iter().enumerate() {
            ids[i * columns..][..text.len()].copy_from_slice(text);
            last.push((i * columns + text.len() - 1) as u32);
        }
        let ids = Tensor::from_slice(&ids, &[texts.len(), columns], &device)?;
        let positions = Tensor::arange(columns, &device)?;
        let x = decoder.embed(&ctx, &ids, Some(&positions))?;
        let hidden = body(&ctx, &x, &positions)?;
        let hidden = hidden.reshape(&[texts.len() * columns, hidden.last_dim()])?;
        let last = Tensor::from_slice(&last, &[texts.len()], &device)?;
        decoder.head(&ctx, &hidden.gather_rows(&last)?)
    }

    /// All prompts in one pass.
    fn prompt(&mut self, rows: &[usize], texts: &[Vec<u32>]) -> Result<Tensor> {
        let prompts: Vec<&[u32]> = rows.iter().map(|row| texts[*row].as_slice()).collect();
        self.rows = rows.to_vec();
        self.prompts = prompts.iter().map(|prompt| prompt.len()).collect();
        self.widest = self.prompts.iter().copied().max().unwrap_or(0);
        self.columns = self.widest;
        let mut cache = std::mem::take(&mut self.cache);
        let logits = self.after(&prompts, |ctx, x, positions| {
            self.decoder.extend(ctx, x, positions, &mut cache)
        });
        self.cache = cache;
        logits
    }

    /// One token more in each row.
    fn step(&mut self, rows: &[usize], texts: &[Vec<u32>]) -> Result<Tensor> {
        let device = self.decoder.words.table().device().clone();
        if self.rows != rows {
            let kept: Vec<usize> = (0..self.rows.len())
                .filter(|i| rows.contains(&self.rows[*i]))
                .collect();
            let index: Vec<u32> = kept.iter().map(|i| *i as u32).collect();
            let index = Tensor::from_slice(&index, &[kept.len()], &device)?;
            for cache in &mut self.cache {
                cache.select(&index)?;
            }
            self.prompts = kept.iter().map(|i| self.prompts[*i]).collect();
            self.rows = rows.to_vec();
        }
        self.columns += 1;
        let tokens = |of: &dyn Fn(&Vec<u32>) -> u32| {
            let values: Vec<u32> = rows.iter().map(|row| of(&texts[*row])).collect();
            Tensor::from_slice(&values, &[rows.len(), 1], &device)
        };
        let ids = tokens(&|text| text.last().copied().unwrap_or_default())?;
        let positions = tokens(&|text| text.len() as u32 - 1)?;
        let ctx = match self.mask()? {
            Some(mask) => Context::eval().with_mask(mask),
            None => Context::eval(),
        };
        let x = self.decoder.embed(&ctx, &ids, Some(&positions))?;
        let hidden = self.decoder.extend(&ctx, &x, &positions, &mut self.cache)?;
        self.decoder.head(&ctx, &hidden.squeeze(1)?)
    }

    /// `[rows, columns]`, 0 in the gaps between prompts and what follows; None where there are none.
    fn mask(&self) -> Result<Option<Tensor>> {
        let widest = self.widest;
        if self.prompts.iter().all(|prompt| *prompt == widest) {
            return Ok(None);
        }
        let real = |prompt: usize| {
            (0..self.columns).map(move |t| f32::from(u8::from(t < prompt || t >= widest)))
        };
        let mask: Vec<f32> = self.prompts.iter().flat_map(|p| real(*p)).collect();
        let device = self.decoder.words.table().device().clone();
        Tensor::from_slice(&mask, &[self.prompts.len(), self.columns], &device).map(Some)
    }
}
