//! Parameters: an identity, a value with a version, how it is trained, and storage that can grow.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::pool::{Tag, tagged};
use crate::tape::{Edge, GradVisitor, Leaf};
use crate::tensor::{LeafId, Tensor};

/// What happens to a parameter's gradient.
#[derive(Clone)]
pub enum Training {
    /// None is computed or kept.
    Frozen,
    /// It is returned by backward.
    Trained,
    /// It is streamed to a visitor tile by tile and never stored; the value does not train.
    Observed(Arc<dyn GradVisitor>),
}

/// How a run of rows of a growing parameter is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct RowRange {
    /// Rows along axis 0.
    pub rows: Range<usize>,
    /// The optimiser step at which they were made: their bias correction counts the updates since.
    pub born: u64,
    /// Factor of the learning rate.
    pub lr_scale: f32,
    /// Weight decay in place of the group's.
    pub weight_decay: Option<f32>,
    /// Whether the rows keep their values.
    pub frozen: bool,
}

impl RowRange {
    /// Rows `0..rows` with their group's settings.
    pub fn whole(rows: usize) -> Self {
        RowRange {
            rows: 0..rows,
            born: 0,
            lr_scale: 1.0,
            weight_decay: None,
            frozen: false,
        }
    }
}

/// That a parameter was read, and in which version.
#[derive(Clone)]
pub(crate) struct Read {
    name: Arc<str>,
    seen: u64,
    now: Arc<AtomicU64>,
}

impl Read {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error if the parameter moved since.
    pub fn unchanged(&self) -> Result<()> {
        if self.now.load(Relaxed) == self.seen {
            return Ok(());
        }
        Err(Error::Param {
            name: self.name.to_string(),
            detail: "was changed between forward and backward; sweep before the optimiser steps"
                .into(),
        })
    }
}

thread_local! {
    /// Reads of parameters on the tape, while somebody asks for them.
    static READS: RefCell<Option<Vec<Read>>> = const { RefCell::new(None) };
}

/// Runs `f` and returns which parameters it read for the tape.
pub(crate) fn log_reads<T>(f: impl FnOnce() -> T) -> (T, Vec<Read>) {
    let outer = READS.replace(Some(vec![]));
    let value = f();
    let own = READS.take().unwrap_or_default();
    READS.set(outer.map(|mut reads| {
        reads.extend(own.iter().cloned());
        reads
    }));
    (value, own)
}

/// A named value that can be trained. Cloning shares it.
#[derive(Clone)]
pub struct Param(Arc<Slot>);

struct Slot {
    id: LeafId,
    name: Arc<str>,
    version: Arc<AtomicU64>,
    state: RwLock<State>,
}

struct State {
    value: Tensor,
    training: Training,
    group: Arc<str>,
    ranges: Vec<RowRange>,
    /// Rows that the storage has room for.
    capacity: usize,
}

impl Param {
    /// A trained parameter in the group `default`.
    pub fn new(name: &str, value: Tensor) -> Self {
        value.retag(Tag::Weights);
        let capacity = value.shape().first().copied().unwrap_or(1);
        let state = State {
            value: value.detach(),
            training: Training::Trained,
            group: "default".into(),
            ranges: vec![],
            capacity,
        };
        Param(Arc::new(Slot {
            id: LeafId::fresh(),
            name: name.into(),
            version: Arc::default(),
            state: RwLock::new(state),
        }))
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.state.write().unwrap_or_else(|e| e.into_inner())
    }

    /// Its identity in [`crate::tape::Gradients`] and optimiser states.
    pub fn id(&self) -> LeafId {
        self.0.id
    }

    /// Full path.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The value as ops take it: a leaf of the tape unless frozen.
    pub fn tensor(&self) -> Tensor {
        let state = self.read();
        let visitor = match &state.training {
            Training::Frozen => return state.value.clone(),
            Training::Trained => None,
            Training::Observed(visitor) => Some(visitor.clone()),
        };
        let read = Read {
            name: self.0.name.clone(),
            seen: self.0.version.load(Relaxed),
            now: self.0.version.clone(),
        };
        READS.with_borrow_mut(|reads| {
            if let Some(reads) = reads {
                reads.push(read.clone());
            }
        });
        let stamp = Some(read);
        state
            .value
            .clone()
            .with_edge(Some(Edge::Leaf(Arc::new(Leaf {
                id: self.0.id,
                stamp,
                visitor,
            }))))
    }

    /// The value outside the tape; shares storage until the next update.
    pub fn value(&self) -> Tensor {
        self.read().value.clone()
    }

    /// Sizes.
    pub fn shape(&self) -> Vec<usize> {
        self.read().value.shape().to_vec()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.read().value.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts updates; backward refuses a value that moved since it was read.
    pub fn version(&self) -> u64 {
        self.0.version.load(Relaxed)
    }

    /// How it is trained.
    pub fn training(&self) -> Training {
        self.read().training.clone()
    }

    /// Whether backward returns its gradient.
    pub fn is_trained(&self) -> bool {
        matches!(self.read().training, Training::Trained)
    }

    /// Chooses how it is trained.
    pub fn set_training(&self, training: Training) {
        self.write().training = training;
    }

    /// Trains or freezes it.
    pub fn set_trained(&self, on: bool) {
        self.set_training(if on {
            Training::Trained
        } else {
            Training::Frozen
        });
    }

    /// The optimiser's group.
    pub fn group(&self) -> Arc<str> {
        self.read().group.clone()
    }

    /// Moves it to another group.
    pub fn set_group(&self, group: &str) {
        self.write().group = group.into();
    }

    /// Rows with settings of their own; empty for a parameter that never grew.
    pub fn ranges(&self) -> Vec<RowRange> {
        self.read().ranges.clone()
    }

    /// Replaces the settings per row range.
    pub fn set_ranges(&self, ranges: Vec<RowRange>) {
        self.write().ranges = ranges;
    }

    /// Changes the settings of some rows, which become a range of their own.
    ///
    /// # Errors
    /// Rows that the parameter has not.
    pub fn edit_rows(&self, rows: Range<usize>, f: impl Fn(&mut RowRange)) -> Result<()> {
        let mut state = self.write();
        let count = state.value.shape().first().copied().unwrap_or(1);
        if rows.start > rows.end || rows.end > count {
            return Err(Error::Param {
                name: self.name().into(),
                detail: format!("has {count} rows, asked for {rows:?}"),
            });
        }
        let old = match std::mem::take(&mut state.ranges) {
            ranges if ranges.is_empty() => vec![RowRange::whole(count)],
            ranges => ranges,
        };
        for range in old {
            let cuts = [rows.start, rows.end].map(|c| c.clamp(range.rows.start, range.rows.end));
            let parts = [
                range.rows.start..cuts[0],
                cuts[0]..cuts[1],
                cuts[1]..range.rows.end,
            ];
            for (i, part) in parts.into_iter().enumerate().filter(|(_, p)| !p.is_empty()) {
                let mut range = RowRange {
                    rows: part,
                    ..range.clone()
                };
                if i == 1 {
                    f(&mut range);
                }
                state.ranges.push(range);
            }
        }
        Ok(())
    }

    /// Puts another value of the same shape and type in place.
    ///
    /// # Errors
    /// Another shape or element type.
    pub fn set(&self, value: Tensor) -> Result<()> {
        let mut state = self.write();
        if value.shape() != state.value.shape() || value.dtype() != state.value.dtype() {
            let detail = format!(
                "holds {:?} {}, given {:?} {}",
                state.value.shape(),
                state.value.dtype(),
                value.shape(),
                value.dtype()
            );
            return Err(Error::Param {
                name: self.name().into(),
                detail,
            });
        }
        value.retag(Tag::Weights);
        state.capacity = value.shape().first().copied().unwrap_or(1);
        state.value = value.detach();
        self.0.version.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Holds the value in another element type from now on, rounded to nearest: bf16 or f16 for a frozen base.
    ///
    /// # Errors
    /// None but those of the device.
    pub fn convert(&self, dtype: DType) -> Result<()> {
        let mut state = self.write();
        if state.value.dtype() != dtype {
            state.value = tagged(Tag::Weights, || state.value.converted(dtype))?;
            state.capacity = state.value.shape().first().copied().unwrap_or(1);
            self.0.version.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Changes the value in place. Snapshots that share its storage keep the old elements.
    ///
    /// # Errors
    /// Those of `f`; the value is then whatever `f` left.
    pub fn update<T>(&self, f: impl FnOnce(&mut Tensor) -> Result<T>) -> Result<T> {
        let mut state = self.write();
        if !state.value.is_unique() {
            state.value = tagged(Tag::Weights, || state.value.deep_clone())?;
            state.capacity = state.value.shape().first().copied().unwrap_or(1);
        }
        self.0.version.fetch_add(1, Relaxed);
        f(&mut state.value)
    }

    /// Appends rows along axis 0, in place while the storage has room (capacity doubles when it has not).
    ///
    /// # Errors
    /// Rows of another shape or type.
    pub fn grow(&self, rows: &Tensor, born: u64) -> Result<()> {
        let mut state = self.write();
        let old = state.value.layout().shape;
        let fits = rows.rank() == old.len()
            && rows.rank() > 0
            && rows.shape()[1..] == old[1..]
            && rows.dtype() == state.value.dtype();
        if !fits {
            let detail = format!(
                "cannot grow {:?} by rows {:?} {}",
                old,
                rows.shape(),
                rows.dtype()
            );
            return Err(Error::Param {
                name: self.name().into(),
                detail,
            });
        }
        let mut shape = old;
        shape[0] += rows.shape()[0];
        let whole = Layout::contiguous(shape);
        if shape[0] > state.capacity || !state.value.is_unique() {
            let mut room = shape;
            room[0] = shape[0].next_power_of_two();
            let mut target = tagged(Tag::Weights, || {
                Tensor::empty(&room, rows.dtype(), rows.device())
            })?
            .relayout(Layout::contiguous(old));
            rows.device().backend().copy(&state.value, &mut target)?;
            state.value = target;
            state.capacity = room[0];
        }
        let mut tail = whole;
        tail.offset = old[0] * whole.strides[0];
        tail.shape = Dims::new(rows.shape())?;
        let placeholder = Tensor::empty(&[0], rows.dtype(), rows.device())?;
        let mut view = std::mem::replace(&mut state.value, placeholder).relayout(tail);
        let copied = rows.device().backend().copy(rows, &mut view);
        state.value = view.relayout(if copied.is_ok() {
            whole
        } else {
            Layout::contiguous(old)
        });
        copied?;
        if state.ranges.is_empty() && old[0] > 0 {
            state.ranges.push(RowRange::whole(old[0]));
        }
        state.ranges.push(RowRange {
            rows: old[0]..shape[0],
            born,
            ..RowRange::whole(0)
        });
        self.0.version.fetch_add(1, Relaxed);
        Ok(())
    }
}

impl std::fmt::Debug for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Param({} {:?})", self.name(), self.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::backward;

    #[test]
    fn growth_keeps_old_rows_and_marks_new_ones() {
        let p = Param::new("p", Tensor::from([[1.0, 2.0]]));
        let snapshot = p.value();
        for step in 1..5 {
            p.grow(&Tensor::from([[step as f32, 0.5]]), step).unwrap();
        }
        assert_eq!(
            p.value().to_vec::<f32>().unwrap(),
            [1.0, 2.0, 1.0, 0.5, 2.0, 0.5, 3.0, 0.5, 4.0, 0.5]
        );
        assert_eq!(snapshot.to_vec::<f32>().unwrap(), [1.0, 2.0]);
        assert_eq!(
            p.ranges()
                .iter()
                .map(|r| (r.rows.clone(), r.born))
                .collect::<Vec<_>>(),
            [(0..1, 0), (1..2, 1), (2..3, 2), (3..4, 3), (4..5, 4)]
        );
    }

    #[test]
    fn backward_refuses_a_value_that_moved() {
        let p = Param::new("w", Tensor::from([1.0, 2.0]));
        let loss = p.tensor().square().unwrap().sum_all().unwrap();
        p.set(Tensor::from([0.0, 0.0])).unwrap();
        let message = backward(&loss).err().unwrap().to_string();
        assert!(
            message.starts_with("parameter `w`: was changed between forward and backward"),
            "{message}"
        );
    }

    #[test]
    fn a_frozen_parameter_has_no_gradient_and_saves_nothing() {
        let (w, b) = (
            Param::new("w", Tensor::from([3.0, 4.0])),
            Param::new("b", Tensor::from([1.0, 1.0])),
        );
        w.set_trained(false);
        let loss = w.tensor().mul(&b.tensor()).unwrap().sum_all().unwrap();
        let grads = backward(&loss).unwrap();
        assert!(grads.get(w.id()).is_none());
        assert_eq!(
            grads.get(b.id()).unwrap().to_vec::<f32>().unwrap(),
            [3.0, 4.0]
        );
    }
}
