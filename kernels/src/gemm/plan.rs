//! What a variant of the kernel fixes, and the numbers that follow for its template.

use std::collections::BTreeMap;
use std::mem::offset_of;

use serde::Serialize;

use super::{Arguments, Place};

/// Type of the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// bf16, on the tensor cores.
    Bf16,
    /// f16, on the tensor cores.
    F16,
    /// f32 of which the tensor cores use the 11 leading bits of the fraction's 24.
    Tf32,
    /// f32 by fused multiply-adds.
    F32,
}

/// Type of Y, R and bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// bf16, of bf16 operands.
    Bf16,
    /// f16, of f16 operands.
    F16,
    /// f32, of any.
    F32,
}

/// A function of each element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x.
    #[default]
    Identity,
    /// max(x, 0).
    Relu,
    /// x Φ(x) (Hendrycks & Gimpel 2016).
    Gelu,
    /// x σ(2u), u = √(2/π) (x + 0.044715 x³): GELU's tanh form.
    GeluTanh,
    /// x σ(x).
    Silu,
}

/// The index along which an operand's memory is contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Major {
    /// k.
    K,
    /// m of A, n of B.
    Other,
}

/// How an operand comes into shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loader {
    /// Asynchronously, 16 bytes at a time: rows start at multiples of 16 bytes, and m or n, where contiguous, is whole chunks.
    Chunks,
    /// Element by element, for whatever else comes.
    Elements,
    /// Element by element across memory, of a second pair that lies the other way than the first.
    Turned,
}

impl Loader {
    fn name(self) -> &'static str {
        match self {
            Loader::Chunks => "chunks",
            Loader::Elements => "elements",
            Loader::Turned => "turned",
        }
    }

    fn letter(self) -> char {
        match self {
            Loader::Chunks => 'c',
            Loader::Elements => 'e',
            Loader::Turned => 't',
        }
    }
}

/// A tile of Y, and how a block works on it.
#[derive(Debug, PartialEq)]
pub struct Tile {
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Inner steps of a stage.
    pub k: usize,
    /// Warps along m and n.
    pub warps: [usize; 2],
    /// Stages of shared memory.
    pub stages: usize,
    /// Most registers of a thread, which come by eights; with a second pair, or copies by elements, as many as there are.
    pub registers: usize,
    /// Useful share of the main loop's instructions on sm_80, both operands by k: see `tests/data/sass.txt`.
    pub share: f64,
}

const fn tile(
    size: [usize; 3],
    warps: [usize; 2],
    stages: usize,
    registers: usize,
    share: f64,
) -> Tile {
    let [m, n, k] = size;
    Tile {
        m,
        n,
        k,
        warps,
        stages,
        registers,
        share,
    }
}

const HALF_TILES: [Tile; 3] = [
    tile([128, 256, 64], [2, 4], 3, 240, 0.676),
    tile([128, 128, 32], [2, 2], 4, 248, 0.632),
    tile([64, 64, 32], [2, 2], 4, 88, 0.408),
];
const TF32_TILES: [Tile; 3] = [
    tile([128, 128, 32], [2, 2], 3, 248, 0.653),
    tile([128, 64, 32], [2, 2], 3, 168, 0.545),
    tile([64, 64, 32], [2, 2], 4, 112, 0.462),
];
const F32_TILES: [Tile; 3] = [
    tile([128, 128, 16], [4, 2], 4, 224, 0.901),
    tile([64, 64, 16], [2, 2], 4, 128, 0.868),
    tile([32, 64, 16], [1, 2], 4, 128, 0.859),
];

impl Tile {
    /// The shapes for operands of a type, the largest first.
    pub fn of(operands: Type) -> &'static [Tile; 3] {
        match operands {
            Type::Bf16 | Type::F16 => &HALF_TILES,
            Type::Tf32 => &TF32_TILES,
            Type::F32 => &F32_TILES,
        }
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        32 * self.warps[0] * self.warps[1]
    }

    fn stage_bytes(&self, operands: Type) -> usize {
        (self.m + self.n) * self.k * operands.bytes()
    }

    /// Bytes of shared memory of a block: the stages, and Y's tile in f32 after them.
    pub fn shared(&self, operands: Type) -> u32 {
        (self.stages * self.stage_bytes(operands)).max(4 * self.m * self.n) as u32
    }
}

impl Type {
    /// Of an element.
    pub fn bytes(self) -> usize {
        match self {
            Type::Bf16 | Type::F16 => 2,
            Type::Tf32 | Type::F32 => 4,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Type::Bf16 => "bf16",
            Type::F16 => "f16",
            Type::Tf32 => "tf32",
            Type::F32 => "f32",
        }
    }
}

impl Output {
    /// Of an element.
    pub fn bytes(self) -> usize {
        match self {
            Output::Bf16 | Output::F16 => 2,
            Output::F32 => 4,
        }
    }

    /// Whether operands of a type can give it.
    pub fn of(self, operands: Type) -> bool {
        match self {
            Output::Bf16 => operands == Type::Bf16,
            Output::F16 => operands == Type::F16,
            Output::F32 => true,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Output::Bf16 => "bf16",
            Output::F16 => "f16",
            Output::F32 => "f32",
        }
    }
}

impl Activation {
    /// All of them.
    pub const ALL: [Activation; 5] = [
        Activation::Identity,
        Activation::Relu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Activation::Identity => "identity",
            Activation::Relu => "relu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Silu => "silu",
        }
    }
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variant {
    /// Type of A and B.
    pub operands: Type,
    /// Type of Y, R and bias.
    pub output: Output,
    /// The tile.
    pub tile: &'static Tile,
    /// Of A and B, and in shared memory of A₂ and B₂.
    pub majors: [Major; 2],
    /// Of A and B.
    pub loaders: [Loader; 2],
    /// Of A₂ and B₂, where there is a second pair.
    pub extension: Option<[Loader; 2]>,
    /// Whether there is a bias.
    pub bias: bool,
    /// act.
    pub activation: Activation,
    /// Whether there is a residual.
    pub residual: bool,
    /// Whether the results are raw sums of parts of k.
    pub split: bool,
}

/// An operand's tile in shared memory and its copies: see `gemm_copy.ptx`.
#[derive(Serialize)]
struct Operand {
    name: &'static str,
    major: &'static str,
    loader: &'static str,
    swizzle: &'static str,
    /// Bytes of an element, elements of a chunk of 16 bytes.
    bytes: usize,
    per_chunk: usize,
    row_bytes: usize,
    /// Threads that share a row, rows from one chunk of a thread to its next, chunks of a thread.
    lanes: usize,
    lanes_log2: u32,
    row_step: usize,
    passes: usize,
    /// Where turned: rows, and chunks of a row from one chunk of a thread to its next.
    rows: usize,
    rows_log2: u32,
    chunk_step: usize,
    /// Pointers that walk through global memory.
    pointers: usize,
    /// Of the tile within a stage.
    offset: usize,
    /// The registers that hold the size and the tile's start along m or n.
    extent: &'static str,
    origin: &'static str,
    /// Offset in the arguments.
    at: usize,
    /// Whether fragments come by ldmatrix; from how many addresses they come.
    by_matrix: bool,
    frags: usize,
}

#[derive(Serialize)]
struct Values {
    name: String,
    #[serde(rename = "type")]
    operands: &'static str,
    out: &'static str,
    out_ptx: &'static str,
    out_bytes: usize,
    /// Elements of Y that a thread stores at a time: 16 bytes.
    out_chunk: usize,
    inner: &'static str,
    mma: &'static str,
    shape: &'static str,
    tile_m: usize,
    tile_n: usize,
    tile_k: usize,
    warps_m: usize,
    warps_n: usize,
    warp_m: usize,
    warp_n: usize,
    threads: usize,
    stages: usize,
    registers: usize,
    stage_bytes: usize,
    /// Stages of a turn of the main loop.
    unroll: usize,
    /// Inner steps of a stage: products between two loads of fragments.
    steps: usize,
    /// Products of a step along m and n; with fma, elements of a thread.
    blocks_m: usize,
    blocks_n: usize,
    accumulators: usize,
    activation: &'static str,
    bias: bool,
    residual: bool,
    extension: bool,
    split: bool,
    a: Operand,
    b: Operand,
    a2: Operand,
    b2: Operand,
    at: BTreeMap<&'static str, usize>,
}

/// What a kernel's name says of the epilogue.
pub(super) fn surroundings(bias: bool, activation: Activation, residual: bool) -> String {
    let act = match activation {
        Activation::Identity => String::new(),
        other => format!("_{}", other.name()),
    };
    let [bias, residual] =
        [(bias, "_bias"), (residual, "_residual")].map(|(is, s)| if is { s } else { "" });
    format!("{bias}{act}{residual}")
}

impl Variant {
    /// The kernel's name, different for each variant.
    pub fn name(&self) -> String {
        let letter = |major, by_k: char, other: char| if major == Major::K { by_k } else { other };
        let loaders = |pair: [Loader; 2]| pair.map(Loader::letter).into_iter().collect::<String>();
        let Tile { m, n, k, .. } = self.tile;
        // n and t as BLAS has them: a row-major A and a column-major B lie by k.
        let mut name = format!(
            "gemm_{}_{}{}_{m}x{n}x{k}_{}",
            self.operands.name(),
            letter(self.majors[0], 'n', 't'),
            letter(self.majors[1], 't', 'n'),
            self.output.name(),
        );
        if self.loaders != [Loader::Chunks; 2] {
            name += &format!("_{}", loaders(self.loaders));
        }
        if let Some(pair) = self.extension {
            name += &format!("_ext_{}", loaders(pair));
        }
        name += &surroundings(self.bias, self.activation, self.residual);
        if self.split {
            name += "_split";
        }
        name
    }

    fn operand(&self, second: bool, which: usize) -> Operand {
        let (operands, tile, major) = (self.operands, self.tile, self.majors[which]);
        let loaders = if second {
            self.extension.unwrap_or(self.loaders)
        } else {
            self.loaders
        };
        let bytes = operands.bytes();
        let extent = [tile.m, tile.n][which];
        let warp = extent / tile.warps[which];
        let (rows, row_bytes) = match major {
            Major::K => (extent, tile.k * bytes),
            Major::Other => (tile.k, extent * bytes),
        };
        let lanes = (row_bytes / 16).min(tile.threads());
        let row_step = tile.threads() / lanes;
        let by_matrix = operands != Type::Tf32 || major == Major::K;
        Operand {
            name: [["a", "b"], ["a2", "b2"]][usize::from(second)][which],
            major: if major == Major::K { "k" } else { "mn" },
            loader: loaders[which].name(),
            swizzle: match (operands, major) {
                // Neighbouring lanes read one row of A, or neighbouring chunks.
                (Type::F32, Major::Other) => "none",
                (Type::F32, Major::K) if which == 0 => "none",
                (Type::Tf32, Major::Other) => "quads",
                _ if row_bytes == 64 => "pairs",
                _ => "rows",
            },
            bytes,
            per_chunk: 16 / bytes,
            row_bytes,
            lanes,
            lanes_log2: lanes.ilog2(),
            row_step,
            passes: rows / row_step,
            rows,
            rows_log2: rows.ilog2(),
            chunk_step: tile.threads() / rows,
            pointers: if major == Major::K && loaders[which] != Loader::Turned {
                rows / row_step
            } else {
                1
            },
            offset: if which == 0 {
                0
            } else {
                tile.m * tile.k * bytes
            },
            extent: ["%m", "%n"][which],
            origin: ["%m0", "%n0"][which],
            at: [
                [offset_of!(Arguments, a), offset_of!(Arguments, b)],
                [offset_of!(Arguments, a2), offset_of!(Arguments, b2)],
            ][usize::from(second)][which],
            by_matrix,
            frags: match (operands, major) {
                (Type::F32, Major::K) if which == 1 => tile.k / 4,
                (Type::F32, _) => 1,
                (Type::Tf32, Major::Other) => 4,
                (_, Major::K) => tile.k * bytes / 32,
                (_, Major::Other) => warp / 16,
            },
        }
    }

    pub(super) fn values(&self) -> impl Serialize + use<> {
        let tile = self.tile;
        let warp = [tile.m / tile.warps[0], tile.n / tile.warps[1]];
        let exact = self.operands == Type::F32;
        let [blocks_m, blocks_n] = if exact {
            [warp[0] / 4, warp[1] / 8]
        } else {
            [warp[0] / 16, warp[1] / 8]
        };
        Values {
            name: self.name(),
            operands: self.operands.name(),
            out: self.output.name(),
            out_ptx: self.output.name(),
            out_bytes: self.output.bytes(),
            out_chunk: 16 / self.output.bytes(),
            inner: if exact {
                "gemm_fma.ptx"
            } else {
                "gemm_mma.ptx"
            },
            mma: self.operands.name(),
            shape: if self.operands.bytes() == 2 {
                "m16n8k16"
            } else {
                "m16n8k8"
            },
            tile_m: tile.m,
            tile_n: tile.n,
            tile_k: tile.k,
            warps_m: tile.warps[0],
            warps_n: tile.warps[1],
            warp_m: warp[0],
            warp_n: warp[1],
            threads: tile.threads(),
            stages: tile.stages,
            registers: if self.extension.is_none() && self.loaders == [Loader::Chunks; 2] {
                tile.registers
            } else {
                255
            },
            stage_bytes: tile.stage_bytes(self.operands),
            // With fma about a thousand of a thread: 16 KiB of instructions.
            unroll: if exact {
                64 * tile.threads() / (tile.m * tile.n)
            } else {
                tile.stages
            },
            steps: tile.k * self.operands.bytes() / if exact { 16 } else { 32 },
            blocks_m,
            blocks_n,
            accumulators: blocks_m * blocks_n * if exact { 1 } else { 4 },
            activation: self.activation.name(),
            bias: self.bias,
            residual: self.residual,
            extension: self.extension.is_some(),
            split: self.split,
            a: self.operand(false, 0),
            b: self.operand(false, 1),
            a2: self.operand(true, 0),
            b2: self.operand(true, 1),
            at: Place::within(
                crate::offsets!(Arguments: m n k k2 y r bias alpha beta scale chunks chunk),
            ),
        }
    }
}
