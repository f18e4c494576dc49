//! Rows and elements by index, and their adjoints. Indices are u32 and checked before anything is read.
//! Sums over equal indices run in the order of the indices, so results do not depend on threads.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Forward, Op, Saved, apply};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// An error unless all of `index` is below `n`, the number of `what`; read in place on the CPU, and elsewhere only where the
/// device does not know it.
pub(crate) fn check(op: &'static str, index: &Tensor, n: usize, what: &str) -> Result<()> {
    index.expect_dtype(op, DType::U32)?;
    let known = index.device().backend().index_bound(index);
    if known.is_some_and(|below| below <= n as u64) {
        return Ok(());
    }
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

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
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

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
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

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
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

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::tape::backward;

    fn index(values: &[u32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape, &Device::cpu()).unwrap()
    }

    #[test]
    fn rows_by_hand() {
        let table = Tensor::from([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).trained();
        let picked = table.gather_rows(&index(&[2, 0, 2], &[3])).unwrap();
        assert_eq!(
            picked.to_vec::<f32>().unwrap(),
            [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]
        );
        // A row picked twice collects twice.
        let weights = Tensor::from([[1.0, 0.0], [10.0, 0.0], [100.0, 1.0]]);
        let grads = backward(&picked.mul(&weights).unwrap().sum_all().unwrap()).unwrap();
        let dt = grads.of(&table).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(dt, [10.0, 0.0, 0.0, 0.0, 101.0, 1.0]);
        let sum = table.scatter_add_rows(
            &index(&[1, 1], &[2]),
            &Tensor::from([[0.5, 0.0], [0.25, 1.0]]),
        );
        assert_eq!(
            sum.unwrap().to_vec::<f32>().unwrap(),
            [1.0, 2.0, 3.75, 5.0, 5.0, 6.0]
        );
    }

    #[test]
    fn elements_by_hand() {
        let x = Tensor::from([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).trained();
        let at = index(&[2, 2, 0, 1], &[2, 2]);
        let taken = x.take(&at).unwrap();
        assert_eq!(taken.to_vec::<f32>().unwrap(), [3.0, 3.0, 4.0, 5.0]);
        let grads = backward(&taken.sum_all().unwrap()).unwrap();
        let dx = grads.of(&x).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(dx, [0.0, 0.0, 2.0, 1.0, 1.0, 0.0]);
        let sum = x
            .scatter_add(&at, &Tensor::from([[1.0, 1.0], [10.0, 20.0]]))
            .unwrap();
        assert_eq!(
            sum.to_vec::<f32>().unwrap(),
            [1.0, 2.0, 5.0, 14.0, 25.0, 6.0]
        );
    }

    #[test]
    fn indices_out_of_range_are_named() {
        let x = Tensor::from([[1.0, 2.0]]);
        let message = x
            .gather_rows(&index(&[0, 1], &[2]))
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "gather_rows: index 1 at position 1, but there are only 1 rows"
        );
        let message = x.take(&index(&[2], &[1, 1])).unwrap_err().to_string();
        assert_eq!(
            message,
            "take: index 2 at position 0, but there are only 2 columns"
        );
        let message = x.take(&index(&[0, 0], &[2, 1])).unwrap_err().to_string();
        assert_eq!(
            message,
            "take: index [2, 1] does not match [1, 2] but for the last axis"
        );
        let message = x.gather_rows(&Tensor::from([0.0])).unwrap_err().to_string();
        assert_eq!(message, "gather_rows: elements are f32, wanted u32");
    }
}
