//! Cross-entropy of logits against classes, with the softmax inside, and its gradient.
//!
//! ```text
//! loss[i] = w[i] (lse[i] − (1 − σ) z[i, t[i]] − σ mean(z[i, :]))        lse[i] = ln Σ e^z[i, :]
//! dz[i, c] = w[i] dy (e^(z[i, c] − lse[i]) − (1 − σ) [c = t[i]] − σ/n)
//! ```
//!
//! A warp has a row; see `ptx/row.ptx`. The gradient may take the logits' place. A row of weight 0 has no loss and no
//! gradient, whatever it holds. FLOPs: some 30 an element, for the exponentials. Bytes: the logits in; in and out. Error as softmax's.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::{self, Rows};
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[
        (
            "cross_entropy.ptx",
            include_str!("../ptx/cross_entropy.ptx"),
        ),
        ("log_sum_exp.ptx", include_str!("../ptx/log_sum_exp.ptx")),
        ("row.ptx", include_str!("../ptx/row.ptx")),
        ("function.ptx", include_str!("../ptx/function.ptx")),
        ("math.ptx", include_str!("../ptx/math.ptx")),
    ],
};

/// What a launch writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Losses and log-sum-exps.
    Loss {
        /// Address of the losses, one a row.
        losses: u64,
    },
    /// The gradient.
    Gradient {
        /// Address of it; it may be the logits'.
        dz: u64,
        /// Address of one number, the loss's own gradient.
        dy: u64,
    },
}

impl Kind {
    /// One of each text.
    pub const ALL: [Kind; 2] = [Kind::Loss { losses: 0 }, Kind::Gradient { dz: 0, dy: 0 }];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Loss { .. } => "cross_entropy",
            Kind::Gradient { .. } => "cross_entropy_gradient",
        }
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: &'static str,
            backward: bool,
            threads: u32,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            backward: matches!(self, Kind::Gradient { .. }),
            threads: kernels::ROW_THREADS,
            at: crate::offsets!(Arguments: z targets weights lse losses dz dy rest even rows n),
        })
    }
}

/// A cross-entropy, or its gradient, to launch; logits contiguous.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Which.
    pub kind: Kind,
    /// Rows.
    pub rows: usize,
    /// Classes.
    pub n: usize,
    /// σ.
    pub smoothing: f32,
    /// Address of the logits, f32.
    pub z: u64,
    /// Address of the classes, u32, each below n.
    pub targets: u64,
    /// Address of the rows' weights, f32.
    pub weights: u64,
    /// Address of the rows' log-sum-exps, which the loss writes and the gradient reads.
    pub lse: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    z: u64,
    targets: u64,
    weights: u64,
    lse: u64,
    losses: u64,
    dz: u64,
    dy: u64,
    /// 1 − σ and σ/n.
    rest: f32,
    even: f32,
    rows: u32,
    n: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl CrossEntropy {
    /// Bytes that any kernel moves.
    pub fn minimum_bytes(&self) -> u64 {
        let (matrices, vectors) = match self.kind {
            Kind::Loss { .. } => (1, 4),
            Kind::Gradient { .. } => (2, 3),
        };
        4 * (self.rows * (matrices * self.n + vectors)) as u64
    }

    /// Launches it on a stream. No logits launch nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// All operands must lie in memory of the stream's device, free of other use until the stream has come past, and not overlap, dz aside;
    /// every class is below n.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let name = self.kind.name();
        let Some(Rows { rows, n, grid }) = Rows::new(name, self.rows, self.n)? else {
            return Ok(());
        };
        let (losses, dz, dy) = match self.kind {
            Kind::Loss { losses } => (losses, 0, 0),
            Kind::Gradient { dz, dy } => (0, dz, dy),
        };
        let arguments = Arguments {
            z: self.z,
            targets: self.targets,
            weights: self.weights,
            lse: self.lse,
            losses,
            dz,
            dy,
            rest: 1.0 - self.smoothing,
            even: self.smoothing / self.n as f32,
            rows,
            n,
        };
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe { kernels.launch(name, grid, &arguments, stream, || self.kind.expand()) }
    }
}
