//! What all optimisers share: groups, clocks, growth, masks, low-precision weights. A [`Rule`] is the formula alone.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::cpu::{simd, threads};
use crate::device::Device;
use crate::device::cuda::{Formula, Part};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::op::no_grad;
use crate::optim::Schedule;
use crate::param::{Param, RowRange};
use crate::pool::{Tag, tagged};
use crate::tape::Gradients;
use crate::tensor::{LeafId, Tensor};
use crate::weights::Weights;

const GRAIN: usize = 1 << 14;

/// The formula of an optimiser, element by element.
pub trait Rule: Send + Sync {
    /// The coefficients of one step, worked out once per run of rows.
    type Step: Copy + Sync;
    /// Names of the numbers kept per element, at most two.
    fn slots(&self) -> &'static [&'static str];
    /// The coefficients at the learning rate `eta`, with weight decay `decay`, of the `t`-th update from 1.
    fn step(&self, eta: f32, decay: f32, t: u64) -> Self::Step;
    /// The formula by which CUDA devices make the same step, where they have a kernel for it.
    fn on_cuda(&self) -> Option<Formula> {
        None
    }
    /// The coefficients as [`Rule::on_cuda`]'s formula takes them.
    fn coefficients(step: &Self::Step) -> [f32; 3] {
        let _ = step;
        [0.0; 3]
    }
    /// Updates a weight and what is kept of it (0 where [`Rule::slots`] names fewer) with its gradient.
    fn apply(step: &Self::Step, w: &mut f32, first: &mut f32, second: &mut f32, g: f32);
}

/// The learning rate of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// A factor of the rate that the step is given.
    Scaled(f32),
    /// A rate of its own, on a clock that starts when the group joins.
    Own {
        /// The rate where the schedule's factor is 1.
        peak: f32,
        /// The schedule.
        schedule: Schedule,
    },
}

/// Settings of a group of parameters that differ from the optimiser's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Learning rate.
    pub rate: Rate,
    /// Weight decay λ.
    pub weight_decay: f32,
}

/// How parameters of 16 bits are updated. What is kept per element is f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// In an f32 copy that the optimiser keeps; the parameter is its rounding.
    Master,
    /// In the parameter alone: an update below half a unit in the last place is lost.
    Pure,
}

/// What is kept of one parameter.
#[derive(Default)]
struct State {
    slots: Vec<Tensor>,
    master: Option<Tensor>,
    /// The parameter's version after the last update here.
    version: u64,
    updates: u64,
    /// Updates seen when the rows of each birth date were first updated.
    starts: BTreeMap<u64, u64>,
}

/// An optimiser; its state is keyed by the parameters' identities.
pub struct Optimizer<R: Rule> {
    /// The formula and its constants.
    pub rule: R,
    /// Weight decay λ of groups without settings.
    pub weight_decay: f32,
    /// How parameters of 16 bits are updated.
    pub precision: Precision,
    /// Settings, and the step at which the group joined.
    groups: BTreeMap<String, (Group, u64)>,
    masks: HashMap<LeafId, Tensor>,
    state: HashMap<LeafId, State>,
    steps: u64,
}

impl<R: Rule> Optimizer<R> {
    /// An optimiser that has seen nothing.
    pub fn with_rule(rule: R, weight_decay: f32) -> Self {
        Optimizer {
            rule,
            weight_decay,
            precision: Precision::Master,
            groups: BTreeMap::new(),
            masks: HashMap::new(),
            state: HashMap::new(),
            steps: 0,
        }
    }

    /// Gives a group settings of its own. Groups may join at any step: the clock of [`Rate::Own`] starts at the first call.
    pub fn set_group(&mut self, name: &str, group: Group) {
        let joined = self.groups.get(name).map_or(self.steps, |(_, j)| *j);
        self.groups.insert(name.into(), (group, joined));
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Elements where `mask` is 0 keep their value and state, decay included; `None` lifts the mask.
    ///
    /// # Errors
    /// A mask of another shape.
    pub fn set_mask(&mut self, param: &Param, mask: Option<&Tensor>) -> Result<()> {
        match mask {
            None => self.masks.remove(&param.id()),
            Some(mask) => {
                mask.expect_shape("set_mask", param.name(), &param.shape())?;
                let device = kept_on(param.value().device());
                let mask = mask.converted(DType::F32)?.to_device(&device)?;
                self.masks.insert(param.id(), mask.packed()?)
            }
        };
        Ok(())
    }

    /// Forgets what is kept of a parameter: it starts anew with its next gradient.
    pub fn reset(&mut self, param: &Param) {
        self.state.remove(&param.id());
    }

    /// Forgets what is kept of some rows, which then count their updates from here.
    ///
    /// # Errors
    /// Rows that the parameter has not.
    pub fn reset_rows(&mut self, param: &Param, rows: Range<usize>) -> Result<()> {
        param.edit_rows(rows.clone(), |range| range.born = self.steps)?;
        let Some(state) = self.state.get_mut(&param.id()) else {
            return Ok(());
        };
        for slot in &mut state.slots {
            let row: usize = slot.shape().iter().skip(1).product();
            let kept = slot.len();
            let part = (rows.start * row).min(kept)..(rows.end * row).min(kept);
            let zeros = Tensor::zeros(&[part.len()], DType::F32, slot.device())?;
            let (whole, device) = (*slot.layout(), slot.device().clone());
            let mut run = Layout::contiguous(Dims::new(&[part.len()])?);
            run.offset = whole.offset + part.start;
            let placeholder = Tensor::empty(&[0], DType::F32, &device)?;
            let mut view = std::mem::replace(slot, placeholder).relayout(run);
            device.backend().copy(&zeros, &mut view)?;
            *slot = view.relayout(whole);
        }
        Ok(())
    }

    /// Updates every parameter that has a gradient, at the learning rate `lr`.
    ///
    /// # Errors
    /// A gradient or a mask of another shape than its parameter.
    pub fn step(&mut self, params: &[Param], grads: &Gradients, lr: f32) -> Result<()> {
        let _span = crate::trace::span("optimizer");
        let mut on_cuda: Vec<(Device, Vec<Part>)> = vec![];
        for param in params {
            if let Some(grad) = grads.get(param.id()) {
                no_grad(|| self.update(param, grad, lr, &mut on_cuda))?;
            }
        }
        for (device, parts) in &on_cuda {
            if let (Some(cuda), Some(formula)) = (device.as_cuda(), self.rule.on_cuda()) {
                // SAFETY: parameters, slots, masks and gradients are there until this returns, which is after the launch, and each
                // run is of a parameter, or rows of one, of its own.
                unsafe { cuda.update(formula, parts) }?;
            }
        }
        self.steps += 1;
        Ok(())
    }

    /// Learning rate and weight decay of a group now.
    fn settings(&self, group: &str, lr: f32) -> (f32, f32) {
        match self.groups.get(group) {
            None => (lr, self.weight_decay),
            Some((group, joined)) => {
                let rate = match group.rate {
                    Rate::Scaled(factor) => lr * factor,
                    Rate::Own { peak, schedule } => peak * schedule.factor(self.steps - joined),
                };
                (rate, group.weight_decay)
            }
        }
    }

    /// Updates a parameter, or leaves the runs of a CUDA device's in `on_cuda`.
    fn update(
        &mut self,
        param: &Param,
        grad: &Tensor,
        lr: f32,
        on_cuda: &mut Vec<(Device, Vec<Part>)>,
    ) -> Result<()> {
        let shape = param.shape();
        let refuse = |what: &str, got: &[usize]| Error::Param {
            name: param.name().into(),
            detail: format!("is {shape:?}, its {what} {got:?}"),
        };
        if grad.shape() != shape {
            return Err(refuse("gradient", grad.shape()));
        }
        let mask = self.masks.get(&param.id());
        if let Some(mask) = mask
            && mask.shape() != shape
        {
            return Err(refuse("mask", mask.shape()));
        }
        let mut state = self.state.remove(&param.id()).unwrap_or_default();
        let device = param.value().device().clone();
        state.fit(self.rule.slots().len(), &shape, &kept_on(&device))?;
        let (rate, decay) = self.settings(&param.group(), lr);
        let mut ranges = param.ranges();
        if ranges.is_empty() {
            ranges.push(RowRange::whole(shape.first().copied().unwrap_or(1)));
        }
        let row: usize = shape.iter().skip(1).product();
        let mut steps = vec![];
        for range in ranges {
            let start = *state.starts.entry(range.born).or_insert(state.updates);
            if !range.frozen {
                let t = state.updates - start + 1;
                let decay = range.weight_decay.unwrap_or(decay);
                let step = self.rule.step(rate * range.lr_scale, decay, t);
                steps.push((range.rows.start * row..range.rows.end * row, step));
            }
        }
        state.updates += 1;
        if let Some(cuda) = device.as_cuda() {
            if self.rule.on_cuda().is_none() || param.value().dtype() != DType::F32 {
                return Err(Error::Unavailable {
                    op: "an optimiser of one's own, or of 16-bit parameters",
                    device: device.to_string(),
                });
            }
            param.update(|value| {
                for (run, step) in &steps {
                    let step = R::coefficients(step);
                    let part = cuda.part(run, value, &mut state.slots, grad, mask, step)?;
                    match on_cuda.iter_mut().find(|(d, _)| *d == device) {
                        Some((_, parts)) => parts.push(part),
                        None => on_cuda.push((device.clone(), vec![part])),
                    }
                }
                Ok(())
            })?;
            state.version = param.version();
            self.state.insert(param.id(), state);
            return Ok(());
        }
        let grad = grad.converted(DType::F32)?.to_device(&Device::cpu())?;
        let grad = grad.packed()?;
        let (g, mask) = (
            grad.as_slice::<f32>()?,
            mask.map(Tensor::as_slice::<f32>).transpose()?,
        );
        let value = param.value();
        if value.device().is_cpu() && value.dtype() == DType::F32 {
            drop(value);
            param.update(|value| apply_all::<R>(&steps, value, &mut state.slots, g, mask))?;
        } else {
            let mut wide = state.widen(&value, param.version(), self.precision)?;
            apply_all::<R>(&steps, &mut wide, &mut state.slots, g, mask)?;
            drop(value);
            param.update(|value| {
                let moved = wide.to_device(value.device())?;
                moved.device().backend().copy(&moved, value)
            })?;
            state.master = (self.precision == Precision::Master).then_some(wide);
        }
        state.version = param.version();
        self.state.insert(param.id(), state);
        Ok(())
    }

    /// All that a later [`Optimizer::load_state`] needs to go on bit for bit, but masks and groups, which are the caller's.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn state(&self, params: &[Param]) -> Result<Weights> {
        let mut out = Weights::default();
        let counts = |values: &[i64]| Tensor::from_slice(values, &[values.len()], &Device::cpu());
        out.insert("optimizer.steps", counts(&[self.steps as i64])?);
        for (name, (_, joined)) in &self.groups {
            out.insert(format!("group.{name}"), counts(&[*joined as i64])?);
        }
        for param in params {
            let Some(state) = self.state.get(&param.id()) else {
                continue;
            };
            for (slot, tensor) in self.rule.slots().iter().zip(&state.slots) {
                out.insert(format!("{}.{slot}", param.name()), tensor.deep_clone()?);
            }
            if let Some(master) = &state.master {
                out.insert(format!("{}.master", param.name()), master.deep_clone()?);
            }
            let starts = state
                .starts
                .iter()
                .flat_map(|(b, s)| [*b as i64, *s as i64]);
            let clock: Vec<i64> = std::iter::once(state.updates as i64)
                .chain(starts)
                .collect();
            out.insert(format!("{}.clock", param.name()), counts(&clock)?);
        }
        Ok(out)
    }

    /// Goes on from what [`Optimizer::state`] gave; parameters are known by their names.
    ///
    /// # Errors
    /// A state that lacks its parts.
    pub fn load_state(&mut self, params: &[Param], saved: &Weights) -> Result<()> {
        let find = |name: String| {
            saved.get(&name).cloned().ok_or_else(|| Error::Param {
                name,
                detail: "missing in the optimiser's state".into(),
            })
        };
        let counts = |t: &Tensor| -> Result<Vec<u64>> {
            Ok(t.to_vec::<i64>()?.into_iter().map(|x| x as u64).collect())
        };
        self.steps = counts(&find("optimizer.steps".into())?)?.iter().sum();
        for (name, (_, joined)) in &mut self.groups {
            if let Some(t) = saved.get(&format!("group.{name}")) {
                *joined = counts(t)?.iter().sum();
            }
        }
        self.state.clear();
        for param in params {
            let Some(clock) = saved.get(&format!("{}.clock", param.name())) else {
                continue;
            };
            let clock = counts(clock)?;
            let device = kept_on(param.value().device());
            let own =
                |name: String| tagged(Tag::State, || find(name)?.deep_clone()?.to_device(&device));
            let master = format!("{}.master", param.name());
            let state = State {
                slots: (self.rule.slots().iter())
                    .map(|slot| own(format!("{}.{slot}", param.name())))
                    .collect::<Result<_>>()?,
                master: saved.get(&master).map(Tensor::deep_clone).transpose()?,
                version: param.version(),
                updates: clock.first().copied().unwrap_or(0),
                starts: clock
                    .get(1..)
                    .unwrap_or_default()
                    .chunks_exact(2)
                    .map(|pair| (pair[0], pair[1]))
                    .collect(),
            };
            self.state.insert(param.id(), state);
        }
        Ok(())
    }
}

impl State {
    /// Makes the slots, or gives them zeros for the rows that came since.
    fn fit(&mut self, slots: usize, shape: &[usize], device: &Device) -> Result<()> {
        tagged(Tag::State, || {
            for slot in &mut self.slots {
                let rows = slot.shape().first().copied().unwrap_or(0);
                if slot.shape() == shape {
                    continue;
                }
                if shape.len() != slot.rank() || shape[0] < rows || shape[1..] != slot.shape()[1..]
                {
                    return Err(Error::shape(
                        "optimizer",
                        format!(
                            "a parameter of {:?} became {shape:?}; only rows may be added; `reset` it first",
                            slot.shape()
                        ),
                    ));
                }
                *slot = slot.pad(0, 0, shape[0] - rows)?;
            }
            while self.slots.len() < slots {
                self.slots.push(Tensor::zeros(shape, DType::F32, device)?);
            }
            Ok(())
        })
    }

    /// The value to update in f32. The master copy holds wherever it still rounds to the parameter, which somebody may have
    /// set or grown since.
    fn widen(&mut self, value: &Tensor, version: u64, precision: Precision) -> Result<Tensor> {
        let master = (self.master.take()).filter(|_| precision == Precision::Master);
        if let Some(master) = master {
            if version == self.version {
                return Ok(master);
            }
            let rounded = master.converted(value.dtype())?.converted(DType::F32)?;
            let mut wide = Self::copied(value)?;
            let kept = (master.as_slice::<f32>()?.iter()).zip(rounded.as_slice::<f32>()?);
            for (w, (m, r)) in wide.as_mut_slice::<f32>()?.iter_mut().zip(kept) {
                if w == r {
                    *w = *m;
                }
            }
            return Ok(wide);
        }
        Self::copied(value)
    }

    /// The value in f32 on the host.
    fn copied(value: &Tensor) -> Result<Tensor> {
        tagged(Tag::State, || {
            value
                .converted(DType::F32)?
                .to_device(&Device::cpu())?
                .deep_clone()
        })
    }
}

/// Where what an optimiser keeps of a parameter lives: beside it where it is updated there, else on the CPU.
fn kept_on(device: &Device) -> Device {
    if device.as_cuda().is_some() {
        device.clone()
    } else {
        Device::cpu()
    }
}

/// Applies the steps of all row ranges to a contiguous f32 value on the CPU.
fn apply_all<R: Rule>(
    steps: &[(Range<usize>, R::Step)],
    value: &mut Tensor,
    slots: &mut [Tensor],
    g: &[f32],
    mask: Option<&[f32]>,
) -> Result<()> {
    let w = value.as_mut_slice::<f32>()?;
    let mut slots = slots.iter_mut().map(Tensor::as_mut_slice::<f32>);
    let (first, second) = (
        slots.next().transpose()?.unwrap_or_default(),
        slots.next().transpose()?.unwrap_or_default(),
    );
    let (first, second) = (
        threads::Disjoint::new(first),
        threads::Disjoint::new(second),
    );
    for (part, step) in steps {
        threads::par_rows(&mut w[part.clone()], 1, GRAIN, |at, w| {
            let range = part.start + at..part.start + at + w.len();
            let of = |slot: &threads::Disjoint<'_, f32>| {
                if slot.is_empty() { 0..0 } else { range.clone() }
            };
            // SAFETY: row ranges and the pieces of `par_rows` do not overlap.
            let (m, v) = unsafe { (first.slice(of(&first)), second.slice(of(&second))) };
            let (g, mask) = (&g[range.clone()], mask.map(|mask| &mask[range.clone()]));
            simd::dispatch(
                #[inline(always)]
                || apply_run::<R>(step, w, m, v, g, mask),
            );
        });
    }
    Ok(())
}

/// One loop per number of slots, so that each vectorises.
#[inline(always)]
fn apply_run<R: Rule>(
    step: &R::Step,
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    g: &[f32],
    mask: Option<&[f32]>,
) {
    let (mut no_m, mut no_v) = (0.0, 0.0);
    if let Some(mask) = mask {
        for i in (0..w.len()).filter(|i| mask[*i] != 0.0) {
            let (m, v) = (
                m.get_mut(i).unwrap_or(&mut no_m),
                v.get_mut(i).unwrap_or(&mut no_v),
            );
            R::apply(step, &mut w[i], m, v, g[i]);
        }
    } else if !v.is_empty() {
        for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
            R::apply(step, w, m, v, *g);
        }
    } else if !m.is_empty() {
        for ((w, m), g) in w.iter_mut().zip(m).zip(g) {
            R::apply(step, w, m, &mut no_v, *g);
        }
    } else {
        for (w, g) in w.iter_mut().zip(g) {
            R::apply(step, w, &mut no_m, &mut no_v, *g);
        }
    }
}
