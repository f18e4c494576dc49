//! The shared library: how it comes into the process, and its own symbols.

use std::ffi::c_char;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};

use libloading::os::unix;

use crate::EmulatorError;

/// The driver as it was built beside this crate.
static IMAGE: &[u8] = deltaw_embed::shared_library!(deltaw_driver);

type Read = unsafe extern "C" fn(i32, *mut c_char, usize, *mut usize) -> u32;

/// The library's own symbols.
#[derive(Debug)]
pub struct Library {
    device_create: unsafe extern "C" fn(u32, u64, *mut i32) -> u32,
    device_destroy: unsafe extern "C" fn(i32) -> u32,
    checks: unsafe extern "C" fn(i32, u32) -> u32,
    instruction_limit: unsafe extern "C" fn(i32, u64) -> u32,
    launches: Read,
    waits: Read,
    last_fault: Read,
    clear: unsafe extern "C" fn(i32) -> u32,
    last_error: unsafe extern "C" fn(*mut c_char, usize, *mut usize) -> u32,
    log: unsafe extern "C" fn(u32) -> u32,
}

impl Library {
    /// Loads it for the rest of the process's life: it has threads and hands out addresses of its own.
    pub fn load() -> Result<Library, EmulatorError> {
        let library = match loaded("libcuda.so") {
            Some(other) => other,
            None => open()?,
        };
        // SAFETY: the types are those of `kernels/driver/src/api`, and the library is never unloaded.
        let symbols = unsafe {
            Library {
                device_create: symbol(&library, "deltaw_device_create")?,
                device_destroy: symbol(&library, "deltaw_device_destroy")?,
                checks: symbol(&library, "deltaw_checks")?,
                instruction_limit: symbol(&library, "deltaw_instruction_limit")?,
                launches: symbol(&library, "deltaw_launches")?,
                waits: symbol(&library, "deltaw_waits")?,
                last_fault: symbol(&library, "deltaw_last_fault")?,
                clear: symbol(&library, "deltaw_clear")?,
                last_error: symbol(&library, "deltaw_last_error")?,
                log: symbol(&library, "deltaw_log")?,
            }
        };
        std::mem::forget(library);
        Ok(symbols)
    }

    pub fn device_create(&self, capability: u32, memory: u64) -> Result<i32, EmulatorError> {
        let mut ordinal = 0;
        // SAFETY: `ordinal` may be written.
        self.done(unsafe { (self.device_create)(capability, memory, &mut ordinal) })?;
        Ok(ordinal)
    }

    pub fn device_destroy(&self, ordinal: i32) -> Result<(), EmulatorError> {
        // SAFETY: takes any number.
        self.done(unsafe { (self.device_destroy)(ordinal) })
    }

    pub fn checks(&self, ordinal: i32, mask: u32) -> Result<(), EmulatorError> {
        // SAFETY: takes any numbers.
        self.done(unsafe { (self.checks)(ordinal, mask) })
    }

    pub fn instruction_limit(&self, ordinal: i32, limit: u64) -> Result<(), EmulatorError> {
        // SAFETY: takes any numbers.
        self.done(unsafe { (self.instruction_limit)(ordinal, limit) })
    }

    pub fn launches(&self, ordinal: i32) -> Result<String, EmulatorError> {
        self.read(self.launches, ordinal)
    }

    pub fn waits(&self, ordinal: i32) -> Result<String, EmulatorError> {
        self.read(self.waits, ordinal)
    }

    pub fn last_fault(&self, ordinal: i32) -> Result<String, EmulatorError> {
        self.read(self.last_fault, ordinal)
    }

    pub fn clear(&self, ordinal: i32) -> Result<(), EmulatorError> {
        // SAFETY: takes any number.
        self.done(unsafe { (self.clear)(ordinal) })
    }

    pub fn log(&self, level: u32) -> Result<(), EmulatorError> {
        // SAFETY: takes any number.
        self.done(unsafe { (self.log)(level) })
    }

    pub fn last_error(&self) -> Result<String, EmulatorError> {
        // SAFETY: the buffer has `capacity` bytes; the call writes no more.
        text(|buffer, capacity, length| unsafe { (self.last_error)(buffer, capacity, length) })
            .map_err(|status| EmulatorError::Call(format!("CUresult {status}")))
    }

    fn read(&self, function: Read, ordinal: i32) -> Result<String, EmulatorError> {
        // SAFETY: the buffer has `capacity` bytes; the call writes no more.
        let read =
            text(|buffer, capacity, length| unsafe { function(ordinal, buffer, capacity, length) });
        read.or_else(|status| self.done(status).map(|()| String::new()))
    }

    fn done(&self, status: u32) -> Result<(), EmulatorError> {
        if status == 0 {
            Ok(())
        } else {
            Err(EmulatorError::Call(self.last_error()?))
        }
    }
}

/// Asks for a text of unknown length until it fits.
fn text(mut ask: impl FnMut(*mut c_char, usize, *mut usize) -> u32) -> Result<String, u32> {
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        let mut length = 0;
        let status = ask(buffer.as_mut_ptr().cast(), buffer.len(), &mut length);
        if status != 0 {
            return Err(status);
        }
        if length <= buffer.len() {
            buffer.truncate(length.saturating_sub(1)); // the NUL
            return Ok(String::from_utf8_lossy(&buffer).into_owned());
        }
        buffer.resize(length, 0);
    }
}

/// A library that is in the process already.
fn loaded(name: &str) -> Option<unix::Library> {
    // SAFETY: nothing is loaded, so no code runs.
    unsafe { unix::Library::open(Some(name), unix::RTLD_NOW | libc::RTLD_NOLOAD) }.ok()
}

/// Loads the image from memory. Its soname is what makes the loader answer `dlopen("libcuda.so")` with it.
fn open() -> Result<unix::Library, EmulatorError> {
    if IMAGE.is_empty() {
        return Err(EmulatorError::NotEmbedded);
    }
    let failed =
        |what: &str, e: &dyn std::fmt::Display| EmulatorError::Load(format!("{what}: {e}"));
    // SAFETY: the name is a NUL-terminated string.
    let descriptor =
        unsafe { libc::memfd_create(c"libdeltaw_driver.so".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(failed("memfd_create", &std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is new and nobody else's.
    let mut file = unsafe { std::fs::File::from_raw_fd(descriptor) };
    file.write_all(IMAGE)
        .map_err(|e| failed("writing it to memory", &e))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // The loader knows the library by this path, which must therefore never mean another file.
    std::mem::forget(file);
    // SAFETY: it is our own library; loading it runs no code of ours.
    unsafe { unix::Library::open(Some(&path), unix::RTLD_NOW) }.map_err(|e| failed(&path, &e))
}

/// # Safety
/// `T` must be the symbol's type, and the library must stay loaded.
unsafe fn symbol<T: Copy>(library: &unix::Library, name: &str) -> Result<T, EmulatorError> {
    // SAFETY: the caller's promise.
    unsafe { library.get::<T>(name) }
        .map(|symbol| *symbol)
        .map_err(|_| EmulatorError::OtherDriver)
}
