//! Files that are either whole or not there, and that notice damage.
//!
//! [`write()`] goes through a temporary file in the same folder, a sync and a rename, so that a kill at any
//! moment leaves the old file or the new one. A *sealed* file is one line of JSON with length and SHA-256
//! of what follows: [`open`] refuses what does not match.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::{Error, Result};
use super::hash::sha256;

/// Creates a folder and those above it.
pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io("create the folder", path, e))
}

/// The SHA-256 of a file, which tells whether a user's data are the same as before.
pub fn digest(path: &Path) -> Result<String> {
    fs::read(path)
        .map(|bytes| sha256(&bytes))
        .map_err(|e| Error::io("read", path, e))
}

/// Writes a file whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let draft = folder.join(name);
    let written = File::create(&draft)
        .and_then(|file| fill(file, bytes))
        .and_then(|()| fs::rename(&draft, path))
        .and_then(|()| File::open(folder)?.sync_all());
    written.map_err(|e| {
        // The reason for the first failure is what the reader needs; a draft that stays is harmless.
        let _ = fs::remove_file(&draft);
        Error::io("write", path, e)
    })
}

/// Writes to a path that the user named, which may be a device: no draft, no rename.
pub fn write_in_place(path: &Path, bytes: &[u8]) -> Result<()> {
    File::create(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|e| Error::io("write", path, e))
}

fn fill(mut file: File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

#[derive(Serialize, Deserialize)]
struct Seal<H> {
    bytes: usize,
    sha256: String,
    #[serde(flatten)]
    header: H,
}

/// Writes `header` and `body` as a sealed file.
pub fn seal<H: Serialize>(path: &Path, header: &H, body: &[u8]) -> Result<()> {
    let seal = Seal {
        bytes: body.len(),
        sha256: sha256(body),
        header,
    };
    let mut file = serde_json::to_vec(&seal).map_err(Error::other)?;
    file.push(b'\n');
    file.extend_from_slice(body);
    write(path, &file)
}

/// What a sealed file turned out to be.
#[derive(Debug)]
pub enum Sealed<H> {
    /// Whole: its header and body.
    Whole(H, Vec<u8>),
    /// Not there.
    Missing,
    /// Damaged or foreign; the reason.
    Damaged(String),
}

/// Opens a sealed file.
pub fn open<H: DeserializeOwned>(path: &Path) -> Result<Sealed<H>> {
    let mut file = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Sealed::Missing),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    let damaged = |why: String| Ok(Sealed::Damaged(why));
    let Some(end) = file.iter().position(|&b| b == b'\n') else {
        return damaged("it has no header".into());
    };
    let seal: Seal<H> = match serde_json::from_slice(&file[..end]) {
        Ok(seal) => seal,
        Err(e) => return damaged(format!("its header cannot be read: {e}")),
    };
    let body = file.split_off(end + 1);
    if body.len() != seal.bytes {
        return damaged(format!(
            "it has {} bytes instead of {}",
            body.len(),
            seal.bytes
        ));
    }
    if sha256(&body) != seal.sha256 {
        return damaged("its checksum does not match".into());
    }
    Ok(Sealed::Whole(seal.header, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_sealed_file_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entry");
        for body in [&b""[..], b"one\ntwo\n", &[0, 255, 10, 13]] {
            seal(&path, &json!({"code": "x"}), body).unwrap();
            match open::<Value>(&path).unwrap() {
                Sealed::Whole(header, read) => {
                    assert_eq!((&header["code"], &read[..]), (&json!("x"), body))
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no draft stays behind"
        );
    }

    #[test]
    fn any_flipped_byte_and_any_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entry");
        seal(&path, &json!({"code": "x"}), b"the body").unwrap();
        let whole = fs::read(&path).unwrap();
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            open::<Value>(&path).unwrap()
        };
        for i in 0..whole.len() {
            assert!(
                matches!(read(&whole[..i]), Sealed::Damaged(_)),
                "cut at {i}"
            );
            let mut bad = whole.clone();
            bad[i] ^= 1;
            // A flip inside the header's own fields may leave a readable header, but never another body.
            match read(&bad) {
                Sealed::Whole(_, body) => assert_eq!(body, b"the body", "flip at {i}"),
                Sealed::Damaged(_) => {}
                Sealed::Missing => panic!("flip at {i}"),
            }
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(open::<Value>(&path).unwrap(), Sealed::Missing));
    }

    #[test]
    fn a_full_device_and_a_file_for_a_folder_are_errors() {
        let full = write_in_place(Path::new("/dev/full"), b"x").unwrap_err();
        assert!(full.to_string().contains("free some space"), "{full}");
        let full = fill(File::options().write(true).open("/dev/full").unwrap(), b"x").unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = create_folder(&file.join("under")).unwrap_err().to_string();
        assert!(error.contains("--out"), "{error}");
        assert!(write(&file.join("x"), b"").is_err());
    }
}
