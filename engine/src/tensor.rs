//! The tensor: a cheap handle on strided elements of one device, with an edge into the tape when a gradient is wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::device::{Content, Device, Storage};
use crate::dtype::{DType, Element, from_bytes};
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::pool::{PoolBuf, Tag};
use crate::saved::Recipe;
use crate::tape::Edge;

/// Identity of something that collects a gradient: a parameter or a free trained tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafId(u64);

impl LeafId {
    /// A new identity.
    pub(crate) fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        LeafId(NEXT.fetch_add(1, Relaxed))
    }
}

/// An n-dimensional array. Cloning shares the elements.
#[derive(Clone)]
pub struct Tensor(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    storage: Arc<Storage>,
    layout: Layout,
    dtype: DType,
    device: Device,
    edge: Option<Edge>,
    /// How to make the storage's elements again.
    recipe: Option<Arc<Recipe>>,
}

impl Tensor {
    // ---- construction

    /// Elements of arbitrary value: the caller writes them all.
    pub fn empty(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        Self::alloc(shape, dtype, device, Content::Arbitrary)
    }

    /// All 0.
    pub fn zeros(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        Self::alloc(shape, dtype, device, Content::Zeros)
    }

    /// All `value`.
    pub fn full(shape: &[usize], value: f64, dtype: DType, device: &Device) -> Result<Self> {
        if value == 0.0 {
            return Self::zeros(shape, dtype, device);
        }
        let mut out = Self::empty(shape, dtype, device)?;
        let mut source = Self::empty(&[], dtype, device)?;
        device
            .backend()
            .write(&mut source, DType::F64, bytemuck::bytes_of(&value))?;
        let source = source.broadcast_view("full", &out.layout().shape)?;
        device.backend().copy(&source, &mut out)?;
        Ok(out)
    }

    /// From host elements in row-major order.
    ///
    /// # Errors
    /// The count differs from the shape's.
    pub fn from_slice<T: Element>(values: &[T], shape: &[usize], device: &Device) -> Result<Self> {
        let mut out = Self::alloc(shape, T::DTYPE, device, Content::FromHost)?;
        if values.len() != out.len() {
            return Err(Error::shape(
                "from_slice",
                format!(
                    "{} values for shape {shape:?}, which holds {}",
                    values.len(),
                    out.len()
                ),
            ));
        }
        device
            .backend()
            .write(&mut out, T::DTYPE, bytemuck::cast_slice(values))?;
        Ok(out)
    }

    /// `0, 1, …, n − 1` as u32.
    pub fn arange(n: usize, device: &Device) -> Result<Self> {
        Self::from_slice(&(0..n as u32).collect::<Vec<_>>(), &[n], device)
    }

    fn alloc(shape: &[usize], dtype: DType, device: &Device, content: Content) -> Result<Self> {
        let layout = Layout::contiguous(Dims::new(shape)?);
        let storage = device
            .backend()
            .alloc(layout.shape.count(), dtype, content)?;
        Ok(Self::from_parts(
            Arc::new(storage),
            layout,
            dtype,
            device.clone(),
        ))
    }

    pub(crate) fn from_parts(
        storage: Arc<Storage>,
        layout: Layout,
        dtype: DType,
        device: Device,
    ) -> Self {
        Tensor(Arc::new(Inner {
            storage,
            layout,
            dtype,
            device,
            edge: None,
            recipe: None,
        }))
    }

    // ---- facts

    /// Sizes per axis.
    pub fn shape(&self) -> &[usize] {
        &self.0.layout.shape
    }

    /// The whole layout.
    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.layout.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.layout.shape.count()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the last axis (1 for a scalar).
    pub fn last_dim(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }

    /// Number of rows when all axes but the last are flattened.
    pub fn rows(&self) -> usize {
        let lead = self.rank().saturating_sub(1);
        self.shape()[..lead].iter().product()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Device.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Whether elements are row-major without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.0.layout.is_contiguous()
    }

    /// Whether backward would reach this tensor.
    pub fn requires_grad(&self) -> bool {
        self.0.edge.is_some()
    }

    pub(crate) fn edge(&self) -> Option<&Edge> {
        self.0.edge.as_ref()
    }

    pub(crate) fn with_edge(mut self, edge: Option<Edge>) -> Self {
        Arc::make_mut(&mut self.0).edge = edge;
        self
    }

    pub(crate) fn recipe(&self) -> Option<&Arc<Recipe>> {
        self.0.recipe.as_ref()
    }

    pub(crate) fn with_recipe(mut self, recipe: Option<Arc<Recipe>>) -> Self {
        Arc::make_mut(&mut self.0).recipe = recipe;
        self
    }

    /// The same elements, outside the tape.
    pub fn detach(&self) -> Self {
        if self.0.edge.is_none() {
            self.clone()
        } else {
            self.clone().with_edge(None)
        }
    }

    /// The same elements as a new leaf whose gradient [`crate::tape::backward`] will return.
    pub fn trained(&self) -> Self {
        self.detach().with_edge(Some(Edge::leaf(LeafId::fresh())))
    }

    // ---- layout without the tape (ops/view.rs has the differentiable forms)

    /// Another view of the same storage.
    pub(crate) fn with_layout(&self, layout: Layout) -> Self {
        Tensor(Arc::new(Inner {
            layout: layout.within(),
            edge: None,
            ..(*self.0).clone()
        }))
    }

    /// This handle on another view of its storage; stays the only handle if it was.
    pub(crate) fn relayout(mut self, layout: Layout) -> Self {
        match Arc::get_mut(&mut self.0) {
            Some(inner) => {
                inner.layout = layout.within();
                inner.edge = None;
                self
            }
            None => self.with_layout(layout),
        }
    }

    /// The transpose of a matrix as a view whose rows have gaps, outside the tape: for operands of products and elementwise ops,
    /// which may lie in any strides.
    pub(crate) fn turned(&self) -> Self {
        let mut layout = *self.layout();
        layout.shape.swap(0, 1);
        layout.strides.swap(0, 1);
        self.with_layout(layout)
    }

    /// This view repeated to `shape`, as backends want their operands.
    pub(crate) fn broadcast_view(&self, op: &'static str, shape: &Dims) -> Result<Self> {
        let layout = self.0.layout.broadcast(shape).ok_or_else(|| {
            Error::shape(
                op,
                format!("{:?} does not broadcast to {shape:?}", self.shape()),
            )
        })?;
        Ok(self.with_layout(layout))
    }

    /// Row-major elements: itself when it is so already, else a copy. Outside the tape.
    pub fn packed(&self) -> Result<Self> {
        if self.is_contiguous() {
            return Ok(self.detach());
        }
        let mut out = Self::empty(self.shape(), self.dtype(), self.device())?;
        self.device().backend().copy(self, &mut out)?;
        Ok(out)
    }

    /// A copy in storage of its own. Outside the tape.
    pub fn deep_clone(&self) -> Result<Self> {
        let mut out = Self::empty(self.shape(), self.dtype(), self.device())?;
        self.device().backend().copy(self, &mut out)?;
        Ok(out)
    }

    /// Itself when it is row-major and nobody else holds its elements, else a copy: to be overwritten. Outside the tape.
    pub(crate) fn into_own(mut self) -> Result<Self> {
        if self.is_contiguous() && self.is_unique() {
            return Ok(self.with_edge(None));
        }
        self.deep_clone()
    }

    /// A copy on another device, or itself when it is there. Outside the tape.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if self.device() == device {
            return Ok(self.detach());
        }
        // Through f64 only where a side holds more than the type says (the oracle).
        let dtype = if self.dtype().is_float() {
            DType::F64
        } else {
            self.dtype()
        };
        let bytes = self.device().backend().read(self, dtype)?;
        let mut out = Self::alloc(self.shape(), self.dtype(), device, Content::FromHost)?;
        device.backend().write(&mut out, dtype, &bytes)?;
        Ok(out)
    }

    /// A copy in another element type (rounded to nearest), or itself. Outside the tape; `cast` is the op.
    pub fn converted(&self, dtype: DType) -> Result<Self> {
        if self.dtype() == dtype {
            return Ok(self.detach());
        }
        let mut out = Self::empty(self.shape(), dtype, self.device())?;
        self.device().backend().copy(self, &mut out)?;
        Ok(out)
    }

    // ---- element access

    /// All elements in row-major order.
    ///
    /// # Errors
    /// `T` is neither the tensor's type nor f64.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype() && T::DTYPE != DType::F64 {
            return Err(Error::Invalid(format!(
                "to_vec: elements are {}, asked for {}; convert first",
                self.dtype(),
                T::DTYPE
            )));
        }
        let bytes = self.device().backend().read(self, T::DTYPE)?;
        Ok(from_bytes(&bytes))
    }

    /// The only element, as f64.
    ///
    /// # Errors
    /// There is not exactly one.
    pub fn item(&self) -> Result<f64> {
        match self.to_vec::<f64>()?.as_slice() {
            [x] => Ok(*x),
            _ => Err(Error::shape(
                "item",
                format!("shape {:?} does not hold exactly one element", self.shape()),
            )),
        }
    }

    fn pool(&self) -> Result<&PoolBuf> {
        self.0
            .storage
            .0
            .downcast_ref()
            .ok_or_else(|| Error::Unavailable {
                op: "as_slice",
                device: self.device().to_string(),
            })
    }

    /// The whole storage as elements, strides unapplied: for CPU kernels that walk [`Tensor::layout`] themselves.
    ///
    /// # Errors
    /// Another element type, or not on the CPU.
    pub fn storage_slice<T: Element>(&self) -> Result<&[T]> {
        self.expect_dtype("as_slice", T::DTYPE)?;
        Ok(bytemuck::cast_slice(self.pool()?.bytes()))
    }

    /// The elements of a contiguous CPU tensor.
    ///
    /// # Errors
    /// Another element type, gaps, or not on the CPU.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        if !self.is_contiguous() {
            return Err(Error::shape(
                "as_slice",
                format!(
                    "view {:?} with strides {:?} has gaps; call `packed` first",
                    self.shape(),
                    self.0.layout.strides
                ),
            ));
        }
        let start = self.0.layout.offset;
        Ok(&self.storage_slice()?[start..start + self.len()])
    }

    /// The elements of a contiguous CPU tensor that nobody else holds, to write.
    ///
    /// # Errors
    /// As [`Tensor::as_slice`], or the storage is shared.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        if !self.is_contiguous() {
            return Err(Error::shape("as_mut_slice", "the view has gaps"));
        }
        let (start, len) = (self.0.layout.offset, self.len());
        Ok(&mut self.storage_mut()?[start..start + len])
    }

    /// The whole storage to write, strides unapplied.
    ///
    /// # Errors
    /// Another element type, not on the CPU, or the storage is shared.
    pub fn storage_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.expect_dtype("as_mut_slice", T::DTYPE)?;
        let shared = || {
            Error::Invalid("as_mut_slice: the elements are shared with another tensor; write to a `deep_clone`".into())
        };
        let storage = self.storage_unique().ok_or_else(shared)?;
        let pool = storage
            .0
            .downcast_mut::<PoolBuf>()
            .ok_or(Error::Unavailable {
                op: "as_mut_slice",
                device: "a device other than the CPU".into(),
            })?;
        Ok(bytemuck::cast_slice_mut(pool.bytes_mut()))
    }

    /// The storage, for backends.
    pub fn storage(&self) -> &Storage {
        &self.0.storage
    }

    /// The storage to write when this handle is the only one, for backends.
    pub fn storage_unique(&mut self) -> Option<&mut Storage> {
        let inner = Arc::get_mut(&mut self.0)?;
        let storage = Arc::get_mut(&mut inner.storage)?;
        // What is written is not what the recipe makes.
        inner.recipe = None;
        Some(storage)
    }

    /// Whether no other tensor sees these elements, so that they may be overwritten.
    pub fn is_unique(&mut self) -> bool {
        self.storage_unique().is_some()
    }

    /// Counts the storage under `tag` (CPU).
    pub(crate) fn retag(&self, tag: Tag) {
        if let Ok(pool) = self.pool() {
            pool.retag(tag);
        }
    }

    // ---- checks shared by ops

    /// An error unless the element type is `dtype`.
    pub fn expect_dtype(&self, op: &'static str, dtype: DType) -> Result<()> {
        if self.dtype() == dtype {
            Ok(())
        } else {
            Err(Error::Invalid(format!(
                "{op}: elements are {}, wanted {dtype}",
                self.dtype()
            )))
        }
    }

    /// An error unless the shape is `shape`.
    pub fn expect_shape(&self, op: &'static str, operand: &str, shape: &[usize]) -> Result<()> {
        if self.shape() == shape {
            Ok(())
        } else {
            Err(Error::shape(
                op,
                format!("{operand} is {:?}, wanted {shape:?}", self.shape()),
            ))
        }
    }
}

impl From<f32> for Tensor {
    fn from(x: f32) -> Self {
        Tensor::from([x]).with_layout(Layout::contiguous(Dims::SCALAR))
    }
}

impl<const N: usize> From<[f32; N]> for Tensor {
    fn from(x: [f32; N]) -> Self {
        from_host(&x, &[N])
    }
}

impl<const M: usize, const N: usize> From<[[f32; N]; M]> for Tensor {
    fn from(x: [[f32; N]; M]) -> Self {
        from_host(x.as_flattened(), &[M, N])
    }
}

/// Literals live on the CPU, where memory of a matching size cannot fail.
fn from_host(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::cpu())
        .unwrap_or_else(|e| unreachable!("a literal of matching shape: {e}"))
}

#[cfg(test)]
mod tests;
