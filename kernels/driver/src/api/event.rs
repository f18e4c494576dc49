//! Events: places in a stream that can be waited for, with the time at which they were reached.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::border::{Out, Outcome, call};
use super::context::Context;
use super::handle::{Table, fresh};
use super::status::Status;
use super::stream::{Op, resolve};

/// An event. Each recording has a number; waiting means waiting for the latest at that time.
pub struct Event {
    pub context_handle: usize,
    timed: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    recorded: u64,
    reached: u64,
    at: Option<Instant>,
}

pub static EVENTS: Table<Event> = Table::new();

impl Event {
    /// The event behind a handle.
    pub fn find(handle: usize) -> Outcome<Arc<Event>> {
        EVENTS
            .get(handle)
            .ok_or_else(|| Status::INVALID_HANDLE.because("no such event"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest recording, if it is not reached yet.
    pub fn recording(&self) -> Option<u64> {
        let state = self.state();
        (state.reached < state.recorded).then_some(state.recorded)
    }

    /// Marks a recording as reached now.
    pub fn reach(&self, recording: u64) {
        let mut state = self.state();
        if recording > state.reached {
            (state.reached, state.at) = (recording, Some(Instant::now()));
        }
        self.changed.notify_all();
    }

    /// Waits for a recording.
    pub fn wait(&self, recording: u64) {
        let mut state = self.state();
        while state.reached < recording {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// When its latest recording was reached.
    fn time(&self) -> Outcome<Instant> {
        let state = self.state();
        match state.at {
            _ if !self.timed => {
                Err(Status::INVALID_HANDLE.because("the event was made without timing"))
            }
            None if state.recorded == 0 => {
                Err(Status::INVALID_HANDLE.because("the event was never recorded"))
            }
            Some(at) if state.reached == state.recorded => Ok(at),
            _ => Err(Status::NOT_READY.into()),
        }
    }
}

fn record(event: usize, stream: usize) -> Outcome {
    let (context, stream) = resolve(stream)?;
    let event = Event::find(event)?;
    if event.context_handle != context.handle {
        return Err(
            Status::INVALID_HANDLE.because("the event belongs to another context than the stream")
        );
    }
    // Locked until the work is queued: whoever sees the recording may wait for it in the same stream.
    let mut state = event.state();
    state.recorded += 1;
    context.submit(&stream, Op::Signal(event.clone(), state.recorded));
    Ok(())
}

/// Wall-clock milliseconds between two events on this machine: no prediction of any GPU.
fn elapsed(milliseconds: &Out<f32>, start: usize, end: usize) -> Outcome {
    let (start, end) = (Event::find(start)?.time()?, Event::find(end)?.time()?);
    let seconds = match end.checked_duration_since(start) {
        Some(forward) => forward.as_secs_f64(),
        None => -(start - end).as_secs_f64(),
    };
    milliseconds.set((seconds * 1e3) as f32)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(event: Out<usize>, flags: u32) -> Status {
    call("cuEventCreate", || {
        // 1: blocking synchronisation (every wait here is), 2: no timing, 4: for other processes.
        if flags & !3 != 0 {
            return Err(Status::NOT_SUPPORTED.because(format!("event flags {flags:#x}")));
        }
        let handle = fresh();
        let new = Event {
            context_handle: Context::live()?.handle,
            timed: flags & 2 == 0,
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        EVENTS.insert(handle, Arc::new(new));
        event.set(handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: usize) -> Status {
    call("cuEventDestroy_v2", || {
        EVENTS
            .remove(event)
            .map(drop)
            .ok_or_else(|| Status::INVALID_HANDLE.because("no such event"))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: usize, stream: usize) -> Status {
    call("cuEventRecord", || record(event, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: usize, stream: usize, flags: u32) -> Status {
    call("cuEventRecordWithFlags", || match flags {
        0 => record(event, stream),
        _ => Err(Status::NOT_SUPPORTED.because("external event nodes")),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: usize) -> Status {
    call("cuEventQuery", || {
        let event = Event::find(event)?;
        Context::live()?;
        event
            .recording()
            .map_or(Ok(()), |_| Err(Status::NOT_READY.into()))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: usize) -> Status {
    call("cuEventSynchronize", || {
        let event = Event::find(event)?;
        if let Some(recording) = event.recording() {
            event.wait(recording);
        }
        let context = Context::live()?;
        context.device.report.waited(|waits| waits.event += 1);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, start: usize, end: usize) -> Status {
    call("cuEventElapsedTime", || elapsed(&milliseconds, start, end))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime_v2(
    milliseconds: Out<f32>,
    start: usize,
    end: usize,
) -> Status {
    call("cuEventElapsedTime_v2", || {
        elapsed(&milliseconds, start, end)
    })
}
