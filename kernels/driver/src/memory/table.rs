//! Which ranges of a memory are live, free, or resting after a free.

use std::collections::BTreeMap;

/// Offsets from the base throughout. A range in `free` or `quarantine` includes its guard.
#[derive(Default)]
pub struct Table {
    pub live: BTreeMap<u64, u64>,
    free: BTreeMap<u64, u64>,
    pub quarantine: BTreeMap<u64, u64>,
    /// First offset never handed out.
    top: u64,
    pub used: u64,
}

impl Table {
    /// Finds a range of `bytes`: fresh addresses first when `fresh`, freed ones first otherwise.
    pub fn take(&mut self, bytes: u64, end: u64, fresh: bool) -> Option<u64> {
        let unused = bytes <= end - self.top;
        if !(fresh && unused)
            && let Some(offset) = self.take_free(bytes)
        {
            return Some(offset);
        }
        if unused {
            self.top += bytes;
            return Some(self.top - bytes);
        }
        for (offset, bytes) in std::mem::take(&mut self.quarantine) {
            self.release(offset, bytes);
        }
        self.take_free(bytes)
    }

    fn take_free(&mut self, bytes: u64) -> Option<u64> {
        let (&offset, &size) = self.free.iter().find(|&(_, &size)| size >= bytes)?;
        self.free.remove(&offset);
        if size > bytes {
            self.free.insert(offset + bytes, size - bytes);
        }
        Some(offset)
    }

    /// Returns a range to the free ones, joined with its neighbours.
    pub fn release(&mut self, mut offset: u64, mut bytes: u64) {
        if let Some((&before, &size)) = self.free.range(..offset).next_back()
            && before + size == offset
        {
            self.free.remove(&before);
            (offset, bytes) = (before, size + bytes);
        }
        if let Some(size) = self.free.remove(&(offset + bytes)) {
            bytes += size;
        }
        self.free.insert(offset, bytes);
    }
}
