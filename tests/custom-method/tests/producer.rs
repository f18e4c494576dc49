//! An update of one's own that has no thin factors: sparse values at fixed places, made and differentiated by panels; on devices by
//! tensor operations, or by kernels of its own.

use std::collections::BTreeMap;

use cudarc::driver::{LaunchConfig, PushKernelArg as _};
use deltaw_kernels::template::Template;
use deltaw_models::prelude::*;
use deltaw_tests::gpu::{Gpu, near, tensor, values};
use proptest::prelude::*;

/// `p(o, s) = (7·o + 3·s) mod n` for each s of a row.
fn places(o: usize, n: usize, per_row: usize) -> impl Iterator<Item = usize> {
    (0..per_row).map(move |s| (7 * o + 3 * s) % n)
}

/// The same of all rows, `[m, s]`.
fn all_places([m, n]: [usize; 2], per_row: usize, device: &Device) -> Result<Tensor> {
    let all = (0..m).flat_map(|o| places(o, n, per_row));
    let all: Vec<u32> = all.map(|p| p as u32).collect();
    Tensor::from_slice(&all, &[m, per_row], device)
}

/// `ΔW[o, p(o, s)] += v[o, s]`; v `[m, s]`.
struct Sparse {
    per_row: usize,
    device: Option<Box<dyn DeviceProducer>>,
}

impl Sparse {
    /// The values of a panel, and where they go in it.
    fn each(&self, panel: &Panel) -> impl Iterator<Item = (usize, usize)> {
        let Panel {
            rows, columns, n, ..
        } = panel.clone();
        let per_row = self.per_row;
        rows.enumerate().flat_map(move |(row, o)| {
            let (columns, start) = (columns.clone(), row * columns.len());
            let all = places(o, n, per_row).enumerate();
            all.filter_map(move |(s, p)| {
                let at = p.checked_sub(columns.start)?;
                (p < columns.end).then_some((o * per_row + s, start + at))
            })
        })
    }
}

impl Producer for Sparse {
    type Prepared = ();

    fn name(&self) -> &'static str {
        "sparse"
    }

    fn dense(&self, weight: &Tensor, params: &[&Tensor]) -> Result<Tensor> {
        let (size, device) = ([weight.shape()[0], weight.shape()[1]], weight.device());
        let places = all_places(size, self.per_row, device)?;
        Tensor::zeros(&size, DType::F32, device)?.scatter_add(&places, params[0])
    }

    fn check(&self, m: usize, _: usize, params: &[&Tensor]) -> Result<()> {
        params[0].expect_shape("sparse", "v", &[m, self.per_row])
    }

    fn prepare(&self, _: usize, _: usize, _: &[&[f32]]) -> Result<()> {
        Ok(())
    }

    fn produce(&self, _: &(), panel: &Panel, out: &mut [f32]) {
        for (k, at) in self.each(panel) {
            out[at] += panel.params[0][k];
        }
    }

    fn contract(&self, _: &(), panel: &Panel, g: &[f32], grads: &mut [&mut [f32]]) {
        for (k, at) in self.each(panel) {
            grads[0][k] += g[at];
        }
    }

    fn on_device(&self) -> Option<&dyn DeviceProducer> {
        self.device.as_deref()
    }
}

/// By tensor operations: where the values go is found once, for all panels.
struct Operations {
    per_row: usize,
}

impl DeviceProducer for Operations {
    fn prepare(&self, _: &Cuda, size: [usize; 2], params: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![all_places(size, self.per_row, params[0].device())?])
    }

    fn produce(&self, panel: &DevicePanel) -> Result<Tensor> {
        let own = |x: &Tensor| x.narrow(0, panel.first, panel.weight.rows());
        let (places, v) = (own(&panel.prepared[0])?, own(panel.params[0])?);
        panel.weight.cast(DType::F32)?.scatter_add(&places, &v)
    }

    fn contract(&self, panel: &DevicePanel, g: &Tensor, grads: &mut [Tensor]) -> Result<()> {
        let (first, rows) = (panel.first, g.rows());
        let own = g.take(&panel.prepared[0].narrow(0, first, rows)?)?;
        let after = grads[0].rows() - first - rows;
        grads[0] = grads[0].add(&own.pad(0, first, after)?)?;
        Ok(())
    }
}

/// By kernels of its own, which find the places again.
struct Own {
    per_row: usize,
}

const KERNELS: Template = Template {
    files: &[("sparse.ptx", include_str!("sparse.ptx"))],
};

impl Own {
    /// A thread for each of `count`.
    ///
    /// # Safety
    /// The kernel takes these pointers, of memory that is as large as it says, before the sizes.
    unsafe fn launch(
        &self,
        kernel: &str,
        panel: &DevicePanel,
        count: usize,
        pointers: &[u64],
    ) -> Result<()> {
        let failed = |detail: String| Error::Cuda {
            op: "sparse",
            detail: format!("{kernel}: {detail}"),
        };
        let (kernels, stream) = panel.cuda.launcher();
        let text = || KERNELS.expand(BTreeMap::<&str, u32>::new());
        let function = kernels
            .get(kernel, 0, text)
            .map_err(|e| failed(e.to_string()))?;
        let [rows, n] = [panel.weight.rows(), panel.weight.last_dim()];
        let sizes = [panel.first, rows, n, self.per_row].map(|x| x as u32);
        let mut launch = stream.launch_builder(&function);
        pointers.iter().for_each(|pointer| {
            launch.arg(pointer);
        });
        sizes.iter().for_each(|size| {
            launch.arg(size);
        });
        // SAFETY: the caller's promise; the kernel takes these sizes.
        let launched = unsafe { launch.launch(LaunchConfig::for_num_elems(count as u32)) };
        launched.map(drop).map_err(|e| failed(format!("{e:?}")))
    }
}

impl DeviceProducer for Own {
    fn produce(&self, panel: &DevicePanel) -> Result<Tensor> {
        let weight = panel.weight.cast(DType::F32)?;
        let mut out = Tensor::empty(weight.shape(), DType::F32, weight.device())?;
        let pointers = [
            panel.cuda.address("sparse", &weight)?,
            panel.cuda.address("sparse", panel.params[0])?,
            panel.cuda.address_mut("sparse", &mut out)?,
        ];
        // SAFETY: W and the result have these rows, v those of all panels.
        unsafe { self.launch("sparse_produce", panel, out.len(), &pointers) }?;
        Ok(out)
    }

    fn contract(&self, panel: &DevicePanel, g: &Tensor, grads: &mut [Tensor]) -> Result<()> {
        let pointers = [
            panel.cuda.address("sparse", g)?,
            panel.cuda.address_mut("sparse", &mut grads[0])?,
        ];
        let count = g.rows() * self.per_row;
        // SAFETY: as in `produce`.
        unsafe { self.launch("sparse_contract", panel, count, &pointers) }
    }
}

/// By operations, and by kernels.
fn on_devices(per_row: usize) -> [Sparse; 2] {
    let forms: [Box<dyn DeviceProducer>; 2] =
        [Box::new(Operations { per_row }), Box::new(Own { per_row })];
    forms.map(|form| Sparse {
        per_row,
        device: Some(form),
    })
}

/// Value and gradients of x and v as through ΔW made whole, over two panels of rows and two of columns.
#[test]
fn a_producer_from_another_crate_is_its_dense_form() {
    is_its_dense_form(900, 700);
    is_its_dense_form(700, 900);
}

fn is_its_dense_form(m: usize, n: usize) {
    let (per_row, device) = (4, Device::cpu());
    let x = Tensor::randn(&[3, n], 1, &device).unwrap().trained();
    let w = Tensor::randn(&[m, n], 2, &device).unwrap();
    let v = Tensor::randn(&[m, per_row], 3, &device).unwrap().trained();
    let b = Tensor::randn(&[m], 4, &device).unwrap();
    let swept = |y: Tensor| {
        let grads = backward(&y.square().unwrap().sum_all().unwrap()).unwrap();
        [&y, grads.of(&x).unwrap(), grads.of(&v).unwrap()].map(|t| t.to_vec::<f32>().unwrap())
    };
    let sparse = || Sparse {
        per_row,
        device: None,
    };
    let fused = swept(produced_linear(sparse(), &x, &w, Some(&b), &[&v]).unwrap());
    let whole = w.add(&sparse().dense(&w, &[&v]).unwrap()).unwrap();
    let dense = swept(linear(&x, &whole, Some(&b)).unwrap());
    for (fused, dense) in fused.iter().zip(&dense) {
        let size = dense.iter().fold(0.0f32, |s, d| s.max(d.abs()));
        for (a, b) in fused.iter().zip(dense) {
            // Two sums of up to m or n terms in another order, each within half as many roundings of the terms' sum, some 4 times the result.
            assert!(
                (a - b).abs() <= 4.0 * m.max(n) as f32 * f32::EPSILON * size,
                "{a} and {b}"
            );
        }
    }
}

fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    /// Everything lies in [−1, 1), and up to k values meet in a place, so that an element of W + ΔW is 1 + k at most, in k roundings.
    /// Both sums are within their length, and as much for the rounding of sums of sums, times half an ulp of what they sum.
    #[test]
    fn on_devices_it_is_the_cpus(
        t in 1..20usize, m in 1..90usize, n in 1..150usize, k in 1..9usize, seed: u64,
        dtype in prop_oneof![Just(DType::F32), Just(DType::Bf16), Just(DType::F16)],
    ) {
        let inputs = [
            tensor(&[t, n], seed), tensor(&[m, n], seed ^ 1).converted(dtype).unwrap(), tensor(&[m, k], seed ^ 2), tensor(&[m], seed ^ 3),
        ];
        let bound = |terms: usize, size: usize| (terms + 4) as f64 * f64::from(f32::EPSILON) * size as f64;
        let bounds = [bound(n + k, n * (1 + k) + 1), bound(m + k, m * (1 + k)), bound(t, t), bound(t, t)];
        for form in 0..2 {
            near("sparse", &inputs, &bounds, |x| {
                let [first, second] = on_devices(k);
                produced_linear(if form == 0 { first } else { second }, &x[0], &x[1].detach(), Some(&x[3]), &[&x[2]])
            });
        }
    }
}

/// Peak of device memory of a step over four panels, in bytes; W stays as it is, and the host reads nothing.
fn peak([t, m, n]: [usize; 3], sparse: Sparse) -> usize {
    let gpu = Gpu::new();
    let cuda = gpu.device.as_cuda().unwrap();
    let on = |shape: &[usize], seed| tensor(shape, seed).to_device(&gpu.device).unwrap();
    let (x, w) = (on(&[t, n], 1).trained(), on(&[m, n], 2));
    let v = on(&[m, sparse.per_row], 3).trained();
    let (before, reads) = (values(&w), cuda.reads());
    let y = produced_linear(sparse, &x, &w, None, &[&v]);
    let swept = y.and_then(|y| backward(&y.sum_all()?));
    let grads = swept.unwrap_or_else(|e| gpu.fail(e));
    assert_eq!(cuda.reads(), reads, "the host waited");
    assert!(grads.of(&w).is_none() && grads.of(&v).is_some());
    assert_eq!(values(&w), before);
    cuda.peak_bytes()
}

/// W, what goes in and comes out, v with its places and gradients, and two panels; a pool's blocks may be larger by a twentieth in all.
/// Without a form for devices ΔW exists, which is more.
#[test]
fn neither_the_update_nor_its_gradient_exists_whole() {
    let ([t, m, n], per_row) = ([2, 2048, 1024], 4);
    let most = 4 * (m * n + 3 * t * (m + n) + 5 * m * per_row + (2 << 19));
    for sparse in on_devices(per_row) {
        let peak = peak([t, m, n], sparse);
        assert!(peak <= most + most / 20, "{peak} bytes, wanted {most}");
    }
    let whole = Sparse {
        per_row,
        device: None,
    };
    assert!(peak([t, m, n], whole) > most + most / 20);
}

#[test]
fn a_trained_weight_is_refused() {
    let x = tensor(&[2, 5], 1);
    let (w, v) = (tensor(&[3, 5], 2).trained(), tensor(&[3, 2], 3));
    for sparse in on_devices(2) {
        let refused = produced_linear(sparse, &x, &w, None, &[&v]).unwrap_err();
        assert!(refused.to_string().contains("W is trained"), "{refused}");
    }
}
