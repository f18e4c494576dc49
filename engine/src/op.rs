//! What an op is, and how one is applied and recorded.
//!
//! An op says how to compute its value on the devices it has kernels for ([`Op::forward`]), what it is made of elsewhere
//! ([`Op::composed`], also its f64 oracle), and its vector–Jacobian product ([`Op::backward`]). Any crate can add one:
//!
//! ```
//! use deltaw_engine::prelude::*;
//!
//! /// y = x³.
//! struct Cube;
//!
//! impl Op for Cube {
//!     fn name(&self) -> &'static str { "cube" }
//!     fn forward(&self, f: &mut Forward, x: &[&Tensor]) -> Result<Tensor> {
//!         if f.needs(0) {
//!             f.save(0, x[0]);
//!         }
//!         x[0].mul(x[0])?.mul(x[0])
//!     }
//!     fn backward(&self, saved: &Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
//!         let x = saved.get(0)?;
//!         grads.add(0, dy.mul(x)?.mul(x)?.affine(3.0, 0.0)?)
//!     }
//! }
//!
//! let x = Tensor::from([1.0, 2.0]).trained();
//! let y = apply(Cube, &[&x])?.sum_all()?;
//! assert_eq!(backward(&y)?.of(&x).unwrap().to_vec::<f32>()?, [3.0, 12.0]);
//! # Ok::<(), Error>(())
//! ```

use std::cell::Cell;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::finite;
use crate::pool::Tag;
use crate::tape::{Grads, Node};
use crate::tensor::Tensor;

/// A differentiable function of tensors.
pub trait Op: Send + Sync + 'static {
    /// The name in errors, traces and tests.
    fn name(&self) -> &'static str;

    /// Whether [`Op::forward`] runs on `device`; elsewhere [`Op::composed`] does.
    fn supports(&self, device: &Device) -> bool {
        let _ = device;
        true
    }

    /// The value. Saves what backward needs, and only for inputs that [`Forward::needs`] a gradient.
    /// Nothing is recorded inside.
    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor>;

    /// The value by other ops, recorded by them.
    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Err(Error::Unavailable {
            op: self.name(),
            device: inputs
                .first()
                .map_or_else(String::new, |x| x.device().to_string()),
        })
    }

    /// Adds `dyᵀ · ∂y/∂inputs[i]` to `grads` for every `i` it [`Grads::needs`]. `dy` may be overwritten when unique.
    fn backward(&self, saved: &Saved, dy: Tensor, grads: &mut Grads) -> Result<()>;
}

/// What [`Op::forward`] is told and what it keeps.
pub struct Forward<'a> {
    needs: &'a [bool],
    recorded: bool,
    required: bool,
    saved: Saved,
}

impl Forward<'_> {
    /// Whether a gradient of input `i` is wanted.
    pub fn needs(&self, i: usize) -> bool {
        self.needs[i]
    }

    /// Whether any gradient is wanted.
    pub fn needs_any(&self) -> bool {
        self.needs.contains(&true)
    }

    /// Whether the application is recorded if anything below it is trained.
    pub fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// Records the application even if no input wants a gradient: the op reaches trained leaves of its own, whose
    /// gradients its backward gives to [`Grads::add_leaf`].
    pub fn require(&mut self) {
        self.required = true;
    }

    /// Keeps a tensor for backward under `slot`.
    pub fn save(&mut self, slot: usize, tensor: &Tensor) {
        if self.saved.0.len() <= slot {
            self.saved.0.resize(slot + 1, None);
        }
        let tensor = tensor.detach();
        tensor.retag(Tag::Saved);
        self.saved.0[slot] = Some(tensor);
    }
}

/// What an op kept between forward and backward.
#[derive(Default)]
pub struct Saved(Vec<Option<Tensor>>);

impl Saved {
    /// The tensor saved under `slot`.
    ///
    /// # Errors
    /// Nothing was saved there: a fault in the op.
    pub fn get(&self, slot: usize) -> Result<&Tensor> {
        self.find(slot).ok_or_else(|| {
            Error::Backward(format!(
                "nothing was saved in slot {slot}; save it in forward under the same condition"
            ))
        })
    }

    /// The tensor saved under `slot`, if any.
    pub fn find(&self, slot: usize) -> Option<&Tensor> {
        self.0.get(slot).and_then(Option::as_ref)
    }
}

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}
pub(crate) fn with_recording<T>(on: bool, f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(on));
    f()
}

/// Runs `f` without recording: for evaluation.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    with_recording(false, f)
}

/// Whether ops are recorded on this thread now.
pub fn is_recording() -> bool {
    RECORDING.get()
}

/// Applies an op: checks devices, computes, records if any input wants a gradient.
///
/// # Errors
/// The op's own, operands on different devices, or (with [`crate::finite::set_check_finite`]) a non-finite result.
pub fn apply<O: Op>(op: O, inputs: &[&Tensor]) -> Result<Tensor> {
    let device = inputs
        .first()
        .ok_or_else(|| Error::shape(op.name(), "no operands"))?
        .device();
    if let Some(other) = inputs.iter().find(|x| x.device() != device) {
        return Err(Error::Device {
            op: op.name(),
            left: device.to_string(),
            right: other.device().to_string(),
        });
    }
    if !op.supports(device) {
        return op.composed(inputs);
    }
    let on = is_recording();
    let mut flags = [false; 16];
    let mut long;
    let needs: &mut [bool] = if inputs.len() <= flags.len() {
        &mut flags[..inputs.len()]
    } else {
        long = vec![false; inputs.len()];
        &mut long
    };
    for (need, x) in needs.iter_mut().zip(inputs) {
        *need = on && x.requires_grad();
    }
    let _span = crate::trace::span(op.name());
    let checking = finite::checking_here();
    let was_infinite = checking && finite::check_operands(op.name(), inputs)?;
    let mut f = Forward {
        needs,
        recorded: on,
        required: false,
        saved: Saved::default(),
    };
    let y = with_recording(false, || finite::inside(|| op.forward(&mut f, inputs)))?;
    if checking {
        finite::check_made(op.name(), finite::place(), was_infinite, &y)?;
    }
    if !f.needs_any() && !f.required {
        return Ok(y.detach());
    }
    let saved = f.saved;
    Ok(y.detach()
        .with_edge(Some(Node::edge(Box::new(op), saved, inputs, needs))))
}
