//! A fixed set of threads for work that is cut into pieces.
//!
//! The piece boundaries are the caller's and depend on sizes alone; which thread takes which piece
//! is left to chance and cannot be seen in a result. The calling thread works too, and helpers that
//! wake late find nothing left to do, so that a small job costs no more than a wake-up call. A helper
//! looks out for the next job for some microseconds before it sleeps, since waking it costs as much.
//! A job started from inside another, or while another caller holds the helpers, runs on the
//! calling thread alone.

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

/// One job: pieces `0..pieces` of `body`, claimed in order.
struct Job<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    pieces: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job<'_> {
    fn work(&self) {
        INSIDE.with(|inside| inside.set(true));
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            if piece >= self.pieces {
                break;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (self.body)(piece))) {
                self.next.store(self.pieces, Ordering::Relaxed);
                *lock(&self.panic) = Some(payload);
            }
        }
        INSIDE.with(|inside| inside.set(false));
    }
}

/// Looks at a counter before a thread goes to sleep: 10 to 40 µs.
const LOOKS: usize = 1 << 10;

/// What the helpers look at, under one lock.
struct Board {
    /// The job on offer, as an address so that its lifetime can be erased.
    job: Option<usize>,
    /// Helpers that sleep.
    asleep: usize,
    /// Whether the caller sleeps until the helpers have left.
    waiting: bool,
    closing: bool,
}

struct Shared {
    board: Mutex<Board>,
    /// Counts the jobs, so that a helper takes part in each at most once; written under the lock.
    posted: AtomicU64,
    /// Helpers inside the job; written under the lock.
    active: AtomicUsize,
    offered: Condvar,
    left: Condvar,
}

/// Whether `happened` within a short while.
fn soon(happened: impl Fn() -> bool) -> bool {
    (0..LOOKS).any(|_| {
        std::hint::spin_loop();
        happened()
    })
}

struct Pool {
    shared: Arc<Shared>,
    /// Held by the caller whose job the helpers work on.
    caller: Mutex<()>,
    helpers: Vec<JoinHandle<()>>,
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

static POOL: RwLock<Option<Arc<Pool>>> = RwLock::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `threads` workers, the caller counted. Helpers that the system refuses to start
    /// are done without.
    fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            board: Mutex::new(Board {
                job: None,
                asleep: 0,
                waiting: false,
                closing: false,
            }),
            posted: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            offered: Condvar::new(),
            left: Condvar::new(),
        });
        let helpers = (1..threads)
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                let builder = std::thread::Builder::new().name(format!("deltaw-{i}"));
                builder.spawn(move || help(&shared)).ok()
            })
            .collect();
        Pool {
            shared,
            caller: Mutex::new(()),
            helpers,
        }
    }

    fn run(&self, job: &Job<'_>) {
        let Ok(_caller) = self.caller.try_lock() else {
            job.work();
            return;
        };
        let shared = &*self.shared;
        let asleep = {
            let mut board = lock(&shared.board);
            board.job = Some(std::ptr::from_ref(job) as usize);
            shared.posted.fetch_add(1, Ordering::Relaxed);
            board.asleep
        };
        (0..asleep.min(job.pieces - 1)).for_each(|_| shared.offered.notify_one());
        job.work();
        let mut board = lock(&shared.board);
        board.job = None;
        drop(board);
        // A helper inside is in its last piece, and none can enter any more.
        if soon(|| shared.active.load(Ordering::Acquire) == 0) {
            return;
        }
        board = lock(&shared.board);
        board.waiting = true;
        while shared.active.load(Ordering::Acquire) > 0 {
            board = shared
                .left
                .wait(board)
                .unwrap_or_else(PoisonError::into_inner);
        }
        board.waiting = false;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.board).closing = true;
        self.shared.offered.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper catches its job's panics, so that there is no result to look at.
            let _ = helper.join();
        }
    }
}

fn help(shared: &Shared) {
    let mut seen = 0;
    loop {
        soon(|| shared.posted.load(Ordering::Relaxed) != seen);
        let mut board = lock(&shared.board);
        if board.closing {
            return;
        }
        let fresh = shared.posted.load(Ordering::Relaxed) != seen;
        seen = shared.posted.load(Ordering::Relaxed);
        let job = match board.job {
            Some(address) if fresh => address,
            // It came and went: look out for the next.
            _ if fresh => continue,
            _ => {
                board.asleep += 1;
                board = shared
                    .offered
                    .wait(board)
                    .unwrap_or_else(PoisonError::into_inner);
                board.asleep -= 1;
                continue;
            }
        };
        shared.active.fetch_add(1, Ordering::Relaxed);
        drop(board);
        // SAFETY: the address is that of a `Job` on the stack of `Pool::run`, which takes the job
        // off the board and waits until `active` is 0 before it returns; `active` was raised under
        // the lock while the job was still on the board.
        let job = unsafe { &*(job as *const Job<'_>) };
        job.work();
        let board = lock(&shared.board);
        // Released so that the caller, who may look without the lock, sees all that was written.
        if shared.active.fetch_sub(1, Ordering::Release) == 1 && board.waiting {
            shared.left.notify_all();
        }
    }
}

fn pool() -> Arc<Pool> {
    if let Some(pool) = &*POOL.read().unwrap_or_else(PoisonError::into_inner) {
        return Arc::clone(pool);
    }
    let mut slot = POOL.write().unwrap_or_else(PoisonError::into_inner);
    let default = || std::thread::available_parallelism().map_or(1, |n| n.get());
    Arc::clone(slot.get_or_insert_with(|| Arc::new(Pool::new(default()))))
}

/// Sets the number of threads, the calling one included; 0 means one per available core, which is
/// also what is used when this is never called. Results do not depend on it.
pub fn set_threads(threads: usize) {
    let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = if threads == 0 { cores() } else { threads };
    let fresh = Arc::new(Pool::new(threads));
    let old = POOL
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .replace(fresh);
    drop(old);
}

/// The number of threads in use, the calling one included.
pub fn threads() -> usize {
    pool().helpers.len() + 1
}

/// Runs `body(0), …, body(pieces − 1)`, each once, in any order and on any thread. A panic in a
/// piece is passed on to the caller.
pub fn par_pieces(pieces: usize, body: impl Fn(usize) + Sync) {
    if pieces <= 1 || INSIDE.with(Cell::get) {
        (0..pieces).for_each(body);
        return;
    }
    let pool = pool();
    if pool.helpers.is_empty() {
        (0..pieces).for_each(body);
        return;
    }
    let job = Job {
        body: &body,
        pieces,
        next: AtomicUsize::new(0),
        panic: Mutex::new(None),
    };
    pool.run(&job);
    if let Some(payload) = lock(&job.panic).take() {
        resume_unwind(payload);
    }
}

/// Cuts `0..items` into consecutive ranges of `grain` items (the last may be shorter) and runs
/// `body` on each. The ranges depend on `items` and `grain` alone; a job of one range does not
/// leave the calling thread, so that `grain` is also the threshold below which work stays serial.
pub fn par_chunks(items: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
    let grain = grain.max(1);
    par_pieces(items.div_ceil(grain), |piece| {
        let start = piece * grain;
        body(start..items.min(start + grain));
    });
}

/// The number of rows of `row_len` elements that make a piece of about `elements` elements.
pub fn rows_per_piece(row_len: usize, elements: usize) -> usize {
    (elements / row_len.max(1)).max(1)
}

/// A mutable slice that several threads write in disjoint parts.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by `slice` only, whose caller promises that parts in use at the same
// time do not overlap; so sharing the value gives each thread exclusive access to its own `T`s.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as a `&mut [T]` is.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice for as long as parts of it are written.
    pub fn new(slice: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part `range`. Panics where the range leaves the slice.
    ///
    /// # Safety
    /// No two parts in use at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    #[inline]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part {range:?} of a slice of {} elements",
            self.len
        );
        // SAFETY: in bounds by the assertion; exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The address of the first element, for kernels that write strided tiles.
    pub fn as_ptr(&self) -> *mut T {
        self.start
    }
}

/// Runs `body(first_row, rows)` over `out` taken as rows of `row_len` elements, `grain` rows a
/// piece. `out.len()` must be a multiple of `row_len`.
pub fn par_rows<T: Send>(
    out: &mut [T],
    row_len: usize,
    grain: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) {
    if row_len == 0 || out.is_empty() {
        return;
    }
    assert_eq!(
        out.len() % row_len,
        0,
        "par_rows: {} elements in rows of {row_len}",
        out.len()
    );
    let rows = out.len() / row_len;
    let out = Disjoint::new(out);
    par_chunks(rows, grain, |range| {
        // SAFETY: `par_chunks` hands out ranges that do not overlap.
        let part = unsafe { out.slice(range.start * row_len..range.end * row_len) };
        body(range.start, part);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_runs_once() {
        for pieces in [0, 1, 2, 3, 100] {
            let mut counts = vec![0u32; pieces];
            let out = Disjoint::new(&mut counts);
            // SAFETY: each piece takes its own element.
            par_pieces(pieces, |i| unsafe { out.slice(i..i + 1) }[0] += 1);
            assert_eq!(counts, vec![1; pieces]);
        }
    }

    #[test]
    fn chunks_depend_on_sizes_alone() {
        let seen = Mutex::new(Vec::new());
        par_chunks(10, 4, |range| lock(&seen).push(range));
        let mut seen = seen.into_inner().unwrap();
        seen.sort_by_key(|range| range.start);
        assert_eq!(seen, [0..4, 4..8, 8..10]);
    }

    #[test]
    fn nested_jobs_and_many_callers_finish() {
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        par_pieces(8, |_| {
                            par_pieces(4, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 50 * 32);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let outcome = catch_unwind(|| par_pieces(16, |i| assert_ne!(i, 7, "piece seven")));
        assert!(outcome.is_err());
        let done = AtomicUsize::new(0);
        par_pieces(16, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 16);
    }
}
