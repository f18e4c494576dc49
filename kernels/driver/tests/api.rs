//! Devices, contexts, memory, modules and errors, called as a C program would call them.

use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::{CudaContext, result, sys};
use deltaw_emulator::{Device, install};
use sys::CUresult;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A device of one's own with its primary context current.
fn device() -> Result<(Device, sys::CUcontext)> {
    let device = install()?.device_like(80, 64 << 20)?;
    result::init()?;
    let mut context = null_mut();
    // SAFETY: `context` may be written.
    unsafe {
        sys::cuDevicePrimaryCtxRetain(&mut context, device.ordinal() as i32).result()?;
        sys::cuCtxSetCurrent(context).result()?;
    }
    Ok((device, context))
}

fn read<T: Default + Clone>(address: u64, count: usize) -> Result<Vec<T>> {
    let mut host = vec![T::default(); count];
    // SAFETY: `host` has room for as many bytes as are asked for.
    unsafe { sys::cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), address, size_of_val(&host[..])) }
        .result()?;
    Ok(host)
}

#[test]
fn devices_are_what_they_were_asked_to_be() -> Result {
    let emulator = install()?;
    for (capability, name, processors, opt_in) in [
        (80, "A100", 108, 163),
        (90, "H100", 132, 227),
        (120, "5090", 170, 99),
    ] {
        let device = emulator.device_like(capability, 1 << 30)?;
        let context = CudaContext::new(device.ordinal())?;
        assert!(
            context.name()?.contains(name) && context.name()?.contains("emulated"),
            "{}",
            context.name()?
        );
        assert_eq!(
            context.compute_capability()?,
            (capability as i32 / 10, capability as i32 % 10)
        );
        assert_eq!(context.total_mem()?, 1 << 30);
        use sys::CUdevice_attribute_enum as Attribute;
        let attribute = |a| context.attribute(a);
        assert_eq!(
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            processors
        );
        assert_eq!(
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            opt_in << 10
        );
        assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?, 32);
        assert_eq!(
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING)?,
            0
        );
    }
    assert!(
        emulator
            .device_like(75, 0)
            .unwrap_err()
            .to_string()
            .contains("no architecture sm_75")
    );
    Ok(())
}

#[test]
fn memory_is_accounted_for() -> Result {
    let (_device, _) = device()?;
    let total = 64 << 20;
    assert_eq!(result::mem_get_info()?, (total, total));
    // SAFETY: plain allocations, freed once.
    unsafe {
        let a = result::malloc_sync(40 << 20)?;
        assert_eq!(result::mem_get_info()?, (24 << 20, total));
        let error = result::malloc_sync(30 << 20).unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert!(
            install()?
                .last_error()?
                .contains("31457280 bytes requested"),
            "{}",
            install()?.last_error()?
        );
        let (mut start, mut size) = (0, 0);
        sys::cuMemGetAddressRange_v2(&mut start, &mut size, a + 1000).result()?;
        assert_eq!((start, size), (a, 40 << 20));
        result::free_sync(a)?;
        assert_eq!(
            result::free_sync(a).unwrap_err().0,
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            result::malloc_sync(0).unwrap_err().0,
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
    }
    assert_eq!(result::mem_get_info()?, (total, total));
    Ok(())
}

#[test]
fn fills_have_widths_and_pitches() -> Result {
    let (_device, _) = device()?;
    // SAFETY: all ranges lie inside the allocation, or the call refuses them.
    unsafe {
        let a = result::malloc_sync(64)?;
        sys::cuMemsetD8_v2(a, 0xee, 64).result()?;
        sys::cuMemsetD16_v2(a, 0x1234, 3).result()?;
        sys::cuMemsetD32Async(a + 8, 0x89ab_cdef, 2, null_mut()).result()?;
        sys::cuMemsetD2D16_v2(a + 32, 16, 0x0102, 2, 2).result()?;
        assert_eq!(read::<u16>(a, 4)?, [0x1234, 0x1234, 0x1234, 0xeeee]);
        assert_eq!(
            read::<u32>(a + 8, 3)?,
            [0x89ab_cdef, 0x89ab_cdef, 0xeeee_eeee]
        );
        assert_eq!(
            read::<u32>(a + 32, 8)?,
            [
                0x0102_0102,
                0xeeee_eeee,
                0xeeee_eeee,
                0xeeee_eeee,
                0x0102_0102,
                0xeeee_eeee,
                0xeeee_eeee,
                0xeeee_eeee
            ]
        );
        assert_eq!(
            sys::cuMemsetD32_v2(a + 2, 0, 1),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuMemsetD8_v2(a, 0, 65),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuMemsetD2D8_v2(a, 60, 0, 8, 2),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
    }
    Ok(())
}

#[test]
fn copies_keep_to_allocations_and_mistakes_kill_nothing() -> Result {
    let (_device, _) = device()?;
    let source: Vec<u8> = (0..=255).collect();
    // SAFETY: host ranges are as long as the calls say.
    unsafe {
        let (a, b) = (result::malloc_sync(256)?, result::malloc_sync(256)?);
        sys::cuMemcpyHtoD_v2(a, source.as_ptr().cast(), 256).result()?;
        sys::cuMemcpyDtoD_v2(b + 6, a + 1, 250).result()?;
        assert_eq!(read::<u8>(b + 6, 250)?, source[1..251]);
        for bad in [
            sys::cuMemcpyHtoD_v2(a + 1, source.as_ptr().cast(), 256),
            sys::cuMemcpyDtoD_v2(b, a, 257),
            sys::cuMemcpyDtoHAsync_v2(null_mut(), a, 4, null_mut()),
            sys::cuMemcpyHtoD_v2(a, std::ptr::null(), 4),
            sys::cuMemcpyHtoD_v2(0, source.as_ptr().cast(), 4),
            sys::cuMemcpyHtoD_v2(source.as_ptr() as u64, source.as_ptr().cast(), 4),
        ] {
            assert_eq!(bad, CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        assert_eq!(read::<u8>(b + 6, 250)?, source[1..251]);
    }
    Ok(())
}

#[test]
fn pinned_memory_is_shared_with_the_device() -> Result {
    let (_device, _) = device()?;
    // SAFETY: the pinned allocation has 16 bytes.
    unsafe {
        let host = result::malloc_host(16, 0)?.cast::<u32>();
        host.write(7);
        let mut address = 0;
        sys::cuMemHostGetDevicePointer_v2(&mut address, host.add(1).cast(), 0).result()?;
        sys::cuMemsetD32_v2(address, 9, 1).result()?;
        sys::cuCtxSynchronize().result()?;
        assert_eq!((host.read(), host.add(1).read()), (7, 9));
        result::free_host(host.cast())?;
        assert_eq!(
            result::free_host(host.cast()).unwrap_err().0,
            CUresult::CUDA_ERROR_INVALID_VALUE
        );

        let mut plain = [0u8; 32];
        let start = plain.as_mut_ptr().cast::<c_void>();
        sys::cuMemHostRegister_v2(start, 32, 0).result()?;
        assert_eq!(
            sys::cuMemHostRegister_v2(start, 32, 0),
            CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
        );
        sys::cuMemHostUnregister(start).result()?;
        assert_eq!(
            sys::cuMemHostUnregister(start),
            CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED
        );
    }
    Ok(())
}

#[test]
fn contexts_stack_and_end() -> Result {
    let (device, primary) = device()?;
    let ordinal = device.ordinal() as i32;
    let current = || -> Result<sys::CUcontext> {
        let mut context = null_mut();
        // SAFETY: `context` may be written.
        unsafe { sys::cuCtxGetCurrent(&mut context) }.result()?;
        Ok(context)
    };
    // SAFETY: the handles are the driver's.
    unsafe {
        let mut own = null_mut();
        sys::cuCtxCreate_v2(&mut own, 0, ordinal).result()?;
        assert_eq!(current()?, own);
        let foreign = result::malloc_sync(16)?;
        let mut popped = null_mut();
        sys::cuCtxPopCurrent_v2(&mut popped).result()?;
        assert_eq!((popped, current()?), (own, primary));
        // Another context's memory is no memory here.
        assert_eq!(
            sys::cuMemsetD8_v2(foreign, 0, 1),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        let mine = result::malloc_sync(16)?;
        sys::cuMemsetD8_v2(mine, 5, 16).result()?;
        sys::cuMemcpyPeer(foreign, own, mine, primary, 16).result()?;
        sys::cuCtxPushCurrent_v2(own).result()?;
        assert_eq!(read::<u8>(foreign, 16)?, [5; 16]);
        let mut stream = null_mut();
        sys::cuStreamCreate(&mut stream, 1).result()?;
        sys::cuCtxDestroy_v2(own).result()?;
        assert_eq!(current()?, primary);
        assert_eq!(
            sys::cuCtxSetCurrent(own),
            CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        );
        assert_eq!(
            sys::cuStreamSynchronize(stream),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
    }
    Ok(())
}

#[test]
fn the_primary_context_is_counted_and_reset() -> Result {
    let (device, first) = device()?;
    let ordinal = device.ordinal() as i32;
    // SAFETY: the results may be written.
    unsafe {
        let (mut again, mut flags, mut active) = (null_mut(), 0, 0);
        sys::cuDevicePrimaryCtxRetain(&mut again, ordinal).result()?;
        assert_eq!(again, first);
        sys::cuDevicePrimaryCtxRelease_v2(ordinal).result()?;
        result::malloc_sync(4)?;
        sys::cuDevicePrimaryCtxReset_v2(ordinal).result()?;
        sys::cuDevicePrimaryCtxGetState(ordinal, &mut flags, &mut active).result()?;
        assert_eq!(active, 0);
        assert_eq!(
            result::malloc_sync(4).unwrap_err().0,
            CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        );
        sys::cuDevicePrimaryCtxRetain(&mut again, ordinal).result()?;
        sys::cuCtxSetCurrent(again).result()?;
        assert_eq!(result::mem_get_info()?, (64 << 20, 64 << 20));
        for _ in 0..2 {
            sys::cuDevicePrimaryCtxRelease_v2(ordinal).result()?;
        }
        assert_eq!(
            sys::cuDevicePrimaryCtxRelease_v2(ordinal),
            CUresult::CUDA_ERROR_INVALID_CONTEXT
        );
    }
    Ok(())
}

#[test]
fn errors_have_the_names_of_the_header() -> Result {
    /// `CUresult` of cuda.h for CUDA 13: name and number.
    const HEADER: &str = include_str!("data/cuda-results.txt");
    install()?;
    let mut address = null_mut();
    let mut found = sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
    // SAFETY: the function takes any number, of which cudarc's enumeration has only some.
    let name_of: unsafe extern "C" fn(u32, *mut *const std::ffi::c_char) -> u32 = unsafe {
        sys::cuGetProcAddress_v2(
            c"cuGetErrorName".as_ptr(),
            &mut address,
            13000,
            0,
            &mut found,
        )
        .result()?;
        std::mem::transmute(address)
    };
    let mut named = String::new();
    for code in 0..=1000 {
        let mut name = std::ptr::null();
        // SAFETY: `name` may be written; the driver's strings live as long as it.
        unsafe {
            if name_of(code, &mut name) == 0 {
                named += &format!("{} {code}\n", CStr::from_ptr(name).to_str()?);
            }
        }
    }
    assert_eq!(named, HEADER);
    Ok(())
}

#[test]
fn functions_are_found_by_name_and_version() -> Result {
    install()?;
    let find = |name: &str, version: i32| -> Result<(CUresult, *mut c_void)> {
        let (mut address, mut found) = (
            null_mut(),
            sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS,
        );
        let name = CString::new(name)?;
        // SAFETY: the results may be written.
        let status = unsafe {
            sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, version, 0, &mut found)
        };
        assert_eq!(
            status == CUresult::CUDA_SUCCESS,
            found == sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS
        );
        Ok((status, address))
    };
    let alloc = find("cuMemAlloc", 12000)?;
    assert_eq!(alloc, find("cuMemAlloc_v2", 12000)?);
    assert!(!alloc.1.is_null());
    assert_eq!(find("cuCtxCreate", 11000)?, find("cuCtxCreate_v2", 11000)?);
    assert_eq!(find("cuCtxCreate", 13000)?, find("cuCtxCreate_v4", 13000)?);
    assert_ne!(
        find("cuEventElapsedTime", 12000)?,
        find("cuEventElapsedTime", 13000)?
    );
    assert_eq!(
        find("cuNoSuchThing", 13000)?.0,
        CUresult::CUDA_ERROR_NOT_FOUND
    );
    assert_eq!(find("malloc", 13000)?.0, CUresult::CUDA_ERROR_NOT_FOUND);
    Ok(())
}

#[test]
fn what_is_missing_says_so() -> Result {
    let (_device, _) = device()?;
    let mut graph = null_mut();
    // SAFETY: the call writes nothing.
    assert_eq!(
        unsafe { sys::cuGraphCreate(&mut graph, 0) },
        CUresult::CUDA_ERROR_NOT_SUPPORTED
    );
    let message = install()?.last_error()?;
    assert!(
        message.starts_with("cuGraphCreate: CUDA_ERROR_NOT_SUPPORTED"),
        "{message}"
    );
    Ok(())
}
#[test]
fn modules_that_do_not_load_say_why() -> Result {
    let (_device, _) = device()?;
    let load = |image: &[u8]| {
        let mut module = null_mut();
        let mut log = [b'x'; 200];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
        let image = CString::new(image).expect("no NUL inside");
        // SAFETY: the log has as many bytes as the option says.
        let status = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                image.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        (
            status,
            CStr::from_bytes_until_nul(&log)
                .expect("a NUL")
                .to_string_lossy()
                .into_owned(),
        )
    };
    let (status, log) = load(b".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() {\n    frobnicate.b32 %r1;\n}\n");
    assert_eq!(status, CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(
        log.contains("line 5") && log.contains("frobnicate"),
        "{log}"
    );
    let (status, log) =
        load(b".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k() { ret; }\n");
    assert_eq!(status, CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(log.contains("sm_90") && log.contains("sm_80"), "{log}");
    assert_eq!(
        load(b"\x7fELF...").0,
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
    );
    let path = CString::new("/no/such/file.ptx")?;
    let mut module = null_mut();
    // SAFETY: `module` may be written.
    assert_eq!(
        unsafe { sys::cuModuleLoad(&mut module, path.as_ptr()) },
        CUresult::CUDA_ERROR_FILE_NOT_FOUND
    );
    Ok(())
}
