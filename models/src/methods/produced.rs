//! The update of a [`Producer`] on a site, which Bone, SNELL, SPT and RandLoRA share.

use deltaw_engine::prelude::*;

/// ΔW as `producer` makes it of its parameters.
pub struct Produced<P> {
    /// How rows of ΔW come about.
    pub producer: P,
    /// Its parameters, in its order.
    pub params: Vec<Param>,
}

impl<P: Producer + Clone> Delta for Produced<P> {
    fn dense(&self, weight: &Tensor) -> Result<Tensor> {
        let params: Vec<Tensor> = self.params.iter().map(Param::tensor).collect();
        self.producer
            .dense(weight, &params.iter().collect::<Vec<_>>())
    }

    fn linear(
        &self,
        _: &Context,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        // The fused op takes a frozen W.
        if weight.requires_grad() {
            return linear(x, &weight.add(&self.dense(weight)?)?, bias);
        }
        let params: Vec<Tensor> = self.params.iter().map(Param::tensor).collect();
        produced_linear(
            self.producer.clone(),
            x,
            weight,
            bias,
            &params.iter().collect::<Vec<_>>(),
        )
    }
}
