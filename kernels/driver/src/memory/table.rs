//! Which ranges of a memory are live, free, or at rest after a free.

use std::collections::BTreeMap;

pub const PAGE: u64 = 4096;
/// What an allocation's address is a multiple of, and the least distance between two.
const ALIGN: u64 = 256;
/// The least and the most bytes of a red zone.
const ZONE: (u64, u64) = (1 << 16, 1 << 30);

/// Offsets from the memory's base throughout.
pub struct Table {
    /// Allocations: the first byte and how many.
    pub live: BTreeMap<u64, u64>,
    pub used: u64,
    /// Freed allocations that are not reused yet.
    resting: BTreeMap<u64, u64>,
    /// Ranges with their margins.
    free: BTreeMap<u64, u64>,
    /// First offset never handed out, and the end of all.
    top: u64,
    end: u64,
    /// Red zones around allocations, and rest after a free.
    wary: bool,
}

/// What lies at an address; allocations by their first byte and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Live(u64, u64),
    Freed(u64, u64),
    /// Between two allocations, nearer to this one.
    Near(u64, u64),
    Nowhere,
}

impl Table {
    /// Of `end` bytes of addresses.
    pub fn new(end: u64, wary: bool) -> Table {
        Table {
            live: BTreeMap::new(),
            used: 0,
            resting: BTreeMap::new(),
            free: BTreeMap::new(),
            top: 0,
            end,
            wary,
        }
    }

    /// The margin before an allocation and the bytes of its range with both margins. A red zone on either side is as
    /// large as the allocation, so that an index out of bounds by up to its length meets nobody else's bytes.
    fn range(&self, bytes: u64) -> (u64, u64) {
        if self.wary {
            let pages = bytes.max(1).next_multiple_of(PAGE);
            let zone = pages.clamp(ZONE.0, ZONE.1);
            (zone, pages + 2 * zone)
        } else {
            (0, (bytes.max(1) + ALIGN).next_multiple_of(ALIGN))
        }
    }

    /// Finds a place for an allocation: fresh addresses first if freed ones rest, freed ones first otherwise.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let (margin, len) = self.range(bytes);
        let unused = len <= self.end - self.top;
        let reused = if self.wary && unused {
            None
        } else {
            self.take_free(len)
        };
        let start = match reused {
            Some(start) => start,
            None if unused => {
                self.top += len;
                self.top - len
            }
            None => {
                for (offset, bytes) in std::mem::take(&mut self.resting) {
                    self.reuse(offset, bytes);
                }
                self.take_free(len)?
            }
        };
        self.live.insert(start + margin, bytes);
        self.used += bytes;
        Some(start + margin)
    }

    fn take_free(&mut self, len: u64) -> Option<u64> {
        let (&start, &size) = self.free.iter().find(|&(_, &size)| size >= len)?;
        self.free.remove(&start);
        if size > len {
            self.free.insert(start + len, size - len);
        }
        Some(start)
    }

    /// Ends an allocation by its first byte, and says how long it was; or where that byte lies.
    pub fn release(&mut self, offset: u64) -> Result<u64, Place> {
        let Some(bytes) = self.live.remove(&offset) else {
            return Err(self.place(offset));
        };
        self.used -= bytes;
        if self.wary {
            self.resting.insert(offset, bytes);
        } else {
            self.reuse(offset, bytes);
        }
        Ok(bytes)
    }

    /// Puts an allocation's range among the free ones, joined with its neighbours.
    fn reuse(&mut self, offset: u64, bytes: u64) {
        let (margin, mut len) = self.range(bytes);
        let mut start = offset - margin;
        if let Some((&before, &size)) = self.free.range(..start).next_back()
            && before + size == start
        {
            self.free.remove(&before);
            (start, len) = (before, size + len);
        }
        if let Some(size) = self.free.remove(&(start + len)) {
            len += size;
        }
        self.free.insert(start, len);
    }

    /// What lies at an offset.
    pub fn place(&self, offset: u64) -> Place {
        let pair = |(&start, &bytes): (&u64, &u64)| (start, bytes);
        let before = self.live.range(..=offset).next_back().map(pair);
        if let Some((start, bytes)) = before
            && offset - start < bytes
        {
            return Place::Live(start, bytes);
        }
        let freed = self.resting.range(..=offset).next_back().map(pair);
        if let Some((start, bytes)) = freed
            && offset - start < bytes
        {
            return Place::Freed(start, bytes);
        }
        let after = self.live.range(offset..).next().map(pair);
        let beyond = |(start, bytes): (u64, u64)| (offset - start - bytes, start, bytes);
        let ahead = |(start, bytes): (u64, u64)| (start - offset, start, bytes);
        let nearest = before.map(beyond).into_iter().chain(after.map(ahead));
        match nearest.min().filter(|&(distance, ..)| distance <= ZONE.1) {
            Some((_, start, bytes)) => Place::Near(start, bytes),
            None => Place::Nowhere,
        }
    }
}
