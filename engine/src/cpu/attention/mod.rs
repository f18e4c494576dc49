//! Attention, head by head, on strided matrices; the formulas stand in [`crate::ops::attention`].
//!
//! Q, K and V of a head are gathered once into padded scratch (K and, in backward, V transposed), so that every product
//! has the form Σ_l A(i, l)·B[l, ·] with B's rows along the vector: one register tile serves all seven. Scores live in one
//! tile of [`ROWS`] × [`KEYS`] at a time. Forward keeps a running maximum and sum per row (Milakov & Gimelshein 2018), backward
//! makes the probabilities again from the log-sum-exp. Key tiles that a causal row cannot see are never computed.

mod backward;
mod forward;
mod head;
mod tile;

pub use backward::{Backward, BiasGradient, backward};
pub use forward::forward;

/// Queries per tile.
const ROWS: usize = 32;
/// Keys per tile.
const KEYS: usize = 128;

/// Where the matrices of a tensor's heads lie: element (b, h, t, d) at `start + b·batch + h·head + t·token + d`.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// The first element.
    pub start: usize,
    /// Distance between samples.
    pub batch: usize,
    /// Distance between heads.
    pub head: usize,
    /// Distance between tokens.
    pub token: usize,
}

impl Heads {
    fn row(&self, (b, h): (usize, usize), t: usize) -> usize {
        self.start + b * self.batch + h * self.head + t * self.token
    }
}

/// Sizes and form of a call.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Samples.
    pub batch: usize,
    /// Heads per sample.
    pub heads: usize,
    /// Queries.
    pub tq: usize,
    /// Keys.
    pub tk: usize,
    /// Features per head.
    pub d: usize,
    /// Factor of Q·Kᵀ.
    pub scale: f32,
    /// Whether query i sees keys up to i + Tk − Tq only.
    pub causal: bool,
}

impl Shape {
    /// How many keys query `i` sees.
    fn seen(&self, i: usize) -> usize {
        if self.causal {
            (i + 1 + self.tk).saturating_sub(self.tq).min(self.tk)
        } else {
            self.tk
        }
    }

    fn head(&self, index: usize) -> (usize, usize) {
        (index / self.heads, index % self.heads)
    }
}

/// A bias as it broadcasts to `[B, H, Tq, Tk]`.
#[derive(Clone, Copy)]
pub struct Bias<'a> {
    /// The storage.
    pub values: &'a [f32],
    /// The first element.
    pub start: usize,
    /// Strides of the four axes; 0 where it repeats.
    pub strides: [usize; 4],
}

/// The operands.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Queries.
    pub q: (&'a [f32], Heads),
    /// Keys.
    pub k: (&'a [f32], Heads),
    /// Values.
    pub v: (&'a [f32], Heads),
    /// Which keys are real, `[B, Tk]`: 0 where not.
    pub mask: Option<&'a [f32]>,
    /// Added to the scaled scores.
    pub bias: Option<Bias<'a>>,
}
