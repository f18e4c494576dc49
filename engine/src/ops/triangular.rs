//! Products with a packed square matrix of two triangles that grow by blocks of rows and columns: TriAdaptLoRA's core, and at one
//! row a block plain triangles as LoLDU has them.
//!
//! ```text
//! y = C·x     C = L + Uᵀ     x [r, n]      ends e: row p of block i has e_i entries, e_i rows and columns up to the end of block i
//! L: row p's entries 0..e(p)     U: column q's entries 0..e(q)     each [Σ_p e(p)], one row or column after the other
//! dx = Cᵀ·dy     dL_pq = dy_p·x_q for q < e(p)     dU_qp = dy_p·x_q for p < e(q)
//! ```
//!
//! Both are packed alike, and a block more is appended to either, so that growth moves nothing; entries inside a diagonal block are
//! stored twice and add up. Cᵀ is C with L and U in each other's place. A panel of rows of C is unpacked at a time, over the
//! columns that have entries alone: for one triangle `n·r·(r + 64)` FLOPs in place of `2·n·r²`. Scratch is one panel of 64 rows
//! of C, on CUDA of 128 ([`panels`]). Saved: x and the parts.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cpu::gemm::{Dims, Layout as Strides, Scale, gemm};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Forward, Op, Saved, apply};
use crate::tape::Grads;
use crate::tensor::Tensor;

mod panels;

const NAME: &str = "triangular";
/// Rows of C that are unpacked at a time.
const PANEL: usize = 64;

/// How the blocks of a core lie.
#[derive(Debug, Clone)]
pub struct Core {
    /// e(p) of each row.
    ends: Arc<[usize]>,
    /// Where each row's entries begin, and the end of all.
    starts: Arc<[usize]>,
    /// Both for kernels, on the device that last asked.
    table: Arc<Mutex<Option<Tensor>>>,
}

impl PartialEq for Core {
    fn eq(&self, other: &Self) -> bool {
        self.ends == other.ends
    }
}

impl Eq for Core {}

impl Core {
    /// Blocks that reach to these ranks, increasing from at least 1.
    ///
    /// # Errors
    /// Ranks that do not increase.
    pub fn new(blocks: &[usize]) -> Result<Self> {
        let mut ends = vec![];
        for &end in blocks {
            if end <= ends.len() {
                return Err(Error::shape(
                    NAME,
                    format!("blocks end at {blocks:?}; wanted increasing ranks"),
                ));
            }
            ends.resize(end, end);
        }
        Ok(Core::of_rows(ends))
    }

    /// A plain triangle of side r: a block for each row.
    pub fn triangle(r: usize) -> Self {
        Core::of_rows((1..=r).collect())
    }

    fn of_rows(ends: Vec<usize>) -> Self {
        let mut starts = vec![0];
        starts.extend(ends.iter().scan(0, |start, end| {
            *start += end;
            Some(*start)
        }));
        Core {
            ends: ends.into(),
            starts: starts.into(),
            table: Arc::default(),
        }
    }

    /// End and start of each row, `[r, 2]`, uploaded once.
    fn table(&self, device: &Device) -> Result<Tensor> {
        let mut kept = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = kept.as_ref().filter(|table| table.device() == device) {
            return Ok(table.clone());
        }
        let pairs = self.ends.iter().zip(&*self.starts);
        let pairs: Vec<u32> = pairs
            .flat_map(|(end, start)| [*end as u32, *start as u32])
            .collect();
        let table = Tensor::from_slice(&pairs, &[self.rank(), 2], device)?;
        Ok(kept.insert(table).clone())
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.ends.len()
    }

    /// Entries of one part.
    pub fn entries(&self) -> usize {
        self.starts[self.rank()]
    }

    /// A part as a dense `[r, r]` matrix whose row p holds row p of L, or column p of U, and zeros.
    fn unpacked(&self, part: &Tensor) -> Result<Tensor> {
        let (r, zero) = (self.rank(), self.entries() as u32);
        let at = |i: usize| match (i / r, i % r) {
            (p, q) if q < self.ends[p] => (self.starts[p] + q) as u32,
            _ => zero,
        };
        let index: Vec<u32> = (0..r * r).map(at).collect();
        let index = Tensor::from_slice(&index, &[r * r], part.device())?;
        part.pad(0, 0, 1)?
            .unsqueeze(1)?
            .gather_rows(&index)?
            .reshape(&[r, r])
    }

    /// Panels of so many rows of C with the columns in which they may have entries of the parts L and U that there are.
    fn panels(
        &self,
        most: usize,
        [has_lower, has_upper]: [bool; 2],
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let (r, ends) = (self.rank(), &self.ends);
        (0..r).step_by(most).map(move |start| {
            let rows = start..r.min(start + most);
            let first = match has_lower {
                true => 0,
                false => ends.partition_point(|end| *end <= start),
            };
            let end = match has_upper {
                true => r,
                false => ends[rows.end - 1],
            };
            (rows, first..end)
        })
    }
}

/// The parts that there are, by their entries.
#[derive(Clone, Copy)]
struct Parts<'a> {
    core: &'a Core,
    lower: Option<&'a [f32]>,
    upper: Option<&'a [f32]>,
}

impl Parts<'_> {
    /// Rows `rows` and columns `columns` of C.
    fn unpack(self, rows: &Range<usize>, columns: &Range<usize>, out: &mut [f32]) {
        let Core { ends, starts, .. } = self.core;
        for (p, out) in rows.clone().zip(out.chunks_exact_mut(columns.len().max(1))) {
            out.fill(0.0);
            if let Some(lower) = self.lower {
                out[..ends[p]].copy_from_slice(&lower[starts[p]..][..ends[p]]);
            }
            if let Some(upper) = self.upper {
                for (q, out) in columns.clone().zip(out).filter(|(q, _)| p < ends[*q]) {
                    *out += upper[starts[q] + p];
                }
            }
        }
    }

    /// `out = C·x + β·out`, x `[r, n]`.
    fn product(self, x: &[f32], n: usize, beta: f32, out: &mut [f32]) {
        let mut panel = vec![0.0; PANEL.min(self.core.rank()) * self.core.rank()];
        let there = [self.lower.is_some(), self.upper.is_some()];
        for (rows, columns) in self.core.panels(PANEL, there) {
            self.unpack(&rows, &columns, &mut panel);
            let wide = columns.len();
            let dims = Dims {
                m: rows.len(),
                n,
                k: wide,
            };
            let scale = Scale { alpha: 1.0, beta };
            let right = (&x[columns.start * n..], Strides::row_major(n));
            gemm(
                dims,
                scale,
                (&panel, Strides::row_major(wide)),
                right,
                (&mut out[rows.start * n..], n),
            );
        }
    }
}

/// dL and dU of the parts that are asked for.
fn contract(
    core: &Core,
    dy: &[f32],
    x: &[f32],
    n: usize,
    mut lower: Option<&mut [f32]>,
    mut upper: Option<&mut [f32]>,
) {
    let r = core.rank();
    let mut panel = vec![0.0; PANEL.min(r) * r];
    for (rows, columns) in core.panels(PANEL, [lower.is_some(), upper.is_some()]) {
        let wide = columns.len();
        let dims = Dims {
            m: rows.len(),
            n: wide,
            k: n,
        };
        let left = (&dy[rows.start * n..], Strides::row_major(n));
        let right = (&x[columns.start * n..], Strides::transposed(n));
        gemm(dims, Scale::PLAIN, left, right, (&mut panel, wide));
        for (p, dc) in rows.zip(panel.chunks_exact(wide.max(1))) {
            if let Some(lower) = &mut lower {
                let end = core.ends[p];
                lower[core.starts[p]..][..end].copy_from_slice(&dc[..end]);
            }
            if let Some(upper) = &mut upper {
                for (q, dc) in columns.clone().zip(dc).filter(|(q, _)| p < core.ends[*q]) {
                    upper[core.starts[q] + p] = *dc;
                }
            }
        }
    }
}

struct Triangular {
    core: Core,
    has_lower: bool,
    has_upper: bool,
}

impl Triangular {
    /// L and U among the inputs or what was saved of them, x being the first.
    fn at(&self) -> [Option<usize>; 2] {
        [
            self.has_lower.then_some(1),
            self.has_upper.then_some(1 + usize::from(self.has_lower)),
        ]
    }
}

impl Triangular {
    /// `out = C·x + β·out` of the parts L and U that there are.
    fn product(
        &self,
        parts: [Option<&Tensor>; 2],
        x: &Tensor,
        beta: f32,
        out: &mut Tensor,
    ) -> Result<()> {
        if let Some(cuda) = x.device().as_cuda() {
            return panels::product(cuda, &self.core, parts, x, beta, out);
        }
        let [lower, upper] = parts.map(|part| part.map(Tensor::as_slice).transpose());
        let parts = Parts {
            core: &self.core,
            lower: lower?,
            upper: upper?,
        };
        parts.product(x.as_slice()?, x.last_dim(), beta, out.as_mut_slice()?);
        Ok(())
    }

    /// dL and dU, where they are wanted.
    fn contract(&self, dy: &Tensor, x: &Tensor, parts: [Option<&mut Tensor>; 2]) -> Result<()> {
        if let Some(cuda) = x.device().as_cuda() {
            return panels::contract(cuda, &self.core, dy, x, parts);
        }
        let [lower, upper] = parts.map(|part| part.map(Tensor::as_mut_slice).transpose());
        let n = x.last_dim();
        contract(&self.core, dy.as_slice()?, x.as_slice()?, n, lower?, upper?);
        Ok(())
    }
}

impl Op for Triangular {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports(&self, device: &Device) -> bool {
        device.has_kernels()
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let packed: Vec<Tensor> = inputs.iter().map(|t| t.packed()).collect::<Result<_>>()?;
        let parts = self.at().map(|at| at.map(|at| &packed[at]));
        let mut y = Tensor::empty(inputs[0].shape(), DType::F32, inputs[0].device())?;
        self.product(parts, &packed[0], 0.0, &mut y)?;
        if self.at().into_iter().flatten().any(|at| f.needs(at)) {
            f.save(0, &packed[0]);
        }
        if f.needs(0) {
            for at in self.at().into_iter().flatten() {
                f.save(at, &packed[at]);
            }
        }
        Ok(y)
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [lower, upper] = self
            .at()
            .map(|at| at.map(|at| self.core.unpacked(inputs[at])));
        let (lower, upper) = (lower.transpose()?, upper.map(|u| u?.t()).transpose()?);
        let core = match (lower, upper) {
            (Some(lower), Some(upper)) => lower.add(&upper)?,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Err(no_part()),
        };
        core.matmul(inputs[0])
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dy = dy.packed()?;
        if grads.needs(0) {
            let [lower, upper] = self.at().map(|at| at.map(|at| saved.get(at)).transpose());
            // Cᵀ is C with L and U in each other's place.
            let turned = [upper?, lower?];
            grads.write(0, |dx, beta| self.product(turned, &dy, beta, dx))?;
        }
        let wanted = self.at().map(|at| at.filter(|at| grads.needs(*at)));
        if wanted == [None, None] {
            return Ok(());
        }
        let make = |at: Option<usize>| {
            at.map(|_| Tensor::empty(&[self.core.entries()], DType::F32, dy.device()))
                .transpose()
        };
        let [mut lower, mut upper] = [make(wanted[0])?, make(wanted[1])?];
        self.contract(&dy, saved.get(0)?, [lower.as_mut(), upper.as_mut()])?;
        for (at, grad) in wanted.into_iter().zip([lower, upper]) {
            if let (Some(at), Some(grad)) = (at, grad) {
                grads.add(at, grad)?;
            }
        }
        Ok(())
    }
}

fn no_part() -> Error {
    Error::shape(
        NAME,
        "neither part is there; wanted the lower, the upper, or both",
    )
}

/// `(L + Uᵀ)·x` for x `[r, n]` and packed parts `[core.entries()]`, of which one may be missing.
///
/// # Errors
/// Shapes that do not fit, or no part at all.
pub fn triangular_matmul(
    core: &Core,
    lower: Option<&Tensor>,
    upper: Option<&Tensor>,
    x: &Tensor,
) -> Result<Tensor> {
    x.expect_shape(NAME, "x", &[core.rank(), x.last_dim()])?;
    for (name, part) in [("L", lower), ("U", upper)] {
        if let Some(part) = part {
            part.expect_shape(NAME, name, &[core.entries()])?;
        }
    }
    if lower.is_none() && upper.is_none() {
        return Err(no_part());
    }
    let op = Triangular {
        core: core.clone(),
        has_lower: lower.is_some(),
        has_upper: upper.is_some(),
    };
    let inputs: Vec<&Tensor> = [Some(x), lower, upper].into_iter().flatten().collect();
    apply(op, &inputs)
}
