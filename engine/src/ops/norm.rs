//! Layer norm over the last axis (Ba, Kiros & Hinton 2016).
//!
//! ```text
//! r = (var(x) + ε)^-½     x̂ = r·(x − mean x)     y = g ⊙ x̂ + b
//! db = Σ_rows dy          dg = Σ_rows dy ⊙ x̂
//! dx = r·(u − mean u − x̂·mean(u ⊙ x̂))             u = g ⊙ dy
//! ```
//!
//! Saved: x, and the mean and r of each row.

use crate::cpu::{simd, threads};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::softmax::GRAIN;
use crate::tape::Grads;
use crate::tensor::Tensor;

struct LayerNorm {
    eps: f32,
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn supports(&self, device: &Device) -> bool {
        device.is_cpu()
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, n, rows) = (inputs[0].packed()?, inputs[0].last_dim(), inputs[0].rows());
        x.expect_dtype("layer_norm", DType::F32)?;
        inputs[1].expect_shape("layer_norm", "gain", &[n])?;
        inputs[2].expect_shape("layer_norm", "bias", &[n])?;
        let (gain, bias) = (inputs[1].packed()?, inputs[2].packed()?);
        let (source, g, b) = (
            x.as_slice::<f32>()?,
            gain.as_slice::<f32>()?,
            bias.as_slice::<f32>()?,
        );
        let mut stats = Tensor::empty(&[rows, 2], DType::F32, x.device())?;
        let mut y = Tensor::empty(x.shape(), DType::F32, x.device())?;
        let stat = threads::Disjoint::new(stats.as_mut_slice::<f32>()?);
        threads::par_rows(
            y.as_mut_slice::<f32>()?,
            n,
            threads::rows_per_piece(n, GRAIN),
            |first, part| {
                // SAFETY: a piece owns the statistics of its own rows.
                let stat = unsafe { stat.slice(2 * first..2 * (first + part.len() / n)) };
                simd::dispatch(
                    #[inline(always)]
                    || {
                        for (i, (y, s)) in part
                            .chunks_exact_mut(n)
                            .zip(stat.chunks_exact_mut(2))
                            .enumerate()
                        {
                            let x = &source[(first + i) * n..][..n];
                            let mean = simd::sum_of(x, |v| v) / n as f32;
                            let var = simd::sum_of(x, |v| (v - mean) * (v - mean)) / n as f32;
                            let r = 1.0 / (var + self.eps).sqrt();
                            (s[0], s[1]) = (mean, r);
                            for j in 0..n {
                                y[j] = ((x[j] - mean) * r).mul_add(g[j], b[j]);
                            }
                        }
                    },
                );
            },
        );
        if f.needs_any() {
            f.save(0, &x);
            f.save(1, &stats);
            f.save(2, &gain);
        }
        Ok(y)
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, last) = (inputs[0], [inputs[0].rank() - 1]);
        let centred = x.sub(&x.mean_keep(&last)?)?;
        let deviation = centred
            .square()?
            .mean_keep(&last)?
            .affine(1.0, self.eps as f64)?
            .sqrt()?;
        centred.div(&deviation)?.mul(inputs[1])?.add(inputs[2])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (x, stats, gain, dy) = (saved.get(0)?, saved.get(1)?, saved.get(2)?, dy.packed()?);
        let (n, rows) = (x.last_dim(), x.rows());
        let (source, s, g, d) = (
            x.as_slice::<f32>()?,
            stats.as_slice::<f32>()?,
            gain.as_slice::<f32>()?,
            dy.as_slice::<f32>()?,
        );
        if grads.needs(0) {
            let mut dx = Tensor::empty(x.shape(), DType::F32, x.device())?;
            threads::par_rows(
                dx.as_mut_slice::<f32>()?,
                n,
                threads::rows_per_piece(n, GRAIN),
                |first, part| {
                    simd::dispatch(
                        #[inline(always)]
                        || {
                            for (i, dx) in part.chunks_exact_mut(n).enumerate() {
                                let row = first + i;
                                let (x, dy, mean, r) = (
                                    &source[row * n..][..n],
                                    &d[row * n..][..n],
                                    s[2 * row],
                                    s[2 * row + 1],
                                );
                                for j in 0..n {
                                    dx[j] = g[j] * dy[j];
                                }
                                let mean_u = simd::sum_of(dx, |v| v) / n as f32;
                                let mean_ux =
                                    (simd::dot(dx, x) - mean * mean_u * n as f32) * r / n as f32;
                                for j in 0..n {
                                    dx[j] = r * (dx[j] - mean_u - (x[j] - mean) * r * mean_ux);
                                }
                            }
                        },
                    );
                },
            );
            grads.add(0, dx)?;
        }
        if grads.needs(1) || grads.needs(2) {
            // Partial sums of fixed blocks of rows, added in their order.
            let block = threads::rows_per_piece(n, 4 * GRAIN);
            let blocks = rows.div_ceil(block);
            let mut partial = Tensor::zeros(&[blocks, 2 * n], DType::F32, x.device())?;
            threads::par_rows(partial.as_mut_slice::<f32>()?, 2 * n, 1, |index, sums| {
                let (dg, db) = sums.split_at_mut(n);
                simd::dispatch(
                    #[inline(always)]
                    || {
                        for row in index * block..rows.min((index + 1) * block) {
                            let (x, dy, mean, r) = (
                                &source[row * n..][..n],
                                &d[row * n..][..n],
                                s[2 * row],
                                s[2 * row + 1],
                            );
                            for j in 0..n {
                                dg[j] += dy[j] * (x[j] - mean) * r;
                                db[j] += dy[j];
                            }
                        }
                    },
                );
            });
            let sums = partial.sum(0)?;
            grads.add(1, sums.narrow(0, 0, n)?.packed()?)?;
            grads.add(2, sums.narrow(0, n, n)?.packed()?)?;
        }
        Ok(())
    }
}

/// Layer norm over the last axis: `x` `[…, n]`, `gain` and `bias` `[n]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    apply(LayerNorm { eps }, &[x, gain, bias])
}

/// RMS norm over the last axis (Zhang & Sennrich 2019): `g ⊙ x·(mean x² + ε)^-½`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, gain: &Tensor, eps: f32) -> Result<Tensor> {
    let last = [x.rank().saturating_sub(1)];
    x.div(
        &x.square()?
            .mean_keep(&last)?
            .affine(1.0, eps as f64)?
            .sqrt()?,
    )?
    .mul(gain)
}
