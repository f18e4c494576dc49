//! Copies between host and device by way of pinned memory, from which the device reads by itself.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, DriverError, PinnedHostSlice, result};

use super::driver;
use crate::error::Result;

/// Bytes of a piece: what goes at a time.
const PIECE: usize = 1 << 20;
/// Pieces: one may be filled while the other is on its way.
const PIECES: usize = 2;

/// Pinned memory, made at its first use.
pub(super) struct Staging {
    stream: Arc<CudaStream>,
    pieces: Vec<Piece>,
    next: usize,
}

struct Piece {
    memory: PinnedHostSlice<u8>,
    /// The last copy from it.
    used: CudaEvent,
}

impl Staging {
    pub fn new(stream: &Arc<CudaStream>) -> Self {
        Staging {
            stream: stream.clone(),
            pieces: vec![],
            next: 0,
        }
    }

    /// The next piece, once the device has read it.
    fn piece(&mut self) -> std::result::Result<&mut Piece, DriverError> {
        let context = self.stream.context();
        context.bind_to_thread()?;
        if self.pieces.len() < PIECES {
            // SAFETY: bytes may have any value, and are written before they are read. Flags 0: cached, since it is read, too.
            let memory = unsafe { context.alloc_pinned_with_flags::<u8>(PIECE, 0) }?;
            let used = context.new_event(None)?;
            self.pieces.push(Piece { memory, used });
        }
        self.next = (self.next + 1) % PIECES;
        let piece = self.next.min(self.pieces.len() - 1);
        let piece = &mut self.pieces[piece];
        piece.used.synchronize()?;
        Ok(piece)
    }

    /// Bytes to an address of device memory that has room for them. Returns before they are there: the stream waits.
    pub fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<()> {
        let stream = self.stream.clone();
        let mut send = |at: usize, part: &[u8]| {
            let piece = self.piece()?;
            let memory = &mut piece.memory.as_mut_slice()?[..part.len()];
            memory.copy_from_slice(part);
            // SAFETY: the caller's room; the piece stays as it is until `used` has come past.
            unsafe {
                result::memcpy_htod_async(to + at as u64, memory, stream.cu_stream())?;
            }
            piece.used.record(&stream)
        };
        for (i, part) in bytes.chunks(PIECE).enumerate() {
            send(i * PIECE, part).map_err(driver("write", "copying to the device"))?;
        }
        Ok(())
    }

    /// `count` bytes from an address of device memory, when all that was asked for before is done.
    pub fn download(&mut self, from: u64, count: usize) -> Result<Vec<u8>> {
        let stream = self.stream.clone();
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            let (at, len) = (bytes.len(), PIECE.min(count - bytes.len()));
            let mut receive = || {
                let memory = &mut self.piece()?.memory.as_mut_slice()?[..len];
                // SAFETY: the caller's memory; the copy is waited for.
                unsafe {
                    result::memcpy_dtoh_async(memory, from + at as u64, stream.cu_stream())?;
                }
                stream.synchronize()?;
                bytes.extend_from_slice(memory);
                Ok(())
            };
            receive().map_err(driver(
                "read",
                "copying from the device, or a kernel before it",
            ))?;
        }
        Ok(bytes)
    }
}
