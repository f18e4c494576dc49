//! The most memory that forward and backward of each family of updates ever hold: base, adapter, activations, gradients and the scratch
//! that the op declares, within 5 %. ΔW of a frozen W, or its gradient, would be more than that. Alone in its program, since it counts
//! every buffer.

use deltaw_engine::ops::kernelized::{Competition, Kernel, Values};
use deltaw_engine::ops::random_basis::{Bases, RandomBasis, random_basis_linear};
use deltaw_engine::ops::triangular::Core;
use deltaw_engine::pool;
use deltaw_engine::prelude::*;
use deltaw_tests::gpu::{Gpu, tensor};

/// Tokens, outputs and inputs. All sizes are such that the pools' classes, four to a power of two, hold them exactly.
const T: usize = 64;
const M: usize = 16_384;
const N: usize = 128;
/// The same of a layer on which tokens are many.
const MANY: usize = 1536;
const SIDE: usize = 1024;
/// r, b, and ranks at which a core's blocks end.
const RANK: usize = 16;
const BLOCK: usize = 64;
const CORE: [usize; 2] = [512, 1024];
const SMALL: [usize; 2] = [4, RANK];

const BASES: RandomBasis = RandomBasis {
    rank: RANK,
    scale: 0.5,
    seed: 1,
    bases: Bases::Uniform,
    distinct: usize::MAX,
};

const SNELL: KernelizedSparse = KernelizedSparse {
    heads: 2,
    kernel: Kernel::Distance { scale: 0.1 },
    competition: Competition::Quantile(0.9),
    values: Values::Soft,
};

/// What is run, and what it may hold, in numbers of 4 bytes.
struct Case {
    name: &'static str,
    /// x, and the frozen W where there is one.
    x: [usize; 2],
    weight: Option<[usize; 2]>,
    params: Vec<Vec<usize>>,
    run: fn(&Tensor, &Tensor, &[Tensor]) -> Result<Tensor>,
    /// Activations beside x and y that are kept, and their gradients.
    kept: usize,
    /// On the CPU, in its pool.
    scratch: usize,
    /// On CUDA devices; none where they do what another case shows.
    on_device: Option<usize>,
    /// What making ΔW or C whole would hold beside this.
    whole: usize,
}

fn cases() -> Vec<Case> {
    let (linear, weight) = ([T, N], Some([M, N]));
    // A panel of the updates that are made, in f32 and with W where it lies.
    let panel = 1 << 19;
    let terms = N / RANK;
    // Terms' factors, or B's numbers and U, beside the panel: as many as a megabyte holds. Sums of a product that is split are not
    // counted.
    let run = |numbers: usize| (1 << 18) / (RANK * numbers) * RANK * numbers;
    let random_basis = || Case {
        name: "",
        x: linear,
        weight,
        params: vec![vec![RANK, terms], vec![terms, N]],
        run: |x, w, p| random_basis_linear(x, w, None, (&p[0], &p[1]), BASES),
        kept: 0,
        scratch: 0,
        on_device: Some(0),
        whole: M * N,
    };
    let [core, small] = [CORE, SMALL].map(|ends| Core::new(&ends).unwrap());
    vec![
        Case {
            name: "low-rank",
            x: linear,
            weight,
            params: vec![vec![RANK, N], vec![M, RANK]],
            run: |x, w, p| low_rank_linear(x, w, None, &p[0], &p[1], None, 0.5),
            kept: 2 * T * RANK,
            scratch: 0,
            on_device: Some(0),
            whole: M * N,
        },
        Case {
            name: "triangular",
            x: [core.rank(), N],
            weight: None,
            params: vec![vec![core.entries()]; 2],
            run: |x, _, p| triangular_matmul(&Core::new(&CORE)?, Some(&p[0]), Some(&p[1]), x),
            kept: 0,
            // On the CPU it lies outside of the pool.
            scratch: 0,
            on_device: Some(128 * core.rank()),
            whole: core.rank() * core.rank(),
        },
        Case {
            name: "triangular core on a linear",
            x: linear,
            weight,
            params: vec![
                vec![RANK, N],
                vec![RANK, M],
                vec![small.entries()],
                vec![small.entries()],
            ],
            run: |x, w, p| {
                let a = triangular_matmul(&Core::new(&SMALL)?, Some(&p[2]), Some(&p[3]), &p[0])?;
                low_rank_linear(x, w, None, &a, &p[1].t()?, None, 0.5)
            },
            // C·A, B from Bᵀ, h and g.
            kept: RANK * N + RANK * M + 2 * T * RANK,
            scratch: 0,
            on_device: Some(0),
            whole: M * N,
        },
        Case {
            name: "random basis, few tokens",
            x: linear,
            // A term's factors, what the tokens have of it, and U.
            scratch: RANK * (M + 2 * N + T),
            on_device: Some(panel + run(4096 + N)),
            ..random_basis()
        },
        Case {
            name: "random basis, many tokens",
            x: [MANY, SIDE],
            weight: Some([SIDE, SIDE]),
            params: vec![vec![RANK, SIDE / RANK], vec![SIDE / RANK, SIDE]],
            // A quarter is for factors, which each thread keeps.
            scratch: 3 * panel / 4,
            on_device: None,
            whole: SIDE * SIDE,
            ..random_basis()
        },
        Case {
            name: "block-affine",
            x: linear,
            weight,
            params: vec![vec![M / BLOCK, BLOCK, BLOCK]],
            run: |x, w, p| block_affine_linear(x, w, None, &p[0]),
            kept: 0,
            // Sums of dR of a panel's blocks.
            scratch: panel,
            on_device: Some(panel + 4096 * BLOCK),
            whole: M * N,
        },
        Case {
            name: "kernelized-sparse",
            x: linear,
            weight,
            params: vec![vec![2, N, RANK / 2], vec![2, M, RANK / 2]],
            run: |x, w, p| kernelized_sparse_linear(x, w, None, (&p[0], &p[1]), SNELL),
            kept: 0,
            // Sums of both factors' gradients, for tiles of 64 by 64 of a panel.
            scratch: panel,
            on_device: Some(panel + RANK * (4096 / 64 * N + N / 64 * 4096)),
            whole: M * N,
        },
    ]
}

impl Case {
    /// Bytes at the end of backward, when everything is there.
    fn expected(&self, scratch: usize) -> usize {
        let out = self.weight.map_or(self.x[0], |w| w[0]);
        let y = if self.weight.is_some() {
            self.x[0] * out
        } else {
            self.x[0] * self.x[1]
        };
        let base = self.weight.map_or(0, |w| w[0] * w[1]);
        let params: usize = self
            .params
            .iter()
            .map(|p| p.iter().product::<usize>())
            .sum();
        let x = self.x[0] * self.x[1];
        4 * (base + 2 * (x + y + params) + self.kept + scratch)
    }

    /// Runs it; `peak` is what was held at most.
    fn run(&self, device: &Device, begin: impl Fn(), peak: impl Fn() -> usize) -> Result<usize> {
        let on = |shape: &[usize], seed| tensor(shape, seed).to_device(device);
        let x = on(&self.x, 1)?.trained();
        let w = on(&self.weight.unwrap_or([0, 0]), 2)?;
        let params = (3..)
            .zip(&self.params)
            .map(|(seed, shape)| Ok(on(shape, seed)?.trained()));
        let params = params.collect::<Result<Vec<_>>>()?;
        let y_shape = [self.x[0], self.weight.map_or(self.x[1], |w| w[0])];
        let dy = on(&y_shape, 9)?;
        begin();
        let y = (self.run)(&x, &w, &params)?;
        let grads = backward_with(&y, dy.clone())?;
        assert!(grads.of(&x).is_some() && params.iter().all(|p| grads.of(p).is_some()));
        Ok(peak())
    }

    fn compare(&self, device: &str, got: usize, scratch: usize) {
        let expected = self.expected(scratch);
        let off = (got as f64 / expected as f64 - 1.0).abs();
        println!(
            "{} on {device}: {got} bytes, expected {expected}",
            self.name
        );
        assert!(
            off <= 0.05,
            "{} on {device}: {got} bytes held, expected {expected}",
            self.name
        );
        // A test that ΔW would pass shows nothing.
        assert!(
            (4 * self.whole) as f64 > 0.1 * expected as f64,
            "{}",
            self.name
        );
    }
}

#[test]
fn updates_hold_what_they_say_and_no_more() {
    for case in cases() {
        let before = pool::usage().live_total;
        let peak = || pool::usage().peak_total - before;
        let got = case.run(&Device::cpu(), pool::reset_peak, peak).unwrap();
        case.compare("the CPU", got, case.scratch);
        let Some(on_device) = case.on_device else {
            continue;
        };

        let gpu = Gpu::new();
        if let Some(driver) = gpu.counters() {
            driver.set_checks(deltaw_emulator::Checks::NONE).unwrap();
        }
        let cuda = gpu.device.as_cuda().unwrap();
        let got = case.run(&gpu.device, || (), || cuda.peak_bytes());
        let got = got.unwrap_or_else(|e| gpu.fail(e));
        case.compare("the GPU", got, on_device);
    }
}
