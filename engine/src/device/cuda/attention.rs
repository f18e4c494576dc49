//! Attention as its op asks for it: operands in any strides, heads read and written where they lie.

use deltaw_kernels::attention::{self as kernel, BiasGradient, Heads};
use deltaw_kernels::gemm::Type;

use super::{Cuda, failed};
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::Layout;
use crate::tensor::Tensor;

const OP: &str = "attention";

/// The operands: Q, K and V `[B, H, T, D]`, the mask `[B, Tk]`, and the bias as it broadcasts to the scores.
pub(crate) struct Call<'a> {
    pub qkv: [&'a Tensor; 3],
    pub mask: Option<&'a Tensor>,
    pub bias: Option<&'a Tensor>,
    pub scale: f32,
    pub causal: bool,
}

/// What backward takes beside them.
pub(crate) struct Backward<'a> {
    pub o: &'a Tensor,
    pub lse: &'a Tensor,
    pub dy: &'a Tensor,
    /// Address of the memory of each gradient, and where its heads lie in it.
    pub grads: [Option<(u64, Layout)>; 3],
    /// Factor of what the gradients hold.
    pub beta: f32,
    /// `[parts, B′, H′, Tq′, Tk′]`.
    pub dbias: Option<&'a mut Tensor>,
}

fn heads(address: u64, layout: &Layout) -> Heads {
    let s = &layout.strides;
    Heads {
        pointer: address,
        batch: s[0],
        head: s[1],
        token: s[2],
    }
}

/// Where a layout of that memory lies.
fn within((memory, layout): (u64, &Layout)) -> Heads {
    heads(memory + (layout.offset * DType::F32.size()) as u64, layout)
}

impl Call<'_> {
    fn kernel(&self, cuda: &Cuda) -> Result<kernel::Attention> {
        let [q, k, v] = self.qkv;
        let s = q.shape();
        let of = |x: &Tensor| Ok(heads(cuda.address(OP, x)?, x.layout()));
        let bias = |x: &Tensor| {
            let s = &x.layout().strides;
            let strides = [s[0], s[1], s[2], s[3]];
            Ok(kernel::Bias {
                pointer: cuda.address(OP, x)?,
                strides,
            })
        };
        Ok(kernel::Attention {
            operands: match q.dtype() {
                DType::Bf16 => Type::Bf16,
                DType::F16 => Type::F16,
                _ => cuda.f32_products(),
            },
            batch: s[0],
            heads: s[1],
            tq: s[2],
            tk: k.shape()[2],
            d: s[3],
            scale: self.scale,
            causal: self.causal,
            q: of(q)?,
            k: of(k)?,
            v: of(v)?,
            mask: self.mask.map(|x| cuda.address(OP, x)).transpose()?,
            bias: self.bias.map(bias).transpose()?,
        })
    }
}

impl Cuda {
    /// O into `o`, whose heads lie as `layout` says, and the log-sum-exp of the rows.
    pub(crate) fn attention(
        &self,
        call: &Call,
        (o, layout): (&mut Tensor, &Layout),
        lse: &mut Tensor,
    ) -> Result<()> {
        let attention = call.kernel(self)?;
        let o = within((self.address_mut(OP, o)?, layout));
        let lse = self.address_mut(OP, lse)?;
        // SAFETY: layouts lie within tensors of this device, and both results are unshared.
        let launched = unsafe { attention.forward(o, lse, &self.kernels, &self.stream) };
        launched.map_err(|e| failed(OP, &call.qkv, e))
    }

    /// Its gradients. The caller holds the memory that they go to, for itself alone.
    pub(crate) fn attention_backward(&self, call: &Call, backward: Backward) -> Result<()> {
        let attention = call.kernel(self)?;
        let dy = backward.dy.converted(call.qkv[0].dtype())?;
        let of = |x: &Tensor| Ok(heads(self.address(OP, x)?, x.layout()));
        let mut delta = Tensor::empty(backward.lse.shape(), DType::F32, backward.lse.device())?;
        let [dq, dk, dv] = backward.grads.each_ref().map(|grad| {
            grad.as_ref()
                .map(|(memory, layout)| within((*memory, layout)))
        });
        let dbias = |sums: &mut Tensor| {
            let n = sums.layout().shape;
            Ok(BiasGradient {
                pointer: self.address_mut(OP, sums)?,
                parts: n[0],
                shape: [n[1], n[2], n[3], n[4]],
            })
        };
        let gradient = kernel::Gradient {
            o: of(backward.o)?,
            dy: of(&dy)?,
            lse: self.address(OP, backward.lse)?,
            delta: self.address_mut(OP, &mut delta)?,
            dq,
            dk,
            dv,
            beta: backward.beta,
            dbias: backward.dbias.map(dbias).transpose()?,
        };
        // SAFETY: layouts lie within tensors of this device; the gradients are the caller's promise.
        let launched = unsafe { attention.backward(&gradient, &self.kernels, &self.stream) };
        launched.map_err(|e| failed(OP, &call.qkv, e))
    }
}
