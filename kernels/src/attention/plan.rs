//! What a variant of the kernels fixes, and the numbers that follow for its template.

use std::mem::offset_of;

use serde::Serialize;

use super::lanes::Lanes;
use super::launch::{Arguments, Place};
use crate::KernelError;
use crate::gemm::Type;
use crate::template::{Ptx, Template};

/// What all but δ's import; of the two ways to make products, the one that a variant names.
macro_rules! template {
    ($($main:literal),+) => {
        Template { files: &[
            $(($main, include_str!(concat!("../../ptx/", $main))),)+
            ("attention_tile.ptx", include_str!("../../ptx/attention_tile.ptx")),
            ("attention_fma.ptx", include_str!("../../ptx/attention_fma.ptx")),
            ("attention_mma.ptx", include_str!("../../ptx/attention_mma.ptx")),
            ("mma.ptx", include_str!("../../ptx/mma.ptx")),
            ("gemm_copy.ptx", include_str!("../../ptx/gemm_copy.ptx")),
        ] }
    };
}

const FORWARD: Template = template!("attention.ptx", "function.ptx", "math.ptx");
const GRADIENT: Template = template!("attention_gradient.ptx");
const BIAS: Template = template!("attention_bias.ptx");

/// Threads of a block.
pub(super) const THREADS: usize = 128;

/// Bytes that a row of a tile in shared memory is longer than what it holds.
const PADDING: usize = 16;

/// Bytes of the sum's index that a product of the tensor cores goes over.
const STEP: usize = 32;

/// What a launch computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// o and lse.
    Forward,
    /// dq.
    Queries,
    /// dk and dv.
    Keys,
    /// dbias.
    Bias,
}

/// What is fixed in a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Which.
    pub kind: Kind,
    /// Type of the operands: f32 in memory for [`Type::F32`] and [`Type::Tf32`].
    pub operands: Type,
    /// The widest head that it takes, of [`Variant::WIDTHS`].
    pub width: usize,
    /// Whether rows come and go by 16 bytes, not by elements.
    pub chunks: bool,
    /// Whether the scores have a bias.
    pub biased: bool,
    /// Whether the tile is one for few queries and keys, which only exact f32 has.
    pub small: bool,
}

/// The part of the scores that a block has at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows: queries, or keys in [`Kind::Keys`].
    pub m: usize,
    /// Columns: keys, or queries.
    pub n: usize,
}

/// A head's matrix as the template knows it.
#[derive(Clone, Copy, Serialize)]
struct Operand {
    name: &'static str,
    /// Where its [`Place`] is in the argument.
    at: usize,
    /// Where its tile is in shared memory.
    to: usize,
    /// Rows of the tile.
    rows: usize,
}

/// A thread's copies as `gemm_copy.ptx` knows them.
#[derive(Serialize)]
struct Copies {
    name: &'static str,
    loader: &'static str,
    bytes: usize,
    per_chunk: usize,
}

#[derive(Serialize)]
struct Values {
    name: String,
    #[serde(rename = "type")]
    operands: &'static str,
    inner: &'static str,
    tensor: bool,
    mma: &'static str,
    shape: &'static str,
    rows_are: &'static str,
    width: usize,
    /// Bytes of an operand's element, elements that a thread copies at a time, and in words.
    element: usize,
    chunk: usize,
    copied: &'static str,
    copier: Copies,
    chunks: bool,
    biased: bool,
    /// Whether scores become exponents where the largest is subtracted.
    folded: bool,
    /// Fixed operands that stay in registers.
    held: Vec<&'static str>,
    m: usize,
    n: usize,
    /// Rows and columns of a lane's scores.
    r: usize,
    c: usize,
    lanes: Lanes,
    /// Products of the tensor cores of a warp's scores, and their steps along d and along the scores' columns.
    blocks_m: usize,
    blocks_n: usize,
    score_steps: usize,
    mix_steps: usize,
    stride: usize,
    weights_stride: usize,
    lanes_log2: u32,
    row_step: usize,
    registers: usize,
    stage_bytes: usize,
    weights: usize,
    statistics_at: usize,
    log2_e: f64,
    ln_2: f64,
    at: crate::Offsets,
    q: Operand,
    k: Operand,
    v: Operand,
    o: Operand,
    fixed0: Operand,
    fixed1: Operand,
    moving0: Operand,
    moving1: Operand,
    result0: Operand,
    result1: Operand,
}

/// Where in shared memory a block has its tiles, the weights and the statistics, and where they end.
struct Shared {
    fixed: [usize; 2],
    moving: [usize; 2],
    statistics: usize,
    /// Bytes from a stage of the moving tiles to the next.
    stage: usize,
    weights: usize,
    end: usize,
}

/// Where the templates find the fields of their argument.
pub(super) fn offsets() -> crate::Offsets {
    let mut at = crate::offsets!(Arguments: o dy mask lse delta bias bias_batch bias_head bias_query bias_key dbias heads tq tk d
        scale beta causal rows parts groups members group_step member_step bias_rows bias_cols);
    at.extend([
        ("batch", offset_of!(Place, batch)),
        ("head", offset_of!(Place, head)),
        ("token", offset_of!(Place, token)),
    ]);
    at
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Forward, Kind::Queries, Kind::Keys, Kind::Bias];
}

impl Variant {
    /// Tiles are this wide: smaller heads are filled up with zeros.
    pub const WIDTHS: [usize; 3] = [32, 64, 128];

    /// The most queries and keys that a small tile is taken for: the tile.
    pub const SMALL: usize = 32;

    /// One of each text; dbias has a bias always, and no small tile. f16's texts are bf16's but for the type's name: one a width.
    pub fn all() -> Vec<Variant> {
        let mut all = vec![];
        for operands in [Type::F32, Type::Tf32, Type::Bf16, Type::F16] {
            for kind in Kind::ALL {
                for width in Self::WIDTHS {
                    for i in 0..8 {
                        let [chunks, biased, small] = [1, 2, 4].map(|bit| i & bit != 0);
                        all.push(Variant {
                            kind,
                            operands,
                            width,
                            chunks,
                            biased,
                            small,
                        });
                    }
                }
            }
        }
        all.retain(|v| {
            let exact = v.operands == Type::F32;
            let plain = v.chunks && v.biased == (v.kind == Kind::Bias);
            (v.kind != Kind::Bias || (v.biased && !v.small))
                && (exact || !v.small)
                && (v.operands != Type::F16 || plain)
        });
        all
    }

    /// The kernel's name.
    pub fn name(self) -> String {
        let kind = match self.kind {
            Kind::Forward => "attention",
            Kind::Queries => "attention_dq",
            Kind::Keys => "attention_dk_dv",
            Kind::Bias => "attention_dbias",
        };
        let bias = if self.biased && self.kind != Kind::Bias {
            "_bias"
        } else {
            ""
        };
        let copies = if self.chunks { "" } else { "_elements" };
        let small = if self.small { "_small" } else { "" };
        let operands = match self.operands {
            Type::F32 => String::new(),
            other => format!("_{}", other.name()),
        };
        format!("{kind}_{}{operands}{small}{bias}{copies}", self.width)
    }

    /// Whether products are the tensor cores'.
    fn tensor(self) -> bool {
        self.operands != Type::F32
    }

    /// Scores of a lane: rows and columns. The widest heads leave room for less.
    fn scores(self) -> [usize; 2] {
        match (self.operands, self.kind, self.width) {
            (Type::F32, ..) if self.small => [2, 4],
            (Type::F32, _, ..=64) => [4, 8],
            (Type::F32, Kind::Forward, _) => [4, 4],
            (Type::F32, ..) => [3, 4],
            (Type::Bf16 | Type::F16, Kind::Forward, 64) if !self.biased => [4, 16],
            (Type::Tf32, Kind::Forward, 128) => [2, 8],
            (Type::Tf32, _, 128) => [2, 4],
            (Type::Tf32, Kind::Queries, 32) | (Type::Tf32, Kind::Keys, 64) => [2, 8],
            (Type::Bf16 | Type::F16, Kind::Queries, 64 | 128) => [2, 8],
            (_, Kind::Keys, 128) => [2, 8],
            _ => [2, 16],
        }
    }

    /// Registers of a thread at most: four or three blocks of a multiprocessor where the sums leave room for that, else two.
    fn registers(self) -> usize {
        match (self.operands, self.kind, self.width) {
            (Type::F32, Kind::Forward, _) | (Type::F32, Kind::Queries, 32) => 168,
            (Type::F32 | Type::Bf16 | Type::F16, Kind::Keys, 32) if !self.biased => 168,
            (Type::F32, ..) => 255,
            (_, Kind::Forward, 32) if !self.biased => 128,
            (Type::Bf16 | Type::F16, Kind::Forward, 64) if !self.biased => 232,
            (Type::Tf32, Kind::Forward, 64) if self.biased => 255,
            (_, Kind::Forward, 32 | 64) | (_, Kind::Queries, 32) => 168,
            (Type::Bf16 | Type::F16, Kind::Queries, 64) => 168,
            _ => 255,
        }
    }

    /// The tile: 4 warps have 4 rows of 8 lanes each, or on the tensor cores 8 rows of 4.
    pub fn tile(self) -> Tile {
        let [r, c] = self.scores();
        let [rows, columns] = if self.tensor() { [32, 4] } else { [16, 8] };
        Tile {
            m: rows * r,
            n: columns * c,
        }
    }

    /// Whether the fixed operands stay in registers, if there is room.
    fn held(self) -> bool {
        match (self.operands, self.kind, self.width) {
            (Type::F32, ..) | (_, Kind::Bias, _) => false,
            (_, Kind::Forward, _) => true,
            (Type::Tf32, _, width) => width < 128,
            (_, Kind::Queries, width) => width > 32,
            (_, Kind::Keys, width) => width == 64,
        }
    }

    /// Whether two operands, both fixed or both moving, share the rows of their tiles.
    fn paired(self) -> bool {
        self.tensor() && self.kind != Kind::Forward
    }

    /// Bytes of a row of operands' tiles, and of the weights.
    fn strides(self) -> [usize; 2] {
        let operands = if self.paired() { 2 } else { 1 };
        let row = operands * self.width * self.operands.bytes();
        [row, 4 * self.tile().n].map(|bytes| bytes + PADDING)
    }

    fn layout(self) -> Shared {
        let (Tile { m, n }, [row, weights]) = (self.tile(), self.strides());
        // Of two operands' tiles: where the second begins after the first, and where both end.
        let pair = |rows: usize| {
            if self.paired() {
                [self.width * self.operands.bytes(), rows * row]
            } else {
                [rows * row, 2 * rows * row]
            }
        };
        let ([own_second, own], [second, moving]) = (pair(m), pair(n));
        // Forward has one fixed operand.
        let own = if self.kind == Kind::Forward {
            own_second
        } else {
            own
        };
        let statistics = if self.kind == Kind::Keys { 8 * n } else { 0 };
        let stage = moving + statistics;
        let stages = 1 + usize::from(self.tensor() && self.kind != Kind::Bias);
        // Fixed tiles that go to registers are where the second stage will be.
        let (fixed, first) = if self.held() { (stage, 0) } else { (0, own) };
        let tiles = (first + stages * stage).max(fixed + own);
        // Tensor cores' weights stay in registers; the bias's sums come last, where the tiles were.
        let (weights, end) = match self.kind {
            Kind::Bias => (0, tiles.max(m * weights)),
            _ if self.tensor() => (tiles, tiles),
            _ => (tiles, tiles + m * weights),
        };
        Shared {
            fixed: [fixed, fixed + own_second],
            moving: [first, first + second],
            statistics: first + moving,
            stage,
            weights,
            end,
        }
    }

    /// Bytes of shared memory of a block.
    pub fn shared(self) -> u32 {
        self.layout().end as u32
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(self) -> Result<Ptx, KernelError> {
        let (Tile { m, n }, [r, c], element) = (self.tile(), self.scores(), self.operands.bytes());
        let ([stride, weights_stride], layout) = (self.strides(), self.layout());
        // Exact f32 copies single elements asynchronously too.
        let (chunk, loader, copied) = match (self.chunks, self.tensor()) {
            (true, _) => (16 / element, "chunks", "16-byte copies"),
            (false, false) => (1, "chunks", "4-byte copies"),
            (false, true) => (16 / element, "elements", "copies by elements"),
        };
        let place = |name, at| Operand {
            name,
            at,
            to: 0,
            rows: 0,
        };
        let fixed = |i: usize, of: Operand| Operand {
            to: layout.fixed[i],
            rows: m,
            ..of
        };
        let moving = |i: usize, of: Operand| Operand {
            to: layout.moving[i],
            rows: n,
            ..of
        };
        let [q, k, v, dy] = [
            place("q", offset_of!(Arguments, q)),
            place("k", offset_of!(Arguments, k)),
            place("v", offset_of!(Arguments, v)),
            place("dy", offset_of!(Arguments, dy)),
        ];
        let ([rows0, rows1], [columns0, columns1], rows_are) = match self.kind {
            Kind::Keys => ([k, v], [q, dy], "keys"),
            _ => ([q, dy], [k, v], "queries"),
        };
        let results = match self.kind {
            Kind::Keys => [offset_of!(Arguments, dk), offset_of!(Arguments, dv)],
            _ => [offset_of!(Arguments, dq), 0],
        };
        let lanes = self.width / chunk;
        let values = Values {
            name: self.name(),
            operands: self.operands.name(),
            inner: if self.tensor() {
                "attention_mma.ptx"
            } else {
                "attention_fma.ptx"
            },
            tensor: self.tensor(),
            mma: self.operands.name(),
            shape: if element == 2 { "m16n8k16" } else { "m16n8k8" },
            rows_are,
            width: self.width,
            element,
            chunk,
            copied,
            copier: Copies {
                name: "copy",
                loader,
                bytes: element,
                per_chunk: chunk,
            },
            chunks: self.chunks,
            biased: self.biased,
            folded: self.tensor() && self.kind == Kind::Forward && !self.biased,
            held: match self.kind {
                _ if !self.held() => vec![],
                Kind::Forward => vec![q.name],
                _ => vec![rows0.name, rows1.name],
            },
            m,
            n,
            r,
            c,
            lanes: if self.tensor() {
                Lanes::of_mma([r, c], self.width, element)
            } else {
                Lanes::of_fma([r, c], self.width)
            },
            blocks_m: r / 2,
            blocks_n: c / 2,
            score_steps: self.width * element / STEP,
            mix_steps: n * element / STEP,
            stride,
            weights_stride,
            lanes_log2: lanes.ilog2(),
            row_step: THREADS / lanes,
            registers: self.registers(),
            stage_bytes: layout.stage,
            weights: layout.weights,
            statistics_at: layout.statistics,
            log2_e: std::f64::consts::LOG2_E,
            ln_2: std::f64::consts::LN_2,
            at: offsets(),
            q: fixed(0, q),
            k: moving(0, k),
            v: moving(1, v),
            o: place("o", offset_of!(Arguments, o)),
            fixed0: fixed(0, rows0),
            fixed1: fixed(1, rows1),
            moving0: moving(0, columns0),
            moving1: moving(1, columns1),
            result0: place("result0", results[0]),
            result1: place("result1", results[1]),
        };
        match self.kind {
            Kind::Forward => FORWARD,
            Kind::Queries | Kind::Keys => GRADIENT,
            Kind::Bias => BIAS,
        }
        .expand(values)
    }
}
