//! The products on CUDA: a kernel unpacks a panel of C, or packs the entries of one of dC, and the product of matrices does the rest.

use std::ops::Range;

use deltaw_kernels::triangular::{Kind, Panel};

use super::{Core, NAME};
use crate::device::Gemm;
use crate::device::cuda::{Around, Cuda, failed};
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

/// Rows of a panel: a product of fewer would leave most multiprocessors without a tile.
const PANEL: usize = 128;

/// Launches a kernel on the panel of these rows and columns.
fn launch(
    cuda: &Cuda,
    kind: Kind,
    core: &Core,
    [lower, upper]: [Option<u64>; 2],
    (rows, columns): (&Range<usize>, &Range<usize>),
    panel: &mut Tensor,
) -> Result<()> {
    let table = core.table(panel.device())?;
    let call = Panel {
        kind,
        rank: core.rank(),
        lower,
        upper,
        table: cuda.address(NAME, &table)?,
        rows: rows.clone(),
        columns: columns.clone(),
        panel: cuda.address_mut(NAME, panel)?,
    };
    let (kernels, stream) = cuda.launcher();
    // SAFETY: the parts have the core's entries, the panel these rows and columns; what is written is unshared.
    unsafe { call.launch(kernels, stream) }.map_err(|e| failed(NAME, &[panel], e))
}

/// `out = C·x + β·out` of the parts L and U that there are.
pub(super) fn product(
    cuda: &Cuda,
    core: &Core,
    parts: [Option<&Tensor>; 2],
    x: &Tensor,
    beta: f32,
    out: &mut Tensor,
) -> Result<()> {
    let [lower, upper] = parts.map(|part| part.map(|part| cuda.address(NAME, part)).transpose());
    let parts = [lower?, upper?];
    let gemm = Gemm {
        trans_a: false,
        trans_b: false,
        alpha: 1.0,
        beta,
    };
    for (rows, columns) in core.panels(PANEL, parts.map(|part| part.is_some())) {
        let mut panel = Tensor::empty(&[rows.len(), columns.len()], DType::F32, x.device())?;
        launch(
            cuda,
            Kind::Unpack,
            core,
            parts,
            (&rows, &columns),
            &mut panel,
        )?;
        let right = x.with_layout(x.layout().narrow(0, columns.start, columns.len()));
        let (whole, part) = (
            *out.layout(),
            out.layout().narrow(0, rows.start, rows.len()),
        );
        let placeholder = Tensor::empty(&[0], DType::F32, x.device())?;
        let mut target = std::mem::replace(out, placeholder).relayout(part);
        cuda.product(gemm, &panel, &right, &Around::default(), &mut target)?;
        *out = target.relayout(whole);
    }
    Ok(())
}

/// dL and dU, where they are wanted.
pub(super) fn contract(
    cuda: &Cuda,
    core: &Core,
    dy: &Tensor,
    x: &Tensor,
    parts: [Option<&mut Tensor>; 2],
) -> Result<()> {
    let [lower, upper] =
        parts.map(|part| part.map(|part| cuda.address_mut(NAME, part)).transpose());
    let parts = [lower?, upper?];
    let gemm = Gemm {
        trans_a: false,
        trans_b: true,
        alpha: 1.0,
        beta: 0.0,
    };
    for (rows, columns) in core.panels(PANEL, parts.map(|part| part.is_some())) {
        let mut panel = Tensor::empty(&[rows.len(), columns.len()], DType::F32, x.device())?;
        let [left, right] = [(dy, &rows), (x, &columns)]
            .map(|(of, rows)| of.with_layout(of.layout().narrow(0, rows.start, rows.len())));
        cuda.product(gemm, &left, &right, &Around::default(), &mut panel)?;
        launch(cuda, Kind::Pack, core, parts, (&rows, &columns), &mut panel)?;
    }
    Ok(())
}
