//! Order statistics of long rows, by several blocks a row; see `ptx/select_radix.ptx`.
//!
//! Elements are pairs of a key, which orders as the numbers do, and what their index lacks to the largest one, so that no two are
//! equal. The k-th largest pair is found digit by digit, 8 bits a pass: blocks count digits in shared memory and add their counts in
//! global memory, and the next pass's blocks find the digit in them. The pairs from it up, k of them, are taken and ranked.
//! Counts are integers, so the result does not depend on the blocks' order.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr, result};
use serde::Serialize;

use super::{Kind, Select};
use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[
        (
            "select_radix.ptx",
            include_str!("../../ptx/select_radix.ptx"),
        ),
        super::KEY,
    ],
};

const THREADS: u32 = 256;

/// Passes: four of a key, and up to four of an index.
const MAX_PASSES: u32 = 8;

/// Bytes of a row's counts.
const COUNTS: usize = 4 * 256 * MAX_PASSES as usize;

/// Elements that a block's part has at least: 16 for each thread.
const PART: usize = 16 * THREADS as usize;

/// Rows that are worked on at a time: more keep no more multiprocessors busy.
const ROWS: usize = 1024;

/// A kernel of the selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Counts the digits of a pass.
    Count,
    /// Takes the pairs from the k-th largest up.
    Take,
    /// Puts them in order.
    Rank,
    /// Turns the k-th largest key back to its number.
    Value,
}

/// The kernels' argument, as the template reads it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    x: u64,
    values: u64,
    indices: u64,
    counts: u64,
    taken: u64,
    candidates: u64,
    n: u32,
    /// Counted from 1, from the largest.
    k: u32,
    /// Elements of a part.
    part: u32,
    /// Passes whose counts are there.
    done: u32,
    /// The pass's digit's lowest bit.
    shift: u32,
    /// Bits of an index, and the largest index that they hold.
    bits: u32,
    mask: u32,
    _pad: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

impl Step {
    /// All of them.
    pub const ALL: [Step; 4] = [Step::Count, Step::Take, Step::Rank, Step::Value];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Step::Count => "select_count",
            Step::Take => "select_take",
            Step::Rank => "select_rank",
            Step::Value => "select_value",
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
        struct Values {
            name: &'static str,
            step: &'static str,
            threads: u32,
            max_passes: u32,
            at: crate::Offsets,
        }
        TEMPLATE.expand(Values {
            name: self.name(),
            step: match self {
                Step::Count => "count",
                Step::Take => "take",
                Step::Rank => "rank",
                Step::Value => "value",
            },
            threads: THREADS,
            max_passes: MAX_PASSES,
            at: crate::offsets!(Arguments: x values indices counts taken candidates n k part done shift bits mask),
        })
    }
}

impl Select {
    /// Bits of an index, in whole digits; the k-th needs none.
    fn index_bits(&self) -> u32 {
        match self.kind {
            Kind::Top => {
                8 * (self.n as u32)
                    .saturating_sub(1)
                    .checked_ilog2()
                    .map_or(1, |b| b / 8 + 1)
            }
            Kind::Kth => 0,
        }
    }

    /// Bytes of the counts, how many pairs are taken, and the pairs.
    pub(super) fn radix_bytes(&self) -> [usize; 3] {
        let rows = self.rows.min(ROWS);
        let pairs = match self.kind {
            Kind::Top => 8 * rows * self.k,
            Kind::Kth => 0,
        };
        [rows * COUNTS, (4 * rows).next_multiple_of(8), pairs]
    }

    /// # Safety
    /// As for [`Select::launch`].
    pub(super) unsafe fn launch_radix(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let (results, indices) = match self.kind {
            Kind::Top => (self.k, self.k),
            Kind::Kth => (1, 0),
        };
        for first in (0..self.rows).step_by(ROWS) {
            let some = Select {
                rows: ROWS.min(self.rows - first),
                x: self.x + (4 * first * self.n) as u64,
                values: self.values + (4 * first * results) as u64,
                indices: self.indices + (4 * first * indices) as u64,
                ..*self
            };
            // SAFETY: the caller's promise, for these rows.
            unsafe { some.launch_rows(kernels, stream) }?;
        }
        Ok(())
    }

    /// # Safety
    /// As for [`Select::launch`]; no more than [`ROWS`] rows.
    unsafe fn launch_rows(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let [counts, taken, _] = self.radix_bytes();
        let bits = self.index_bits();
        let mut arguments = Arguments {
            x: self.x,
            values: self.values,
            indices: self.indices,
            counts: self.scratch,
            taken: self.scratch + counts as u64,
            candidates: self.scratch + (counts + taken) as u64,
            n: self.n as u32,
            k: match self.kind {
                Kind::Top => self.k as u32,
                Kind::Kth => (self.n - self.k) as u32,
            },
            part: 0,
            done: 0,
            shift: 0,
            bits,
            mask: u32::MAX.checked_shr(32 - bits).unwrap_or(0),
            _pad: 0,
        };
        // As many blocks as keep the multiprocessors busy, of parts that are worth a block.
        let wanted = (8 * kernels.multiprocessors() as usize).div_ceil(self.rows);
        let parts = wanted.min(self.n.div_ceil(PART)).max(1);
        arguments.part = self.n.div_ceil(parts) as u32;
        let parts = self.n.div_ceil(arguments.part as usize) as u32;
        // SAFETY: the scratch memory is as large as this, by the caller's promise.
        let zeroed =
            unsafe { result::memset_d8_async(self.scratch, 0, counts + taken, stream.cu_stream()) };
        zeroed.map_err(|error| KernelError::Driver {
            kernel: self.kind.name().into(),
            action: "clearing its counts",
            error,
        })?;
        let launch = |step: Step, blocks: u32, arguments: &Arguments| {
            let grid = Grid {
                blocks: [self.rows as u32, blocks, 1],
                threads: THREADS,
                shared: 0,
            };
            // SAFETY: the kernels take exactly these arguments; the rest is the caller's promise.
            unsafe { kernels.launch(step.name(), grid, arguments, stream, || step.expand()) }
        };
        let total = 32 + bits;
        for pass in 0..total / 8 {
            (arguments.done, arguments.shift) = (pass, total - 8 * (pass + 1));
            launch(Step::Count, parts, &arguments)?;
        }
        arguments.done = total / 8;
        match self.kind {
            Kind::Top => {
                launch(Step::Take, parts, &arguments)?;
                launch(Step::Rank, arguments.k.div_ceil(THREADS), &arguments)
            }
            Kind::Kth => launch(Step::Value, 1, &arguments),
        }
    }
}
