//! TriAdaptLoRA (2025): `ΔW = α/(r + 1e-5)·B·C·A` with a core C of two packed triangles ([`deltaw_engine::ops::triangular`]), whose
//! rank grows where the core moves.
//!
//! C is the sum of a lower part, whose rows a growth step adds, and an upper part, whose columns it adds. At an allocation step a
//! matrix scores the change of `‖C‖_F / g` since the last one, g its number of blocks; no gradients are needed. While the
//! total rank R is below its target R*, at steps t > t_w that ΔT divides,
//!
//! ```text
//! c = (t − t_w)/(T − t_w)     K = ⌊(R* − R)·c⌋ or ⌊(R* − R)^c⌋, at least 1 and at most the number of matrices
//! ```
//!
//! and every matrix that scores at least the K-th largest grows by a ranks. New rows of A and Bᵀ come from N(0, 0.02²), the
//! core's new entries are 0: B·C·A stays what it was, though the scale falls with r, as in the implementation that was read.
//!
//! That implementation starts from A alone random and B = C = 0, where every gradient is 0: it would never train. Here A and B are
//! random and C is 0, so that ΔW is 0 and dC is not ([`Start`] has the other starts for comparison). Without the authors' text at
//! hand the equations are those of that code, and not verified against the paper.

use std::sync::{Arc, RwLock, RwLockReadGuard};

use deltaw_engine::ops::triangular::{Core, triangular_matmul};
use deltaw_engine::prelude::*;
use serde_json::json;

use super::adapter::decimal;
use super::{Adapted, Attached, Factor, Form, Method, Targets};
use growth::Grower;

mod growth;

/// When which matrices grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// K falls linearly with the rank that is missing.
    Linear,
    /// K is a power of the rank that is missing.
    NonLinear,
    /// All matrices to the target at the first allocation.
    AtOnce,
    /// As [`Growth::Linear`], but any K matrices.
    Random,
}

/// What the factors and the core start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A and B random, C 0.
    ZeroCore,
    /// All from N(0, 0.02²): ΔW is not 0, but of the order of 1e-5.
    Normal,
    /// A alone random, as the code has it: a stationary point.
    Stationary,
}

/// A low-rank update with a growing triangular core.
#[derive(Debug, Clone, PartialEq)]
pub struct TriAdaptLora {
    /// Average rank at the end.
    pub target_rank: usize,
    /// Rank at the start.
    pub initial_rank: usize,
    /// a, the ranks of a growth step.
    pub block: usize,
    /// Scale's numerator α.
    pub alpha: f32,
    /// Weight γ of the orthogonality penalty.
    pub gamma: f64,
    /// t_w as a share of the steps.
    pub warm_up: f64,
    /// ΔT.
    pub every: u64,
    /// When which matrices grow.
    pub growth: Growth,
    /// What everything starts from.
    pub start: Start,
    /// Which linears.
    pub targets: Targets,
}

impl TriAdaptLora {
    /// From rank 1 to an average of `rank` in blocks of half of it, on every linear of the blocks; α = 2·rank.
    pub fn target_rank(rank: usize) -> Self {
        TriAdaptLora {
            target_rank: rank,
            initial_rank: 1,
            block: (rank / 2).max(1),
            alpha: 2.0 * rank as f32,
            gamma: 0.5,
            warm_up: 0.1,
            every: 5,
            growth: Growth::Linear,
            start: Start::ZeroCore,
            targets: Targets::default(),
        }
    }

    fn check(&self) -> Result<()> {
        let ranks = 0 < self.initial_rank && self.initial_rank <= self.target_rank;
        if ranks && self.block > 0 && self.every > 0 && (0.0..1.0).contains(&self.warm_up) {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "triadaptlora: wanted 0 < initial rank ({}) ≤ target rank ({}), blocks ({}) and steps between growths ({}) of 1 or more, and a warm-up ({}) in [0, 1)",
            self.initial_rank, self.target_rank, self.block, self.every, self.warm_up
        )))
    }
}

/// One site's factors and core.
struct Grown {
    a: Param,
    /// Bᵀ, so that growth appends rows.
    b: Param,
    lower: Param,
    upper: Param,
    core: RwLock<Blocks>,
    alpha: f32,
}

/// The ranks at which blocks end, and how their entries lie.
struct Blocks {
    ends: Vec<usize>,
    core: Core,
}

impl Grown {
    fn blocks(&self) -> RwLockReadGuard<'_, Blocks> {
        self.core.read().unwrap_or_else(|e| e.into_inner())
    }

    fn rank(&self) -> usize {
        self.blocks().core.rank()
    }

    /// C·x.
    fn times(&self, x: &Tensor) -> Result<Tensor> {
        let (lower, upper) = (self.lower.tensor(), self.upper.tensor());
        triangular_matmul(&self.blocks().core, Some(&lower), Some(&upper), x)
    }

    fn scale(&self) -> f32 {
        self.alpha / (self.rank() as f32 + 1e-5)
    }

    fn factors(&self) -> Vec<Factor> {
        vec![
            Factor::new("lora_A", Form::Right, &self.a),
            Factor::new("lora_B", Form::Columns, &self.b),
            Factor::new("lora_C_row", Form::Whole, &self.lower),
            Factor::new("lora_C_col", Form::Whole, &self.upper),
        ]
    }
}

/// [`Grown`] on its site.
struct Triangles(Arc<Grown>);

impl Delta for Triangles {
    fn dense(&self, _: &Tensor) -> Result<Tensor> {
        let delta = self
            .0
            .b
            .tensor()
            .t()?
            .matmul(&self.0.times(&self.0.a.tensor())?)?;
        delta.affine(f64::from(self.0.scale()), 0.0)
    }

    /// C·A is no larger than A, whatever the number of tokens: with it this is LoRA's product.
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
        let (a, b) = (self.0.times(&self.0.a.tensor())?, self.0.b.tensor().t()?);
        low_rank_linear(x, weight, bias, &a, &b, None, self.0.scale())
    }
}

impl Method for TriAdaptLora {
    fn name(&self) -> String {
        let growth = match self.growth {
            Growth::Linear => "",
            Growth::NonLinear => ", non-linear",
            Growth::AtOnce => ", at once",
            Growth::Random => ", random",
        };
        let start = match self.start {
            Start::ZeroCore => "",
            Start::Normal => ", normal start",
            Start::Stationary => ", stationary start",
        };
        let fixed = if self.initial_rank == self.target_rank {
            ", fixed"
        } else {
            ""
        };
        let penalty = if self.gamma == 0.0 {
            ", no orthogonality"
        } else {
            ""
        };
        format!(
            "triadaptlora r={}{growth}{fixed}{penalty}{start}",
            self.target_rank
        )
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        self.check()?;
        let r = self.initial_rank;
        let sites = self.targets.of(store)?;
        let settings = json!({
            "peft_type": "TRIADAPTLORA", "init_r": r, "target_r": self.target_rank, "lora_alpha": decimal(self.alpha),
            "block": self.block, "deltaT": self.every, "orth_reg_weight": self.gamma,
        });
        let (mut adapted, mut grown) = (Adapted::new(store, heads, settings), vec![]);
        let normal = |on: bool| if on { Init::Normal(0.02) } else { Init::ZEROS };
        for site in sites {
            let path = store.at(site.path());
            let core = Core::new(&[r])?;
            let part =
                |name| path.param(name, &[core.entries()], normal(self.start == Start::Normal));
            let b = normal(self.start != Start::Stationary);
            let one = Arc::new(Grown {
                a: path.param("lora_A", &[r, site.in_features()?], normal(true))?,
                b: path.param("lora_B", &[r, site.out_features()?], b)?,
                lower: part("lora_C_row")?,
                upper: part("lora_C_col")?,
                core: RwLock::new(Blocks {
                    ends: vec![r],
                    core: Core::new(&[r])?,
                }),
                alpha: self.alpha,
            });
            adapted.add(&site, Arc::new(Triangles(one.clone())), one.factors())?;
            grown.push((site.path().to_string(), one));
        }
        Ok(Box::new(Grower::new(
            self.clone(),
            adapted,
            grown,
            store.seed(),
        )?))
    }
}
