//! What a variant of the kernels fixes, and the numbers that follow for its template.

use std::mem::offset_of;

use serde::Serialize;

use super::{Arguments, Attention, Place};
use crate::KernelError;
use crate::template::{Ptx, Template};

const TILE: (&str, &str) = (
    "attention_tile.ptx",
    include_str!("../../ptx/attention_tile.ptx"),
);

const FORWARD: Template = Template {
    files: &[
        ("attention.ptx", include_str!("../../ptx/attention.ptx")),
        TILE,
        ("function.ptx", include_str!("../../ptx/function.ptx")),
        ("math.ptx", include_str!("../../ptx/math.ptx")),
    ],
};

const GRADIENT: Template = Template {
    files: &[
        (
            "attention_gradient.ptx",
            include_str!("../../ptx/attention_gradient.ptx"),
        ),
        TILE,
    ],
};

const BIAS: Template = Template {
    files: &[
        (
            "attention_bias.ptx",
            include_str!("../../ptx/attention_bias.ptx"),
        ),
        TILE,
    ],
};

const DELTA: Template = Template {
    files: &[(
        "attention_delta.ptx",
        include_str!("../../ptx/attention_delta.ptx"),
    )],
};

/// Threads of a block.
pub(super) const THREADS: usize = 128;

/// Rows and columns of lanes in a block's tile: 4 warps have 4 rows of 8 lanes each.
const LANES: [usize; 2] = [16, 8];

/// Bytes that a row of a tile in shared memory is longer than what it holds.
const PADDING: usize = 16;

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
    /// The widest head that it takes, of [`Variant::WIDTHS`].
    pub width: usize,
    /// Whether rows come and go by 16 bytes, not by 4.
    pub chunks: bool,
    /// Whether the scores have a bias.
    pub biased: bool,
    /// Whether the tile is one for few queries and keys.
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

#[derive(Serialize)]
struct Values {
    name: String,
    rows_are: &'static str,
    width: usize,
    chunk: usize,
    biased: bool,
    m: usize,
    n: usize,
    /// Scores of a lane.
    r: usize,
    c: usize,
    stride: usize,
    weights_stride: usize,
    lanes_log2: u32,
    row_step: usize,
    registers: usize,
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

/// Where the template finds the fields of its argument.
fn offsets() -> crate::Offsets {
    let mut at = crate::offsets!(Arguments: o dy mask lse delta bias bias_batch bias_head bias_query bias_key dbias heads tq tk d
        scale beta causal rows parts groups members group_step member_step bias_rows bias_cols);
    at.extend([
        ("batch", offset_of!(Place, batch)),
        ("head", offset_of!(Place, head)),
        ("token", offset_of!(Place, token)),
    ]);
    at
}

impl Variant {
    /// Tiles are this wide: smaller heads are filled up with zeros.
    pub const WIDTHS: [usize; 3] = [32, 64, 128];

    /// The most queries and keys that a small tile is taken for: the tile.
    pub const SMALL: usize = 32;

    /// One of each text; dbias has a bias always, and no small tile.
    pub fn all() -> Vec<Variant> {
        let mut all = vec![];
        for kind in [Kind::Forward, Kind::Queries, Kind::Keys, Kind::Bias] {
            for width in Self::WIDTHS {
                for i in 0..8 {
                    let [chunks, biased, small] = [1, 2, 4].map(|bit| i & bit != 0);
                    if kind != Kind::Bias || (biased && !small) {
                        all.push(Variant {
                            kind,
                            width,
                            chunks,
                            biased,
                            small,
                        });
                    }
                }
            }
        }
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
        format!("{kind}_{}{small}{bias}{copies}", self.width)
    }

    /// Scores of a lane: rows and columns. The widest heads' gradients leave room for less.
    fn scores(self) -> [usize; 2] {
        match (self.kind, self.width) {
            _ if self.small => [2, 4],
            (_, ..=64) => [4, 8],
            (Kind::Forward, _) => [4, 4],
            _ => [3, 4],
        }
    }

    /// Registers of a thread at most: three blocks of a multiprocessor where the sums leave room for that, else two.
    fn registers(self) -> usize {
        match (self.kind, self.width) {
            (Kind::Forward, _) | (Kind::Queries, 32) => 168,
            (Kind::Keys, 32) if !self.biased => 168,
            _ => 255,
        }
    }

    /// The tile.
    pub fn tile(self) -> Tile {
        let [r, c] = self.scores();
        Tile {
            m: LANES[0] * r,
            n: LANES[1] * c,
        }
    }

    /// Bytes of a row of an operand's tile, and of the weights.
    fn strides(self) -> [usize; 2] {
        [self.width, self.tile().n].map(|n| 4 * n + PADDING)
    }

    /// Where tiles of so many rows, the weights and the statistics are in shared memory, and its end.
    fn layout(self) -> [usize; 7] {
        let (Tile { m, n }, [row, weights]) = (self.tile(), self.strides());
        let second = if self.kind == Kind::Forward { 0 } else { m };
        let sizes = [m * row, second * row, n * row, n * row, m * weights, 8 * n];
        let mut ends = [0; 7];
        for (i, size) in sizes.into_iter().enumerate() {
            ends[i + 1] = ends[i] + size;
        }
        ends
    }

    /// Bytes of shared memory of a block.
    pub fn shared(self) -> u32 {
        self.layout()[6] as u32
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand(self) -> Result<Ptx, KernelError> {
        let (Tile { m, n }, [r, c], chunk) =
            (self.tile(), self.scores(), if self.chunks { 4 } else { 1 });
        let ([stride, weights_stride], layout) = (self.strides(), self.layout());
        let place = |name, at| Operand {
            name,
            at,
            to: 0,
            rows: 0,
        };
        let fixed = |i: usize, of: Operand| Operand {
            to: layout[i],
            rows: m,
            ..of
        };
        let moving = |i: usize, of: Operand| Operand {
            to: layout[2 + i],
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
            rows_are,
            width: self.width,
            chunk,
            biased: self.biased,
            m,
            n,
            r,
            c,
            stride,
            weights_stride,
            lanes_log2: lanes.ilog2(),
            row_step: THREADS / lanes,
            registers: self.registers(),
            weights: layout[4],
            statistics_at: layout[5],
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

/// The text of [`Attention::DELTA`].
///
/// # Errors
/// [`KernelError::Template`].
pub(super) fn delta() -> Result<Ptx, KernelError> {
    #[derive(Serialize)]
    struct Values {
        name: &'static str,
        at: crate::Offsets,
    }
    DELTA.expand(Values {
        name: Attention::DELTA,
        at: offsets(),
    })
}
