//! Sites: the typed places of a model that a method may adapt. What they take is in [`crate::delta`].

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::context::Context;
pub use crate::delta::{Delta, Wrap};
use crate::error::{Error, Result};
use crate::finite;
use crate::op::no_grad;
use crate::ops::linear::{linear, linear_stored};
use crate::param::Param;
use crate::tensor::Tensor;

/// What a site is in its model.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Query projection.
    Query,
    /// Key projection.
    Key,
    /// Value projection.
    Value,
    /// Projection after attention.
    AttentionOutput,
    /// First feed-forward matrix.
    MlpUp,
    /// Gate of a gated feed-forward.
    MlpGate,
    /// Second feed-forward matrix.
    MlpDown,
    /// Any other linear: modulation, patch projection, ….
    Other,
    /// Output of an embedding.
    Embedding,
    /// A sub-layer: its input and its output before the residual addition.
    SubLayer,
}

/// A place in a model. Cloning shares it.
#[derive(Clone)]
pub struct Site(Arc<Inner>);

struct Inner {
    path: String,
    role: Role,
    layer: usize,
    weight: Option<WeightView>,
    updates: Mutex<Updates>,
}

/// Rows of a stored matrix, seen as `[out, in]`.
struct WeightView {
    weight: Param,
    bias: Option<Param>,
    rows: Range<usize>,
    in_features: usize,
    /// Stored as `[in, out]` (GPT-2's Conv1D).
    transposed: bool,
}

impl WeightView {
    /// The stored axis of the outputs.
    fn axis(&self) -> usize {
        if self.transposed { 1 } else { 0 }
    }

    /// The rows as they are stored, `[m, n]` or `[n, m]`; a view.
    fn stored(&self) -> Result<Tensor> {
        let (weight, axis) = (self.weight.tensor(), self.axis());
        let weight = match weight.rank() {
            2 => weight,
            _ => weight.reshape(&[weight.shape()[0], self.in_features])?,
        };
        if self.rows == (0..weight.shape()[axis]) {
            return Ok(weight);
        }
        weight.narrow(axis, self.rows.start, self.rows.len())
    }
}

#[derive(Default, Clone)]
struct Updates {
    deltas: Vec<Arc<dyn Delta>>,
    wraps: Vec<Arc<dyn Wrap>>,
    /// What merging replaced.
    unmerged: Option<Unmerged>,
}

/// A base before merging.
#[derive(Clone)]
struct Unmerged {
    /// The rows, as they are stored.
    rows: Tensor,
    /// The bias, where an update changed it.
    bias: Option<Tensor>,
}

impl Site {
    /// A linear `y = xWᵀ + b` with `W` `[out, in]`, or `[out, …]` whose other axes are flattened (a patch's kernel).
    pub fn linear(
        path: &str,
        role: Role,
        layer: usize,
        weight: &Param,
        bias: Option<&Param>,
    ) -> Self {
        let shape = weight.shape();
        Self::part_of(path, role, layer, weight, bias, 0..shape[0], false)
    }

    /// Rows `rows` of a fused linear (a third of a qkv), stored as `[out, in]` or transposed.
    pub fn part_of(
        path: &str,
        role: Role,
        layer: usize,
        weight: &Param,
        bias: Option<&Param>,
        rows: Range<usize>,
        transposed: bool,
    ) -> Self {
        let shape = weight.shape();
        let in_features = match transposed {
            true => shape[0],
            false => shape[1..].iter().product(),
        };
        let view = WeightView {
            weight: weight.clone(),
            bias: bias.cloned(),
            rows,
            in_features,
            transposed,
        };
        Site(Arc::new(Inner {
            path: path.into(),
            role,
            layer,
            weight: Some(view),
            updates: Mutex::default(),
        }))
    }

    /// A place without a weight: an embedding's output or a sub-layer.
    pub fn output(path: &str, role: Role, layer: usize) -> Self {
        Site(Arc::new(Inner {
            path: path.into(),
            role,
            layer,
            weight: None,
            updates: Mutex::default(),
        }))
    }

    fn updates(&self) -> MutexGuard<'_, Updates> {
        self.0.updates.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn view(&self) -> Result<&WeightView> {
        self.0.weight.as_ref().ok_or_else(|| Error::Param {
            name: self.0.path.clone(),
            detail: "is no linear; it takes a `Wrap`, not a `Delta`".into(),
        })
    }

    /// Full path in the model.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// What it is.
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// Index of its layer, from 0.
    pub fn layer(&self) -> usize {
        self.0.layer
    }

    /// Whether it is a linear.
    pub fn is_linear(&self) -> bool {
        self.0.weight.is_some()
    }

    /// `m`, the number of outputs.
    ///
    /// # Errors
    /// It is no linear.
    pub fn out_features(&self) -> Result<usize> {
        Ok(self.view()?.rows.len())
    }

    /// `n`, the number of inputs.
    ///
    /// # Errors
    /// It is no linear.
    pub fn in_features(&self) -> Result<usize> {
        Ok(self.view()?.in_features)
    }

    /// The parameter that holds the weight.
    ///
    /// # Errors
    /// It is no linear.
    pub fn param(&self) -> Result<&Param> {
        Ok(&self.view()?.weight)
    }

    /// The module that holds the weight, by its name in the checkpoint: the path, or that of the whole for a part.
    ///
    /// # Errors
    /// It is no linear.
    pub fn module(&self) -> Result<&str> {
        let name = self.view()?.weight.name();
        Ok(name.strip_suffix(".weight").unwrap_or(name))
    }

    /// Which of the module's outputs are its own: all of them, or a part of a fused matrix.
    ///
    /// # Errors
    /// It is no linear.
    pub fn rows(&self) -> Result<Range<usize>> {
        Ok(self.view()?.rows.clone())
    }

    /// Whether the parameter holds `[in, out]` (GPT-2's Conv1D).
    ///
    /// # Errors
    /// It is no linear.
    pub fn transposed(&self) -> Result<bool> {
        Ok(self.view()?.transposed)
    }

    /// The parameter that holds the bias, if there is one.
    pub fn bias(&self) -> Option<&Param> {
        self.0.weight.as_ref()?.bias.as_ref()
    }

    /// The base weight `[m, n]`, on the tape if trained; a frozen one that is stored transposed is a view whose rows have gaps.
    ///
    /// # Errors
    /// It is no linear.
    pub fn weight(&self) -> Result<Tensor> {
        let stored = self.view()?.stored()?;
        match (self.view()?.transposed, stored.requires_grad()) {
            (false, _) => Ok(stored),
            (true, true) => stored.t(),
            // A frozen one is not copied.
            (true, false) => Ok(stored.turned()),
        }
    }

    /// Puts another base weight `[m, n]` in place (PiSSA's residual, a merged weight), rounded to the stored type.
    ///
    /// # Errors
    /// It is no linear, or another shape.
    pub fn set_weight(&self, value: &Tensor) -> Result<()> {
        let view = self.view()?;
        let shape = [view.rows.len(), view.in_features];
        value.expect_shape("set_weight", &self.0.path, &shape)?;
        no_grad(|| {
            let stored = if view.transposed {
                value.t()?
            } else {
                value.clone()
            };
            self.restore(&stored.converted(view.weight.value().dtype())?)
        })
    }

    /// The base as it is stored, `[m, n]`, or `[n, m]` transposed: what [`Site::restore`] takes. Shares storage until the
    /// parameter changes.
    ///
    /// # Errors
    /// It is no linear.
    pub fn stored(&self) -> Result<Tensor> {
        Ok(no_grad(|| self.view()?.stored())?.detach())
    }

    /// Puts a base back that [`Site::stored`] gave, bit for bit; other rows of a fused matrix stay as they are.
    ///
    /// # Errors
    /// It is no linear, or another shape or type.
    pub fn restore(&self, stored: &Tensor) -> Result<()> {
        let view = self.view()?;
        no_grad(|| {
            let whole = view.weight.value();
            let all = replaced(&whole, view.axis(), &view.rows, stored)?;
            view.weight.set(all.reshape(whole.shape())?)
        })
    }

    fn bias_tensor(&self) -> Result<Option<Tensor>> {
        let view = self.view()?;
        let Some(bias) = &view.bias else {
            return Ok(None);
        };
        let bias = bias.tensor();
        if view.rows.len() == bias.len() {
            Ok(Some(bias))
        } else {
            bias.narrow(0, view.rows.start, view.rows.len()).map(Some)
        }
    }

    /// Adds an update.
    ///
    /// # Errors
    /// It is no linear.
    pub fn attach(&self, delta: Arc<dyn Delta>) -> Result<()> {
        self.view()?;
        self.updates().deltas.push(delta);
        Ok(())
    }

    /// Adds a change of the output.
    pub fn attach_wrap(&self, wrap: Arc<dyn Wrap>) {
        self.updates().wraps.push(wrap);
    }

    /// Removes one update; a merged base is restored first.
    ///
    /// # Errors
    /// The base cannot be restored.
    pub fn remove(&self, delta: &Arc<dyn Delta>) -> Result<()> {
        self.unmerge()?;
        self.updates().deltas.retain(|d| !Arc::ptr_eq(d, delta));
        Ok(())
    }

    /// Removes all updates; a merged base is restored first.
    ///
    /// # Errors
    /// The base cannot be restored.
    pub fn detach(&self) -> Result<()> {
        self.unmerge()?;
        *self.updates() = Updates::default();
        Ok(())
    }

    /// Whether any update is attached.
    pub fn is_adapted(&self) -> bool {
        let updates = self.updates();
        !updates.deltas.is_empty() || !updates.wraps.is_empty()
    }

    /// The linear with its updates: `x·(W + ΣΔW)ᵀ + b`, then the wraps.
    ///
    /// # Errors
    /// It is no linear, or an update's own.
    pub fn forward(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        finite::at(self.path(), || self.adapted(ctx, x))
    }

    fn adapted(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        let (bias, updates) = (self.bias_tensor()?, self.updates().clone());
        let y = match updates.deltas.as_slice() {
            [first, rest @ ..] if updates.unmerged.is_none() => {
                let weight = self.weight()?;
                let y = first.linear(ctx, x, &weight, bias.as_ref())?;
                rest.iter().try_fold(y, |y, delta| {
                    let y = y.add(&delta.branch(ctx, x, &weight)?)?;
                    match bias.as_ref().map_or(Ok(None), |b| delta.shift(b))? {
                        Some(shift) => y.add(&shift),
                        None => Ok(y),
                    }
                })?
            }
            _ => self.plain(x, bias.as_ref())?,
        };
        self.apply_wraps(ctx, x, y, updates)
    }

    /// `x·Wᵀ + b`, without a copy of a W that is stored transposed.
    fn plain(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let view = self.view()?;
        if view.transposed {
            linear_stored(x, &view.stored()?, true, bias)
        } else {
            linear(x, &self.weight()?, bias)
        }
    }

    /// The output with the site's wraps: called by embeddings and sub-layers.
    pub fn wrap(&self, ctx: &Context, x: &Tensor, y: Tensor) -> Result<Tensor> {
        let updates = self.updates().clone();
        self.apply_wraps(ctx, x, y, updates)
    }

    fn apply_wraps(
        &self,
        ctx: &Context,
        x: &Tensor,
        y: Tensor,
        updates: Updates,
    ) -> Result<Tensor> {
        updates
            .wraps
            .iter()
            .try_fold(y, |y, wrap| wrap.wrap(ctx, x, y))
    }

    /// `Σ ΔW` of the attached updates, or `None` when there is none.
    ///
    /// # Errors
    /// An update depends on the token.
    pub fn delta(&self) -> Result<Option<Tensor>> {
        let weight = self.weight()?;
        let deltas = self.updates().deltas.clone();
        let mut sum: Option<Tensor> = None;
        for delta in &deltas {
            let d = delta.dense(&weight)?;
            sum = Some(match sum {
                Some(s) => s.add(&d)?,
                None => d,
            });
        }
        Ok(sum)
    }

    /// `b + ΣΔb`, or `None` when no update changes the bias.
    fn shifted(&self) -> Result<Option<Tensor>> {
        let (Some(bias), deltas) = (self.bias_tensor()?, self.updates().deltas.clone()) else {
            return Ok(None);
        };
        deltas.iter().try_fold(None, |sum: Option<Tensor>, delta| {
            Ok(match delta.shift(&bias)? {
                Some(shift) => Some(sum.as_ref().unwrap_or(&bias).add(&shift)?),
                None => sum,
            })
        })
    }

    fn set_bias(&self, value: &Tensor) -> Result<()> {
        let view = self.view()?;
        match &view.bias {
            Some(bias) if bias.len() == value.len() => bias.set(value.clone()),
            Some(bias) => bias.set(replaced(&bias.value(), 0, &view.rows, value)?),
            None => Ok(()),
        }
    }

    /// Writes `W + ΣΔW` and `b + ΣΔb` into the base; updates stay attached but act no more. The base's own storage is kept.
    ///
    /// # Errors
    /// It is merged already, an update depends on the token, or it is no linear.
    pub fn merge(&self) -> Result<()> {
        let updates = self.updates().clone();
        if updates.unmerged.is_some() {
            return Err(Error::Param {
                name: self.0.path.clone(),
                detail: "is merged already; unmerge first".into(),
            });
        }
        if updates.deltas.iter().any(|d| !d.mergeable()) {
            return Err(Error::Param {
                name: self.0.path.clone(),
                detail: "has an update that depends on the token and cannot be merged".into(),
            });
        }
        let Some(delta) = no_grad(|| self.delta())? else {
            return Ok(());
        };
        let base = self.stored()?;
        let merged = no_grad(|| {
            self.weight()?
                .converted(crate::dtype::DType::F32)?
                .add(&delta)
        })?;
        let (bias, shifted) =
            no_grad(|| -> Result<_> { Ok((self.bias_tensor()?, self.shifted()?)) })?;
        self.set_weight(&merged)?;
        if let Some(shifted) = &shifted {
            self.set_bias(&shifted.detach())?;
        }
        self.updates().unmerged = Some(Unmerged {
            rows: base,
            bias: shifted.and(bias).map(|b| b.detach()),
        });
        Ok(())
    }

    /// Makes a merge final: the updates are gone, and so is the base before it. Nothing happens to an unmerged site.
    pub fn keep_merged(&self) {
        let mut updates = self.updates();
        if updates.unmerged.take().is_some() {
            updates.deltas.clear();
        }
    }

    /// Puts the base back as it was, bit for bit.
    ///
    /// # Errors
    /// The parameter changed its shape meanwhile.
    pub fn unmerge(&self) -> Result<()> {
        let base = self.updates().unmerged.take();
        let Some(Unmerged { rows, bias }) = base else {
            return Ok(());
        };
        self.restore(&rows)?;
        bias.map_or(Ok(()), |bias| no_grad(|| self.set_bias(&bias)))
    }
}

/// `whole` with `part` in the place of its `rows` along `axis`.
fn replaced(whole: &Tensor, axis: usize, rows: &Range<usize>, part: &Tensor) -> Result<Tensor> {
    let size = whole.shape()[axis];
    let before = whole.narrow(axis, 0, rows.start)?;
    let after = whole.narrow(axis, rows.end, size - rows.end)?;
    let parts = [&before, part, &after].map(|p| (p.shape()[axis] > 0).then_some(p));
    Tensor::concat(&parts.into_iter().flatten().collect::<Vec<_>>(), axis)
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Site({}, {:?}, layer {})",
            self.0.path, self.0.role, self.0.layer
        )
    }
}
