//! Weights in safetensors files. Tensors come to the CPU; those of f64, which it has not, to the oracle device, from where
//! [`crate::store::Store::load`] rounds them to a parameter's type.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use crate::device::Device;
use crate::dtype::{DType, from_bytes, with_dtype};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use crate::weights::Weights;

fn failed(path: &str, detail: impl std::fmt::Display) -> Error {
    Error::Checkpoint {
        path: path.into(),
        detail: detail.to_string(),
    }
}

/// The file's type of an element.
fn stored(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::F64 => Dtype::F64,
        DType::U8 => Dtype::U8,
        DType::U32 => Dtype::U32,
        DType::I64 => Dtype::I64,
    }
}

/// The bytes of a safetensors file.
///
/// # Errors
/// A tensor that cannot be read.
pub fn to_bytes(weights: &Weights) -> Result<Vec<u8>> {
    let mut data = vec![];
    for (name, tensor) in weights.iter() {
        let bytes = tensor.device().backend().read(tensor, tensor.dtype())?;
        data.push((name, stored(tensor.dtype()), tensor.shape().to_vec(), bytes));
    }
    let views = data.iter().map(|(name, dtype, shape, bytes)| {
        TensorView::new(*dtype, shape.clone(), bytes).map(|view| (*name, view))
    });
    let views = views
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| failed("weights", e))?;
    serialize(views, None).map_err(|e| failed("weights", e))
}

/// Weights out of the bytes of a safetensors file; `path` names it in errors.
///
/// # Errors
/// Bytes that are no safetensors file or one cut short, and element types that the engine has not.
pub fn from_file_bytes(path: &str, bytes: &[u8]) -> Result<Weights> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| {
        failed(
            path,
            format!("not a whole safetensors file ({e}); fetch or write it again"),
        )
    })?;
    let mut weights = Weights::default();
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::Bf16,
            Dtype::F16 => DType::F16,
            Dtype::F64 => DType::F64,
            Dtype::U8 | Dtype::BOOL => DType::U8,
            Dtype::U32 => DType::U32,
            Dtype::I64 => DType::I64,
            other => {
                return Err(failed(
                    path,
                    format!(
                        "tensor `{name}` is {other:?}; f64, f32, bf16, f16, u8, bool, u32 and i64 are read"
                    ),
                ));
            }
        };
        let device = match dtype {
            DType::F64 => Device::oracle(),
            _ => Device::cpu(),
        };
        let tensor = with_dtype!(dtype, T => Tensor::from_slice(&from_bytes::<T>(view.data()), view.shape(), &device))?;
        weights.insert(name, tensor);
    }
    Ok(weights)
}

/// Reads a file through a map of its pages, so that no second copy of it is held.
///
/// # Errors
/// A file that cannot be read, and what [`from_file_bytes`] refuses.
pub fn load(path: &Path) -> Result<Weights> {
    let name = path.display().to_string();
    let unreadable = |e: std::io::Error| failed(&name, format!("cannot be read: {e}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(failed(&name, "cannot be read: not a file"));
    }
    // SAFETY: the map is read only, and gone when this function returns. Files are replaced here by renaming (`save`),
    // which leaves mapped pages as they are; a foreign program that cuts the file meanwhile would end this one.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(unreadable)?;
    from_file_bytes(&name, &bytes)
}

/// Writes a file whole or not at all: beside its place first, then renamed into it.
///
/// # Errors
/// A folder that cannot be written, a full disk; an older file of that name stays as it was.
pub fn save(path: &Path, weights: &Weights) -> Result<()> {
    use std::io::Write;
    let name = path.display().to_string();
    let beside = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&bytes_of(weights)?)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|e| {
        // What was begun is of no use to anybody; that it cannot be removed either would not change the error.
        let _ = std::fs::remove_file(&beside);
        failed(&name, format!("cannot be written: {e}"))
    })
}

fn bytes_of(weights: &Weights) -> std::io::Result<Vec<u8>> {
    to_bytes(weights).map_err(std::io::Error::other)
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
        for path in [folder.join("absent"), folder.clone()] {
            let message = load(&path).unwrap_err().to_string();
            assert!(message.contains("cannot be read"), "{message}");
        }
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
