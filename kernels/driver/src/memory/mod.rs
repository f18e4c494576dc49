//! The device memory of one context.
//!
//! One address range is reserved up front and pages come into being when touched, so translating a device address is
//! one subtraction and one comparison, and no kernel can reach memory outside of it. With the shadow on, every byte
//! has a second one that says whether it is allocated and initialised. Allocations then have red zones as large as
//! themselves on both sides (64 KiB to 1 GiB), so that an access out of bounds does not land in a neighbour, and freed
//! ranges are not reused before the addresses are used up, so that a use after free is recognised. Without the shadow
//! they are 256 bytes apart. Addresses are multiples of 256.

mod error;
mod table;

use std::sync::Mutex;

use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};

pub use error::MemoryError;
use table::{PAGE, Place, Table};

/// Freed allocations from this size on give their pages back to the system.
const PAGE_RETURN: u64 = 1 << 16;

/// Shadow bit: the byte belongs to a live allocation.
pub const ALLOCATED: u8 = 1;
/// Shadow bit: the byte has been written.
pub const INITIALISED: u8 = 2;

/// What a context's memory looks like.
#[derive(Clone, Copy, Debug)]
pub struct MemoryConfig {
    /// First device address, at or above [`LOWEST_BASE`]; give each context its own, so that foreign pointers fault.
    pub base: u64,
    /// Bytes that can be allocated at one time.
    pub capacity: u64,
    /// Keeps the shadow that the checks need.
    pub shadow: bool,
}

/// Device addresses below this one are windows of the generic address space (shared, local).
pub const LOWEST_BASE: u64 = 1 << 40;

/// The memory of one context. All methods take `&self`; it may be shared by threads.
pub struct Memory {
    config: MemoryConfig,
    data: MmapRaw,
    shadow: Option<MmapRaw>,
    table: Mutex<Table>,
}

impl MemoryConfig {
    /// Bytes of addresses. With the shadow there is room for red zones, and for freed ranges to rest long.
    pub(crate) fn span(&self) -> u64 {
        if self.shadow {
            self.capacity.saturating_mul(8).max(1 << 36)
        } else {
            self.capacity.saturating_mul(2).max(1 << 20)
        }
    }
}

impl Memory {
    /// Reserves the address range.
    ///
    /// # Errors
    /// [`MemoryError::Reserve`].
    pub fn new(config: MemoryConfig) -> Result<Memory, MemoryError> {
        let bytes = config.span();
        let reserve = || {
            let failed = |reason: String| MemoryError::Reserve { bytes, reason };
            let len = usize::try_from(bytes).map_err(|e| failed(e.to_string()))?;
            let map = MmapOptions::new().len(len).no_reserve_swap().map_anon();
            map.map(MmapRaw::from).map_err(|e| failed(e.to_string()))
        };
        let shadow = if config.shadow {
            Some(reserve()?)
        } else {
            None
        };
        Ok(Memory {
            config,
            data: reserve()?,
            shadow,
            table: Mutex::new(Table::new(bytes, config.shadow)),
        })
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &MemoryConfig {
        &self.config
    }

    /// (free, total) bytes.
    pub fn info(&self) -> (u64, u64) {
        (
            self.config.capacity - self.lock().used,
            self.config.capacity,
        )
    }

    /// Allocates; the contents are uninitialised.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn alloc(&self, bytes: u64) -> Result<u64, MemoryError> {
        let mut table = self.lock();
        let (free, capacity) = (self.config.capacity - table.used, self.config.capacity);
        let fits = bytes <= free;
        let offset = fits.then(|| table.take(bytes)).flatten();
        let offset = offset.ok_or(MemoryError::OutOfMemory {
            requested: bytes,
            free,
            capacity,
        })?;
        self.set_shadow(offset, bytes, ALLOCATED);
        Ok(self.config.base + offset)
    }

    /// Frees an allocation by its first address.
    ///
    /// # Errors
    /// [`MemoryError::NotAllocated`], [`MemoryError::UseAfterFree`] for a second free.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut table = self.lock();
        let offset = address.wrapping_sub(self.config.base);
        let bytes = table.release(offset).map_err(|place| match place {
            Place::Freed(start, size) if start == offset => MemoryError::UseAfterFree {
                address,
                bytes: 0,
                start: address,
                size,
            },
            _ => MemoryError::NotAllocated { address },
        })?;
        self.set_shadow(offset, bytes, 0);
        // With the shadow a page holds one allocation's bytes, else those of its neighbours too.
        let (start, end) = if self.shadow.is_some() {
            (offset, (offset + bytes).next_multiple_of(PAGE))
        } else {
            (
                offset.next_multiple_of(PAGE),
                (offset + bytes) / PAGE * PAGE,
            )
        };
        if self.shadow.is_some() || bytes >= PAGE_RETURN {
            self.return_pages(start, end.saturating_sub(start));
        }
        Ok(())
    }

    /// The live allocation that holds `address`, as (start, bytes).
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        let offset = address.checked_sub(self.config.base)?;
        let (&start, &bytes) = self.lock().live.range(..=offset).next_back()?;
        (offset < start + bytes.max(1)).then_some((self.config.base + start, bytes))
    }

    /// Number of live allocations.
    pub fn live(&self) -> usize {
        self.lock().live.len()
    }

    /// Copies from the host to the device.
    ///
    /// # Errors
    /// A range that is not inside one live allocation.
    pub fn write(&self, address: u64, source: &[u8]) -> Result<(), MemoryError> {
        let offset = self.checked(address, source.len() as u64)?;
        // SAFETY: `checked` placed the range inside the mapping; host slices never overlap device memory.
        unsafe {
            self.data
                .as_mut_ptr()
                .add(offset)
                .copy_from_nonoverlapping(source.as_ptr(), source.len())
        };
        self.set_shadow(offset as u64, source.len() as u64, ALLOCATED | INITIALISED);
        Ok(())
    }

    /// Copies from the device to the host.
    ///
    /// # Errors
    /// A range that is not inside one live allocation.
    pub fn read(&self, address: u64, target: &mut [u8]) -> Result<(), MemoryError> {
        let offset = self.checked(address, target.len() as u64)?;
        // SAFETY: as in `write`.
        unsafe {
            target
                .as_mut_ptr()
                .copy_from_nonoverlapping(self.data.as_ptr().add(offset), target.len())
        };
        Ok(())
    }

    /// Copies within the device; the ranges may overlap. What is uninitialised stays so.
    ///
    /// # Errors
    /// A range that is not inside one live allocation.
    pub fn copy(&self, target: u64, source: u64, bytes: u64) -> Result<(), MemoryError> {
        let (from, to) = (self.checked(source, bytes)?, self.checked(target, bytes)?);
        for map in [Some(&self.data), self.shadow.as_ref()]
            .into_iter()
            .flatten()
        {
            let p = map.as_mut_ptr();
            // SAFETY: both ranges lie inside the mapping, whose shadow has the same size; `copy` allows overlap.
            unsafe { p.add(to).copy_from(p.add(from), bytes as usize) };
        }
        Ok(())
    }

    /// Writes `pattern` `count` times in a row (memset of 8, 16, 32 bits).
    ///
    /// # Errors
    /// A range that is not inside one live allocation.
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let bytes = count.saturating_mul(pattern.len() as u64);
        let offset = self.checked(address, bytes)?;
        // SAFETY: `checked` placed the range inside the mapping.
        let start = unsafe { self.data.as_mut_ptr().add(offset) };
        if let Some(&byte) = pattern.first().filter(|&b| pattern.iter().all(|x| x == b)) {
            // SAFETY: as above.
            unsafe { start.write_bytes(byte, bytes as usize) };
        } else {
            for i in 0..count as usize {
                // SAFETY: as above; `i * len` stays below `bytes`.
                unsafe {
                    start
                        .add(i * pattern.len())
                        .copy_from_nonoverlapping(pattern.as_ptr(), pattern.len())
                };
            }
        }
        self.set_shadow(offset as u64, bytes, ALLOCATED | INITIALISED);
        Ok(())
    }

    /// The host address behind a device range, for pinned host memory that device code may also use. It stays valid
    /// until the allocation is freed; what is written through it counts as initialised from the start.
    ///
    /// # Errors
    /// A range that is not inside one live allocation.
    pub fn host_pointer(&self, address: u64, bytes: u64) -> Result<*mut u8, MemoryError> {
        let offset = self.checked(address, bytes)?;
        self.set_shadow(offset as u64, bytes, ALLOCATED | INITIALISED);
        // SAFETY: `checked` placed the range inside the mapping.
        Ok(unsafe { self.data.as_mut_ptr().add(offset) })
    }

    /// The device address behind a pointer from [`Memory::host_pointer`].
    pub fn device_address(&self, host: *const u8) -> Option<u64> {
        let offset = (host as usize).checked_sub(self.data.as_ptr() as usize)?;
        (offset < self.data.len()).then_some(self.config.base + offset as u64)
    }

    /// Says why an access faults: the error of [`Memory::write`] for that range, if it has one.
    ///
    /// # Errors
    /// A range that is not inside one live allocation.
    pub fn check(&self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        self.checked(address, bytes).map(|_| ())
    }

    /// Declares all that is allocated initialised, after code ran that did not keep the shadow.
    pub(crate) fn assume_initialised(&self) {
        for (&offset, &bytes) in &self.lock().live {
            self.set_shadow(offset, bytes, ALLOCATED | INITIALISED);
        }
    }

    /// The raw view that the executor translates addresses with.
    pub(crate) fn view(&self) -> View {
        let shadow = self
            .shadow
            .as_ref()
            .map_or(std::ptr::null_mut(), MmapRaw::as_mut_ptr);
        View {
            base: self.config.base,
            len: self.data.len() as u64,
            data: self.data.as_mut_ptr(),
            shadow,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        // A panic while the table is locked cannot leave it half changed in a way that matters more than the panic.
        self.table
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn checked(&self, address: u64, bytes: u64) -> Result<usize, MemoryError> {
        if bytes == 0 {
            return Ok(0);
        }
        let offset = address.wrapping_sub(self.config.base);
        let place = self.lock().place(offset);
        let place = match place {
            Place::Live(start, size) if bytes <= size - (offset - start) => {
                return Ok(offset as usize);
            }
            Place::Freed(start, size) => {
                return Err(MemoryError::UseAfterFree {
                    address,
                    bytes,
                    start: self.config.base + start,
                    size,
                });
            }
            Place::Live(start, size) => format!("run over the end of {}", self.name(start, size)),
            Place::Near(start, size) if offset < start => {
                let ahead = start - offset;
                format!("lie {ahead} bytes before {}", self.name(start, size))
            }
            Place::Near(start, size) => {
                let past = offset - start - size;
                format!("lie {past} bytes past {}", self.name(start, size))
            }
            Place::Nowhere => "lie in no allocation".into(),
        };
        Err(MemoryError::OutOfBounds {
            address,
            bytes,
            place,
        })
    }

    fn name(&self, start: u64, size: u64) -> String {
        let address = self.config.base + start;
        format!("an allocation of {size} bytes at {address:#x}")
    }

    /// Gives whole pages back to the system.
    fn return_pages(&self, start: u64, bytes: u64) {
        for map in [Some(&self.data), self.shadow.as_ref()]
            .into_iter()
            .flatten()
        {
            // SAFETY: the pages lie inside the mapping and belong to no live allocation; they read as zero from now on.
            // Failure (locked pages) only costs memory.
            let _ = unsafe {
                map.unchecked_advise_range(
                    UncheckedAdvice::DontNeed,
                    start as usize,
                    bytes as usize,
                )
            };
        }
    }

    fn set_shadow(&self, offset: u64, bytes: u64, value: u8) {
        if let Some(shadow) = &self.shadow {
            // SAFETY: callers pass ranges of the allocation table, which lie inside the mapping.
            unsafe {
                shadow
                    .as_mut_ptr()
                    .add(offset as usize)
                    .write_bytes(value, bytes as usize)
            };
        }
    }
}

/// Raw pointers into a [`Memory`]: `data` and, unless null, `shadow` hold `len` bytes each.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub base: u64,
    pub len: u64,
    pub data: *mut u8,
    pub shadow: *mut u8,
}

// SAFETY: the pointers are used for plain and atomic accesses inside the mapping only, which outlives every launch.
// Device code that races is the emulated program's fault; its bytes have no invalid values.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(shadow: bool) -> Memory {
        Memory::new(MemoryConfig {
            base: LOWEST_BASE,
            capacity: 1 << 20,
            shadow,
        })
        .unwrap()
    }

    #[test]
    fn copies_come_back_and_bounds_are_kept() {
        let m = memory(true);
        let a = m.alloc(100).unwrap();
        m.write(a + 4, &[7; 96]).unwrap();
        m.fill(a, &[1, 2], 2).unwrap();
        m.copy(a + 2, a, 4).unwrap();
        let mut out = [0; 8];
        m.read(a, &mut out).unwrap();
        assert_eq!(out, [1, 2, 1, 2, 1, 2, 7, 7]);
        let error = m.write(a + 50, &[0; 51]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("run over the end of an allocation of 100 bytes"),
            "{error}"
        );
        let error = m.read(a + 104, &mut out).unwrap_err();
        assert!(error.to_string().contains("4 bytes past"), "{error}");
        let error = m.read(a - 12, &mut out).unwrap_err();
        assert!(error.to_string().contains("12 bytes before"), "{error}");
        assert!(matches!(
            m.read(0, &mut out),
            Err(MemoryError::OutOfBounds { .. })
        ));
    }

    /// An index out of bounds by up to the allocation's length, on either side, meets no other allocation.
    #[test]
    fn red_zones_are_as_large_as_what_they_surround() {
        let m = memory(true);
        let sizes = [1, 100, 4096, 70_000, 1, 200_000, 300];
        let all: Vec<(u64, u64)> = sizes.map(|n| (m.alloc(n).unwrap(), n)).to_vec();
        for &(a, n) in &all {
            for distance in [1, n / 2 + 1, n, 1 << 16] {
                for stray in [a - distance, a + n - 1 + distance] {
                    let hit = m.allocation(stray);
                    assert_eq!(hit, None, "{distance} beyond {n} bytes");
                    assert!(m.write(stray, &[0]).is_err());
                }
            }
        }
    }

    #[test]
    fn freed_memory_is_recognised_and_reused_last() {
        let m = memory(true);
        let a = m.alloc(1000).unwrap();
        m.free(a).unwrap();
        let b = m.alloc(1000).unwrap();
        assert_ne!(a, b);
        assert!(matches!(
            m.write(a + 8, &[0; 4]),
            Err(MemoryError::UseAfterFree { size: 1000, .. })
        ));
        assert!(matches!(m.free(a), Err(MemoryError::UseAfterFree { .. })));
        assert!(matches!(
            m.free(b + 1),
            Err(MemoryError::NotAllocated { .. })
        ));
        for _ in 0..10_000 {
            let c = m.alloc(1 << 16).unwrap();
            m.free(c).unwrap();
        }
        assert_eq!(m.info(), ((1 << 20) - 1000, 1 << 20));
    }

    #[test]
    fn without_a_shadow_ranges_are_joined_and_reused() {
        let m = memory(false);
        let blocks: Vec<u64> = (0..8).map(|_| m.alloc(100_000).unwrap()).collect();
        assert!(matches!(
            m.alloc(1 << 20),
            Err(MemoryError::OutOfMemory { .. })
        ));
        for &b in &blocks {
            m.free(b).unwrap();
        }
        assert_eq!(m.alloc(800_000).unwrap(), blocks[0]);
        assert_eq!(m.live(), 1);
    }
}
