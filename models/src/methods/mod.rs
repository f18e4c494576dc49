//! Fine-tuning methods, one file each. A method is attached to a model's store: it freezes the base, makes its parameters
//! and puts updates on sites; what it does during training it does through [`Attached`].

use deltaw_engine::prelude::*;

pub mod adalora;
pub mod dora;
pub mod lora;
pub mod selective;

/// How to fine-tune.
pub trait Method {
    /// The arm's name in tables.
    fn name(&self) -> String;

    /// Freezes and adapts the model in `store`. Parameters whose name starts with one of `heads` are trained by every method.
    ///
    /// # Errors
    /// No site to adapt, or names that are taken.
    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>>;
}

/// A method at work on one model.
pub trait Attached {
    /// Added to the task's loss, on the tape.
    fn penalty(&self) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// After the optimiser's step `step` of `total` (from 0), with that step's gradients still alive.
    fn after_step(&mut self, step: u64, total: u64, grads: &Gradients) -> Result<()> {
        let _ = (step, total, grads);
        Ok(())
    }

    /// Numbers that the update needs in the end, heads apart: what budgets compare.
    fn parameters(&self) -> usize;

    /// Rank kept per site, where the method decides it.
    fn ranks(&self) -> Vec<(String, usize)> {
        Vec::new()
    }
}

/// Whether `name` belongs to a head.
pub(crate) fn is_head(name: &str, heads: &[&str]) -> bool {
    heads.iter().any(|head| name.starts_with(head))
}

/// The linears inside the blocks: the query, key, value, attention output and feed-forward matrices.
///
/// # Errors
/// The model has none.
pub(crate) fn block_linears(store: &Store) -> Result<Vec<Site>> {
    let sites: Vec<Site> = store
        .sites()
        .into_iter()
        .filter(|s| s.is_linear() && s.role() != Role::Other)
        .collect();
    if sites.is_empty() {
        return Err(Error::Invalid(
            "the model has no linear inside a block to adapt".into(),
        ));
    }
    Ok(sites)
}
