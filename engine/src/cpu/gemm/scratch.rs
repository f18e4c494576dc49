//! Memory that a thread keeps between products, so that a small product allocates nothing.

use std::cell::Cell;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read as part of a slice")] [f32; 16]);

/// What the memory is for: one product uses each kind once.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Packed B, or partial sums.
    Columns,
    /// Packed A.
    Rows,
}

thread_local! {
    static KEPT: [Cell<Vec<Line>>; 2] = const { [Cell::new(Vec::new()), Cell::new(Vec::new())] };
}

/// Lends `len` elements of arbitrary value. A product inside another on the same thread gets memory of its own.
pub(super) fn with<R>(kind: Kind, len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    KEPT.with(|kept| {
        let cell = &kept[kind as usize];
        let mut lines = cell.take();
        if lines.len() * 16 < len {
            lines.clear();
            lines.resize(len.div_ceil(16), Line([0.0; 16]));
        }
        // SAFETY: a line is 16 f32 without padding, and there are enough of them.
        let result = f(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) });
        cell.set(lines);
        result
    })
}
