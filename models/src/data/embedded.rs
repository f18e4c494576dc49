//! The files under `models/data`, compiled in; decompressed and decoded at first use, then kept.
//!
//! Provenance and licences: `NOTICE` at the root of the repository.

use super::error::{DataError, Result};
use std::io::Read;
use std::sync::OnceLock;

macro_rules! file {
    ($name:literal) => {
        File {
            name: $name,
            bytes: include_bytes!(concat!("../../data/", $name)),
        }
    };
}

/// An embedded file.
pub(super) struct File {
    /// Path under `models/data`.
    pub name: &'static str,
    /// Contents as stored.
    pub bytes: &'static [u8],
}

pub(super) const MNIST_DIGITS: File = file!("mnist/digits.png");
pub(super) const MNIST_LABELS: File = file!("mnist/labels.txt");
pub(super) const EMOJI_TABLE: File = file!("emoji/emoji.tsv");
pub(super) const EMOJI_NOTO: File = file!("emoji/noto.png");
pub(super) const EMOJI_TWEMOJI: File = file!("emoji/twemoji.png");
pub(super) const EMOJI_OPENMOJI: File = file!("emoji/openmoji.png");
pub(super) const EMOJI_LINES: File = file!("emoji/openmoji-black.png");
pub(super) const SENTIMENT: File = file!("text/sentiment.tsv.zst");
pub(super) const WORDNET: File = file!("text/wordnet.tsv.zst");
pub(super) const KJV: File = file!("text/kjv.txt.zst");
pub(super) const TOKENIZER: File = file!("text/tokenizer.json");

/// A value computed at first use and kept for the life of the program, its error included.
pub(super) type Cell<T> = OnceLock<Result<T>>;

/// The cell's value, computed by `load` if it is the first use.
pub(super) fn cached<T>(
    cell: &'static Cell<T>,
    load: impl FnOnce() -> Result<T>,
) -> Result<&'static T> {
    cell.get_or_init(load).as_ref().map_err(Clone::clone)
}

impl File {
    /// The error of contents that are not what they should be.
    pub fn damaged(&self, reason: impl ToString, wanted: &str) -> DataError {
        DataError::Read {
            file: format!("models/data/{}", self.name),
            reason: reason.to_string(),
            wanted: wanted.into(),
        }
    }

    /// Contents as text.
    pub fn text(&self) -> Result<&'static str> {
        std::str::from_utf8(self.bytes).map_err(|e| self.damaged(e, "UTF-8 text"))
    }

    /// Contents of a Zstandard frame as text.
    pub fn unpacked(&self) -> Result<String> {
        let wanted = "a Zstandard frame of UTF-8 text";
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(self.bytes)
            .map_err(|e| self.damaged(e, wanted))?;
        let mut text = String::new();
        decoder
            .read_to_string(&mut text)
            .map_err(|e| self.damaged(e, wanted))?;
        Ok(text)
    }

    /// The first `count` square tiles of a sheet of 8-bit grey or RGB, row by row, as [count, channels, side, side].
    pub fn tiles(&self, side: usize, count: usize) -> Result<Tiles> {
        let wanted = format!("a PNG of at least {count} tiles of {side}×{side}, 8-bit grey or RGB");
        let mut reader = png::Decoder::new(std::io::Cursor::new(self.bytes))
            .read_info()
            .map_err(|e| self.damaged(e, &wanted))?;
        let size = reader
            .output_buffer_size()
            .ok_or_else(|| self.damaged("too large", &wanted))?;
        let mut sheet = vec![0; size];
        let frame = reader
            .next_frame(&mut sheet)
            .map_err(|e| self.damaged(e, &wanted))?;
        let (width, height) = (frame.width as usize, frame.height as usize);
        let channels = frame.color_type.samples();
        let tiles_a_row = width / side;
        let fits =
            tiles_a_row * (height / side) >= count && frame.bit_depth == png::BitDepth::Eight;
        if !fits || !matches!(channels, 1 | 3) {
            let found = format!(
                "{width}×{height}, {channels} channels, {:?} bits",
                frame.bit_depth
            );
            return Err(self.damaged(found, &wanted));
        }
        let mut pixels = Vec::with_capacity(count * channels * side * side);
        for tile in 0..count {
            let (top, left) = (tile / tiles_a_row * side, tile % tiles_a_row * side);
            for channel in 0..channels {
                for y in top..top + side {
                    let start = (y * width + left) * channels + channel;
                    pixels.extend(sheet[start..].iter().step_by(channels).take(side));
                }
            }
        }
        Ok(Tiles { channels, pixels })
    }
}

/// Decoded tiles, [count, channels, side, side].
pub(super) struct Tiles {
    /// 1 for grey, 3 for RGB.
    pub channels: usize,
    /// All samples, 0 to 255.
    pub pixels: Vec<u8>,
}

/// Splits the rows of a table at tabs; the first row must be `header`.
pub(super) fn rows<const N: usize>(
    file: &File,
    text: &'static str,
    header: [&str; N],
) -> Result<Vec<[&'static str; N]>> {
    let wanted = || format!("{N} tab-separated columns: {}", header.join(", "));
    let mut lines = text.lines();
    let first: Vec<&str> = lines.next().unwrap_or("").split('\t').collect();
    if first != header {
        return Err(file.damaged(format!("header {first:?}"), &wanted()));
    }
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            <[&str; N]>::try_from(fields).map_err(|f| file.damaged(format!("row {f:?}"), &wanted()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_named() {
        let file = File {
            name: "text/x.zst",
            bytes: b"not a frame",
        };
        let error = file.unpacked().unwrap_err().to_string();
        assert!(
            error.starts_with("models/data/text/x.zst: cannot be read: "),
            "{error}"
        );
        let error = file.tiles(28, 1).err().unwrap().to_string();
        assert!(
            error.ends_with("1 tiles of 28×28, 8-bit grey or RGB"),
            "{error}"
        );
        let error = MNIST_DIGITS.tiles(28, 10_001).err().unwrap().to_string();
        assert!(error.contains("2800×2800, 1 channels"), "{error}");
    }

    #[test]
    fn rows_of_another_width_are_refused() {
        let file = File {
            name: "t.tsv",
            bytes: b"",
        };
        assert!(rows(&file, "a\tb\n1\t2\n", ["a", "b"]).is_ok());
        for text in ["a\tc\n1\t2\n", "a\tb\n1\n", ""] {
            let error = rows(&file, text, ["a", "b"]).unwrap_err().to_string();
            assert!(error.ends_with("2 tab-separated columns: a, b"), "{error}");
        }
    }
}
