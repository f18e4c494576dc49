//! The models against Hugging Face's transformers: the same weights, names and inputs give the same logits, losses and
//! gradients. `tests/fixtures/make_fixtures.py` and `make_hub.py` made the files; what they want was computed in f64.

use deltaw_engine::prelude::*;
use deltaw_models::decoder::{Decoder, DecoderConfig, Generation, next_token_loss};
use deltaw_models::encoder::{Encoder, EncoderConfig, MaskedLmHead};
use deltaw_models::hub::{Architecture, Config};
use deltaw_models::vit::{ImageHead, Vit, VitConfig};
use deltaw_tests::fixture::Fixture;
use deltaw_tests::gpu::gpu;
use deltaw_tests::small::block;

fn devices() -> [Device; 3] {
    [Device::oracle(), Device::cpu(), gpu().device.clone()]
}

fn decoder(name: &str, inner: usize) {
    for device in devices() {
        let fixture = Fixture {
            inner,
            ..Fixture::open(name, &device)
        };
        let (_files, folder) = fixture.folder();
        let store = folder.store(&device, 0, &[]);
        let model = folder.decoder(&store).unwrap();
        let config = model.config();
        let (ids, mask) = (fixture.integers("input.ids"), fixture.floats("input.mask"));
        let ctx = Context::eval().with_mask(mask.clone());
        let logits = model.forward(&ctx, &ids).unwrap();
        let loss = next_token_loss(&logits, &ids, Some(&mask)).unwrap();
        let chain =
            2 * block(config.hidden_size, config.intermediate_size, 9) + 3 * config.hidden_size;
        fixture.check(&store, &logits, &loss, chain);

        let positions = Some(fixture.integers("input.positions"));
        let x = model.embed(&ctx, &ids, positions.as_ref()).unwrap();
        let hidden = model.body(&ctx, &x, positions.as_ref()).unwrap();
        fixture.compare("want.placed", &model.head(&ctx, &hidden).unwrap(), chain);

        let greedy = Generation::greedy(6);
        let prompt = fixture.integers("input.prompt").to_vec::<u32>().unwrap();
        let want = fixture.integers("want.greedy").to_vec::<u32>().unwrap();
        assert_eq!(model.generate(&prompt, &greedy).unwrap(), want);
        // The end token stops the text, and is its last.
        let ended = Generation {
            end: Some(want[2]),
            ..greedy
        };
        let length = 1 + want.iter().position(|t| *t == want[2]).unwrap();
        assert_eq!(model.generate(&prompt, &ended).unwrap(), want[..length]);
    }
}

#[test]
fn gpt2_is_hugging_faces() {
    decoder("gpt2", 0);
}

#[test]
fn llama_with_shared_keys_is_hugging_faces() {
    // transformers computes in f32: five norms (square, mean, root, product) and two blocks' angles (cosine, sine) and
    // softmax (difference, exponential, sum, quotient).
    decoder("llama", 5 * 4 + 2 * (2 + 4));
}

#[test]
fn qwen2_with_biases_and_a_tied_head_is_hugging_faces() {
    decoder("qwen2", 5 * 4 + 2 * (2 + 4));
}

#[test]
fn mistral_within_its_window_is_hugging_faces() {
    decoder("mistral", 5 * 4 + 2 * (2 + 4));
    let fixture = Fixture::open("mistral", &Device::cpu());
    let (_files, folder) = fixture.folder();
    let model = folder
        .decoder(&folder.store(&Device::cpu(), 0, &[]))
        .unwrap();
    let ids = Tensor::zeros(&[1, 11], DType::U32, &Device::cpu()).unwrap();
    let message = model
        .forward(&Context::eval(), &ids)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("11 tokens, but there are 10 tokens in attention's sliding window"),
        "{message}"
    );
}

/// An encoder of a fixture with its store and sizes, and the states of the fixture's input.
fn encoded(fixture: &Fixture) -> (Store, Encoder, EncoderConfig, Context, Tensor) {
    let (_files, folder) = fixture.folder();
    let Architecture::Encoder(config) = folder.architecture().clone() else {
        panic!("{:?}", folder.architecture());
    };
    let store = folder.store(&fixture.device, 0, &[]);
    let encoder = Encoder::new(&store.at(config.family.prefix()), &config).unwrap();
    let ctx = Context::eval().with_mask(fixture.floats("input.mask"));
    let (ids, types) = (
        fixture.integers("input.ids"),
        fixture.integers("input.types"),
    );
    let hidden = encoder.forward(&ctx, &ids, &types).unwrap();
    (store, encoder, config, ctx, hidden)
}

fn masked(name: &str) {
    for device in devices() {
        let fixture = Fixture::open(name, &device);
        let (store, encoder, config, ctx, hidden) = encoded(&fixture);
        let head = MaskedLmHead::new(&store.at(config.family.masked_prefix()), &config).unwrap();
        let logits = head.forward(&ctx, &encoder, &hidden).unwrap();
        assert!(store.unused().is_empty(), "{:?}", store.unused());
        let ids = fixture.integers("input.ids");
        let n = ids.len();
        let options = CrossEntropyOptions {
            weights: Some(fixture.floats("input.asked").reshape(&[n]).unwrap()),
            ..Default::default()
        };
        let rows = logits.reshape(&[n, config.vocab_size]).unwrap();
        let loss = cross_entropy(&rows, &ids.reshape(&[n]).unwrap(), &options).unwrap();
        fixture.check(&store, &logits, &loss, 2 * block(16, 24, 9) + 6 * 16);
    }
}

#[test]
fn bert_with_a_masked_token_head_is_hugging_faces() {
    masked("bert-mlm");
}

#[test]
fn roberta_with_a_masked_token_head_is_hugging_faces() {
    masked("roberta-mlm");
}

fn classified(name: &str) {
    for device in devices() {
        let fixture = Fixture::open(name, &device);
        let (_files, folder) = fixture.folder();
        let store = folder.store(&device, 0, &[]);
        let encoder = folder.encoder(&store).unwrap();
        let (head, labels) = folder.sequence_head(&store).unwrap();
        assert_eq!(labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
        assert!(store.unused().is_empty(), "{:?}", store.unused());
        let ctx = Context::eval().with_mask(fixture.floats("input.mask"));
        let (ids, types) = (
            fixture.integers("input.ids"),
            fixture.integers("input.types"),
        );
        let hidden = encoder.forward(&ctx, &ids, &types).unwrap();
        let logits = head.forward(&ctx, &hidden).unwrap();
        let loss = cross_entropy(
            &logits,
            &fixture.integers("input.labels"),
            &CrossEntropyOptions::default(),
        )
        .unwrap();
        fixture.check(&store, &logits, &loss, 2 * block(16, 24, 9) + 4 * 16);
    }
    let headless = Fixture::open("bert-mlm", &Device::cpu());
    let (_files, folder) = headless.folder();
    let store = folder.store(&Device::cpu(), 0, &[]);
    folder.encoder(&store).unwrap();
    let message = folder.sequence_head(&store).err().unwrap().to_string();
    assert!(message.contains("has no `classifier`"), "{message}");
}

#[test]
fn bert_with_a_classifier_is_hugging_faces() {
    classified("bert-classes");
}

#[test]
fn roberta_with_a_classifier_is_hugging_faces() {
    classified("roberta-classes");
}

#[test]
fn vit_is_hugging_faces() {
    for device in devices() {
        // transformers computes the softmax (difference, exponential, sum, quotient) of two blocks in f32.
        let fixture = Fixture {
            inner: 2 * 4,
            ..Fixture::open("vit", &device)
        };
        let (_files, folder) = fixture.folder();
        let store = folder.store(&device, 0, &[]);
        let vit = folder.vit(&store).unwrap();
        let head = ImageHead::new(&store.root(), vit.config(), 3).unwrap();
        let ctx = Context::eval();
        let logits = head
            .forward(
                &ctx,
                &vit.forward(&ctx, &fixture.floats("input.pixels")).unwrap(),
            )
            .unwrap();
        let loss = cross_entropy(
            &logits,
            &fixture.integers("input.labels"),
            &CrossEntropyOptions::default(),
        )
        .unwrap();
        fixture.check(&store, &logits, &loss, 2 * block(16, 24, 5) + 48 + 3 * 16);
    }
}

#[test]
fn every_linear_of_a_model_is_a_site() {
    let store = Store::new(&Device::cpu(), 0);
    Decoder::new(&store.root(), &DecoderConfig::gpt2(31, 16, 2, 4, 12)).unwrap();
    let linears: Vec<(String, Role, usize, usize)> = store
        .sites()
        .iter()
        .filter(|s| s.is_linear() && s.layer() == 1)
        .map(|s| {
            (
                s.path().replace("transformer.h.1.", ""),
                s.role(),
                s.out_features().unwrap(),
                s.in_features().unwrap(),
            )
        })
        .collect();
    let named = |path: &str, role, out, inputs| (path.to_string(), role, out, inputs);
    assert_eq!(
        linears,
        [
            named("attn.c_attn.key", Role::Key, 16, 16),
            named("attn.c_attn.query", Role::Query, 16, 16),
            named("attn.c_attn.value", Role::Value, 16, 16),
            named("attn.c_proj", Role::AttentionOutput, 16, 16),
            named("mlp.c_fc", Role::MlpUp, 64, 16),
            named("mlp.c_proj", Role::MlpDown, 16, 64),
        ]
    );
    let others = store.sites().iter().filter(|s| !s.is_linear()).count();
    assert_eq!(
        others,
        1 + 2 * 2,
        "the embedding's output and two sub-layers a block"
    );
}

#[test]
fn impossible_models_and_inputs_are_refused_with_reasons() {
    let store = Store::new(&Device::cpu(), 0);
    let mut config = DecoderConfig::gpt2(31, 16, 1, 3, 4);
    let message = |config: &DecoderConfig| {
        Decoder::new(&store.root(), config)
            .err()
            .unwrap()
            .to_string()
    };
    assert!(
        message(&config).contains("the heads must divide the width"),
        "{}",
        message(&config)
    );
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    assert!(
        message(&config).contains("as many key heads as heads"),
        "{}",
        message(&config)
    );
    let vit = VitConfig::new(8, 3, 1, 16, 1, 4);
    let message = Vit::new(&store.at("vit"), &vit).err().unwrap().to_string();
    assert!(message.contains("do not divide into patches"), "{message}");
    for (text, reason) in [
        ("[]", "no model's configuration"),
        ("{}", "`model_type` is missing; known are bert"),
        (
            r#"{"model_type": "opt"}"#,
            "`model_type` is `opt`; known are bert",
        ),
        (
            r#"{"model_type": "gpt2"}"#,
            "`hidden_size` or `n_embd` is missing",
        ),
        (
            &config_with(r#""model_type": "llama", "rope_scaling": {"type": "linear"}"#),
            "rope_scaling: `type` is \"linear\"; only \"default\" is supported",
        ),
        (
            &config_with(r#""model_type": "llama", "attention_bias": true"#),
            "`attention_bias` is true; only false is supported",
        ),
        (
            &config_with(r#""model_type": "llama", "quantization_config": {}"#),
            "`quantization_config` is not supported",
        ),
        (
            &config_with(r#""model_type": "gpt2", "n_inner": -1"#),
            "`n_inner` is -1; wanted a whole number",
        ),
    ] {
        let config = Config::parse("config.json", text.as_bytes());
        let message = config.and_then(|c| Architecture::of(&c)).unwrap_err();
        let message = message.to_string();
        assert!(
            message.starts_with("config.json: ") && message.contains(reason),
            "{message}"
        );
    }

    let store = Store::new(&Device::cpu(), 0);
    let model = Decoder::new(&store.root(), &DecoderConfig::llama(31, 16, 1, 4, 4)).unwrap();
    let ids = Tensor::zeros(&[1, 5], DType::U32, &Device::cpu()).unwrap();
    let message = model
        .forward(&Context::eval(), &ids)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("sequences of 5 tokens, but there are 4 positions"),
        "{message}"
    );
    let refused = |prompt: &[u32], options| model.generate(prompt, &options).is_err();
    let one = || Generation::greedy(1);
    assert!(refused(&[], one()) && !refused(&[1], one()));
    for (temperature, top_k, top_p) in [
        (-1.0, None, None),
        (f64::NAN, None, None),
        (1.0, Some(0), None),
        (1.0, None, Some(0.0)),
        (1.0, None, Some(1.5)),
    ] {
        let options = Generation {
            temperature,
            top_k,
            top_p,
            ..one()
        };
        assert!(refused(&[1], options));
    }
}

fn config_with(more: &str) -> String {
    let sizes = r#""vocab_size": 9, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 4, "hidden_act": "silu""#;
    format!("{{{sizes}, {more}}}")
}
