//! Image sets and their batches: bytes in, normalised f32 or patches out.

use super::batch::check_items;
use super::error::{DataError, Result};
use super::split::Splits;

/// Images of one size with a class each.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSet {
    /// 1 for grey, 3 for RGB.
    pub channels: usize,
    /// Height and width in pixels.
    pub side: usize,
    /// [images, channels, side, side], 0 to 255.
    pub pixels: Vec<u8>,
    /// The classes.
    pub labels: Vec<u32>,
    /// Numbers of the images in their source: the same for one emoji in all styles.
    pub sources: Vec<u32>,
}

/// Mean and standard deviation of each channel, of pixels in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// Means, of which a grey image uses the first.
    pub mean: [f32; 3],
    /// Standard deviations.
    pub std: [f32; 3],
}

impl Normalisation {
    /// Of the training split of `emoji-noto`; used for all styles, as a model pre-trained on it expects.
    pub const EMOJI: Self = Self {
        mean: [0.8247, 0.7723, 0.7119],
        std: [0.2711, 0.2722, 0.3392],
    };

    /// Of the training split of `mnist`.
    pub const MNIST: Self = Self {
        mean: [0.1310; 3],
        std: [0.3086; 3],
    };

    /// Pixels in [−1, 1], as diffusion models have them.
    pub const SIGNED: Self = Self {
        mean: [0.5; 3],
        std: [0.5; 3],
    };

    /// Mean 0, standard deviation 1: pixels in [0, 1].
    pub const UNIT: Self = Self {
        mean: [0.0; 3],
        std: [1.0; 3],
    };

    /// The mean and standard deviation of a set, channel by channel, in f64.
    pub fn of(set: &ImageSet) -> Self {
        let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
        let area = set.side * set.side;
        for channel in 0..set.channels.min(3) {
            let planes = set.pixels.chunks(area).skip(channel).step_by(set.channels);
            let (mut n, mut sum, mut squares) = (0u64, 0u64, 0u64);
            for plane in planes {
                n += area as u64;
                for p in plane {
                    sum += u64::from(*p);
                    squares += u64::from(*p) * u64::from(*p);
                }
            }
            let m = sum as f64 / n as f64;
            mean[channel] = (m / 255.0) as f32;
            std[channel] = ((squares as f64 / n as f64 - m * m).sqrt() / 255.0) as f32;
        }
        if set.channels == 1 {
            (mean, std) = ([mean[0]; 3], [std[0]; 3]);
        }
        Self { mean, std }
    }
}

/// A batch of images with classes.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageBatch {
    /// Shape of `pixels`: [rows, channels, side, side], or [rows, patches, channels · patch², 1].
    pub shape: [usize; 4],
    /// (pixel / 255 − mean) / std.
    pub pixels: Vec<f32>,
    /// The classes.
    pub labels: Vec<u32>,
    /// The rows' item numbers in their split.
    pub items: Vec<u32>,
}

impl ImageSet {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    fn volume(&self) -> usize {
        self.channels * self.side * self.side
    }

    /// The images `items`, a set of its own.
    pub fn subset(&self, items: &[u32]) -> Result<Self> {
        check_items(items, self.len())?;
        let pick = |all: &[u32]| items.iter().map(|&i| all[i as usize]).collect();
        let volume = self.volume();
        let image = |&i: &u32| &self.pixels[i as usize * volume..][..volume];
        Ok(Self {
            channels: self.channels,
            side: self.side,
            pixels: items.iter().flat_map(image).copied().collect(),
            labels: pick(&self.labels),
            sources: pick(&self.sources),
        })
    }

    /// Grey repeated in three channels; RGB as it is.
    pub fn rgb(self) -> Self {
        if self.channels == 3 {
            return self;
        }
        let planes = self.pixels.chunks(self.side * self.side);
        Self {
            channels: 3,
            pixels: planes.flat_map(|plane| plane.repeat(3)).collect(),
            ..self
        }
    }

    /// Black for white: MNIST's strokes become black on white, as the emoji are.
    pub fn inverted(mut self) -> Self {
        self.pixels.iter_mut().for_each(|p| *p = 255 - *p);
        self
    }

    /// Half the side: each pixel the mean of four. An odd row or column at the end is left out.
    pub fn halved(self) -> Self {
        let (side, half) = (self.side, self.side / 2);
        let mut pixels = Vec::with_capacity(self.len() * self.channels * half * half);
        for plane in self.pixels.chunks((side * side).max(1)) {
            let at = |y: usize, x: usize| u16::from(plane[y * side + x]);
            for (y, x) in (0..half * half).map(|i| (2 * (i / half), 2 * (i % half))) {
                let sum = at(y, x) + at(y, x + 1) + at(y + 1, x) + at(y + 1, x + 1);
                pixels.push(((sum + 2) / 4) as u8);
            }
        }
        Self {
            side: half,
            pixels,
            ..self
        }
    }

    /// Framed by pixels of value `fill` to a larger side, MNIST's 28 to 32 for instance; what cannot be
    /// halved goes to the right and below.
    pub fn padded(self, side: usize, fill: u8) -> Result<Self> {
        if side < self.side {
            return Err(DataError::Invalid {
                what: "ImageSet::padded: side".into(),
                found: side.to_string(),
                wanted: format!("at least {}, the images' side", self.side),
            });
        }
        let before = (side - self.side) / 2;
        let mut pixels = vec![fill; self.len() * self.channels * side * side];
        let planes = self.pixels.chunks(self.side * self.side);
        for (from, to) in planes.zip(pixels.chunks_mut((side * side).max(1))) {
            for (y, row) in from.chunks(self.side).enumerate() {
                to[(y + before) * side + before..][..self.side].copy_from_slice(row);
            }
        }
        Ok(Self {
            side,
            pixels,
            ..self
        })
    }

    /// Brought to another side by [`resize`].
    pub fn resized(self, side: usize) -> Self {
        if side == self.side {
            return self;
        }
        let planes = self.pixels.chunks((self.side * self.side).max(1));
        Self {
            pixels: planes
                .flat_map(|p| resize(p, [self.side, self.side], side))
                .collect(),
            side,
            ..self
        }
    }

    /// The images `items`, normalised, as [rows, channels, side, side].
    pub fn batch(&self, items: &[u32], normalisation: &Normalisation) -> Result<ImageBatch> {
        check_items(items, self.len())?;
        let area = self.side * self.side;
        let mut pixels = Vec::with_capacity(items.len() * self.volume());
        for &item in items {
            let image = &self.pixels[item as usize * self.volume()..][..self.volume()];
            for (channel, plane) in image.chunks(area).enumerate() {
                let (mean, std) = (normalisation.mean[channel], normalisation.std[channel]);
                pixels.extend(plane.iter().map(|&p| (f32::from(p) / 255.0 - mean) / std));
            }
        }
        Ok(ImageBatch {
            shape: [items.len(), self.channels, self.side, self.side],
            pixels,
            labels: items.iter().map(|&i| self.labels[i as usize]).collect(),
            items: items.to_vec(),
        })
    }
}

/// A plane of `[height, width]` pixels as a square, each pixel the mean of those around its place, weighted by a triangle that
/// is two pixels wide in the coarser of the two grids: bilinear, and without aliases when it shrinks.
pub fn resize(plane: &[u8], [height, width]: [usize; 2], side: usize) -> Vec<u8> {
    // (first pixel, weights) of each place along an axis.
    let taps = |from: usize| -> Vec<(usize, Vec<f32>)> {
        let scale = from as f32 / side as f32;
        let reach = scale.max(1.0);
        let tap = |i: usize| {
            let centre = (i as f32 + 0.5) * scale;
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let last = ((centre + reach + 0.5) as usize).min(from);
            let weight = |j: usize| (1.0 - ((j as f32 + 0.5 - centre) / reach).abs()).max(0.0);
            let weights: Vec<f32> = (first..last).map(weight).collect();
            let sum: f32 = weights.iter().sum();
            (first, weights.iter().map(|w| w / sum).collect())
        };
        (0..side).map(tap).collect()
    };
    let (down, across) = (taps(height), taps(width));
    let dot = |weights: &[f32], values: &mut dyn Iterator<Item = f32>| {
        weights.iter().zip(values).map(|(w, v)| w * v).sum::<f32>()
    };
    let mut narrow = Vec::with_capacity(height * side);
    for row in plane.chunks(width.max(1)) {
        for (first, weights) in &across {
            narrow.push(dot(
                weights,
                &mut row[*first..].iter().map(|p| f32::from(*p)),
            ));
        }
    }
    let column = |x: usize, first: usize| narrow[first * side + x..].iter().step_by(side).copied();
    down.iter()
        .flat_map(|(first, weights)| {
            (0..side).map(move |x| dot(weights, &mut column(x, *first)).round() as u8)
        })
        .collect()
}

impl ImageBatch {
    /// Cuts [rows, channels, side, side] into squares: [rows, (side / patch)², channels · patch², 1], patches row by
    /// row, a patch as [channels, patch, patch], the order of a convolution's weight.
    pub fn patches(self, patch: usize) -> Result<Self> {
        let [rows, channels, height, width] = self.shape;
        if patch == 0 || height % patch != 0 || width % patch != 0 {
            return Err(DataError::Invalid {
                what: "ImageBatch::patches: patch".into(),
                found: format!("{patch} for images of {height}×{width}"),
                wanted: "a divisor of both sides".into(),
            });
        }
        let (down, across) = (height / patch, width / patch);
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for image in self.pixels.chunks((channels * height * width).max(1)) {
            for (py, px) in (0..down * across).map(|p| (p / across, p % across)) {
                for (channel, y) in (0..channels * patch).map(|r| (r / patch, r % patch)) {
                    let start = (channel * height + py * patch + y) * width + px * patch;
                    pixels.extend_from_slice(&image[start..start + patch]);
                }
            }
        }
        Ok(Self {
            shape: [rows, down * across, channels * patch * patch, 1],
            pixels,
            ..self
        })
    }
}

/// A task on images.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTask {
    /// Name, as in results.
    pub name: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// How batches are normalised.
    pub normalisation: Normalisation,
    /// The images; an image's item number is its place in its split.
    pub splits: Splits<ImageSet>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two grey images of 2×2.
    fn grey() -> ImageSet {
        ImageSet {
            channels: 1,
            side: 2,
            pixels: vec![0, 51, 102, 153, 255, 204, 0, 0],
            labels: vec![3, 1],
            sources: vec![10, 11],
        }
    }

    #[test]
    fn batches_are_normalised() {
        let normalisation = Normalisation {
            mean: [0.2; 3],
            std: [0.4; 3],
        };
        let batch = grey().batch(&[1, 0], &normalisation).unwrap();
        assert_eq!(batch.shape, [2, 1, 2, 2]);
        assert_eq!(batch.labels, [1, 3]);
        let expected = [2.0, 1.5, -0.5, -0.5, -0.5, 0.0, 0.5, 1.0f32];
        assert!(
            batch
                .pixels
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-6),
            "{:?}",
            batch.pixels
        );
        assert!(grey().batch(&[2], &normalisation).is_err());
    }

    #[test]
    fn measured_normalisation_centres_and_scales() {
        let set = grey().rgb();
        let batch = set.batch(&[0, 1], &Normalisation::of(&set)).unwrap();
        let n = batch.pixels.len() as f32;
        let mean = batch.pixels.iter().sum::<f32>() / n;
        let square = batch.pixels.iter().map(|p| p * p).sum::<f32>() / n;
        assert!(
            mean.abs() < 1e-5 && (square - 1.0).abs() < 1e-5,
            "{mean} {square}"
        );
    }

    #[test]
    fn shapes_change_as_told() {
        let rgb = grey().rgb();
        assert_eq!(
            rgb.pixels[..12],
            [0, 51, 102, 153, 0, 51, 102, 153, 0, 51, 102, 153]
        );
        let framed = grey().padded(5, 9).unwrap();
        assert_eq!(
            framed.pixels[..15],
            [9, 9, 9, 9, 9, 9, 0, 51, 9, 9, 9, 102, 153, 9, 9]
        );
        assert_eq!(framed.pixels.len(), 50);
        assert!(grey().padded(1, 0).is_err());
        assert_eq!(grey().inverted().pixels[..2], [255, 204]);
        // (0 + 51 + 102 + 153)/4 and (255 + 204)/4, rounded.
        let half = grey().halved();
        assert_eq!((half.side, half.pixels), (1, vec![77, 115]));
        let second = grey().subset(&[1]).unwrap();
        assert_eq!(
            (second.pixels.as_slice(), second.sources.as_slice()),
            (&[255, 204, 0, 0][..], &[11][..])
        );
    }

    #[test]
    fn resizing_keeps_what_is_flat_and_weighs_by_distance() {
        assert_eq!(resize(&[7; 35], [5, 7], 3), [7; 9]);
        assert_eq!(resize(&[1, 2, 3, 4], [2, 2], 2), [1, 2, 3, 4]);
        // Twice the size: a quarter of the way to the neighbour.
        assert_eq!(resize(&[0, 100], [1, 2], 4)[..4], [0, 25, 75, 100]);
        // Half the size: places ½ and 1½ away weigh ¾ and ¼; at the edge the rest of 7/4 is shared.
        let want = (0.75 * 10.0 + 0.75 * 20.0 + 0.25 * 60.0) / 1.75;
        assert_eq!(
            resize(&[10, 20, 60, 80], [1, 4], 2)[0],
            f32::round(want) as u8
        );
        let set = grey().resized(1);
        assert_eq!((set.side, set.pixels), (1, vec![77, 115]));
    }

    #[test]
    fn patches_are_in_a_convolutions_order() {
        let batch = ImageBatch {
            shape: [1, 2, 2, 4],
            pixels: (0u8..16).map(f32::from).collect(),
            labels: vec![0],
            items: vec![0],
        };
        let patches = batch.clone().patches(2).unwrap();
        assert_eq!(patches.shape, [1, 2, 8, 1]);
        let expected = [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15u8].map(f32::from);
        assert_eq!(patches.pixels, expected);
        let error = batch.patches(3).unwrap_err().to_string();
        assert!(error.contains("3 for images of 2×4"), "{error}");
    }
}
