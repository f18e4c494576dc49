//! The CPU backend: primitives over [`crate::cpu`]'s kernels, on pooled memory.

use crate::cpu::{gemm as kernel, select, simd, threads};
use crate::device::{Backend, Distribution, Gemm, Map, Reduce, Storage};
use crate::dtype::{DType, Element, from_bytes, with_dtype};
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout, MAX_RANK, for_each_run};
use crate::ops::binary::Binary;
use crate::ops::unary::Unary;
use crate::pool::PoolBuf;
use crate::random::RandomKey;
use crate::tensor::Tensor;

/// Elements per piece of parallel elementwise work.
const GRAIN: usize = 1 << 14;

/// The CPU.
pub struct Cpu;

/// A walk over K operands of one shape with adjacent axes merged wherever every operand allows it.
pub(super) struct Walk<const K: usize> {
    shape: Dims,
    strides: [Dims; K],
    offsets: [usize; K],
}

impl<const K: usize> Walk<K> {
    pub(super) fn new(layouts: [&Layout; K]) -> Self {
        let full = &layouts[0].shape;
        let (mut shape, mut strides) = ([1usize; MAX_RANK], [[0usize; MAX_RANK]; K]);
        let mut rank = 0;
        for axis in 0..full.len() {
            if full[axis] == 1 {
                continue;
            }
            let merges = rank > 0
                && (0..K).all(|k| strides[k][rank - 1] == layouts[k].strides[axis] * full[axis]);
            if !merges {
                rank += 1;
            }
            shape[rank - 1] *= full[axis];
            for k in 0..K {
                strides[k][rank - 1] = layouts[k].strides[axis];
            }
        }
        let cut = |a: &[usize; MAX_RANK]| Dims::new(&a[..rank.max(1)]).unwrap_or(Dims::SCALAR);
        Walk {
            shape: cut(&shape),
            strides: std::array::from_fn(|k| cut(&strides[k])),
            offsets: layouts.map(|l| l.offset),
        }
    }

    /// Length of the runs along the last axis and each operand's stride in them.
    pub(super) fn run(&self) -> (usize, [usize; K]) {
        let last = self.shape.len() - 1;
        (
            self.shape[last],
            std::array::from_fn(|k| self.strides[k][last]),
        )
    }

    /// Where run `r` starts in each operand.
    pub(super) fn start(&self, mut r: usize) -> [usize; K] {
        let mut at = self.offsets;
        for axis in (0..self.shape.len() - 1).rev() {
            let i = r % self.shape[axis];
            r /= self.shape[axis];
            for (a, strides) in at.iter_mut().zip(&self.strides) {
                *a += i * strides[axis];
            }
        }
        at
    }

    /// Calls `body(starts, n, strides)` on pieces of runs, in parallel.
    fn each(&self, body: impl Fn([usize; K], usize, [usize; K]) + Sync) {
        let (n, steps) = self.run();
        if self.shape.count() == 0 {
            return;
        }
        let runs = self.shape.count() / n;
        if runs == 1 {
            threads::par_chunks(n, GRAIN, |range| {
                body(
                    std::array::from_fn(|k| self.offsets[k] + range.start * steps[k]),
                    range.len(),
                    steps,
                )
            });
        } else {
            threads::par_chunks(runs, (GRAIN / n).max(1), |range| {
                range.for_each(|r| body(self.start(r), n, steps))
            });
        }
    }
}

/// f32 operands: themselves, or widened copies.
fn widened(x: &Tensor) -> Result<Tensor> {
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
                if (0..K).all(|k| step[k + 1] == 1) {
                    let x: [&[f32]; K] =
                        std::array::from_fn(|k| &sources[k][at[k + 1]..at[k + 1] + n]);
                    for (i, y) in y.iter_mut().enumerate() {
                        *y = f(std::array::from_fn(|k| x[k][i]));
                    }
                } else {
                    for (i, y) in y.iter_mut().enumerate() {
                        *y = f(std::array::from_fn(|k| {
                            sources[k][at[k + 1] + i * step[k + 1]]
                        }));
                    }
                }
            },
        );
    });
    Ok(())
}

/// Matches outside the loop, so that each function has a loop of its own.
macro_rules! hoist {
    ($enum:ident, $value:expr, [$($unit:ident),*], [$($with:ident($($arg:ident),*)),*], $f:ident => $body:expr) => {
        match $value {
            $($enum::$unit => { const F: $enum = $enum::$unit; let $f = F; $body })*
            $($enum::$with($($arg),*) => { let $f = $enum::$with($($arg),*); $body })*
        }
    };
}

macro_rules! hoist_unary {
    ($value:expr, $f:ident => $body:expr) => {
        hoist!(Unary, $value, [Abs, Exp, Log, Sin, Cos, Tanh, Sigmoid, LogSigmoid, Relu, Sqrt, Recip, Square, Sign, Erf, Gelu, GeluTanh, Silu], [Affine(a, b), Pow(p), Clamp(a, b)], $f => $body)
    };
}

fn map_f32(map: Map, inputs: &[&Tensor], out: &mut Tensor) -> Result<()> {
    match (map, inputs) {
        (Map::Unary(f), [x]) => {
            hoist_unary!(f, f => map_with([x], out, #[inline(always)] |[x]| f.eval(x)))
        }
        (Map::UnaryGrad(f), [dy, s]) => {
            hoist_unary!(f, f => map_with([dy, s], out, #[inline(always)] |[dy, s]| dy * f.derivative(s)))
        }
        (Map::Binary(f), [a, b]) => {
            hoist!(Binary, f, [Add, Sub, Mul, Div, Maximum, Minimum, Eq, Lt, Le], [], f => map_with([a, b], out, #[inline(always)] |[a, b]| f.eval(a, b)))
        }
        (Map::Where, [c, a, b]) => map_with(
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

/// Visits all elements of two layouts of one shape in row-major order.
fn each_pair(a: &Layout, b: &Layout, mut f: impl FnMut(usize, usize)) {
    let walk = Walk::new([a, b]);
    let (n, step) = walk.run();
    let (sa, sb) = (
        Layout {
            shape: walk.shape,
            strides: walk.strides[0],
            offset: a.offset,
        },
        Layout {
            shape: walk.shape,
            strides: walk.strides[1],
            offset: b.offset,
        },
    );
    for_each_run([&sa, &sb], |[x, y]| {
        (0..n).for_each(|i| f(x + i * step[0], y + i * step[1]))
    });
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn alloc(&self, len: usize, dtype: DType, zeroed: bool) -> Result<Storage> {
        if dtype == DType::F64 {
            return Err(Error::DType {
                op: "cpu",
                operand: "tensor",
                got: dtype,
                want: "f32, bf16, f16, u8, u32 or i64 (f64 lives on the oracle device)",
            });
        }
        let bytes = len
            .checked_mul(dtype.size())
            .filter(|b| *b < isize::MAX as usize / 2);
        let bytes = bytes.ok_or_else(|| {
            Error::shape(
                "alloc",
                format!("{len} elements of {dtype} do not fit in memory"),
            )
        })?;
        Ok(Storage(Box::new(if zeroed {
            PoolBuf::zeros(bytes)
        } else {
            PoolBuf::empty(bytes)
        })))
    }

    fn write(&self, dst: &mut Tensor, dtype: DType, bytes: &[u8]) -> Result<()> {
        with_dtype!(dtype, S => with_dtype!(dst.dtype(), D => {
            let source = from_bytes::<S>(bytes);
            for (d, s) in dst.as_mut_slice::<D>()?.iter_mut().zip(source) {
                *d = D::from_f64(s.to_f64());
            }
        }));
        Ok(())
    }

    fn read(&self, src: &Tensor, dtype: DType) -> Result<Vec<u8>> {
        let src = src.packed()?;
        with_dtype!(src.dtype(), S => {
            let values = src.as_slice::<S>()?;
            if dtype == S::DTYPE {
                return Ok(bytemuck::cast_slice(values).to_vec());
            }
            Ok(with_dtype!(dtype, D => bytemuck::cast_slice(&values.iter().map(|x| D::from_f64(x.to_f64())).collect::<Vec<D>>()).to_vec()))
        })
    }

    fn copy(&self, src: &Tensor, dst: &mut Tensor) -> Result<()> {
        let (from, to) = (*src.layout(), *dst.layout());
        with_dtype!(src.dtype(), S => with_dtype!(dst.dtype(), D => {
            let source = src.storage_slice::<S>()?;
            let target = dst.storage_mut::<D>()?;
            if S::DTYPE == D::DTYPE && Walk::new([&from, &to]).run().1 == [1, 1] {
                let source: &[D] = bytemuck::cast_slice(source);
                let walk = Walk::new([&from, &to]);
                let target = threads::Disjoint::new(target);
                // SAFETY: `dst` repeats no element, so runs do not overlap.
                walk.each(|at, n, _| unsafe { target.slice(at[1]..at[1] + n) }.copy_from_slice(&source[at[0]..at[0] + n]));
            } else {
                each_pair(&from, &to, |i, j| target[j] = D::from_f64(source[i].to_f64()));
            }
        }));
        Ok(())
    }

    fn accumulate(&self, dst: &mut Tensor, src: &Tensor, alpha: f32) -> Result<()> {
        let (from, to) = (*src.layout(), *dst.layout());
        let source = src.storage_slice::<f32>()?;
        let target = dst.storage_mut::<f32>()?;
        if from.is_contiguous() && to.is_contiguous() {
            let (start, n) = (to.offset, to.shape.count());
            let source = &source[from.offset..from.offset + n];
            threads::par_rows(&mut target[start..start + n], 1, GRAIN, |first, part| {
                let x = &source[first..first + part.len()];
                simd::dispatch(
                    #[inline(always)]
                    || {
                        part.iter_mut()
                            .zip(x)
                            .for_each(|(y, x)| *y = alpha.mul_add(*x, *y))
                    },
                );
            });
        } else {
            each_pair(&from, &to, |i, j| {
                target[j] = alpha.mul_add(source[i], target[j])
            });
        }
        Ok(())
    }

    fn map(&self, map: Map, inputs: &[&Tensor], out: &mut Tensor) -> Result<()> {
        if out.dtype() == DType::F32 && inputs.iter().all(|x| x.dtype() == DType::F32) {
            return map_f32(map, inputs, out);
        }
        let wide = inputs
            .iter()
            .map(|x| widened(x))
            .collect::<Result<Vec<_>>>()?;
        let mut result = Tensor::empty(out.shape(), DType::F32, out.device())?;
        map_f32(map, &wide.iter().collect::<Vec<_>>(), &mut result)?;
        self.copy(&result, out)
    }

    fn reduce(&self, reduce: Reduce, x: &Tensor, out: &mut Tensor) -> Result<()> {
        if out.dtype() != DType::F32 {
            let mut result = Tensor::empty(out.shape(), DType::F32, out.device())?;
            self.reduce(reduce, &widened(x)?, &mut result)?;
            return self.copy(&result, out);
        }
        let x = x.packed()?;
        let (shape, source) = (x.layout().shape, x.as_slice::<f32>()?);
        let flags: Vec<bool> = (0..shape.len())
            .map(|a| out.shape()[a] != shape[a])
            .collect();
        let start = match reduce {
            Reduce::Sum => 0.0,
            Reduce::Max => f32::NEG_INFINITY,
            Reduce::Min => f32::INFINITY,
        };
        let join = |a: f32, b: f32| match reduce {
            Reduce::Sum => a + b,
            Reduce::Max => Binary::Maximum.eval(a, b),
            Reduce::Min => Binary::Minimum.eval(a, b),
        };
        // Trailing reduced axes are one contiguous run per output; leading ones add whole rows; anything else walks.
        let kept_last = flags.iter().rposition(|r| !r).map_or(0, |a| a + 1);
        let inner: usize = shape[kept_last..].iter().product();
        if flags[..kept_last].iter().all(|r| !r) {
            threads::par_rows(
                out.as_mut_slice::<f32>()?,
                1,
                (GRAIN / inner.max(1)).max(1),
                |first, part| {
                    for (i, y) in part.iter_mut().enumerate() {
                        let row = &source[(first + i) * inner..][..inner];
                        *y = simd::dispatch(
                            #[inline(always)]
                            || match reduce {
                                Reduce::Sum => simd::sum_of(row, |v| v),
                                _ => row.iter().fold(start, |a, b| join(a, *b)),
                            },
                        );
                    }
                },
            );
            return Ok(());
        }
        let lead = flags.iter().take_while(|r| **r).count();
        if reduce == Reduce::Sum && flags[lead..].iter().all(|r| !r) {
            kernel::sum_rows(source, 0.0, out.as_mut_slice()?);
            return Ok(());
        }
        let view = out
            .layout()
            .broadcast(&shape)
            .ok_or_else(|| Error::shape("reduce", "ranks differ"))?;
        let target = out.storage_mut::<f32>()?;
        target[view.offset..].fill(start);
        each_pair(x.layout(), &view, |i, j| {
            target[j] = join(target[j], source[i])
        });
        Ok(())
    }

    fn gemm(&self, gemm: Gemm, a: &Tensor, b: &Tensor, c: &mut Tensor) -> Result<()> {
        super::product::batched(gemm, a, b, c)
    }

    fn gather_rows(&self, table: &Tensor, index: &Tensor, out: &mut Tensor) -> Result<()> {
        let (d, index) = (table.last_dim(), index.as_slice::<u32>()?);
        with_dtype!(table.dtype(), S => with_dtype!(out.dtype(), T => {
            let source = table.as_slice::<S>()?;
            threads::par_rows(out.as_mut_slice::<T>()?, d, (GRAIN / d.max(1)).max(1), |first, part| {
                for (i, row) in part.chunks_mut(d).enumerate() {
                    let from = &source[index[first + i] as usize * d..][..d];
                    if S::DTYPE == T::DTYPE {
                        row.copy_from_slice(bytemuck::cast_slice(from));
                    } else {
                        row.iter_mut().zip(from).for_each(|(y, x)| *y = T::from_f64(x.to_f64()));
                    }
                }
            });
        }));
        Ok(())
    }

    fn scatter_add_rows(&self, dst: &mut Tensor, index: &Tensor, src: &Tensor) -> Result<()> {
        let (d, index) = (dst.last_dim(), index.as_slice::<u32>()?);
        let source = src.as_slice::<f32>()?;
        let target = dst.as_mut_slice::<f32>()?;
        for (i, row) in index.iter().zip(source.chunks(d.max(1))) {
            for (y, x) in target[*i as usize * d..][..d].iter_mut().zip(row) {
                *y += x;
            }
        }
        Ok(())
    }

    fn take(&self, x: &Tensor, index: &Tensor, out: &mut Tensor) -> Result<()> {
        let (c, k, index) = (x.last_dim(), index.last_dim(), index.as_slice::<u32>()?);
        with_dtype!(x.dtype(), T => {
            let source = x.as_slice::<T>()?;
            for (at, y) in out.as_mut_slice::<T>()?.iter_mut().enumerate() {
                *y = source[at / k * c + index[at] as usize];
            }
        });
        Ok(())
    }

    fn scatter_add(&self, dst: &mut Tensor, index: &Tensor, src: &Tensor) -> Result<()> {
        let (c, k, index) = (dst.last_dim(), index.last_dim(), index.as_slice::<u32>()?);
        let source = src.as_slice::<f32>()?;
        let target = dst.as_mut_slice::<f32>()?;
        for (at, x) in source.iter().enumerate() {
            target[at / k * c + index[at] as usize] += x;
        }
        Ok(())
    }

    fn top_k(&self, x: &Tensor, k: usize, values: &mut Tensor, indices: &mut Tensor) -> Result<()> {
        let n = x.last_dim();
        let (v, i) = (
            values.as_mut_slice::<f32>()?,
            indices.as_mut_slice::<u32>()?,
        );
        for (r, row) in x.as_slice::<f32>()?.chunks(n.max(1)).enumerate() {
            select::top_k(row, &mut v[r * k..(r + 1) * k], &mut i[r * k..(r + 1) * k]);
        }
        Ok(())
    }

    fn kth_value(&self, x: &Tensor, k: usize, out: &mut Tensor) -> Result<()> {
        let n = x.last_dim();
        for (row, y) in x
            .as_slice::<f32>()?
            .chunks(n.max(1))
            .zip(out.as_mut_slice::<f32>()?)
        {
            *y = select::kth_value(row, k);
        }
        Ok(())
    }

    fn random(
        &self,
        distribution: Distribution,
        key: RandomKey,
        first_row: u64,
        columns: std::ops::Range<u64>,
        out: &mut Tensor,
    ) -> Result<()> {
        crate::random::fill(
            distribution,
            key,
            first_row,
            columns,
            out.as_mut_slice::<f32>()?,
        )
    }
}
