//! Weights that can be taken apart: KIND's learngenes and tailors (Xie et al. 2024, "Knowledge Integration and Diversion").
//!
//! ```text
//! W(c) = Σ_{i ∈ G} uᵢ σᵢ vᵢᵀ + Σ_{i ∈ T_c} uᵢ σᵢ vᵢᵀ        y = ((x·V) ⊙ σ ⊙ g(c))·Uᵀ + b
//! ```
//!
//! The learngenes G serve every sample, the tailors T_c those of group c alone; nothing is orthogonal, and no singular values
//! are computed. The gate g is applied by what takes part: groups that are absent from a batch are not in its graph, get no
//! gradient, and an optimiser leaves them and their moments as they are.

use deltaw_engine::ops::linear::linear_stored;
use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

/// How many components a weight has, and how tailors start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Components of every sample, N_G.
    pub learngenes: usize,
    /// Components of each group, N_T / groups.
    pub tailors: usize,
    /// Groups of classes.
    pub groups: usize,
    /// Whether tailors start with v = 0, so that they add nothing: for those that join learngenes of another model.
    pub silent: bool,
}

impl Partition {
    /// Tailors that start like learngenes, for training from scratch.
    pub fn new(learngenes: usize, tailors: usize, groups: usize) -> Self {
        Partition {
            learngenes,
            tailors,
            groups,
            silent: false,
        }
    }

    /// Components that one sample of a group uses.
    pub fn active(&self) -> usize {
        self.learngenes + self.tailors
    }

    /// Parameters of an `m × n` weight, bias apart: `r(m + n + 1)` for all r components.
    pub fn parameters(&self, m: usize, n: usize) -> usize {
        (self.learngenes + self.tailors * self.groups) * (m + n + 1)
    }

    /// The gate of samples that use the tailors of these groups besides the learngenes; a number that is no group's opens none.
    ///
    /// # Errors
    /// None but those of the device.
    pub fn gate(&self, route: &[u32], device: &Device) -> Result<Gate> {
        let mut groups: Vec<usize> = route.iter().map(|g| *g as usize).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.retain(|g| *g < self.groups);
        let active = self.learngenes + self.tailors * groups.len();
        let mut open = Vec::with_capacity(route.len() * active);
        for sample in route {
            open.resize(open.len() + self.learngenes, 1.0f32);
            for group in &groups {
                let own = f32::from(*group == *sample as usize);
                open.resize(open.len() + self.tailors, own);
            }
        }
        Ok(Gate {
            route: route.into(),
            groups,
            open: Tensor::from_slice(&open, &[route.len(), active], device)?,
        })
    }

    /// Multiplications for one token at an `m × n` weight: `r(m + n)` of the active components.
    pub fn macs(&self, m: usize, n: usize) -> usize {
        self.active() * (m + n)
    }
}

/// r components: `u` `[r, out]`, `sigma` `[r]`, `v` `[r, in]`, so that one is a row of each.
struct Component {
    u: Param,
    sigma: Param,
    v: Param,
}

impl Component {
    /// u and v from N(0, s²) with σ = 1 and `s⁴·active = 2/(m + n)`: W has the variance of Glorot's initialisation.
    fn new(path: &Path, sizes: [usize; 3], active: usize, silent: bool) -> Result<Self> {
        let [rank, inputs, outputs] = sizes;
        let fan = (inputs + outputs) as f64 * active.max(1) as f64;
        let init = Init::Normal((2.0 / fan).powf(0.25));
        Ok(Component {
            u: path.param("u", &[rank, outputs], init)?,
            sigma: path.param("sigma", &[rank], Init::ONES)?,
            v: path.param(
                "v",
                &[rank, inputs],
                if silent { Init::ZEROS } else { init },
            )?,
        })
    }

    /// `Σ uᵢ σᵢ vᵢᵀ`, `[out, in]`.
    fn weight(&self) -> Result<Tensor> {
        let scaled = (self.u.tensor()).mul(&self.sigma.tensor().unsqueeze(1)?)?;
        scaled.t()?.matmul(&self.v.tensor())
    }
}

/// A linear map whose weight is a sum of components. Parameters `learngene.{u,sigma,v}`, `tailors.<group>.{u,sigma,v}` and
/// `bias`.
pub struct Components {
    learngene: Component,
    tailors: Vec<Component>,
    bias: Param,
}

impl Components {
    /// New components below `path`.
    ///
    /// # Errors
    /// Names that are taken.
    pub fn new(path: &Path, inputs: usize, outputs: usize, partition: &Partition) -> Result<Self> {
        let component = |leaf: String, rank, silent| {
            let sizes = [rank, inputs, outputs];
            Component::new(&path.at(leaf), sizes, partition.active(), silent)
        };
        Ok(Components {
            learngene: component("learngene".into(), partition.learngenes, false)?,
            tailors: (0..partition.groups)
                .map(|g| component(format!("tailors.{g}"), partition.tailors, partition.silent))
                .collect::<Result<_>>()?,
            bias: path.param("bias", &[outputs], Init::ZEROS)?,
        })
    }

    /// `[B, …, in] → [B, …, out]`. `ctx.gate`, of this weight's partition, says whose tailors each sample uses besides the
    /// learngenes; without one all components serve all samples.
    ///
    /// # Errors
    /// An x of other than `in` features; a gate for another batch or of another partition.
    pub fn forward(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        let every: Vec<usize> = (0..self.tailors.len()).collect();
        let groups = ctx.gate.as_ref().map_or(&every, |gate| &gate.groups);
        let parts: Vec<&Component> = std::iter::once(&self.learngene)
            .chain(groups.iter().filter_map(|g| self.tailors.get(*g)))
            .collect();
        let stack = |field: fn(&Component) -> &Param| -> Result<Tensor> {
            let rows: Vec<Tensor> = parts.iter().map(|c| field(c).tensor()).collect();
            match &rows[..] {
                [one] => Ok(one.clone()),
                _ => Tensor::concat(&rows.iter().collect::<Vec<_>>(), 0),
            }
        };
        let mut scale = stack(|c| &c.sigma)?;
        if let Some(gate) = &ctx.gate {
            let batch = x.shape().first().copied().unwrap_or(0);
            (gate.open).expect_shape("components", "the gate", &[batch, scale.len()])?;
            let mut shape = vec![1; x.rank()];
            (shape[0], shape[x.rank() - 1]) = (batch, scale.len());
            scale = scale.mul(&gate.open.reshape(&shape)?)?;
        }
        let inner = linear(x, &stack(|c| &c.v)?, None)?.mul(&scale)?;
        linear_stored(&inner, &stack(|c| &c.u)?, true, Some(&self.bias.tensor()))
    }

    /// W for samples of a group, or of none, `[out, in]`.
    ///
    /// # Errors
    /// A group that is not there.
    pub fn weight(&self, group: Option<usize>) -> Result<Tensor> {
        let learngene = self.learngene.weight()?;
        let Some(group) = group else {
            return Ok(learngene);
        };
        let tailor = self.tailors.get(group);
        let tailor =
            tailor.ok_or_else(|| Error::Invalid(format!("no tailors of group {group}")))?;
        learngene.add(&tailor.weight()?)
    }
}
