//! CLIP against Hugging Face's transformers, as `models.rs` has it. `tests/fixtures/make_seq2seq.py` made the files.

use deltaw_engine::prelude::*;
use deltaw_models::clip::{Clip, ClipConfig, contrastive_loss};
use deltaw_models::hub::Config;
use deltaw_tests::fixture::Fixture;
use deltaw_tests::gpu::gpu;
use deltaw_tests::small::{all_linears_are_sites, block, close, rounded};

/// Roundings of two blocks of the wider tower, a projection, a length and a product.
fn chain() -> usize {
    2 * block(16, 24, 9) + 48 + 2 * 16 + 2 * 10
}

fn open(name: &str, device: &Device) -> (Fixture, Store, Clip) {
    // transformers computes the softmax (difference, exponential, sum, quotient) of four blocks in f32.
    let fixture = Fixture {
        inner: 4 * 4,
        ..Fixture::open(name, device)
    };
    let (_files, folder) = fixture.folder();
    let store = folder.store(device, 0, &[]);
    let clip = folder.clip(&store).unwrap();
    (fixture, store, clip)
}

/// Directions of the texts, and logits of images with texts.
fn run(fixture: &Fixture, clip: &Clip) -> Result<(Tensor, Tensor)> {
    let ctx = Context::eval().with_mask(fixture.floats("input.mask"));
    let texts = clip.texts(&ctx, &fixture.integers("input.ids"))?;
    let images = clip.images(&ctx, &fixture.floats("input.pixels"))?;
    let logits = clip.logits(&images, &texts)?;
    Ok((texts, logits))
}

/// Both rules of where a text ends: the largest number, and the first of the end's number.
const FILES: [&str; 2] = ["clip", "clip-by-id"];

#[test]
fn both_towers_are_hugging_faces() {
    for name in FILES {
        for device in [Device::oracle(), Device::cpu(), gpu().device.clone()] {
            let (fixture, store, clip) = open(name, &device);
            let (texts, logits) = run(&fixture, &clip).unwrap();
            fixture.compare("want.text", &texts, chain());
            let loss = contrastive_loss(&logits).unwrap();
            fixture.check(&store, &logits, &loss, chain());
        }
    }
}

#[test]
fn matrices_of_bf16_stay_so() {
    let (fixture, _, _) = open("clip", &Device::cpu());
    let config = Config::parse("config.json", fixture.config.as_bytes()).unwrap();
    let config = ClipConfig::from_hugging_face(&config).unwrap();
    let [got, want] = rounded(&fixture).map(|store| {
        let clip = Clip::new(&store.root(), &config).unwrap();
        run(&fixture, &clip).unwrap().1.to_vec::<f64>().unwrap()
    });
    close("clip", &got, &want, chain() as f64);
}

#[test]
fn every_linear_is_a_site() {
    let (_, store, _) = open("clip", &Device::cpu());
    all_linears_are_sites(&store, &["token_embedding", "position_embedding"]);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let (fixture, _, clip) = open("clip", &Device::cpu());
    for (tower, field, value) in [
        ("text_config", "hidden_act", "\"nonesuch\""),
        ("vision_config", "patch_size", "3"),
        ("vision_config", "hidden_size", "null"),
    ] {
        let mut fields: serde_json::Value = serde_json::from_str(&fixture.config).unwrap();
        fields[tower][field] = serde_json::from_str(value).unwrap();
        let config = Config::parse("config.json", fields.to_string().as_bytes()).unwrap();
        let message = ClipConfig::from_hugging_face(&config)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(tower) && message.contains(&format!("`{field}`")),
            "{message}"
        );
    }
    let ctx = Context::eval();
    let ids = Tensor::zeros(&[1, 13], DType::U32, &Device::cpu()).unwrap();
    let message = clip.texts(&ctx, &ids).unwrap_err().to_string();
    assert!(
        message.contains("13 tokens, but there are 12 positions"),
        "{message}"
    );
    let pixels = Tensor::zeros(&[1, 3, 8, 9], DType::F32, &Device::cpu()).unwrap();
    assert!(clip.images(&ctx, &pixels).is_err());
    assert!(contrastive_loss(&Tensor::from([[1.0, 2.0]])).is_err());
}
