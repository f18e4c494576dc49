//! A linear whose update has no thin factors: `y = x·(W + ΔW)ᵀ + b`, with ΔW made a panel of rows at a time.
//!
//! ```text
//! y[:, rows] = x·(W + ΔW)[rows]ᵀ + b[rows]
//! dx = Σ_panels dy[:, rows]·(W + ΔW)[rows]      G[rows] = dy[:, rows]ᵀ·x      dθ += contract(G[rows])
//! ```
//!
//! x `[…, n]`, W `[m, n]` frozen (f32, bf16 or f16), θ the update's parameters. A [`Producer`] knows how rows of ΔW come about
//! and how rows of `G = dL/dΔW` fall to its parameters; neither exists whole. Scratch is 2 MiB, or the producer's granularity
//! where that is larger: a panel of W + ΔW or of G, and of W's rows where they are not f32. All tokens sweep a panel once, so
//! that making it costs `O(mn)` a pass, whatever their number; the larger it is, the less often x and dy are packed for it.
//! Saved: x where θ is trained; W and θ. On CUDA devices the same with panels of their own ([`DeviceProducer`]); a producer
//! without that form is made whole there.

use std::ops::Range;
use std::sync::OnceLock;

use crate::cpu::gemm::{Dims, Extra, Layout as Strides, Scale, gemm, gemm_with};
use crate::device::Device;
use crate::device::cuda::Cuda;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::linear::{as_matrix, bias_gradient, linear, output_shape, write_matrix};
use crate::pool::{Tag, tagged};
use crate::tape::Grads;
use crate::tensor::Tensor;

mod device;

pub use device::{DevicePanel, DeviceProducer};

/// Elements of scratch: a panel, and W's rows beside it where they are copied.
const SCRATCH: usize = 1 << 19;

/// Rows of an update's matrix, and what makes them.
#[derive(Debug, Clone, Copy)]
pub struct Panel<'a> {
    /// The first row.
    pub first: usize,
    /// How many.
    pub rows: usize,
    /// Elements of a row.
    pub n: usize,
    /// W's rows, one after the other.
    pub weight: &'a [f32],
    /// The parameters' elements.
    pub params: &'a [&'a [f32]],
}

/// An update that is made, and whose gradient is taken, some rows at a time. Any crate can add one.
pub trait Producer: Send + Sync + 'static {
    /// What all rows need to know of the whole: norms, a threshold. `()` for most.
    type Prepared: Send + Sync;

    /// The name in errors, traces and tests.
    fn name(&self) -> &'static str;

    /// ΔW, `[m, n]`, by other ops, on the tape: merging, and devices without a native form.
    ///
    /// # Errors
    /// Parameters whose shapes do not fit W's.
    fn dense(&self, weight: &Tensor, params: &[&Tensor]) -> Result<Tensor>;

    /// Checks the parameters' shapes against W's, `[m, n]`.
    ///
    /// # Errors
    /// They do not fit.
    fn check(&self, m: usize, n: usize, params: &[&Tensor]) -> Result<()>;

    /// Panels start at multiples of this many rows.
    fn granularity(&self) -> usize {
        1
    }

    /// Called once before the first panel; backward, whose parameters are the same, uses it again.
    ///
    /// # Errors
    /// The producer's own.
    fn prepare(&self, m: usize, n: usize, params: &[&[f32]]) -> Result<Self::Prepared>;

    /// Adds ΔW's rows to `out`, which holds W's.
    fn produce(&self, prepared: &Self::Prepared, panel: Panel, out: &mut [f32]);

    /// Adds what the rows `g` of `dL/dΔW` contribute to the parameters' gradients.
    fn contract(
        &self,
        prepared: &Self::Prepared,
        panel: Panel,
        g: &[f32],
        grads: &mut [&mut [f32]],
    );

    /// The whole linear by factors of ΔW that are never multiplied, if there are such and x has so few rows that they are cheaper.
    fn factored(
        &self,
        _x: &Tensor,
        _weight: &Tensor,
        _bias: Option<&Tensor>,
        _params: &[&Tensor],
    ) -> Option<Result<Tensor>> {
        None
    }

    /// The form on CUDA devices, if it has one; else ΔW is made whole there.
    fn on_device(&self) -> Option<&dyn DeviceProducer> {
        None
    }
}

struct Produced<P: Producer> {
    producer: P,
    params: usize,
    has_bias: bool,
    /// What forward prepared, for backward too.
    prepared: OnceLock<P::Prepared>,
}

/// The sizes of one application.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    m: usize,
    n: usize,
}

impl<P: Producer> Produced<P> {
    /// The rows of each panel of W, about as many in all.
    fn panels(&self, w: &Tensor, Sizes { m, n, .. }: Sizes) -> impl Iterator<Item = Range<usize>> {
        let unit = self.producer.granularity().max(1);
        let elements = if in_place(w) { SCRATCH } else { SCRATCH / 2 };
        let most = (elements / n.max(1) / unit).max(1) * unit;
        let rows = m
            .div_ceil(m.div_ceil(most).max(1))
            .next_multiple_of(unit)
            .max(1);
        (0..m)
            .step_by(rows)
            .map(move |first| first..m.min(first + rows))
    }

    fn prepared(&self, size: Sizes, params: &[&[f32]]) -> Result<&P::Prepared> {
        if let Some(prepared) = self.prepared.get() {
            return Ok(prepared);
        }
        let made = self.producer.prepare(size.m, size.n, params)?;
        Ok(self.prepared.get_or_init(|| made))
    }

    fn params<'a>(&self, inputs: &[&'a Tensor]) -> Vec<&'a Tensor> {
        inputs[2..2 + self.params].to_vec()
    }

    fn bias<'a>(&self, inputs: &[&'a Tensor]) -> Option<&'a Tensor> {
        self.has_bias.then(|| inputs[2 + self.params])
    }

    /// The device and the form for it, where both exist.
    fn native<'a>(&'a self, device: &'a Device) -> Option<(&'a Cuda, &'a dyn DeviceProducer)> {
        Some((device.as_cuda()?, self.producer.on_device()?))
    }

    /// Whether one of the parameters is among the inputs that `needs` names.
    fn trains(&self, needs: impl Fn(usize) -> bool) -> bool {
        (0..self.params).any(|i| needs(2 + i))
    }

    /// Saves what backward needs, the parameters and what was made of them.
    fn keep(&self, f: &mut Forward, x: &Tensor, w: &Tensor, rest: &[&Tensor]) {
        let trains = self.trains(|i| f.needs(i));
        if trains {
            f.save(0, x);
        }
        if trains || f.needs(0) {
            f.save(1, w);
            (2..).zip(rest).for_each(|(slot, t)| f.save(slot, t));
        }
    }

    fn saved_params<'a>(&self, saved: &'a Saved) -> Result<Vec<&'a Tensor>> {
        (0..self.params).map(|i| saved.get(2 + i)).collect()
    }

    /// Gives the parameters' gradients away.
    fn hand_over(&self, made: Vec<Tensor>, grads: &mut Grads) -> Result<()> {
        for (i, gradient) in made.into_iter().enumerate() {
            if grads.needs(2 + i) {
                grads.add(2 + i, gradient)?;
            }
        }
        Ok(())
    }
}

/// Whether W's rows are used where they lie.
fn in_place(w: &Tensor) -> bool {
    w.dtype() == DType::F32 && w.layout().is_contiguous()
}

/// A matrix's rows as f32: where they lie, if that is what they are, else copied to `room`.
fn rows<'a>(w: &'a Tensor, rows: &Range<usize>, room: &'a mut Option<Tensor>) -> Result<&'a [f32]> {
    let view = w.narrow(0, rows.start, rows.len())?;
    if in_place(w) {
        let (start, n) = (view.layout().offset, w.shape()[1]);
        return Ok(&w.storage_slice::<f32>()?[start..start + rows.len() * n]);
    }
    let mut copy = scratch(&[rows.len(), w.shape()[1]], w.device())?;
    w.device().backend().copy(&view, &mut copy)?;
    room.insert(copy).as_slice()
}

pub(super) fn scratch(shape: &[usize], device: &Device) -> Result<Tensor> {
    tagged(Tag::Scratch, || Tensor::empty(shape, DType::F32, device))
}

/// The elements of contiguous copies of the parameters.
fn slices(params: &[Tensor]) -> Result<Vec<&[f32]>> {
    params.iter().map(Tensor::as_slice).collect()
}

fn packed(params: &[&Tensor]) -> Result<Vec<Tensor>> {
    params.iter().map(|p| p.packed()).collect()
}

impl<P: Producer> Op for Produced<P> {
    fn name(&self) -> &'static str {
        self.producer.name()
    }

    fn supports(&self, device: &Device) -> bool {
        device.is_cpu() || self.native(device).is_some()
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        if let Some(native) = self.native(inputs[0].device()) {
            return self.forward_on_device(native, f, inputs);
        }
        let (x, w, bias) = (inputs[0], inputs[1], self.bias(inputs));
        let shape = output_shape(self.name(), x, w, bias)?;
        let x = as_matrix(x)?;
        let (params, bias) = (
            packed(&self.params(inputs))?,
            bias.map(Tensor::packed).transpose()?,
        );
        let values = slices(&params)?;
        let bias = bias.as_ref().map(Tensor::as_slice::<f32>).transpose()?;
        let size = Sizes {
            tokens: x.rows(),
            m: w.shape()[0],
            n: w.shape()[1],
        };
        let mut y = Tensor::empty(&[size.tokens, size.m], DType::F32, x.device())?;
        self.each_panel(w, &values, size, |panel, made| {
            let (first, count) = (panel.first, panel.rows);
            let extra = Extra {
                bias: bias.map(|b| &b[first..first + count]),
                ..Extra::default()
            };
            gemm_with(
                Dims {
                    m: size.tokens,
                    n: count,
                    k: size.n,
                },
                Scale::PLAIN,
                (x.as_slice()?, Strides::row_major(size.n)),
                (made, Strides::transposed(size.n)),
                extra,
                (tail(y.as_mut_slice()?, first), size.m),
            );
            Ok(())
        })?;
        self.keep(f, &x, w, &params.iter().collect::<Vec<_>>());
        Ok(y.relayout(Layout::contiguous(shape)))
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, w) = (inputs[0], inputs[1]);
        let delta = self.producer.dense(w, &self.params(inputs))?;
        linear(x, &w.cast(DType::F32)?.add(&delta)?, self.bias(inputs))
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dy = as_matrix(&dy)?;
        if self.has_bias {
            bias_gradient(grads, 2 + self.params, &dy)?;
        }
        let wanted = self.trains(|i| grads.needs(i));
        if !wanted && !grads.needs(0) {
            return Ok(());
        }
        if let Some(native) = self.native(dy.device()) {
            return self.backward_on_device(native, &saved, &dy, grads);
        }
        let (w, params) = (saved.get(1)?, self.saved_params(&saved)?);
        let values: Vec<&[f32]> = params.iter().map(|p| p.as_slice()).collect::<Result<_>>()?;
        let size = Sizes {
            tokens: dy.rows(),
            m: w.shape()[0],
            n: w.shape()[1],
        };
        let out = dy.as_slice::<f32>()?;
        if grads.needs(0) {
            write_matrix(grads, 0, |dx, beta| {
                if size.m == 0 && beta == 0.0 {
                    dx.as_mut_slice::<f32>()?.fill(0.0);
                }
                self.each_panel(w, &values, size, |panel, made| {
                    let dims = Dims {
                        m: size.tokens,
                        n: size.n,
                        k: panel.rows,
                    };
                    let scale = Scale {
                        alpha: 1.0,
                        beta: if panel.first == 0 { beta } else { 1.0 },
                    };
                    let dy = out.get(panel.first..).unwrap_or_default();
                    gemm(
                        dims,
                        scale,
                        (dy, Strides::row_major(size.m)),
                        (made, Strides::row_major(size.n)),
                        (dx.as_mut_slice()?, size.n),
                    );
                    Ok(())
                })
            })?;
        }
        if wanted {
            let x = saved.get(0)?.as_slice::<f32>()?;
            let prepared = self.prepared(size, &values)?;
            let mut made: Vec<Tensor> = params
                .iter()
                .map(|p| Tensor::zeros(p.shape(), DType::F32, p.device()))
                .collect::<Result<_>>()?;
            let mut targets: Vec<&mut [f32]> = made
                .iter_mut()
                .map(Tensor::as_mut_slice)
                .collect::<Result<_>>()?;
            self.each_rows(w, &values, size, |panel| {
                let dims = Dims {
                    m: panel.rows,
                    n: size.n,
                    k: size.tokens,
                };
                let dy = out.get(panel.first..).unwrap_or_default();
                let mut g = scratch(&[panel.rows, size.n], w.device())?;
                let g = g.as_mut_slice::<f32>()?;
                gemm(
                    dims,
                    Scale::PLAIN,
                    (dy, Strides::transposed(size.m)),
                    (x, Strides::row_major(size.n)),
                    (&mut *g, size.n),
                );
                self.producer.contract(prepared, panel, g, &mut targets);
                Ok(())
            })?;
            self.hand_over(made, grads)?;
        }
        Ok(())
    }
}

fn tail(slice: &mut [f32], first: usize) -> &mut [f32] {
    let first = first.min(slice.len());
    &mut slice[first..]
}

impl<P: Producer> Produced<P> {
    /// Hands rows of W to `use_them`, panel after panel.
    fn each_rows(
        &self,
        w: &Tensor,
        params: &[&[f32]],
        size: Sizes,
        mut use_them: impl FnMut(Panel) -> Result<()>,
    ) -> Result<()> {
        for range in self.panels(w, size) {
            let mut room = None;
            use_them(Panel {
                first: range.start,
                rows: range.len(),
                n: size.n,
                weight: rows(w, &range, &mut room)?,
                params,
            })?;
        }
        Ok(())
    }

    /// Hands rows of W + ΔW to `use_them`, panel after panel.
    fn each_panel(
        &self,
        w: &Tensor,
        params: &[&[f32]],
        size: Sizes,
        mut use_them: impl FnMut(Panel, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let prepared = self.prepared(size, params)?;
        self.each_rows(w, params, size, |panel| {
            let mut made = scratch(&[panel.rows, size.n], w.device())?;
            let out = made.as_mut_slice::<f32>()?;
            out.copy_from_slice(panel.weight);
            self.producer.produce(prepared, panel, out);
            use_them(panel, out)
        })
    }
}

/// `x·(W + ΔW)ᵀ + b` with a frozen W and the update of `producer` with parameters `params`.
///
/// # Errors
/// Shapes that do not fit, or a W that is trained.
pub fn produced_linear<P: Producer>(
    producer: P,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    params: &[&Tensor],
) -> Result<Tensor> {
    let name = producer.name();
    let &[m, n] = weight.shape() else {
        return Err(Error::shape(
            name,
            format!("W is {:?}, wanted [m, n]", weight.shape()),
        ));
    };
    producer.check(m, n, params)?;
    if weight.requires_grad() {
        return Err(Error::Invalid(format!(
            "{name}: W is trained; add the update's dense form to it instead"
        )));
    }
    if let Some(y) = producer.factored(x, weight, bias, params) {
        return y;
    }
    let op = Produced {
        producer,
        params: params.len(),
        has_bias: bias.is_some(),
        prepared: OnceLock::new(),
    };
    let inputs: Vec<&Tensor> = [x, weight]
        .into_iter()
        .chain(params.iter().copied())
        .chain(bias)
        .collect();
    apply(op, &inputs)
}
