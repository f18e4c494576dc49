//! Gradient accumulation over micro-batches.

use crate::error::{Error, Result};
use crate::tape::{Gradients, backward};
use crate::tensor::Tensor;

/// Value and gradients of `Σ wᵢ·lossᵢ / Σ w`, one micro-batch on the tape at a time. The weights are what each loss is a
/// mean over (rows, tokens, summed sample weights), so that the cut into micro-batches does not change the mean.
///
/// # Errors
/// Weights that are negative or sum to 0, errors of `loss` and of backward.
pub fn accumulate(
    weights: &[f64],
    mut loss: impl FnMut(usize) -> Result<Tensor>,
) -> Result<(f64, Gradients)> {
    let total: f64 = weights.iter().sum();
    if !total.is_finite() || total <= 0.0 || weights.iter().any(|w| *w < 0.0) {
        return Err(Error::Invalid(format!(
            "accumulate: weights {weights:?} are no shares of a whole"
        )));
    }
    let (mut value, mut sum) = (0.0, Gradients::default());
    for (i, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        let share = weight / total;
        let part = loss(i)?.affine(share, 0.0)?;
        value += part.item()?;
        sum.add_scaled(backward(&part)?, 1.0)?;
    }
    Ok((value, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three of four rows, then the fourth: loss x² of rows 1, 2, 3 and 5, mean 39/4, gradient w·39/2 at w = 1.
    #[test]
    fn ragged_micro_batches_give_the_mean_of_all_rows() {
        let w = Tensor::from([1.0]).trained();
        let rows = [Tensor::from([1.0, 2.0, 3.0]), Tensor::from([5.0])];
        let (value, grads) =
            accumulate(&[3.0, 1.0], |i| rows[i].mul(&w)?.square()?.mean_all()).unwrap();
        let grad = grads.of(&w).unwrap().item().unwrap();
        // A third and three quarters are rounded, and so are their products and sums: eight roundings.
        let near = |a: f64, b: f64| (a - b).abs() <= 4.0 * f64::from(f32::EPSILON) * b;
        assert!(near(value, 9.75) && near(grad, 19.5), "{value} {grad}");
        assert!(accumulate(&[0.0], |_| w.sum_all()).is_err());
    }
}
