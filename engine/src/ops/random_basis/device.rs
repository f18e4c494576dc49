//! The update on CUDA devices: kernels make B's numbers and s·Λ·A·Γ of a run of terms in scratch ([`deltaw_kernels::random_basis`]),
//! the product of matrices joins them. Neither basis exists whole.

use std::ops::Range;

use deltaw_kernels::random_basis as kernel;

use super::{Bases, NAME, RandomBasis};
use crate::device::Gemm;
use crate::device::cuda::{Around, failed};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::produced::{DevicePanel, DeviceProducer};
use crate::pool::{Tag, tagged};
use crate::tensor::Tensor;

/// Numbers of both factors that are made at a time: 1 MiB.
const ROOM: usize = 1 << 18;

/// A panel's rows and columns of the larger and the smaller side.
struct Place {
    /// Whether rows are of the larger side.
    tall: bool,
    rows: usize,
    n: usize,
    large: Range<usize>,
    small: Range<usize>,
    /// d.
    side: usize,
    /// N.
    terms: usize,
}

impl Place {
    fn new(panel: &DevicePanel) -> Self {
        let (gamma, [rows, n]) = (
            panel.params[1],
            [panel.weight.rows(), panel.weight.last_dim()],
        );
        let (side, own, whole) = (gamma.last_dim(), panel.first..panel.first + rows, 0..n);
        let tall = side == n;
        let (large, small) = if tall { (own, whole) } else { (whole, own) };
        Place {
            tall,
            rows,
            n,
            large,
            small,
            side,
            terms: gamma.shape()[0],
        }
    }
}

impl RandomBasis {
    fn columns(&self, basis: &str, columns: Range<usize>) -> kernel::Window {
        kernel::Window {
            bases: match self.bases {
                Bases::Uniform => kernel::Bases::Uniform,
                Bases::Ternary(s) => kernel::Bases::Ternary(s),
            },
            stream: self.key(basis).stream(),
            columns,
        }
    }

    fn run_of(
        &self,
        panel: &DevicePanel,
        place: &Place,
        run: &Range<usize>,
    ) -> Result<kernel::Run> {
        let address = |i: usize| panel.cuda.address(NAME, panel.params[i]);
        Ok(kernel::Run {
            terms: run.clone(),
            all: place.terms,
            rank: self.rank,
            small: place.side,
            lambda: address(0)?,
            gamma: address(1)?,
        })
    }

    /// B's columns of a run, of the panel's part of the larger side, `[part, run·r]`.
    fn left_on_device(
        &self,
        panel: &DevicePanel,
        place: &Place,
        run: &Range<usize>,
    ) -> Result<Tensor> {
        let k = run.len() * self.rank;
        let mut b = Tensor::empty(&[place.large.len(), k], DType::F32, panel.weight.device())?;
        let first = run.start % self.distinct * self.rank;
        let window = self.columns("randlora.B", first..first + k);
        let to = panel.cuda.address_mut(NAME, &mut b)?;
        let (kernels, stream) = panel.cuda.launcher();
        // SAFETY: `b` has these rows and columns, and is unshared.
        let launched = unsafe { window.fill(place.large.clone(), to, kernels, stream) };
        launched.map_err(|e| failed(NAME, &[panel.weight], e))?;
        Ok(b)
    }

    /// s·Λ·A·Γ of a run, of the panel's part of the smaller side, `[run·r, part]`.
    fn right_on_device(
        &self,
        panel: &DevicePanel,
        place: &Place,
        run: &Range<usize>,
    ) -> Result<Tensor> {
        let size = [run.len() * self.rank, place.small.len()];
        let mut right = Tensor::empty(&size, DType::F32, panel.weight.device())?;
        let (window, of) = (
            self.columns("randlora.A", place.small.clone()),
            self.run_of(panel, place, run)?,
        );
        let to = panel.cuda.address_mut(NAME, &mut right)?;
        let (kernels, stream) = panel.cuda.launcher();
        // SAFETY: λ and γ are contiguous tensors of these sizes; `right` has these rows and columns, and is unshared.
        let launched = unsafe { window.scaled(&of, self.scale, to, kernels, stream) };
        launched.map_err(|e| failed(NAME, panel.params, e))?;
        Ok(right)
    }
}

impl DeviceProducer for RandomBasis {
    fn produce(&self, panel: &DevicePanel) -> Result<Tensor> {
        let mut out = Tensor::empty(panel.weight.shape(), DType::F32, panel.weight.device())?;
        out.device()
            .clone()
            .backend()
            .copy(panel.weight, &mut out)?;
        let place = Place::new(panel);
        let adding = |transposed| Gemm {
            trans_a: transposed,
            trans_b: transposed,
            alpha: 1.0,
            beta: 1.0,
        };
        for run in self.runs(place.terms, place.rows + place.n, ROOM) {
            let (left, right) = tagged(Tag::Scratch, || {
                let left = self.left_on_device(panel, &place, &run)?;
                Ok((left, self.right_on_device(panel, &place, &run)?))
            })?;
            let (a, b) = if place.tall {
                (&left, &right)
            } else {
                (&right, &left)
            };
            panel
                .cuda
                .product(adding(!place.tall), a, b, &Around::default(), &mut out)?;
        }
        Ok(out)
    }

    fn contract(&self, panel: &DevicePanel, g: &Tensor, grads: &mut [Tensor]) -> Result<()> {
        let place = Place::new(panel);
        let turned = Gemm {
            trans_a: true,
            trans_b: !place.tall,
            alpha: self.scale,
            beta: 0.0,
        };
        let [lambda, gamma] = grads else {
            return Ok(());
        };
        let to = [
            panel.cuda.address_mut(NAME, lambda)?,
            panel.cuda.address_mut(NAME, gamma)?,
        ];
        for run in self.runs(place.terms, place.rows + place.n, ROOM) {
            let left = self.left_on_device(panel, &place, &run)?;
            let size = [left.last_dim(), place.small.len()];
            let mut u = Tensor::empty(&size, DType::F32, g.device())?;
            panel
                .cuda
                .product(turned, &left, g, &Around::default(), &mut u)?;
            let (window, of) = (
                self.columns("randlora.A", place.small.clone()),
                self.run_of(panel, &place, &run)?,
            );
            let (from, (kernels, stream)) = (panel.cuda.address(NAME, &u)?, panel.cuda.launcher());
            // SAFETY: U, the parameters and their gradients are contiguous tensors of these sizes; nobody else holds the gradients.
            let launched = unsafe { window.gradients(&of, from, to, kernels, stream) };
            launched.map_err(|e| failed(NAME, &[g], e))?;
        }
        Ok(())
    }
}
