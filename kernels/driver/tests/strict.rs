//! Strict mode: uninitialised data are reported where they are read, even if nothing comes of it.

mod common;

use common::{Arg, Device, LIMIT, module};
use deltaw_driver::counters::Counters;
use deltaw_driver::exec::{Checks, Fault, FaultKind};

/// Runs a body with an uninitialised buffer `x` and a target `y`.
fn run(body: &str, checks: &Checks) -> Result<Counters, Fault> {
    let text = module(
        ".param .u64 x, .param .u64 y",
        &format!(
            ".reg .pred %p<4>; .reg .b32 %r<16>; .reg .f32 %f<8>; .reg .b64 %rd<8>;
            .shared .align 16 .b8 tile[512]; .local .align 4 .b8 own[16];
            ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; mov.u32 %r0, %tid.x; mov.u32 %r9, tile; mov.u32 %r8, 0;
            {body}
            st.global.u32 [%rd2], %r0; ret;"
        ),
    );
    let device = Device::new(&text);
    let (x, y) = (device.alloc::<u32>(64), device.alloc::<u32>(1));
    let args = [Arg::U64(x), Arg::U64(y)];
    device.launch_with("k", [1; 3], [32, 1, 1], 0, &args, checks, LIMIT)
}

#[test]
fn the_read_itself_is_reported() {
    for (body, what) in [
        ("add.u32 %r2, %r1, 1;", "a register"),
        ("setp.eq.u32 %p1, %r1, 1;", "a register"),
        ("selp.b32 %r2, %r1, %r0, 1;", "a register"),
        ("and.pred %p1, %p2, %p2;", "a register"),
        ("add.cc.u32 %r2, %r1, 1;", "a register"),
        ("@%p2 add.u32 %r2, %r0, 1;", "an uninitialised predicate"),
        ("shfl.sync.idx.b32 %r2, %r1, 0, 31, -1;", "a register"),
        ("vote.sync.all.pred %p1, %p2, -1;", "a register"),
        ("st.shared.u32 [tile], %r1;", "a register"),
        ("ld.global.u32 %r2, [%rd1];", "memory"),
        ("ld.shared.u32 %r2, [tile];", "memory"),
        ("ld.local.u32 %r2, [own];", "memory"),
        ("ld.local.u8 %r2, [own+1];", "memory"),
        ("cp.async.ca.shared.global [%r9], [%rd1], 16;", "memory"),
        ("atom.shared.add.u32 %r2, [tile], 1;", "memory"),
        (
            "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r9];",
            "memory",
        ),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r8, %r8}, {%r1}, {%f0, %f1, %f2, %f3};",
            "a register",
        ),
    ] {
        let relaxed = run(body, &Checks::ALL);
        assert!(relaxed.is_ok(), "{body}: {relaxed:?}");
        let fault = run(body, &Checks::STRICT).expect_err(body);
        assert_eq!(fault.kind, FaultKind::Uninitialised, "{fault}");
        assert!(fault.text.contains(what), "{fault}");
        // The body is the sixth line of the module's eight.
        assert_eq!(fault.line, 9, "{body}: {fault}");
    }
}

#[test]
fn what_is_not_read_is_no_fault() {
    for body in [
        "mov.u32 %r1, 1; add.u32 %r2, %r1, 1;",
        // The other side is chosen.
        "selp.b32 %r2, %r0, %r1, 1;",
        "st.shared.u32 [tile], 7; bar.warp.sync -1; ld.shared.u32 %r2, [tile];",
        "st.local.u32 [own], %r0; ld.local.u8 %r2, [own+3];",
        "st.global.u32 [%rd1], 3; ld.global.u32 %r2, [%rd1];",
        // Half of a pair is put in and taken out.
        "mov.b64 %rd3, {%r0, %r0}; mov.b64 {%r2, %r3}, %rd3;",
    ] {
        let done = run(body, &Checks::STRICT);
        assert!(done.is_ok(), "{body}: {done:?}");
    }
}

#[test]
fn a_device_can_be_strict() -> Result<(), Box<dyn std::error::Error>> {
    use cudarc::driver::{CudaContext, LaunchConfig};
    let device = deltaw_emulator::install()?.device()?;
    device.set_checks(deltaw_emulator::Checks::STRICT)?;
    let context = CudaContext::new(device.ordinal())?;
    let text = module("", ".reg .b32 %r<3>; add.u32 %r1, %r2, 1; ret;");
    let kernel = context
        .load_module(cudarc::nvrtc::Ptx::from_src(text))?
        .load_function("k")?;
    let stream = context.default_stream();
    let shape = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (1, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the kernel takes no arguments and touches no memory.
    unsafe { stream.launch_builder(&kernel).launch(shape) }?;
    assert!(stream.synchronize().is_err());
    let fault = device.last_fault()?.ok_or("no fault")?;
    assert_eq!(fault.kind, "Uninitialised");
    assert!(fault.text.contains("add.u32 reads a register"), "{fault:?}");
    Ok(())
}
