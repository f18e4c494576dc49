//! Clean kernels of compilers, and launches of them with lines of their texts replaced.

use deltaw_driver::exec::{Checks, Fault};

use super::common::{Arg, Device, LIMIT};

/// A kernel of a compiler, and a launch that is clean.
pub struct Subject {
    pub ptx: &'static str,
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    /// Bytes of the input buffers; the output comes after them.
    pub inputs: &'static [usize],
    pub output: usize,
    pub values: &'static [u32],
    /// Pointers after the values, which are not used.
    pub scratch: usize,
}

macro_rules! triton {
    ($file:literal) => {
        include_str!(concat!("../triton/", $file, ".ptx"))
    };
}

/// A launch of one block, by NVRTC, of a kernel that takes nothing else.
const BLANK: Subject = Subject {
    ptx: NVRTC,
    kernel: "",
    grid: [1, 1, 1],
    block: [1, 1, 1],
    shared: 0,
    inputs: &[],
    output: 0,
    values: &[],
    scratch: 0,
};

const NVRTC: &str = include_str!("../cuda/kernels_sm80.ptx");
const CLANG: &str = include_str!("../clang/written_O2.ptx");

/// Barriers and pipelines of asynchronous copies, by Triton: 40 x 64 x 112, rows of 128, 64 and 64 elements.
pub const MATMUL: Subject = Subject {
    ptx: triton!("matmul_bf16_3"),
    kernel: "matmul",
    block: [128, 1, 1],
    shared: 16384,
    inputs: &[40 * 128 * 2, 112 * 64 * 2],
    output: 40 * 64 * 4,
    values: &[40, 64, 112, 128, 64, 64],
    scratch: 2,
    ..BLANK
};

/// Shuffles, and shared memory between warps, by Triton: a row of 1000.
pub const SOFTMAX: Subject = Subject {
    ptx: triton!("softmax"),
    kernel: "softmax",
    block: [128, 1, 1],
    shared: 16,
    inputs: &[1000 * 4],
    output: 1000 * 4,
    values: &[1000],
    scratch: 2,
    ..BLANK
};

/// A tile through shared memory, by NVRTC: 45 x 70.
pub const TRANSPOSE: Subject = Subject {
    kernel: "transpose",
    grid: [3, 2, 1],
    block: [32, 8, 1],
    inputs: &[45 * 70 * 4],
    output: 70 * 45 * 4,
    values: &[45, 70],
    ..BLANK
};

/// Two tiles through shared memory in a loop, by NVRTC: 20 x 18 x 37.
pub const TILES: Subject = Subject {
    kernel: "matmul_tiled",
    grid: [2, 2, 1],
    block: [16, 16, 1],
    inputs: &[20 * 37 * 4, 37 * 18 * 4],
    output: 20 * 18 * 4,
    values: &[20, 18, 37],
    ..BLANK
};

/// A tree in shared memory and shuffles, by NVRTC.
pub const SUM: Subject = Subject {
    kernel: "reduce_sum",
    block: [256, 1, 1],
    inputs: &[5000 * 4],
    output: 4,
    values: &[5000],
    ..BLANK
};

/// Two stages of asynchronous copies, by NVRTC.
pub const PIPELINE: Subject = Subject {
    kernel: "pipelined_scale",
    block: [64, 1, 1],
    inputs: &[5 * 64 * 16],
    output: 5 * 64 * 16,
    values: &[5],
    ..BLANK
};

/// A guard, loads and a store, by clang: 100 records of 72 bytes, of 128 threads.
const RECORDS: Subject = Subject {
    ptx: CLANG,
    block: [128, 1, 1],
    inputs: &[100 * 72],
    output: 100 * 8,
    values: &[100],
    ..BLANK
};

/// clang's kernel of the first function.
pub fn records() -> Subject {
    let kernel = CLANG
        .split(".entry ")
        .nth(1)
        .and_then(|rest| rest.split('(').next());
    Subject {
        kernel: kernel.expect("a kernel"),
        ..RECORDS
    }
}

/// What a kernel finds in its inputs.
#[derive(Clone, Copy)]
pub enum Inputs {
    Written,
    Unwritten,
    /// The first one was given back.
    Freed,
}

impl Subject {
    /// The lines of the kernel's body, counted from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &'static str)> {
        let head = format!(".entry {}(", self.kernel);
        let lines = self.ptx.lines().enumerate().map(|(i, line)| (i + 1, line));
        lines
            .skip_while(move |(_, line)| !line.contains(&head))
            .take_while(|(_, line)| *line != "}")
    }

    /// The bytes of the output of a text in which some lines are replaced.
    pub fn run(&self, changes: &[(usize, String)]) -> Result<Vec<u8>, Fault> {
        self.run_on(Inputs::Written, changes)
    }

    pub fn run_on(&self, inputs: Inputs, changes: &[(usize, String)]) -> Result<Vec<u8>, Fault> {
        let mut lines: Vec<&str> = self.ptx.lines().collect();
        for (line, text) in changes {
            lines[line - 1] = text;
        }
        let device = Device::new(&lines.join("\n"));
        // 0.5 to 1 as floats, and about as large as bf16: no NaN hides a difference.
        let words = |bytes: usize| -> Vec<u16> {
            (0..bytes / 2)
                .map(|i| 0x3f00 + (i * i % 127) as u16)
                .collect()
        };
        let mut args: Vec<Arg> = self
            .inputs
            .iter()
            .map(|&bytes| match inputs {
                Inputs::Unwritten => Arg::U64(device.alloc::<u8>(bytes)),
                _ => Arg::U64(device.upload(&words(bytes))),
            })
            .collect();
        if let (Inputs::Freed, Some(Arg::U64(first))) = (inputs, args.first()) {
            device.memory.free(*first).unwrap();
        }
        let output = device.upload(&vec![0u8; self.output]);
        args.push(Arg::U64(output));
        args.extend(self.values.iter().map(|&v| Arg::U32(v)));
        args.extend(vec![Arg::U64(0); self.scratch]);
        let checks = Checks::ALL;
        device.launch_with(
            self.kernel,
            self.grid,
            self.block,
            self.shared,
            &args,
            &checks,
            LIMIT,
        )?;
        Ok(device.download(output, self.output))
    }
}
