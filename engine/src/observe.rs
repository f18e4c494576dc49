//! Ready-made visitors: what can be kept of a frozen matrix' gradient without storing it.
//!
//! A visitor sees `G = dyᵀ·x` tile by tile, once per use of the weight. Quantities that are linear in G (a gather, a
//! contraction) add up over uses and micro-batches; sums of squares are those of each use's own gradient.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::tape::GradVisitor;
use crate::tensor::Tensor;

fn lock(sums: &Mutex<Vec<f64>>) -> MutexGuard<'_, Vec<f64>> {
    sums.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `Σ_j G_ij²` of every row, whose sum is `‖G‖²`.
pub struct RowSquares(Mutex<Vec<f64>>);

impl RowSquares {
    /// For a matrix of `rows` rows.
    pub fn new(rows: usize) -> Self {
        RowSquares(Mutex::new(vec![0.0; rows]))
    }

    /// The sums so far.
    pub fn rows(&self) -> Vec<f64> {
        lock(&self.0).clone()
    }

    /// `Σ G²` so far.
    pub fn total(&self) -> f64 {
        lock(&self.0).iter().sum()
    }
}

impl GradVisitor for RowSquares {
    fn tile(&self, first_row: usize, grad: &Tensor) -> Result<()> {
        let (values, mut sums) = (grad.to_vec::<f64>()?, lock(&self.0));
        let width = grad.last_dim().max(1);
        for (i, row) in values.chunks(width).enumerate() {
            let count = sums.len();
            let sum = sums.get_mut(first_row + i).ok_or_else(|| {
                Error::shape("row_squares", format!("row {} of {count}", first_row + i))
            })?;
            *sum += row.iter().map(|g| g * g).sum::<f64>();
        }
        Ok(())
    }
}

/// `Σ G_ij²` of every entry, over the uses: as large as the matrix itself.
pub struct Squares(Mutex<Vec<f64>>);

impl Squares {
    /// For a matrix of so many entries.
    pub fn new(entries: usize) -> Self {
        Squares(Mutex::new(vec![0.0; entries]))
    }

    /// The sums so far, by rows.
    pub fn entries(&self) -> Vec<f64> {
        lock(&self.0).clone()
    }
}

impl GradVisitor for Squares {
    fn tile(&self, first_row: usize, grad: &Tensor) -> Result<()> {
        let (values, mut sums) = (grad.to_vec::<f64>()?, lock(&self.0));
        let (count, start) = (sums.len(), first_row * grad.last_dim());
        let own = sums.get_mut(start..start + values.len()).ok_or_else(|| {
            Error::shape(
                "squares",
                format!("{} entries from {start} on, of {count}", values.len()),
            )
        })?;
        for (sum, g) in own.iter_mut().zip(values) {
            *sum += g * g;
        }
        Ok(())
    }
}

/// `G_ij` at chosen places, in their order.
pub struct Entries {
    places: Vec<(usize, usize)>,
    sums: Mutex<Vec<f64>>,
}

impl Entries {
    /// The entries at `(row, column)`.
    pub fn new(places: Vec<(usize, usize)>) -> Self {
        let sums = Mutex::new(vec![0.0; places.len()]);
        Entries { places, sums }
    }

    /// The entries so far.
    pub fn values(&self) -> Vec<f64> {
        lock(&self.sums).clone()
    }
}

impl GradVisitor for Entries {
    fn tile(&self, first_row: usize, grad: &Tensor) -> Result<()> {
        let (values, width) = (grad.to_vec::<f64>()?, grad.last_dim());
        let mut sums = lock(&self.sums);
        for (sum, (row, column)) in sums.iter_mut().zip(&self.places) {
            if *column >= width {
                return Err(Error::shape(
                    "entries",
                    format!("column {column} of {width}"),
                ));
            }
            if (first_row..first_row + grad.rows()).contains(row) {
                *sum += values[(row - first_row) * width + column];
            }
        }
        Ok(())
    }
}

/// `Σ_ij G_ij·S_ij` for a fixed S: a directional derivative, or with S = W the first-order sensitivity of all of W.
pub struct Contraction {
    along: Vec<f64>,
    width: usize,
    sum: Mutex<Vec<f64>>,
}

impl Contraction {
    /// Along the matrix `along`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn new(along: &Tensor) -> Result<Self> {
        Ok(Contraction {
            along: along.to_vec()?,
            width: along.last_dim(),
            sum: Mutex::new(vec![0.0]),
        })
    }

    /// The sum so far.
    pub fn value(&self) -> f64 {
        lock(&self.sum).iter().sum()
    }
}

impl GradVisitor for Contraction {
    fn tile(&self, first_row: usize, grad: &Tensor) -> Result<()> {
        let values = grad.to_vec::<f64>()?;
        let start = first_row * self.width;
        let along = self.along.get(start..start + values.len());
        let along = along
            .filter(|_| grad.last_dim() == self.width)
            .ok_or_else(|| {
                Error::shape(
                    "contraction",
                    format!(
                        "rows {first_row}.. of {:?} go past the matrix given",
                        grad.shape()
                    ),
                )
            })?;
        lock(&self.sum)[0] += values.iter().zip(along).map(|(g, s)| g * s).sum::<f64>();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear::linear;
    use crate::param::{Param, Training};
    use crate::tape::{Gradients, backward};
    use std::sync::Arc;

    /// Wide enough that linear streams several tiles: 2¹⁸ elements a panel.
    const SHAPE: [usize; 2] = [700, 1000];

    fn number(i: usize) -> f32 {
        ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    fn pass(training: Training) -> (Param, Gradients) {
        let make = |n: usize, shape: &[usize]| {
            let values: Vec<f32> = (0..n).map(number).collect();
            Tensor::from_slice(&values, shape, &crate::device::Device::cpu()).unwrap()
        };
        let w = Param::new("w", make(SHAPE[0] * SHAPE[1], &SHAPE));
        w.set_training(training);
        let x = make(3 * SHAPE[1], &[3, SHAPE[1]]).trained();
        let y = linear(&x, &w.tensor(), None).unwrap();
        let grads = backward(&y.square().unwrap().sum_all().unwrap()).unwrap();
        (w, grads)
    }

    struct Count(Mutex<Vec<f64>>);

    impl GradVisitor for Count {
        fn tile(&self, first_row: usize, grad: &Tensor) -> Result<()> {
            assert!(grad.len() <= 1 << 18, "a tile of {:?}", grad.shape());
            lock(&self.0).extend([first_row as f64, grad.rows() as f64]);
            Ok(())
        }
    }

    #[test]
    fn what_is_seen_is_the_stored_gradient() {
        let (w, grads) = pass(Training::Trained);
        let want = grads.get(w.id()).unwrap().to_vec::<f64>().unwrap();
        let at = |i: usize, j: usize| want[i * SHAPE[1] + j];

        let rows = Arc::new(RowSquares::new(SHAPE[0]));
        let (_, grads) = pass(Training::Observed(rows.clone()));
        assert_eq!(grads.len(), 1, "only x has a stored gradient");
        for (row, seen) in want.chunks(SHAPE[1]).zip(rows.rows()) {
            let sum: f64 = row.iter().map(|g| g * g).sum();
            assert_eq!(sum, seen);
        }
        assert_eq!(rows.total(), rows.rows().iter().sum::<f64>());

        let squares = Arc::new(Squares::new(SHAPE[0] * SHAPE[1]));
        pass(Training::Observed(squares.clone()));
        let all: Vec<f64> = want.iter().map(|g| g * g).collect();
        assert_eq!(squares.entries(), all);

        let places = vec![(0, 0), (699, 999), (262, 5), (262, 5)];
        let entries = Arc::new(Entries::new(places.clone()));
        pass(Training::Observed(entries.clone()));
        let picked: Vec<f64> = places.iter().map(|(i, j)| at(*i, *j)).collect();
        assert_eq!(entries.values(), picked);

        let contraction = Arc::new(Contraction::new(&w.value()).unwrap());
        pass(Training::Observed(contraction.clone()));
        let sum: f64 = want
            .iter()
            .zip(w.value().to_vec::<f64>().unwrap())
            .map(|(g, s)| g * s)
            .sum();
        // The same terms, summed tile by tile: n roundings of f64.
        let size: f64 = want.iter().map(|g| g.abs()).sum();
        assert!((sum - contraction.value()).abs() <= want.len() as f64 * f64::EPSILON * size);

        let count = Arc::new(Count(Mutex::default()));
        pass(Training::Observed(count.clone()));
        let seen = lock(&count.0).clone();
        assert!(seen.len() > 2, "several tiles");
        let mut next = 0.0;
        for tile in seen.chunks(2) {
            assert_eq!(tile[0], next);
            next += tile[1];
        }
        assert_eq!(next, SHAPE[0] as f64);
    }
}
