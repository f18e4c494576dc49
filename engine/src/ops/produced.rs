//! A linear whose update has no thin factors: `y = x·(W + ΔW)ᵀ + b`, with ΔW made a panel at a time.
//!
//! ```text
//! m ≥ n, panels of rows:      y[:, rows] = x·(W + ΔW)[rows]ᵀ + b[rows]      dx = Σ_panels dy[:, rows]·(W + ΔW)[rows]
//!                             G[rows] = dy[:, rows]ᵀ·x
//! m < n, of columns:          y = b + Σ_panels x[:, columns]·(W + ΔW)[:, columns]ᵀ      dx[:, columns] = dy·(W + ΔW)[:, columns]
//!                             G[:, columns] = dyᵀ·x[:, columns]                         dθ += contract(G's panel)
//! ```
//!
//! x `[…, n]`, W `[m, n]` frozen (f32, bf16 or f16), θ the update's parameters. A [`Producer`] knows how parts of ΔW come about
//! and how parts of `G = dL/dΔW` fall to its parameters; neither exists whole. Scratch is 2 MiB, or the producer's granularity
//! where that is larger: a panel of W + ΔW or of G, and of W where it is not f32. All tokens sweep a panel once, so that making
//! it costs `O(mn)` a pass, whatever their number. Of x and y the narrower is gone through once a panel, the wider once in all.
//! Saved: x where θ is trained; W and θ. On CUDA devices the same with panels of their own ([`DeviceProducer`]); a producer
//! without that form is made whole there.

use std::ops::Range;
use std::sync::OnceLock;

use crate::cpu::gemm::{Dims, Extra, Layout as Strides, Scale, gemm, gemm_with};
use crate::cpu::threads::{par_rows, rows_per_piece};
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

/// Elements of scratch: a panel, and W's part beside it where that is copied.
const SCRATCH: usize = 1 << 19;
/// Elements of W that are worth a thread's attention.
const PIECE: usize = 1 << 15;

/// Part of an update's matrix: whole rows or whole columns, whichever are shorter; and what makes it.
#[derive(Debug, Clone)]
pub struct Panel<'a> {
    /// Its rows.
    pub rows: Range<usize>,
    /// Its columns.
    pub columns: Range<usize>,
    /// Columns of the whole matrix.
    pub n: usize,
    /// W from the panel's first element on.
    pub weight: &'a [f32],
    /// Elements of `weight` between the starts of two rows.
    pub stride: usize,
    /// The parameters' elements.
    pub params: &'a [&'a [f32]],
}

impl<'a> Panel<'a> {
    /// W's part of one of the panel's rows, the first of which is 0.
    pub fn weight_row(&self, row: usize) -> &'a [f32] {
        &self.weight[row * self.stride..][..self.columns.len()]
    }
}

/// An update that is made, and whose gradient is taken, a panel at a time. Any crate can add one.
pub trait Producer: Send + Sync + 'static {
    /// What all panels need to know of the whole: norms, a threshold. `()` for most.
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

    /// Panels start at multiples of this many rows and columns.
    fn granularity(&self) -> usize {
        1
    }

    /// Elements that it takes beside a panel while it works on one, up to half of a panel's 2¹⁹; panels are smaller by these.
    fn room(&self) -> usize {
        0
    }

    /// Called once before the first panel; backward, whose parameters are the same, uses it again.
    ///
    /// # Errors
    /// The producer's own.
    fn prepare(&self, m: usize, n: usize, params: &[&[f32]]) -> Result<Self::Prepared>;

    /// Adds ΔW's part to `out`, `[rows, columns]`, which holds W's.
    fn produce(&self, prepared: &Self::Prepared, panel: &Panel, out: &mut [f32]);

    /// Adds what the part `g` of `dL/dΔW`, `[rows, columns]`, contributes to the parameters' gradients.
    fn contract(
        &self,
        prepared: &Self::Prepared,
        panel: &Panel,
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
    /// The rows and columns of each panel of W, all about as large.
    fn panels(
        &self,
        w: &Tensor,
        Sizes { m, n, .. }: Sizes,
    ) -> impl Iterator<Item = [Range<usize>; 2]> {
        let unit = self.producer.granularity().max(1);
        let elements = SCRATCH - self.producer.room().min(SCRATCH / 2);
        let elements = if in_place(w) { elements } else { elements / 2 };
        let (long, short) = (m.max(n), m.min(n));
        let most = (elements / short.max(1) / unit).max(1) * unit;
        let each = long
            .div_ceil(long.div_ceil(most).max(1))
            .next_multiple_of(unit)
            .max(1);
        (0..long).step_by(each).map(move |first| {
            let part = first..long.min(first + each);
            if m >= n { [part, 0..n] } else { [0..m, part] }
        })
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

/// Whether W is read where it lies.
fn in_place(w: &Tensor) -> bool {
    w.dtype() == DType::F32 && w.layout().is_contiguous()
}

/// Part of a matrix as f32, and the elements between its rows: where it lies, if that is what it is, else copied to `room`.
fn part<'a>(
    w: &'a Tensor,
    [rows, columns]: &[Range<usize>; 2],
    room: &'a mut Option<Tensor>,
) -> Result<(&'a [f32], usize)> {
    let view = w
        .narrow(0, rows.start, rows.len())?
        .narrow(1, columns.start, columns.len())?;
    if in_place(w) {
        let values = w.storage_slice::<f32>()?;
        return Ok((&values[view.layout().offset..], w.shape()[1]));
    }
    let mut copy = scratch(view.shape(), w.device())?;
    w.device().backend().copy(&view, &mut copy)?;
    Ok((room.insert(copy).as_slice()?, columns.len()))
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
        let rows = x.as_slice::<f32>()?;
        self.each_panel(w, &values, size, |panel, made| {
            let (first, count) = (panel.columns.start, panel.columns.len());
            let extra = Extra {
                // Panels of columns add up: the first brings the bias.
                bias: bias.filter(|_| first == 0).map(|b| &b[panel.rows.clone()]),
                ..Extra::default()
            };
            gemm_with(
                Dims {
                    m: size.tokens,
                    n: panel.rows.len(),
                    k: count,
                },
                if first == 0 { Scale::PLAIN } else { Scale::ADD },
                (from(rows, first), Strides::row_major(size.n)),
                (made, Strides::transposed(count)),
                extra,
                (from_mut(y.as_mut_slice()?, panel.rows.start), size.m),
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
                self.each_panel(w, &values, size, |panel, made| {
                    let (first, count) = (panel.columns.start, panel.columns.len());
                    let dims = Dims {
                        m: size.tokens,
                        n: count,
                        k: panel.rows.len(),
                    };
                    let scale = Scale {
                        alpha: 1.0,
                        beta: if panel.rows.start == 0 { beta } else { 1.0 },
                    };
                    gemm(
                        dims,
                        scale,
                        (from(out, panel.rows.start), Strides::row_major(size.m)),
                        (made, Strides::row_major(count)),
                        (from_mut(dx.as_mut_slice()?, first), size.n),
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
            self.each_part(w, &values, size, |panel| {
                let [rows, columns] = [panel.rows.len(), panel.columns.len()];
                let dims = Dims {
                    m: rows,
                    n: columns,
                    k: size.tokens,
                };
                let mut g = scratch(&[rows, columns], w.device())?;
                let g = g.as_mut_slice::<f32>()?;
                gemm(
                    dims,
                    Scale::PLAIN,
                    (from(out, panel.rows.start), Strides::transposed(size.m)),
                    (from(x, panel.columns.start), Strides::row_major(size.n)),
                    (&mut *g, columns),
                );
                self.producer.contract(prepared, panel, g, &mut targets);
                Ok(())
            })?;
            self.hand_over(made, grads)?;
        }
        Ok(())
    }
}

/// A slice from an element on; empty beyond its end, as that of no tokens is.
fn from(slice: &[f32], first: usize) -> &[f32] {
    slice.get(first..).unwrap_or_default()
}

fn from_mut(slice: &mut [f32], first: usize) -> &mut [f32] {
    slice.get_mut(first..).unwrap_or_default()
}

impl<P: Producer> Produced<P> {
    /// Hands parts of W to `use_them`, panel after panel.
    fn each_part(
        &self,
        w: &Tensor,
        params: &[&[f32]],
        size: Sizes,
        mut use_them: impl FnMut(&Panel) -> Result<()>,
    ) -> Result<()> {
        for at in self.panels(w, size) {
            let mut room = None;
            let (weight, stride) = part(w, &at, &mut room)?;
            let [rows, columns] = at;
            use_them(&Panel {
                rows,
                columns,
                n: size.n,
                weight,
                stride,
                params,
            })?;
        }
        Ok(())
    }

    /// Hands parts of W + ΔW to `use_them`, panel after panel.
    fn each_panel(
        &self,
        w: &Tensor,
        params: &[&[f32]],
        size: Sizes,
        mut use_them: impl FnMut(&Panel, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let prepared = self.prepared(size, params)?;
        self.each_part(w, params, size, |panel| {
            let [rows, columns] = [panel.rows.len(), panel.columns.len()];
            let mut made = scratch(&[rows, columns], w.device())?;
            let out = made.as_mut_slice::<f32>()?;
            par_rows(
                out,
                columns,
                rows_per_piece(columns, PIECE),
                |first, out| {
                    for (row, out) in (first..).zip(out.chunks_exact_mut(columns)) {
                        out.copy_from_slice(panel.weight_row(row));
                    }
                },
            );
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
