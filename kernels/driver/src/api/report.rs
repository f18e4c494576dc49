//! What the launches on a device did, handed out as JSON.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::border::{Host, Out, Outcome, call, last_message};
use super::device::Device;
use super::settings::{Log, settings};
use super::status::Status;
use crate::counters::Counters;
use crate::exec::Fault;

/// Launches remembered; the oldest go first.
const REMEMBERED: usize = 1 << 16;

/// One launch that ended well.
#[derive(Serialize)]
pub struct Launch {
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes, dynamic and static.
    pub shared: u32,
    /// What this machine took: no prediction of any GPU.
    pub seconds: f64,
    pub counters: Counters,
}

/// How often the host waited for a device, whether or not there was something to wait for.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Waits {
    /// For a stream.
    pub stream: u64,
    /// For a context.
    pub context: u64,
    /// For an event.
    pub event: u64,
    /// In calls that return when their work is done: copies of memory that is not pinned.
    pub blocking: u64,
}

/// Launches, waits and the last fault of a device; they outlive its contexts.
#[derive(Default)]
pub struct Report(Mutex<Contents>);

#[derive(Default)]
struct Contents {
    launches: std::collections::VecDeque<Launch>,
    fault: Option<Fault>,
    waits: Waits,
}

impl Report {
    fn contents(&self) -> std::sync::MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a launch.
    pub fn launched(&self, launch: Launch) {
        let launches = &mut self.contents().launches;
        if launches.len() == REMEMBERED {
            launches.pop_front();
        }
        launches.push_back(launch);
    }

    /// Counts a wait.
    pub fn waited(&self, count: impl FnOnce(&mut Waits)) {
        count(&mut self.contents().waits);
    }

    /// Remembers a fault.
    pub fn failed(&self, fault: &Fault) {
        self.contents().fault = Some(fault.clone());
    }
}

/// Writes `text` with a NUL if it fits, and always how many bytes that takes: ask with a capacity of 0 first.
fn hand_out(text: &str, buffer: Host, capacity: usize, length: &Out<usize>) -> Outcome {
    length.set(text.len() + 1)?;
    if capacity > text.len() {
        buffer.write_text(text, capacity)?;
    }
    Ok(())
}

fn json(value: &impl Serialize) -> Outcome<String> {
    serde_json::to_string(value).map_err(|e| Status::UNKNOWN.because(e.to_string()))
}

/// The launches on a device since they were last cleared: a JSON array, the oldest first.
#[unsafe(no_mangle)]
pub extern "C" fn deltaw_launches(
    ordinal: i32,
    buffer: Host,
    capacity: usize,
    length: Out<usize>,
) -> Status {
    call("deltaw_launches", || {
        let device = Device::find(ordinal)?;
        let text = json(&device.report.contents().launches)?;
        hand_out(&text, buffer, capacity, &length)
    })
}

/// How often the host waited for a device since it was last cleared: a JSON object.
#[unsafe(no_mangle)]
pub extern "C" fn deltaw_waits(
    ordinal: i32,
    buffer: Host,
    capacity: usize,
    length: Out<usize>,
) -> Status {
    call("deltaw_waits", || {
        let text = json(&Device::find(ordinal)?.report.contents().waits)?;
        hand_out(&text, buffer, capacity, &length)
    })
}

/// Forgets the launches, the waits and the fault of a device.
#[unsafe(no_mangle)]
pub extern "C" fn deltaw_clear(ordinal: i32) -> Status {
    call("deltaw_clear", || {
        *Device::find(ordinal)?.report.contents() = Contents::default();
        Ok(())
    })
}

/// The last fault on a device as a JSON object, or `null`.
#[unsafe(no_mangle)]
pub extern "C" fn deltaw_last_fault(
    ordinal: i32,
    buffer: Host,
    capacity: usize,
    length: Out<usize>,
) -> Status {
    call("deltaw_last_fault", || {
        let device = Device::find(ordinal)?;
        let text = match &device.report.contents().fault {
            None => "null".to_owned(),
            Some(fault) => json(&serde_json::json!({
                "kind": format!("{:?}", fault.kind),
                "kernel": fault.kernel,
                "line": fault.line,
                "block": fault.block,
                "thread": fault.thread,
                "address": fault.address,
                "text": fault.text,
                "message": fault.to_string(),
            }))?,
        };
        hand_out(&text, buffer, capacity, &length)
    })
}

/// What this thread's last failed call wanted, and why it failed.
#[unsafe(no_mangle)]
pub extern "C" fn deltaw_last_error(buffer: Host, capacity: usize, length: Out<usize>) -> Status {
    call("deltaw_last_error", || {
        last_message(|message| hand_out(&message.to_string_lossy(), buffer, capacity, &length))
    })
}

/// What is printed to stderr: 0 nothing, 1 kernel faults and unsupported calls, 2 every failed call.
#[unsafe(no_mangle)]
pub extern "C" fn deltaw_log(level: u32) -> Status {
    call("deltaw_log", || {
        settings().set_log(match level {
            0 => Log::Off,
            1 => Log::Faults,
            _ => Log::All,
        });
        Ok(())
    })
}
