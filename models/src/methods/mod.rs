//! Fine-tuning methods, one file each. A method is attached to a model's store: it freezes the base, makes its parameters
//! and puts updates on sites; what it does during training it does through [`Attached`]. Counting, saving in PEFT's files,
//! loading and taking it off again follow from [`Adapted`], the list of what it put where.

use deltaw_engine::prelude::*;

pub mod adalora;
pub mod adapted;
pub mod adapter;
pub mod bone;
pub mod combine;
pub mod dora;
pub mod ia3;
pub mod lora;
pub mod low_rank;
pub mod miss;
pub mod oft;
pub mod pattern;
pub mod pissa;
pub mod produced;
pub mod randlora;
pub mod selective;
pub mod several;
pub mod snell;
pub mod spt;
pub mod svdiff;
pub mod targets;
mod torch_random;
pub mod triadaptlora;
pub mod vera;

pub use adapted::{Adapted, Axes, Factor, Form};
pub use adapter::Adapter;
pub use combine::Combination;
pub use several::Adapters;
pub use targets::Targets;

/// How to fine-tune.
pub trait Method {
    /// The arm's name in tables.
    fn name(&self) -> String;

    /// Freezes and adapts the model in `store`. Parameters whose name starts with one of `heads` are trained by every method.
    ///
    /// # Errors
    /// Settings out of range, no site to adapt, or names that are taken.
    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>>;
}

/// A method at work on one model.
pub trait Attached {
    /// What it put where.
    fn adapted(&self) -> &Adapted;

    /// Before the first step and before the optimiser knows what trains: `pass` gives the gradients of the task's loss on the
    /// training batches, one after the other, for what has to be known of the task first.
    ///
    /// # Errors
    /// The task's.
    fn prepare(&mut self, pass: &mut dyn FnMut() -> Result<Gradients>) -> Result<()> {
        let _ = pass;
        Ok(())
    }

    /// Added to the task's loss, on the tape.
    ///
    /// # Errors
    /// None but those of the device.
    fn penalty(&self) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// After the optimiser's step `step` of `total` (from 0), with that step's gradients still alive.
    ///
    /// # Errors
    /// None but those of the device.
    fn after_step(&mut self, step: u64, total: u64, grads: &Gradients) -> Result<()> {
        let _ = (step, total, grads);
        Ok(())
    }

    /// What training has changed besides parameters: all that the method itself needs to go on from here to the same bits.
    ///
    /// # Errors
    /// None but those of the device.
    fn state(&self) -> Result<Weights> {
        Ok(Weights::default())
    }

    /// Goes on from a [`state`](Attached::state), before the parameters get their values: those that grew have their sizes then.
    ///
    /// # Errors
    /// The state of another method or model.
    fn resume(&mut self, state: &Weights) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// Numbers that the update needs in the end, heads apart: what budgets compare.
    ///
    /// # Errors
    /// None but those of the device.
    fn parameters(&self) -> Result<usize> {
        Ok(self.adapted().parameters())
    }

    /// Rank kept per site, where the method decides it.
    ///
    /// # Errors
    /// None but those of the device.
    fn ranks(&self) -> Result<Vec<(String, usize)>> {
        Ok(Vec::new())
    }

    /// The update and the heads as PEFT's files hold them.
    ///
    /// # Errors
    /// An update that the format cannot express.
    fn save(&self) -> Result<Adapter> {
        self.adapted().save()
    }

    /// Puts a saved update's values in place.
    ///
    /// # Errors
    /// An adapter of another form: missing or foreign tensors, other ranks or scales.
    fn load(&mut self, adapter: &Adapter) -> Result<()> {
        self.adapted().load(adapter)
    }

    /// Takes the update off the model: the base is as it was, bit for bit, and the update's parameters are gone. What trained
    /// of the model itself (heads, biases) stays as trained.
    ///
    /// # Errors
    /// None but those of the device.
    fn detach(&mut self) -> Result<()> {
        self.adapted().detach()
    }
}

/// A method that does nothing during training is at work through its updates alone.
impl Attached for Adapted {
    fn adapted(&self) -> &Adapted {
        self
    }
}
