//! Rows and elements by index, and their adjoints. Indices are u32 and checked before anything is read.
//! Sums over equal indices run in the order of the indices, so results do not depend on threads.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Forward, Op, Saved, apply};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// An error unless all of `index` is below `n`; read in place on the CPU.
pub(crate) fn check(op: &'static str, index: &Tensor, n: usize, what: &str) -> Result<()> {
    index.expect_dtype(op, DType::U32)?;
    let wrong = |values: &[u32]| {
        values
            .iter()
            .position(|i| *i as usize >= n)
            .map(|at| (at, values[at]))
    };
    let found = if index.device().is_cpu() {
        wrong(index.packed()?.as_slice()?)
    } else {
        wrong(&index.to_vec()?)
    };
    match found {
        Some((at, i)) => Err(Error::shape(
            op,
            format!("index {i} at position {at}, but there are only {n} {what}"),
        )),
        None => Ok(()),
    }
}

/// `y[…, :] = table[index[…], :]`.
struct GatherRows;

impl Op for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let (table, index) = (inputs[0].packed()?, inputs[1].packed()?);
        if table.rank() != 2 {
            return Err(Error::shape(
                "gather_rows",
                format!("the table is {:?}, wanted a matrix", table.shape()),
            ));
        }
        check("gather_rows", &index, table.shape()[0], "rows")?;
        let shape = [index.shape(), &[table.last_dim()]].concat();
        let mut y = Tensor::empty(
            &shape,
            if table.dtype().is_float() {
                DType::F32
            } else {
                table.dtype()
            },
            table.device(),
        )?;
        table
            .device()
            .backend()
            .gather_rows(&table, &index, &mut y)?;
        if f.needs(0) {
            f.save(0, &index);
        }
        Ok(y)
    }

    fn backward(&self, saved: &Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (index, dy) = (saved.get(0)?, dy.packed()?);
        grads.write(0, |out, beta| {
            if beta == 0.0 {
                *out = Tensor::zeros(out.shape(), out.dtype(), dy.device())?;
            }
            dy.device().backend().scatter_add_rows(out, index, &dy)
        })
    }
}

/// `y = x` with `src[i, :]` added to row `index[i]`.
struct ScatterAddRows;

impl Op for ScatterAddRows {
    fn name(&self) -> &'static str {
        "scatter_add_rows"
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let [x, index, src] = [inputs[0], inputs[1], inputs[2]];
        if x.rank() != 2 {
            return Err(Error::shape(
                "scatter_add_rows",
                format!("the target is {:?}, wanted a matrix", x.shape()),
            ));
        }
        check("scatter_add_rows", index, x.shape()[0], "rows")?;
        src.expect_shape(
            "scatter_add_rows",
            "src",
            &[index.shape(), &[x.last_dim()]].concat(),
        )?;
        let mut y = x.deep_clone()?;
        x.device()
            .backend()
            .scatter_add_rows(&mut y, &index.packed()?, &src.packed()?)?;
        if f.needs(2) {
            f.save(0, index);
        }
        Ok(y)
    }

    fn backward(&self, saved: &Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        if grads.needs(2) {
            grads.add(2, dy.gather_rows(saved.get(0)?)?)?;
        }
        grads.add(0, dy)
    }
}

/// `y[r, k] = x[r, index[r, k]]` on the last axis.
struct Take;

impl Op for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, index) = (inputs[0].packed()?, inputs[1].packed()?);
        let lead = x.rank().saturating_sub(1);
        if index.rank() != x.rank() || x.rank() == 0 || index.shape()[..lead] != x.shape()[..lead] {
            return Err(Error::shape(
                "take",
                format!(
                    "index {:?} does not match {:?} but for the last axis",
                    index.shape(),
                    x.shape()
                ),
            ));
        }
        check("take", &index, x.last_dim(), "columns")?;
        let mut y = Tensor::empty(index.shape(), x.dtype(), x.device())?;
        x.device().backend().take(&x, &index, &mut y)?;
        if f.needs(0) {
            f.save(0, &index);
        }
        Ok(y)
    }

    fn backward(&self, saved: &Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (index, dy) = (saved.get(0)?, dy.packed()?);
        grads.write(0, |out, beta| {
            if beta == 0.0 {
                *out = Tensor::zeros(out.shape(), out.dtype(), dy.device())?;
            }
            dy.device().backend().scatter_add(out, index, &dy)
        })
    }
}

/// `y = x` with `src[r, k]` added at `index[r, k]` of the last axis.
struct ScatterAdd;

impl Op for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter_add"
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let [x, index, src] = [inputs[0], inputs[1], inputs[2]];
        let lead = x.rank().saturating_sub(1);
        if index.rank() != x.rank() || x.rank() == 0 || index.shape()[..lead] != x.shape()[..lead] {
            return Err(Error::shape(
                "scatter_add",
                format!(
                    "index {:?} does not match {:?} but for the last axis",
                    index.shape(),
                    x.shape()
                ),
            ));
        }
        src.expect_shape("scatter_add", "src", index.shape())?;
        check("scatter_add", index, x.last_dim(), "columns")?;
        let mut y = x.deep_clone()?;
        x.device()
            .backend()
            .scatter_add(&mut y, &index.packed()?, &src.packed()?)?;
        if f.needs(2) {
            f.save(0, index);
        }
        Ok(y)
    }

    fn backward(&self, saved: &Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        if grads.needs(2) {
            grads.add(2, dy.take(saved.get(0)?)?)?;
        }
        grads.add(0, dy)
    }
}

impl Tensor {
    /// Rows of a `[n, d]` table by `u32` indices of any shape: `[…] → […, d]`. Low-precision tables give f32.
    ///
    /// # Errors
    /// An index out of range.
    pub fn gather_rows(&self, index: &Tensor) -> Result<Tensor> {
        apply(GatherRows, &[self, index])
    }

    /// This matrix with the rows of `src` added at `index`.
    ///
    /// # Errors
    /// An index out of range, shapes that do not fit.
    pub fn scatter_add_rows(&self, index: &Tensor, src: &Tensor) -> Result<Tensor> {
        apply(ScatterAddRows, &[self, index, src])
    }

    /// `y[…, k] = x[…, index[…, k]]`.
    ///
    /// # Errors
    /// An index out of range, shapes that do not fit.
    pub fn take(&self, index: &Tensor) -> Result<Tensor> {
        apply(Take, &[self, index])
    }

    /// This with `src[…, k]` added at `[…, index[…, k]]`.
    ///
    /// # Errors
    /// An index out of range, shapes that do not fit.
    pub fn scatter_add(&self, index: &Tensor, src: &Tensor) -> Result<Tensor> {
        apply(ScatterAdd, &[self, index, src])
    }
}
