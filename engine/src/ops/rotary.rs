//! Rotary position embedding (Su et al. 2021) with LLaMA's pairing of i and i + D/2.
//!
//! ```text
//! θ_i = base^(−2i/D)      (y_i, y_{i+D/2}) = R(p·θ_i)·(x_i, x_{i+D/2})      i < D/2
//! dx = R(−p·θ)·dy
//! ```
//!
//! x `[…, D]`; positions u32, of a shape that broadcasts to `[…]`: `[T]` for `[B, H, T, D]`, `[T, 1]` for `[B, T, H, D]`,
//! `[B, 1, T]` for positions of each sample. Angles are worked out in f64. Saved: the sines and cosines of the positions.

use deltaw_kernels::rotary as kernel;

use crate::cpu::{simd, threads};
use crate::device::Device;
use crate::device::cpu::walk::Walk;
use crate::device::cuda::{Cuda, failed};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout, for_each_run};
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::softmax::GRAIN;
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Inputs: x, cosines and sines `[…, D/2]` that broadcast along x's leading axes.
struct Rotary;

/// Rotates rows by the angles given, or back.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, back: bool) -> Result<Tensor> {
    x.expect_dtype("rotary", DType::F32)?;
    if let Some(cuda) = x.device().as_cuda() {
        return launch(cuda, x, [cos, sin], back);
    }
    let x = x.packed()?;
    let (d, half) = (x.last_dim(), x.last_dim() / 2);
    let mut lead = x.layout().shape;
    let last = lead.len() - 1;
    lead[last] = half;
    let table = cos.broadcast_view("rotary", &lead)?;
    let mut places = Vec::with_capacity(x.rows());
    for_each_run([table.layout()], |[at]| places.push(at));
    let (source, cos, sin) = (
        x.as_slice::<f32>()?,
        cos.storage_slice::<f32>()?,
        sin.storage_slice::<f32>()?,
    );
    let mut y = Tensor::empty(x.shape(), DType::F32, x.device())?;
    let rows = threads::rows_per_piece(d, GRAIN);
    threads::par_rows(y.as_mut_slice::<f32>()?, d, rows, |first, part| {
        simd::dispatch(
            #[inline(always)]
            || {
                for (i, y) in part.chunks_exact_mut(d).enumerate() {
                    let (row, at) = (first + i, places[first + i]);
                    let (a, b) = source[row * d..][..d].split_at(half);
                    let (c, s) = (&cos[at..][..half], &sin[at..][..half]);
                    let (y, z) = y.split_at_mut(half);
                    for j in 0..half {
                        let s = if back { -s[j] } else { s[j] };
                        y[j] = a[j].mul_add(c[j], -(b[j] * s));
                        z[j] = b[j].mul_add(c[j], a[j] * s);
                    }
                }
            },
        );
    });
    Ok(y)
}

/// Rows as they lie: heads that are views are not copied.
fn launch(cuda: &Cuda, x: &Tensor, tables: [&Tensor; 2], back: bool) -> Result<Tensor> {
    let mut y = Tensor::empty(x.shape(), DType::F32, x.device())?;
    let (rank, half) = (x.rank() - 1, x.last_dim() / 2);
    let rows = |layout: &Layout| -> Result<Layout> {
        Ok(Layout {
            shape: Dims::new(&layout.shape[..rank])?,
            strides: Dims::new(&layout.strides[..rank])?,
            offset: layout.offset,
        })
    };
    let mut lead = x.layout().shape;
    lead[rank] = half;
    let table = tables[0].broadcast_view("rotary", &lead)?;
    let walk = Walk::new([
        &rows(x.layout())?,
        &rows(y.layout())?,
        &rows(table.layout())?,
    ]);
    let axis = |i: usize| kernel::Axis {
        size: walk.shape[i],
        strides: walk.strides.map(|strides| strides[i]),
    };
    let call = kernel::Rotary {
        half,
        axes: (0..walk.shape.len()).map(axis).collect(),
        back,
        x: cuda.address("rotary", x)?,
        y: cuda.address_mut("rotary", &mut y)?,
        tables: [
            cuda.address("rotary", tables[0])?,
            cuda.address("rotary", tables[1])?,
        ],
    };
    let (kernels, stream) = cuda.launcher();
    // SAFETY: layouts lie within their tensors, the tables are contiguous and repeat to x's rows, and y is unshared.
    unsafe { call.launch(kernels, stream) }.map_err(|e| failed("rotary", &[x], e))?;
    Ok(y)
}

impl Op for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn supports(&self, device: &Device) -> bool {
        device.has_kernels()
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        if f.needs(0) {
            f.save(0, inputs[1]);
            f.save(1, inputs[2]);
        }
        rotate(inputs[0], inputs[1], inputs[2], false)
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [x, cos, sin] = [inputs[0], inputs[1], inputs[2]];
        let (axis, half) = (x.rank() - 1, x.last_dim() / 2);
        let (a, b) = (x.narrow(axis, 0, half)?, x.narrow(axis, half, half)?);
        let y = a.mul(cos)?.sub(&b.mul(sin)?)?;
        let z = b.mul(cos)?.add(&a.mul(sin)?)?;
        Tensor::concat(&[&y, &z], axis)
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        grads.add(0, rotate(&dy, saved.get(0)?, saved.get(1)?, true)?)
    }
}

/// Cosines and sines of positions: made once, used by the queries and keys of every layer.
#[derive(Debug, Clone)]
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// For u32 positions of any shape and heads of width `width`.
    ///
    /// # Errors
    /// An odd width, positions that are no u32.
    pub fn new(positions: &Tensor, width: usize, base: f64) -> Result<Self> {
        let (places, shape) = (positions.to_vec::<u32>()?, positions.shape());
        Self::of(&places, shape, width, base, positions.device())
    }

    /// For positions 0 to `len` − 1, which need not be read from anywhere.
    ///
    /// # Errors
    /// An odd width.
    pub fn first(len: usize, width: usize, base: f64, device: &Device) -> Result<Self> {
        let places: Vec<u32> = (0..len as u32).collect();
        Self::of(&places, &[len], width, base, device)
    }

    fn of(
        positions: &[u32],
        shape: &[usize],
        width: usize,
        base: f64,
        device: &Device,
    ) -> Result<Self> {
        if !width.is_multiple_of(2) {
            return Err(Error::shape(
                "rotary",
                format!("heads of width {width}; it must be even"),
            ));
        }
        let rate = |i: usize| base.powf(-2.0 * i as f64 / width as f64);
        let rates: Vec<f64> = (0..width / 2).map(rate).collect();
        let angles: Vec<f64> = (positions.iter())
            .flat_map(|p| rates.iter().map(|rate| f64::from(*p) * rate))
            .collect();
        let shape = [shape, &[width / 2]].concat();
        let table = |f: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f64> = angles.iter().map(|a| f(*a)).collect();
            let mut out = Tensor::empty(&shape, DType::F32, device)?;
            device
                .backend()
                .write(&mut out, DType::F64, bytemuck::cast_slice(&values))?;
            Ok(out)
        };
        Ok(Rotation {
            cos: table(libm::cos)?,
            sin: table(libm::sin)?,
        })
    }

    /// Rotates the rows of x, `[…, width]`.
    ///
    /// # Errors
    /// Another width, positions that do not broadcast to x's leading axes.
    pub fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (half, rank) = (self.cos.last_dim(), self.cos.rank());
        if x.rank() == 0 || x.last_dim() != 2 * half {
            return Err(Error::shape(
                "rotary",
                format!("x is {:?}, the heads {} wide", x.shape(), 2 * half),
            ));
        }
        let mut table = x.layout().shape;
        table[x.rank() - 1] = half;
        if self.cos.layout().broadcast(&table).is_none() {
            return Err(Error::shape(
                "rotary",
                format!(
                    "positions {:?} do not broadcast to the leading axes of {:?}",
                    &self.cos.shape()[..rank - 1],
                    x.shape()
                ),
            ));
        }
        apply(Rotary, &[x, &self.cos, &self.sin])
    }
}

/// Rotates queries or keys by their positions: [`Rotation`] for one use.
///
/// # Errors
/// As [`Rotation::new`] and [`Rotation::rotate`].
pub fn rotary(x: &Tensor, positions: &Tensor, base: f64) -> Result<Tensor> {
    Rotation::new(positions, x.last_dim(), base)?.rotate(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_by_hand() {
        // D = 2: θ = 1; position 1 turns (1, 0) by one radian.
        let cpu = Device::cpu();
        let x = Tensor::from([[1.0, 0.0], [1.0, 0.0]]);
        let y = rotary(&x, &Tensor::arange(2, &cpu).unwrap(), 1e4).unwrap();
        assert_eq!(
            y.to_vec::<f32>().unwrap(),
            [1.0, 0.0, 1f32.cos(), 1f32.sin()]
        );
        let message = rotary(&x, &Tensor::arange(3, &cpu).unwrap(), 1e4).unwrap_err();
        assert_eq!(
            message.to_string(),
            "rotary: positions [3] do not broadcast to the leading axes of [2, 2]"
        );
        let message = rotary(
            &Tensor::from([1.0]),
            &Tensor::from_slice(&[0u32], &[], &cpu).unwrap(),
            1e4,
        );
        assert_eq!(
            message.unwrap_err().to_string(),
            "rotary: heads of width 1; it must be even"
        );
    }

    #[test]
    fn scores_depend_on_distances_and_layouts_agree() {
        let cpu = Device::cpu();
        let (q, k) = (
            Tensor::from([[0.3, -1.0, 0.7, 2.0]]),
            Tensor::from([[1.5, 0.25, -0.5, 1.0]]),
        );
        let score = |p: u32, r: u32| {
            let at = |x: &Tensor, p: u32| {
                let position = Tensor::from_slice(&[p], &[1], &cpu).unwrap();
                rotary(x, &position, 100.0).unwrap()
            };
            at(&q, p)
                .mul(&at(&k, r))
                .unwrap()
                .sum_all()
                .unwrap()
                .item()
                .unwrap()
        };
        // Four products of order one.
        assert!((score(5, 2) - score(13, 10)).abs() < 16.0 * f64::from(f32::EPSILON));
        // [B, H, T, D] with positions [T] against [B, T, H, D] with positions [T, 1].
        let key = crate::random::RandomKey::new(1, crate::random::Purpose::Sample, "x");
        let x = Tensor::random(
            &[2, 3, 5, 4],
            crate::device::Distribution::Normal,
            key,
            &cpu,
        )
        .unwrap();
        let positions = Tensor::arange(5, &cpu).unwrap();
        let heads_first = rotary(&x, &positions, 1e4).unwrap();
        let swapped = x.permute(&[0, 2, 1, 3]).unwrap();
        let times_first = rotary(&swapped, &positions.unsqueeze(1).unwrap(), 1e4).unwrap();
        assert_eq!(
            heads_first.to_vec::<f32>().unwrap(),
            times_first
                .permute(&[0, 2, 1, 3])
                .unwrap()
                .to_vec::<f32>()
                .unwrap()
        );
    }
}
