//! Launches.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::border::{Host, In, Out, Outcome, call};
use super::context::Context;
use super::module::Function;
use super::report::Launch;
use super::status::{Failure, Status};
use super::stream::{enqueue_launch, resolve};
use crate::exec::{self, Fault, FaultKind, LaunchConfig};
use crate::ptx;

impl From<&Fault> for Status {
    /// What a GPU would give where it notices the fault; what only the checks see ends as a failed launch.
    fn from(fault: &Fault) -> Status {
        match fault.kind {
            FaultKind::InvalidLaunch => Status::INVALID_VALUE,
            FaultKind::OutOfBounds | FaultKind::UseAfterFree => Status::ILLEGAL_ADDRESS,
            FaultKind::Misaligned => Status::MISALIGNED_ADDRESS,
            FaultKind::InstructionLimit => Status::LAUNCH_TIMEOUT,
            FaultKind::Assertion => Status::ASSERT,
            FaultKind::LaneMask => Status::ILLEGAL_INSTRUCTION,
            FaultKind::Uninitialised
            | FaultKind::Race
            | FaultKind::BarrierDivergence
            | FaultKind::AsyncRead
            | FaultKind::Trap => Status::LAUNCH_FAILED,
        }
    }
}

/// Where a launch's arguments are: an array of pointers to them, or a list of extra options.
struct Arguments {
    pointers: In<Host>,
    extra: In<Host>,
}

impl Arguments {
    /// Copies them into a parameter buffer.
    fn gather(&self, declaration: &ptx::Function) -> Outcome<Vec<u8>> {
        let bytes = declaration.param_bytes() as usize;
        if !self.pointers.is_null() || (self.extra.is_null() && bytes > 0) {
            let mut buffer = vec![0; bytes];
            for (i, param) in declaration.params.iter().enumerate() {
                let (start, size) = (param.offset as usize, param.size as usize);
                buffer[start..start + size].copy_from_slice(self.pointers.get(i)?.read(size)?);
            }
            return Ok(buffer);
        }
        let (mut packed, mut size) = (None, None);
        for i in (0..).step_by(2).take_while(|_| !self.extra.is_null()) {
            match self.extra.get(i)?.address() {
                0 => break,
                1 => packed = Some(self.extra.get(i + 1)?),
                2 => {
                    size = Some(usize::from_ne_bytes(
                        self.extra
                            .get(i + 1)?
                            .read(size_of::<usize>())?
                            .try_into()
                            .expect("a usize"),
                    ))
                }
                option => {
                    return Err(
                        Status::INVALID_VALUE.because(format!("no extra launch option {option}"))
                    );
                }
            }
        }
        match (packed, size) {
            (Some(packed), Some(size)) if size >= bytes => Ok(packed.read(bytes)?.to_vec()),
            (None, None) if bytes == 0 => Ok(Vec::new()),
            (_, size) => Err(Status::INVALID_VALUE.because(format!(
                "a parameter buffer of {} bytes, and the kernel has {bytes}",
                size.unwrap_or(0)
            ))),
        }
    }
}

/// Grid, block, bytes of dynamic shared memory, stream.
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
}

impl Shape {
    fn check(&self, function: &Function) -> Outcome {
        let declaration = function.kernel.function();
        let name = &declaration.name;
        let refuse = |why: String| Err(Status::INVALID_VALUE.because(format!("{name}: {why}")));
        let ([gx, gy, gz], [bx, by, bz]) = (self.grid, self.block);
        if [gx, gy, gz, bx, by, bz].contains(&0) || gx > i32::MAX as u32 || gy > 65535 || gz > 65535
        {
            return refuse(format!(
                "a grid of {gx}×{gy}×{gz} blocks of {bx}×{by}×{bz} threads"
            ));
        }
        let threads = u64::from(bx) * u64::from(by) * u64::from(bz);
        if bx > 1024 || by > 1024 || bz > 64 || threads > u64::from(function.max_threads()) {
            return refuse(format!(
                "a block of {bx}×{by}×{bz} threads, at most {}",
                function.max_threads()
            ));
        }
        if let Some(required) = declaration.required_threads.filter(|&r| r != self.block) {
            return refuse(format!(
                "a block of {bx}×{by}×{bz} threads, and .reqntid asks for {required:?}"
            ));
        }
        let most = function.max_dynamic_shared.load(Ordering::Relaxed);
        if self.shared > most {
            return refuse(format!(
                "{} bytes of dynamic shared memory, at most {most}: raise CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
                self.shared
            ));
        }
        Ok(())
    }

    fn launch(self, function: usize, arguments: &Arguments) -> Outcome {
        let function = Function::find(function)?;
        let (context, _) = resolve(self.stream)?;
        if context.handle != function.module.context.handle {
            return Err(Status::INVALID_HANDLE
                .because("the function belongs to another context than the stream"));
        }
        if context.device.config().checks.memory && !context.memory.config().shadow {
            return Err(Status::NOT_PERMITTED
                .because("memory checks in a context that was made without them"));
        }
        self.check(&function)?;
        let params = arguments.gather(function.kernel.function())?;
        enqueue_launch(self.stream, move |context| {
            self.run(context, &function, &params)
        })
    }

    fn run(&self, context: &Context, function: &Function, params: &[u8]) -> Outcome {
        let device = &context.device;
        let settings = device.config();
        let config = LaunchConfig {
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.shared,
            params,
        };
        let start = Instant::now();
        let outcome = exec::launch(
            &function.kernel,
            &config,
            &context.memory,
            &settings.checks,
            settings.instruction_limit,
        );
        let seconds = start.elapsed().as_secs_f64();
        let declaration = function.kernel.function();
        match outcome {
            Ok(counters) => {
                if settings.checks.counters {
                    let (grid, block, kernel) = (self.grid, self.block, declaration.name.clone());
                    let shared = self.shared + function.kernel.shared_bytes();
                    device.report.launched(Launch {
                        kernel,
                        grid,
                        block,
                        shared,
                        seconds,
                        counters,
                    });
                }
                Ok(())
            }
            Err(fault) => {
                device.report.failed(&fault);
                Err(Failure {
                    status: Status::from(&fault),
                    message: fault.to_string(),
                })
            }
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: usize,
    pointers: In<Host>,
    extra: In<Host>,
) -> Status {
    call("cuLaunchKernel", || {
        let shape = Shape {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared,
            stream,
        };
        shape.launch(function, &Arguments { pointers, extra })
    })
}

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LaunchConfigEx {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
    attributes: Host,
    count: u32,
}

/// `CUlaunchAttribute`.
#[repr(C)]
struct Attribute {
    id: u32,
    value: [u64; 8],
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernelEx(
    config: In<LaunchConfigEx>,
    function: usize,
    pointers: In<Host>,
    extra: In<Host>,
) -> Status {
    call("cuLaunchKernelEx", || {
        let config = config.get(0)?;
        let attributes = config
            .attributes
            .read(config.count as usize * size_of::<Attribute>())?;
        for attribute in attributes.chunks_exact(size_of::<Attribute>()) {
            let word = |at: usize| {
                u32::from_ne_bytes(attribute[at..at + 4].try_into().expect("four bytes"))
            };
            let allowed = match word(0) {
                // Hints: nothing, access policy, synchronisation policy, cluster scheduling, priority, carveout.
                0 | 1 | 3 | 5 | 8 | 14 => true,
                2 | 6 => word(8) == 0, // cooperative; programmatic serialisation
                4 => [word(8), word(12), word(16)] == [1, 1, 1], // cluster size
                _ => false,
            };
            if !allowed {
                return Err(Status::NOT_SUPPORTED.because(format!("launch attribute {}", word(0))));
            }
        }
        let shape = Shape {
            grid: config.grid,
            block: config.block,
            shared: config.shared,
            stream: config.stream,
        };
        shape.launch(function, &Arguments { pointers, extra })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: Out<i32>,
    function: usize,
    threads: i32,
    shared: usize,
) -> Status {
    call("cuOccupancyMaxActiveBlocksPerMultiprocessor", || {
        blocks.set(resident(&*Function::find(function)?, threads, shared)? as i32)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: Out<i32>,
    function: usize,
    threads: i32,
    shared: usize,
    _flags: u32,
) -> Status {
    call(
        "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
        || blocks.set(resident(&*Function::find(function)?, threads, shared)? as i32),
    )
}

fn resident(function: &Function, threads: i32, shared: usize) -> Outcome<u32> {
    let threads = u32::try_from(threads)
        .map_err(|_| Status::INVALID_VALUE.because("a negative block size"))?;
    let shared = shared.saturating_add(function.kernel.shared_bytes() as usize);
    if threads > function.max_threads() {
        return Ok(0);
    }
    let shared = u32::try_from(shared).unwrap_or(u32::MAX);
    Ok(function
        .module
        .context
        .device
        .architecture()
        .resident_blocks(threads, shared))
}

/// The block size with the most resident threads (the largest of several), and the blocks that fill the device.
fn best_block(
    function: &Function,
    shared: impl Fn(u32) -> usize,
    limit: i32,
) -> Outcome<(u32, u32)> {
    let most = match u32::try_from(limit) {
        Ok(limit @ 1..) => limit.min(function.max_threads()),
        _ => function.max_threads(),
    };
    let mut best = (0, 0, 0);
    for threads in (32..=most.next_multiple_of(32))
        .step_by(32)
        .map(|t| t.min(most))
    {
        let blocks = resident(function, threads as i32, shared(threads))?;
        best = best.max((blocks * threads, threads, blocks));
    }
    Ok((
        best.1,
        best.2
            * function
                .module
                .context
                .device
                .architecture()
                .multiprocessors,
    ))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<i32>,
    block: Out<i32>,
    function: usize,
    shared_of: Option<extern "C" fn(i32) -> usize>,
    shared: usize,
    limit: i32,
) -> Status {
    call("cuOccupancyMaxPotentialBlockSize", || {
        let bytes = |threads: u32| shared_of.map_or(shared, |f| f(threads as i32));
        let (threads, blocks) = best_block(&*Function::find(function)?, bytes, limit)?;
        grid.set(blocks as i32)?;
        block.set(threads as i32)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: Out<usize>,
    function: usize,
    blocks: i32,
    threads: i32,
) -> Status {
    call("cuOccupancyAvailableDynamicSMemPerBlock", || {
        let function = Function::find(function)?;
        let most = function.max_dynamic_shared.load(Ordering::Relaxed);
        let fits = |shared: u32| {
            Ok::<_, Failure>(resident(&function, threads, shared as usize)? >= blocks.max(0) as u32)
        };
        // The largest amount that leaves room for the blocks: more memory never makes more blocks fit.
        let (mut low, mut high) = (0, most + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle)? {
                low = middle
            } else {
                high = middle
            }
        }
        bytes.set(low as usize)
    })
}
