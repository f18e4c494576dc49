//! Where tensors live. A [`Backend`] is the small set of things a device must do; ops are made of them, and of native
//! kernels where an op has one. [`oracle`] is a second, deliberately plain backend that computes everything in f64.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::dtype::DType;
use crate::error::Result;
use crate::ops::binary::Binary;
use crate::ops::unary::Unary;
use crate::random::RandomKey;
use crate::tensor::Tensor;

mod axes;
pub mod cpu;
pub mod cuda;
pub mod oracle;

pub(crate) use cpu::product::product_with;

/// A device's memory behind one tensor.
pub struct Storage(pub Box<dyn Any + Send + Sync>);

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Storage")
    }
}

/// An elementwise function; operands have been broadcast to the output's shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Map {
    /// `f(x)`.
    Unary(Unary),
    /// `f(a, b)`.
    Binary(Binary),
    /// `c ≠ 0 ? a : b`, of `(c, a, b)`.
    Where,
}

/// A reduction. NaN wins over every number in `Max` and `Min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Σ, in a fixed order.
    Sum,
    /// The largest element.
    Max,
    /// The smallest element.
    Min,
}

/// `C = alpha · op(A) · op(B) + beta · C` over the last two axes; leading axes are batches and broadcast.
#[derive(Debug, Clone, Copy)]
pub struct Gemm {
    /// Whether A is stored as `[…, k, m]`.
    pub trans_a: bool,
    /// Whether B is stored as `[…, n, k]`.
    pub trans_b: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of what C holds; 0 ignores it, NaN included.
    pub beta: f32,
}

/// What new memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Anything.
    Arbitrary,
    /// Zeros.
    Zeros,
    /// Anything, until host elements are written to it, which is the first that happens to it.
    FromHost,
}

/// A distribution to draw from, addressed by a [`RandomKey`], row and column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// Uniform in [0, 1).
    Uniform,
    /// Standard normal.
    Normal,
    /// 1 with probability `p`, else 0.
    Bernoulli(f32),
}

/// What a device must do. Outputs are fresh, contiguous tensors of the right shape unless said otherwise;
/// inputs may be any strided view of the same device.
pub trait Backend: Any + Send + Sync {
    /// `cpu`, `oracle`, `cuda`, ….
    fn name(&self) -> &'static str;
    /// Memory for `len` elements.
    fn alloc(&self, len: usize, dtype: DType, content: Content) -> Result<Storage>;
    /// Fills a contiguous tensor from host elements of type `dtype`.
    fn write(&self, dst: &mut Tensor, dtype: DType, bytes: &[u8]) -> Result<()>;
    /// What all of a tensor's indices are known to be below without reading them, if anything is.
    fn index_bound(&self, _: &Tensor) -> Option<u64> {
        None
    }
    /// Says so of indices that were computed.
    fn set_index_bound(&self, _: &Tensor, _: u64) {}
    /// The elements in row-major order as `dtype` (exact, or rounded to nearest).
    fn read(&self, src: &Tensor, dtype: DType) -> Result<Vec<u8>>;
    /// `dst = src`, converting types; `dst` may be a strided view without repeats.
    fn copy(&self, src: &Tensor, dst: &mut Tensor) -> Result<()>;
    /// `dst += alpha · src`; `dst` may be an overlapping view (sums every alias in row-major order).
    fn accumulate(&self, dst: &mut Tensor, src: &Tensor, alpha: f32) -> Result<()>;
    /// An elementwise function.
    fn map(&self, map: Map, inputs: &[&Tensor], out: &mut Tensor) -> Result<()>;
    /// `dy ← dy ⊙ f′`, where `s` is f's operand or result as [`Unary::saves`] says, or None if it says neither; `dy` is contiguous.
    fn unary_grad(&self, f: Unary, s: Option<&Tensor>, dy: &mut Tensor) -> Result<()>;
    /// Reduces the axes on which `out`, of the same rank, has size 1.
    fn reduce(&self, reduce: Reduce, x: &Tensor, out: &mut Tensor) -> Result<()>;
    /// A batched matrix product.
    fn gemm(&self, gemm: Gemm, a: &Tensor, b: &Tensor, c: &mut Tensor) -> Result<()>;
    /// `out[i, :] = table[index[i], :]`; indices are u32 and have been checked.
    fn gather_rows(&self, table: &Tensor, index: &Tensor, out: &mut Tensor) -> Result<()>;
    /// `dst[index[i], :] += src[i, :]`, in the order of `i`.
    fn scatter_add_rows(&self, dst: &mut Tensor, index: &Tensor, src: &Tensor) -> Result<()>;
    /// `out[r, k] = x[r, index[r, k]]` on matrices.
    fn take(&self, x: &Tensor, index: &Tensor, out: &mut Tensor) -> Result<()>;
    /// `dst[r, index[r, k]] += src[r, k]` on matrices, in the order of `k`.
    fn scatter_add(&self, dst: &mut Tensor, index: &Tensor, src: &Tensor) -> Result<()>;
    /// Per row, the `k` largest elements in decreasing order (ties: the lower index first) and their indices.
    fn top_k(&self, x: &Tensor, k: usize, values: &mut Tensor, indices: &mut Tensor) -> Result<()>;
    /// Per row, the `k`-th smallest element (`k` from 0).
    fn kth_value(&self, x: &Tensor, k: usize, out: &mut Tensor) -> Result<()>;
    /// Columns `columns` of the stream `key`'s rows from `first_row`, as many as `out` has.
    fn random(
        &self,
        distribution: Distribution,
        key: RandomKey,
        first_row: u64,
        columns: Range<u64>,
        out: &mut Tensor,
    ) -> Result<()>;
}

/// A handle to a backend.
#[derive(Clone)]
pub struct Device(Arc<dyn Backend>);

impl Device {
    /// The CPU.
    pub fn cpu() -> Self {
        static CPU: OnceLock<Device> = OnceLock::new();
        CPU.get_or_init(|| Device::new(cpu::Cpu)).clone()
    }

    /// The f64 oracle: every float type is held and computed in f64, by plain loops. For tests.
    pub fn oracle() -> Self {
        static ORACLE: OnceLock<Device> = OnceLock::new();
        ORACLE.get_or_init(|| Device::new(oracle::Oracle)).clone()
    }

    /// The CUDA driver's device `ordinal`, called `name` in messages.
    ///
    /// # Errors
    /// No driver, no such device, or one without what the kernels need.
    pub fn cuda(name: &'static str, ordinal: usize) -> Result<Self> {
        Ok(Device::new(cuda::Cuda::new(name, ordinal)?))
    }

    /// A device of one's own.
    pub fn new(backend: impl Backend + 'static) -> Self {
        Device(Arc::new(backend))
    }

    /// The backend.
    pub fn backend(&self) -> &dyn Backend {
        &*self.0
    }

    /// The CUDA backend, where this is one.
    pub fn as_cuda(&self) -> Option<&cuda::Cuda> {
        (self.backend() as &dyn Any).downcast_ref()
    }

    /// Whether ops with kernels of their own have them here, for the CPU and for CUDA.
    pub(crate) fn has_kernels(&self) -> bool {
        self.is_cpu() || self.as_cuda().is_some()
    }

    /// Whether tensors lie in host memory as [`crate::pool::PoolBuf`]s.
    pub fn is_cpu(&self) -> bool {
        self.0.name() == "cpu"
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}
