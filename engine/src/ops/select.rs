//! Order statistics along the last axis. Values are differentiable through the elements they select;
//! ties go to the lower index; NaN counts as larger than every number.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

impl Tensor {
    /// The `k` largest elements of each row, in decreasing order, and their indices.
    ///
    /// # Errors
    /// More than a row holds.
    pub fn top_k(&self, k: usize) -> Result<(Tensor, Tensor)> {
        self.expect_dtype("top_k", DType::F32)?;
        if self.rank() == 0 || k > self.last_dim() {
            return Err(Error::shape(
                "top_k",
                format!(
                    "k = {k} of rows of {} in {:?}",
                    self.last_dim(),
                    self.shape()
                ),
            ));
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

    /// Index of the largest element of each row.
    ///
    /// # Errors
    /// Empty rows.
    pub fn argmax(&self) -> Result<Tensor> {
        let (_, index) = self.detach().top_k(1)?;
        index.squeeze(index.rank() - 1)
    }

    /// The `k`-th smallest element of each row (`k` from 0), outside the tape: `[…, n] → […]`.
    ///
    /// # Errors
    /// `k` is not below the row's length.
    pub fn kth_value(&self, k: usize) -> Result<Tensor> {
        self.expect_dtype("kth_value", DType::F32)?;
        if self.rank() == 0 || k >= self.last_dim() {
            return Err(Error::shape(
                "kth_value",
                format!(
                    "k = {k} of rows of {} in {:?}",
                    self.last_dim(),
                    self.shape()
                ),
            ));
        }
        let mut out = Tensor::empty(&self.shape()[..self.rank() - 1], DType::F32, self.device())?;
        self.device()
            .backend()
            .kth_value(&self.packed()?, k, &mut out)?;
        Ok(out)
    }

    /// The linearly interpolated `q`-quantile of each row, outside the tape:
    /// `v = q(n−1)`, `(1 − frac v)·x₍⌊v⌋₎ + frac v·x₍⌈v⌉₎` (numpy's default).
    ///
    /// # Errors
    /// `q` outside [0, 1], empty rows.
    pub fn quantile(&self, q: f64) -> Result<Tensor> {
        if !(0.0..=1.0).contains(&q) || self.last_dim() == 0 {
            return Err(Error::shape(
                "quantile",
                format!(
                    "q = {q} of rows of {} in {:?}",
                    self.last_dim(),
                    self.shape()
                ),
            ));
        }
        let v = q * (self.last_dim() - 1) as f64;
        let low = self.kth_value(v.floor() as usize)?;
        if v.fract() == 0.0 {
            return Ok(low);
        }
        let high = self.kth_value(v.ceil() as usize)?;
        low.affine(1.0 - v.fract(), 0.0)?
            .add(&high.affine(v.fract(), 0.0)?)
    }
}
