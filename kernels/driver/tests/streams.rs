//! Streams run in order, and wait for each other where CUDA says so.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use cudarc::driver::{result, sys};
use deltaw_emulator::{Device, Waits, install};
use sys::CUresult;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const NON_BLOCKING: u32 = 1;
const DEFAULT: sys::CUstream = null_mut();

/// A device of one's own with its primary context current.
fn device() -> Result<Device> {
    let device = install()?.device_like(80, 64 << 20)?;
    result::init()?;
    let mut context = null_mut();
    // SAFETY: `context` may be written.
    unsafe {
        sys::cuDevicePrimaryCtxRetain(&mut context, device.ordinal() as i32).result()?;
        sys::cuCtxSetCurrent(context).result()?;
    }
    Ok(device)
}

fn stream(flags: u32) -> Result<sys::CUstream> {
    let mut stream = null_mut();
    // SAFETY: `stream` may be written.
    unsafe { sys::cuStreamCreate(&mut stream, flags) }.result()?;
    Ok(stream)
}

fn event(flags: u32) -> Result<sys::CUevent> {
    let mut event = null_mut();
    // SAFETY: `event` may be written.
    unsafe { sys::cuEventCreate(&mut event, flags) }.result()?;
    Ok(event)
}

/// Runs a closure in a stream.
fn host<F: FnOnce() + Send + 'static>(stream: sys::CUstream, work: F) -> Result {
    extern "C" fn call<F: FnOnce()>(argument: *mut c_void) {
        // SAFETY: the pointer is the box that was leaked below, handed over once.
        (unsafe { Box::from_raw(argument.cast::<F>()) })();
    }
    let argument = Box::into_raw(Box::new(work)).cast();
    // SAFETY: `call` matches the argument.
    unsafe { sys::cuLaunchHostFunc(stream, Some(call::<F>), argument) }.result()?;
    Ok(())
}

/// A gate that a stream waits at until the test opens it.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn hold(&self, stream: sys::CUstream) -> Result {
        let Gate(gate) = self.clone();
        host(stream, move || {
            let closed = gate.0.lock().expect("not poisoned");
            drop(gate.1.wait_while(closed, |open| !*open));
        })
    }

    fn open(&self) {
        *self.0.0.lock().expect("not poisoned") = true;
        self.0.1.notify_all();
    }
}

/// The order in which pieces of work ran.
#[derive(Clone, Default)]
struct Order(Arc<Mutex<Vec<char>>>);

impl Order {
    fn note(&self, stream: sys::CUstream, what: char) -> Result {
        let order = self.clone();
        host(stream, move || {
            order.0.lock().expect("not poisoned").push(what)
        })
    }

    fn is(&self, expected: &str) -> bool {
        self.0
            .lock()
            .expect("not poisoned")
            .iter()
            .collect::<String>()
            == expected
    }
}

fn synchronise() -> Result {
    // SAFETY: takes nothing.
    Ok(unsafe { sys::cuCtxSynchronize() }.result()?)
}

#[test]
fn streams_run_apart_and_each_in_order() -> Result {
    let _device = device()?;
    let (a, b) = (stream(NON_BLOCKING)?, stream(NON_BLOCKING)?);
    let (gate, order) = (Gate::default(), Order::default());
    gate.hold(a)?;
    order.note(a, '1')?;
    order.note(a, '2')?;
    order.note(b, 'x')?;
    // SAFETY: live handles.
    unsafe {
        sys::cuStreamSynchronize(b).result()?;
        assert!(order.is("x"));
        assert_eq!(sys::cuStreamQuery(a), CUresult::CUDA_ERROR_NOT_READY);
        assert_eq!(sys::cuStreamQuery(b), CUresult::CUDA_SUCCESS);
        gate.open();
        sys::cuStreamSynchronize(a).result()?;
        assert_eq!(sys::cuStreamQuery(a), CUresult::CUDA_SUCCESS);
    }
    assert!(order.is("x12"));
    Ok(())
}

#[test]
fn an_event_orders_two_streams() -> Result {
    let _device = device()?;
    let (a, b, e) = (stream(NON_BLOCKING)?, stream(NON_BLOCKING)?, event(0)?);
    let (gate, order) = (Gate::default(), Order::default());
    // SAFETY: live handles.
    unsafe {
        // An event that was never recorded holds nobody up.
        sys::cuStreamWaitEvent(b, e, 0).result()?;
        assert_eq!(sys::cuEventQuery(e), CUresult::CUDA_SUCCESS);
        gate.hold(a)?;
        order.note(a, '1')?;
        sys::cuEventRecord(e, a).result()?;
        order.note(a, '3')?;
        sys::cuStreamWaitEvent(b, e, 0).result()?;
        order.note(b, '2')?;
        assert_eq!(sys::cuEventQuery(e), CUresult::CUDA_ERROR_NOT_READY);
        assert!(order.is(""));
        gate.open();
        sys::cuEventSynchronize(e).result()?;
        synchronise()?;
        assert!(order.is("123") || order.is("132"));
        // Destroying a handle leaves queued work alone.
        gate_after_destroy(a)?;
        sys::cuEventDestroy_v2(e).result()?;
        assert_eq!(sys::cuEventQuery(e), CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
    Ok(())
}

fn gate_after_destroy(stream: sys::CUstream) -> Result {
    let (gate, order) = (Gate::default(), Order::default());
    gate.hold(stream)?;
    order.note(stream, 'z')?;
    // SAFETY: a live handle, not used again.
    unsafe { sys::cuStreamDestroy_v2(stream) }.result()?;
    gate.open();
    for _ in 0..5000 {
        if order.is("z") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err("the destroyed stream's work did not run".into())
}

#[test]
fn the_default_stream_waits_for_blocking_streams_only() -> Result {
    let _device = device()?;
    let (blocking, apart) = (stream(0)?, stream(NON_BLOCKING)?);
    let (gate, order) = (Gate::default(), Order::default());
    gate.hold(blocking)?;
    order.note(blocking, '1')?;
    order.note(DEFAULT, '2')?;
    order.note(blocking, '3')?;
    order.note(DEFAULT, '4')?;
    order.note(apart, 'x')?;
    // SAFETY: a live handle.
    unsafe { sys::cuStreamSynchronize(apart) }.result()?;
    assert!(order.is("x"));
    gate.open();
    synchronise()?;
    assert!(order.is("x1234"));
    Ok(())
}

#[test]
fn events_measure_time() -> Result {
    let _device = device()?;
    let (s, start, end, untimed) = (stream(NON_BLOCKING)?, event(0)?, event(0)?, event(2)?);
    let mut milliseconds = 0.0;
    // SAFETY: live handles; the result may be written.
    unsafe {
        assert_eq!(
            sys::cuEventElapsedTime(&mut milliseconds, start, end),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        sys::cuEventRecord(start, s).result()?;
        let gate = Gate::default();
        gate.hold(s)?;
        host(s, || std::thread::sleep(Duration::from_millis(20)))?;
        sys::cuEventRecord(end, s).result()?;
        assert_eq!(
            sys::cuEventElapsedTime(&mut milliseconds, start, end),
            CUresult::CUDA_ERROR_NOT_READY
        );
        gate.open();
        sys::cuEventSynchronize(end).result()?;
        sys::cuEventElapsedTime(&mut milliseconds, start, end).result()?;
        assert!(milliseconds >= 20.0, "{milliseconds}");
        sys::cuEventElapsedTime(&mut milliseconds, end, start).result()?;
        assert!(milliseconds <= -20.0, "{milliseconds}");
        sys::cuEventRecord(untimed, s).result()?;
        sys::cuEventSynchronize(untimed).result()?;
        assert_eq!(
            sys::cuEventElapsedTime(&mut milliseconds, start, untimed),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
    }
    Ok(())
}

#[test]
fn copies_from_pinned_memory_are_late_and_from_other_memory_are_not() -> Result {
    let _device = device()?;
    let s = stream(NON_BLOCKING)?;
    let gate = Gate::default();
    // SAFETY: all ranges have 4 bytes and outlive the copies.
    unsafe {
        let (a, b) = (result::malloc_sync(4)?, result::malloc_sync(4)?);
        let pinned = result::malloc_host(4, 0)?.cast::<u32>();
        let mut pageable = 1u32;
        pinned.write(1);
        gate.hold(s)?;
        sys::cuMemcpyHtoDAsync_v2(a, (&raw const pageable).cast(), 4, s).result()?;
        sys::cuMemcpyHtoDAsync_v2(b, pinned.cast(), 4, s).result()?;
        (&raw mut pageable).write(2);
        pinned.write(2);
        gate.open();
        let mut out = 0u32;
        // A copy into pageable memory is finished when the call returns.
        sys::cuMemcpyDtoHAsync_v2((&raw mut out).cast(), a, 4, s).result()?;
        assert_eq!(out, 1);
        sys::cuMemcpyDtoHAsync_v2((&raw mut out).cast(), b, 4, s).result()?;
        assert_eq!(out, 2);
        result::free_host(pinned.cast())?;
    }
    Ok(())
}

#[test]
fn memory_is_freed_in_stream_order() -> Result {
    let _device = device()?;
    let s = stream(NON_BLOCKING)?;
    let gate = Gate::default();
    // SAFETY: freed once.
    unsafe {
        gate.hold(s)?;
        let a = result::malloc_async(s, 40 << 20)?;
        sys::cuMemsetD8Async(a, 1, 40 << 20, s).result()?;
        result::free_async(a, s)?;
        assert_eq!(result::mem_get_info()?.0, 24 << 20);
        gate.open();
        // Fits only when the first allocation is gone, which this stream's order allows to wait for.
        let b = result::malloc_async(s, 40 << 20)?;
        result::free_async(b, s)?;
        sys::cuStreamSynchronize(s).result()?;
        assert_eq!(result::mem_get_info()?, (64 << 20, 64 << 20));
    }
    Ok(())
}

#[test]
fn waits_are_counted() -> Result {
    let device = device()?;
    let (stream, event) = (stream(NON_BLOCKING)?, event(0)?);
    let mut address = 0;
    let mut pageable = [0u8; 64];
    // SAFETY: the handles are live, the memory is as large as what is written or copied.
    unsafe {
        sys::cuMemAlloc_v2(&mut address, 64).result()?;
        sys::cuMemsetD8Async(address, 7, 64, stream).result()?;
        sys::cuEventRecord(event, stream).result()?;
        assert_eq!(device.waits()?, Waits::default());
        sys::cuEventSynchronize(event).result()?;
        sys::cuEventSynchronize(event).result()?;
        sys::cuStreamSynchronize(stream).result()?;
        sys::cuCtxSynchronize().result()?;
        sys::cuMemcpyDtoH_v2(pageable.as_mut_ptr().cast(), address, 64).result()?;
    }
    let wanted = Waits {
        stream: 1,
        context: 1,
        event: 2,
        blocking: 1,
    };
    assert_eq!((device.waits()?, pageable), (wanted, [7; 64]));
    device.clear()?;
    assert_eq!(device.waits()?, Waits::default());
    Ok(())
}
