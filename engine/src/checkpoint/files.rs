//! Checkpoints in files, read tensor by tensor.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use serde::Deserialize;

use super::header::{self, Entry};
use super::{damaged, failed};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::source::Source;
use crate::tensor::Tensor;
use crate::weights::Weights;

/// What a folder's weights may be called, in the order in which they are looked for; the second is diffusers'.
const NAMES: [&str; 2] = ["model.safetensors", "diffusion_pytorch_model.safetensors"];
/// What stands behind the name of weights in several files.
const INDEX: &str = ".index.json";
/// Larger than the index of any model there is by far.
const LARGEST_INDEX: u64 = 100_000_000;
/// Bytes looked at before their pages are given back.
const PIECE: usize = 1 << 24;

/// One file, of which the pages that are looked at come and go.
struct Mapped {
    name: String,
    map: Mmap,
}

impl Mapped {
    fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let unreadable = |e: std::io::Error| failed(&name, format!("cannot be read: {e}"));
        // Before it is opened: to open a pipe would wait for its other end.
        if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(failed(&name, "cannot be read: not a file"));
        }
        let file = std::fs::File::open(path).map_err(unreadable)?;
        // SAFETY: the map is only read. Files are replaced here by renaming (`save`), which leaves mapped pages as they are; a
        // foreign program that cuts the file while it is open here would end this one.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        Ok(Mapped { name, map })
    }

    fn release(&self, bytes: &std::ops::Range<usize>) {
        // SAFETY: the map is read only and of a file, from which its pages come again when they are looked at.
        let advised = unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len())
        };
        // Where the system does not take the advice, pages stay a while longer.
        let _ = advised;
    }
}

struct Place {
    file: usize,
    entry: Entry,
    /// The name in the file.
    stored: String,
}

/// Tensors in one safetensors file or in several with an index, found by their headers. A tensor is copied once, from the map
/// of its file to where it is wanted, and its pages are given back: loading needs the tensors' memory and no more.
pub struct Checkpoint {
    name: String,
    files: Vec<Mapped>,
    places: BTreeMap<String, Place>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a safetensors file; an index (`….index.json`) with the files that it names beside it; or a folder that holds
    /// `model.safetensors`, `diffusion_pytorch_model.safetensors`, or the index of either.
    ///
    /// # Errors
    /// Files that cannot be read, are not whole or contradict each other; an index that names files elsewhere.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let all = NAMES
                .iter()
                .flat_map(|n| [n.to_string(), format!("{n}{INDEX}")]);
            let found = all.map(|n| path.join(n)).find(|p| p.exists());
            let Some(found) = found else {
                return Err(failed(&path.display().to_string(), nothing(path)));
            };
            return Self::open(&found);
        }
        let name = path.display().to_string();
        if name.ends_with(INDEX) {
            return Self::sharded(path, &name);
        }
        let file = Mapped::open(path)?;
        let places = header::parse(&file.map).map_err(|e| damaged(&name, &e))?;
        Ok(Checkpoint {
            places: places
                .into_iter()
                .map(|(stored, entry)| place(0, stored, entry))
                .collect(),
            files: vec![file],
            name,
        })
    }

    fn sharded(path: &Path, name: &str) -> Result<Self> {
        let unreadable = |e: std::io::Error| failed(name, format!("cannot be read: {e}"));
        let about = std::fs::metadata(path).map_err(unreadable)?;
        if !about.is_file() || about.len() > LARGEST_INDEX {
            let detail = format!("no file of at most {LARGEST_INDEX} bytes; fetch the index again");
            return Err(failed(name, detail));
        }
        let text = std::fs::read(path).map_err(unreadable)?;
        let index: Index = serde_json::from_slice(&text).map_err(|e| {
            failed(
                name,
                format!(
                    "no index of a checkpoint ({e}); wanted {{\"weight_map\": {{tensor: file}}}}"
                ),
            )
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let (mut files, mut places) = (vec![], BTreeMap::new());
        let mut shards: Vec<&String> = index.weight_map.values().collect();
        shards.sort_unstable();
        shards.dedup();
        let beside = |shard: &String| {
            beside(folder, shard).map_err(|why| {
                failed(name, format!("names the file `{shard}`: {why}; the files of a checkpoint lie beside its index"))
            })
        };
        // Before any is opened.
        let paths: Vec<PathBuf> = shards.iter().map(|s| beside(s)).collect::<Result<_>>()?;
        for (shard, path) in shards.into_iter().zip(paths) {
            let file = Mapped::open(&path)?;
            for (stored, entry) in header::parse(&file.map).map_err(|e| damaged(&file.name, &e))? {
                match index.weight_map.get(&stored) {
                    Some(of) if of == shard => {
                        places.extend([place(files.len(), stored, entry)]);
                    }
                    other => {
                        let other = other.map_or("nowhere".into(), |f| format!("in `{f}`"));
                        let detail = format!(
                            "tensor `{stored}`: here, but {other} by {name}; fetch both again"
                        );
                        return Err(failed(&file.name, detail));
                    }
                }
            }
            files.push(file);
        }
        if let Some((lost, shard)) = index
            .weight_map
            .iter()
            .find(|(n, _)| !places.contains_key(*n))
        {
            let detail =
                format!("tensor `{lost}`: not in `{shard}`, where it should be; fetch both again");
            return Err(failed(name, detail));
        }
        Ok(Checkpoint {
            name: name.into(),
            files,
            places,
        })
    }

    /// Gives the tensors the names of a model's parameters; those for which `rename` has None are left out.
    ///
    /// # Errors
    /// Two tensors under one name.
    pub fn renamed(mut self, rename: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut places = BTreeMap::<String, Place>::new();
        for (name, place) in std::mem::take(&mut self.places) {
            let Some(new) = rename(&name) else { continue };
            if let Some(other) = places.get(&new) {
                let detail = format!(
                    "tensors `{}` and `{name}` are both the parameter `{new}`",
                    other.stored
                );
                return Err(failed(&self.name, detail));
            }
            places.insert(new, place);
        }
        self.places = places;
        Ok(self)
    }

    /// Whether two tensors are the same to the last bit.
    pub fn equal(&self, a: &str, b: &str) -> bool {
        let bytes = |name: &str| {
            let place = self.places.get(name)?;
            let (dtype, shape) = (place.entry.dtype, place.entry.shape);
            Some((
                dtype,
                shape,
                &self.files[place.file].map[place.entry.bytes.clone()],
            ))
        };
        bytes(a).is_some() && bytes(a) == bytes(b)
    }

    /// Every byte of every file in order, in pieces: to seal what is read.
    pub fn each_piece(&self, mut f: impl FnMut(&[u8])) {
        for file in &self.files {
            for start in (0..file.map.len()).step_by(PIECE) {
                let piece = start..file.map.len().min(start + PIECE);
                f(&file.map[piece.clone()]);
                file.release(&piece);
            }
        }
    }

    /// All tensors, in memory as they are in the files.
    ///
    /// # Errors
    /// Memory that the device lacks.
    pub fn load(&self) -> Result<Weights> {
        let mut weights = Weights::default();
        for (name, place) in &self.places {
            let device = match place.entry.dtype {
                DType::F64 => Device::oracle(),
                _ => Device::cpu(),
            };
            weights.insert(name, self.read(name, place.entry.dtype, &device)?);
        }
        Ok(weights)
    }
}

impl Source for Checkpoint {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn describe(&self, name: &str) -> Option<(DType, Vec<usize>)> {
        let entry = &self.places.get(name)?.entry;
        Some((entry.dtype, entry.shape.to_vec()))
    }

    fn read(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let place = self
            .places
            .get(name)
            .ok_or_else(|| self.error(name, "not found"))?;
        let file = &self.files[place.file];
        let mut tensor = Tensor::empty(&place.entry.shape, dtype, device)?;
        let bytes = &file.map[place.entry.bytes.clone()];
        device
            .backend()
            .write(&mut tensor, place.entry.dtype, bytes)?;
        file.release(&place.entry.bytes);
        Ok(tensor)
    }

    fn error(&self, name: &str, detail: &str) -> Error {
        match self.places.get(name) {
            Some(place) => failed(
                &self.files[place.file].name,
                format!("tensor `{}`: {detail}", place.stored),
            ),
            None => failed(&self.name, format!("tensor `{name}`: {detail}")),
        }
    }
}

fn place(file: usize, stored: String, entry: Entry) -> (String, Place) {
    (
        stored.clone(),
        Place {
            file,
            entry,
            stored,
        },
    )
}

/// What to do about a folder without weights that can be read.
fn nothing(folder: &Path) -> String {
    let wanted = format!("holds neither {} nor {}{INDEX}", NAMES[0], NAMES[0]);
    let pickled = [
        "pytorch_model.bin",
        "tf_model.h5",
        "model.onnx",
        "flax_model.msgpack",
    ];
    match pickled.iter().find(|n| folder.join(n).exists()) {
        Some(other) => format!(
            "{wanted}; convert {other} in Python: AutoModel.from_pretrained(folder).save_pretrained(folder, safe_serialization=True)"
        ),
        None => wanted,
    }
}

/// The file of that name in a folder: no path, and no link that leaves the folder, but for the links into `../../blobs` of
/// which the Hugging Face cache's folders are made.
fn beside(folder: &Path, name: &str) -> std::result::Result<PathBuf, String> {
    let mut parts = Path::new(name).components();
    let plain = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    );
    if !plain || name.contains(['/', '\\']) {
        return Err("a path, not a name".into());
    }
    let path = folder.join(name);
    let real = |p: &Path| p.canonicalize().map_err(|e| e.to_string());
    let home = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let (home, target) = (real(home)?, real(&path)?);
    let cache = home
        .parent()
        .and_then(Path::parent)
        .map(|top| top.join("blobs"));
    let inside = target.parent() == Some(&home) || target.parent() == cache.as_deref();
    if inside {
        Ok(path)
    } else {
        Err(format!("a link to {}", target.display()))
    }
}
