//! Where the time goes: spans written in Chrome's trace format.
//!
//! `let _span = trace::span("matmul");` times a scope. While tracing is off, which is the default, that is one
//! relaxed atomic load. [`write`] saves JSON that `chrome://tracing` and Perfetto open:
//! `{"name", "ph": "X", "ts", "dur", "pid", "tid"}` per span, times in µs since [`start`].

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Spans kept in memory at most (32 bytes each); later ones are counted and dropped.
const MOST: usize = 1 << 22;

static ON: AtomicBool = AtomicBool::new(false);
static THREADS: AtomicU64 = AtomicU64::new(1);
static ORIGIN: OnceLock<Instant> = OnceLock::new();
static SPANS: Mutex<Recorded> = Mutex::new(Recorded {
    spans: Vec::new(),
    dropped: 0,
});

thread_local! {
    static THREAD: u64 = THREADS.fetch_add(1, Relaxed);
}

struct Recorded {
    spans: Vec<Event>,
    dropped: u64,
}

/// One finished span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What was done.
    pub name: &'static str,
    /// When it began, µs since tracing started.
    pub start_us: u64,
    /// How long it took, µs.
    pub dur_us: u64,
    /// On which thread, numbered from 1 in the order of their first span.
    pub thread: u64,
}

fn recorded() -> MutexGuard<'static, Recorded> {
    // A panic while pushing leaves a whole list behind.
    SPANS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_us() -> u64 {
    ORIGIN.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// Starts tracing with an empty list.
pub fn start() {
    now_us();
    *recorded() = Recorded {
        spans: Vec::new(),
        dropped: 0,
    };
    ON.store(true, Relaxed);
}

/// Stops tracing; what was recorded stays until the next [`start`].
pub fn stop() {
    ON.store(false, Relaxed);
}

/// Whether spans are being recorded.
pub fn enabled() -> bool {
    ON.load(Relaxed)
}

/// Times the scope it lives in.
#[must_use = "a span ends when it is dropped"]
pub struct Span {
    open: Option<(&'static str, u64)>,
}

/// Opens a span; it ends when the returned guard is dropped.
pub fn span(name: &'static str) -> Span {
    Span {
        open: ON.load(Relaxed).then(|| (name, now_us())),
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some((name, start_us)) = self.open {
            record(name, start_us, now_us().saturating_sub(start_us));
        }
    }
}

/// Records a span that was timed elsewhere, such as on a device; nothing while tracing is off.
pub fn record(name: &'static str, start_us: u64, dur_us: u64) {
    if !enabled() {
        return;
    }
    let thread = THREAD.with(|id| *id);
    let mut list = recorded();
    if list.spans.len() < MOST {
        list.spans.push(Event {
            name,
            start_us,
            dur_us,
            thread,
        });
    } else {
        list.dropped += 1;
    }
}

/// The spans so far, in the order in which they ended.
pub fn events() -> Vec<Event> {
    recorded().spans.clone()
}

/// Writes everything recorded so far as Chrome trace JSON.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(out: impl Write) -> io::Result<()> {
    let (spans, dropped) = {
        let list = recorded();
        (list.spans.clone(), list.dropped)
    };
    let mut out = BufWriter::new(out);
    write!(
        out,
        "{{\"displayTimeUnit\":\"ms\",\"droppedSpans\":{dropped},\"traceEvents\":["
    )?;
    for (i, event) in spans.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let name = serde_json::to_string(event.name)?;
        let Event {
            start_us,
            dur_us,
            thread,
            ..
        } = event;
        let times = format_args!("\"ts\":{start_us},\"dur\":{dur_us},\"pid\":1,\"tid\":{thread}");
        write!(out, "{comma}\n{{\"name\":{name},\"ph\":\"X\",{times}}}")?;
    }
    writeln!(out, "\n]}}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    // One test, since the recorder is one for the whole process.
    #[test]
    fn spans_nest_and_come_out_as_chrome_json() {
        drop(span("trace.test before start"));
        start();
        {
            let _outer = span("trace.test \"outer\"");
            let _inner = span("trace.test inner");
            std::thread::spawn(|| drop(span("trace.test other thread")))
                .join()
                .unwrap();
        }
        record("trace.test device", 5, 7);
        stop();
        drop(span("trace.test after stop"));

        let mut file = Vec::new();
        write(&mut file).unwrap();
        let trace: Value = serde_json::from_slice(&file).unwrap();
        // Other tests of this process may trace at the same time.
        let ours: Vec<&Value> = trace["traceEvents"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| e["name"].as_str().unwrap().starts_with("trace.test"))
            .collect();
        let names: Vec<&str> = ours
            .iter()
            .map(|e| {
                e["name"]
                    .as_str()
                    .unwrap()
                    .trim_start_matches("trace.test ")
            })
            .collect();
        assert_eq!(names, ["other thread", "inner", "\"outer\"", "device"]);
        let number = |i: usize, key: &str| ours[i][key].as_u64().unwrap();
        assert_ne!(number(0, "tid"), number(1, "tid"));
        assert_eq!(number(1, "tid"), number(2, "tid"));
        assert!(number(2, "ts") <= number(1, "ts"));
        assert!(number(2, "ts") + number(2, "dur") >= number(1, "ts") + number(1, "dur"));
        assert_eq!((number(3, "ts"), number(3, "dur")), (5, 7));
        assert!(ours.iter().all(|e| e["ph"] == "X"));
    }
}
