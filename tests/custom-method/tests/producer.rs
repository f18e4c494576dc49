//! An update of one's own that has no thin factors: sparse values at fixed places, made and differentiated by rows.

use deltaw_models::prelude::*;

/// `ΔW[o, p(o, s)] += v[o, s]` at the places `p(o, s) = (7·o + 3·s) mod n`; v `[m, s]`.
struct Sparse {
    per_row: usize,
}

impl Sparse {
    fn places(&self, row: usize, n: usize) -> impl Iterator<Item = usize> {
        (0..self.per_row).map(move |s| (7 * row + 3 * s) % n)
    }
}

impl Producer for Sparse {
    type Prepared = ();

    fn name(&self) -> &'static str {
        "sparse"
    }

    fn dense(&self, weight: &Tensor, params: &[&Tensor]) -> Result<Tensor> {
        let (m, n) = (weight.shape()[0], weight.shape()[1]);
        let places: Vec<u32> = (0..m)
            .flat_map(|o| self.places(o, n))
            .map(|p| p as u32)
            .collect();
        let places = Tensor::from_slice(&places, &[m, self.per_row], weight.device())?;
        Tensor::zeros(&[m, n], DType::F32, weight.device())?.scatter_add(&places, params[0])
    }

    fn check(&self, m: usize, _: usize, params: &[&Tensor]) -> Result<()> {
        params[0].expect_shape("sparse", "v", &[m, self.per_row])
    }

    fn prepare(&self, _: usize, _: usize, _: &[&[f32]]) -> Result<()> {
        Ok(())
    }

    fn produce(&self, _: &(), panel: Panel, out: &mut [f32]) {
        for (row, out) in out.chunks_exact_mut(panel.n).enumerate() {
            let o = panel.first + row;
            for (s, p) in self.places(o, panel.n).enumerate() {
                out[p] += panel.params[0][o * self.per_row + s];
            }
        }
    }

    fn contract(&self, _: &(), panel: Panel, g: &[f32], grads: &mut [&mut [f32]]) {
        for (row, g) in g.chunks_exact(panel.n).enumerate() {
            let o = panel.first + row;
            for (s, p) in self.places(o, panel.n).enumerate() {
                grads[0][o * self.per_row + s] += g[p];
            }
        }
    }
}

/// Value and gradients of x and v as through ΔW made whole; 600·500 numbers are more than one panel.
#[test]
fn a_producer_from_another_crate_is_its_dense_form() {
    let (m, n, per_row, device) = (600, 500, 4, Device::cpu());
    let x = Tensor::randn(&[3, n], 1, &device).unwrap().trained();
    let w = Tensor::randn(&[m, n], 2, &device).unwrap();
    let v = Tensor::randn(&[m, per_row], 3, &device).unwrap().trained();
    let b = Tensor::randn(&[m], 4, &device).unwrap();
    let swept = |y: Tensor| {
        let grads = backward(&y.square().unwrap().sum_all().unwrap()).unwrap();
        [&y, grads.of(&x).unwrap(), grads.of(&v).unwrap()].map(|t| t.to_vec::<f32>().unwrap())
    };
    let fused = swept(produced_linear(Sparse { per_row }, &x, &w, Some(&b), &[&v]).unwrap());
    let whole = w
        .add(&Sparse { per_row }.dense(&w, &[&v]).unwrap())
        .unwrap();
    let dense = swept(linear(&x, &whole, Some(&b)).unwrap());
    for (fused, dense) in fused.iter().zip(&dense) {
        let size = dense.iter().fold(0.0f32, |s, d| s.max(d.abs()));
        for (a, b) in fused.iter().zip(dense) {
            // Two sums of up to m terms in another order, each within m/2 roundings of the terms' sum, some 4 times the result.
            assert!(
                (a - b).abs() <= 4.0 * m as f32 * f32::EPSILON * size,
                "{a} and {b}"
            );
        }
    }
}
