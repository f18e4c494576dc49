//! What ops keep for backward, and what they make again instead of keeping.
//!
//! GELU's backward reads its operand x, and the linear after it reads y = gelu(x). Both would stay until backward, though y is a
//! pass over x away. So an op that [says so](crate::op::Op::is_remade) gives its result a recipe, the op and its operands, which its
//! own backward keeps anyway. Whoever saves such a result saves the recipe; [`Saved::get`] follows it. The bits are the same, since
//! the same op runs on the same operands, and several ops that saved one result share what is made (checkpointing as in Chen et
//! al. 2016, where it costs next to nothing).

use std::cell::OnceCell;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::op::{Forward, Op, with_recording};
use crate::pool::Tag;
use crate::tensor::Tensor;

/// How to make a result again.
pub(crate) struct Recipe {
    op: Arc<dyn Op>,
    inputs: Vec<Tensor>,
    /// The result, once somebody needed it.
    made: Mutex<Option<Tensor>>,
}

impl Recipe {
    /// None where an operand has a recipe itself: results are made from what exists, not from a chain.
    pub fn new(op: &Arc<dyn Op>, inputs: &[&Tensor]) -> Option<Arc<Self>> {
        let chained = inputs.iter().any(|x| x.recipe().is_some());
        (!chained).then(|| {
            Arc::new(Recipe {
                op: op.clone(),
                inputs: inputs.iter().map(|x| x.detach()).collect(),
                made: Mutex::default(),
            })
        })
    }

    fn make(&self) -> Result<Tensor> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(y) = &*made {
            return Ok(y.clone());
        }
        let _span = crate::trace::span("remake");
        let inputs: Vec<&Tensor> = self.inputs.iter().collect();
        let mut nothing = Forward::new(&[false; 3][..inputs.len()], false);
        let y = with_recording(false, || self.op.forward(&mut nothing, &inputs))?;
        Ok(made.insert(y).clone())
    }
}

/// A saved tensor, or how to make it and which view of it was saved.
struct Kept {
    recipe: Option<(Arc<Recipe>, Layout)>,
    value: OnceCell<Tensor>,
}

/// What an op kept between forward and backward.
#[derive(Default)]
pub struct Saved(Vec<Option<Kept>>);

impl Saved {
    /// Keeps a tensor under `slot`.
    pub(crate) fn keep(&mut self, slot: usize, tensor: &Tensor) {
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, || None);
        }
        let recipe = tensor.recipe().map(|r| (r.clone(), *tensor.layout()));
        let value = OnceCell::new();
        if recipe.is_none() {
            tensor.retag(Tag::Saved);
            value.get_or_init(|| tensor.detach());
        }
        self.0[slot] = Some(Kept { recipe, value });
    }

    /// The tensor saved under `slot`.
    ///
    /// # Errors
    /// Nothing was saved there: a fault in the op.
    pub fn get(&self, slot: usize) -> Result<&Tensor> {
        let kept = self.0.get(slot).and_then(Option::as_ref);
        let kept = kept.ok_or_else(|| missing(slot))?;
        if let (None, Some((recipe, layout))) = (kept.value.get(), &kept.recipe) {
            let y = recipe.make()?.with_layout(*layout);
            return Ok(kept.value.get_or_init(|| y));
        }
        kept.value.get().ok_or_else(|| missing(slot))
    }

    /// The tensor saved under `slot`, if any.
    ///
    /// # Errors
    /// It has to be made again and the op refuses.
    pub fn find(&self, slot: usize) -> Result<Option<&Tensor>> {
        match self.0.get(slot) {
            Some(Some(_)) => self.get(slot).map(Some),
            _ => Ok(None),
        }
    }

    /// Hands the tensor over: it may be overwritten where nobody else holds its elements.
    ///
    /// # Errors
    /// As [`Saved::get`].
    pub fn take(&mut self, slot: usize) -> Result<Tensor> {
        self.get(slot)?;
        let kept = self.0[slot].take();
        kept.and_then(|kept| kept.value.into_inner())
            .ok_or_else(|| missing(slot))
    }
}

fn missing(slot: usize) -> Error {
    Error::Backward(format!(
        "nothing was saved in slot {slot}; save it in forward under the same condition"
    ))
}

#[cfg(test)]
mod tests {
    use crate::prelude::*;

    /// The gradients of a linear after GELU are those that GELU's result gives where it is kept.
    #[test]
    fn a_result_that_is_made_again_has_the_same_bits() {
        let values = |n: usize, k: f32| (0..n).map(|i| (i as f32 * k).sin()).collect::<Vec<_>>();
        let cpu = Device::cpu();
        let u = Tensor::from_slice(&values(24, 0.7), &[4, 6], &cpu).unwrap();
        let w = Tensor::from_slice(&values(30, 0.3), &[5, 6], &cpu).unwrap();
        let gradients = |remade: bool| {
            let (u, w) = (u.trained(), w.trained());
            let y = u.gelu().unwrap();
            assert!(y.recipe().is_some());
            // A product with 1 has the same values and no recipe.
            let y = if remade {
                y
            } else {
                y.mul(&Tensor::from([1.0])).unwrap()
            };
            let loss = linear(&y, &w, None).unwrap().square().unwrap();
            let grads = backward(&loss.sum_all().unwrap()).unwrap();
            [&u, &w].map(|x| grads.of(x).unwrap().to_vec::<f32>().unwrap())
        };
        assert_eq!(gradients(true), gradients(false));
    }

    #[test]
    fn recipes_do_not_chain_and_overwriting_drops_them() {
        let x = Tensor::from([1.0, -2.0]).trained();
        let mut y = x.relu().unwrap();
        assert!(y.recipe().is_some());
        assert!(y.relu().unwrap().recipe().is_none());
        y = y.detach();
        y.as_mut_slice::<f32>().unwrap()[0] = 3.0;
        assert!(y.recipe().is_none());
        assert!(no_grad(|| x.relu()).unwrap().recipe().is_none());
    }
}
