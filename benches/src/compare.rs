//! The same function of the same tensors on two devices.

use deltaw_engine::prelude::*;

/// Unit roundoff of f32.
pub const U: f64 = f32::EPSILON as f64 / 2.0;

/// Numbers in [−1, 1) that f32 holds exactly, a fixed function of the seed.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mix = |i: u64| {
        let mut x =
            (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    (0..count as u64)
        .map(|i| (mix(i) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// Such numbers in a tensor on the CPU.
///
/// # Errors
/// It cannot be made.
pub fn tensor(shape: &[usize], seed: u64) -> Result<Tensor> {
    Tensor::from_slice(
        &numbers(shape.iter().product(), seed),
        shape,
        &Device::cpu(),
    )
}

/// The same on a device.
///
/// # Errors
/// It cannot be made.
pub fn tensor_on(shape: &[usize], seed: u64, device: &Device) -> Result<Tensor> {
    tensor(shape, seed)?.to_device(device)
}

/// Value and, where it has them, gradients of a function of trained tensors (those of f32), for a fixed incoming gradient.
///
/// # Errors
/// The function's own.
pub fn swept(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    let leaf = |x: &Tensor| {
        if x.dtype() == DType::F32 {
            x.trained()
        } else {
            x.clone()
        }
    };
    let inputs: Vec<Tensor> = inputs.iter().map(leaf).collect();
    let y = f(&inputs)?;
    let mut all = vec![y.detach()];
    if y.requires_grad() {
        let dy = Tensor::from_slice(&numbers(y.len(), 77), y.shape(), y.device())?;
        let grads = backward_with(&y, dy)?;
        all.extend(inputs.iter().filter_map(|x| grads.of(x).cloned()));
    }
    Ok(all)
}

/// What is in a tensor, as f32.
///
/// # Errors
/// It cannot be read.
pub fn values(x: &Tensor) -> Result<Vec<f32>> {
    x.converted(DType::F32)?.to_vec::<f32>()
}

/// The largest difference in units of `bound`; of a NaN that only one side has, ∞. A bound of 0 wants equal numbers.
pub fn excess(got: &[f32], want: impl IntoIterator<Item = f64>, bound: f64) -> f64 {
    let one = |(got, want): (&f32, f64)| {
        let error = (f64::from(*got) - want).abs();
        match error {
            _ if got.is_nan() && want.is_nan() || f64::from(*got) == want => 0.0,
            _ if error.is_nan() || bound == 0.0 => f64::INFINITY,
            _ => error / bound,
        }
    };
    got.iter().zip(want).map(one).fold(0.0, f64::max)
}
