//! Pictures in a report: PNG, as text.

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};

/// A picture in colour with a caption.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// What it shows.
    pub caption: String,
    /// Its PNG in base64 (RFC 4648).
    pub png: String,
}

impl Picture {
    /// Pixels `[height, width, 3]`, row by row.
    ///
    /// # Errors
    /// Pixels that are no whole number of rows.
    pub fn new(caption: impl Into<String>, width: usize, rgb: &[u8]) -> Result<Self> {
        let height = rgb.len() / (3 * width).max(1);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(Error::other)?;
        writer.write_image_data(rgb).map_err(Error::other)?;
        writer.finish().map_err(Error::other)?;
        Ok(Picture {
            caption: caption.into(),
            png: base64(&bytes),
        })
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| {
            bits << 8 | u32::from(three.get(i).copied().unwrap_or(0))
        });
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= three.len() { digit as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbf]), "+/+/");
    }

    #[test]
    fn a_picture_is_a_png() {
        let picture = Picture::new("two pixels", 2, &[255, 0, 0, 0, 0, 255]).unwrap();
        // The eight bytes that every PNG begins with, and the header's length and name.
        assert!(picture.png.starts_with("iVBORw0KGgoAAAANSUhEUg"));
        assert!(Picture::new("no row", 2, &[1, 2, 3, 4]).is_err());
    }
}
