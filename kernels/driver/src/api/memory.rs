//! Device memory, pinned host memory, copies and fills.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::border::{Host, Out, Outcome, call};
use super::context::Context;
use super::status::{Failure, Status};
use super::stream::{enqueue, enqueue_and_wait, resolve};
use crate::memory::MemoryError;

impl From<MemoryError> for Failure {
    fn from(error: MemoryError) -> Failure {
        let status = match error {
            MemoryError::OutOfMemory { .. } | MemoryError::Reserve { .. } => Status::OUT_OF_MEMORY,
            _ => Status::INVALID_VALUE,
        };
        status.because(error.to_string())
    }
}

/// Page-locked host ranges by address: bytes, and the device memory behind them if the driver allocated them.
/// Copies from and to these are asynchronous.
static PINNED: Mutex<BTreeMap<usize, Pinned>> = Mutex::new(BTreeMap::new());

#[derive(Clone, Copy)]
struct Pinned {
    bytes: usize,
    flags: u32,
    device: Option<u64>,
    context: usize,
}

fn pinned() -> MutexGuard<'static, BTreeMap<usize, Pinned>> {
    PINNED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pinned_at(address: usize) -> Option<(usize, Pinned)> {
    let (&start, &range) = pinned().range(..=address).next_back()?;
    (address - start < range.bytes).then_some((start, range))
}

fn is_pinned(host: Host, bytes: usize) -> bool {
    pinned_at(host.address())
        .is_some_and(|(start, range)| host.address() - start + bytes <= range.bytes)
}

/// Forgets the ranges of a context that is gone.
pub fn forget_pinned(context: usize) {
    pinned().retain(|_, range| range.context != context);
}

fn allocate(bytes: usize) -> Outcome<u64> {
    if bytes == 0 {
        return Err(Status::INVALID_VALUE.because("an allocation of 0 bytes"));
    }
    Ok(Context::live()?.memory.alloc(bytes as u64)?)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> Status {
    call("cuMemGetInfo_v2", || {
        let (left, capacity) = Context::live()?.memory.info();
        free.set_if_wanted(left as usize);
        total.set_if_wanted(capacity as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) -> Status {
    call("cuMemAlloc_v2", || address.set(allocate(bytes)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocPitch_v2(
    address: Out<u64>,
    pitch: Out<usize>,
    width: usize,
    height: usize,
    _element: u32,
) -> Status {
    call("cuMemAllocPitch_v2", || {
        // Rows begin where a texture could: every 512 bytes.
        let row = width
            .checked_next_multiple_of(512)
            .ok_or(Status::INVALID_VALUE)?;
        address.set(allocate(row.saturating_mul(height))?)?;
        pitch.set(row)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Status {
    call("cuMemFree_v2", || {
        if address == 0 {
            return Context::live().map(drop);
        }
        let context = Context::owner(address)?;
        context.finish();
        context.check()?;
        Ok(context.memory.free(address)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAddressRange_v2(
    start: Out<u64>,
    size: Out<usize>,
    address: u64,
) -> Status {
    call("cuMemGetAddressRange_v2", || {
        let unknown = || Status::NOT_FOUND.because(format!("{address:#x} lies in no allocation"));
        let (base, bytes) = Context::live()?
            .memory
            .allocation(address)
            .ok_or_else(unknown)?;
        start.set_if_wanted(base);
        size.set_if_wanted(bytes as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: usize) -> Status {
    call("cuMemAllocAsync", || {
        allocate_async(&address, bytes, stream)
    })
}

/// The address is known at once; what was freed before in the same stream is waited for only if memory is short.
pub fn allocate_async(address: &Out<u64>, bytes: usize, stream: usize) -> Outcome {
    let (context, stream) = resolve(stream)?;
    match allocate(bytes) {
        Err(failure) if failure.status == Status::OUT_OF_MEMORY => {
            stream.finish();
            context.check()?;
            address.set(allocate(bytes)?)
        }
        outcome => address.set(outcome?),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: usize) -> Status {
    call("cuMemFreeAsync", || {
        let (context, _) = resolve(stream)?;
        let owner = Context::owner(address)?;
        if owner.handle == context.handle {
            return enqueue(stream, move |context| Ok(context.memory.free(address)?));
        }
        // The stream says nothing about the order of work in the other context.
        owner.finish();
        owner.check()?;
        Ok(owner.memory.free(address)?)
    })
}

fn host_allocate(target: &Out<Host>, bytes: usize, flags: u32) -> Outcome {
    let context = Context::live()?;
    let address = allocate(bytes)?;
    let host = Host::at(context.memory.host_pointer(address, bytes as u64)? as usize);
    pinned().insert(
        host.address(),
        Pinned {
            bytes,
            flags,
            device: Some(address),
            context: context.handle,
        },
    );
    target.set(host)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocHost_v2(target: Out<Host>, bytes: usize) -> Status {
    call("cuMemAllocHost_v2", || host_allocate(&target, bytes, 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostAlloc(target: Out<Host>, bytes: usize, flags: u32) -> Status {
    call("cuMemHostAlloc", || host_allocate(&target, bytes, flags))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(host: Host) -> Status {
    call("cuMemFreeHost", || {
        let unknown =
            || Status::INVALID_VALUE.because("not the start of memory from cuMemHostAlloc");
        let range = pinned().get(&host.address()).copied().ok_or_else(unknown)?;
        let address = range.device.ok_or_else(unknown)?;
        let context = Context::find(range.context)?;
        context.finish();
        pinned().remove(&host.address());
        context.memory.free(address)?;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetDevicePointer_v2(
    address: Out<u64>,
    host: Host,
    _flags: u32,
) -> Status {
    call("cuMemHostGetDevicePointer_v2", || {
        let (start, range) = pinned_at(host.address())
            .ok_or_else(|| Status::INVALID_VALUE.because("no pinned memory"))?;
        let device = range.device.ok_or_else(|| {
            Status::NOT_SUPPORTED
                .because("kernels reach memory from cuMemHostAlloc, not what was registered")
        })?;
        address.set(device + (host.address() - start) as u64)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetFlags(flags: Out<u32>, host: Host) -> Status {
    call("cuMemHostGetFlags", || {
        let found = pinned_at(host.address())
            .ok_or_else(|| Status::INVALID_VALUE.because("no pinned memory"))?;
        flags.set(found.1.flags)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(host: Host, bytes: usize, flags: u32) -> Status {
    call("cuMemHostRegister_v2", || {
        let context = Context::live()?;
        if host.address() == 0 || bytes == 0 {
            return Err(Status::INVALID_VALUE.because("an empty range"));
        }
        if pinned_at(host.address()).is_some() {
            return Err(Status::HOST_MEMORY_ALREADY_REGISTERED.into());
        }
        pinned().insert(
            host.address(),
            Pinned {
                bytes,
                flags,
                device: None,
                context: context.handle,
            },
        );
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(host: Host) -> Status {
    call("cuMemHostUnregister", || {
        let context = Context::live()?;
        if pinned()
            .get(&host.address())
            .is_none_or(|range| range.device.is_some())
        {
            return Err(Status::HOST_MEMORY_NOT_REGISTERED.into());
        }
        context.finish();
        pinned().remove(&host.address());
        Ok(())
    })
}

fn to_device(address: u64, host: Host, bytes: usize, stream: usize) -> Outcome {
    let (context, _) = resolve(stream)?;
    context.memory.check(address, bytes as u64)?;
    if is_pinned(host, bytes) {
        return enqueue(stream, move |context| {
            Ok(context.memory.write(address, host.read(bytes)?)?)
        });
    }
    // Pageable memory may change as soon as the call returns.
    let staged = host.read(bytes)?.to_vec();
    enqueue(stream, move |context| {
        Ok(context.memory.write(address, &staged)?)
    })
}

fn to_host(host: Host, address: u64, bytes: usize, stream: usize) -> Outcome {
    let (context, _) = resolve(stream)?;
    context.memory.check(address, bytes as u64)?;
    host.write(bytes)?; // a null pointer is the caller's mistake, and must not become the context's fault
    let copy = move |context: &Context| Ok(context.memory.read(address, host.write(bytes)?)?);
    if is_pinned(host, bytes) {
        enqueue(stream, copy)
    } else {
        enqueue_and_wait(stream, copy)
    }
}

fn within_device(target: u64, source: u64, bytes: usize, stream: usize) -> Outcome {
    let (context, _) = resolve(stream)?;
    context.memory.check(target, bytes as u64)?;
    context.memory.check(source, bytes as u64)?;
    enqueue(stream, move |context| {
        Ok(context.memory.copy(target, source, bytes as u64)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoD_v2(target: u64, source: Host, bytes: usize) -> Status {
    call("cuMemcpyHtoD_v2", || {
        Context::live()?.memory.check(target, bytes as u64)?;
        source.read(bytes)?;
        enqueue_and_wait(0, move |context| {
            Ok(context.memory.write(target, source.read(bytes)?)?)
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoH_v2(target: Host, source: u64, bytes: usize) -> Status {
    call("cuMemcpyDtoH_v2", || {
        Context::live()?.memory.check(source, bytes as u64)?;
        target.write(bytes)?;
        enqueue_and_wait(0, move |context| {
            Ok(context.memory.read(source, target.write(bytes)?)?)
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(target: u64, source: u64, bytes: usize) -> Status {
    call("cuMemcpyDtoD_v2", || {
        within_device(target, source, bytes, 0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(
    target: u64,
    source: Host,
    bytes: usize,
    stream: usize,
) -> Status {
    call("cuMemcpyHtoDAsync_v2", || {
        to_device(target, source, bytes, stream)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(
    target: Host,
    source: u64,
    bytes: usize,
    stream: usize,
) -> Status {
    call("cuMemcpyDtoHAsync_v2", || {
        to_host(target, source, bytes, stream)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(
    target: u64,
    source: u64,
    bytes: usize,
    stream: usize,
) -> Status {
    call("cuMemcpyDtoDAsync_v2", || {
        within_device(target, source, bytes, stream)
    })
}

/// Between two contexts, by way of the host.
fn between(target: (u64, usize), source: (u64, usize), bytes: usize, stream: usize) -> Outcome {
    let (to, from): (Arc<Context>, Arc<Context>) =
        (Context::find(target.1)?, Context::find(source.1)?);
    let (target, source) = (target.0, source.0);
    to.memory.check(target, bytes as u64)?;
    from.memory.check(source, bytes as u64)?;
    enqueue_and_wait(stream, move |_| {
        let mut staged = vec![0; bytes];
        from.memory.read(source, &mut staged)?;
        Ok(to.memory.write(target, &staged)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeer(
    target: u64,
    to: usize,
    source: u64,
    from: usize,
    bytes: usize,
) -> Status {
    call("cuMemcpyPeer", || {
        between((target, to), (source, from), bytes, 0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    target: u64,
    to: usize,
    source: u64,
    from: usize,
    bytes: usize,
    stream: usize,
) -> Status {
    call("cuMemcpyPeerAsync", || {
        between((target, to), (source, from), bytes, stream)
    })
}

/// Fills `rows` rows of `width` elements, `pitch` bytes apart, in stream order. Fills of device memory are
/// asynchronous even where the call has no `Async` in its name.
fn fill<const N: usize>(
    address: u64,
    pitch: usize,
    pattern: [u8; N],
    width: usize,
    rows: usize,
    stream: usize,
) -> Outcome {
    let (context, _) = resolve(stream)?;
    if !address.is_multiple_of(N as u64) || !pitch.is_multiple_of(N) {
        return Err(Status::INVALID_VALUE.because(format!(
            "{address:#x} or the pitch {pitch} is no multiple of {N}"
        )));
    }
    let row = move |i: usize| address + (i as u64).saturating_mul(pitch as u64);
    for i in [0, rows.saturating_sub(1)] {
        context
            .memory
            .check(row(i), width.saturating_mul(N) as u64)?;
    }
    enqueue(stream, move |context| {
        (0..rows)
            .try_for_each(|i| context.memory.fill(row(i), &pattern, width as u64))
            .map_err(Failure::from)
    })
}

macro_rules! fills {
    ($($value:ty: $flat:ident $flat_async:ident $rows:ident $rows_async:ident)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $flat(address: u64, value: $value, count: usize) -> Status {
            call(stringify!($flat), || fill(address, 0, value.to_ne_bytes(), count, 1, 0))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $flat_async(address: u64, value: $value, count: usize, stream: usize) -> Status {
            call(stringify!($flat_async), || fill(address, 0, value.to_ne_bytes(), count, 1, stream))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $rows(address: u64, pitch: usize, value: $value, width: usize, height: usize) -> Status {
            call(stringify!($rows), || fill(address, pitch, value.to_ne_bytes(), width, height, 0))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $rows_async(
            address: u64, pitch: usize, value: $value, width: usize, height: usize, stream: usize,
        ) -> Status {
            call(stringify!($rows_async), || fill(address, pitch, value.to_ne_bytes(), width, height, stream))
        }
    )*};
}

fills! {
    u8: cuMemsetD8_v2 cuMemsetD8Async cuMemsetD2D8_v2 cuMemsetD2D8Async
    u16: cuMemsetD16_v2 cuMemsetD16Async cuMemsetD2D16_v2 cuMemsetD2D16Async
    u32: cuMemsetD32_v2 cuMemsetD32Async cuMemsetD2D32_v2 cuMemsetD2D32Async
}

#[unsafe(no_mangle)]
pub extern "C" fn cuPointerGetAttribute(target: Host, attribute: u32, address: u64) -> Status {
    call("cuPointerGetAttribute", || {
        let context = Context::live()?;
        let unknown = || {
            Status::INVALID_VALUE.because(format!(
                "{address:#x} lies in no allocation of this context"
            ))
        };
        let (start, bytes) = context.memory.allocation(address).ok_or_else(unknown)?;
        let put = |value: &[u8]| {
            target
                .write(value.len())
                .map(|place| place.copy_from_slice(value))
        };
        match attribute {
            1 => put(&context.handle.to_ne_bytes()),
            2 => put(&2u32.to_ne_bytes()), // device memory
            3 => put(&address.to_ne_bytes()),
            8 => put(&[0]), // not managed
            9 => put(&context.device.ordinal.to_ne_bytes()),
            11 => put(&start.to_ne_bytes()),
            12 => put(&(bytes as usize).to_ne_bytes()),
            13 => put(&[1]), // mapped
            _ => Err(Status::NOT_SUPPORTED.because(format!("pointer attribute {attribute}"))),
        }
    })
}
