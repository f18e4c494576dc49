//! Atomic operations on vectors: every element by itself, the vector aligned as a whole.

mod common;

use common::{Arg, Device, module};
use deltaw_driver::exec::FaultKind;
use half::f16;

#[test]
fn elements_are_updated_and_returned() {
    // The targets are the sources turned round.
    let body = |address: &str| {
        format!(
            ".reg .b32 %r<2>; .reg .f32 %f<4>; .reg .b64 %rd<4>; ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
            mov.u32 %r1, %tid.x; cvt.rn.f32.u32 %f0, %r1; add.f32 %f1, %f0, 0f3F800000; mov.f32 %f2, 0fBF800000; mov.f32 %f3, 0f00000000;
            atom.global.add.v4.f32 {{%f3, %f2, %f1, %f0}}, [%rd1{address}], {{%f0, %f1, %f2, %f3}};
            mul.wide.u32 %rd3, %r1, 16; add.u64 %rd2, %rd2, %rd3; st.global.v4.f32 [%rd2], {{%f3, %f2, %f1, %f0}}; ret;"
        )
    };
    let params = ".param .u64 x, .param .u64 y";
    let device = Device::new(&module(params, &body("")));
    let (x, y) = (
        device.upload(&[100f32, 200.0, 300.0, 400.0, 0.0]),
        device.alloc::<f32>(128),
    );
    let args = [Arg::U64(x), Arg::U64(y)];
    device.launch("k", 1, 32, 0, &args).unwrap();
    // Lanes update in order: lane n finds the sums of 0 to n - 1, of 1 to n, and of minus ones.
    let mut sums = [100f32, 200.0, 300.0, 400.0];
    for (n, old) in device.download::<f32>(y, 128).chunks(4).enumerate() {
        assert_eq!(old, sums, "lane {n}");
        let n = n as f32;
        sums = [sums[0] + n, sums[1] + n + 1.0, sums[2] - 1.0, sums[3]];
    }
    assert_eq!(device.download::<f32>(x, 4), sums);

    let device = Device::new(&module(params, &body("+4")));
    let (x, y) = (device.upload(&[0f32; 8]), device.alloc::<f32>(128));
    let fault = device
        .launch("k", 1, 32, 0, &[Arg::U64(x), Arg::U64(y)])
        .unwrap_err();
    assert_eq!(
        (fault.kind, fault.address),
        (FaultKind::Misaligned, Some(x + 4))
    );
}

#[test]
fn halves_add_and_compare() {
    for (name, want) in [
        ("add.noftz", [3.0, 1.5, -2.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
        ("min.noftz", [1.0, -0.5, -3.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ("max.noftz", [2.0, 2.0, 1.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
    ] {
        let device = Device::new(&module(
            ".param .u64 x",
            &format!(
                ".reg .b16 %h<9>; .reg .b64 %rd<2>; ld.param.u64 %rd1, [x];
                ld.global.v4.b16 {{%h0, %h1, %h2, %h3}}, [%rd1+16]; ld.global.v4.b16 {{%h4, %h5, %h6, %h7}}, [%rd1+24];
                red.global.{name}.v8.f16 [%rd1], {{%h0, %h1, %h2, %h3, %h4, %h5, %h6, %h7}};
                ret;"
            ),
        ));
        let old = [1.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let new = [2.0, -0.5, -3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let bits: Vec<u16> = old
            .iter()
            .chain(&new)
            .map(|&x| f16::from_f32(x).to_bits())
            .collect();
        let x = device.upload(&bits);
        device.launch("k", 1, 1, 0, &[Arg::U64(x)]).unwrap();
        let got: Vec<f32> = device
            .download::<u16>(x, 8)
            .into_iter()
            .map(|b| f16::from_bits(b).to_f32())
            .collect();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn pairs_of_a_vector() {
    let device = Device::new(&module(
        ".param .u64 x",
        ".reg .b32 %r<4>; .reg .b64 %rd<2>; ld.param.u64 %rd1, [x]; mov.b32 %r1, 0x3c004000; mov.b32 %r2, 0xbc003c00;
        atom.global.add.noftz.v2.f16x2 {%r3, _}, [%rd1], {%r1, %r2}; st.global.b32 [%rd1+8], %r3; ret;",
    ));
    let one = u32::from(f16::ONE.to_bits());
    let x = device.upload(&[one | one << 16, one, 0]);
    device.launch("k", 1, 1, 0, &[Arg::U64(x)]).unwrap();
    let bits = |low: f32, high: f32| {
        u32::from(f16::from_f32(low).to_bits()) | u32::from(f16::from_f32(high).to_bits()) << 16
    };
    let want = [bits(3.0, 2.0), bits(2.0, -1.0), bits(1.0, 1.0)];
    assert_eq!(device.download::<u32>(x, 3), want);
}
