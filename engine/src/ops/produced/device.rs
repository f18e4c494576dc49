//! Producers on CUDA devices, a panel of rows at a time whatever W's shape: `produce` makes (W + ΔW)[rows] out of W in its own type, the
//! products sweep it, and `contract` takes G[rows] apart. Nothing waits for the host.
//!
//! A panel has 2¹⁹ elements (2 MiB) or an eighth of W's, whichever are more, or the producer's granularity where that is larger;
//! one exists at a time. Rows are spread evenly over the panels, so that none is too small for the device.

use std::ops::Range;

use super::Producer;
use crate::device::Gemm;
use crate::device::cuda::{Around, Cuda};
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::Layout;
use crate::op::{Forward, Saved};
use crate::ops::linear::{as_matrix, output_shape, write_matrix};
use crate::pool::{Tag, tagged};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Elements of a panel at least.
const PANEL: usize = 1 << 19;
/// Columns of y that begin at multiples of this many are stored 16 bytes at a time.
const ALIGNED: usize = 4;

/// Rows of an update's matrix on a device, and what makes them.
pub struct DevicePanel<'a> {
    /// Whose kernels run: [`Cuda::launcher`], [`Cuda::address`] and [`Cuda::address_mut`] for those of one's own.
    pub cuda: &'a Cuda,
    /// The first row.
    pub first: usize,
    /// W's rows, `[rows, n]`, contiguous, in W's type: f32, bf16 or f16.
    pub weight: &'a Tensor,
    /// The parameters, contiguous and f32.
    pub params: &'a [&'a Tensor],
    /// What [`DeviceProducer::prepare`] made.
    pub prepared: &'a [Tensor],
}

/// A producer's form on CUDA devices, by tensor operations or kernels of its own. Whatever it makes stays on the device: a value
/// that all rows need (a threshold, norms) is a tensor that `prepare` makes. To have [`super::produced_linear`] use it, implement
/// it beside [`Producer`] and return it from [`Producer::on_device`]:
///
/// ```
/// use deltaw_engine::prelude::*;
///
/// /// ΔW = v·1ᵀ: a number for each row.
/// struct Shift;
///
/// impl DeviceProducer for Shift {
///     fn produce(&self, panel: &DevicePanel) -> Result<Tensor> {
///         let v = panel.params[0].narrow(0, panel.first, panel.weight.rows())?;
///         panel.weight.cast(DType::F32)?.add(&v.unsqueeze(1)?)
///     }
///     fn contract(&self, panel: &DevicePanel, g: &Tensor, grads: &mut [Tensor]) -> Result<()> {
///         let after = grads[0].len() - panel.first - g.rows();
///         grads[0] = grads[0].add(&g.sum(1)?.pad(0, panel.first, after)?)?;
///         Ok(())
///     }
/// }
/// ```
pub trait DeviceProducer: Send + Sync {
    /// Called once before the first panel of an application to a W of `[m, n]`; backward has the same again.
    ///
    /// # Errors
    /// The producer's own.
    fn prepare(&self, cuda: &Cuda, size: [usize; 2], params: &[&Tensor]) -> Result<Vec<Tensor>> {
        let _ = (cuda, size, params);
        Ok(vec![])
    }

    /// `(W + ΔW)[rows]`, `[rows, n]`, f32.
    ///
    /// # Errors
    /// The device's.
    fn produce(&self, panel: &DevicePanel) -> Result<Tensor>;

    /// Adds what the rows `g` of dL/dΔW, `[rows, n]`, contribute to the parameters' gradients, which nobody else holds: in an order
    /// that depends on nothing but sizes and device.
    ///
    /// # Errors
    /// The device's.
    fn contract(&self, panel: &DevicePanel, g: &Tensor, grads: &mut [Tensor]) -> Result<()>;
}

/// The rows of each panel; one at least, so that a product of no rows clears what it should.
fn panels(m: usize, n: usize, granularity: usize) -> impl Iterator<Item = Range<usize>> {
    let most = PANEL.max(m * n / 8) / n.max(1);
    let granularity = granularity.max(1);
    let unit = match granularity * ALIGNED {
        aligned if aligned <= most => aligned,
        _ => granularity,
    };
    let units = m.div_ceil(unit);
    let count = units.div_ceil((most / unit).max(1)).max(1);
    let rows = units.div_ceil(count) * unit;
    (0..count)
        .map(move |i| m.min(i * rows)..m.min((i + 1) * rows))
        .filter(move |rows| !rows.is_empty() || rows.start == 0)
}

/// What all panels of one application share.
struct Application<'a> {
    cuda: &'a Cuda,
    producer: &'a dyn DeviceProducer,
    granularity: usize,
    weight: &'a Tensor,
    params: &'a [&'a Tensor],
    prepared: &'a [Tensor],
}

impl Application<'_> {
    fn each(&self, mut use_it: impl FnMut(&DevicePanel, Range<usize>) -> Result<()>) -> Result<()> {
        let w = self.weight;
        for rows in panels(w.shape()[0], w.shape()[1], self.granularity) {
            let weight = w.narrow(0, rows.start, rows.len())?.packed()?;
            let panel = DevicePanel {
                cuda: self.cuda,
                first: rows.start,
                weight: &weight,
                params: self.params,
                prepared: self.prepared,
            };
            use_it(&panel, rows)?;
        }
        Ok(())
    }

    fn produce(&self, panel: &DevicePanel) -> Result<Tensor> {
        tagged(Tag::Scratch, || self.producer.produce(panel))
    }
}

const PLAIN: Gemm = Gemm {
    trans_a: false,
    trans_b: false,
    alpha: 1.0,
    beta: 0.0,
};

impl<P: Producer> super::Produced<P> {
    pub(super) fn forward_on_device(
        &self,
        (cuda, producer): (&Cuda, &dyn DeviceProducer),
        f: &mut Forward,
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        let (x, w, bias) = (inputs[0], inputs[1], self.bias(inputs));
        let name = self.producer.name();
        let shape = output_shape(name, x, w, bias)?;
        let x = as_matrix(x)?;
        let params = super::packed(&self.params(inputs))?;
        params
            .iter()
            .try_for_each(|p| p.expect_dtype(name, DType::F32))?;
        let params: Vec<&Tensor> = params.iter().collect();
        let prepared = producer.prepare(cuda, [w.shape()[0], w.shape()[1]], &params)?;
        let application = Application {
            cuda,
            producer,
            granularity: self.producer.granularity(),
            weight: w,
            params: &params,
            prepared: &prepared,
        };
        let mut y = Tensor::empty(&[x.rows(), w.shape()[0]], DType::F32, x.device())?;
        let whole = *y.layout();
        application.each(|panel, rows| {
            let made = application.produce(panel)?;
            let bias = bias
                .map(|b| b.narrow(0, rows.start, rows.len()))
                .transpose()?;
            let around = Around {
                bias: bias.as_ref(),
                second: None,
            };
            let by_rows = Gemm {
                trans_b: true,
                ..PLAIN
            };
            let nothing = Tensor::empty(&[0], DType::F32, x.device())?;
            let mut part = std::mem::replace(&mut y, nothing).relayout(whole.narrow(
                1,
                rows.start,
                rows.len(),
            ));
            cuda.product(by_rows, &x, &made, &around, &mut part)?;
            y = part.relayout(whole);
            Ok(())
        })?;
        let kept: Vec<&Tensor> = params.iter().copied().chain(&prepared).collect();
        self.keep(f, &x, w, &kept);
        Ok(y.relayout(Layout::contiguous(shape)))
    }

    pub(super) fn backward_on_device(
        &self,
        (cuda, producer): (&Cuda, &dyn DeviceProducer),
        saved: &Saved,
        dy: &Tensor,
        grads: &mut Grads,
    ) -> Result<()> {
        let (w, params) = (saved.get(1)?, self.saved_params(saved)?);
        let mut prepared = Vec::new();
        while let Some(made) = saved.find(2 + self.params + prepared.len())? {
            prepared.push(made.clone());
        }
        let application = Application {
            cuda,
            producer,
            granularity: self.producer.granularity(),
            weight: w,
            params: &params,
            prepared: &prepared,
        };
        let of_rows =
            |rows: &Range<usize>| dy.with_layout(dy.layout().narrow(1, rows.start, rows.len()));
        if grads.needs(0) {
            write_matrix(grads, 0, |dx, beta| {
                application.each(|panel, rows| {
                    let made = application.produce(panel)?;
                    let beta = if rows.start == 0 { beta } else { 1.0 };
                    let adding = Gemm { beta, ..PLAIN };
                    cuda.product(adding, &of_rows(&rows), &made, &Around::default(), dx)
                })
            })?;
        }
        if !self.trains(|i| grads.needs(i)) {
            return Ok(());
        }
        let x = saved.get(0)?;
        let mut made: Vec<Tensor> = params
            .iter()
            .map(|p| Tensor::zeros(p.shape(), DType::F32, p.device()))
            .collect::<Result<_>>()?;
        application.each(|panel, rows| {
            let g = [rows.len(), x.last_dim()];
            let mut g = tagged(Tag::Scratch, || Tensor::empty(&g, DType::F32, x.device()))?;
            let turned = Gemm {
                trans_a: true,
                ..PLAIN
            };
            cuda.product(turned, &of_rows(&rows), x, &Around::default(), &mut g)?;
            producer.contract(panel, &g, &mut made)
        })?;
        self.hand_over(made, grads)
    }
}

#[cfg(test)]
mod tests {
    use super::panels;

    #[test]
    fn panels_cover_the_rows_within_the_scratch() {
        for (m, n, granularity) in [
            (768, 768, 1),
            (768, 768, 64),
            (3072, 768, 7),
            (4096, 4096, 64),
            (5, 1 << 20, 3),
            (1, 3, 9),
            (0, 4, 2),
            (4, 0, 1),
        ] {
            let all: Vec<_> = panels(m, n, granularity).collect();
            let ends: Vec<_> = all.iter().map(|p| p.end).collect();
            let starts: Vec<_> = all.iter().map(|p| p.start).collect();
            assert_eq!(starts[0], 0);
            assert_eq!(starts[1..], ends[..ends.len() - 1]);
            assert_eq!(ends.last(), Some(&m));
            let most = (1 << 19).max(m * n / 8).max(granularity * n);
            for p in &all {
                assert!(p.start % granularity == 0 && p.len() * n <= most, "{p:?}");
            }
        }
    }
}
