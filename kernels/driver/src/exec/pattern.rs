//! Scattered requests, of which kernels repeat a few: what was found out about one holds for all whose addresses are
//! shifted by a multiple of 32 bytes.

use super::access::{Addresses, lanes};
use super::block::Block;
use super::lanes::{Isa, WARP, for_isa};
use super::request::Request;
use super::traffic::{passes, sectors};
use crate::ptx::Space;

/// Patterns remembered at one time.
pub const REMEMBERED: usize = 512;
/// With more segments than this a request is better looked at lane by lane.
pub const SEGMENTS: usize = 12;

/// Consecutive lanes whose elements lie in a row; or lanes that ask for the same element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first lane, and how many there are.
    pub lane: usize,
    pub lanes: usize,
    /// The first address, from the request's first.
    pub offset: u64,
    pub together: bool,
}

#[derive(Clone)]
pub struct Pattern {
    space: Space,
    mask: u32,
    bytes: u64,
    /// The first address modulo 32, and all distances from the first.
    start: u64,
    offsets: Addresses,
    /// Sectors or passes over the banks, and the fewest possible.
    pub units: (u64, u64),
    /// All lanes in order, if there are few.
    pub segments: Option<Vec<Segment>>,
}

impl Pattern {
    /// No request's.
    pub const NONE: Pattern = Pattern {
        space: Space::Param,
        mask: 0,
        bytes: 0,
        start: 0,
        offsets: [0; WARP],
        units: (0, 0),
        segments: None,
    };

    fn new(r: &Request) -> Pattern {
        let first = r.a[r.first()];
        let units = if r.space == Space::Shared {
            passes(&r.a, r.mask, r.bytes)
        } else {
            sectors(&r.a, r.mask, r.bytes)
        };
        Pattern {
            space: r.space,
            mask: r.mask,
            bytes: r.bytes,
            start: first % 32,
            offsets: r.a.map(|a| a.wrapping_sub(first)),
            units,
            segments: segments(r),
        }
    }

    fn is_of(&self, r: &Request, same_offsets: SameOffsets) -> bool {
        self.space == r.space
            && (self.mask, self.bytes, self.start) == (r.mask, r.bytes, r.a[r.first()] % 32)
            // SAFETY: the function was chosen for this processor.
            && unsafe { same_offsets(&r.a, r.a[r.first()], &self.offsets) }
    }
}

/// Addresses have these distances from the first. Safety: the host has the instruction set.
pub type SameOffsets = unsafe fn(&Addresses, u64, &Addresses) -> bool;

#[inline(always)]
fn same_offsets(a: &Addresses, first: u64, offsets: &Addresses) -> bool {
    let mut differ = 0;
    for (a, offset) in a.iter().zip(offsets) {
        differ |= a.wrapping_sub(first) ^ offset;
    }
    differ == 0
}

/// [`SameOffsets`] for an instruction set.
pub fn comparer(isa: Isa) -> SameOffsets {
    for_isa!(isa, same_offsets(a: &Addresses, first: u64, offsets: &Addresses) -> bool)
}

/// Where a request's pattern is remembered, by some of its lanes: warps and instructions share patterns.
fn place(r: &Request) -> usize {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let first = r.a[r.first()];
    let start = (first % 32) << 8 | r.bytes << 1 | u64::from(r.space == Space::Shared);
    let mut mixed = start ^ u64::from(r.mask) << 32;
    for l in [1, 2, 8, 16, 31] {
        let offset = r.a[l].wrapping_sub(first);
        mixed = (mixed ^ offset).wrapping_mul(ODD).rotate_left(31);
    }
    (mixed.wrapping_mul(ODD) >> 32) as usize % REMEMBERED
}

/// The lanes of a request in segments, unless they are many.
fn segments(r: &Request) -> Option<Vec<Segment>> {
    let first = r.a[r.first()];
    let mut all: Vec<Segment> = Vec::new();
    for l in lanes(r.mask) {
        let offset = r.a[l].wrapping_sub(first);
        if let Some(last) = all.last_mut() {
            let next = last.offset.wrapping_add(last.lanes as u64 * r.bytes);
            if offset == last.offset && (last.together || last.lanes == 1) {
                (last.together, last.lanes) = (true, last.lanes + 1);
                continue;
            }
            if offset == next && l == last.lane + last.lanes && !last.together {
                last.lanes += 1;
                continue;
            }
        }
        if all.len() == SEGMENTS {
            return None;
        }
        all.push(Segment {
            lane: l,
            lanes: 1,
            offset,
            together: false,
        });
    }
    Some(all)
}

impl Block<'_> {
    /// The number of a request's pattern in `patterns`; what is known of it is found out if it is new.
    pub fn pattern(&mut self, r: &Request) -> usize {
        let at = place(r);
        if !self.patterns[at].is_of(r, self.same_offsets) {
            self.patterns[at] = Pattern::new(r);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_fall_into_segments() {
        let of = |f: fn(u64) -> u64, mask: u32| {
            let a = std::array::from_fn(|l| 4096 + f(l as u64));
            segments(&Request::new(Space::Shared, a, mask, 4))
        };
        let segment = |lane, lanes, offset, together| Segment {
            lane,
            lanes,
            offset,
            together,
        };
        // A row of a tile of 16 columns twice, and two of its columns' elements.
        let rows = vec![segment(0, 16, 0, false), segment(16, 16, 0, false)];
        assert_eq!(of(|l| l % 16 * 4, !0), Some(rows));
        let columns = vec![segment(0, 16, 0, true), segment(16, 16, 64, true)];
        assert_eq!(of(|l| l / 16 * 64, !0), Some(columns));
        // Lanes without neighbours are segments by themselves.
        let few = vec![segment(1, 1, 0, false), segment(3, 2, 8, false)];
        assert_eq!(of(|l| l * 4, 0b11010), Some(few));
        assert_eq!(of(|l| l * 8, !0), None);
    }
}
