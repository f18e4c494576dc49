//! The windows of images that a convolution multiplies, copied out, and the sum of what windows share, its adjoint.
//!
//! ```text
//! y[g, b, i, j, c, u, v] = x[b, g C/G + c, i s₀ + u d₀ − p₀, j s₁ + v d₁ − p₁], 0 outside of the image
//! dx[b, g C/G + c, r, q] = Σ dy[g, b, i, j, c, u, v] over the windows that show the pixel + β dx
//! ```
//!
//! x `[B, C, H, W]`, y `[G, B, Ho, Wo, C/G, kh, kw]`. A thread has an element of y, or a pixel of dx, for which it looks only at the
//! windows that reach it; four neighbours where rows of windows and of the image are whole fours. FLOPs: an addition for each dy. Bytes
//! at least: x in and y out; dy in and dx out. Bits: the CPU's.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[("patches.ptx", include_str!("../ptx/patches.ptx"))],
};

const THREADS: u32 = 128;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// y of x.
    Forward,
    /// dx, in x's place, of dy, in y's.
    Backward {
        /// Factor of what dx holds; 0 ignores it.
        beta: f32,
    },
}

/// A copy of windows, or its adjoint, to launch; f32 and contiguous.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patches {
    /// Which way.
    pub kind: Kind,
    /// B, and G.
    pub batch: usize,
    /// Groups of channels.
    pub groups: usize,
    /// C/G.
    pub channels: usize,
    /// H and W.
    pub image: [usize; 2],
    /// kh and kw.
    pub kernel: [usize; 2],
    /// Steps between windows.
    pub stride: [usize; 2],
    /// Zeros on each side.
    pub padding: [usize; 2],
    /// Steps between the elements of a window.
    pub dilation: [usize; 2],
    /// Address of x or dx.
    pub x: u64,
    /// Address of y or dy.
    pub y: u64,
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The adjoint.
    pub backward: bool,
    /// Neighbours that are moved at a time: 1 or 4.
    pub chunk: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    x: u64,
    y: u64,
    image: [u32; 2],
    kernel: [u32; 2],
    stride: [u32; 2],
    padding: [u32; 2],
    dilation: [u32; 2],
    windows: [u32; 2],
    batch: u32,
    groups: u32,
    channels: u32,
    /// Of a row of a window, or of the image; and all.
    chunks: u32,
    total: u32,
    beta: f32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Variant {
    /// One of each.
    pub fn all() -> impl Iterator<Item = Variant> {
        [false, true]
            .into_iter()
            .flat_map(|backward| [1, 4].map(|chunk| Variant { backward, chunk }))
    }

    /// The kernel's name.
    pub fn name(self) -> String {
        let gradient = if self.backward { "_gradient" } else { "" };
        format!("patches{gradient}_{}", self.chunk)
    }

    /// Threads of a block.
    pub fn threads(self) -> usize {
        THREADS as usize
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: String,
            backward: bool,
            chunk: usize,
            threads: u32,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            backward: self.backward,
            chunk: self.chunk,
            threads: THREADS,
            at: crate::offsets!(
                Arguments: x y image kernel stride padding dilation windows batch groups channels chunks total beta
            ),
        })
    }
}

impl Patches {
    /// Ho and Wo; None where a window does not fit the image with its padding, or a stride or dilation is 0.
    pub fn windows(&self) -> Option<[usize; 2]> {
        let along = |k: usize| {
            let reach = self.dilation[k] * self.kernel[k].checked_sub(1)? + 1;
            let room = (self.image[k] + 2 * self.padding[k]).checked_sub(reach)?;
            (self.dilation[k] > 0).then_some(())?;
            Some(room.checked_div(self.stride[k])? + 1)
        };
        Some([along(0)?, along(1)?])
    }

    /// Elements of x and of y.
    fn sizes(&self, [ho, wo]: [usize; 2]) -> [usize; 2] {
        let images = self.batch * self.groups * self.channels;
        [
            images * self.image[0] * self.image[1],
            images * ho * wo * self.kernel[0] * self.kernel[1],
        ]
    }

    /// Bytes that any kernel moves; of windows that fit.
    pub fn minimum_bytes(&self) -> u64 {
        let [x, y] = self.windows().map_or([0; 2], |windows| self.sizes(windows));
        let again = match self.kind {
            Kind::Backward { beta } if beta != 0.0 => x,
            _ => 0,
        };
        4 * (x + y + again) as u64
    }

    /// The kernel that computes it.
    pub fn variant(&self) -> Variant {
        let fours = [
            self.image[1],
            self.kernel[1],
            self.stride[1],
            self.padding[1],
        ];
        let whole = fours.iter().all(|x| x.is_multiple_of(4))
            && self.dilation[1] == 1
            && self.x.is_multiple_of(16)
            && self.y.is_multiple_of(16);
        Variant {
            backward: self.kind != Kind::Forward,
            chunk: if whole { 4 } else { 1 },
        }
    }

    /// Launches it on a stream. Empty results launch nothing.
    ///
    /// # Errors
    /// [`KernelError`]: windows that do not fit, sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// x and y must lie in memory of the stream's device, free of other use until the stream has come past, and not overlap.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let sizes = self.windows().map(|windows| (windows, self.sizes(windows)));
        let Some((windows, [x, y])) = sizes.filter(|(_, s)| s.iter().all(|n| *n < 1 << 31)) else {
            return Err(KernelError::Argument {
                kernel: "patches",
                what: format!(
                    "{self:?}: wanted windows that fit, and fewer than 2³¹ elements; split it"
                ),
            });
        };
        let variant = self.variant();
        let (row, count, beta) = match self.kind {
            Kind::Forward => (self.kernel[1], y, 0.0),
            Kind::Backward { beta } => (self.image[1], x, beta),
        };
        let total = count / variant.chunk;
        if total == 0 {
            return Ok(());
        }
        let pair = |x: [usize; 2]| x.map(|x| x as u32);
        let arguments = Arguments {
            x: self.x,
            y: self.y,
            image: pair(self.image),
            kernel: pair(self.kernel),
            stride: pair(self.stride),
            padding: pair(self.padding),
            dilation: pair(self.dilation),
            windows: pair(windows),
            batch: self.batch as u32,
            groups: self.groups as u32,
            channels: self.channels as u32,
            chunks: (row / variant.chunk) as u32,
            total: total as u32,
            beta,
        };
        let grid = Grid::over(total as u32, THREADS);
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(&variant.name(), grid, &arguments, stream, || {
                variant.expand()
            })
        }
    }
}
