//! Damaged checkpoints: an error that names the file, or an equal load; never a panic, nor more memory than the files' size warrants.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use deltaw_engine::checkpoint::{self, Checkpoint};
use deltaw_engine::prelude::*;
use deltaw_models::hub::{Architecture, Folder};
use deltaw_tests::fixture::Fixture;
use deltaw_tests::numbers;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// Counts the bytes that each thread holds and their highest number.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.get() + layout.size() as isize;
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The value of `f` and the most bytes that its thread held at a time beyond what it held before.
fn counted<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let value = f();
    (value, (PEAK.get() - before) as usize)
}

/// What reading a file of a length may take: a tensor of the pool is 512 bytes at least where its entry is some fifty, names and
/// values of JSON are some ten times their text, and what tests and errors need besides.
fn warranted(len: usize) -> usize {
    (1 << 16) + 32 * len
}

fn sample() -> Vec<u8> {
    let tensor = |shape: &[usize], dtype| {
        let count = shape.iter().product();
        let values = Tensor::from_slice(&numbers(count, 3), shape, &Device::cpu()).unwrap();
        values.converted(dtype).unwrap()
    };
    let all = [
        ("a.weight", tensor(&[4, 3], DType::F32)),
        ("a.bias", tensor(&[4], DType::F16)),
        ("empty", tensor(&[0, 7], DType::F32)),
        ("half", tensor(&[2, 2, 5], DType::Bf16)),
        ("mask", tensor(&[3], DType::U8)),
    ];
    checkpoint::to_bytes(&Weights::new(all.map(|(n, t)| (n.to_string(), t)))).unwrap()
}

/// A change of a file's bytes.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Cut(Index),
    Append(Vec<u8>),
    Remove(Index, u8),
    Repeat(Index, u8),
    Length(u64),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        // Digits turn sizes and offsets into others that are still numbers.
        (any::<Index>(), b'0'..=b'9').prop_map(|(at, byte)| Edit::Set(at, byte)),
        any::<Index>().prop_map(Edit::Cut),
        prop::collection::vec(any::<u8>(), 1..9).prop_map(Edit::Append),
        (any::<Index>(), any::<u8>()).prop_map(|(at, n)| Edit::Remove(at, n)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, n)| Edit::Repeat(at, n)),
        prop_oneof![0..600u64, Just(u64::MAX), Just(1 << 40)].prop_map(Edit::Length),
    ]
}

fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let len = bytes.len();
        if len == 0 {
            break;
        }
        let range = |at: &Index, n: u8| at.index(len)..len.min(at.index(len) + n as usize);
        match edit {
            Edit::Set(at, byte) => bytes[at.index(len)] = *byte,
            Edit::Cut(at) => bytes.truncate(at.index(len)),
            Edit::Append(more) => bytes.extend(more),
            Edit::Remove(at, n) => drop(bytes.drain(range(at, *n))),
            Edit::Repeat(at, n) => {
                let again = bytes[range(at, *n)].to_vec();
                bytes.splice(at.index(len)..at.index(len), again);
            }
            Edit::Length(n) if len >= 8 => bytes[..8].copy_from_slice(&n.to_le_bytes()),
            Edit::Length(_) => {}
        }
    }
    bytes
}

/// Values of JSON that nobody expects.
fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..40u64).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f32>().prop_map(|x| json!(f64::from(x))),
        prop_oneof![
            Just("F32"),
            Just("BF16"),
            Just("I32"),
            Just("gelu"),
            Just("../x"),
            Just("")
        ]
        .prop_map(Value::from),
        prop::collection::vec(any::<u64>(), 0..12).prop_map(Value::from),
        Just(json!({"a": {"b": [1, {"c": null}]}})),
        Just(json!([1u64 << 40, 1u64 << 40, 0])),
        Just(json!([0, u64::MAX, u64::MAX])),
    ]
}

/// A file whose header is changed at fields, with the length that it then has.
fn with_header(bytes: &[u8], changes: &[(Index, u8, Value)]) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Map<String, Value> =
        serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let names: Vec<String> = header.keys().cloned().collect();
    for (name, field, value) in changes {
        let name = &names[name.index(names.len())];
        let Some(entry) = header.get_mut(name) else {
            continue;
        };
        match field % 5 {
            0 => entry["dtype"] = value.clone(),
            1 => entry["shape"] = value.clone(),
            2 => entry["data_offsets"] = value.clone(),
            3 => match entry["data_offsets"].as_array_mut() {
                Some(offsets) if !offsets.is_empty() => offsets[0] = value.clone(),
                _ => {}
            },
            _ => drop(header.remove(name)),
        }
    }
    let text = Value::Object(header).to_string();
    [
        &(text.len() as u64).to_le_bytes(),
        text.as_bytes(),
        &bytes[8 + length..],
    ]
    .concat()
}

/// Either an error that names the file, or tensors which, written, are read as they are.
fn sound(bytes: &[u8]) -> std::result::Result<(), TestCaseError> {
    let (read, held) = counted(|| checkpoint::from_file_bytes("x.safetensors", bytes));
    prop_assert!(
        held <= warranted(bytes.len()),
        "{held} bytes for a file of {}",
        bytes.len()
    );
    match read {
        Err(e) => {
            let message = e.to_string();
            prop_assert!(
                message.starts_with("x.safetensors: not a whole safetensors file ("),
                "{message}"
            );
        }
        Ok(weights) => {
            let again = checkpoint::to_bytes(&weights).unwrap();
            let again = checkpoint::from_file_bytes("again", &again).unwrap();
            prop_assert_eq!(weights.len(), again.len());
            for ((name, a), (other, b)) in weights.iter().zip(again.iter()) {
                prop_assert_eq!((name, a.dtype(), a.shape()), (other, b.dtype(), b.shape()));
                let bits = |t: &Tensor| t.device().backend().read(t, t.dtype()).unwrap();
                prop_assert_eq!(bits(a), bits(b));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_bytes_are_refused_or_read(edits in prop::collection::vec(edit(), 1..4)) {
        sound(&edited(sample(), &edits))?;
    }

    #[test]
    fn damaged_headers_are_refused_or_read(
        changes in prop::collection::vec((any::<Index>(), any::<u8>(), odd()), 1..3),
    ) {
        sound(&with_header(&sample(), &changes))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A configuration with odd values opens and computes, or is refused with its file's name, by what it says or by what the
    /// tensors are.
    #[test]
    fn odd_configurations_are_refused_or_compute(
        which in 0..MODELS.len(),
        changes in prop::collection::vec((any::<Index>(), odd()), 1..3),
    ) {
            let fixture = published(MODELS[which]);
        let mut config: serde_json::Map<String, Value> = serde_json::from_str(&fixture.config).unwrap();
        let names: Vec<String> = config.keys().cloned().collect();
        for (name, value) in changes {
            config.insert(names[name.index(names.len())].clone(), value);
        }
        let (files, _) = fixture.folder();
        let text = Value::Object(config).to_string();
        std::fs::write(files.path().join("config.json"), &text).unwrap();
        let weights = std::fs::metadata(files.path().join("model.safetensors")).unwrap().len() as usize;
        let (made, held) = counted(|| build(files.path()));
        prop_assert!(held <= warranted(text.len() + weights), "{held} bytes for {text}");
        if let Err(e) = made {
            let message = e.to_string();
            prop_assert!(!message.is_empty(), "{message}");
        }
    }
}

const MODELS: [&str; 6] = ["gpt2", "llama", "bert-mlm", "roberta-classes", "vit", "dit"];

/// A fixture as a folder has it.
fn published(name: &str) -> Fixture {
    let mut fixture = Fixture::open(name, &Device::cpu());
    if name == "dit" {
        let class = r#"{"_class_name": "DiTTransformer2DModel", "#;
        fixture.config = fixture.config.replacen('{', class, 1);
    }
    fixture
}

/// Opens a folder, makes its model and computes with it.
fn build(path: &Path) -> deltaw_engine::error::Result<()> {
    let (folder, device) = (Folder::open(path)?, Device::cpu());
    let store = folder.store(&device, 0, &[]);
    let ctx = Context::eval();
    let ids = Tensor::from_slice(&[3u32, 5, 2, 9], &[1, 4], &device)?;
    match folder.architecture() {
        Architecture::Encoder(_) => {
            let types = Tensor::zeros(&[1, 4], DType::U32, &device)?;
            folder.encoder(&store)?.forward(&ctx, &ids, &types)?;
        }
        Architecture::Decoder(_) => {
            folder.decoder(&store)?.forward(&ctx, &ids)?;
        }
        Architecture::Vit(config) => {
            let side = config.image_size.min(64);
            let vit = folder.vit(&store)?;
            vit.forward(
                &ctx,
                &Tensor::zeros(&[1, 3, side, side], DType::F32, &device)?,
            )?;
        }
        Architecture::Dit(_) => {
            folder.dit(&store)?;
        }
        #[allow(
            unreachable_patterns,
            reason = "architectures that are not among MODELS"
        )]
        _ => {}
    }
    Ok(())
}

#[test]
fn the_undamaged_models_compute() {
    for name in MODELS {
        let (files, _) = published(name).folder();
        build(files.path()).unwrap();
    }
}

/// What each fault is called, with the tensor that has it.
#[test]
fn faults_are_named() {
    let data = [0u8; 16];
    let file = |header: &str| {
        [
            &(header.len() as u64).to_le_bytes(),
            header.as_bytes(),
            &data,
        ]
        .concat()
    };
    let one = |entry: &str| file(&format!(r#"{{"w": {entry}}}"#));
    let deep = format!("{{\"w\": {}", "[".repeat(10_000));
    let axes = r#"{"dtype": "F32", "shape": [1, 1, 1, 1, 1, 1, 1, 2, 2], "data_offsets": [0, 16]}"#;
    let two = r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [3], "data_offsets": [4, 16]}}"#;
    let cases = [
        (
            vec![1, 2, 3],
            "of 3 bytes; the header's length alone takes 8",
        ),
        (
            u64::MAX.to_le_bytes().to_vec(),
            "a header of 18446744073709551615 bytes in a file of 8",
        ),
        (
            file("[]"),
            "its header: invalid type: sequence, expected an object of tensors",
        ),
        (file(&deep), "tensor `w`: "),
        (
            one(r#"{"dtype": "F32", "shape": [4]}"#),
            "tensor `w`: missing field `data_offsets`",
        ),
        (
            one(r#"{"dtype": "I32", "shape": [4], "data_offsets": [0, 16]}"#),
            "tensor `w`: is I32; f64, f32",
        ),
        (
            one(r#"{"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}"#),
            "tensor `w`: lies at bytes 0 to 20 of 16",
        ),
        (
            one(r#"{"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}"#),
            "tensor `w`: [3] of f32 take 12 bytes, but it lies at 0 to 16",
        ),
        (
            one(r#"{"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}"#),
            "tensor `w`: lies at bytes 16 to 0",
        ),
        (
            one(r#"{"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}"#),
            "tensor `w`: ",
        ),
        (
            one(
                r#"{"dtype": "F32", "shape": [0, 4611686018427387904, 8], "data_offsets": [0, 0]}"#,
            ),
            "is no tensor's",
        ),
        (one(axes), "tensor `w`: the shape has more than the 8 axes"),
        (file(two), "tensor `b`: overlaps `a`"),
        (
            one(r#"{"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}"#),
            "tensor `w`: leaves a gap behind the header",
        ),
        (
            one(r#"{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}"#),
            "8 bytes at its end belong to no tensor",
        ),
        (
            file(
                r#"{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}"#,
            ),
            "tensor `w`: is there twice",
        ),
    ];
    for (bytes, reason) in cases {
        let message = checkpoint::from_file_bytes("m.safetensors", &bytes)
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("m.safetensors: not a whole safetensors file (")
                && message.contains(reason),
            "{message}\nwanted {reason}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let message = Checkpoint::open(&path).err().unwrap().to_string();
        assert!(
            message.contains("m.safetensors") && message.contains(reason),
            "{message}"
        );
    }
}
