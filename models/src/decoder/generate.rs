//! Text from a decoder, token by token, for one prompt or many.

use deltaw_engine::prelude::*;

use super::Decoder;

/// How [`Decoder::generate`] goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The most tokens to add.
    pub new_tokens: usize,
    /// 0 takes the likeliest token; else tokens are drawn from softmax(logits / temperature).
    pub temperature: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// A token that ends the text.
    pub end: Option<u32>,
}

impl Decoder {
    /// Continues `prompt` by at most `options.new_tokens` tokens; every one is computed from the whole text so far, of
    /// which the model sees the last [`super::DecoderConfig::longest`] tokens. Returns the new tokens, the end token included.
    ///
    /// # Errors
    /// An empty prompt, tokens out of range, a temperature below 0.
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
        let least = prompts.iter().map(|p| p.len()).min().unwrap_or(1);
        if least == 0 || options.temperature.is_nan() || options.temperature < 0.0 {
            let detail = format!(
                "generate: a prompt of {least} tokens at temperature {}",
                options.temperature
            );
            return Err(Error::Invalid(format!(
                "{detail}; wanted at least one token and a temperature of 0 or more"
            )));
        }
        let device = self.words.table().device().clone();
        let mut texts: Vec<Vec<u32>> = prompts.iter().map(|p| p.to_vec()).collect();
        let mut open: Vec<usize> = (0..texts.len()).collect();
        for step in 0..options.new_tokens {
            if open.is_empty() {
                break;
            }
            let logits = no_grad(|| self.after(&open, &texts))?.to_vec::<f64>()?;
            let key = RandomKey {
                step: step as u64,
                ..RandomKey::new(options.seed, Purpose::Sample, "generate")
            };
            let u = Tensor::random(&[texts.len()], Distribution::Uniform, key, &device)?;
            let (u, wide) = (u.to_vec::<f64>()?, logits.len() / open.len());
            for (logits, text) in logits.chunks(wide).zip(&open) {
                texts[*text].push(pick(logits, options.temperature, u[*text]));
            }
            open.retain(|text| texts[*text].last().copied() != options.end);
        }
        Ok(texts
            .iter_mut()
            .zip(prompts)
            .map(|(text, prompt)| text.split_off(prompt.len()))
            .collect())
    }

    /// Logits `[rows, vocabulary]` of what follows these texts. Rows are filled up on the right, where no token before sees.
    fn after(&self, rows: &[usize], texts: &[Vec<u32>]) -> Result<Tensor> {
        let most = self.config.longest();
        let seen: Vec<&[u32]> = rows
            .iter()
            .map(|row| &texts[*row][texts[*row].len().saturating_sub(most)..])
            .collect();
        let columns = seen.iter().map(|s| s.len()).max().unwrap_or(0);
        let mut ids = vec![0u32; rows.len() * columns];
        for (row, seen) in ids.chunks_mut(columns.max(1)).zip(&seen) {
            row[..seen.len()].copy_from_slice(seen);
        }
        let last: Vec<u32> = seen
            .iter()
            .enumerate()
            .map(|(row, seen)| (row * columns + seen.len() - 1) as u32)
            .collect();
        let (ctx, device) = (Context::eval(), self.words.table().device().clone());
        let ids = Tensor::from_slice(&ids, &[rows.len(), columns], &device)?;
        let hidden = self.body(&ctx, &self.embed(&ctx, &ids, None)?, None)?;
        let hidden = hidden.reshape(&[rows.len() * columns, hidden.last_dim()])?;
        let last = Tensor::from_slice(&last, &[rows.len()], &device)?;
        self.head(&ctx, &hidden.gather_rows(&last)?)
    }
}

/// The likeliest token (the first of equals), or the one at `u` in [0, 1) of softmax(logits / temperature).
fn pick(logits: &[f64], temperature: f64, u: f64) -> u32 {
    let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    if temperature == 0.0 {
        return best as u32;
    }
    let weights: Vec<f64> = logits
        .iter()
        .map(|z| ((z - logits[best]) / temperature).exp())
        .collect();
    let mut left = u * weights.iter().sum::<f64>();
    let drawn = weights.iter().position(|w| {
        left -= w;
        left < 0.0
    });
    drawn.unwrap_or(best) as u32
}
