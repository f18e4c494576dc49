//! Device memory by size classes. A block that is given back is handed out again for later work on the same stream, which comes
//! after all that still reads it: in the steady state of a training step the driver is asked for nothing.
//!
//! Blocks for elements of the host are kept apart, since another stream fills them: each with the place in the stream at which it
//! was given back. The one that has been free the longest goes first, and one is left free, so that what comes for a step has not to
//! wait for the step before.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, DevicePtr};

use super::driver;
use crate::error::{Error, Result};
use crate::pool::class_of;
use crate::tensor::Tensor;

/// The blocks of a device that nobody holds, by their size.
pub(super) struct Pool {
    stream: Arc<CudaStream>,
    free: Mutex<Free>,
    fresh: AtomicUsize,
    held: AtomicUsize,
    peak: AtomicUsize,
}

/// Blocks that nobody holds, by their size.
#[derive(Default)]
struct Free {
    blocks: HashMap<usize, Vec<CudaSlice<u8>>>,
    /// For elements of the host, and from when on; the longest free first.
    from_host: HashMap<usize, VecDeque<(CudaSlice<u8>, CudaEvent)>>,
}

/// A block in use; it goes back when dropped.
pub(super) struct Block {
    /// Taken when dropped.
    memory: Option<CudaSlice<u8>>,
    address: u64,
    /// As asked for.
    bytes: usize,
    /// Of its class.
    size: usize,
    pool: Arc<Pool>,
    /// Of one for elements of the host: when the stream is done with what had it before.
    free_from: Option<CudaEvent>,
    unwritten: AtomicBool,
    /// What every index in it is known to be below; 0: not known.
    below: AtomicU64,
}

impl Pool {
    pub fn new(stream: &Arc<CudaStream>) -> Self {
        Pool {
            stream: stream.clone(),
            free: Mutex::default(),
            fresh: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        }
    }

    /// Blocks ever taken from the driver.
    pub fn fresh(&self) -> usize {
        self.fresh.load(Relaxed)
    }

    /// The most bytes that were ever in use at once.
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of `bytes` at least, of arbitrary content, for `what`.
    ///
    /// # Errors
    /// [`Error::Cuda`]: the device has no more, though all that was free has been given back to it.
    pub fn take(pool: &Arc<Pool>, bytes: usize, what: &str) -> Result<Block> {
        let (_, size) = class_of(bytes);
        let reused = pool.free().blocks.get_mut(&size).and_then(Vec::pop);
        let memory = match reused {
            Some(memory) => memory,
            None => pool.allocate(size, what)?,
        };
        Ok(Pool::hand_out(pool, memory, bytes, None))
    }

    /// The same for elements that the host writes, the first that happens to the block.
    ///
    /// # Errors
    /// As [`Pool::take`]'s.
    pub fn take_from_host(pool: &Arc<Pool>, bytes: usize, what: &str) -> Result<Block> {
        let (_, size) = class_of(bytes);
        let longest_free = match pool.free().from_host.get_mut(&size) {
            Some(blocks) if blocks.len() > 1 => blocks.pop_front(),
            _ => None,
        };
        let (memory, free_from) = match longest_free {
            Some(block) => block,
            None => {
                let memory = pool.allocate(size, what)?;
                let allocated = pool.stream.record_event(None);
                let marking = driver("alloc", "marking a place in the stream");
                (memory, allocated.map_err(marking)?)
            }
        };
        Ok(Pool::hand_out(pool, memory, bytes, Some(free_from)))
    }

    fn hand_out(
        pool: &Arc<Pool>,
        memory: CudaSlice<u8>,
        bytes: usize,
        free_from: Option<CudaEvent>,
    ) -> Block {
        let size = memory.len();
        let address = memory.device_ptr(&pool.stream).0;
        let held = pool.held.fetch_add(size, Relaxed) + size;
        pool.peak.fetch_max(held, Relaxed);
        Block {
            address,
            memory: Some(memory),
            bytes,
            size,
            pool: pool.clone(),
            unwritten: AtomicBool::new(free_from.is_some()),
            free_from,
            below: AtomicU64::new(0),
        }
    }

    fn allocate(&self, size: usize, what: &str) -> Result<CudaSlice<u8>> {
        // SAFETY: what arbitrary bytes a block holds is the caller's business.
        let allocate = || unsafe { self.stream.alloc::<u8>(size) };
        let memory = allocate().or_else(|_| {
            *self.free() = Free::default();
            self.stream.synchronize()?;
            allocate()
        });
        let memory = memory.map_err(|error| {
            let (free, total) = self.stream.context().mem_get_info().unwrap_or_default();
            Error::Cuda {
                op: "alloc",
                detail: format!(
                    "{size} bytes for {what}: {error:?}; {free} of {total} bytes are free; a smaller batch, `recompute` or 16-bit \
                     base weights need less"
                ),
            }
        })?;
        self.fresh.fetch_add(1, Relaxed);
        Ok(memory)
    }
}

impl Block {
    /// Of its first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// At the first write to one for elements of the host: the place in the stream that another has to wait for.
    pub fn first_write(&self) -> Option<&CudaEvent> {
        (self.free_from.as_ref()).filter(|_| self.unwritten.swap(false, Relaxed))
    }

    /// Whether a tensor in it is all of it, in order.
    pub fn is_all_of(&self, x: &Tensor) -> bool {
        let (layout, bytes) = (x.layout(), x.len() * x.dtype().size());
        layout.offset == 0 && bytes == self.bytes && x.is_contiguous()
    }

    /// What every index in it is below, if that is known: indices that came from the host, or from a selection, are checked
    /// without being read back.
    pub fn below(&self) -> Option<u64> {
        Some(self.below.load(Relaxed)).filter(|below| *below > 0)
    }

    /// Says what every index in it is below from now on.
    pub fn set_below(&self, below: Option<u64>) {
        self.below.store(below.unwrap_or(0), Relaxed);
    }

    /// Fills it with zeros.
    pub fn zero(&self) -> Result<()> {
        let stream = &self.pool.stream;
        let filled = stream.context().bind_to_thread().and_then(|()| {
            // SAFETY: the block has that size; the stream orders this after what used it before.
            unsafe {
                cudarc::driver::result::memset_d8_async(
                    self.address,
                    0,
                    self.size,
                    stream.cu_stream(),
                )
            }
        });
        filled.map_err(driver("alloc", "filling with zeros"))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else {
            return;
        };
        self.pool.held.fetch_sub(self.size, Relaxed);
        let mut free = self.pool.free();
        match self.free_from.take() {
            None => free.blocks.entry(self.size).or_default().push(memory),
            Some(from) => {
                // A device on which nothing can be marked has failed; the driver takes the memory back.
                if from.record(&self.pool.stream).is_ok() {
                    let blocks = free.from_host.entry(self.size).or_default();
                    blocks.push_back((memory, from));
                }
            }
        }
    }
}
