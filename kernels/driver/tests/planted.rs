//! Faults planted into clean kernels: every check names its kind, the line and the thread; the clean kernel passes.

mod common;

use common::{Arg, Device, module};
use deltaw_driver::exec::{Checks, Fault, FaultKind};

/// Reads 64 floats into shared memory by asynchronous copies and writes them out reversed: a kernel with a guard, an
/// asynchronous copy, a wait and a barrier. The line of a piece of text is where it stands in the module.
const CLEAN: &str = "
    .reg .pred %p; .reg .b32 %r<9>; .reg .f32 %f<3>; .reg .b64 %rd<7>;
    .shared .align 16 .b8 buffer[256];
    ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.u32 %r8, [n];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, buffer;
    shl.b32 %r3, %r1, 2;
    add.u32 %r4, %r2, %r3;
    mul.wide.u32 %rd3, %r1, 4;
    add.u64 %rd4, %rd1, %rd3;
    cp.async.ca.shared.global [%r4], [%rd4], 4;
    cp.async.commit_group;
    cp.async.wait_group 0;
    bar.sync 0;
    sub.u32 %r5, 252, %r3;
    add.u32 %r6, %r2, %r5;
    ld.shared.f32 %f1, [%r6];
    setp.ge.u32 %p, %r1, %r8;
    @%p bra DONE;
    add.u64 %rd5, %rd2, %rd3;
    st.global.f32 [%rd5], %f1;
DONE:
    ret;";
const PARAMS: &str = ".param .u64 x, .param .u64 y, .param .u32 n";

fn run(body: &str) -> Result<Vec<f32>, Fault> {
    let device = Device::new(&module(PARAMS, body));
    let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
    // Only 60 of 64 results have room: the guard is needed.
    let (dx, dy) = (device.upload(&x), device.alloc::<f32>(60));
    device.launch("k", 1, 64, 0, &[Arg::U64(dx), Arg::U64(dy), Arg::U32(60)])?;
    Ok(device.download(dy, 60))
}

fn line_of(body: &str, what: &str) -> u32 {
    let text = module(PARAMS, body);
    let at = text.find(what).expect("the text is in the module");
    text[..at].matches('\n').count() as u32 + 1
}

/// Replaces a piece of the clean kernel, and expects a fault of this kind in the line of another piece.
fn plant(piece: &str, replacement: &str, kind: FaultKind, at: &str) -> Fault {
    assert!(CLEAN.contains(piece), "{piece} is not in the kernel");
    let body = CLEAN.replacen(piece, replacement, 1);
    let fault = run(&body).expect_err("the planted fault is found");
    assert_eq!(
        (fault.kind, fault.line),
        (kind, line_of(&body, at)),
        "{fault}"
    );
    assert_eq!((fault.kernel.as_str(), fault.block), ("k", [0; 3]));
    fault
}

#[test]
fn the_clean_kernel_passes() {
    let y = run(CLEAN).unwrap();
    assert!(y.iter().enumerate().all(|(i, &y)| y == 63.0 - i as f32));
}

/// Whichever of the two accesses comes second is at fault; the report names the other one's line too.
#[test]
fn a_dropped_barrier_is_a_race() {
    let body = CLEAN.replace("bar.sync 0;", "");
    let fault = run(&body).expect_err("the planted fault is found");
    let [copy, read] = ["cp.async.ca", "ld.shared.f32 %f1"].map(|what| line_of(&body, what));
    let other = if fault.line == copy { read } else { copy };
    assert_eq!(fault.kind, FaultKind::Race, "{fault}");
    assert!(
        [copy, read].contains(&fault.line) && fault.text.contains(&format!("line {other},")),
        "{fault}"
    );
}

/// A buffer is copied into again while another warp may still read it: a race though the copy lands after a barrier.
#[test]
fn a_copy_into_what_others_read_is_a_race() {
    let read = "ld.shared.f32 %f1, [%r6];";
    let later = "mov.u32 %r7, 0;\n".repeat(20);
    let again = "cp.async.ca.shared.global [%r4], [%rd4+0], 4;";
    let lands = "cp.async.commit_group;\n bar.sync 0;\n cp.async.wait_group 0;";
    plant(
        read,
        &format!("{read}\n{later}{again}\n{lands}"),
        FaultKind::Race,
        again,
    );
}

#[test]
fn a_dropped_wait_is_an_early_read() {
    plant(
        "cp.async.wait_group 0;",
        "",
        FaultKind::AsyncRead,
        "ld.shared.f32 %f1",
    );
    plant(
        "cp.async.wait_group 0;",
        "cp.async.wait_group 1;",
        FaultKind::AsyncRead,
        "ld.shared.f32 %f1",
    );
}

#[test]
fn a_dropped_guard_is_out_of_bounds() {
    let fault = plant("@%p bra DONE;", "", FaultKind::OutOfBounds, "st.global.f32");
    assert_eq!(fault.thread, [60, 0, 0]);
    assert!(
        fault.text.contains("0 bytes past")
            || fault.text.contains("past an allocation of 240 bytes"),
        "{fault}"
    );
}

#[test]
fn a_shifted_address_is_misaligned_or_out_of_bounds() {
    plant(
        "st.global.f32 [%rd5]",
        "st.global.f32 [%rd5+2]",
        FaultKind::Misaligned,
        "st.global.f32",
    );
    plant(
        "ld.shared.f32 %f1, [%r6]",
        "ld.shared.f32 %f1, [%r6+4]",
        FaultKind::OutOfBounds,
        "ld.shared.f32",
    );
    plant(
        "[%rd4], 4;",
        "[%rd4+4], 4;",
        FaultKind::OutOfBounds,
        "cp.async.ca",
    );
    plant(
        "ld.param.u64 %rd2, [y];",
        "mov.u64 %rd2, 0;",
        FaultKind::OutOfBounds,
        "st.global.f32",
    );
}

#[test]
fn uninitialised_data_is_found_where_it_is_used() {
    // A value.
    plant(
        "st.global.f32 [%rd5], %f1;",
        "st.global.f32 [%rd5], %f2;",
        FaultKind::Uninitialised,
        "st.global.f32",
    );
    // An address.
    plant(
        "add.u64 %rd5, %rd2, %rd3;",
        "",
        FaultKind::Uninitialised,
        "st.global.f32",
    );
    // A branch.
    plant(
        "setp.ge.u32 %p, %r1, %r8;",
        "",
        FaultKind::Uninitialised,
        "@%p bra DONE",
    );
    // Shared memory that nobody wrote reaches a store.
    plant(
        "cp.async.ca.shared.global [%r4], [%rd4], 4;",
        "",
        FaultKind::Uninitialised,
        "st.global.f32",
    );
    // It may be read, and dropped.
    let dropped = CLEAN.replace(
        "st.global.f32 [%rd5], %f1;",
        "st.global.f32 [%rd5], 0f00000000;",
    );
    let dropped = dropped.replace("cp.async.ca.shared.global [%r4], [%rd4], 4;", "");
    assert!(run(&dropped).is_ok());
}

#[test]
fn barriers_that_not_all_reach() {
    // A part of a warp.
    let some = "setp.lt.u32 %p, %r1, 40; @%p bar.sync 0;";
    let fault = plant(
        "bar.sync 0;",
        some,
        FaultKind::BarrierDivergence,
        "setp.lt.u32 %p, %r1, 40",
    );
    assert!(fault.text.contains("8 of 32 threads"), "{fault}");
    // A whole warp waits for one that waits elsewhere.
    let elsewhere = "setp.lt.u32 %p, %r1, 32; @%p bar.sync 0;\n @!%p bar.sync 1;";
    let fault = plant(
        "bar.sync 0;",
        elsewhere,
        FaultKind::BarrierDivergence,
        "setp.lt.u32 %p, %r1, 32",
    );
    assert!(fault.text.contains("never completed"), "{fault}");
}

#[test]
fn lanes_that_a_mask_names_wrongly() {
    let absent = "setp.lt.u32 %p, %r1, 16; @%p shfl.sync.idx.b32 %r7, %r1, 0, 31, 0xffffffff;";
    plant(
        "bar.sync 0;",
        absent,
        FaultKind::LaneMask,
        "setp.lt.u32 %p, %r1, 16",
    );
    let unnamed = "shfl.sync.idx.b32 %r7, %r1, 0, 31, 0x0000ffff;";
    plant("bar.sync 0;", unnamed, FaultKind::LaneMask, "shfl.sync");
}

#[test]
fn freed_memory_is_named() {
    let device = Device::new(&module(PARAMS, CLEAN));
    let (dx, dy) = (device.upload(&[0f32; 64]), device.alloc::<f32>(64));
    device.memory.free(dx).unwrap();
    let fault = device
        .launch("k", 1, 64, 0, &[Arg::U64(dx), Arg::U64(dy), Arg::U32(60)])
        .unwrap_err();
    assert_eq!(
        (fault.kind, fault.address),
        (FaultKind::UseAfterFree, Some(dx)),
        "{fault}"
    );
}

#[test]
fn endless_loops_and_impossible_launches_stop() {
    let device = Device::new(&module("", "LOOP: bra LOOP;"));
    for checks in [Checks::NONE, Checks::ALL] {
        let fault = device
            .launch_with("k", [3, 1, 1], [64, 1, 1], 0, &[], &checks, 100_000)
            .unwrap_err();
        assert_eq!(
            (fault.kind, fault.block),
            (FaultKind::InstructionLimit, [0; 3])
        );
    }
    let launch = |grid, block, shared| {
        device
            .launch_with("k", grid, block, shared, &[], &Checks::NONE, 10)
            .unwrap_err()
    };
    for fault in [
        launch([0, 1, 1], [1, 1, 1], 0),
        launch([1, 1, 1], [1025, 1, 1], 0),
        launch([1, 1, 1], [1, 1, 1], 1 << 20),
    ] {
        assert_eq!(fault.kind, FaultKind::InvalidLaunch);
    }
}

#[test]
fn without_checks_memory_is_still_kept() {
    let wild = "
    .reg .b64 %rd<3>; .reg .f32 %f1;
    mov.u64 %rd1, 0x123456789abc;
    st.global.f32 [%rd1], 0f3F800000;
    ret;";
    let device = Device::new(&module("", wild));
    let fault = device
        .launch_with("k", [1, 1, 1], [32, 1, 1], 0, &[], &Checks::NONE, 100)
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
}

/// Lanes of one warp that exchange data through shared memory need `bar.warp.sync`; all lanes may store one value.
#[test]
fn races_inside_a_warp() {
    let body = |sync: &str| {
        format!(
            "
    .reg .b32 %r<6>; .reg .b64 %rd<4>; .shared .align 4 .b32 buffer[33];
    ld.param.u64 %rd1, [x];
    mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, buffer; add.u32 %r3, %r3, %r2;
    st.shared.u32 [%r3], %r1;
    st.shared.u32 [buffer+128], 7;
    {sync}
    ld.shared.u32 %r4, [buffer];
    ld.shared.u32 %r5, [buffer+128];
    add.u32 %r4, %r4, %r5;
    mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r4;
    ret;"
        )
    };
    let run = |sync| {
        let device = Device::new(&module(".param .u64 x", &body(sync)));
        let out = device.alloc::<u32>(32);
        device
            .launch("k", 1, 32, 0, &[Arg::U64(out)])
            .map(|_| device.download::<u32>(out, 32))
    };
    assert_eq!(run("bar.warp.sync 0xffffffff;").unwrap(), vec![7; 32]);
    let fault = run("").unwrap_err();
    assert_eq!(
        (fault.kind, fault.thread),
        (FaultKind::Race, [1, 0, 0]),
        "{fault}"
    );
}

/// An index beyond an allocation by up to its length never lands in the next one, nor before it in the last one.
#[test]
fn strays_between_neighbours() {
    let body = |offset: i64| {
        format!(
            ".reg .b64 %rd; .reg .b32 %r;
            ld.param.u64 %rd, [x];
            ld.global.u32 %r, [%rd+{offset}];
            st.global.u32 [%rd], %r; ret;"
        )
    };
    let bytes = 300_000;
    for offset in [-4, -1024, -bytes, bytes, bytes + 1024, 2 * bytes - 4] {
        let text = module(".param .u64 x", &body(offset));
        let device = Device::new(&text);
        let all: Vec<u64> = (0..3)
            .map(|_| device.upload(&vec![1u8; bytes as usize]))
            .collect();
        let fault = device
            .launch("k", 1, 1, 0, &[Arg::U64(all[1])])
            .unwrap_err();
        let line = 1 + text
            .lines()
            .take_while(|line| !line.contains("ld.global"))
            .count();
        assert_eq!(
            (fault.kind, fault.line as usize, fault.address),
            (
                FaultKind::OutOfBounds,
                line,
                Some(all[1].wrapping_add_signed(offset))
            ),
            "{fault}"
        );
    }
}

/// Compilers widen a load to a vector that runs over the end of an allocation where alignment keeps it from a fault. Its
/// elements are initialised each for itself: what lies beyond may be read, not used.
#[test]
fn vectors_over_an_end() {
    let body = |used: &str| {
        format!(
            "
    .reg .f32 %f<9>; .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
    ld.global.v4.f32 {{%f1, %f2, %f3, %f4}}, [%rd1+32];
    {used}
    st.global.f32 [%rd2], %f3;
    ret;"
        )
    };
    // Eleven floats, the tenth not initialised.
    let run = |used| {
        let device = Device::new(&module(".param .u64 x, .param .u64 y", &body(used)));
        let (x, y) = (device.alloc::<f32>(11), device.alloc::<f32>(1));
        device.memory.write(x, &[0; 36]).unwrap();
        device.memory.write(x + 40, &1f32.to_ne_bytes()).unwrap();
        let args = [Arg::U64(x), Arg::U64(y)];
        device
            .launch("k", 1, 1, 0, &args)
            .map(|_| device.download::<f32>(y, 1)[0])
    };
    assert_eq!(run("add.f32 %f3, %f3, %f1;").unwrap(), 1.0);
    for unknown in ["add.f32 %f3, %f3, %f2;", "add.f32 %f3, %f3, %f4;"] {
        assert_eq!(run(unknown).unwrap_err().kind, FaultKind::Uninitialised);
    }
    // The first element must be there, and a vector that is not aligned never is.
    let fault = run("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+48];").unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds, "{fault}");
    let fault = run("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+40];").unwrap_err();
    assert_eq!(fault.kind, FaultKind::Misaligned, "{fault}");
}
