//! Exponential moving averages of the trained parameters, which diffusion models are evaluated with.

use deltaw_engine::prelude::*;

/// After step n (from 0): `a ← d·a + (1 − d)·w` with `d = min(decay, (1 + n)/(10 + n))`, so that an average does not begin
/// with the initial values' memory.
pub(super) struct Average {
    decay: f64,
    values: Vec<Tensor>,
}

impl Average {
    /// Of parameters that keep their shapes.
    pub fn new(decay: f32, params: &[Param]) -> Self {
        Average {
            decay: f64::from(decay),
            values: params.iter().map(Param::value).collect(),
        }
    }

    /// Takes in the parameters after step `step`.
    pub fn follow(&mut self, step: u64, params: &[Param]) -> Result<()> {
        let n = step as f64;
        let decay = self.decay.min((1.0 + n) / (10.0 + n));
        no_grad(|| {
            for (average, param) in self.values.iter_mut().zip(params) {
                let new = param.value().affine(1.0 - decay, 0.0)?;
                *average = average.affine(decay, 0.0)?.add(&new)?;
            }
            Ok(())
        })
    }

    /// Puts the averages in the parameters' place.
    pub fn install(self, params: &[Param]) -> Result<()> {
        let mut pairs = params.iter().zip(self.values);
        pairs.try_for_each(|(param, value)| param.set(value))
    }

    /// The averages, in the parameters' order.
    pub fn values(&self) -> &[Tensor] {
        &self.values
    }

    /// Brings kept averages back.
    pub fn restore(&mut self, values: Vec<Tensor>) {
        self.values = values;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_warms_up_to_its_decay() {
        let store = Store::new(&Device::cpu(), 0);
        let param = store.at("w").param("x", &[1], Init::ONES).unwrap();
        let params = [param.clone()];
        let mut average = Average::new(0.25, &params);
        let mut by_hand = 1.0;
        // d is 1/10, 2/11, then 3/12 and from there on the decay itself.
        for (step, (w, d)) in [(4.0, 0.1), (-2.0, 2.0 / 11.0), (8.0, 0.25), (0.5, 0.25)]
            .into_iter()
            .enumerate()
        {
            param.set(Tensor::from([w as f32])).unwrap();
            average.follow(step as u64, &params).unwrap();
            by_hand = d * by_hand + (1.0 - d) * w;
        }
        average.install(&params).unwrap();
        let got = param.value().item().unwrap();
        // Three roundings a step of numbers up to 8.
        assert!((got - by_hand).abs() <= 12.0 * 8.0 * f64::from(f32::EPSILON) / 2.0);
    }
}
