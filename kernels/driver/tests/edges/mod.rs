//! Edge cases of numbers, and instructions run on them.
#![allow(dead_code, reason = "every test uses a part of it")]

use super::common::{Arg, Device, module};

/// Runs `%d = instruction(%a, %b, %c)` on every triple; registers have the named types, `%p` is a predicate.
pub fn run(instruction: &str, types: [&str; 4], inputs: &[[u64; 3]]) -> Vec<u64> {
    let [d, a, b, c] = types;
    let bits = |ty: &str| match ty {
        "f16" | "bf16" | "b16" | "u16" | "s16" => "16",
        "f64" | "b64" | "u64" | "s64" => "64",
        _ => "32",
    };
    let load =
        |name: &str, ty: &str, at: u32| format!("ld.global.b{} %{name}, [%in+{at}];", bits(ty));
    let text = module(
        ".param .u64 in, .param .u64 out, .param .u32 n",
        &format!(
            "
        .reg .pred %p, %q; .reg .b32 %x; .reg .b{} %d; .reg .b{} %a; .reg .b{} %b; .reg .b{} %c;
        .reg .b64 %in, %out, %o; .reg .b32 %i, %n, %t;
        ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; ld.param.u32 %n, [n];
        mov.u32 %i, %ctaid.x; mov.u32 %t, %ntid.x; mov.u32 %x, %tid.x; mad.lo.u32 %i, %i, %t, %x;
        setp.ge.u32 %p, %i, %n; @%p ret;
        mul.wide.u32 %o, %i, 24; add.u64 %in, %in, %o; mul.wide.u32 %o, %i, 8; add.u64 %out, %out, %o;
        {} {} {}
        mov.b64 %o, 0; st.global.b64 [%out], %o;
        {instruction}
        st.global.b{} [%out], %d;
        ret;",
            bits(d), bits(a), bits(b), bits(c), load("a", a, 0), load("b", b, 8), load("c", c, 16), bits(d)
        ),
    );
    let device = Device::new(&text);
    let (din, dout) = (device.upload(inputs), device.alloc::<u64>(inputs.len()));
    let n = inputs.len() as u32;
    let args = [Arg::U64(din), Arg::U64(dout), Arg::U32(n)];
    device.launch("k", n.div_ceil(128), 128, 0, &args).unwrap();
    device.download(dout, inputs.len())
}

pub fn triples(a: &[u64], b: &[u64], c: &[u64]) -> Vec<[u64; 3]> {
    let pairs = a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b)));
    pairs
        .flat_map(|(a, b)| c.iter().map(move |&c| [a, b, c]))
        .collect()
}

pub const F32: [f32; 22] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    0.1,
    -2.5,
    3.0e-39,
    -1.0e-45,
    f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    16_777_216.0,
    16_777_217.0,
    1.000_000_1,
    0.333_333_34,
    1.0e-20,
    -3.0e20,
    2.5,
];

pub fn f32s() -> Vec<u64> {
    F32.map(|x| x.to_bits().into()).to_vec()
}

pub fn f64s() -> Vec<u64> {
    let extra = [
        1e300,
        -1e-310,
        4_503_599_627_370_497.5,
        f64::MAX,
        5e-324,
        1.0 + f64::EPSILON,
    ];
    F32.map(f64::from)
        .into_iter()
        .chain(extra)
        .map(f64::to_bits)
        .collect()
}

pub const INTEGERS: [u64; 12] = [
    0,
    1,
    2,
    31,
    32,
    63,
    64,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1234_5678,
    0x8000_0000_0000_0000,
];

/// A NaN is the ISA's one.
pub fn canonical(x: f32) -> u64 {
    if x.is_nan() {
        0x7fff_ffff
    } else {
        x.to_bits().into()
    }
}

pub fn flush(x: f32) -> f32 {
    if x.is_subnormal() {
        0f32.copysign(x)
    } else {
        x
    }
}

pub fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

pub fn check(
    instruction: &str,
    types: [&str; 4],
    inputs: &[[u64; 3]],
    want: impl Fn([u64; 3]) -> u64,
) {
    for (input, got) in inputs.iter().zip(run(instruction, types, inputs)) {
        let want = want(*input);
        assert_eq!(
            got, want,
            "{instruction} of {input:x?}: {got:#x} for {want:#x}"
        );
    }
}

pub fn check32(op: &str, want: impl Fn(f32, f32, f32) -> f32) {
    let third = [0.0f32, -0.0, 1.0, -1.0e-40, f32::MAX, f32::NAN].map(|x| x.to_bits().into());
    let inputs = triples(&f32s(), &f32s(), &third);
    check(op, ["f32"; 4], &inputs, |[a, b, c]| {
        canonical(want(f(a), f(b), f(c)))
    });
}
