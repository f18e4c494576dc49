//! What transformers are stacks of: sub-layers, each with a residual connection and a norm.

use deltaw_engine::prelude::*;

use crate::cache::KeyValues;
use crate::layers::Norm;
use crate::transformer::{FeedForward, Place, SelfAttention};

/// Where a norm stands beside a residual connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOrder {
    /// `x + f(norm(x))`.
    Before,
    /// `norm(x + f(x))`.
    After,
}

/// What lies around a sub-layer f.
pub struct Residual {
    /// The norm.
    pub norm: Norm,
    /// Where it stands.
    pub order: NormOrder,
    /// Where methods and dropout act on f's output.
    pub place: Place,
}

impl Residual {
    /// Around a sub-layer with the norm before it.
    pub fn before(norm: Norm, place: Place) -> Self {
        let order = NormOrder::Before;
        Residual { norm, order, place }
    }

    /// Around a sub-layer with the norm after it.
    pub fn after(norm: Norm, place: Place) -> Self {
        let order = NormOrder::After;
        Residual { norm, order, place }
    }

    /// f with what lies around it.
    ///
    /// # Errors
    /// Those of `f`; shapes that do not fit.
    pub fn around(
        &self,
        ctx: &Context,
        x: &Tensor,
        f: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let input = match self.order {
            NormOrder::Before => self.norm.forward(x)?,
            NormOrder::After => x.clone(),
        };
        let y = f(&input)?;
        let y = x.add(&self.place.finish(ctx, &input, y)?)?;
        match self.order {
            NormOrder::Before => Ok(y),
            NormOrder::After => self.norm.forward(&y),
        }
    }
}

/// Attention of kind `A`, then the feed-forward.
pub struct Block<A = SelfAttention> {
    /// The block's path, for taps.
    pub path: String,
    /// The first sub-layer.
    pub attention: A,
    /// What lies around it.
    pub attention_around: Residual,
    /// The second sub-layer.
    pub feed_forward: FeedForward,
    /// What lies around it.
    pub feed_forward_around: Residual,
}

impl<A> Block<A> {
    /// `[B, T, d] → [B, T, d]`; `attend` is the first sub-layer at work.
    ///
    /// # Errors
    /// Those of `attend`; shapes that do not fit.
    pub fn attending(
        &self,
        ctx: &Context,
        x: &Tensor,
        attend: impl FnOnce(&A, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let x = (self.attention_around).around(ctx, x, |x| attend(&self.attention, x))?;
        let feed = |x: &Tensor| self.feed_forward.forward(ctx, x);
        let x = self.feed_forward_around.around(ctx, &x, feed)?;
        ctx.tap(&self.path, &x);
        Ok(x)
    }
}

impl Block {
    /// `[B, T, d] → [B, T, d]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(
        &self,
        ctx: &Context,
        x: &Tensor,
        rotation: Option<&Rotation>,
    ) -> Result<Tensor> {
        self.attending(ctx, x, |attention, x| attention.forward(ctx, x, rotation))
    }

    /// The same for tokens that follow those in `cache`, as in [`SelfAttention::extend`].
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn extend(
        &self,
        ctx: &Context,
        x: &Tensor,
        rotation: Option<&Rotation>,
        cache: &mut KeyValues,
    ) -> Result<Tensor> {
        self.attending(ctx, x, |attention, x| {
            attention.extend(ctx, x, rotation, cache)
        })
    }
}
