//! kind as its users meet it, and the diffusion models that it trains.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use deltaw_engine::prelude::*;
use deltaw_models::components::Partition;
use deltaw_models::data::images::ImageSet;
use deltaw_models::dit::DitConfig;
use deltaw_models::experiment::{self, Options, Paper, Run, Stage};
use deltaw_models::train::denoise::{Denoiser, Routing, Sampling};
use deltaw_models::train::{Learner, Recipe, fit};
use serde_json::Value;

fn quick(out: &Path, threads: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_kind"))
        .args(["--quick", "--seeds", "1", "--threads", threads, "--out"])
        .arg(out)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    serde_json::from_slice(&fs::read(out.join("results.json")).unwrap()).unwrap()
}

#[test]
fn quick_draws_pictures_and_the_same_on_one_thread_or_two() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, two] = [0, 1].map(|i| quick(folders[i].path(), ["1", "2"][i]));
    for part in ["results", "claims", "verdict", "config", "device"] {
        assert_eq!(one[part], two[part], "{part}");
    }
    let facts: Vec<&Value> = (one["claims"].as_array().unwrap().iter())
        .filter(|c| c["estimate"].is_null())
        .collect();
    assert_eq!(facts.len(), 3);
    assert!(facts.iter().all(|c| c["state"] == "holds"), "{facts:?}");
    // Equal budgets: LoRA's numbers and its rivals' differ by the sigmas and magnitudes alone.
    let cells = one["results"]["cells"].as_array().unwrap();
    let numbers: BTreeMap<&str, f64> = (cells.iter())
        .filter(|c| c["task"] == "novel kinds")
        .map(|c| (c["arm"].as_str().unwrap(), &c["metrics"]))
        .map(|(arm, m)| (arm, m["trainable parameters"].as_f64().unwrap()))
        .collect();
    // Two blocks of width 64.
    let lora = 2.0 * 20.0 * (4.0 * 128.0 + 2.0 * 320.0);
    assert_eq!(numbers["lora r=20"], lora);
    assert_eq!(numbers["kind"], lora + 2.0 * 6.0 * 20.0);
    assert_eq!(numbers["kind, shared tailors"], numbers["kind"]);
    assert_eq!(numbers["svdiff"], 2.0 * 6.0 * 64.0);
    let page = fs::read_to_string(folders[0].path().join("report.html")).unwrap();
    assert_eq!(page.matches("data:image/png;base64,iVBOR").count(), 13);
}

/// Sixteen grey pictures of 4×4 of four classes, each class a shade of its own.
fn shades() -> ImageSet {
    let labels: Vec<u32> = (0..16).map(|i| i % 4).collect();
    let pixel = |i: usize| (40 * (labels[i / 16] + 1)) as u8 + (i % 7) as u8;
    ImageSet {
        channels: 1,
        side: 4,
        pixels: (0..256).map(pixel).collect(),
        sources: (0..16).collect(),
        labels: labels.clone(),
    }
}

const HALVES: Partition = Partition {
    learngenes: 4,
    tailors: 2,
    groups: 2,
    silent: false,
};

fn denoiser(pictures: &ImageSet, routing: Routing, seed: u64) -> Denoiser<'_> {
    let config = DitConfig::small(4, 2, 1, 32, 1, 4);
    Denoiser::new(
        &config,
        Some(&HALVES),
        pictures,
        routing,
        seed,
        &Device::cpu(),
    )
    .unwrap()
}

fn in_stage<T: serde::Serialize + serde::de::DeserializeOwned>(
    work: impl FnOnce(&mut Stage<'_>) -> experiment::Result<T>,
) -> T {
    let folder = tempfile::tempdir().unwrap();
    let args = ["kind".into(), "--out".into(), folder.path().into()];
    let paper = Paper {
        slug: "kind",
        ..Paper::BLANK
    };
    let options = Options::parse_for(&paper, args).unwrap();
    let mut run = Run::open_silent(&paper, options).unwrap();
    run.stage("work", &(), work).unwrap().into_inner()
}

#[test]
fn samples_are_the_seeds_to_the_bit_and_in_the_order_of_their_classes() {
    let pictures = shades();
    let [one, again, other] = in_stage(|stage| {
        let model = denoiser(&pictures, Routing::Own, 3);
        // A new model answers 0; one that has learnt a little does not.
        fit(stage, &model, None, &Recipe::new(20, 8, 1e-2), 3)?;
        let sampling = Sampling {
            steps: 5,
            guidance: 1.5,
        };
        let draw = |classes: &[u32], seed| {
            let drawn = model.samples(stage, classes, sampling, seed)?;
            Ok::<_, experiment::Error>(drawn.to_vec::<f32>()?)
        };
        Ok([
            draw(&[0, 3, 1], 1)?,
            draw(&[0, 3, 1], 1)?,
            draw(&[0, 3, 1], 2)?,
        ])
    });
    assert_eq!(one, again);
    assert_ne!(one, other);
    assert!(one.iter().all(|x| x.abs() <= 1.0));
}

#[test]
fn tailors_are_updated_in_the_steps_that_are_counted() {
    let pictures = shades();
    for routing in [Routing::Own, Routing::Random] {
        let model = denoiser(&pictures, routing, 1);
        let mut order = model.order(5, 1).unwrap();
        let mut seen = vec![0; HALVES.groups];
        for step in 0..12 {
            let items = order.next_batch(1);
            let loss = model.loss(&Context::train(5, step), &items, step).unwrap();
            let grads = backward(&loss).unwrap();
            for (group, count) in seen.iter_mut().enumerate() {
                let name = format!("transformer_blocks.0.ff.net.2.tailors.{group}.u");
                let param = model.store.get(&name).unwrap();
                *count += usize::from(grads.get(param.id()).is_some());
            }
        }
        assert_eq!(model.updates(5, 12, 1).unwrap(), seen, "{routing:?}");
        assert!(seen.iter().all(|n| (1..12).contains(n)), "{seen:?}");
    }
}

#[test]
fn held_out_pairs_are_fixed_and_a_models_own_tailors_are_the_default() {
    let pictures = shades();
    let [own, named, none] = in_stage(|stage| {
        let model = denoiser(&pictures, Routing::Own, 3);
        fit(stage, &model, None, &Recipe::new(20, 8, 1e-2), 3)?;
        let with = |group: fn(u32) -> u32| model.held_out(stage, &pictures, 3, group);
        // Two groups of two classes each, in their order.
        Ok([
            model.held_out_own(stage, &pictures, 3)?,
            with(|class| class / 2)?,
            with(|_| u32::MAX)?,
        ])
    });
    assert_eq!(own, named);
    assert_ne!(own, none);
    assert!(own.iter().all(|loss| loss.is_finite() && *loss > 0.0));
}

#[test]
fn an_average_is_what_a_run_ends_with() {
    let pictures = shades();
    let params = |average| {
        in_stage(|stage| {
            let model = denoiser(&pictures, Routing::Own, 3);
            let recipe = Recipe {
                average,
                ..Recipe::new(6, 8, 1e-2)
            };
            fit(stage, &model, None, &recipe, 3)?;
            Ok(model
                .store
                .get("proj_out_2.bias")?
                .value()
                .to_vec::<f32>()?)
        })
    };
    // A decay of 0 keeps nothing of what was.
    assert_eq!(params(Some(0.0)), params(None));
    assert_ne!(params(Some(0.9)), params(None));
}
