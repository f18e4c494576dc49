//! Reductions over any axes. Ties of `max` and `min` share the gradient equally.

use crate::device::Reduce;
use crate::error::{Error, Result};
use crate::op::{Forward, Op, Saved, apply};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Reduces the flagged axes to size 1.
struct ReduceAxes {
    reduce: Reduce,
    axes: [bool; crate::layout::MAX_RANK],
}

impl Op for ReduceAxes {
    fn name(&self) -> &'static str {
        match self.reduce {
            Reduce::Sum => "sum",
            Reduce::Max => "max",
            Reduce::Min => "min",
        }
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        let mut shape = x.layout().shape;
        for (axis, n) in shape.iter_mut().enumerate() {
            if self.axes[axis] {
                if *n == 0 && self.reduce != Reduce::Sum {
                    return Err(Error::shape(
                        self.name(),
                        format!("axis {axis} of {:?} is empty", x.shape()),
                    ));
                }
                *n = 1;
            }
        }
        let mut y = Tensor::empty(&shape, x.dtype(), x.device())?;
        x.device().backend().reduce(self.reduce, x, &mut y)?;
        if f.needs(0) && self.reduce != Reduce::Sum {
            f.save(0, x);
            f.save(1, &y);
        }
        Ok(y)
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dx = match self.reduce {
            Reduce::Sum => dy.expand(grads.shape(0))?,
            Reduce::Max | Reduce::Min => {
                let hit = saved.get(0)?.equal(saved.get(1)?)?;
                let ties = hit.sum_to(dy.shape())?;
                hit.mul(&dy.div(&ties)?)?
            }
        };
        grads.add(0, dx)
    }
}

/// √ has no slope at 0: the clamp's zero gradient below the smallest normal stands in for it.
fn root(squares: &Tensor) -> Result<Tensor> {
    squares.clamp(f32::MIN_POSITIVE as f64, f64::MAX)?.sqrt()
}

impl Tensor {
    fn reduce(&self, reduce: Reduce, axes: &[usize]) -> Result<Tensor> {
        let op = ReduceAxes {
            reduce,
            axes: std::array::from_fn(|axis| axes.contains(&axis)),
        };
        if let Some(axis) = axes.iter().find(|axis| **axis >= self.rank()) {
            return Err(Error::shape(
                op.name(),
                format!("no axis {axis} in {:?}", self.shape()),
            ));
        }
        apply(op, &[self])
    }

    /// Σ over `axes`, which stay with size 1.
    pub fn sum_keep(&self, axes: &[usize]) -> Result<Tensor> {
        self.reduce(Reduce::Sum, axes)
    }

    /// Mean over `axes`, which stay with size 1.
    pub fn mean_keep(&self, axes: &[usize]) -> Result<Tensor> {
        let n: usize = axes.iter().filter_map(|a| self.shape().get(*a)).product();
        self.sum_keep(axes)?.affine(1.0 / n as f64, 0.0)
    }

    /// The largest over `axes`, which stay with size 1.
    pub fn max_keep(&self, axes: &[usize]) -> Result<Tensor> {
        self.reduce(Reduce::Max, axes)
    }

    /// The smallest over `axes`, which stay with size 1.
    pub fn min_keep(&self, axes: &[usize]) -> Result<Tensor> {
        self.reduce(Reduce::Min, axes)
    }

    /// Σ over one axis, which goes.
    pub fn sum(&self, axis: usize) -> Result<Tensor> {
        self.sum_keep(&[axis])?.squeeze(axis)
    }

    /// Mean over one axis, which goes.
    pub fn mean(&self, axis: usize) -> Result<Tensor> {
        self.mean_keep(&[axis])?.squeeze(axis)
    }

    /// Σ of all elements, a scalar.
    pub fn sum_all(&self) -> Result<Tensor> {
        self.sum_keep(&(0..self.rank()).collect::<Vec<_>>())?
            .reshape(&[])
    }

    /// Mean of all elements, a scalar (NaN when there are none).
    pub fn mean_all(&self) -> Result<Tensor> {
        self.sum_all()?.affine(1.0 / self.len() as f64, 0.0)
    }

    /// Euclidean (Frobenius) norm of all elements; its gradient at 0 is 0.
    pub fn norm_all(&self) -> Result<Tensor> {
        root(&self.square()?.sum_all()?)
    }

    /// Euclidean norms of the rows; the gradient at 0 is 0.
    pub fn norm(&self) -> Result<Tensor> {
        root(&self.square()?.sum(self.rank().saturating_sub(1))?)
    }

    /// Sums the axes along which `shape` is 1 or absent: the adjoint of broadcasting from `shape`.
    pub fn sum_to(&self, shape: &[usize]) -> Result<Tensor> {
        if self.shape() == shape {
            return Ok(self.clone());
        }
        let lead = self.rank().checked_sub(shape.len()).ok_or_else(|| {
            Error::shape(
                "sum_to",
                format!("{:?} has fewer axes than {shape:?}", self.shape()),
            )
        })?;
        let axes: Vec<usize> = (0..self.rank())
            .filter(|a| *a < lead || (shape[a - lead] == 1 && self.shape()[*a] != 1))
            .collect();
        self.sum_keep(&axes)?.reshape(shape)
    }
}
