//! Counting memory traffic: sectors of global memory, passes over the banks of shared memory.

use super::access::{Addresses, all_equal, in_a_row, lanes};
use super::block::Block;
use super::lanes::WARP;
use crate::ptx::Space;

impl Block<'_> {
    /// Traffic of a request, in the units of [`crate::counters::Traffic`].
    pub fn count(&mut self, space: Space, a: &Addresses, mask: u32, bytes: u64) {
        let asked = u64::from(mask.count_ones()) * bytes;
        let row = mask == !0 && in_a_row(a, bytes);
        let (traffic, (units, ideal)) = match space {
            Space::Global if row => {
                let sectors = (a[31] + bytes - 1) / 32 - a[0] / 32 + 1;
                (&mut self.tally.global, (sectors, asked.div_ceil(32)))
            }
            Space::Global => (&mut self.tally.global, sectors(a, mask, bytes)),
            Space::Shared if row && a[0].is_multiple_of(bytes.max(4)) => {
                let passes = asked.div_ceil(128);
                (&mut self.tally.shared, (passes, passes))
            }
            Space::Shared if all_equal(a) => {
                let passes = (WARP / phase(bytes)) as u64;
                (&mut self.tally.shared, (passes, passes))
            }
            Space::Shared => (&mut self.tally.shared, passes(a, mask, bytes)),
            _ => return,
        };
        traffic.requests += 1;
        traffic.units += units;
        traffic.ideal_units += ideal;
        traffic.bytes += asked;
    }
}

/// 32-byte sectors touched, and the fewest for as many different elements.
fn sectors(a: &Addresses, mask: u32, bytes: u64) -> (u64, u64) {
    let mut sorted = *a;
    let n = lanes(mask)
        .enumerate()
        .map(|(n, l)| sorted[n] = a[l])
        .count();
    let sorted = &mut sorted[..n];
    sorted.sort_unstable();
    let (mut touched, mut elements, mut last) = (0, 0, None);
    for &address in sorted.iter() {
        if last != Some(address) {
            elements += 1;
            touched += u64::from(last.is_none_or(|l: u64| l / 32 != address / 32));
            last = Some(address);
        }
    }
    (touched, (elements * bytes).div_ceil(32))
}

/// Lanes that a pass over the banks serves at most: 128 bytes' worth.
fn phase(bytes: u64) -> usize {
    WARP / (bytes as usize / 4).clamp(1, 4)
}

/// Passes over the 32 banks of 4 bytes, and the fewest for as many different words.
fn passes(a: &Addresses, mask: u32, bytes: u64) -> (u64, u64) {
    let (mut passes, mut ideal) = (0, 0);
    let phase = phase(bytes);
    for first in (0..WARP).step_by(phase) {
        // At most 32 words a phase, of which equal ones are served together.
        let (mut words, mut n) = ([0; WARP], 0);
        for l in (first..first + phase).filter(|&l| mask >> l & 1 != 0) {
            for word in a[l] / 4..(a[l] + bytes).div_ceil(4) {
                if n < WARP && !words[..n].contains(&word) {
                    words[n] = word;
                    n += 1;
                }
            }
        }
        let mut banks = [0; 32];
        words[..n]
            .iter()
            .for_each(|w| banks[(w % 32) as usize] += 1);
        passes += banks.into_iter().max().unwrap_or(0);
        ideal += (n as u64).div_ceil(32);
    }
    (passes, ideal)
}
