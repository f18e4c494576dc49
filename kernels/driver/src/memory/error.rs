//! What goes wrong with device memory.

/// Why a memory operation was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// More than is left.
    #[error("{requested} bytes requested, {free} of {capacity} free")]
    OutOfMemory {
        /// Bytes wanted.
        requested: u64,
        /// Bytes free.
        free: u64,
        /// Bytes in all.
        capacity: u64,
    },
    /// A range not inside one live allocation.
    #[error("{bytes} bytes at {address:#x} {place}")]
    OutOfBounds {
        /// First address.
        address: u64,
        /// Length.
        bytes: u64,
        /// Where the address lies instead.
        place: String,
    },
    /// A range in memory that was freed.
    #[error(
        "{bytes} bytes at {address:#x} lie in an allocation of {size} bytes at {start:#x} that was freed"
    )]
    UseAfterFree {
        /// First address.
        address: u64,
        /// Length.
        bytes: u64,
        /// The freed allocation.
        start: u64,
        /// Its size.
        size: u64,
    },
    /// `free` of something that is not the start of a live allocation.
    #[error("free of {address:#x}, which is not the start of a live allocation")]
    NotAllocated {
        /// The address.
        address: u64,
    },
    /// The system would not reserve the address range.
    #[error("cannot reserve {bytes} bytes of address space: {reason}")]
    Reserve {
        /// Bytes wanted.
        bytes: u64,
        /// The system's words.
        reason: String,
    },
}
