//! Copies between host and device by way of pinned memory, from which the device reads by itself: what goes to new memory on a stream
//! of its own, beside the work that was asked for before.

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
    /// Of all work.
    stream: Arc<CudaStream>,
    copies: Arc<CudaStream>,
    pieces: Vec<Piece>,
    next: usize,
}

struct Piece {
    memory: PinnedHostSlice<u8>,
    /// The last copy from it.
    used: CudaEvent,
}

impl Staging {
    pub fn new(stream: &Arc<CudaStream>) -> std::result::Result<Self, DriverError> {
        Ok(Staging {
            stream: stream.clone(),
            copies: stream.context().new_stream()?,
            pieces: vec![],
            next: 0,
        })
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

    /// Bytes to an address of device memory that has room for them, which is `free_from` a place in the stream on or, without one,
    /// wherever the stream is. Returns before they are there: the stream waits.
    pub fn upload(&mut self, to: u64, bytes: &[u8], free_from: Option<&CudaEvent>) -> Result<()> {
        let (stream, copies) = (self.stream.clone(), self.copies.clone());
        let mut send = |at: usize, part: &[u8]| {
            let piece = self.piece()?;
            let memory = &mut piece.memory.as_mut_slice()?[..part.len()];
            memory.copy_from_slice(part);
            let by = free_from.map_or(&stream, |_| &copies);
            // SAFETY: the caller's room; the piece stays as it is until `used` has come past.
            unsafe {
                result::memcpy_htod_async(to + at as u64, memory, by.cu_stream())?;
            }
            piece.used.record(by)?;
            match free_from {
                Some(_) => stream.wait(&piece.used),
                None => Ok(()),
            }
        };
        let begun = free_from.map_or(Ok(()), |place| copies.wait(place));
        let mut parts = bytes.chunks(PIECE).enumerate();
        begun
            .and_then(|()| parts.try_for_each(|(i, part)| send(i * PIECE, part)))
            .map_err(driver("write", "copying to the device"))
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
