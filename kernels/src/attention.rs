//! Multi-head attention and its gradients without the matrix of scores in memory (Dao et al. 2022), in exact f32.
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
//!
//! The plan: a block has a tile of queries (for dk and dv, of keys) and walks over tiles of the other side, whose copies
//! (cp.async) overlap the products; the weights go from one product to the next through a warp's own rows of shared memory;
//! tiles that causality hides are skipped. dq and dk, dv are two kernels that make the probabilities again from lse, so that
//! every sum has one owner and one order. dbias is a third, for its rarity: it walks over the heads that share the bias.

mod plan;

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};

use crate::kernels::Grid;
use crate::template::Ptx;
use crate::{KernelError, Kernels};
pub use plan::{Kind, Tile, Variant};

/// Where the heads of a tensor lie: element (b, h, t, j) at `pointer` + 4 (b `batch` + h `head` + t `token` + j).
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
    /// Its gradient.
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

/// A [`Heads`] as the kernels are told of it: strides in bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Place {
    pointer: u64,
    batch: u64,
    head: u64,
    token: u32,
}

/// The kernels' argument, as the templates read it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Arguments {
    q: Place,
    k: Place,
    v: Place,
    o: Place,
    dy: Place,
    dq: Place,
    dk: Place,
    dv: Place,
    mask: u64,
    lse: u64,
    delta: u64,
    bias: u64,
    bias_batch: u64,
    bias_head: u64,
    bias_query: u64,
    bias_key: u64,
    dbias: u64,
    heads: u32,
    tq: u32,
    tk: u32,
    d: u32,
    scale: f32,
    beta: f32,
    causal: u32,
    rows: u32,
    parts: u32,
    groups: u32,
    members: u32,
    group_step: u32,
    member_step: u32,
    bias_rows: u32,
    bias_cols: u32,
    _pad: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

/// Most queries or keys, and most rows of all heads: sums with a tile's size stay below 2³¹.
const MAX_SIZE: usize = 1 << 30;

impl Heads {
    fn place(&self) -> Place {
        Place {
            pointer: self.pointer,
            batch: 4 * self.batch as u64,
            head: 4 * self.head as u64,
            token: 4 * self.token as u32,
        }
    }

    /// Whether rows of whole chunks begin at multiples of 16 bytes.
    fn by_chunks(&self) -> bool {
        let steps = [self.batch, self.head, self.token];
        self.pointer.is_multiple_of(16) && steps.iter().all(|step| step.is_multiple_of(4))
    }
}

impl Attention {
    /// The widest head.
    pub const MAX_WIDTH: usize = Variant::WIDTHS[2];

    /// The kernel of δ.
    pub const DELTA: &str = "attention_delta";

    /// Its text.
    ///
    /// # Errors
    /// [`KernelError::Template`].
    pub fn expand_delta() -> Result<Ptx, KernelError> {
        plan::delta()
    }

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
        let (rows, columns) = (self.tq as u64, self.tk as u64);
        let (matrices, vectors) = match kind {
            Kind::Forward => (2 * rows + 2 * columns, rows),
            Kind::Queries => (3 * rows + 2 * columns, 2 * rows),
            Kind::Keys => (2 * rows + 4 * columns, 2 * rows),
            Kind::Bias => (2 * rows + 2 * columns, 2 * rows),
        };
        4 * (self.batch * self.heads) as u64 * (self.d as u64 * matrices + vectors)
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
        let Tile { m, n } = self.variant(kind, &[]).tile();
        let own = if kind == Kind::Keys { self.tk } else { self.tq };
        let other = self.tq + self.tk - own;
        let moved: usize = (0..own.div_ceil(m))
            .map(|tile| self.seen(kind, tile * m, (tile * m + m).min(own)))
            .map(|[begin, end]| (end - begin).next_multiple_of(n).min(other - begin))
            .sum();
        let [own, moved] = match kind {
            Kind::Forward => [own * (2 * self.d + 1), moved * 2 * self.d],
            Kind::Queries => [own * (3 * self.d + 16), moved * 2 * self.d],
            Kind::Keys => [own * 4 * self.d, moved * (2 * self.d + 2)],
            Kind::Bias => [
                own * (2 * self.d + 16) * self.tk.div_ceil(n),
                moved * 2 * self.d,
            ],
        };
        4 * (self.batch * self.heads * (own + moved)) as u64
    }

    /// The kernel of a kind, for operands and results `heads`.
    fn variant(&self, kind: Kind, heads: &[Heads]) -> Variant {
        let width = Variant::WIDTHS.into_iter().find(|width| self.d <= *width);
        Variant {
            kind,
            width: width.unwrap_or(Self::MAX_WIDTH),
            chunks: self.d.is_multiple_of(4) && heads.iter().all(Heads::by_chunks),
            biased: self.bias.is_some(),
            small: kind != Kind::Bias && self.tq.max(self.tk) <= Variant::SMALL,
        }
    }

    fn check(&self, heads: &[Heads]) -> Result<(), KernelError> {
        let error = |what| {
            Err(KernelError::Argument {
                kernel: "attention",
                what,
            })
        };
        let &Attention {
            batch,
            heads: h,
            tq,
            tk,
            d,
            ..
        } = self;
        if d == 0 || d > Self::MAX_WIDTH {
            return error(format!(
                "heads {d} wide: wanted 1 to {}; compose it of products",
                Self::MAX_WIDTH
            ));
        }
        if tq.max(tk).max(batch * h * tq) > MAX_SIZE || batch * h * tk > MAX_SIZE {
            return error(format!(
                "{batch} × {h} heads of {tq} queries and {tk} keys: wanted 2³⁰ rows at most; split the batch"
            ));
        }
        match heads.iter().find(|x| x.token >= 1 << 30) {
            Some(x) => error(format!(
                "{} elements between tokens: wanted fewer than 2³⁰",
                x.token
            )),
            None => Ok(()),
        }
    }

    fn arguments(&self) -> Arguments {
        let bias = self.bias.unwrap_or(Bias {
            pointer: 0,
            strides: [0; 4],
        });
        let [bias_batch, bias_head, bias_query, bias_key] = bias.strides.map(|s| 4 * s as u64);
        Arguments {
            q: self.q.place(),
            k: self.k.place(),
            v: self.v.place(),
            mask: self.mask.unwrap_or(0),
            bias: bias.pointer,
            bias_batch,
            bias_head,
            bias_query,
            bias_key,
            heads: self.heads as u32,
            tq: self.tq as u32,
            tk: self.tk as u32,
            d: self.d as u32,
            scale: self.scale,
            causal: u32::from(self.causal),
            rows: (self.batch * self.heads * self.tq) as u32,
            ..Arguments::default()
        }
    }

    /// Launches a variant over so many blocks.
    ///
    /// # Safety
    /// As the caller's: the addresses in `arguments` are good.
    unsafe fn launch(
        variant: Variant,
        blocks: usize,
        arguments: &Arguments,
        (kernels, stream): (&Kernels, &Arc<CudaStream>),
    ) -> Result<(), KernelError> {
        if blocks == 0 {
            return Ok(());
        }
        let grid = Grid {
            blocks: [blocks as u32, 1, 1],
            threads: plan::THREADS as u32,
            shared: variant.shared(),
        };
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(&variant.name(), grid, arguments, stream, || {
                variant.expand()
            })
        }
    }

    /// Launches the forward: o, and lse at that address. No rows launch nothing.
    ///
    /// # Errors
    /// [`KernelError`]: sizes that no kernel takes, or the driver's refusal.
    ///
    /// # Safety
    /// All operands must lie in memory of the stream's device, free of other use until the stream has come past; the results
    /// overlap none of them.
    pub unsafe fn forward(
        &self,
        o: Heads,
        lse: u64,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let heads = [self.q, self.k, self.v, o];
        self.check(&heads)?;
        let variant = self.variant(Kind::Forward, &heads);
        let blocks = self.batch * self.heads * self.tq.div_ceil(variant.tile().m);
        let arguments = Arguments {
            o: o.place(),
            lse,
            ..self.arguments()
        };
        // SAFETY: the caller's promise.
        unsafe { Self::launch(variant, blocks, &arguments, (kernels, stream)) }
    }

    /// Launches the gradients that are wanted. No rows launch nothing.
    ///
    /// # Errors
    /// As [`Attention::forward`]; partial sums of a bias's gradient that no heads fill.
    ///
    /// # Safety
    /// As for [`Attention::forward`]; dq, dk and dv may interleave.
    pub unsafe fn backward(
        &self,
        gradient: &Gradient,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        let Gradient {
            o,
            dy,
            dq,
            dk,
            dv,
            dbias,
            ..
        } = *gradient;
        let results = [dq, dk, dv].into_iter().flatten();
        let heads: Vec<Heads> = [self.q, self.k, self.v, dy]
            .into_iter()
            .chain(results)
            .collect();
        self.check(&heads)?;
        self.check(&[o])?;
        let place = |x: Option<Heads>| x.map_or(Place::default(), |x| x.place());
        let all = self.batch * self.heads;
        let arguments = Arguments {
            o: o.place(),
            dy: dy.place(),
            dq: place(dq),
            dk: place(dk),
            dv: place(dv),
            lse: gradient.lse,
            delta: gradient.delta,
            beta: gradient.beta,
            ..self.arguments()
        };
        let launcher = (kernels, stream);
        let grid = Grid::over(32 * arguments.rows, plan::THREADS as u32);
        if arguments.rows > 0 {
            // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
            unsafe { kernels.launch(Self::DELTA, grid, &arguments, stream, plan::delta) }?;
        }
        if dq.is_some() {
            let variant = self.variant(Kind::Queries, &heads);
            let blocks = all * self.tq.div_ceil(variant.tile().m);
            // SAFETY: the caller's promise.
            unsafe { Self::launch(variant, blocks, &arguments, launcher) }?;
        }
        if dk.is_some() || dv.is_some() {
            let variant = self.variant(Kind::Keys, &heads);
            let blocks = all * self.tk.div_ceil(variant.tile().m);
            // SAFETY: the caller's promise.
            unsafe { Self::launch(variant, blocks, &arguments, launcher) }?;
        }
        if let Some(dbias) = dbias {
            let variant = self.variant(Kind::Bias, &heads);
            let (blocks, arguments) = self.bias_arguments(dbias, variant, arguments)?;
            // SAFETY: the caller's promise.
            unsafe { Self::launch(variant, blocks, &arguments, launcher) }?;
        }
        Ok(())
    }

    /// The blocks of the bias's gradient, and how they find their heads: group g has heads g `group_step` + i `member_step`.
    fn bias_arguments(
        &self,
        BiasGradient {
            pointer,
            parts,
            shape: [b, h, rows, cols],
        }: BiasGradient,
        variant: Variant,
        arguments: Arguments,
    ) -> Result<(usize, Arguments), KernelError> {
        let (groups, all) = (b * h, self.batch * self.heads);
        let members = all.checked_div(groups).unwrap_or(0);
        if parts > members || self.bias.is_none() {
            return Err(KernelError::Argument {
                kernel: "attention",
                what: format!(
                    "a bias's gradient in {parts} parts of {members} heads: wanted a bias, and a head for each part"
                ),
            });
        }
        let (group_step, member_step) = match (b == 1, h == 1) {
            (true, true) => (0, 1),
            (true, false) => (1, self.heads),
            (false, true) => (self.heads, 1),
            (false, false) => (1, 0),
        };
        // A block whose bias has one row or column walks over all of theirs.
        let tiles = |size: usize, tile: usize| if size == 1 { 1 } else { size.div_ceil(tile) };
        let tile = variant.tile();
        let blocks = parts * groups * tiles(rows, tile.m) * tiles(cols, tile.n);
        let arguments = Arguments {
            dbias: pointer,
            parts: parts as u32,
            groups: groups as u32,
            members: members as u32,
            group_step: group_step as u32,
            member_step: member_step as u32,
            bias_rows: rows as u32,
            bias_cols: cols as u32,
            ..arguments
        };
        Ok((blocks, arguments))
    }
}
