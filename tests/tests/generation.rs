//! Text from decoders: beside the cache of keys and values it is what the whole text gives.

use deltaw_engine::prelude::*;
use deltaw_models::decoder::{Decoder, DecoderConfig, Generation};
use deltaw_tests::fixture::Fixture;
use deltaw_tests::gpu::gpu;
use deltaw_tests::small::{CHAIN, close};

/// A row of `ids` by the prompt in one pass and the others one by one: logits `[B, T − start + 1, vocabulary]`.
fn in_steps(model: &Decoder, ids: &Tensor, start: usize) -> Result<Tensor> {
    let (ctx, mut cache, mut logits) = (Context::eval(), model.cache(), vec![]);
    let positions = Tensor::arange(ids.last_dim(), ids.device())?;
    let mut extend = |from: usize, to: usize| {
        let positions = positions.narrow(0, from, to - from)?;
        let x = model.embed(&ctx, &ids.narrow(1, from, to - from)?, Some(&positions))?;
        let hidden = model.extend(&ctx, &x, &positions, &mut cache)?;
        logits.push(model.head(&ctx, &hidden.narrow(1, to - from - 1, 1)?)?);
        Ok::<_, Error>(())
    };
    extend(0, start)?;
    (start..ids.last_dim()).try_for_each(|t| extend(t, t + 1))?;
    Tensor::concat(&logits.iter().collect::<Vec<_>>(), 1)
}

/// Both ways round, each within CHAIN roundings of half a unit.
#[test]
fn the_logits_of_each_step_are_those_of_the_whole_text() {
    for name in ["gpt2", "llama", "qwen2"] {
        for device in [Device::oracle(), Device::cpu(), gpu().device.clone()] {
            let fixture = Fixture::open(name, &device);
            let (_files, folder) = fixture.folder();
            let model = folder.decoder(&folder.store(&device, 0, &[])).unwrap();
            let ids = fixture.integers("input.ids");
            let run = |f: &dyn Fn() -> Result<Tensor>| {
                let logits = no_grad(f).unwrap_or_else(|e| gpu().fail(e));
                logits.to_vec::<f64>().unwrap_or_else(|e| gpu().fail(e))
            };
            for start in [1, 4, 9] {
                let want = run(&|| {
                    let all = model.forward(&Context::eval(), &ids)?;
                    all.narrow(1, start - 1, 10 - start)
                });
                let got = run(&|| in_steps(&model, &ids, start));
                // The oracle rounds at 2⁻⁵² where f32 does at 2⁻²³.
                let units = if device == Device::oracle() {
                    2f64.powi(-29)
                } else {
                    1.0
                };
                close(name, &got, &want, units * CHAIN as f64);
            }
        }
    }
}

#[test]
fn a_cache_of_another_model_is_refused() {
    let model = |layers| {
        let store = Store::new(&Device::cpu(), 0);
        Decoder::new(&store.root(), &DecoderConfig::gpt2(31, 16, layers, 4, 4)).unwrap()
    };
    let (ctx, positions) = (Context::eval(), Tensor::arange(1, &Device::cpu()).unwrap());
    let x = Tensor::zeros(&[1, 1, 16], DType::F32, &Device::cpu()).unwrap();
    let extended = model(2).extend(&ctx, &x, &positions, &mut model(1).cache());
    let message = extended.err().unwrap().to_string();
    assert!(
        message.contains("a cache of 1 blocks for a model of 2"),
        "{message}"
    );
}

#[test]
fn drawn_tokens_follow_the_seed_and_the_text_may_outgrow_the_model() {
    let store = Store::new(&Device::cpu(), 0);
    let model = Decoder::new(&store.root(), &DecoderConfig::gpt2(31, 16, 1, 4, 4)).unwrap();
    let drawn = |seed| {
        let options = Generation {
            temperature: 1.0,
            top_k: Some(20),
            top_p: Some(0.95),
            seed,
            ..Generation::greedy(12)
        };
        model.generate(&[1, 2], &options).unwrap()
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    assert!(drawn(1).len() == 12 && drawn(1).iter().all(|t| *t < 31));
}

/// Rows of several lengths, some longer than the model sees, some ended before the others: each is what it is alone. The products
/// of a row are summed alike in a batch of any size, so the logits have the same order but for ties, which random weights lack.
#[test]
fn a_batch_of_texts_goes_on_as_each_alone() {
    let store = Store::new(&Device::cpu(), 3);
    let model = Decoder::new(&store.root(), &DecoderConfig::gpt2(31, 16, 2, 4, 8)).unwrap();
    let prompts: [&[u32]; 4] = [
        &[1],
        &[7, 2, 9],
        &[3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        &[5, 5],
    ];
    let greedy = |end| Generation {
        end,
        ..Generation::greedy(6)
    };
    let all = model.generate_batch(&prompts, &greedy(None)).unwrap();
    for end in [None, Some(all[0][1])] {
        let batch = model.generate_batch(&prompts, &greedy(end)).unwrap();
        for (prompt, text) in prompts.iter().zip(&batch) {
            assert_eq!(*text, model.generate(prompt, &greedy(end)).unwrap());
        }
    }
    assert!(model.generate_batch(&[], &greedy(None)).unwrap().is_empty());
    assert!(model.generate_batch(&[&[1], &[]], &greedy(None)).is_err());
}
