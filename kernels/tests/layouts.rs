//! Fragment layouts against kernels by others: Triton's and NVRTC's (wmma) on the same driver and the same data.
//!
//! A driver and kernels of one author could share a misunderstanding of `mma` or `ldmatrix` and agree. These kernels place
//! their fragments as their compilers think right: if they are right on this driver, then so is its layout; and ours, right
//! beside them on the same data, use that layout.

mod common;

use common::case::Case;
use common::{Format, Gpu, numbers};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use deltaw_kernels::gemm::{Output, Type};

/// A product of bf16 by another's kernel, A by rows and B as `b_by_k` says.
struct Other {
    name: &'static str,
    text: &'static str,
    entry: &'static str,
    b_by_k: bool,
}

const TRITON: [Other; 2] = [
    Other {
        name: "Triton, B by k",
        text: include_str!("triton/bf16_nt.ptx"),
        entry: "product",
        b_by_k: true,
    },
    Other {
        name: "Triton, B by n",
        text: include_str!("triton/bf16_nn.ptx"),
        entry: "product",
        b_by_k: false,
    },
];
const WMMA: Other = Other {
    name: "NVRTC's wmma, halved",
    text: include_str!("../driver/tests/cuda/kernels_sm80.ptx"),
    entry: "wmma_bf16",
    b_by_k: false,
};

impl Other {
    /// The product of [m, k] and [k, n], both by rows.
    fn run(&self, gpu: &Gpu, [m, n, k]: [usize; 3], a: &[f32], b: &[f32]) -> Vec<f32> {
        let triton = self.entry == "product";
        let b: Vec<f32> = match self.b_by_k {
            true => (0..n * k).map(|e| b[e % k * n + e / k]).collect(),
            false => b.to_vec(),
        };
        let (_a, a) = gpu.upload(&Format::Bf16.encode(a));
        let (_b, b) = gpu.upload(&Format::Bf16.encode(&b));
        let format = if triton { Format::Bf16 } else { Format::F32 };
        let (y, at) = gpu.upload(&vec![0; m * n * format.bytes()]);
        let shared = if triton { 24576 } else { 0 };
        let function = gpu.kernels.load(self.entry, shared, self.text).unwrap();
        let sizes = [m, n, k, k, if self.b_by_k { k } else { n }, n].map(|x| x as i32);
        let mut launch = gpu.stream.launch_builder(&function);
        launch.arg(&a).arg(&b).arg(&at);
        let (grid, scratch) = if triton {
            sizes.iter().for_each(|size| {
                launch.arg(size);
            });
            ((m.div_ceil(64), n.div_ceil(64)), 0u64)
        } else {
            launch.arg(&sizes[1]).arg(&sizes[2]);
            ((m / 16 * n / 16 / 4, 1), 0)
        };
        if triton {
            launch.arg(&scratch).arg(&scratch);
        }
        let config = LaunchConfig {
            grid_dim: (grid.0 as u32, grid.1 as u32, 1),
            block_dim: (128, 1, 1),
            shared_mem_bytes: shared,
        };
        // SAFETY: the kernel's own parameters, in their order; buffers of their sizes, which live until the results are read.
        unsafe { launch.launch(config) }.unwrap();
        gpu.finish()
            .unwrap_or_else(|fault| panic!("{}: {fault}", self.name));
        format.decode(&gpu.stream.clone_dtoh(&y).unwrap())
    }
}

#[test]
fn others_kernels_agree_with_ours_on_this_driver() {
    let gpu = Gpu::new(80);
    for (size, seed) in [([64, 64, 32], 1), ([128, 64, 160], 2), ([192, 128, 96], 3)] {
        let [m, n, k] = size;
        let of = |count, seed| -> Vec<f32> {
            numbers(count, seed)
                .into_iter()
                .map(|x| Format::Bf16.round(x))
                .collect()
        };
        let (a, b) = (of(m * k, seed), of(k * n, seed + 1));
        let case = |transposed, output| {
            let mut case = Case::plain(Type::Bf16, 2, size);
            (case.seed, case.b.transposed, case.output) = (seed, transposed, output);
            case
        };
        for other in TRITON {
            // The case has the same numbers: its own seeds are those above.
            let ours = case(other.b_by_k, Output::Bf16).run(&gpu, None).unwrap();
            ours.check().unwrap();
            for (e, theirs) in other.run(&gpu, size, &a, &b).into_iter().enumerate() {
                let (exact, bound) = ours.wanted[e].expect("an element of Y");
                let error = (f64::from(theirs) - exact).abs();
                assert!(
                    error <= bound,
                    "{} {size:?}, element {e}: {theirs} for {exact}",
                    other.name
                );
                // One tile of k: the same products in the same order, so the same bits.
                assert!(
                    k > 32 || theirs == ours.got[e],
                    "{} element {e}",
                    other.name
                );
            }
        }
        let ours = case(false, Output::F32).run(&gpu, None).unwrap();
        ours.check().unwrap();
        for (e, theirs) in WMMA.run(&gpu, size, &a, &b).into_iter().enumerate() {
            let (exact, bound) = ours.wanted[e].expect("an element of Y");
            assert!(
                (2.0 * f64::from(theirs) - exact).abs() <= bound,
                "{} {size:?}, element {e}",
                WMMA.name
            );
            assert!(
                k > 32 || 2.0 * theirs == ours.got[e],
                "{} element {e}",
                WMMA.name
            );
        }
    }
}
