//! Two-dimensional convolution (cross-correlation), as one product of the image's windows with the kernels.
//!
//! ```text
//! y[b, o, i, j] = bias[o] + Σ_{c, u, v} w[o, c, u, v]·x[b, g·C/G + c, i·s₀ + u·d₀ − p₀, j·s₁ + v·d₁ − p₁]
//! Ho = ⌊(H + 2p₀ − d₀(kh − 1) − 1)/s₀⌋ + 1, Wo likewise      g = ⌊o·G/O⌋
//! ```
//!
//! x `[B, C, H, W]`, w `[O, C/G, kh, kw]`, bias `[O]`, y `[B, O, Ho, Wo]`. Windows are copied (`B·Ho·Wo·C·kh·kw` elements);
//! gradients are those of the product and of the copy, in which windows that share a pixel add up.

use deltaw_kernels::patches as kernel;

use crate::device::Device;
use crate::device::cuda::{Cuda, failed};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::view::Windows;
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Refinements of [`conv2d`], per axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Steps between windows.
    pub stride: [usize; 2],
    /// Zeros on each side.
    pub padding: [usize; 2],
    /// Steps between the elements of a window.
    pub dilation: [usize; 2],
    /// Groups G of channels that do not mix.
    pub groups: usize,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Conv2dOptions {
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
        }
    }
}

/// The windows of an image with zeros around it, `[G, B, Ho, Wo, C/G, kh, kw]`: groups first, then a row for each window.
struct Patches {
    options: Conv2dOptions,
    kernel: [usize; 2],
    windows: [usize; 2],
}

impl Patches {
    fn launch(
        &self,
        cuda: &Cuda,
        kind: kernel::Kind,
        shape: &[usize],
        [x, y]: [u64; 2],
    ) -> Result<()> {
        let options = self.options;
        let call = kernel::Patches {
            kind,
            batch: shape[0],
            groups: options.groups,
            channels: shape[1] / options.groups,
            image: [shape[2], shape[3]],
            kernel: self.kernel,
            stride: options.stride,
            padding: options.padding,
            dilation: options.dilation,
            x,
            y,
        };
        let (kernels, stream) = cuda.launcher();
        // SAFETY: contiguous tensors of these sizes, of which the one that is written is unshared.
        unsafe { call.launch(kernels, stream) }.map_err(|e| failed("conv2d", &[], e))
    }
}

impl Op for Patches {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn supports(&self, device: &Device) -> bool {
        device.as_cuda().is_some()
    }

    fn forward(&self, _: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0].packed()?;
        x.expect_dtype("conv2d", DType::F32)?;
        let (&[b, c, _, _], groups) = (x.shape(), self.options.groups) else {
            return Err(Error::shape("conv2d", "the image has four axes"));
        };
        let ([ho, wo], [kh, kw]) = (self.windows, self.kernel);
        let shape = [groups, b, ho, wo, c / groups, kh, kw];
        let mut y = Tensor::empty(&shape, DType::F32, x.device())?;
        let cuda = x.device().as_cuda().ok_or_else(|| Error::Unavailable {
            op: "conv2d",
            device: x.device().to_string(),
        })?;
        let at = [
            cuda.address("conv2d", &x)?,
            cuda.address_mut("conv2d", &mut y)?,
        ];
        self.launch(cuda, kernel::Kind::Forward, x.shape(), at)?;
        Ok(y)
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let Conv2dOptions {
            stride,
            padding,
            dilation,
            groups,
        } = self.options;
        let mut x = inputs[0].clone();
        for (axis, zeros) in [(2, padding[0]), (3, padding[1])] {
            if zeros > 0 {
                x = x.pad(axis, zeros, zeros)?;
            }
        }
        let x = x.contiguous()?;
        let (c, h, w) = (x.shape()[1], x.shape()[2], x.shape()[3]);
        let ([ho, wo], [kh, kw]) = (self.windows, self.kernel);
        let windows = Layout {
            shape: Dims::new(&[groups, x.shape()[0], ho, wo, c / groups, kh, kw])?,
            strides: Dims::new(&[
                c / groups * h * w,
                c * h * w,
                stride[0] * w,
                stride[1],
                h * w,
                dilation[0] * w,
                dilation[1],
            ])?,
            offset: 0,
        };
        apply(Windows(windows), &[&x])
    }

    fn backward(&self, _: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (dy, shape) = (dy.packed()?, grads.shape(0).to_vec());
        let cuda = dy.device().as_cuda().ok_or_else(|| Error::Unavailable {
            op: "conv2d",
            device: dy.device().to_string(),
        })?;
        grads.write(0, |dx, beta| {
            let at = [
                cuda.address_mut("conv2d", dx)?,
                cuda.address("conv2d", &dy)?,
            ];
            self.launch(cuda, kernel::Kind::Backward { beta }, &shape, at)
        })
    }
}

/// Convolves.
///
/// # Errors
/// Shapes that do not fit, a stride, dilation or number of groups of 0, a window larger than the padded image.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    options: &Conv2dOptions,
) -> Result<Tensor> {
    let wrong = |what: String| Error::shape("conv2d", what);
    let (&[b, c, _, _], &[o, per_group, kh, kw]) = (x.shape(), weight.shape()) else {
        return Err(wrong(format!(
            "x is {:?} and the weight {:?}, wanted [B, C, H, W] and [O, C/groups, kh, kw]",
            x.shape(),
            weight.shape()
        )));
    };
    let Conv2dOptions {
        stride,
        padding,
        dilation,
        groups,
    } = *options;
    if [stride, dilation].as_flattened().contains(&0) || groups == 0 || [kh, kw].contains(&0) {
        return Err(wrong(format!(
            "{options:?} with a kernel of [{kh}, {kw}]: none may be 0"
        )));
    }
    if per_group * groups != c || !o.is_multiple_of(groups) {
        return Err(wrong(format!(
            "x {:?} has {c} channels, the weight {:?} in {groups} group(s) takes {}",
            x.shape(),
            weight.shape(),
            per_group * groups
        )));
    }
    let (h, w) = (x.shape()[2] + 2 * padding[0], x.shape()[3] + 2 * padding[1]);
    let reach = [dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1];
    if h < reach[0] || w < reach[1] {
        return Err(wrong(format!(
            "windows of {reach:?} do not fit the padded image of [{h}, {w}]"
        )));
    }
    let (ho, wo) = (
        (h - reach[0]) / stride[0] + 1,
        (w - reach[1]) / stride[1] + 1,
    );
    let patches = Patches {
        options: *options,
        kernel: [kh, kw],
        windows: [ho, wo],
    };
    let size = per_group * kh * kw;
    let rows = apply(patches, &[x])?.reshape(&[groups, b * ho * wo, size])?;
    let kernels = weight.reshape(&[groups, o / groups, size])?;
    let y = rows.matmul_t(&kernels, false, true)?;
    let y = y
        .reshape(&[groups, b, ho, wo, o / groups])?
        .permute(&[1, 0, 4, 2, 3])?;
    let y = y.reshape(&[b, o, ho, wo])?;
    match bias {
        None => Ok(y),
        Some(bias) => {
            bias.expect_shape("conv2d", "bias", &[o])?;
            y.add(&bias.reshape(&[o, 1, 1])?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, Distribution};
    use crate::random::{Purpose, RandomKey};

    fn normal(shape: &[usize], name: &str) -> Tensor {
        let key = RandomKey::new(3, Purpose::Sample, name);
        Tensor::random(shape, Distribution::Normal, key, &Device::cpu()).unwrap()
    }

    #[test]
    fn a_difference_by_hand() {
        let x = Tensor::from([[1.0, 2.0, 4.0], [7.0, 11.0, 16.0]])
            .reshape(&[1, 1, 2, 3])
            .unwrap();
        let w = Tensor::from([-1.0, 1.0]).reshape(&[1, 1, 1, 2]).unwrap();
        let y = conv2d(
            &x,
            &w,
            Some(&Tensor::from([0.5])),
            &Conv2dOptions::default(),
        )
        .unwrap();
        assert_eq!(y.shape(), [1, 1, 2, 2]);
        assert_eq!(y.to_vec::<f32>().unwrap(), [1.5, 2.5, 4.5, 5.5]);
    }

    /// Against the sum as it is written above, in f64.
    #[test]
    fn as_the_formula() {
        for (stride, padding, dilation, groups) in [
            ([1, 1], [0, 0], [1, 1], 1),
            ([2, 1], [1, 2], [1, 2], 1),
            ([1, 3], [2, 0], [2, 1], 2),
        ] {
            let (b, c, h, w, o, kh, kw) = (2, 4, 6, 7, 6, 3, 2);
            let (x, k) = (
                normal(&[b, c, h, w], "x"),
                normal(&[o, c / groups, kh, kw], "w"),
            );
            let options = Conv2dOptions {
                stride,
                padding,
                dilation,
                groups,
            };
            let y = conv2d(&x, &k, None, &options).unwrap();
            let (xs, ks) = (x.to_vec::<f64>().unwrap(), k.to_vec::<f64>().unwrap());
            let (ho, wo) = (y.shape()[2], y.shape()[3]);
            for (at, got) in y.to_vec::<f64>().unwrap().into_iter().enumerate() {
                let (n, f, i, j) = (
                    at / (o * ho * wo),
                    at / (ho * wo) % o,
                    at / wo % ho,
                    at % wo,
                );
                let mut want = 0.0;
                for ch in 0..c / groups {
                    for u in 0..kh {
                        for v in 0..kw {
                            let row = (i * stride[0] + u * dilation[0]).checked_sub(padding[0]);
                            let column = (j * stride[1] + v * dilation[1]).checked_sub(padding[1]);
                            if let (Some(r), Some(q)) = (row, column)
                                && r < h
                                && q < w
                            {
                                let from = f * groups / o * (c / groups) + ch;
                                want += ks[((f * (c / groups) + ch) * kh + u) * kw + v]
                                    * xs[((n * c + from) * h + r) * w + q];
                            }
                        }
                    }
                }
                // 24 products of order one.
                assert!(
                    (got - want).abs() < 48.0 * f64::from(f32::EPSILON) * 8.0,
                    "{got} {want}"
                );
            }
        }
    }

    #[test]
    fn misfits_are_said() {
        let (x, w) = (normal(&[1, 3, 4, 4], "x"), normal(&[2, 2, 5, 1], "w"));
        let said = |options| conv2d(&x, &w, None, &options).unwrap_err().to_string();
        let message = said(Conv2dOptions::default());
        assert_eq!(
            message,
            "conv2d: x [1, 3, 4, 4] has 3 channels, the weight [2, 2, 5, 1] in 1 group(s) takes 2"
        );
        let w = normal(&[2, 3, 5, 1], "w");
        let message = conv2d(&x, &w, None, &Conv2dOptions::default())
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "conv2d: windows of [5, 1] do not fit the padded image of [4, 4]"
        );
    }
}
