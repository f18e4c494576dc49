//! Small models with random weights, and a comparison in units of f32, for tests of models and methods.

use std::sync::Arc;

use deltaw_engine::prelude::*;
use deltaw_models::decoder::{Decoder, DecoderConfig};
use deltaw_models::encoder::{Encoder, EncoderConfig, SequenceHead};

use crate::fixture::Fixture;

/// Names and bits, in the store's order.
pub fn bits(weights: &Weights) -> Vec<(String, Vec<u32>)> {
    let of = |t: &Tensor| {
        t.to_vec::<f32>()
            .unwrap()
            .iter()
            .map(|x| x.to_bits())
            .collect()
    };
    weights
        .iter()
        .map(|(name, t)| (name.to_string(), of(t)))
        .collect()
}

/// The largest difference, in units of f32 of the largest number wanted: at most `units`.
pub fn close(name: &str, got: &[f64], want: &[f64], units: f64) -> f64 {
    assert_eq!(got.len(), want.len(), "{name}");
    let size = want.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    let worst = got
        .iter()
        .zip(want)
        .fold(0.0f64, |m, (a, b)| m.max((a - b).abs()))
        / size;
    assert!(
        worst <= units * f64::from(f32::EPSILON),
        "{name}: off by {worst:e} of the largest, allowed {units} units"
    );
    worst
}

/// A small BERT with a classifier of three classes.
pub struct Bert {
    /// Its parameters and sites.
    pub store: Store,
    encoder: Encoder,
    head: SequenceHead,
}

impl Bert {
    /// Two blocks of width 16 with weights from a seed.
    ///
    /// # Panics
    /// Never: the sizes fit.
    pub fn new(device: &Device) -> Self {
        let config = EncoderConfig {
            hidden_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            intermediate_size: 24,
            ..EncoderConfig::small(31, 12)
        };
        let store = Store::new(device, 3);
        let encoder = Encoder::new(&store.at("bert"), &config).unwrap();
        let head = SequenceHead::new(&store.root(), &config, 3).unwrap();
        Bert {
            store,
            encoder,
            head,
        }
    }

    /// Of ids `[B, T]`, all of the first segment.
    ///
    /// # Errors
    /// Ids out of range.
    pub fn logits(&self, ctx: &Context, ids: &Tensor) -> Result<Tensor> {
        let types = Tensor::zeros(ids.shape(), DType::U32, ids.device())?;
        self.head
            .forward(ctx, &self.encoder.forward(ctx, ids, &types)?)
    }

    /// Loss on fixed ids and labels, a function of the step.
    ///
    /// # Errors
    /// None.
    pub fn loss(&self, step: u64) -> Result<Tensor> {
        let device = self.store.device();
        let ids: Vec<u32> = (0..24).map(|i| (i * 7 + 3 + step as u32) % 31).collect();
        let logits = self.logits(
            &Context::train(0, step),
            &Tensor::from_slice(&ids, &[4, 6], device)?,
        )?;
        cross_entropy(
            &logits,
            &Tensor::from_slice(&[0u32, 1, 2, 1], &[4], device)?,
            &CrossEntropyOptions::default(),
        )
    }
}

/// Roundings from a block's input to its output, of width d, a feed-forward of `wide` and `t` tokens: two norms, four products
/// and a softmax.
pub fn block(d: usize, wide: usize, t: usize) -> usize {
    2 * 2 * d + 2 * d + t + (d + t) + d + wide
}

/// Every matrix of a store is that of a linear which methods may adapt, but for these tables.
///
/// # Panics
/// One is not.
pub fn all_linears_are_sites(store: &Store, tables: &[&str]) {
    let sites = store.sites();
    let modules: Vec<&str> = sites.iter().filter_map(|s| s.module().ok()).collect();
    let params = store.params();
    let matrices = params.iter().filter(|p| p.shape().len() > 1);
    for module in matrices.map(|p| p.name().trim_end_matches(".weight")) {
        let table = tables.iter().any(|t| module.ends_with(t));
        assert_eq!(modules.contains(&module), !table, "{module}");
    }
}

/// Two stores over a fixture's weights with the matrices rounded to bf16: held so, and held as f32.
///
/// # Panics
/// Never: the types convert.
pub fn rounded(fixture: &Fixture) -> [Store; 2] {
    [DType::Bf16, DType::F32].map(|dtype| {
        let rounded = fixture.weights.iter().map(|(name, x)| {
            let x = match x.rank() {
                2 | 4 => x.converted(DType::Bf16).and_then(|x| x.converted(dtype)),
                _ => Ok(x.clone()),
            };
            (name.to_string(), x.unwrap())
        });
        Store::from_source(&fixture.device, 0, Arc::new(Weights::new(rounded)), &[])
    })
}

/// What trains beside every method.
pub const HEADS: [&str; 2] = ["bert.pooler.", "classifier."];

/// Roundings of a two-block model of width 16 with updates of rank r on a matrix: those of the matrix and of ΔW.
pub const CHAIN: usize = 2 * (2 * 2 * 16 + 2 * 16 + 9 + (16 + 9) + 16 + 24) + 4 * 16 + 8 * 24;

/// A small GPT-2.
///
/// # Panics
/// Never: the sizes fit.
pub fn gpt2(device: &Device) -> (Store, Decoder) {
    let store = Store::new(device, 0);
    let decoder = Decoder::new(&store.root(), &DecoderConfig::gpt2(31, 16, 2, 4, 12)).unwrap();
    (store, decoder)
}
