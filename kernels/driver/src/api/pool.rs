//! Memory pools. A pool only accounts: all allocations of a context come from the same memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::border::{Host, Out, Outcome, call};
use super::context::Context;
use super::device::Device;
use super::handle::{Table, fresh};
use super::memory::allocate_async;
use super::status::Status;

/// A pool of a device.
struct Pool {
    ordinal: i32,
    /// The handle of the device's default pool, which cannot be destroyed.
    default: bool,
    release_threshold: AtomicUsize,
}

static POOLS: Table<Pool> = Table::new();

/// Default pools have handles of their own, made from the ordinal.
fn default_pool(device: i32) -> Outcome<usize> {
    let ordinal = Device::get(device)?.ordinal;
    let handle = 0x100 + ordinal as usize;
    if POOLS.get(handle).is_none() {
        POOLS.insert(
            handle,
            Arc::new(Pool {
                ordinal,
                default: true,
                release_threshold: AtomicUsize::new(0),
            }),
        );
    }
    Ok(handle)
}

fn find(pool: usize) -> Outcome<Arc<Pool>> {
    POOLS
        .get(pool)
        .ok_or_else(|| Status::INVALID_VALUE.because("no such memory pool"))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<usize>, device: i32) -> Status {
    call("cuDeviceGetDefaultMemPool", || {
        pool.set(default_pool(device)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetMemPool(pool: Out<usize>, device: i32) -> Status {
    call("cuDeviceGetMemPool", || pool.set(default_pool(device)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolCreate(pool: Out<usize>, properties: Host) -> Status {
    call("cuMemPoolCreate", || {
        // CUmemPoolProps: allocation type, handle types, { location type, ordinal }, ...
        let bytes = properties.read(16)?;
        let word =
            |i: usize| i32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"));
        if (word(0), word(1), word(2)) != (1, 0, 1) {
            return Err(
                Status::NOT_SUPPORTED.because("pools other than of pinned, unshared device memory")
            );
        }
        let ordinal = Device::get(word(3))?.ordinal;
        let handle = fresh();
        POOLS.insert(
            handle,
            Arc::new(Pool {
                ordinal,
                default: false,
                release_threshold: AtomicUsize::new(0),
            }),
        );
        pool.set(handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolDestroy(pool: usize) -> Status {
    call("cuMemPoolDestroy", || {
        if find(pool)?.default {
            return Err(Status::INVALID_VALUE.because("a default pool stays"));
        }
        POOLS.remove(pool);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: usize, _keep: usize) -> Status {
    // Freed memory goes back to the system when it is freed.
    call("cuMemPoolTrimTo", || find(pool).map(drop))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolGetAttribute(pool: usize, attribute: u32, value: Host) -> Status {
    call("cuMemPoolGetAttribute", || {
        let pool = find(pool)?;
        let used = || {
            let context = Context::live()?;
            let (free, total) = context.memory.info();
            Ok::<_, super::status::Failure>(total - free)
        };
        match attribute {
            // Reuse policies: freed memory is reused in stream order, never earlier.
            1..=3 => value.write(4)?.copy_from_slice(&1u32.to_ne_bytes()),
            4 => value.write(8)?.copy_from_slice(
                &(pool.release_threshold.load(Ordering::Relaxed) as u64).to_ne_bytes(),
            ),
            5 | 7 => value.write(8)?.copy_from_slice(&used()?.to_ne_bytes()),
            _ => {
                return Err(Status::NOT_SUPPORTED.because(format!(
                    "pool attribute {attribute} of device {}",
                    pool.ordinal
                )));
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAttribute(pool: usize, attribute: u32, value: Host) -> Status {
    call("cuMemPoolSetAttribute", || {
        let pool = find(pool)?;
        match attribute {
            1..=3 => {}
            4 => {
                let bytes = value.read(8)?.try_into().expect("eight bytes");
                pool.release_threshold
                    .store(u64::from_ne_bytes(bytes) as usize, Ordering::Relaxed);
            }
            _ => {
                return Err(
                    Status::NOT_SUPPORTED.because(format!("setting pool attribute {attribute}"))
                );
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocFromPoolAsync(
    address: Out<u64>,
    bytes: usize,
    pool: usize,
    stream: usize,
) -> Status {
    call("cuMemAllocFromPoolAsync", || {
        find(pool)?;
        allocate_async(&address, bytes, stream)
    })
}
