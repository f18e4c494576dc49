//! Shapes and strides.

use crate::error::{Error, Result};

/// The most axes a tensor may have.
pub const MAX_RANK: usize = 8;

/// Up to eight sizes or strides, kept inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    rank: u8,
    sizes: [usize; MAX_RANK],
}

impl Dims {
    /// No axes: one element.
    pub const SCALAR: Dims = Dims {
        rank: 0,
        sizes: [0; MAX_RANK],
    };

    /// From a slice of at most [`MAX_RANK`] sizes.
    ///
    /// # Errors
    /// More axes than that.
    pub fn new(sizes: &[usize]) -> Result<Self> {
        if sizes.len() > MAX_RANK {
            return Err(Error::shape(
                "shape",
                format!(
                    "{sizes:?} has {} axes, at most {MAX_RANK} are supported",
                    sizes.len()
                ),
            ));
        }
        let mut dims = Dims {
            rank: sizes.len() as u8,
            sizes: [0; MAX_RANK],
        };
        dims.sizes[..sizes.len()].copy_from_slice(sizes);
        Ok(dims)
    }

    /// The product of all sizes (1 for a scalar).
    pub fn count(&self) -> usize {
        self.iter().product()
    }
}

impl std::ops::Deref for Dims {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.sizes[..self.rank as usize]
    }
}

impl std::ops::DerefMut for Dims {
    fn deref_mut(&mut self) -> &mut [usize] {
        &mut self.sizes[..self.rank as usize]
    }
}

impl std::fmt::Debug for Dims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

/// Where element `(i₀, …)` lies: `offset + Σ iₖ·strideₖ`, in elements.
///
/// A tensor's last axis is contiguous; a stride of 0 repeats an axis (broadcasting).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Sizes.
    pub shape: Dims,
    /// Strides in elements.
    pub strides: Dims,
    /// The first element.
    pub offset: usize,
}

impl Layout {
    /// Row-major, from element 0.
    pub fn contiguous(shape: Dims) -> Self {
        let mut strides = shape;
        let mut step = 1;
        for axis in (0..shape.len()).rev() {
            strides[axis] = step;
            step *= shape[axis];
        }
        Layout {
            shape,
            strides,
            offset: 0,
        }
    }

    /// Elements `start..start + len` along an axis.
    pub fn narrow(mut self, axis: usize, start: usize, len: usize) -> Self {
        self.offset += start * self.strides[axis];
        self.shape[axis] = len;
        self
    }

    /// Itself; a view of nothing starts at 0, so that its (empty) range lies in every storage.
    pub fn within(mut self) -> Self {
        if self.shape.count() == 0 {
            self.offset = 0;
        }
        self
    }

    /// Whether elements are row-major without gaps (axes of size 1 do not count).
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1;
        for axis in (0..self.shape.len()).rev() {
            if self.shape[axis] != 1 && self.strides[axis] != step {
                return self.shape.count() == 0;
            }
            step *= self.shape[axis];
        }
        true
    }

    /// One past the largest element index that is reached; 0 when empty.
    pub fn end(&self) -> usize {
        if self.shape.count() == 0 {
            return 0;
        }
        self.offset
            + self
                .shape
                .iter()
                .zip(self.strides.iter())
                .map(|(n, s)| (n - 1) * s)
                .sum::<usize>()
            + 1
    }

    /// The same elements seen as `shape` by repeating axes of size 1 and adding axes in front.
    pub fn broadcast(&self, shape: &Dims) -> Option<Self> {
        let lead = shape.len().checked_sub(self.shape.len())?;
        let mut strides = *shape;
        for axis in 0..shape.len() {
            strides[axis] = match axis.checked_sub(lead) {
                None => 0,
                Some(own) if self.shape[own] == shape[axis] => self.strides[own],
                Some(own) if self.shape[own] == 1 => 0,
                Some(_) => return None,
            };
        }
        Some(Layout {
            shape: *shape,
            strides,
            offset: self.offset,
        })
    }

    /// The shape that both broadcast to.
    pub fn broadcast_shape(op: &'static str, a: &Dims, b: &Dims) -> Result<Dims> {
        let rank = a.len().max(b.len());
        let mut out = if a.len() >= b.len() { *a } else { *b };
        for axis in 0..rank {
            let size = |d: &Dims| (axis + d.len()).checked_sub(rank).map_or(1, |i| d[i]);
            out[axis] = match (size(a), size(b)) {
                (x, y) if x == y => x,
                (1, y) => y,
                (x, 1) => x,
                (x, y) => {
                    return Err(Error::shape(
                        op,
                        format!(
                            "{a:?} and {b:?} do not broadcast: axis {axis} has sizes {x} and {y}"
                        ),
                    ));
                }
            };
        }
        Ok(out)
    }
}

/// Calls `visit(offsets)` for every run along the last axis, in row-major order of the leading axes.
/// All layouts have one shape; `offsets[k]` is where the run starts in layout `k`.
pub fn for_each_run<const K: usize>(layouts: [&Layout; K], mut visit: impl FnMut([usize; K])) {
    let shape = layouts[0].shape;
    if shape.count() == 0 {
        return;
    }
    let lead = shape.len().saturating_sub(1);
    let mut index = [0usize; MAX_RANK];
    let mut at = layouts.map(|l| l.offset);
    loop {
        visit(at);
        let mut axis = lead;
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            for (a, l) in at.iter_mut().zip(layouts) {
                *a += l.strides[axis];
            }
            if index[axis] < shape[axis] {
                break;
            }
            for (a, l) in at.iter_mut().zip(layouts) {
                *a -= l.strides[axis] * shape[axis];
            }
            index[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_the_usual_rule() {
        let d = |s: &[usize]| Dims::new(s).unwrap();
        assert_eq!(
            Layout::broadcast_shape("add", &d(&[3, 1]), &d(&[4])).unwrap(),
            d(&[3, 4])
        );
        assert_eq!(
            Layout::broadcast_shape("add", &d(&[0, 1]), &d(&[1, 5])).unwrap(),
            d(&[0, 5])
        );
        let message = Layout::broadcast_shape("add", &d(&[3]), &d(&[4]))
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "add: [3] and [4] do not broadcast: axis 0 has sizes 3 and 4"
        );
    }

    #[test]
    fn runs_walk_a_strided_view_in_order() {
        let mut view = Layout::contiguous(Dims::new(&[2, 3, 4]).unwrap());
        view.shape[1] = 2; // [:, 0..2, :]
        let mut seen = vec![];
        for_each_run([&view], |[at]| seen.push(at));
        assert_eq!(seen, [0, 4, 12, 16]);
    }
}
