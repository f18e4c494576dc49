//! Steps of many tensors in one launch, each with its own coefficients: AdamW (Loshchilov & Hutter 2019), gradient descent with
//! momentum, and the smoothed importance of weights (Zhang et al. 2023, AdaLoRA, eqs. 8 to 10).
//!
//! ```text
//! Adam      m ← β₁m + (1 − β₁)g      v ← β₂v + (1 − β₂)g²      w ← keep·w − rate·m/(√(correct·v) + ε)
//! Momentum  g ← g + decay·w          v ← μv + g                w ← w − rate·v        (Nesterov: w ← w − rate·(g + μv))
//! Importance  I = |w·g|   m ← β₁m + (1 − β₁)I   v ← β₂v + (1 − β₂)|I − m|        (w stays)
//! ```
//!
//! The CPU's operations in their order. Elements whose mask is 0 keep what they have. The kernel's argument carries a table of up
//! to [`TABLE`] tensors, in which a block looks for its own; more tensors take more launches.
//!
//! FLOPs of an element: 14, 6 and 8. Bytes: w and the slots in and out, g and the mask in; importance only reads w.

use std::mem::offset_of;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[("update.ptx", include_str!("../ptx/update.ptx"))],
};

const THREADS: u32 = 128;

/// Tensors of one launch at most: a kernel's arguments are 4 KiB at most.
pub const TABLE: usize = 60;

/// A formula and its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Adam with decoupled decay; keeps two numbers an element.
    Adam {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root.
        eps: f32,
    },
    /// Gradient descent; keeps one number an element, none where μ is 0.
    Momentum {
        /// μ.
        momentum: f32,
        /// Whether the step looks ahead.
        nesterov: bool,
    },
    /// Sensitivity and its uncertainty; keeps both averages of an element.
    Importance {
        /// Of the sensitivity's average.
        beta1: f32,
        /// Of the uncertainty's.
        beta2: f32,
    },
}

impl Rule {
    /// One of each text.
    pub const ALL: [Rule; 5] = [
        Rule::Adam {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
        },
        Rule::Momentum {
            momentum: 0.0,
            nesterov: false,
        },
        Rule::Momentum {
            momentum: 0.9,
            nesterov: false,
        },
        Rule::Momentum {
            momentum: 0.9,
            nesterov: true,
        },
        Rule::Importance {
            beta1: 0.85,
            beta2: 0.75,
        },
    ];

    /// Numbers kept per element.
    pub fn slots(self) -> usize {
        match self {
            Rule::Adam { .. } | Rule::Importance { .. } => 2,
            Rule::Momentum { momentum, .. } => usize::from(momentum != 0.0),
        }
    }

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Adam { .. } => "update_adam",
            Rule::Importance { .. } => "update_importance",
            Rule::Momentum { nesterov: true, .. } if self.slots() > 0 => "update_nesterov",
            Rule::Momentum { .. } if self.slots() > 0 => "update_momentum",
            Rule::Momentum { .. } => "update_sgd",
        }
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
        struct Place {
            size: usize,
            w: usize,
            g: usize,
            mask: usize,
            slots: usize,
            step: usize,
            n: usize,
            first: usize,
        }
        #[derive(Serialize)]
        struct Values {
            name: &'static str,
            rule: &'static str,
            nesterov: bool,
            slots: usize,
            threads: u32,
            entry: Place,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            rule: match self {
                Rule::Adam { .. } => "adam",
                Rule::Momentum { .. } => "momentum",
                Rule::Importance { .. } => "importance",
            },
            nesterov: matches!(self, Rule::Momentum { nesterov: true, .. }),
            slots: self.slots(),
            threads: THREADS,
            entry: Place {
                size: size_of::<Entry>(),
                w: offset_of!(Entry, w),
                g: offset_of!(Entry, g),
                mask: offset_of!(Entry, mask),
                slots: offset_of!(Entry, slots),
                step: offset_of!(Entry, step),
                n: offset_of!(Entry, n),
                first: offset_of!(Entry, first),
            },
            at: crate::offsets!(Arguments: constants entries),
        })
    }

    fn constants(self) -> [f32; 6] {
        match self {
            Rule::Adam { beta1, beta2, eps } => [beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps, 0.0],
            Rule::Momentum { momentum, .. } => [momentum, 0.0, 0.0, 0.0, 0.0, 0.0],
            Rule::Importance { beta1, beta2 } => [beta1, 1.0 - beta1, beta2, 1.0 - beta2, 0.0, 0.0],
        }
    }
}

/// A tensor, or a run of its elements, to be updated; all contiguous f32.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Part {
    /// Elements.
    pub n: usize,
    /// Address of the weights.
    pub w: u64,
    /// Address of the gradients.
    pub g: u64,
    /// Address of the mask, if there is one.
    pub mask: Option<u64>,
    /// Addresses of what is kept, as many as [`Rule::slots`].
    pub slots: [u64; 2],
    /// rate, correct and keep of Adam; rate and decay of Momentum; nothing of Importance.
    pub step: [f32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Entry {
    w: u64,
    g: u64,
    /// 0: none.
    mask: u64,
    slots: [u64; 2],
    step: [f32; 3],
    n: u32,
    /// The first of its blocks; after the last entry, more than there are.
    first: u32,
    _pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    constants: [f32; 6],
    entries: [Entry; TABLE + 1],
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

/// Steps to launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The formula.
    pub rule: Rule,
    /// What is updated.
    pub parts: Vec<Part>,
}

impl Update {
    /// Floating-point operations.
    pub fn flops(&self) -> u64 {
        let each = match self.rule {
            Rule::Adam { .. } => 14,
            Rule::Momentum { .. } => 2 * (2 + self.rule.slots() as u64),
            Rule::Importance { .. } => 8,
        };
        each * self.parts.iter().map(|p| p.n as u64).sum::<u64>()
    }

    /// Bytes that any kernel moves.
    pub fn minimum_bytes(&self) -> u64 {
        let weights = match self.rule {
            Rule::Importance { .. } => 2,
            _ => 3,
        };
        let each =
            |p: &Part| 4 * p.n * (weights + 2 * self.rule.slots() + usize::from(p.mask.is_some()));
        self.parts.iter().map(each).sum::<usize>() as u64
    }

    /// Launches them on a stream, [`TABLE`] parts at a time.
    ///
    /// # Errors
    /// [`KernelError`]: a part too large for a grid, or the driver's refusal.
    ///
    /// # Safety
    /// All parts must lie in memory of the stream's device, free of other use until the stream has come past, and overlap nowhere.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        for parts in self.parts.chunks(TABLE) {
            let mut arguments = Arguments {
                constants: self.rule.constants(),
                entries: [Entry::default(); TABLE + 1],
            };
            let mut blocks = 0usize;
            for (entry, part) in arguments.entries.iter_mut().zip(parts) {
                *entry = Entry {
                    w: part.w,
                    g: part.g,
                    mask: part.mask.unwrap_or(0),
                    slots: part.slots,
                    step: part.step,
                    n: part.n as u32,
                    first: blocks as u32,
                    _pad: 0,
                };
                blocks += part.n.div_ceil(THREADS as usize);
            }
            arguments.entries[parts.len()].first = u32::MAX;
            if blocks >= 1 << 24 {
                return Err(KernelError::Argument {
                    kernel: "update",
                    what: format!(
                        "{blocks} blocks of {THREADS} elements in one launch: wanted fewer than 2²⁴; split the tensors"
                    ),
                });
            }
            if blocks == 0 {
                continue;
            }
            let grid = Grid {
                blocks: [blocks as u32, 1, 1],
                threads: THREADS,
                shared: 0,
            };
            let name = self.rule.name();
            // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
            unsafe { kernels.launch(name, grid, &arguments, stream, || self.rule.expand()) }?;
        }
        Ok(())
    }
}
