//! Running sums along the last axis.
//!
//! ```text
//! y_i = Σ_{j ≤ i} x_j      dx_i = Σ_{j ≥ i} dy_j
//! ```

use crate::cpu::threads;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::softmax::GRAIN;
use crate::tape::Grads;
use crate::tensor::Tensor;

struct Cumsum;

/// Sums from the front or from the back, left to right in f32.
fn run(x: &Tensor, from_back: bool) -> Result<Tensor> {
    let x = x.packed()?;
    x.expect_dtype("cumsum", DType::F32)?;
    let (n, source) = (x.last_dim(), x.as_slice::<f32>()?);
    let mut y = Tensor::empty(x.shape(), DType::F32, x.device())?;
    let rows = threads::rows_per_piece(n, GRAIN);
    threads::par_rows(y.as_mut_slice::<f32>()?, n, rows, |first, part| {
        for (i, y) in part.chunks_exact_mut(n).enumerate() {
            let x = &source[(first + i) * n..][..n];
            let mut sum = 0.0;
            for j in 0..n {
                let j = if from_back { n - 1 - j } else { j };
                sum += x[j];
                y[j] = sum;
            }
        }
    });
    Ok(y)
}

impl Op for Cumsum {
    fn name(&self) -> &'static str {
        "cumsum"
    }

    fn supports(&self, device: &Device) -> bool {
        device.is_cpu()
    }

    fn forward(&self, _: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        run(inputs[0], false)
    }

    /// A product with the upper triangle of ones.
    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        let n = x.last_dim();
        let ones = Tensor::full(&[n, n], 1.0, x.dtype(), x.device())?;
        let rows = x.reshape(&[x.rows(), n])?;
        rows.matmul(&ones.triu(0)?)?.reshape(x.shape())
    }

    fn backward(&self, _: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        grads.add(0, run(&dy, true)?)
    }
}

impl Tensor {
    /// Running sums along the last axis.
    ///
    /// # Errors
    /// A scalar.
    pub fn cumsum(&self) -> Result<Tensor> {
        if self.rank() == 0 {
            return Err(Error::shape("cumsum", "a scalar has no axis to sum along"));
        }
        apply(Cumsum, &[self])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::backward_with;

    #[test]
    fn by_hand() {
        let x = Tensor::from([[1.0, 2.0, 3.0], [-1.0, 0.0, 4.0]]).trained();
        let y = x.cumsum().unwrap();
        assert_eq!(y.to_vec::<f32>().unwrap(), [1.0, 3.0, 6.0, -1.0, -1.0, 3.0]);
        let dy = Tensor::from([[1.0, 10.0, 100.0], [0.0, 0.0, 1.0]]);
        let grads = backward_with(&y, dy).unwrap();
        let dx = grads.of(&x).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(dx, [111.0, 110.0, 100.0, 1.0, 1.0, 1.0]);
    }
}
