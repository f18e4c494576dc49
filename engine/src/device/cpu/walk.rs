//! Walks over strided operands, with adjacent axes merged.

use crate::cpu::threads;
use crate::layout::{Dims, Layout, MAX_RANK, for_each_run};

/// Elements per piece of parallel elementwise work.
pub(super) const GRAIN: usize = 1 << 14;

/// A walk over K operands of one shape with adjacent axes merged wherever every operand allows it.
pub(crate) struct Walk<const K: usize> {
    pub shape: Dims,
    pub strides: [Dims; K],
    pub offsets: [usize; K],
}

impl<const K: usize> Walk<K> {
    pub fn new(layouts: [&Layout; K]) -> Self {
        let full = &layouts[0].shape;
        let (mut shape, mut strides) = ([1usize; MAX_RANK], [[0usize; MAX_RANK]; K]);
        let mut rank = 0;
        for axis in 0..full.len() {
            if full[axis] == 1 {
                continue;
            }
            let merges = rank > 0
                && (0..K).all(|k| strides[k][rank - 1] == layouts[k].strides[axis] * full[axis]);
            if !merges {
                rank += 1;
            }
            shape[rank - 1] *= full[axis];
            for k in 0..K {
                strides[k][rank - 1] = layouts[k].strides[axis];
            }
        }
        let cut = |a: &[usize; MAX_RANK]| Dims::new(&a[..rank.max(1)]).unwrap_or(Dims::SCALAR);
        Walk {
            shape: cut(&shape),
            strides: std::array::from_fn(|k| cut(&strides[k])),
            offsets: layouts.map(|l| l.offset),
        }
    }

    /// Length of the runs along the last axis and each operand's stride in them.
    pub fn run(&self) -> (usize, [usize; K]) {
        let last = self.shape.len() - 1;
        (
            self.shape[last],
            std::array::from_fn(|k| self.strides[k][last]),
        )
    }

    /// Where run `r` starts in each operand.
    pub fn start(&self, mut r: usize) -> [usize; K] {
        let mut at = self.offsets;
        for axis in (0..self.shape.len() - 1).rev() {
            let i = r % self.shape[axis];
            r /= self.shape[axis];
            for (a, strides) in at.iter_mut().zip(&self.strides) {
                *a += i * strides[axis];
            }
        }
        at
    }

    /// Calls `body(starts, n, strides)` on pieces of runs, in parallel.
    pub fn each(&self, body: impl Fn([usize; K], usize, [usize; K]) + Sync) {
        let (n, steps) = self.run();
        if self.shape.count() == 0 {
            return;
        }
        let runs = self.shape.count() / n;
        if runs == 1 {
            threads::par_chunks(n, GRAIN, |range| {
                body(
                    std::array::from_fn(|k| self.offsets[k] + range.start * steps[k]),
                    range.len(),
                    steps,
                )
            });
        } else {
            threads::par_chunks(runs, (GRAIN / n).max(1), |range| {
                range.for_each(|r| body(self.start(r), n, steps))
            });
        }
    }
}

/// Visits all elements of two layouts of one shape in row-major order.
pub(super) fn each_pair(a: &Layout, b: &Layout, mut f: impl FnMut(usize, usize)) {
    let walk = Walk::new([a, b]);
    let (n, step) = walk.run();
    let (sa, sb) = (
        Layout {
            shape: walk.shape,
            strides: walk.strides[0],
            offset: a.offset,
        },
        Layout {
            shape: walk.shape,
            strides: walk.strides[1],
            offset: b.offset,
        },
    );
    for_each_run([&sa, &sb], |[x, y]| {
        (0..n).for_each(|i| f(x + i * step[0], y + i * step[1]))
    });
}

/// Whether no element shows twice: each stride, in increasing order, passes what the axes before it reach.
pub(in crate::device) fn is_injective(layout: &Layout) -> bool {
    let mut axes: Vec<(usize, usize)> = layout
        .strides
        .iter()
        .copied()
        .zip(layout.shape.iter().copied())
        .filter(|(_, n)| *n > 1)
        .collect();
    axes.sort_unstable();
    let mut reach = 1;
    axes.iter().all(|(stride, n)| {
        let fits = *stride >= reach;
        reach += stride * (n - 1);
        fits
    }) || layout.shape.count() == 0
}
