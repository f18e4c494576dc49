//! Contexts: the memory, streams and fault of one user of a device, and which of them is current.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;

use super::border::{Host, In, Out, Outcome, call};
use super::device::{Device, DeviceConfig};
use super::event::EVENTS;
use super::handle::{Table, fresh};
use super::memory::forget_pinned;
use super::module::{FUNCTIONS, MODULES};
use super::settings::{Log, settings};
use super::status::{Failure, Status};
use super::stream::{Kind, Op, STREAMS, Stream};
use crate::memory::{LOWEST_BASE, Memory, MemoryConfig};

/// A context.
pub struct Context {
    pub handle: usize,
    pub device: Arc<Device>,
    pub memory: Memory,
    flags: AtomicU32,
    limits: [AtomicUsize; 3],
    fault: OnceLock<Failure>,
    streams: Mutex<Streams>,
}

struct Streams {
    legacy: Arc<Stream>,
    others: Vec<Arc<Stream>>,
    per_thread: HashMap<ThreadId, Arc<Stream>>,
}

static CONTEXTS: Table<Context> = Table::new();

/// The first device address of the next context: no two contexts share one, so that foreign pointers fault.
static NEXT_BASE: AtomicU64 = AtomicU64::new(LOWEST_BASE);

thread_local! {
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

impl Context {
    /// A new context on `device`.
    pub fn create(
        device: &Arc<Device>,
        config: &DeviceConfig,
        flags: u32,
    ) -> Outcome<Arc<Context>> {
        let mut memory = MemoryConfig {
            base: LOWEST_BASE,
            capacity: config.memory,
            shadow: config.checks.memory,
        };
        let span = memory.span().next_power_of_two();
        memory.base = NEXT_BASE.fetch_add(span, Ordering::Relaxed);
        let memory = Memory::new(memory)?;
        let handle = fresh();
        let context = Arc::new_cyclic(|weak| Context {
            handle,
            device: device.clone(),
            memory,
            flags: AtomicU32::new(flags),
            // What current drivers give: stack of a thread, printf buffer, device heap.
            limits: [1 << 10, 1 << 20, 8 << 20].map(AtomicUsize::new),
            fault: OnceLock::new(),
            streams: Mutex::new(Streams {
                legacy: Stream::new(weak.clone(), handle, Kind::Legacy),
                others: Vec::new(),
                per_thread: HashMap::new(),
            }),
        });
        CONTEXTS.insert(handle, context.clone());
        Ok(context)
    }

    /// The context behind a handle.
    pub fn find(handle: usize) -> Outcome<Arc<Context>> {
        CONTEXTS
            .get(handle)
            .ok_or_else(|| Status::CONTEXT_IS_DESTROYED.because("no such context, or no more"))
    }

    /// The context that is current on this thread, dead or alive.
    pub fn current() -> Outcome<Arc<Context>> {
        let handle = CURRENT.with_borrow(|stack| stack.last().copied());
        Context::find(handle.ok_or_else(|| {
            Status::INVALID_CONTEXT.because("no context is current on this thread")
        })?)
    }

    /// The context whose memory an allocation is in: the current one, or another. Addresses are unique, so that memory
    /// can be freed whatever is current, which cudarc relies on.
    pub fn owner(address: u64) -> Outcome<Arc<Context>> {
        let owns = |context: &Context| {
            context
                .memory
                .allocation(address)
                .is_some_and(|(start, _)| start == address)
        };
        let current = Context::live()?;
        if owns(&current) {
            return Ok(current);
        }
        let unknown = || {
            Status::INVALID_VALUE.because(format!("{address:#x} is not the start of an allocation"))
        };
        let owner = CONTEXTS.find(owns).ok_or_else(unknown)?;
        owner.check()?;
        Ok(owner)
    }

    /// The current context, if no kernel has failed in it.
    pub fn live() -> Outcome<Arc<Context>> {
        let context = Context::current()?;
        context.check()?;
        Ok(context)
    }

    /// The failure that killed it, if one did.
    pub fn check(&self) -> Outcome {
        self.fault
            .get()
            .map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Kills it: every call from now on gives this failure, as after a fault on a real GPU.
    pub fn poison(&self, failure: Failure) {
        if settings().log() != Log::Off {
            eprintln!("deltaw driver: {}", failure.message);
        }
        // Only the first failure counts.
        let _ = self.fault.set(failure);
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream behind a handle: 0 and 1 are the legacy default stream, 2 the thread's own.
    pub fn stream(self: &Arc<Self>, handle: usize) -> Outcome<Arc<Stream>> {
        let mut streams = self.streams();
        match handle {
            0 | 1 => Ok(streams.legacy.clone()),
            2 => {
                let fresh = || Stream::new(Arc::downgrade(self), self.handle, Kind::Blocking);
                let stream = streams
                    .per_thread
                    .entry(std::thread::current().id())
                    .or_insert_with(fresh)
                    .clone();
                if !streams.others.iter().any(|s| Arc::ptr_eq(s, &stream)) {
                    streams.others.push(stream.clone());
                }
                Ok(stream)
            }
            _ => STREAMS
                .get(handle)
                .ok_or_else(|| Status::INVALID_HANDLE.because("no such stream")),
        }
    }

    /// Makes a stream.
    pub fn add_stream(self: &Arc<Self>, kind: Kind) -> Arc<Stream> {
        let stream = Stream::new(Arc::downgrade(self), self.handle, kind);
        STREAMS.insert(stream.handle, stream.clone());
        self.streams().others.push(stream.clone());
        stream
    }

    /// Takes a stream out; what it was given still runs.
    pub fn remove_stream(&self, stream: &Arc<Stream>) {
        STREAMS.remove(stream.handle);
        self.streams().others.retain(|s| !Arc::ptr_eq(s, stream));
        stream.close();
    }

    /// Gives work to a stream. The legacy stream and the blocking ones wait for each other; what waits was always
    /// given later than what it waits for, so that there are no cycles.
    pub fn submit(&self, stream: &Arc<Stream>, op: Op) -> u64 {
        let streams = self.streams();
        match stream.kind {
            Kind::Legacy => {
                for other in streams.others.iter().filter(|s| s.kind == Kind::Blocking) {
                    if let Some(ticket) = other.pending() {
                        stream.push(Op::After(other.clone(), ticket));
                    }
                }
            }
            Kind::Blocking => {
                if let Some(ticket) = streams.legacy.pending() {
                    stream.push(Op::After(streams.legacy.clone(), ticket));
                }
            }
            Kind::NonBlocking => {}
        }
        stream.push(op)
    }

    /// Waits for everything that was given to its streams.
    pub fn finish(&self) {
        let streams = self.streams();
        let all: Vec<Arc<Stream>> = streams
            .others
            .iter()
            .chain([&streams.legacy])
            .cloned()
            .collect();
        drop(streams);
        for stream in all {
            stream.finish();
        }
    }

    /// Ends it: waits for its work, then invalidates all that belongs to it.
    pub fn destroy(&self) {
        self.finish();
        CONTEXTS.remove(self.handle);
        STREAMS.retain(|x| x.context_handle != self.handle);
        EVENTS.retain(|x| x.context_handle != self.handle);
        MODULES.retain(|x| x.context.handle != self.handle);
        forget_pinned(self.handle);
        FUNCTIONS.retain(|x| x.module.context.handle != self.handle);
        let streams = self.streams();
        streams
            .others
            .iter()
            .chain([&streams.legacy])
            .for_each(|stream| stream.close());
    }
}

fn set_current(handle: usize) {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        if handle != 0 {
            stack.push(handle);
        }
    });
}

fn create(context: &Out<usize>, flags: u32, device: i32) -> Outcome {
    let device = Device::get(device)?;
    let new = Context::create(&device, &device.config(), flags)?;
    CURRENT.with_borrow_mut(|stack| stack.push(new.handle));
    context.set(new.handle)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v2(context: Out<usize>, flags: u32, device: i32) -> Status {
    call("cuCtxCreate_v2", || create(&context, flags, device))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v3(
    context: Out<usize>,
    _affinity: Host,
    count: i32,
    flags: u32,
    device: i32,
) -> Status {
    call("cuCtxCreate_v3", || match count {
        0 => create(&context, flags, device),
        _ => Err(Status::UNSUPPORTED_EXEC_AFFINITY.into()),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v4(
    context: Out<usize>,
    parameters: In<[usize; 3]>,
    flags: u32,
    device: i32,
) -> Status {
    call("cuCtxCreate_v4", || {
        // { exec affinities, their number, CIG parameters }
        if !parameters.is_null() && parameters.get(0)? != [0; 3] {
            return Err(Status::NOT_SUPPORTED.because("execution affinity and CUDA in graphics"));
        }
        create(&context, flags, device)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: usize) -> Status {
    call("cuCtxDestroy_v2", || {
        Context::find(context)?.destroy();
        CURRENT.with_borrow_mut(|stack| stack.pop_if(|top| *top == context));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: usize) -> Status {
    call("cuCtxPushCurrent_v2", || {
        let handle = Context::find(context)?.handle;
        CURRENT.with_borrow_mut(|stack| stack.push(handle));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPopCurrent_v2(context: Out<usize>) -> Status {
    call("cuCtxPopCurrent_v2", || {
        let top = CURRENT.with_borrow_mut(Vec::pop);
        context.set_if_wanted(top.ok_or(Status::INVALID_CONTEXT)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: usize) -> Status {
    call("cuCtxSetCurrent", || {
        if context != 0 {
            Context::find(context)?;
        }
        set_current(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(context: Out<usize>) -> Status {
    call("cuCtxGetCurrent", || {
        context.set(CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0)))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice(device: Out<i32>) -> Status {
    call("cuCtxGetDevice", || {
        device.set(Context::current()?.device.ordinal)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetFlags(flags: Out<u32>) -> Status {
    call("cuCtxGetFlags", || {
        flags.set(Context::current()?.flags.load(Ordering::Relaxed))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: u32) -> Status {
    call("cuCtxSetFlags", || {
        Context::current()?.flags.store(flags, Ordering::Relaxed);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetId(context: usize, id: Out<u64>) -> Status {
    call("cuCtxGetId", || {
        let context = if context == 0 {
            Context::current()?
        } else {
            Context::find(context)?
        };
        id.set(context.handle as u64)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetApiVersion(context: usize, version: Out<u32>) -> Status {
    call("cuCtxGetApiVersion", || {
        if context != 0 {
            Context::find(context)?;
        }
        version.set(3020)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Status {
    call("cuCtxSynchronize", || {
        let context = Context::current()?;
        context.device.report.waited(|waits| waits.context += 1);
        context.finish();
        context.check()
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetLimit(value: Out<usize>, limit: u32) -> Status {
    call("cuCtxGetLimit", || {
        let context = Context::current()?;
        let limit = context
            .limits
            .get(limit as usize)
            .ok_or(Status::UNSUPPORTED_LIMIT)?;
        value.set(limit.load(Ordering::Relaxed))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(limit: u32, value: usize) -> Status {
    call("cuCtxSetLimit", || {
        let context = Context::live()?;
        let limit = context
            .limits
            .get(limit as usize)
            .ok_or(Status::UNSUPPORTED_LIMIT)?;
        limit.store(value, Ordering::Relaxed);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCacheConfig(preference: Out<u32>) -> Status {
    call("cuCtxGetCacheConfig", || {
        Context::live()?;
        preference.set(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCacheConfig(_preference: u32) -> Status {
    // A hint: there is no cache to divide.
    call("cuCtxSetCacheConfig", || Context::live().map(drop))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) -> Status {
    call("cuCtxGetStreamPriorityRange", || {
        Context::live()?;
        least.set_if_wanted(0);
        greatest.set_if_wanted(0);
        Ok(())
    })
}
