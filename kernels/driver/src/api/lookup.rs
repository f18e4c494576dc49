//! Error names, and the addresses of the functions themselves.

use std::ffi::{CStr, c_char};

use super::border::{Out, Text, call};
use super::status::Status;

fn give(
    target: &Out<*const c_char>,
    text: Option<&'static CStr>,
) -> Result<(), super::status::Failure> {
    let Some(text) = text else {
        target.set(std::ptr::null())?;
        return Err(Status::INVALID_VALUE.because("no such status"));
    };
    target.set(text.as_ptr())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(status: Status, name: Out<*const c_char>) -> Status {
    call("cuGetErrorName", || give(&name, status.name()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(status: Status, text: Out<*const c_char>) -> Status {
    call("cuGetErrorString", || give(&text, status.text()))
}

/// Functions whose later forms take other parameters, with the CUDA version that brought each.
const VERSIONED: &[(&str, &[(i32, &str)])] = &[
    (
        "cuCtxCreate",
        &[
            (12050, "cuCtxCreate_v4"),
            (11040, "cuCtxCreate_v3"),
            (3020, "cuCtxCreate_v2"),
        ],
    ),
    (
        "cuDeviceGetUuid",
        &[(11040, "cuDeviceGetUuid_v2"), (9020, "cuDeviceGetUuid")],
    ),
    (
        "cuEventElapsedTime",
        &[
            (12080, "cuEventElapsedTime_v2"),
            (2000, "cuEventElapsedTime"),
        ],
    ),
    (
        "cuGetProcAddress",
        &[(12000, "cuGetProcAddress_v2"), (11030, "cuGetProcAddress")],
    ),
];

/// The exported function that `name` stands for in a CUDA version.
fn resolve(name: &str, version: i32) -> Option<*const u8> {
    if let Some((_, forms)) = VERSIONED.iter().find(|row| row.0 == name) {
        return forms
            .iter()
            .find(|form| form.0 <= version)
            .and_then(|form| exported(form.1));
    }
    [name.to_owned(), format!("{name}_v2")]
        .iter()
        .find_map(|symbol| exported(symbol))
}

/// The address of a symbol of this library.
fn exported(symbol: &str) -> Option<*const u8> {
    let symbol = std::ffi::CString::new(symbol).ok()?;
    // SAFETY: `dladdr` fills the structure if it knows the address; the name it gives lives as long as the library,
    // which is loaded already, so that opening it again only counts.
    let address = unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(cuGetErrorName as *const libc::c_void, &mut info) == 0 {
            return None;
        }
        let library = libc::dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if library.is_null() {
            return None;
        }
        libc::dlsym(library, symbol.as_ptr())
    };
    (!address.is_null()).then_some(address.cast())
}

fn find(
    symbol: &Text,
    target: &Out<*const u8>,
    version: i32,
    found: &Out<u32>,
) -> Result<(), super::status::Failure> {
    let name = symbol.text()?;
    match resolve(&name, version).filter(|_| name.starts_with("cu")) {
        Some(address) => {
            found.set_if_wanted(0);
            target.set(address)
        }
        None => {
            found.set_if_wanted(1); // no such symbol
            target.set(std::ptr::null())?;
            Err(Status::NOT_FOUND.because(format!("no function `{name}` in CUDA {version}")))
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress(
    symbol: Text,
    target: Out<*const u8>,
    version: i32,
    _flags: u64,
) -> Status {
    call("cuGetProcAddress", || {
        find(&symbol, &target, version, &Out::none())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress_v2(
    symbol: Text,
    target: Out<*const u8>,
    version: i32,
    _flags: u64,
    found: Out<u32>,
) -> Status {
    call("cuGetProcAddress_v2", || {
        find(&symbol, &target, version, &found)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> Status {
    call("cuProfilerStart", || {
        super::context::Context::live().map(drop)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> Status {
    call("cuProfilerStop", || {
        super::context::Context::live().map(drop)
    })
}
