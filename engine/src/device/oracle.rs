//! The oracle: every element is an f64, every op a plain loop in index order. Slow, small and easy to believe:
//! what the other backends are tested against, and the proof that nothing above [`Backend`] knows its device.

use crate::device::{Backend, Content, Distribution, Gemm, Map, Reduce, Storage};
use crate::dtype::{DType, Element, from_bytes, with_dtype};
use crate::error::{Error, Result};
use crate::layout::{Layout, for_each_run};
use crate::ops::unary::Unary;
use crate::random::RandomKey;
use crate::tensor::Tensor;

/// The f64 device.
pub struct Oracle;

fn data(x: &Tensor) -> Result<&[f64]> {
    x.storage()
        .0
        .downcast_ref::<Vec<f64>>()
        .map(Vec::as_slice)
        .ok_or(Error::Unavailable {
            op: "oracle",
            device: x.device().to_string(),
        })
}

fn data_mut(x: &mut Tensor) -> Result<&mut [f64]> {
    let shared = || Error::Invalid("oracle: the output is shared".into());
    x.storage_unique()
        .ok_or_else(shared)?
        .0
        .downcast_mut::<Vec<f64>>()
        .map(Vec::as_mut_slice)
        .ok_or_else(shared)
}

/// All elements in row-major order.
fn values(x: &Tensor) -> Result<Vec<f64>> {
    let (source, layout) = (data(x)?, x.layout());
    let (n, step) = run(layout);
    let mut out = Vec::with_capacity(x.len());
    for_each_run([layout], |[at]| {
        out.extend((0..n).map(|i| source[at + i * step]))
    });
    Ok(out)
}

/// Length and stride of the runs along the last axis.
fn run(layout: &Layout) -> (usize, usize) {
    match layout.shape.len() {
        0 => (1, 1),
        r => (layout.shape[r - 1], layout.strides[r - 1]),
    }
}

/// Calls `f(slot, value)` for each element of `dst` with the values in row-major order.
fn visit(dst: &mut Tensor, values: &[f64], mut f: impl FnMut(&mut f64, f64)) -> Result<()> {
    let layout = *dst.layout();
    let (n, step) = run(&layout);
    let target = data_mut(dst)?;
    let mut next = values.iter();
    for_each_run([&layout], |[at]| {
        for (i, v) in (0..n).zip(&mut next) {
            f(&mut target[at + i * step], *v);
        }
    });
    Ok(())
}

impl Backend for Oracle {
    fn name(&self) -> &'static str {
        "oracle"
    }

    fn alloc(&self, len: usize, _: DType, content: Content) -> Result<Storage> {
        Ok(Storage(Box::new(vec![
            if content == Content::Zeros {
                0.0
            } else {
                f64::NAN
            };
            len
        ])))
    }

    fn write(&self, dst: &mut Tensor, dtype: DType, bytes: &[u8]) -> Result<()> {
        let host: Vec<f64> =
            with_dtype!(dtype, T => from_bytes::<T>(bytes).into_iter().map(T::to_f64).collect());
        visit(dst, &host, |slot, v| *slot = v)
    }

    fn read(&self, src: &Tensor, dtype: DType) -> Result<Vec<u8>> {
        let values = values(src)?;
        Ok(
            with_dtype!(dtype, T => bytemuck::cast_slice(&values.into_iter().map(T::from_f64).collect::<Vec<T>>()).to_vec()),
        )
    }

    fn copy(&self, src: &Tensor, dst: &mut Tensor) -> Result<()> {
        visit(dst, &values(src)?, |slot, v| *slot = v)
    }

    fn accumulate(&self, dst: &mut Tensor, src: &Tensor, alpha: f32) -> Result<()> {
        visit(dst, &values(src)?, |slot, v| *slot += alpha as f64 * v)
    }

    fn map(&self, map: Map, inputs: &[&Tensor], out: &mut Tensor) -> Result<()> {
        let x = inputs
            .iter()
            .map(|x| values(x))
            .collect::<Result<Vec<_>>>()?;
        let result: Vec<f64> = match map {
            Map::Unary(f) => x[0].iter().map(|x| f.eval(*x)).collect(),
            Map::Binary(f) => x[0]
                .iter()
                .zip(&x[1])
                .map(|(a, b)| f.eval(*a, *b))
                .collect(),
            Map::Where => (0..out.len())
                .map(|i| if x[0][i] != 0.0 { x[1][i] } else { x[2][i] })
                .collect(),
        };
        visit(out, &result, |slot, v| *slot = v)
    }

    fn unary_grad(&self, f: Unary, s: Option<&Tensor>, dy: &mut Tensor) -> Result<()> {
        let s = s.map(values).transpose()?;
        let at = |i: usize| s.as_ref().map_or(0.0, |s| s[i]);
        let factors: Vec<f64> = (0..dy.len()).map(|i| f.derivative(at(i))).collect();
        visit(dy, &factors, |slot, v| *slot *= v)
    }

    fn reduce(&self, reduce: Reduce, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let start = match reduce {
            Reduce::Sum => 0.0,
            Reduce::Max => f64::NEG_INFINITY,
            Reduce::Min => f64::INFINITY,
        };
        data_mut(out)?.fill(start);
        let view = out
            .layout()
            .broadcast(&x.layout().shape)
            .ok_or_else(|| Error::shape("reduce", "ranks differ"))?;
        let whole = *out.layout();
        let mut aliased =
            std::mem::replace(out, Tensor::empty(&[0], x.dtype(), x.device())?).relayout(view);
        visit(&mut aliased, &values(x)?, |slot, v| {
            *slot = match reduce {
                Reduce::Sum => *slot + v,
                Reduce::Max if v > *slot || v.is_nan() => v,
                Reduce::Min if v < *slot || v.is_nan() => v,
                _ => *slot,
            }
        })?;
        *out = aliased.relayout(whole);
        Ok(())
    }

    fn gemm(&self, gemm: Gemm, a: &Tensor, b: &Tensor, c: &mut Tensor) -> Result<()> {
        let matrix =
            |x: &Tensor, transposed: bool, batch: &[usize]| -> Result<(Vec<f64>, usize, usize)> {
                let r = x.rank();
                let (rows, cols) = (x.shape()[r - 2], x.shape()[r - 1]);
                let full = crate::layout::Dims::new(&[batch, &[rows, cols]].concat())?;
                let v = values(&x.broadcast_view("matmul", &full)?)?;
                if !transposed {
                    return Ok((v, rows, cols));
                }
                let t = v
                    .chunks((rows * cols).max(1))
                    .flat_map(|m| (0..rows * cols).map(|i| m[(i % rows) * cols + i / rows]))
                    .collect();
                Ok((t, cols, rows))
            };
        let batch = c.shape()[..c.rank() - 2].to_vec();
        let ((va, m, k), (vb, _, n)) = (
            matrix(a, gemm.trans_a, &batch)?,
            matrix(b, gemm.trans_b, &batch)?,
        );
        let mut product = vec![0.0; c.len()];
        for (i, p) in product.iter_mut().enumerate() {
            let (z, row, col) = (i / (m * n), i / n % m, i % n);
            *p = gemm.alpha as f64
                * (0..k)
                    .map(|l| va[(z * m + row) * k + l] * vb[(z * k + l) * n + col])
                    .sum::<f64>();
        }
        visit(c, &product, |slot, v| {
            *slot = if gemm.beta == 0.0 {
                v
            } else {
                gemm.beta as f64 * *slot + v
            }
        })
    }

    fn gather_rows(&self, table: &Tensor, index: &Tensor, out: &mut Tensor) -> Result<()> {
        let (t, d) = (values(table)?, table.last_dim());
        let rows: Vec<f64> = values(index)?
            .into_iter()
            .flat_map(|i| t[i as usize * d..][..d].to_vec())
            .collect();
        visit(out, &rows, |slot, v| *slot = v)
    }

    fn scatter_add_rows(&self, dst: &mut Tensor, index: &Tensor, src: &Tensor) -> Result<()> {
        let (s, d) = (values(src)?, dst.last_dim());
        let target = data_mut(dst)?;
        for (i, row) in values(index)?.into_iter().zip(s.chunks(d.max(1))) {
            for (slot, v) in target[i as usize * d..][..d].iter_mut().zip(row) {
                *slot += v;
            }
        }
        Ok(())
    }

    fn take(&self, x: &Tensor, index: &Tensor, out: &mut Tensor) -> Result<()> {
        let (v, c, k) = (values(x)?, x.last_dim(), index.last_dim());
        let picked: Vec<f64> = values(index)?
            .into_iter()
            .enumerate()
            .map(|(at, i)| v[at / k * c + i as usize])
            .collect();
        visit(out, &picked, |slot, v| *slot = v)
    }

    fn scatter_add(&self, dst: &mut Tensor, index: &Tensor, src: &Tensor) -> Result<()> {
        let (s, c, k) = (values(src)?, dst.last_dim(), index.last_dim());
        let target = data_mut(dst)?;
        for (at, (i, v)) in values(index)?.into_iter().zip(s).enumerate() {
            target[at / k * c + i as usize] += v;
        }
        Ok(())
    }

    fn top_k(&self, x: &Tensor, k: usize, out: &mut Tensor, indices: &mut Tensor) -> Result<()> {
        let (mut best, mut at) = (vec![], vec![]);
        for row in values(x)?.chunks(x.last_dim().max(1)) {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|i, j| descending(row[*i], row[*j]).then(i.cmp(j)));
            best.extend(order[..k].iter().map(|i| row[*i]));
            at.extend(order[..k].iter().map(|i| *i as f64));
        }
        visit(out, &best, |slot, v| *slot = v)?;
        visit(indices, &at, |slot, v| *slot = v)
    }

    fn kth_value(&self, x: &Tensor, k: usize, out: &mut Tensor) -> Result<()> {
        let kth: Vec<f64> = values(x)?
            .chunks_mut(x.last_dim().max(1))
            .map(|row| {
                row.sort_by(|a, b| descending(*b, *a));
                row[k]
            })
            .collect();
        visit(out, &kth, |slot, v| *slot = v)
    }

    fn random(
        &self,
        distribution: Distribution,
        key: RandomKey,
        first_row: u64,
        columns: std::ops::Range<u64>,
        out: &mut Tensor,
    ) -> Result<()> {
        // The same f32 numbers that every other device draws.
        let mut numbers = vec![0.0f32; out.len()];
        crate::random::fill(distribution, key, first_row, columns, &mut numbers)?;
        visit(
            out,
            &numbers.iter().map(|x| *x as f64).collect::<Vec<_>>(),
            |slot, v| *slot = v,
        )
    }
}

/// Larger first, NaN before every number, −0 equal to 0.
fn descending(a: f64, b: f64) -> std::cmp::Ordering {
    b.partial_cmp(&a)
        .unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}
