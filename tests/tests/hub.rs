//! Checkpoint folders: parts and their index, 16-bit weights in every method, and folders that are not as they should be.

use std::fs;
use std::path::{Path, PathBuf};

use deltaw_engine::checkpoint::{self, Checkpoint};
use deltaw_engine::prelude::*;
use deltaw_models::decoder::next_token_loss;
use deltaw_models::hub::Folder;
use deltaw_models::methods::Method;
use deltaw_models::methods::adalora::AdaLora;
use deltaw_models::methods::bone::Bone;
use deltaw_models::methods::dora::Dora;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::miss::Miss;
use deltaw_models::methods::randlora::RandLora;
use deltaw_models::methods::selective::{BitFit, Full};
use deltaw_models::methods::snell::Snell;
use deltaw_models::methods::triadaptlora::TriAdaptLora;
use deltaw_tests::fixture::Fixture;
use deltaw_tests::gpu::gpu;
use deltaw_tests::numbers;
use tempfile::TempDir;

const INDEX: &str = "model.safetensors.index.json";
const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";

/// A LLaMA of bf16 in two parts, as transformers writes it.
fn parts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sharded-bf16")
}

/// A copy of it to be changed.
fn copy() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", INDEX, FIRST, SECOND] {
        fs::copy(parts().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// Roundings of two blocks of width 16 and a head: norms, four products and a softmax over nine tokens each.
const CHAIN: f64 =
    2.0 * (2.0 * 2.0 * 16.0 + 2.0 * 16.0 + 9.0 + (16.0 + 9.0) + 16.0 + 24.0) + 3.0 * 16.0;

fn close(what: &str, got: &[f64], want: &[f64], chain: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let size = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let worst = (got.iter().zip(want)).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
    let allowed = chain * f64::from(f32::EPSILON) * size;
    assert!(
        worst <= allowed,
        "{what}: off by {worst:e}, allowed {allowed:e}"
    );
}

#[test]
fn bf16_in_parts_stays_bf16_and_is_transformers() {
    let wanted = checkpoint::load(&parts().join("wanted")).unwrap();
    let ids: Vec<u32> = (wanted.get("input.ids").unwrap().to_vec::<f32>().unwrap())
        .iter()
        .map(|id| *id as u32)
        .collect();
    let want = wanted.get("want.logits").unwrap().to_vec::<f64>().unwrap();
    for device in [&Device::oracle(), &Device::cpu(), &gpu().device] {
        let folder = Folder::open(&parts()).unwrap();
        let store = folder.store(device, 0, &[]);
        let model = folder.decoder(&store).unwrap();
        for param in store.params() {
            let held = if param.shape().len() == 2 {
                DType::Bf16
            } else {
                DType::F32
            };
            assert_eq!(param.value().dtype(), held, "{}", param.name());
        }
        assert!(store.unused().is_empty());
        let ids = Tensor::from_slice(&ids, &[3, 9], device).unwrap();
        let logits = model.forward(&Context::eval(), &ids).unwrap();
        close(
            device.backend().name(),
            &logits.to_vec::<f64>().unwrap(),
            &want,
            CHAIN,
        );
    }
}

fn methods() -> Vec<Box<dyn Method>> {
    vec![
        Box::new(Lora::rank(2)),
        Box::new(Dora::rank(2)),
        Box::new(AdaLora::target_rank(2)),
        Box::new(Bone::block(4)),
        Box::new(Miss::rank(2)),
        Box::new(RandLora::rank(2)),
        Box::new(Snell::rank(2)),
        Box::new(TriAdaptLora::target_rank(2)),
        Box::new(BitFit),
    ]
}

/// Loss, logits and gradients of a method with trained numbers of its own, the base in a type.
fn trained(method: &dyn Method, base: DType) -> (Store, Vec<(String, Vec<f64>)>) {
    let folder = Folder::open(&parts()).unwrap();
    let device = Device::cpu();
    let store = folder.store(&device, 0, &[]);
    let model = folder.decoder(&store).unwrap();
    store.convert(base, |name| !name.contains("norm")).unwrap();
    let _attached = method.attach(&store, &["model.norm."]).unwrap();
    for (i, param) in store.trained().iter().enumerate() {
        let start = param.value().to_vec::<f64>().unwrap();
        let moved: Vec<f32> = (numbers(start.len(), i as u64).iter().zip(&start))
            .map(|(step, value)| *value as f32 + 0.1 * step)
            .collect();
        param
            .set(Tensor::from_slice(&moved, &param.shape(), &device).unwrap())
            .unwrap();
    }
    let ids: Vec<u32> = (0..18).map(|i| i * 7 % 31).collect();
    let ids = Tensor::from_slice(&ids, &[2, 9], &device).unwrap();
    let logits = model.forward(&Context::train(0, 0), &ids).unwrap();
    let loss = next_token_loss(&logits, &ids, None).unwrap();
    let grads = backward(&loss).unwrap();
    let mut all = vec![("logits".to_string(), logits.to_vec::<f64>().unwrap())];
    for param in store.trained() {
        let grad = grads.get(param.id()).unwrap().to_vec::<f64>().unwrap();
        all.push((param.name().into(), grad));
    }
    (store, all)
}

/// The same numbers in half the bytes: methods adapt a base of bf16 as it lies, to what they do with the same base in f32. (PiSSA alone
/// changes the base, by numbers that bf16 rounds.)
#[test]
fn every_method_adapts_a_base_of_bf16() {
    for method in methods() {
        let (store, half) = trained(&*method, DType::Bf16);
        let (_, full) = trained(&*method, DType::F32);
        assert!(half.len() > 1, "{}", method.name());
        for ((name, half), (_, full)) in half.iter().zip(&full) {
            let what = format!("{}: {name}", method.name());
            // Products may be summed in another order; backward sums over what forward did, and over the batch.
            close(&what, half, full, 3.0 * CHAIN);
        }
        for site in store.sites().iter().filter(|s| s.is_linear()) {
            let weight = store.get(&format!("{}.weight", site.path())).unwrap();
            assert_eq!(
                weight.value().dtype(),
                DType::Bf16,
                "{}: {}",
                method.name(),
                weight.name()
            );
        }
    }
}

#[test]
fn what_is_trained_of_a_bf16_base_is_f32_once_training_begins() {
    let folder = Folder::open(&parts()).unwrap();
    let store = folder.store(&Device::cpu(), 0, &[]);
    folder.decoder(&store).unwrap();
    let _attached = Full.attach(&store, &[]).unwrap();
    let before: Vec<Vec<f64>> = store
        .params()
        .iter()
        .map(|p| p.value().to_vec().unwrap())
        .collect();
    deltaw_models::train::widen(&store.trained()).unwrap();
    for (param, before) in store.params().iter().zip(before) {
        assert_eq!(param.value().dtype(), DType::F32);
        assert_eq!(param.value().to_vec::<f64>().unwrap(), before);
    }
}

/// An index with one entry changed.
fn indexed(folder: &Path, change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = folder.join(INDEX);
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(index["weight_map"].as_object_mut().unwrap());
    fs::write(path, index.to_string()).unwrap();
}

fn refused(folder: &Path) -> String {
    let opened = Folder::open(folder);
    opened.err().expect("this folder is refused").to_string()
}

#[test]
fn an_index_names_files_beside_it_only() {
    let elsewhere = tempfile::tempdir().unwrap();
    let secret = elsewhere.path().join("secret.safetensors");
    fs::copy(parts().join(SECOND), &secret).unwrap();
    let absolute = secret.to_str().unwrap();
    for name in [
        "../secret.safetensors",
        absolute,
        "sub/x.safetensors",
        "..",
        ".",
        "",
        "a\\b",
        "x\0y",
        "absent.safetensors",
    ] {
        let folder = copy();
        indexed(folder.path(), |map| {
            map.insert("lm_head.weight".into(), name.into());
        });
        let message = refused(folder.path());
        assert!(
            message.contains(INDEX) && message.contains(&format!("names the file `{name}`")),
            "{message}"
        );
        assert!(message.contains("lie beside its index"), "{message}");
    }
    let folder = copy();
    fs::remove_file(folder.path().join(SECOND)).unwrap();
    std::os::unix::fs::symlink(&secret, folder.path().join(SECOND)).unwrap();
    let message = refused(folder.path());
    assert!(
        message.contains(&format!("`{SECOND}`: a link to")),
        "{message}"
    );
}

#[test]
fn links_of_the_hugging_face_cache_are_followed() {
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (
        cache.path().join("blobs"),
        cache.path().join("snapshots/0123"),
    );
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    for name in ["config.json", INDEX, FIRST, SECOND] {
        let blob = format!("blob-of-{name}");
        fs::copy(parts().join(name), blobs.join(&blob)).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(blob), snapshot.join(name))
            .unwrap();
    }
    let folder = Folder::open(&snapshot).unwrap();
    assert!(
        folder
            .decoder(&folder.store(&Device::cpu(), 0, &[]))
            .is_ok()
    );
}

#[test]
fn of_a_pipeline_of_diffusers_the_transformer_is_opened() {
    let mut fixture = Fixture::open("dit", &Device::cpu());
    let class = r#"{"_class_name": "DiTTransformer2DModel", "#;
    fixture.config = fixture.config.replacen('{', class, 1);
    let (files, _) = fixture.folder();
    let pipeline = tempfile::tempdir().unwrap();
    let inner = pipeline.path().join("transformer");
    fs::create_dir(&inner).unwrap();
    fs::write(pipeline.path().join("model_index.json"), "{}").unwrap();
    let names = [
        ("config.json", "config.json"),
        ("model.safetensors", "diffusion_pytorch_model.safetensors"),
    ];
    for (from, to) in names {
        fs::copy(files.path().join(from), inner.join(to)).unwrap();
    }
    let folder = Folder::open(pipeline.path()).unwrap();
    assert!(folder.dit(&folder.store(&Device::cpu(), 0, &[])).is_ok());
}

#[test]
fn an_index_that_contradicts_its_files_is_refused() {
    let folder = copy();
    indexed(folder.path(), |map| {
        map.insert("lm_head.more".into(), FIRST.into());
    });
    let message = refused(folder.path());
    assert!(
        message.contains(INDEX)
            && message.contains(&format!("tensor `lm_head.more`: not in `{FIRST}`")),
        "{message}"
    );
    let folder = copy();
    indexed(folder.path(), |map| {
        map.remove("model.norm.weight");
    });
    let message = refused(folder.path());
    assert!(
        message.contains("tensor `model.norm.weight`: here, but nowhere by"),
        "{message}"
    );
    for text in [
        "",
        "[]",
        "{}",
        "{\"weight_map\": 3}",
        &"[".repeat(100_000),
        &"{\"weight_map\":".repeat(50_000),
    ] {
        fs::write(folder.path().join(INDEX), text).unwrap();
        let message = refused(folder.path());
        assert!(message.contains("no index of a checkpoint"), "{message}");
    }
}

/// A folder of one file whose weights are changed.
fn changed(change: impl Fn(&mut Weights)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(
        parts().join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    let mut weights = Checkpoint::open(&parts()).unwrap().load().unwrap();
    change(&mut weights);
    checkpoint::save(&folder.path().join("model.safetensors"), &weights).unwrap();
    folder
}

#[test]
fn tensors_that_do_not_fit_are_named_with_their_file() {
    let integers = Tensor::zeros(&[16], DType::I64, &Device::cpu()).unwrap();
    let norm = "model.layers.1.input_layernorm.weight";
    let without = |weights: &mut Weights| {
        let kept = weights.iter().filter(|(n, _)| *n != norm);
        *weights = Weights::new(kept.map(|(n, t)| (n.to_string(), t.clone())));
    };
    let cases: [(TempDir, &str, &str); 4] = [
        (
            changed(without),
            norm,
            "missing, of shape [16]; nearest: `model.layers.0.input_layernorm.weight`",
        ),
        (
            changed(|w| w.insert(norm, Tensor::from([1.0; 15]))),
            norm,
            "has shape [15], but the model wants [16]",
        ),
        (
            changed(|w| w.insert(norm, integers.clone())),
            norm,
            "is i64, but the model wants numbers",
        ),
        (
            changed(|w| w.insert("model.layers.9.x", Tensor::from([0.0]))),
            "model.layers.9.x",
            "no part of the model that config.json describes",
        ),
    ];
    for (files, name, reason) in cases {
        let folder = Folder::open(files.path()).unwrap();
        let message = folder
            .decoder(&folder.store(&Device::cpu(), 0, &[]))
            .err()
            .unwrap()
            .to_string();
        let file = files.path().join("model.safetensors").display().to_string();
        assert!(message.starts_with(&file), "{message}");
        assert!(
            message.contains(&format!("tensor `{name}`: {reason}")),
            "{message}"
        );
    }
}

#[test]
fn a_folder_says_what_it_lacks_or_holds_instead() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refused(folder.path()).contains("config.json: cannot be read"));
    fs::copy(
        parts().join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    assert!(
        refused(folder.path())
            .contains("holds neither model.safetensors nor model.safetensors.index.json")
    );
    fs::write(folder.path().join("pytorch_model.bin"), "").unwrap();
    assert!(refused(folder.path()).contains("convert pytorch_model.bin"));
    let folder = Folder::open(&parts()).unwrap();
    let store = folder.store(&Device::cpu(), 0, &[]);
    let message = folder.encoder(&store).err().unwrap().to_string();
    assert!(
        message.contains("holds a decoder; wanted an encoder of text"),
        "{message}"
    );
}
