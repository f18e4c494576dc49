//! K and its gradient on CUDA devices: [`deltaw_kernels::kernelized`].

use deltaw_kernels::kernelized as kernel;

use super::{Competition, Kernel, KernelizedSparse, NAME, Values};
use crate::device::cuda::{Cuda, element, failed};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::produced::{DevicePanel, DeviceProducer};
use crate::tensor::Tensor;

impl KernelizedSparse {
    fn kernel(
        &self,
        cuda: &Cuda,
        params: &[&Tensor],
        threshold: Option<&Tensor>,
    ) -> Result<kernel::Kernelized> {
        let [a, b] = [params[0], params[1]];
        let given = match self.competition {
            Competition::Above(t) => t,
            Competition::Off | Competition::Quantile(_) => 0.0,
        };
        let threshold = threshold.map(|t| cuda.address(NAME, t)).transpose()?;
        Ok(kernel::Kernelized {
            kernel: match self.kernel {
                Kernel::Linear => kernel::Kernel::Linear,
                Kernel::Polynomial { degree, shift } => {
                    kernel::Kernel::Polynomial { degree, shift }
                }
                Kernel::Sigmoid { gamma, shift } => kernel::Kernel::Sigmoid { gamma, shift },
                Kernel::Rbf { gamma } => kernel::Kernel::Rbf { gamma },
                Kernel::Distance { scale } => kernel::Kernel::Distance { scale },
            },
            values: match (self.competition, self.values) {
                (Competition::Off, _) => kernel::Values::All,
                (_, Values::Soft) => kernel::Values::Soft,
                (_, Values::Squared) => kernel::Values::Squared,
            },
            threshold: threshold.map_or(kernel::Threshold::Above(given), kernel::Threshold::At),
            m: b.shape()[1],
            n: a.shape()[1],
            heads: self.heads,
            d: a.shape()[2],
            a: cuda.address(NAME, a)?,
            b: cuda.address(NAME, b)?,
        })
    }

    fn of_panel(&self, panel: &DevicePanel) -> Result<(kernel::Kernelized, kernel::Rows)> {
        let rows = kernel::Rows {
            first: panel.first,
            count: panel.weight.rows(),
        };
        let call = self.kernel(panel.cuda, panel.params, panel.prepared.first())?;
        Ok((call, rows))
    }
}

impl DeviceProducer for KernelizedSparse {
    /// The threshold, where it is a quantile.
    fn prepare(&self, cuda: &Cuda, _: [usize; 2], params: &[&Tensor]) -> Result<Vec<Tensor>> {
        let Competition::Quantile(p) = self.competition else {
            return Ok(vec![]);
        };
        let call = self.kernel(cuda, params, None)?;
        let device = params[0].device();
        let mut state = Tensor::zeros(&[kernel::Kernelized::STATE], DType::U32, device)?;
        let mut t = Tensor::zeros(&[1], DType::F32, device)?;
        let [state_at, t_at] = [&mut state, &mut t].map(|x| cuda.address_mut(NAME, x));
        let (kernels, stream) = cuda.launcher();
        // SAFETY: the factors are contiguous tensors of this device and of these sizes, and the results are unshared.
        let launched = unsafe { call.quantile(p, (state_at?, t_at?), kernels, stream) };
        launched.map_err(|e| failed(NAME, params, e))?;
        Ok(vec![t])
    }

    fn produce(&self, panel: &DevicePanel) -> Result<Tensor> {
        let (call, rows) = self.of_panel(panel)?;
        let w = (
            panel.cuda.address(NAME, panel.weight)?,
            element(NAME, panel.weight)?,
        );
        let mut out = Tensor::empty(panel.weight.shape(), DType::F32, panel.weight.device())?;
        let to = panel.cuda.address_mut(NAME, &mut out)?;
        let (kernels, stream) = panel.cuda.launcher();
        // SAFETY: as in `prepare`; W's rows are contiguous.
        let launched = unsafe { call.produce(rows, w, to, kernels, stream) };
        launched.map_err(|e| failed(NAME, &[panel.weight, panel.params[0]], e))?;
        Ok(out)
    }

    fn contract(&self, panel: &DevicePanel, g: &Tensor, grads: &mut [Tensor]) -> Result<()> {
        let (call, rows) = self.of_panel(panel)?;
        let mut sums = Tensor::empty(&[call.scratch(rows.count)], DType::F32, g.device())?;
        let sums_at = panel.cuda.address_mut(NAME, &mut sums)?;
        let mut to = [0; 2];
        for (address, grad) in to.iter_mut().zip(grads) {
            *address = panel.cuda.address_mut(NAME, grad)?;
        }
        let g_at = panel.cuda.address(NAME, g)?;
        let (kernels, stream) = panel.cuda.launcher();
        // SAFETY: as in `prepare`; the sums stay until what takes their memory comes later in the stream.
        let launched = unsafe { call.contract(rows, g_at, to, sums_at, kernels, stream) };
        launched.map_err(|e| failed(NAME, &[g, panel.params[0]], e))
    }
}
