//! The papers' binaries with a checkpoint and data of one's own: small models written as folders, real runs of a step or two.

use std::fs;
use std::path::Path;
use std::process::Command;

use deltaw_models::decoder::{Decoder, DecoderConfig};
use deltaw_models::encoder::{Encoder, EncoderConfig};
use deltaw_models::prelude::*;
use deltaw_models::vit::{Vit, VitConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with what `make` puts in a store, its configuration, and the shipped tokeniser.
fn folder(model: &str, config: Value, make: impl Fn(&Store)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(&Device::cpu(), 1);
    make(&store);
    checkpoint::save(&folder.path().join("model.safetensors"), &store.weights()).unwrap();
    let mut config = config;
    config["model_type"] = model.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/text/tokenizer.json");
    fs::copy(tokenizer, folder.path().join("tokenizer.json")).unwrap();
    folder
}

fn encoder() -> TempDir {
    let config = EncoderConfig {
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 32,
        ..EncoderConfig::small(2048, 64)
    };
    folder("bert", json!(config), |store| {
        Encoder::new(&store.at("bert"), &config).unwrap();
    })
}

fn decoder() -> TempDir {
    let config = DecoderConfig::gpt2(2048, 16, 1, 2, 64);
    let published = json!({
        "vocab_size": 2048, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "activation_function": "gelu_new",
    });
    folder("gpt2", published, |store| {
        Decoder::new(&store.root(), &config).unwrap();
    })
}

fn vit() -> TempDir {
    let config = VitConfig::new(16, 8, 3, 16, 1, 2);
    folder("vit", json!(config), |store| {
        Vit::new(&store.at("vit"), &config).unwrap();
    })
}

/// Runs a binary for one seed; its results, or what it said.
fn run(binary: &str, args: &[&str]) -> std::result::Result<Value, String> {
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(binary)
        .args(["--quick", "--seeds", "1", "--threads", "1", "--out"])
        .arg(out.path())
        .args(args)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&fs::read(out.path().join("results.json")).unwrap()).unwrap())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The test of a run's first cell, and the steps that it took.
fn done(results: &Value) -> (String, u64) {
    let text = results["results"].to_string();
    let steps = results["config"]["settings"]["fine-tuning steps"].as_u64();
    (
        text,
        steps.unwrap_or_else(|| panic!("{}", results["config"])),
    )
}

#[test]
fn adalora_tunes_a_checkpoint_to_sentiment_or_to_data_of_ones_own() {
    let folder = encoder();
    let binary = env!("CARGO_BIN_EXE_adalora");
    let results = run(
        binary,
        &["--checkpoint", path(folder.path()), "--steps", "1"],
    )
    .unwrap();
    let (text, steps) = done(&results);
    assert!(text.contains("sentiment, tweets") && steps == 1, "{text}");

    let data = folder.path().join("weather.tsv");
    let rows: String = (0..60)
        .map(|i| {
            format!(
                "day {i} was {}\t{}\n",
                if i % 3 == 0 { "wet" } else { "dry" },
                i % 3 / 2
            )
        })
        .collect();
    fs::write(&data, format!("text\tlabel\n{rows}")).unwrap();
    for binary in [binary, env!("CARGO_BIN_EXE_triadaptlora")] {
        // A safetensors file stands for the folder around it.
        let weights = folder.path().join("model.safetensors");
        let args = ["--checkpoint", path(&weights), "--data", path(&data)];
        let (text, _) = done(&run(binary, &args).unwrap());
        assert!(text.contains("weather"), "{text}");
    }
}

#[test]
fn bone_tunes_a_decoder_to_complete_prompts() {
    let (folder, encoder) = (decoder(), encoder());
    let binary = env!("CARGO_BIN_EXE_bone");
    let data = folder.path().join("sums.jsonl");
    let rows: String = (0..80)
        .map(|i| {
            json!({"prompt": format!("{i} + 1 ="), "completion": format!(" {}", i + 1)}).to_string()
                + "\n"
        })
        .collect();
    fs::write(&data, rows).unwrap();
    let args = [
        "--checkpoint",
        path(folder.path()),
        "--data",
        path(&data),
        "--steps",
        "2",
    ];
    let (text, steps) = done(&run(binary, &args).unwrap());
    assert!(text.contains("sums") && steps == 2, "{text}");
    let message = run(
        binary,
        &["--checkpoint", path(encoder.path()), "--data", path(&data)],
    )
    .unwrap_err();
    assert!(
        message.contains("holds an encoder of text; wanted a decoder"),
        "{message}"
    );
}

#[test]
fn snell_and_randlora_tune_a_vit_to_folders_of_pictures() {
    let folder = vit();
    let data = folder.path().join("shades");
    for (class, from) in [("bright", 160u8), ("dark", 0)] {
        fs::create_dir_all(data.join(class)).unwrap();
        for i in 0..30u8 {
            let file = fs::File::create(data.join(class).join(format!("{i}.png"))).unwrap();
            let mut encoder = png::Encoder::new(file, 5, 4);
            encoder.set_color(png::ColorType::Grayscale);
            let pixels: Vec<u8> = (0..20).map(|p| from + i + p).collect();
            encoder
                .write_header()
                .unwrap()
                .write_image_data(&pixels)
                .unwrap();
        }
    }
    let own = ["--checkpoint", path(folder.path()), "--data", path(&data)];
    let (text, _) = done(&run(env!("CARGO_BIN_EXE_snell"), &own).unwrap());
    assert!(text.contains("shades"), "{text}");
    // Without data of its own, the embedded pictures are brought to the model's size.
    let (text, _) = done(&run(env!("CARGO_BIN_EXE_randlora"), &own[..2]).unwrap());
    assert!(text.contains("twemoji, 8 shots"), "{text}");
}

#[test]
fn help_names_weights_and_what_does_not_belong_together_is_said() {
    for binary in [
        env!("CARGO_BIN_EXE_adalora"),
        env!("CARGO_BIN_EXE_triadaptlora"),
        env!("CARGO_BIN_EXE_bone"),
        env!("CARGO_BIN_EXE_snell"),
        env!("CARGO_BIN_EXE_randlora"),
        env!("CARGO_BIN_EXE_kind"),
    ] {
        let help = Command::new(binary).arg("--help").output().unwrap().stdout;
        let help = String::from_utf8(help).unwrap();
        assert!(
            help.contains("With weights of one's own:"),
            "{binary}: {help}"
        );
    }
    let message = run(env!("CARGO_BIN_EXE_kind"), &["--checkpoint", "x"]).unwrap_err();
    assert!(message.contains("--checkpoint x: "), "{message}");
}
