//! AdamW (Loshchilov & Hutter 2019).
//!
//! ```text
//! m ← β₁m + (1 − β₁)g      v ← β₂v + (1 − β₂)g²
//! w ← w − η·(m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε) + λw)
//! ```
//!
//! t counts the steps a row has seen: rows that a parameter grew later start their own count, and their moments start at 0.

use std::collections::{BTreeMap, HashMap};

use crate::cpu::{simd, threads};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::no_grad;
use crate::param::{Param, RowRange};
use crate::pool::{Tag, tagged};
use crate::tape::Gradients;
use crate::tensor::{LeafId, Tensor};

const GRAIN: usize = 1 << 14;

/// Settings of a group of parameters that differ from the optimiser's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Factor of the learning rate.
    pub lr_scale: f32,
    /// Decoupled weight decay λ.
    pub weight_decay: f32,
}

/// Both moments of one parameter.
struct Moments {
    mean: Tensor,
    square: Tensor,
    /// The optimiser's step at which the parameter was first seen.
    born: u64,
}

/// The optimiser; its state is keyed by the parameters' identities.
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root.
    pub eps: f32,
    /// Decoupled weight decay λ of groups without settings.
    pub weight_decay: f32,
    groups: BTreeMap<String, Group>,
    state: HashMap<LeafId, Moments>,
    steps: u64,
}

/// What one row range is updated with.
struct Update {
    beta1: f32,
    beta2: f32,
    eps: f32,
    /// η / (1 − β₁ᵗ).
    rate: f32,
    /// 1 / (1 − β₂ᵗ).
    correct: f32,
    /// 1 − ηλ.
    keep: f32,
}

impl AdamW {
    /// β₁ = 0.9, β₂ = 0.999, ε = 1e-8.
    pub fn new(weight_decay: f32) -> Self {
        AdamW {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay,
            groups: BTreeMap::new(),
            state: HashMap::new(),
            steps: 0,
        }
    }

    /// Gives a group settings of its own; groups may join at any step.
    pub fn set_group(&mut self, name: &str, group: Group) {
        self.groups.insert(name.into(), group);
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Updates every parameter that has a gradient, at learning rate `lr`.
    ///
    /// # Errors
    /// A gradient of another shape than its parameter.
    pub fn step(&mut self, params: &[Param], grads: &Gradients, lr: f32) -> Result<()> {
        for param in params {
            if let Some(grad) = grads.get(param.id()) {
                no_grad(|| self.update(param, grad, lr))?;
            }
        }
        self.steps += 1;
        Ok(())
    }

    fn update(&mut self, param: &Param, grad: &Tensor, lr: f32) -> Result<()> {
        let shape = param.shape();
        if grad.shape() != shape {
            return Err(Error::Param {
                name: param.name().into(),
                detail: format!("is {shape:?}, its gradient {:?}", grad.shape()),
            });
        }
        let group = self.groups.get(&*param.group()).copied().unwrap_or(Group {
            lr_scale: 1.0,
            weight_decay: self.weight_decay,
        });
        let steps = self.steps;
        let fresh = |like: &Tensor| {
            tagged(Tag::State, || {
                Tensor::zeros(like.shape(), DType::F32, like.device())
            })
        };
        let mut moments = match self.state.remove(&param.id()) {
            None => Moments {
                mean: fresh(grad)?,
                square: fresh(grad)?,
                born: steps,
            },
            Some(m) if m.mean.shape() == shape => m,
            Some(m) => Moments {
                mean: grown(&m.mean, &shape)?,
                square: grown(&m.square, &shape)?,
                born: m.born,
            },
        };
        let mut ranges = param.ranges();
        if ranges.is_empty() {
            ranges.push(RowRange {
                rows: 0..shape.first().copied().unwrap_or(1),
                born: moments.born,
                lr_scale: 1.0,
                weight_decay: None,
                frozen: false,
            });
        }
        let row: usize = shape.iter().skip(1).product();
        let grad = grad.packed()?;
        param.update(|value| {
            for range in ranges.iter().filter(|r| !r.frozen) {
                let t = (steps - range.born.min(steps) + 1) as i32;
                let eta = lr * group.lr_scale * range.lr_scale;
                let update = Update {
                    beta1: self.beta1,
                    beta2: self.beta2,
                    eps: self.eps,
                    rate: eta / (1.0 - self.beta1.powi(t)),
                    correct: 1.0 / (1.0 - self.beta2.powi(t)),
                    keep: 1.0 - eta * range.weight_decay.unwrap_or(group.weight_decay),
                };
                let part = range.rows.start * row..range.rows.end * row;
                if value.device().is_cpu() && value.dtype() == DType::F32 {
                    update.native(value, &mut moments, &grad, part)?;
                } else {
                    update.hosted(value, &mut moments, &grad, part)?;
                }
            }
            Ok(())
        })?;
        self.state.insert(param.id(), moments);
        Ok(())
    }
}

/// The state with zeros for the rows that came since.
fn grown(old: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let rows = old.shape().first().copied().unwrap_or(0);
    if shape.len() != old.rank() || shape[0] < rows || shape[1..] != old.shape()[1..] {
        return Err(Error::shape(
            "adamw",
            format!(
                "a parameter of {:?} became {shape:?}; only rows may be added",
                old.shape()
            ),
        ));
    }
    tagged(Tag::State, || old.pad(0, 0, shape[0] - rows))
}

impl Update {
    #[inline(always)]
    fn apply(&self, w: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        *m = self.beta1.mul_add(*m, (1.0 - self.beta1) * g);
        *v = self.beta2.mul_add(*v, (1.0 - self.beta2) * g * g);
        *w = self.keep.mul_add(
            *w,
            -self.rate * *m / ((*v * self.correct).sqrt() + self.eps),
        );
    }

    fn native(
        &self,
        value: &mut Tensor,
        moments: &mut Moments,
        grad: &Tensor,
        part: std::ops::Range<usize>,
    ) -> Result<()> {
        let g = &grad.as_slice::<f32>()?[part.clone()];
        let m = threads::Disjoint::new(&mut moments.mean.as_mut_slice::<f32>()?[part.clone()]);
        let v = threads::Disjoint::new(&mut moments.square.as_mut_slice::<f32>()?[part.clone()]);
        threads::par_rows(
            &mut value.as_mut_slice::<f32>()?[part],
            1,
            GRAIN,
            |first, w| {
                let range = first..first + w.len();
                // SAFETY: pieces of `par_rows` do not overlap.
                let (m, v) = unsafe { (m.slice(range.clone()), v.slice(range.clone())) };
                let g = &g[range];
                simd::dispatch(
                    #[inline(always)]
                    || {
                        for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
                            self.apply(w, m, v, *g);
                        }
                    },
                );
            },
        );
        Ok(())
    }

    /// Through host memory, for devices and types without a kernel.
    fn hosted(
        &self,
        value: &mut Tensor,
        moments: &mut Moments,
        grad: &Tensor,
        part: std::ops::Range<usize>,
    ) -> Result<()> {
        let host = |t: &Tensor| -> Result<Vec<f32>> {
            Ok(t.to_vec::<f64>()?.into_iter().map(|x| x as f32).collect())
        };
        let (mut w, mut m, mut v, g) = (
            host(value)?,
            host(&moments.mean)?,
            host(&moments.square)?,
            host(grad)?,
        );
        for i in part {
            self.apply(&mut w[i], &mut m[i], &mut v[i], g[i]);
        }
        let device: Device = value.device().clone();
        for (target, values) in [(value, w), (&mut moments.mean, m), (&mut moments.square, v)] {
            device
                .backend()
                .write(target, DType::F32, bytemuck::cast_slice(&values))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn step_of(optimiser: &mut AdamW, param: &Param, grad: &[f32], lr: f32) {
        let mut grads = Gradients::default();
        grads.set(
            param.id(),
            Tensor::from_slice(grad, &param.shape(), &Device::cpu()).unwrap(),
        );
        optimiser
            .step(std::slice::from_ref(param), &grads, lr)
            .unwrap();
    }

    #[test]
    fn the_first_step_has_the_size_of_the_rate() {
        let param = Param::new("w", Tensor::from([1.0, -1.0]));
        step_of(&mut AdamW::new(0.0), &param, &[0.3, -70.0], 0.01);
        let w = param.value().to_vec::<f32>().unwrap();
        assert!(
            (w[0] - 0.99).abs() < 1e-6 && (w[1] + 0.99).abs() < 1e-6,
            "{w:?}"
        );
    }

    #[test]
    fn rows_grown_later_count_their_own_steps() {
        let param = Param::new("w", Tensor::from([[0.0]]));
        let mut optimiser = AdamW::new(0.0);
        for _ in 0..5 {
            step_of(&mut optimiser, &param, &[1.0], 0.01);
        }
        param
            .grow(&Tensor::from([[0.0]]), optimiser.steps())
            .unwrap();
        step_of(&mut optimiser, &param, &[1.0, 1.0], 0.01);
        let w = param.value().to_vec::<f32>().unwrap();
        assert!(
            (w[0] + 0.06).abs() < 1e-6 && (w[1] + 0.01).abs() < 1e-6,
            "{w:?}"
        );
    }

    proptest! {
        /// Against the formula in f64, on lengths around the vector width; errors of a few roundings a step.
        #[test]
        fn as_the_formula(n in 1usize..70, steps in 1usize..6, decay in 0.0f32..0.5, seed: u32) {
            let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / (1 << 23) as f32 - 1.0;
            let start: Vec<f32> = (0..n).map(number).collect();
            let param = Param::new("w", Tensor::from_slice(&start, &[n], &Device::cpu()).unwrap());
            let mut optimiser = AdamW::new(decay);
            let (mut w, mut m, mut v) = (start.iter().map(|x| *x as f64).collect::<Vec<_>>(), vec![0.0f64; n], vec![0.0f64; n]);
            let (b1, b2) = (0.9f32 as f64, 0.999f32 as f64);
            for t in 1..=steps {
                let grad: Vec<f32> = (0..n).map(|i| number(i + 1000 * t)).collect();
                step_of(&mut optimiser, &param, &grad, 0.01);
                for i in 0..n {
                    let g = grad[i] as f64;
                    m[i] = b1 * m[i] + (1.0 - b1) * g;
                    v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                    let hat = m[i] / (1.0 - b1.powi(t as i32)) / ((v[i] / (1.0 - b2.powi(t as i32))).sqrt() + 1e-8);
                    w[i] -= 0.01 * (hat + decay as f64 * w[i]);
                }
            }
            for (a, b) in param.value().to_vec::<f32>().unwrap().iter().zip(&w) {
                // 1 − β₂ᵗ in f32 has a relative error of about ε/(1 − β₂) = 6e-5, halved by the root; a step is 0.01.
                prop_assert!((*a as f64 - b).abs() < steps as f64 * 0.01 * 1e-4 + 1e-6, "{a} {b}");
            }
        }
    }
}
