//! DeBERTaV3 against Hugging Face's transformers, as `models.rs` has it. `tests/fixtures/make_seq2seq.py` made the file.

use deltaw_engine::prelude::*;
use deltaw_models::deberta::{ContextHead, Deberta, DebertaConfig};
use deltaw_models::encoder::TextEncoder;
use deltaw_models::hub::Config;
use deltaw_tests::fixture::Fixture;
use deltaw_tests::gpu::gpu;
use deltaw_tests::small::{all_linears_are_sites, block, close, rounded};

struct Model {
    fixture: Fixture,
    store: Store,
    encoder: Box<dyn TextEncoder>,
    head: ContextHead,
}

fn config(text: &str) -> DebertaConfig {
    let config = Config::parse("config.json", text.as_bytes()).unwrap();
    DebertaConfig::from_hugging_face(&config).unwrap()
}

impl Model {
    fn open(device: &Device) -> Self {
        // transformers' root in the scale of three terms is an f32, and so is ours of contents, in two blocks.
        let fixture = Fixture {
            inner: 2 * (3 + 1),
            ..Fixture::open("deberta", device)
        };
        let (_files, folder) = fixture.folder();
        let store = folder.store(device, 0, &[]);
        let encoder = folder.encoder(&store).unwrap();
        Self::of(fixture, store, encoder)
    }

    fn of(fixture: Fixture, store: Store, encoder: Box<dyn TextEncoder>) -> Self {
        let head = ContextHead::new(&store.root(), &config(&fixture.config), 3).unwrap();
        Model {
            fixture,
            store,
            encoder,
            head,
        }
    }

    fn logits(&self) -> Result<Tensor> {
        let ids = self.fixture.integers("input.ids");
        let ctx = Context::eval().with_mask(self.fixture.floats("input.mask"));
        let hidden = self.encoder.forward(&ctx, &ids, &ids)?;
        self.head.forward(&ctx, &hidden)
    }
}

/// Roundings of two blocks whose scores are three products, of a table behind a norm, and the head.
fn chain() -> usize {
    2 * (block(16, 24, 11) + 2 * 16) + 2 * 16 + 4 * 16
}

#[test]
fn logits_loss_and_gradients_are_hugging_faces() {
    for device in [Device::oracle(), Device::cpu(), gpu().device.clone()] {
        let model = Model::open(&device);
        let logits = model.logits().unwrap();
        let labels = model.fixture.integers("input.labels");
        let loss = cross_entropy(&logits, &labels, &CrossEntropyOptions::default()).unwrap();
        model.fixture.check(&model.store, &logits, &loss, chain());
    }
}

#[test]
fn matrices_of_bf16_stay_so() {
    let open = || Fixture::open("deberta", &Device::cpu());
    let [got, want] = rounded(&open()).map(|store| {
        let encoder = Deberta::new(&store.at("deberta"), &config(&open().config)).unwrap();
        let model = Model::of(open(), store, Box::new(encoder));
        model.logits().unwrap().to_vec::<f64>().unwrap()
    });
    close("deberta", &got, &want, chain() as f64);
}

#[test]
fn every_linear_is_a_site() {
    let tables = ["word_embeddings", "rel_embeddings"];
    all_linears_are_sites(&Model::open(&Device::cpu()).store, &tables);
}

#[test]
fn other_kinds_are_refused_by_name() {
    let model = Model::open(&Device::cpu());
    for (field, value) in [
        ("conv_kernel_size", "3"),
        ("share_att_key", "false"),
        ("relative_attention", "null"),
        ("position_biased_input", "true"),
        ("pos_att_type", "[\"c2p\"]"),
        ("norm_rel_ebd", "\"none\""),
        ("embedding_size", "8"),
        ("position_buckets", "3"),
        ("max_relative_positions", "3"),
        ("hidden_act", "\"nonesuch\""),
    ] {
        let mut fields: serde_json::Value = serde_json::from_str(&model.fixture.config).unwrap();
        fields[field] = serde_json::from_str(value).unwrap();
        let config = Config::parse("config.json", fields.to_string().as_bytes()).unwrap();
        let message = DebertaConfig::from_hugging_face(&config)
            .unwrap_err()
            .to_string();
        let named = match field {
            "max_relative_positions" => "relative positions up to 3".into(),
            field => format!("`{field}`"),
        };
        assert!(message.contains(&named), "{message}");
    }
    let ids = Tensor::zeros(&[1, 13], DType::U32, &Device::cpu()).unwrap();
    let message = model.encoder.forward(&Context::eval(), &ids, &ids);
    let message = message.unwrap_err().to_string();
    assert!(
        message.contains("13 tokens, but the model is made for 12"),
        "{message}"
    );
}
