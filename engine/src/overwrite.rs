//! Overwriting part of a tensor in place, outside the tape: for state that grows, such as a cache of keys and values.

use crate::error::{Error, Result};
use crate::tensor::Tensor;

impl Tensor {
    /// Puts `part` over the elements `start..start + part.shape()[axis]` of `axis`. Nobody else may hold the elements: what the
    /// tape or another view has seen never changes.
    ///
    /// # Errors
    /// Elements shared with another tensor, a part of another shape or type, or out of range.
    pub fn overwrite(&mut self, axis: usize, start: usize, part: &Tensor) -> Result<()> {
        let whole = *self.layout();
        let fits = part.rank() == self.rank()
            && axis < self.rank()
            && start + part.shape()[axis] <= self.shape()[axis]
            && (0..self.rank()).all(|a| a == axis || part.shape()[a] == self.shape()[a]);
        if !fits {
            let detail = format!(
                "{:?} from {start} on axis {axis} of {:?}",
                part.shape(),
                self.shape()
            );
            return Err(Error::shape("overwrite", detail));
        }
        part.expect_dtype("overwrite", self.dtype())?;
        if !self.is_unique() {
            let detail = "the elements are shared with another tensor; write to a `deep_clone`";
            return Err(Error::Invalid(format!("overwrite: {detail}")));
        }
        let region = whole.narrow(axis, start, part.shape()[axis]);
        // A view beside this handle would share the storage, so the handle itself becomes the view for a while.
        let placeholder = Tensor::empty(&[0], self.dtype(), self.device())?;
        let mut view = std::mem::replace(self, placeholder).relayout(region);
        let copied = view.device().clone().backend().copy(part, &mut view);
        *self = view.relayout(whole);
        copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::dtype::DType;

    #[test]
    fn a_region_is_replaced_and_shared_elements_are_not() {
        for device in [Device::cpu(), Device::oracle()] {
            let mut x = Tensor::zeros(&[2, 3, 2], DType::F32, &device).unwrap();
            let part = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0], &[2, 1, 2], &device).unwrap();
            x.overwrite(1, 2, &part).unwrap();
            x.overwrite(1, 0, &part.affine(10.0, 0.0).unwrap()).unwrap();
            let want = [10., 20., 0., 0., 1., 2., 30., 40., 0., 0., 3., 4.];
            assert_eq!(x.to_vec::<f64>().unwrap(), want);

            let held = x.narrow(1, 0, 1).unwrap();
            let message = x.overwrite(1, 1, &part).unwrap_err().to_string();
            assert!(message.contains("shared with another tensor"), "{message}");
            drop(held);
            assert!(x.overwrite(1, 1, &part).is_ok());
            for (axis, start) in [(1, 3), (0, 0), (3, 0)] {
                let message = x.overwrite(axis, start, &part).unwrap_err().to_string();
                assert!(message.contains("[2, 1, 2]"), "{message}");
            }
        }
    }
}
