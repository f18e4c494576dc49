//! Calls through registers, tables of functions, and addresses of elements in initialisers.

mod common;

use common::{Arg, Device, LIMIT};
use deltaw_driver::exec::{Checks, Fault, FaultKind, Loaded};
use deltaw_driver::memory::{LOWEST_BASE, Memory, MemoryConfig};
use deltaw_driver::ptx::Module;

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// Three functions of one shape and one of another; a table of some of them.
const FUNCTIONS: &str = "
.func (.param .b32 r) twice(.param .b32 a) { .reg .b32 %r<3>;
    ld.param.b32 %r1, [a]; add.s32 %r2, %r1, %r1; st.param.b32 [r], %r2; ret; }
.func (.param .b32 r) square(.param .b32 a) { .reg .b32 %r<3>;
    ld.param.b32 %r1, [a]; mul.lo.s32 %r2, %r1, %r1; st.param.b32 [r], %r2; ret; }
.func (.param .b32 r) negative(.param .b32 a) { .reg .b32 %r<3>;
    ld.param.b32 %r1, [a]; neg.s32 %r2, %r1; st.param.b32 [r], %r2; ret; }
.func (.param .b32 r) sum(.param .b32 a, .param .b32 b) { .reg .b32 %r<4>;
    ld.param.b32 %r1, [a]; ld.param.b32 %r2, [b]; add.s32 %r3, %r1, %r2; st.param.b32 [r], %r3; ret; }
.global .align 8 .u64 table[4] = {twice, square, negative, sum};
";

/// A kernel in which thread t calls the function at `choice` (a computation of %rd1) with t.
fn kernel(choice: &str, list: &str) -> String {
    format!(
        "{HEAD}{FUNCTIONS}
.visible .entry k(.param .u64 y) {{
    .reg .pred %p<2>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
    ld.param.u64 %rd2, [y]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 4; add.u64 %rd2, %rd2, %rd3;
    {choice}
    {{
    .param .b32 param0; .param .b32 retval0;
    st.param.b32 [param0], %r1;
    {list}
    call (retval0), %rd1, (param0), shape;
    ld.param.b32 %r2, [retval0];
    }}
    st.global.u32 [%rd2], %r2; ret; }}"
    )
}

const PROTOTYPE: &str = "shape: .callprototype (.param .b32 _) _ (.param .b32 _);";
const TARGETS: &str = "shape: .calltargets twice, square;";

/// An element of the table, by the thread.
const FROM_TABLE: &str =
    "and.b32 %r3, %r1, 3; min.u32 %r3, %r3, 2; mul.wide.u32 %rd4, %r3, 8; mov.u64 %rd5, table;
    add.u64 %rd5, %rd5, %rd4; ld.global.u64 %rd1, [%rd5];";

fn run(text: &str) -> Result<Vec<i32>, Fault> {
    let device = Device::new(text);
    let y = device.alloc::<i32>(32);
    device.launch_with(
        "k",
        [1; 3],
        [32, 1, 1],
        0,
        &[Arg::U64(y)],
        &Checks::STRICT,
        LIMIT,
    )?;
    Ok(device.download(y, 32))
}

#[test]
fn every_lane_calls_its_own_function() {
    let got = run(&kernel(FROM_TABLE, PROTOTYPE)).unwrap();
    for (t, got) in (0..).zip(got) {
        let want = [2 * t, t * t, -t, -t][t as usize % 4];
        assert_eq!(got, want, "thread {t}");
    }
}

#[test]
fn addresses_may_be_taken_in_registers() {
    let choice = "setp.lt.u32 %p1, %r1, 10; mov.u64 %rd1, square; @%p1 mov.u64 %rd1, twice;";
    for list in [PROTOTYPE, TARGETS] {
        let got = run(&kernel(choice, list)).unwrap();
        for (t, got) in (0..).zip(got) {
            assert_eq!(got, if t < 10 { 2 * t } else { t * t }, "thread {t}");
        }
    }
}

#[test]
fn what_is_no_function_of_that_shape_is_a_fault() {
    let call = |text: &str| {
        text.lines()
            .position(|l| l.contains("call (retval0)"))
            .unwrap() as u32
            + 1
    };
    for (choice, list) in [
        ("mov.u64 %rd1, 12345;", PROTOTYPE),
        // A function with other parameters, and one that the list does not name.
        ("mov.u64 %rd1, sum;", PROTOTYPE),
        ("mov.u64 %rd1, negative;", TARGETS),
    ] {
        let text = kernel(choice, list);
        let fault = run(&text).unwrap_err();
        assert_eq!(
            (fault.kind, fault.line),
            (FaultKind::Trap, call(&text)),
            "{fault}"
        );
        assert!(
            fault.text.contains("no function with these parameters"),
            "{fault}"
        );
    }
    let text = kernel("", PROTOTYPE);
    let fault = run(&text).unwrap_err();
    assert_eq!(
        (fault.kind, fault.line),
        (FaultKind::Uninitialised, call(&text)),
        "{fault}"
    );
}

#[test]
fn recursion_by_address_is_refused() {
    let text = format!(
        "{HEAD}.func f(.param .b64 a) {{ .reg .b64 %rd<2>; ld.param.b64 %rd1, [a];
        {{ .param .b64 param0; st.param.b64 [param0], %rd1; p: .callprototype _ (.param .b64 _); call %rd1, (param0), p; }} ret; }}
        .visible .entry k() {{ .reg .b64 %rd<2>; mov.u64 %rd1, f; {{ .param .b64 param0; st.param.b64 [param0], %rd1;
        call f, (param0); }} ret; }}"
    );
    let config = MemoryConfig {
        base: LOWEST_BASE,
        capacity: 1 << 20,
        shadow: true,
    };
    let memory = Memory::new(config).unwrap();
    let error = Loaded::new(&Module::parse(&text).unwrap(), &memory)
        .err()
        .unwrap();
    let own_call = text.lines().position(|line| line.contains("call %rd1"));
    assert_eq!(
        Some(error.line as usize),
        own_call.map(|line| line + 1),
        "{error}"
    );
    assert!(
        error.message.contains("recursive calls are not supported"),
        "{error}"
    );
    assert_eq!(error.text, "call f");
}

#[test]
fn initialisers_hold_addresses_of_elements() {
    let text = format!(
        "{HEAD}.global .align 4 .u32 numbers[6] = {{10, 11, 12, 13, 14, 15}};
.global .align 8 .v2 .f32 pairs[2];
.global .align 8 .u64 places[4] = {{numbers[2], generic(numbers[5]), numbers+4, pairs[1]}};
.visible .entry k(.param .u64 y) {{ .reg .b64 %rd<9>; .reg .b32 %r<5>;
    ld.param.u64 %rd1, [y]; ld.global.u64 %rd2, [places]; ld.global.u64 %rd3, [places+8]; ld.global.u64 %rd4, [places+16];
    ld.global.u32 %r1, [%rd2]; ld.u32 %r2, [%rd3]; ld.global.u32 %r3, [%rd4];
    ld.global.u64 %rd5, [places+24]; mov.u64 %rd6, pairs; sub.u64 %rd5, %rd5, %rd6; cvt.u32.u64 %r4, %rd5;
    st.global.v4.u32 [%rd1], {{%r1, %r2, %r3, %r4}}; ret; }}"
    );
    let device = Device::new(&text);
    let y = device.alloc::<u32>(4);
    device.launch("k", 1, 1, 0, &[Arg::U64(y)]).unwrap();
    assert_eq!(device.download::<u32>(y, 4), [12, 15, 11, 8]);
}
