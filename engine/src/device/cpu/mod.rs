//! The CPU backend: primitives over [`crate::cpu`]'s kernels, on pooled memory.

use crate::cpu::{select, threads};
use crate::device::{Backend, Content, Distribution, Gemm, Map, Reduce, Storage};
use crate::dtype::{DType, Element, with_dtype};
use crate::error::{Error, Result};
use crate::ops::unary::Unary;
use crate::pool::PoolBuf;
use crate::random::RandomKey;
use crate::tensor::Tensor;

mod copy;
mod map;
pub(crate) mod product;
mod reduce;
pub(crate) mod walk;

use walk::GRAIN;

/// The CPU.
pub struct Cpu;

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn alloc(&self, len: usize, dtype: DType, content: Content) -> Result<Storage> {
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
        Ok(Storage(Box::new(if content == Content::Zeros {
            PoolBuf::zeros(bytes)
        } else {
            PoolBuf::empty(bytes)
        })))
    }

    fn write(&self, dst: &mut Tensor, dtype: DType, bytes: &[u8]) -> Result<()> {
        with_dtype!(dtype, S => with_dtype!(dst.dtype(), D => {
            let target = dst.as_mut_slice::<D>()?;
            if S::DTYPE == D::DTYPE {
                bytemuck::cast_slice_mut::<D, u8>(target).copy_from_slice(bytes);
                return Ok(());
            }
            for (d, s) in target.iter_mut().zip(bytes.chunks_exact(size_of::<S>())) {
                *d = D::from_f64(bytemuck::pod_read_unaligned::<S>(s).to_f64());
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
        copy::copy(src, dst)
    }

    fn accumulate(&self, dst: &mut Tensor, src: &Tensor, alpha: f32) -> Result<()> {
        copy::accumulate(dst, src, alpha)
    }

    fn map(&self, map: Map, inputs: &[&Tensor], out: &mut Tensor) -> Result<()> {
        map::map(map, inputs, out)
    }

    fn unary_grad(&self, f: Unary, s: Option<&Tensor>, dy: &mut Tensor) -> Result<()> {
        map::unary_grad(f, s, dy)
    }

    fn reduce(&self, reduce: Reduce, x: &Tensor, out: &mut Tensor) -> Result<()> {
        reduce::reduce(reduce, x, out)
    }

    fn gemm(&self, gemm: Gemm, a: &Tensor, b: &Tensor, c: &mut Tensor) -> Result<()> {
        product::batched(gemm, a, b, c)
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
