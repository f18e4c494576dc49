//! A user's own pictures: a folder of classes, `cats/1.png`, `cats/2.png`, `dogs/1.png`, ….
//!
//! Files are PNGs of any size, grey, RGB or with a palette, of which transparency is dropped; they are brought to the model's
//! side without regard to their proportions, as Hugging Face's ViT processor does. Other files and deeper folders are passed over. All are
//! held in memory, `3·side²` bytes each.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::draw::stable_hash;
use super::error::{DataError, Result};
use super::images::{ImageSet, ImageTask, Normalisation, resize};
use super::split::{Fractions, Splits};

const WANTED: &str = "a folder with a folder of PNGs for each class";

fn unreadable(path: &Path, reason: impl ToString, wanted: &str) -> DataError {
    DataError::Read {
        file: path.display().to_string(),
        reason: reason.to_string(),
        wanted: wanted.into(),
    }
}

/// What a folder holds, in the order of names.
fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| unreadable(path, e, WANTED);
    let all = std::fs::read_dir(path).map_err(failed)?;
    let mut all: Vec<PathBuf> = (all.map(|e| e.map(|e| e.path())))
        .collect::<std::io::Result<_>>()
        .map_err(failed)?;
    all.sort();
    Ok(all)
}

/// Reads a folder as a task named after it, RGB pictures of `side` pixels; a picture's identity is its pixels.
///
/// # Errors
/// No folder of classes, no picture, a file that is no PNG.
pub fn read(path: &Path, side: usize, fractions: &Fractions) -> Result<ImageTask> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let (mut classes, mut pixels, mut labels) = (vec![], vec![], vec![]);
    for folder in entries(path)?.into_iter().filter(|p| p.is_dir()) {
        let is_png = |p: &PathBuf| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
        for file in entries(&folder)?.iter().filter(|p| is_png(p)) {
            pixels.extend(read_png(file, side)?);
            labels.push(classes.len() as u32);
        }
        let class = folder.file_name().unwrap_or_default();
        classes.push(class.to_string_lossy().into_owned());
    }
    if labels.is_empty() {
        let (file, wanted) = (path.display().to_string(), WANTED.into());
        return Err(DataError::Empty { file, wanted });
    }
    let all = ImageSet {
        channels: 3,
        side,
        sources: (0..labels.len() as u32).collect(),
        pixels,
        labels,
    };
    let volume = 3 * side * side;
    let identity = |i: &u32| {
        format!(
            "{:016x}",
            stable_hash(&all.pixels[*i as usize * volume..][..volume])
        )
    };
    let items = Splits::of(0..all.labels.len() as u32, |i| {
        fractions.assign(&name, &identity(i))
    });
    Ok(ImageTask {
        splits: items.try_map(|part| all.subset(&part))?,
        normalisation: Normalisation::SIGNED,
        classes,
        name,
    })
}

/// A PNG as RGB planes `[3, side, side]`.
fn read_png(path: &Path, side: usize) -> Result<Vec<u8>> {
    let wanted = "a PNG of at most 64 MB of pixels";
    let file = File::open(path).map_err(|e| unreadable(path, e, wanted))?;
    let failed = |e: png::DecodingError| unreadable(path, e, wanted);
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(failed)?;
    let size = reader.output_buffer_size().filter(|size| *size <= 64 << 20);
    let mut bytes = vec![0; size.ok_or_else(|| unreadable(path, "too large", wanted))?];
    let info = reader.next_frame(&mut bytes).map_err(failed)?;
    let samples = info.color_type.samples();
    // Grey with transparency has 2 samples, of which the first is all three colours.
    let sample = |colour: usize| if samples < 3 { 0 } else { colour };
    let plane = |colour: usize| -> Vec<u8> {
        let pixels = bytes[..info.buffer_size()].chunks(samples);
        pixels.map(|p| p[sample(colour)]).collect()
    };
    let size = [info.height as usize, info.width as usize];
    Ok((0..3)
        .flat_map(|colour| resize(&plane(colour), size, side))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, size: [u32; 2], colour: png::ColorType, pixels: &[u8]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), size[0], size[1]);
        encoder.set_color(colour);
        encoder
            .write_header()
            .unwrap()
            .write_image_data(pixels)
            .unwrap();
    }

    #[test]
    fn folders_are_classes_and_pictures_are_made_square_and_rgb() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(
            &at("dogs/b.png"),
            [2, 1],
            png::ColorType::Rgb,
            &[10, 20, 30, 10, 20, 30],
        );
        write(
            &at("cats/a.PNG"),
            [1, 2],
            png::ColorType::Grayscale,
            &[9, 9],
        );
        write(
            &at("cats/c.png"),
            [1, 1],
            png::ColorType::Rgba,
            &[1, 2, 3, 0],
        );
        write(
            &at("cats/d.png"),
            [1, 1],
            png::ColorType::GrayscaleAlpha,
            &[8, 0],
        );
        std::fs::write(at("cats/notes.txt"), "x").unwrap();
        let all = Fractions::new(0.0, 0.0).unwrap();
        let task = read(folder.path(), 2, &all).unwrap();
        assert_eq!(task.classes, ["cats", "dogs"]);
        let set = &task.splits.train;
        assert_eq!(set.labels, [0, 0, 0, 1]);
        let picture = |i: usize| &set.pixels[i * 12..][..12];
        assert_eq!(picture(0), [9; 12]);
        assert_eq!(picture(1), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
        assert_eq!(picture(2), [8; 12]);
        assert_eq!(picture(3), [10, 10, 10, 10, 20, 20, 20, 20, 30, 30, 30, 30]);
    }

    #[test]
    fn what_is_no_picture_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let all = Fractions::default();
        let message = |path: &Path| read(path, 2, &all).unwrap_err().to_string();
        assert!(message(folder.path()).contains("holds no record; wanted a folder with"));
        assert!(message(&folder.path().join("none")).contains("none: cannot be read"));
        let file = folder.path().join("cats/a.png");
        write(&file, [1, 1], png::ColorType::Grayscale, &[1]);
        let whole = std::fs::read(&file).unwrap();
        // Signature, header, and the start of the pixels' chunk.
        for len in 0..8 + 25 + 8 {
            std::fs::write(&file, &whole[..len]).unwrap();
            assert!(
                message(folder.path()).contains("a.png: cannot be read"),
                "{len}"
            );
        }
    }
}
