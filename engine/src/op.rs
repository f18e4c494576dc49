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
//!     fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
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
use std::sync::Arc;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::finite;
use crate::saved::Recipe;
pub use crate::saved::Saved;
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

    /// Whether the result is a pass over at most three operands away that backward keeps anyway, so that other ops' backward
    /// had better make it again than keep it.
    fn is_remade(&self) -> bool {
        false
    }

    /// Adds `dyᵀ · ∂y/∂inputs[i]` to `grads` for every `i` it [`Grads::needs`]. `dy` may be overwritten when unique.
    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()>;
}

/// What [`Op::forward`] is told and what it keeps.
pub struct Forward<'a> {
    needs: &'a [bool],
    recorded: bool,
    required: bool,
    saved: Saved,
}

impl<'a> Forward<'a> {
    pub(crate) fn new(needs: &'a [bool], recorded: bool) -> Self {
        Forward {
            needs,
            recorded,
            required: false,
            saved: Saved::default(),
        }
    }

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
        self.saved.keep(slot, tensor);
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
    let mut f = Forward::new(needs, on);
    let y = with_recording(false, || finite::inside(|| op.forward(&mut f, inputs)))?;
    if checking {
        finite::check_made(op.name(), finite::place(), was_infinite, &y)?;
    }
    if !f.needs_any() && !f.required {
        return Ok(y.detach());
    }
    let (saved, op): (_, Arc<dyn Op>) = (f.saved, Arc::new(op));
    let recipe = op.is_remade().then(|| Recipe::new(&op, inputs)).flatten();
    let edge = Node::edge(op, saved, inputs, needs);
    Ok(y.detach().with_recipe(recipe).with_edge(Some(edge)))
}
