//! Weights in safetensors files: a length of eight bytes, a header in JSON, then the elements.
//!
//! [`Checkpoint`] opens files and reads them tensor by tensor; [`load`] and [`save`] take all at once. Tensors come to the CPU;
//! those of f64, which it has not, to the oracle device, or rounded to the type that is asked for.

mod files;
mod header;

use std::io::Write;
use std::path::Path;

use serde_json::{Map, json};

pub use files::Checkpoint;

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use crate::weights::Weights;

fn failed(path: &str, detail: impl std::fmt::Display) -> Error {
    Error::Checkpoint {
        path: path.into(),
        detail: detail.to_string(),
    }
}

fn damaged(path: &str, detail: &str) -> Error {
    let detail = format!("not a whole safetensors file ({detail}); fetch or write it again");
    failed(path, detail)
}

/// The bytes of a safetensors file.
///
/// # Errors
/// A tensor that cannot be read.
pub fn to_bytes(weights: &Weights) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    write(weights, &mut bytes)?;
    Ok(bytes)
}

/// Writes a safetensors file, wider elements first so that all are aligned, and one tensor in memory at a time.
fn write(weights: &Weights, to: &mut impl Write) -> Result<()> {
    let mut order: Vec<(&str, &Tensor)> = weights.iter().collect();
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().size()));
    let (mut header, mut at) = (Map::new(), 0);
    // Older versions of transformers read no file that does not say this.
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    for (name, tensor) in &order {
        let end = at + tensor.len() * tensor.dtype().size();
        let info = json!({
            "dtype": header::stored(tensor.dtype()),
            "shape": tensor.shape(),
            "data_offsets": [at, end],
        });
        header.insert(name.to_string(), info);
        at = end;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let unwritable = |e: std::io::Error| failed("weights", e);
    to.write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| to.write_all(header.as_bytes()))
        .map_err(unwritable)?;
    for (_, tensor) in order {
        let bytes = tensor.device().backend().read(tensor, tensor.dtype())?;
        to.write_all(&bytes).map_err(unwritable)?;
    }
    Ok(())
}

/// Weights out of the bytes of a safetensors file; `path` names it in errors.
///
/// # Errors
/// Bytes that are no safetensors file or one cut short, and element types that the engine has not.
pub fn from_file_bytes(path: &str, bytes: &[u8]) -> Result<Weights> {
    let mut weights = Weights::default();
    for (name, entry) in header::parse(bytes).map_err(|e| damaged(path, &e))? {
        let device = match entry.dtype {
            DType::F64 => Device::oracle(),
            _ => Device::cpu(),
        };
        let mut tensor = Tensor::empty(&entry.shape, entry.dtype, &device)?;
        let backend = device.backend();
        backend.write(&mut tensor, entry.dtype, &bytes[entry.bytes])?;
        weights.insert(name, tensor);
    }
    Ok(weights)
}

/// All tensors of what [`Checkpoint::open`] opens.
///
/// # Errors
/// As [`Checkpoint::open`].
pub fn load(path: &Path) -> Result<Weights> {
    Checkpoint::open(path)?.load()
}

/// Writes a file whole or not at all: beside its place first, then renamed into it.
///
/// # Errors
/// A folder that cannot be written, a full disk; an older file of that name stays as it was.
pub fn save(path: &Path, weights: &Weights) -> Result<()> {
    let name = path.display().to_string();
    let beside = path.with_extension("partial");
    let whole = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(&beside)?);
        write(weights, &mut file).map_err(std::io::Error::other)?;
        file.into_inner()?.sync_all()?;
        std::fs::rename(&beside, path)
    };
    whole().map_err(|e| {
        // What was begun is of no use to anybody; that it cannot be removed either would not change the error.
        let _ = std::fs::remove_file(&beside);
        failed(&name, format!("cannot be written: {e}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn sample() -> Weights {
        let low = Tensor::from_slice(
            &[bf16::from_f32(1.5), bf16::from_f32(-2.0)],
            &[2],
            &Device::cpu(),
        )
        .unwrap();
        Weights::new([
            (
                "a.weight".to_string(),
                Tensor::from([[1.0, 2.0], [3.0, 4.0]]),
            ),
            ("b".to_string(), low),
        ])
    }

    #[test]
    fn a_file_comes_back_as_it_was() {
        let bytes = to_bytes(&sample()).unwrap();
        let back = from_file_bytes("x", &bytes).unwrap();
        assert_eq!(
            back.get("a.weight").unwrap().to_vec::<f32>().unwrap(),
            [1.0, 2.0, 3.0, 4.0]
        );
        assert_eq!(
            back.get("b").unwrap().to_vec::<bf16>().unwrap(),
            [bf16::from_f32(1.5), bf16::from_f32(-2.0)]
        );
        assert_eq!(back.get("a.weight").unwrap().shape(), [2, 2]);
    }

    #[test]
    fn the_formats_own_library_reads_and_writes_the_same() {
        let bytes = to_bytes(&sample()).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut names: Vec<&str> = theirs.names().into_iter().collect();
        names.sort_unstable();
        assert_eq!(names, ["a.weight", "b"]);
        for (name, ours) in sample().iter() {
            let view = theirs.tensor(name).unwrap();
            assert_eq!(view.shape(), ours.shape());
            let own = ours.device().backend().read(ours, ours.dtype()).unwrap();
            assert_eq!(view.data(), own);
        }
        let theirs = safetensors::serialize(theirs.tensors(), None).unwrap();
        let back = from_file_bytes("theirs", &theirs).unwrap();
        assert_eq!(to_bytes(&back).unwrap(), bytes);
    }

    #[test]
    fn every_element_type_comes_back() {
        for dtype in [
            DType::F32,
            DType::Bf16,
            DType::F16,
            DType::F64,
            DType::U8,
            DType::U32,
            DType::I64,
        ] {
            let device = match dtype {
                DType::F64 => Device::oracle(),
                _ => Device::cpu(),
            };
            for shape in [&[][..], &[0, 2], &[3, 1]] {
                let count = shape.iter().product::<usize>();
                let values: Vec<f64> = (0..count).map(|i| 0.5f64 + i as f64).collect();
                let mut tensor = Tensor::empty(shape, dtype, &device).unwrap();
                let backend = device.backend();
                backend
                    .write(&mut tensor, DType::F64, bytemuck::cast_slice(&values))
                    .unwrap();
                let bytes = to_bytes(&Weights::new([("x".to_string(), tensor.clone())])).unwrap();
                let back = from_file_bytes("file", &bytes).unwrap();
                let back = back.get("x").unwrap();
                assert_eq!((back.dtype(), back.shape()), (dtype, shape));
                assert_eq!(
                    back.to_vec::<f64>().unwrap(),
                    tensor.to_vec::<f64>().unwrap()
                );
            }
        }
    }

    #[test]
    fn a_file_of_f64_loads_into_f32_parameters() {
        let mut wide = Tensor::empty(&[1], DType::F64, &Device::oracle()).unwrap();
        let backend = wide.device().clone();
        backend
            .backend()
            .write(&mut wide, DType::F64, bytemuck::bytes_of(&0.1f64))
            .unwrap();
        let store = crate::store::Store::new(&Device::cpu(), 0);
        let param = store.add("w", Tensor::from([0.0])).unwrap();
        store
            .load(&Weights::new([("w".to_string(), wide)]), |_| true)
            .unwrap();
        assert_eq!(param.value().to_vec::<f32>().unwrap(), [0.1f32]);
    }

    #[test]
    fn files_are_written_whole_and_foreign_ones_refused() {
        let folder = std::env::temp_dir().join(format!("deltaw-checkpoint-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("model.safetensors");
        save(&path, &sample()).unwrap();
        let back = load(&path).unwrap();
        assert_eq!(back.names().collect::<Vec<_>>(), ["a.weight", "b"]);
        assert!(!path.with_extension("partial").exists());
        for (name, bytes) in [
            ("empty", &b""[..]),
            ("text", b"import torch\nimport numpy as np\n"),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, bytes).unwrap();
            let message = load(&path).unwrap_err().to_string();
            assert!(
                message.starts_with(&path.display().to_string()),
                "{message}"
            );
            assert!(
                message.contains("not a whole safetensors file"),
                "{message}"
            );
        }
        // A folder is what it holds.
        let inside = load(&folder).unwrap();
        assert_eq!(inside.names().collect::<Vec<_>>(), ["a.weight", "b"]);
        let message = load(&folder.join("absent")).unwrap_err().to_string();
        assert!(message.contains("cannot be read"), "{message}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_name_that_is_missing_meets_its_nearest() {
        let store = crate::store::Store::new(&Device::cpu(), 0);
        store
            .add("transformer.h.0.a.weight", Tensor::from([0.0]))
            .unwrap();
        let message = store.load(&sample(), |_| true).unwrap_err().to_string();
        assert_eq!(
            message,
            "parameter `transformer.h.0.a.weight`: no value given; nearest: `a.weight`"
        );
    }

    #[test]
    fn every_truncation_is_an_error_that_names_the_file() {
        let bytes = to_bytes(&sample()).unwrap();
        for len in 0..bytes.len() {
            let message = from_file_bytes("model.safetensors", &bytes[..len])
                .unwrap_err()
                .to_string();
            assert!(
                message.starts_with("model.safetensors: not a whole safetensors file"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        let message = save(Path::new("/nonexistent/folder/x.safetensors"), &sample())
            .unwrap_err()
            .to_string();
        assert!(message.contains("cannot be written"), "{message}");
    }
}
