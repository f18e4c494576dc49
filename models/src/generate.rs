//! Text from a model, token by token, for one prompt or many: what decoders and encoder–decoders share.

use deltaw_engine::prelude::*;

/// How a text goes on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Generation {
    /// The most tokens to add.
    pub new_tokens: usize,
    /// 0 takes the likeliest token; else tokens are drawn from softmax(logits / temperature).
    pub temperature: f64,
    /// Draws from the k likeliest tokens only (Fan et al. 2018).
    pub top_k: Option<usize>,
    /// Draws from the fewest likeliest tokens whose probabilities, of those that `top_k` left, sum to at least p (Holtzman et
    /// al. 2020).
    pub top_p: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
    /// A token that ends the text.
    pub end: Option<u32>,
}

impl Generation {
    /// The likeliest tokens.
    pub fn greedy(new_tokens: usize) -> Self {
        Generation {
            new_tokens,
            ..Self::default()
        }
    }

    fn check(&self) -> Result<()> {
        let Generation {
            temperature,
            top_k,
            top_p,
            ..
        } = self;
        let fits =
            *temperature >= 0.0 && *top_k != Some(0) && top_p.is_none_or(|p| p > 0.0 && p <= 1.0);
        if fits {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "generate: temperature {temperature}, top_k {top_k:?}, top_p {top_p:?}; wanted a temperature of 0 or more, a k of at least 1 and a p in (0, 1]"
        )))
    }
}

/// A model in the middle of some texts.
pub(crate) trait Continue {
    /// Logits of what follows each of the texts that `open` lists, in that order. Called with texts of which the open ones have
    /// grown by a token since the last call; what has left `open` does not come back.
    fn next(&mut self, open: &[usize], texts: &[Vec<u32>]) -> Result<Vec<Vec<f64>>>;
}

/// Continues the texts by at most `options.new_tokens` tokens; returns the new ones, the end token included. Draws depend on the
/// seed, the step and the text's place, not on the other texts.
pub(crate) fn generate(
    model: &mut impl Continue,
    mut texts: Vec<Vec<u32>>,
    options: &Generation,
    device: &Device,
) -> Result<Vec<Vec<u32>>> {
    options.check()?;
    let starts: Vec<usize> = texts.iter().map(Vec::len).collect();
    if starts.contains(&0) {
        let detail = "generate: a prompt of no tokens; wanted at least one";
        return Err(Error::Invalid(detail.into()));
    }
    let mut open: Vec<usize> = (0..texts.len()).collect();
    for step in 0..options.new_tokens {
        if open.is_empty() {
            break;
        }
        let logits = no_grad(|| model.next(&open, &texts))?;
        let key = RandomKey {
            step: step as u64,
            ..RandomKey::new(options.seed, Purpose::Sample, "generate")
        };
        let u = Tensor::random(&[texts.len()], Distribution::Uniform, key, device)?;
        let u = u.to_vec::<f64>()?;
        for (logits, text) in logits.iter().zip(&open) {
            texts[*text].push(pick(logits, options, u[*text]));
        }
        open.retain(|text| texts[*text].last().copied() != options.end);
    }
    let new = |(text, start): (&mut Vec<u32>, usize)| text.split_off(start);
    Ok(texts.iter_mut().zip(starts).map(new).collect())
}

/// Logits `[rows, vocabulary]`, row by row.
pub(crate) fn by_row(logits: &Tensor) -> Result<Vec<Vec<f64>>> {
    let values = logits.to_vec::<f64>()?;
    Ok(values
        .chunks(logits.last_dim().max(1))
        .map(<[f64]>::to_vec)
        .collect())
}

/// The likeliest token (the first of equals), or the one at `u` in [0, 1) of the distribution that the options leave.
fn pick(logits: &[f64], options: &Generation, u: f64) -> u32 {
    let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    if options.temperature == 0.0 {
        return best as u32;
    }
    let weight = |i: usize| ((logits[i] - logits[best]) / options.temperature).exp();
    let mut kept: Vec<usize> = (0..logits.len()).collect();
    if options.top_k.is_some() || options.top_p.is_some() {
        kept.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        kept.truncate(options.top_k.unwrap_or(usize::MAX));
    }
    if let Some(p) = options.top_p {
        let mut left = p * kept.iter().map(|i| weight(*i)).sum::<f64>();
        let enough = kept.iter().position(|i| {
            left -= weight(*i);
            left <= 0.0
        });
        kept.truncate(enough.map_or(usize::MAX, |last| last + 1));
    }
    let mut left = u * kept.iter().map(|i| weight(*i)).sum::<f64>();
    let drawn = kept.iter().find(|i| {
        left -= weight(**i);
        left < 0.0
    });
    *drawn.unwrap_or(&best) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 1/2, 1/4, 1/8, 1/8 out of order; u walks through them.
    #[test]
    fn tokens_are_drawn_from_what_the_options_leave() {
        let p = [0.125f64, 0.5, 0.125, 0.25];
        let logits = p.map(f64::ln);
        let drawn = |top_k, top_p, temperature| {
            let options = Generation {
                temperature,
                top_k,
                top_p,
                ..Default::default()
            };
            let mut counts = [0; 4];
            for i in 0..800 {
                counts[pick(&logits, &options, (i as f64 + 0.5) / 800.0) as usize] += 1;
            }
            counts
        };
        assert_eq!(drawn(None, None, 1.0), [100, 400, 100, 200]);
        assert_eq!(drawn(None, None, 0.0), [0, 800, 0, 0]);
        // At temperature 1/2 weights are squared: 1 : 16 : 1 : 4 of 22, so the marks lie at 36.36, 618.2 and 654.55 of 800.
        assert_eq!(drawn(None, None, 0.5), [36, 582, 37, 145]);
        assert_eq!(drawn(Some(1), None, 1.0), [0, 800, 0, 0]);
        assert_eq!(
            drawn(Some(3), None, 1.0),
            [114, 457, 0, 229],
            "the first of equals"
        );
        assert_eq!(drawn(None, Some(0.74), 1.0), [0, 533, 0, 267]);
        assert_eq!(drawn(None, Some(0.76), 1.0), [114, 457, 0, 229]);
        assert_eq!(drawn(None, Some(1e-9), 1.0), [0, 800, 0, 0]);
        assert_eq!(drawn(None, Some(1.0), 1.0), [100, 400, 100, 200]);
        // Of the two that k leaves, the first has two thirds.
        assert_eq!(drawn(Some(2), Some(0.6), 1.0), [0, 800, 0, 0]);
    }
}
