//! 10,000 handwritten digits, 28×28 grey, white strokes on black (LeCun, Cortes & Burges).

use super::embedded::{Cell, MNIST_DIGITS, MNIST_LABELS, cached};
use super::error::Result;

/// Height and width of a digit in pixels.
pub const SIDE: usize = 28;
const COUNT: usize = 10_000;

/// The digits.
pub struct Mnist {
    /// [10,000, 28, 28], 0 (black) to 255.
    pub pixels: Vec<u8>,
    /// The digit, 0 to 9.
    pub labels: Vec<u8>,
}

/// The embedded digits.
pub fn load() -> Result<&'static Mnist> {
    static CELL: Cell<Mnist> = Cell::new();
    cached(&CELL, || {
        let labels: Vec<u8> = MNIST_LABELS
            .text()?
            .trim()
            .bytes()
            .map(|b| b.wrapping_sub(b'0'))
            .collect();
        if labels.len() != COUNT || labels.iter().any(|&d| d > 9) {
            let found = format!("{} characters", labels.len());
            return Err(MNIST_LABELS.damaged(found, "10,000 decimal digits"));
        }
        let pixels = MNIST_DIGITS.tiles(SIDE, COUNT)?.pixels;
        Ok(Mnist { pixels, labels })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_there_and_look_like_digits() {
        let mnist = load().unwrap();
        assert_eq!(mnist.pixels.len(), COUNT * SIDE * SIDE);
        let counts = (0..10).map(|d| mnist.labels.iter().filter(|&&l| l == d).count());
        assert!(counts.into_iter().all(|c| (850..1_200).contains(&c)));
        // A one has less ink than a zero, on average less than half of it.
        let ink = |digit: u8| {
            let of = mnist.labels.iter().zip(mnist.pixels.chunks(SIDE * SIDE));
            let (n, sum) = of
                .filter(|(l, _)| **l == digit)
                .fold((0u64, 0u64), |(n, s), (_, p)| {
                    (n + 1, s + p.iter().map(|&v| u64::from(v)).sum::<u64>())
                });
            sum as f64 / n as f64
        };
        assert!(ink(1) < 0.5 * ink(0), "{} {}", ink(1), ink(0));
    }
}
