//! Other views of the same elements, and the copies they sometimes need: reshape, permute, slice, expand, concat,
//! pad, sliding windows, casts. A view shares storage; its gradient is added into the part of the input it shows.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::op::{Forward, Op, Saved, apply};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Same elements, same order, another shape. Copies only what is not contiguous.
struct Reshape(Dims);

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn forward(&self, _: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0].packed()?;
        let layout = Layout {
            offset: x.layout().offset,
            ..Layout::contiguous(self.0)
        };
        Ok(x.with_layout(layout))
    }

    fn backward(&self, _: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let shape = Dims::new(grads.shape(0))?;
        let dy = dy.packed()?;
        let layout = Layout {
            offset: dy.layout().offset,
            ..Layout::contiguous(shape)
        };
        grads.add(0, dy.relayout(layout))
    }
}

/// A copy of what a layout shows of the *contiguous* input; what it shows twice is summed in backward.
pub(crate) struct Windows(pub(crate) Layout);

impl Op for Windows {
    fn name(&self) -> &'static str {
        "windows"
    }

    fn forward(&self, _: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        x.with_layout(Layout {
            offset: x.layout().offset,
            ..self.0
        })
        .packed()
    }

    fn backward(&self, _: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        grads.add_region(0, self.0, &dy)
    }
}

/// Axes in another order; a copy, since the last axis must stay contiguous, unless it stays last.
struct Permute([usize; crate::layout::MAX_RANK]);

impl Permute {
    fn layout(&self, layout: &Layout) -> Layout {
        let mut out = *layout;
        for axis in 0..layout.shape.len() {
            out.shape[axis] = layout.shape[self.0[axis]];
            out.strides[axis] = layout.strides[self.0[axis]];
        }
        out
    }
}

impl Op for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn forward(&self, _: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        let view = x.with_layout(self.layout(x.layout()));
        let last = x.rank().wrapping_sub(1);
        if x.rank() == 0 || self.0[last] == last {
            Ok(view)
        } else {
            view.packed()
        }
    }

    fn backward(&self, _: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let mut inverse = Permute([0; crate::layout::MAX_RANK]);
        for axis in 0..dy.rank() {
            inverse.0[self.0[axis]] = axis;
        }
        let layout = inverse.layout(dy.layout());
        let dx = dy.relayout(layout);
        let last = layout.shape.len().wrapping_sub(1);
        let in_rows = layout.shape.is_empty() || inverse.0[last] == last;
        grads.add(0, if in_rows { dx } else { dx.packed()? })
    }
}

/// Repeats along axes of size 1 into fresh storage.
struct Expand(Dims);

impl Op for Expand {
    fn name(&self) -> &'static str {
        "expand"
    }

    fn forward(&self, _: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0].broadcast_view("expand", &self.0)?.packed()
    }

    fn backward(&self, _: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dx = dy.sum_to(grads.shape(0))?;
        grads.add(0, dx)
    }
}

/// Inputs one after another along an axis.
struct Concat(usize);

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn forward(&self, _: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let (first, axis) = (inputs[0], self.0);
        let mut shape = first.layout().shape;
        if axis >= shape.len() {
            return Err(Error::shape(
                "concat",
                format!("no axis {axis} in {:?}", first.shape()),
            ));
        }
        for x in &inputs[1..] {
            x.expect_dtype("concat", first.dtype())?;
            let fits = x.rank() == shape.len()
                && (0..shape.len()).all(|a| a == axis || x.shape()[a] == shape[a]);
            if !fits {
                return Err(Error::shape(
                    "concat",
                    format!(
                        "{:?} and {:?} differ outside axis {axis}",
                        first.shape(),
                        x.shape()
                    ),
                ));
            }
            shape[axis] += x.shape()[axis];
        }
        let mut out = Tensor::empty(&shape, first.dtype(), first.device())?;
        let whole = *out.layout();
        let mut start = 0;
        for x in inputs {
            let len = x.shape()[axis];
            let mut view = out.relayout(whole.narrow(axis, start, len));
            x.device().backend().copy(x, &mut view)?;
            out = view.relayout(whole);
            start += len;
        }
        Ok(out)
    }

    fn backward(&self, _: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let mut start = 0;
        for i in 0.. {
            if start == dy.shape()[self.0] {
                break;
            }
            let len = grads.shape(i)[self.0];
            if grads.needs(i) {
                let part = dy.with_layout(dy.layout().narrow(self.0, start, len));
                grads.add(i, part.packed()?)?;
            }
            start += len;
        }
        Ok(())
    }
}

/// Another element type; the gradient comes back as f32.
struct Cast(DType);

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn forward(&self, _: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0].converted(self.0)
    }

    fn backward(&self, _: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dx = if dy.dtype() == DType::F64 {
            dy
        } else {
            dy.converted(DType::F32)?
        };
        grads.add(0, dx)
    }
}

impl Tensor {
    /// The same elements as `shape`; one axis may be `usize::MAX`, which is worked out.
    ///
    /// # Errors
    /// The counts differ.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        let mut dims = Dims::new(shape)?;
        if let Some(axis) = dims.iter().position(|n| *n == usize::MAX) {
            dims[axis] = 1;
            let rest = dims.count();
            if rest == 0 || !self.len().is_multiple_of(rest) {
                return Err(Error::shape(
                    "reshape",
                    format!("{:?} does not divide into {shape:?}", self.shape()),
                ));
            }
            dims[axis] = self.len() / rest;
        }
        if dims.count() != self.len() {
            return Err(Error::shape(
                "reshape",
                format!(
                    "{:?} holds {} elements, {:?} {}",
                    self.shape(),
                    self.len(),
                    dims,
                    dims.count()
                ),
            ));
        }
        if *dims == *self.shape() && self.is_contiguous() {
            return Ok(self.clone());
        }
        apply(Reshape(dims), &[self])
    }

    /// Without axis `axis`, which must have size 1.
    pub fn squeeze(&self, axis: usize) -> Result<Tensor> {
        let mut shape = self.shape().to_vec();
        if shape.get(axis) != Some(&1) {
            return Err(Error::shape(
                "squeeze",
                format!("axis {axis} of {:?} is not of size 1", self.shape()),
            ));
        }
        shape.remove(axis);
        self.reshape(&shape)
    }

    /// With a new axis of size 1 before `axis`.
    pub fn unsqueeze(&self, axis: usize) -> Result<Tensor> {
        let mut shape = self.shape().to_vec();
        if axis > shape.len() {
            return Err(Error::shape(
                "unsqueeze",
                format!("no place {axis} in {:?}", self.shape()),
            ));
        }
        shape.insert(axis, 1);
        self.reshape(&shape)
    }

    /// The same elements in row-major order, on the tape.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() {
            Ok(self.clone())
        } else {
            apply(Reshape(self.layout().shape), &[self])
        }
    }

    /// Elements `start..start + len` of `axis`, as a view.
    ///
    /// # Errors
    /// Out of range.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Tensor> {
        if self.shape().get(axis).is_none_or(|n| start + len > *n) {
            return Err(Error::shape(
                "narrow",
                format!(
                    "{start}..{} of axis {axis} in {:?}",
                    start + len,
                    self.shape()
                ),
            ));
        }
        apply(Narrow { axis, start, len }, &[self])
    }

    /// Parts of the given sizes along `axis`, as views.
    ///
    /// # Errors
    /// The sizes do not add up.
    pub fn split(&self, axis: usize, sizes: &[usize]) -> Result<Vec<Tensor>> {
        if self
            .shape()
            .get(axis)
            .is_none_or(|n| *n != sizes.iter().sum::<usize>())
        {
            return Err(Error::shape(
                "split",
                format!(
                    "sizes {sizes:?} do not add up to axis {axis} of {:?}",
                    self.shape()
                ),
            ));
        }
        let mut start = 0;
        sizes
            .iter()
            .map(|len| {
                start += len;
                self.narrow(axis, start - len, *len)
            })
            .collect()
    }

    /// Axis `i` of the result is axis `order[i]` of this.
    ///
    /// # Errors
    /// `order` is no permutation of the axes.
    pub fn permute(&self, order: &[usize]) -> Result<Tensor> {
        let mut seen = [false; crate::layout::MAX_RANK];
        for axis in order {
            if let Some(s) = seen.get_mut(*axis) {
                *s = true;
            }
        }
        if order.len() != self.rank()
            || seen.iter().filter(|s| **s).count() != order.len()
            || order.iter().any(|a| *a >= self.rank())
        {
            return Err(Error::shape(
                "permute",
                format!(
                    "{order:?} is no permutation of the axes of {:?}",
                    self.shape()
                ),
            ));
        }
        let mut axes = [0; crate::layout::MAX_RANK];
        axes[..order.len()].copy_from_slice(order);
        apply(Permute(axes), &[self])
    }

    /// The last two axes swapped.
    pub fn t(&self) -> Result<Tensor> {
        let n = self.rank();
        if n < 2 {
            return Err(Error::shape(
                "t",
                format!("{:?} has fewer than two axes", self.shape()),
            ));
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.swap(n - 2, n - 1);
        self.permute(&order)
    }

    /// Repeated to `shape` along axes of size 1 and new leading axes.
    pub fn expand(&self, shape: &[usize]) -> Result<Tensor> {
        if self.shape() == shape {
            Ok(self.clone())
        } else {
            apply(Expand(Dims::new(shape)?), &[self])
        }
    }

    /// Tensors one after another along `axis`.
    ///
    /// # Errors
    /// None given, or shapes that differ elsewhere.
    pub fn concat(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
        match parts {
            [] => Err(Error::shape("concat", "no tensors")),
            [one] => Ok((*one).clone()),
            _ => apply(Concat(axis), parts),
        }
    }

    /// Tensors of one shape along a new leading axis.
    pub fn stack(parts: &[&Tensor]) -> Result<Tensor> {
        let lifted = parts
            .iter()
            .map(|x| x.unsqueeze(0))
            .collect::<Result<Vec<_>>>()?;
        Tensor::concat(&lifted.iter().collect::<Vec<_>>(), 0)
    }

    /// Zeros before and after along `axis`.
    pub fn pad(&self, axis: usize, before: usize, after: usize) -> Result<Tensor> {
        let side = |n: usize| {
            let mut shape = self.layout().shape;
            if axis >= shape.len() {
                return Err(Error::shape(
                    "pad",
                    format!("no axis {axis} in {:?}", self.shape()),
                ));
            }
            shape[axis] = n;
            Tensor::zeros(&shape, self.dtype(), self.device())
        };
        Tensor::concat(&[&side(before)?, self, &side(after)?], axis)
    }

    /// Sliding windows over the last two axes: `[…, H, W] → […, Ho, Wo, kh, kw]` with
    /// `Ho = (H − kh)/stride + 1`, copied. What windows share is summed in backward.
    ///
    /// # Errors
    /// A window larger than the input, or a stride of 0.
    pub fn windows(&self, kernel: [usize; 2], stride: usize) -> Result<Tensor> {
        let n = self.rank();
        if n < 2
            || stride == 0
            || self.shape()[n - 2] < kernel[0]
            || self.shape()[n - 1] < kernel[1]
        {
            return Err(Error::shape(
                "windows",
                format!(
                    "windows {kernel:?} of stride {stride} do not fit {:?}",
                    self.shape()
                ),
            ));
        }
        let x = self.contiguous()?;
        let base = Layout::contiguous(x.layout().shape);
        let (mut shape, mut strides) =
            (x.shape()[..n - 2].to_vec(), base.strides[..n - 2].to_vec());
        for (axis, k) in [(n - 2, kernel[0]), (n - 1, kernel[1])] {
            shape.push((x.shape()[axis] - k) / stride + 1);
            strides.push(base.strides[axis] * stride);
        }
        shape.extend(kernel);
        strides.extend([base.strides[n - 2], base.strides[n - 1]]);
        let layout = Layout {
            shape: Dims::new(&shape)?,
            strides: Dims::new(&strides)?,
            offset: 0,
        };
        apply(Windows(layout), &[&x])
    }

    /// In another element type, on the tape.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        if self.dtype() == dtype {
            Ok(self.clone())
        } else {
            apply(Cast(dtype), &[self])
        }
    }
}

/// A slice along one axis, as a view.
struct Narrow {
    axis: usize,
    start: usize,
    len: usize,
}

impl Op for Narrow {
    fn name(&self) -> &'static str {
        "narrow"
    }

    fn forward(&self, _: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].with_layout(inputs[0].layout().narrow(self.axis, self.start, self.len)))
    }

    fn backward(&self, _: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let whole = Layout::contiguous(Dims::new(grads.shape(0))?);
        grads.add_region(0, whole.narrow(self.axis, self.start, self.len), &dy)
    }
}
