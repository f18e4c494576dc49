//! The tape: nodes with increasing ids, swept from the highest down.
//!
//! A node owns its op, what the op saved and edges to its inputs' nodes; a tensor owns its node. Nothing is global, so
//! a forward pass that is never swept frees itself with its tensors. Neither sweep nor drop recurses.

use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::finite;
use crate::layout::{Dims, Layout};
use crate::op::{Op, Saved, with_recording};
use crate::param::Read;
use crate::tensor::{LeafId, Tensor};

/// Sees the gradient of a frozen matrix tile by tile as backward computes it; the matrix is never stored.
pub trait GradVisitor: Send + Sync {
    /// Rows `first_row..` of the gradient, `[rows, n]`. Tiles come in increasing row order, each row once per use of the weight.
    fn tile(&self, first_row: usize, grad: &Tensor) -> Result<()>;
}

/// Where a tensor came from.
#[derive(Clone)]
pub(crate) enum Edge {
    Leaf(Arc<Leaf>),
    Node(Arc<Node>),
}

/// An end of the tape.
pub(crate) struct Leaf {
    pub id: LeafId,
    /// For a parameter: what was read.
    pub stamp: Option<Read>,
    /// Set where the gradient is streamed instead of kept.
    pub visitor: Option<Arc<dyn GradVisitor>>,
}

impl Edge {
    pub fn leaf(id: LeafId) -> Self {
        Edge::Leaf(Arc::new(Leaf {
            id,
            stamp: None,
            visitor: None,
        }))
    }

    pub fn leaf_id(&self) -> Option<LeafId> {
        match self {
            Edge::Leaf(leaf) => Some(leaf.id),
            Edge::Node(_) => None,
        }
    }

    /// The parameter's name, where this is one.
    pub fn leaf_name(&self) -> Option<&str> {
        match self {
            Edge::Leaf(leaf) => Some(leaf.stamp.as_ref()?.name()),
            Edge::Node(_) => None,
        }
    }
}

/// The id that the next node will exceed or have: all nodes made from now on do.
pub(crate) fn next_node() -> u64 {
    NEXT_NODE.load(Relaxed)
}

static NEXT_NODE: AtomicU64 = AtomicU64::new(0);

/// One recorded application of an op.
pub(crate) struct Node {
    id: u64,
    state: Mutex<Option<State>>,
}

struct State {
    op: Arc<dyn Op>,
    saved: Saved,
    inputs: Vec<Input>,
    /// Where the op was applied, known while values are checked.
    place: Option<String>,
}

struct Input {
    edge: Option<Edge>,
    shape: Dims,
    device: Device,
}

impl Node {
    pub fn edge(op: Arc<dyn Op>, saved: Saved, inputs: &[&Tensor], needs: &[bool]) -> Edge {
        let inputs = inputs
            .iter()
            .zip(needs)
            .map(|(x, need)| Input {
                edge: if *need { x.edge().cloned() } else { None },
                shape: x.layout().shape,
                device: x.device().clone(),
            })
            .collect();
        Edge::Node(Arc::new(Node {
            id: NEXT_NODE.fetch_add(1, Relaxed),
            state: Mutex::new(Some(State {
                op,
                saved,
                inputs,
                place: finite::place(),
            })),
        }))
    }

    fn take(&self) -> Option<State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner()).take()
    }
}

impl Drop for Node {
    /// Unlinks the chain below with a work list: a deep graph must not overflow the stack.
    fn drop(&mut self) {
        let mut states: Vec<State> = self.take().into_iter().collect();
        while let Some(state) = states.pop() {
            for input in state.inputs {
                if let Some(Edge::Node(node)) = input.edge
                    && let Some(node) = Arc::into_inner(node)
                {
                    states.extend(node.take());
                }
            }
        }
    }
}

/// Gradients by leaf: a value that can be kept, added, scaled, clipped and given to optimisers.
#[derive(Default, Clone)]
pub struct Gradients(BTreeMap<LeafId, Tensor>);

impl Gradients {
    /// The gradient of a [`Tensor::trained`] tensor, if it was reached.
    pub fn of(&self, x: &Tensor) -> Option<&Tensor> {
        self.get(x.edge()?.leaf_id()?)
    }

    /// The gradient of a leaf, if it was reached.
    pub fn get(&self, id: LeafId) -> Option<&Tensor> {
        self.0.get(&id)
    }

    /// Sets or replaces a leaf's gradient.
    pub fn set(&mut self, id: LeafId, grad: Tensor) {
        self.0.insert(id, grad);
    }

    /// Removes and returns a leaf's gradient.
    pub fn remove(&mut self, id: LeafId) -> Option<Tensor> {
        self.0.remove(&id)
    }

    /// Removes and returns the gradient of a [`Tensor::trained`] tensor.
    pub fn take(&mut self, x: &Tensor) -> Option<Tensor> {
        self.remove(x.edge()?.leaf_id()?)
    }

    /// Leaves and gradients, by increasing id.
    pub fn iter(&self) -> impl Iterator<Item = (LeafId, &Tensor)> {
        self.0.iter().map(|(id, g)| (*id, g))
    }

    /// Number of leaves.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no leaf was reached.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `self += alpha · other`: gradient accumulation over micro-batches.
    pub fn add_scaled(&mut self, other: Gradients, alpha: f32) -> Result<()> {
        for (id, g) in other.0 {
            let scaled = if alpha == 1.0 {
                g
            } else {
                g.affine(alpha as f64, 0.0)?
            };
            let sum = add_into(self.0.remove(&id), scaled)?;
            self.0.insert(id, sum);
        }
        Ok(())
    }

    /// Multiplies every gradient by `factor`.
    pub fn scale(&mut self, factor: f32) -> Result<()> {
        for g in self.0.values_mut() {
            *g = g.affine(factor as f64, 0.0)?;
        }
        Ok(())
    }
}

impl IntoIterator for Gradients {
    type Item = (LeafId, Tensor);
    type IntoIter = std::collections::btree_map::IntoIter<LeafId, Tensor>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// `acc + grad`, in place where either is unshared.
fn add_into(acc: Option<Tensor>, mut grad: Tensor) -> Result<Tensor> {
    let Some(mut acc) = acc else { return Ok(grad) };
    if acc.is_contiguous() && acc.is_unique() {
        acc.device()
            .clone()
            .backend()
            .accumulate(&mut acc, &grad, 1.0)?;
        Ok(acc)
    } else if grad.is_contiguous() && grad.is_unique() {
        grad.device()
            .clone()
            .backend()
            .accumulate(&mut grad, &acc, 1.0)?;
        Ok(grad)
    } else {
        acc.add(&grad)
    }
}

#[derive(Default)]
struct Pending {
    heap: BinaryHeap<u64>,
    nodes: HashMap<u64, (Arc<Node>, Tensor)>,
    leaves: Gradients,
    /// Nodes below it belong to another sweep.
    first: u64,
}

/// Where an op's backward puts gradients.
pub struct Grads<'a> {
    inputs: &'a [Input],
    pending: &'a mut Pending,
}

impl Grads<'_> {
    /// Whether a gradient of input `i` is wanted.
    pub fn needs(&self, i: usize) -> bool {
        self.inputs[i].edge.is_some()
    }

    /// Whether there is an input `i` (optional operands come last).
    pub fn has(&self, i: usize) -> bool {
        i < self.inputs.len()
    }

    /// Shape of input `i`.
    pub fn shape(&self, i: usize) -> &[usize] {
        &self.inputs[i].shape
    }

    /// The visitor to stream input `i`'s gradient to instead of adding it, if one observes it.
    pub fn visitor(&self, i: usize) -> Option<Arc<dyn GradVisitor>> {
        match self.inputs[i].edge.as_ref()? {
            Edge::Leaf(leaf) => leaf.visitor.clone(),
            Edge::Node(_) => None,
        }
    }

    /// Adds to the gradient of input `i`; ignored where none is wanted.
    pub fn add(&mut self, i: usize, grad: Tensor) -> Result<()> {
        if !self.needs(i) {
            return Ok(());
        }
        let wanted = self.inputs[i].shape;
        if *grad.shape() != *wanted {
            return Err(Error::Backward(format!(
                "gradient of input {i} has shape {:?}, the input {wanted:?}",
                grad.shape()
            )));
        }
        self.update(i, |acc| add_into(acc, grad))
    }

    /// Lets `f(out, beta)` compute `out = beta·out + gradient` with no buffer between; `out` is contiguous f32.
    pub fn write(
        &mut self,
        i: usize,
        f: impl FnOnce(&mut Tensor, f32) -> Result<()>,
    ) -> Result<()> {
        if !self.needs(i) {
            return Ok(());
        }
        let (shape, device) = (self.inputs[i].shape, self.inputs[i].device.clone());
        self.update(i, |acc| {
            if let Some(acc) = acc {
                let mut acc = acc.into_own()?;
                f(&mut acc, 1.0)?;
                return Ok(acc);
            }
            let mut out = Tensor::empty(&shape, DType::F32, &device)?;
            f(&mut out, 0.0)?;
            Ok(out)
        })
    }

    /// Adds `grad` to the part of input `i`'s gradient that `region` (a layout over the contiguous input) shows.
    pub fn add_region(&mut self, i: usize, region: Layout, grad: &Tensor) -> Result<()> {
        let (shape, device) = (self.inputs[i].shape, self.inputs[i].device.clone());
        self.update(i, |acc| {
            let acc = match acc {
                None => Tensor::zeros(&shape, DType::F32, &device)?,
                Some(acc) => acc.into_own()?,
            };
            let mut view = acc.relayout(region);
            device.backend().accumulate(&mut view, grad, 1.0)?;
            Ok(view.relayout(Layout::contiguous(shape)))
        })
    }

    /// Adds to the gradient of a leaf that is not among the inputs (checkpointing).
    pub fn add_leaf(&mut self, id: LeafId, grad: Tensor) -> Result<()> {
        let sum = add_into(self.pending.leaves.0.remove(&id), grad)?;
        self.pending.leaves.0.insert(id, sum);
        Ok(())
    }

    fn update(&mut self, i: usize, f: impl FnOnce(Option<Tensor>) -> Result<Tensor>) -> Result<()> {
        let Some(edge) = &self.inputs[i].edge else {
            return Ok(());
        };
        self.pending.update(edge, f)
    }
}

impl Pending {
    /// Every gradient of `inputs` was finite before the op `name` added to it.
    fn check(&self, inputs: &[Input], name: &str, place: Option<String>) -> Result<()> {
        for edge in inputs.iter().filter_map(|input| input.edge.as_ref()) {
            if let Some(grad) = self.collected(edge) {
                finite::check_made(&format!("backward of {name}"), place.clone(), false, grad)?;
            }
        }
        Ok(())
    }

    /// What has been collected for an edge.
    fn collected(&self, edge: &Edge) -> Option<&Tensor> {
        match edge {
            Edge::Leaf(leaf) => self.leaves.get(leaf.id),
            Edge::Node(node) => self.nodes.get(&node.id).map(|(_, grad)| grad),
        }
    }

    fn update(
        &mut self,
        edge: &Edge,
        f: impl FnOnce(Option<Tensor>) -> Result<Tensor>,
    ) -> Result<()> {
        match edge {
            Edge::Leaf(leaf) => {
                if let Some(stamp) = &leaf.stamp {
                    stamp.unchanged()?;
                }
                if let Some(visitor) = &leaf.visitor {
                    return visitor.tile(0, &f(None)?);
                }
                let grad = f(self.leaves.0.remove(&leaf.id))?.packed()?;
                self.leaves.0.insert(leaf.id, grad);
            }
            Edge::Node(node) if node.id < self.first => {
                return Err(Error::Backward(
                    "recompute: its function uses a tensor of the tape that is not among its inputs; pass it as one".into(),
                ));
            }
            Edge::Node(node) => {
                let grad = match self.nodes.remove(&node.id) {
                    Some((_, acc)) => f(Some(acc))?,
                    None => {
                        self.heap.push(node.id);
                        f(None)?
                    }
                };
                self.nodes.insert(node.id, (node.clone(), grad));
            }
        }
        Ok(())
    }
}

/// Gradients of a scalar loss. The tape below it is consumed.
///
/// # Errors
/// The loss is not a scalar, nothing below it is trained, or it was swept before.
pub fn backward(loss: &Tensor) -> Result<Gradients> {
    if loss.len() != 1 {
        return Err(Error::Backward(format!(
            "the loss has shape {:?}; reduce it to one element, or give `backward_with` its gradient",
            loss.shape()
        )));
    }
    backward_with(
        loss,
        Tensor::full(loss.shape(), 1.0, DType::F32, loss.device())?,
    )
}

/// Gradients of `Σ y ⊙ dy`. The tape below `y` is consumed.
///
/// # Errors
/// As [`backward`], or `dy` is not of y's shape.
pub fn backward_with(y: &Tensor, dy: Tensor) -> Result<Gradients> {
    sweep(y, dy, 0)
}

/// [`backward_with`] over the nodes from `first` on; reaching an older one is an error.
pub(crate) fn sweep(y: &Tensor, dy: Tensor, first: u64) -> Result<Gradients> {
    let edge = y.edge().ok_or_else(|| Error::Backward("nothing below this tensor is trained: mark parameters trainable, and do not compute it inside `no_grad`".into()))?;
    dy.expect_shape("backward", "dy", y.shape())?;
    let _span = crate::trace::span("backward");
    with_recording(false, || {
        finite::inside(|| {
            let mut pending = Pending {
                first,
                ..Pending::default()
            };
            if finite::checking() {
                finite::check_operands("backward", &[&dy])?;
            }
            pending.update(edge, |_| Ok(dy))?;
            while let Some(id) = pending.heap.pop() {
                let Some((node, dy)) = pending.nodes.remove(&id) else {
                    continue;
                };
                let state = node.take().ok_or_else(|| {
                    Error::Backward("this graph was swept before; its saved values are gone".into())
                })?;
                let _span = crate::trace::span(state.op.name());
                let mut grads = Grads {
                    inputs: &state.inputs,
                    pending: &mut pending,
                };
                state.op.backward(state.saved, dy, &mut grads)?;
                if finite::checking() {
                    pending.check(&state.inputs, state.op.name(), state.place)?;
                }
            }
            Ok(pending.leaves)
        })
    })
}

#[cfg(test)]
mod tests;
