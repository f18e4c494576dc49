//! Multi-head attention without a Tq×Tk matrix in memory (after Dao et al. 2022).
//!
//! ```text
//! S = scale·Q·Kᵀ + bias (−∞ where masked)   P = softmax_rows(S)   O = P·V
//! dV = Pᵀ·dO    dP = dO·Vᵀ    dS = P ⊙ (dP − Σ_d dO ⊙ O)    dQ = scale·dS·K    dK = scale·dSᵀ·Q    dbias = dS
//! ```
//!
//! Q `[B, H, Tq, D]`, K and V `[B, H, Tk, D]` in any strides, or all three packed as `[B, T, 3, H, D]`: heads are read where
//! they lie, in f32, bf16 or f16, all three alike; what comes of them is f32. O and the gradients lie as `[B, T, H, D]`, so that the
//! permutation and reshape to `[B, T, H·D]` around attention are views. Saved: Q, K, V, O and the log-sum-exp of each row. A row
//! with nothing to look at gives 0 and no gradient. A GPU multiplies 16-bit operands, and f32 if tf32 was asked for, on the tensor
//! cores, P, dS and dO in the operands' type; the CPU in f32.

use deltaw_kernels::attention::Attention as Kernel;

use crate::cpu::attention as kernel;
use crate::cpu::threads::Disjoint;
use crate::device::Device;
use crate::device::cuda::{Cuda, attention as cuda};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::op::{Forward, Op, Saved, apply};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// The widest heads that a kernel takes on CUDA; wider ones are composed.
const MAX_WIDTH: usize = Kernel::MAX_WIDTH;

/// Partial sums of a bias's gradient at most: a bound on its memory, and on the threads that can share the work.
const PARTS: usize = 8;

/// Refinements of [`attention`].
#[derive(Default, Clone)]
pub struct AttentionOptions {
    /// Whether position i sees positions up to i only (aligned at the end when Tq ≠ Tk).
    pub causal: bool,
    /// Which keys are real, `[B, Tk]`: 1 or 0.
    pub mask: Option<Tensor>,
    /// Added to the scaled scores, broadcasting to `[B, H, Tq, Tk]`; may be trained.
    pub bias: Option<Tensor>,
    /// In place of 1/√D.
    pub scale: Option<f32>,
}

/// Inputs: Q, K, V or the packed three, then the mask and the bias where there are any.
struct Attention {
    packed: bool,
    causal: bool,
    masked: bool,
    biased: bool,
    scale: f32,
    /// D.
    width: usize,
}

/// Slots of what backward needs; the mask and the bias follow.
const O: usize = 3;
const LSE: usize = 4;
const MASK: usize = 5;
const BIAS: usize = 6;

/// Part `which` of a layout `[B, T, 3, H, D]` as `[B, H, T, D]`.
fn unpacked(layout: &Layout, which: usize) -> Layout {
    let pick = |of: &Dims| Dims::new(&[of[0], of[3], of[1], of[4]]).unwrap_or(Dims::SCALAR);
    Layout {
        shape: pick(&layout.shape),
        strides: pick(&layout.strides),
        offset: layout.offset + which * layout.strides[2],
    }
}

/// `[B, H, T, D]` in memory as `[B, T, H, D]`.
fn by_token(shape: &[usize]) -> Result<Layout> {
    let stored = Layout::contiguous(Dims::new(&[shape[0], shape[2], shape[1], shape[3]])?);
    Ok(swapped(&stored))
}

/// Axes 1 and 2 exchanged.
fn swapped(layout: &Layout) -> Layout {
    let mut out = *layout;
    out.shape.swap(1, 2);
    out.strides.swap(1, 2);
    out
}

fn heads(layout: &Layout) -> kernel::Heads {
    let s = &layout.strides;
    kernel::Heads {
        start: layout.offset,
        batch: s[0],
        head: s[1],
        token: s[2],
    }
}

/// Q, K and V in f32.
fn widened(qkv: [&Tensor; 3]) -> Result<[Tensor; 3]> {
    let [q, k, v] = qkv.map(|x| x.converted(DType::F32));
    Ok([q?, k?, v?])
}

/// The storage and where its heads lie.
fn operand(x: &Tensor) -> Result<(&[f32], kernel::Heads)> {
    Ok((x.storage_slice()?, heads(x.layout())))
}

impl Attention {
    /// Index of the first input after Q, K and V.
    fn extra(&self) -> usize {
        if self.packed { 1 } else { 3 }
    }

    fn mask<'a>(&self, inputs: &[&'a Tensor]) -> Option<&'a Tensor> {
        self.masked.then(|| inputs[self.extra()])
    }

    fn bias_index(&self) -> usize {
        self.extra() + usize::from(self.masked)
    }

    fn bias<'a>(&self, inputs: &[&'a Tensor]) -> Option<&'a Tensor> {
        self.biased.then(|| inputs[self.bias_index()])
    }

    fn call<'a>(
        &self,
        qkv: [&'a Tensor; 3],
        mask: Option<&'a Tensor>,
        bias: Option<&'a Tensor>,
    ) -> cuda::Call<'a> {
        cuda::Call {
            qkv,
            mask,
            bias,
            scale: self.scale,
            causal: self.causal,
        }
    }

    fn shape(&self, q: &Tensor, k: &Tensor) -> kernel::Shape {
        let s = q.shape();
        kernel::Shape {
            batch: s[0],
            heads: s[1],
            tq: s[2],
            tk: k.shape()[2],
            d: s[3],
            scale: self.scale,
            causal: self.causal,
        }
    }
}

/// The kernel's operands; the bias is given as it broadcasts to the scores.
fn operands<'a>(
    [q, k, v]: [&'a Tensor; 3],
    mask: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
) -> Result<kernel::Inputs<'a>> {
    let bias = match bias {
        None => None,
        Some(bias) => {
            let s = &bias.layout().strides;
            Some(kernel::Bias {
                values: bias.storage_slice()?,
                start: bias.layout().offset,
                strides: [s[0], s[1], s[2], s[3]],
            })
        }
    };
    Ok(kernel::Inputs {
        q: operand(q)?,
        k: operand(k)?,
        v: operand(v)?,
        mask: mask.map(Tensor::as_slice).transpose()?,
        bias,
    })
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn supports(&self, device: &Device) -> bool {
        device.is_cpu() || (device.as_cuda().is_some() && self.width <= MAX_WIDTH)
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let qkv: [Tensor; 3] = std::array::from_fn(|i| {
            if self.packed {
                inputs[0].with_layout(unpacked(inputs[0].layout(), i))
            } else {
                inputs[i].detach()
            }
        });
        let [q, k, v] = &qkv;
        let shape = self.shape(q, k);
        let scores = Dims::new(&[shape.batch, shape.heads, shape.tq, shape.tk])?;
        let mask = self.mask(inputs).map(Tensor::packed).transpose()?;
        let bias = self
            .bias(inputs)
            .map(|b| b.broadcast_view("attention", &scores))
            .transpose()?;
        let layout = by_token(q.shape())?;
        let mut o = Tensor::empty(&[layout.shape.count()], DType::F32, q.device())?;
        let mut lse = Tensor::empty(&scores[..3], DType::F32, q.device())?;
        if shape.d > 0 {
            if let Some(device) = q.device().as_cuda() {
                let call = self.call([q, k, v], mask.as_ref(), bias.as_ref());
                device.attention(&call, (&mut o, &layout), &mut lse)?;
            } else {
                let wide = widened([q, k, v])?;
                let inputs = operands(wide.each_ref(), mask.as_ref(), bias.as_ref())?;
                kernel::forward(
                    &shape,
                    &inputs,
                    (o.as_mut_slice()?, heads(&layout)),
                    lse.as_mut_slice()?,
                );
            }
        }
        let o = o.relayout(layout);
        if f.needs_any() {
            for (slot, x) in [q, k, v, &o, &lse].into_iter().enumerate() {
                f.save(slot, x);
            }
            for (slot, x) in [(MASK, &mask), (BIAS, &bias)] {
                if let Some(x) = x {
                    f.save(slot, x);
                }
            }
        }
        Ok(if self.packed {
            o.relayout(swapped(&layout))
        } else {
            o
        })
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let options = AttentionOptions {
            causal: self.causal,
            mask: self.mask(inputs).cloned(),
            bias: self.bias(inputs).cloned(),
            scale: Some(self.scale),
        };
        if !self.packed {
            let [q, k, v] = [inputs[0], inputs[1], inputs[2]].map(|x| x.cast(DType::F32));
            return composed(&q?, &k?, &v?, &options);
        }
        let packed = inputs[0].cast(DType::F32)?;
        let part = |i| packed.narrow(2, i, 1)?.squeeze(2)?.permute(&[0, 2, 1, 3]);
        composed(&part(0)?, &part(1)?, &part(2)?, &options)?.permute(&[0, 2, 1, 3])
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dy = if self.packed {
            dy.with_layout(swapped(dy.layout()))
        } else {
            dy
        };
        let device = dy.device().clone();
        let bias = self.bias_index();
        let mut dbias = if self.biased && grads.needs(bias) {
            let s = saved.get(BIAS)?.shape();
            let size = bias_size(grads.shape(bias));
            // Heads that share bias elements are dealt to so many partial sums, a number that depends on the sizes alone.
            let parts = (s[0] * s[1])
                .checked_div(size[0] * size[1])
                .map_or(1, |shared| shared.clamp(1, PARTS));
            Some(Tensor::zeros(
                &[parts, size[0], size[1], size[2], size[3]],
                DType::F32,
                &device,
            )?)
        } else {
            None
        };
        if self.packed && grads.needs(0) {
            grads.write(0, |out, beta| {
                let whole = Layout::contiguous(out.layout().shape);
                let layouts = std::array::from_fn(|i| unpacked(&whole, i));
                if let Some(cuda) = device.as_cuda() {
                    let memory = cuda.address_mut(self.name(), out)?;
                    let parts = layouts.map(|layout| Some((memory, layout)));
                    return self.launch(cuda, &saved, &dy, (parts, beta), dbias.as_mut());
                }
                let target = Disjoint::new(out.as_mut_slice()?);
                let parts = layouts.map(|layout| Some((&target, heads(&layout))));
                self.sweep(&saved, &dy, parts, beta != 0.0, dbias.as_mut())
            })?;
        } else {
            let mut outs = [const { None }; 3];
            for (i, out) in outs
                .iter_mut()
                .enumerate()
                .filter(|(i, _)| !self.packed && grads.needs(*i))
            {
                *out = Some((
                    Tensor::empty(&[saved.get(i)?.len()], DType::F32, &device)?,
                    by_token(grads.shape(i))?,
                ));
            }
            if let Some(cuda) = device.as_cuda() {
                let mut targets = [None; 3];
                for (target, out) in targets.iter_mut().zip(&mut outs) {
                    if let Some((out, layout)) = out {
                        *target = Some((cuda.address_mut(self.name(), out)?, *layout));
                    }
                }
                self.launch(cuda, &saved, &dy, (targets, 0.0), dbias.as_mut())?;
            } else {
                let mut targets = [const { None }; 3];
                for (target, out) in targets.iter_mut().zip(&mut outs) {
                    if let Some((out, layout)) = out {
                        *target = Some((Disjoint::new(out.as_mut_slice()?), heads(layout)));
                    }
                }
                let targets = targets
                    .each_ref()
                    .map(|t| t.as_ref().map(|(target, at)| (target, *at)));
                self.sweep(&saved, &dy, targets, false, dbias.as_mut())?;
            }
            for (i, out) in outs.into_iter().enumerate() {
                if let Some((out, layout)) = out {
                    grads.add(i, out.relayout(layout))?;
                }
            }
        }
        if let Some(sums) = dbias {
            let shape = grads.shape(bias).to_vec();
            grads.add(bias, sums.sum(0)?.reshape(&shape)?)?;
        }
        Ok(())
    }
}

/// A bias's shape with leading axes of size 1 up to four.
fn bias_size(shape: &[usize]) -> [usize; 4] {
    std::array::from_fn(|i| {
        (i + shape.len())
            .checked_sub(4)
            .map_or(1, |axis| shape[axis])
    })
}

impl Attention {
    /// Launches backward: gradients in their memory plus `beta` times what is there, and `dbias`.
    fn launch(
        &self,
        device: &Cuda,
        saved: &Saved,
        dy: &Tensor,
        (grads, beta): ([Option<(u64, Layout)>; 3], f32),
        dbias: Option<&mut Tensor>,
    ) -> Result<()> {
        if self.width == 0 {
            return Ok(());
        }
        let qkv = [saved.get(0)?, saved.get(1)?, saved.get(2)?];
        let call = self.call(qkv, saved.find(MASK)?, saved.find(BIAS)?);
        let backward = cuda::Backward {
            o: saved.get(O)?,
            lse: saved.get(LSE)?,
            dy,
            grads,
            beta,
            dbias,
        };
        device.attention_backward(&call, backward)
    }

    /// Runs the CPU's backward into `targets` and `dbias`.
    fn sweep(
        &self,
        saved: &Saved,
        dy: &Tensor,
        grads: [Option<(&Disjoint<f32>, kernel::Heads)>; 3],
        add: bool,
        dbias: Option<&mut Tensor>,
    ) -> Result<()> {
        let wide = widened([saved.get(0)?, saved.get(1)?, saved.get(2)?])?;
        let shape = self.shape(&wide[0], &wide[1]);
        if shape.d == 0 {
            return Ok(());
        }
        let sums = match dbias {
            None => None,
            Some(sums) => {
                let n = sums.layout().shape;
                Some((
                    Disjoint::new(sums.as_mut_slice()?),
                    n[0],
                    [n[1], n[2], n[3], n[4]],
                ))
            }
        };
        let call = kernel::Backward {
            inputs: operands(wide.each_ref(), saved.find(MASK)?, saved.find(BIAS)?)?,
            out: operand(saved.get(O)?)?,
            lse: saved.get(LSE)?.as_slice()?,
            dout: operand(dy)?,
            grads,
            add,
            dbias: sums
                .as_ref()
                .map(|(sums, parts, shape)| kernel::BiasGradient {
                    sums,
                    parts: *parts,
                    shape: *shape,
                }),
        };
        kernel::backward(&shape, &call);
        Ok(())
    }
}

/// The same by matrix products and a softmax: keeps the whole matrix.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
    let (batch, tq, tk, d) = (q.shape()[0], q.shape()[2], k.shape()[2], q.last_dim());
    let scale = options.scale.unwrap_or(1.0 / (d as f32).sqrt());
    let mut s = q.matmul_t(k, false, true)?.affine(scale as f64, 0.0)?;
    if let Some(bias) = &options.bias {
        s = s.add(bias)?;
    }
    if tk == 0 {
        return s.matmul(v);
    }
    // A large finite number in place of −∞: rows that see nothing are zeroed below.
    let mut seen = Tensor::full(&[1, 1, tq, tk], 1.0, DType::F32, q.device())?;
    if options.causal {
        let triangle: Vec<f32> = (0..tq * tk)
            .map(|i| (i % tk + tq <= i / tk + tk) as u8 as f32)
            .collect();
        seen = Tensor::from_slice(&triangle, &[1, 1, tq, tk], q.device())?;
    }
    if let Some(mask) = &options.mask {
        seen = seen.mul(&mask.detach().reshape(&[batch, 1, 1, tk])?)?;
    }
    let low = Tensor::full(&[1], -1e30, DType::F32, q.device())?;
    let any = seen.max_keep(&[3])?;
    seen.select(&s, &low)?.softmax()?.mul(&any)?.matmul(v)
}

fn run(
    packed: bool,
    inputs: &[&Tensor],
    size: [usize; 5],
    options: &AttentionOptions,
) -> Result<Tensor> {
    let [batch, heads, tq, tk, d] = size;
    let mut inputs = inputs.to_vec();
    let dtype = inputs[0].dtype();
    if !matches!(dtype, DType::F32 | DType::Bf16 | DType::F16) {
        return Err(Error::DType {
            op: "attention",
            operand: "queries",
            got: dtype,
            want: "f32, bf16 or f16",
        });
    }
    for x in &inputs {
        x.expect_dtype("attention", dtype)?;
    }
    let mask = options.mask.as_ref().map(Tensor::detach);
    if let Some(mask) = &mask {
        mask.expect_shape("attention", "mask", &[batch, tk])?;
        mask.expect_dtype("attention", DType::F32)?;
        inputs.push(mask);
    }
    if let Some(bias) = &options.bias {
        bias.expect_dtype("attention", DType::F32)?;
        bias.broadcast_view("attention: bias", &Dims::new(&[batch, heads, tq, tk])?)?;
        inputs.push(bias);
    }
    let op = Attention {
        packed,
        causal: options.causal,
        masked: mask.is_some(),
        biased: options.bias.is_some(),
        scale: options.scale.unwrap_or(1.0 / (d as f32).sqrt()),
        width: d,
    };
    apply(op, &inputs)
}

/// `softmax(scale·QKᵀ + bias)·V` per head, `[B, H, Tq, D]`; its memory is that of `[B, Tq, H, D]`.
///
/// # Errors
/// Shapes that do not fit, element types other than f32, bf16 and f16 or not alike.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
    let fits = q.rank() == 4
        && k.rank() == 4
        && k.shape() == v.shape()
        && q.shape()[..2] == k.shape()[..2]
        && q.shape()[3] == k.shape()[3];
    if !fits {
        let detail = format!(
            "q {:?}, k {:?}, v {:?}: wanted [B, H, Tq, D] and twice [B, H, Tk, D]",
            q.shape(),
            k.shape(),
            v.shape()
        );
        return Err(Error::shape("attention", detail));
    }
    let s = q.shape();
    run(
        false,
        &[q, k, v],
        [s[0], s[1], s[2], k.shape()[2], s[3]],
        options,
    )
}

/// Self-attention over `[B, T, 3, H, D]`, the reshaped output of one projection to queries, keys and values: `[B, T, H, D]`.
/// Nothing is copied, and the three gradients are written into one tensor of the input's form.
///
/// # Errors
/// As [`attention`].
pub fn attention_packed(qkv: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
    let &[b, t, 3, h, d] = qkv.shape() else {
        return Err(Error::shape(
            "attention",
            format!(
                "packed queries, keys and values are {:?}, wanted [B, T, 3, H, D]",
                qkv.shape()
            ),
        ));
    };
    run(true, &[qkv], [b, h, t, t, d], options)
}
