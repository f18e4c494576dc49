//! A kernel that fails kills its context as on a GPU, says where it failed, and leaves other devices alone.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use deltaw_emulator::{Checks, Device, install};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const PTX: &str = include_str!("ptx/misbehave.ptx");

fn shape(threads: u32, shared: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: shared,
    }
}

fn open(
    device: &Device,
    kernel: &str,
) -> Result<(Arc<CudaContext>, Arc<CudaStream>, CudaFunction)> {
    let context = CudaContext::new(device.ordinal())?;
    let function = context
        .load_module(Ptx::from_src(PTX))?
        .load_function(kernel)?;
    Ok((context.clone(), context.default_stream(), function))
}

/// Launches `fill` on `address` and waits.
fn fill(
    stream: &Arc<CudaStream>,
    kernel: &CudaFunction,
    threads: u32,
    address: u64,
) -> std::result::Result<(), DriverError> {
    let mut launch = stream.launch_builder(kernel);
    launch.arg(&address);
    // SAFETY: whatever the address, the driver checks the stores.
    unsafe { launch.launch(shape(threads, 0)) }?;
    stream.synchronize()
}

fn allocate(
    stream: &Arc<CudaStream>,
    bytes: usize,
) -> Result<(cudarc::driver::CudaSlice<u8>, u64)> {
    use cudarc::driver::DevicePtr;
    let slice = stream.alloc_zeros::<u8>(bytes)?;
    let address = slice.device_ptr(stream).0;
    Ok((slice, address))
}

#[test]
fn a_stray_store_is_located_and_kills_the_context_alone() -> Result {
    let emulator = install()?;
    let (device, bystander) = (emulator.device()?, emulator.device()?);
    let (_context, other, other_kernel) = open(&bystander, "fill")?;
    {
        let (_context, stream, kernel) = open(&device, "fill")?;
        let (slice, address) = allocate(&stream, 100)?;
        fill(&stream, &kernel, 25, address)?;
        // The launch itself is accepted; the fault shows at the next synchronisation.
        let error = fill(&stream, &kernel, 26, address).unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let fault = device.last_fault()?.ok_or("no fault")?;
        assert_eq!(
            (fault.kind.as_str(), fault.kernel.as_str(), fault.thread),
            ("OutOfBounds", "fill", [25, 0, 0])
        );
        let line = PTX.lines().nth(fault.line as usize - 1).unwrap_or_default();
        assert!(
            line.contains("st.global.u32 [%out], %thread"),
            "line {}: {line}",
            fault.line
        );
        assert_eq!(fault.address, Some(address + 100));
        // Everything else fails alike from now on.
        assert_eq!(
            stream.alloc_zeros::<u8>(1).unwrap_err().0,
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        );
        assert_eq!(
            fill(&stream, &kernel, 25, address).unwrap_err().0,
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        );
        // Dropping the slice would free it in a dead context, whose error cudarc keeps for later.
        std::mem::forget(slice);
    }
    let (_slice, address) = allocate(&other, 100)?;
    fill(&other, &other_kernel, 25, address)?;
    assert!(bystander.last_fault()?.is_none());
    Ok(())
}

#[test]
fn a_reset_brings_a_fresh_context() -> Result {
    let device = install()?.device()?;
    let (first, stream, kernel) = open(&device, "fill")?;
    assert!(fill(&stream, &kernel, 1, 0x10).is_err());
    // SAFETY: nothing of the old context is used below but to be dropped.
    unsafe { sys::cuDevicePrimaryCtxReset_v2(device.ordinal() as i32) }.result()?;
    {
        let (_second, stream, kernel) = open(&device, "fill")?;
        let (slice, address) = allocate(&stream, 128)?;
        fill(&stream, &kernel, 32, address)?;
        let numbers: Vec<u8> = stream.clone_dtoh(&slice)?;
        assert!((0..32).all(|i| numbers[4 * i] as usize == i));
    }
    // What belonged to the old context is gone with it; dropping the wrappers would ask for it.
    std::mem::forget((first, stream, kernel));
    Ok(())
}

#[test]
fn misaligned_foreign_and_freed_addresses_fault() -> Result {
    let emulator = install()?;
    for (case, status) in [
        (0, CUresult::CUDA_ERROR_MISALIGNED_ADDRESS),
        (1, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS),
        (2, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS),
    ] {
        let (device, other) = (emulator.device()?, emulator.device()?);
        let (_context, stream, kernel) = open(&device, "fill")?;
        let (_other_context, other_stream, _) = open(&other, "fill")?;
        let (slice, address) = allocate(&stream, 256)?;
        let (_foreign, foreign) = allocate(&other_stream, 256)?;
        let target = match case {
            0 => address + 2,
            1 => foreign,
            _ => address,
        };
        if case == 2 {
            drop(slice);
        } else {
            std::mem::forget(slice);
        }
        assert_eq!(
            fill(&stream, &kernel, 1, target).unwrap_err().0,
            status,
            "case {case}: {:?}",
            emulator.last_error()
        );
    }
    Ok(())
}

/// tinygrad writes the address of an array's element as `name[index]`.
#[test]
fn elements_of_arrays_have_addresses() -> Result {
    let text =
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry fill(.param .u64 out)\n{
        .reg .b32 %value; .reg .b64 %out, %place; .local .align 4 .b32 numbers[4];
        ld.param.u64 %out, [out];
        st.local.u32 [numbers + 8], 5;
        mov.u64 %place, numbers[2];
        ld.local.u32 %value, [%place];
        st.global.u32 [%out], %value;
        ret; }";
    let device = install()?.device()?;
    let context = CudaContext::new(device.ordinal())?;
    let kernel = context
        .load_module(Ptx::from_src(text))?
        .load_function("fill")?;
    let stream = context.default_stream();
    let (slice, address) = allocate(&stream, 4)?;
    fill(&stream, &kernel, 1, address)?;
    assert_eq!(stream.clone_dtoh(&slice)?, 5u32.to_ne_bytes());
    Ok(())
}

/// Compilers put a value and an undefined one into a wide register and take the first out again.
#[test]
fn the_half_of_a_register_that_is_never_used_may_be_undefined() -> Result {
    for (taken, fails) in [
        ("cvt.u32.u64 %value, %pair", false),
        ("mov.b64 {%value, %other}, %pair", false),
        ("mov.b64 {%other, %value}, %pair", true),
    ] {
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry fill(.param .u64 out)\n{{
            .reg .b32 %value, %other, %never; .reg .b64 %out, %pair;
            ld.param.u64 %out, [out];
            mov.u32 %value, 7;
            mov.b64 %pair, {{%value, %never}};
            {taken};
            st.global.u32 [%out], %value;
            ret; }}"
        );
        let device = install()?.device()?;
        let context = CudaContext::new(device.ordinal())?;
        let kernel = context
            .load_module(Ptx::from_src(text))?
            .load_function("fill")?;
        let stream = context.default_stream();
        let (slice, address) = allocate(&stream, 4)?;
        assert_eq!(
            fill(&stream, &kernel, 1, address).is_err(),
            fails,
            "{taken}"
        );
        assert_eq!(
            device
                .last_fault()?
                .is_some_and(|fault| fault.kind == "Uninitialised"),
            fails
        );
        std::mem::forget(slice);
    }
    Ok(())
}

#[test]
fn endless_kernels_are_stopped() -> Result {
    let device = install()?.device()?;
    device.set_instruction_limit(10_000)?;
    let (_context, stream, kernel) = open(&device, "spin")?;
    // SAFETY: no arguments.
    unsafe { stream.launch_builder(&kernel).launch(shape(32, 0)) }?;
    assert_eq!(
        stream.synchronize().unwrap_err().0,
        CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
    );
    assert_eq!(
        device.last_fault()?.ok_or("no fault")?.kind,
        "InstructionLimit"
    );
    Ok(())
}

#[test]
fn traps_fail_the_launch() -> Result {
    let device = install()?.device()?;
    let (_context, stream, kernel) = open(&device, "stop")?;
    // SAFETY: no arguments.
    unsafe { stream.launch_builder(&kernel).launch(shape(1, 0)) }?;
    assert_eq!(
        stream.synchronize().unwrap_err().0,
        CUresult::CUDA_ERROR_LAUNCH_FAILED
    );
    Ok(())
}

#[test]
fn dynamic_shared_memory_goes_up_to_the_opt_in_maximum() -> Result {
    use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as LIMIT;
    let device = install()?.device()?;
    let (_context, stream, kernel) = open(&device, "use_shared")?;
    let mut out = stream.alloc_zeros::<u32>(1)?;
    let mut run = |bytes: u32| {
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&bytes).arg(&mut out);
        // SAFETY: the kernel writes one number.
        unsafe { launch.launch(shape(1, bytes)) }.map(|_| ())
    };
    run(48 << 10)?;
    assert_eq!(
        run((48 << 10) + 1).unwrap_err().0,
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    assert!(install()?.last_error()?.contains("at most 49152"));
    kernel.set_attribute(LIMIT, 163 << 10)?;
    run(163 << 10)?;
    assert_eq!(
        kernel.set_attribute(LIMIT, (163 << 10) + 1).unwrap_err().0,
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(stream.clone_dtoh(&out)?, [77]);
    Ok(())
}

#[test]
fn impossible_shapes_are_refused_without_harm() -> Result {
    let device = install()?.device()?;
    let (context, stream, kernel) = open(&device, "fixed_block")?;
    for (grid, block) in [
        ((0, 1, 1), (64, 1, 1)),
        ((1, 1, 1), (65, 1, 1)),
        ((1, 1, 1), (32, 2, 1)),
        ((1, 65536, 1), (64, 1, 1)),
        ((1, 1, 1), (64, 1, 65)),
    ] {
        let shape = LaunchConfig {
            grid_dim: grid,
            block_dim: block,
            shared_mem_bytes: 0,
        };
        // SAFETY: no arguments.
        let error = unsafe { stream.launch_builder(&kernel).launch(shape) }.unwrap_err();
        assert_eq!(
            error.0,
            CUresult::CUDA_ERROR_INVALID_VALUE,
            "{grid:?} {block:?}"
        );
    }
    // SAFETY: no arguments.
    unsafe { stream.launch_builder(&kernel).launch(shape(64, 0)) }?;
    stream.synchronize()?;
    assert_eq!(kernel.max_threads_per_block()?, 64);
    let missing = context
        .load_module(Ptx::from_src(PTX))?
        .load_function("absent")
        .unwrap_err();
    assert_eq!(missing.0, CUresult::CUDA_ERROR_NOT_FOUND);
    Ok(())
}

#[test]
fn checks_and_counters_can_be_turned_off() -> Result {
    let device = install()?.device()?;
    device.set_checks(Checks::NONE)?;
    let (_context, stream, kernel) = open(&device, "fill")?;
    let (_slice, address) = allocate(&stream, 128)?;
    fill(&stream, &kernel, 32, address)?;
    // One element past the end: inside the context's memory, and nobody looks.
    fill(&stream, &kernel, 33, address)?;
    assert!(device.launches()?.is_empty() && device.last_fault()?.is_none());
    let error = device.set_checks(Checks::ALL).unwrap_err();
    assert!(error.to_string().contains("reset it first"), "{error}");
    device.set_checks(Checks {
        memory: false,
        ..Checks::ALL
    })?;
    fill(&stream, &kernel, 32, address)?;
    assert_eq!(device.launches()?.len(), 1);
    device.clear()?;
    assert!(device.launches()?.is_empty());
    Ok(())
}

#[test]
fn tests_in_parallel_do_not_disturb_one_another() -> Result {
    let emulator = install()?;
    std::thread::scope(|scope| {
        let work = |fails: bool| {
            move || -> std::result::Result<(), String> {
                let run = || -> Result {
                    for _ in 0..10 {
                        let device = emulator.device()?;
                        let (_context, stream, kernel) = open(&device, "fill")?;
                        let (slice, address) = allocate(&stream, 128)?;
                        let target = if fails { address + 1024 } else { address };
                        assert_eq!(fill(&stream, &kernel, 32, target).is_err(), fails);
                        assert_eq!(device.last_fault()?.is_some(), fails);
                        std::mem::forget(slice);
                    }
                    Ok(())
                };
                run().map_err(|e| e.to_string())
            }
        };
        let threads = [true, false, true, false].map(|fails| scope.spawn(work(fails)));
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
    })?;
    Ok(())
}
