//! What the kernels are told, and their launches.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};

use super::{Attention, Bias, BiasGradient, Delta, Gradient, Heads, Kind, Variant, plan};
use crate::gemm::Type;
use crate::kernels::Grid;
use crate::{KernelError, Kernels};

/// A [`Heads`] as the kernels are told of it: strides in bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    pub pointer: u64,
    pub batch: u64,
    pub head: u64,
    pub token: u32,
}

/// The kernels' argument, as the templates read it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Arguments {
    pub q: Place,
    pub k: Place,
    pub v: Place,
    pub o: Place,
    pub dy: Place,
    pub dq: Place,
    pub dk: Place,
    pub dv: Place,
    pub mask: u64,
    pub lse: u64,
    pub delta: u64,
    pub bias: u64,
    pub bias_batch: u64,
    pub bias_head: u64,
    pub bias_query: u64,
    pub bias_key: u64,
    pub dbias: u64,
    pub heads: u32,
    pub tq: u32,
    pub tk: u32,
    pub d: u32,
    pub scale: f32,
    pub beta: f32,
    pub causal: u32,
    pub rows: u32,
    pub parts: u32,
    pub groups: u32,
    pub members: u32,
    pub group_step: u32,
    pub member_step: u32,
    pub bias_rows: u32,
    pub bias_cols: u32,
    _pad: u32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

/// Most queries or keys, and most rows of all heads: sums with a tile's size stay below 2³¹.
const MAX_SIZE: usize = 1 << 30;

/// Bytes of an f32, of which results are.
const F32: usize = 4;

impl Heads {
    /// Of elements of so many bytes.
    fn place(&self, bytes: usize) -> Place {
        Place {
            pointer: self.pointer,
            batch: (bytes * self.batch) as u64,
            head: (bytes * self.head) as u64,
            token: (bytes * self.token) as u32,
        }
    }

    /// Whether rows of whole chunks begin at multiples of 16 bytes.
    fn by_chunks(&self, bytes: usize) -> bool {
        let steps = [self.batch, self.head, self.token];
        self.pointer.is_multiple_of(16) && steps.iter().all(|step| step.is_multiple_of(16 / bytes))
    }
}

impl Attention {
    /// The kernel of a kind, for so many operands of their own type and results.
    pub(super) fn variant(&self, kind: Kind, operands: &[Heads], results: &[Heads]) -> Variant {
        let width = Variant::WIDTHS.into_iter().find(|width| self.d <= *width);
        let bytes = self.operands.bytes();
        Variant {
            kind,
            operands: self.operands,
            width: width.unwrap_or(Self::MAX_WIDTH),
            chunks: self.d.is_multiple_of(16 / bytes)
                && operands.iter().all(|x| x.by_chunks(bytes))
                && results.iter().all(|x| x.by_chunks(F32)),
            biased: self.bias.is_some(),
            small: self.operands == Type::F32
                && kind != Kind::Bias
                && self.tq.max(self.tk) <= Variant::SMALL,
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
            q: self.q.place(self.operands.bytes()),
            k: self.k.place(self.operands.bytes()),
            v: self.v.place(self.operands.bytes()),
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
        let operands = [self.q, self.k, self.v];
        self.check(&operands)?;
        self.check(&[o])?;
        let variant = self.variant(Kind::Forward, &operands, &[o]);
        let blocks = self.batch * self.heads * self.tq.div_ceil(variant.tile().m);
        let arguments = Arguments {
            o: o.place(F32),
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
        let (operands, results) = ([self.q, self.k, self.v, dy], results.collect::<Vec<_>>());
        self.check(&operands)?;
        self.check(&results)?;
        self.check(&[o])?;
        let place = |x: Option<Heads>| x.map_or(Place::default(), |x| x.place(F32));
        let all = self.batch * self.heads;
        let arguments = Arguments {
            o: o.place(F32),
            dy: dy.place(self.operands.bytes()),
            dq: place(dq),
            dk: place(dk),
            dv: place(dv),
            lse: gradient.lse,
            delta: gradient.delta,
            beta: gradient.beta,
            ..self.arguments()
        };
        let launcher = (kernels, stream);
        let delta = Delta(self.operands);
        let grid = Grid::over(32 * arguments.rows, plan::THREADS as u32);
        if arguments.rows > 0 {
            // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
            unsafe { kernels.launch(&delta.name(), grid, &arguments, stream, || delta.expand()) }?;
        }
        if dq.is_some() {
            let variant = self.variant(Kind::Queries, &operands, &results);
            let blocks = all * self.tq.div_ceil(variant.tile().m);
            // SAFETY: the caller's promise.
            unsafe { Self::launch(variant, blocks, &arguments, launcher) }?;
        }
        if dk.is_some() || dv.is_some() {
            let variant = self.variant(Kind::Keys, &operands, &results);
            let blocks = all * self.tk.div_ceil(variant.tile().m);
            // SAFETY: the caller's promise.
            unsafe { Self::launch(variant, blocks, &arguments, launcher) }?;
        }
        if let Some(dbias) = dbias {
            let variant = self.variant(Kind::Bias, &operands, &results);
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
