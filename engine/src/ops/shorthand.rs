//! What users of other libraries look for, each a line or two over the ops.
//!
//! Broadcasting, here and in every op that says so: shapes are aligned at their last axes; sizes agree or one of them is 1
//! or absent, and is repeated; a size of 0 goes with 0 or 1.

use crate::device::{Device, Distribution};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::random::{Purpose, RandomKey};
use crate::tensor::Tensor;

impl Tensor {
    /// All 1, f32.
    pub fn ones(shape: &[usize], device: &Device) -> Result<Tensor> {
        Self::full(shape, 1.0, DType::F32, device)
    }

    /// The identity matrix, f32.
    pub fn eye(n: usize, device: &Device) -> Result<Tensor> {
        let values: Vec<f32> = (0..n * n).map(|i| (i / n == i % n) as u8 as f32).collect();
        Self::from_slice(&values, &[n, n], device)
    }

    /// Uniform in [0, 1): the numbers of the seed, the same at every call.
    pub fn rand(shape: &[usize], seed: u64, device: &Device) -> Result<Tensor> {
        let key = RandomKey::new(seed, Purpose::Sample, "rand");
        Self::random(shape, Distribution::Uniform, key, device)
    }

    /// Standard normal: the numbers of the seed, the same at every call.
    pub fn randn(shape: &[usize], seed: u64, device: &Device) -> Result<Tensor> {
        let key = RandomKey::new(seed, Purpose::Sample, "randn");
        Self::random(shape, Distribution::Normal, key, device)
    }

    /// Element `i` of axis 0, without that axis.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, i: usize) -> Result<Tensor> {
        self.narrow(0, i, 1)?.squeeze(0)
    }

    /// Axes `from..=to` as one.
    ///
    /// # Errors
    /// No such axes.
    pub fn flatten(&self, from: usize, to: usize) -> Result<Tensor> {
        if from > to || to >= self.rank() {
            return Err(Error::shape(
                "flatten",
                format!("no axes {from}..={to} in {:?}", self.shape()),
            ));
        }
        let whole = self.shape();
        let size = whole[from..=to].iter().product();
        self.reshape(&[&whole[..from], &[size], &whole[to + 1..]].concat())
    }

    /// Two axes swapped.
    ///
    /// # Errors
    /// No such axes.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Tensor> {
        if a.max(b) >= self.rank() {
            return Err(Error::shape(
                "transpose",
                format!("no axes {a} and {b} in {:?}", self.shape()),
            ));
        }
        let mut order: Vec<usize> = (0..self.rank()).collect();
        order.swap(a, b);
        self.permute(&order)
    }

    /// At most `count` parts along `axis`, all but the last of ⌈n/count⌉, as views.
    ///
    /// # Errors
    /// No such axis, a count of 0.
    pub fn chunk(&self, count: usize, axis: usize) -> Result<Vec<Tensor>> {
        let n = self.shape().get(axis).copied().filter(|_| count > 0);
        let n = n.ok_or_else(|| {
            Error::shape(
                "chunk",
                format!("{count} parts along axis {axis} of {:?}", self.shape()),
            )
        })?;
        let size = n.div_ceil(count).max(1);
        let sizes: Vec<usize> = (0..n).step_by(size).map(|at| size.min(n - at)).collect();
        self.split(axis, &sizes)
    }

    /// `value` where `mask` is not 0, else this; broadcasting.
    ///
    /// # Errors
    /// Shapes that do not broadcast.
    pub fn masked_fill(&self, mask: &Tensor, value: f64) -> Result<Tensor> {
        let value = Tensor::full(&[], value, self.dtype(), self.device())?;
        mask.select(&value, self)
    }

    /// 1 where greater than `other`, else 0.
    ///
    /// # Errors
    /// Shapes that do not broadcast, different element types.
    pub fn gt(&self, other: &Tensor) -> Result<Tensor> {
        other.lt(self)
    }

    /// 1 where at least `other`, else 0.
    ///
    /// # Errors
    /// Shapes that do not broadcast, different element types.
    pub fn ge(&self, other: &Tensor) -> Result<Tensor> {
        other.le(self)
    }

    /// Whole numbers as indices below `bound`, u32: what is less than 0 becomes 0, what is more than `bound` − 1 that. Outside the
    /// tape. Ops that take them know the bound, so that a GPU need not be waited for to check them.
    ///
    /// # Errors
    /// Elements of a type that cannot be clamped.
    pub fn indices_below(&self, bound: usize) -> Result<Tensor> {
        let last = bound.saturating_sub(1) as f64;
        let indices = self.detach().clamp(0.0, last)?.converted(DType::U32)?;
        let backend = indices.device().backend();
        backend.set_index_bound(&indices, bound.max(1) as u64);
        Ok(indices)
    }

    /// `a·bᵀ` of two vectors.
    ///
    /// # Errors
    /// Operands that are no vectors.
    pub fn outer(&self, other: &Tensor) -> Result<Tensor> {
        if self.rank() != 1 || other.rank() != 1 {
            return Err(Error::shape(
                "outer",
                format!(
                    "{:?} and {:?} are not two vectors",
                    self.shape(),
                    other.shape()
                ),
            ));
        }
        self.unsqueeze(1)?.mul(other)
    }

    /// The last two axes' part on and below the `diagonal`-th diagonal; 0 elsewhere.
    ///
    /// # Errors
    /// Fewer than two axes.
    pub fn tril(&self, diagonal: isize) -> Result<Tensor> {
        self.triangle("tril", |i, j| j <= i + diagonal)
    }

    /// The last two axes' part on and above the `diagonal`-th diagonal; 0 elsewhere.
    ///
    /// # Errors
    /// Fewer than two axes.
    pub fn triu(&self, diagonal: isize) -> Result<Tensor> {
        self.triangle("triu", |i, j| j >= i + diagonal)
    }

    fn triangle(&self, op: &'static str, kept: impl Fn(isize, isize) -> bool) -> Result<Tensor> {
        let &[.., m, n] = self.shape() else {
            return Err(Error::shape(
                op,
                format!("{:?} has fewer than two axes", self.shape()),
            ));
        };
        let values: Vec<f32> = (0..m * n)
            .map(|at| kept((at / n) as isize, (at % n) as isize) as u8 as f32)
            .collect();
        let kept = Self::from_slice(&values, &[m, n], self.device())?;
        let zero = Tensor::zeros(&[], self.dtype(), self.device())?;
        kept.select(self, &zero)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_by_hand() {
        let cpu = Device::cpu();
        let x = Tensor::from([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        let of = |t: Result<Tensor>| t.unwrap().to_vec::<f32>().unwrap();
        assert_eq!(of(x.get(1)), [4.0, 5.0, 6.0]);
        assert_eq!(of(x.transpose(0, 1)), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(
            x.unsqueeze(0).unwrap().flatten(0, 1).unwrap().shape(),
            [2, 3]
        );
        let parts = x.chunk(2, 1).unwrap();
        assert_eq!([parts[0].shape(), parts[1].shape()], [[2, 2], [2, 1]]);
        assert_eq!(of(x.tril(0)), [1.0, 0.0, 0.0, 4.0, 5.0, 0.0]);
        assert_eq!(of(x.triu(1)), [0.0, 2.0, 3.0, 0.0, 0.0, 6.0]);
        assert_eq!(
            of(Tensor::from([1.0, 2.0]).outer(&Tensor::from([3.0, 5.0]))),
            [3.0, 5.0, 6.0, 10.0]
        );
        let mask = x.gt(&Tensor::from([2.0, 2.0, 5.0])).unwrap();
        assert_eq!(
            of(x.masked_fill(&mask, -1.0)),
            [1.0, 2.0, 3.0, -1.0, -1.0, -1.0]
        );
        assert_eq!(
            of(x.ge(&Tensor::from([[2.0], [5.0]]))),
            [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
        );
        assert_eq!(of(Tensor::eye(2, &cpu)), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(of(Tensor::ones(&[2], &cpu)), [1.0, 1.0]);
        assert_eq!(
            of(Tensor::randn(&[3], 1, &cpu)),
            of(Tensor::randn(&[3], 1, &cpu))
        );
        assert_ne!(
            of(Tensor::rand(&[3], 1, &cpu)),
            of(Tensor::rand(&[3], 2, &cpu))
        );
        let numbers = Tensor::from([-1.0, 0.0, 3.0, 9.0, f32::NAN]);
        let indices = numbers.indices_below(4).unwrap();
        assert_eq!(indices.to_vec::<u32>().unwrap(), [0, 0, 3, 3, 0]);
        let message = x.get(2).unwrap_err().to_string();
        assert_eq!(message, "narrow: 2..3 of axis 0 in [2, 3]");
    }
}
