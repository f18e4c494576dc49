//! Multi-head attention and its gradients without the matrix of scores in memory (Dao et al. 2022), in exact f32 or on the tensor
//! cores.
//!
//! ```text
//! s = scale q kᵀ + bias (−∞ where hidden)     lse = ln Σ eˢ     p = e^(s − lse)     o = p v
//! δ = Σ dy o     ds = p (dy vᵀ − δ)     dq = scale ds k     dk = scale dsᵀ q     dv = pᵀ dy     dbias = Σ ds
//! ```
//!
//! q, o, dy `[B, H, Tq, D]` and k, v `[B, H, Tk, D]` in any strides, D up to [`Attention::MAX_WIDTH`]; lse and δ `[B, H, Tq]`. Hidden from query i are keys
//! whose mask is 0 and, if causal, those beyond i + Tk − Tq; a row that sees nothing gives 0, −∞ for lse, and no gradient.
//!
//! | | |
//! |---|---|
//! | FLOPs of visible pairs | 4 D each forward, 6 D for dq, 8 D for dk and dv, 4 D for dbias ([`Attention::flops`]) |
//! | least bytes | every operand once in, every result once out ([`Attention::minimum_bytes`]) |
//! | tile traffic | a block's own rows once, the others' once for each block that sees them ([`Attention::tile_bytes`]) |
//! | error | a score errs by D u Σ abs(q k) (Higham 2002, §3.1), its exponential by that, 2⁻²² (`ex2.approx`) and u log₂e abs(s − m); sums over keys of terms of one sign by Tk u more |
//! | of tf32 | factors of a product are cut by less than 2⁻¹⁰, weights p and ds among them |
//! | of bf16, f16 | weights are rounded by 2⁻⁸, 2⁻¹¹ (f16 by 2⁻²⁵ at least); q, k, v and dy come in that type, all results and sums are f32 |
//!
//! The plan: a block has a tile of queries (for dk and dv, of keys) and walks over tiles of the other side, whose copies
//! (cp.async) overlap the products; tiles that causality hides are skipped. The weights go from one product to the next through a
//! warp's own rows of shared memory, or on the tensor cores stay in the registers that the scores were summed in, which the next
//! product reads as its left side; there, but for dbias, the other side has two stages, a block's own rows stay in registers where
//! there is room, and tiles that are seen whole are not searched for what is hidden. dq and dk, dv are two kernels that make the
//! probabilities again from lse, so that every sum has one owner and one order. dbias is a third, for its rarity: it walks over the
//! heads that share the bias.

mod delta;
mod lanes;
mod launch;
mod plan;

use crate::gemm::Type;
pub use delta::Delta;
pub use plan::{Kind, Tile, Variant};

/// Where the heads of a tensor lie: element (b, h, t, j) lies b `batch` + h `head` + t `token` + j elements after `pointer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Address of the first element.
    pub pointer: u64,
    /// Elements between samples.
    pub batch: usize,
    /// Elements between heads.
    pub head: usize,
    /// Elements between tokens.
    pub token: usize,
}

/// Numbers added to the scaled scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bias {
    /// Address of the first.
    pub pointer: u64,
    /// Elements between samples, heads, queries and keys; 0 where it repeats.
    pub strides: [usize; 4],
}

/// An attention to launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Type of queries, keys and values.
    pub operands: Type,
    /// B.
    pub batch: usize,
    /// H.
    pub heads: usize,
    /// Tq.
    pub tq: usize,
    /// Tk.
    pub tk: usize,
    /// D.
    pub d: usize,
    /// Factor of q kᵀ.
    pub scale: f32,
    /// Whether query i sees keys up to i + Tk − Tq only.
    pub causal: bool,
    /// Queries.
    pub q: Heads,
    /// Keys.
    pub k: Heads,
    /// Values.
    pub v: Heads,
    /// Address of which keys are real, `[B, Tk]`: 0 where not.
    pub mask: Option<u64>,
    /// Bias.
    pub bias: Option<Bias>,
}

/// What its gradients take and where they go; those that are `None` are not computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gradient {
    /// Forward's result.
    pub o: Heads,
    /// Its gradient, in the operands' type.
    pub dy: Heads,
    /// Address of forward's lse.
    pub lse: u64,
    /// Address of B H Tq numbers, for δ.
    pub delta: u64,
    /// Gradient of q.
    pub dq: Option<Heads>,
    /// Gradient of k.
    pub dk: Option<Heads>,
    /// Gradient of v.
    pub dv: Option<Heads>,
    /// Factor of what dq, dk and dv hold; 0 ignores it.
    pub beta: f32,
    /// Gradient of the bias.
    pub dbias: Option<BiasGradient>,
}

/// Partial sums of a bias's gradient: part p has heads p, p + parts, … of those that share an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BiasGradient {
    /// Address of `[parts, B′, H′, Tq′, Tk′]`.
    pub pointer: u64,
    /// Parts, no more than heads that share an element.
    pub parts: usize,
    /// B′, H′, Tq′ and Tk′: the sizes, or 1 where the bias repeats.
    pub shape: [usize; 4],
}

impl Attention {
    /// The widest head.
    pub const MAX_WIDTH: usize = Variant::WIDTHS[2];

    /// Pairs of a query and a key that causality lets see each other, of one head.
    fn pairs(&self) -> u64 {
        let seen = |i: usize| (i + 1 + self.tk).saturating_sub(self.tq).min(self.tk) as u64;
        if self.causal {
            (0..self.tq).map(seen).sum()
        } else {
            (self.tq * self.tk) as u64
        }
    }

    /// Floating-point operations of a kernel's products.
    pub fn flops(&self, kind: Kind) -> u64 {
        let products = match kind {
            Kind::Forward | Kind::Bias => 2,
            Kind::Queries => 3,
            Kind::Keys => 4,
        };
        2 * products * (self.batch * self.heads * self.d) as u64 * self.pairs()
    }

    /// Bytes that any kernel moves, without mask and bias.
    pub fn minimum_bytes(&self, kind: Kind) -> u64 {
        let (rows, columns) = (self.tq, self.tk);
        let (operands, results, vectors) = match kind {
            Kind::Forward => (rows + 2 * columns, rows, rows),
            Kind::Queries => (2 * rows + 2 * columns, rows, 2 * rows),
            Kind::Keys => (2 * rows + 2 * columns, 2 * columns, 2 * rows),
            Kind::Bias => (2 * rows + 2 * columns, 0, 2 * rows),
        };
        let of_d = self.operands.bytes() * operands + 4 * results;
        (self.batch * self.heads * (self.d * of_d + 4 * vectors)) as u64
    }

    /// Keys from the first to the last that a tile of queries sees, or queries that see one of a tile of keys: where in the
    /// other side they begin and end.
    fn seen(&self, kind: Kind, first: usize, last: usize) -> [usize; 2] {
        match (self.causal, kind) {
            (false, Kind::Keys) => [0, self.tq],
            (true, Kind::Keys) => [
                (first + self.tq).saturating_sub(self.tk).min(self.tq),
                self.tq,
            ],
            (true, Kind::Forward | Kind::Queries) => {
                [0, (last + self.tk).saturating_sub(self.tq).min(self.tk)]
            }
            _ => [0, self.tk],
        }
    }

    /// Bytes of global memory that a kernel asks for, without mask and bias: a block's own rows once, and of the other side
    /// those of the tiles that it walks over. Lanes that share a row each ask for its lse and δ.
    pub fn tile_bytes(&self, kind: Kind) -> u64 {
        let Tile { m, n } = self.variant(kind, &[], &[]).tile();
        let own = if kind == Kind::Keys { self.tk } else { self.tq };
        let other = self.tq + self.tk - own;
        let moved: usize = (0..own.div_ceil(m))
            .map(|tile| self.seen(kind, tile * m, (tile * m + m).min(own)))
            .map(|[begin, end]| (end - begin).next_multiple_of(n).min(other - begin))
            .sum();
        // Bytes of a row of an operand and of a result.
        let (x, y) = (self.d * self.operands.bytes(), 4 * self.d);
        let statistics = 2 * 4 * if self.operands == Type::F32 { 8 } else { 4 };
        let [own, moved] = match kind {
            Kind::Forward => [own * (x + y + 4), moved * 2 * x],
            Kind::Queries => [own * (2 * x + y + statistics), moved * 2 * x],
            Kind::Keys => [own * 2 * (x + y), moved * (2 * x + 8)],
            Kind::Bias => [
                own * (2 * x + statistics) * self.tk.div_ceil(n),
                moved * 2 * x,
            ],
        };
        (self.batch * self.heads * (own + moved)) as u64
    }
}
