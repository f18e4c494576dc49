//! Streams: queues of work, each with a thread that does it in order.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use super::border::{Callback, Host, Out, Outcome, call};
use super::context::Context;
use super::event::Event;
use super::handle::{Table, fresh};
use super::settings::settings;
use super::status::Status;

/// How a stream stands to the legacy default stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The default stream itself.
    Legacy,
    /// Waits for the default stream, and is waited for.
    Blocking,
    /// Goes its own way.
    NonBlocking,
}

/// One piece of work. A failed context skips `Run`; the rest still happens, so that nobody waits forever.
pub enum Op {
    /// Does something in the context; a failure kills it.
    Run(Box<dyn FnOnce(&Context) -> Outcome + Send>),
    /// Marks an event's recording as reached.
    Signal(Arc<Event>, u64),
    /// Waits for an event's recording.
    Wait(Arc<Event>, u64),
    /// Waits for another stream.
    After(Arc<Stream>, u64),
}

impl Op {
    /// [`Op::Run`].
    pub fn run(work: impl FnOnce(&Context) -> Outcome + Send + 'static) -> Op {
        Op::Run(Box::new(work))
    }
}

/// A stream.
pub struct Stream {
    pub handle: usize,
    pub kind: Kind,
    pub context_handle: usize,
    context: Weak<Context>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Op>,
    /// Tickets given out; the work of ticket n is done when `done` ≥ n.
    given: u64,
    done: u64,
    working: bool,
    closed: bool,
}

pub static STREAMS: Table<Stream> = Table::new();

impl Stream {
    /// A stream without work; its thread starts with the first.
    pub fn new(context: Weak<Context>, context_handle: usize, kind: Kind) -> Arc<Stream> {
        Arc::new(Stream {
            handle: fresh(),
            kind,
            context_handle,
            context,
            queue: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// The context it belongs to.
    pub fn context(&self) -> Outcome<Arc<Context>> {
        self.context
            .upgrade()
            .ok_or_else(|| Status::CONTEXT_IS_DESTROYED.into())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends work and returns its ticket. [`Context::submit`] keeps the order between streams.
    pub fn push(self: &Arc<Self>, op: Op) -> u64 {
        let mut queue = self.queue();
        queue.given += 1;
        queue.waiting.push_back(op);
        if !queue.working {
            queue.working = true;
            let stream = self.clone();
            std::thread::spawn(move || stream.work());
        }
        self.changed.notify_all();
        queue.given
    }

    /// The last ticket, if its work is not done.
    pub fn pending(&self) -> Option<u64> {
        let queue = self.queue();
        (queue.done < queue.given).then_some(queue.given)
    }

    /// Waits until the work of a ticket is done.
    pub fn wait(&self, ticket: u64) {
        let mut queue = self.queue();
        while queue.done < ticket {
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for all that it was given so far.
    pub fn finish(&self) {
        if let Some(ticket) = self.pending() {
            self.wait(ticket);
        }
    }

    /// Lets its thread end when the queue is empty.
    pub fn close(&self) {
        self.queue().closed = true;
        self.changed.notify_all();
    }

    fn work(self: Arc<Self>) {
        let mut queue = self.queue();
        loop {
            if let Some(op) = queue.waiting.pop_front() {
                drop(queue);
                self.perform(op);
                queue = self.queue();
                queue.done += 1;
                self.changed.notify_all();
            } else if queue.closed {
                queue.working = false;
                return;
            } else {
                queue = self
                    .changed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn perform(&self, op: Op) {
        match op {
            Op::Run(work) => {
                let Some(context) = self.context.upgrade().filter(|c| c.check().is_ok()) else {
                    return;
                };
                let outcome = catch_unwind(AssertUnwindSafe(|| work(&context)));
                if let Err(failure) =
                    outcome.unwrap_or_else(|_| Err(Status::UNKNOWN.because("the driver panicked")))
                {
                    context.poison(failure);
                }
            }
            Op::Signal(event, recording) => event.reach(recording),
            Op::Wait(event, recording) => event.wait(recording),
            Op::After(stream, ticket) => stream.wait(ticket),
        }
    }
}

/// The stream behind a handle and its context, which must be alive.
pub fn resolve(handle: usize) -> Outcome<(Arc<Context>, Arc<Stream>)> {
    let stream = match STREAMS.get(handle) {
        Some(stream) => stream,
        None => Context::live()?.stream(handle)?,
    };
    let context = stream.context()?;
    context.check()?;
    Ok((context, stream))
}

/// Gives work to a stream.
pub fn enqueue(handle: usize, work: impl FnOnce(&Context) -> Outcome + Send + 'static) -> Outcome {
    let (context, stream) = resolve(handle)?;
    context.submit(&stream, Op::run(work));
    Ok(())
}

/// Gives work to a stream and waits for it.
pub fn enqueue_and_wait(
    handle: usize,
    work: impl FnOnce(&Context) -> Outcome + Send + 'static,
) -> Outcome {
    let (context, stream) = resolve(handle)?;
    context.device.report.waited(|waits| waits.blocking += 1);
    let ticket = context.submit(&stream, Op::run(work));
    stream.wait(ticket);
    context.check()
}

/// [`enqueue`], or [`enqueue_and_wait`] where the environment asks for launches that block.
pub fn enqueue_launch(
    handle: usize,
    work: impl FnOnce(&Context) -> Outcome + Send + 'static,
) -> Outcome {
    if settings().launch_blocking {
        enqueue_and_wait(handle, work)
    } else {
        enqueue(handle, work)
    }
}

fn create(target: &Out<usize>, flags: u32) -> Outcome {
    let kind = match flags {
        0 => Kind::Blocking,
        1 => Kind::NonBlocking,
        _ => return Err(Status::INVALID_VALUE.because(format!("no stream flags {flags:#x}"))),
    };
    target.set(Context::live()?.add_stream(kind).handle)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: Out<usize>, flags: u32) -> Status {
    call("cuStreamCreate", || create(&stream, flags))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreateWithPriority(
    stream: Out<usize>,
    flags: u32,
    _priority: i32,
) -> Status {
    // The range of priorities is 0 to 0, to which every other is clamped.
    call("cuStreamCreateWithPriority", || create(&stream, flags))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: usize) -> Status {
    call("cuStreamDestroy_v2", || {
        let stream = STREAMS
            .get(stream)
            .ok_or_else(|| Status::INVALID_HANDLE.because("no such stream"))?;
        stream.context()?.remove_stream(&stream);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: usize) -> Status {
    call("cuStreamSynchronize", || {
        let (context, stream) = resolve(stream)?;
        context.device.report.waited(|waits| waits.stream += 1);
        stream.finish();
        context.check()
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: usize) -> Status {
    call("cuStreamQuery", || {
        let (context, stream) = resolve(stream)?;
        if stream.pending().is_some() {
            return Err(Status::NOT_READY.into());
        }
        context.check()
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) -> Status {
    call("cuStreamWaitEvent", || {
        let (context, stream) = resolve(stream)?;
        let event = Event::find(event)?;
        if let Some(recording) = event.recording() {
            context.submit(&stream, Op::Wait(event, recording));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetFlags(stream: usize, flags: Out<u32>) -> Status {
    call("cuStreamGetFlags", || {
        flags.set(u32::from(resolve(stream)?.1.kind == Kind::NonBlocking))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetPriority(stream: usize, priority: Out<i32>) -> Status {
    call("cuStreamGetPriority", || {
        resolve(stream)?;
        priority.set(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCtx(stream: usize, context: Out<usize>) -> Status {
    call("cuStreamGetCtx", || context.set(resolve(stream)?.0.handle))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetId(stream: usize, id: Out<u64>) -> Status {
    call("cuStreamGetId", || id.set(resolve(stream)?.1.handle as u64))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamIsCapturing(stream: usize, capturing: Out<u32>) -> Status {
    call("cuStreamIsCapturing", || {
        resolve(stream)?;
        capturing.set(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchHostFunc(
    stream: usize,
    function: Option<extern "C" fn(*mut u8)>,
    argument: Host,
) -> Status {
    call("cuLaunchHostFunc", || {
        let callback = Callback::new(function, argument)?;
        enqueue(stream, move |_| {
            callback.run();
            Ok(())
        })
    })
}
