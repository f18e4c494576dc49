//! The CUDA backend: primitives over the hand-written kernels of [`deltaw_kernels`], on pooled device memory and one stream.
//!
//! A machine's driver and the software driver of `deltaw-emulator` are the same to it. f32 products are exact (fused
//! multiply-adds in a fixed order, no tensor cores) unless tf32 is asked for, so that results agree with the CPU's to the rounding of
//! reordered sums.
//! What has no kernel is an error; nothing is computed on the host in its place.

use std::fmt::Display;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::{CudaContext, CudaStream, sys};
use deltaw_kernels::Kernels;
use deltaw_kernels::gather::{Gather, Scatter, Size};
use deltaw_kernels::gemm::Type;
use deltaw_kernels::philox::{self, Fill};
use deltaw_kernels::select::{Kind, Select};

use super::{Backend, Content, Distribution, Gemm, Map, Reduce, Storage};
use crate::dtype::{DType, Element, from_bytes, with_dtype};
use crate::error::{Error, Result};
use crate::ops::unary::Unary;
use crate::random::RandomKey;
use crate::tensor::Tensor;

pub(crate) mod attention;
mod map;
mod memory;
mod product;
mod reduce;
mod staging;
mod update;

pub(crate) use map::element;
use memory::{Block, Pool};
pub(crate) use product::{Around, Pair};
use staging::Staging;
pub use update::{Formula, Part};

/// A CUDA device.
pub struct Cuda {
    name: &'static str,
    kernels: Kernels,
    stream: Arc<CudaStream>,
    pool: Arc<Pool>,
    staging: Mutex<Staging>,
    tf32: AtomicBool,
    reads: AtomicUsize,
}

/// What a driver says of its device.
#[derive(Clone, Debug)]
pub struct About {
    /// As `NVIDIA H100`.
    pub name: String,
    /// The CUDA version that the driver has, as `13.0`.
    pub driver: String,
    /// Major and minor.
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of device memory.
    pub memory: usize,
    /// Hz, at most.
    pub clock: f64,
    /// Hz, at most.
    pub memory_clock: f64,
    /// Width of the memory's bus.
    pub bus_bits: u32,
}

/// An error of `op` with the shapes that it had.
pub(crate) fn failed(op: &'static str, operands: &[&Tensor], error: impl Display) -> Error {
    let shapes: Vec<String> = operands
        .iter()
        .map(|x| format!("{} {:?}", x.dtype(), x.shape()))
        .collect();
    Error::Cuda {
        op,
        detail: format!("{}: {error}", shapes.join(", ")),
    }
}

/// The driver's answer by its name, as `CUDA_ERROR_OUT_OF_MEMORY (out of memory)`.
fn driver(
    op: &'static str,
    what: &str,
) -> impl FnOnce(cudarc::driver::DriverError) -> Error + use<> {
    let what = what.to_owned();
    move |error| Error::Cuda {
        op,
        detail: format!("{what}: {error:?}"),
    }
}

impl Cuda {
    /// The driver's device `ordinal`, called `name` in messages.
    ///
    /// # Errors
    /// [`Error::Cuda`]: no driver, no such device, or one without what the kernels need.
    pub fn new(name: &'static str, ordinal: usize) -> Result<Self> {
        let refused = |detail: String| Error::Cuda { op: name, detail };
        // SAFETY: looks for the library and calls nothing in it.
        if !unsafe { sys::is_culib_present() } {
            return Err(refused(
                "no CUDA driver (libcuda.so) on this machine; compute with --device cpu or emulated".into(),
            ));
        }
        let context = CudaContext::new(ordinal).map_err(|error| {
            refused(format!(
                "device {ordinal} cannot be used ({error:?}); compute with --device cpu or emulated"
            ))
        })?;
        let (major, minor) = context
            .compute_capability()
            .map_err(driver(name, "asking for the compute capability"))?;
        if major < 8 {
            return Err(refused(format!(
                "device {ordinal} has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or later"
            )));
        }
        // SAFETY: one stream does all the work, so that its order is the only one there is; the other waits for places in it and is
        // waited for (`memory.rs`, `staging.rs`).
        unsafe { context.disable_event_tracking() };
        let stream = context.default_stream();
        Ok(Cuda {
            name,
            kernels: Kernels::new(&context).map_err(|e| refused(e.to_string()))?,
            pool: Arc::new(Pool::new(&stream)),
            staging: Mutex::new(
                Staging::new(&stream).map_err(driver(name, "making a stream for copies"))?,
            ),
            tf32: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            stream,
        })
    }

    /// What the driver says of the device.
    ///
    /// # Errors
    /// [`Error::Cuda`]: it does not.
    pub fn about(&self) -> Result<About> {
        let context = self.stream.context();
        let told = |what: &str| driver(self.name, &format!("asking for the device's {what}"));
        let number = |which, what: &str| context.attribute(which).map_err(told(what));
        let (mut version, pick) = (0, |n: i32| n.unsigned_abs());
        // SAFETY: the driver writes one number.
        let answered = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
        answered.map_err(told("driver"))?;
        let (_, memory) = context.mem_get_info().map_err(told("memory"))?;
        let capability = context.compute_capability().map_err(told("capability"))?;
        Ok(About {
            name: context.name().map_err(told("name"))?,
            driver: format!("{}.{}", version / 1000, version % 1000 / 10),
            capability,
            multiprocessors: self.kernels.multiprocessors(),
            memory,
            clock: 1e3 * f64::from(number(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE, "clock")?),
            memory_clock: 1e3
                * f64::from(number(
                    Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE,
                    "memory clock",
                )?),
            bus_bits: pick(number(
                Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH,
                "memory bus",
            )?),
        })
    }

    /// Lets the tensor cores make f32 products, attention's among them, of the 11 leading bits of each factor's 24, summed in f32:
    /// many times the speed for a relative error of 2⁻¹⁰ a factor. Off unless asked for.
    pub fn set_tf32(&self, on: bool) {
        self.tf32.store(on, Relaxed);
    }

    /// How products of f32 are made.
    fn f32_products(&self) -> Type {
        if self.tf32.load(Relaxed) {
            Type::Tf32
        } else {
            Type::F32
        }
    }

    /// Waits until everything that was asked for is done.
    ///
    /// # Errors
    /// [`Error::Cuda`]: a kernel failed.
    pub fn synchronize(&self) -> Result<()> {
        let done = self.stream.synchronize();
        done.map_err(driver(self.name, "waiting for the device"))
    }

    /// Blocks that were ever taken from the driver: constant in a steady state.
    pub fn fresh_blocks(&self) -> usize {
        self.pool.fresh()
    }

    /// The most bytes that tensors ever held at once.
    pub fn peak_bytes(&self) -> usize {
        self.pool.peak()
    }

    /// How often the host waited for a tensor's elements: constant within a step.
    pub fn reads(&self) -> usize {
        self.reads.load(Relaxed)
    }

    /// What launches take.
    pub fn launcher(&self) -> (&Kernels, &Arc<CudaStream>) {
        (&self.kernels, &self.stream)
    }

    /// α·op(A)·op(B) + β·C into `c`, with what surrounds it.
    pub(crate) fn product(
        &self,
        gemm: Gemm,
        a: &Tensor,
        b: &Tensor,
        around: &Around,
        c: &mut Tensor,
    ) -> Result<()> {
        product::batched(self, gemm, a, b, around, c)
    }

    /// `out` holds elements of `x` and no others: indices among them are below what x's are.
    fn pass_bound(&self, op: &'static str, x: &Tensor, out: &Tensor) -> Result<()> {
        let block = self.block(op, out)?;
        let same = x.dtype() == out.dtype() && block.is_all_of(out);
        block.set_below(self.block(op, x)?.below().filter(|_| same));
        Ok(())
    }

    fn block<'a>(&self, op: &'static str, x: &'a Tensor) -> Result<&'a Block> {
        x.storage().0.downcast_ref().ok_or_else(|| Error::Device {
            op,
            left: self.name.into(),
            right: x.device().to_string(),
        })
    }

    /// Address of a tensor's first element, for a kernel of one's own; `op` is named in the error.
    ///
    /// # Errors
    /// A tensor of another device.
    pub fn address(&self, op: &'static str, x: &Tensor) -> Result<u64> {
        Ok(self.block(op, x)?.address() + (x.layout().offset * x.dtype().size()) as u64)
    }

    /// The same of a tensor that is to be written.
    ///
    /// # Errors
    /// A tensor of another device, or one whose memory somebody else holds too.
    pub fn address_mut(&self, op: &'static str, x: &mut Tensor) -> Result<u64> {
        if !x.is_unique() {
            return Err(Error::Invalid(format!(
                "{op}: the output is shared with another tensor; write to a `deep_clone`"
            )));
        }
        self.block(op, x)?.set_below(None);
        self.address(op, x)
    }
}

impl Backend for Cuda {
    fn name(&self) -> &'static str {
        self.name
    }

    fn alloc(&self, len: usize, dtype: DType, content: Content) -> Result<Storage> {
        if dtype == DType::F64 {
            return Err(Error::DType {
                op: "alloc",
                operand: "tensor",
                got: dtype,
                want: "f32, bf16, f16, u8, u32 or i64 (f64 lives on the oracle device)",
            });
        }
        let bytes = len.checked_mul(dtype.size()).ok_or_else(|| {
            Error::shape(
                "alloc",
                format!("{len} elements of {dtype} do not fit in memory"),
            )
        })?;
        let what = format!("{len} elements of {dtype}");
        let block = match content {
            Content::FromHost => Pool::take_from_host(&self.pool, bytes, &what)?,
            Content::Arbitrary | Content::Zeros => Pool::take(&self.pool, bytes, &what)?,
        };
        if content == Content::Zeros {
            block.zero()?;
        }
        Ok(Storage(Box::new(block)))
    }

    fn write(&self, dst: &mut Tensor, dtype: DType, bytes: &[u8]) -> Result<()> {
        let to = self.address_mut("write", dst)?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let block = self.block("write", dst)?;
        let free_from = block.first_write();
        if dtype == dst.dtype() {
            if dtype == DType::U32 && block.is_all_of(dst) {
                let most = from_bytes::<u32>(bytes).into_iter().max();
                block.set_below(most.map(|i| u64::from(i) + 1));
            }
            return staging.upload(to, bytes, free_from);
        }
        let converted: Vec<u8> = with_dtype!(dtype, S => with_dtype!(dst.dtype(), D => {
            let values = from_bytes::<S>(bytes).into_iter().map(|x| D::from_f64(x.to_f64()));
            bytemuck::cast_slice(&values.collect::<Vec<D>>()).to_vec()
        }));
        staging.upload(to, &converted, free_from)
    }

    fn read(&self, src: &Tensor, dtype: DType) -> Result<Vec<u8>> {
        self.reads.fetch_add(1, Relaxed);
        let src = src.packed()?;
        let from = self.address("read", &src)?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = staging.download(from, src.len() * src.dtype().size())?;
        if dtype == src.dtype() {
            return Ok(bytes);
        }
        Ok(with_dtype!(src.dtype(), S => with_dtype!(dtype, D => {
            let values = from_bytes::<S>(&bytes).into_iter().map(|x| D::from_f64(x.to_f64()));
            bytemuck::cast_slice(&values.collect::<Vec<D>>()).to_vec()
        })))
    }

    fn copy(&self, src: &Tensor, dst: &mut Tensor) -> Result<()> {
        map::copy(self, src, dst)?;
        self.pass_bound("copy", src, dst)
    }

    fn index_bound(&self, index: &Tensor) -> Option<u64> {
        self.block("index", index).ok()?.below()
    }

    fn set_index_bound(&self, index: &Tensor, bound: u64) {
        if let Ok(block) = self.block("index", index)
            && block.is_all_of(index)
        {
            block.set_below(Some(bound));
        }
    }

    fn accumulate(&self, dst: &mut Tensor, src: &Tensor, alpha: f32) -> Result<()> {
        map::accumulate(self, dst, src, alpha)
    }

    fn map(&self, map: Map, inputs: &[&Tensor], out: &mut Tensor) -> Result<()> {
        map::map(self, map, inputs, out)
    }

    fn unary_grad(&self, f: Unary, s: Option<&Tensor>, dy: &mut Tensor) -> Result<()> {
        map::unary_grad(self, f, s, dy)
    }

    fn reduce(&self, reduce: Reduce, x: &Tensor, out: &mut Tensor) -> Result<()> {
        reduce::reduce(self, reduce, x, out)
    }

    fn gemm(&self, gemm: Gemm, a: &Tensor, b: &Tensor, c: &mut Tensor) -> Result<()> {
        product::batched(self, gemm, a, b, &Around::default(), c)
    }

    fn gather_rows(&self, table: &Tensor, index: &Tensor, out: &mut Tensor) -> Result<()> {
        let size = Size {
            rows: 1,
            n: table.rows(),
            k: index.len(),
            width: table.last_dim(),
        };
        self.gather("gather_rows", size, table, index, out)
    }

    fn scatter_add_rows(&self, dst: &mut Tensor, index: &Tensor, src: &Tensor) -> Result<()> {
        let size = Size {
            rows: 1,
            n: dst.rows(),
            k: index.len(),
            width: dst.last_dim(),
        };
        self.scatter("scatter_add_rows", size, dst, index, src)
    }

    fn take(&self, x: &Tensor, index: &Tensor, out: &mut Tensor) -> Result<()> {
        let size = Size {
            rows: x.rows(),
            n: x.last_dim(),
            k: index.last_dim(),
            width: 1,
        };
        self.gather("take", size, x, index, out)
    }

    fn scatter_add(&self, dst: &mut Tensor, index: &Tensor, src: &Tensor) -> Result<()> {
        let size = Size {
            rows: dst.rows(),
            n: dst.last_dim(),
            k: index.last_dim(),
            width: 1,
        };
        self.scatter("scatter_add", size, dst, index, src)
    }

    fn top_k(&self, x: &Tensor, k: usize, values: &mut Tensor, indices: &mut Tensor) -> Result<()> {
        let results = [
            self.address_mut("top_k", values)?,
            self.address_mut("top_k", indices)?,
        ];
        self.select("top_k", Kind::Top, x, k, results)?;
        let below = x.last_dim() as u64;
        self.block("top_k", indices)?
            .set_below(Some(below).filter(|n| *n > 0));
        Ok(())
    }

    fn kth_value(&self, x: &Tensor, k: usize, out: &mut Tensor) -> Result<()> {
        let results = [self.address_mut("kth_value", out)?, 0];
        self.select("kth_value", Kind::Kth, x, k, results)
    }

    fn random(
        &self,
        distribution: Distribution,
        key: RandomKey,
        first_row: u64,
        columns: Range<u64>,
        out: &mut Tensor,
    ) -> Result<()> {
        let width = columns.end.saturating_sub(columns.start);
        let (Some(rows), Ok(first_row)) = (
            (out.len() as u64).checked_div(width).or(Some(0)),
            u32::try_from(first_row),
        ) else {
            return Err(Error::shape(
                "random",
                format!("row {first_row} of a stream, which has 2³² rows"),
            ));
        };
        out.expect_dtype("random", DType::F32)?;
        let fill = Fill {
            distribution: match distribution {
                Distribution::Uniform => philox::Distribution::Uniform,
                Distribution::Normal => philox::Distribution::Normal,
                Distribution::Bernoulli(p) => philox::Distribution::Bernoulli(p),
            },
            stream: key.stream(),
            first_row,
            rows: rows as usize,
            columns,
            out: self.address_mut("random", out)?,
            stride: width as usize,
        };
        // SAFETY: `out` is contiguous and unshared, and holds so many rows.
        let launched = unsafe { fill.launch(&self.kernels, &self.stream) };
        launched.map_err(|e| failed("random", &[out], e))
    }
}

impl Cuda {
    /// Values and, of a top k, indices of the rows of x.
    fn select(
        &self,
        op: &'static str,
        kind: Kind,
        x: &Tensor,
        k: usize,
        [values, indices]: [u64; 2],
    ) -> Result<()> {
        let mut select = Select {
            kind,
            rows: x.rows(),
            n: x.last_dim(),
            k,
            x: self.address(op, x)?,
            values,
            indices,
            scratch: 0,
        };
        let bytes = select.scratch_bytes();
        let scratch = (bytes > 0).then(|| Pool::take(&self.pool, bytes, "counts of digits"));
        let scratch = scratch.transpose()?;
        select.scratch = scratch.as_ref().map_or(0, Block::address);
        // SAFETY: the operands are contiguous tensors of this device, as the caller has checked, the results are unshared, and the
        // scratch memory, given back now, is used by the same stream only after.
        let launched = unsafe { select.launch(&self.kernels, &self.stream) };
        launched.map_err(|e| failed(op, &[x], e))
    }

    fn gather(
        &self,
        op: &'static str,
        size: Size,
        x: &Tensor,
        index: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let gather = Gather {
            size,
            elements: [map::element(op, x)?, map::element(op, out)?],
            x: self.address(op, x)?,
            index: self.address(op, index)?,
            out: self.address_mut(op, out)?,
        };
        // SAFETY: the operands are contiguous tensors of this device with checked indices, and `out` is unshared.
        let launched = unsafe { gather.launch(&self.kernels, &self.stream) };
        launched.map_err(|e| failed(op, &[x, index], e))?;
        self.pass_bound(op, x, out)
    }

    fn scatter(
        &self,
        op: &'static str,
        size: Size,
        dst: &mut Tensor,
        index: &Tensor,
        src: &Tensor,
    ) -> Result<()> {
        dst.expect_dtype(op, DType::F32)?;
        src.expect_dtype(op, DType::F32)?;
        let scatter = Scatter {
            size,
            src: self.address(op, src)?,
            index: self.address(op, index)?,
            out: self.address_mut(op, dst)?,
        };
        // SAFETY: as in `gather`.
        let launched = unsafe { scatter.launch(&self.kernels, &self.stream) };
        launched.map_err(|e| failed(op, &[dst, index, src], e))
    }
}
