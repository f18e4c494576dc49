//! What Hugging Face's libraries make of texts: tokenisers of each kind, and sentence embeddings. `tests/fixtures/make_hub.py` made
//! the files.

use std::path::{Path, PathBuf};

use deltaw_engine::checkpoint;
use deltaw_engine::prelude::*;
use deltaw_models::data::batch::EncodedText;
use deltaw_models::data::text::{Example, Target};
use deltaw_models::data::tokenizer::Tokenizer;
use deltaw_models::sentence::SentenceEncoder;
use proptest::prelude::*;
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The tokenisers: what is special about each stands in the script.
const READERS: [&str; 5] = [
    "word-piece",
    "byte-level",
    "llama-bpe",
    "unigram",
    "regex-bpe",
];

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// One example, with special tokens, cut to a length.
fn encoded(tokenizer: &Tokenizer, a: &str, b: Option<&str>, most: usize) -> EncodedText {
    let example = Example {
        text: a.into(),
        pair: b.map(Into::into),
        target: Target::Class(0),
    };
    tokenizer.encode_examples(&[example], most).unwrap()
}

#[test]
fn tokenisers_of_every_kind_give_pythons_ids() {
    for name in READERS {
        let folder = fixtures().join("tokenizers");
        let tokenizer = Tokenizer::from_file(&folder.join(format!("{name}.json"))).unwrap();
        let wanted = std::fs::read(folder.join(format!("{name}.wanted.json"))).unwrap();
        let wanted: Value = serde_json::from_slice(&wanted).unwrap();
        let list = |key: &str| wanted[key].as_array().unwrap();
        for (case, decoded) in list("plain").iter().zip(list("decoded")) {
            let got = tokenizer.encode(text(&case[0])).unwrap();
            assert_eq!(got, ids(&case[1]), "{name}: {}", case[0]);
            // A space in front is lost, whoever put it there.
            let decoded = text(decoded);
            let decoded = decoded.strip_prefix(' ').unwrap_or(decoded);
            assert_eq!(
                tokenizer.decode(&got).unwrap(),
                decoded,
                "{name}: {}",
                case[0]
            );
        }
        for case in list("texts") {
            let got = encoded(&tokenizer, text(&case[0]), None, 512);
            assert_eq!(got.ids(0), ids(&case[1]), "{name}: {}", case[0]);
        }
        for case in list("pairs") {
            let got = encoded(&tokenizer, text(&case[0]), Some(text(&case[1])), 512);
            assert_eq!(
                (got.ids(0), got.types(0)),
                (&ids(&case[2])[..], &ids(&case[3])[..]),
                "{name}: {case}"
            );
        }
        for case in list("cut") {
            let got = encoded(&tokenizer, text(&case[0]), Some(text(&case[1])), 8);
            assert_eq!(got.ids(0), ids(&case[2]), "{name}: {case}");
        }
    }
}

#[test]
fn special_tokens_are_found_under_every_familys_names() {
    let special = |name: &str| {
        let path = fixtures().join("tokenizers").join(format!("{name}.json"));
        let s = Tokenizer::from_file(&path).unwrap().special();
        (s.pad, s.cls, s.sep, s.mask, s.end)
    };
    assert_eq!(special("word-piece"), (0, Some(2), Some(3), Some(4), None));
    assert_eq!(
        special("byte-level"),
        (1, Some(0), Some(2), Some(4), Some(2))
    );
    // No padding of its own: the token that ends a text, masked.
    assert_eq!(special("llama-bpe"), (2, Some(1), Some(2), None, Some(2)));
    assert_eq!(special("unigram"), (0, None, Some(1), None, Some(1)));
    assert_eq!(special("regex-bpe"), (0, None, None, None, Some(0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// A damaged tokenizer.json is read or refused by name, and what is read encodes or says why not.
    #[test]
    fn a_damaged_tokeniser_is_refused_or_works(
        which in 0..READERS.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let path = fixtures().join("tokenizers").join(format!("{}.json", READERS[which]));
        let mut bytes = std::fs::read(path).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            // Digits for digits reach further than what breaks the syntax.
            bytes[at] = if bytes[at].is_ascii_digit() { b'0' + byte % 10 } else { byte };
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, bytes).unwrap();
        match Tokenizer::from_file(&path) {
            Ok(tokenizer) => {
                let _ = tokenizer.encode("the heaven and ΔW");
            }
            Err(e) => prop_assert!(e.to_string().contains("tokenizer.json: cannot be read"), "{e}"),
        }
    }
}

/// The least cosine between what a folder embeds the fixture's sentences to and what is wanted.
fn cosine(folder: &Path, wanted: &str) -> f64 {
    let path = fixtures().join(format!("{wanted}.safetensors"));
    let bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let sentences: Vec<String> =
        serde_json::from_str(text(&header["__metadata__"]["sentences"])).unwrap();
    let sentences: Vec<&str> = sentences.iter().map(String::as_str).collect();
    let want = checkpoint::load(&path)
        .unwrap()
        .get("want.embeddings")
        .unwrap()
        .to_vec::<f64>()
        .unwrap();
    let encoder = SentenceEncoder::open(folder, &Device::cpu()).unwrap();
    let got = encoder.embed(&sentences).unwrap();
    let width = got.last_dim();
    let got = got.to_vec::<f64>().unwrap();
    assert_eq!(got.len(), want.len());
    let product = |(a, b): (&[f64], &[f64])| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    got.chunks(width)
        .zip(want.chunks(width))
        .map(product)
        .fold(f64::INFINITY, f64::min)
}

/// Padded rows of several lengths, an empty one and one that is cut at 8 tokens. The cosine of two vectors of length 1 that are ε apart
/// is 1 − ε²/2: below f64's rounding of f32 embeddings at any ε that f32 arithmetic brings about here.
#[test]
fn sentences_are_embedded_as_by_sentence_transformers() {
    let cosine = cosine(&fixtures().join("sentence"), "sentence-wanted");
    assert!((cosine - 1.0).abs() < 1e-6, "{cosine}");
}

/// all-MiniLM-L6-v2 itself, 90 MB, where `DELTAW_MINILM` names its folder.
#[test]
fn minilm_embeds_as_by_sentence_transformers() {
    let Some(folder) = std::env::var_os("DELTAW_MINILM") else {
        return;
    };
    let cosine = cosine(Path::new(&folder), "minilm-wanted");
    println!("least cosine: {cosine}");
    assert!((cosine - 1.0).abs() < 1e-6, "{cosine}");
}

#[test]
fn ways_of_pooling_that_are_not_known_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(
            fixtures().join("sentence").join(name),
            folder.path().join(name),
        )
        .unwrap();
    }
    let refused = |modules: &str, pooling: &str| {
        std::fs::create_dir_all(folder.path().join("p")).unwrap();
        std::fs::write(folder.path().join("modules.json"), modules).unwrap();
        std::fs::write(folder.path().join("p/config.json"), pooling).unwrap();
        SentenceEncoder::open(folder.path(), &Device::cpu())
            .err()
            .map(|e| e.to_string())
    };
    let modules = r#"[{"type": "sentence_transformers.models.Pooling", "path": "p"}]"#;
    for (modules, pooling, reason) in [
        ("{}", "{}", "no list of modules"),
        ("[]", "{}", "has no module that pools"),
        (r#"[{"type": "x.Dense"}]"#, "{}", "has the module `x.Dense`"),
        (
            r#"[{"type": "x.Pooling", "path": "../p"}]"#,
            "{}",
            "a module in `../p`",
        ),
        (
            modules,
            r#"{"pooling_mode_max_tokens": true}"#,
            "`pooling_mode_max_tokens` is true",
        ),
        (modules, "{}", "must be the one way of pooling"),
    ] {
        let message = refused(modules, pooling).unwrap();
        assert!(message.contains(reason), "{message}");
    }
    assert_eq!(
        refused(modules, r#"{"pooling_mode_cls_token": true}"#),
        None
    );
}
