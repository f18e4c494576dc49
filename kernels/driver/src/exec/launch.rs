//! The launch: its limits, and blocks over threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::block::Block;
use super::fault::Fail;
use super::program::Kernel;
use super::tally::Tally;
use super::{Fault, FaultKind};
use crate::counters::Counters;
use crate::memory::{Memory, View};

/// Threads of a block at most.
pub const MAX_THREADS: u64 = 1024;
/// Shared memory of a block at most, static and dynamic (what sm_90 allows after opting in).
pub const MAX_SHARED: u32 = 227 * 1024;

/// One launch.
#[derive(Clone, Copy, Debug)]
pub struct LaunchConfig<'a> {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameter buffer, laid out by [`crate::ptx::Function::params`].
    pub params: &'a [u8],
}

/// Which checks a launch makes. Loads and stores never leave the context's memory, checked or not, and an access that
/// is not aligned to its size is always an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Bounds of every allocation, use after free, and uninitialised data that reaches an address, a branch or a
    /// global store. Needs a memory with a shadow.
    pub memory: bool,
    /// Races in shared memory between barriers.
    pub races: bool,
    /// Divergent barriers, asynchronous copies read before their wait, masks that name absent lanes.
    pub synchronisation: bool,
    /// Counts more than the instructions.
    pub counters: bool,
    /// With `memory`: uninitialised data are reported where they are read, not only where they matter. Compilers read
    /// undefined registers now and then; code written by hand should not.
    pub strict: bool,
}

impl Checks {
    /// Everything on but `strict`.
    pub const ALL: Checks = Checks {
        memory: true,
        races: true,
        synchronisation: true,
        counters: true,
        strict: false,
    };
    /// Everything on.
    pub const STRICT: Checks = Checks {
        strict: true,
        ..Checks::ALL
    };
    /// Everything off.
    pub const NONE: Checks = Checks {
        memory: false,
        races: false,
        synchronisation: false,
        counters: false,
        strict: false,
    };

    /// A check is on; counters are none, and `strict` is part of `memory`.
    pub(crate) fn any(self) -> bool {
        self.memory || self.races || self.synchronisation
    }
}

/// A launch as the blocks see it.
pub(crate) struct Launch<'a> {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub shared_bytes: u32,
    pub params: &'a [u8],
    pub memory: &'a Memory,
    pub view: View,
    pub checks: Checks,
    /// Warp-instructions that a warp may execute.
    pub limit: u64,
}

/// Runs a kernel to its end. A warp that executes more than `instruction_limit` instructions is a fault.
///
/// # Errors
/// The fault of the first block, in index order, that has one.
pub fn launch(
    kernel: &Kernel,
    config: &LaunchConfig<'_>,
    memory: &Memory,
    checks: &Checks,
    instruction_limit: u64,
) -> Result<Counters, Fault> {
    let program = kernel.program();
    let invalid = |text: String| Fault {
        kind: FaultKind::InvalidLaunch,
        kernel: program.name.clone(),
        line: 0,
        block: [0; 3],
        thread: [0; 3],
        address: None,
        text,
    };
    let threads: u64 = config.block.iter().map(|&n| u64::from(n)).product();
    let blocks = config
        .grid
        .iter()
        .try_fold(1u64, |all, &n| all.checked_mul(n.into()));
    let (Some(blocks @ 1..), 1..=MAX_THREADS) = (blocks, threads) else {
        return Err(invalid(format!(
            "grid {:?} and block {:?}: wanted no zero and at most {MAX_THREADS} threads",
            config.grid, config.block
        )));
    };
    let function = kernel.function();
    let allowed: u64 = function
        .max_threads
        .map_or(MAX_THREADS, |n| n.iter().map(|&n| u64::from(n)).product());
    if threads > allowed || function.required_threads.is_some_and(|n| n != config.block) {
        return Err(invalid(format!(
            "block {:?}: the kernel was made for {:?}",
            config.block, function.max_threads
        )));
    }
    let shared_bytes = program
        .shared_bytes
        .checked_add(config.dynamic_shared)
        .filter(|&b| b <= MAX_SHARED);
    let Some(shared_bytes) = shared_bytes else {
        return Err(invalid(format!(
            "{} static and {} dynamic bytes of shared memory: at most {MAX_SHARED}",
            program.shared_bytes, config.dynamic_shared
        )));
    };
    if config.params.len() != function.param_bytes() as usize {
        return Err(invalid(format!(
            "{} bytes of parameters: the kernel takes {}",
            config.params.len(),
            function.param_bytes()
        )));
    }
    let view = memory.view();
    if checks.memory && view.shadow.is_null() {
        return Err(invalid(
            "the memory check needs a memory with a shadow".into(),
        ));
    }
    let launch = Launch {
        grid: config.grid,
        block: config.block,
        dynamic_shared: config.dynamic_shared,
        shared_bytes,
        params: config.params,
        memory,
        view,
        checks: *checks,
        limit: instruction_limit,
    };
    let result = run_blocks(kernel, &launch, blocks);
    if !checks.any() && !view.shadow.is_null() {
        memory.assume_initialised();
    }
    result
        .map(|tally| program.counters(&tally))
        .map_err(|fail| *fail)
}

/// Blocks in index order over the threads of the pool. After a fault only blocks before it still run, so that the
/// fault reported does not depend on the number of threads.
fn run_blocks(kernel: &Kernel, launch: &Launch<'_>, blocks: u64) -> Result<Tally, Fail> {
    let program = kernel.program();
    let next = AtomicU64::new(0);
    let end = AtomicU64::new(blocks);
    let outcome: Mutex<(Tally, Option<(u64, Fail)>)> =
        Mutex::new((Tally::new(program.ops.len()), None));
    let work = || {
        let (mut block, mut warps) = Block::new(program, launch);
        let mut fault = None;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= end.load(Ordering::Relaxed) {
                break;
            }
            if let Err(fail) = block.run(&mut warps, index) {
                end.fetch_min(index, Ordering::Relaxed);
                fault = Some((index, fail));
                break;
            }
        }
        let mut all = outcome
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        all.0.add(&block.tally);
        if let Some((index, fail)) = fault
            && all.1.as_ref().is_none_or(|(first, _)| index < *first)
        {
            all.1 = Some((index, fail));
        }
    };
    let workers = blocks.min(rayon::current_num_threads() as u64);
    rayon::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|_| work());
        }
        work();
    });
    let (tally, fault) = outcome
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    fault.map_or(Ok(tally), |(_, fail)| Err(fail))
}
