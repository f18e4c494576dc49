//! The border with the C caller: what its pointers promise, and how a call ends.
//!
//! The exported functions take these wrappers in place of raw pointers. Only C can make one, so the functions
//! themselves are safe to write, and what C promises (`cuda.h`) is used in this file alone.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::settings::{Log, settings};
use super::status::{Failure, Status};

/// What the body of a call returns.
pub type Outcome<T = ()> = Result<T, Failure>;

thread_local! {
    static LAST_MESSAGE: RefCell<CString> = RefCell::default();
}

/// Runs the body of an exported function: a failure becomes its status and is kept as the thread's last message, a
/// panic does not cross into C.
pub fn call(name: &str, body: impl FnOnce() -> Outcome) -> Status {
    let outcome = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err(Status::UNKNOWN.because("the driver panicked")));
    let Err(failure) = outcome else {
        return Status::SUCCESS;
    };
    let status = failure.status;
    let message = format!(
        "{name}: {}: {}",
        status.name().unwrap_or_default().to_string_lossy(),
        failure.message
    );
    let wanted = match settings().log() {
        Log::Off => false,
        Log::Faults => status == Status::NOT_SUPPORTED,
        Log::All => status != Status::NOT_READY,
    };
    if wanted {
        eprintln!("deltaw driver: {message}");
    }
    LAST_MESSAGE.set(CString::new(message.replace('\0', " ")).unwrap_or_default());
    status
}

/// Hands the message of this thread's last failed call to `use_it`.
pub fn last_message<T>(use_it: impl FnOnce(&CStr) -> T) -> T {
    LAST_MESSAGE.with_borrow(|message| use_it(message))
}

fn null(what: &str) -> Failure {
    Status::INVALID_VALUE.because(format!("{what} is a null pointer"))
}

/// A result parameter: null, or a place that may be written.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// A place for a result that nobody wants.
    pub fn none() -> Out<T> {
        Out(std::ptr::null_mut())
    }

    /// Writes the result.
    pub fn set(&self, value: T) -> Outcome {
        if self.0.is_null() {
            return Err(null("a result parameter"));
        }
        self.set_if_wanted(value);
        Ok(())
    }

    /// Writes the result unless the caller passed null.
    pub fn set_if_wanted(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: the caller promises a place for a `T` where it passes no null.
            unsafe { self.0.write_unaligned(value) };
        }
    }
}

/// An array parameter: null, or as many elements as another parameter says.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// True where the caller passed null.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Element `i`, which the API says is there.
    pub fn get(&self, i: usize) -> Outcome<T> {
        if self.0.is_null() {
            return Err(null("an array parameter"));
        }
        // SAFETY: the caller promises the elements that the API names.
        Ok(unsafe { self.0.add(i).read_unaligned() })
    }
}

/// A NUL-terminated string.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// Its bytes, without the NUL.
    pub fn bytes(&self) -> Outcome<&[u8]> {
        if self.0.is_null() {
            return Err(null("a string"));
        }
        // SAFETY: the caller promises a NUL at its end.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes())
    }

    /// The string, with what is not UTF-8 replaced.
    pub fn text(&self) -> Outcome<String> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }
}

/// Host memory of a length that another parameter gives.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Host(*mut u8);

// SAFETY: the API lets the driver touch host memory from its own threads until the operation is finished.
unsafe impl Send for Host {}

impl Host {
    /// Memory at an address that the caller gave as a number.
    pub fn at(address: usize) -> Host {
        Host(address as *mut u8)
    }

    /// The address.
    pub fn address(self) -> usize {
        self.0 as usize
    }

    /// Its first `bytes` bytes.
    pub fn read<'a>(self, bytes: usize) -> Outcome<&'a [u8]> {
        if bytes == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() {
            return Err(null("host memory"));
        }
        // SAFETY: the caller promises `bytes` readable bytes until the operation is finished.
        Ok(unsafe { std::slice::from_raw_parts(self.0, bytes) })
    }

    /// Its first `bytes` bytes, to be written.
    pub fn write<'a>(self, bytes: usize) -> Outcome<&'a mut [u8]> {
        if bytes == 0 {
            return Ok(&mut []);
        }
        if self.0.is_null() {
            return Err(null("host memory"));
        }
        // SAFETY: the caller promises `bytes` bytes that nobody else touches until the operation is finished.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0, bytes) })
    }

    /// Writes a NUL-terminated string, cut to `capacity` bytes, and returns how many bytes it has with its NUL.
    pub fn write_text(self, text: &str, capacity: usize) -> Outcome<usize> {
        if capacity == 0 {
            return Ok(0);
        }
        let length = text.len().min(capacity - 1);
        let target = self.write(length + 1)?;
        target[..length].copy_from_slice(&text.as_bytes()[..length]);
        target[length] = 0;
        Ok(length + 1)
    }
}

/// A function of the caller that takes the pointer it gave along.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Callback {
    function: Option<extern "C" fn(*mut u8)>,
    argument: *mut u8,
}

// SAFETY: the API says that the driver calls it from a thread of its own.
unsafe impl Send for Callback {}

impl Callback {
    /// From the two parameters of the call.
    pub fn new(function: Option<extern "C" fn(*mut u8)>, argument: Host) -> Outcome<Callback> {
        if function.is_none() {
            return Err(null("the function"));
        }
        Ok(Callback {
            function,
            argument: argument.0,
        })
    }

    /// Calls it.
    pub fn run(self) {
        if let Some(function) = self.function {
            function(self.argument);
        }
    }
}
