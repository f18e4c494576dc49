//! A linear whose update is a number at each of some chosen places of W and nothing elsewhere.
//!
//! ```text
//! y = x·(W + ΔW)ᵀ + b      ΔW at place_k = v_k      v [k]      dv_k = G at place_k, G = dyᵀ·x
//! ```
//!
//! Places are indices into W `[m, n]` by rows, increasing, and do not train. `O(k)` a pass beside the product; gradients, moments
//! and files hold k numbers, never `m·n`.

use std::sync::Arc;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::produced::{Panel, Producer};
use crate::tensor::Tensor;

const NAME: &str = "sparse";

/// Places of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    places: Arc<[u32]>,
}

impl Sparse {
    /// Indices `row·n + column`, increasing.
    ///
    /// # Errors
    /// Indices that do not increase.
    pub fn new(places: Vec<u32>) -> Result<Self> {
        if let Some(pair) = places.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(Error::Invalid(format!(
                "{NAME}: place {} after {}; wanted increasing places",
                pair[1], pair[0]
            )));
        }
        Ok(Sparse {
            places: places.into(),
        })
    }

    /// The places.
    pub fn places(&self) -> &[u32] {
        &self.places
    }

    /// The numbers of a panel, and where they lie in it.
    fn each(&self, panel: &Panel) -> impl Iterator<Item = (usize, usize)> {
        let Panel {
            rows, columns, n, ..
        } = panel.clone();
        let before = |row: usize| {
            self.places
                .partition_point(|place| (*place as usize) < row * n)
        };
        (before(rows.start)..before(rows.end)).filter_map(move |k| {
            let place = self.places[k] as usize;
            let (row, column) = (place / n - rows.start, place % n);
            let inside = columns.contains(&column);
            inside.then(|| (k, row * columns.len() + column - columns.start))
        })
    }
}

impl Producer for Sparse {
    type Prepared = ();

    fn name(&self) -> &'static str {
        NAME
    }

    fn dense(&self, weight: &Tensor, params: &[&Tensor]) -> Result<Tensor> {
        let (m, n) = (weight.shape()[0], weight.shape()[1]);
        self.check(m, n, params)?;
        let index = Tensor::from_slice(&self.places, &[1, self.places.len()], weight.device())?;
        Tensor::zeros(&[1, m * n], DType::F32, weight.device())?
            .scatter_add(&index, &params[0].unsqueeze(0)?)?
            .reshape(&[m, n])
    }

    fn check(&self, m: usize, n: usize, params: &[&Tensor]) -> Result<()> {
        let [values] = params else {
            return Err(Error::shape(
                NAME,
                format!("{} parameters, wanted the values alone", params.len()),
            ));
        };
        if let Some(last) = self.places.last().filter(|last| **last as usize >= m * n) {
            return Err(Error::shape(
                NAME,
                format!("place {last} of a matrix {m}×{n}"),
            ));
        }
        values.expect_shape(NAME, "the values", &[self.places.len()])
    }

    fn prepare(&self, _: usize, _: usize, _: &[&[f32]]) -> Result<()> {
        Ok(())
    }

    fn produce(&self, _: &(), panel: &Panel, out: &mut [f32]) {
        for (k, at) in self.each(panel) {
            out[at] += panel.params[0][k];
        }
    }

    fn contract(&self, _: &(), panel: &Panel, g: &[f32], grads: &mut [&mut [f32]]) {
        for (k, at) in self.each(panel) {
            grads[0][k] += g[at];
        }
    }
}
