//! T5 and BART against Hugging Face's transformers, as `models.rs` has it, and their targets beside the caches.
//! `tests/fixtures/make_seq2seq.py` made the files.

use deltaw_engine::optim::AdamW;
use deltaw_engine::prelude::*;
use deltaw_models::decoder::Generation;
use deltaw_models::hub::{Architecture, Config, Folder};
use deltaw_models::methods::Method;
use deltaw_models::methods::lora::Lora;
use deltaw_models::seq2seq::{BartConfig, EncoderDecoder, T5Config};
use deltaw_tests::fixture::Fixture;
use deltaw_tests::gpu::gpu;
use deltaw_tests::small::{all_linears_are_sites, block, close, rounded};

/// Roundings of two blocks of the encoder and two of the decoder with a second attention, widths 16 to 24, and the head.
fn chain() -> usize {
    2 * block(20, 24, 9) + 2 * (2 * block(20, 24, 9)) + 3 * 16
}

/// A fixture's model.
fn open(name: &str, device: &Device) -> (Fixture, Store, EncoderDecoder) {
    let fixture = Fixture {
        // What transformers rounds to f32: BART's heads of width 8 are scaled by an f32, as ours are, in two attentions of each of
        // the decoder's blocks; T5's norms, five and seven, are square, mean and root.
        inner: if name == "bart" {
            2 * 2 * 2
        } else {
            (5 + 7) * 3
        },
        ..Fixture::open(name, device)
    };
    let (_files, folder) = fixture.folder();
    let store = folder.store(device, 0, &[]);
    let model = folder.encoder_decoder(&store).unwrap();
    (fixture, store, model)
}

/// The model of a folder in a store of its own.
fn build(folder: &Folder, store: &Store) -> EncoderDecoder {
    let model = match folder.architecture() {
        Architecture::T5(config) => EncoderDecoder::t5(&store.root(), config),
        Architecture::Bart(config) => EncoderDecoder::bart(&store.root(), config),
        other => panic!("{other:?}"),
    };
    model.unwrap()
}

/// The file's labels, −100 where none is asked for.
fn labels(fixture: &Fixture) -> Vec<i64> {
    let labels = fixture.floats("input.labels").to_vec::<f64>().unwrap();
    labels.into_iter().map(|x| x as i64).collect()
}

const FILES: [&str; 3] = ["t5", "t5-v1_1", "bart"];

#[test]
fn logits_losses_and_gradients_are_hugging_faces() {
    for name in FILES {
        for device in [Device::oracle(), Device::cpu(), gpu().device.clone()] {
            let (fixture, store, model) = open(name, &device);
            let ctx = Context::eval().with_mask(fixture.floats("input.mask"));
            let targets = model.targets(&labels(&fixture), 6, &device).unwrap();
            let source = fixture.integers("input.ids");
            let logits = model.forward(&ctx, &source, targets.input()).unwrap();
            let loss = targets.loss(&logits).unwrap();
            fixture.check(&store, &logits, &loss, chain());
        }
    }
}

#[test]
fn matrices_of_bf16_stay_so() {
    for name in FILES {
        let fixture = Fixture::open(name, &Device::cpu());
        let (_files, folder) = fixture.folder();
        let [got, want] = rounded(&fixture).map(|store| {
            let model = build(&folder, &store);
            let targets = model.targets(&labels(&fixture), 6, &Device::cpu()).unwrap();
            let source = fixture.integers("input.ids");
            let logits = model.forward(&Context::eval(), &source, targets.input());
            logits.unwrap().to_vec::<f64>().unwrap()
        });
        close(name, &got, &want, chain() as f64);
    }
}

/// The file's rows as sources: each without its padding.
fn sources(fixture: &Fixture) -> Vec<Vec<u32>> {
    let ids = fixture.integers("input.ids").to_vec::<u32>().unwrap();
    let mask = fixture.floats("input.mask").to_vec::<f64>().unwrap();
    let real = |(ids, mask): (&[u32], &[f64])| {
        let pairs = ids.iter().zip(mask);
        pairs
            .filter_map(|(id, m)| (*m > 0.0).then_some(*id))
            .collect()
    };
    ids.chunks(9).zip(mask.chunks(9)).map(real).collect()
}

#[test]
fn greedy_targets_are_those_of_transformers() {
    for name in FILES {
        for device in [Device::oracle(), Device::cpu()] {
            let (fixture, _, model) = open(name, &device);
            let want = fixture.integers("want.greedy").to_vec::<u32>().unwrap();
            let want: Vec<&[u32]> = want.chunks(6).collect();
            let sources = sources(&fixture);
            let all: Vec<&[u32]> = sources.iter().map(Vec::as_slice).collect();
            let greedy = Generation::greedy(6);
            assert_eq!(model.generate_batch(&all, &greedy).unwrap(), want, "{name}");
            // A row that ends early leaves, and the others go on as before.
            let ended = Generation {
                end: Some(want[1][2]),
                ..greedy
            };
            let texts = model.generate_batch(&all, &ended).unwrap();
            for (i, (text, want)) in texts.iter().zip(&want).enumerate() {
                let end = want.iter().position(|t| Some(*t) == ended.end);
                assert_eq!(*text, want[..end.map_or(6, |at| at + 1)], "{name}");
                assert_eq!(*text, model.generate(all[i], &ended).unwrap(), "{name}");
            }
        }
    }
}

/// Beside the cache, two tokens and then one at a time.
#[test]
fn the_logits_of_each_step_are_those_of_the_whole_target() {
    for name in FILES {
        for device in [Device::oracle(), Device::cpu()] {
            let (fixture, _, model) = open(name, &device);
            let ctx = Context::eval().with_mask(fixture.floats("input.mask"));
            let targets = model.targets(&labels(&fixture), 6, &device).unwrap();
            let (got, want) = no_grad(|| {
                let states = model.encode(&ctx, &fixture.integers("input.ids")).unwrap();
                let memory = model.memory(&ctx, &states).unwrap();
                let mut cache = model.cache();
                let steps: Vec<Tensor> = [(0, 2), (2, 1), (3, 1), (4, 1), (5, 1)]
                    .map(|(from, len)| {
                        let ids = targets.input().narrow(1, from, len).unwrap();
                        model.extend(&ctx, &ids, &memory, &mut cache).unwrap()
                    })
                    .to_vec();
                let steps = Tensor::concat(&steps.iter().collect::<Vec<_>>(), 1).unwrap();
                let whole = model.decode(&ctx, targets.input(), &memory).unwrap();
                [&steps, &whole].map(|h| model.head(&ctx, h).unwrap().to_vec::<f64>().unwrap())
            })
            .into();
            // The oracle rounds at 2⁻⁵² where f32 does at 2⁻²³.
            let units = if device.is_cpu() { 1.0 } else { 2f64.powi(-29) };
            close(name, &got, &want, units * chain() as f64);
        }
    }
}

#[test]
fn every_linear_is_a_site() {
    let tables = [
        "shared",
        "embed_positions",
        "relative_attention_bias",
        "final_logits_bias",
    ];
    for name in FILES {
        let (_, store, _) = open(name, &Device::cpu());
        all_linears_are_sites(&store, &tables);
    }
}

#[test]
fn lora_trains_and_the_frozen_weights_have_no_gradient() {
    for name in FILES {
        let (fixture, store) = (
            Fixture::open(name, &Device::cpu()),
            Store::new(&Device::cpu(), 0),
        );
        let (_files, folder) = fixture.folder();
        let model = build(&folder, &store);
        fixture.load(&store);
        let _attached = Lora::rank(2).attach(&store, &[]).unwrap();
        let (params, mut optimiser) = (store.trained(), AdamW::new(0.0));
        assert!(params.iter().all(|p| p.name().contains("lora_")));
        let ctx = Context::train(0, 0).with_mask(fixture.floats("input.mask"));
        let targets = model.targets(&labels(&fixture), 6, &Device::cpu()).unwrap();
        let mut losses = vec![];
        for _ in 0..8 {
            let source = fixture.integers("input.ids");
            let logits = model.forward(&ctx, &source, targets.input()).unwrap();
            let loss = targets.loss(&logits).unwrap();
            losses.push(loss.item().unwrap());
            let grads = backward(&loss).unwrap();
            for param in store.params().iter().filter(|p| !p.is_trained()) {
                assert!(grads.get(param.id()).is_none(), "{}", param.name());
            }
            optimiser.step(&params, &grads, 0.02).unwrap();
        }
        assert!(losses[7] < losses[0] - 0.1, "{name}: {losses:?}");
    }
}

#[test]
fn what_the_models_do_not_do_is_refused_by_name() {
    let (fixture, _, bart) = open("bart", &Device::cpu());
    let mut refused: Vec<(&str, &str, String)> = vec![];
    for (field, value) in [
        ("normalize_before", "true"),
        ("tie_word_embeddings", "false"),
        ("activation_function", "\"nonesuch\""),
        ("d_model", "-1"),
    ] {
        let config = changed(&fixture.config, field, value);
        let error = BartConfig::from_hugging_face(&config).unwrap_err();
        refused.push((field, value, error.to_string()));
    }
    let (fixture, _, t5) = open("t5", &Device::cpu());
    for (field, value) in [
        ("feed_forward_proj", "\"gated-mish\""),
        ("relative_attention_num_buckets", "3"),
        ("num_heads", "null"),
        ("num_heads", "0"),
    ] {
        let config = changed(&fixture.config, field, value);
        let error = T5Config::from_hugging_face(&config).unwrap_err();
        refused.push((field, value, error.to_string()));
    }
    for (field, value, message) in refused {
        assert!(
            message.contains(&format!("`{field}`")),
            "{value}: {message}"
        );
    }

    // A model of one block less has too little to look at.
    let (_files, folder) = fixture.folder();
    let Architecture::T5(mut config) = folder.architecture().clone() else {
        panic!("{:?}", folder.architecture());
    };
    config.num_decoder_layers = 1;
    let shallow = EncoderDecoder::t5(&Store::new(&Device::cpu(), 0).root(), &config).unwrap();
    let (ctx, ids) = (Context::eval(), fixture.integers("input.ids"));
    let states = shallow.encode(&ctx, &ids).unwrap();
    let memory = shallow.memory(&ctx, &states).unwrap();
    let message = t5.decode(&ctx, &ids, &memory).unwrap_err().to_string();
    assert!(message.contains("a memory of 1 blocks for 2"), "{message}");

    // Twelve positions.
    let message = bart
        .generate(&[3], &Generation::greedy(13))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("13 tokens, but there are 12 positions"),
        "{message}"
    );
    assert!(bart.generate(&[3], &Generation::greedy(12)).is_ok());
    assert!(bart.generate(&[3; 13], &Generation::greedy(1)).is_err());
    assert!(bart.generate(&[], &Generation::greedy(1)).is_err());
    assert!(bart.targets(&[1, 2, 3], 2, &Device::cpu()).is_err());
}

/// The configuration with another value of a field.
fn changed(config: &str, field: &str, value: &str) -> Config {
    let mut fields: serde_json::Value = serde_json::from_str(config).unwrap();
    fields[field] = serde_json::from_str(value).unwrap();
    Config::parse("config.json", fields.to_string().as_bytes()).unwrap()
}
