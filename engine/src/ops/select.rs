//! Order statistics along the last axis. Values are differentiable through the elements they select; ties go to the lower
//! index (of the larger, in decreasing order); NaN counts as larger than every number, and makes a quantile NaN.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

impl Tensor {
    /// The `k` largest elements of each row, in decreasing order, and their indices (u32).
    ///
    /// # Errors
    /// More than a row holds, elements other than f32.
    pub fn top_k(&self, k: usize) -> Result<(Tensor, Tensor)> {
        self.expect_dtype("top_k", DType::F32)?;
        if self.rank() == 0 || k > self.last_dim() {
            return Err(self.out_of_row("top_k", k));
        }
        let mut shape = self.layout().shape;
        let last = shape.len() - 1;
        shape[last] = k;
        let mut values = Tensor::empty(&shape, DType::F32, self.device())?;
        let mut indices = Tensor::empty(&shape, DType::U32, self.device())?;
        self.device()
            .backend()
            .top_k(&self.packed()?, k, &mut values, &mut indices)?;
        if self.requires_grad() {
            Ok((self.take(&indices)?, indices))
        } else {
            Ok((values, indices))
        }
    }

    fn out_of_row(&self, op: &'static str, k: usize) -> Error {
        let (n, shape) = (self.last_dim(), self.shape());
        Error::shape(op, format!("k = {k} of rows of {n} in {shape:?}"))
    }

    /// Each row in decreasing order, and where its elements were.
    ///
    /// # Errors
    /// A scalar, elements other than f32.
    pub fn sort_descending(&self) -> Result<(Tensor, Tensor)> {
        self.top_k(self.last_dim())
    }

    /// Index of the largest element of each row.
    ///
    /// # Errors
    /// Empty rows, elements other than f32.
    pub fn argmax(&self) -> Result<Tensor> {
        let (_, index) = self.detach().top_k(1)?;
        index.squeeze(index.rank() - 1)
    }

    /// Index of the smallest element of each row; of the first NaN where there is one.
    ///
    /// # Errors
    /// Empty rows, elements other than f32.
    pub fn argmin(&self) -> Result<Tensor> {
        self.detach().neg()?.argmax()
    }

    /// The `k`-th smallest element of each row (`k` from 0): `[…, n] → […]`.
    ///
    /// # Errors
    /// `k` is not below the row's length, elements other than f32.
    pub fn kth_value(&self, k: usize) -> Result<Tensor> {
        self.expect_dtype("kth_value", DType::F32)?;
        if self.rank() == 0 || k >= self.last_dim() {
            return Err(self.out_of_row("kth_value", k));
        }
        if self.requires_grad() {
            let (values, _) = self.top_k(self.last_dim() - k)?;
            let axis = self.rank() - 1;
            return values.narrow(axis, values.last_dim() - 1, 1)?.squeeze(axis);
        }
        let mut out = Tensor::empty(&self.shape()[..self.rank() - 1], DType::F32, self.device())?;
        self.device()
            .backend()
            .kth_value(&self.packed()?, k, &mut out)?;
        Ok(out)
    }

    /// The linearly interpolated `q`-quantile of each row, `[…, n] → […]`: with `v = q(n − 1)` and `f = v − ⌊v⌋`,
    /// `x₍⌊v⌋₎ + f·(x₍⌈v⌉₎ − x₍⌊v⌋₎)`, numpy's and PyTorch's default. NaN where the row holds one.
    ///
    /// # Errors
    /// `q` outside [0, 1], empty rows, elements other than f32.
    pub fn quantile(&self, q: f64) -> Result<Tensor> {
        if !(0.0..=1.0).contains(&q) || self.rank() == 0 || self.last_dim() == 0 {
            let (n, shape) = (self.last_dim(), self.shape());
            return Err(Error::shape(
                "quantile",
                format!("q = {q} of rows of {n} in {shape:?}"),
            ));
        }
        let last = self.last_dim() - 1;
        let v = q * last as f64;
        let mut y = self.kth_value(v.floor() as usize)?;
        if v.fract() > 0.0 {
            let high = self.kth_value(v.ceil() as usize)?;
            let between = y.add(&high.sub(&y)?.affine(v.fract(), 0.0)?)?;
            // Two equal infinities have no difference.
            y = y.equal(&high)?.select(&y, &between)?;
        }
        let largest = self.detach().kth_value(last)?;
        let nan = Tensor::full(&[], f64::NAN, self.dtype(), self.device())?;
        largest.equal(&largest)?.select(&y, &nan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::tape::backward;

    const ROWS: [[f32; 5]; 3] = [
        [3.0, 1.0, 3.0, -2.0, 0.0],
        [f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY, 1.0],
        [-0.0, 0.0, 0.0, -0.0, 0.0],
    ];

    fn on(device: &Device) -> Tensor {
        Tensor::from(ROWS).to_device(device).unwrap()
    }

    #[test]
    fn ties_and_nan_have_one_order_on_every_device() {
        for device in [Device::cpu(), Device::oracle()] {
            let x = on(&device);
            let (values, indices) = x.top_k(3).unwrap();
            assert_eq!(
                indices.to_vec::<u32>().unwrap(),
                [0, 2, 1, 0, 2, 1, 0, 1, 2],
                "{device}"
            );
            let values = values.to_vec::<f64>().unwrap();
            assert_eq!(values[..3], [3.0, 3.0, 1.0]);
            assert!(values[3].is_nan() && values[4] == f64::INFINITY);
            assert_eq!(x.argmax().unwrap().to_vec::<u32>().unwrap(), [0, 0, 0]);
            assert_eq!(x.argmin().unwrap().to_vec::<u32>().unwrap(), [3, 0, 0]);
            let third = x.kth_value(2).unwrap().to_vec::<f64>().unwrap();
            assert_eq!(third, [1.0, 1.0, 0.0]);
            assert!(x.kth_value(4).unwrap().to_vec::<f64>().unwrap()[1].is_nan());
            let (sorted, _) = x.get(0).unwrap().sort_descending().unwrap();
            assert_eq!(sorted.to_vec::<f64>().unwrap(), [3.0, 3.0, 1.0, 0.0, -2.0]);
            assert_eq!(x.top_k(0).unwrap().0.shape(), [3, 0]);
        }
    }

    #[test]
    fn quantiles_by_hand() {
        // Sorted −2, 0, 1, 3, 3: v = 4q.
        let x = on(&Device::cpu()).get(0).unwrap();
        for (q, want) in [
            (0.0, -2.0),
            (0.125, -1.0),
            (0.5, 1.0),
            (0.7, 2.6),
            (0.9, 3.0),
            (1.0, 3.0),
        ] {
            let got = x.quantile(q).unwrap().item().unwrap();
            assert!((got - want).abs() < 2e-7, "{q}: {got}");
        }
        assert!(
            on(&Device::cpu())
                .quantile(0.25)
                .unwrap()
                .to_vec::<f32>()
                .unwrap()[1]
                .is_nan()
        );
        let infinite = Tensor::from([f32::INFINITY, f32::INFINITY, 1.0]);
        assert_eq!(
            infinite.quantile(0.75).unwrap().item().unwrap(),
            f64::INFINITY
        );
        let message = x.quantile(1.5).unwrap_err().to_string();
        assert_eq!(message, "quantile: q = 1.5 of rows of 5 in [5]");
        assert!(Tensor::from([0.0f32; 0]).quantile(0.5).is_err());
        assert!(x.top_k(6).is_err() && x.kth_value(5).is_err());
    }

    #[test]
    fn gradients_go_to_the_elements_selected() {
        let x = Tensor::from([3.0, 1.0, 3.0, -2.0]).trained();
        let grads = backward(&x.quantile(0.5).unwrap()).unwrap();
        // Half of each of the middle two, of which the 3 is the later in decreasing order.
        assert_eq!(
            grads.of(&x).unwrap().to_vec::<f32>().unwrap(),
            [0.0, 0.5, 0.5, 0.0]
        );
    }
}
