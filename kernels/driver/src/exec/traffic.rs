//! Counting memory traffic: sectors of global memory, passes over the banks of shared memory.

use super::access::{Addresses, lanes};
use super::block::Block;
use super::lanes::WARP;
use super::request::{Request, Shape};
use crate::ptx::Space;

impl Block<'_> {
    /// Traffic of a request, in the units of [`crate::counters::Traffic`].
    pub fn count(&mut self, r: &Request) {
        let asked = u64::from(r.mask.count_ones()) * r.bytes;
        let first = r.a[r.first()];
        let (units, ideal) = match (r.space, r.shape) {
            (Space::Global, Shape::Row) => {
                let sectors = (r.a[31] + r.bytes - 1) / 32 - first / 32 + 1;
                (sectors, asked.div_ceil(32))
            }
            (Space::Global, Shape::Same) => (1, r.bytes.div_ceil(32)),
            (Space::Shared, Shape::Row) if first.is_multiple_of(r.bytes.max(4)) => {
                (asked.div_ceil(128), asked.div_ceil(128))
            }
            (Space::Shared, Shape::Same) if r.mask == !0 => {
                let phases = (WARP / phase(r.bytes)) as u64;
                (phases, phases)
            }
            (Space::Global | Space::Shared, _) => {
                let at = self.pattern(r);
                self.patterns[at].units
            }
            _ => return,
        };
        let traffic = if r.space == Space::Global {
            &mut self.tally.global
        } else {
            &mut self.tally.shared
        };
        traffic.requests += 1;
        traffic.units += units;
        traffic.ideal_units += ideal;
        traffic.bytes += asked;
    }
}

/// 32-byte sectors touched, and the fewest for as many different elements.
pub fn sectors(a: &Addresses, mask: u32, bytes: u64) -> (u64, u64) {
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
pub fn passes(a: &Addresses, mask: u32, bytes: u64) -> (u64, u64) {
    let (mut passes, mut ideal) = (0, 0);
    let phase = phase(bytes);
    for first in (0..WARP).step_by(phase) {
        // The words of each bank; equal ones are served together. At most 32 words a phase.
        let mut banks = [[0; WARP]; 32];
        let (mut used, mut different) = ([0usize; 32], 0u64);
        for l in (first..first + phase).filter(|&l| mask >> l & 1 != 0) {
            for word in a[l] / 4..(a[l] + bytes).div_ceil(4) {
                let bank = (word % 32) as usize;
                let (words, n) = (&mut banks[bank], &mut used[bank]);
                if *n < WARP && !words[..*n].contains(&word) {
                    words[*n] = word;
                    *n += 1;
                    different += 1;
                }
            }
        }
        passes += used.into_iter().max().unwrap_or(0) as u64;
        ideal += different.div_ceil(32);
    }
    (passes, ideal)
}
