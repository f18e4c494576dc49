//! What loading a large checkpoint costs: its weights' memory once, and no more for computing with them. Alone in its program, since
//! it asks the system how much memory that has held.

use std::io::Write;

use deltaw_engine::pool::{Tag, usage};
use deltaw_engine::prelude::*;
use deltaw_models::hub::Folder;
use serde_json::json;

const WIDTH: usize = 1024;
const INNER: usize = 4096;
const LAYERS: usize = 8;
const TOKENS: usize = 8192;

/// Names and shapes of a LLaMA.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![
        ("lm_head.weight".to_string(), vec![TOKENS, WIDTH]),
        ("model.embed_tokens.weight".to_string(), vec![TOKENS, WIDTH]),
        ("model.norm.weight".to_string(), vec![WIDTH]),
    ];
    for layer in 0..LAYERS {
        let name = |leaf: &str| format!("model.layers.{layer}.{leaf}.weight");
        for leaf in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            all.push((name(&format!("self_attn.{leaf}")), vec![WIDTH, WIDTH]));
        }
        all.push((name("mlp.gate_proj"), vec![INNER, WIDTH]));
        all.push((name("mlp.up_proj"), vec![INNER, WIDTH]));
        all.push((name("mlp.down_proj"), vec![WIDTH, INNER]));
        all.push((name("input_layernorm"), vec![WIDTH]));
        all.push((name("post_attention_layernorm"), vec![WIDTH]));
    }
    all
}

/// Writes the folder; the file's data are a hole, which reads as zeros. Returns the bytes of its data.
fn write(folder: &std::path::Path) -> usize {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors() {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(
            name,
            json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = std::fs::File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();
    let config = json!({
        "model_type": "llama", "vocab_size": TOKENS, "hidden_size": WIDTH, "intermediate_size": INNER, "hidden_act": "silu",
        "num_hidden_layers": LAYERS, "num_attention_heads": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    at
}

/// The most memory that the program has held, by the system's count, mapped files included.
fn high_water() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[test]
fn a_checkpoint_is_held_once_and_in_its_own_type() {
    let folder = tempfile::tempdir().unwrap();
    let data = write(folder.path());
    assert!(data > 250 << 20, "{data}");
    let largest = 2 * TOKENS * WIDTH;
    let before = high_water();
    let opened = Folder::open(folder.path()).unwrap();
    let store = opened.store(&Device::cpu(), 0, &[]);
    let model = opened.decoder(&store).unwrap();
    store.train_only(|_| false);
    // The pool's blocks are up to a quarter larger than what they hold; of the file, no more pages are held than of one tensor.
    let loaded = high_water() - before;
    assert!(
        loaded <= data * 5 / 4 + 2 * largest,
        "{loaded} bytes held for {data}"
    );
    let weights = usage().live[Tag::Weights as usize];
    assert!(
        weights <= data * 5 / 4 + (1 << 20),
        "{weights} bytes of weights for {data}"
    );

    // No matrix is widened as a whole while it is used: what is added is less than one of them in f32.
    let ids = Tensor::from_slice(&[1u32, 2, 3, 4], &[1, 4], &Device::cpu()).unwrap();
    let logits = no_grad(|| model.forward(&Context::eval(), &ids)).unwrap();
    assert_eq!(logits.shape(), [1, 4, TOKENS]);
    let computed = high_water() - before;
    let matrix = 4 * INNER * WIDTH;
    assert!(
        computed <= loaded + matrix,
        "{computed} bytes held while computing, {loaded} before"
    );
    println!(
        "{} MiB of weights: {} MiB to load, {} MiB to compute",
        data >> 20,
        loaded >> 20,
        computed >> 20
    );
}
