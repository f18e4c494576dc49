//! Random numbers addressed by what they are for, never by call order: recomputation, resumption and paired arms draw
//! the same numbers, and so do all devices.

use std::ops::Range;

use crate::cpu::philox::{self, Window};
use crate::device::{Device, Distribution};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// What a stream of numbers is for. Streams with different purposes never share a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Initial values of parameters.
    Init,
    /// Dropout masks.
    Dropout,
    /// Order of the data.
    Data,
    /// Noise of a method or a diffusion process.
    Noise,
    /// Frozen random bases.
    Basis,
    /// Sampling from a model.
    Sample,
}

/// The address of a stream: a plane of numbers, of which element (row, column) is a pure function of the key and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RandomKey {
    /// The run's seed.
    pub seed: u64,
    /// What for.
    pub purpose: Purpose,
    /// Training step, 0 outside training; below 2⁵⁶.
    pub step: u64,
    /// Which layer or parameter: usually [`site`] of its path.
    pub site: u64,
}

/// A stable 64-bit name of a path (FNV-1a).
pub fn site(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ b as u64).wrapping_mul(0x0100_0000_01b3)
    })
}

impl RandomKey {
    /// A key of step 0.
    pub fn new(seed: u64, purpose: Purpose, path: &str) -> Self {
        RandomKey {
            seed,
            purpose,
            step: 0,
            site: site(path),
        }
    }

    /// The stream's four words, which are all that a generating kernel needs. Philox is a bijection for each seed: two
    /// streams of one seed differ in at least one word and so never share a block.
    pub fn stream(&self) -> [u32; 4] {
        let word = |x: u64| [x as u32, (x >> 32) as u32];
        let ([a, b], [c, d]) = (
            word(self.site),
            word(self.step ^ (self.purpose as u64) << 56),
        );
        philox::philox([a, b, c, d], word(self.seed))
    }
}

/// Fills `out`, row-major, with `columns` of the rows from `first_row` of a stream.
///
/// # Errors
/// A row beyond 2³², a column beyond 2³⁴, or elements that make no whole rows.
pub fn fill(
    distribution: Distribution,
    key: RandomKey,
    first_row: u64,
    columns: Range<u64>,
    out: &mut [f32],
) -> Result<()> {
    let width = columns.end.saturating_sub(columns.start);
    if out.is_empty() {
        return Ok(());
    }
    let rows = (out.len() as u64).checked_div(width).unwrap_or(0);
    if rows * width != out.len() as u64
        || first_row.saturating_add(rows) > 1 << 32
        || columns.end > 1 << 34
    {
        return Err(Error::shape(
            "random",
            format!(
                "{} elements as columns {columns:?} of the rows from {first_row}; a stream has 2³² rows of 2³⁴ columns",
                out.len()
            ),
        ));
    }
    let window = Window {
        first_row: first_row as u32,
        columns,
    };
    philox::fill(distribution, key.stream(), &window, out);
    Ok(())
}

impl Tensor {
    /// Random f32 elements: element `[…, c]` is column `c` of the stream's row with the flat index of `…`.
    ///
    /// # Errors
    /// More than 2³² rows.
    pub fn random(
        shape: &[usize],
        distribution: Distribution,
        key: RandomKey,
        device: &Device,
    ) -> Result<Tensor> {
        let mut out = Tensor::empty(shape, DType::F32, device)?;
        let all = 0..out.last_dim() as u64;
        device
            .backend()
            .random(distribution, key, 0, all, &mut out)?;
        Ok(out)
    }

    /// Rows `rows` and columns `columns` of the matrix that [`Tensor::random`] would draw, made alone: bases that are too
    /// large to keep are regenerated panel by panel.
    ///
    /// # Errors
    /// Rows beyond 2³² or columns beyond 2³⁴.
    pub fn random_window(
        rows: Range<usize>,
        columns: Range<usize>,
        distribution: Distribution,
        key: RandomKey,
        device: &Device,
    ) -> Result<Tensor> {
        let mut out = Tensor::empty(&[rows.len(), columns.len()], DType::F32, device)?;
        device.backend().random(
            distribution,
            key,
            rows.start as u64,
            columns.start as u64..columns.end as u64,
            &mut out,
        )?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_cut_out_of_the_matrix() {
        let key = RandomKey::new(7, Purpose::Basis, "a");
        for device in [Device::cpu(), Device::oracle()] {
            let whole = Tensor::random(&[2, 3, 10], Distribution::Normal, key, &device).unwrap();
            let part =
                Tensor::random_window(2..5, 3..9, Distribution::Normal, key, &device).unwrap();
            let cut = whole.reshape(&[6, 10]).unwrap().narrow(0, 2, 3).unwrap();
            let cut = cut.narrow(1, 3, 6).unwrap();
            assert_eq!(part.to_vec::<f64>().unwrap(), cut.to_vec::<f64>().unwrap());
        }
    }

    #[test]
    fn keys_that_differ_anywhere_name_other_streams() {
        let key = RandomKey::new(1, Purpose::Init, "layer.0");
        let others = [
            RandomKey { seed: 2, ..key },
            RandomKey {
                purpose: Purpose::Noise,
                ..key
            },
            RandomKey { step: 1, ..key },
            RandomKey {
                site: site("layer.1"),
                ..key
            },
        ];
        for other in others {
            assert_ne!(key.stream(), other.stream());
        }
    }

    #[test]
    fn rows_past_the_plane_are_refused() {
        let key = RandomKey::new(0, Purpose::Basis, "a");
        let message = fill(
            Distribution::Normal,
            key,
            u32::MAX as u64,
            0..2,
            &mut [0.0; 4],
        )
        .unwrap_err()
        .to_string();
        assert!(message.contains("2³² rows"), "{message}");
    }
}
