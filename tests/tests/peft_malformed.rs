//! Adapters that are broken, foreign or hostile: errors that say what is wrong, a model left as it was, and no panic.

use deltaw_engine::prelude::*;
use deltaw_models::methods::{Adapter, Attached};
use deltaw_tests::peft::Fixture;
use deltaw_tests::small::Bert;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Attached to a fresh model; an error leaves it as it was.
fn attached(adapter: &Adapter, bert: &Bert) -> Result<Box<dyn Attached>> {
    let before = bert.store.weights();
    let result = adapter.attach(&bert.store, &[]);
    if result.is_err() {
        assert!(bert.store.sites().iter().all(|s| !s.is_adapted()));
        let after = bert.store.weights();
        assert!(after.names().eq(before.names()));
        for (name, tensor) in before.iter() {
            let now = after.get(name).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(now, tensor.to_vec::<f32>().unwrap(), "{name}");
        }
    }
    result
}

fn fixture(name: &str) -> Adapter {
    Fixture::open(name).adapter()
}

const QUERY: &str = "bert.encoder.layer.0.attention.self.query";

#[test]
fn errors_name_the_file_the_setting_or_tensor_and_what_helps() {
    let deep = format!("({}query{})", "(".repeat(400), ")".repeat(400));
    let settings: Vec<(&str, &str, Value, &str)> = vec![
        (
            "peft-lora",
            "r",
            json!(4),
            "is [3, 16], but `r` and `rank_pattern` give `bert.encoder.layer.0.attention.output.dense` rank 4",
        ),
        (
            "peft-lora",
            "r",
            json!(1_000_000_000_000u64),
            "rank 1000000000000",
        ),
        (
            "peft-lora",
            "r",
            json!(-3),
            "`r`: invalid value: integer `-3`",
        ),
        (
            "peft-lora",
            "r",
            json!("many"),
            "`r`: invalid type: string \"many\"",
        ),
        (
            "peft-lora",
            "lora_dropout",
            json!(1.5),
            "`lora_dropout` is 1.5",
        ),
        ("peft-lora", "rank_pattern", json!({"query": 2}), "rank 2"),
        ("peft-lora", "rank_pattern", json!({"(": 2}), "pattern `(`"),
        (
            "peft-lora",
            "target_modules",
            json!(["mlp"]),
            "no linear among [\"mlp\"] to adapt; it has bert.",
        ),
        (
            "peft-lora",
            "target_modules",
            json!(null),
            "`target_modules` is null",
        ),
        (
            "peft-lora",
            "target_modules",
            json!(deep),
            "a list of module names does without",
        ),
        (
            "peft-lora",
            "target_modules",
            json!(["query", "value", "output.dense", "key"]),
            "though `bert.encoder.layer.0.attention.self.key` is among",
        ),
        (
            "peft-lora",
            "target_modules",
            json!(["query"]),
            "has no place in this model",
        ),
        ("peft-lora", "bias", json!("some"), "bias is \"some\""),
        (
            "peft-lora",
            "bias",
            json!("all"),
            "no tensor `base_model.model.bert.embeddings.LayerNorm.bias`",
        ),
        (
            "peft-lora",
            "modules_to_save",
            json!(["classifier"]),
            "no tensor `base_model.model.classifier.bias`",
        ),
        (
            "peft-lora",
            "use_dora",
            json!(true),
            "no tensor `base_model.model.bert.encoder.layer.0.attention.output.dense.lora_magnitude_vector`",
        ),
        (
            "peft-lora",
            "init_lora_weights",
            json!("olora"),
            "path_initial_model_for_weight_conversion",
        ),
        (
            "peft-lora",
            "lora_bias",
            json!(true),
            "`lora_bias` is set (true), which is not read here",
        ),
        (
            "peft-lora",
            "trainable_token_indices",
            json!([1, 2]),
            "`trainable_token_indices` is set ([1,2])",
        ),
        (
            "peft-lora",
            "layer_replication",
            json!([[0, 4]]),
            "`layer_replication` is set",
        ),
        (
            "peft-lora",
            "megatron_config",
            json!({"a": 1}),
            "`megatron_config` is set",
        ),
        (
            "peft-lora",
            "target_parameters",
            json!(["w"]),
            "`target_parameters` is set",
        ),
        (
            "peft-lora",
            "alora_invocation_tokens",
            json!([7]),
            "`alora_invocation_tokens` is set",
        ),
        (
            "peft-lora",
            "use_qalora",
            json!(true),
            "`use_qalora` is set",
        ),
        (
            "peft-lora",
            "peft_type",
            json!("PROMPT_TUNING"),
            "peft_type is \"PROMPT_TUNING\"; LORA, ADALORA",
        ),
        (
            "peft-lora",
            "peft_type",
            json!(null),
            "`peft_type` is missing",
        ),
        (
            "peft-adalora",
            "init_r",
            json!(1_000_000_000u64),
            "`init_r` is 1000000000, more than",
        ),
        (
            "peft-adalora",
            "rank_pattern",
            json!({format!("{QUERY}.lora_E"): [true]}),
            "wanted 5 truth values",
        ),
        (
            "peft-adalora",
            "rank_pattern",
            json!({"nowhere.lora_E": [true]}),
            "no matrix `base_model.model.nowhere.lora_A`",
        ),
        ("peft-vera", "r", json!(4), "do not fit rank 4"),
        ("peft-vera", "r", json!(0), "rank 0"),
        ("peft-vera", "vera_dropout", json!(-1.0), "dropout -1"),
        (
            "peft-oft",
            "oft_block_size",
            json!(8),
            "oft_R.weight` is [4, 6], wanted [2, 28]",
        ),
        ("peft-oft", "coft", json!(true), "`coft` is set"),
        ("peft-oft", "r", json!(2), "one of them has to be 0"),
        (
            "peft-oft-neumann",
            "num_cayley_neumann_terms",
            json!(1_000_000),
            "the series is taken up to 64",
        ),
        ("peft-randlora", "r", json!(2), "wanted at least [2, 1, 16]"),
        (
            "peft-randlora",
            "save_projection",
            json!(false),
            "PEFT's seed gives bf16 or f16 numbers by the machine",
        ),
        (
            "peft-randlora",
            "projection_prng_key",
            json!(-1),
            "`projection_prng_key`",
        ),
        (
            "peft-ia3",
            "feedforward_modules",
            json!(["query"]),
            "ia3_l` is [1, 16], wanted [16, 1]",
        ),
        ("peft-bone", "r", json!(5), "is [4, 4, 4], wanted [4, 5, 5]"),
        (
            "peft-miss",
            "init_weights",
            json!("mini"),
            "init_weights is \"mini\"",
        ),
    ];
    for (name, key, value, reason) in settings {
        let mut adapter = fixture(name);
        adapter.config.insert(key.into(), value.clone());
        let bert = Fixture::bert("bert-classes", "", &Device::cpu());
        let message = attached(&adapter, &bert).err().map(|e| e.to_string());
        let message = message.unwrap_or_else(|| panic!("{name} with {key} = {value} was taken"));
        assert!(
            message.contains(reason),
            "{name}, {key} = {value}: {message}"
        );
        let file = message.starts_with("adapter_config.json")
            || message.starts_with("adapter_model.safetensors");
        assert!(file, "{message}");
    }
}

#[test]
fn tensors_of_other_shapes_and_names_are_refused() {
    let key = format!("base_model.model.{QUERY}.lora_B.weight");
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::cpu()).unwrap();
    for (shape, reason) in [
        (&[3, 16][..], "is [3, 16], wanted [16, 3]"),
        (&[48], "is [48], wanted [16, 3]"),
        (&[16, 3, 1], "wanted [16, 3]"),
        (&[], "is [], wanted [16, 3]"),
        (&[16, 0], "wanted [16, 3]"),
    ] {
        let mut adapter = fixture("peft-lora");
        adapter.weights.insert(key.clone(), zeros(shape));
        let bert = Bert::new(&Device::cpu());
        let message = attached(&adapter, &bert).err().unwrap().to_string();
        assert!(
            message.contains(&key) && message.contains(reason),
            "{message}"
        );
    }
    let mut adapter = fixture("peft-lora");
    adapter.weights.insert(
        "base_model.model.bert.encoder.layer.7.query.lora_A.weight",
        zeros(&[3, 16]),
    );
    let message = attached(&adapter, &Bert::new(&Device::cpu()))
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("layer.7.query.lora_A.weight` has no place in this model"),
        "{message}"
    );
    // A base of other sizes.
    let message = fixture("peft-lora-gpt2")
        .attach(&Bert::new(&Device::cpu()).store, &[])
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("no linear among [\"c_attn\", \"c_proj\"]"),
        "{message}"
    );
}

#[test]
fn files_that_are_no_adapter_say_which_and_why() {
    let folder = tempfile::tempdir().unwrap();
    fixture("peft-lora").write(folder.path()).unwrap();
    let config = folder.path().join("adapter_config.json");
    let whole = std::fs::read(&config).unwrap();
    let deep = "[".repeat(100_000);
    for (text, reason) in [
        (&whole[..whole.len() / 2], "is no object in JSON"),
        (b"[1, 2]", "is no object in JSON"),
        (b"", "is no object in JSON"),
        (&[0xff, 0xfe][..], "cannot be read"),
        (format!("{{\"r\": {deep}").as_bytes(), "recursion limit"),
    ] {
        std::fs::write(&config, text).unwrap();
        let message = Adapter::read(folder.path()).unwrap_err().to_string();
        assert!(
            message.starts_with(&config.display().to_string()),
            "{message}"
        );
        assert!(message.contains(reason), "{message}");
    }
    std::fs::write(&config, &whole).unwrap();
    let tensors = folder.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&tensors).unwrap();
    std::fs::write(&tensors, &bytes[..bytes.len() - 1]).unwrap();
    let message = Adapter::read(folder.path()).unwrap_err().to_string();
    assert!(
        message.starts_with(&tensors.display().to_string()),
        "{message}"
    );
    std::fs::remove_file(&tensors).unwrap();
    assert!(
        Adapter::read(folder.path())
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
    // What was read says where from.
    std::fs::write(&tensors, &bytes).unwrap();
    let mut read = Adapter::read(folder.path()).unwrap();
    read.config.insert("lora_bias".into(), true.into());
    let message = read
        .attach(&Bert::new(&Device::cpu()).store, &[])
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.starts_with(&config.display().to_string()),
        "{message}"
    );
}

const NAMES: [&str; 14] = [
    "peft-lora",
    "peft-rslora",
    "peft-dora",
    "peft-pissa",
    "peft-adalora",
    "peft-bone",
    "peft-miss",
    "peft-vera",
    "peft-vera-seed",
    "peft-ia3",
    "peft-oft",
    "peft-oft-shared",
    "peft-randlora",
    "peft-config-bias-all",
];

/// Settings of any kind, hostile ones among them.
fn anything() -> impl Strategy<Value = Value> {
    let patterns = [
        r"(a*)*b",
        r"^(?!.*key).*",
        "(",
        r"(?P<idx>\d+)",
        "[z-a]",
        r"\",
        "(x{900}){900}",
        "all-linear",
        "",
    ];
    prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        (0..20u64).prop_map(|n| json!(n)),
        any::<f64>().prop_map(|x| json!(x)),
        prop::sample::select(patterns.to_vec()).prop_map(|s| json!(s)),
        prop::sample::select(vec!["query", "dense", "classifier", "", "."])
            .prop_map(|s| json!([s])),
        (prop::sample::select(patterns.to_vec()), 0..9u64).prop_map(|(s, n)| json!({ s: n })),
        Just(json!({"uniform": 1})),
        Just(json!([[[]]])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// One setting and one tensor of an adapter changed at random: it is taken, or refused with the file's name.
    #[test]
    fn changed_adapters_are_taken_or_refused(
        name in prop::sample::select(NAMES.to_vec()),
        setting in any::<prop::sample::Index>(),
        value in anything(),
        tensor in any::<prop::sample::Index>(),
        shape in prop::collection::vec(0..9usize, 0..4),
        change in 0..6usize,
    ) {
        let mut adapter = fixture(name);
        let keys: Vec<String> = adapter.config.keys().cloned().collect();
        let key = setting.get(&keys).clone();
        if change != 0 {
            adapter.config.insert(key.clone(), value.clone());
        }
        let names: Vec<String> = adapter.weights.names().cloned().collect();
        let which = tensor.get(&names);
        let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::cpu()).unwrap();
        let own = adapter.weights.get(which).unwrap().shape().to_vec();
        match change {
            0 | 1 => adapter.weights.insert(which.clone(), zeros(&shape, DType::F32)),
            2 => adapter.weights.insert(which.clone(), zeros(&own, DType::U8)),
            3 => adapter.weights.insert(format!("{which}.more"), zeros(&shape, DType::F32)),
            4 => adapter.weights = Weights::new(adapter.weights.iter().filter(|(n, _)| n != which).map(|(n, t)| (n.to_string(), t.clone()))),
            _ => {}
        }
        let bert = Bert::new(&Device::cpu());
        if let Err(error) = attached(&adapter, &bert) {
            let message = error.to_string();
            prop_assert!(message.starts_with("adapter_"), "{name}, {key} = {value}, {which} {change}: {message}");
        }
    }

    /// A byte of the configuration changed.
    #[test]
    fn changed_bytes_are_read_or_refused(name in prop::sample::select(NAMES.to_vec()), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let adapter = fixture(name);
        let mut bytes = serde_json::to_vec(&Value::Object(adapter.config.clone())).unwrap();
        let i = at.index(bytes.len());
        bytes[i] = byte;
        if let Ok(Value::Object(config)) = serde_json::from_slice(&bytes) {
            let changed = Adapter::new(config, adapter.weights.clone());
            if let Err(error) = attached(&changed, &Bert::new(&Device::cpu())) {
                prop_assert!(error.to_string().starts_with("adapter_"), "{name}: {error}");
            }
        }
    }
}
