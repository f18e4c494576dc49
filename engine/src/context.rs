//! What a forward pass carries besides its input.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::random::{Purpose, RandomKey, site};
use crate::tensor::Tensor;

/// Mode, masks, gates, taps and the random address of one forward pass. Never call order: a layer asks for numbers by
/// its own path, so that recomputation, resumption and paired arms draw the same ones.
#[derive(Clone, Default)]
pub struct Context {
    /// Whether dropout and other training-only behaviour is on.
    pub train: bool,
    /// The run's seed.
    pub seed: u64,
    /// The training step.
    pub step: u64,
    /// Which tokens are real: `[B, T]`, 1 or 0. None: all.
    pub mask: Option<Tensor>,
    /// Who uses which groups of gated weights. None: all samples use all.
    pub gate: Option<Gate>,
    taps: Option<Arc<Taps>>,
}

/// For weights that are sums of components, some in groups: which groups take part in a pass, and for whom. Made once for
/// all weights of a model.
#[derive(Clone)]
pub struct Gate {
    /// Each sample's group; a number that is no group's, none.
    pub route: Vec<u32>,
    /// The groups that take part, in order.
    pub groups: Vec<usize>,
    /// 1 or 0 for each sample and each component that takes part, `[B, r]`.
    pub open: Tensor,
}

/// Activations to look at, by path.
#[derive(Default)]
struct Taps {
    wanted: Vec<String>,
    seen: Mutex<BTreeMap<String, Tensor>>,
}

impl Context {
    /// Evaluation: no dropout.
    pub fn eval() -> Self {
        Self::default()
    }

    /// Training step `step` of the run `seed`.
    pub fn train(seed: u64, step: u64) -> Self {
        Context {
            train: true,
            seed,
            step,
            ..Self::default()
        }
    }

    /// With a token mask `[B, T]` (1 real, 0 padding).
    pub fn with_mask(mut self, mask: Tensor) -> Self {
        self.mask = Some(mask);
        self
    }

    /// With a gate.
    pub fn with_gate(mut self, gate: Gate) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Asks for the activations of these paths; [`Context::tapped`] has them after the pass.
    pub fn with_taps(mut self, paths: &[&str]) -> Self {
        self.taps = Some(Arc::new(Taps {
            wanted: paths.iter().map(|p| p.to_string()).collect(),
            seen: Mutex::default(),
        }));
        self
    }

    /// The address of the numbers that the layer `path` draws in this step.
    pub fn key(&self, purpose: Purpose, path: &str) -> RandomKey {
        RandomKey {
            seed: self.seed,
            purpose,
            step: self.step,
            site: site(path),
        }
    }

    /// Called by layers: keeps `x` if somebody asked for `path`.
    pub fn tap(&self, path: &str, x: &Tensor) {
        if let Some(taps) = &self.taps
            && taps.wanted.iter().any(|w| w == path)
        {
            taps.seen
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .insert(path.into(), x.clone());
        }
    }

    /// The activation kept for `path` by the last pass, on its tape.
    pub fn tapped(&self, path: &str) -> Option<Tensor> {
        self.taps
            .as_ref()?
            .seen
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .get(path)
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_seed_step_purpose_and_path() {
        let ctx = Context::train(3, 7);
        let key = ctx.key(Purpose::Dropout, "h.0");
        assert_eq!(key, Context::train(3, 7).key(Purpose::Dropout, "h.0"));
        for other in [
            ctx.key(Purpose::Noise, "h.0"),
            ctx.key(Purpose::Dropout, "h.1"),
            Context::train(3, 8).key(Purpose::Dropout, "h.0"),
            Context::train(4, 7).key(Purpose::Dropout, "h.0"),
        ] {
            assert_ne!(key.stream(), other.stream());
        }
    }

    #[test]
    fn taps_keep_what_was_asked_for() {
        let ctx = Context::eval().with_taps(&["h.1"]);
        ctx.tap("h.0", &Tensor::from([1.0]));
        ctx.tap("h.1", &Tensor::from([2.0]));
        assert!(ctx.tapped("h.0").is_none());
        assert_eq!(ctx.tapped("h.1").unwrap().item().unwrap(), 2.0);
    }
}
