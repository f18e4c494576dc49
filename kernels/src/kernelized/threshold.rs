//! The exact quantile of |K|: passes over K, and what is decided between them on the device.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use super::{Arguments, Kernelized, Kind, Rows};
use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const THRESHOLD: Template = Template {
    files: &[(
        "kernelized_threshold.ptx",
        include_str!("../../ptx/kernelized_threshold.ptx"),
    )],
};

#[repr(C)]
#[derive(Clone, Copy)]
struct ThresholdArguments {
    state: u64,
    t: u64,
    rank: u32,
    low: u32,
    high: u32,
    fraction: f32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for ThresholdArguments {}

/// What is known of the quantile between the passes: all 0 before the first.
#[repr(C)]
struct State {
    prefix: u32,
    rank: u32,
    between: u32,
    largest: u32,
    least: u32,
    _pad: [u32; 3],
    counts: [u32; 2048],
}

pub(super) fn state() -> crate::Offsets {
    crate::offsets!(State: prefix rank between largest least counts)
}

/// A step between two passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Picks a digit.
    Digit,
    /// Interpolates.
    Finish,
}

impl Step {
    /// Both.
    pub const ALL: [Step; 2] = [Step::Digit, Step::Finish];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Step::Digit => "kernelized_digit",
            Step::Finish => "kernelized_threshold",
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
            kind: &'static str,
            state: crate::Offsets,
            at: crate::Offsets,
        }
        THRESHOLD.expand(Values {
            name: self.name(),
            kind: match self {
                Step::Digit => "digit",
                Step::Finish => "finish",
            },
            state: state(),
            at: crate::offsets!(ThresholdArguments: state t rank low high fraction),
        })
    }

    /// Threads of the block.
    pub fn threads(self) -> usize {
        32
    }
}

impl Kernelized {
    /// Words of the memory, all 0, that [`Kernelized::quantile`] works in.
    pub const STATE: usize = size_of::<State>() / 4;

    /// Writes the p-quantile of |K|, interpolated between neighbours, to `t`; NaN if there is one in K. An empty K writes nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// All operands must lie in memory of the stream's device, free of other use until the stream has come past; [`Kernelized::STATE`]
    /// words at `state` are 0.
    pub unsafe fn quantile(
        &self,
        p: f64,
        (state, t): (u64, u64),
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let Some(last) = (self.m * self.n).checked_sub(1) else {
            return Ok(());
        };
        let place = p * last as f64;
        let step = |step: Step, low, high| {
            let arguments = ThresholdArguments {
                state,
                t,
                rank: place as u32,
                low,
                high,
                fraction: place.fract() as f32,
            };
            let grid = Grid::over(32, 32);
            // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
            unsafe { kernels.launch(step.name(), grid, &arguments, stream, || step.expand()) }
        };
        let all = Rows {
            first: 0,
            count: self.m,
        };
        for (low, high) in [(21, 32), (10, 21), (0, 10)] {
            let digit = Arguments {
                low,
                high,
                mask: (1 << (high - low)) - 1,
                out: state,
                ..self.arguments(all)
            };
            // SAFETY: the caller's promise.
            unsafe { self.launch(Kind::Count, digit, kernels, stream) }?;
            step(Step::Digit, low, high)?;
        }
        let next = Arguments {
            out: state,
            ..self.arguments(all)
        };
        // SAFETY: the caller's promise.
        unsafe { self.launch(Kind::Above, next, kernels, stream) }?;
        step(Step::Finish, 0, 0)
    }
}
