//! What the host sends goes to the device beside the work there, and never into memory that is still read.

use cudarc::driver::CudaEvent;
use deltaw_engine::prelude::*;
use deltaw_tests::gpu::Gpu;

/// Elements sent: more than the pinned memory holds at a time.
const SENT: usize = 1 << 20;

fn sent(gpu: &Gpu, value: f32) -> Tensor {
    Tensor::from_slice(&vec![value; SENT], &[SENT], &gpu.device).unwrap_or_else(|e| gpu.fail(e))
}

/// Enough work to outlast some copies, and the place in the stream at which it is done.
fn busy(gpu: &Gpu) -> CudaEvent {
    let side = if gpu.counters().is_some() { 256 } else { 8192 };
    let matrix = Tensor::full(&[side, side], 0.5, DType::F32, &gpu.device).unwrap();
    for _ in 0..2 {
        matrix.matmul(&matrix).unwrap_or_else(|e| gpu.fail(e));
    }
    let (_, stream) = gpu.device.as_cuda().unwrap().launcher();
    stream.record_event(None).unwrap()
}

fn all_are(gpu: &Gpu, x: &Tensor, value: f32) {
    let values = x.to_vec::<f32>().unwrap_or_else(|e| gpu.fail(e));
    assert!(values.iter().all(|x| *x == value), "not all are {value}");
}

/// The host goes on before work that was asked for first is done, though it needs the pinned memory more than once.
#[test]
fn what_is_sent_does_not_wait_for_work() {
    let gpu = Gpu::new();
    // From then on two blocks of this size are free.
    drop([sent(&gpu, 1.0), sent(&gpu, 2.0), sent(&gpu, 3.0)]);
    gpu.device.as_cuda().unwrap().synchronize().unwrap();
    let done = busy(&gpu);
    let x = sent(&gpu, 4.0);
    assert!(!done.is_complete(), "the work was waited for");
    all_are(&gpu, &x, 4.0);
    assert!(done.is_complete());
}

/// Memory that has been given back is not written to while work that was asked for before still reads it.
#[test]
fn what_is_sent_waits_for_its_memory() {
    let gpu = Gpu::new();
    let mut sums = vec![];
    for step in 0..4 {
        let x = sent(&gpu, step as f32);
        busy(&gpu);
        sums.push(x.add(&x).unwrap_or_else(|e| gpu.fail(e)));
    }
    for (step, sum) in sums.iter().enumerate() {
        all_are(&gpu, sum, 2.0 * step as f32);
    }
}

/// A second write goes where the first went, after the work between them.
#[test]
fn what_is_written_again_comes_in_its_order() {
    let gpu = Gpu::new();
    let mut x = sent(&gpu, 1.0);
    busy(&gpu);
    let before = x.add(&x).unwrap();
    let bytes = bytemuck::cast_slice(&vec![2.0f32; SENT]).to_vec();
    let backend = gpu.device.backend();
    backend
        .write(&mut x, DType::F32, &bytes)
        .unwrap_or_else(|e| gpu.fail(e));
    all_are(&gpu, &before, 2.0);
    all_are(&gpu, &x, 2.0);
}
