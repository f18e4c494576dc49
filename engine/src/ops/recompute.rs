//! Gradient checkpointing (Chen et al. 2016): a part of the forward pass keeps its inputs alone and runs again in backward.
//!
//! ```text
//! y = f(x)          backward: f(x) once more, on a tape of its own, then dx and every dθ that it reaches from dy
//! ```
//!
//! The bits are those without it, dropout included, since random numbers are addressed by the context and never by the
//! order of calls. Activations that [`crate::context::Context::tap`] keeps come from the first run.

use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::finite;
use crate::op::{Forward, Op, Saved, apply, no_grad, with_recording};
use crate::param::{Read, log_reads};
use crate::tape::{Grads, next_node, sweep};
use crate::tensor::Tensor;

struct Recompute<F> {
    f: F,
    /// Parameters that the first run read.
    reads: Mutex<Vec<Read>>,
}

impl<F: Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static> Op for Recompute<F> {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let leaf = |(i, x): (usize, &&Tensor)| if f.needs(i) { x.trained() } else { x.detach() };
        let own: Vec<Tensor> = inputs.iter().enumerate().map(leaf).collect();
        if !f.is_recorded() {
            return no_grad(|| finite::outside(|| (self.f)(&own)));
        }
        // Recorded once to learn whether anything in it is trained; the record goes at once.
        let (y, reads) = log_reads(|| with_recording(true, || finite::outside(|| (self.f)(&own))));
        let y = y?;
        if y.requires_grad() {
            inputs.iter().enumerate().for_each(|(i, x)| f.save(i, x));
            f.require();
            *self.reads.lock().unwrap_or_else(PoisonError::into_inner) = reads;
        }
        Ok(y.detach())
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.iter().try_for_each(Read::unchanged)?;
        let first = next_node();
        let mut own = vec![];
        for i in 0.. {
            if !grads.has(i) {
                break;
            }
            let x = saved.get(i)?;
            own.push(if grads.needs(i) {
                x.trained()
            } else {
                x.clone()
            });
        }
        let y = with_recording(true, || (self.f)(&own))?;
        if y.shape() != dy.shape() || !y.requires_grad() {
            return Err(Error::Backward(format!(
                "recompute: the second run gave {:?}, the first {:?}; the function must depend on its inputs, parameters and context alone",
                y.shape(),
                dy.shape()
            )));
        }
        let mut found = sweep(&y, dy, first)?;
        for (i, x) in own.iter().enumerate().filter(|(_, x)| x.requires_grad()) {
            if let Some(g) = found.take(x) {
                grads.add(i, g)?;
            }
        }
        found
            .into_iter()
            .try_for_each(|(id, g)| grads.add_leaf(id, g))
    }
}

/// `f(inputs)`, of which only `inputs` are kept until backward runs `f` again. Tensors of the tape must come in through
/// `inputs`; parameters may be read inside.
///
/// ```
/// use deltaw_engine::prelude::*;
///
/// let w = Param::new("w", Tensor::from([[2.0]]));
/// let x = Tensor::from([[3.0]]).trained();
/// let block = { let w = w.clone(); move |x: &[Tensor]| linear(&x[0], &w.tensor(), None)?.square() };
/// let grads = backward(&recompute(block, &[&x])?.sum_all()?)?;
/// assert_eq!(grads.of(&x).unwrap().item()?, 24.0);
/// assert_eq!(grads.get(w.id()).unwrap().item()?, 36.0);
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// Those of `f`; no inputs. In backward: a parameter that moved since, a tensor of the tape that is not among the inputs.
pub fn recompute<F>(f: F, inputs: &[&Tensor]) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
{
    let reads = Mutex::default();
    apply(Recompute { f, reads }, inputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::ops::dropout::dropout;
    use crate::ops::linear::linear;
    use crate::param::Param;
    use crate::tape::backward;

    fn layer(w: &Param, ctx: &Context, path: &str, x: &Tensor) -> Result<Tensor> {
        dropout(&linear(x, &w.tensor(), None)?.gelu()?, 0.5, ctx, path)
    }

    #[test]
    fn the_same_bits_with_dropout_and_nested() {
        let value =
            |k: f32| Tensor::from([[0.5 * k, -0.25, 1.0], [1.5, k, 0.125], [-1.0, 0.75, k]]);
        let (a, b) = (Param::new("a", value(1.0)), Param::new("b", value(-0.5)));
        let x = Tensor::from([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]]).trained();
        let ctx = Context::train(3, 7);
        let plain = {
            let h = layer(&a, &ctx, "0", &x).unwrap();
            layer(&b, &ctx, "1", &h).unwrap()
        };
        let (a2, b2, c2) = (a.clone(), b.clone(), ctx.clone());
        let twice = recompute(
            move |x| {
                let h = layer(&a2, &c2, "0", &x[0])?;
                let (b, c) = (b2.clone(), c2.clone());
                recompute(move |h| layer(&b, &c, "1", &h[0]), &[&h])
            },
            &[&x],
        )
        .unwrap();
        assert_eq!(
            plain.to_vec::<f32>().unwrap(),
            twice.to_vec::<f32>().unwrap()
        );
        let gradients = |y: &Tensor| {
            let grads = backward(&y.square().unwrap().sum_all().unwrap()).unwrap();
            [grads.of(&x), grads.get(a.id()), grads.get(b.id())]
                .map(|g| g.unwrap().to_vec::<f32>().unwrap())
        };
        assert_eq!(gradients(&plain), gradients(&twice));
    }

    #[test]
    fn misuse_is_said() {
        let w = Param::new("w", Tensor::from([[2.0]]));
        let x = Tensor::from([[3.0]]);
        let inner = w.clone();
        let y = recompute(move |x| x[0].mul(&inner.tensor()), &[&x]).unwrap();
        w.set(Tensor::from([[1.0]])).unwrap();
        let said = backward(&y).err().unwrap().to_string();
        assert!(said.starts_with("parameter `w`: was changed"), "{said}");

        let outside = w.tensor().square().unwrap();
        let captured = outside.clone();
        let y = recompute(move |x| x[0].mul(&captured), &[&x]).unwrap();
        let said = backward(&y).err().unwrap().to_string();
        assert!(said.contains("not among its inputs"), "{said}");
    }

    #[test]
    fn nothing_trained_records_nothing() {
        let x = Tensor::from([1.0]);
        assert!(!recompute(|x| x[0].square(), &[&x]).unwrap().requires_grad());
        let y = no_grad(|| recompute(|x| x[0].square(), &[&x.trained()]));
        assert!(!y.unwrap().requires_grad());
    }
}
