//! Whole small kernels written by hand.

mod common;

use common::{Arg, Device, module};

const SAXPY: &str = "
    .reg .pred %p; .reg .b32 %r<8>; .reg .f32 %f<4>; .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.f32 %f1, [a]; ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p, %r5, %r1;
    @%p bra DONE;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4]; ld.global.f32 %f3, [%rd5];
    fma.rn.f32 %f3, %f1, %f2, %f3;
    st.global.f32 [%rd5], %f3;
DONE:
    ret;";

#[test]
fn saxpy_with_a_ragged_end() {
    let device = Device::new(&module(
        ".param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n",
        SAXPY,
    ));
    for n in [1, 31, 32, 33, 1000] {
        let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let (dx, dy) = (device.upload(&x), device.upload(&vec![1.0f32; n]));
        let args = [
            Arg::U64(dx),
            Arg::U64(dy),
            Arg::F32(2.0),
            Arg::U32(n as u32),
        ];
        let counters = device
            .launch("k", n.div_ceil(128) as u32, 128, 0, &args)
            .unwrap();
        let y: Vec<f32> = device.download(dy, n);
        assert!(
            y.iter()
                .enumerate()
                .all(|(i, &y)| y == 2.0 * i as f32 + 1.0),
            "{y:?}"
        );
        assert_eq!(counters.float_flops, 2 * n as u64);
        assert_eq!(counters.global.bytes, 12 * n as u64);
    }
}

const REDUCTION: &str = "
    .reg .pred %p<3>; .reg .b32 %r<9>; .reg .f32 %f<4>; .reg .b64 %rd<5>;
    .shared .align 4 .f32 buffer[256];
    ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
    mov.u32 %r1, %tid.x; mov.u32 %r2, buffer; shl.b32 %r3, %r1, 2; add.s32 %r4, %r2, %r3;
    mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd1, %rd3; ld.global.f32 %f1, [%rd4];
    st.shared.f32 [%r4], %f1;
    mov.u32 %r5, 128;
LOOP:
    bar.sync 0;
    setp.ge.u32 %p1, %r1, %r5;
    @%p1 bra SKIP;
    shl.b32 %r6, %r5, 2; add.s32 %r7, %r4, %r6;
    ld.shared.f32 %f2, [%r7]; ld.shared.f32 %f1, [%r4]; add.f32 %f1, %f1, %f2;
    st.shared.f32 [%r4], %f1;
SKIP:
    shr.u32 %r5, %r5, 1;
    setp.ne.u32 %p2, %r5, 0;
    @%p2 bra LOOP;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra DONE;
    st.global.f32 [%rd2], %f1;
DONE:
    ret;";

#[test]
fn reduction_through_shared_memory() {
    let device = Device::new(&module(".param .u64 x, .param .u64 y", REDUCTION));
    let x: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let (dx, dy) = (device.upload(&x), device.alloc::<f32>(1));
    let counters = device
        .launch("k", 1, 256, 0, &[Arg::U64(dx), Arg::U64(dy)])
        .unwrap();
    assert_eq!(device.download::<f32>(dy, 1), [255.0 * 128.0]);
    assert_eq!(counters.barriers, 8 * 8);
}

/// A generic address knows its space.
#[test]
fn spaces_of_addresses() {
    let body = ".reg .pred %p, %q, %r; .reg .b32 %s, %l, %d, %e, %f; .reg .b64 %y, %z, %g;
        .shared .align 4 .b32 word; .local .align 4 .b32 stack;
        ld.param.u64 %y, [y]; mov.u32 %s, word; cvt.u64.u32 %g, %s; cvta.shared.u64 %g, %g; mov.u32 %d, 0;
        isspacep.shared %p, %g; isspacep.global %q, %g; isspacep.local %r, %g;
        @%p or.b32 %d, %d, 1; @%q or.b32 %d, %d, 2; @%r or.b32 %d, %d, 4;
        mov.u64 %g, stack; cvta.local.u64 %g, %g; mov.u32 %e, 0;
        isspacep.shared %p, %g; isspacep.global %q, %g; isspacep.local %r, %g;
        @%p or.b32 %e, %e, 1; @%q or.b32 %e, %e, 2; @%r or.b32 %e, %e, 4;
        cvta.global.u64 %g, %y; mov.u32 %f, 0;
        isspacep.shared %p, %g; isspacep.global %q, %g; isspacep.local %r, %g;
        @%p or.b32 %f, %f, 1; @%q or.b32 %f, %f, 2; @%r or.b32 %f, %f, 4;
        st.global.u32 [%y], %d; st.global.u32 [%y+4], %e; st.global.u32 [%y+8], %f; ret;";
    let device = Device::new(&module(".param .u64 y", body));
    let y = device.alloc::<u32>(3);
    device.launch("k", 1, 1, 0, &[Arg::U64(y)]).unwrap();
    assert_eq!(device.download::<u32>(y, 3), [1, 4, 2]);
}
