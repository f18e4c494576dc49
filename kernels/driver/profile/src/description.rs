//! A launch as a small JSON file says it.

use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::sys::cuFuncGetParamInfo;
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use deltaw_emulator::{Device, Emulator};
use serde::Deserialize;

use crate::ProfileError;

/// A launch.
///
/// ```json
/// {
///   "kernel": "saxpy", "grid": [4], "block": [256],
///   "args": [{ "u32": 1000 }, { "f32": 2.0 },
///            { "buffer": { "type": "f32", "count": 1000, "fill": "uniform" } },
///            { "buffer": { "type": "f32", "count": 1000 } }]
/// }
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks along x and, if more than one, y and z.
    pub grid: Vec<u32>,
    /// Threads of a block along x and, if more than one, y and z.
    pub block: Vec<u32>,
    /// Bytes of dynamic shared memory.
    #[serde(default)]
    pub shared: u32,
    /// The arguments in order.
    pub args: Vec<Argument>,
}

/// An argument.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Argument {
    /// A number.
    U32(u32),
    /// A number.
    I32(i32),
    /// A number.
    U64(u64),
    /// A number.
    I64(i64),
    /// A number.
    F32(f32),
    /// A number.
    F64(f64),
    /// Device memory, whose address is passed.
    Buffer {
        /// Type of an element.
        #[serde(rename = "type")]
        element: Element,
        /// Elements.
        count: usize,
        /// What it holds before the launch.
        #[serde(default)]
        fill: Fill,
    },
}

/// The type of a buffer's elements.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// 8 bits.
    U8,
    /// 32 bits.
    U32,
    /// 32 bits, signed.
    I32,
    /// 64 bits.
    U64,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    /// Zeros.
    #[default]
    Zeros,
    /// 0, 1, 2, … (small enough to be exact in every type: modulo 128).
    Iota,
    /// The same pseudo-random numbers every time: floats in [-1, 1), integers of all bits.
    Uniform,
    /// Nothing: reading it is a fault.
    Uninitialised,
}

impl Argument {
    fn bytes(&self) -> usize {
        match self {
            Argument::U32(_) | Argument::I32(_) | Argument::F32(_) => 4,
            Argument::U64(_) | Argument::I64(_) | Argument::F64(_) | Argument::Buffer { .. } => 8,
        }
    }
}

/// Bytes of each of a kernel's parameters.
fn parameter_sizes(kernel: &CudaFunction) -> Vec<usize> {
    let size = |index| {
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: both results may be written; an index past the last parameter is an error.
        unsafe { cuFuncGetParamInfo(kernel.cu_function(), index, &mut offset, &mut bytes) }
            .result()
            .ok()
            .map(|()| bytes)
    };
    (0..).map_while(size).collect()
}

impl Element {
    fn bytes(self) -> usize {
        match self {
            Element::U8 => 1,
            Element::F16 | Element::Bf16 => 2,
            Element::U32 | Element::I32 | Element::F32 => 4,
            Element::U64 | Element::F64 => 8,
        }
    }

    fn is_integer(self) -> bool {
        matches!(
            self,
            Element::U8 | Element::U32 | Element::I32 | Element::U64
        )
    }

    /// The low bytes of a value of this type that is near `x`, a multiple of 1/128 in [-1, 128).
    fn float(self, x: f32) -> u64 {
        match self {
            Element::F32 => x.to_bits().into(),
            Element::F64 => f64::from(x).to_bits(),
            Element::Bf16 => (x.to_bits() >> 16).into(),
            // Exponent and the upper 10 bits of the fraction; such an x has no more and is 0 or normal in f16.
            Element::F16 if x == 0.0 => 0,
            Element::F16 => {
                let bits = x.to_bits();
                u64::from(
                    (bits >> 16 & 0x8000)
                        | ((bits >> 23 & 0xff) - 112) << 10
                        | (bits >> 13 & 0x3ff),
                )
            }
            Element::U8 | Element::U32 | Element::I32 | Element::U64 => x as i64 as u64,
        }
    }
}

impl Fill {
    /// The bytes of a buffer, or nothing for one that stays uninitialised.
    fn bytes(self, element: Element, count: usize) -> Option<Vec<u8>> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = || {
            // xorshift64: it only has to look irregular.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut bytes = Vec::with_capacity(count * element.bytes());
        for i in 0..count {
            let value = match self {
                Fill::Zeros => 0,
                Fill::Iota => element.float((i % 128) as f32),
                Fill::Uniform if element.is_integer() => random(),
                Fill::Uniform => element.float((random() >> 56) as f32 / 128.0 - 1.0),
                Fill::Uninitialised => return None,
            };
            bytes.extend(&value.to_le_bytes()[..element.bytes()]);
        }
        Some(bytes)
    }
}

/// The architecture number of a text's `.target`.
pub fn target(ptx: &str) -> Option<u32> {
    let line = ptx
        .lines()
        .find_map(|line| line.trim().strip_prefix(".target"))?;
    let digits = line.trim().strip_prefix("sm_")?;
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}

fn dimensions(values: &[u32], what: &str) -> Result<(u32, u32, u32), ProfileError> {
    match values {
        [x] => Ok((*x, 1, 1)),
        [x, y] => Ok((*x, *y, 1)),
        [x, y, z] => Ok((*x, *y, *z)),
        _ => Err(ProfileError::Description(format!(
            "{what} has {} numbers, wanted 1 to 3",
            values.len()
        ))),
    }
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// [`ProfileError::Description`] with the place.
    pub fn parse(json: &str) -> Result<Description, ProfileError> {
        serde_json::from_str(json).map_err(|e| ProfileError::Description(e.to_string()))
    }

    /// Compares the arguments with the kernel's parameters, in bytes.
    fn check_parameters(&self, sizes: &[usize]) -> Result<(), ProfileError> {
        let given: Vec<usize> = self.args.iter().map(Argument::bytes).collect();
        if given == sizes {
            return Ok(());
        }
        let kernel = &self.kernel;
        Err(ProfileError::Description(format!(
            "arguments of {given:?} bytes, and the parameters of `{kernel}` have {sizes:?}"
        )))
    }

    /// Launches it and waits.
    pub(crate) fn launch(
        &self,
        ptx: &str,
        emulator: &Emulator,
        device: &Device,
    ) -> Result<(), ProfileError> {
        let failed = |error: cudarc::driver::DriverError| match emulator.last_error() {
            Ok(message) if !message.is_empty() => ProfileError::Driver(message),
            _ => ProfileError::Driver(error.to_string()),
        };
        let context = CudaContext::new(device.ordinal()).map_err(failed)?;
        let stream = context.default_stream();
        let module = context.load_module(Ptx::from_src(ptx)).map_err(failed)?;
        let kernel = module.load_function(&self.kernel).map_err(failed)?;
        if self.shared > 0 {
            kernel
                .set_attribute(
                    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    self.shared as i32,
                )
                .map_err(failed)?;
        }
        self.check_parameters(&parameter_sizes(&kernel))?;
        let mut buffers: Vec<CudaSlice<u8>> = Vec::new();
        for argument in &self.args {
            if let Argument::Buffer {
                element,
                count,
                fill,
            } = argument
            {
                let buffer = match fill.bytes(*element, *count) {
                    Some(bytes) => stream.clone_htod(&bytes),
                    // SAFETY: bytes have no invalid values, and the driver notices reads of them.
                    None => unsafe { stream.alloc(count * element.bytes()) },
                };
                buffers.push(buffer.map_err(failed)?);
            }
        }
        let mut buffers = buffers.iter_mut();
        let mut launch = stream.launch_builder(&kernel);
        for argument in &self.args {
            match argument {
                Argument::U32(x) => launch.arg(x),
                Argument::I32(x) => launch.arg(x),
                Argument::U64(x) => launch.arg(x),
                Argument::I64(x) => launch.arg(x),
                Argument::F32(x) => launch.arg(x),
                Argument::F64(x) => launch.arg(x),
                Argument::Buffer { .. } => {
                    launch.arg(buffers.next().expect("one was made for each"))
                }
            };
        }
        let shape = LaunchConfig {
            grid_dim: dimensions(&self.grid, "grid")?,
            block_dim: dimensions(&self.block, "block")?,
            shared_mem_bytes: self.shared,
        };
        // SAFETY: number and sizes of the arguments were compared; whatever the kernel does with them, the driver keeps it inside
        // the device's memory.
        unsafe { launch.launch(shape) }.map_err(failed)?;
        stream
            .synchronize()
            .map_err(|error| match device.last_fault() {
                Ok(Some(fault)) => ProfileError::Fault(fault.message),
                _ => failed(error),
            })
    }
}
