//! Elementwise functions.

use super::copy;
use super::walk::{GRAIN, Walk};
use crate::cpu::{simd, threads};
use crate::device::Map;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::binary::Binary;
use crate::ops::unary::Unary;
use crate::tensor::Tensor;

/// f32 operands: themselves, or widened copies.
pub(super) fn widened(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F32 {
        Ok(x.detach())
    } else {
        x.converted(DType::F32)
    }
}

/// `out[i] = f(inputs[..][i])` for f32 operands of one shape; `out` is contiguous.
fn map_with<const K: usize>(
    inputs: [&Tensor; K],
    out: &mut Tensor,
    f: impl Fn([f32; K]) -> f32 + Sync + Copy,
) -> Result<()> {
    let mut layouts = [out.layout(); 4];
    for (l, x) in layouts[1..].iter_mut().zip(inputs) {
        *l = x.layout();
    }
    // The output is operand 0 of the walk, so that pieces of it are disjoint.
    let walk = Walk::<4>::new(std::array::from_fn(|k| {
        if k <= K { layouts[k] } else { layouts[0] }
    }));
    let mut sources = [&[] as &[f32]; K];
    for (s, x) in sources.iter_mut().zip(inputs) {
        *s = x.storage_slice()?;
    }
    let target = threads::Disjoint::new(out.storage_mut::<f32>()?);
    walk.each(|at, n, step| {
        // SAFETY: runs of a contiguous output do not overlap.
        let y = unsafe { target.slice(at[0]..at[0] + n) };
        simd::dispatch(
            #[inline(always)]
            || {
                // Loops, not `array::from_fn`: its parts are functions that need not be inlined.
                let mut v = [0.0; K];
                if step[1..=K].iter().all(|&s| s == 1) {
                    let mut x = sources;
                    for k in 0..K {
                        x[k] = &sources[k][at[k + 1]..at[k + 1] + n];
                    }
                    for (i, y) in y.iter_mut().enumerate() {
                        for k in 0..K {
                            v[k] = x[k][i];
                        }
                        *y = f(v);
                    }
                } else {
                    for (i, y) in y.iter_mut().enumerate() {
                        for k in 0..K {
                            v[k] = sources[k][at[k + 1] + i * step[k + 1]];
                        }
                        *y = f(v);
                    }
                }
            },
        );
    });
    Ok(())
}

/// `y[i] ← y[i]·f(s[i])`, or times f(0) without an s; `y` is contiguous.
fn scale_with(
    s: Option<&Tensor>,
    y: &mut Tensor,
    f: impl Fn(f32) -> f32 + Sync + Copy,
) -> Result<()> {
    let layout = *y.layout();
    let target = threads::Disjoint::new(y.storage_mut::<f32>()?);
    let Some(s) = s else {
        let factor = f(0.0);
        threads::par_chunks(layout.shape.count(), GRAIN, |range| {
            let (start, end) = (layout.offset + range.start, layout.offset + range.end);
            // SAFETY: the chunks do not overlap.
            let y = unsafe { target.slice(start..end) };
            simd::dispatch(
                #[inline(always)]
                || y.iter_mut().for_each(|y| *y *= factor),
            );
        });
        return Ok(());
    };
    let source = s.storage_slice::<f32>()?;
    Walk::new([&layout, s.layout()]).each(|at, n, step| {
        // SAFETY: runs of a contiguous tensor do not overlap.
        let y = unsafe { target.slice(at[0]..at[0] + n) };
        simd::dispatch(
            #[inline(always)]
            || {
                if step[1] == 1 {
                    for (y, s) in y.iter_mut().zip(&source[at[1]..at[1] + n]) {
                        *y *= f(*s);
                    }
                } else {
                    for (i, y) in y.iter_mut().enumerate() {
                        *y *= f(source[at[1] + i * step[1]]);
                    }
                }
            },
        );
    });
    Ok(())
}

/// Calls `$go!(function)` with the function as a constant expression: matched outside the loop, and known to the compiler
/// inside it (a captured one would be looked at once per element), so that each has a vector loop of its own.
macro_rules! each_unary {
    ($value:expr, $go:ident) => {
        match $value {
            Unary::Affine(a, b) => $go!(Unary::Affine(a, b)),
            Unary::Abs => $go!(Unary::Abs),
            Unary::Exp => $go!(Unary::Exp),
            Unary::Log => $go!(Unary::Log),
            Unary::Sin => $go!(Unary::Sin),
            Unary::Cos => $go!(Unary::Cos),
            Unary::Tanh => $go!(Unary::Tanh),
            Unary::Sigmoid => $go!(Unary::Sigmoid),
            Unary::LogSigmoid => $go!(Unary::LogSigmoid),
            Unary::Relu => $go!(Unary::Relu),
            Unary::Sqrt => $go!(Unary::Sqrt),
            Unary::Recip => $go!(Unary::Recip),
            Unary::Square => $go!(Unary::Square),
            Unary::Pow(p) => $go!(Unary::Pow(p)),
            Unary::Sign => $go!(Unary::Sign),
            Unary::Erf => $go!(Unary::Erf),
            Unary::Clamp(a, b) => $go!(Unary::Clamp(a, b)),
            Unary::Gelu => $go!(Unary::Gelu),
            Unary::GeluTanh => $go!(Unary::GeluTanh),
            Unary::Silu => $go!(Unary::Silu),
        }
    };
}

macro_rules! each_binary {
    ($value:expr, $go:ident) => {
        match $value {
            Binary::Add => $go!(Binary::Add),
            Binary::Sub => $go!(Binary::Sub),
            Binary::Mul => $go!(Binary::Mul),
            Binary::Div => $go!(Binary::Div),
            Binary::Maximum => $go!(Binary::Maximum),
            Binary::Minimum => $go!(Binary::Minimum),
            Binary::Eq => $go!(Binary::Eq),
            Binary::Lt => $go!(Binary::Lt),
            Binary::Le => $go!(Binary::Le),
        }
    };
}

fn map_f32(map: Map, inputs: &[&Tensor], out: &mut Tensor) -> Result<()> {
    match (map, inputs) {
        (Map::Unary(f), &[x]) => {
            macro_rules! go {
                ($f:expr) => {
                    map_with(
                        [x],
                        out,
                        #[inline(always)]
                        move |[x]| $f.eval(x),
                    )
                };
            }
            each_unary!(f, go)
        }
        (Map::Binary(f), &[a, b]) => {
            macro_rules! go {
                ($f:expr) => {
                    map_with(
                        [a, b],
                        out,
                        #[inline(always)]
                        |[a, b]| $f.eval(a, b),
                    )
                };
            }
            each_binary!(f, go)
        }
        (Map::Where, &[c, a, b]) => map_with(
            [c, a, b],
            out,
            #[inline(always)]
            |[c, a, b]| if c != 0.0 { a } else { b },
        ),
        _ => Err(Error::Invalid(format!(
            "{map:?} does not take {} operands",
            inputs.len()
        ))),
    }
}

/// `dy ← dy ⊙ f′`; other types than f32 by way of f32.
pub(super) fn unary_grad(f: Unary, s: Option<&Tensor>, dy: &mut Tensor) -> Result<()> {
    let s = s.map(widened).transpose()?;
    if dy.dtype() != DType::F32 {
        let mut wide = widened(dy)?;
        unary_grad(f, s.as_ref(), &mut wide)?;
        return copy::copy(&wide, dy);
    }
    macro_rules! go {
        ($f:expr) => {
            scale_with(
                s.as_ref(),
                dy,
                #[inline(always)]
                move |s| $f.derivative(s),
            )
        };
    }
    each_unary!(f, go)
}

/// An elementwise function; other types than f32 by way of f32.
pub(super) fn map(map: Map, inputs: &[&Tensor], out: &mut Tensor) -> Result<()> {
    if out.dtype() == DType::F32 && inputs.iter().all(|x| x.dtype() == DType::F32) {
        return map_f32(map, inputs, out);
    }
    let wide = inputs
        .iter()
        .map(|x| widened(x))
        .collect::<Result<Vec<_>>>()?;
    let mut result = Tensor::empty(out.shape(), DType::F32, out.device())?;
    map_f32(map, &wide.iter().collect::<Vec<_>>(), &mut result)?;
    copy::copy(&result, out)
}
