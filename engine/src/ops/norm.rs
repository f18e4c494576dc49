//! Layer norm (Ba, Kiros & Hinton 2016) and RMS norm (Zhang & Sennrich 2019) over the last axis.
//!
//! ```text
//! layer   μ = mean x    r = (mean (x − μ)² + ε)^-½    x̂ = r·(x − μ)    y = g ⊙ x̂ + b
//! RMS     μ = 0         r = (mean x² + ε)^-½          x̂ = r·x          y = g ⊙ x̂
//! db = Σ_rows dy        dg = Σ_rows dy ⊙ x̂
//! dx = r·(u − mean u − x̂·mean(u ⊙ x̂))                 u = g ⊙ dy       (RMS: without mean u)
//! ```
//!
//! Saved: x, g, and μ and r of each row.

use deltaw_kernels::norm as kernel;

use crate::cpu::simd;
use crate::cpu::threads::{self, Disjoint};
use crate::device::Device;
use crate::device::cuda::{Cuda, failed};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::softmax::GRAIN;
use crate::pool::with_scratch;
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Inputs: x, the gain and, when centred, the bias.
struct Norm {
    /// Layer norm, not RMS norm.
    centred: bool,
    eps: f32,
}

impl Norm {
    /// μ and r of a row.
    #[inline(always)]
    fn statistics(&self, x: &[f32]) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = if self.centred {
            simd::sum_of(
                x,
                #[inline(always)]
                |v| v,
            ) / n
        } else {
            0.0
        };
        let square = simd::sum_of(
            x,
            #[inline(always)]
            |v| (v - mean) * (v - mean),
        ) / n;
        (mean, 1.0 / (square + self.eps).sqrt())
    }

    /// dx of a row, in place or added to what `dx` holds; `u` is scratch.
    #[inline(always)]
    fn row_backward(
        &self,
        x: &[f32],
        (mean, r): (f32, f32),
        gain: &[f32],
        dy: &[f32],
        u: &mut [f32],
        (dx, add): (&mut [f32], bool),
    ) {
        let n = x.len();
        // Of one length, so that the loops need no checks and become vectors.
        let (gain, dy, u, dx) = (&gain[..n], &dy[..n], &mut u[..n], &mut dx[..n]);
        for j in 0..n {
            u[j] = gain[j] * dy[j];
        }
        let mean_u = if self.centred {
            simd::sum_of(
                u,
                #[inline(always)]
                |v| v,
            ) / n as f32
        } else {
            0.0
        };
        let along = simd::sum_of_pairs(
            u,
            x,
            #[inline(always)]
            |u, x, s| u.mul_add(x - mean, s),
        );
        let slope = along * r * r / n as f32;
        if add {
            for j in 0..n {
                dx[j] += r * (u[j] - mean_u - (x[j] - mean) * slope);
            }
        } else {
            for j in 0..n {
                dx[j] = r * (u[j] - mean_u - (x[j] - mean) * slope);
            }
        }
    }
}

impl Norm {
    /// Adds dg and db from the sums `[parts, 2, n]` of parts of the rows.
    fn add_sums(&self, grads: &mut Grads, partial: &Tensor) -> Result<()> {
        let sums = partial.sum(0)?;
        grads.add(1, sums.narrow(0, 0, 1)?.squeeze(0)?)?;
        if self.centred {
            grads.add(2, sums.narrow(0, 1, 1)?.squeeze(0)?)?;
        }
        Ok(())
    }

    fn launch(
        &self,
        cuda: &Cuda,
        kind: kernel::Kind,
        [x, gain]: [&Tensor; 2],
        stats: u64,
    ) -> Result<()> {
        let call = kernel::Norm {
            centred: self.centred,
            kind,
            rows: x.rows(),
            n: x.last_dim(),
            x: cuda.address(self.name(), x)?,
            gain: cuda.address(self.name(), gain)?,
            stats,
        };
        let (kernels, stream) = cuda.launcher();
        // SAFETY: contiguous tensors of these sizes, of which those written are unshared.
        unsafe { call.launch(kernels, stream) }.map_err(|e| failed(self.name(), &[x], e))
    }

    /// dx, dg and db, the latter two of sums of parts of the rows.
    fn cuda_backward(
        &self,
        cuda: &Cuda,
        [x, stats, gain, dy]: [&Tensor; 4],
        grads: &mut Grads,
    ) -> Result<()> {
        let (n, parts) = (x.last_dim(), kernel::Norm::parts(x.rows()));
        let columns = grads.needs(1) || (self.centred && grads.needs(2));
        let mut partial = columns
            .then(|| Tensor::empty(&[parts, 2, n], DType::F32, x.device()))
            .transpose()?;
        let sums = partial
            .as_mut()
            .map_or(Ok(0), |sums| cuda.address_mut(self.name(), sums))?;
        let (at, dy) = (
            cuda.address(self.name(), stats)?,
            cuda.address(self.name(), dy)?,
        );
        let launch = |dx, beta| {
            let kind = kernel::Kind::Backward { beta, dy, dx, sums };
            self.launch(cuda, kind, [x, gain], at)
        };
        if grads.needs(0) {
            grads.write(0, |dx, beta| {
                launch(cuda.address_mut(self.name(), dx)?, beta)
            })?;
        } else {
            launch(0, 0.0)?;
        }
        if !columns {
            return Ok(());
        }
        let vector = || Tensor::empty(&[n], DType::F32, x.device());
        let (mut dg, mut db) = (vector()?, self.centred.then(vector).transpose()?);
        let call = kernel::Sums {
            parts,
            n,
            sums,
            gain: cuda.address_mut(self.name(), &mut dg)?,
            bias: db
                .as_mut()
                .map_or(Ok(0), |db| cuda.address_mut(self.name(), db))?,
        };
        let (kernels, stream) = cuda.launcher();
        // SAFETY: as in `launch`; the parts' sums are kept until now, and their memory is used again by the same stream only.
        unsafe { call.launch(kernels, stream) }.map_err(|e| failed(self.name(), &[x], e))?;
        grads.add(1, dg)?;
        db.map_or(Ok(()), |db| grads.add(2, db))
    }
}

impl Op for Norm {
    fn name(&self) -> &'static str {
        if self.centred {
            "layer_norm"
        } else {
            "rms_norm"
        }
    }

    fn supports(&self, device: &Device) -> bool {
        device.has_kernels()
    }

    fn is_remade(&self) -> bool {
        true
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, n, rows) = (inputs[0].packed()?, inputs[0].last_dim(), inputs[0].rows());
        let gain = inputs[1].packed()?;
        let bias = inputs.get(2).map(|b| b.packed()).transpose()?;
        if let Some(cuda) = x.device().as_cuda() {
            let mut stats = Tensor::empty(&[rows, 2], DType::F32, x.device())?;
            let mut y = Tensor::empty(x.shape(), DType::F32, x.device())?;
            let kind = kernel::Kind::Forward {
                eps: self.eps,
                bias: bias
                    .as_ref()
                    .map_or(Ok(0), |b| cuda.address(self.name(), b))?,
                y: cuda.address_mut(self.name(), &mut y)?,
            };
            let at = cuda.address_mut(self.name(), &mut stats)?;
            self.launch(cuda, kind, [&x, &gain], at)?;
            if f.needs_any() {
                f.save(0, &x);
                f.save(1, &stats);
                f.save(2, &gain);
            }
            return Ok(y);
        }
        let (source, g) = (x.as_slice::<f32>()?, gain.as_slice::<f32>()?);
        let b = bias.as_ref().map(|b| b.as_slice::<f32>()).transpose()?;
        let mut stats = Tensor::empty(&[rows, 2], DType::F32, x.device())?;
        let mut y = Tensor::empty(x.shape(), DType::F32, x.device())?;
        let stat = Disjoint::new(stats.as_mut_slice::<f32>()?);
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
                            let (mean, r) = self.statistics(x);
                            (s[0], s[1]) = (mean, r);
                            let (y, g) = (&mut y[..n], &g[..n]);
                            if let Some(b) = b {
                                let b = &b[..n];
                                for j in 0..n {
                                    y[j] = ((x[j] - mean) * r).mul_add(g[j], b[j]);
                                }
                            } else {
                                for j in 0..n {
                                    y[j] = x[j] * r * g[j];
                                }
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
        let centred = if self.centred {
            x.sub(&x.mean_keep(&last)?)?
        } else {
            x.clone()
        };
        let deviation = centred
            .square()?
            .mean_keep(&last)?
            .affine(1.0, self.eps as f64)?
            .sqrt()?;
        let y = centred.div(&deviation)?.mul(inputs[1])?;
        match inputs.get(2) {
            Some(bias) => y.add(bias),
            None => Ok(y),
        }
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (x, stats, gain, dy) = (saved.get(0)?, saved.get(1)?, saved.get(2)?, dy.packed()?);
        if let Some(cuda) = x.device().as_cuda() {
            return self.cuda_backward(cuda, [x, stats, gain, &dy], grads);
        }
        let (n, rows) = (x.last_dim(), x.rows());
        let (source, s, g, d) = (
            x.as_slice::<f32>()?,
            stats.as_slice::<f32>()?,
            gain.as_slice::<f32>()?,
            dy.as_slice::<f32>()?,
        );
        grads.write(0, |dx, beta| {
            let piece = threads::rows_per_piece(n, GRAIN);
            threads::par_rows(dx.as_mut_slice::<f32>()?, n, piece, |first, part| {
                with_scratch(n, |u| {
                    simd::dispatch(
                        #[inline(always)]
                        || {
                            for (i, dx) in part.chunks_exact_mut(n).enumerate() {
                                let row = first + i;
                                let (x, dy) = (&source[row * n..][..n], &d[row * n..][..n]);
                                let stats = (s[2 * row], s[2 * row + 1]);
                                self.row_backward(x, stats, &g[..n], dy, u, (dx, beta != 0.0));
                            }
                        },
                    );
                });
            });
            Ok(())
        })?;
        if grads.needs(1) || (self.centred && grads.needs(2)) {
            // Partial sums of fixed blocks of rows, added in their order.
            let block = threads::rows_per_piece(n, 4 * GRAIN);
            let blocks = rows.div_ceil(block);
            let mut partial = Tensor::zeros(&[blocks, 2, n], DType::F32, x.device())?;
            threads::par_rows(partial.as_mut_slice::<f32>()?, 2 * n, 1, |index, sums| {
                let (dg, db) = sums.split_at_mut(n);
                simd::dispatch(
                    #[inline(always)]
                    || {
                        for row in index * block..rows.min((index + 1) * block) {
                            let (x, dy) = (&source[row * n..][..n], &d[row * n..][..n]);
                            let (mean, r) = (s[2 * row], s[2 * row + 1]);
                            let (dg, db) = (&mut dg[..n], &mut db[..n]);
                            for j in 0..n {
                                dg[j] += dy[j] * (x[j] - mean) * r;
                                db[j] += dy[j];
                            }
                        }
                    },
                );
            });
            self.add_sums(grads, &partial)?;
        }
        Ok(())
    }
}

fn check(op: &'static str, x: &Tensor, vectors: &[(&str, &Tensor)]) -> Result<()> {
    if x.rank() == 0 {
        return Err(Error::shape(op, "x is a scalar, wanted rows […, n]"));
    }
    x.expect_dtype(op, DType::F32)?;
    vectors.iter().try_for_each(|(name, v)| {
        v.expect_dtype(op, DType::F32)?;
        v.expect_shape(op, name, &[x.last_dim()])
    })
}

/// Layer norm over the last axis: `x` `[…, n]`, `gain` and `bias` `[n]`.
///
/// # Errors
/// Shapes that do not fit, element types other than f32.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    check("layer_norm", x, &[("gain", gain), ("bias", bias)])?;
    apply(Norm { centred: true, eps }, &[x, gain, bias])
}

/// RMS norm over the last axis: `x` `[…, n]`, `gain` `[n]`.
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm(x: &Tensor, gain: &Tensor, eps: f32) -> Result<Tensor> {
    check("rms_norm", x, &[("gain", gain)])?;
    apply(
        Norm {
            centred: false,
            eps,
        },
        &[x, gain],
    )
}
