//! Elementwise functions, copies and sums of views.

use deltaw_kernels::map::{self as kernel, Element, Function, MAX_RANK, Operand};
use deltaw_kernels::transpose::Transpose;

use super::{Cuda, failed};
use crate::device::Map;
use crate::device::cpu::walk::{Walk, is_injective};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::binary::Binary;
use crate::ops::unary::{Saves, Unary};
use crate::tensor::Tensor;

/// The kernels' name of a tensor's element type.
pub(crate) fn element(op: &'static str, x: &Tensor) -> Result<Element> {
    Ok(match x.dtype() {
        DType::F32 => Element::F32,
        DType::Bf16 => Element::Bf16,
        DType::F16 => Element::F16,
        DType::U8 => Element::U8,
        DType::U32 => Element::U32,
        DType::I64 => Element::I64,
        DType::F64 => {
            return Err(Error::DType {
                op,
                operand: "tensor",
                got: DType::F64,
                want: "a type that CUDA tensors have",
            });
        }
    })
}

/// The kernel's function and its constants.
fn unary(f: Unary) -> (kernel::Unary, [f32; 2]) {
    let plain = |f| (f, [0.0; 2]);
    match f {
        Unary::Affine(a, b) => (kernel::Unary::Affine, [a as f32, b as f32]),
        Unary::Abs => plain(kernel::Unary::Abs),
        Unary::Exp => plain(kernel::Unary::Exp),
        Unary::Log => plain(kernel::Unary::Log),
        Unary::Sin => plain(kernel::Unary::Sin),
        Unary::Cos => plain(kernel::Unary::Cos),
        Unary::Tanh => plain(kernel::Unary::Tanh),
        Unary::Sigmoid => plain(kernel::Unary::Sigmoid),
        Unary::LogSigmoid => plain(kernel::Unary::LogSigmoid),
        Unary::Relu => plain(kernel::Unary::Relu),
        Unary::Sqrt => plain(kernel::Unary::Sqrt),
        Unary::Recip => plain(kernel::Unary::Recip),
        Unary::Square => plain(kernel::Unary::Square),
        Unary::Pow(p) => (kernel::Unary::Pow, [p as f32, (p - 1.0) as f32]),
        Unary::Sign => plain(kernel::Unary::Sign),
        Unary::Erf => plain(kernel::Unary::Erf),
        Unary::Clamp(lo, hi) => (kernel::Unary::Clamp, [lo as f32, hi as f32]),
        Unary::Gelu => plain(kernel::Unary::Gelu),
        Unary::GeluTanh => plain(kernel::Unary::GeluTanh),
        Unary::Silu => plain(kernel::Unary::Silu),
    }
}

fn binary(f: Binary) -> kernel::Binary {
    match f {
        Binary::Add => kernel::Binary::Add,
        Binary::Sub => kernel::Binary::Sub,
        Binary::Mul => kernel::Binary::Mul,
        Binary::Div => kernel::Binary::Div,
        Binary::Maximum => kernel::Binary::Maximum,
        Binary::Minimum => kernel::Binary::Minimum,
        Binary::Eq => kernel::Binary::Eq,
        Binary::Lt => kernel::Binary::Lt,
        Binary::Le => kernel::Binary::Le,
    }
}

/// An operand: its tensor, which may be the output itself (None).
type Source<'a> = Option<&'a Tensor>;

/// Launches a function of operands of one shape, adjacent axes merged; a copy that moves the contiguous axis goes by tiles
/// ([`Transpose::of`] has the rule).
fn launch<const K: usize>(
    cuda: &Cuda,
    op: &'static str,
    (function, constants): (Function, [f32; 2]),
    inputs: [Source<'_>; K],
    out: &mut Tensor,
) -> Result<()> {
    let target = cuda.address_mut(op, out)? - (out.layout().offset * out.dtype().size()) as u64;
    let out = &*out;
    let tensor = |k: usize| match k.checked_sub(1).and_then(|k| inputs.get(k).copied()) {
        Some(Some(x)) => x,
        _ => out,
    };
    let walk = Walk::<4>::new(std::array::from_fn(|k| tensor(k).layout()));
    let operand = |k: usize| -> Result<Operand> {
        let x = tensor(k);
        let mut strides = [0; MAX_RANK];
        strides[..walk.shape.len()].copy_from_slice(&walk.strides[k]);
        let base = if std::ptr::eq(x, out) {
            target
        } else {
            cuda.block(op, x)?.address()
        };
        Ok(Operand {
            pointer: base + (walk.offsets[k] * x.dtype().size()) as u64,
            element: element(op, x)?,
            strides,
        })
    };
    let map = kernel::Map {
        function,
        constants,
        shape: walk.shape.to_vec(),
        out: operand(0)?,
        inputs: (1..=K).map(operand).collect::<Result<_>>()?,
    };
    // SAFETY: layouts lie within their tensors; `out` is unshared, and shows no element twice, as the callers see to.
    let launched = unsafe {
        match Transpose::of(&map) {
            Some(transpose) => transpose.launch(&cuda.kernels, &cuda.stream),
            None => map.launch(&cuda.kernels, &cuda.stream),
        }
    };
    launched.map_err(|e| failed(op, &inputs.map(|x| x.unwrap_or(out)), e))
}

/// f32 operands: themselves, or widened copies.
fn widened(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F32 {
        Ok(x.detach())
    } else {
        x.converted(DType::F32)
    }
}

/// [`crate::device::Backend::map`]; other types than f32 by way of f32.
pub(super) fn map(cuda: &Cuda, map: Map, inputs: &[&Tensor], out: &mut Tensor) -> Result<()> {
    if out.dtype() != DType::F32 {
        let mut result = Tensor::empty(out.shape(), DType::F32, out.device())?;
        self::map(cuda, map, inputs, &mut result)?;
        return copy(cuda, &result, out);
    }
    let wide = inputs
        .iter()
        .map(|x| widened(x))
        .collect::<Result<Vec<_>>>()?;
    match (map, wide.as_slice()) {
        (Map::Unary(f), [x]) => {
            let (function, constants) = unary(f);
            let function = (Function::Unary(function), constants);
            launch(cuda, f.name(), function, [Some(x)], out)
        }
        (Map::Binary(f), [a, b]) => {
            let function = (Function::Binary(binary(f)), [0.0; 2]);
            launch(cuda, f.name(), function, [Some(a), Some(b)], out)
        }
        (Map::Where, [c, a, b]) => {
            let function = (Function::Where, [0.0; 2]);
            launch(cuda, "where", function, [Some(c), Some(a), Some(b)], out)
        }
        _ => Err(Error::Invalid(format!(
            "{map:?} does not take {} operands",
            inputs.len()
        ))),
    }
}

/// [`crate::device::Backend::unary_grad`]; other types than f32 by way of f32.
pub(super) fn unary_grad(cuda: &Cuda, f: Unary, s: Option<&Tensor>, dy: &mut Tensor) -> Result<()> {
    if dy.dtype() != DType::F32 {
        let mut wide = widened(dy)?;
        unary_grad(cuda, f, s, &mut wide)?;
        return copy(cuda, &wide, dy);
    }
    let s = s.map(widened).transpose()?;
    let (function, constants) = unary(f);
    let function = (Function::Slope(function), constants);
    match s {
        Some(s) if f.saves() != Saves::Nothing => {
            launch(cuda, f.name(), function, [None, Some(&s)], dy)
        }
        _ => launch(cuda, f.name(), function, [None], dy),
    }
}

/// [`crate::device::Backend::copy`].
pub(super) fn copy(cuda: &Cuda, src: &Tensor, dst: &mut Tensor) -> Result<()> {
    launch(cuda, "copy", (Function::Copy, [0.0; 2]), [Some(src)], dst)
}

/// [`crate::device::Backend::accumulate`]. A view that shows elements more than once is summed slice by slice along the axes
/// that bring them back, in the order of those slices.
pub(super) fn accumulate(cuda: &Cuda, dst: &mut Tensor, src: &Tensor, alpha: f32) -> Result<()> {
    let layout = *dst.layout();
    let repeats = |axis: &usize| {
        let mut alone = layout;
        alone.shape[*axis] = 1;
        !is_injective(&layout) && (is_injective(&alone) || layout.strides[*axis] == 0)
    };
    let axes = 0..layout.shape.len();
    // One axis whose slices repeat nothing, or the shortest that is left.
    let axis = axes.clone().filter(|a| layout.shape[*a] > 1).find(repeats);
    let shortest = || {
        axes.filter(|a| layout.shape[*a] > 1)
            .min_by_key(|a| layout.shape[*a])
    };
    if is_injective(&layout) {
        let function = (Function::MultiplyAdd, [alpha, 0.0]);
        return launch(cuda, "accumulate", function, [Some(src), None], dst);
    }
    let Some(axis) = axis.or_else(shortest) else {
        return Ok(());
    };
    for i in 0..layout.shape[axis] {
        let slice = |of: crate::layout::Layout| of.narrow(axis, i, 1);
        let placeholder = Tensor::empty(&[0], dst.dtype(), dst.device())?;
        let mut part = std::mem::replace(dst, placeholder).relayout(slice(layout));
        accumulate(
            cuda,
            &mut part,
            &src.with_layout(slice(*src.layout())),
            alpha,
        )?;
        *dst = part.relayout(layout);
    }
    Ok(())
}
