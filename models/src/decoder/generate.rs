//! Text from a decoder, token by token.

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
    /// which the model sees the last `max_position_embeddings` tokens. Returns the new tokens, the end token included.
    ///
    /// # Errors
    /// An empty prompt, tokens out of range, a temperature below 0.
    pub fn generate(&self, prompt: &[u32], options: &Generation) -> Result<Vec<u32>> {
        if prompt.is_empty() || options.temperature.is_nan() || options.temperature < 0.0 {
            let detail = format!(
                "generate: a prompt of {} tokens at temperature {}",
                prompt.len(),
                options.temperature
            );
            return Err(Error::Invalid(format!(
                "{detail}; wanted at least one token and a temperature of 0 or more"
            )));
        }
        let (device, mut text) = (self.words.table().device().clone(), prompt.to_vec());
        for step in 0..options.new_tokens {
            let seen = &text[text
                .len()
                .saturating_sub(self.config.max_position_embeddings)..];
            let ids = Tensor::from_slice(seen, &[1, seen.len()], &device)?;
            let logits = no_grad(|| {
                let hidden = self.body(
                    &Context::eval(),
                    &self.embed(&Context::eval(), &ids, None)?,
                    None,
                )?;
                self.head(&Context::eval(), &hidden.narrow(1, seen.len() - 1, 1)?)
            })?;
            let key = RandomKey {
                step: step as u64,
                ..RandomKey::new(options.seed, Purpose::Sample, "generate")
            };
            let u = Tensor::random(&[], Distribution::Uniform, key, &device)?.item()?;
            let token = pick(&logits.to_vec::<f64>()?, options.temperature, u);
            text.push(token);
            if options.end == Some(token) {
                break;
            }
        }
        Ok(text.split_off(prompt.len()))
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
