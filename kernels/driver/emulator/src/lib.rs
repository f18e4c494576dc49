//! Loads the software CUDA driver.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{FromRawFd, IntoRawFd};

static LIBRARY: &[u8] = deltaw_embed::shared_library!(deltaw_driver);

/// Install.
pub fn install() {
    const NAME: &CStr = c"libdeltaw_driver.so";
    // SAFETY: fresh
    let fd = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    let mut f = unsafe { std::fs::File::from_raw_fd(fd) };
    f.write_all(LIBRARY).unwrap();
    let fd = f.into_raw_fd();
    let l = unsafe { libloading::Library::new(format!("/proc/self/fd/{fd}")) }.unwrap();
    std::mem::forget(l);
}
