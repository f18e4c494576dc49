//! A GPU's products by the type of their operands.

use deltaw_engine::device::cuda::Cuda;
use deltaw_engine::prelude::*;
use deltaw_kernels::gemm::{Activation, Gemm, Matrix, Output, Plan, Type};

/// The types, and what holds their operands.
pub const TYPES: [(&str, Type, DType); 4] = [
    ("f32", Type::F32, DType::F32),
    ("tf32", Type::Tf32, DType::F32),
    ("bf16", Type::Bf16, DType::Bf16),
    ("f16", Type::F16, DType::F16),
];

/// A [m, k], B [n, k] of one type, Y = A·Bᵀ in f32; all on the device, contiguous.
pub struct Product {
    gemm: Gemm,
    a: Tensor,
    b: Tensor,
    /// Y.
    pub y: Tensor,
    /// The scratch memory of any plan so far.
    scratch: Tensor,
}

impl Product {
    /// With an empty Y.
    ///
    /// # Errors
    /// Shapes that do not fit, or tensors of another device.
    pub fn new(cuda: &Cuda, operands: Type, a: &Tensor, b: &Tensor) -> Result<Self> {
        let (&[m, k], &[n, bk]) = (a.shape(), b.shape()) else {
            return Err(Error::Invalid("products are of matrices".into()));
        };
        if k != bk {
            return Err(Error::Invalid(format!(
                "A {:?} · Bᵀ of {:?}",
                a.shape(),
                b.shape()
            )));
        }
        let y = Tensor::empty(&[m, n], DType::F32, a.device())?;
        let matrix = |pointer, stride, transposed| Matrix {
            pointer,
            stride,
            batch_stride: 0,
            transposed,
        };
        Ok(Product {
            gemm: Gemm {
                operands,
                output: Output::F32,
                m,
                n,
                k,
                batch: 1,
                a: matrix(cuda.address("product", a)?, k, false),
                b: matrix(cuda.address("product", b)?, k, true),
                extension: None,
                alpha: 1.0,
                bias: None,
                activation: Activation::Identity,
                residual: None,
                y: matrix(cuda.address("product", &y)?, n, false),
                split: None,
            },
            a: a.clone(),
            b: b.clone(),
            y,
            scratch: Tensor::empty(&[0], DType::F32, a.device())?,
        })
    }

    /// The plan that the kernels choose.
    pub fn plan(&self, cuda: &Cuda) -> Plan {
        let (kernels, _) = cuda.launcher();
        self.gemm
            .plan(kernels.multiprocessors(), kernels.shared_limit())
    }

    /// One with each tile that a device has the shared memory for.
    pub fn plans(&self, cuda: &Cuda) -> Vec<Plan> {
        let limit = cuda.launcher().0.shared_limit();
        let tiles = self.gemm.tiles().iter();
        let fitting = tiles.filter(|tile| tile.shared(self.gemm.operands) <= limit);
        fitting.map(|tile| Plan { tile, chunk: None }).collect()
    }

    /// Launches it.
    ///
    /// # Errors
    /// The driver's refusal.
    pub fn launch(&mut self, cuda: &Cuda, plan: &Plan) -> Result<()> {
        let wanted = plan.scratch_bytes(&self.gemm) / 4;
        if self.scratch.len() < wanted {
            self.scratch = Tensor::empty(&[wanted], DType::F32, self.y.device())?;
        }
        let scratch = cuda.address("product", &self.scratch)?;
        let (kernels, stream) = cuda.launcher();
        // SAFETY: the operands are contiguous tensors of this device that live as long as `self`.
        let launched = unsafe { self.gemm.launch(plan, scratch, kernels, stream) };
        launched.map_err(|e| Error::Invalid(e.to_string()))
    }

    /// 2 m n k.
    pub fn flops(&self) -> u64 {
        self.gemm.flops()
    }

    /// The bytes that any kernel moves.
    pub fn bytes(&self) -> u64 {
        self.gemm.minimum_bytes()
    }

    /// How far Y is from the f64 product, in units of what its sums may lose: (k + 2) u Σ|a b|, and of tf32's cut factors 2⁻⁹ of
    /// it (Higham 2002, §3.1).
    ///
    /// # Errors
    /// Tensors that cannot be read.
    pub fn excess(&self) -> Result<f64> {
        let Gemm { m, n, k, .. } = self.gemm;
        let (a, b, y) = (
            super::compare::values(&self.a)?,
            super::compare::values(&self.b)?,
            self.y.to_vec::<f32>()?,
        );
        let cut = if self.gemm.operands == Type::Tf32 {
            2f64.powi(-9) + 2f64.powi(-20)
        } else {
            0.0
        };
        let lost = (k + 2) as f64 * super::compare::U * (1.0 + cut) + cut;
        let mut worst = 0.0f64;
        for i in 0..m {
            for j in 0..n {
                let products = a[i * k..][..k].iter().zip(&b[j * k..][..k]);
                let (mut sum, mut size) = (0.0, 0.0);
                for (a, b) in products {
                    let product = f64::from(*a) * f64::from(*b);
                    sum += product;
                    size += product.abs();
                }
                worst = worst.max(super::compare::excess(
                    &y[i * n + j..][..1],
                    [sum],
                    lost * size,
                ));
            }
        }
        Ok(worst)
    }
}
