//! Which of a block's tile a lane has: see `attention_tile.ptx`.

use std::collections::BTreeSet;

use serde::Serialize;

/// Neighbouring columns of a row of a result.
#[derive(Serialize)]
struct Piece {
    /// Where they begin beyond the lane's first.
    at: usize,
    /// Whether beyond its neighbour's instead: lanes 2p and 2p + 1 change places.
    turned: bool,
    /// Of each row, the registers that hold them.
    of: Vec<Vec<usize>>,
}

/// A lane's part of the scores and of a result.
#[derive(Serialize)]
pub(super) struct Lanes {
    /// Lanes that share a row.
    row: usize,
    row_log2: u32,
    /// Rows from one of a lane to its next: those of a warp's lanes.
    down: usize,
    /// Columns of scores from a lane's first to the next lane's.
    columns: usize,
    /// Where its columns are beyond its first, and the distances between neighbours.
    across: Vec<usize>,
    /// How many of them are neighbours at a time.
    beside: usize,
    hops: BTreeSet<usize>,
    /// The register of each row's and column's score.
    score: Vec<Vec<usize>>,
    /// Columns of a result from a lane's first to the next lane's.
    out: usize,
    pieces: Vec<Piece>,
    /// Whether any is turned.
    turns: bool,
    /// Lanes across which a row is joined.
    steps: Vec<usize>,
}

impl Lanes {
    fn new(
        row: usize,
        columns: usize,
        across: Vec<usize>,
        score: Vec<Vec<usize>>,
        out: usize,
        pieces: Vec<Piece>,
    ) -> Lanes {
        let halves = |n: &usize| (*n > 1).then(|| n / 2);
        Lanes {
            row,
            row_log2: row.ilog2(),
            down: 32 / row,
            columns,
            beside: if across[1] == 1 { 2 } else { 1 },
            hops: across.windows(2).map(|pair| pair[1] - pair[0]).collect(),
            across,
            score,
            out,
            turns: pieces.iter().any(|piece| piece.turned),
            pieces,
            steps: std::iter::successors(Some(row / 2), halves).collect(),
        }
    }

    /// Multiply-adds: a warp is 4 rows of 8 lanes, a result's columns come by fours.
    pub(super) fn of_fma([r, c]: [usize; 2], width: usize) -> Lanes {
        let piece = |g: usize| Piece {
            at: 32 * g,
            turned: false,
            of: (0..r)
                .map(|i| (0..4).map(|f| i * (width / 8) + 4 * g + f).collect())
                .collect(),
        };
        Lanes::new(
            8,
            1,
            (0..c).map(|j| 8 * j).collect(),
            (0..r)
                .map(|i| (0..c).map(|j| i * c + j).collect())
                .collect(),
            4,
            (0..width / 32).map(piece).collect(),
        )
    }

    /// Tensor cores: what a product of 16 × 8 leaves in a lane, two columns of each of two rows; with 16-bit operands a result's
    /// columns are its products', with wider ones ([`Lanes`] knows only their bytes) 4 products share 32 columns.
    pub(super) fn of_mma([r, c]: [usize; 2], width: usize, bytes: usize) -> Lanes {
        // Of row i, in a product that has `per_row` of them side by side, number `block` of these, column `f`.
        let register = |i: usize, per_row: usize, block: usize, f: usize| {
            4 * (i / 2 * per_row + block) + 2 * (i % 2) + f
        };
        let rows = |of: &dyn Fn(usize) -> Vec<usize>| (0..r).map(of).collect::<Vec<_>>();
        let blocks = width / 8;
        let pieces = if bytes == 2 {
            let piece = |j: usize| Piece {
                at: 8 * j,
                turned: false,
                of: rows(&|i| (0..2).map(|f| register(i, blocks, j, f)).collect()),
            };
            (0..blocks).map(piece).collect()
        } else {
            let piece = |half: usize| Piece {
                at: 32 * (half / 2) + 16 * (half % 2),
                turned: half % 2 == 1,
                of: rows(&|i| {
                    let block = |f| register(i, blocks, 4 * (half / 2) + f, half % 2);
                    (0..4).map(block).collect()
                }),
            };
            (0..width / 16).map(piece).collect()
        };
        Lanes::new(
            4,
            2,
            (0..c).map(|j| 8 * (j / 2) + j % 2).collect(),
            rows(&|i| (0..c).map(|j| register(i, c / 2, j / 2, j % 2)).collect()),
            if bytes == 2 { 2 } else { 4 },
            pieces,
        )
    }
}
