//! The CPU's buffer pool: freed buffers are kept by size class and handed out again, since fresh pages cost
//! several times what a typical op does. Every live byte is counted under a [`Tag`].

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};

/// Bytes; enough for any vector register and a cache line.
pub const ALIGN: usize = 64;
const CLASSES: usize = 48 * 4;
const TAGS: usize = 4;

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// Parameters.
    Weights,
    /// Optimiser state and a method's own state.
    State,
    /// Activations that backward will read.
    Saved,
    /// Everything else: temporaries, gradients on their way.
    Scratch,
}

struct Free(Vec<NonNull<u8>>);
// SAFETY: a free block belongs to nobody; the list owns it until it is handed out.
unsafe impl Send for Free {}

static FREE: [Mutex<Free>; CLASSES] = [const { Mutex::new(Free(Vec::new())) }; CLASSES];
static LIVE: [AtomicUsize; TAGS] = [const { AtomicUsize::new(0) }; TAGS];
static PEAK: [AtomicUsize; TAGS] = [const { AtomicUsize::new(0) }; TAGS];
static LIVE_ALL: AtomicUsize = AtomicUsize::new(0);
static PEAK_ALL: AtomicUsize = AtomicUsize::new(0);
static FRESH: AtomicUsize = AtomicUsize::new(0);
static POISON: AtomicBool = AtomicBool::new(cfg!(test));

thread_local! {
    static CURRENT: Cell<Tag> = const { Cell::new(Tag::Scratch) };
}

/// Size classes: four per power of two, so at most a quarter is wasted. Returns (class, bytes).
pub(crate) fn class_of(bytes: usize) -> (usize, usize) {
    let bytes = bytes.max(512);
    let shift = (usize::BITS - (bytes - 1).leading_zeros()).max(3) as usize - 3; // quarters of the octave below
    let size = bytes.div_ceil(1 << shift) << shift;
    let class = shift * 4 + ((size >> shift) - 5);
    (class, size)
}

/// An uninitialised-by-default block from the pool; it goes back when dropped.
pub struct PoolBuf {
    ptr: NonNull<u8>,
    bytes: usize,
    class: usize,
    size: usize,
    tag: AtomicU8,
}

// SAFETY: the block is owned; shared access is read-only and mutation needs `&mut`.
unsafe impl Send for PoolBuf {}
// SAFETY: as above.
unsafe impl Sync for PoolBuf {}

impl PoolBuf {
    /// A block of `bytes` whose content is arbitrary (0xFF, a NaN pattern, when poisoning is on).
    pub fn empty(bytes: usize) -> Self {
        let (class, size) = class_of(bytes);
        let reused = FREE[class]
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .0
            .pop();
        let ptr = reused.unwrap_or_else(|| {
            FRESH.fetch_add(1, Relaxed);
            let layout =
                Layout::from_size_align(size, ALIGN).unwrap_or_else(|_| Layout::new::<u8>());
            // Zeroed, so that the bytes may be read at all; large blocks come as untouched zero pages, which is free.
            // SAFETY: `size` is at least 512.
            let raw = unsafe { alloc_zeroed(layout) };
            NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout))
        });
        if POISON.load(Relaxed) {
            // SAFETY: the block has `size` bytes.
            unsafe { ptr.as_ptr().write_bytes(0xFF, size) };
        }
        let tag = CURRENT.get();
        count(tag, size as isize);
        PoolBuf {
            ptr,
            bytes,
            class,
            size,
            tag: AtomicU8::new(tag as u8),
        }
    }

    /// A block of zeros.
    pub fn zeros(bytes: usize) -> Self {
        let buf = Self::empty(bytes);
        // SAFETY: the block has at least `bytes` bytes.
        unsafe { buf.ptr.as_ptr().write_bytes(0, bytes) };
        buf
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: owned, `bytes` long; every bit pattern is a u8.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.bytes) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.bytes) }
    }

    /// Moves the block's bytes to another tag's account; a parameter that an op keeps for backward stays a parameter.
    pub fn retag(&self, tag: Tag) {
        if tag as u8 == Tag::Saved as u8 && self.tag.load(Relaxed) == Tag::Weights as u8 {
            return;
        }
        let old = self.tag.swap(tag as u8, Relaxed);
        if old != tag as u8 {
            LIVE[old as usize].fetch_sub(self.size, Relaxed);
            let live = LIVE[tag as usize].fetch_add(self.size, Relaxed) + self.size;
            PEAK[tag as usize].fetch_max(live, Relaxed);
        }
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        LIVE[self.tag.load(Relaxed) as usize].fetch_sub(self.size, Relaxed);
        LIVE_ALL.fetch_sub(self.size, Relaxed);
        FREE[self.class]
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .0
            .push(self.ptr);
    }
}

fn count(tag: Tag, bytes: isize) {
    let live = LIVE[tag as usize].fetch_add(bytes as usize, Relaxed) + bytes as usize;
    PEAK[tag as usize].fetch_max(live, Relaxed);
    let all = LIVE_ALL.fetch_add(bytes as usize, Relaxed) + bytes as usize;
    PEAK_ALL.fetch_max(all, Relaxed);
}

/// Counts buffers made inside `f` on this thread under `tag`.
pub fn tagged<T>(tag: Tag, f: impl FnOnce() -> T) -> T {
    struct Restore(Tag);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(tag));
    f()
}

/// Fills every new buffer with 0xFF (NaN as a float), so that reading before writing shows.
pub fn set_poison(on: bool) {
    POISON.store(on, Relaxed);
}

/// A cache line of numbers: what [`with_scratch`] aligns to.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

// SAFETY: 16 numbers without padding.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above; every bit pattern is valid.
unsafe impl bytemuck::Pod for Line {}

thread_local! {
    static WORKSPACE: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Lends `f` a workspace of `len` numbers of arbitrary value (NaN when poisoning is on). The thread keeps the memory, so that a
/// kernel's pieces do not allocate; a use inside a use gets a workspace of its own.
pub fn with_scratch<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    let mut lines = WORKSPACE.take();
    if lines.len() * 16 < len {
        lines.resize(len.div_ceil(16), Line([0.0; 16]));
    }
    let numbers = &mut bytemuck::cast_slice_mut::<Line, f32>(&mut lines)[..len];
    if POISON.load(Relaxed) {
        numbers.fill(f32::NAN);
    }
    let result = f(numbers);
    WORKSPACE.set(lines);
    result
}

/// Bytes now and at most, per tag (in [`Tag`]'s order) and in all.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Usage {
    /// Live bytes per tag.
    pub live: [usize; TAGS],
    /// High-water mark per tag.
    pub peak: [usize; TAGS],
    /// Live bytes in all.
    pub live_total: usize,
    /// High-water mark of the sum.
    pub peak_total: usize,
    /// Blocks ever taken from the system: constant in a steady state.
    pub fresh_blocks: usize,
}

/// The pool's account.
pub fn usage() -> Usage {
    let read = |a: &[AtomicUsize; TAGS]| std::array::from_fn(|i| a[i].load(Relaxed));
    Usage {
        live: read(&LIVE),
        peak: read(&PEAK),
        live_total: LIVE_ALL.load(Relaxed),
        peak_total: PEAK_ALL.load(Relaxed),
        fresh_blocks: FRESH.load(Relaxed),
    }
}

/// Starts new high-water marks at what is live now.
pub fn reset_peak() {
    for (peak, live) in PEAK.iter().zip(&LIVE) {
        peak.store(live.load(Relaxed), Relaxed);
    }
    PEAK_ALL.store(LIVE_ALL.load(Relaxed), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_its_size_and_wastes_at_most_a_quarter() {
        let mut last = 0;
        for bytes in (1..100_000usize)
            .step_by(37)
            .chain([1 << 20, (1 << 30) + 1])
        {
            let (class, size) = class_of(bytes);
            assert!(
                class < CLASSES && size >= bytes && size % ALIGN == 0,
                "{bytes} {class} {size}"
            );
            assert!(size <= bytes.max(512) * 5 / 4 + ALIGN, "{bytes} -> {size}");
            assert!(class >= last || bytes == 1 << 20);
            last = class;
        }
    }

    #[test]
    fn classes_are_one_to_one_with_sizes() {
        let mut seen = std::collections::HashMap::new();
        for bytes in 1..20_000usize {
            let (class, size) = class_of(bytes);
            assert_eq!(*seen.entry(class).or_insert(size), size, "{bytes}");
        }
    }

    #[test]
    fn new_blocks_are_poisoned_and_zeros_are_zero() {
        drop(PoolBuf::zeros(1000));
        assert!(PoolBuf::empty(1000).bytes().iter().all(|b| *b == 0xFF));
        assert!(PoolBuf::zeros(1000).bytes().iter().all(|b| *b == 0));
    }
}
