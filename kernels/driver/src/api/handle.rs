//! Handles: numbers looked up in tables, never addresses, so that a stale one is an error and not a crash.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Shared by all tables, so that a handle of one kind is never a handle of another.
static NEXT: AtomicUsize = AtomicUsize::new(0x1000);

/// A number that no other handle has.
pub fn fresh() -> usize {
    // Spaced like pointers; small numbers have meanings of their own (the default streams).
    NEXT.fetch_add(16, Ordering::Relaxed)
}

/// The objects of one kind.
pub struct Table<T>(RwLock<BTreeMap<usize, Arc<T>>>);

impl<T> Table<T> {
    pub const fn new() -> Table<T> {
        Table(RwLock::new(BTreeMap::new()))
    }

    pub fn insert(&self, handle: usize, value: Arc<T>) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(handle, value);
    }

    pub fn get(&self, handle: usize) -> Option<Arc<T>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&handle)
            .cloned()
    }

    /// Some object that fits.
    pub fn find(&self, fits: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.values().find(|value| fits(value)).cloned()
    }

    pub fn remove(&self, handle: usize) -> Option<Arc<T>> {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&handle)
    }

    /// Drops the objects that `keep` refuses.
    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, value| keep(value));
    }
}
