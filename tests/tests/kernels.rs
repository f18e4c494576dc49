//! Kernels on the software driver against the CPU: where both are made of the same correctly rounded operations, bit by bit.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DevicePtr};
use deltaw_engine::cpu::philox::{self, Window};
use deltaw_engine::device::Distribution;
use deltaw_engine::prelude::{DType, Device, Tensor};
use deltaw_kernels::Kernels;
use deltaw_kernels::gemm::{Activation, Gemm, Matrix, Output, Type};
use deltaw_kernels::philox::{Distribution as OnDevice, Fill};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

/// A GPU's kernels and stream. Fields are dropped in their order, the device last.
struct Gpu {
    kernels: Kernels,
    stream: Arc<CudaStream>,
    device: deltaw_tests::gpu::Gpu,
}

impl Gpu {
    fn new() -> Gpu {
        let device = deltaw_tests::gpu::Gpu::new();
        let context = CudaContext::new(device.ordinal).unwrap();
        Gpu {
            kernels: Kernels::new(&context).unwrap(),
            stream: context.default_stream(),
            device,
        }
    }
}

fn cases(count: u32) -> Config {
    Config {
        cases: count,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..Config::default()
    }
}

thread_local! {
    static GPU: Gpu = Gpu::new();
}

/// Fills a window on the device, `shift` elements into memory whose every element is −7 before, rows `gap` apart.
fn fill(
    gpu: &Gpu,
    distribution: OnDevice,
    stream: [u32; 4],
    window: &Window,
    rows: usize,
    [shift, gap]: [usize; 2],
) -> Vec<f32> {
    let width = (window.columns.end - window.columns.start) as usize;
    let stride = width + gap;
    let memory = gpu
        .stream
        .clone_htod(&vec![-7.0f32; shift + rows * stride])
        .unwrap();
    let fill = Fill {
        distribution,
        stream,
        first_row: window.first_row,
        rows,
        columns: window.columns.clone(),
        out: memory.device_ptr(&gpu.stream).0 + 4 * shift as u64,
        stride,
    };
    // SAFETY: the rows lie in `memory`, which is read after.
    unsafe { fill.launch(&gpu.kernels, &gpu.stream) }.unwrap();
    gpu.stream.synchronize().unwrap();
    if let Some(device) = gpu.device.counters() {
        let launch = device.launches().unwrap().pop().unwrap();
        assert_eq!(launch.counters.global.bytes, fill.bytes());
    }
    gpu.stream.clone_dtoh(&memory).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(cases(60))]

    /// Any window of any stream has the CPU's bits, and nothing beside it is written.
    #[test]
    fn random_numbers_are_the_cpus(
        which in 0..3usize, p in 0.0..1.0f32, stream: [u32; 4], first_row: u32, start in 0..1u64 << 33,
        width in 1..1200u64, rows in 1..6usize, shift in 0..5usize, gap in 0..5usize,
    ) {
        let (cpu, device) = [
            (Distribution::Uniform, OnDevice::Uniform),
            (Distribution::Bernoulli(p), OnDevice::Bernoulli(p)),
            (Distribution::Normal, OnDevice::Normal),
        ][which];
        let window = Window { first_row: first_row.min(u32::MAX - 8), columns: start..start + width };
        let mut wanted = vec![0.0; rows * width as usize];
        philox::fill(cpu, stream, &window, &mut wanted);
        let got = GPU.with(|gpu| fill(gpu, device, stream, &window, rows, [shift, gap]));
        let (before, rows) = got.split_at(shift);
        prop_assert!(before.iter().all(|x| *x == -7.0));
        let width = width as usize;
        for (row, wanted) in rows.chunks(width + gap).zip(wanted.chunks(width)) {
            prop_assert_eq!(bits(&row[..width]), bits(wanted));
            prop_assert!(row[width..].iter().all(|x| *x == -7.0));
        }
    }
}

/// 200,000 normals of one row: the tails and every quadrant occur.
#[test]
fn many_normals_are_the_cpus() {
    let window = Window {
        first_row: 3,
        columns: 2..200_002,
    };
    let mut wanted = vec![0.0; 200_000];
    philox::fill(Distribution::Normal, [1, 2, 3, 4], &window, &mut wanted);
    let got = GPU.with(|gpu| fill(gpu, OnDevice::Normal, [1, 2, 3, 4], &window, 1, [0, 0]));
    assert_eq!(bits(&got), bits(&wanted));
}

/// The epilogue's activations of y = x · 1, for x over their whole range, its ends and what is beyond.
#[test]
fn activations_are_the_cpus() {
    let mut x: Vec<f32> = (-40_000..40_000).map(|i| i as f32 * 0.0005).collect();
    x.extend([
        0.0,
        -0.0,
        1e-30,
        -1e-30,
        1e-42,
        50.0,
        -50.0,
        110.0,
        -110.0,
        3e38,
        -3e38,
        f32::INFINITY,
        f32::NAN,
    ]);
    let on_cpu = Tensor::from_slice(&x, &[x.len()], &Device::cpu()).unwrap();
    let gpu = Gpu::new();
    let (a, b) = (
        gpu.stream.clone_htod(&x).unwrap(),
        gpu.stream.clone_htod(&[1.0f32]).unwrap(),
    );
    for activation in Activation::ALL {
        let wanted = match activation {
            Activation::Identity => on_cpu.clone(),
            Activation::Relu => on_cpu.relu().unwrap(),
            Activation::Gelu => on_cpu.gelu().unwrap(),
            Activation::GeluTanh => on_cpu.gelu_tanh().unwrap(),
            Activation::Silu => on_cpu.silu().unwrap(),
        };
        assert_eq!(wanted.dtype(), DType::F32);
        let y = gpu.stream.alloc_zeros::<f32>(x.len()).unwrap();
        let matrix = |pointer| Matrix {
            pointer,
            stride: 1,
            batch_stride: 0,
            transposed: false,
        };
        let gemm = Gemm {
            operands: Type::F32,
            output: Output::F32,
            m: x.len(),
            n: 1,
            k: 1,
            batch: 1,
            a: matrix(a.device_ptr(&gpu.stream).0),
            b: matrix(b.device_ptr(&gpu.stream).0),
            extension: None,
            alpha: 1.0,
            bias: None,
            activation,
            residual: None,
            y: matrix(y.device_ptr(&gpu.stream).0),
            split: None,
        };
        let plan = gemm.plan(gpu.kernels.multiprocessors(), gpu.kernels.shared_limit());
        // SAFETY: the matrices are as long as they say and live until the results are read; one k is not split.
        unsafe { gemm.launch(&plan, 0, &gpu.kernels, &gpu.stream) }.unwrap();
        let got = gpu.stream.clone_dtoh(&y).unwrap();
        for (i, (got, wanted)) in got.iter().zip(wanted.to_vec::<f32>().unwrap()).enumerate() {
            // A sum that starts at +0 has no −0, and a NaN's bits are not specified.
            let same = *got == wanted && (got.to_bits() == wanted.to_bits() || wanted == 0.0);
            assert!(
                same || got.is_nan() && wanted.is_nan(),
                "{activation:?}({:e}): {got:e}, CPU {wanted:e}",
                x[i]
            );
        }
    }
}
