//! Finished stages on disk.
//!
//! ```text
//! OUT/cache/<device>-<isa>/<stage>-<id>/entry      the stage's value, sealed; written last
//!                                      /state      where an unfinished stage stands, sealed
//!                                      /<artefact> files such as weights, with checksums in the entry
//! ```
//!
//! The id is the digest of the stage's name and key; the key of a stage that builds on another holds that one's
//! id. An entry made by another version of the code is not taken, nor one whose bytes do not match its seal.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{Error, Result};
use super::files::{self, Sealed};
use super::hash::sha256;

/// Raised when the layout of entries changes.
const FORMAT: u32 = 1;

/// The digest of the library sources that this binary was built from.
const CODE: &str = env!("DELTAW_CODE");

/// The folder of finished stages, locked for this process.
pub(super) struct Cache {
    folder: PathBuf,
    code: String,
    _lock: File,
}

/// A file that a stage left beside its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Artefact {
    bytes: usize,
    sha256: String,
}

/// What an entry's or a state's first line says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    code: String,
    stage: String,
    id: String,
    /// Computing time so far, over all sittings, in seconds.
    pub seconds: f64,
    #[serde(default)]
    pub artefacts: BTreeMap<String, Artefact>,
}

/// What the cache has of a stage.
pub(super) enum Found {
    /// Its value.
    Value(Header, Vec<u8>),
    /// Nothing to use; the reason, where there was something.
    Nothing(Option<String>),
    /// What another version of the code made.
    Outdated,
}

/// One stage's place.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub folder: PathBuf,
    pub stage: String,
    pub id: String,
    code: String,
}

impl Cache {
    /// Opens and locks the cache of an output folder, for a paper whose binary has this text.
    pub fn open(out: &Path, environment: &str, source: &str) -> Result<Self> {
        let folder = out.join("cache").join(environment);
        files::create_folder(&folder)?;
        let path = out.join("cache").join("lock");
        let lock = File::create(&path).map_err(|e| Error::io("write", &path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::Invalid(format!(
                    "another run is using {}; wait for it, or name another folder with --out DIR",
                    out.display()
                )));
            }
            Err(fs::TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
        }
        let code = format!("{CODE}-{FORMAT}-{}", &sha256(source.as_bytes())[..16]);
        Ok(Self {
            folder,
            code,
            _lock: lock,
        })
    }

    /// The place of the stage `name` with `id`.
    pub fn place(&self, name: &str, id: &str) -> Place {
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let short: String = name.chars().map(safe).take(40).collect();
        Place {
            folder: self
                .folder
                .join(format!("{short}-{}", &id[..16.min(id.len())])),
            stage: name.into(),
            id: id.into(),
            code: self.code.clone(),
        }
    }
}

impl Place {
    fn header(&self, seconds: f64, artefacts: BTreeMap<String, Artefact>) -> Header {
        Header {
            code: self.code.clone(),
            stage: self.stage.clone(),
            id: self.id.clone(),
            seconds,
            artefacts,
        }
    }

    fn open(&self, file: &str) -> Result<Found> {
        let nothing = |why: &str| Ok(Found::Nothing(Some(why.to_owned())));
        match files::open::<Header>(&self.folder.join(file))? {
            Sealed::Missing => Ok(Found::Nothing(None)),
            Sealed::Damaged(why) => nothing(&why),
            Sealed::Whole(header, _) if header.code != self.code => Ok(Found::Outdated),
            Sealed::Whole(header, _) if header.id != self.id => {
                nothing("it belongs to another stage")
            }
            Sealed::Whole(header, body) => Ok(Found::Value(header, body)),
        }
    }

    /// The finished value, if it and all its artefacts are whole.
    pub fn load(&self) -> Result<Found> {
        let found = self.open("entry")?;
        if let Found::Value(header, _) = &found {
            for (name, artefact) in &header.artefacts {
                let whole = fs::read(self.folder.join(name))
                    .is_ok_and(|b| b.len() == artefact.bytes && sha256(&b) == artefact.sha256);
                if !whole {
                    return Ok(Found::Nothing(Some(format!(
                        "its file `{name}` is missing or damaged"
                    ))));
                }
            }
        }
        Ok(found)
    }

    /// Forgets what is there.
    pub fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.folder, e))
            }
            _ => Ok(()),
        }
    }

    /// Keeps the finished value and drops the state.
    pub fn finish(
        &self,
        body: &[u8],
        seconds: f64,
        artefacts: BTreeMap<String, Artefact>,
    ) -> Result<()> {
        files::create_folder(&self.folder)?;
        files::seal(
            &self.folder.join("entry"),
            &self.header(seconds, artefacts),
            body,
        )?;
        // A state that stays is never read again: the entry is found first.
        let _ = fs::remove_file(self.folder.join("state"));
        Ok(())
    }

    /// Keeps where the stage stands.
    pub fn save_state(
        &self,
        body: &[u8],
        seconds: f64,
        artefacts: &BTreeMap<String, Artefact>,
    ) -> Result<()> {
        files::create_folder(&self.folder)?;
        files::seal(
            &self.folder.join("state"),
            &self.header(seconds, artefacts.clone()),
            body,
        )
    }

    /// Where an interrupted stage stood.
    pub fn load_state(&self) -> Result<Found> {
        self.open("state")
    }

    /// Keeps a file beside the value.
    pub fn save_artefact(&self, name: &str, bytes: &[u8]) -> Result<Artefact> {
        let plain = !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !plain || name.starts_with('.') || name == "entry" || name == "state" {
            return Err(Error::Invalid(format!(
                "artefact `{name}`: a plain file name is wanted, of letters, digits, `.`, `_` and `-`"
            )));
        }
        files::create_folder(&self.folder)?;
        files::write(&self.folder.join(name), bytes)?;
        Ok(Artefact {
            bytes: bytes.len(),
            sha256: sha256(bytes),
        })
    }
}

/// The digest that names a stage: 32 hexadecimal digits over its name and key.
pub(super) fn stage_id(name: &str, key: &Value) -> String {
    let mut text = format!("{name}\n");
    canonical(key, &mut text);
    sha256(text.as_bytes())[..32].to_owned()
}

/// JSON with sorted keys, whichever map serde_json was built with.
pub(super) fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            out.push('{');
            for (key, value) in sorted {
                *out += &Value::String(key.clone()).to_string();
                out.push(':');
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(list) => {
            out.push('[');
            for value in list {
                canonical(value, out);
                out.push(',');
            }
            out.push(']');
        }
        plain => *out += &plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_id_knows_name_and_key_but_not_the_order_of_fields() {
        let id = |name: &str, key: &str| stage_id(name, &serde_json::from_str(key).unwrap());
        assert_eq!(
            id("a", r#"{"x":1,"y":[1,2]}"#),
            id("a", r#"{"y":[1,2],"x":1}"#)
        );
        let others = [
            id("b", r#"{"x":1,"y":[1,2]}"#),
            id("a", r#"{"x":1,"y":[12]}"#),
            id("a", r#"{"x":1}"#),
        ];
        assert!(
            others
                .iter()
                .all(|other| *other != id("a", r#"{"x":1,"y":[1,2]}"#))
        );
    }

    #[test]
    fn an_entry_is_taken_only_whole_and_from_the_same_code() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), "cpu-avx2", "text 1").unwrap();
        let place = cache.place("fine tune", &stage_id("fine tune", &json!(1)));
        let artefact = place.save_artefact("w.bin", &[1, 2, 3]).unwrap();
        place
            .finish(b"value", 1.5, [("w.bin".to_owned(), artefact)].into())
            .unwrap();
        assert!(
            matches!(place.load().unwrap(), Found::Value(h, b) if h.seconds == 1.5 && b == b"value")
        );

        let why = |place: &Place| match place.load().unwrap() {
            Found::Outdated => "outdated".into(),
            Found::Nothing(why) => why.unwrap_or_default(),
            Found::Value(..) => "found".into(),
        };
        fs::write(place.folder.join("w.bin"), [1, 2, 4]).unwrap();
        assert_eq!(why(&place), "its file `w.bin` is missing or damaged");
        drop(cache);
        let newer = Cache::open(dir.path(), "cpu-avx2", "text 2").unwrap();
        assert_eq!(why(&newer.place("fine tune", &place.id)), "outdated");
        place.clear().unwrap();
        assert_eq!(why(&place), "");
    }

    #[test]
    fn two_runs_do_not_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Cache::open(dir.path(), "cpu-avx2", "text 1").unwrap();
        let error = Cache::open(dir.path(), "cpu-avx2", "text 1")
            .err()
            .unwrap()
            .to_string();
        assert!(error.starts_with("another run is using"), "{error}");
    }

    #[test]
    fn artefacts_stay_in_their_folder() {
        let dir = tempfile::tempdir().unwrap();
        let place = Cache::open(dir.path(), "e", "").unwrap().place("s", "0123");
        for name in ["", "../x", "a/b", "entry", ".hidden"] {
            assert!(place.save_artefact(name, b"").is_err(), "{name}");
        }
    }
}
